//! What the chain says of settled payments and of transfers to a till. Reads only.

use std::collections::HashSet;

use cosmrs::proto::cosmos::base::abci::v1beta1::TxResponse;
use cosmrs::proto::cosmos::base::query::v1beta1::PageRequest;
use cosmrs::proto::cosmos::tx::v1beta1::{GetTxRequest, GetTxsEventRequest, OrderBy};

use super::Inner;
use super::evidence::{Transfers, included, transfers_to};
use super::rpc::RpcError;
use crate::chain::{Incoming, Till};
use crate::types::{AccountId, AssetId, AtomicAmount, UnixMillis};

/// Transactions asked for at once; no node gives more.
const PAGE: u64 = 100;

fn broken(detail: impl Into<String>) -> RpcError {
    RpcError::Transport(detail.into())
}

/// How much of a token a transaction brought an account; none if the node's index doesn't hold it.
pub(super) async fn received(
    inner: &Inner,
    transaction: &str,
    asset: &AssetId,
    account: &AccountId,
) -> Result<Option<AtomicAmount>, RpcError> {
    let asked = GetTxRequest { hash: transaction.to_ascii_uppercase() };
    let answer = inner.rpc.call(asked).await.map(|answer| answer.tx_response);
    let Some(found) = included(answer, transaction)? else { return Ok(None) };
    brought(&found, asset, account).map(Some)
}

fn brought(found: &TxResponse, asset: &AssetId, account: &AccountId) -> Result<AtomicAmount, RpcError> {
    if found.code != 0 {
        return Ok(AtomicAmount::ZERO);
    }
    match transfers_to(found, account.as_str(), asset.as_str()) {
        Transfers::Sum(amount) => amount.to_string().parse().map_err(|_error| broken("an amount is too large")),
        Transfers::Unknown => Err(broken("node keeps no events")),
    }
}

/// Every transaction that brought a till money, but for those that are known, by the node's index of events.
pub(super) async fn incoming(inner: &Inner, till: &Till<'_>) -> Result<Vec<Incoming>, RpcError> {
    let query = format!("transfer.recipient='{}'", till.pay_to);
    let (mut incoming, mut seen) = (Vec::new(), HashSet::new());
    for page in 1_u64.. {
        let found = inner.rpc.call(asked(&query, page)).await?.tx_responses;
        let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
        let news = seen.len();
        for found in found {
            let time = humantime::parse_rfc3339(&found.timestamp).ok().and_then(millis);
            let time = time.ok_or_else(|| broken("a transaction has no time"))?;
            if !seen.insert(found.txhash.clone()) || time < till.since || time >= till.until {
                continue;
            }
            if till.known.contains(&found.txhash) {
                continue;
            }
            let amount = brought(&found, till.asset, till.pay_to)?;
            if !amount.is_zero() {
                let block = u64::try_from(found.height).map_err(|_error| broken("a transaction has no height"))?;
                incoming.push(Incoming { transaction: found.txhash, block, payer: None, amount });
            }
        }
        // A node that doesn't page gives the first page for ever; one that orders otherwise is read to its end.
        if count < PAGE {
            break;
        }
        if seen.len() == news {
            return Err(broken("the node gives no further pages of its index"));
        }
    }
    Ok(incoming)
}

/// Spelled for nodes before and since SDK 0.50, which read different fields.
#[allow(deprecated, reason = "older nodes read nothing else")]
fn asked(query: &str, page: u64) -> GetTxsEventRequest {
    let offset = page.saturating_sub(1).saturating_mul(PAGE);
    GetTxsEventRequest {
        events: vec![query.to_owned()],
        pagination: Some(PageRequest { offset, limit: PAGE, ..PageRequest::default() }),
        order_by: i32::from(OrderBy::Desc),
        page,
        limit: PAGE,
        query: query.to_owned(),
    }
}

fn millis(time: std::time::SystemTime) -> Option<UnixMillis> {
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(UnixMillis)
}
