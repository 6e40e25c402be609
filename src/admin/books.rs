//! `GET /payments`: the books as JSON.

use http::StatusCode;
use serde_json::{Value, json};

use crate::ledger::{Ledger, PaymentFilter, PaymentRecord, PaymentState};
use crate::service::Answer;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// Lists payments, newest first. `limit` is 1 to 1000; `state` and `network` filter, `state` may come more than once.
pub(super) async fn payments(ledger: &dyn Ledger, query: &str) -> Answer {
    let filter = match read(query) {
        Ok(filter) => filter,
        Err(wrong) => return Answer::error(StatusCode::BAD_REQUEST, wrong),
    };
    match ledger.list(&filter).await {
        Ok(records) => {
            let payments: Vec<Value> = records.iter().map(payment).collect();
            Answer::json(StatusCode::OK, &json!({ "payments": payments }))
        }
        Err(error) => {
            tracing::error!(%error, "Could not list the payments.");
            Answer::error(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable")
        }
    }
}

fn read(query: &str) -> Result<PaymentFilter, &'static str> {
    let mut filter = PaymentFilter { limit: Some(LIMIT_DEFAULT), ..PaymentFilter::default() };
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                filter.limit = Some(limit.ok_or("limit_out_of_range")?);
            }
            "state" => filter.states.push(value.parse::<PaymentState>().map_err(|()| "unknown_state")?),
            "network" => filter.network = Some(value.parse().map_err(|_error| "unknown_network")?),
            _ => return Err("unknown_parameter"),
        }
    }
    Ok(filter)
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
        "deliveries": record.deliveries,
        "failure": record.failure,
        "claimed_at_millis": claim.claimed_at.0,
        "paid_at_millis": record.paid_at.map(|at| at.0),
        "updated_at_millis": record.updated_at.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_strictly() {
        let filter = read("limit=5&state=paid&state=owed&network=eip155%3A1").unwrap();
        assert_eq!(filter.limit, Some(5));
        assert_eq!(filter.states, [PaymentState::Paid, PaymentState::Owed]);
        assert_eq!(filter.network.unwrap().as_str(), "eip155:1");
        assert_eq!(read("").unwrap().limit, Some(LIMIT_DEFAULT));
        for bad in ["limit=0", "limit=1001", "limit=x", "state=gone", "network=", "order=asc"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
