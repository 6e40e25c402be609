//! Blocks that the chain takes back after a payment was recorded as paid (threats B17, E10).

use std::time::Duration;

use alloy::primitives::U256;
use serde_json::{Value, json};
use tollhouse::ledger::{PaymentRecord, PaymentState};

use crate::harness::{Call, Fault, Payment, Plan, Postgres, Shop, Terms, eventually};
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

/// Buys, takes the settlement's block back, and has the next payment wait for the account nonce that is missing now. Nobody
/// settles the first one again by itself: who would, is held up.
async fn lose_a_nonce(more_failpoints: &str, ledger: Option<String>) -> (Shop, Payment, Payment) {
    let failpoints = format!("mid_reorg=sleep(60000){more_failpoints}");
    let network = "settle_timeout = \"3s\"".to_owned();
    let shop = Shop::open_with(Plan { failpoints, network, ledger, ..Plan::default() }).await;
    let undone = shop.buy().await;
    shop.wait_booked().await;
    take_back(&shop, None).await;
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    let next = shop.payment().await;
    assert_eq!(shop.present(&next.v2()).await.error(), "settlement_pending");
    (shop, undone, next)
}

/// Each account nonce was used for one thing: the payment that it was written down for.
fn assert_nothing_else_was_sent(shop: &Shop) {
    let mut sent = shop.rpc.calls("eth_sendRawTransaction");
    sent.sort_by_key(Value::to_string);
    sent.dedup();
    assert_eq!(sent.len(), 2, "{sent:?}");
}

async fn gets_its_payment_back(ledger: Option<String>) {
    let (shop, undone, next) = lose_a_nonce("", ledger).await;
    eventually("the settlement mined again", Duration::from_secs(40), || async {
        (shop.node.transfers().await.len() == 2).then_some(())
    })
    .await;
    assert_eq!(shop.present_until_decided(&next.v2()).await.status, 200);
    Terms::read(&shop.present(&undone.v2()).await);
    assert_nothing_else_was_sent(&shop);
    assert_eq!(shop.rows().await.len(), 2);
}

#[tokio::test]
async fn an_account_nonce_that_a_reorg_set_free_gets_the_payment_that_it_was_of() {
    gets_its_payment_back(None).await;
}

#[tokio::test]
async fn an_account_nonce_that_a_reorg_set_free_gets_its_payment_on_postgres_too() {
    let postgres = Postgres::start().await;
    gets_its_payment_back(Some(postgres.url())).await;
}

/// Payments over several blocks, all of which the chain takes back, account nonces and all: they come back together, and not one
/// after the other, each after the time that a lost nonce is given.
#[tokio::test]
async fn all_account_nonces_that_a_reorg_set_free_get_their_payments_at_once() {
    const UNDONE: usize = 5;
    // Nobody settles them again by itself.
    let failpoints = "bug_watch_nothing=return".to_owned();
    let network = "settle_timeout = \"3s\"".to_owned();
    let shop = Shop::open_with(Plan { failpoints, network, ..Plan::default() }).await;
    let before = number(&shop.node.rpc("eth_blockNumber", json!([])).await);
    for _ in 0..UNDONE {
        shop.buy().await;
    }
    eventually("all in the books", Duration::from_secs(20), || async {
        let rows = shop.rows().await;
        rows.iter().all(|row| row.state == PaymentState::Served).then_some(())
    })
    .await;
    shop.node.rpc("evm_setIntervalMining", json!([0])).await;
    let head = number(&shop.node.rpc("eth_blockNumber", json!([])).await);
    shop.node.rpc("anvil_reorg", json!([head - before, []])).await;
    assert_eq!(shop.node.transfers().await, []);
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    let next = shop.payment().await;
    assert_eq!(shop.present(&next.v2()).await.error(), "settlement_pending");
    eventually("all settlements mined again", Duration::from_secs(60), || async {
        (shop.node.transfers().await.len() == UNDONE + 1).then_some(())
    })
    .await;
    assert_eq!(shop.present_until_decided(&next.v2()).await.status, 200);
    let sent = shop.rpc.calls("eth_sendRawTransaction");
    let (lost, later) = sent.split_at(UNDONE);
    // Sent one after the other, each when it is missed, others would lie between them.
    let back: Vec<&Value> = later.iter().skip_while(|raw| !lost.contains(raw)).take(UNDONE).collect();
    assert_eq!(back, lost.iter().collect::<Vec<_>>());
    let mut others: Vec<&Value> = later.iter().filter(|raw| !lost.contains(raw)).collect();
    others.dedup();
    assert_eq!(others.len(), 1, "only the next payment's own: {others:?}");
}

#[tokio::test]
async fn killed_before_what_a_reorg_lost_is_sent_again_the_next_run_sends_it() {
    let (mut shop, undone, next) = lose_a_nonce(";mid_mend=return", None).await;
    assert!(!shop.gateway().wait_end().await.success());
    assert_eq!(shop.node.transfers().await, []);
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    shop.restart().await;
    assert_eq!(shop.present_until_decided(&next.v2()).await.status, 200);
    eventually("both settlements", Duration::from_secs(40), || async {
        (shop.node.transfers().await.len() == 2).then_some(())
    })
    .await;
    Terms::read(&shop.present(&undone.v2()).await);
    assert_nothing_else_was_sent(&shop);
    shop.wait_booked().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_is_undone_for_good_is_written_off_and_never_charged_again() {
    let shop = Shop::open().await;
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
    assert!(shop.log().contains("won't move its money again"));
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
