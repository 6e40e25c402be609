//! One transaction for each change, on any of a few connections. A change runs on the ledger's own runtime and to its end,
//! whoever waits.
//!
//! READ COMMITTED: each row is locked before it is judged, and what two claims compete for is one unique index. Locks are taken
//! in one order (own registration, one payment, one signer), so that no two transactions wait for each other.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::fault::{self, CommitFault};
use crate::ledger::{LedgerError, Observer, RecordId};
use crate::types::{Clock, UnixMillis};

/// How long a transaction may take up to its COMMIT. The server ends it by itself a little later.
const TRANSACTION_MAX: Duration = Duration::from_secs(6);

/// How long a COMMIT may take before the server is asked what became of it.
const COMMIT_MAX: Duration = Duration::from_secs(6);

/// How long its answer may take, a connection included.
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// How often it is asked.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum StepError {
    /// By its own fault.
    Own(LedgerError),
    /// By the store's.
    Store(sqlx::Error),
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

impl From<LedgerError> for StepError {
    fn from(error: LedgerError) -> Self {
        Self::Own(error)
    }
}

/// What changes work on: a connection inside its transaction, the time, and on whose behalf they are made.
pub(super) struct Books {
    connection: PoolConnection<Postgres>,
    clock: Arc<dyn Clock>,
}

impl Books {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Keeps others from a row until the transaction ends. A statement of its own: a row that was waited for is then read as
    /// it has become, with its attempts.
    pub(super) async fn lock(&mut self, record: &RecordId) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT 1 FROM payments WHERE record = $1 FOR UPDATE")
            .bind(&record.0)
            .fetch_optional(self.connection())
            .await?;
        Ok(())
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }
}

/// A change to the books.
pub(super) trait Operation: Send + 'static {
    /// What the caller gets once the change is durable.
    type Output: Send + 'static;

    /// Its name in metrics.
    const NAME: &'static str;

    fn apply(self, books: &mut Books) -> impl Future<Output = Result<Self::Output, StepError>> + Send;
}

/// Makes changes.
pub(super) struct Writer {
    pub(super) pool: PgPool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Observer,
}

impl Writer {
    /// Makes one change on behalf of a registration.
    pub(super) async fn make<O: Operation>(&self, operation: O, epoch: i64) -> Result<O::Output, LedgerError> {
        let started = Instant::now();
        let made = self.transact(operation, epoch).await;
        (self.observer)(O::NAME, started.elapsed());
        made
    }

    async fn transact<O: Operation>(&self, operation: O, epoch: i64) -> Result<O::Output, LedgerError> {
        let connection = self.pool.acquire().await.map_err(|error| not_written(&error))?;
        let mut books = Books { connection, clock: Arc::clone(&self.clock) };
        let work = async {
            let transaction = begin(books.connection(), epoch).await?;
            let applied = AssertUnwindSafe(operation.apply(&mut books)).catch_unwind().await;
            let output = applied.unwrap_or_else(|_panic| {
                Err(LedgerError::NotWritten(format!("{} panicked and was undone", O::NAME)).into())
            })?;
            Ok((transaction, output))
        };
        let worked = match tokio::time::timeout(TRANSACTION_MAX, work).await {
            Ok(worked) => worked,
            Err(_elapsed) => {
                // The server ends what a connection leaves behind.
                books.connection.close_on_drop();
                return Err(LedgerError::NotWritten("the database did not answer in time".to_owned()));
            }
        };
        match worked {
            Ok((transaction, output)) => {
                self.commit(books, &transaction).await?;
                // As if the server knew nothing of the transaction any more.
                if crate::crash::bug(O::NAME) {
                    return Err(LedgerError::Unknown("seeded".to_owned()));
                }
                Ok(output)
            }
            Err(error) => Err(undo(books, error).await),
        }
    }

    async fn commit(&self, mut books: Books, transaction: &str) -> Result<(), LedgerError> {
        crate::crash::point("before_commit");
        let started = Instant::now();
        let committed = tokio::time::timeout(COMMIT_MAX, sqlx::raw_sql("COMMIT").execute(books.connection())).await;
        (self.observer)("commit", started.elapsed());
        crate::crash::point("after_commit");
        let detail = match committed {
            Ok(Ok(_done)) => return Ok(()),
            Ok(Err(error)) if fault::of_commit(&error) == CommitFault::RolledBack => return Err(not_written(&error)),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "no answer in time".to_owned(),
        };
        books.connection.close_on_drop();
        drop(books);
        tracing::warn!(detail, "A COMMIT's answer was lost; asking the database what became of it.");
        self.look_up(transaction, &detail).await
    }

    /// What became of a transaction whose COMMIT was not answered. Asks until the database says so: nothing that follows from
    /// the change can be done meanwhile.
    async fn look_up(&self, transaction: &str, detail: &str) -> Result<(), LedgerError> {
        let (mut pause, longest) = ASK_AGAIN;
        loop {
            let question =
                sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)").bind(transaction).fetch_one(&self.pool);
            let asked: Result<Option<String>, sqlx::Error> =
                tokio::time::timeout(ANSWER_MAX, question).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
            match asked.as_ref().map(Option::as_deref) {
                Ok(Some("committed")) => return Ok(()),
                Ok(Some("aborted")) => return Err(LedgerError::NotWritten(detail.to_owned())),
                Ok(Some(_in_progress)) => {}
                // Too old to be known, or of another server.
                Ok(None) => return Err(LedgerError::Unknown(detail.to_owned())),
                // An id that this server has not given out yet: it is another one, or an older copy.
                Err(error) if fault::is_of_the_future(error) => {
                    return Err(LedgerError::Unknown(format!("{detail}; {error}")));
                }
                // Unreachable, starting, or out of connections: it says nothing of transactions.
                Err(_silent) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// Opens a transaction on behalf of a registration that is in force, and keeps it so until the end. Gives the transaction's id.
async fn begin(connection: &mut PgConnection, epoch: i64) -> Result<String, StepError> {
    // One round trip; an integer needs no quoting.
    let opening = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
         SELECT set_config('tollhouse.epoch', '{epoch}', true), pg_current_xact_id()::text AS transaction, \
         current_setting('synchronous_commit') AS synchronous_commit FROM instances \
         WHERE epoch = {epoch} AND lease_until > tollhouse_now() FOR KEY SHARE"
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(opening)).fetch_all(connection).await?;
    let Some(row) = rows.first() else {
        let detail = "this gateway's lease on the ledger has lapsed";
        return Err(LedgerError::NotWritten(detail.to_owned()).into());
    };
    let durability: String = row.try_get("synchronous_commit")?;
    super::store::check_durability(&durability)?;
    Ok(row.try_get("transaction")?)
}

/// Takes back what a failed change wrote.
async fn undo(mut books: Books, error: StepError) -> LedgerError {
    let is_usable = match &error {
        StepError::Own(_) => true,
        StepError::Store(error) => fault::is_answer(error),
    };
    let rolled_back = is_usable
        && matches!(
            tokio::time::timeout(COMMIT_MAX, sqlx::raw_sql("ROLLBACK").execute(books.connection())).await,
            Ok(Ok(_done))
        );
    if !rolled_back {
        books.connection.close_on_drop();
    }
    match error {
        StepError::Own(error) => error,
        StepError::Store(error) if fault::is_fenced(&error) => LedgerError::HeldElsewhere(error.to_string()),
        StepError::Store(error) => not_written(&error),
    }
}

pub(super) fn not_written(error: &sqlx::Error) -> LedgerError {
    LedgerError::NotWritten(error.to_string())
}
