//! Payments on a Cosmos chain: the happy path, the holes of protocol §5.3, crashes, and outcomes that nobody knows.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use serde_json::json;
use tollhouse::devnet::cosmos::{COSMOS_DENOM, CallFault, Dialect, EventForm};
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, CosmosPlan, CosmosShop, Transfer, Wallet, cosmos_header, encode, eventually};

/// Every release that the gateway is made for, with every way of writing events.
const RELEASES: [(Dialect, EventForm); 4] = [
    (Dialect::Sdk053, EventForm::Plain),
    (Dialect::Sdk043, EventForm::Plain),
    (Dialect::Sdk043, EventForm::Base64),
    (Dialect::Sdk043, EventForm::LogsOnly),
];

#[tokio::test]
async fn a_signed_transfer_buys_one_answer_from_every_release_in_either_sign_mode() {
    for (dialect, events) in RELEASES {
        for amino in [false, true] {
            let shop = CosmosShop::open_with(CosmosPlan { dialect, events, ..CosmosPlan::default() }).await;
            let mut transfer = shop.transfer();
            transfer.memo = "<order> & \"7\"".to_owned();
            let bytes = if amino { transfer.amino() } else { transfer.direct() };
            let header = cosmos_header(&shop.offer().await, &bytes);
            let answer = shop.present(&header).await;
            assert_eq!(answer.status, 200, "{dialect:?} {events:?} amino: {amino}: {answer:?}");
            let outcome = answer.outcome().unwrap();
            assert_eq!((&outcome["success"], &outcome["network"]), (&json!(true), &json!("cosmos:grand-1")));
            assert_eq!(outcome["payer"], shop.payer.address());
            assert_eq!(shop.present(&header).await.error(), "payment_already_used");
            assert_eq!((shop.earned(), shop.hits(), shop.chain.delivered().len()), (10_000, 1, 1));
            shop.wait_state(PaymentState::Served).await;
            shop.audit().await;
        }
    }
}

#[tokio::test]
async fn one_payment_is_one_payment_in_v1_and_v2() {
    let shop = CosmosShop::open().await;
    let (offer, bytes) = (shop.offer().await, shop.transfer().direct());
    let v2 = cosmos_header(&offer, &bytes);
    let v1 = json!({"x402Version": 1, "scheme": "exact", "network": "cosmos:grand-1",
        "payload": {"transaction": STANDARD.encode(&bytes)}});
    let v1 = ("X-PAYMENT", encode(&v1));
    let answer = shop.present(&v1).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(shop.present(&v2).await.error(), "payment_already_used");
    // A payer's payments follow each other.
    shop.buy().await;
    assert_eq!((shop.earned(), shop.hits()), (20_000, 2));
    shop.audit().await;
}

#[tokio::test]
async fn two_hundred_copies_of_one_payment_buy_one_answer() {
    let shop = CosmosShop::open().await;
    let header = shop.payment().await;
    let answers = join_all((0..200).map(|_| shop.try_present(&header))).await;
    let served = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)).count();
    assert_eq!(served, 1);
    assert_eq!((shop.earned(), shop.hits(), shop.rows().await.len()), (10_000, 1, 1));
    shop.audit().await;
}

#[tokio::test]
async fn a_wrong_transaction_is_refused_for_the_right_reason_and_reaches_no_chain() {
    let shop = CosmosShop::open().await;
    shop.buy().await;
    let sent = shop.chain.broadcasts().len();
    let offer = shop.offer().await;
    type Spoil = fn(&mut Transfer);
    let rows: [(&str, Spoil); 13] = [
        ("sequence_mismatch", |transfer| transfer.sequence += 1),
        ("fee", |transfer| transfer.fee = 9_999),
        ("signature", |transfer| transfer.chain_id = "noble-1".to_owned()),
        ("signature", |transfer| transfer.account_number += 1),
        ("signature", |transfer| transfer.signing_seed = 9),
        ("denom_mismatch", |transfer| transfer.denom = "uatom".to_owned()),
        ("denom_mismatch", |transfer| transfer.denom = "UUSDC".to_owned()),
        ("amount_mismatch", |transfer| transfer.amount = 9_999),
        ("amount_mismatch", |transfer| transfer.amount = 10_001),
        ("recipient_mismatch", |transfer| transfer.to = Wallet::new(33).address()),
        ("timeout_height", |transfer| transfer.timeout_height = 1),
        ("memo_mismatch", |transfer| transfer.memo = "m".repeat(257)),
        ("message_type", |transfer| transfer.type_url = "/cosmos.bank.v1beta1.MsgMultiSend".to_owned()),
    ];
    for (reason, spoil) in rows {
        let mut transfer = shop.transfer();
        spoil(&mut transfer);
        for bytes in [transfer.direct(), transfer.amino()] {
            let answer = shop.present(&cosmos_header(&offer, &bytes)).await;
            assert_eq!((answer.status, answer.error()), (402, format!("invalid_exact_cosmos_{reason}")));
        }
    }
    // The first payment's sequence: whatever is in it, it is that payment.
    let mut stale = shop.transfer();
    (stale.sequence, stale.memo) = (0, "stale".to_owned());
    assert_eq!(shop.present(&cosmos_header(&offer, &stale.direct())).await.error(), "payment_already_used");
    let mut stranger = Transfer::new(&Wallet::new(44), &shop.pay_to, 0, 0);
    stranger.amount = 10_000;
    let answer = shop.present(&cosmos_header(&offer, &stranger.direct())).await;
    assert_eq!(answer.error(), "invalid_exact_cosmos_account_not_found");
    assert_eq!((shop.chain.broadcasts().len(), shop.hits(), shop.rows().await.len()), (sent, 1, 1));
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payer_who_has_too_little_is_told_so() {
    let shop = CosmosShop::open().await;
    let held = shop.chain.balance(&shop.payer.address(), COSMOS_DENOM);
    let transfer = shop.transfer();
    // Enough for the amount, and not for the fee as well.
    shop.chain.take(&shop.payer.address(), COSMOS_DENOM, held - transfer.amount - transfer.fee + 1).unwrap();
    let answer = shop.present(&cosmos_header(&shop.offer().await, &transfer.direct())).await;
    assert_eq!((answer.status, answer.error().as_str()), (402, "invalid_exact_cosmos_insufficient_balance"));
    assert!(shop.chain.broadcasts().is_empty());
    shop.audit().await;
}

/// Presents a payment and comes back when it waits for a block.
async fn present_until_waiting(shop: &CosmosShop, header: &(&'static str, String)) {
    let client = shop.present(header);
    let waiting = eventually("the transfer to wait for a block", Duration::from_secs(10), || async {
        (shop.chain.waiting() == 1).then_some(())
    });
    tokio::select! {
        answer = client => panic!("answered without a block: {answer:?}"),
        () = waiting => {}
    }
}

/// Why a payment that was claimed failed.
fn refusal(answer: &Answer) -> String {
    let outcome = answer.outcome().unwrap_or_default();
    outcome["errorReason"].as_str().map_or_else(|| answer.error(), str::to_owned)
}

/// A chain that makes no blocks by itself, kept going until the gateway has its answer.
async fn blocks_until<T>(shop: &CosmosShop, work: impl Future<Output = T>) -> T {
    let blocks = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            shop.chain.produce_block();
        }
    };
    tokio::select! {
        done = work => done,
        () = blocks => unreachable!("blocks go on"),
    }
}

#[tokio::test]
async fn an_overspend_that_the_mempool_accepted_is_a_failed_payment() {
    for dialect in [Dialect::Sdk053, Dialect::Sdk043] {
        let shop = CosmosShop::open_with(CosmosPlan { block_time: None, dialect, ..CosmosPlan::default() }).await;
        let transfer = shop.transfer();
        let header = cosmos_header(&shop.offer().await, &transfer.direct());
        present_until_waiting(&shop, &header).await;
        // The money goes elsewhere before the block is made; the fee's is left.
        let held = shop.chain.balance(&shop.payer.address(), COSMOS_DENOM);
        shop.chain.take(&shop.payer.address(), COSMOS_DENOM, held - transfer.fee).unwrap();
        let answer = blocks_until(&shop, shop.present_until_decided(&header)).await;
        assert_eq!((answer.status, refusal(&answer)), (402, "invalid_exact_cosmos_insufficient_balance".to_owned()));
        assert_eq!(shop.chain.delivered()[0].code, 5);
        assert_eq!((shop.earned(), shop.hits()), (0, 0));
        shop.wait_state(PaymentState::Failed).await;
        // Its sequence is used up; the next payment has the next one.
        shop.chain.fund(&shop.payer.address(), COSMOS_DENOM, 100_000).unwrap();
        let next = shop.payment().await;
        assert_eq!(blocks_until(&shop, shop.present_until_decided(&next)).await.status, 200);
        shop.audit().await;
    }
}

#[tokio::test]
async fn a_transfer_that_runs_out_of_gas_in_its_block_is_a_failed_payment() {
    let shop = CosmosShop::open().await;
    let mut transfer = shop.transfer();
    // Less than the simulation asks for is refused before it is sent.
    transfer.gas_limit = 60_000;
    let answer = shop.present(&cosmos_header(&shop.offer().await, &transfer.direct())).await;
    assert_eq!((answer.status, answer.error().as_str()), (402, "invalid_exact_cosmos_fee"));
    assert!(shop.chain.broadcasts().is_empty());
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_whose_outcome_nobody_tells_is_pending_and_then_served() {
    for dialect in [Dialect::Sdk053, Dialect::Sdk043] {
        let shop = CosmosShop::open_with(CosmosPlan { dialect, ..CosmosPlan::default() }).await;
        let header = shop.payment().await;
        shop.chain.faults().set("BroadcastTx", CallFault::DropAnswer, 1000);
        // The one before the claim is answered: no such transaction yet.
        let pending = async {
            eventually("the broadcast", Duration::from_secs(10), || async {
                (!shop.chain.broadcasts().is_empty()).then_some(())
            })
            .await;
            shop.chain.faults().set("GetTx", CallFault::Unavailable, 1_000_000);
        };
        let (answer, ()) = tokio::join!(shop.present(&header), pending);
        if answer.status != 200 {
            assert_eq!((answer.status, answer.has_terms()), (503, false), "{answer:?}");
            assert_eq!(answer.outcome().unwrap()["errorReason"], "settlement_pending");
            assert_eq!(shop.hits(), 0);
            assert_eq!(shop.present(&header).await.status, 503);
        }
        shop.chain.faults().clear();
        let answer = shop.present_until_decided(&header).await;
        assert!(answer.status == 200 || answer.error() == "payment_already_used", "{answer:?}");
        assert_eq!((shop.earned(), shop.hits()), (10_000, 1));
        shop.audit().await;
    }
}

#[tokio::test]
async fn a_payment_that_a_node_forgot_is_sent_again() {
    let shop = CosmosShop::open_with(CosmosPlan { block_time: None, ..CosmosPlan::default() }).await;
    let header = shop.payment().await;
    present_until_waiting(&shop, &header).await;
    shop.chain.forget_mempool();
    assert_eq!(shop.chain.waiting(), 0);
    let answer = blocks_until(&shop, shop.present_until_decided(&header)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let broadcasts = shop.chain.broadcasts();
    assert!(broadcasts.len() > 1 && broadcasts.iter().all(|bytes| *bytes == broadcasts[0]));
    assert_eq!((shop.earned(), shop.hits()), (10_000, 1));
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_timed_out_is_proven_failed_and_its_sequence_is_welcome_again() {
    let shop = CosmosShop::open().await;
    let mut transfer = shop.transfer();
    transfer.timeout_height = shop.chain.height() + 30;
    let header = cosmos_header(&shop.offer().await, &transfer.direct());
    // No node takes it.
    shop.chain.faults().set("BroadcastTx", CallFault::Unavailable, 1_000_000);
    let pending = shop.present(&header).await;
    assert_eq!((pending.status, pending.has_terms()), (503, false), "{pending:?}");
    let answer = shop.present_until_decided(&header).await;
    assert_eq!((answer.status, refusal(&answer)), (402, "payment_expired".to_owned()), "{answer:?}");
    assert!(answer.has_terms());
    assert_eq!((shop.earned(), shop.hits()), (0, 0));
    shop.wait_state(PaymentState::Failed).await;
    shop.chain.faults().clear();
    let next = shop.transfer();
    assert_eq!(next.sequence, transfer.sequence);
    let answer = shop.present(&cosmos_header(&shop.offer().await, &next.direct())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((shop.earned(), shop.hits()), (10_000, 1));
    shop.audit().await;
}

/// Presents a payment to a gateway that dies at this point, starts it again and presents the payment again: it is served
/// without a second charge, and then spent.
async fn killed_at(point: &str, hits: usize) {
    let failpoints = format!("{point}=return");
    let mut shop = CosmosShop::open_with(CosmosPlan { failpoints, ..CosmosPlan::default() }).await;
    let header = shop.payment().await;
    // The client may have its answer already when the gateway dies.
    let _lost = shop.try_present(&header).await;
    assert!(!shop.gateway().wait_end().await.success(), "{point} was not passed");
    shop.restart().await;
    let answer = shop.present_until_decided(&header).await;
    assert_eq!(answer.status, 200, "{point}: {answer:?}");
    assert_eq!((shop.earned(), shop.hits()), (10_000, hits), "{point}");
    shop.wait_state(PaymentState::Served).await;
    assert_eq!(shop.present(&header).await.error(), "payment_already_used");
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn killed_before_the_claim_nothing_happened() {
    for point in ["pre_m0", "post_m0", "post_verify"] {
        killed_at(point, 1).await;
    }
}

#[tokio::test]
async fn killed_between_claim_and_record_the_payment_is_settled_by_the_next_run() {
    for point in ["post_w1_pre_send", "mid_send", "post_send", "post_confirm_pre_w2"] {
        killed_at(point, 1).await;
    }
}

#[tokio::test]
async fn killed_after_the_record_the_answer_is_still_owed() {
    for (point, hits) in [("post_w2", 1), ("pre_w3", 2)] {
        killed_at(point, hits).await;
    }
}
