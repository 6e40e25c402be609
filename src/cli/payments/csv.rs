//! Payments as CSV (RFC 4180) for bookkeeping.

use std::borrow::Cow;
use std::io::{self, Write};

use super::row::Row;

/// Stable: new columns come last.
const HEADER: [&str; 26] = [
    "record",
    "payment",
    "state",
    "claimed_at",
    "paid_at",
    "updated_at",
    "network",
    "asset",
    "amount",
    "payer",
    "pay_to",
    "transaction",
    "block",
    "is_external",
    "route",
    "request",
    "deliveries",
    "failure",
    "failed_transaction",
    "amount_decimal",
    "symbol",
    "fee",
    "fee_decimal",
    "refund_transaction",
    "refunded_at",
    "refund_note",
];

/// Writes a header line and one line per payment.
///
/// # Errors
/// When the output fails.
pub fn write(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    write_line(out, HEADER.iter().map(|name| Cow::Borrowed(*name)))?;
    for row in rows {
        write_line(out, fields(row).into_iter())?;
    }
    Ok(())
}

fn fields(row: &Row) -> [Cow<'_, str>; 26] {
    fn optional(text: &Option<String>) -> Cow<'_, str> {
        text.as_deref().unwrap_or_default().into()
    }
    [
        row.record.as_str().into(),
        row.payment.as_str().into(),
        row.state.into(),
        row.claimed_at.as_str().into(),
        optional(&row.paid_at),
        row.updated_at.as_str().into(),
        row.network.as_str().into(),
        row.asset.as_str().into(),
        row.amount.to_string().into(),
        row.payer.as_str().into(),
        row.pay_to.as_str().into(),
        optional(&row.transaction),
        row.block.map(|block| block.to_string()).unwrap_or_default().into(),
        row.is_external.map(|is_external| is_external.to_string()).unwrap_or_default().into(),
        row.route.as_str().into(),
        row.request.as_str().into(),
        row.deliveries.to_string().into(),
        optional(&row.failure),
        optional(&row.failed_transaction),
        optional(&row.amount_decimal),
        optional(&row.symbol),
        row.fee.map(|fee| fee.to_string()).unwrap_or_default().into(),
        optional(&row.fee_decimal),
        optional(&row.refund_transaction),
        optional(&row.refunded_at),
        optional(&row.refund_note),
    ]
}

fn write_line<'a>(out: &mut dyn Write, fields: impl Iterator<Item = Cow<'a, str>>) -> io::Result<()> {
    let fields: Vec<Cow<'a, str>> = fields.map(quoted).collect();
    write!(out, "{}\r\n", fields.join(","))
}

/// A field, in quotes where RFC 4180 wants them, and defused where a spreadsheet would take it for a formula.
fn quoted(field: Cow<'_, str>) -> Cow<'_, str> {
    let field = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{field}").into() } else { field };
    if field.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")).into() } else { field }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_never_formulas() {
        let cases = [
            ("GET /a", "GET /a"),
            ("GET,POST /a", "\"GET,POST /a\""),
            ("a\"b", "\"a\"\"b\""),
            ("=1+1", "'=1+1"),
            ("@x,y", "\"'@x,y\""),
            ("", ""),
        ];
        for (field, expected) in cases {
            assert_eq!(quoted(field.into()), expected);
        }
    }
}
