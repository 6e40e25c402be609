//! Money moved, and the answer did not arrive.

use super::*;
use crate::payment::tests::chain::settlement;
use crate::protocol::Reason;

async fn undelivered(shop: &Shop, header: &str) {
    let mut first = receipt(shop.present(header).await);
    first.forwarding();
    drop(first);
    shop.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn an_undelivered_payment_is_presented_again_up_to_the_limit_and_then_owed() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    let mut second = receipt(shop.present(&header).await);
    assert_eq!(second.record().deliveries, 2);
    second.forwarding();
    drop(second);
    shop.reaches(&[PaymentState::Owed]).await;
    match shop.present(&header).await {
        Decision::Owed(response) => assert!(response.success),
        other => panic!("{other:?}"),
    }
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_delivery_that_never_reached_the_origin_is_not_counted() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    for _ in 0..5 {
        drop(receipt(shop.present(&header).await));
        shop.reaches(&[PaymentState::Paid]).await;
    }
    let mut last = receipt(shop.present(&header).await);
    assert_eq!(last.record().deliveries, 1);
    last.forwarding();
    last.served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_payment_may_be_presented_long_after_its_authorization_and_its_offer_ended() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    shop.clock.advance(Duration::from_secs(1800));
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn while_the_chain_has_taken_a_block_back_its_payments_buy_nothing() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    shop.chain.outcome.send_replace(None);
    let row = shop.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap().remove(0);
    shop.gate.settlements().restore(row);
    match shop.present(&header).await {
        Decision::Pending(response) => assert_eq!(response.transaction, "0xtx"),
        other => panic!("{other:?}"),
    }
    assert_eq!(shop.states().await, [PaymentState::Paid]);
    shop.chain.pays();
    shop.gate.drain(Duration::from_secs(5)).await;
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn what_an_origin_did_before_the_settlement_stays_counted_though_nobody_takes_the_answer() {
    for (has_reached_origin, deliveries) in [(true, 1), (false, 0)] {
        let shop = Shop::open().await;
        let header = v2_header(&payment("1", 10_000), 10_000, None);
        assert!(matches!(shop.present(&header).await, Decision::Pending(_)));
        let row = shop.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap().remove(0);
        let paid = shop.ledger.record_paid(&row.record, settlement(), true).await.unwrap();
        let (gone, _) = tokio::sync::oneshot::channel();
        shop.gate.settlements().hand_over(paid, Some(gone), has_reached_origin, None);
        for _ in 0..500 {
            let now = shop.ledger.get(&row.record).await.unwrap().unwrap();
            if now.state == PaymentState::Paid {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let now = shop.ledger.get(&row.record).await.unwrap().unwrap();
        assert_eq!((now.state, now.deliveries), (PaymentState::Paid, deliveries));
    }
}

#[tokio::test]
async fn after_the_window_an_undelivered_payment_is_owed() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    shop.clock.advance(Duration::from_secs(3700));
    assert!(matches!(shop.present(&header).await, Decision::Owed(_)));
    assert_eq!(shop.states().await, [PaymentState::Owed]);
}

#[tokio::test]
async fn an_undelivered_payment_buys_no_other_request() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    assert!(matches!(shop.present_as(&header, 2, HOME).await, Decision::BoundToOtherRequest));
    assert_eq!(shop.states().await, [PaymentState::Paid]);
}

#[tokio::test]
async fn only_who_knows_the_quote_may_present_a_payment_made_with_one() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    let stolen = [
        v2_header(&payment("1", 10_000), 10_000, None),
        v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60))),
        json!({"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":payment("1", 10_000)}).to_string(),
    ];
    for header in &stolen {
        assert!(matches!(shop.present(header).await, Decision::BoundToOtherRequest), "{header}");
    }
    receipt(shop.present_as(&header, 1, AWAY).await).served();
}

#[tokio::test]
async fn a_quote_proves_its_holder_even_after_the_route_was_renamed() {
    let mut shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    shop.rename_route("GET,HEAD /a");
    let forged = v2_header(&payment("1", 10_000), 10_000, Some("x"));
    assert!(matches!(shop.present(&forged).await, Decision::BoundToOtherRequest));
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn without_a_quote_only_the_same_address_may_present_it_again() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    undelivered(&shop, &header).await;
    assert!(matches!(shop.present_as(&header, 1, AWAY).await, Decision::BoundToOtherRequest));
    receipt(shop.present_as(&header, 1, HOME).await).served();
}

/// v1 names no terms, so nothing but the books says what such a payment was for.
#[tokio::test]
async fn a_v1_payment_is_good_for_its_answer_even_after_its_network_left_the_route() {
    let mut shop = Shop::open().await;
    shop.chain.pays();
    let v1 = |nonce| {
        json!({"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":payment(nonce, 10_000)}).to_string()
    };
    undelivered(&shop, &v1("1")).await;
    shop.offer_nothing();
    match shop.present(&v1("2")).await {
        Decision::Refused { reason: Reason::NoMatchingRequirements, .. } => {}
        other => panic!("a new payment was taken under terms of old: {other:?}"),
    }
    assert!(matches!(shop.present_as(&v1("1"), 2, HOME).await, Decision::BoundToOtherRequest));
    receipt(shop.present(&v1("1")).await).served();
    shop.reaches(&[PaymentState::Served]).await;
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_served_payment_is_used_for_every_request_and_everybody() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
    for (request, client) in [(1, HOME), (2, HOME), (1, AWAY)] {
        let decision = shop.present_as(&header, request, client).await;
        assert!(matches!(decision, Decision::Refused { reason: Reason::PaymentAlreadyUsed, .. }), "{decision:?}");
    }
}

#[tokio::test]
async fn deliveries_of_a_process_that_died_are_put_back_at_start() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    let mut first = receipt(shop.present(&header).await);
    first.forwarding();
    // A crash runs no destructor.
    std::mem::forget(first);
    assert_eq!(shop.states().await, [PaymentState::Delivering]);
    shop.gate.recover_deliveries().await.unwrap();
    assert_eq!(shop.states().await, [PaymentState::Paid]);
}

#[tokio::test]
async fn a_request_that_is_cancelled_while_its_delivery_is_counted_leaves_the_payment_good() {
    let shop = Arc::new(Shop::open().await);
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    undelivered(&shop, &header).await;
    let before = shop.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap()[0].deliveries;
    for micros in (0..3000).step_by(60) {
        let waiting = {
            let (shop, header) = (shop.clone(), header.clone());
            tokio::spawn(async move { drop(shop.present(&header).await) })
        };
        tokio::time::sleep(Duration::from_micros(micros)).await;
        waiting.abort();
        let _cancelled = waiting.await;
        shop.reaches(&[PaymentState::Paid]).await;
        // Long enough for a count that was on its way.
        tokio::time::sleep(Duration::from_millis(2)).await;
        shop.reaches(&[PaymentState::Paid]).await;
    }
    assert_eq!(shop.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap()[0].deliveries, before);
}
