//! `payments resolve`: notes the refund that an operator made by hand. The gateway holds no key to the revenue and sends none.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::find;
use crate::app::Blueprint;
use crate::config::LedgerUrl;
use crate::ledger::{
    BooksReader, LedgerError, PaymentFilter, PaymentRecord, PaymentState, Resolution, resolve_in_postgres,
    resolve_in_sqlite,
};
use crate::types::{AtomicAmount, ChainKind, Clock, SystemClock};

/// How long the chain may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest note that is kept.
const NOTE_CHARS_MAX: usize = 500;
/// Characters of a transaction signature of Solana, 64 bytes in base58.
const SIGNATURE_CHARS: std::ops::RangeInclusive<usize> = 64..=88;

/// What is to be noted.
#[derive(Debug, Clone)]
pub struct Refund {
    /// The payment, by either id.
    pub id: String,
    /// The transaction that gave the money back.
    pub transaction: String,
    /// The operator's own words.
    pub note: Option<String>,
}

/// What came of it, and what an operator should look at.
#[derive(Debug)]
pub struct Resolved {
    /// The row as it is now.
    pub record: PaymentRecord,
    /// Whether it said so before.
    pub is_old: bool,
    /// For stderr.
    pub warnings: Vec<String>,
}

/// Checks what can be checked and writes it down.
///
/// # Errors
/// When the payment isn't owed, was resolved with another transaction, or the transaction's id can't be one of its chain.
pub async fn run(
    config_file: &Path,
    ledger: &LedgerUrl,
    books: &BooksReader,
    refund: Refund,
) -> anyhow::Result<Resolved> {
    let record = find(books, &refund.id).await?;
    let transaction = spelled(record.claim.network.kind(), &refund.transaction)?;
    let note = refund.note.map(|note| note.trim().to_owned()).filter(|note| !note.is_empty());
    ensure!(
        note.as_ref().is_none_or(|note| note.chars().count() <= NOTE_CHARS_MAX),
        "the note is longer than {NOTE_CHARS_MAX} characters"
    );
    if let Some(resolved) = already(&record, &transaction)? {
        return Ok(resolved);
    }
    ensure!(
        record.state == PaymentState::Owed,
        "{} is {}, and only an owed payment can be resolved{}",
        record.record,
        record.state,
        hint(record.state)
    );
    let settlement = record.settlement.as_ref().map(|settlement| settlement.transaction.as_str());
    ensure!(settlement != Some(transaction.as_str()), "{transaction} is the payment itself, not its refund");
    let warnings = warnings(config_file, books, &record, &transaction).await;
    let resolution = Resolution { transaction: transaction.clone(), note, at: SystemClock.now() };
    let noted = match ledger {
        LedgerUrl::Sqlite(path) => resolve_in_sqlite(path, &record.record, &resolution).await,
        LedgerUrl::Postgres(url) => resolve_in_postgres(url.expose(), &record.record, &resolution).await,
    };
    let written = match noted {
        Err(LedgerError::IllegalStep { found, .. }) => {
            bail!("{} is {found} by now, and only an owed payment can be resolved", record.record)
        }
        written => written?,
    };
    match already(&written, &transaction)? {
        Some(resolved) if written.resolution.as_ref() != Some(&resolution) => Ok(resolved),
        _ => Ok(Resolved { record: written, is_old: false, warnings }),
    }
}

/// A payment that was resolved before: the same words again change nothing.
fn already(record: &PaymentRecord, transaction: &str) -> anyhow::Result<Option<Resolved>> {
    let Some(resolution) = &record.resolution else { return Ok(None) };
    ensure!(
        resolution.transaction == transaction,
        "{} was resolved with {} already; nothing was changed",
        record.record,
        resolution.transaction
    );
    Ok(Some(Resolved { record: record.clone(), is_old: true, warnings: Vec::new() }))
}

fn hint(state: PaymentState) -> &'static str {
    match state {
        PaymentState::Paid | PaymentState::Delivering => ": its payer may still get the answer",
        PaymentState::Signed => ": whether its money moves is not decided yet",
        PaymentState::Served => ": its payer got the answer",
        _ => ": its money did not move",
    }
}

/// A transaction's id as the chain's own tools spell it.
fn spelled(kind: ChainKind, text: &str) -> anyhow::Result<String> {
    let text = text.trim();
    let is_hex = |digits: &str| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        ChainKind::Evm => {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            ensure!(is_hex(digits), "expected a transaction hash, 0x and 64 hex digits, as --tx");
            Ok(format!("0x{}", digits.to_ascii_lowercase()))
        }
        ChainKind::Solana => {
            let is_base58 = |it: char| it.is_ascii_alphanumeric() && !"0OIl".contains(it);
            let is_signature = SIGNATURE_CHARS.contains(&text.len()) && text.chars().all(is_base58);
            ensure!(is_signature, "expected a transaction signature in base58 as --tx");
            Ok(text.to_owned())
        }
        ChainKind::Cosmos => {
            ensure!(is_hex(text), "expected a transaction hash, 64 hex digits, as --tx");
            Ok(text.to_ascii_uppercase())
        }
    }
}

/// What the chain and the other rows say against the refund. An operator may know better: nothing here stops it.
async fn warnings(config_file: &Path, books: &BooksReader, record: &PaymentRecord, transaction: &str) -> Vec<String> {
    let claim = &record.claim;
    let shared = match refunded_before(books, record, transaction).await {
        Ok(shared) => shared,
        Err(error) => return vec![format!("the other refunds could not be read: {error:#}")],
    };
    let received = match tokio::time::timeout(PATIENCE, received(config_file, record, transaction)).await {
        Ok(received) => received,
        Err(_elapsed) => Err(anyhow::anyhow!("the chain did not answer in time")),
    };
    let needed = claim.amount.checked_add(shared);
    match received {
        Err(error) => vec![format!("the refund could not be looked up on {}: {error:#}", claim.network)],
        Ok(None) => vec![format!("{} doesn't know {transaction} (yet)", claim.network)],
        Ok(Some(received)) if needed.is_some_and(|needed| received >= needed) => Vec::new(),
        Ok(Some(received)) if shared.is_zero() => {
            vec![format!("{transaction} brought {} {received} of {}, not {}", claim.payer, claim.asset, claim.amount)]
        }
        Ok(Some(received)) => vec![format!(
            "{transaction} brought {} {received} of {}, and other refunds to it in that transaction come to {shared}",
            claim.payer, claim.asset
        )],
    }
}

/// What the same transaction was noted for already, for the same payer and token.
async fn refunded_before(
    books: &BooksReader,
    record: &PaymentRecord,
    transaction: &str,
) -> anyhow::Result<AtomicAmount> {
    let filter = PaymentFilter {
        states: vec![PaymentState::Owed],
        network: Some(record.claim.network.clone()),
        payer: Some(record.claim.payer.clone()),
        asset: Some(record.claim.asset.clone()),
        ..PaymentFilter::default()
    };
    let rows = books.list(&filter).await?;
    let same = rows.iter().filter(|row| row.resolution.as_ref().is_some_and(|it| it.transaction == transaction));
    let mut sum = AtomicAmount::ZERO;
    for row in same {
        sum = sum.checked_add(row.claim.amount).context("a sum overflows")?;
    }
    Ok(sum)
}

async fn received(
    config_file: &Path,
    record: &PaymentRecord,
    transaction: &str,
) -> anyhow::Result<Option<AtomicAmount>> {
    let claim = &record.claim;
    let blueprint = Blueprint::read(config_file, &|name| std::env::var(name).ok())?;
    let chain = blueprint.chains.iter().find(|chain| *chain.network() == claim.network);
    let chain = chain.context("it is not in the configuration any more")?;
    chain.verify_chain().await?;
    Ok(chain.received(transaction, &claim.asset, &claim.payer).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refunds_transaction_must_look_like_one_of_its_chain() {
        let hash = "AB".repeat(32);
        assert_eq!(spelled(ChainKind::Evm, &hash).unwrap(), format!("0x{}", "ab".repeat(32)));
        assert_eq!(spelled(ChainKind::Evm, &format!(" 0x{hash}\n")).unwrap(), format!("0x{}", "ab".repeat(32)));
        assert_eq!(spelled(ChainKind::Cosmos, &hash.to_lowercase()).unwrap(), hash);
        let signature = "5".repeat(88);
        assert_eq!(spelled(ChainKind::Solana, &signature).unwrap(), signature);
        for (kind, bad) in [
            (ChainKind::Evm, "0x12"),
            (ChainKind::Evm, signature.as_str()),
            (ChainKind::Cosmos, "0x"),
            (ChainKind::Solana, hash.get(..40).unwrap()),
            (ChainKind::Solana, "=1+1"),
        ] {
            assert!(spelled(kind, bad).is_err(), "{bad}");
        }
    }
}
