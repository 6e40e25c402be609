//! Reads.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use sqlx::{Pool, QueryBuilder};

use super::claim::as_bigint;
use super::rows::{self, select_payments};
use super::{Driver, StoredRow};
use crate::ledger::{
    AccountNonce, LedgerError, Outlay, PaymentFilter, PaymentId, PaymentRecord, PaymentState, RecordId, SettledBlock,
    Sum, SumBy, Sums, Total,
};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// The books, to be read only: also those of a gateway that is running.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: Pool<Driver>,
}

impl Reader {
    /// Reads books that are known to be in order, on connections of this pool.
    pub(super) fn over(pool: Pool<Driver>) -> Self {
        Self { pool }
    }

    pub(super) fn pool(&self) -> &Pool<Driver> {
        &self.pool
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// As [`crate::ledger::Ledger::find`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        // One statement, so that a row that fails between two of them can't be missed by both.
        self.one(
            select_payments!(
                "WHERE p.record = (SELECT record FROM (\
             SELECT record, 0 AS age_rank, claimed_at, updated_at FROM payments \
             WHERE payment_id = $1 AND state NOT IN ('released', 'failed') \
             UNION ALL SELECT record, 1 AS age_rank, claimed_at, updated_at FROM payments \
             WHERE payment_id = $1 AND state = 'failed') candidates \
             ORDER BY age_rank, claimed_at DESC, updated_at DESC, record DESC LIMIT 1) ORDER BY a.number"
            ),
            &id.0,
        )
        .await
    }

    /// As [`crate::ledger::Ledger::find_identified`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn find_identified(
        &self,
        payer: &AccountId,
        identifier: &str,
    ) -> Result<Option<PaymentRecord>, LedgerError> {
        let found = sqlx::query(select_payments!(
            "WHERE p.payer = $1 AND p.identifier = $2 AND p.state NOT IN ('released', 'failed', 'reorged') ORDER BY a.number"
        ))
        .bind(payer.as_str())
        .bind(identifier)
        .fetch_all(&self.pool)
        .await;
        Ok(rows::payments(&found.map_err(not_read)?)?.pop())
    }

    /// As [`crate::ledger::Ledger::get`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        self.one(select_payments!("WHERE p.record = $1 ORDER BY a.number"), &record.0).await
    }

    /// As [`crate::ledger::Ledger::value_or_insert`], if it is there.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`].
    pub async fn value(&self, name: &str) -> Result<Option<String>, LedgerError> {
        let found = sqlx::query_scalar("SELECT value FROM named_values WHERE name = $1").bind(name);
        found.fetch_optional(&self.pool).await.map_err(not_read)
    }

    async fn one(&self, query: &'static str, key: &str) -> Result<Option<PaymentRecord>, LedgerError> {
        let found = sqlx::query(query).bind(key).fetch_all(&self.pool).await;
        Ok(rows::payments(&found.map_err(not_read)?)?.pop())
    }

    /// As [`crate::ledger::Ledger::unfinished`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = sqlx::query(select_payments!(
            "WHERE p.network = $1 AND p.state IN ('claimed', 'signed') ORDER BY p.claimed_at, p.record, a.number"
        ))
        .bind(network.as_str())
        .fetch_all(&self.pool)
        .await;
        rows::payments(&found.map_err(not_read)?)
    }

    /// As [`crate::ledger::Ledger::outlays`]. Nothing but that: a start waits for it.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn outlays(
        &self,
        network: &Network,
        claimed_since: UnixMillis,
        since: UnixMillis,
    ) -> Result<Vec<Outlay>, LedgerError> {
        let found = sqlx::query(
            "SELECT a.record, a.signer, a.account_nonce, a.fee_max, a.signed_at FROM payments p \
             JOIN attempts a ON a.record = p.record \
             WHERE p.network = $1 AND p.claimed_at >= $2 AND a.signed_at >= $3 AND a.signer IS NOT NULL",
        )
        .bind(network.as_str())
        .bind(claimed_since.0)
        .bind(since.0)
        .fetch_all(&self.pool)
        .await;
        found.map_err(not_read)?.iter().map(rows::outlay).collect()
    }

    /// As [`crate::ledger::Ledger::signed_with`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn signed_with(
        &self,
        network: &Network,
        signer: &AccountId,
        nonce: AccountNonce,
        claimed_since: UnixMillis,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        let Ok(nonce) = i64::try_from(nonce) else { return Ok(Vec::new()) };
        let found = sqlx::query(
            "SELECT a.record, a.raw FROM payments p JOIN attempts a ON a.record = p.record \
             WHERE p.network = $1 AND p.claimed_at >= $2 AND a.signer = $3 AND a.account_nonce = $4 \
             AND p.state IN ('signed', 'paid', 'delivering', 'served', 'owed') \
             AND (p.settled_transaction IS NULL OR EXISTS (SELECT 1 FROM attempts b WHERE b.record = p.record \
                 AND b.account_nonce = a.account_nonce AND b.transaction_id = p.settled_transaction)) \
             ORDER BY a.signed_at, a.number",
        )
        .bind(network.as_str())
        .bind(claimed_since.0)
        .bind(signer.as_str())
        .bind(nonce)
        .fetch_all(&self.pool)
        .await;
        found.map_err(not_read)?.iter().map(rows::raw).collect()
    }

    /// As [`crate::ledger::Ledger::unfinal_blocks`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn unfinal_blocks(
        &self,
        network: &Network,
        since: UnixMillis,
        blocks_max: u32,
    ) -> Result<Vec<SettledBlock>, LedgerError> {
        let found = sqlx::query(
            "SELECT DISTINCT settled_block, settled_block_hash FROM payments WHERE network = $1 AND settled_final = 0 \
             AND state IN ('paid', 'delivering', 'served', 'owed') AND paid_at >= $2 \
             ORDER BY settled_block LIMIT $3",
        )
        .bind(network.as_str())
        .bind(since.0)
        .bind(i64::from(blocks_max))
        .fetch_all(&self.pool)
        .await;
        found.map_err(not_read)?.iter().map(rows::settled_block).collect()
    }

    /// As [`crate::ledger::Ledger::settled_in`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn settled_in(&self, network: &Network, block: &SettledBlock) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = sqlx::query(select_payments!(
            "WHERE p.network = $1 AND p.settled_block = $2 AND p.settled_final = 0 \
             AND p.state IN ('paid', 'delivering', 'served', 'owed') AND p.settled_block_hash = $3 \
             ORDER BY p.claimed_at, p.record, a.number"
        ))
        .bind(network.as_str())
        .bind(as_bigint(block.number, "block")?)
        .bind(&block.hash)
        .fetch_all(&self.pool)
        .await;
        rows::payments(&found.map_err(not_read)?)
    }

    /// As [`crate::ledger::Ledger::failed_but_usable`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn failed_but_usable(
        &self,
        network: &Network,
        now: UnixMillis,
    ) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = sqlx::query(select_payments!(
            "WHERE p.network = $1 AND p.state IN ('failed', 'reorged') AND p.valid_until > $2 \
             ORDER BY p.valid_until, p.record, a.number"
        ))
        .bind(network.as_str())
        .bind(now.0)
        .fetch_all(&self.pool)
        .await;
        rows::payments(&found.map_err(not_read)?)
    }

    /// The account nonce that a gas payer's next claim takes; none if the books never saw it.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn next_nonce(&self, network: &Network, signer: &AccountId) -> Result<Option<u64>, LedgerError> {
        let next: Option<i64> = sqlx::query_scalar("SELECT next_nonce FROM signers WHERE network = $1 AND signer = $2")
            .bind(network.as_str())
            .bind(signer.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(not_read)?;
        let corrupt = || LedgerError::Corrupt { record: format!("signer {signer}"), detail: "next nonce".to_owned() };
        next.map(|next| u64::try_from(next).map_err(|_error| corrupt())).transpose()
    }

    /// As [`crate::ledger::Ledger::list`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = list_query(filter).build().fetch_all(&self.pool).await;
        rows::payments(&found.map_err(not_read)?)
    }

    /// As [`crate::ledger::Ledger::totals`]. Reads all of the books.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        // SQL can't sum 256-bit amounts, so it only counts equal ones: there are few prices.
        let found = sqlx::query(
            "SELECT state, network, asset, amount, COUNT(*) AS payment_count FROM payments \
             WHERE NOT (state = 'owed' AND resolved_at IS NOT NULL) GROUP BY state, network, asset, amount",
        )
        .fetch_all(&self.pool)
        .await;
        summed(&found.map_err(not_read)?)
    }

    /// Sums of the payments that a filter names (its limit is not heeded), by one of their properties. Reads them one by one,
    /// however many there are.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn sums(&self, filter: &PaymentFilter, by: SumBy) -> Result<Vec<Sum>, LedgerError> {
        let mut query = QueryBuilder::new(
            "SELECT record, state, network, asset, amount, route, payer, claimed_at, settled_fee, resolved_at \
             FROM payments WHERE 1 = 1",
        );
        push_filter(&mut query, filter);
        let mut found = query.build().fetch(&self.pool);
        let mut sums = Sums::new(by);
        while let Some(row) = found.try_next().await.map_err(not_read)? {
            sums.add(&rows::sum_entry(&row)?)?;
        }
        Ok(sums.into_sums())
    }

    /// The payments that a transaction settled, or was signed for. Reads all of the books.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn by_transaction(&self, transaction: &str) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = sqlx::query(select_payments!(
            "WHERE p.settled_transaction = $1 OR p.record IN (SELECT record FROM attempts WHERE transaction_id = $1) \
             ORDER BY p.claimed_at, p.record, a.number"
        ))
        .bind(transaction)
        .fetch_all(&self.pool)
        .await;
        rows::payments(&found.map_err(not_read)?)
    }
}

fn list_query(filter: &PaymentFilter) -> QueryBuilder<Driver> {
    let mut query = QueryBuilder::new(select_payments!("WHERE p.record IN (SELECT record FROM payments WHERE 1 = 1"));
    push_filter(&mut query, filter);
    if let Some(limit) = filter.limit {
        query.push(" ORDER BY claimed_at DESC, record DESC LIMIT ").push_bind(i64::from(limit));
    }
    query.push(") ORDER BY p.claimed_at DESC, p.record DESC, a.number");
    query
}

/// Everything of a filter but its limit.
fn push_filter(query: &mut QueryBuilder<Driver>, filter: &PaymentFilter) {
    if !filter.states.is_empty() {
        query.push(" AND state IN (");
        let mut states = query.separated(", ");
        for state in &filter.states {
            states.push_bind(state.as_str());
        }
        query.push(")");
    }
    if let Some(network) = &filter.network {
        query.push(" AND network = ").push_bind(network.as_str().to_owned());
    }
    if let Some(route) = &filter.route {
        query.push(" AND route = ").push_bind(route.clone());
    }
    let texts = [
        ("payer", filter.payer.as_ref().map(|payer| payer.as_str())),
        ("asset", filter.asset.as_ref().map(|asset| asset.as_str())),
    ];
    for (column, text) in texts {
        match text {
            // Hex is one in every case; base58 and denoms are not.
            Some(text) if text.starts_with("0x") => {
                query.push(format!(" AND LOWER({column}) = ")).push_bind(text.to_ascii_lowercase());
            }
            Some(text) => {
                query.push(format!(" AND {column} = ")).push_bind(text.to_owned());
            }
            None => {}
        }
    }
    let moments =
        [("claimed_at >= ", filter.since), ("claimed_at < ", filter.until), ("updated_at >= ", filter.changed_since)];
    for (test, moment) in moments {
        if let Some(moment) = moment {
            query.push(format!(" AND {test}")).push_bind(moment.0);
        }
    }
    if filter.unresolved {
        query.push(" AND resolved_at IS NULL");
    }
}

type TotalKey = (PaymentState, Network, AssetId);

fn summed(found: &[StoredRow]) -> Result<Vec<Total>, LedgerError> {
    let mut sums: BTreeMap<TotalKey, (u64, AtomicAmount)> = BTreeMap::new();
    for row in found {
        let part = rows::subtotal(row)?;
        let overflow = || LedgerError::Corrupt { record: "summary".to_owned(), detail: "a sum overflows".to_owned() };
        let sum = sums.entry((part.state, part.network, part.asset)).or_insert((0, AtomicAmount::ZERO));
        sum.0 = sum.0.saturating_add(part.count);
        sum.1 = sum.1.checked_add(part.amount).ok_or_else(overflow)?;
    }
    let total = |((state, network, asset), (count, amount))| Total { state, network, asset, count, amount };
    Ok(sums.into_iter().map(total).collect())
}

pub(super) fn not_read(error: sqlx::Error) -> LedgerError {
    LedgerError::NotRead(error.to_string())
}
