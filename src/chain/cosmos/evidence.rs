//! What the chain has to say of a transaction: included or not, with what effect, and whether it can still be.
//!
//! Reads only; what follows for a payment is decided in `settle`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cosmrs::proto::cosmos::base::abci::v1beta1::TxResponse;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::GetBlockByHeightRequest;
use cosmrs::proto::cosmos::tx::v1beta1::GetTxRequest;

use super::account::sequence_at;
use super::decode::{Decoded, transaction_hash};
use super::head::{Head, head_at};
use super::rpc::{Node, RpcError};
use crate::types::UnixMillis;

/// Blocks beyond a timeout height before it counts as passed: what answers may be behind by as many.
const LAG_BLOCKS: u64 = 3;
/// Blocks are read back to this long before the claim: clocks differ, and a node may have been behind at the claim.
const SCAN_MARGIN: Duration = Duration::from_secs(180);

/// What one node's answers say of a transaction that its index doesn't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can still be included, or nobody can tell.
    Open,
    /// Its timeout height has passed without it.
    Expired,
    /// Its sequence went to another transaction.
    Superseded,
}

/// Blocks that were read and don't hold the transaction.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// From before the claim.
    whole: Option<(u64, u64)>,
    /// As far as a reading got that broke off: a long one would otherwise never end where a call fails now and then.
    partial: Option<(u64, u64)>,
}

/// Looks for an included transaction. None if the node's index doesn't hold it.
pub(super) fn included(
    answer: Result<Option<TxResponse>, RpcError>,
    hash: &str,
) -> Result<Option<TxResponse>, RpcError> {
    match answer {
        Ok(Some(found)) if found.txhash.eq_ignore_ascii_case(hash) => Ok((found.height > 0).then_some(found)),
        Ok(_) => Err(RpcError::Transport("node answered with another transaction".to_owned())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a node says of a transaction, all of it from this one node, in an order in which what is younger can't be taken for
/// what is older. The index's word is never enough: an index may lag or be switched off, the account's sequence is state.
pub(super) async fn standing(
    node: Node<'_>,
    decoded: &Decoded,
    claimed_at: UnixMillis,
    scanned: &mut Scanned,
) -> Result<Standing, RpcError> {
    let head = head_at(node).await?;
    // After that very block: behind a load balancer the next answer may be an older node's.
    let sequence = sequence_at(node, decoded, Some(head.height)).await?;
    let timeout = decoded.timeout_height;
    let is_past = timeout != 0 && head.height >= timeout.saturating_add(LAG_BLOCKS);
    if sequence <= decoded.sequence {
        // Whatever ran moved the sequence on, so it did not run, and now it can't any more.
        return Ok(if is_past { Standing::Expired } else { Standing::Open });
    }
    // Somebody's transaction ran with this sequence: ours is in no block, or ours it was and the index is behind.
    let last = head_at(node).await?.height.max(head.height);
    let is_absent = is_absent(node, decoded, claimed_at, last, scanned).await?;
    let call = node.call(GetTxRequest { hash: decoded.hash.clone() }).await.map(|answer| answer.tx_response);
    if included(call, &decoded.hash)?.is_some() || !is_absent {
        return Ok(Standing::Open);
    }
    Ok(Standing::Superseded)
}

/// Whether no block from `last` back to the claim holds the transaction.
async fn is_absent(
    node: Node<'_>,
    decoded: &Decoded,
    claimed_at: UnixMillis,
    last: u64,
    scanned: &mut Scanned,
) -> Result<bool, RpcError> {
    let holds = |range: Option<(u64, u64)>, height| range.filter(|(low, high)| (*low..=*high).contains(&height));
    let earlier = scanned.partial;
    let mut is_joined = earlier.is_none();
    let mut height = last;
    while height > 0 {
        if let Some((low, _)) = holds(scanned.whole, height) {
            scanned.whole = Some((low, last));
            return Ok(true);
        }
        if let Some((low, _)) = holds(earlier, height) {
            scanned.partial = Some((low, last));
            is_joined = true;
            height = low.saturating_sub(1);
            continue;
        }
        let height_asked = i64::try_from(height).unwrap_or(i64::MAX);
        let block = node.call(GetBlockByHeightRequest { height: height_asked }).await?.block;
        let head = Head::of(block.as_ref())?;
        if head.height != height {
            return Err(RpcError::Transport("node answered with another block".to_owned()));
        }
        let transactions = block.and_then(|block| block.data).map(|data| data.txs).unwrap_or_default();
        if transactions.iter().any(|raw| transaction_hash(raw) == decoded.hash) {
            tracing::warn!(
                transaction = decoded.hash,
                height,
                "A node's index lacks a transaction that a block holds."
            );
            return Ok(false);
        }
        if is_joined {
            scanned.partial = Some((height, last));
        }
        if head.time.plus(SCAN_MARGIN) < claimed_at {
            break;
        }
        height -= 1;
    }
    scanned.whole = Some((height, last));
    Ok(true)
}

/// What an included transaction's events say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Exactly this money moved.
    Moved,
    /// Other money moved, or none.
    Other,
    /// The node keeps no events, which says nothing.
    Unknown,
}

/// Whether a `transfer` event of the bank says that exactly this money moved.
pub(super) fn effect(found: &TxResponse, decoded: &Decoded) -> Effect {
    let facts = &decoded.facts;
    let amount = format!("{}{}", facts.amount, facts.asset);
    let wanted = [("recipient", facts.pay_to.as_str()), ("sender", facts.payer.as_str()), ("amount", amount.as_str())];
    let events = found.events.iter().map(|event| {
        let attributes = event.attributes.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        (event.r#type.as_str(), attributes.collect::<Vec<_>>())
    });
    // Before 0.46 only the log of each message is there, in which a message's events of one type are one.
    let logs = found.logs.iter().flat_map(|log| &log.events).map(|event| {
        let attributes = event.attributes.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        (event.r#type.as_str(), attributes.collect::<Vec<_>>())
    });
    let mut is_silent = true;
    for (kind, attributes) in events.chain(logs) {
        is_silent = false;
        if kind == "transfer" && transfers(&attributes).iter().any(|transfer| is_transfer(transfer, &wanted)) {
            return Effect::Moved;
        }
    }
    if is_silent { Effect::Unknown } else { Effect::Other }
}

/// What an included transaction brought an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfers {
    /// So much, zero included.
    Sum(u128),
    /// The node keeps no events, or writes amounts that can't be read.
    Unknown,
}

/// Sums the bank's `transfer` events to an account in one denomination. Logs repeat events, so they count only where there are
/// no events.
pub(super) fn transfers_to(found: &TxResponse, recipient: &str, denom: &str) -> Transfers {
    let mut all: Vec<(&str, Vec<Pair<'_>>)> = Vec::new();
    for event in &found.events {
        let attributes = event.attributes.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        all.push((event.r#type.as_str(), attributes.collect()));
    }
    if all.is_empty() {
        for event in found.logs.iter().flat_map(|log| &log.events) {
            let attributes = event.attributes.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
            all.push((event.r#type.as_str(), attributes.collect()));
        }
    }
    if all.is_empty() {
        return Transfers::Unknown;
    }
    let mut sum = 0_u128;
    for (_, attributes) in all.iter().filter(|(kind, _)| *kind == "transfer") {
        let to = |transfer: &&Vec<Pair<'_>>| is_transfer(transfer, &[("recipient", recipient)]);
        for transfer in transfers(attributes).iter().filter(to) {
            let amount = transfer.iter().find(|(key, _)| reads(key, "amount")).map(|(_, text)| plain(text));
            match amount.and_then(|text| amount_of(&text, denom)).and_then(|amount| sum.checked_add(amount)) {
                Some(more) => sum = more,
                None => return Transfers::Unknown,
            }
        }
    }
    Transfers::Sum(sum)
}

/// Coins as a node writes them: plain, or in base64 as on Tendermint 0.34. A list of coins begins with a digit, its base64
/// never does.
fn plain(text: &str) -> String {
    let decode = || STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let is_plain = text.is_empty() || text.starts_with(|first: char| first.is_ascii_digit());
    if is_plain { text.to_owned() } else { decode().unwrap_or_else(|| text.to_owned()) }
}

/// How much of one denomination a list such as `5uusdc,7uatom` holds; none if it can't be read.
fn amount_of(coins: &str, denom: &str) -> Option<u128> {
    let mut sum = 0_u128;
    for coin in coins.split(',').filter(|coin| !coin.is_empty()) {
        let digits = coin.find(|it: char| !it.is_ascii_digit())?;
        let (amount, of) = coin.split_at_checked(digits)?;
        if of == denom {
            sum = sum.checked_add(amount.parse().ok()?)?;
        }
    }
    Some(sum)
}

type Pair<'a> = (&'a str, &'a str);

/// Cuts an event at every attribute that comes again: several transfers in one event stand one after the other.
fn transfers<'a>(attributes: &[Pair<'a>]) -> Vec<Vec<Pair<'a>>> {
    let mut all: Vec<Vec<Pair<'a>>> = vec![Vec::new()];
    for pair in attributes {
        let is_again = all.last().is_some_and(|last| last.iter().any(|(key, _)| *key == pair.0));
        if is_again {
            all.push(Vec::new());
        }
        if let Some(last) = all.last_mut() {
            last.push(*pair);
        }
    }
    all
}

fn is_transfer(transfer: &[Pair<'_>], wanted: &[Pair<'_>]) -> bool {
    wanted.iter().all(|(key, value)| transfer.iter().any(|(name, text)| reads(name, key) && reads(text, value)))
}

/// Whether a node's text is this one, plain or in base64, as nodes on Tendermint 0.34 may write attributes.
fn reads(text: &str, wanted: &str) -> bool {
    text == wanted || text == STANDARD.encode(wanted)
}

#[cfg(test)]
mod tests {
    use cosmrs::proto::cosmos::base::abci::v1beta1::{AbciMessageLog, Attribute, StringEvent};
    use cosmrs::proto::tendermint::abci::{Event, EventAttribute};

    use super::*;

    const WANTED: [Pair<'static>; 3] = [("recipient", "b"), ("sender", "a"), ("amount", "5x")];

    fn moved(attributes: &[Pair<'_>]) -> bool {
        transfers(attributes).iter().any(|transfer| is_transfer(transfer, &WANTED))
    }

    #[test]
    fn only_one_transfer_with_this_sender_recipient_and_amount_counts() {
        assert!(moved(&[("recipient", "b"), ("sender", "a"), ("amount", "5x"), ("msg_index", "0")]));
        assert!(moved(&[("cmVjaXBpZW50", "Yg=="), ("c2VuZGVy", "YQ=="), ("YW1vdW50", "NXg=")]), "base64");
        for other in [
            [("recipient", "c"), ("sender", "a"), ("amount", "5x")],
            [("recipient", "b"), ("sender", "c"), ("amount", "5x")],
            [("recipient", "b"), ("sender", "a"), ("amount", "4x")],
            [("recipient", "b"), ("sender", "a"), ("amount", "5x,5y")],
            [("recipient", "b"), ("sender", "a"), ("amount", "5y")],
            [("recipient", "b"), ("spender", "a"), ("amount", "5x")],
        ] {
            assert!(!moved(&other), "{other:?}");
        }
    }

    #[test]
    fn transfers_that_share_an_event_are_not_mixed() {
        let two = |first: Pair<'static>, second: Pair<'static>| {
            [("recipient", "b"), ("sender", "a"), first, ("recipient", "c"), ("sender", "a"), second]
        };
        assert!(moved(&two(("amount", "5x"), ("amount", "1x"))));
        assert!(!moved(&two(("amount", "1x"), ("amount", "5x"))), "5x went to c");
    }

    #[test]
    fn a_result_without_any_event_says_nothing_and_one_with_others_says_no() {
        let decoded = super::super::sign_bytes::tests::decoded();
        let (payer, pay_to) = (decoded.facts.payer.as_str(), decoded.facts.pay_to.as_str());
        let attribute = |key: &str, value: &str| EventAttribute { key: key.into(), value: value.into(), index: true };
        let event = |kind: &str, to: &str| Event {
            r#type: kind.to_owned(),
            attributes: vec![attribute("recipient", to), attribute("sender", payer), attribute("amount", "10000uusdc")],
        };
        let result = |events: Vec<Event>| TxResponse { events, ..TxResponse::default() };
        assert_eq!(effect(&result(vec![]), &decoded), Effect::Unknown);
        assert_eq!(effect(&result(vec![event("transfer", payer)]), &decoded), Effect::Other);
        assert_eq!(effect(&result(vec![event("coin_received", pay_to)]), &decoded), Effect::Other);
        let fee_first = vec![event("transfer", payer), event("transfer", pay_to)];
        assert_eq!(effect(&result(fee_first), &decoded), Effect::Moved);
        let attributes = vec![("recipient", pay_to), ("sender", payer), ("amount", "10000uusdc")];
        let attributes =
            attributes.into_iter().map(|(key, value)| Attribute { key: key.into(), value: value.into() }).collect();
        let events = vec![StringEvent { r#type: "transfer".to_owned(), attributes }];
        let logs = vec![AbciMessageLog { events, ..AbciMessageLog::default() }];
        assert_eq!(effect(&TxResponse { logs, ..TxResponse::default() }, &decoded), Effect::Moved);
    }

    #[test]
    fn only_the_transaction_that_was_asked_for_and_is_in_a_block_is_included() {
        let answer = |txhash: &str, height| {
            included(Ok(Some(TxResponse { txhash: txhash.to_owned(), height, ..TxResponse::default() })), "AB")
        };
        assert!(answer("ab", 5).unwrap().is_some());
        assert!(answer("AB", 0).unwrap().is_none(), "not in a block yet");
        assert!(answer("AC", 5).is_err());
        assert!(included(Ok(None), "AB").is_err());
        let node = |code, message: &str| Err(RpcError::Node { code, message: message.to_owned() });
        assert!(included(node(tonic::Code::NotFound, "tx not found"), "AB").unwrap().is_none());
        assert!(included(node(tonic::Code::InvalidArgument, "tx (AB) not found"), "AB").unwrap().is_none());
        assert!(included(node(tonic::Code::Internal, "transaction indexing is disabled"), "AB").is_err());
    }
}
