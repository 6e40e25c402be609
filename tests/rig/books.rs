//! Looks into the gateways' ledger from outside, while they run: what is committed, and nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tokio::time::Instant;
use tollhouse::ledger::{BooksReader, PaymentFilter, PaymentRecord, PostgresReader, SqliteReader};

/// How long a database may be away, or busy.
const AWAY_MAX: Duration = Duration::from_secs(180);

/// How a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub state: String,
    pub deliveries: i64,
    pub settled: Option<String>,
}

pub enum Books {
    File { file: PathBuf, pool: SqlitePool },
    Database { url: String, pool: PgPool },
}

/// State, deliveries, settlement and name of a row; the same words for both stores.
macro_rules! standings {
    ($condition:literal) => {
        concat!("SELECT state, CAST(deliveries AS BIGINT), settled_transaction, record FROM payments", $condition)
    };
}

/// What a query gives, from either store.
macro_rules! ask {
    ($books:expr, $query:expr, [$($bound:expr),*], $read:expr) => {
        match $books {
            Books::File { pool, .. } => {
                let rows = sqlx::query($query)$(.bind($bound))*.fetch_all(pool).await.unwrap();
                rows.iter().map(|row| $read(&|at| row.get::<String, usize>(at), &|at| row.get(at), &|at| row.get(at))).collect()
            }
            Books::Database { pool, .. } => {
                let rows = patiently(|| async { sqlx::query($query)$(.bind($bound))*.fetch_all(pool).await }).await;
                rows.iter().map(|row| $read(&|at| row.get::<String, usize>(at), &|at| row.get(at), &|at| row.get(at))).collect()
            }
        }
    };
}

type Text<'a> = &'a dyn Fn(usize) -> String;
type Number<'a> = &'a dyn Fn(usize) -> i64;
type Maybe<'a> = &'a dyn Fn(usize) -> Option<String>;

fn standing(text: Text<'_>, number: Number<'_>, maybe: Maybe<'_>) -> (String, Standing) {
    (text(3), Standing { state: text(0), deliveries: number(1), settled: maybe(2) })
}

/// Asks again while the database is away; a database without books has no rows.
async fn patiently<T: Default, F: Future<Output = Result<T, sqlx::Error>>>(mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + AWAY_MAX;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => return T::default(),
            Err(error) => assert!(Instant::now() < deadline, "the database: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Books {
    pub fn at(file: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        Self::File { file: file.to_owned(), pool }
    }

    pub fn in_database(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(AWAY_MAX);
        Self::Database { url: url.to_owned(), pool: pool.connect_lazy(url).unwrap() }
    }

    /// Whether a gateway has begun to write.
    pub fn are_begun(&self) -> bool {
        match self {
            Self::File { file, .. } => file.exists(),
            Self::Database { .. } => true,
        }
    }

    /// Whether a signed transaction is written down.
    pub async fn has_attempt(&self, transaction: &str) -> bool {
        let query = "SELECT record FROM attempts WHERE transaction_id = $1";
        let found: Vec<String> =
            ask!(self, query, [transaction], |text: Text<'_>, _: Number<'_>, _: Maybe<'_>| text(0));
        !found.is_empty()
    }

    /// How a payment stands.
    pub async fn standing(&self, record: &str) -> Option<Standing> {
        let found: Vec<(String, Standing)> = ask!(self, standings!(" WHERE record = $1"), [record], standing);
        found.into_iter().next().map(|(_, standing)| standing)
    }

    /// How all payments stand, by row.
    pub async fn standings(&self) -> HashMap<String, Standing> {
        ask!(self, standings!(""), [], standing)
    }

    /// All of it.
    pub async fn rows(&self) -> Vec<PaymentRecord> {
        let reader = match self {
            Self::File { file, .. } => BooksReader::Sqlite(SqliteReader::open(file).await.unwrap()),
            Self::Database { url, .. } => {
                // Sees that there is an answer first: a reader doesn't wait long for one.
                self.standings().await;
                BooksReader::Postgres(PostgresReader::open(url).await.unwrap())
            }
        };
        let rows = reader.list(&PaymentFilter::default()).await.unwrap();
        reader.close().await;
        rows
    }

    pub async fn close(&self) {
        match self {
            Self::File { pool, .. } => pool.close().await,
            Self::Database { pool, .. } => pool.close().await,
        }
    }
}
