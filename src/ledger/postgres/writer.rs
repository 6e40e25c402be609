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
use super::marks::{Mark, Places};
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
    /// The name that this process is registered under: hexadecimal digits and an underscore besides.
    pub(super) instance: String,
    pub(super) places: Places,
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
        let mut mark = self.places.take()?;
        let mut books = Books { connection, clock: Arc::clone(&self.clock) };
        let work = async {
            self.begin(books.connection(), epoch, &mark).await?;
            let applied = AssertUnwindSafe(operation.apply(&mut books)).catch_unwind().await;
            applied.unwrap_or_else(|_panic| {
                Err(LedgerError::NotWritten(format!("{} panicked and was undone", O::NAME)).into())
            })
        };
        let worked = match tokio::time::timeout(TRANSACTION_MAX, work).await {
            Ok(worked) => worked,
            Err(_elapsed) => {
                // The server ends what a connection leaves behind.
                books.connection.close_on_drop();
                mark.abandon();
                return Err(LedgerError::NotWritten("the database did not answer in time".to_owned()));
            }
        };
        match worked {
            Ok(output) => {
                self.commit(books, epoch, &mark).await?;
                // As if the server knew nothing of the change any more.
                if crate::crash::bug(O::NAME) {
                    return Err(LedgerError::Unknown("seeded".to_owned()));
                }
                Ok(output)
            }
            Err(error) => Err(undo(books, error, &mut mark).await),
        }
    }

    async fn commit(&self, mut books: Books, epoch: i64, mark: &Mark<'_>) -> Result<(), LedgerError> {
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
        self.look_up(epoch, mark, &detail).await
    }

    /// What became of a change whose COMMIT was not answered. Asks until the database says so: nothing that follows from the
    /// change can be done meanwhile. As long as the row is locked, the transaction goes on. The lock that this takes itself makes
    /// the answer as durable as a COMMIT is.
    async fn look_up(&self, epoch: i64, mark: &Mark<'_>, detail: &str) -> Result<(), LedgerError> {
        let (mut pause, longest) = ASK_AGAIN;
        let mut told = String::new();
        loop {
            let question = sqlx::query_scalar(
                "SELECT mark FROM marks WHERE epoch = $1 AND place = $2 AND instance = $3 FOR UPDATE NOWAIT",
            )
            .bind(epoch)
            .bind(i64::from(mark.place))
            .bind(&self.instance)
            .fetch_optional(&self.pool);
            let asked: Result<Option<String>, sqlx::Error> =
                tokio::time::timeout(ANSWER_MAX, question).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
            match asked {
                Ok(Some(text)) if text == mark.text => return Ok(()),
                // An older copy that was put in its place says so, too: in these books it is not.
                Ok(Some(_another)) => return Err(LedgerError::NotWritten(detail.to_owned())),
                // These books don't know this gateway: they are others, or a copy from before it registered.
                Ok(None) => return Err(LedgerError::Unknown(detail.to_owned())),
                Err(error) if fault::is_of_other_books(&error) => {
                    return Err(LedgerError::Unknown(format!("{detail}; {error}")));
                }
                // Unreachable, starting, busy, or a standby: it says nothing of the change.
                Err(silent) => {
                    let silent = silent.to_string();
                    if silent != told {
                        tracing::warn!(error = %silent, "The database doesn't say what became of a COMMIT; asking again.");
                        told = silent;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Opens a transaction on behalf of a registration that is in force, keeps it so until the end, and leaves the mark.
    async fn begin(&self, connection: &mut PgConnection, epoch: i64, mark: &Mark<'_>) -> Result<(), StepError> {
        // One round trip; integers, hexadecimal digits and this process's name need no quoting.
        let (Mark { place, text, .. }, instance) = (mark, &self.instance);
        let opening = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             WITH left_mark AS (UPDATE marks SET mark = '{text}', marked_at = tollhouse_now() \
             WHERE epoch = {epoch} AND place = {place} AND instance = '{instance}' RETURNING place) \
             SELECT set_config('tollhouse.epoch', '{epoch}', true), (SELECT place FROM left_mark) AS place, \
             current_setting('synchronous_commit') AS synchronous_commit FROM instances \
             WHERE epoch = {epoch} AND instance = '{instance}' AND lease_until > tollhouse_now() FOR KEY SHARE"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(opening)).fetch_all(connection).await?;
        let not_written = |detail: &str| Err(LedgerError::NotWritten(detail.to_owned()).into());
        let Some(row) = rows.first() else {
            return not_written("this gateway's lease on the ledger has lapsed");
        };
        if row.try_get::<Option<i64>, _>("place")?.is_none() {
            return not_written("the ledger has no place for this gateway's marks");
        }
        let durability: String = row.try_get("synchronous_commit")?;
        super::store::check_durability(&durability)?;
        Ok(())
    }
}

/// Takes back what a failed change wrote.
async fn undo(mut books: Books, error: StepError, mark: &mut Mark<'_>) -> LedgerError {
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
    if !rolled_back || matches!(&error, StepError::Store(error) if fault::is_locked(error)) {
        mark.abandon();
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
