//! The files: who may open them, in which mode, and whether they are sound.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::SqliteReader;
use super::fault;
use crate::ledger::LedgerError;
use crate::ledger::schema::{migrate_error, open_error, version_error};

/// Cargo sees changed migrations, not new ones: change this file too when one is added. The last is 0003.
static MIGRATIONS: Migrator = sqlx::migrate!("src/ledger/migrations/sqlite");

/// Damage that is reported in one message.
const DAMAGE_LINES_MAX: usize = 10;

/// What every connection has in common.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

/// The database file and the lock that makes this process its only gateway (threat E16). The lock lasts as long as the
/// value, or the process.
#[derive(Debug)]
pub(super) struct OwnedFile {
    pub(super) path: PathBuf,
    lock: File,
}

impl OwnedFile {
    /// Creates the file if need be, readable by its owner only: it holds signed payments and the quote key.
    pub(super) fn own(path: &Path) -> Result<Self, LedgerError> {
        private(OpenOptions::new().create(true).append(true))
            .open(path)
            .map_err(|error| open_error(path.display(), error))?;
        // Two names of one file must meet at one lock.
        let path = fs::canonicalize(path).map_err(|error| open_error(path.display(), error))?;
        let mut lock_name = path.clone().into_os_string();
        lock_name.push(".lock");
        let lock_path = PathBuf::from(lock_name);
        let lock = private(OpenOptions::new().create(true).append(true))
            .open(&lock_path)
            .map_err(|error| open_error(lock_path.display(), error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "another gateway has it open; only one may write a ledger";
                return Err(LedgerError::InUse(format!("{}: {why}", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(open_error(lock_path.display(), error)),
        }
        if let Some(folder) = path.parent() {
            // The names of new files must be as durable as what is in them.
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| open_error(folder.display(), error))?;
        }
        Ok(Self { path, lock })
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        // Said aloud: a process that is just being started may share the descriptor for a moment, and the lock with it.
        let _ = self.lock.unlock();
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// The writer's connection to sound books of this version.
pub(super) async fn open_for_writing(path: &Path) -> Result<SqliteConnection, LedgerError> {
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // The writer does it, and looks at the result.
        .pragma("wal_autocheckpoint", "0");
    let mut connection = options.connect().await.map_err(|error| {
        let sort = if fault::is_fatal(&error) { " is damaged or no ledger" } else { "" };
        open_error(format_args!("{}{sort}", path.display()), error)
    })?;
    check_sound(&mut connection).await?;
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| migrate_error(&error))?;
    Ok(connection)
}

/// Refuses damaged books before anything is done with them (threat E13).
async fn check_sound(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let findings: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(10)")
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| open_error("it is damaged or no ledger", error))?;
    if findings.iter().all(|line| line == "ok") {
        return Ok(());
    }
    let lines: Vec<String> = findings.into_iter().take(DAMAGE_LINES_MAX).collect();
    Err(open_error("it is damaged; restore a copy and reconcile", lines.join("; ")))
}

/// Refuses to read books of another version.
pub(super) async fn check_version(pool: &SqlitePool) -> Result<(), LedgerError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
        .map_err(|error| open_error("it is no ledger, or can't be read", error))?;
    version_error(found, &MIGRATIONS)
}

/// Reads at the same time; each connection is a thread of its own.
const CONNECTIONS_MAX: u32 = 4;

/// Its connections never wait for the writer and can't write.
impl SqliteReader {
    /// Opens the books at `path` without changing them.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when there are none, or another version wrote them.
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        let reader = Self::on(path);
        check_version(reader.pool()).await?;
        Ok(reader)
    }

    /// Reads books that are known to be in order; connects when it has to.
    pub(super) fn on(path: &Path) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options(path).read_only(true));
        Self::over(pool)
    }
}

/// Ends a connection in order.
pub(super) async fn close(connection: SqliteConnection) {
    // The log is in the database already; what closing adds is tidiness.
    let _ = connection.close().await;
}
