//! A base fee that rises faster than a settlement offered to pay (threat E9).

use std::time::Duration;

use alloy::primitives::U256;
use serde_json::json;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Fault, Payment, Plan, Shop, eventually, paid};

/// Wei.
const BASE_FEE: u64 = 1_000_000_000;

fn plan(failpoints: &str) -> Plan {
    let network = "settle_timeout = \"20s\"\nmax_fee = \"0.01\"".to_owned();
    Plan { network, failpoints: failpoints.to_owned(), ..Plan::default() }
}

async fn set_base_fee(shop: &Shop, fee: u64) {
    shop.node.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{fee:#x}")])).await;
    shop.node.rpc("evm_mine", json!([])).await;
}

/// Presents a payment whose settlement is sent, not mined, and outgrown tenfold until something comes of it.
async fn outgrown(shop: &mut Shop) -> (Payment, Option<Answer>) {
    shop.node.rpc("evm_setIntervalMining", json!([0])).await;
    set_base_fee(shop, BASE_FEE).await;
    // Until the gateway knows this base fee and no other.
    tokio::time::sleep(Duration::from_secs(5)).await;
    shop.node.rpc("evm_setAutomine", json!([false])).await;
    let payment = shop.payment().await;
    let sent = shop.rpc.count("eth_sendRawTransaction");
    let (call, port) = (paid(&payment.v2()), shop.port);
    let client = tokio::spawn(async move { call.send(port).await });
    shop.rpc.wait_for("eth_sendRawTransaction", sent).await;
    for _ in 0..40 {
        set_base_fee(shop, BASE_FEE * 10).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if client.is_finished() || !shop.is_alive() {
            return (payment, client.await.unwrap().ok());
        }
    }
    panic!("nothing came of it");
}

#[tokio::test]
async fn a_base_fee_that_rises_tenfold_delays_a_settlement_and_charges_once() {
    let mut shop = Shop::open_with(plan("")).await;
    let (_, answer) = outgrown(&mut shop).await;
    assert_eq!(answer.unwrap().status, 200);
    let row = shop.wait_state(PaymentState::Served).await;
    assert!(row.attempts.len() > 1, "no higher fee was signed");
    let first = &row.attempts[0].signed;
    for attempt in &row.attempts {
        assert_eq!((&attempt.signed.signer, attempt.signed.account_nonce), (&first.signer, first.account_nonce));
    }
    let fees: Vec<U256> = row.attempts.iter().map(|attempt| attempt.signed.fee_max.parse().unwrap()).collect();
    assert!(fees.windows(2).all(|pair| pair[1] >= pair[0] * U256::from(9) / U256::from(8)), "{fees:?}");
    assert!(fees.iter().all(|fee| *fee <= U256::from(10_000_000_000_000_000_u64)), "over max_fee: {fees:?}");
    assert_eq!(row.settlement.unwrap().transaction, row.attempts.last().unwrap().signed.transaction);
    shop.assert_sold_once().await;
    shop.node.rpc("evm_setAutomine", json!([true])).await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_a_node_lost_and_says_it_has_is_signed_again_and_charged_once() {
    let network = "settle_timeout = \"60s\"".to_owned();
    let shop = Shop::open_with(Plan { network, ..Plan::default() }).await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::Error(-32000, "already known"));
    let (call, port) = (paid(&payment.v2()), shop.port);
    let client = tokio::spawn(async move { call.send(port).await });
    eventually("another transaction", Duration::from_secs(50), || async {
        let sent = shop.rpc.calls("eth_sendRawTransaction");
        sent.iter().any(|params| *params != sent[0]).then_some(())
    })
    .await;
    shop.rpc.clear();
    assert_eq!(client.await.unwrap().unwrap().status, 200);
    let row = shop.wait_state(PaymentState::Served).await;
    assert_eq!(row.attempts.len(), 2);
    assert_eq!(row.attempts[1].signed.account_nonce, row.attempts[0].signed.account_nonce);
    shop.assert_sold_once().await;
    shop.audit().await;
}

/// The gateway dies on its way to a higher fee, with so many attempts written; the next run goes on from there.
async fn killed_at(point: &str, attempts: usize) {
    let mut shop = Shop::open_with(plan(&format!("{point}=return"))).await;
    let (payment, _lost) = outgrown(&mut shop).await;
    assert!(!shop.gateway().wait_end().await.success());
    let rows = shop.rows().await;
    assert_eq!((rows[0].state, rows[0].attempts.len()), (PaymentState::Signed, attempts), "at {point}");
    assert_eq!(shop.node.transfers().await, []);
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    shop.node.rpc("evm_setAutomine", json!([true])).await;
    shop.restart().await;
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn killed_between_signing_a_higher_fee_and_writing_it_down_the_payment_is_charged_once() {
    killed_at("mid_bump", 1).await;
}

#[tokio::test]
async fn killed_between_writing_a_higher_fee_down_and_sending_it_the_payment_is_charged_once() {
    killed_at("post_bump_pre_send", 2).await;
}
