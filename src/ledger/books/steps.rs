//! The steps of a payment after its claim. Each names the states it may start from; everything else is illegal.

use super::claim::{as_bigint, reload};
use super::fault;
use super::rows::{self, select_payments};
use super::writer::{Books, Operation, StepError};
use crate::ledger::{DeliveryBegun, LedgerError, PaymentRecord, PaymentState, RecordId, Settlement};
use crate::types::{AtomicAmount, UnixMillis};

/// A row with its attempts, if it is there.
pub(super) async fn load(books: &mut Books, record: &RecordId) -> Result<Option<PaymentRecord>, StepError> {
    let found = sqlx::query(select_payments!("WHERE p.record = $1 ORDER BY a.number"))
        .bind(&record.0)
        .fetch_all(books.connection())
        .await?;
    Ok(rows::payments(&found)?.pop())
}

/// The row as it stays until this transaction ends.
async fn load_locked(books: &mut Books, record: &RecordId) -> Result<PaymentRecord, StepError> {
    books.lock(record).await?;
    Ok(load(books, record).await?.ok_or_else(|| LedgerError::Missing(record.clone()))?)
}

/// The row, provided that it is in one of these states.
pub(super) async fn require(
    books: &mut Books,
    record: &RecordId,
    from: &[PaymentState],
    step: &'static str,
) -> Result<PaymentRecord, StepError> {
    let payment = load_locked(books, record).await?;
    if !from.contains(&payment.state) {
        return Err(LedgerError::IllegalStep { record: record.clone(), found: payment.state, step }.into());
    }
    Ok(payment)
}

/// Why an UPDATE that names its starting states met no row.
pub(super) async fn refused(books: &mut Books, record: &RecordId, step: &'static str) -> StepError {
    match load(books, record).await {
        Ok(Some(payment)) => LedgerError::IllegalStep { record: record.clone(), found: payment.state, step }.into(),
        Ok(None) => LedgerError::Missing(record.clone()).into(),
        Err(error) => error,
    }
}

/// [`crate::ledger::Ledger::record_paid`], W2.
pub(super) struct RecordPaid {
    pub(super) record: RecordId,
    pub(super) settlement: Settlement,
    pub(super) deliver: bool,
}

impl Operation for RecordPaid {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_paid";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        // What was refunded and undone by its chain before it came back buys no answer besides: it stays with the operator.
        // What a row's earlier failure cost stays where somebody else moved the money in the end. Our own transaction costs
        // once, mined as it was or in another block: all that are signed for a payment exclude each other on its chain.
        let state = if self.deliver { PaymentState::Delivering } else { PaymentState::Paid };
        let updated = sqlx::query(
            "UPDATE payments SET state = CASE WHEN resolved_at IS NULL THEN $2 ELSE 'owed' END, \
             deliveries = CASE WHEN deliveries < $3 THEN $3 ELSE deliveries END, \
             paid_at = $4, updated_at = $4, settled_final = 0, \
             settled_fee = CASE WHEN $8 = 1 THEN COALESCE($9, settled_fee) ELSE $9 END, \
             settled_transaction = $5, settled_block = $6, settled_block_hash = $7, settled_externally = $8, \
             failure = NULL, failed_transaction = NULL, \
             identifier = CASE WHEN state = 'signed' THEN identifier ELSE NULL END \
             WHERE record = $1 AND state IN ('signed', 'failed', 'reorged')",
        )
        .bind(&self.record.0)
        .bind(state.as_str())
        .bind(i64::from(self.deliver))
        .bind(books.now().0)
        .bind(&self.settlement.transaction)
        .bind(as_bigint(self.settlement.block, "block")?)
        .bind(&self.settlement.block_hash)
        .bind(i64::from(self.settlement.is_external))
        .bind(self.settlement.fee.map(|fee| fee.to_string()))
        .execute(books.connection())
        .await;
        match updated {
            Ok(done) if done.rows_affected() == 1 => reload(books, &self.record).await,
            Ok(_) => Err(refused(books, &self.record, Self::NAME).await),
            // Only a failed row lets its payment id be claimed anew: that newer row is the one to be paid. Not looked up, since
            // PostgreSQL answers nothing more in a transaction in which a statement failed.
            Err(error) if fault::is_taken(&error) => {
                let found = PaymentState::Failed;
                Err(LedgerError::IllegalStep { record: self.record, found, step: Self::NAME }.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// [`crate::ledger::Ledger::record_failed`].
pub(super) struct RecordFailed {
    pub(super) record: RecordId,
    pub(super) reason: String,
    pub(super) transaction: Option<String>,
    pub(super) fee: Option<AtomicAmount>,
}

impl Operation for RecordFailed {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_failed";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let updated = sqlx::query(
            "UPDATE payments SET state = 'failed', failure = $2, failed_transaction = $3, updated_at = $4, \
             settled_fee = $5 WHERE record = $1 AND state = 'signed'",
        )
        .bind(&self.record.0)
        .bind(&self.reason)
        .bind(&self.transaction)
        .bind(books.now().0)
        .bind(self.fee.map(|fee| fee.to_string()))
        .execute(books.connection())
        .await?;
        match updated.rows_affected() {
            1 => reload(books, &self.record).await,
            _ => Err(refused(books, &self.record, Self::NAME).await),
        }
    }
}

/// [`crate::ledger::Ledger::record_delivering`].
pub(super) struct RecordDelivering {
    pub(super) record: RecordId,
    pub(super) deliveries_max: u32,
    pub(super) settled_after: UnixMillis,
}

impl Operation for RecordDelivering {
    type Output = DeliveryBegun;
    const NAME: &'static str = "record_delivering";

    async fn apply(self, books: &mut Books) -> Result<DeliveryBegun, StepError> {
        let payment = load_locked(books, &self.record).await?;
        if payment.state != PaymentState::Paid {
            return Ok(DeliveryBegun::NotPaid(payment));
        }
        let is_recent = payment.paid_at.is_some_and(|paid_at| paid_at >= self.settled_after);
        if is_recent && may_be_presented(&payment, payment.deliveries, self.deliveries_max) {
            let deliveries = payment.deliveries.saturating_add(1);
            move_to(books, &self.record, PaymentState::Paid, PaymentState::Delivering, deliveries).await?;
            Ok(DeliveryBegun::Begun(reload(books, &self.record).await?))
        } else {
            move_to(books, &self.record, PaymentState::Paid, PaymentState::Owed, payment.deliveries).await?;
            Ok(DeliveryBegun::Owed(reload(books, &self.record).await?))
        }
    }
}

/// [`crate::ledger::Ledger::record_undelivered`].
pub(super) struct RecordUndelivered {
    pub(super) record: RecordId,
    pub(super) deliveries_max: u32,
    pub(super) uncount: bool,
}

impl Operation for RecordUndelivered {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_undelivered";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let payment = require(books, &self.record, &[PaymentState::Delivering], Self::NAME).await?;
        let deliveries = payment.deliveries.saturating_sub(u32::from(self.uncount));
        let to = if may_be_presented(&payment, deliveries, self.deliveries_max) {
            PaymentState::Paid
        } else {
            PaymentState::Owed
        };
        move_to(books, &self.record, PaymentState::Delivering, to, deliveries).await?;
        reload(books, &self.record).await
    }
}

/// [`crate::ledger::Ledger::record_served`], W3.
pub(super) struct RecordServed {
    pub(super) record: RecordId,
}

impl Operation for RecordServed {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_served";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let payment = require(books, &self.record, &[PaymentState::Delivering], Self::NAME).await?;
        move_to(books, &self.record, PaymentState::Delivering, PaymentState::Served, payment.deliveries).await?;
        reload(books, &self.record).await
    }
}

/// Whether a payment whose request was given to the origin `deliveries` times may be given to it again.
fn may_be_presented(payment: &PaymentRecord, deliveries: u32, deliveries_max: u32) -> bool {
    deliveries < deliveries_max && (payment.claim.redeliverable || deliveries == 0)
}

/// Moves a row whose state was just read in this transaction; that it still is in that state is checked all the same.
async fn move_to(
    books: &mut Books,
    record: &RecordId,
    from: PaymentState,
    to: PaymentState,
    deliveries: u32,
) -> Result<(), StepError> {
    let updated = sqlx::query(
        "UPDATE payments SET state = $3, deliveries = $4, updated_at = $5 WHERE record = $1 AND state = $2",
    )
    .bind(&record.0)
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(i64::from(deliveries))
    .bind(books.now().0)
    .execute(books.connection())
    .await?;
    if updated.rows_affected() == 1 { Ok(()) } else { Err(LedgerError::Missing(record.clone()).into()) }
}
