//! Whether business can open on an EVM chain: endpoints, clock, tokens, payees, gas payers. Asks and changes nothing.

use std::time::Instant;

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall;
use serde_json::{Value, json};

use super::abi::{Block, Receiving};
use super::decode::address;
use super::rpc::{RpcError, is_revert, parse};
use super::watch::LAG_BLOCKS_MAX;
use super::{ETHER_DECIMALS, EvmScheme, Inner, fees, startup};
use crate::chain::Chain;
use crate::chain::finding::{self, EndpointSeen, Finding, Seen, host_of};
use crate::types::{AccountId, Asset, DecimalAmount, UnixMillis};

/// What the chain's coin is called here; most chains' is.
const UNIT: &str = "ETH (or this chain's coin)";

pub(super) async fn diagnose(scheme: &EvmScheme, paid: &[AccountId]) -> Vec<Finding> {
    let inner = &*scheme.0;
    let (seen, newest) = look_at_endpoints(inner).await;
    let mut findings = finding::endpoints(&seen, LAG_BLOCKS_MAX);
    if !finding::is_any_right(&seen) {
        return findings;
    }
    findings.extend(newest.map(|time| finding::clock(time, inner.clock.now())));
    for asset in &inner.config.assets {
        let is_fine = look_at_asset(inner, asset, &mut findings).await;
        for account in paid.iter().filter(|_| is_fine) {
            findings.push(payee(inner, asset, account).await);
        }
    }
    let read = startup::read_balances(inner).await;
    if read.is_ok() {
        findings.push(fee(inner).await);
    }
    findings.extend(finding::signers(&scheme.signer_balances(), ETHER_DECIMALS, UNIT));
    findings
}

/// Each endpoint's chain and head, and the newest block's time.
async fn look_at_endpoints(inner: &Inner) -> (Vec<EndpointSeen>, Option<UnixMillis>) {
    let calls = [("eth_getBlockByNumber", json!(["latest", false]))];
    let started = Instant::now();
    let answers = inner.rpc.ask_all(&calls).await;
    let took = started.elapsed();
    let mut newest: Option<Block> = None;
    let mut seen = Vec::with_capacity(answers.len());
    for (url, answer) in inner.rpc.urls().zip(answers) {
        let block =
            answer.and_then(|mut values| parse::<Block>("eth_getBlockByNumber", values.pop().unwrap_or(Value::Null)));
        let what = match block {
            Ok(block) => {
                let number = block.number;
                if newest.as_ref().is_none_or(|newest| newest.number < number) {
                    newest = Some(block);
                }
                Seen::Head(number)
            }
            Err(error @ RpcError::WrongChain { .. }) => Seen::WrongChain(error.to_string()),
            Err(error) => Seen::Nothing(error.to_string()),
        };
        seen.push(EndpointSeen { host: host_of(url), seen: what, took });
    }
    (seen, newest.map(|block| UnixMillis::from_secs(block.timestamp)))
}

/// Whether there is a token to ask further.
async fn look_at_asset(inner: &Inner, asset: &Asset, findings: &mut Vec<Finding>) -> bool {
    let subject = format!("asset {}", asset.symbol);
    match startup::asset_problems(inner, asset).await {
        Ok(problems) if problems.is_empty() => {
            let decimals = asset.decimals;
            let text = format!("{}: code, {decimals} decimals, EIP-712 domain and EIP-3009 as configured", asset.id);
            findings.push(Finding::ok(subject, text));
            true
        }
        Ok(problems) => {
            findings.extend(problems.into_iter().map(|problem| Finding::fail(&subject, problem, asset_hint())));
            false
        }
        Err(error) => {
            let hint = "ask again, or use another endpoint";
            findings.push(Finding::fail(subject, format!("can't be asked: {error}"), hint));
            false
        }
    }
}

fn asset_hint() -> &'static str {
    "correct the asset's address, decimals, eip712_name and eip712_version; only EIP-3009 tokens can be taken"
}

/// Whether money can arrive at an account: the token's own lists, and a transfer that is only simulated.
async fn payee(inner: &Inner, asset: &Asset, account: &AccountId) -> Finding {
    let subject = format!("pay_to {account}");
    let symbol = &asset.symbol;
    let (Some(token), Some(payee)) = (address(asset.id.as_str()), address(account.as_str())) else {
        return Finding::fail(subject, "is no address", "correct it");
    };
    if says(inner, token, Receiving::isBlacklistedCall { account: payee }.abi_encode()).await {
        let hint = "let revenue go to another account; the token's issuer blocks this one";
        return Finding::fail(subject, format!("is on the blacklist of {symbol}"), hint);
    }
    if says(inner, token, Receiving::pausedCall {}.abi_encode()).await {
        return Finding::fail(
            subject,
            format!("{symbol} is paused: nobody can pay"),
            "wait for its issuer, or offer another asset",
        );
    }
    match transfer(inner, token, payee).await {
        Ok(value) => {
            let what = if value.is_zero() { "a transfer of nothing" } else { "a transfer" };
            Finding::ok(subject, format!("can receive {symbol}: {what} to it succeeds when simulated"))
        }
        Err((value, error)) if is_revert(&error) && !value.is_zero() => {
            let hint = "let revenue go to another account, or ask the token's issuer why";
            Finding::fail(subject, format!("a simulated transfer of {symbol} to it reverts: {error}"), hint)
        }
        Err((_, error)) if is_revert(&error) => {
            let hint =
                "no account with tokens could be asked, and some tokens refuse to move nothing; pay it once by hand";
            Finding::warn(subject, format!("a simulated transfer of no {symbol} to it reverts: {error}"), hint)
        }
        Err((_, error)) => Finding::warn(subject, format!("can't be asked: {error}"), "ask again"),
    }
}

/// A yes of the token; whoever doesn't know the question says no.
async fn says(inner: &Inner, token: Address, question: Vec<u8>) -> bool {
    let call = json!([{"to": token, "input": Bytes::from(question)}, "latest"]);
    let answer: Result<Bytes, RpcError> = inner.rpc.call("eth_call", call).await;
    answer.is_ok_and(|answer| answer.len() == 32 && U256::from_be_slice(&answer) == U256::from(1))
}

/// Simulates a transfer of one atomic unit by somebody who has one, or of nothing.
async fn transfer(inner: &Inner, token: Address, payee: Address) -> Result<U256, (U256, RpcError)> {
    let signers = inner.lanes.iter().map(|lane| lane.address);
    let first = signers.clone().next().unwrap_or(payee);
    let (mut from, mut value) = (first, U256::ZERO);
    for holder in signers.chain([payee]) {
        if inner.balance_of(token, holder, "latest").await.is_ok_and(|balance| !balance.is_zero()) {
            (from, value) = (holder, U256::from(1));
            break;
        }
    }
    let input = Bytes::from(Receiving::transferCall { to: payee, value }.abi_encode());
    let call = json!([{"from": from, "to": token, "input": input}, "latest"]);
    let answer: Result<Bytes, RpcError> = inner.rpc.call("eth_call", call).await;
    answer.map(|_| value).map_err(|error| (value, error))
}

/// What a settlement may cost now, against what it may cost at most.
async fn fee(inner: &Inner) -> Finding {
    let fees = match inner.fees().await {
        Ok(fees) => fees,
        Err(error) => {
            let hint = "the chain must have EIP-1559 fees; ask again, or use another endpoint";
            return Finding::fail("fees", format!("can't be read: {error}"), hint);
        }
    };
    let cost = fees.with_replacement(fees::USUAL_GAS);
    let coins = |wei: U256| DecimalAmount::from_atomic(wei.into(), ETHER_DECIMALS);
    let text = format!("a settlement costs at most {} now, max_fee is {}", coins(cost), coins(inner.config.max_fee));
    if cost > inner.config.max_fee {
        Finding::fail(
            "fees",
            text,
            "raise max_fee, or wait until the chain is cheaper: until then no payments are taken",
        )
    } else {
        Finding::ok("fees", text)
    }
}
