//! W1: the claim, the account nonce and the signed attempt in one step, and the further attempts.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::rows::{self, select_payments};
use super::steps::{load, require};
use super::writer::{Books, Operation, StepError};
use crate::ledger::{
    AccountNonce, Attempt, ClaimOutcome, LedgerError, NewAttempt, NewPayment, PaymentRecord, PaymentState, RecordId,
    SignInClaim, hex,
};
use crate::types::UnixMillis;

/// [`crate::ledger::Ledger::claim`].
pub(super) struct Claim {
    pub(super) payment: NewPayment,
    pub(super) sign: SignInClaim,
}

impl Operation for Claim {
    type Output = ClaimOutcome;
    const NAME: &'static str = "claim";

    async fn apply(self, books: &mut Books) -> Result<ClaimOutcome, StepError> {
        let Self { payment, sign } = self;
        let record = new_record_id()?;
        let now = books.now();
        if !insert_payment(books, &record, &payment, now, PaymentState::Signed, 0).await? {
            return Ok(ClaimOutcome::Exists(load_live(books, &payment).await?));
        }
        let nonce = take_nonce(books, &payment).await?;
        let signed = check_signed(&payment, nonce, sign).map_err(LedgerError::NotSigned)?;
        let attempt = Attempt { number: 1, signed, signed_at: now };
        insert_attempt(books, &record, &attempt).await?;
        Ok(ClaimOutcome::Claimed(PaymentRecord {
            record,
            claim: payment,
            state: PaymentState::Signed,
            attempts: vec![attempt],
            settlement: None,
            paid_at: None,
            deliveries: 0,
            failure: None,
            failed_transaction: None,
            fee: None,
            resolution: None,
            updated_at: now,
        }))
    }
}

/// States in which a payment may be signed again: before it is paid, and after its block was taken back.
const SIGNED_AND_SETTLED: [PaymentState; 5] =
    [PaymentState::Signed, PaymentState::Paid, PaymentState::Delivering, PaymentState::Served, PaymentState::Owed];

/// [`crate::ledger::Ledger::record_attempt`].
pub(super) struct RecordAttempt {
    pub(super) record: RecordId,
    pub(super) attempt: NewAttempt,
}

impl Operation for RecordAttempt {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_attempt";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let mut payment = require(books, &self.record, &SIGNED_AND_SETTLED, Self::NAME).await?;
        let last = payment.attempts.last().map_or(0, |attempt| attempt.number);
        let number = last.checked_add(1).ok_or_else(|| LedgerError::NotWritten("too many attempts".to_owned()))?;
        let now = books.now();
        let attempt = Attempt { number, signed: self.attempt, signed_at: now };
        insert_attempt(books, &self.record, &attempt).await?;
        sqlx::query("UPDATE payments SET updated_at = $2 WHERE record = $1")
            .bind(&self.record.0)
            .bind(now.0)
            .execute(books.connection())
            .await?;
        payment.attempts.push(attempt);
        payment.updated_at = now;
        Ok(payment)
    }
}

pub(super) fn new_record_id() -> Result<RecordId, LedgerError> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(|error| LedgerError::NotWritten(format!("no randomness: {error}")))?;
    Ok(RecordId(format!("pay_{}", hex::encode(&random))))
}

/// Signs; what was signed must be what was claimed: any other account nonce would leave a gap or meet another payment's.
pub(super) fn check_signed(
    payment: &NewPayment,
    nonce: Option<AccountNonce>,
    sign: SignInClaim,
) -> Result<NewAttempt, String> {
    let signed = catch_unwind(AssertUnwindSafe(|| sign(nonce)))
        .unwrap_or_else(|_panic| Err("the signer panicked".to_owned()))?;
    if nonce.is_some() && (signed.account_nonce != nonce || signed.signer != payment.signer) {
        return Err(format!("signed with account nonce {:?} where the claim took {nonce:?}", signed.account_nonce));
    }
    Ok(signed)
}

/// Whether the payment id, and the payer's name for the purchase, were free, and is now taken by this row.
pub(super) async fn insert_payment(
    books: &mut Books,
    record: &RecordId,
    payment: &NewPayment,
    now: UnixMillis,
    state: PaymentState,
    attempts: u32,
) -> Result<bool, StepError> {
    let inserted = sqlx::query(
        "INSERT INTO payments (record, payment_id, state, deliveries, claimed_at, updated_at, valid_until, network, \
         asset, amount, payer, pay_to, signer, payload_digest, fingerprint, holder, redeliverable, wait_for, \
         confirmations, pay_to_exclusive, route, request, terms, payload, identifier) \
         VALUES ($1, $2, $23, $24, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
         $20, $21, $22, $25) ON CONFLICT DO NOTHING",
    )
    .bind(&record.0)
    .bind(&payment.id.0)
    .bind(payment.claimed_at.0)
    .bind(now.0)
    .bind(payment.valid_until.0)
    .bind(payment.network.as_str())
    .bind(payment.asset.as_str())
    .bind(payment.amount.to_string())
    .bind(payment.payer.as_str())
    .bind(payment.pay_to.as_str())
    .bind(payment.signer.as_ref().map(|signer| signer.as_str()))
    .bind(hex::encode(&payment.payload_digest))
    .bind(hex::encode(&payment.fingerprint))
    .bind(rows::holder_text(&payment.holder))
    .bind(i64::from(payment.redeliverable))
    .bind(&payment.wait_for)
    .bind(as_bigint(payment.confirmations, "confirmations")?)
    .bind(i64::from(payment.pay_to_exclusive))
    .bind(&payment.route)
    .bind(&payment.request)
    .bind(&payment.terms)
    .bind(&payment.payload)
    .bind(state.as_str())
    .bind(i64::from(attempts))
    .bind(&payment.identifier)
    .execute(books.connection())
    .await?;
    Ok(inserted.rows_affected() == 1)
}

pub(super) async fn load_live(books: &mut Books, payment: &NewPayment) -> Result<PaymentRecord, StepError> {
    let found = sqlx::query(select_payments!(
        "WHERE p.record = (SELECT record FROM (\
         SELECT record, 0 AS age_rank FROM payments WHERE payment_id = $1 AND state NOT IN ('released', 'failed') \
         UNION ALL SELECT record, 1 AS age_rank FROM payments WHERE payer = $2 AND identifier = $3 \
         AND state NOT IN ('released', 'failed', 'reorged')) candidates ORDER BY age_rank LIMIT 1) ORDER BY a.number"
    ))
    .bind(&payment.id.0)
    .bind(payment.payer.as_str())
    .bind(&payment.identifier)
    .fetch_all(books.connection())
    .await?;
    let live = rows::payments(&found)?.pop();
    live.ok_or_else(|| LedgerError::NotWritten(format!("{} is taken, but by no row", payment.id)).into())
}

/// The next account nonce of the payment's signer, if it has one. A signer whose count was never compared with its
/// chain's has none to give.
pub(super) async fn take_nonce(books: &mut Books, payment: &NewPayment) -> Result<Option<AccountNonce>, StepError> {
    let Some(signer) = &payment.signer else { return Ok(None) };
    let taken: Option<i64> = sqlx::query_scalar(
        "UPDATE signers SET next_nonce = next_nonce + 1 WHERE network = $1 AND signer = $2 \
         AND next_nonce < 9223372036854775807 RETURNING next_nonce - 1",
    )
    .bind(payment.network.as_str())
    .bind(signer.as_str())
    .fetch_optional(books.connection())
    .await?;
    match taken.map(u64::try_from) {
        Some(Ok(nonce)) => Ok(Some(nonce)),
        _ => Err(LedgerError::NotWritten(format!("signer {signer} on {} was not leased", payment.network)).into()),
    }
}

pub(super) async fn insert_attempt(books: &mut Books, record: &RecordId, attempt: &Attempt) -> Result<(), StepError> {
    let nonce = attempt.signed.account_nonce.map(|nonce| as_bigint(nonce, "account nonce")).transpose()?;
    sqlx::query(
        "INSERT INTO attempts (record, number, signer, account_nonce, transaction_id, fee_max, signed_at, raw) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&record.0)
    .bind(i64::from(attempt.number))
    .bind(attempt.signed.signer.as_ref().map(|signer| signer.as_str()))
    .bind(nonce)
    .bind(&attempt.signed.transaction)
    .bind(&attempt.signed.fee_max)
    .bind(attempt.signed_at.0)
    .bind(hex::encode(&attempt.signed.raw))
    .execute(books.connection())
    .await?;
    Ok(())
}

/// As a BIGINT; what doesn't fit is refused rather than wrapped.
pub(super) fn as_bigint(value: u64, name: &str) -> Result<i64, LedgerError> {
    i64::try_from(value).map_err(|_error| LedgerError::NotWritten(format!("{name} {value} doesn't fit the books")))
}

/// Loads a row that a step just wrote.
pub(super) async fn reload(books: &mut Books, record: &RecordId) -> Result<PaymentRecord, StepError> {
    load(books, record).await?.ok_or_else(|| LedgerError::Missing(record.clone()).into())
}
