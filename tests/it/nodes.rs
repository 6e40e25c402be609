//! Nodes that are down, slow, lying, or cut off in the worst moment.

use std::time::Duration;

use alloy::primitives::U256;
use serde_json::{Value, json};
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Fault, PRICE, Payer, Plan, SIGNER_ADDRESS, Shop, Terms, USDC, eventually, paid};

fn quick() -> Plan {
    Plan { network: "settle_timeout = \"1s\"".to_owned(), ..Plan::default() }
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!((answer.status, answer.error().as_str()), (503, "payments_unavailable"), "{answer:?}");
    assert!(!answer.has_terms() && answer.outcome().is_none());
    assert!(answer.header("retry-after").is_some());
}

/// While receipts are withheld the answer is "pending" with the transaction, and never terms.
fn assert_pending(answer: &Answer) {
    assert_eq!((answer.status, answer.error().as_str()), (503, "settlement_pending"), "{answer:?}");
    assert!(!answer.has_terms());
    assert!(answer.header("retry-after").is_some());
    let outcome = answer.outcome().unwrap();
    assert_eq!(outcome["success"], false);
    assert_eq!(outcome["errorReason"], "settlement_pending");
    assert!(outcome["transaction"].as_str().unwrap().starts_with("0x"));
}

fn withhold_receipts(shop: &Shop) {
    shop.rpc.set("eth_getTransactionReceipt", Fault::Result(Value::Null));
    shop.rpc.set("eth_getBlockReceipts", Fault::Result(json!([])));
}

#[tokio::test]
async fn while_the_node_is_down_nothing_is_claimed_and_nobody_is_asked_to_pay() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set_all(Fault::Drop);
    assert_unavailable(&shop.present(&payment.v2()).await);
    shop.assert_untouched().await;
    eventually("the offer to be taken back", Duration::from_secs(10), || async {
        shop.present(&payment.v2()).await;
        let answer = shop.call(&Call::get("/api/data")).await;
        (answer.status == 503).then(|| assert!(!answer.has_terms()))
    })
    .await;
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    assert_eq!(shop.priced_hits(), 0);
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_node_that_answers_503_costs_nobody_anything() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_estimateGas", Fault::Unavailable);
    assert_unavailable(&shop.present(&payment.v2()).await);
    shop.assert_untouched().await;
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_simulation_that_fails_for_no_reason_of_the_payers_signs_nothing() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let errors = [(-32603, "internal error"), (-32005, "rate limit exceeded"), (-32000, "missing trie node")];
    for (code, message) in errors {
        shop.rpc.set("eth_estimateGas", Fault::Error(code, message));
        assert_unavailable(&shop.present(&payment.v2()).await);
    }
    for result in [json!("0x0"), json!("0xffffffffffff"), json!("lots"), json!(null)] {
        shop.rpc.set("eth_estimateGas", Fault::Result(result));
        assert_unavailable(&shop.present(&payment.v2()).await);
    }
    shop.assert_untouched().await;
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_slow_node_only_takes_longer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set_all(Fault::Delay(Duration::from_millis(700)));
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_node_that_hangs_is_given_up_before_anything_is_claimed() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set_all(Fault::Hold);
    assert_unavailable(&shop.present(&payment.v2()).await);
    shop.assert_untouched().await;
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_node_of_another_chain_keeps_the_gateway_from_starting() {
    let mut shop = Shop::build(Plan::default()).await;
    shop.rpc.set("eth_chainId", Fault::Result(json!("0x2105")));
    let mut gateway = shop.launch();
    assert!(!gateway.wait_end().await.success());
    let log = gateway.log();
    assert!(log.contains("8453") && log.contains("84532"), "{log}");
    shop.rpc.clear();
    shop.start().await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_token_that_is_not_as_configured_keeps_the_gateway_from_starting() {
    let mut shop = Shop::build(Plan::default()).await;
    for lie in ["0x", "0x6001600052602060006000f0"] {
        shop.node.rpc("anvil_setCode", json!([USDC, lie])).await;
        let mut gateway = shop.launch();
        assert!(!gateway.wait_end().await.success());
        let log = gateway.log().to_lowercase();
        assert!(log.contains(&USDC.to_string().to_lowercase()), "{log}");
    }
    shop.node.place("TestUSDC", USDC).await;
    shop.start().await;
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_node_that_turns_into_another_chains_is_asked_nothing_more() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_estimateGas", Fault::Drop);
    assert_unavailable(&shop.present(&payment.v2()).await);
    // It comes back as somebody else.
    shop.rpc.clear();
    shop.rpc.set("eth_chainId", Fault::Result(json!("0x1")));
    let asked = shop.rpc.count("eth_estimateGas");
    assert_unavailable(&shop.present(&payment.v2()).await);
    assert_eq!(shop.rpc.count("eth_estimateGas"), asked);
    shop.assert_untouched().await;
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn absurd_gas_prices_close_the_network_and_sign_nothing() {
    let mut shop = Shop::build(Plan::default()).await;
    // A million gwei.
    shop.rpc.set("eth_maxPriorityFeePerGas", Fault::Result(json!("0x38d7ea4c68000")));
    shop.start_until("/healthz").await;
    let answer = shop.call(&Call::get("/api/data")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.has_terms());
    assert_eq!(shop.rpc.count("eth_sendRawTransaction"), 0);
    shop.audit().await;
}

#[tokio::test]
async fn cut_off_after_the_node_took_the_transaction_is_still_one_transfer_and_an_answer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::LoseAnswer);
    let answer = shop.present(&payment.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn whatever_a_node_says_about_a_transaction_that_it_took_is_one_transfer_and_an_answer() {
    let shop = Shop::open().await;
    let lies = [
        (-32000, "already known"),
        (-32000, "nonce too low"),
        (-32000, "replacement transaction underpriced"),
        (-32603, "internal error"),
        (-32000, "insufficient funds for gas * price + value"),
    ];
    for (index, (code, message)) in lies.into_iter().enumerate() {
        shop.rpc.set("eth_sendRawTransaction", Fault::LieError(code, message));
        let payment = shop.payment().await;
        assert_eq!(shop.present(&payment.v2()).await.status, 200, "{message}");
        assert_eq!(shop.node.transfers().await.len(), index + 1, "{message}");
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_transaction_that_the_node_never_got_is_sent_again() {
    let shop = Shop::open().await;
    for fault in [Fault::Drop, Fault::Unavailable, Fault::Error(-32603, "internal error")] {
        let payment = shop.payment().await;
        let sent = shop.rpc.count("eth_sendRawTransaction");
        shop.rpc.set("eth_sendRawTransaction", fault.clone());
        let header = payment.v2();
        let (answer, ()) = tokio::join!(shop.present(&header), async {
            shop.rpc.wait_for("eth_sendRawTransaction", sent).await;
            shop.rpc.clear();
        });
        assert_eq!(answer.status, 200, "{fault:?}");
        let raw = shop.rpc.calls("eth_sendRawTransaction").split_off(sent);
        assert!(raw.len() > 1 && raw.iter().all(|params| *params == raw[0]), "other bytes were sent");
    }
    assert_eq!(shop.node.transfers().await.len(), 3);
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_can_not_be_seen_is_pending_and_later_answered_without_a_second_charge() {
    let shop = Shop::open_with(quick()).await;
    let payment = shop.payment().await;
    withhold_receipts(&shop);
    let answer = shop.present(&payment.v2()).await;
    assert_pending(&answer);
    let told = answer.outcome().unwrap()["transaction"].as_str().unwrap().to_owned();
    assert_pending(&shop.present(&payment.v2()).await);
    assert_eq!(shop.priced_hits(), 0);
    shop.rpc.clear();
    let answer = shop.present_until_decided(&payment.v2()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.outcome().unwrap()["transaction"], told.as_str());
    assert_eq!(shop.node.transfers().await[0].transaction, told);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_node_that_goes_down_after_the_send_leaves_the_payment_pending() {
    let shop = Shop::open_with(quick()).await;
    let payment = shop.payment().await;
    withhold_receipts(&shop);
    let header = payment.v2();
    let (answer, ()) = tokio::join!(shop.present(&header), async {
        shop.rpc.wait_for("eth_sendRawTransaction", 0).await;
        shop.rpc.set_all(Fault::Drop);
        shop.rpc.set("eth_getTransactionReceipt", Fault::Drop);
    });
    assert_pending(&answer);
    assert_pending(&shop.present(&payment.v2()).await);
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_settlement_that_reverts_is_answered_with_its_reason_and_fresh_terms() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.node.empty(shop.payer.address).await;
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    Terms::read(&answer);
    let outcome = answer.outcome().unwrap();
    assert_eq!(outcome["success"], false);
    assert_eq!(outcome["errorReason"], "invalid_exact_evm_transaction_failed");
    assert!(outcome["transaction"].as_str().unwrap().starts_with("0x"));
    shop.wait_state(PaymentState::Failed).await;
    let again = shop.present(&payment.v2()).await;
    Terms::read(&again);
    assert_eq!(again.outcome(), Some(outcome));
    assert_eq!(shop.priced_hits(), 0);
    assert_eq!(shop.node.transfers().await, []);
    // Who spoiled one settlement waits before the gateway signs another for it (threat C1); nobody else does. The account
    // nonce of the failed settlement is spent, so the next one must go on from there.
    shop.node.mint(shop.payer.address, PRICE).await;
    let sent = shop.rpc.count("eth_sendRawTransaction");
    assert_unavailable(&shop.present(&shop.payment().await.v2()).await);
    assert_eq!(shop.rpc.count("eth_sendRawTransaction"), sent);
    let other = Payer::random();
    shop.node.mint(other.address, PRICE).await;
    assert_eq!(shop.present(&other.pay(&shop.terms().await).v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_transaction_that_the_node_forgot_is_sent_again() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.node.rpc("evm_setIntervalMining", json!([0])).await;
    shop.node.rpc("evm_setAutomine", json!([false])).await;
    let header = payment.v2();
    let (answer, ()) = tokio::join!(shop.present(&header), async {
        let pooled = eventually("the transaction in the pool", Duration::from_secs(10), || async {
            let pool = shop.node.rpc("txpool_content", json!([])).await;
            let own = pool["pending"].as_object()?.values().next()?.as_object()?.values().next()?["hash"].clone();
            Some(own)
        })
        .await;
        assert_eq!(shop.node.rpc("anvil_dropTransaction", json!([pooled])).await, pooled);
        shop.node.rpc("evm_setAutomine", json!([true])).await;
        shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(shop.rpc.count("eth_sendRawTransaction") > 1);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_block_that_the_chain_takes_back_before_it_counts_as_settled_buys_nothing_yet() {
    let plan = Plan { network: "confirmations = 4".to_owned(), ..Plan::default() };
    let shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let header = payment.v2();
    let (answer, ()) = tokio::join!(shop.present(&header), async {
        eventually("the transfer", Duration::from_secs(10), || async {
            (!shop.node.transfers().await.is_empty()).then_some(())
        })
        .await;
        // Down to the transfer's block and no deeper: the payer's money is in the one before.
        shop.node.rpc("evm_setIntervalMining", json!([0])).await;
        let transaction = &shop.node.transfers().await[0].transaction;
        let receipt = shop.node.rpc("eth_getTransactionReceipt", json!([transaction])).await;
        let head = shop.node.rpc("eth_blockNumber", json!([])).await;
        let number = |value: &Value| value.as_str().unwrap().parse::<U256>().unwrap().to::<u64>();
        let depth = number(&head) - number(&receipt["blockNumber"]) + 1;
        shop.node.rpc("anvil_reorg", json!([depth, []])).await;
        assert_eq!(shop.node.transfers().await, [], "the block is still there");
        assert_eq!(shop.priced_hits(), 0, "served before it was settled");
        shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_gas_payer_without_gas_closes_the_network() {
    let mut shop = Shop::build(Plan::default()).await;
    shop.node.rpc("anvil_setBalance", json!([SIGNER_ADDRESS, "0x1"])).await;
    shop.start_until("/healthz").await;
    let answer = shop.call(&Call::get("/api/data")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.has_terms());
    shop.audit().await;
}

#[tokio::test]
async fn an_account_nonce_that_somebody_else_took_costs_the_payer_nothing_and_stops_nobody() {
    let shop = Shop::open_with(quick()).await;
    let payment = shop.payment().await;
    // The gas payer's key is used elsewhere too, which it never should be.
    shop.node.rpc("anvil_impersonateAccount", json!([SIGNER_ADDRESS])).await;
    shop.node.mint_from(SIGNER_ADDRESS, shop.payer.address, 1).await;
    assert_pending(&shop.present(&payment.v2()).await);
    let answer = shop.present_until_decided(&payment.v2()).await;
    let is_sold = answer.status == 200;
    assert!(is_sold || (answer.status == 402 && answer.outcome().is_some()), "{answer:?}");
    assert_eq!(shop.node.transfers().await.len(), usize::from(is_sold));
    let next = shop.payment().await;
    assert_eq!(shop.present_until_decided(&next.v2()).await.status, 200);
    shop.audit().await;
}
