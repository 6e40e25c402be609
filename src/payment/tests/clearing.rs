//! Payments of other resource servers.

use super::*;
use crate::ledger::PaymentFilter;
use crate::payment::tests::chain::settlement;
use crate::protocol::{FacilitatorRequest, Reason};

fn clearing(shop: &Shop) -> Clearing {
    Clearing::new(Arc::clone(&shop.gate), vec![payable()], Vec::new())
}

fn payable() -> Payable {
    Payable { terms: terms(0), wait_for: WaitFor::Confirmed, decimals: 6, ceiling: Some("100".parse().unwrap()) }
}

fn request(payload: &Value, change: impl FnOnce(&mut Value)) -> FacilitatorRequest {
    let terms = serde_json::to_value(terms(10_000)).unwrap();
    let mut body = json!({"x402Version":2,"paymentPayload":{"x402Version":2,"accepted":terms,"payload":payload},
        "paymentRequirements":terms});
    change(&mut body["paymentRequirements"]);
    FacilitatorRequest::read(body.to_string().as_bytes()).unwrap()
}

#[tokio::test]
async fn verifying_claims_nothing_and_settling_is_told_once() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let (clearing, request) = (clearing(&shop), request(&payment("1", 10_000), |_| {}));
    for _ in 0..3 {
        assert!(matches!(clearing.verify(&request).await, Verdict::Valid { .. }));
    }
    assert_eq!(shop.states().await, []);
    assert_eq!(shop.chain.plans_held(), 0, "a verified payment holds no lane and no balance");
    let outcome = clearing.settle(&request).await;
    assert!(outcome.response.success);
    assert_eq!((outcome.response.transaction.as_str(), outcome.block), ("0xtx", Some(settlement().block)));
    assert_eq!(shop.states().await, [PaymentState::Served], "it is written before it is told");
    let again = clearing.settle(&request).await;
    assert!(!again.response.success);
    assert_eq!(
        (again.response.error_reason, again.response.transaction.as_str()),
        (Some("duplicate_settlement"), "0xtx")
    );
    assert!(matches!(clearing.verify(&request).await, Verdict::Invalid { reason: Reason::PaymentAlreadyUsed, .. }));
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_outcome_that_nobody_came_for_is_told_later_and_the_proxy_gives_nothing_for_it() {
    let shop = Shop::open().await;
    let (clearing, payload) = (clearing(&shop), payment("1", 10_000));
    let pending = clearing.settle(&request(&payload, |_| {})).await.response;
    assert_eq!((pending.success, pending.error_reason), (false, Some("settlement_pending")));
    assert_eq!(pending.transaction, "0xtx");
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
    let header = v2_header(&payload, 10_000, Some(&shop.quote(10_000, 60)));
    assert!(matches!(shop.present(&header).await, Decision::BoundToOtherRequest));
    // Long after the authorization ended it is still the same payment.
    shop.clock.advance(Duration::from_secs(600));
    assert!(matches!(clearing.verify(&request(&payload, |_| {})).await, Verdict::Valid { .. }));
    assert!(clearing.settle(&request(&payload, |_| {})).await.response.success);
    assert!(matches!(
        shop.present(&header).await,
        Decision::Refused { reason: Reason::PaymentAlreadyUsed, outcome: None }
    ));
}

#[tokio::test]
async fn whom_the_configuration_names_no_more_gets_nothing_new_and_old_outcomes_are_still_told() {
    let shop = Shop::open().await;
    let (clearing, first, second) =
        (clearing(&shop), request(&payment("1", 10_000), |_| {}), request(&payment("2", 10_000), |_| {}));
    assert_eq!(clearing.settle(&first).await.response.error_reason, Some("settlement_pending"));
    clearing.replace(Vec::new(), Vec::new());
    assert_eq!(clearing.networks(), []);
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
    assert_eq!(clearing.settle(&second).await.response.error_reason, Some("invalid_payment_requirements"));
    assert!(clearing.settle(&first).await.response.success);
    assert_eq!(shop.states().await, [PaymentState::Served]);
    clearing.replace(vec![payable()], Vec::new());
    assert!(clearing.settle(&second).await.response.success);
}

#[tokio::test]
async fn an_outcome_that_nobody_came_for_in_time_is_owed() {
    let shop = Shop::open().await;
    let (clearing, request) = (clearing(&shop), request(&payment("1", 10_000), |_| {}));
    assert_eq!(clearing.settle(&request).await.response.error_reason, Some("settlement_pending"));
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
    shop.clock.advance(Duration::from_secs(7200));
    shop.gate.sweep().await;
    let outcome = clearing.settle(&request).await.response;
    assert_eq!((outcome.success, outcome.error_reason), (false, Some("payment_owed")));
    assert_eq!(outcome.transaction, "0xtx");
}

#[tokio::test]
async fn a_proven_failure_is_told_again_and_not_settled_again() {
    let shop = Shop::open().await;
    shop.chain.fails();
    let (clearing, request) = (clearing(&shop), request(&payment("1", 10_000), |_| {}));
    for _ in 0..2 {
        let outcome = clearing.settle(&request).await;
        assert_eq!(outcome.response.error_reason, Some("invalid_exact_evm_transaction_failed"));
        assert!(!outcome.response.success && !outcome.is_unavailable);
    }
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_not_a_resource_servers_to_set_is_refused_before_the_payment_is_read() {
    let shop = Shop::open().await;
    let clearing = clearing(&shop);
    for (key, value, reason) in [
        ("payTo", json!("0xOther"), Reason::InvalidRequirements),
        ("asset", json!("0xOther"), Reason::InvalidRequirements),
        ("amount", json!("0"), Reason::InvalidRequirements),
        ("amount", json!("100000001"), Reason::InvalidRequirements),
        ("network", json!("eip155:1"), Reason::InvalidNetwork),
        ("scheme", json!("upto"), Reason::UnsupportedScheme),
        ("extra", json!({"memo": 5}), Reason::InvalidRequirements),
        ("extra", json!({"memo": "x".repeat(257)}), Reason::InvalidRequirements),
    ] {
        let request = request(&payment("1", 10_000), |terms| terms[key] = value.clone());
        let verdict = clearing.verify(&request).await;
        assert_eq!(verdict, Verdict::Invalid { reason, payer: None }, "{key} {value}");
        assert_eq!(clearing.settle(&request).await.response.error_reason, Some(reason.as_str()), "{key} {value}");
    }
    assert_eq!(shop.chain.simulates.load(Ordering::SeqCst), 0);
    assert_eq!(shop.states().await, []);
}

#[tokio::test]
async fn the_terms_in_the_books_are_ours_but_for_price_time_and_memo() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let clearing = clearing(&shop);
    let request = request(&payment("1", 10_000), |terms| {
        terms["maxTimeoutSeconds"] = 7.into();
        terms["extra"] = json!({"name": "Mine", "version": "9", "memo": "order 5", "feePayer": "me"});
    });
    assert!(clearing.settle(&request).await.response.success);
    let [row] = &shop.ledger.list(&PaymentFilter::default()).await.unwrap()[..] else { panic!("not one row") };
    let terms: Value = serde_json::from_str(&row.claim.terms).unwrap();
    assert_eq!(terms["extra"], json!({"name": "USDC", "version": "2", "memo": "order 5"}));
    assert_eq!((&terms["amount"], &terms["maxTimeoutSeconds"]), (&json!("10000"), &json!(7)));
    assert_eq!(row.claim.route, "facilitator");
}

#[tokio::test]
async fn a_closed_network_is_our_affair_and_not_the_payers() {
    let shop = Shop::open().await;
    shop.chain.is_open.store(false, Ordering::SeqCst);
    let (clearing, request) = (clearing(&shop), request(&payment("1", 10_000), |_| {}));
    assert_eq!(clearing.verify(&request).await, Verdict::Unavailable);
    let outcome = clearing.settle(&request).await;
    assert!(outcome.is_unavailable && !outcome.response.success);
    assert_eq!(shop.states().await, []);
}
