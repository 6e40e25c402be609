//! The books of either store, to be read only.

use super::{
    LedgerError, PaymentFilter, PaymentId, PaymentRecord, PostgresReader, RecordId, SqliteReader, Sum, SumBy, Total,
};
use crate::types::{AccountId, Network};

/// The books, to be read only: also those of a gateway that is running.
#[derive(Debug, Clone)]
pub enum BooksReader {
    /// In a file.
    Sqlite(SqliteReader),
    /// In a database.
    Postgres(PostgresReader),
}

/// Asks whichever store it is.
macro_rules! ask {
    ($books:expr, $method:ident($($argument:expr),*)) => {
        match $books {
            BooksReader::Sqlite(reader) => reader.$method($($argument),*).await,
            BooksReader::Postgres(reader) => reader.$method($($argument),*).await,
        }
    };
}

impl BooksReader {
    /// As [`crate::ledger::Ledger::find`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        ask!(self, find(id))
    }

    /// As [`crate::ledger::Ledger::get`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        ask!(self, get(record))
    }

    /// As [`crate::ledger::Ledger::list`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        ask!(self, list(filter))
    }

    /// As [`crate::ledger::Ledger::totals`]. Reads all of the books.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        ask!(self, totals())
    }

    /// Sums of the payments that a filter names, by one of their properties. Reads all of them.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn sums(&self, filter: &PaymentFilter, by: SumBy) -> Result<Vec<Sum>, LedgerError> {
        ask!(self, sums(filter, by))
    }

    /// The payments that a transaction settled, or was signed for. Reads all of the books.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn by_transaction(&self, transaction: &str) -> Result<Vec<PaymentRecord>, LedgerError> {
        ask!(self, by_transaction(transaction))
    }

    /// The account nonce that the next claim of a gas payer takes, if any ever took one.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn next_nonce(&self, network: &Network, signer: &AccountId) -> Result<Option<u64>, LedgerError> {
        ask!(self, next_nonce(network, signer))
    }

    /// Ends every connection.
    pub async fn close(&self) {
        ask!(self, close());
    }
}
