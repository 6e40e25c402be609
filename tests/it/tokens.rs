//! Tokens that don't do what they say (threat B13).

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::address;
use tollhouse::ledger::PaymentState;

use crate::harness::{Call, PRICE, Payer, Plan, Shop, Terms, USDC};

/// Most gas that a plain account's settlement may be given.
const GAS_MAX: u64 = 300_000;

/// Has the token turn bad under a running gateway. Whatever its transaction says, nothing is served, and the token is not
/// taken any more.
async fn sell_for(token: &str) -> Shop {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.node.place(token, USDC).await;
    let answer = shop.present(&payment.v2()).await;
    // With its only token gone the shop has no terms to give.
    assert!(answer.status == 503 && !answer.has_terms(), "{answer:?}");
    let outcome = answer.outcome().unwrap();
    assert_eq!(outcome["success"], false);
    assert_eq!(outcome["errorReason"], "invalid_exact_evm_transfer_event_mismatch");
    shop.wait_state(PaymentState::Failed).await;
    assert_eq!(shop.priced_hits(), 0);
    let next = shop.call(&Call::get("/api/data")).await;
    assert!(next.status == 503 && !next.has_terms(), "{next:?}");
    shop
}

#[tokio::test]
async fn a_token_that_moves_nothing_buys_nothing() {
    sell_for("NoEffectToken").await.audit().await;
}

#[tokio::test]
async fn a_transfer_that_another_contract_tells_of_buys_nothing() {
    sell_for("ForeignLogToken").await.audit().await;
}

#[tokio::test]
async fn a_token_that_keeps_a_fee_buys_nothing() {
    let shop = sell_for("FeeOnTransferToken").await;
    let short: Vec<_> = shop.node.transfers().await.into_iter().map(|transfer| transfer.transaction).collect();
    assert_eq!(short.len(), 1);
    shop.audit_but(&short).await;
}

#[tokio::test]
async fn a_used_nonce_that_the_token_lets_pass_buys_nothing() {
    let mut shop = Shop::open().await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    shop.node.place("SilentNonceToken", USDC).await;
    // Without its books the gateway has only the chain to go by.
    shop.gateway().kill();
    for file in ["tollhouse.db", "tollhouse.db-wal", "tollhouse.db-shm"] {
        let _absent = std::fs::remove_file(shop.ledger_file().with_file_name(file));
    }
    shop.start().await;
    let answer = shop.present(&payment.v1()).await;
    assert_ne!(answer.status, 200, "{answer:?}");
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 1));
}

#[tokio::test]
async fn a_token_that_burns_gas_burns_no_more_than_the_cap() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.node.place("GasBombToken", USDC).await;
    shop.present_until_decided(&payment.v2()).await;
    for params in shop.rpc.calls("eth_sendRawTransaction") {
        let raw = alloy::hex::decode(params[0].as_str().unwrap()).unwrap();
        let transaction = TxEnvelope::decode_2718(&mut raw.as_slice()).unwrap();
        assert!(transaction.gas_limit() <= GAS_MAX, "{}", transaction.gas_limit());
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_token_that_is_paused_refuses_the_payer_and_costs_nothing() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    // setPaused(true)
    let data = [&alloy::primitives::keccak256("setPaused(bool)")[..4], &[0; 31], &[1]].concat();
    shop.node.transact(data, None).await;
    let answer = shop.present(&payment.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_evm_transaction_simulation_failed");
    assert!(answer.outcome().is_none());
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_paused_token_leaves_the_offers_after_three_payers_and_the_others_stay() {
    let second = address!("00000000000000000000000000000000000c0ffe");
    let asset = format!("{{ address = \"{second}\", decimals = 6, name = \"USDC\", version = \"2\" }}");
    let routes = "\"GET /api/data\" = \"$0.01\"\n\"GET /api/other\" = \"10000 OTHER\"\n".to_owned();
    let mut shop = Shop::build(Plan { routes, network: format!("assets.OTHER = {asset}"), ..Plan::default() }).await;
    shop.node.place("TestUSDC", second).await;
    shop.start().await;
    let terms = shop.terms().await;
    let payers: Vec<_> = (0..4).map(|_| Payer::random()).collect();
    for payer in &payers {
        shop.node.mint(payer.address, PRICE).await;
    }
    // setPaused(true)
    let data = [&alloy::primitives::keccak256("setPaused(bool)")[..4], &[0; 31], &[1]].concat();
    shop.node.transact(data, None).await;
    for payer in &payers[..2] {
        let answer = shop.present(&payer.pay(&terms).v2()).await;
        assert_eq!(answer.json()["error"], "invalid_exact_evm_transaction_simulation_failed", "{answer:?}");
    }
    // The third has no terms to be given any more.
    assert_eq!(shop.present(&payers[2].pay(&terms).v2()).await.status, 503);
    let simulated = shop.rpc.count("eth_estimateGas");
    let unpaid = shop.call(&Call::get("/api/data")).await;
    assert!(unpaid.status == 503 && !unpaid.has_terms(), "{unpaid:?}");
    let late = shop.present(&payers[3].pay(&terms).v2()).await;
    assert!(late.status == 503 && !late.has_terms(), "{late:?}");
    assert_eq!(shop.rpc.count("eth_estimateGas"), simulated, "a closed token is not asked");
    Terms::read(&shop.call(&Call::get("/api/other")).await);
    assert_eq!(Call::local("/readyz").send(shop.admin_port).await.unwrap().status, 200);
    shop.assert_untouched().await;
    shop.audit().await;
}
