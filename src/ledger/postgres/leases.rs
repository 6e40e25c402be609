//! Who works on what: rows, gas payers and duties whose holder is gone are taken over; those of a living gateway are left alone.

use super::claim::as_bigint;
use super::writer::{Books, Operation, StepError};
use crate::ledger::{AccountNonce, LedgerError, RecordId};
use crate::types::{AccountId, Network};

/// Rows that are taken over in one go, so that several gateways share what a dead one left (threat H6).
pub(super) const TAKEN_MAX: u32 = 200;

/// Rows that nobody who lives works on. Those with a gas payer go to whoever holds it, who alone knows what else was signed
/// with its account nonces.
macro_rules! left_behind {
    () => {
        "state IN ('claimed', 'signed') AND NOT tollhouse_lives(owner) AND NOT EXISTS (SELECT 1 FROM signers s \
         WHERE s.network = p.network AND s.signer = p.signer AND s.owner <> tollhouse_epoch() \
         AND tollhouse_lives(s.owner))"
    };
}

/// Takes over a network's unfinished payments that a dead gateway left, oldest first; gives how many.
pub(super) struct TakeOver {
    pub(super) network: Network,
}

impl Operation for TakeOver {
    type Output = u64;
    const NAME: &'static str = "take_over";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        let taken = sqlx::query(concat!(
            "UPDATE payments SET owner = tollhouse_epoch() WHERE record IN (SELECT record FROM payments p \
             WHERE network = $1 AND ",
            left_behind!(),
            " ORDER BY claimed_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
        ))
        .bind(self.network.as_str())
        .bind(i64::from(TAKEN_MAX))
        .execute(books.connection())
        .await?;
        Ok(taken.rows_affected())
    }
}

/// [`crate::ledger::Ledger::own`].
pub(super) struct Own {
    pub(super) record: RecordId,
}

impl Operation for Own {
    type Output = bool;
    const NAME: &'static str = "own";

    async fn apply(self, books: &mut Books) -> Result<bool, StepError> {
        let owned = sqlx::query(concat!(
            "UPDATE payments p SET owner = tollhouse_epoch() WHERE record = $1 AND (owner = tollhouse_epoch() OR (",
            left_behind!(),
            "))"
        ))
        .bind(&self.record.0)
        .execute(books.connection())
        .await?;
        Ok(owned.rows_affected() == 1)
    }
}

/// [`crate::ledger::Ledger::lease_duty`].
pub(super) struct LeaseDuty {
    pub(super) name: String,
}

impl Operation for LeaseDuty {
    type Output = bool;
    const NAME: &'static str = "lease_duty";

    async fn apply(self, books: &mut Books) -> Result<bool, StepError> {
        let leased = sqlx::query(
            "INSERT INTO duties (name, owner) VALUES ($1, tollhouse_epoch()) ON CONFLICT (name) DO UPDATE \
             SET owner = excluded.owner WHERE duties.owner = excluded.owner OR NOT tollhouse_lives(duties.owner)",
        )
        .bind(&self.name)
        .execute(books.connection())
        .await?;
        Ok(leased.rows_affected() == 1)
    }
}

/// [`crate::ledger::Ledger::lease_signer`].
pub(super) struct LeaseSigner {
    pub(super) network: Network,
    pub(super) signer: AccountId,
    pub(super) at_least: AccountNonce,
}

impl Operation for LeaseSigner {
    type Output = AccountNonce;
    const NAME: &'static str = "lease_signer";

    async fn apply(self, books: &mut Books) -> Result<AccountNonce, StepError> {
        let next: Option<i64> = sqlx::query_scalar(
            "INSERT INTO signers (network, signer, next_nonce, owner) VALUES ($1, $2, $3, tollhouse_epoch()) \
             ON CONFLICT (network, signer) DO UPDATE \
             SET next_nonce = GREATEST(signers.next_nonce, excluded.next_nonce), owner = excluded.owner \
             WHERE signers.owner = excluded.owner OR NOT tollhouse_lives(signers.owner) RETURNING next_nonce",
        )
        .bind(self.network.as_str())
        .bind(self.signer.as_str())
        .bind(as_bigint(self.at_least, "account nonce")?)
        .fetch_optional(books.connection())
        .await?;
        let Some(next) = next else {
            let detail = format!("signer {} on {} is another gateway's", self.signer, self.network);
            return Err(LedgerError::HeldElsewhere(detail).into());
        };
        u64::try_from(next).map_err(|_error| {
            LedgerError::Corrupt { record: format!("signer {}", self.signer), detail: format!("next nonce {next}") }
                .into()
        })
    }
}
