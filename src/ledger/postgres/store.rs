//! The database: how to reach it, whether it keeps what it is told, and its schema.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::PostgresReader;
use crate::ledger::LedgerError;
use crate::ledger::schema::{migrate_error, open_error, version_error};

/// Cargo sees changed migrations, not new ones: change this file too when one is added. The last is 0005.
static MIGRATIONS: Migrator = sqlx::migrate!("src/ledger/migrations/postgres");

/// Connections of one gateway.
pub(super) const CONNECTIONS_MAX: u32 = 16;

/// How long a caller waits for a connection, a new one included.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);

/// How long opening may take in all, once another gateway's migration isn't waited for.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// What a server ends by itself: a statement, a wait for a lock, and a transaction whose gateway was paused in the middle. All
/// shorter than a lease, so that what a paused gateway holds is let go before its rows are taken over. And that a question which
/// locks a row may do so, whatever the database's own default.
const SESSION: [(&str, &str); 4] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "4s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("default_transaction_read_only", "off"),
];

fn options(url: &str) -> Result<PgConnectOptions, LedgerError> {
    // The error names no part of the URL but, at most, a parameter.
    let options = PgConnectOptions::from_str(url).map_err(|error| open_error("its URL", error))?;
    Ok(options.application_name("tollhouse").disable_statement_logging())
}

/// How long a connection that comes back to the pool may take to prove that it is of further use.
const PROOF_MAX: Duration = Duration::from_secs(6);

fn pool_of(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_MAX)
        .idle_timeout(Duration::from_secs(600))
        // The pool's own test has no end where the server hangs, and the connection's place would be lost with it.
        .after_release(|connection, _metadata| {
            Box::pin(async move {
                let proven = tokio::time::timeout(PROOF_MAX, connection.ping()).await;
                proven.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
        .connect_lazy_with(options)
}

/// Connections to sound books of this version.
pub(super) async fn open_for_writing(url: &str) -> Result<PgPool, LedgerError> {
    let options = options(url)?;
    let connected = tokio::time::timeout(OPEN_MAX, options.connect()).await;
    let mut connection = match connected {
        Ok(connected) => connected.map_err(|error| open_error("the database", error))?,
        Err(_elapsed) => return Err(open_error("the database", "it does not answer")),
    };
    check_settings(&mut connection).await?;
    // Under a lock of the database, so that several gateways may start at once.
    MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| migrate_error(&error))?;
    let _tidy = connection.close().await;
    Ok(pool_of(options.options(SESSION)))
}

/// Refuses a database that may forget what it said was written, or that takes no writes.
async fn check_settings(connection: &mut PgConnection) -> Result<(), LedgerError> {
    let settings: (String, String, String, bool) = sqlx::query_as(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'), \
         pg_is_in_recovery()",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| open_error("the database", error))?;
    let (synchronous_commit, fsync, full_page_writes, is_standby) = settings;
    check_durability(&synchronous_commit).map_err(|error| open_error("the database", error))?;
    for (name, value) in [("fsync", fsync), ("full_page_writes", full_page_writes)] {
        if value != "on" {
            let detail = format!("{name} is {value}: it may forget what it said was written");
            return Err(open_error("the database", detail));
        }
    }
    if is_standby {
        return Err(open_error("the database", "it is a standby, which takes no writes"));
    }
    Ok(())
}

/// Only with `on` or a `remote_…` is a COMMIT that was answered on disk, wherever it must be.
pub(super) fn check_durability(synchronous_commit: &str) -> Result<(), LedgerError> {
    match synchronous_commit {
        "on" | "remote_write" | "remote_apply" => Ok(()),
        other => Err(LedgerError::NotWritten(format!(
            "synchronous_commit is {other}, so that the database may forget what it said was written; set it to on"
        ))),
    }
}

/// Its connections can't write.
impl PostgresReader {
    /// Reaches the books without changing them.
    ///
    /// # Errors
    /// [`LedgerError::Open`] when there are none, or another version wrote them.
    pub async fn open(url: &str) -> Result<Self, LedgerError> {
        let read_only = [("default_transaction_read_only", "on")];
        let pool = pool_of(options(url)?.options(read_only));
        let reader = Self::over(pool);
        version_error(version(reader.pool()).await?, &MIGRATIONS)?;
        Ok(reader)
    }

    /// Whether books could be kept in a database: reaches it, judges its settings and the version of the books that are there,
    /// and changes nothing. Gives whether there are any.
    ///
    /// # Errors
    /// [`LedgerError::Open`] with what a gateway would refuse to start for.
    pub async fn examine(url: &str) -> Result<bool, LedgerError> {
        let connected = tokio::time::timeout(OPEN_MAX, options(url)?.connect()).await;
        let mut connection = match connected {
            Ok(connected) => connected.map_err(|error| open_error("the database", error))?,
            Err(_elapsed) => return Err(open_error("the database", "it does not answer")),
        };
        check_settings(&mut connection).await?;
        let has_books: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| open_error("the database", error))?;
        let _tidy = connection.close().await;
        if has_books {
            Self::open(url).await?.close().await;
        }
        Ok(has_books)
    }
}

async fn version(pool: &PgPool) -> Result<Option<i64>, LedgerError> {
    sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
        .map_err(|error| open_error("it is no ledger, or can't be read", error))
}
