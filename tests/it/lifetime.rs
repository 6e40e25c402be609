//! Start, stop, restart, and two at once.

use std::time::Duration;

use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Plan, Shop, Terms, paid};

#[tokio::test]
async fn an_idle_gateway_ends_at_once_on_sigterm() {
    let mut shop = Shop::open().await;
    shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let started = Instant::now();
    shop.gateway().terminate();
    assert!(shop.gateway().wait_end().await.success());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_runs_is_ended_and_answered_before_the_gateway_stops() {
    let mut shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.gateway().terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shop.gateway().ended().is_none(), "it did not wait");
    assert!(shop.try_call(&Call::get("/health")).await.is_err(), "it still takes connections");
    let started = Instant::now();
    shop.rpc.clear();
    assert_eq!(Answer::read(client).await.unwrap().status, 200);
    assert!(shop.gateway().wait_end().await.success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_outlasts_the_drain_is_ended_by_the_next_run() {
    let mut shop = Shop::open_with(Plan { server: "drain_timeout = \"1s\"".to_owned(), ..Plan::default() }).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    let started = Instant::now();
    shop.gateway().terminate();
    assert!(shop.gateway().wait_end().await.success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(client);
    shop.rpc.clear();
    shop.start().await;
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_ledger_does_not_start() {
    let mut shop = Shop::open().await;
    let first = (shop.port, shop.admin_port);
    let mut second = shop.launch();
    assert!(!second.wait_end().await.success());
    let log = second.log();
    assert!(log.contains("ledger"), "{log}");
    (shop.port, shop.admin_port) = first;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn after_kill_and_restart_account_nonces_go_on() {
    let mut shop = Shop::open().await;
    let mut spent = Vec::new();
    for _ in 0..3 {
        spent.push(shop.buy().await);
        shop.wait_booked().await;
        shop.restart().await;
    }
    spent.push(shop.buy().await);
    shop.wait_booked().await;
    assert_eq!(shop.node.transfers().await.len(), 4);
    let mut nonces: Vec<_> = shop
        .rows()
        .await
        .iter()
        .flat_map(|row| &row.attempts)
        .filter_map(|attempt| attempt.signed.account_nonce)
        .collect();
    nonces.sort_unstable();
    assert_eq!(nonces, [0, 1, 2, 3]);
    shop.restart().await;
    for payment in spent {
        let answer = shop.present(&payment.v2()).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), "payment_already_used");
    }
    shop.audit().await;
}

#[tokio::test]
async fn an_old_price_holds_across_a_restart_and_a_lower_payment_for_it_does_not_pass_as_the_new() {
    let mut shop = Shop::open().await;
    let old = shop.terms().await;
    shop.plan.routes = shop.plan.routes.replace("$0.01", "$0.02");
    shop.restart().await;
    assert_eq!(shop.terms().await.v2["amount"], "20000");
    let payment = shop.payer.pay(&old);
    let answer = shop.present(&payment.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(shop.origin.hits()[0].header("x-payment-amount"), Some("10000"));
    // Without a quote nothing proves what was offered: today's price holds.
    let unquoted = shop.payer.pay(&old);
    let answer = shop.present(&unquoted.v1()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_evm_payload_authorization_value_mismatch");
    // A quote speaks for its own route only.
    let (name, value) = shop.payer.pay(&old).v2();
    let elsewhere = shop.call(&Call::get("/api/other").with(name, value)).await;
    assert_eq!(elsewhere.error(), "no_matching_payment_requirements");
    assert_eq!(shop.node.transfers().await.len(), 1);
    shop.audit().await;
}

#[tokio::test]
async fn an_old_price_ends_with_its_quote_and_a_payment_made_under_it_does_not() {
    let mut shop = Shop::open_with(Plan { server: "offer_ttl = \"2s\"".to_owned(), ..Plan::default() }).await;
    let old = shop.terms().await;
    let (taken, late) = (shop.payer.pay(&old), shop.payer.pay(&old));
    shop.origin.then([crate::harness::Serve::Status(500)]);
    assert_eq!(shop.present(&taken.v2()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    shop.plan.routes = shop.plan.routes.replace("$0.01", "$0.02");
    shop.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = shop.present(&late.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "offer_expired");
    assert_eq!(shop.present(&taken.v2()).await.status, 200);
    assert_eq!(shop.node.transfers().await.len(), 1);
    shop.audit().await;
}
