//! `settle = "after"`: the claim that counts an attempt at the origin, and what follows it: signed (W1), or let go.

use super::claim::{
    as_bigint, check_signed, insert_attempt, insert_payment, load_live, new_record_id, reload, take_nonce,
};
use super::steps::{refused, require};
use super::writer::{Books, Operation, StepError};
use crate::ledger::{
    Attempt, ForwardOutcome, LedgerError, NewPayment, PaymentRecord, PaymentState, RecordId, SignInClaim, hex,
};
use crate::types::AccountId;

/// [`crate::ledger::Ledger::claim_forwarded`].
pub(super) struct ClaimForwarded {
    pub(super) payment: NewPayment,
    pub(super) attempts_max: u32,
}

impl Operation for ClaimForwarded {
    type Output = ForwardOutcome;
    const NAME: &'static str = "claim_forwarded";

    async fn apply(self, books: &mut Books) -> Result<ForwardOutcome, StepError> {
        let Self { payment, attempts_max } = self;
        let record = new_record_id()?;
        let now = books.now();
        if !insert_payment(books, &record, &payment, now, PaymentState::Forwarded, 0).await? {
            return Ok(ForwardOutcome::Exists(load_live(books, &payment).await?));
        }
        // Each time it was let go the count went on in a row of its own: the highest is that of all. Only now that this row keeps
        // others out: whoever had the payment a moment ago has let it go, and is counted.
        let before: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(deliveries), 0) FROM payments \
             WHERE payment_id = $1 AND state = 'released' AND payload_digest = $2",
        )
        .bind(&payment.id.0)
        .bind(hex::encode(&payment.payload_digest))
        .fetch_one(books.connection())
        .await?;
        let attempts = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
        if attempts > attempts_max {
            // The row goes with the savepoint.
            return Err(LedgerError::AttemptsSpent.into());
        }
        sqlx::query("UPDATE payments SET deliveries = $2 WHERE record = $1")
            .bind(&record.0)
            .bind(i64::from(attempts))
            .execute(books.connection())
            .await?;
        Ok(ForwardOutcome::Claimed(reload(books, &record).await?))
    }
}

/// [`crate::ledger::Ledger::record_signed`], W1.
pub(super) struct RecordSigned {
    pub(super) record: RecordId,
    pub(super) signer: Option<AccountId>,
    pub(super) sign: SignInClaim,
}

impl Operation for RecordSigned {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_signed";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let Self { record, signer, sign } = self;
        let mut payment = require(books, &record, &[PaymentState::Forwarded], Self::NAME).await?;
        payment.claim.signer = signer;
        let nonce = take_nonce(books, &payment.claim).await?;
        let signed = check_signed(&payment.claim, nonce, sign).map_err(LedgerError::NotSigned)?;
        let now = books.now();
        insert_attempt(books, &record, &Attempt { number: 1, signed, signed_at: now }).await?;
        let updated = sqlx::query(
            "UPDATE payments SET state = 'signed', signer = $2, updated_at = $3 \
             WHERE record = $1 AND state = 'forwarded'",
        )
        .bind(&record.0)
        .bind(payment.claim.signer.as_ref().map(|signer| signer.as_str()))
        .bind(now.0)
        .execute(books.connection())
        .await?;
        match updated.rows_affected() {
            1 => reload(books, &record).await,
            _ => Err(refused(books, &record, Self::NAME).await),
        }
    }
}

/// [`crate::ledger::Ledger::release`].
pub(super) struct Release {
    pub(super) record: RecordId,
    pub(super) uncount: bool,
}

impl Operation for Release {
    type Output = PaymentRecord;
    const NAME: &'static str = "release";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let updated = sqlx::query(
            "UPDATE payments SET state = 'released', deliveries = deliveries - $2, updated_at = $3 \
             WHERE record = $1 AND state = 'forwarded' AND deliveries >= $2",
        )
        .bind(&self.record.0)
        .bind(as_bigint(u64::from(self.uncount), "count")?)
        .bind(books.now().0)
        .execute(books.connection())
        .await?;
        match updated.rows_affected() {
            1 => reload(books, &self.record).await,
            _ => Err(refused(books, &self.record, Self::NAME).await),
        }
    }
}
