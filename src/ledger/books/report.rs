//! Pages and earnings: reads for operators, bounded by a page's length or by days times routes times prices.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;

use super::reader::{Reader, not_read};
use super::rows::{self, select_payments};
use super::{Driver, StoredRow};
use crate::ledger::{DAY_MILLIS, Earning, LedgerError, PageFilter, PaymentRecord};
use crate::types::{AtomicAmount, UnixMillis};

impl Reader {
    /// As [`crate::ledger::Ledger::page`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn page(&self, filter: &PageFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        let found = page_query(filter).build().fetch_all(self.pool()).await;
        rows::payments(&found.map_err(not_read)?)
    }

    /// As [`crate::ledger::Ledger::earnings`].
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    pub async fn earnings(&self, since: UnixMillis) -> Result<Vec<Earning>, LedgerError> {
        // SQL can't sum 256-bit amounts, so it only counts equal ones: there are few prices.
        let found = sqlx::query(
            "SELECT paid_at / $1 AS paid_day, network, asset, route, amount, COUNT(*) AS payment_count FROM payments \
             WHERE paid_at >= $2 AND state IN ('paid', 'delivering', 'served', 'owed') AND resolved_at IS NULL \
             GROUP BY paid_at / $1, network, asset, route, amount",
        )
        .bind(DAY_MILLIS)
        .bind(since.0)
        .fetch_all(self.pool())
        .await;
        summed(&found.map_err(not_read)?)
    }
}

fn page_query(filter: &PageFilter) -> QueryBuilder<Driver> {
    let mut query = QueryBuilder::new(select_payments!("WHERE p.record IN (SELECT record FROM payments WHERE 1 = 1"));
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
    if let Some(payer) = &filter.payer {
        query.push(" AND payer = ").push_bind(payer.as_str().to_owned());
    }
    if let Some(since) = filter.since {
        query.push(" AND claimed_at >= ").push_bind(since.0);
    }
    if let Some(until) = filter.until {
        query.push(" AND claimed_at < ").push_bind(until.0);
    }
    if filter.unresolved {
        query.push(" AND NOT (state = 'owed' AND resolved_at IS NOT NULL)");
    }
    if let Some((claimed_at, record)) = &filter.after {
        query.push(" AND (claimed_at < ").push_bind(claimed_at.0);
        query.push(" OR (claimed_at = ").push_bind(claimed_at.0);
        query.push(" AND record < ").push_bind(record.0.clone()).push("))");
    }
    query.push(" ORDER BY claimed_at DESC, record DESC LIMIT ").push_bind(i64::from(filter.limit));
    query.push(") ORDER BY p.claimed_at DESC, p.record DESC, a.number");
    query
}

fn summed(found: &[StoredRow]) -> Result<Vec<Earning>, LedgerError> {
    let mut sums: BTreeMap<_, (u64, AtomicAmount)> = BTreeMap::new();
    for row in found {
        let part = rows::earning(row)?;
        let overflow = || LedgerError::Corrupt { record: "summary".to_owned(), detail: "a sum overflows".to_owned() };
        let sum = sums.entry((part.day, part.network, part.asset, part.route)).or_insert((0, AtomicAmount::ZERO));
        sum.0 = sum.0.saturating_add(part.count);
        sum.1 = sum.1.checked_add(part.amount).ok_or_else(overflow)?;
    }
    let earning =
        |((day, network, asset, route), (count, amount))| Earning { day, network, asset, route, count, amount };
    Ok(sums.into_iter().map(earning).collect())
}
