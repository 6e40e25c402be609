//! Whether a settlement would succeed now and what it would cost: one call that is both simulation and gas estimate.
//!
//! Signs nothing (threat C9), and gives no plan when the estimate fails for whatever reason (threat C5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::TxEip1559;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::sol_types::{Revert, SolCall, SolError};
use serde_json::{Value, json};

use super::abi::{Token, TokenErrors, TransferByBytes, TransferByParts};
use super::decode::{Authorization, Decoded, PayerSignature};
use super::fees::{Fees, USUAL_GAS};
use super::lanes::{self, Reservation};
use super::rpc::{RpcError, is_revert};
use super::verify::{PayerKind, unavailable};
use super::{Inner, Purse};
use crate::chain::inflight::InflightGuard;
use crate::chain::spending::Hold;
use crate::ledger::{AccountNonce, NewAttempt};
use crate::payment::scheme::{SettlementPlan, SignError, VerifyError};
use crate::protocol::Reason;
use crate::types::{AccountId, AtomicAmount};

/// Most gas for a payer that signs with ECDSA.
const ECDSA_GAS_MAX: u64 = 300_000;
/// Most gas for a payer whose contract is asked.
const CONTRACT_GAS_MAX: u64 = 500_000;
/// Added to every estimate, besides a fifth: storage that another payment touched first costs differently.
const GAS_MARGIN: u64 = 10_000;
/// Times that a payer's balance is read for one payment while earlier ones of the payer land.
const BALANCE_LOOKS_MAX: u32 = 5;
/// How long a refusal is believed (threat F6).
const REFUSAL_HOLDS: Duration = Duration::from_secs(3);

/// The settlement call.
pub(super) fn settlement_call(authorization: &Authorization, signature: &PayerSignature) -> Bytes {
    let Authorization { from, to, value, valid_after, valid_before, nonce } = authorization.clone();
    match signature {
        PayerSignature::Ecdsa { r, s, v } => TransferByParts::transferWithAuthorizationCall {
            from,
            to,
            value,
            validAfter: valid_after,
            validBefore: valid_before,
            nonce,
            v: *v,
            r: *r,
            s: *s,
        }
        .abi_encode(),
        PayerSignature::Contract(signature) | PayerSignature::Wrapped(signature) => {
            TransferByBytes::transferWithAuthorizationCall {
                from,
                to,
                value,
                validAfter: valid_after,
                validBefore: valid_before,
                nonce,
                signature: signature.clone().into(),
            }
            .abi_encode()
        }
    }
    .into()
}

/// A settlement that may be signed. Keep it until the settlement runs: it holds the lane's place and the payer's.
struct Plan {
    lane: Reservation,
    _purse: InflightGuard<Purse>,
    _hold: Hold,
    transaction: TxEip1559,
    cost_max: U256,
}

impl SettlementPlan for Plan {
    fn signer(&self) -> Option<&AccountId> {
        Some(&self.lane.lane.account)
    }

    fn sign(&self, account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        let nonce = account_nonce.ok_or_else(|| SignError("no account nonce".to_owned()))?;
        let signer = self.lane.lane.signer().ok_or_else(|| SignError("no key".to_owned()))?;
        let transaction = TxEip1559 { nonce, ..self.transaction.clone() };
        let (hash, raw) = lanes::sign(signer, transaction).map_err(SignError)?;
        self.lane.signed(hash);
        Ok(NewAttempt {
            signer: Some(self.lane.lane.account.clone()),
            account_nonce: Some(nonce),
            transaction: hash.to_string(),
            raw,
            fee_max: self.cost_max.to_string(),
        })
    }
}

pub(super) async fn simulate(
    inner: &Arc<Inner>,
    decoded: &Decoded,
    kind: PayerKind,
) -> Result<Box<dyn SettlementPlan>, VerifyError> {
    if let Some(detail) = inner.breaker.refusal(&decoded.token, &decoded.facts.id, Instant::now()) {
        return Err(VerifyError::Unavailable { detail });
    }
    let authorization = &decoded.authorization;
    let purse_key = (authorization.from, decoded.token);
    if let Some(reason) = inner.refused.get(&decoded.presented()) {
        return Err(reason.into());
    }
    if let Some(detail) = inner.losses.refusal(authorization.from, Instant::now()) {
        return Err(VerifyError::Unavailable { detail: detail.to_owned() });
    }
    let purse = inner.inflight.enter(purse_key, &decoded.facts.id, authorization.value.into());
    if purse.is_crowded() {
        return Err(VerifyError::Unavailable { detail: "the payer has too many payments in flight".to_owned() });
    }
    // Before a lane's place is taken: it may wait for the payer's earlier payments.
    check_overdraft(inner, &purse, purse_key, authorization.value.into()).await?;
    let fees = inner.fees().await.map_err(unavailable)?.for_input_of(decoded.signature.bytes().len());
    let lane = lanes::reserve(&inner.lanes, fees.total(USUAL_GAS), inner.clock.now())
        .ok_or_else(|| VerifyError::Unavailable { detail: "no gas payer has room and funds".to_owned() })?;
    let input = settlement_call(authorization, &decoded.signature);
    let gas_limit = estimate(inner, decoded, kind, lane.lane.address, &input).await?;
    check_cost(inner, &fees, gas_limit)?;
    if lane.lane.balance().is_some_and(|balance| balance < fees.total(gas_limit)) {
        return Err(VerifyError::Unavailable { detail: "the gas payer can't pay for this settlement".to_owned() });
    }
    let transaction = TxEip1559 {
        chain_id: inner.chain_id,
        nonce: 0,
        gas_limit,
        max_fee_per_gas: fees.max_fee_per_gas,
        max_priority_fee_per_gas: fees.tip,
        to: TxKind::Call(decoded.token),
        value: U256::ZERO,
        input,
        ..TxEip1559::default()
    };
    let cost_max = fees.total(gas_limit);
    let hold = lane.lane.allowance.hold(cost_max.into(), inner.clock.now());
    let hold = hold
        .ok_or_else(|| VerifyError::Unavailable { detail: "the gas payer has spent its max_fee_per_day".to_owned() })?;
    Ok(Box::new(Plan { lane, _purse: purse, _hold: hold, transaction, cost_max }))
}

fn check_cost(inner: &Inner, fees: &Fees, gas_limit: u64) -> Result<(), VerifyError> {
    let cost = fees.with_replacement(gas_limit);
    if cost > inner.config.max_fee {
        return Err(VerifyError::Unavailable {
            detail: format!("a settlement may cost {cost} wei now, over max_fee {}", inner.config.max_fee),
        });
    }
    Ok(())
}

/// A payer with others in flight must have enough for all of them (threat C2).
async fn check_overdraft(
    inner: &Inner,
    purse: &InflightGuard<Purse>,
    key: (Address, Address),
    amount: AtomicAmount,
) -> Result<(), VerifyError> {
    const REASON: Reason = Reason::EvmInsufficientBalance;
    let needed = |ahead: Option<AtomicAmount>| ahead.and_then(|ahead| ahead.checked_add(amount)).ok_or(REASON);
    if purse.ahead().is_some_and(AtomicAmount::is_zero) {
        return Ok(());
    }
    if let Some((balance, asked_at)) = inner.inflight.balance(key)
        && balance >= needed(purse.ahead_at(asked_at))?
    {
        return Ok(());
    }
    for _ in 0..BALANCE_LOOKS_MAX {
        let (asked_at, ahead) = (Instant::now(), purse.ahead().ok_or(REASON)?);
        let balance = AtomicAmount::from(inner.balance_of(key.1, key.0, "latest").await.map_err(unavailable)?);
        inner.inflight.set_balance(key, balance, asked_at);
        if balance >= needed(Some(ahead))? {
            return Ok(());
        }
        if !purse.has_less_ahead(ahead).await {
            break;
        }
    }
    Err(REASON.into())
}

/// Simulates and gives the gas limit.
async fn estimate(
    inner: &Inner,
    decoded: &Decoded,
    kind: PayerKind,
    signer: Address,
    input: &Bytes,
) -> Result<u64, VerifyError> {
    let gas_max = match (kind, &decoded.signature) {
        (PayerKind::Ecdsa, PayerSignature::Ecdsa { .. }) => ECDSA_GAS_MAX,
        _ => CONTRACT_GAS_MAX,
    };
    let call = json!([{"from": signer, "to": decoded.token, "input": input, "gas": format!("{gas_max:#x}")}]);
    match inner.rpc.call::<U256>("eth_estimateGas", call).await {
        Ok(gas) => {
            let gas = u64::try_from(gas).ok().filter(|gas| *gas >= 21_000 && *gas <= gas_max);
            let gas = gas.ok_or_else(|| VerifyError::Unavailable { detail: "absurd gas estimate".to_owned() })?;
            Ok((gas + gas / 5 + GAS_MARGIN).min(gas_max))
        }
        Err(error) if is_revert(&error) => {
            let reason = match known_refusal(&error) {
                Some(reason) => reason,
                None => diagnose(inner, decoded).await?,
            };
            // A contract that speaks for its payer may revert as it likes.
            if reason == Reason::EvmSimulationFailed && kind == PayerKind::Ecdsa {
                inner.breaker.failed(&decoded.token, decoded.authorization.from, reason, Instant::now());
            }
            inner.refused.put(decoded.presented(), reason, REFUSAL_HOLDS);
            Err(reason.into())
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// What is worth asking when a token doesn't say why: whether the money is there, and whether the authorization is gone.
async fn diagnose(inner: &Inner, decoded: &Decoded) -> Result<Reason, VerifyError> {
    let authorization = &decoded.authorization;
    match inner.balance_of(decoded.token, authorization.from, "latest").await {
        Ok(balance) if balance < authorization.value => return Ok(Reason::EvmInsufficientBalance),
        Ok(_) => {}
        Err(error) if is_revert(&error) => return Ok(Reason::EvmSimulationFailed),
        Err(error) => return Err(unavailable(error)),
    }
    let question = Token::authorizationStateCall { authorizer: authorization.from, nonce: authorization.nonce };
    let call = json!([{"to": decoded.token, "input": Bytes::from(question.abi_encode())}, "latest"]);
    let answer: Bytes = match inner.rpc.call("eth_call", call).await {
        Ok(answer) => answer,
        Err(error) if is_revert(&error) => return Ok(Reason::EvmSimulationFailed),
        Err(error) => return Err(unavailable(error)),
    };
    match Token::authorizationStateCall::abi_decode_returns(&answer) {
        Ok(true) => Ok(Reason::EvmNonceAlreadyUsed),
        _ => Ok(Reason::EvmSimulationFailed),
    }
}

/// What a revert says, where its words are known (protocol §3.4).
pub(super) fn known_refusal(error: &RpcError) -> Option<Reason> {
    let RpcError::Server { message, data, .. } = error else { return None };
    let revert = data.as_ref().and_then(revert_data);
    if let Some(reason) = revert.as_ref().and_then(|bytes| custom_error(bytes)) {
        return Some(reason);
    }
    let text = revert.and_then(|bytes| Revert::abi_decode(&bytes).ok()).map_or_else(|| message.clone(), |it| it.reason);
    let text = text.to_ascii_lowercase();
    let table = [
        ("authorization is expired", Reason::EvmValidBefore),
        ("authorization is not yet valid", Reason::EvmValidAfter),
        ("authorization is used or canceled", Reason::EvmNonceAlreadyUsed),
        ("exceeds balance", Reason::EvmInsufficientBalance),
        ("invalid signature", Reason::EvmSignature),
        ("expired", Reason::EvmValidBefore),
        ("not yet valid", Reason::EvmValidAfter),
        ("already used", Reason::EvmNonceAlreadyUsed),
        ("insufficient balance", Reason::EvmInsufficientBalance),
        ("signature", Reason::EvmSignature),
    ];
    table.into_iter().find(|(words, _)| text.contains(words)).map(|(_, reason)| reason)
}

/// Revert bytes, wherever the node put them: a string, or inside an object.
fn revert_data(data: &Value) -> Option<Vec<u8>> {
    match data {
        Value::String(text) => {
            let start = text.find("0x")?;
            alloy::hex::decode(text.get(start..)?.trim()).ok().filter(|bytes| bytes.len() >= 4)
        }
        Value::Object(fields) => fields.get("data").or_else(|| fields.get("result")).and_then(revert_data),
        _ => None,
    }
}

fn custom_error(bytes: &[u8]) -> Option<Reason> {
    let selector: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    match selector {
        TokenErrors::ERC20InsufficientBalance::SELECTOR => Some(Reason::EvmInsufficientBalance),
        TokenErrors::ERC3009UsedAuthorization::SELECTOR => Some(Reason::EvmNonceAlreadyUsed),
        TokenErrors::ERC3009InvalidSignature::SELECTOR => Some(Reason::EvmSignature),
        // Either end of the window; ours was checked against the clock, so the chain's clock is behind or ahead.
        TokenErrors::ERC3009InvalidAuthorizationTime::SELECTOR => Some(Reason::EvmValidAfter),
        _ => None,
    }
}
