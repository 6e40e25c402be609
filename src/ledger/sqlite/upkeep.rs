//! Signers' nonces, and pruning.

use super::claim::as_bigint;
use super::writer::{Books, Operation, StepError};
use crate::ledger::{AccountNonce, LedgerError};
use crate::types::{AccountId, Network, UnixMillis};

/// Rows that one pruning step deletes, so that payments never wait for long.
pub(super) const PRUNE_ROWS_MAX: u32 = 200;

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
        let next: i64 = sqlx::query_scalar(
            "INSERT INTO signers (network, signer, next_nonce) VALUES ($1, $2, $3) \
             ON CONFLICT (network, signer) DO UPDATE SET next_nonce = \
             CASE WHEN signers.next_nonce < excluded.next_nonce THEN excluded.next_nonce ELSE signers.next_nonce END \
             RETURNING next_nonce",
        )
        .bind(self.network.as_str())
        .bind(self.signer.as_str())
        .bind(as_bigint(self.at_least, "account nonce")?)
        .fetch_one(books.connection())
        .await?;
        u64::try_from(next).map_err(|_error| {
            LedgerError::Corrupt { record: format!("signer {}", self.signer), detail: format!("next nonce {next}") }
                .into()
        })
    }
}

/// [`crate::ledger::Ledger::withhold`].
pub(super) struct Withhold {
    pub(super) network: Network,
    pub(super) deliveries_max: u32,
}

impl Operation for Withhold {
    type Output = u64;
    const NAME: &'static str = "withhold";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        let changed = sqlx::query(
            "UPDATE payments SET state = CASE WHEN state = 'paid' THEN 'owed' ELSE state END, \
             deliveries = CASE WHEN deliveries < $2 THEN $2 ELSE deliveries END, updated_at = $3 \
             WHERE network = $1 AND (state = 'paid' OR (state IN ('claimed', 'signed', 'failed', 'reorged') \
             AND deliveries < $2))",
        )
        .bind(self.network.as_str())
        .bind(i64::from(self.deliveries_max))
        .bind(books.now().0)
        .execute(books.connection())
        .await?;
        Ok(changed.rows_affected())
    }
}

/// What one pruning step deletes. A row stays as long as a failed one under its payment id may still be credited: it is what
/// keeps one transfer from being credited twice. `$1` is the time before which all must have ended, `$2` how many rows at most.
macro_rules! prunable {
    () => {
        "(SELECT record FROM payments p WHERE state IN ('served', 'released', 'failed') \
         AND updated_at < $1 AND valid_until < $1 AND NOT EXISTS (SELECT 1 FROM payments f \
         WHERE f.payment_id = p.payment_id AND f.state = 'failed' AND f.valid_until >= $1) \
         ORDER BY updated_at, record LIMIT $2)"
    };
}

/// One step of [`crate::ledger::Ledger::prune`]: at most [`PRUNE_ROWS_MAX`] rows.
///
/// Owed and reorged payments stay, however old: somebody has to act on them.
pub(super) struct PruneSome {
    pub(super) before: UnixMillis,
}

impl Operation for PruneSome {
    type Output = u64;
    const NAME: &'static str = "prune";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        // Twice the same rows: nothing else writes between the two, and the order has no ties.
        sqlx::query(concat!("DELETE FROM attempts WHERE record IN ", prunable!()))
            .bind(self.before.0)
            .bind(i64::from(PRUNE_ROWS_MAX))
            .execute(books.connection())
            .await?;
        let deleted = sqlx::query(concat!("DELETE FROM payments WHERE record IN ", prunable!()))
            .bind(self.before.0)
            .bind(i64::from(PRUNE_ROWS_MAX))
            .execute(books.connection())
            .await?;
        Ok(deleted.rows_affected())
    }
}
