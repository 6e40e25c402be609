//! Scheme `exact` on Solana: SPL transfers that the payer signs, and that a fee payer of ours co-signs and sends.
//!
//! Knows the chain and the terms; knows no HTTP, no ledger storage and no route. Only `FeePayer` holds keys.

mod audit;
mod decode;
mod diagnose;
mod effect;
mod health;
mod programs;
mod send;
mod settle;
mod simulate;
mod standing;
mod startup;
mod trial;
mod verify;
mod wallet;
mod watch;

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Map, Value};
use solana_keypair::Keypair;
use solana_pubkey::Pubkey;
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use tokio::runtime::Handle;
use url::Url;

use self::startup::mistake_at;
use self::verify::{FEE_PAYER_KEY, SolanaPayment};
use self::watch::Watch;
use super::breaker::Breaker;
use super::cache::Expiring;
use super::inflight::Inflight;
use super::jsonrpc::{Identity, Rpc};
use super::losses::Losses;
use super::skew::Skew;
use super::spending::{Allowance, Worth, lasts};
use super::tenure::{self, Tenure};
use super::{Audit, Chain, ChainError, ChainHead, ChainObserver, Finding, Incoming, SignerBalance, Till, unanswered};
use crate::config::{ChainConfig, Diagnostic, NetworkConfig};
use crate::ledger::{AccountNonce, PaymentRecord, SettledBlock, Settlement};
use crate::payment::scheme::{Attempts, Availability, IncomingPayment, Scheme, SettleOutcome, Standings, VerifyError};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, Asset, AssetId, AtomicAmount, Clock, Network, UnixMillis};

/// Lamports in a SOL, as digits.
const SOL_DECIMALS: u8 = 9;
/// Longest a call to a node may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How often fee payers' balances are read.
const BALANCES_EVERY: Duration = Duration::from_secs(60);
/// How often a chain that could not be verified is tried again.
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// Least balance of an account without data (rent exemption of 128 bytes for two years).
const RENT_EXEMPT_LAMPORTS: u64 = 890_880;
/// What a settlement costs as a rule: two signatures, and next to nothing for its place in the queue.
const USUAL_FEE_LAMPORTS: u64 = 10_000;
/// CAIP-2 keeps so many characters of a genesis hash.
const REFERENCE_CHARS: usize = 32;

/// A payer's token account and the mint.
type Purse = (Pubkey, Pubkey);

/// An asset as the chain names it.
struct Token {
    mint: Pubkey,
    decimals: u8,
    allowed_extensions: Vec<String>,
}

/// What of the configuration is needed after the start.
struct Settings {
    /// Lamports.
    max_fee: u64,
    assets: Vec<Token>,
    /// The same as the configuration has them.
    named_assets: Vec<Asset>,
    worth: Worth,
    /// Everybody who is paid on this network.
    paid: Vec<Pubkey>,
}

/// One fee payer and its key.
struct FeePayer {
    account: AccountId,
    key: Pubkey,
    keypair: Keypair,
    /// Lamports, as last seen.
    balance: Mutex<Option<u64>>,
    allowance: Arc<Allowance>,
}

impl FeePayer {
    fn new(account: AccountId, keypair: Keypair, allowance: Arc<Allowance>) -> Self {
        Self { account, key: keypair.pubkey(), keypair, balance: Mutex::default(), allowance }
    }

    /// A transaction cost so many lamports. The balance is read only now and then.
    fn spent(&self, lamports: u64, at: UnixMillis) {
        let mut held = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        *held = held.map(|balance| balance.saturating_sub(lamports));
        self.allowance.spent(lamports.into(), at);
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.keypair.sign_message(message)
    }

    fn balance(&self) -> Option<u64> {
        *self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_balance(&self, lamports: u64) {
        *self.balance.lock().unwrap_or_else(PoisonError::into_inner) = Some(lamports);
    }
}

/// Everything that payments, tasks and the scheme share.
struct Inner {
    network: Network,
    config: Settings,
    clock: Arc<dyn Clock>,
    rpc: Rpc,
    watch: Arc<Watch>,
    fee_payers: Vec<Arc<FeePayer>>,
    inflight: Arc<Inflight<Purse>>,
    losses: Losses<Pubkey>,
    /// Token programs by mint, once seen.
    programs: Mutex<HashMap<Pubkey, Pubkey>>,
    /// Token accounts by owner, mint and program.
    derived: Expiring<(Pubkey, Pubkey, Pubkey), Pubkey>,
    refused: Expiring<[u8; 32], Reason>,
    /// Failed rows, by their own id, that are nowhere on chain.
    worthless: Expiring<String, ()>,
    breaker: Breaker<Pubkey, Pubkey>,
    skew: Skew,
    verified: AtomicBool,
    /// What kept the chain from being verified, last time.
    problem: Mutex<String>,
    reconciled: AtomicBool,
    tenure: Tenure,
    runtime: OnceLock<Handle>,
}

impl Inner {
    /// The fee payer with this key, if it is one of ours.
    fn signer(&self, key: &Pubkey) -> Option<&Arc<FeePayer>> {
        self.fee_payers.iter().find(|fee_payer| fee_payer.key == *key)
    }

    async fn verify(&self) -> Result<(), ChainError> {
        let result = startup::verify(self).await;
        match &result {
            Ok(()) => self.verified.store(true, Ordering::Release),
            Err(error) => *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string(),
        }
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The watcher sees that there is nothing to work for.
        self.watch.wake();
    }
}

/// SPL payments on one Solana cluster.
pub struct SolanaScheme(Arc<Inner>);

impl std::fmt::Debug for SolanaScheme {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("SolanaScheme").field(&self.0.network).finish()
    }
}

impl SolanaScheme {
    /// Reads the keys and prepares the network. Asks no chain. `also_paid` are the accounts that routes pay besides the
    /// network's own `pay_to`.
    ///
    /// # Errors
    /// Every mistake, with its place.
    pub fn connect(
        config: &NetworkConfig,
        also_paid: &[AccountId],
        clock: Arc<dyn Clock>,
        observer: Arc<dyn ChainObserver>,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        let mistake = |message: &str| vec![mistake_at(config.location, message)];
        let ChainConfig::Solana(solana) = &config.chain else { return Err(mistake("expected a solana network")) };
        let fee_payers = startup::signers(config, solana, also_paid)?;
        let urls: Result<Vec<Url>, _> = solana.rpc_urls.iter().map(|url| Url::parse(url.expose())).collect();
        // The parser's own message may hold the text, and the text may hold a token.
        let urls = urls.map_err(|_error| mistake("expected an http or https URL as rpc_url"))?;
        let identity = identity(&config.network, solana.genesis_hash.as_deref());
        let rpc = Rpc::new(config.network.clone(), identity, urls, CALL_DEADLINE, observer)
            .map_err(|message| mistake(&message))?;
        let assets: Option<Vec<Token>> = config.assets.iter().map(token).collect();
        let paid: BTreeSet<&AccountId> = also_paid.iter().chain([&config.pay_to]).collect();
        let paid: Result<Vec<Pubkey>, _> = paid.into_iter().map(|account| account.as_str().parse()).collect();
        let settings = Settings {
            max_fee: u64::try_from(solana.max_fee.value()).map_err(|_error| mistake("max_fee is too large"))?,
            named_assets: config.assets.clone(),
            worth: Worth::new(&solana.fees, SOL_DECIMALS),
            assets: assets.ok_or_else(|| mistake("an asset is no mint's address"))?,
            paid: paid.map_err(|_error| mistake("a pay_to is no Solana address"))?,
        };
        Ok(Arc::new(Self(Arc::new(Inner {
            network: config.network.clone(),
            config: settings,
            clock,
            rpc,
            watch: Arc::default(),
            fee_payers,
            inflight: Arc::default(),
            losses: Losses::default(),
            programs: Mutex::default(),
            derived: Expiring::default(),
            refused: Expiring::default(),
            worthless: Expiring::default(),
            breaker: Breaker::default(),
            skew: Skew::default(),
            verified: AtomicBool::new(false),
            problem: Mutex::new("not verified yet".to_owned()),
            reconciled: AtomicBool::new(false),
            tenure: Tenure::default(),
            runtime: OnceLock::new(),
        }))))
    }
}

fn token(asset: &Asset) -> Option<Token> {
    Some(Token {
        mint: asset.id.as_str().parse().ok()?,
        decimals: asset.decimals,
        allowed_extensions: asset.allowed_extensions.clone(),
    })
}

/// How a Solana endpoint names its chain: by its first block's hash, of which CAIP-2 keeps the beginning. A local chain that
/// stands in for another is known by its whole hash.
fn identity(network: &Network, declared: Option<&str>) -> Identity {
    let of_reference = |value: &Value| value.as_str().map(|hash| hash.chars().take(REFERENCE_CHARS).collect());
    let of_declared = |value: &Value| value.as_str().map(str::to_owned);
    match declared {
        Some(hash) => Identity { method: "getGenesisHash", expected: hash.to_owned(), read: of_declared },
        None => Identity { method: "getGenesisHash", expected: network.reference().to_owned(), read: of_reference },
    }
}

#[async_trait]
impl Scheme for SolanaScheme {
    fn network(&self) -> &Network {
        &self.0.network
    }

    fn availability(&self) -> Availability {
        let inner = &self.0;
        let no = |text: String| Availability::Unavailable(text);
        if !inner.verified.load(Ordering::Acquire) {
            return no(inner.problem.lock().map(|problem| problem.clone()).unwrap_or_default());
        }
        if !inner.reconciled.load(Ordering::Acquire) {
            return Availability::Opening;
        }
        if inner.tenure.is_over() {
            return no(tenure::OVER.to_owned());
        }
        if !inner.rpc.is_reachable() {
            return no("no endpoint answers".to_owned());
        }
        if let Some(text) = inner.skew.refusal() {
            return no(text);
        }
        let now = Instant::now();
        if !inner.config.assets.iter().any(|asset| inner.breaker.is_offered(&asset.mint, now)) {
            return no("every token failed its payers lately".to_owned());
        }
        if inner.losses.is_closed(now) {
            return no("too many settlements failed on chain within the hour".to_owned());
        }
        // Offers name the first one. The chain lets no account fall between nothing and its rent.
        let needed = inner.config.max_fee.saturating_add(RENT_EXEMPT_LAMPORTS);
        if let Some(fee_payer) = inner.fee_payers.first().filter(|it| it.balance().is_none_or(|it| it < needed)) {
            return no(format!("the fee payer {} has less than {needed} lamports", fee_payer.key));
        }
        let (most, today) = (inner.config.max_fee.into(), inner.clock.now());
        if inner.fee_payers.first().is_some_and(|fee_payer| !fee_payer.allowance.has_room(most, today)) {
            return no("the fee payer has spent its max_fee_per_day".to_owned());
        }
        Availability::Ready
    }

    fn availability_of(&self, asset: &AssetId) -> Availability {
        let mint = asset.as_str().parse::<Pubkey>().ok();
        match mint.filter(|mint| self.0.breaker.is_offered(mint, Instant::now())) {
            Some(_) => self.availability(),
            None => Availability::Unavailable(format!("token {asset} failed its payers lately")),
        }
    }

    fn covers_fee(&self, asset: &AssetId, price: AtomicAmount) -> bool {
        let config = &self.0.config;
        let known = config.named_assets.iter().find(|known| known.id == *asset);
        known.is_none_or(|asset| config.worth.covers(asset, price, USUAL_FEE_LAMPORTS.into()))
    }

    fn counts_spending(&self) -> bool {
        self.0.fee_payers.iter().any(|fee_payer| fee_payer.allowance.is_limited())
    }

    fn forget_spending(&self, only: Option<&AccountId>) {
        for fee_payer in self.0.fee_payers.iter().filter(|fee_payer| only.is_none_or(|only| fee_payer.account == *only))
        {
            fee_payer.allowance.forget();
        }
    }

    fn spent(&self, signer: &AccountId, at_most: AtomicAmount, at: UnixMillis) {
        if let Some(fee_payer) = self.0.fee_payers.iter().find(|fee_payer| fee_payer.account == *signer) {
            fee_payer.allowance.spent(at_most, at);
        }
    }

    fn terms_extra(&self, _asset: &AssetId) -> Map<String, Value> {
        let fee_payer = self.0.fee_payers.first().map(|fee_payer| Value::from(fee_payer.account.as_str()));
        fee_payer.map(|account| (FEE_PAYER_KEY.to_owned(), account)).into_iter().collect()
    }

    fn wallet_facts(&self, asset: &AssetId) -> Map<String, Value> {
        wallet::facts(&self.0, asset)
    }

    fn decode(&self, payload: &Value, terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason> {
        let decoded = decode::decode(&self.0.network, payload, terms, self.0.clock.now())?;
        Ok(Box::new(SolanaPayment { inner: Arc::clone(&self.0), decoded, is_proven: AtomicBool::new(false) }))
    }

    /// Signs nothing more: other bytes would be a second payable transaction.
    async fn settle(&self, record: &PaymentRecord, _attempts: &dyn Attempts) -> SettleOutcome {
        settle::settle(&self.0, record).await
    }

    async fn late_settlement(&self, record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError> {
        settle::late_settlement(&self.0, record).await.map_err(|error| simulate::unavailable(&error))
    }

    async fn stand(&self, blocks: &[SettledBlock]) -> Result<Standings, VerifyError> {
        standing::stand(&self.0, blocks).await.map_err(|error| simulate::unavailable(&error))
    }

    /// None: transactions are the payers', and live by their blockhashes. Says whether the chain can be asked.
    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError> {
        let inner = &self.0;
        let head = inner.watch.refresh_head(&inner.rpc, VERIFY_EVERY).await;
        head.map(|_head| Vec::new()).map_err(|error| simulate::unavailable(&error))
    }

    fn open(&self, _next: &[(AccountId, AccountNonce)]) {
        self.0.reconciled.store(true, Ordering::Release);
    }

    fn hold(&self, _signers: &[AccountId], until: Instant) {
        self.0.tenure.set(until);
    }
}

#[async_trait]
impl Chain for SolanaScheme {
    fn start(self: Arc<Self>) {
        let inner = &self.0;
        let runtime = Handle::current();
        if inner.runtime.set(runtime.clone()).is_err() {
            return;
        }
        runtime.spawn(watch::run(Arc::downgrade(inner), Arc::clone(&inner.watch)));
        let weak = Arc::downgrade(inner);
        runtime.spawn(async move {
            loop {
                let pause = match weak.upgrade() {
                    Some(inner) => keep_up(&inner).await,
                    None => return,
                };
                tokio::time::sleep(pause).await;
            }
        });
    }

    fn clock_skew_secs(&self) -> Option<i64> {
        self.0.skew.secs()
    }

    async fn verify_chain(&self) -> Result<(), ChainError> {
        self.0.verify().await
    }

    fn head(&self) -> Option<ChainHead> {
        self.0.watch.head().map(|head| ChainHead { number: head.height(), age: head.seen_at.elapsed() })
    }

    fn native_decimals(&self) -> u8 {
        SOL_DECIMALS
    }

    fn signer_balances(&self) -> Vec<SignerBalance> {
        // Payers choose their fees up to the most; what keeps the account open can't be spent.
        let left = |lamports: u64| AtomicAmount::from(lamports.saturating_sub(RENT_EXEMPT_LAMPORTS));
        let balance = |fee_payer: &Arc<FeePayer>| SignerBalance {
            signer: fee_payer.account.clone(),
            balance: fee_payer.balance().map(AtomicAmount::from),
            lasts: fee_payer.balance().and_then(|lamports| lasts(left(lamports), self.0.config.max_fee.into())),
        };
        self.0.fee_payers.iter().map(balance).collect()
    }

    async fn diagnose(&self, _paid: &[AccountId]) -> Vec<Finding> {
        diagnose::diagnose(self).await
    }

    async fn audit(&self, record: &PaymentRecord) -> Result<Audit, ChainError> {
        audit::audit(&self.0, record).await.map_err(|error| unanswered(&self.0.network, error))
    }

    async fn received(
        &self,
        transaction: &str,
        asset: &AssetId,
        account: &AccountId,
    ) -> Result<Option<AtomicAmount>, ChainError> {
        let received = audit::received(&self.0, transaction, asset, account).await;
        received.map_err(|error| unanswered(&self.0.network, error))
    }

    async fn incoming(&self, till: &Till<'_>) -> Result<Vec<Incoming>, ChainError> {
        audit::incoming(&self.0, till).await.map_err(|error| unanswered(&self.0.network, error))
    }
}

/// Verifies a chain that isn't verified yet, and reads balances; gives how long to wait.
async fn keep_up(inner: &Inner) -> Duration {
    if !inner.verified.load(Ordering::Acquire) {
        match inner.verify().await {
            Ok(()) => tracing::info!(network = %inner.network, "Network verified."),
            Err(error @ ChainError::Mismatch { .. }) => tracing::error!(%error, "Network is not offered."),
            Err(error @ ChainError::Unreachable { .. }) => tracing::warn!(%error, "Network is not offered yet."),
        }
        return VERIFY_EVERY;
    }
    startup::read_clock(inner).await;
    match startup::read_balances(inner).await {
        // A clock that was put right opens the network soon.
        Ok(()) if inner.skew.refusal().is_some() => VERIFY_EVERY,
        Ok(()) => BALANCES_EVERY,
        Err(error) => {
            tracing::warn!(%error, network = %inner.network, "Could not read the fee payers' balances.");
            VERIFY_EVERY
        }
    }
}
