//! Scheme `exact` on EVM chains: EIP-3009 through a gas payer of our own.
//!
//! Knows the chain and the terms; knows no HTTP, no ledger storage and no route. The gas payers' keys stay in `lanes`.

mod abi;
mod audit;
mod bump;
mod decode;
mod diagnose;
mod evidence;
mod fees;
mod lanes;
mod rpc;
mod sent;
mod settle;
mod simulate;
mod startup;
mod verify;
mod watch;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use url::Url;

use self::abi::quantity;
use self::lanes::Lane;
use self::rpc::Rpc;
use self::startup::mistake_at;
use self::verify::EvmPayment;
use self::watch::Watch;
use super::breaker::Breaker;
use super::cache::{Expiring, RateLimit};
use super::inflight::Inflight;
use super::losses::Losses;
use super::skew::Skew;
use super::spending::{Worth, lasts};
use super::tenure::{self, Tenure};
use super::{Audit, Chain, ChainError, ChainHead, ChainObserver, Finding, Incoming, SignerBalance, Till, unanswered};
use crate::config::{ChainConfig, Diagnostic, NetworkConfig, Payers};
use crate::ledger::{AccountNonce, PaymentRecord, SettledBlock, Settlement};
use crate::payment::scheme::{
    Attempts, Availability, IncomingPayment, Scheme, SettleOutcome, Signatures, Standings, VerifyError,
};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, Asset, AssetId, AtomicAmount, Clock, Network, UnixMillis};

/// Payer and token.
type Purse = (Address, Address);

/// Wei in an ether, as digits.
const ETHER_DECIMALS: u8 = 18;
/// Longest a call to a node may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Look-ups of code and of EIP-1271 wallets in a second.
const LOOK_UPS_PER_SECOND: u32 = 20;
/// How often gas payers' balances are read.
const BALANCES_EVERY: Duration = Duration::from_secs(60);
/// How often a chain that could not be verified is tried again.
const VERIFY_EVERY: Duration = Duration::from_secs(5);

/// What of the configuration is needed after the start.
struct Settings {
    payers: Payers,
    max_window: Duration,
    /// Wei.
    max_fee: U256,
    assets: Vec<Asset>,
    worth: Worth,
}

/// Everything that payments, tasks and the scheme share.
struct Inner {
    network: Network,
    chain_id: u64,
    config: Settings,
    clock: Arc<dyn Clock>,
    rpc: Rpc,
    watch: Arc<Watch>,
    lanes: Vec<Arc<Lane>>,
    /// Lanes of gas payers that only older payments know.
    old_lanes: Mutex<HashMap<AccountId, Arc<Lane>>>,
    inflight: Arc<Inflight<Purse>>,
    slow_fees: fees::SlowFees,
    code: Expiring<Address, bool>,
    refused: Expiring<[u8; 32], Reason>,
    /// Failed rows, by their own id, whose authorization is gone and brought them nothing.
    worthless: Expiring<String, ()>,
    look_ups: RateLimit,
    losses: Losses<Address>,
    breaker: Breaker<Address, Address>,
    skew: Skew,
    verified: AtomicBool,
    /// What kept the chain from being verified, last time.
    problem: Mutex<String>,
    reconciled: AtomicBool,
    tenure: Tenure,
    runtime: OnceLock<Handle>,
    /// Known once payments are taken.
    signatures: OnceLock<Arc<dyn Signatures>>,
}

impl Inner {
    /// The lane of a gas payer, an old one's too.
    fn lane_of(self: &Arc<Self>, account: &AccountId) -> Option<Arc<Lane>> {
        if let Some(lane) = self.lanes.iter().find(|lane| lane.account == *account) {
            return Some(Arc::clone(lane));
        }
        let address = decode::address(account.as_str())?;
        let mut old = self.old_lanes.lock().ok()?;
        if let Some(lane) = old.get(account) {
            return Some(Arc::clone(lane));
        }
        let lane = Lane::new(account.clone(), address, None, Arc::default());
        self.runtime.get()?.spawn(lanes::run(Arc::downgrade(self), Arc::clone(&lane)));
        old.insert(account.clone(), Arc::clone(&lane));
        Some(lane)
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

impl Drop for Inner {
    fn drop(&mut self) {
        // The tasks see that there is nothing to work for.
        self.watch.wake();
        for lane in &self.lanes {
            lane.wake();
        }
        if let Ok(old) = self.old_lanes.lock() {
            old.values().for_each(|lane| lane.wake());
        }
    }
}

/// EIP-3009 payments on one EVM chain.
pub struct EvmScheme(Arc<Inner>);

impl std::fmt::Debug for EvmScheme {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("EvmScheme").field(&self.0.network).finish()
    }
}

impl EvmScheme {
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
        let (Some(chain_id), ChainConfig::Evm(evm)) = (config.network.chain_id(), &config.chain) else {
            return Err(vec![mistake_at(config.location, "expected an eip155 network")]);
        };
        let lanes = startup::signers(config, evm, also_paid)?;
        let urls: Result<Vec<Url>, _> = evm.rpc_urls.iter().map(|url| Url::parse(url.expose())).collect();
        // The parser's own message may hold the text, and the text may hold a token.
        let urls =
            urls.map_err(|_error| vec![mistake_at(config.location, "expected an http or https URL as rpc_url")])?;
        let rpc = Rpc::new(config.network.clone(), rpc::identity(chain_id), urls, CALL_DEADLINE, observer)
            .map_err(|message| vec![mistake_at(config.location, message)])?;
        Ok(Arc::new(Self(Arc::new(Inner {
            network: config.network.clone(),
            chain_id,
            config: Settings {
                payers: evm.payers,
                max_window: config.max_window,
                max_fee: evm.max_fee.value(),
                assets: config.assets.clone(),
                worth: Worth::new(&evm.fees, ETHER_DECIMALS),
            },
            clock,
            rpc,
            watch: Arc::default(),
            lanes,
            old_lanes: Mutex::default(),
            inflight: Arc::default(),
            slow_fees: fees::SlowFees::default(),
            code: Expiring::default(),
            refused: Expiring::default(),
            worthless: Expiring::default(),
            look_ups: RateLimit::new(LOOK_UPS_PER_SECOND),
            losses: Losses::default(),
            breaker: Breaker::default(),
            skew: Skew::default(),
            verified: AtomicBool::new(false),
            problem: Mutex::new("not verified yet".to_owned()),
            reconciled: AtomicBool::new(false),
            tenure: Tenure::default(),
            runtime: OnceLock::new(),
            signatures: OnceLock::new(),
        }))))
    }
}

#[async_trait]
impl Scheme for EvmScheme {
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
        let mut tokens = inner.config.assets.iter().filter_map(|asset| decode::address(asset.id.as_str()));
        if !tokens.any(|token| inner.breaker.is_offered(&token, now)) {
            return no("every token failed its payers lately".to_owned());
        }
        if inner.losses.is_closed(Instant::now()) {
            return no("too many settlements failed on chain within the hour".to_owned());
        }
        let Some(fees) = inner.known_fees() else { return no("fees are not known yet".to_owned()) };
        // Not what the last payer's settlement took: whose contract burns gas is refused alone, and closes nothing.
        let cost = fees.with_replacement(fees::USUAL_GAS);
        if cost > inner.config.max_fee {
            return no(format!("a settlement may cost {cost} wei now, over max_fee {}", inner.config.max_fee));
        }
        if !inner.lanes.iter().any(|lane| lane.is_held()) {
            return no("every gas payer is another gateway's".to_owned());
        }
        if inner.lanes.iter().all(|lane| !lane.is_held() || lane.balance().is_some_and(|balance| balance < cost)) {
            return no("no gas payer can pay for a settlement".to_owned());
        }
        let today = inner.clock.now();
        if !inner.lanes.iter().filter(|lane| lane.is_held()).any(|lane| lane.allowance.has_room(cost.into(), today)) {
            return no("every gas payer has spent its max_fee_per_day".to_owned());
        }
        Availability::Ready
    }

    fn terms_extra(&self, asset: &AssetId) -> Map<String, Value> {
        let known = self.0.config.assets.iter().find(|known| known.id == *asset);
        let Some(domain) = known.and_then(|asset| asset.eip712.as_ref()) else { return Map::new() };
        let entry = |key: &str, text: &str| (key.to_owned(), Value::from(text));
        Map::from_iter([entry("name", &domain.name), entry("version", &domain.version)])
    }

    fn decode(&self, payload: &Value, terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason> {
        let decoded = decode::decode(self.0.chain_id, payload, terms)?;
        Ok(Box::new(EvmPayment { inner: Arc::clone(&self.0), decoded, proven: OnceLock::new() }))
    }

    fn availability_of(&self, asset: &AssetId) -> Availability {
        let token = decode::address(asset.as_str());
        match token.filter(|token| self.0.breaker.is_offered(token, Instant::now())) {
            Some(_) => self.availability(),
            None => Availability::Unavailable(format!("token {asset} failed its payers lately")),
        }
    }

    fn covers_fee(&self, asset: &AssetId, price: AtomicAmount) -> bool {
        let inner = &self.0;
        let known = inner.config.assets.iter().find(|known| known.id == *asset).zip(inner.known_fees());
        known.is_none_or(|(asset, fees)| inner.config.worth.covers(asset, price, fees.expected().into()))
    }

    fn counts_spending(&self) -> bool {
        self.0.lanes.iter().any(|lane| lane.allowance.is_limited())
    }

    fn forget_spending(&self, only: Option<&AccountId>) {
        for lane in self.0.lanes.iter().filter(|lane| only.is_none_or(|only| lane.account == *only)) {
            lane.allowance.forget();
        }
    }

    fn spent(&self, signer: &AccountId, at_most: AtomicAmount, at: UnixMillis) {
        if let Some(lane) = self.0.lanes.iter().find(|lane| lane.account == *signer) {
            lane.allowance.spent(at_most, at);
        }
    }

    async fn settle(&self, record: &PaymentRecord, attempts: &dyn Attempts) -> SettleOutcome {
        settle::settle(&self.0, record, attempts).await
    }

    async fn late_settlement(&self, record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError> {
        settle::late_settlement(&self.0, record).await.map_err(verify::unavailable)
    }

    async fn stand(&self, blocks: &[SettledBlock]) -> Result<Standings, VerifyError> {
        evidence::stand(&self.0, blocks).await.map_err(verify::unavailable)
    }

    fn counts_nonces(&self) -> bool {
        true
    }

    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError> {
        let inner = &self.0;
        let calls = inner.lanes.iter().map(|lane| ("eth_getTransactionCount", json!([lane.address, "pending"])));
        let results = inner.rpc.batch(calls.collect()).await.map_err(verify::unavailable)?;
        let mut nonces = Vec::with_capacity(results.len());
        for (lane, result) in inner.lanes.iter().zip(results) {
            let count = result.map_err(verify::unavailable)?.as_str().and_then(quantity::parse);
            let count = count.ok_or_else(|| VerifyError::Unavailable {
                detail: "eth_getTransactionCount gave no count".to_owned(),
            })?;
            nonces.push((lane.account.clone(), count));
        }
        Ok(nonces)
    }

    fn consult(&self, signatures: Arc<dyn Signatures>) {
        // The same books, whoever says so first.
        let _said_before = self.0.signatures.set(signatures);
    }

    fn open(&self, next: &[(AccountId, AccountNonce)]) {
        for (signer, nonce) in next {
            if let Some(lane) = self.0.lanes.iter().find(|lane| lane.account == *signer) {
                lane.set_next(*nonce);
            }
        }
        self.0.reconciled.store(true, Ordering::Release);
    }

    fn hold(&self, signers: &[AccountId], until: Instant) {
        for lane in &self.0.lanes {
            lane.hold(signers.contains(&lane.account).then_some(until));
        }
        self.0.tenure.set(until);
    }
}

#[async_trait]
impl Chain for EvmScheme {
    fn start(self: Arc<Self>) {
        let inner = &self.0;
        let runtime = Handle::current();
        if inner.runtime.set(runtime.clone()).is_err() {
            return;
        }
        runtime.spawn(watch::run(Arc::downgrade(inner), Arc::clone(&inner.watch)));
        for lane in &inner.lanes {
            runtime.spawn(lanes::run(Arc::downgrade(inner), Arc::clone(lane)));
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
        self.0.watch.head().map(|head| ChainHead { number: head.number, age: head.seen_at.elapsed() })
    }

    fn native_decimals(&self) -> u8 {
        ETHER_DECIMALS
    }

    fn signer_balances(&self) -> Vec<SignerBalance> {
        let cost = self.0.known_fees().map(|fees| fees.with_replacement(fees::USUAL_GAS));
        let balance = |lane: &Arc<Lane>| {
            let balance = lane.balance().map(AtomicAmount::from);
            let lasts = balance.zip(cost).and_then(|(balance, cost)| lasts(balance, cost.into()));
            SignerBalance { signer: lane.account.clone(), balance, lasts }
        };
        self.0.lanes.iter().map(balance).collect()
    }

    async fn diagnose(&self, paid: &[AccountId]) -> Vec<Finding> {
        diagnose::diagnose(self, paid).await
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
    match startup::read_balances(inner).await {
        Ok(()) => BALANCES_EVERY,
        Err(error) => {
            tracing::warn!(%error, network = %inner.network, "Could not read the gas payers' balances.");
            VERIFY_EVERY
        }
    }
}
