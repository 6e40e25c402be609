//! The one writer: takes queued commands, applies many of them in one transaction, and answers when that is durable.
//!
//! Payments thus share an fsync. There is no artificial delay: a batch ends when the queue is empty. What a command does
//! is not known here.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use sqlx::sqlite::{SqliteConnection, SqliteQueryResult};
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::{self, CommitFault};
use crate::ledger::{LedgerError, RecordId};
use crate::types::{Clock, UnixMillis};

/// Most commands that share a commit.
const BATCH_COMMANDS_MAX: usize = 256;

/// Commands between two checkpoints: some thousand pages of write-ahead log.
const CHECKPOINT_COMMANDS: usize = 512;

/// Told how long a command took from queue to answer, by its name, and each commit as `commit`.
pub type Observer = Arc<dyn Fn(&'static str, Duration) + Send + Sync>;

/// Why a command was not applied.
#[derive(Debug)]
pub(super) enum StepError {
    /// By its own fault: it is undone, and its neighbours stand.
    Own(LedgerError),
    /// By the store's: the whole batch is rolled back.
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

/// What commands work on: the connection inside its transaction, and the time.
pub(super) struct Books {
    pub(super) connection: SqliteConnection,
    clock: Arc<dyn Clock>,
}

impl Books {
    pub(super) fn new(connection: SqliteConnection, clock: Arc<dyn Clock>) -> Self {
        Self { connection, clock }
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Keeps others from a row until the transaction ends: here nobody else writes.
    #[expect(clippy::unused_async, reason = "other stores ask")]
    pub(super) async fn lock(&mut self, _record: &RecordId) -> Result<(), sqlx::Error> {
        Ok(())
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    async fn run(&mut self, statement: &'static str) -> Result<SqliteQueryResult, sqlx::Error> {
        sqlx::query(statement).execute(&mut self.connection).await
    }
}

/// A change to the books. Runs inside a savepoint: what it wrote before it failed is undone.
pub(super) trait Operation: Send + 'static {
    /// What the caller gets once the change is durable.
    type Output: Send + 'static;

    /// Its name in metrics.
    const NAME: &'static str;

    fn apply(self, books: &mut Books) -> impl Future<Output = Result<Self::Output, StepError>> + Send;
}

/// How a batch ended.
pub(super) enum Fate {
    Committed,
    RolledBack(String),
    Unknown(String),
}

/// A queued command, whatever its kind.
#[async_trait]
pub(super) trait Command: Send {
    /// Applies it, or undoes it if it fails by its own fault.
    async fn apply(&mut self, books: &mut Books) -> Result<(), sqlx::Error>;

    /// Tells whoever still waits. Nobody has to: a command outlives its caller.
    fn answer(self: Box<Self>, fate: &Fate, observer: &Observer);
}

/// An operation, and who waits for it.
pub(super) struct Queued<O: Operation> {
    operation: Option<O>,
    output: Option<Result<O::Output, LedgerError>>,
    reply: oneshot::Sender<Result<O::Output, LedgerError>>,
    queued_at: Instant,
}

impl<O: Operation> Queued<O> {
    pub(super) fn new(operation: O, reply: oneshot::Sender<Result<O::Output, LedgerError>>) -> Self {
        Self { operation: Some(operation), output: None, reply, queued_at: Instant::now() }
    }
}

#[async_trait]
impl<O: Operation> Command for Queued<O> {
    async fn apply(&mut self, books: &mut Books) -> Result<(), sqlx::Error> {
        let Some(operation) = self.operation.take() else { return Ok(()) };
        books.run("SAVEPOINT command").await?;
        // A panic in a caller's closure must not take the writer, and everybody's payments, with it.
        let applied = AssertUnwindSafe(operation.apply(books)).catch_unwind().await.unwrap_or_else(|_panic| {
            Err(StepError::Own(LedgerError::NotWritten(format!("{} panicked and was undone", O::NAME))))
        });
        match applied {
            Ok(output) => self.output = Some(Ok(output)),
            Err(StepError::Own(error)) => {
                books.run("ROLLBACK TO command").await?;
                self.output = Some(Err(error));
            }
            Err(StepError::Store(error)) => return Err(error),
        }
        books.run("RELEASE command").await.map(|_done| ())
    }

    fn answer(self: Box<Self>, fate: &Fate, observer: &Observer) {
        let answer = match (fate, self.output) {
            (Fate::Committed, Some(output)) => output,
            (Fate::Committed, None) => Err(LedgerError::NotWritten("the command was not applied".to_owned())),
            (Fate::Unknown(detail), Some(Ok(_))) => Err(LedgerError::Unknown(detail.clone())),
            (Fate::RolledBack(detail) | Fate::Unknown(detail), _) => Err(LedgerError::NotWritten(detail.clone())),
        };
        observer(O::NAME, self.queued_at.elapsed());
        // Whoever asked may have gone; the books don't depend on it.
        let _ = self.reply.send(answer);
    }
}

/// The writer's side of the queue.
pub(super) struct Writer {
    pub(super) books: Books,
    pub(super) queue: mpsc::Receiver<Box<dyn Command>>,
    /// Set once, when nothing more may be written.
    pub(super) halt: watch::Sender<Option<String>>,
    pub(super) observer: Observer,
    pub(super) since_checkpoint: usize,
}

/// Whether the writer ended with its files in order.
pub(super) enum WriterEnd {
    /// The connection may be closed.
    Clean(Books),
    /// The files must not be touched again by this process.
    Halted(Books),
}

impl Writer {
    /// Runs until every sender is gone and the queue is empty.
    pub(super) async fn run(mut self) -> WriterEnd {
        while let Some(first) = self.queue.recv().await {
            if let Some(why) = self.halt.borrow().clone() {
                first.answer(&Fate::RolledBack(why), &self.observer);
                continue;
            }
            self.batch(first).await;
            if self.since_checkpoint >= CHECKPOINT_COMMANDS && self.halt.borrow().is_none() {
                self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await;
            }
        }
        if self.halt.borrow().is_none() {
            // Done here, since an error of the checkpoint that closing a connection implies would go unseen.
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").await;
        }
        if self.halt.borrow().is_none() { WriterEnd::Clean(self.books) } else { WriterEnd::Halted(self.books) }
    }

    async fn batch(&mut self, first: Box<dyn Command>) {
        let mut commands = Vec::new();
        let fate = match self.apply_all(first, &mut commands).await {
            Ok(()) => {
                if crate::crash::bug("bug_skip_w1") {
                    commands.drain(..).for_each(|command| command.answer(&Fate::Committed, &self.observer));
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                self.commit().await
            }
            Err(error) => {
                if fault::is_fatal(&error) {
                    self.halt_with(&error);
                }
                self.roll_back().await;
                Fate::RolledBack(error.to_string())
            }
        };
        self.since_checkpoint = self.since_checkpoint.saturating_add(commands.len());
        for command in commands {
            command.answer(&fate, &self.observer);
        }
    }

    /// Opens the transaction and applies what is queued, including what is queued meanwhile. All commands that were taken
    /// from the queue are in `taken`, whatever the result.
    async fn apply_all(
        &mut self,
        first: Box<dyn Command>,
        taken: &mut Vec<Box<dyn Command>>,
    ) -> Result<(), sqlx::Error> {
        let mut next = Some(first);
        let begun = self.books.run("BEGIN IMMEDIATE").await;
        while let Some(mut command) = next {
            let applied = if begun.is_ok() { command.apply(&mut self.books).await } else { Ok(()) };
            taken.push(command);
            applied?;
            next = if begun.is_ok() && taken.len() < BATCH_COMMANDS_MAX { self.queue.try_recv().ok() } else { None };
        }
        begun.map(|_done| ())
    }

    async fn commit(&mut self) -> Fate {
        crate::crash::point("before_commit");
        let started = Instant::now();
        let committed = self.books.run("COMMIT").await;
        (self.observer)("commit", started.elapsed());
        crate::crash::point("after_commit");
        let Err(error) = committed else { return Fate::Committed };
        match fault::of_commit(&error) {
            CommitFault::RolledBack => {
                self.roll_back().await;
                Fate::RolledBack(error.to_string())
            }
            CommitFault::Unknown => {
                self.halt_with(&error);
                Fate::Unknown(error.to_string())
            }
        }
    }

    /// Ends a transaction that failed. SQLite may have ended it by itself, so "no transaction" is as good as done; should
    /// it still stand, the next `BEGIN` fails, and with it that batch.
    async fn roll_back(&mut self) {
        let _ = self.books.run("ROLLBACK").await;
    }

    /// Copies the log into the database. Done here and not by SQLite's own hook, which hides errors: an fsync that
    /// failed must never be tried again (threat E12).
    async fn checkpoint(&mut self, statement: &'static str) {
        self.since_checkpoint = 0;
        if let Err(error) = self.books.run(statement).await
            && fault::is_fatal(&error)
        {
            self.halt_with(&error);
        }
    }

    fn halt_with(&self, error: &sqlx::Error) {
        self.halt.send_replace(Some(format!("the ledger writes nothing more after: {error}")));
    }
}
