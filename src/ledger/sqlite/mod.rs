//! The ledger on SQLite: one file, one writing process, any number of readers.
//!
//! Knows no chain and no HTTP. [`writer`] decides when things become durable, [`claim`], [`steps`] and [`upkeep`] what
//! changes, [`reader`] reads beside them. The steps in `books` are compiled for PostgreSQL too: their SQL keeps to what both share.

#[path = "../books/claim.rs"]
mod claim;
mod fault;
#[path = "../books/finality.rs"]
mod finality;
#[path = "../books/forwarded.rs"]
mod forwarded;
#[path = "../books/resolve.rs"]
mod noting;
#[path = "../books/reader.rs"]
mod reader;
mod recover;
#[path = "../books/report.rs"]
mod report;
mod resolve;
#[path = "../books/rows.rs"]
mod rows;
#[path = "../books/steps.rs"]
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod upkeep;
#[path = "../books/upkeep.rs"]
mod values;
mod writer;

pub use reader::Reader as SqliteReader;
pub use resolve::resolve_in_sqlite;
pub use writer::Observer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use self::claim::{Claim, RecordAttempt};
use self::finality::{RecordFinal, RecordReorged, RecordSettledAgain};
use self::forwarded::{ClaimForwarded, RecordSigned, Release};
use self::recover::RecoverDeliveries;
use self::steps::{RecordDelivering, RecordFailed, RecordPaid, RecordServed, RecordUndelivered};
use self::store::OwnedFile;
use self::upkeep::{LeaseSigner, PRUNE_ROWS_MAX, PruneSome, Withhold};
use self::values::{Probe, ValueOrInsert};
use self::writer::{Books, Command, Operation, Queued, Writer, WriterEnd};
use super::{
    AccountNonce, ClaimOutcome, DeliveryBegun, Earning, ForwardOutcome, Ledger, LedgerError, NewAttempt, NewPayment,
    Outlay, PageFilter, PaymentFilter, PaymentId, PaymentRecord, RecordId, SettledBlock, Settlement, SignInClaim,
    Total,
};
use crate::types::{AccountId, AtomicAmount, Clock, Network, UnixMillis};

/// What the shared steps are compiled for.
type Driver = sqlx::Sqlite;
type StoredRow = sqlx::sqlite::SqliteRow;

/// Commands that may wait; more are refused, since their callers would wait too long anyway.
const QUEUE_COMMANDS_MAX: usize = 4096;

/// The ledger in a SQLite file. Its writer is a thread of its own, so that it outlives every runtime and every caller.
pub struct SqliteLedger {
    queue: mpsc::Sender<Box<dyn Command>>,
    reader: SqliteReader,
    halt: watch::Receiver<Option<String>>,
    ended: oneshot::Receiver<()>,
}

impl SqliteLedger {
    /// Opens the books at `path`, creates them if need be, and makes this process their only writer.
    ///
    /// # Errors
    /// [`LedgerError::Open`]: another gateway has them open, they are damaged, or a newer version wrote them.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, LedgerError> {
        Self::open_observed(path, clock, Arc::new(|_name, _took| ())).await
    }

    /// As [`Self::open`], and tells `observer` how long commands and commits took.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn open_observed(path: &Path, clock: Arc<dyn Clock>, observer: Observer) -> Result<Self, LedgerError> {
        let file = OwnedFile::own(path)?;
        let reader = SqliteReader::on(&file.path);
        let (queue, commands) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let (halt, halted) = watch::channel(None);
        let (opened, is_open) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = opened.send(Err(LedgerError::Open(error.to_string())));
                    return;
                }
            };
            runtime.block_on(write_books(file, clock, observer, commands, halt, opened));
            let _ = end.send(());
        };
        std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(body)
            .map_err(|error| LedgerError::Open(error.to_string()))?;
        is_open.await.map_err(|_gone| LedgerError::Open("the writer died".to_owned()))??;
        Ok(Self { queue, reader, halt: halted, ended })
    }

    /// Writes what is queued, closes the files and gives up the lock. Tidy, but not needed: what was answered is durable,
    /// and dropping the ledger does the same in the background.
    pub async fn close(self) {
        let Self { queue, reader, ended, .. } = self;
        drop(queue);
        // First, so that the writer is the last to close and can leave one file behind.
        reader.close().await;
        let _ = ended.await;
    }

    /// Waits until the store may not be written any more, and says why. The process must then end: what is on disk is
    /// known only after a fresh start (threat E12).
    pub async fn halted(&self) -> String {
        let mut halt = self.halt.clone();
        match halt.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_gone) => "the ledger's writer died".to_owned(),
        }
    }

    /// Queues a change and waits for it. Once queued it runs to its end, whoever waits.
    async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Box::new(Queued::new(operation, reply))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::NotWritten("the queue is full".to_owned()),
            mpsc::error::TrySendError::Closed(_) => LedgerError::NotWritten("the writer died".to_owned()),
        })?;
        answer.await.unwrap_or_else(|_gone| Err(LedgerError::Unknown("the writer died".to_owned())))
    }

    /// The reader, unless the writer halted: then the disk may hold more than SQLite shows here, and a row that seems
    /// missing may come back at the next start.
    fn reader(&self) -> Result<&SqliteReader, LedgerError> {
        if self.halt.has_changed().is_err() {
            return Err(LedgerError::NotRead("the writer died".to_owned()));
        }
        match self.halt.borrow().as_ref() {
            Some(why) => Err(LedgerError::NotRead(why.clone())),
            None => Ok(&self.reader),
        }
    }
}

/// The life of the writer's thread.
async fn write_books(
    file: OwnedFile,
    clock: Arc<dyn Clock>,
    observer: Observer,
    queue: mpsc::Receiver<Box<dyn Command>>,
    halt: watch::Sender<Option<String>>,
    opened: oneshot::Sender<Result<(), LedgerError>>,
) {
    let connection = match store::open_for_writing(&file.path).await {
        Ok(connection) => connection,
        Err(error) => {
            drop(file);
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    let writer = Writer { books: Books::new(connection, clock), queue, halt, observer, since_checkpoint: 0 };
    match writer.run().await {
        WriterEnd::Clean(books) => {
            store::close(books.connection).await;
            drop(file);
        }
        // Closing would sync again, and giving up the lock would let somebody else do so: both end with the process.
        WriterEnd::Halted(books) => {
            std::mem::forget(books);
            std::mem::forget(file);
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        self.reader()?.find(id).await
    }

    async fn find_identified(&self, payer: &AccountId, identifier: &str) -> Result<Option<PaymentRecord>, LedgerError> {
        self.reader()?.find_identified(payer, identifier).await
    }

    async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        self.reader()?.get(record).await
    }

    async fn claim(&self, payment: NewPayment, sign: SignInClaim) -> Result<ClaimOutcome, LedgerError> {
        self.write(Claim { payment, sign }).await
    }

    async fn claim_forwarded(&self, payment: NewPayment, attempts_max: u32) -> Result<ForwardOutcome, LedgerError> {
        self.write(ClaimForwarded { payment, attempts_max }).await
    }

    async fn record_signed(
        &self,
        record: &RecordId,
        signer: Option<AccountId>,
        sign: SignInClaim,
    ) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordSigned { record: record.clone(), signer, sign }).await
    }

    async fn release(&self, record: &RecordId, uncount: bool) -> Result<PaymentRecord, LedgerError> {
        self.write(Release { record: record.clone(), uncount }).await
    }

    async fn record_attempt(&self, record: &RecordId, attempt: NewAttempt) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordAttempt { record: record.clone(), attempt }).await
    }

    async fn record_paid(
        &self,
        record: &RecordId,
        settlement: Settlement,
        deliver: bool,
    ) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordPaid { record: record.clone(), settlement, deliver }).await
    }

    async fn record_failed(
        &self,
        record: &RecordId,
        reason: &str,
        transaction: Option<&str>,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError> {
        let (reason, transaction) = (reason.to_owned(), transaction.map(str::to_owned));
        self.write(RecordFailed { record: record.clone(), reason, transaction, fee }).await
    }

    async fn record_delivering(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        settled_after: UnixMillis,
    ) -> Result<DeliveryBegun, LedgerError> {
        self.write(RecordDelivering { record: record.clone(), deliveries_max, settled_after }).await
    }

    async fn record_undelivered(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        uncount: bool,
    ) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordUndelivered { record: record.clone(), deliveries_max, uncount }).await
    }

    async fn record_served(&self, record: &RecordId) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordServed { record: record.clone() }).await
    }

    async fn recover_deliveries(
        &self,
        deliveries_max: u32,
        settled_after: UnixMillis,
        at_start: bool,
    ) -> Result<u64, LedgerError> {
        self.write(RecoverDeliveries { deliveries_max, settled_after, at_start }).await
    }

    async fn withhold(&self, network: &Network, deliveries_max: u32) -> Result<u64, LedgerError> {
        self.write(Withhold { network: network.clone(), deliveries_max }).await
    }

    async fn unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.reader()?.unfinished(network).await
    }

    async fn outlays(
        &self,
        network: &Network,
        claimed_since: UnixMillis,
        since: UnixMillis,
    ) -> Result<Vec<Outlay>, LedgerError> {
        self.reader()?.outlays(network, claimed_since, since).await
    }

    async fn signed_with(
        &self,
        network: &Network,
        signer: &AccountId,
        nonce: AccountNonce,
        claimed_since: UnixMillis,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.reader()?.signed_with(network, signer, nonce, claimed_since).await
    }

    async fn unfinal_blocks(
        &self,
        network: &Network,
        since: UnixMillis,
        blocks_max: u32,
    ) -> Result<Vec<SettledBlock>, LedgerError> {
        self.reader()?.unfinal_blocks(network, since, blocks_max).await
    }

    async fn settled_in(&self, network: &Network, block: &SettledBlock) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.reader()?.settled_in(network, block).await
    }

    async fn record_final(&self, network: &Network, blocks: &[SettledBlock]) -> Result<(), LedgerError> {
        self.write(RecordFinal { network: network.clone(), blocks: blocks.to_vec() }).await
    }

    async fn record_settled_again(
        &self,
        record: &RecordId,
        settlement: Settlement,
    ) -> Result<PaymentRecord, LedgerError> {
        self.write(RecordSettledAgain { record: record.clone(), settlement }).await
    }

    async fn record_reorged(
        &self,
        record: &RecordId,
        block_hash: &str,
        reason: &str,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError> {
        let (block_hash, reason) = (block_hash.to_owned(), reason.to_owned());
        self.write(RecordReorged { record: record.clone(), block_hash, reason, fee }).await
    }

    async fn failed_but_usable(&self, network: &Network, now: UnixMillis) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.reader()?.failed_but_usable(network, now).await
    }

    async fn lease_signer(
        &self,
        network: &Network,
        signer: &AccountId,
        at_least: AccountNonce,
    ) -> Result<AccountNonce, LedgerError> {
        self.write(LeaseSigner { network: network.clone(), signer: signer.clone(), at_least }).await
    }

    async fn next_nonce(&self, network: &Network, signer: &AccountId) -> Result<Option<AccountNonce>, LedgerError> {
        self.reader()?.next_nonce(network, signer).await
    }

    async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.reader()?.list(filter).await
    }

    async fn page(&self, filter: &PageFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        self.reader()?.page(filter).await
    }

    async fn earnings(&self, since: UnixMillis) -> Result<Vec<Earning>, LedgerError> {
        self.reader()?.earnings(since).await
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        self.reader()?.totals().await
    }

    async fn value_or_insert(&self, name: &str, make: String) -> Result<String, LedgerError> {
        self.write(ValueOrInsert { name: name.to_owned(), make }).await
    }

    async fn prune(&self, before: UnixMillis) -> Result<u64, LedgerError> {
        let mut pruned = 0_u64;
        loop {
            let some = self.write(PruneSome { before }).await?;
            pruned = pruned.saturating_add(some);
            if some < u64::from(PRUNE_ROWS_MAX) {
                return Ok(pruned);
            }
        }
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.write(Probe).await
    }

    /// Waits until the store may not be written any more: the process must then end, since what is on disk is known only after
    /// a fresh start (threat E12).
    async fn halted(&self) -> String {
        Self::halted(self).await
    }

    async fn end(self: Arc<Self>) {
        // Unless something that didn't end in time still holds it.
        if let Some(ledger) = Arc::into_inner(self) {
            ledger.close().await;
        }
    }
}
