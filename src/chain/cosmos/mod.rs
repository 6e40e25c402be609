//! Scheme `exact` on Cosmos SDK chains: the payer's own signed `MsgSend`, sent for it (protocol §5).
//!
//! Knows the chain and the terms; knows no HTTP, no ledger storage and no route. Holds no key: the payer signs and pays the
//! fee.

mod account;
mod audit;
mod decode;
mod diagnose;
mod evidence;
mod fees;
mod head;
mod rpc;
mod settle;
mod sign_bytes;
mod simulate;
mod startup;
mod verify;

#[cfg(test)]
#[cfg(feature = "dev")]
mod tests;
#[cfg(test)]
mod vectors;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use url::Url;

use self::fees::GasPrice;
use self::head::Heads;
use self::rpc::Rpc;
use self::startup::mistake_at;
use self::verify::CosmosPayment;
use super::breaker::Breaker;
use super::cache::{Expiring, RateLimit};
use super::skew::Skew;
use super::tenure::{self, Tenure};
use super::{Audit, Chain, ChainError, ChainHead, ChainObserver, Finding, Incoming, SignerBalance, Till, unanswered};
use crate::config::{ChainConfig, Diagnostic, NetworkConfig};
use crate::ledger::{AccountNonce, PaymentRecord, Settlement};
use crate::payment::scheme::{Attempts, Availability, IncomingPayment, Scheme, SettleOutcome, VerifyError};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, Asset, AssetId, AtomicAmount, Clock, Network, UnixMillis, canonical_cosmos_address};

/// Longest a call to a node may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Look-ups of accounts whose signature can't be checked without them, in a second.
const LOOK_UPS_PER_SECOND: u32 = 50;
/// How old a chain's latest block may be: beyond it the node has lost its chain, or the chain stands.
const LAG_MAX: Duration = Duration::from_secs(60);
/// How often the latest block is read.
const HEAD_EVERY: Duration = Duration::from_secs(5);
/// How often a chain that could not be verified is tried again.
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// How often minimum gas prices are read.
const PRICES_EVERY: Duration = Duration::from_secs(60);
/// How often it is asked whether a transaction can still be included, and it is sent again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long it is believed that a failed payment brought nothing.
const WORTHLESS_HOLDS: Duration = Duration::from_secs(600);
/// How long a payment without a timeout height counts as usable, for the books: only its sequence ends it.
const ENDLESS: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything that payments, tasks and the scheme share.
struct Inner {
    /// Its reference is the chain id that payers sign.
    network: Network,
    prefix: String,
    max_window: Duration,
    assets: Vec<Asset>,
    clock: Arc<dyn Clock>,
    rpc: Rpc,
    heads: Heads,
    gas_prices: Mutex<Option<Vec<GasPrice>>>,
    prices_read_at: Mutex<Option<Instant>>,
    account_numbers: Expiring<AccountId, u64>,
    /// Failed rows, by their own id, that brought nothing.
    worthless: Expiring<String, ()>,
    /// Payments that were refused, by their transactions' hashes: a forged signature must not refuse the good one.
    refused: Expiring<String, Reason>,
    /// Accounts that the chain doesn't have.
    strangers: Expiring<AccountId, ()>,
    breaker: Breaker<AssetId, AccountId>,
    skew: Skew,
    requires_timeout_height: bool,
    look_ups: RateLimit,
    look_every: Duration,
    verified: AtomicBool,
    /// What kept the chain from being verified, last time.
    problem: Mutex<String>,
    reconciled: AtomicBool,
    tenure: Tenure,
    runtime: OnceLock<Handle>,
}

impl Inner {
    /// The node's minimum gas prices, if it tells them.
    fn gas_prices(&self) -> Option<Vec<GasPrice>> {
        self.gas_prices.lock().ok()?.clone()
    }

    fn set_gas_prices(&self, prices: Option<Vec<GasPrice>>) {
        if let (Ok(mut known), Ok(mut read_at)) = (self.gas_prices.lock(), self.prices_read_at.lock()) {
            *known = prices;
            *read_at = Some(Instant::now());
        }
    }

    fn is_price_due(&self) -> bool {
        self.prices_read_at.lock().is_ok_and(|read_at| read_at.is_none_or(|at| at.elapsed() >= PRICES_EVERY))
    }

    /// Until when a transaction with this timeout height counts as usable, by what is known of the chain's pace.
    fn valid_until(&self, timeout_height: u64) -> UnixMillis {
        let Some(head) = self.heads.last().filter(|_| timeout_height != 0) else {
            return self.clock.now().plus(ENDLESS);
        };
        let blocks = u32::try_from(timeout_height.saturating_sub(head.height)).unwrap_or(u32::MAX);
        self.clock.now().plus(self.heads.pace().saturating_mul(blocks).min(ENDLESS))
    }

    async fn verify(&self) -> Result<(), ChainError> {
        let result = startup::verify(self).await;
        match &result {
            Ok(()) => self.verified.store(true, Ordering::Release),
            Err(error) => {
                if let Ok(mut problem) = self.problem.lock() {
                    *problem = error.to_string();
                }
            }
        }
        result
    }
}

/// `MsgSend` payments on one Cosmos chain.
pub struct CosmosScheme(Arc<Inner>);

impl std::fmt::Debug for CosmosScheme {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("CosmosScheme").field(&self.0.network).finish()
    }
}

impl CosmosScheme {
    /// Prepares the network. Asks no chain. There is no gas payer, so nobody who is also paid could be one.
    ///
    /// # Errors
    /// Every mistake, with its place.
    pub fn connect(
        config: &NetworkConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn ChainObserver>,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        Self::connect_looking_every(config, clock, observer, LOOK_EVERY)
    }

    fn connect_looking_every(
        config: &NetworkConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn ChainObserver>,
        look_every: Duration,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        let mistake = |message: String| vec![mistake_at(config.location, message)];
        let ChainConfig::Cosmos(cosmos) = &config.chain else {
            return Err(mistake("expected a cosmos network".to_owned()));
        };
        canonical_cosmos_address(&cosmos.bech32_prefix, config.pay_to.as_str())
            .map_err(|error| mistake(format!("pay_to: {error}")))?;
        let urls: Result<Vec<Url>, _> = cosmos.grpc_urls.iter().map(|url| Url::parse(url.expose())).collect();
        // The parser's own message may hold the text, and the text may hold a token.
        let urls = urls.map_err(|_error| mistake("expected an http or https URL as grpc_url".to_owned()))?;
        let rpc = Rpc::new(config.network.clone(), &urls, CALL_DEADLINE, observer).map_err(mistake)?;
        Ok(Arc::new(Self(Arc::new(Inner {
            network: config.network.clone(),
            prefix: cosmos.bech32_prefix.clone(),
            max_window: config.max_window,
            assets: config.assets.clone(),
            clock,
            rpc,
            heads: Heads::default(),
            gas_prices: Mutex::default(),
            prices_read_at: Mutex::default(),
            account_numbers: Expiring::default(),
            worthless: Expiring::default(),
            refused: Expiring::default(),
            strangers: Expiring::default(),
            breaker: Breaker::default(),
            skew: Skew::default(),
            requires_timeout_height: cosmos.requires_timeout_height,
            look_ups: RateLimit::new(LOOK_UPS_PER_SECOND),
            look_every,
            verified: AtomicBool::new(false),
            problem: Mutex::new("not verified yet".to_owned()),
            reconciled: AtomicBool::new(false),
            tenure: Tenure::default(),
            runtime: OnceLock::new(),
        }))))
    }
}

#[async_trait]
impl Scheme for CosmosScheme {
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
        if !inner.assets.iter().any(|asset| inner.breaker.is_offered(&asset.id, now)) {
            return no("every coin failed its payers lately".to_owned());
        }
        match inner.lag() {
            Some(lag) if lag <= LAG_MAX => Availability::Ready,
            Some(lag) => no(format!("the chain's latest block is {} s old", lag.as_secs())),
            None => no("no block was seen yet".to_owned()),
        }
    }

    fn availability_of(&self, asset: &AssetId) -> Availability {
        if self.0.breaker.is_offered(asset, Instant::now()) {
            self.availability()
        } else {
            Availability::Unavailable(format!("coin {asset} failed its payers lately"))
        }
    }

    fn terms_extra(&self, _asset: &AssetId) -> Map<String, Value> {
        Map::new()
    }

    fn decode(&self, payload: &Value, _terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason> {
        let inner = &self.0;
        let decoded =
            decode::decode(&inner.network, &inner.prefix, payload, |timeout_height| inner.valid_until(timeout_height))?;
        Ok(Box::new(CosmosPayment { inner: Arc::clone(inner), decoded, proven: OnceLock::new() }))
    }

    async fn settle(&self, record: &PaymentRecord, _attempts: &dyn Attempts) -> SettleOutcome {
        settle::settle(&self.0, record).await
    }

    async fn late_settlement(&self, record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError> {
        settle::late_settlement(&self.0, record).await.map_err(verify::unavailable)
    }

    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError> {
        Ok(Vec::new())
    }

    fn open(&self, _next: &[(AccountId, AccountNonce)]) {
        self.0.reconciled.store(true, Ordering::Release);
    }

    fn hold(&self, _signers: &[AccountId], until: Instant) {
        self.0.tenure.set(until);
    }
}

#[async_trait]
impl Chain for CosmosScheme {
    fn start(self: Arc<Self>) {
        let inner = &self.0;
        let runtime = Handle::current();
        if inner.runtime.set(runtime.clone()).is_err() {
            return;
        }
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
        let age = self.0.lag()?;
        self.0.heads.last().map(|head| ChainHead { number: head.height, age })
    }

    fn native_decimals(&self) -> u8 {
        0
    }

    fn signer_balances(&self) -> Vec<SignerBalance> {
        Vec::new()
    }

    async fn diagnose(&self, paid: &[AccountId]) -> Vec<Finding> {
        diagnose::diagnose(self, paid).await
    }

    async fn audit(&self, record: &PaymentRecord) -> Result<Audit, ChainError> {
        settle::audit(&self.0, record).await.map_err(|error| unanswered(&self.0.network, error))
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

/// Verifies a chain that isn't verified yet, and keeps head and gas prices fresh; gives how long to wait.
async fn keep_up(inner: &Inner) -> Duration {
    if !inner.verified.load(Ordering::Acquire) {
        match inner.verify().await {
            Ok(()) => tracing::info!(network = %inner.network, "Network verified."),
            Err(error @ ChainError::Mismatch { .. }) => tracing::error!(%error, "Network is not offered."),
            Err(error @ ChainError::Unreachable { .. }) => tracing::warn!(%error, "Network is not offered yet."),
        }
        return VERIFY_EVERY;
    }
    if let Err(error) = inner.head(Duration::ZERO).await {
        tracing::debug!(%error, network = %inner.network, "Could not read the latest block.");
    }
    if inner.is_price_due()
        && let Err(error) = startup::read_gas_prices(inner).await
    {
        tracing::debug!(%error, network = %inner.network, "Could not read minimum gas prices.");
    }
    HEAD_EVERY
}
