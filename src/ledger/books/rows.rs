//! Rows as the store holds them, and as the ledger speaks of them.
//!
//! A row that can't be read is reported, never guessed and never skipped.

use std::net::IpAddr;
use std::str::FromStr;

use sqlx::Row;

use super::{Driver, StoredRow};
use crate::ledger::{
    Attempt, Digest, Earning, Holder, LedgerError, NewAttempt, NewPayment, Outlay, PaymentId, PaymentRecord,
    PaymentState, RecordId, Resolution, SettledBlock, Settlement, SumEntry, Total, hex,
};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// Payments, one row for each attempt, followed by what the caller asks. A join rather than two queries, so that a
/// payment and its attempts come from one snapshot.
macro_rules! select_payments {
    ($tail:literal) => {
        concat!(
            "SELECT p.*, a.number AS attempt_number, a.signer AS attempt_signer, a.account_nonce AS attempt_nonce, ",
            "a.transaction_id AS attempt_transaction, a.fee_max AS attempt_fee_max, a.signed_at AS attempt_signed_at, ",
            "a.raw AS attempt_raw FROM payments p LEFT JOIN attempts a ON a.record = p.record ",
            $tail
        )
    };
}
pub(super) use select_payments;

/// A row under inspection; errors carry its id.
struct Stored<'row> {
    row: &'row StoredRow,
    record: String,
}

impl<'row> Stored<'row> {
    fn new(row: &'row StoredRow, id_column: &str) -> Result<Self, LedgerError> {
        let nameless = Self { row, record: "?".to_owned() };
        let record = nameless.get(id_column)?;
        Ok(Self { row, record })
    }

    fn corrupt(&self, column: &str, detail: impl std::fmt::Display) -> LedgerError {
        LedgerError::Corrupt { record: self.record.clone(), detail: format!("{column}: {detail}") }
    }

    /// A column that may be NULL.
    fn get_if_any<T>(&self, column: &str) -> Result<Option<T>, LedgerError>
    where
        T: sqlx::Decode<'row, Driver> + sqlx::Type<Driver>,
    {
        self.row.try_get(column).map_err(|error| self.corrupt(column, error))
    }

    /// A column that may not; asked for as one that may, since sqlx reads SQLite's NULL as zero or empty otherwise.
    fn get<T>(&self, column: &str) -> Result<T, LedgerError>
    where
        T: sqlx::Decode<'row, Driver> + sqlx::Type<Driver>,
    {
        self.get_if_any(column)?.ok_or_else(|| self.corrupt(column, "is missing"))
    }

    fn parse<T: FromStr>(&self, column: &str) -> Result<T, LedgerError> {
        let text: &str = self.get(column)?;
        text.parse().map_err(|_error| self.corrupt(column, format_args!("`{text}` is not legal here")))
    }

    fn parse_if_any<T: FromStr>(&self, column: &str) -> Result<Option<T>, LedgerError> {
        let text: Option<&str> = self.get_if_any(column)?;
        if text.is_some() { self.parse(column).map(Some) } else { Ok(None) }
    }

    fn integer<T: TryFrom<i64>>(&self, column: &str) -> Result<T, LedgerError> {
        let value: i64 = self.get(column)?;
        T::try_from(value).map_err(|_error| self.corrupt(column, format_args!("{value} is out of range")))
    }

    fn integer_if_any<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>, LedgerError> {
        let value: Option<i64> = self.get_if_any(column)?;
        if value.is_some() { self.integer(column).map(Some) } else { Ok(None) }
    }

    fn flag(&self, column: &str) -> Result<bool, LedgerError> {
        match self.get::<i64>(column)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.corrupt(column, format_args!("{other} is neither 0 nor 1"))),
        }
    }

    fn time(&self, column: &str) -> Result<UnixMillis, LedgerError> {
        self.get(column).map(UnixMillis)
    }

    fn account(&self, column: &str) -> Result<AccountId, LedgerError> {
        AccountId::new(self.get::<String>(column)?).map_err(|error| self.corrupt(column, error))
    }

    fn account_if_any(&self, column: &str) -> Result<Option<AccountId>, LedgerError> {
        let text: Option<String> = self.get_if_any(column)?;
        text.map(|text| AccountId::new(text).map_err(|error| self.corrupt(column, error))).transpose()
    }

    fn asset(&self, column: &str) -> Result<AssetId, LedgerError> {
        AssetId::new(self.get::<String>(column)?).map_err(|error| self.corrupt(column, error))
    }

    fn digest(&self, column: &str) -> Result<Digest, LedgerError> {
        digest(self.get(column)?).ok_or_else(|| self.corrupt(column, "not 32 bytes of lower-case hex"))
    }

    fn holder(&self) -> Result<Holder, LedgerError> {
        let text: &str = self.get("holder")?;
        holder_from_text(text).ok_or_else(|| self.corrupt("holder", "names neither a quote nor an address"))
    }

    fn settlement(&self) -> Result<Option<Settlement>, LedgerError> {
        let Some(transaction) = self.get_if_any::<String>("settled_transaction")? else { return Ok(None) };
        Ok(Some(Settlement {
            transaction,
            block: self.integer("settled_block")?,
            block_hash: self.get("settled_block_hash")?,
            is_external: self.flag("settled_externally")?,
            fee: self.parse_if_any("settled_fee")?,
        }))
    }

    fn resolution(&self) -> Result<Option<Resolution>, LedgerError> {
        let Some(at) = self.get_if_any::<i64>("resolved_at")? else { return Ok(None) };
        let (transaction, note) = (self.get("resolved_transaction")?, self.get_if_any("resolved_note")?);
        Ok(Some(Resolution { transaction, note, at: UnixMillis(at) }))
    }

    fn claim(&self) -> Result<NewPayment, LedgerError> {
        Ok(NewPayment {
            id: PaymentId(self.get("payment_id")?),
            payload_digest: self.digest("payload_digest")?,
            fingerprint: self.digest("fingerprint")?,
            redeliverable: self.flag("redeliverable")?,
            holder: self.holder()?,
            route: self.get("route")?,
            request: self.get("request")?,
            terms: self.get("terms")?,
            wait_for: self.get("wait_for")?,
            confirmations: self.integer("confirmations")?,
            pay_to_exclusive: self.flag("pay_to_exclusive")?,
            network: self.parse("network")?,
            asset: self.asset("asset")?,
            payer: self.account("payer")?,
            pay_to: self.account("pay_to")?,
            amount: self.parse("amount")?,
            payload: self.get("payload")?,
            valid_until: self.time("valid_until")?,
            signer: self.account_if_any("signer")?,
            claimed_at: self.time("claimed_at")?,
            identifier: self.get_if_any("identifier")?,
        })
    }

    fn record(&self) -> Result<PaymentRecord, LedgerError> {
        Ok(PaymentRecord {
            record: RecordId(self.record.clone()),
            claim: self.claim()?,
            state: self.parse("state")?,
            attempts: Vec::new(),
            settlement: self.settlement()?,
            paid_at: self.get_if_any::<i64>("paid_at")?.map(UnixMillis),
            deliveries: self.integer("deliveries")?,
            failure: self.get_if_any("failure")?,
            failed_transaction: self.get_if_any("failed_transaction")?,
            fee: self.parse_if_any("settled_fee")?,
            resolution: self.resolution()?,
            updated_at: self.time("updated_at")?,
        })
    }

    /// An amount that occurs several times: how often, and all of it.
    fn repeated_amount(&self) -> Result<(u64, AtomicAmount), LedgerError> {
        let amount: AtomicAmount = self.parse("amount")?;
        let count: u64 = self.integer("payment_count")?;
        let all = amount.value().checked_mul(AtomicAmount::from(count).value());
        Ok((count, all.ok_or_else(|| self.corrupt("amount", "the sum overflows"))?.into()))
    }

    fn raw(&self, column: &str) -> Result<Vec<u8>, LedgerError> {
        hex::decode(self.get(column)?).ok_or_else(|| self.corrupt("raw", "not lower-case hex"))
    }

    fn attempt(&self) -> Result<Option<Attempt>, LedgerError> {
        let Some(number) = self.integer_if_any("attempt_number")? else { return Ok(None) };
        let raw = self.raw("attempt_raw")?;
        let signed = NewAttempt {
            signer: self.account_if_any("attempt_signer")?,
            account_nonce: self.integer_if_any("attempt_nonce")?,
            transaction: self.get("attempt_transaction")?,
            raw,
            fee_max: self.get("attempt_fee_max")?,
        };
        Ok(Some(Attempt { number, signed, signed_at: self.time("attempt_signed_at")? }))
    }
}

/// The payments of a [`select_payments`] query: rows of one payment stand together, attempts in order.
pub(super) fn payments(rows: &[StoredRow]) -> Result<Vec<PaymentRecord>, LedgerError> {
    let mut records: Vec<PaymentRecord> = Vec::new();
    for row in rows {
        let stored = Stored::new(row, "record")?;
        let attempt = stored.attempt()?;
        match records.last_mut() {
            Some(last) if last.record.0 == stored.record => last.attempts.extend(attempt),
            _ => {
                let mut record = stored.record()?;
                record.attempts.extend(attempt);
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// One line of the summary query: `state`, `network`, `asset`, `amount`, and how often that amount occurs.
pub(super) fn subtotal(row: &StoredRow) -> Result<Total, LedgerError> {
    let stored = Stored { row, record: "summary".to_owned() };
    let (count, amount) = stored.repeated_amount()?;
    let state: PaymentState = stored.parse("state")?;
    let network: Network = stored.parse("network")?;
    Ok(Total { state, network, asset: stored.asset("asset")?, count, amount })
}

/// One line of the earnings query: `paid_day`, `network`, `asset`, `route`, `amount`, and how often that amount occurs.
pub(super) fn earning(row: &StoredRow) -> Result<Earning, LedgerError> {
    let stored = Stored { row, record: "earnings".to_owned() };
    let (count, amount) = stored.repeated_amount()?;
    let (day, network) = (stored.get("paid_day")?, stored.parse("network")?);
    Ok(Earning { day, network, asset: stored.asset("asset")?, route: stored.get("route")?, count, amount })
}

/// A row of what sums are made of.
pub(super) fn sum_entry(row: &StoredRow) -> Result<SumEntry, LedgerError> {
    let stored = Stored::new(row, "record")?;
    Ok(SumEntry {
        state: stored.parse("state")?,
        network: stored.parse("network")?,
        asset: stored.asset("asset")?,
        amount: stored.parse("amount")?,
        route: stored.get("route")?,
        payer: stored.account("payer")?,
        claimed_at: stored.time("claimed_at")?,
        fee: stored.parse_if_any("settled_fee")?,
        is_resolved: stored.get_if_any::<i64>("resolved_at")?.is_some(),
    })
}

/// A row of `settled_block` and `settled_block_hash`.
pub(super) fn settled_block(row: &StoredRow) -> Result<SettledBlock, LedgerError> {
    let stored = Stored { row, record: "blocks".to_owned() };
    Ok(SettledBlock { number: stored.integer("settled_block")?, hash: stored.get("settled_block_hash")? })
}

pub(super) fn outlay(row: &StoredRow) -> Result<Outlay, LedgerError> {
    let stored = Stored { row, record: "attempts".to_owned() };
    Ok(Outlay {
        record: RecordId(stored.get("record")?),
        signer: stored.account("signer")?,
        account_nonce: stored.integer_if_any("account_nonce")?,
        fee_max: stored.get("fee_max")?,
        signed_at: stored.time("signed_at")?,
    })
}

/// A row of `record` and `raw`.
pub(super) fn raw(row: &StoredRow) -> Result<Vec<u8>, LedgerError> {
    Stored::new(row, "record")?.raw("raw")
}

/// A holder as one tagged text.
pub(super) fn holder_text(holder: &Holder) -> String {
    match holder {
        Holder::Quote(digest) => format!("quote:{}", hex::encode(digest)),
        Holder::Address(address) => format!("address:{address}"),
    }
}

fn holder_from_text(text: &str) -> Option<Holder> {
    match text.split_once(':')? {
        ("quote", digits) => digest(digits).map(Holder::Quote),
        ("address", address) => address.parse::<IpAddr>().ok().map(Holder::Address),
        _ => None,
    }
}

fn digest(text: &str) -> Option<Digest> {
    hex::decode(text)?.try_into().ok()
}
