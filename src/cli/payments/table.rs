//! Payments as people read them.

use std::io::{self, Write};

use super::row::Row;
use super::units::Units;
use crate::cli::human::{network_text, printable};
use crate::ledger::Total;

const COLUMNS: [&str; 8] = ["RECORD", "STATE", "CLAIMED", "NETWORK", "AMOUNT", "PAYER", "TRANSACTION", "REQUEST"];

/// A table of payments, and below it what stands in each state.
///
/// # Errors
/// When the output fails.
pub fn list(out: &mut dyn Write, rows: &[Row], totals: &[Total], units: &Units) -> io::Result<()> {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| cells(row, units)));
    write(out, &lines)?;
    if !totals.is_empty() {
        writeln!(out)?;
    }
    for total in totals {
        let amount = units.text(total.amount, &total.network, &total.asset);
        let (state, network) = (total.state.as_str(), network_text(&total.network));
        writeln!(out, "{state:<10} {:>8}  {amount} on {network}", total.count)?;
    }
    Ok(())
}

/// Lines of cells, each column as wide as its widest cell.
///
/// # Errors
/// When the output fails.
pub fn write<const COLUMNS: usize>(out: &mut dyn Write, lines: &[[String; COLUMNS]]) -> io::Result<()> {
    let mut widths = [0_usize; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn cells(row: &Row, units: &Units) -> [String; COLUMNS.len()] {
    [
        row.record.clone(),
        if row.refund_transaction.is_some() { format!("{}, refunded", row.state) } else { row.state.to_owned() },
        row.claimed_at.clone(),
        row.network.v1_name().unwrap_or(row.network.as_str()).to_owned(),
        units.text(row.amount, &row.network, &row.asset),
        row.payer.to_string(),
        row.latest_transaction().unwrap_or("-").to_owned(),
        printable(&row.request),
    ]
}

/// All of one payment, a line each.
///
/// # Errors
/// When the output fails.
pub fn show(out: &mut dyn Write, row: &Row, units: &Units) -> io::Result<()> {
    let block = row.block.map(|block| block.to_string());
    let external = row.is_external.map(|is_external| if is_external { "somebody else" } else { "this gateway" });
    let amount = format!("{} ({} atomic units)", units.text(row.amount, &row.network, &row.asset), row.amount);
    let fee = row.fee.map(|fee| {
        let decimal = row.fee_decimal.as_deref().unwrap_or_default();
        format!("{decimal} ({fee} of the smallest native unit)")
    });
    let (network, deliveries) = (network_text(&row.network), row.deliveries.to_string());
    let fields = [
        ("record", Some(row.record.as_str())),
        ("payment", Some(&row.payment)),
        ("state", Some(row.state)),
        ("failure", row.failure.as_deref()),
        ("amount", Some(&amount)),
        ("asset", Some(row.asset.as_str())),
        ("network", Some(&network)),
        ("payer", Some(row.payer.as_str())),
        ("pay to", Some(row.pay_to.as_str())),
        ("transaction", row.transaction.as_deref()),
        ("block", block.as_deref()),
        ("submitted by", external),
        ("fee", fee.as_deref()),
        ("failed in", row.failed_transaction.as_deref()),
        ("route", Some(&row.route)),
        ("request", Some(&row.request)),
        ("deliveries", Some(&deliveries)),
        ("presented by", Some(&row.holder)),
        ("claimed", Some(&row.claimed_at)),
        ("paid", row.paid_at.as_deref()),
        ("refunded", row.refunded_at.as_deref()),
        ("refunded by", row.refund_transaction.as_deref()),
        ("note", row.refund_note.as_deref()),
        ("changed", Some(&row.updated_at)),
        ("valid until", Some(&row.valid_until)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            writeln!(out, "{name:<13} {}", printable(value))?;
        }
    }
    for attempt in &row.attempts {
        let signer = attempt.signer.as_ref().map_or("nobody", |signer| signer.as_str());
        let nonce = attempt.account_nonce.map(|nonce| format!(" nonce {nonce}")).unwrap_or_default();
        writeln!(
            out,
            "attempt {:<5} {} by {signer}{nonce}, fee at most {}, signed {}",
            attempt.number, attempt.transaction, attempt.fee_max, attempt.signed_at
        )?;
    }
    Ok(())
}
