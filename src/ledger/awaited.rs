//! Books that another gateway is about to let go of: read a little meanwhile, written by nobody here until they are open.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::sqlite::Observer;
use super::{
    AccountNonce, ClaimOutcome, DeliveryBegun, Earning, ForwardOutcome, Ledger, LedgerError, NewAttempt, NewPayment,
    Outlay, PageFilter, PaymentFilter, PaymentId, PaymentRecord, RecordId, SettledBlock, Settlement, SignInClaim,
    SqliteLedger, SqliteReader, Tenure, Total,
};
use crate::types::{AccountId, AtomicAmount, Clock, Network, UnixMillis};

/// How often the lock is tried.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// How often it is said that it is still being waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The ledger in a file whose lock another process still has.
pub struct AwaitedLedger {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    observer: Observer,
    reader: SqliteReader,
    open: OnceLock<Arc<dyn Ledger>>,
    is_in_order: AtomicBool,
    failure: watch::Sender<Option<String>>,
}

impl AwaitedLedger {
    /// Books that are there and of this version.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when there are none, or another version wrote them.
    pub async fn new(path: &Path, clock: Arc<dyn Clock>, observer: Observer) -> Result<Self, LedgerError> {
        let reader = SqliteReader::open(path).await?;
        let (path, open, is_in_order) = (path.to_path_buf(), OnceLock::new(), AtomicBool::new(false));
        Ok(Self { path, clock, observer, reader, open, is_in_order, failure: watch::Sender::new(None) })
    }

    /// Waits for the lock, however long that takes, and makes this process the books' only writer.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when the lock is free and the books can't be opened; the process must then end.
    pub async fn take(&self) -> Result<(), LedgerError> {
        let mut told = tokio::time::Instant::now();
        loop {
            let opened = SqliteLedger::open_observed(&self.path, Arc::clone(&self.clock), Arc::clone(&self.observer));
            match opened.await {
                Ok(ledger) => {
                    let _first = self.open.set(Arc::new(ledger));
                    return Ok(());
                }
                Err(LedgerError::InUse(_)) if told.elapsed() < TELL_EVERY => {}
                Err(LedgerError::InUse(_)) => {
                    tracing::warn!("Another gateway still has the ledger; no payments are taken until it lets go.");
                    told = tokio::time::Instant::now();
                }
                Err(error) => {
                    self.failure.send_replace(Some(error.to_string()));
                    return Err(error);
                }
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    /// What the process before left over is put back: payments may be taken. Any sooner, an answer that is on its way would be
    /// taken for one that was left over.
    pub fn set_in_order(&self) {
        self.is_in_order.store(true, Ordering::Release);
    }

    fn opened(&self) -> Result<&Arc<dyn Ledger>, LedgerError> {
        self.open.get().ok_or_else(|| LedgerError::NotWritten("another gateway still has it".to_owned()))
    }
}

#[async_trait]
impl Ledger for AwaitedLedger {
    fn is_open(&self) -> bool {
        self.is_in_order.load(Ordering::Acquire)
    }

    fn tenure(&self) -> Option<Tenure> {
        self.open.get().and_then(|open| open.tenure())
    }

    /// What whoever has the books wrote last can be read at any time.
    async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        match self.open.get() {
            Some(open) => open.list(filter).await,
            None => self.reader.list(filter).await,
        }
    }

    async fn value_or_insert(&self, name: &str, make: String) -> Result<String, LedgerError> {
        if let Some(open) = self.open.get() {
            return open.value_or_insert(name, make).await;
        }
        let known = self.reader.value(name).await?;
        known.ok_or_else(|| LedgerError::NotWritten(format!("{name} is yet to be made")))
    }

    async fn halted(&self) -> String {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(open) = self.open.get() {
                return open.halted().await;
            }
            tokio::select! {
                failed = failure.wait_for(Option::is_some) => {
                    return failed.ok().and_then(|why| why.clone()).unwrap_or_default();
                }
                () = tokio::time::sleep(TRY_EVERY) => {}
            }
        }
    }

    async fn end(self: Arc<Self>) {
        self.reader.close().await;
        if let Some(open) = self.open.get() {
            Arc::clone(open).end().await;
        }
    }

    async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        self.opened()?.find(id).await
    }

    async fn find_identified(&self, payer: &AccountId, identifier: &str) -> Result<Option<PaymentRecord>, LedgerError> {
        self.opened()?.find_identified(payer, identifier).await
    }

    async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        self.opened()?.get(record).await
    }

    async fn claim(&self, payment: NewPayment, sign: SignInClaim) -> Result<ClaimOutcome, LedgerError> {
        self.opened()?.claim(payment, sign).await
    }

    async fn claim_forwarded(&self, payment: NewPayment, attempts_max: u32) -> Result<ForwardOutcome, LedgerError> {
        self.opened()?.claim_forwarded(payment, attempts_max).await
    }

    async fn record_signed(
        &self,
        record: &RecordId,
        signer: Option<AccountId>,
        sign: SignInClaim,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_signed(record, signer, sign).await
    }

    async fn release(&self, record: &RecordId, uncount: bool) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.release(record, uncount).await
    }

    async fn record_attempt(&self, record: &RecordId, attempt: NewAttempt) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_attempt(record, attempt).await
    }

    async fn record_paid(
        &self,
        record: &RecordId,
        settlement: Settlement,
        deliver: bool,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_paid(record, settlement, deliver).await
    }

    async fn record_failed(
        &self,
        record: &RecordId,
        reason: &str,
        transaction: Option<&str>,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_failed(record, reason, transaction, fee).await
    }

    async fn record_delivering(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        settled_after: UnixMillis,
    ) -> Result<DeliveryBegun, LedgerError> {
        self.opened()?.record_delivering(record, deliveries_max, settled_after).await
    }

    async fn record_undelivered(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        uncount: bool,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_undelivered(record, deliveries_max, uncount).await
    }

    async fn record_served(&self, record: &RecordId) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_served(record).await
    }

    async fn recover_deliveries(
        &self,
        deliveries_max: u32,
        settled_after: UnixMillis,
        at_start: bool,
    ) -> Result<u64, LedgerError> {
        self.opened()?.recover_deliveries(deliveries_max, settled_after, at_start).await
    }

    async fn withhold(&self, network: &Network, deliveries_max: u32) -> Result<u64, LedgerError> {
        self.opened()?.withhold(network, deliveries_max).await
    }

    async fn unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.opened()?.unfinished(network).await
    }

    async fn unfinal_blocks(
        &self,
        network: &Network,
        since: UnixMillis,
        blocks_max: u32,
    ) -> Result<Vec<SettledBlock>, LedgerError> {
        self.opened()?.unfinal_blocks(network, since, blocks_max).await
    }

    async fn settled_in(&self, network: &Network, block: &SettledBlock) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.opened()?.settled_in(network, block).await
    }

    async fn record_final(&self, network: &Network, blocks: &[SettledBlock]) -> Result<(), LedgerError> {
        self.opened()?.record_final(network, blocks).await
    }

    async fn record_settled_again(
        &self,
        record: &RecordId,
        settlement: Settlement,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_settled_again(record, settlement).await
    }

    async fn record_reorged(
        &self,
        record: &RecordId,
        block_hash: &str,
        reason: &str,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError> {
        self.opened()?.record_reorged(record, block_hash, reason, fee).await
    }

    async fn failed_but_usable(&self, network: &Network, now: UnixMillis) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.opened()?.failed_but_usable(network, now).await
    }

    async fn lease_signer(
        &self,
        network: &Network,
        signer: &AccountId,
        at_least: AccountNonce,
    ) -> Result<AccountNonce, LedgerError> {
        self.opened()?.lease_signer(network, signer, at_least).await
    }

    async fn next_nonce(&self, network: &Network, signer: &AccountId) -> Result<Option<AccountNonce>, LedgerError> {
        self.opened()?.next_nonce(network, signer).await
    }

    async fn outlays(
        &self,
        network: &Network,
        claimed_since: UnixMillis,
        since: UnixMillis,
    ) -> Result<Vec<Outlay>, LedgerError> {
        self.opened()?.outlays(network, claimed_since, since).await
    }

    async fn signed_with(
        &self,
        network: &Network,
        signer: &AccountId,
        nonce: AccountNonce,
        claimed_since: UnixMillis,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.opened()?.signed_with(network, signer, nonce, claimed_since).await
    }

    async fn page(&self, filter: &PageFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.opened()?.page(filter).await
    }

    async fn earnings(&self, since: UnixMillis) -> Result<Vec<Earning>, LedgerError> {
        self.opened()?.earnings(since).await
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        self.opened()?.totals().await
    }

    async fn prune(&self, before: UnixMillis) -> Result<u64, LedgerError> {
        self.opened()?.prune(before).await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.opened()?.probe().await
    }

    async fn own(&self, record: &RecordId) -> Result<bool, LedgerError> {
        self.opened()?.own(record).await
    }

    async fn lease_duty(&self, name: &str) -> Result<bool, LedgerError> {
        self.opened()?.lease_duty(name).await
    }
}
