//! An operator's refund, written into books that gateways have open.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::PostgresReader;
use super::noting::resolve;
use crate::ledger::schema::open_error;
use crate::ledger::{LedgerError, PaymentRecord, RecordId, Resolution};

/// Notes the refund of a payment that is owed and that nobody resolved; gives the row as it then is, whoever resolved it.
/// Durable when this returns.
///
/// # Errors
/// [`LedgerError::Missing`]; [`LedgerError::IllegalStep`] for a payment that isn't owed; [`LedgerError::Open`] for books that are
/// not there or another version's; [`LedgerError::NotWritten`]; [`LedgerError::Unknown`], after which the same call shows what is
/// written.
pub async fn resolve_in_postgres(
    url: &str,
    record: &RecordId,
    resolution: &Resolution,
) -> Result<PaymentRecord, LedgerError> {
    PostgresReader::open(url).await?.close().await;
    let options = PgConnectOptions::from_str(url).map_err(|error| open_error("its URL", error))?;
    // No gateway writes as the epoch 0: an owed row is in nobody's hands.
    let options = options
        .application_name("tollhouse")
        .options([("tollhouse.epoch", "0"), ("synchronous_commit", "on")])
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(|error| open_error("the database", error))?;
    let resolved = resolve(&mut connection, record, resolution).await;
    let _tidy = connection.close().await;
    resolved
}
