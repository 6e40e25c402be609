//! What a dead process left over. Whoever opens the file is its only gateway, so that at start every delivery is a dead one's.

use super::writer::{Books, Operation, StepError};
use crate::types::UnixMillis;

/// [`crate::ledger::Ledger::recover_deliveries`].
pub(super) struct RecoverDeliveries {
    pub(super) deliveries_max: u32,
    pub(super) settled_after: UnixMillis,
    pub(super) at_start: bool,
}

impl Operation for RecoverDeliveries {
    type Output = u64;
    const NAME: &'static str = "recover_deliveries";

    async fn apply(self, books: &mut Books) -> Result<u64, StepError> {
        let now = books.now().0;
        // In one statement, so that a row that goes on from `delivering` to `owed` counts once. The rule is that of
        // `may_be_presented`; a delivery that a dead process began stays counted, since it may have reached the origin.
        let changed = sqlx::query(
            "UPDATE payments SET updated_at = $1, state = CASE \
             WHEN deliveries >= $2 OR paid_at < $3 OR (redeliverable = 0 AND deliveries > 0) \
             THEN 'owed' ELSE 'paid' END \
             WHERE state IN ('paid', 'delivering') AND ((state = 'delivering' AND $4 = 1) OR (state = 'paid' AND \
             (deliveries >= $2 OR paid_at < $3 OR (redeliverable = 0 AND deliveries > 0))))",
        )
        .bind(now)
        .bind(i64::from(self.deliveries_max))
        .bind(self.settled_after.0)
        .bind(i64::from(self.at_start))
        .execute(books.connection())
        .await?;
        let released =
            sqlx::query("UPDATE payments SET state = 'released', updated_at = $1 WHERE state = 'forwarded' AND $2 = 1")
                .bind(now)
                .bind(i64::from(self.at_start))
                .execute(books.connection())
                .await?;
        Ok(changed.rows_affected().saturating_add(released.rows_affected()))
    }
}
