//! `settle = "after"`: the origin works first, and its answer waits for the money (threat B8).

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Fault, Payment, Plan, Serve, Shop, Terms, eventually, paid};

fn plan() -> Plan {
    let routes = "\"GET,POST /api/data\" = { price = \"$0.01\", settle = \"after\" }\n".to_owned();
    Plan { routes, settles_after: true, ..Plan::default() }
}

fn assert_origins(answer: &Answer) {
    assert_eq!(answer.json()["origin"], true, "{answer:?}");
}

/// Nothing of the origin's answer got out.
fn assert_dropped(answer: &Answer) {
    assert!(!String::from_utf8_lossy(&answer.body).contains("\"origin\""), "{answer:?}");
}

async fn wait_hits(shop: &Shop, hits: usize) {
    eventually("the request to reach the origin", Duration::from_secs(10), || async {
        (shop.priced_hits() == hits).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_origin_is_asked_before_anything_is_sent_and_its_answer_waits_for_the_money() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    assert_eq!((shop.priced_hits(), shop.rows().await[0].state), (1, PaymentState::Signed));
    assert_eq!(shop.node.transfers().await, []);
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_origins(&answer);
    assert_eq!(answer.outcome().unwrap()["success"], true);
    let hit = shop.origin.hits().remove(0);
    assert_eq!(hit.header("x-payment-payer").unwrap().to_lowercase(), shop.payer.address.to_string().to_lowercase());
    assert!(hit.header("x-payment-transaction").is_none() && hit.header("payment-signature").is_none());
    shop.assert_sold_once().await;
    assert_eq!(shop.rows().await[0].deliveries, 1);
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    shop.audit().await;
}

#[tokio::test]
async fn an_answer_of_400_or_above_is_passed_on_and_costs_nothing() {
    let shop = Shop::open_with(plan()).await;
    for status in [404, 500] {
        let payment = shop.payment().await;
        shop.origin.then([Serve::Status(status)]);
        let answer = shop.present(&payment.v2()).await;
        assert_eq!(answer.status, status);
        assert_origins(&answer);
        assert!(answer.outcome().is_none() && !answer.has_terms());
        shop.wait_state(PaymentState::Released).await;
        assert_eq!(shop.rpc.count("eth_sendRawTransaction"), 0);
    }
    assert_eq!(shop.node.transfers().await, []);
    shop.audit().await;
}

#[tokio::test]
async fn what_an_origin_says_before_its_answer_does_not_get_out_before_the_money_has_moved() {
    let shop = Shop::open_with(plan()).await;
    shop.origin.then([Serve::Hints]);
    let header = shop.payment().await.v2();
    let mut client = paid(&header).open(shop.port).await.unwrap();
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains(" 200 ") && told.contains("\"origin\":true"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    shop.wait_state(PaymentState::Served).await;
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_that_does_not_answer_costs_nothing_and_the_payment_stays_good() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then([Serve::NoAnswer]);
    let answer = shop.present(&payment.v2()).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(!answer.has_terms() && answer.outcome().is_none());
    shop.wait_state(PaymentState::Released).await;
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.wait_state(PaymentState::Served).await;
    shop.audit().await;
}

#[tokio::test]
async fn the_origin_works_for_one_payment_only_so_often_across_restarts_too() {
    let mut shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then([Serve::Status(500), Serve::Status(404)]);
    assert_eq!(shop.present(&payment.v2()).await.status, 500);
    shop.wait_state(PaymentState::Released).await;
    shop.restart().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 404);
    for _ in 0..3 {
        let answer = shop.present(&payment.v2()).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), "payment_attempts_spent");
    }
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (0, 2));
    shop.audit().await;
}

#[tokio::test]
async fn a_payer_that_moves_its_money_while_the_origin_works_gets_no_answer_and_costs_no_gas() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then([Serve::Slow(Duration::from_secs(3))]);
    let header = payment.v2();
    let (answer, ()) = tokio::join!(shop.present(&header), async {
        wait_hits(&shop, 1).await;
        shop.node.empty(shop.payer.address).await;
    });
    Terms::read(&answer);
    assert_dropped(&answer);
    assert_eq!(answer.outcome().unwrap()["success"], false);
    assert_eq!(shop.rpc.count("eth_sendRawTransaction"), 0);
    shop.wait_state(PaymentState::Released).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_fails_after_the_request_drops_the_answer() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.node.empty(shop.payer.address).await;
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    Terms::read(&answer);
    assert_dropped(&answer);
    assert_eq!(answer.outcome().unwrap()["errorReason"], "invalid_exact_evm_transaction_failed");
    Terms::read(&shop.present(&payment.v2()).await);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (0, 1));
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_can_not_be_seen_drops_the_answer_and_buys_another_later() {
    let mut slow = plan();
    slow.network = "settle_timeout = \"1s\"".to_owned();
    let shop = Shop::open_with(slow).await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_getTransactionReceipt", Fault::Result(Value::Null));
    shop.rpc.set("eth_getBlockReceipts", Fault::Result(json!([])));
    for _ in 0..2 {
        let answer = shop.present(&payment.v2()).await;
        assert_eq!((answer.status, answer.error().as_str()), (503, "settlement_pending"), "{answer:?}");
        assert!(!answer.has_terms());
        assert_dropped(&answer);
    }
    shop.rpc.clear();
    let answer = shop.present_until_decided(&payment.v2()).await;
    assert_eq!(answer.status, 200);
    assert_origins(&answer);
    shop.wait_state(PaymentState::Served).await;
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_the_origin_works_is_not_charged() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then([Serve::Slow(Duration::from_secs(1))]);
    let client = paid(&payment.v2()).open(shop.port).await.unwrap();
    wait_hits(&shop, 1).await;
    drop(client);
    shop.wait_state(PaymentState::Released).await;
    assert_eq!(shop.rpc.count("eth_sendRawTransaction"), 0);
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_thousand_copies_of_one_payment_are_one_transfer_and_at_most_max_deliveries_hits() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then([Serve::Slow(Duration::from_millis(300)), Serve::Slow(Duration::from_millis(300))]);
    let header = payment.v2();
    let mut served = 0;
    for _ in 0..4 {
        let answers = join_all((0..250).map(|_| shop.present(&header))).await;
        served += answers.iter().filter(|answer| answer.status == 200).count();
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 402 | 409)));
    }
    assert_eq!(served, 1);
    assert!(shop.priced_hits() <= 2);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_thousand_copies_at_an_origin_that_fails_are_max_deliveries_hits_and_no_transfer() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.origin.then((0..1000).map(|_| Serve::Status(503)));
    let header = payment.v2();
    for _ in 0..4 {
        join_all((0..250).map(|_| shop.present(&header))).await;
    }
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (0, 2));
    shop.audit().await;
}

async fn presented_after_killed_at(point: &str, state: PaymentState, hits: usize) -> (Shop, Payment) {
    let mut plan = plan();
    plan.failpoints = format!("{point}=return");
    let mut shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let _lost = shop.try_present(&payment.v2()).await;
    assert!(!shop.gateway().wait_end().await.success());
    assert_eq!((shop.rows().await[0].state, shop.priced_hits()), (state, hits), "at {point}");
    shop.restart().await;
    let answer = shop.present_until_decided(&payment.v2()).await;
    assert_eq!(answer.status, 200, "after {point}: {answer:?}");
    assert_origins(&answer);
    (shop, payment)
}

/// Killed at a point and presented again: one charge, one answer, and so many hits in all.
async fn killed_at(point: &str, state: PaymentState, hits: usize, hits_in_all: usize) {
    let (shop, payment) = presented_after_killed_at(point, state, hits).await;
    shop.wait_state(PaymentState::Served).await;
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, hits_in_all), "after {point}");
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn killed_before_the_request_is_forwarded_nothing_was_charged() {
    killed_at("post_claim_pre_forward", PaymentState::Forwarded, 0, 1).await;
}

#[tokio::test]
async fn killed_before_the_answer_is_paid_for_nothing_was_charged() {
    killed_at("post_answer_pre_w1", PaymentState::Forwarded, 1, 2).await;
}

#[tokio::test]
async fn killed_between_signing_and_sending_for_an_answer_the_next_run_settles_it_once() {
    killed_at("post_w1_pre_send", PaymentState::Signed, 1, 2).await;
}

#[tokio::test]
async fn killed_after_sending_for_an_answer_the_next_run_finds_the_transfer() {
    killed_at("post_send", PaymentState::Signed, 1, 2).await;
}

#[tokio::test]
async fn killed_between_confirmation_and_record_for_an_answer_the_next_run_finds_the_transfer() {
    killed_at("post_confirm_pre_w2", PaymentState::Signed, 1, 2).await;
}

#[tokio::test]
async fn killed_before_a_paid_answer_is_let_out_another_is_due() {
    killed_at("post_w2", PaymentState::Delivering, 1, 2).await;
}
