//! The scheme against a scripted node: what each answer of a chain leads to.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;

use super::SolanaScheme;
use super::fake::{self, Answer, BLOCKHASH, GENESIS, Runs, Send, World, is_cosigned, mint_account, token_account};
use super::programs::{TOKEN, TOKEN_2022};
use super::testing::*;
use crate::chain::{Chain, ChainError, NoObserver};
use crate::config::{Location, NetworkConfig, Secret, SignerSource};
use crate::ledger::SettledBlock;
use crate::payment::scheme::{Availability, BlockStanding, Scheme, SettleOutcome, VerifyError};
use crate::protocol::Reason;
use crate::types::{AccountId, AtomicAmount, ManualClock, UnixMillis};

pub(super) fn paid(outcome: &SettleOutcome) -> &crate::ledger::Settlement {
    let SettleOutcome::Paid(settlement) = outcome else { panic!("not paid: {outcome:?}") };
    settlement
}

pub(super) fn failed(outcome: SettleOutcome) -> Reason {
    let SettleOutcome::Failed { reason, still_usable, .. } = outcome else { panic!("not failed: {outcome:?}") };
    assert!(!still_usable, "a transaction that failed or expired never runs again");
    reason
}

/// What it cost the fee payer, in lamports.
fn fee(outcome: &SettleOutcome) -> Option<AtomicAmount> {
    match outcome {
        SettleOutcome::Paid(settlement) => settlement.fee,
        SettleOutcome::Failed { fee, .. } => *fee,
    }
}

fn lands(takes: bool, answer: Answer) -> Send {
    Send { takes, answer }
}

#[tokio::test]
async fn a_payment_is_paid_once_with_the_bytes_that_were_claimed_and_few_calls() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    assert_eq!(shop.world.lock().unwrap().sent.len(), 0, "nothing leaves before the claim");
    let attempt = &record.attempts[0].signed;
    assert_eq!(attempt.signer.as_ref().unwrap().as_str(), fee_payer().to_string());
    assert_eq!((attempt.account_nonce, attempt.fee_max.as_str()), (None, "10001"));
    let outcome = shop.settle(&record).await;
    let settlement = paid(&outcome);
    assert_eq!(settlement.transaction, attempt.transaction);
    assert_eq!(settlement.block, 1000);
    assert_eq!(settlement.fee, Some(AtomicAmount::from(fake::FEE)));
    let world = shop.world.lock().unwrap();
    assert_eq!(world.sent, std::slice::from_ref(&attempt.raw));
    assert!(is_cosigned(&attempt.raw));
    let calls = ["simulateTransaction", "sendTransaction", "getSignatureStatuses", "getTransaction"];
    assert_eq!(calls.map(|method| world.count(method)), [1; 4]);
    assert_eq!(world.calls() - world.count("getLatestBlockhash"), 4, "{:?}", world.calls);
}

#[tokio::test]
async fn a_simulation_never_shows_our_signature_and_always_the_payers() {
    let shop = shop().await;
    let plan = shop.plan(&payment("n"), &terms()).await.unwrap();
    {
        let world = shop.world.lock().unwrap();
        let [simulated] = world.simulated.as_slice() else { panic!("{}", world.simulated.len()) };
        assert_eq!(simulated.signatures[0], Signature::default());
        assert!(simulated.signatures[1].verify(payer().pubkey().as_ref(), &simulated.message.serialize()));
    }
    let (one, other) = (plan.sign(None).unwrap(), plan.sign(None).unwrap());
    assert_eq!(one, other, "one message has one signature");
}

#[tokio::test]
async fn what_the_simulation_says_is_the_payers_affair_or_ours() {
    let shop = shop().await;
    let table = [
        (json!({"InstructionError": [2, {"Custom": 1}]}), Some(Reason::InsufficientFunds)),
        (json!({"InstructionError": [2, {"Custom": 17}]}), Some(Reason::SvmSimulationFailed)),
        (json!({"InstructionError": [3, {"Custom": 1}]}), Some(Reason::SvmSimulationFailed)),
        (json!("BlockhashNotFound"), Some(Reason::SvmSimulationFailed)),
        (json!("AlreadyProcessed"), Some(Reason::DuplicateSettlement)),
        (json!("AccountNotFound"), None),
        (json!("InsufficientFundsForFee"), None),
        (json!({"InsufficientFundsForRent": {"account_index": 0}}), None),
        (json!({"InsufficientFundsForRent": {"account_index": 2}}), Some(Reason::SvmSimulationFailed)),
    ];
    for (number, (error, expected)) in table.into_iter().enumerate() {
        shop.change(|world| world.simulate_error = Some(error.clone()));
        let refusal = shop.plan(&payment(&number.to_string()), &terms()).await.err().unwrap();
        match (refusal, expected) {
            (VerifyError::Invalid { reason }, Some(expected)) => assert_eq!(reason, expected, "{error}"),
            (VerifyError::Unavailable { .. }, None) => {}
            (other, _) => panic!("{error}: {other:?}"),
        }
    }
    let asked = shop.world.lock().unwrap().count("simulateTransaction");
    let again = shop.plan(&payment("0"), &terms()).await.err().unwrap();
    assert_eq!(reason(again), Reason::InsufficientFunds, "remembered");
    assert_eq!(shop.world.lock().unwrap().count("simulateTransaction"), asked);
    assert!(shop.world.lock().unwrap().sent.is_empty());
}

#[tokio::test]
async fn many_small_payments_do_not_share_one_balance() {
    let shop = shop().await;
    // Enough for two.
    shop.change(|world| world.balance = 20_000);
    let first = shop.plan(&payment("1"), &terms()).await.unwrap();
    let second = shop.plan(&payment("2"), &terms()).await.unwrap();
    let third = shop.plan(&payment("3"), &terms()).await.err().unwrap();
    assert_eq!(reason(third), Reason::InsufficientFunds);
    drop(first);
    shop.plan(&payment("4"), &terms()).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn sends_that_are_answered_with_errors_decide_nothing() {
    for answer in [
        Answer::Error(-32002, "Transaction simulation failed: Blockhash not found"),
        Answer::Error(-32002, "Transaction simulation failed: This transaction has already been processed"),
        Answer::Error(-32005, "Node is behind by 100 slots"),
        Answer::Error(-32602, "invalid transaction"),
        Answer::Status(502),
        Answer::Status(429),
    ] {
        let shop = shop().await;
        let record = shop.claimed("n").await;
        shop.change(|world| world.sends = vec![lands(true, answer)]);
        paid(&shop.settle(&record).await);
        let shop = self::shop().await;
        let record = shop.claimed("n").await;
        shop.change(|world| world.sends = vec![lands(false, answer), lands(false, Answer::Right)]);
        paid(&shop.settle(&record).await);
        let world = shop.world.lock().unwrap();
        assert!(world.sent.len() >= 3, "the same bytes again until they land");
        assert!(world.sent.iter().all(|raw| *raw == record.attempts[0].signed.raw));
    }
}

#[tokio::test]
async fn a_transaction_that_fails_on_chain_is_an_end_and_its_payer_waits() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| {
        world.runs = Runs::Fails;
        world.transactions_missing = 2;
    });
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(AtomicAmount::from(fake::FEE)), "asked for again where a node doesn't have it yet");
    assert_eq!(failed(outcome), Reason::SvmTransactionFailed);
    let refusal = shop.plan(&payment("m"), &terms()).await.err().unwrap();
    assert!(matches!(refusal, VerifyError::Unavailable { .. }), "{refusal:?}");
}

#[tokio::test]
async fn a_failure_is_an_end_though_no_node_tells_what_it_cost() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| {
        world.runs = Runs::Fails;
        world.transactions_missing = usize::MAX;
    });
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), None);
    assert_eq!(failed(outcome), Reason::SvmTransactionFailed);
}

#[tokio::test]
async fn a_token_that_moves_less_than_it_was_told_pays_nothing_and_is_not_taken_for_a_while() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.runs = Runs::Short(1));
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(AtomicAmount::from(fake::FEE)));
    assert_eq!(failed(outcome), Reason::SvmTransferNotConfirmed);
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
}

#[tokio::test]
async fn a_node_that_tells_of_another_transaction_is_not_believed() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    let other = shop.claimed("m").await.attempts[0].signed.raw.clone();
    shop.change(|world| world.lies_with = Some(other));
    shop.stays_open(&record, Duration::from_secs(2)).await;
    shop.change(|world| world.lies_with = None);
    paid(&shop.settle(&record).await);
}

#[tokio::test]
async fn a_status_without_its_transaction_or_below_the_wanted_level_is_waited_for() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.transactions_missing = 2);
    paid(&shop.settle(&record).await);
    let mut record = shop.claimed("m").await;
    shop.change(|world| world.level = "processed");
    shop.stays_open(&record, Duration::from_secs(2)).await;
    shop.change(|world| world.level = "confirmed");
    paid(&shop.settle(&record).await);
    record.claim.wait_for = "finalized".to_owned();
    shop.stays_open(&record, Duration::from_secs(2)).await;
    shop.change(|world| world.level = "finalized");
    paid(&shop.settle(&record).await);
}

#[tokio::test]
async fn a_payment_that_never_lands_fails_only_past_every_block_that_could_hold_it() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.sends = vec![lands(false, Answer::Right); 1000]);
    let scheme = Arc::clone(&shop.scheme);
    let settling = record.clone();
    let settlement = tokio::spawn(async move { scheme.settle(&settling, &NoAttempts).await });
    // Time for the bound to be drawn: 1150, and 64 blocks of margin.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for height in [1150, 1151, 1214, 1215, 1246] {
        shop.change(|world| world.height = height);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(!settlement.is_finished(), "ended at {height}");
    }
    // The first finalized block beyond, 32 behind the head.
    shop.change(|world| world.height = 1247);
    let outcome = settlement.await.unwrap();
    assert_eq!(fee(&outcome), None, "it is in no block");
    assert_eq!(failed(outcome), Reason::PaymentExpired);
    assert!(shop.world.lock().unwrap().sent.iter().all(|raw| *raw == record.attempts[0].signed.raw));
}

#[tokio::test]
async fn a_payment_that_landed_at_the_last_moment_is_paid_not_expired() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.has_no_statuses = true);
    let scheme = Arc::clone(&shop.scheme);
    let settling = record.clone();
    let settlement = tokio::spawn(async move { scheme.settle(&settling, &NoAttempts).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    shop.change(|world| {
        world.height = 5000;
        world.has_no_statuses = false;
    });
    paid(&settlement.await.unwrap());
}

#[tokio::test]
async fn an_old_payment_stays_open_where_no_node_keeps_its_time() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.clock.advance(Duration::from_secs(3600));
    shop.change(|world| {
        world.sends = vec![lands(false, Answer::Right); 1000];
        world.first_block = 900;
        world.first_block_time = 1_800_000_000;
    });
    let scheme = Arc::clone(&shop.scheme);
    let settlement = tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    shop.change(|world| world.height = 5000);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!settlement.is_finished(), "its history is gone");
    shop.change(|world| world.first_block_time = 1_799_000_000);
    assert_eq!(failed(settlement.await.unwrap()), Reason::PaymentExpired);
}

/// A settlement of a payment that lands nowhere, once its bound is drawn and the chain is far beyond it.
pub(super) async fn lost(shop: &Shop, change: impl FnOnce(&mut World)) -> tokio::task::JoinHandle<SettleOutcome> {
    let record = shop.claimed("n").await;
    shop.change(|world| world.sends = vec![lands(false, Answer::Right); 1000]);
    let scheme = Arc::clone(&shop.scheme);
    let settlement = tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    shop.change(|world| {
        world.height = 5000;
        change(world);
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    settlement
}

#[tokio::test]
async fn a_node_that_is_catching_up_proves_no_payment_expired() {
    let shop = shop().await;
    let settlement = lost(&shop, |world| world.is_catching_up = true).await;
    assert!(!settlement.is_finished(), "whatever landed lies before it");
    shop.change(|world| world.is_catching_up = false);
    assert_eq!(failed(settlement.await.unwrap()), Reason::PaymentExpired);
}

#[tokio::test]
async fn a_payment_whose_blockhash_can_still_be_used_is_not_expired_whatever_bound_was_drawn() {
    let shop = shop().await;
    let settlement = lost(&shop, |world| world.is_hash_valid = true).await;
    assert!(!settlement.is_finished());
    shop.change(|world| world.is_hash_valid = false);
    assert_eq!(failed(settlement.await.unwrap()), Reason::PaymentExpired);
}

#[tokio::test]
async fn looks_that_nobody_answers_do_not_count() {
    let shop = shop().await;
    let settlement = lost(&shop, |world| world.is_catching_up = true).await;
    let looks = || shop.world.lock().unwrap().count("isBlockhashValid");
    let before = looks();
    shop.change(|world| world.is_catching_up = false);
    assert_eq!(failed(settlement.await.unwrap()), Reason::PaymentExpired);
    assert!(looks() - before >= 3, "one answer was enough");
}

#[tokio::test]
async fn a_node_that_began_after_the_claim_proves_no_payment_expired() {
    let shop = shop().await;
    let settlement = lost(&shop, |world| {
        (world.first_block, world.first_block_time) = (900, 1_800_000_000);
        shop.clock.advance(Duration::from_secs(240));
    })
    .await;
    assert!(!settlement.is_finished(), "it landed before the node's first block, for all it knows");
}

#[tokio::test]
async fn a_node_that_leaves_out_balances_proves_nothing() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.hides_balances = true);
    shop.stays_open(&record, Duration::from_secs(2)).await;
    shop.change(|world| world.hides_balances = false);
    paid(&shop.settle(&record).await);
}

#[tokio::test]
async fn one_endpoint_that_lags_or_knows_better_keeps_a_payment_open() {
    let behind = World::new();
    let url = fake::serve(&behind).await;
    let shop = shop_with(|config| solana(config).rpc_urls.push(Secret::new(url))).await;
    shop.open().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.sends = vec![lands(false, Answer::Right); 1000]);
    behind.lock().unwrap().sends = vec![lands(false, Answer::Right); 1000];
    let scheme = Arc::clone(&shop.scheme);
    let settling = record.clone();
    let settlement = tokio::spawn(async move { scheme.settle(&settling, &NoAttempts).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    shop.change(|world| world.height = 5000);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!settlement.is_finished(), "the second endpoint is behind");
    {
        let mut behind = behind.lock().unwrap();
        behind.height = 5000;
        let raw = record.attempts[0].signed.raw.clone();
        let landed = fake::Landed { slot: 1100, raw, runs: Runs::Pays };
        behind.landed.insert(record.attempts[0].signed.transaction.clone(), landed);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!settlement.is_finished(), "the second endpoint has it, and the first has nothing to show");
    shop.change(|world| world.is_down = true);
    paid(&settlement.await.unwrap());
}

#[tokio::test]
async fn statuses_of_many_payments_are_one_question() {
    let shop = shop().await;
    shop.change(|world| {
        world.balance = u64::MAX;
        world.level = "processed";
    });
    let mut settlements = Vec::new();
    for number in 0..40 {
        let record = shop.claimed(&number.to_string()).await;
        let scheme = Arc::clone(&shop.scheme);
        settlements.push(tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.change(|world| {
        assert_eq!(world.asked_statuses.last(), Some(&40));
        world.asked_statuses.clear();
        world.level = "confirmed";
    });
    for settlement in settlements {
        paid(&settlement.await.unwrap());
    }
    let asked = shop.world.lock().unwrap().asked_statuses.clone();
    assert!(asked.len() <= 3, "{asked:?}");
}

#[tokio::test]
async fn a_payment_of_an_earlier_run_is_finished_by_another_process() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    let signature = record.attempts[0].signed.transaction.clone();
    let raw = record.attempts[0].signed.raw.clone();
    shop.clock.advance(Duration::from_secs(400));
    shop.change(|world| {
        world.landed.insert(signature.clone(), fake::Landed { slot: 900, raw, runs: Runs::Pays });
    });
    let outcome = shop.settle(&record).await;
    assert_eq!((paid(&outcome).transaction.as_str(), paid(&outcome).block), (signature.as_str(), 900));
}

#[tokio::test]
async fn a_record_that_contradicts_itself_has_no_end() {
    let shop = shop().await;
    let good = shop.claimed("n").await;
    let mut cheap = good.clone();
    cheap.claim.amount = 1.into();
    let mut swapped = good.clone();
    swapped.attempts[0].signed = shop.claimed("m").await.attempts[0].signed.clone();
    let mut none = good.clone();
    none.attempts.clear();
    for record in [cheap, swapped, none] {
        shop.stays_open(&record, Duration::from_millis(300)).await;
    }
    assert!(shop.world.lock().unwrap().sent.is_empty());
}

#[tokio::test]
async fn a_failed_payment_that_is_on_chain_after_all_is_credited() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    assert_eq!(shop.scheme.late_settlement(&record).await.unwrap(), None);
    let asked = shop.world.lock().unwrap().count("getSignatureStatuses");
    assert_eq!(shop.scheme.late_settlement(&record).await.unwrap(), None);
    assert_eq!(shop.world.lock().unwrap().count("getSignatureStatuses"), asked, "asked once");
    let other = shop.claimed("m").await;
    let signature = other.attempts[0].signed.transaction.clone();
    let raw = other.attempts[0].signed.raw.clone();
    shop.change(|world| {
        world.landed.insert(signature.clone(), fake::Landed { slot: 900, raw, runs: Runs::Pays });
    });
    assert_eq!(shop.scheme.late_settlement(&other).await.unwrap().unwrap().transaction, signature);
}

#[tokio::test]
async fn a_block_is_gone_only_if_its_place_in_the_final_chain_is_empty() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    let block = paid(&shop.settle(&record).await).block;
    let blocks = [SettledBlock { number: block, hash: String::new() }];
    let standing = async || shop.scheme.stand(&blocks).await.unwrap().blocks[0];
    assert_eq!(standing().await, BlockStanding::Unknown, "not final");
    shop.change(|world| world.height = block + 32 + 50);
    assert_eq!(standing().await, BlockStanding::Held);
    assert!(shop.scheme.stand(&blocks).await.unwrap().final_number >= block);
    shop.change(|world| world.empty_slots = block..block + 1);
    assert_eq!(standing().await, BlockStanding::Gone);
    shop.change(|world| world.empty_slots = 0..block + 1);
    assert_eq!(standing().await, BlockStanding::Unknown, "the node's history begins later");
    shop.change(|world| world.empty_slots = block..u64::MAX);
    assert_eq!(standing().await, BlockStanding::Unknown, "the node that lists blocks is behind");
}

#[tokio::test]
async fn a_chain_is_known_by_its_genesis_hash() {
    let other = shop_with(|_| {}).await;
    other.change(|world| world.genesis = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d".to_owned());
    assert!(matches!(other.scheme.verify_chain().await, Err(ChainError::Mismatch { .. })));
    let local = "9sHcv6xwn9YkB8nxTUGKDwPwNnmqVp5oAXxU8Fdkm4J6";
    let declared = shop_with(|config| solana(config).genesis_hash = Some(local.to_owned())).await;
    assert!(matches!(declared.scheme.verify_chain().await, Err(ChainError::Mismatch { .. })), "{GENESIS}");
    declared.change(|world| world.genesis = local.to_owned());
    declared.scheme.verify_chain().await.unwrap();
    let down = shop_with(|_| {}).await;
    down.change(|world| world.is_down = true);
    assert!(matches!(down.scheme.verify_chain().await, Err(ChainError::Unreachable { .. })));
}

async fn problems(change: impl FnOnce(&mut World), configure: impl FnOnce(&mut NetworkConfig)) -> Vec<String> {
    let shop = shop_with(configure).await;
    shop.change(change);
    match shop.scheme.verify_chain().await {
        Err(ChainError::Mismatch { problems, .. }) => problems,
        Ok(()) => Vec::new(),
        Err(other) => panic!("{other}"),
    }
}

fn put(world: &mut World, key: impl ToString, account: serde_json::Value) {
    world.accounts.insert(key.to_string(), account);
}

#[tokio::test]
async fn a_payee_without_a_token_account_is_told_the_command_that_makes_one() {
    let missing = problems(|world| drop(world.accounts.remove(&payee_account().to_string())), |_| {}).await;
    let command = format!("spl-token create-account {} --owner {} --fee-payer", mint(), payee_key());
    assert!(missing.len() == 1 && missing[0].contains(&command), "{missing:?}");
    let token = spl_token_interface::ID.to_string();
    let frozen = token_account(&token, &payee_key().to_string(), "frozen", json!([]));
    let frozen = problems(|world| put(world, payee_account(), frozen), |_| {}).await;
    assert!(frozen.len() == 1 && frozen[0].contains("frozen"), "{frozen:?}");
    let stolen = token_account(&token, &payer().pubkey().to_string(), "initialized", json!([]));
    let stolen = problems(|world| put(world, payee_account(), stolen), |_| {}).await;
    assert!(stolen.len() == 1 && stolen[0].contains("is not the token account"), "{stolen:?}");
}

#[tokio::test]
async fn a_mint_is_what_the_configuration_says() {
    let missing = problems(|world| drop(world.accounts.remove(&mint().to_string())), |_| {}).await;
    assert!(missing[0].contains("no mint"), "{missing:?}");
    let foreign = mint_account("11111111111111111111111111111111", json!([]));
    let foreign = problems(|world| put(world, mint(), foreign), |_| {}).await;
    assert!(foreign[0].contains("no mint"), "{foreign:?}");
    let decimals = problems(|_| {}, |config| config.assets[0].decimals = 9).await;
    assert!(decimals[0].contains("expected 9 decimals, found 6"), "{decimals:?}");
}

#[tokio::test]
async fn token_2022_extensions_that_could_cheat_are_refused_unless_allowed_by_name() {
    let program = TOKEN_2022.to_string();
    let world_with = |extensions: serde_json::Value| {
        let program = program.clone();
        move |world: &mut World| {
            put(world, mint(), mint_account(&program, extensions));
            let account = token_account(
                &program,
                &payee_key().to_string(),
                "initialized",
                json!([
                    {"extension": "immutableOwner"}, {"extension": "memoTransfer", "state": {"requireIncomingTransferMemos": false}}
                ]),
            );
            put(world, account_of(&payee_key(), &TOKEN_2022), account);
        }
    };
    let harmless = json!([{"extension": "metadataPointer", "state": {}}, {"extension": "tokenMetadata", "state": {}},
        {"extension": "defaultAccountState", "state": {"accountState": "initialized"}}]);
    assert_eq!(problems(world_with(harmless), |_| {}).await, Vec::<String>::new());
    for name in [
        "transferFeeConfig",
        "transferHook",
        "permanentDelegate",
        "defaultAccountState",
        "pausableConfig",
        "nonTransferable",
        "confidentialTransferFeeConfig",
        "unparseableExtension",
        "somethingNew",
    ] {
        let extensions = json!([{"extension": name, "state": {"accountState": "frozen"}}]);
        let refused = problems(world_with(extensions.clone()), |_| {}).await;
        assert!(refused.len() == 1 && refused[0].contains(name), "{refused:?}");
        let allow = |config: &mut NetworkConfig| config.assets[0].allowed_extensions = vec![name.to_owned()];
        assert_eq!(problems(world_with(extensions), allow).await, Vec::<String>::new(), "{name}");
    }
    let asking = json!([{"extension": "memoTransfer", "state": {"requireIncomingTransferMemos": true}}]);
    let account = token_account(&program, &payee_key().to_string(), "initialized", asking);
    let memos = problems(
        |world| {
            world_with(json!([]))(world);
            put(world, account_of(&payee_key(), &TOKEN_2022), account);
        },
        |_| {},
    )
    .await;
    assert!(memos.len() == 1 && memos[0].contains("memoTransfer"), "{memos:?}");
}

#[tokio::test]
async fn a_network_whose_fee_payer_is_poor_or_unreachable_is_closed() {
    let shop = shop_with(|_| {}).await;
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)), "not verified");
    shop.change(|world| put(world, fee_payer(), json!({"lamports": 890_879, "owner": "x", "data": ["", "base64"]})));
    shop.scheme.verify_chain().await.unwrap();
    shop.scheme.open(&[]);
    let Availability::Unavailable(detail) = shop.scheme.availability() else { panic!("offered") };
    assert!(detail.contains(&fee_payer().to_string()), "{detail}");
    let shop = self::shop().await;
    shop.change(|world| world.is_down = true);
    for number in 0..3 {
        let refusal = shop.plan(&payment(&number.to_string()), &terms()).await.err().unwrap();
        assert!(matches!(refusal, VerifyError::Unavailable { .. }));
    }
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
}

#[test]
fn offers_name_the_fee_payer() {
    let clock = Arc::new(ManualClock::new(UnixMillis(0)));
    let scheme = SolanaScheme::connect(&config(Vec::new()), &[], clock, Arc::new(NoObserver)).unwrap();
    let extra = scheme.terms_extra(&terms().asset);
    assert_eq!(json!(extra), json!({"feePayer": fee_payer().to_string()}));
}

#[tokio::test]
async fn a_page_learns_what_its_wallet_needs_from_what_was_last_seen() {
    let shop = shop().await;
    shop.scheme.signer_nonces().await.unwrap();
    let before = shop.world.lock().unwrap().calls();
    let facts = shop.scheme.wallet_facts(&terms().asset);
    assert_eq!(facts["chain"], "solana:devnet");
    assert_eq!(facts["tokenProgram"], TOKEN.to_string());
    assert_eq!(facts["blockhash"], BLOCKHASH);
    let secs = facts["blockhashSecs"].as_u64().unwrap();
    assert!((30..=60).contains(&secs), "{secs}");
    assert_eq!(shop.world.lock().unwrap().calls(), before, "asked a node");
}

#[test]
fn keys_that_are_bad_twice_or_also_paid_are_mistakes_with_a_place() {
    let place = Location { line: 7, column: 3 };
    let source = |key: &str| SignerSource::Key { key: Secret::new(key.to_owned()), location: place };
    let connect = |keys: &[&str], pay_to: String, also_paid: &[AccountId]| {
        let mut config = config(Vec::new());
        solana(&mut config).signers = keys.iter().map(|key| source(key)).collect();
        config.pay_to = AccountId::new(pay_to).unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(0)));
        SolanaScheme::connect(&config, also_paid, clock, Arc::new(NoObserver)).map(|_| ())
    };
    let good = fee_payer_keypair().to_base58_string();
    let payee = payee_key().to_string();
    let as_file = format!("{:?}\n", fee_payer_keypair().to_bytes());
    connect(&[&good], payee.clone(), &[]).unwrap();
    connect(&[&as_file], payee.clone(), &[]).unwrap();
    let mut torn = fee_payer_keypair().to_bytes();
    torn[63] ^= 1;
    let torn = format!("{torn:?}");
    for bad in ["", "0x11", "[1, 2]", &good[1..], &torn, &payee] {
        let mistakes = connect(&[bad], payee.clone(), &[]).unwrap_err();
        assert_eq!((mistakes.len(), mistakes[0].location), (1, place), "{bad}");
        assert!(bad.is_empty() || !mistakes[0].message.contains(bad), "a key in a message");
    }
    let twice = connect(&[&good, &as_file], payee.clone(), &[]).unwrap_err();
    assert!(twice[0].message.contains("named twice"));
    let own = fee_payer().to_string();
    assert!(connect(&[&good], own.clone(), &[]).unwrap_err()[0].message.contains("also a pay_to"));
    let also = [AccountId::new(own).unwrap()];
    assert!(connect(&[&good], payee, &also).unwrap_err()[0].message.contains("also a pay_to"));
}

#[tokio::test]
async fn what_is_sent_is_what_the_payer_signed() {
    let shop = shop().await;
    let record = shop.claimed("n").await;
    let sent: VersionedTransaction = wincode::deserialize_exact(&record.attempts[0].signed.raw).unwrap();
    let presented = signed(message(&usual("n")), &[]);
    assert_eq!(sent.message, presented.message);
    assert_eq!(sent.signatures[1..], presented.signatures[1..]);
    assert_eq!(sent.signatures[0].to_string(), record.attempts[0].signed.transaction);
}
