//! Whether business can open on a Solana cluster: endpoints, clock, mints, payees' token accounts, fee payers. Asks and
//! changes nothing.

use serde_json::json;
use solana_pubkey::Pubkey;

use super::startup::{self, account_problem, accounts, check_mint};
use super::{Inner, SOL_DECIMALS, SolanaScheme, Token, health};
use crate::chain::Chain;
use crate::chain::finding::{self, EndpointSeen, Finding, Seen, host_of};
use crate::chain::jsonrpc::{Answers, RpcError};
use crate::types::UnixMillis;

/// Slots that an endpoint may be behind another: a third of a blockhash's life.
const LAG_SLOTS_MAX: u64 = 50;

pub(super) async fn diagnose(scheme: &SolanaScheme) -> Vec<Finding> {
    let inner = &*scheme.0;
    let seen = look_at_endpoints(inner).await;
    let mut findings = finding::endpoints(&seen, LAG_SLOTS_MAX);
    if !finding::is_any_right(&seen) {
        return findings;
    }
    findings.push(clock(inner).await);
    for token in &inner.config.assets {
        if let Err(error) = look_at_token(inner, token, &mut findings).await {
            let text = format!("can't be asked: {error}");
            findings.push(Finding::fail(format!("asset {}", token.mint), text, "ask again, or use another endpoint"));
        }
    }
    // What can't be read has no balance below.
    let _shown_below = startup::read_balances(inner).await;
    findings.extend(finding::signers(&scheme.signer_balances(), SOL_DECIMALS, "SOL"));
    findings
}

async fn look_at_endpoints(inner: &Inner) -> Vec<EndpointSeen> {
    let mut calls = vec![("getSlot", json!([{"commitment": "confirmed"}]))];
    calls.extend(health::calls());
    let answers = inner.rpc.ask_each(&calls).await;
    let look = |answer: Answers| {
        let mut answers = match answer {
            Ok(answers) => answers.into_iter(),
            Err(error @ RpcError::WrongChain { .. }) => return Seen::WrongChain(error.to_string()),
            // Its code is that of an overloaded node (-32005).
            Err(RpcError::Transport(text)) if text.contains("is behind") => return Seen::Behind(text),
            Err(error) => return Seen::Nothing(error.to_string()),
        };
        match answers.next() {
            Some(Ok(slot)) => match slot.as_u64() {
                Some(_) if !health::is_healthy(&mut answers, inner.clock.now()) => {
                    Seen::Behind("the node says that it is behind its cluster".to_owned())
                }
                Some(slot) => Seen::Head(slot),
                None => Seen::Nothing("getSlot gave an unreadable result".to_owned()),
            },
            Some(Err(error)) => Seen::Nothing(error.to_string()),
            None => Seen::Nothing("no answer".to_owned()),
        }
    };
    let list = inner.rpc.urls().zip(answers);
    list.map(|(url, (answer, took))| EndpointSeen { host: host_of(url), seen: look(answer), took }).collect()
}

async fn clock(inner: &Inner) -> Finding {
    let slot: Result<u64, RpcError> = inner.rpc.call("getSlot", json!([{"commitment": "confirmed"}])).await;
    let time: Result<Option<u64>, RpcError> = match slot {
        Ok(slot) => inner.rpc.call("getBlockTime", json!([slot])).await,
        Err(error) => Err(error),
    };
    match time {
        Ok(Some(secs)) => finding::clock(UnixMillis::from_secs(secs), inner.clock.now()),
        _ => Finding::warn("clock", "the node doesn't tell a block's time", "use an endpoint that serves getBlockTime"),
    }
}

/// The mint, and each payee's account of it.
async fn look_at_token(inner: &Inner, token: &Token, findings: &mut Vec<Finding>) -> Result<(), RpcError> {
    let mint = token.mint;
    let subject = inner.config.named_assets.iter().find(|asset| asset.id.as_str() == mint.to_string());
    let symbol = subject.map_or_else(|| mint.to_string(), |asset| asset.symbol.clone());
    let account = accounts(inner, &[mint]).await?.pop().flatten();
    let mut problems = Vec::new();
    let program = check_mint(token, account.as_ref(), &mut problems);
    let Some(program) = program else {
        let hint = "correct the asset: a mint of this cluster; devnet and mainnet have different ones";
        let text = format!("{mint} is no mint of a token program");
        findings.push(Finding::fail(format!("asset {symbol}"), text, hint));
        return Ok(());
    };
    if problems.is_empty() {
        let text = format!("{mint}: a mint with {} decimals", token.decimals);
        findings.push(Finding::ok(format!("asset {symbol}"), text));
    }
    for problem in problems {
        let hint = "correct the asset, or name the extension in allowed_extensions";
        findings.push(Finding::fail(format!("asset {symbol}"), problem, hint));
    }
    let keys: Vec<Pubkey> = inner.config.paid.iter().map(|owner| inner.token_account(*owner, mint, program)).collect();
    for ((owner, key), account) in inner.config.paid.iter().zip(&keys).zip(accounts(inner, &keys).await?) {
        let subject = format!("pay_to {owner}");
        findings.push(match account_problem(token, owner, &program, key, account.as_ref()) {
            None => Finding::ok(subject, format!("can receive {symbol}: its token account {key} is there")),
            Some(problem) => {
                // What to do is behind the last semicolon, where there is something.
                let (text, hint) = problem
                    .rsplit_once("; ")
                    .unwrap_or((&problem, "let revenue go to another owner, or thaw or repair the token account"));
                Finding::fail(subject, text, hint)
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, World, mint_account, token_account};
    use super::super::testing::{Shop, fee_payer, mint, payee_account, payee_key, shop_with, solana};
    use super::*;
    use crate::chain::Severity;
    use crate::config::Secret;

    /// What isn't well after a change of the world, and nothing else.
    async fn ills(change: impl FnOnce(&mut World)) -> Vec<(Severity, String)> {
        let shop = one_signer().await;
        shop.change(change);
        let ills = diagnose(&shop.scheme).await.into_iter().filter(|finding| finding.status != Severity::Ok);
        let ills = ills.inspect(|finding| assert!(finding.hint.is_some(), "{finding:?}"));
        ills.map(|finding| (finding.status, format!("{}: {}", finding.subject, finding.finding))).collect()
    }

    async fn ill(change: impl FnOnce(&mut World)) -> (Severity, String) {
        let mut ills = ills(change).await;
        assert_eq!(ills.len(), 1, "{ills:?}");
        ills.remove(0)
    }

    async fn one_signer() -> Shop {
        shop_with(|config| solana(config).signers.truncate(1)).await
    }

    #[tokio::test]
    async fn a_cluster_where_all_is_well_gives_a_line_for_each_thing() {
        let found = diagnose(&one_signer().await.scheme).await;
        let subjects: Vec<&str> = found.iter().map(|it| it.subject.split(' ').next().unwrap()).collect();
        assert_eq!(subjects, ["endpoint", "clock", "asset", "pay_to", "signer"]);
        assert!(found.iter().all(|finding| finding.status == Severity::Ok), "{found:?}");
    }

    #[tokio::test]
    async fn endpoints_are_asked_one_by_one() {
        let slow = World::new();
        slow.lock().unwrap().height = 900;
        let url = fake::serve(&slow).await;
        let shop = shop_with(|config| solana(config).rpc_urls.push(Secret::new(url))).await;
        let found = diagnose(&shop.scheme).await;
        assert_eq!((found[0].status, found[1].status), (Severity::Ok, Severity::Warn), "{found:?}");
        let (status, text) = ill(|world| world.genesis = "other".to_owned()).await;
        assert!(status == Severity::Fail && text.contains("serves chain other"), "{text}");
        let (status, text) = ill(|world| world.is_catching_up = true).await;
        assert!(status == Severity::Fail && text.contains("Node is behind"), "{text}");
        let (status, _) = ill(|world| world.is_down = true).await;
        assert_eq!(status, Severity::Fail);
    }

    #[tokio::test]
    async fn a_missing_or_frozen_token_account_is_a_failure_with_the_command_that_helps() {
        let shop = one_signer().await;
        shop.change(|world| drop(world.accounts.remove(&payee_account().to_string())));
        let found = diagnose(&shop.scheme).await;
        let missing = found.iter().find(|finding| finding.subject.starts_with("pay_to")).unwrap();
        assert_eq!(missing.status, Severity::Fail);
        assert!(missing.hint.as_ref().unwrap().contains("spl-token create-account"), "{missing:?}");
        let frozen = token_account(&spl_token_interface::ID.to_string(), &payee_key().to_string(), "frozen", json!([]));
        let (status, text) = ill(|world| drop(world.accounts.insert(payee_account().to_string(), frozen))).await;
        assert!(status == Severity::Fail && text.contains("frozen"), "{text}");
    }

    #[tokio::test]
    async fn what_is_no_mint_or_one_with_dangerous_extensions_is_a_failure() {
        let (status, text) = ill(|world| drop(world.accounts.remove(&mint().to_string()))).await;
        assert!(status == Severity::Fail && text.contains("no mint"), "{text}");
        let token = spl_token_interface::ID.to_string();
        let hooked = mint_account(&token, json!([{"extension": "transferHook"}]));
        let (status, text) = ill(|world| drop(world.accounts.insert(mint().to_string(), hooked))).await;
        assert!(status == Severity::Fail && text.contains("transferHook"), "{text}");
    }

    #[tokio::test]
    async fn an_empty_fee_payer_and_a_wrong_clock_are_told() {
        let (status, text) = ill(|world| drop(world.accounts.remove(&fee_payer().to_string()))).await;
        assert!(status == Severity::Fail && text.contains("not enough for one payment"), "{text}");
        let (status, text) = ill(|world| world.ahead_secs = 3600).await;
        assert!(status == Severity::Fail && text.starts_with("clock"), "{text}");
    }
}
