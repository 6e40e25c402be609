//! Blocks that the chain takes back after a payment was recorded as paid (threats B17, E10).

use std::time::Duration;

use alloy::primitives::U256;
use serde_json::{Value, json};
use tollhouse::ledger::{PaymentRecord, PaymentState};

use crate::harness::{Call, Fault, Payment, Plan, Shop, Terms, eventually};
use crate::payers::cancel;

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse::<U256>().unwrap().to::<u64>()
}

/// The block that holds the shop's one transfer, if one does.
async fn block_of(shop: &Shop) -> Option<(u64, String)> {
    let transfers = shop.node.transfers().await;
    assert!(transfers.len() <= 1, "{transfers:?}");
    let receipt = shop.node.rpc("eth_getTransactionReceipt", json!([transfers.first()?.transaction])).await;
    Some((number(&receipt["blockNumber"]), receipt["blockHash"].as_str()?.to_owned()))
}

/// Takes back the transfer's block and all after it. `raw` is put into the new branch.
async fn take_back(shop: &Shop, raw: Option<Value>) -> (u64, String) {
    shop.node.rpc("evm_setIntervalMining", json!([0])).await;
    let old = block_of(shop).await.unwrap();
    let head = number(&shop.node.rpc("eth_blockNumber", json!([])).await);
    let pairs: Vec<Value> = raw.into_iter().map(|raw| json!([raw, 0])).collect();
    shop.node.rpc("anvil_reorg", json!([head - old.0 + 1, pairs])).await;
    assert!(block_of(shop).await.is_none_or(|new| new.1 != old.1), "the block is still there");
    old
}

/// Waits until the books name the block that the chain has now.
async fn settled_again(shop: &Shop, old: &(u64, String)) -> PaymentRecord {
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    eventually("the new block in the books", Duration::from_secs(20), || async {
        let row = shop.rows().await.remove(0);
        let block = block_of(shop).await?;
        let settlement = row.settlement.clone()?;
        (block.1 != old.1 && settlement.block_hash == block.1 && settlement.block == block.0).then_some(row)
    })
    .await
}

async fn assert_still_served_once(shop: &Shop, payment: &Payment) {
    Terms::read(&shop.present(&payment.v2()).await);
    let raw = shop.rpc.calls("eth_sendRawTransaction");
    assert!(raw.iter().all(|params| *params == raw[0]), "other bytes were sent");
    shop.assert_sold_once().await;
}

#[tokio::test]
async fn a_settlement_whose_block_is_taken_back_is_sent_again_and_charges_once() {
    let shop = Shop::open().await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let old = take_back(&shop, None).await;
    let row = settled_again(&shop, &old).await;
    assert_eq!((row.state, row.attempts.len()), (PaymentState::Served, 1));
    assert_still_served_once(&shop, &payment).await;
    assert!(shop.rpc.count("eth_sendRawTransaction") > 1);
    let metrics =
        String::from_utf8(Call::local("/metrics").send(shop.admin_port).await.unwrap().body.to_vec()).unwrap();
    assert!(metrics.contains("state=\"taken_back\""), "{metrics}");
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_moved_to_another_block_is_only_written_down() {
    let shop = Shop::open().await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let raw = shop.rpc.calls("eth_sendRawTransaction")[0][0].clone();
    let old = take_back(&shop, Some(raw)).await;
    assert!(block_of(&shop).await.is_some(), "it is in the new branch");
    settled_again(&shop, &old).await;
    assert_still_served_once(&shop, &payment).await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_gateway_killed_after_a_reorg_settles_again_at_its_next_start() {
    let mut shop = Shop::open_with(Plan { failpoints: "mid_reorg=return".to_owned(), ..Plan::default() }).await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let old = take_back(&shop, None).await;
    assert!(!shop.gateway().wait_end().await.success());
    assert_eq!(shop.node.transfers().await, []);
    shop.restart().await;
    let row = settled_again(&shop, &old).await;
    assert_eq!(row.state, PaymentState::Served);
    assert_still_served_once(&shop, &payment).await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_reorg_while_the_gateway_is_down_is_found_at_its_next_start() {
    let mut shop = Shop::open().await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    shop.gateway().kill();
    let old = take_back(&shop, None).await;
    shop.restart().await;
    settled_again(&shop, &old).await;
    assert_still_served_once(&shop, &payment).await;
    // The account nonce was not given away in between.
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_is_undone_for_good_is_written_off_and_never_charged_again() {
    let mut shop = Shop::open().await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    shop.rpc.set("eth_sendRawTransaction", Fault::Hold);
    take_back(&shop, None).await;
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    cancel(&shop, &payment).await;
    shop.rpc.clear();
    let row = shop.wait_state(PaymentState::Reorged).await;
    assert_eq!(row.failure.as_deref(), Some("invalid_exact_evm_authorization_canceled"));
    assert_eq!(shop.node.transfers().await, []);
    assert!(shop.gateway().log().contains("won't move its money again"));
    for _ in 0..2 {
        let answer = shop.present(&payment.v2()).await;
        Terms::read(&answer);
        assert_eq!(answer.outcome().unwrap()["success"], false);
    }
    assert_eq!((shop.priced_hits(), shop.rows().await.len()), (1, 1));
    // Only this payment is lost: the next one is taken.
    let other = crate::harness::Payer::random();
    shop.node.mint(other.address, crate::harness::PRICE).await;
    assert_eq!(shop.present(&other.pay(&shop.terms().await).v2()).await.status, 200);
    assert_eq!(shop.node.transfers().await.len(), 1);
}
