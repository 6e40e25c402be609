//! Sums as programs and people read them.

use std::io::{self, Write};

use serde::Serialize;

use super::table;
use super::units::{Units, fee_decimal};
use crate::cli::human::{network_text, printable, time_text};
use crate::ledger::Sum;
use crate::types::{AssetId, AtomicAmount, Network};

/// One line of sums. Amounts are atomic units in decimal text; `…_decimal` is the same in whole tokens.
#[derive(Debug, Clone, Serialize)]
pub struct SumRow {
    /// What its payments have in common; of a day `2026-01-31`.
    pub key: String,
    /// The chain.
    pub network: Network,
    /// The token.
    pub asset: AssetId,
    /// Payments in any state.
    pub payments: u64,
    /// Payments whose money moved.
    pub moved_count: u64,
    /// Their sum.
    pub moved: AtomicAmount,
    /// Their sum in whole tokens.
    pub moved_decimal: Option<String>,
    /// Owed payments that nobody resolved.
    pub owed_count: u64,
    /// Their sum.
    pub owed: AtomicAmount,
    /// Their sum in whole tokens.
    pub owed_decimal: Option<String>,
    /// Owed payments that were resolved.
    pub refunded_count: u64,
    /// Their sum.
    pub refunded: AtomicAmount,
    /// Their sum in whole tokens.
    pub refunded_decimal: Option<String>,
    /// What settlements cost the gas payers, failed ones too, in the chain's smallest native unit.
    pub fees: AtomicAmount,
    /// The same in whole coins.
    pub fees_decimal: Option<String>,
    /// Payments whose fee is known.
    pub fees_count: u64,
}

impl SumRow {
    /// The books' view of a sum.
    #[must_use]
    pub fn of(sum: Sum, units: &Units) -> Self {
        let decimal = |amount| units.decimal(amount, &sum.network, &sum.asset);
        let day = sum.day.map(|day| time_text(day).chars().take(10).collect());
        Self {
            moved_decimal: decimal(sum.moved),
            owed_decimal: decimal(sum.owed),
            refunded_decimal: decimal(sum.refunded),
            fees_decimal: fee_decimal(sum.fees, &sum.network),
            key: day.unwrap_or(sum.key),
            network: sum.network,
            asset: sum.asset,
            payments: sum.payments,
            moved_count: sum.moved_count,
            moved: sum.moved,
            owed_count: sum.owed_count,
            owed: sum.owed,
            refunded_count: sum.refunded_count,
            refunded: sum.refunded,
            fees: sum.fees,
            fees_count: sum.fees_count,
        }
    }
}

/// A table of sums.
///
/// # Errors
/// When the output fails.
pub fn write(out: &mut dyn Write, rows: &[SumRow], units: &Units) -> io::Result<()> {
    let head = ["KEY", "NETWORK", "PAYMENTS", "MOVED", "OWED", "REFUNDED", "FEES"].map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let amount = |count: u64, amount| match count {
            0 => "-".to_owned(),
            _ => format!("{} ({count})", units.text(amount, &row.network, &row.asset)),
        };
        let fees = row.fees_decimal.clone().unwrap_or_else(|| row.fees.to_string());
        [
            printable(&row.key),
            network_text(&row.network),
            row.payments.to_string(),
            amount(row.moved_count, row.moved),
            amount(row.owed_count, row.owed),
            amount(row.refunded_count, row.refunded),
            if row.fees_count == 0 { "-".to_owned() } else { format!("{fees} ({})", row.fees_count) },
        ]
    });
    table::write(out, &std::iter::once(head).chain(lines).collect::<Vec<_>>())
}
