//! What the books do besides payments: named values, and the proof that writing works.

use super::writer::{Books, Operation, StepError};

/// [`crate::ledger::Ledger::value_or_insert`].
pub(super) struct ValueOrInsert {
    pub(super) name: String,
    pub(super) make: String,
}

impl Operation for ValueOrInsert {
    type Output = String;
    const NAME: &'static str = "value_or_insert";

    async fn apply(self, books: &mut Books) -> Result<String, StepError> {
        sqlx::query("INSERT INTO named_values (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(&self.name)
            .bind(&self.make)
            .execute(books.connection())
            .await?;
        let value = sqlx::query_scalar("SELECT value FROM named_values WHERE name = $1")
            .bind(&self.name)
            .fetch_one(books.connection())
            .await?;
        Ok(value)
    }
}

/// [`crate::ledger::Ledger::probe`]. Counts, since SQLite writes nothing when a row stays as it is.
pub(super) struct Probe;

impl Operation for Probe {
    type Output = ();
    const NAME: &'static str = "probe";

    async fn apply(self, books: &mut Books) -> Result<(), StepError> {
        sqlx::query(
            "INSERT INTO probes (id, count) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET count = probes.count + 1",
        )
        .execute(books.connection())
        .await?;
        Ok(())
    }
}
