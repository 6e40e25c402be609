//! Looks into the gateway's ledger from outside, while it runs: what is committed, and nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tollhouse::ledger::{PaymentFilter, PaymentRecord, SqliteReader};

/// How a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub state: String,
    pub deliveries: i64,
    pub settled: Option<String>,
}

pub struct Books {
    file: PathBuf,
    pool: SqlitePool,
}

impl Books {
    pub fn at(file: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        Self { file: file.to_owned(), pool }
    }

    /// Whether a signed transaction is written down.
    pub async fn has_attempt(&self, transaction: &str) -> bool {
        let found = sqlx::query("SELECT 1 AS found FROM attempts WHERE transaction_id = $1")
            .bind(transaction)
            .fetch_optional(&self.pool)
            .await;
        found.unwrap().is_some()
    }

    /// How a payment stands.
    pub async fn standing(&self, record: &str) -> Option<Standing> {
        let found = sqlx::query("SELECT state, deliveries, settled_transaction FROM payments WHERE record = $1")
            .bind(record)
            .fetch_optional(&self.pool)
            .await;
        found.unwrap().map(|row| Standing { state: row.get(0), deliveries: row.get(1), settled: row.get(2) })
    }

    /// How all payments stand, by row.
    pub async fn standings(&self) -> HashMap<String, Standing> {
        let found = sqlx::query("SELECT state, deliveries, settled_transaction, record FROM payments");
        let rows = found.fetch_all(&self.pool).await.unwrap();
        rows.into_iter()
            .map(|row| (row.get(3), Standing { state: row.get(0), deliveries: row.get(1), settled: row.get(2) }))
            .collect()
    }

    /// All of it.
    pub async fn rows(&self) -> Vec<PaymentRecord> {
        let reader = SqliteReader::open(&self.file).await.unwrap();
        let rows = reader.list(&PaymentFilter::default()).await.unwrap();
        reader.close().await;
        rows
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}
