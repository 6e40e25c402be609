//! An operator's refund, written into books that a gateway may have open.
//!
//! One statement, and so one short transaction: SQLite lets one process write at a time, a running gateway waits for it like
//! for a commit of its own, and none of its steps touches these columns. So the gateway's lock is not asked for.

use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};

use super::SqliteReader;
use super::noting::resolve;
use super::store;
use crate::ledger::{LedgerError, PaymentRecord, RecordId, Resolution};

/// Notes the refund of a payment that is owed and that nobody resolved; gives the row as it then is, whoever resolved it.
/// Durable when this returns.
///
/// # Errors
/// [`LedgerError::Missing`]; [`LedgerError::IllegalStep`] for a payment that isn't owed; [`LedgerError::Open`] for books that are
/// not there or another version's; [`LedgerError::NotWritten`]; [`LedgerError::Unknown`], after which the same call shows what is
/// written.
pub async fn resolve_in_sqlite(
    path: &Path,
    record: &RecordId,
    resolution: &Resolution,
) -> Result<PaymentRecord, LedgerError> {
    SqliteReader::open(path).await?.close().await;
    let options: SqliteConnectOptions = store::options(path)
        .create_if_missing(false)
        .synchronous(SqliteSynchronous::Full)
        // The gateway's affair: it looks at the result (threat E12).
        .pragma("wal_autocheckpoint", "0");
    let mut connection =
        options.connect().await.map_err(|error| LedgerError::Open(format!("{}: {error}", path.display())))?;
    let resolved = resolve(&mut connection, record, resolution).await;
    store::close(connection).await;
    resolved
}
