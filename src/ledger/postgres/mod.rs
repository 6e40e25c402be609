//! The ledger on PostgreSQL: any number of gateways share one database, which is the authority for all of them.
//!
//! Knows no chain and no HTTP. [`writer`] makes changes, each in a transaction that proves first that this gateway is alive to
//! the others ([`tenure`]); the database's own triggers keep it from what another one has in hand. The steps are those of the
//! SQLite ledger, compiled for this driver.

#[path = "../books/claim.rs"]
mod claim;
mod fault;
#[path = "../books/finality.rs"]
mod finality;
#[path = "../books/forwarded.rs"]
mod forwarded;
mod leases;
mod marks;
#[path = "../books/resolve.rs"]
mod noting;
#[path = "../books/reader.rs"]
mod reader;
#[path = "../books/report.rs"]
mod report;
mod resolve;
#[path = "../books/rows.rs"]
mod rows;
#[path = "../books/steps.rs"]
mod steps;
mod store;
mod tenure;
mod upkeep;
#[path = "../books/upkeep.rs"]
mod values;
mod writer;

pub use reader::Reader as PostgresReader;
pub use resolve::resolve_in_postgres;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use tokio::runtime::{Builder, Runtime};

use self::claim::{Claim, RecordAttempt};
use self::finality::{RecordFinal, RecordReorged, RecordSettledAgain};
use self::forwarded::{ClaimForwarded, RecordSigned, Release};
use self::leases::{LeaseDuty, LeaseSigner, Own, TAKEN_MAX, TakeOver};
use self::marks::Places;
use self::reader::not_read;
use self::rows::select_payments;
use self::steps::{RecordDelivering, RecordFailed, RecordPaid, RecordServed, RecordUndelivered};
use self::tenure::{RENEW_EVERY, Registration, Renewal};
use self::upkeep::{PruneSome, ROWS_MAX, RecoverSome, Withhold};
use self::values::{Probe, ValueOrInsert};
use self::writer::{Operation, Writer};
use super::{
    AccountNonce, ClaimOutcome, DeliveryBegun, Earning, ForwardOutcome, Ledger, LedgerError, NewAttempt, NewPayment,
    Observer, Outlay, PageFilter, PaymentFilter, PaymentId, PaymentRecord, RecordId, SettledBlock, Settlement,
    SignInClaim, Tenure, Total,
};
use crate::types::{AccountId, AtomicAmount, Clock, Network, UnixMillis};

/// What the shared steps are compiled for.
type Driver = sqlx::Postgres;
type StoredRow = sqlx::postgres::PgRow;

/// Threads that talk to the database. Apart from all other runtimes, so that no shutdown of those ends a change half-way.
const THREADS: usize = 2;

/// How long a question may take, a connection included. The server ends a statement by itself a little earlier, if it still
/// does anything.
const READ_MAX: Duration = Duration::from_secs(6);

/// How long a renewal may take: well within what is left of the lease.
const RENEW_MAX: Duration = Duration::from_secs(3);

/// How long giving everything up may take. Others do without it a lease later.
const END_MAX: Duration = Duration::from_secs(5);

/// How long whoever must be told something before long waits for a change. The change goes on: a claim's row is found by its key.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// The ledger in a PostgreSQL database.
pub struct PostgresLedger {
    inner: Arc<Inner>,
    /// Some until it is dropped.
    runtime: Option<Runtime>,
}

struct Inner {
    pool: PgPool,
    reader: PostgresReader,
    writer: Writer,
    registration: Registration,
}

impl PostgresLedger {
    /// Opens the books in the database at `url`, makes their tables if need be, and registers this process with the gateways
    /// that share them. The URL holds a password as a rule: no error shows it.
    ///
    /// # Errors
    /// [`LedgerError::Open`]: the database can't be reached, may forget what it said was written, or a newer version wrote it.
    pub async fn open_observed(url: &str, clock: Arc<dyn Clock>, observer: Observer) -> Result<Self, LedgerError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ledger")
            .enable_all()
            .build()
            .map_err(|error| LedgerError::Open(error.to_string()))?;
        let url = url.to_owned();
        let opening = runtime.spawn(async move { Inner::open(&url, clock, observer).await });
        let opened = opening.await.map_err(|error| LedgerError::Open(error.to_string())).and_then(|opened| opened);
        let inner = match opened {
            Ok(inner) => Arc::new(inner),
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        runtime.spawn(keep_registered(Arc::clone(&inner)));
        Ok(Self { inner, runtime: Some(runtime) })
    }

    /// Runs on the ledger's runtime, to its end, whoever waits.
    async fn run<T, F>(&self, future: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LedgerError>> + Send + 'static,
    {
        let Some(runtime) = &self.runtime else { return Err(LedgerError::NotRead("the ledger is closed".to_owned())) };
        let ended = runtime.spawn(future).await;
        ended.unwrap_or_else(|died| Err(LedgerError::Unknown(format!("the ledger's task died: {died}"))))
    }

    async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, LedgerError> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.write(operation).await }).await
    }

    /// As [`Self::write`], for those who must be told something before long.
    async fn write_in_time<O: Operation>(&self, operation: O) -> Result<O::Output, LedgerError> {
        let elapsed = || LedgerError::Unknown("the database has not answered yet".to_owned());
        tokio::time::timeout(WRITE_PATIENCE, self.write(operation)).await.unwrap_or_else(|_elapsed| Err(elapsed()))
    }

    async fn read<T, F, R>(&self, read: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(PostgresReader) -> R,
        R: Future<Output = Result<T, LedgerError>> + Send + 'static,
    {
        self.run(in_time(read(self.inner.reader.clone()))).await
    }
}

/// A question to a server that may hang. Cut off, its connection is tested before it is used again, or given up (`store`).
async fn in_time<T>(question: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    let silent = |_elapsed| Err(LedgerError::NotRead("the database did not answer in time".to_owned()));
    tokio::time::timeout(READ_MAX, question).await.unwrap_or_else(silent)
}

impl Drop for PostgresLedger {
    fn drop(&mut self) {
        // What was answered is durable; what wasn't, the database ends by itself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    async fn open(url: &str, clock: Arc<dyn Clock>, observer: Observer) -> Result<Self, LedgerError> {
        let pool = store::open_for_writing(url).await?;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|error| LedgerError::Open(format!("no randomness: {error}")))?;
        let instance = format!("gateway_{}", super::hex::encode(&random));
        let registration = Registration::new(&pool, instance.clone()).await?;
        tracing::info!(%instance, epoch = registration.tenure().epoch, "Registered with the ledger.");
        let writer = Writer { pool: pool.clone(), instance, places: Places::new(), clock, observer };
        Ok(Self { reader: PostgresReader::over(pool.clone()), pool, writer, registration })
    }

    async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, LedgerError> {
        self.writer.make(operation, self.registration.tenure().epoch).await
    }

    /// Renews the registration, on a connection that is never used again if it doesn't answer.
    async fn renew(&self) -> Result<Renewal, sqlx::Error> {
        let deadline = tokio::time::Instant::now() + RENEW_MAX;
        let silent = |_elapsed| Err(sqlx::Error::PoolTimedOut);
        let mut connection = tokio::time::timeout_at(deadline, self.pool.acquire()).await.unwrap_or_else(silent)?;
        let renewing = tokio::time::timeout_at(deadline, self.registration.renew(&mut connection));
        let renewed = renewing.await.unwrap_or_else(|_elapsed| Err(sqlx::Error::PoolTimedOut));
        if renewed.is_err() {
            connection.close_on_drop();
        }
        renewed
    }

    /// Payments of a network that this gateway works on.
    async fn own_unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        while self.write(TakeOver { network: network.clone() }).await? >= u64::from(TAKEN_MAX) {}
        let found = sqlx::query(select_payments!(
            "WHERE p.network = $1 AND p.state IN ('claimed', 'signed') AND p.owner = $2 \
             ORDER BY p.claimed_at, p.record, a.number"
        ))
        .bind(network.as_str())
        .bind(self.registration.tenure().epoch)
        .fetch_all(&self.pool);
        rows::payments(&in_time(async { found.await.map_err(not_read) }).await?)
    }
}

/// Renews the registration for as long as the ledger is open.
async fn keep_registered(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if inner.registration.has_ended() {
            return;
        }
        match inner.renew().await {
            Ok(Renewal::Renewed) => {}
            Ok(Renewal::Anew) => {
                let epoch = inner.registration.tenure().epoch;
                tracing::error!(epoch, "This gateway's lease on the ledger had ended; it starts over with a new one.");
            }
            Err(error) => tracing::warn!(%error, "The lease on the ledger could not be renewed."),
        }
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        let id = id.clone();
        self.read(|reader| async move { reader.find(&id).await }).await
    }

    async fn find_identified(&self, payer: &AccountId, identifier: &str) -> Result<Option<PaymentRecord>, LedgerError> {
        let (payer, identifier) = (payer.clone(), identifier.to_owned());
        self.read(|reader| async move { reader.find_identified(&payer, &identifier).await }).await
    }

    async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        let record = record.clone();
        self.read(|reader| async move { reader.get(&record).await }).await
    }

    async fn claim(&self, payment: NewPayment, sign: SignInClaim) -> Result<ClaimOutcome, LedgerError> {
        self.write_in_time(Claim { payment, sign }).await
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
        _at_start: bool,
    ) -> Result<u64, LedgerError> {
        let mut recovered = 0_u64;
        loop {
            let some = self.write(RecoverSome { deliveries_max, settled_after }).await?;
            recovered = recovered.saturating_add(some);
            if some < u64::from(ROWS_MAX) {
                return Ok(recovered);
            }
        }
    }

    async fn unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        let (inner, network) = (Arc::clone(&self.inner), network.clone());
        self.run(async move { inner.own_unfinished(&network).await }).await
    }

    async fn outlays(
        &self,
        network: &Network,
        claimed_since: UnixMillis,
        since: UnixMillis,
    ) -> Result<Vec<Outlay>, LedgerError> {
        let network = network.clone();
        self.read(|reader| async move { reader.outlays(&network, claimed_since, since).await }).await
    }

    async fn signed_with(
        &self,
        network: &Network,
        signer: &AccountId,
        nonce: AccountNonce,
        claimed_since: UnixMillis,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        let (network, signer) = (network.clone(), signer.clone());
        self.read(|reader| async move { reader.signed_with(&network, &signer, nonce, claimed_since).await }).await
    }

    async fn unfinal_blocks(
        &self,
        network: &Network,
        since: UnixMillis,
        blocks_max: u32,
    ) -> Result<Vec<SettledBlock>, LedgerError> {
        let network = network.clone();
        self.read(|reader| async move { reader.unfinal_blocks(&network, since, blocks_max).await }).await
    }

    async fn settled_in(&self, network: &Network, block: &SettledBlock) -> Result<Vec<PaymentRecord>, LedgerError> {
        let (network, block) = (network.clone(), block.clone());
        self.read(|reader| async move { reader.settled_in(&network, &block).await }).await
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
        let network = network.clone();
        self.read(|reader| async move { reader.failed_but_usable(&network, now).await }).await
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
        let (network, signer) = (network.clone(), signer.clone());
        self.read(|reader| async move { reader.next_nonce(&network, &signer).await }).await
    }

    async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        let filter = filter.clone();
        self.read(|reader| async move { reader.list(&filter).await }).await
    }

    async fn page(&self, filter: &PageFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        let filter = filter.clone();
        self.read(|reader| async move { reader.page(&filter).await }).await
    }

    async fn earnings(&self, since: UnixMillis) -> Result<Vec<Earning>, LedgerError> {
        self.read(move |reader| async move { reader.earnings(since).await }).await
    }

    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        self.read(|reader| async move { reader.totals().await }).await
    }

    async fn withhold(&self, network: &Network, deliveries_max: u32) -> Result<u64, LedgerError> {
        self.write(Withhold { network: network.clone(), deliveries_max }).await
    }

    async fn value_or_insert(&self, name: &str, make: String) -> Result<String, LedgerError> {
        self.write(ValueOrInsert { name: name.to_owned(), make }).await
    }

    async fn prune(&self, before: UnixMillis) -> Result<u64, LedgerError> {
        let mut pruned = 0_u64;
        loop {
            let some = self.write(PruneSome { before }).await?;
            pruned = pruned.saturating_add(some);
            if some < u64::from(ROWS_MAX) {
                return Ok(pruned);
            }
        }
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.write_in_time(Probe).await
    }

    fn tenure(&self) -> Option<Tenure> {
        Some(self.inner.registration.tenure())
    }

    async fn own(&self, record: &RecordId) -> Result<bool, LedgerError> {
        self.write_in_time(Own { record: record.clone() }).await
    }

    async fn lease_duty(&self, name: &str) -> Result<bool, LedgerError> {
        self.write_in_time(LeaseDuty { name: name.to_owned() }).await
    }

    async fn end(self: Arc<Self>) {
        let inner = Arc::clone(&self.inner);
        let _ended = self
            .run(async move {
                let ending = async {
                    inner.registration.end(&inner.pool).await;
                    inner.pool.close().await;
                };
                if tokio::time::timeout(END_MAX, ending).await.is_err() {
                    tracing::warn!("The ledger does not answer; the registration ends by itself.");
                }
                Ok(())
            })
            .await;
    }
}
