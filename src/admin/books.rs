//! `GET /payments` and `GET /payments/{id}`: the books as JSON, read only.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::problem::{ledger_unavailable, problem};
use crate::ledger::{Attempt, Holder, Ledger, LedgerError, PageFilter, PaymentRecord, PaymentState, RecordId};
use crate::service::Answer;
use crate::types::{AccountId, UnixMillis, canonical_evm_address};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// The end of the year 9999, in milliseconds since the Unix epoch.
const MILLIS_MAX: i64 = 253_402_300_799_999;

/// Longest route key that is looked for.
const ROUTE_CHARS_MAX: usize = 2048;

/// How long the books may take to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A query that isn't understood: the word, and what was expected.
type Wrong = (&'static str, &'static str);

/// A page of payments, newest first, and the cursor of the next one.
pub(super) async fn payments(ledger: &dyn Ledger, query: &str) -> Answer {
    let filter = match read(query) {
        Ok(filter) => filter,
        Err((error, detail)) => return problem(StatusCode::BAD_REQUEST, error, detail),
    };
    // One more than asked for says whether there is a next page.
    let wider = PageFilter { limit: filter.limit.saturating_add(1), ..filter.clone() };
    let mut records = match within_time(ledger.page(&wider)).await {
        Ok(records) => records,
        Err(answer) => return answer,
    };
    let page_len = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let has_more = records.len() > page_len;
    records.truncate(page_len);
    let next = records.last().filter(|_| has_more).map(cursor);
    let payments: Vec<Value> = records.iter().map(payment).collect();
    Answer::json(StatusCode::OK, &json!({ "payments": payments, "next": next }))
}

/// All of one payment.
pub(super) async fn one(ledger: &dyn Ledger, id: &str) -> Answer {
    let unknown = || problem(StatusCode::NOT_FOUND, "unknown_payment", "no payment has this id");
    if !is_record_id(id) {
        return unknown();
    }
    match within_time(ledger.get(&RecordId(id.to_owned()))).await {
        Ok(Some(record)) => Answer::json(StatusCode::OK, &whole(&record)),
        Ok(None) => unknown(),
        Err(answer) => answer,
    }
}

/// What the books say, or 503.
pub(super) async fn within_time<T>(reading: impl Future<Output = Result<T, LedgerError>>) -> Result<T, Answer> {
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => {
            tracing::error!(%error, "Could not read the books.");
            Err(ledger_unavailable())
        }
        Err(_elapsed) => {
            tracing::error!("The ledger does not answer.");
            Err(ledger_unavailable())
        }
    }
}

/// Reads a query strictly: what isn't known, doubled or out of range is refused rather than left out.
fn read(query: &str) -> Result<PageFilter, Wrong> {
    let mut filter = PageFilter { limit: LIMIT_DEFAULT, ..PageFilter::default() };
    let mut seen: Vec<String> = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if key != "state" && seen.iter().any(|known| *known == key) {
            return Err(("repeated_parameter", "only state may be given several times"));
        }
        take(&mut filter, &key, &value)?;
        seen.push(key.into_owned());
    }
    Ok(filter)
}

fn take(filter: &mut PageFilter, key: &str, value: &str) -> Result<(), Wrong> {
    match key {
        "limit" => {
            let limit = digits(value).and_then(|limit| u32::try_from(limit).ok());
            let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit));
            filter.limit = limit.ok_or(("limit_out_of_range", "limit is 1 to 1000"))?;
        }
        "state" => {
            let state: PaymentState = value.parse().map_err(|()| ("unknown_state", "no payment is in this state"))?;
            if !filter.states.contains(&state) {
                filter.states.push(state);
            }
        }
        "network" => {
            let network = value.parse().map_err(|_error| ("unknown_network", "network is a name or a CAIP-2 id"))?;
            filter.network = Some(network);
        }
        "route" => {
            let is_short = (1..=ROUTE_CHARS_MAX).contains(&value.chars().count());
            let route = Some(value).filter(|_| is_short).ok_or(("bad_route", "route is the key of a route"))?;
            filter.route = Some(route.to_owned());
        }
        "payer" => filter.payer = Some(payer(value)?),
        "since_millis" => filter.since = Some(moment(value)?),
        "until_millis" => filter.until = Some(moment(value)?),
        "unresolved" => {
            let unresolved = value.parse().map_err(|_error| ("bad_unresolved", "unresolved is true or false"))?;
            filter.unresolved = unresolved;
        }
        "cursor" => filter.after = Some(place(value).ok_or(("bad_cursor", "cursor is the next of the page before"))?),
        _ => return Err(("unknown_parameter", "this path has no such parameter")),
    }
    Ok(())
}

/// EVM addresses are known in one spelling, however they are asked for; elsewhere there is only one.
fn payer(text: &str) -> Result<AccountId, Wrong> {
    let canonical = canonical_evm_address(&text.to_ascii_lowercase()).unwrap_or_else(|_error| text.to_owned());
    AccountId::new(canonical).map_err(|_error| ("bad_payer", "payer is an account's address"))
}

fn moment(text: &str) -> Result<UnixMillis, Wrong> {
    let millis = digits(text).filter(|millis| *millis <= MILLIS_MAX);
    millis.map(UnixMillis).ok_or(("bad_moment", "a moment is milliseconds since 1970 in UTC"))
}

fn digits(text: &str) -> Option<i64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Where a page ends.
fn cursor(record: &PaymentRecord) -> String {
    format!("{}.{}", record.claim.claimed_at.0, record.record)
}

fn place(cursor: &str) -> Option<(UnixMillis, RecordId)> {
    let (millis, record) = cursor.split_once('.')?;
    let millis = digits(millis).filter(|millis| *millis <= MILLIS_MAX)?;
    is_record_id(record).then(|| (UnixMillis(millis), RecordId(record.to_owned())))
}

fn is_record_id(text: &str) -> bool {
    let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    text.strip_prefix("pay_").is_some_and(|digits| digits.len() == 32 && digits.bytes().all(is_hex))
}

/// What an operator needs of a row; the signed payload is not among it (threat I8).
fn payment(record: &PaymentRecord) -> Value {
    let claim = &record.claim;
    json!({
        "id": record.record.0,
        "payment": claim.id.0,
        "state": record.state.as_str(),
        "route": claim.route,
        "request": claim.request,
        "network": claim.network.as_str(),
        "asset": claim.asset.as_str(),
        "amount": claim.amount.to_string(),
        "payer": claim.payer.as_str(),
        "pay_to": claim.pay_to.as_str(),
        "transaction": record.settlement.as_ref().map(|settlement| settlement.transaction.as_str()),
        "fee": record.fee.map(|fee| fee.to_string()),
        "deliveries": record.deliveries,
        "failure": record.failure,
        "claimed_at_millis": claim.claimed_at.0,
        "paid_at_millis": record.paid_at.map(|at| at.0),
        "updated_at_millis": record.updated_at.0,
        "resolved_at_millis": record.resolution.as_ref().map(|resolution| resolution.at.0),
    })
}

/// The rest of the row too, but what others could use: payload, signed bytes, digests.
fn whole(record: &PaymentRecord) -> Value {
    let (claim, settlement) = (&record.claim, record.settlement.as_ref());
    let holder = match claim.holder {
        Holder::Quote(_) => "quote".to_owned(),
        Holder::Address(address) => address.to_string(),
    };
    let more = json!({
        "valid_until_millis": claim.valid_until.0,
        "wait_for": claim.wait_for,
        "holder": holder,
        "redeliverable": claim.redeliverable,
        "block": settlement.map(|settlement| settlement.block),
        "block_hash": settlement.map(|settlement| settlement.block_hash.as_str()),
        "is_external": settlement.map(|settlement| settlement.is_external),
        "failed_transaction": record.failed_transaction,
        "refund_transaction": record.resolution.as_ref().map(|resolution| resolution.transaction.as_str()),
        "attempts": record.attempts.iter().map(attempt).collect::<Vec<_>>(),
    });
    let mut all = payment(record);
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

fn attempt(attempt: &Attempt) -> Value {
    let signed = &attempt.signed;
    json!({
        "number": attempt.number,
        "transaction": signed.transaction,
        "signer": signed.signer.as_ref().map(AccountId::as_str),
        "account_nonce": signed.account_nonce,
        "fee_max": signed.fee_max,
        "signed_at_millis": attempt.signed_at.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_strictly() {
        let text = "limit=5&state=paid&state=owed&network=eip155%3A1&route=GET+%2Fa&since_millis=7&until_millis=9\
                    &payer=0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a";
        let filter = read(text).unwrap();
        assert_eq!(filter.limit, 5);
        assert_eq!(filter.states, [PaymentState::Paid, PaymentState::Owed]);
        assert_eq!(filter.network.unwrap().as_str(), "eip155:1");
        assert_eq!(filter.route.unwrap(), "GET /a");
        assert_eq!((filter.since, filter.until), (Some(UnixMillis(7)), Some(UnixMillis(9))));
        assert_eq!(filter.payer.unwrap().as_str(), "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "in EIP-55");
        assert_eq!(read("").unwrap().limit, LIMIT_DEFAULT);
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=%2B5",
            "limit=5&limit=5",
            "state=gone",
            "network=",
            "order=asc",
            "payer=",
            "payer=a%20b",
            "route=",
            "since_millis=-1",
            "until_millis=253402300800000",
            "cursor=",
            "cursor=1",
            "cursor=1.pay_1",
            "cursor=-1.pay_00000000000000000000000000000000",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let (at, record) = read("cursor=12.pay_00000000000000000000000000000abc").unwrap().after.unwrap();
        assert_eq!((at.0, record.0.as_str()), (12, "pay_00000000000000000000000000000abc"));
    }
}
