//! What the chain says of settled payments and of transfers to a till. Reads only.

use serde::Deserialize;
use serde_json::{Value, json};
use solana_pubkey::Pubkey;

use super::Inner;
use super::effect::Effect;
use super::settle::Payment;
use super::watch::{Level, one_status, statuses_call};
use crate::chain::jsonrpc::RpcError;
use crate::chain::{Audit, Incoming, Till};
use crate::ledger::PaymentRecord;
use crate::types::{AccountId, AssetId, AtomicAmount};

/// Signatures asked for at once; no node gives more.
const SIGNATURES_AT_ONCE: usize = 1000;

fn broken(detail: impl Into<String>) -> RpcError {
    RpcError::Transport(detail.into())
}

/// Looks a settlement up that the books have.
pub(super) async fn audit(inner: &Inner, record: &PaymentRecord) -> Result<Audit, RpcError> {
    let Some(settlement) = &record.settlement else { return Err(broken("the books name no settlement")) };
    let payment = Payment::read(inner, record).map_err(RpcError::Transport)?;
    if payment.signature != settlement.transaction {
        return Err(broken("the books' settlement is not the transaction that was signed"));
    }
    let (method, params) = statuses_call(std::slice::from_ref(&payment.signature), true);
    let Some(status) = one_status(inner.rpc.call(method, params).await?)? else { return Ok(Audit::Missing) };
    if status.level() < payment.wanted {
        return Ok(Audit::Missing);
    }
    if status.error().is_some() {
        return Ok(Audit::MovedOther);
    }
    match payment.effect(inner).await? {
        Some(Effect::Moved { slot, .. }) if slot == settlement.block => {
            Ok(Audit::Moved { is_final: status.level() == Level::Finalized })
        }
        Some(Effect::Moved { slot, .. }) => Ok(Audit::MovedElsewhere { block: slot }),
        Some(Effect::Failed { .. } | Effect::MovedOther { .. }) => Ok(Audit::MovedOther),
        None => Err(broken("the node has a status but no transaction")),
    }
}

#[derive(Deserialize)]
struct Landed {
    meta: Option<Meta>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    err: Option<Value>,
    #[serde(default)]
    pre_token_balances: Option<Vec<Balance>>,
    #[serde(default)]
    post_token_balances: Option<Vec<Balance>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Balance {
    mint: String,
    #[serde(default)]
    owner: Option<String>,
    ui_token_amount: Amount,
}

#[derive(Deserialize)]
struct Amount {
    amount: String,
}

/// How much of a token a transaction brought an account, over all of its token accounts; none if the chain doesn't hold it.
pub(super) async fn received(
    inner: &Inner,
    transaction: &str,
    asset: &AssetId,
    account: &AccountId,
) -> Result<Option<AtomicAmount>, RpcError> {
    let params = json!([transaction, {
        "encoding": "base64",
        "commitment": Level::Confirmed.as_str(),
        "maxSupportedTransactionVersion": 0,
    }]);
    let Some(landed) = inner.rpc.call::<Option<Landed>>("getTransaction", params).await? else { return Ok(None) };
    let meta = landed.meta.ok_or_else(|| broken("getTransaction gave no outcome"))?;
    if meta.err.is_some() {
        return Ok(Some(AtomicAmount::ZERO));
    }
    let (Some(before), Some(after)) = (&meta.pre_token_balances, &meta.post_token_balances) else {
        return Err(broken("getTransaction gave no token balances"));
    };
    let of = |balances: &[Balance]| held(balances, asset.as_str(), account.as_str());
    Ok(Some(AtomicAmount::from(of(after)?.saturating_sub(of(before)?))))
}

fn held(balances: &[Balance], mint: &str, owner: &str) -> Result<u64, RpcError> {
    let mut sum = 0_u64;
    for balance in balances.iter().filter(|balance| balance.mint == mint) {
        let of = balance.owner.as_deref().ok_or_else(|| broken("getTransaction named no owners of balances"))?;
        if of == owner {
            let amount = balance.ui_token_amount.amount.parse().ok();
            sum = amount.and_then(|amount| sum.checked_add(amount)).ok_or_else(|| broken("unreadable balance"))?;
        }
    }
    Ok(sum)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signature {
    signature: String,
    slot: u64,
    #[serde(default)]
    err: Option<Value>,
    #[serde(default)]
    block_time: Option<i64>,
}

/// Every transaction that brought a till's associated token account money, but for those that are known.
pub(super) async fn incoming(inner: &Inner, till: &Till<'_>) -> Result<Vec<Incoming>, RpcError> {
    let (owner, mint) = (till.pay_to.as_str().parse::<Pubkey>(), till.asset.as_str().parse::<Pubkey>());
    let (Ok(owner), Ok(mint)) = (owner, mint) else { return Err(broken("not a mint or an account of this chain")) };
    let program = inner.program_of(&mint).ok_or_else(|| broken("the mint was not verified"))?;
    let account = inner.token_account(owner, mint, program);
    let secs = |moment: crate::types::UnixMillis| moment.0.div_euclid(1000);
    let (since, until) = (secs(till.since), secs(till.until));
    let mut incoming = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let mut options = json!({"limit": SIGNATURES_AT_ONCE, "commitment": Level::Confirmed.as_str()});
        if let (Some(before), Some(fields)) = (&before, options.as_object_mut()) {
            fields.insert("before".to_owned(), before.as_str().into());
        }
        let call = json!([account.to_string(), options]);
        let signatures: Vec<Signature> = inner.rpc.call("getSignaturesForAddress", call).await?;
        let count = signatures.len();
        for found in signatures {
            let time = found.block_time.ok_or_else(|| broken("the node knows no time of a block"))?;
            if time < since {
                return Ok(incoming);
            }
            before = Some(found.signature.clone());
            if time >= until || found.err.is_some() || till.known.contains(&found.signature) {
                continue;
            }
            let amount = received(inner, &found.signature, till.asset, till.pay_to).await?;
            let amount = amount.ok_or_else(|| broken("the node lists a transaction that it doesn't have"))?;
            if !amount.is_zero() {
                incoming.push(Incoming { transaction: found.signature, block: found.slot, payer: None, amount });
            }
        }
        if count < SIGNATURES_AT_ONCE {
            return Ok(incoming);
        }
    }
}
