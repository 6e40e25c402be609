//! Paid rows until their block is final: what a chain takes back is settled again or written off, never charged again.

use super::claim::{as_bigint, reload};
use super::steps::refused;
use super::writer::{Books, Operation, StepError};
use crate::ledger::{PaymentRecord, RecordId, SettledBlock, Settlement};
use crate::types::{AtomicAmount, Network};

/// [`crate::ledger::Ledger::record_final`].
pub(super) struct RecordFinal {
    pub(super) network: Network,
    pub(super) blocks: Vec<SettledBlock>,
}

impl Operation for RecordFinal {
    type Output = ();
    const NAME: &'static str = "record_final";

    async fn apply(self, books: &mut Books) -> Result<(), StepError> {
        for block in &self.blocks {
            sqlx::query(
                "UPDATE payments SET settled_final = 1 WHERE network = $1 AND settled_block = $2 AND settled_final = 0 \
                 AND state IN ('paid', 'delivering', 'served', 'owed') AND settled_block_hash = $3",
            )
            .bind(self.network.as_str())
            .bind(as_bigint(block.number, "block")?)
            .bind(&block.hash)
            .execute(books.connection())
            .await?;
        }
        Ok(())
    }
}

/// [`crate::ledger::Ledger::record_settled_again`].
pub(super) struct RecordSettledAgain {
    pub(super) record: RecordId,
    pub(super) settlement: Settlement,
}

impl Operation for RecordSettledAgain {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_settled_again";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let updated = sqlx::query(
            "UPDATE payments SET settled_transaction = $2, settled_block = $3, settled_block_hash = $4, \
             settled_externally = $5, settled_final = 0, updated_at = $6, settled_fee = $7 \
             WHERE record = $1 AND state IN ('paid', 'delivering', 'served', 'owed')",
        )
        .bind(&self.record.0)
        .bind(&self.settlement.transaction)
        .bind(as_bigint(self.settlement.block, "block")?)
        .bind(&self.settlement.block_hash)
        .bind(i64::from(self.settlement.is_external))
        .bind(books.now().0)
        .bind(self.settlement.fee.map(|fee| fee.to_string()))
        .execute(books.connection())
        .await?;
        match updated.rows_affected() {
            1 => reload(books, &self.record).await,
            _ => Err(refused(books, &self.record, Self::NAME).await),
        }
    }
}

/// [`crate::ledger::Ledger::record_reorged`].
pub(super) struct RecordReorged {
    pub(super) record: RecordId,
    pub(super) block_hash: String,
    pub(super) reason: String,
    pub(super) fee: Option<AtomicAmount>,
}

impl Operation for RecordReorged {
    type Output = PaymentRecord;
    const NAME: &'static str = "record_reorged";

    async fn apply(self, books: &mut Books) -> Result<PaymentRecord, StepError> {
        let updated = sqlx::query(
            "UPDATE payments SET state = 'reorged', failure = $2, updated_at = $3, settled_fee = $5 \
             WHERE record = $1 AND state IN ('paid', 'delivering', 'served', 'owed') AND settled_block_hash = $4",
        )
        .bind(&self.record.0)
        .bind(&self.reason)
        .bind(books.now().0)
        .bind(&self.block_hash)
        .bind(self.fee.map(|fee| fee.to_string()))
        .execute(books.connection())
        .await?;
        match updated.rows_affected() {
            1 => reload(books, &self.record).await,
            _ => Err(refused(books, &self.record, Self::NAME).await),
        }
    }
}
