//! Whether business can open on an EVM chain: endpoints, clock, tokens, payees, gas payers. Asks and changes nothing.

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
    let answers = inner.rpc.ask_each(&calls).await;
    let mut newest: Option<Block> = None;
    let mut seen = Vec::with_capacity(answers.len());
    for (url, (answer, took)) in inner.rpc.urls().zip(answers) {
        let value = answer.and_then(|mut values| values.pop().unwrap_or(Ok(Value::Null)));
        let block = value.and_then(|value| parse::<Block>("eth_getBlockByNumber", value));
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

#[cfg(test)]
mod tests {
    use super::super::fake::{self, CHAIN, World};
    use super::super::tests::{PAY_TO, Shop, evm, shop_with};
    use super::*;
    use crate::chain::Severity;
    use crate::config::Secret;

    async fn found(shop: &Shop) -> Vec<Finding> {
        diagnose(&shop.scheme, &[AccountId::new(PAY_TO).unwrap()]).await
    }

    /// What isn't well after a change of the world, and nothing else.
    async fn ills(change: impl FnOnce(&mut World)) -> Vec<(Severity, String)> {
        let shop = shop_with(|_| {}).await;
        change(&mut shop.world.lock().unwrap());
        let ills = found(&shop).await.into_iter().filter(|finding| finding.status != Severity::Ok);
        let ills = ills.inspect(|finding| assert!(finding.hint.is_some(), "{finding:?}"));
        ills.map(|finding| (finding.status, format!("{}: {}", finding.subject, finding.finding))).collect()
    }

    /// The one thing that isn't well.
    async fn ill(change: impl FnOnce(&mut World)) -> (Severity, String) {
        let mut ills = ills(change).await;
        assert_eq!(ills.len(), 1, "{ills:?}");
        ills.remove(0)
    }

    #[tokio::test]
    async fn a_chain_where_all_is_well_gives_a_line_for_each_thing_and_no_access_token() {
        let found = found(&shop_with(|_| {}).await).await;
        let subjects: Vec<&str> = found.iter().map(|it| it.subject.split(' ').next().unwrap()).collect();
        assert_eq!(subjects, ["endpoint", "clock", "asset", "pay_to", "fees", "signer"]);
        assert!(found.iter().all(|finding| finding.status == Severity::Ok), "{found:?}");
        let text = format!("{found:?}");
        assert!(text.contains("127.0.0.1") && !text.contains("secret-access-token"), "{text}");
    }

    #[tokio::test]
    async fn a_wrong_chain_and_a_dead_endpoint_are_failures_and_nothing_else_is_asked() {
        let (status, text) = ill(|world| world.chain_id = 1).await;
        assert_eq!(status, Severity::Fail);
        assert!(text.contains("serves chain 1, expected 84532"), "{text}");
        let (status, text) = ill(|world| world.is_down = true).await;
        assert!(status == Severity::Fail && text.starts_with("endpoint 1"), "{text}");
        assert!(!text.contains("secret-access-token"), "{text}");
    }

    #[tokio::test]
    async fn an_endpoint_that_lags_or_serves_another_chain_is_told_apart_from_the_others() {
        let (slow, other) = (World::new(), World::new());
        slow.lock().unwrap().number = 80;
        other.lock().unwrap().chain_id = CHAIN + 1;
        let urls = [fake::serve(&slow).await, fake::serve(&other).await];
        let shop = shop_with(|config| evm(config).rpc_urls.extend(urls.map(Secret::new))).await;
        let found = found(&shop).await;
        let statuses: Vec<Severity> = found.iter().take(3).map(|finding| finding.status).collect();
        assert_eq!(statuses, [Severity::Ok, Severity::Warn, Severity::Fail], "{found:?}");
        assert!(found[1].finding.contains("20 behind"), "{found:?}");
    }

    #[tokio::test]
    async fn a_token_that_is_not_as_configured_is_a_failure() {
        for (change, expected) in [
            ((|world| world.code.clear()) as fn(&mut World), "has no code"),
            (|world| world.decimals = 18, "expected 6 decimals, found 18"),
            (|world| world.domain.name = "USD Coin".to_owned(), "DOMAIN_SEPARATOR"),
        ] {
            let (status, text) = ill(change).await;
            assert!(status == Severity::Fail && text.contains(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn a_payee_who_can_not_receive_is_a_failure() {
        let payee: Address = PAY_TO.parse().unwrap();
        let (status, text) = ill(|world| world.blacklisted.extend([payee])).await;
        assert!(status == Severity::Fail && text.contains("blacklist"), "{text}");
        let (status, text) = ill(|world| world.refused.extend([payee])).await;
        assert!(status == Severity::Fail && text.contains("reverts"), "{text}");
        let (status, text) = ill(|world| world.is_paused = true).await;
        assert!(status == Severity::Fail && text.contains("paused"), "{text}");
    }

    #[tokio::test]
    async fn where_nobody_holds_the_token_a_transfer_of_nothing_is_tried_and_its_failure_is_a_warning() {
        assert!(ills(|world| world.token_balance = U256::ZERO).await.is_empty());
        let (status, text) = ill(|world| {
            world.token_balance = U256::ZERO;
            world.refused.insert(PAY_TO.parse().unwrap());
        })
        .await;
        assert!(status == Severity::Warn && text.contains("reverts"), "{text}");
    }

    #[tokio::test]
    async fn an_empty_or_low_gas_payer_and_fees_above_the_cap_are_told() {
        let (status, text) = ill(|world| world.balance = U256::ZERO).await;
        assert!(status == Severity::Fail && text.contains("not enough for one payment"), "{text}");
        let (status, text) = ill(|world| world.balance = U256::from(1_000_000_000_000_u64)).await;
        assert!(status == Severity::Warn && text.contains("enough for"), "{text}");
        let ills = ills(|world| world.base_fee = 1_000_000_000_000).await;
        let fees = ills.iter().find(|(_, text)| text.starts_with("fees")).unwrap();
        assert!(fees.0 == Severity::Fail && fees.1.contains("max_fee"), "{ills:?}");
    }

    #[tokio::test]
    async fn a_clock_that_disagrees_with_the_chain_is_told() {
        let (status, text) = ill(|world| world.timestamp += 3600).await;
        assert!(status == Severity::Fail && text.starts_with("clock"), "{text}");
        let (status, text) = ill(|world| world.timestamp -= 3600).await;
        assert!(status == Severity::Warn && text.contains("3600 s old"), "{text}");
    }
}
