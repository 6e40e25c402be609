//! The promises of contract §3 on Solana, on a real node, with the faults it must survive.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use solana_signer::Signer;
use tollhouse::ledger::PaymentState;

use crate::crashes::{Wreck, killed_at, killed_at_every_commit, killed_in_the_send, killed_under_load};
use crate::harness::{Answer, Chain, Fault, PRICE, Plan, Shop, SolanaNode, TOKEN_2022_MINT, Terms, eventually};

const NETWORK: &str = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
/// What a node says that took a transaction, or that threw it away.
const SIGNATURE: &str = "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnbJLgp8uirBgmQpjKhoR4tjF3ZpRzrFmBV6UjKdiSZkQUW";

async fn open() -> Shop<SolanaNode> {
    Shop::open_on_solana(Plan::default()).await
}

fn quick() -> Plan {
    Plan { network: "settle_timeout = \"1s\"".to_owned(), ..Plan::default() }
}

fn assert_pending(answer: &Answer) {
    assert_eq!((answer.status, answer.error().as_str()), (503, "settlement_pending"), "{answer:?}");
    assert!(!answer.has_terms() && answer.header("retry-after").is_some());
    let outcome = answer.outcome().unwrap();
    assert_eq!((&outcome["success"], &outcome["errorReason"]), (&json!(false), &json!("settlement_pending")));
}

async fn wait_moved(shop: &Shop<SolanaNode>, count: usize) {
    eventually("the money to move", Duration::from_secs(10), || async {
        (shop.node.moved().await.len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_payment_on_solana_buys_one_answer_in_either_dialect() {
    let shop = open().await;
    for count in 1..=2 {
        let payment = shop.payment().await;
        let header = if count == 1 { payment.v2() } else { payment.v1() };
        let answer = shop.present(&header).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let [.., moved] = &shop.node.moved().await[..] else { panic!("nothing moved") };
        let outcome = answer.outcome().unwrap();
        assert_eq!(outcome["success"], true);
        assert_eq!(outcome["network"], if count == 1 { NETWORK } else { "solana-devnet" });
        assert_eq!(outcome["payer"], shop.payer.key.pubkey().to_string());
        assert_eq!(outcome["transaction"], moved.transaction.as_str());
        let hit = shop.origin.hits().pop().unwrap();
        assert_eq!(hit.header("x-payment-network"), Some(NETWORK));
        assert_eq!(hit.header("x-payment-transaction"), Some(moved.transaction.as_str()));
        assert_eq!(hit.header("x-payment-payer"), Some(shop.payer.key.pubkey().to_string().as_str()));
        Terms::read(&shop.present(&header).await);
        assert_eq!((shop.node.moved().await.len(), shop.priced_hits()), (count, count));
    }
    shop.audit().await;
}

#[tokio::test]
async fn the_same_payment_on_solana_200_times_at_once_is_one_hit_and_one_transfer() {
    let shop = open().await;
    let header = shop.payment().await.v2();
    let answers = join_all((0..200).map(|_| shop.present(&header))).await;
    let mut tally: BTreeMap<(u16, String), usize> = BTreeMap::new();
    for answer in &answers {
        let word = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        *tally.entry((answer.status, word)).or_default() += 1;
    }
    assert_eq!(tally.get(&(200, String::new())), Some(&1), "{tally:?}");
    let refused = tally.get(&(409, "payment_in_progress".to_owned())).copied().unwrap_or_default()
        + tally.get(&(402, "payment_already_used".to_owned())).copied().unwrap_or_default();
    assert_eq!(refused, 199, "{tally:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn many_payments_on_solana_at_once_are_all_answered_and_none_twice() {
    let shop = open().await;
    let terms = shop.terms().await;
    let blockhash = shop.node.recent_blockhash().await;
    let headers: Vec<_> = (0..48).map(|_| shop.payer.pay(&terms, blockhash).v2()).collect();
    let answers = join_all(headers.iter().map(|header| shop.present(header))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!((shop.node.moved().await.len(), shop.priced_hits()), (48, 48));
    // Watched together: far fewer than one status call a payment.
    let watched = shop.rpc.count("getSignatureStatuses");
    assert!(watched < 48, "{watched} status calls");
    shop.audit().await;
}

#[tokio::test]
async fn a_badly_signed_copy_on_solana_never_reaches_the_node_and_spoils_nothing() {
    let shop = open().await;
    let payment = shop.payment().await;
    let calls = shop.rpc.payment_calls();
    let answer = shop.present(&payment.badly_signed().v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_svm_payload_signature_invalid");
    assert_eq!(shop.rpc.payment_calls(), calls, "the chain was asked");
    shop.assert_untouched().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_token_2022_mint_is_paid_in_like_any_other() {
    let network = format!("[networks.solana-devnet.assets.T22]\naddress = \"{TOKEN_2022_MINT}\"\ndecimals = 6\n");
    let routes = format!("\"GET /api/data\" = \"{PRICE} T22\"\n");
    let shop = Shop::open_on_solana(Plan { network, routes, ..Plan::default() }).await;
    let payment = shop.buy().await;
    assert_eq!(payment.terms.v2["asset"], TOKEN_2022_MINT.to_string());
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn the_solana_payer_has_no_sol_and_the_gateway_pays_the_fee() {
    let shop = open().await;
    let before = shop.node.lamports(&shop.node.signer.pubkey()).await;
    assert_eq!(shop.node.lamports(&shop.payer.key.pubkey()).await, 0);
    shop.buy().await;
    let paid = before - shop.node.lamports(&shop.node.signer.pubkey()).await;
    // Two signatures, and 20000 units at a millionth of a lamport.
    assert_eq!(paid, 10_001);
    shop.audit().await;
}

#[tokio::test]
async fn cut_off_after_the_solana_node_took_the_transaction_is_still_one_transfer_and_an_answer() {
    let shop = open().await;
    let faults = [
        Fault::LoseAnswer,
        Fault::LieUnavailable,
        Fault::LieError(-32603, "internal error"),
        Fault::LieError(-32002, "Transaction simulation failed: This transaction has already been processed"),
        Fault::LieError(-32002, "Transaction simulation failed: Blockhash not found"),
        Fault::LieError(-32005, "Node is behind by 42 slots"),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        shop.rpc.set("sendTransaction", fault.clone());
        let payment = shop.payment().await;
        assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200, "{fault:?}");
        assert_eq!(shop.node.moved().await.len(), index + 1, "{fault:?}");
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_transaction_that_the_solana_node_never_got_is_sent_again_in_the_same_bytes() {
    let shop = open().await;
    // The last is what a validator answers that throws the transaction away.
    let faults = [
        Fault::Drop,
        Fault::Unavailable,
        Fault::Error(-32603, "internal error"),
        Fault::Error(-32002, "Transaction simulation failed: Blockhash not found"),
        Fault::Result(json!(SIGNATURE)),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let payment = shop.payment().await;
        let sent = shop.rpc.count("sendTransaction");
        shop.rpc.set("sendTransaction", fault.clone());
        let header = payment.v2();
        let (answer, ()) = tokio::join!(shop.present_until_decided(&header), async {
            shop.rpc.wait_for("sendTransaction", sent).await;
            shop.rpc.clear();
        });
        assert_eq!(answer.status, 200, "{fault:?}: {answer:?}");
        let raw: Vec<Value> =
            shop.rpc.calls("sendTransaction").split_off(sent).into_iter().map(|params| params[0].clone()).collect();
        assert!(raw.len() > 1 && raw.iter().all(|bytes| *bytes == raw[0]), "other bytes were sent");
        assert_eq!(shop.node.moved().await.len(), index + 1);
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_solana_settlement_that_can_not_be_seen_is_pending_and_later_answered_without_a_second_charge() {
    for fault in [Fault::Drop, Fault::Result(json!({"context": {"slot": 1}, "value": [null]}))] {
        let shop = Shop::open_on_solana(quick()).await;
        let payment = shop.payment().await;
        shop.rpc.set("getSignatureStatuses", fault);
        let answer = shop.present(&payment.v2()).await;
        assert_pending(&answer);
        let told = answer.outcome().unwrap()["transaction"].as_str().unwrap().to_owned();
        assert_pending(&shop.present(&payment.v2()).await);
        assert_eq!(shop.priced_hits(), 0);
        shop.rpc.clear();
        assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
        assert_eq!(shop.node.moved().await[0].transaction, told);
        shop.assert_sold_once().await;
        shop.audit().await;
    }
}

#[tokio::test]
async fn a_solana_node_that_goes_down_after_the_send_leaves_the_payment_pending() {
    let shop = Shop::open_on_solana(quick()).await;
    let header = shop.payment().await.v2();
    shop.rpc.set("getSignatureStatuses", Fault::Drop);
    let (answer, ()) = tokio::join!(shop.present(&header), async {
        shop.rpc.wait_for("sendTransaction", 0).await;
        shop.rpc.set_all(Fault::Drop);
    });
    assert_pending(&answer);
    assert_pending(&shop.present(&header).await);
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&header).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_solana_payment_that_can_not_land_any_more_is_proven_failed_and_only_then_may_be_paid_anew() {
    let shop = Shop::open_on_fast_solana(20, quick()).await;
    let payment = shop.payment().await;
    // The node throws it away and says nothing of it.
    shop.rpc.set("sendTransaction", Fault::Result(json!(SIGNATURE)));
    assert_pending(&shop.present(&payment.v2()).await);
    shop.node.outlive(&payment.blockhash).await;
    shop.wait_state(PaymentState::Failed).await;
    let answer = shop.present(&payment.v2()).await;
    Terms::read(&answer);
    assert_eq!((shop.node.moved().await.len(), shop.priced_hits()), (0, 0));
    shop.rpc.clear();
    let anew = shop.payment().await;
    assert_eq!(shop.present_until_decided(&anew.v2()).await.status, 200);
    assert_eq!((shop.node.moved().await.len(), shop.priced_hits()), (1, 1));
    shop.audit().await;
}

#[tokio::test]
async fn an_old_block_hash_is_refused_and_costs_nothing() {
    let shop = Shop::open_on_fast_solana(20, Plan::default()).await;
    let payment = shop.payment().await;
    shop.node.outlive(&payment.blockhash).await;
    Terms::read(&shop.present(&payment.v2()).await);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn while_the_solana_node_is_down_nothing_is_claimed_and_nobody_is_asked_to_pay() {
    let shop = open().await;
    let payment = shop.payment().await;
    shop.rpc.set_all(Fault::Drop);
    let answer = shop.present(&payment.v2()).await;
    assert!(answer.status == 503 && !answer.has_terms(), "{answer:?}");
    shop.assert_untouched().await;
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn the_pay_command_pays_on_solana_and_shows_the_receipt() {
    let shop = open().await;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("payer.json");
    std::fs::write(&key, format!("{:?}", shop.payer.key.to_bytes())).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let url = format!("http://127.0.0.1:{}/api/data", shop.port);
    let pay = |node: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
        command.args(["pay", &url, "--json", "--key-file"]).arg(&key).arg("--state-dir").arg(directory.path());
        command.args(node.iter().flat_map(|node| ["--rpc-url", node.as_str()]));
        command.env_remove("TOLLHOUSE_RPC_URL");
        // Origin and proxy run on this thread.
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let blind = pay(None).await.unwrap();
    assert!(String::from_utf8_lossy(&blind.stderr).contains("--rpc-url"), "{blind:?}");
    assert_eq!(shop.priced_hits(), 0);
    let done = pay(Some(format!("http://127.0.0.1:{}", shop.node.port))).await.unwrap();
    assert!(done.status.success(), "{done:?}");
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["status"], 200);
    assert_eq!(told["receipt"]["transaction"], shop.node.moved().await[0].transaction.as_str());
    shop.assert_sold_once().await;
    shop.audit().await;
}

/// Kills the gateway at a point, looks at what it left, starts it again and presents the payment again.
async fn killed_on_solana(point: &str, left: Option<PaymentState>, moved: usize, hits: usize) {
    let shop = Shop::open_on_solana(killed_at(&format!("{point}=return"))).await;
    let wreck = Wreck::of(shop).await;
    assert_eq!(wreck.state().await, left);
    wait_moved(&wreck.shop, moved).await;
    if left.is_none() {
        wreck.shop.assert_untouched().await;
    }
    wreck.recover(hits).await;
}

#[tokio::test]
async fn killed_on_solana_before_single_flight_nothing_happened() {
    killed_on_solana("pre_m0", None, 0, 1).await;
}

#[tokio::test]
async fn killed_on_solana_in_single_flight_nothing_happened() {
    killed_on_solana("post_m0", None, 0, 1).await;
}

#[tokio::test]
async fn killed_on_solana_before_the_claim_nothing_happened() {
    killed_on_solana("post_verify", None, 0, 1).await;
}

#[tokio::test]
async fn killed_on_solana_after_the_claim_the_payment_is_settled_by_the_next_run() {
    killed_on_solana("post_w1_pre_send", Some(PaymentState::Signed), 0, 1).await;
}

#[tokio::test]
async fn killed_on_solana_before_the_send_the_payment_is_settled_by_the_next_run() {
    killed_on_solana("mid_send", Some(PaymentState::Signed), 0, 1).await;
}

#[tokio::test]
async fn killed_on_solana_after_the_send_the_transfer_is_found_by_the_next_run() {
    killed_on_solana("post_send", Some(PaymentState::Signed), 1, 1).await;
}

#[tokio::test]
async fn killed_on_solana_between_confirmation_and_record_the_transfer_is_found_by_the_next_run() {
    killed_on_solana("post_confirm_pre_w2", Some(PaymentState::Signed), 1, 1).await;
}

#[tokio::test]
async fn killed_on_solana_after_the_record_the_answer_is_still_owed() {
    killed_on_solana("post_w2", Some(PaymentState::Delivering), 1, 1).await;
}

#[tokio::test]
async fn killed_on_solana_before_served_is_written_costs_one_delivery_and_no_charge() {
    killed_on_solana("pre_w3", Some(PaymentState::Delivering), 1, 2).await;
}

#[tokio::test]
async fn killed_on_solana_in_the_middle_of_recovery_the_payment_is_settled_by_the_run_after() {
    let shop = Shop::open_on_solana(killed_at("post_w1_pre_send=return")).await;
    let mut wreck = Wreck::of(shop).await;
    wreck.shop.plan.failpoints = "mid_recovery=return".to_owned();
    for _ in 0..3 {
        assert!(!wreck.shop.launch().wait_end().await.success());
    }
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_on_solana_while_the_node_is_asked_to_send_the_payment_is_settled_by_the_next_run() {
    killed_in_the_send(open().await).await;
}

#[tokio::test]
async fn killed_on_solana_before_any_commit_a_payment_is_charged_once_and_answered() {
    killed_at_every_commit(open().await, "before_commit").await;
}

#[tokio::test]
async fn killed_on_solana_after_any_commit_a_payment_is_charged_once_and_answered() {
    killed_at_every_commit(open().await, "after_commit").await;
}

#[tokio::test]
async fn killed_on_solana_under_load_every_payment_is_charged_once_and_answered() {
    killed_under_load(open().await, &[10, 60, 200, 450]).await;
}
