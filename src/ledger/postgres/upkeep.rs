//! What dead gateways left over, and pruning. Every gateway does it, each on rows that no other has in hand.

use super::writer::{Books, Operation, StepError};
use crate::types::{Network, UnixMillis};

/// Rows that one step changes or deletes, so that payments never wait for long.
pub(super) const ROWS_MAX: u32 = 500;

/// One step of [`crate::ledger::Ledger::recover_deliveries`]: at most [`ROWS_MAX`] rows of each sort.
pub(super) struct RecoverSome {
    pub(super) deliveries_max: u32,
    pub(super) settled_after: UnixMillis,
}

impl Operation for RecoverSome {
    type Output = u64;
    const NAME: &'static str = "recover_deliveries";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        let now = books.now().0;
        // The rule is that of `may_be_presented`; a delivery that a dead gateway began stays counted, since it may have
        // reached the origin.
        let changed = sqlx::query(
            "UPDATE payments SET updated_at = $1, state = CASE \
             WHEN deliveries >= $2 OR paid_at < $3 OR (redeliverable = 0 AND deliveries > 0) \
             THEN 'owed' ELSE 'paid' END \
             WHERE record IN (SELECT record FROM payments WHERE state IN ('paid', 'delivering') AND \
             ((state = 'delivering' AND NOT tollhouse_lives(owner)) OR (state = 'paid' AND \
             (deliveries >= $2 OR paid_at < $3 OR (redeliverable = 0 AND deliveries > 0)))) \
             LIMIT $4 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now)
        .bind(i64::from(self.deliveries_max))
        .bind(self.settled_after.0)
        .bind(i64::from(ROWS_MAX))
        .execute(books.connection())
        .await?;
        let released = sqlx::query(
            "UPDATE payments SET state = 'released', updated_at = $1 WHERE record IN (SELECT record FROM payments \
             WHERE state = 'forwarded' AND NOT tollhouse_lives(owner) LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now)
        .bind(i64::from(ROWS_MAX))
        .execute(books.connection())
        .await?;
        Ok(changed.rows_affected().saturating_add(released.rows_affected()))
    }
}

/// [`crate::ledger::Ledger::withhold`]. What another living gateway works on is not of the old copy, and is left to it.
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
             AND deliveries < $2)) AND NOT (state IN ('claimed', 'signed') AND owner <> tollhouse_epoch() \
             AND tollhouse_lives(owner))",
        )
        .bind(self.network.as_str())
        .bind(i64::from(self.deliveries_max))
        .bind(books.now().0)
        .execute(books.connection())
        .await?;
        Ok(changed.rows_affected())
    }
}

/// One step of [`crate::ledger::Ledger::prune`]: at most [`ROWS_MAX`] rows, their attempts with them. A row stays as long as a
/// failed one under its payment id may still be credited: it is what keeps one transfer from being credited twice.
///
/// Owed and reorged payments stay, however old: somebody has to act on them.
pub(super) struct PruneSome {
    pub(super) before: UnixMillis,
}

impl Operation for PruneSome {
    type Output = u64;
    const NAME: &'static str = "prune";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        let deleted = sqlx::query(
            "DELETE FROM payments WHERE record IN (SELECT record FROM payments p \
             WHERE state IN ('served', 'released', 'failed') AND updated_at < $1 AND valid_until < $1 \
             AND NOT EXISTS (SELECT 1 FROM payments f \
             WHERE f.payment_id = p.payment_id AND f.state = 'failed' AND f.valid_until >= $1) \
             ORDER BY updated_at, record LIMIT $2 FOR UPDATE OF p SKIP LOCKED)",
        )
        .bind(self.before.0)
        .bind(i64::from(ROWS_MAX))
        .execute(books.connection())
        .await?;
        Ok(deleted.rows_affected())
    }
}
