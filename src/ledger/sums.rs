//! What payments come to, by route, payer, token, day and so on. Exact: amounts are 256-bit integers, and none is rounded.
//!
//! Knows no store: rows are given one by one.

use std::collections::BTreeMap;

use super::{LedgerError, PaymentState};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

const DAY_MILLIS: i64 = 24 * 3600 * 1000;

/// By what payments are summed; always also by network and token, since amounts of two tokens don't add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SumBy {
    /// Route key.
    Route,
    /// Payer.
    Payer,
    /// Token.
    Asset,
    /// Day in UTC on which it was claimed.
    Day,
    /// Network.
    Network,
    /// State.
    State,
}

/// One payment, as far as sums need it.
#[derive(Debug, Clone)]
pub struct SumEntry {
    /// State.
    pub state: PaymentState,
    /// Network.
    pub network: Network,
    /// Token.
    pub asset: AssetId,
    /// Price, in atomic units.
    pub amount: AtomicAmount,
    /// Route key.
    pub route: String,
    /// Payer.
    pub payer: AccountId,
    /// When it was claimed.
    pub claimed_at: UnixMillis,
    /// What its settlement cost our gas payer, moved or failed, in the chain's native unit.
    pub fee: Option<AtomicAmount>,
    /// Whether an operator resolved it.
    pub is_resolved: bool,
}

/// One line of sums. Amounts are atomic units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// What its payments have in common.
    pub key: String,
    /// Midnight in UTC, for sums by day; the key is then empty.
    pub day: Option<UnixMillis>,
    /// Network.
    pub network: Network,
    /// Token.
    pub asset: AssetId,
    /// Payments in any state.
    pub payments: u64,
    /// Payments whose money moved and stayed: paid, delivering, served, owed.
    pub moved_count: u64,
    /// Their sum.
    pub moved: AtomicAmount,
    /// Owed payments that nobody resolved.
    pub owed_count: u64,
    /// Their sum.
    pub owed: AtomicAmount,
    /// Owed payments that an operator resolved.
    pub refunded_count: u64,
    /// Their sum.
    pub refunded: AtomicAmount,
    /// What settlements cost our gas payers, failed ones too, in the chain's native unit, where that is known.
    pub fees: AtomicAmount,
    /// Payments whose fee is in `fees`.
    pub fees_count: u64,
}

type Key = (String, Option<UnixMillis>, Network, AssetId);

/// Sums under way.
#[derive(Debug)]
pub struct Sums {
    by: SumBy,
    sums: BTreeMap<Key, Sum>,
}

impl Sums {
    /// Nothing yet.
    #[must_use]
    pub fn new(by: SumBy) -> Self {
        Self { by, sums: BTreeMap::new() }
    }

    /// One payment more.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] where a sum overflows 256 bits.
    pub fn add(&mut self, entry: &SumEntry) -> Result<(), LedgerError> {
        let (text, day) = match self.by {
            SumBy::Route => (entry.route.clone(), None),
            SumBy::Payer => (entry.payer.to_string(), None),
            SumBy::Asset => (entry.asset.to_string(), None),
            SumBy::Network => (entry.network.to_string(), None),
            SumBy::State => (entry.state.to_string(), None),
            SumBy::Day => (String::new(), Some(UnixMillis(entry.claimed_at.0.div_euclid(DAY_MILLIS) * DAY_MILLIS))),
        };
        let key = (text, day, entry.network.clone(), entry.asset.clone());
        let sum = self.sums.entry(key.clone()).or_insert_with(|| empty(key));
        sum.payments = sum.payments.saturating_add(1);
        if has_moved(entry.state) {
            count(&mut sum.moved_count, &mut sum.moved, entry.amount)?;
        }
        if entry.state == PaymentState::Owed && entry.is_resolved {
            count(&mut sum.refunded_count, &mut sum.refunded, entry.amount)?;
        } else if entry.state == PaymentState::Owed {
            count(&mut sum.owed_count, &mut sum.owed, entry.amount)?;
        }
        if let Some(fee) = entry.fee {
            count(&mut sum.fees_count, &mut sum.fees, fee)?;
        }
        Ok(())
    }

    /// The sums, in the order of their keys.
    #[must_use]
    pub fn into_sums(self) -> Vec<Sum> {
        self.sums.into_values().collect()
    }
}

fn empty((key, day, network, asset): Key) -> Sum {
    Sum {
        key,
        day,
        network,
        asset,
        payments: 0,
        moved_count: 0,
        moved: AtomicAmount::ZERO,
        owed_count: 0,
        owed: AtomicAmount::ZERO,
        refunded_count: 0,
        refunded: AtomicAmount::ZERO,
        fees: AtomicAmount::ZERO,
        fees_count: 0,
    }
}

/// Whether the money is at `pay_to`, or was before a refund.
fn has_moved(state: PaymentState) -> bool {
    use PaymentState::{Delivering, Owed, Paid, Served};
    matches!(state, Paid | Delivering | Served | Owed)
}

fn count(count: &mut u64, sum: &mut AtomicAmount, amount: AtomicAmount) -> Result<(), LedgerError> {
    let overflow = || LedgerError::Corrupt { record: "summary".to_owned(), detail: "a sum overflows".to_owned() };
    *count = count.saturating_add(1);
    *sum = sum.checked_add(amount).ok_or_else(overflow)?;
    Ok(())
}
