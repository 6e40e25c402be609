//! How findings are printed: one line each with its hint below it, or as JSON.

use std::io::{self, Write};

use serde_json::json;

use crate::chain::{Finding, Severity};
use crate::cli::printable;

/// Prints all findings in their order and how many there are of each kind.
///
/// # Errors
/// When `out` refuses the text.
pub(super) fn print(findings: &[Finding], json: bool, out: &mut dyn Write) -> io::Result<()> {
    let count = |severity| findings.iter().filter(|finding| finding.status == severity).count();
    let (ok, warn, fail) = (count(Severity::Ok), count(Severity::Warn), count(Severity::Fail));
    if json {
        let report = json!({"findings": findings, "ok": ok, "warn": warn, "fail": fail});
        return writeln!(out, "{}", serde_json::to_string_pretty(&report)?);
    }
    for Finding { status, subject, finding, hint } in findings {
        writeln!(out, "{:<4}  {}: {}", status.as_str(), printable(subject), printable(finding))?;
        if let Some(hint) = hint {
            writeln!(out, "      hint: {}", printable(hint))?;
        }
    }
    writeln!(out, "{ok} ok, {warn} warnings, {fail} failures")
}
