//! A payment buys one answer.

use serde_json::json;
use tollhouse::ledger::PaymentState;

use crate::harness::{PAY_TO, PRICE, Shop, Terms, USDC};

#[tokio::test]
async fn a_v2_payment_buys_one_answer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let answer = shop.present(&payment.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["origin"], true);
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    let receipt = answer.outcome().unwrap();
    assert_eq!(receipt["success"], true);
    assert_eq!(receipt["transaction"], transfer.transaction.as_str());
    assert_eq!(receipt["network"], "eip155:84532");
    assert_eq!((transfer.from, transfer.nonce), (shop.payer.address, payment.nonce));
    assert_eq!(shop.node.balance(PAY_TO).await, PRICE);
    let [hit] = &shop.origin.hits()[..] else { panic!("not one hit") };
    assert_eq!(hit.header("x-payment-amount"), Some("10000"));
    assert_eq!(hit.header("x-payment-transaction"), Some(transfer.transaction.as_str()));
    assert_eq!(hit.header("x-payment-payer"), Some(shop.payer.address.to_string().as_str()));
    assert_eq!(hit.header("x-payment-asset"), Some(USDC.to_string().as_str()));
    assert_eq!(hit.header("payment-signature"), None);
    shop.assert_sold_once().await;

    let again = shop.present(&payment.v2()).await;
    Terms::read(&again);
    assert_eq!(again.error(), "payment_already_used");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_v1_payment_buys_one_answer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let answer = shop.present(&payment.v1()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = answer.outcome().unwrap();
    assert_eq!((&receipt["success"], &receipt["network"]), (&json!(true), &json!("base-sepolia")));
    shop.assert_sold_once().await;
    let again = shop.present(&payment.v1()).await;
    Terms::read(&again);
    assert_eq!(again.error(), "payment_already_used");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn v1_and_v2_of_one_authorization_are_one_payment() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v1()).await.status, 200);
    shop.wait_state(PaymentState::Served).await;
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_quote_serves_several_payments() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    for _ in 0..3 {
        assert_eq!(shop.present(&shop.payer.pay(&terms).v2()).await.status, 200);
    }
    assert_eq!(shop.node.transfers().await.len(), 3);
    assert_eq!(shop.priced_hits(), 3);
    shop.audit().await;
}
