//! An operator's refund: one statement, on columns that no step of a gateway touches.

use super::rows::{self, select_payments};
use super::{Driver, fault};
use crate::ledger::{LedgerError, PaymentRecord, RecordId, Resolution};

/// Notes the refund of a payment that is owed and that nobody resolved; gives the row as it then is, whoever resolved it.
///
/// # Errors
/// [`LedgerError::Missing`]; [`LedgerError::IllegalStep`] for a payment that isn't owed; [`LedgerError::NotWritten`];
/// [`LedgerError::Unknown`].
pub(super) async fn resolve(
    connection: &mut <Driver as sqlx::Database>::Connection,
    record: &RecordId,
    resolution: &Resolution,
) -> Result<PaymentRecord, LedgerError> {
    let updated = sqlx::query(
        "UPDATE payments SET resolved_transaction = $2, resolved_note = $3, resolved_at = $4, updated_at = $4 \
         WHERE record = $1 AND state = 'owed' AND resolved_at IS NULL",
    )
    .bind(&record.0)
    .bind(&resolution.transaction)
    .bind(&resolution.note)
    .bind(resolution.at.0)
    .execute(&mut *connection)
    .await
    // The statement commits by itself, so that its errors are those of a COMMIT.
    .map_err(|error| match fault::of_commit(&error) {
        fault::CommitFault::RolledBack => LedgerError::NotWritten(error.to_string()),
        fault::CommitFault::Unknown => LedgerError::Unknown(error.to_string()),
    })?;
    let found = sqlx::query(select_payments!("WHERE p.record = $1 ORDER BY a.number"))
        .bind(&record.0)
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| LedgerError::NotRead(error.to_string()))?;
    let payment = rows::payments(&found)?.pop().ok_or_else(|| LedgerError::Missing(record.clone()))?;
    if updated.rows_affected() == 0 && payment.resolution.is_none() {
        return Err(LedgerError::IllegalStep { record: record.clone(), found: payment.state, step: "resolve" });
    }
    Ok(payment)
}
