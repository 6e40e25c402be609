//! Claim, settle, and what the client hears meanwhile.

use super::*;
use crate::protocol::Reason;

#[tokio::test]
async fn a_payment_buys_one_answer() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    let mut paid = receipt(shop.present(&header).await);
    assert_eq!(paid.transaction(), "0xtx");
    assert!(paid.response().success);
    paid.forwarding();
    paid.served();
    let again = shop.present(&header).await;
    assert!(matches!(again, Decision::Refused { reason: Reason::PaymentAlreadyUsed, outcome: None }), "{again:?}");
    assert_eq!(shop.states().await, [PaymentState::Served]);
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn of_two_hundred_copies_at_once_one_is_delivered() {
    let shop = Arc::new(Shop::open().await);
    shop.chain.pays();
    let header = Arc::new(v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60))));
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (shop, header) = (shop.clone(), header.clone());
            tokio::spawn(async move { shop.present(&header).await })
        })
        .collect();
    let mut receipts = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Decision::Deliver(receipt) => receipts.push(receipt),
            Decision::InProgress => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(receipts.len(), 1);
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
    assert_eq!(shop.states().await, [PaymentState::Delivering]);
}

#[tokio::test]
async fn an_unknown_outcome_is_pending_and_the_same_payment_gets_the_answer_later() {
    let shop = Shop::open().await;
    let header = v2_header(&payment("1", 10_000), 10_000, Some(&shop.quote(10_000, 60)));
    for _ in 0..2 {
        match shop.present(&header).await {
            Decision::Pending(response) => {
                assert_eq!(response.error_reason, Some("settlement_pending"));
                assert_eq!(response.transaction, "0xtx");
                assert!(!response.success);
            }
            other => panic!("{other:?}"),
        }
    }
    shop.chain.pays();
    let paid = receipt(shop.present(&header).await);
    paid.served();
    shop.reaches(&[PaymentState::Served]).await;
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1, "one settlement, whoever waited for it");
}

#[tokio::test]
async fn a_proven_failure_is_told_again_and_never_settled_again() {
    let shop = Shop::open().await;
    shop.chain.fails();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    for _ in 0..2 {
        match shop.present(&header).await {
            Decision::Refused { reason: Reason::EvmTransactionFailed, outcome: Some(outcome) } => {
                assert!(!outcome.success);
                assert_eq!(outcome.transaction, "0xtx");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
    assert_eq!(shop.states().await, [PaymentState::Failed]);
    let books = shop.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap();
    assert_eq!(
        (books[0].fee, &books[0].settlement),
        (Some(chain::burnt()), &None),
        "it moved nothing, and cost its fee"
    );
}

#[tokio::test]
async fn a_failed_payment_that_landed_after_all_may_be_presented() {
    let shop = Shop::open().await;
    shop.chain.fails();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    assert!(matches!(shop.present(&header).await, Decision::Refused { .. }));
    *shop.chain.late.lock().unwrap() = Some(chain::settlement());
    shop.gate.sweep().await;
    assert_eq!(shop.states().await, [PaymentState::Paid]);
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_failed_payment_that_landed_in_its_last_moment_is_credited_too() {
    let shop = Shop::open().await;
    shop.chain.fails();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    assert!(matches!(shop.present(&header).await, Decision::Refused { .. }));
    // Its authorization ended half a minute ago by our clock; the block it landed in counts as settled only now.
    shop.clock.advance(Duration::from_secs(90));
    *shop.chain.late.lock().unwrap() = Some(chain::settlement());
    shop.gate.sweep().await;
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_failed_payment_that_cannot_be_credited_keeps_no_other_from_it() {
    let shop = Shop::open().await;
    shop.chain.fails();
    assert!(matches!(shop.present(&v2_header(&payment("1", 10_000), 10_000, None)).await, Decision::Refused { .. }));
    let mut longer = payment("2", 10_000);
    longer["until"] = 1_000_100.into();
    shop.clock.advance(Duration::from_secs(1));
    assert!(matches!(shop.present(&v2_header(&longer, 10_000, None)).await, Decision::Refused { .. }));
    shop.chain.pays();
    shop.clock.advance(Duration::from_secs(1));
    let mut anew = payment("1", 10_000);
    anew["until"] = 1_000_050.into();
    receipt(shop.present(&v2_header(&anew, 10_000, None)).await).served();
    shop.reaches(&[PaymentState::Served, PaymentState::Failed, PaymentState::Failed]).await;
    // The first one's key is taken by the payment that was served: its money is spent.
    *shop.chain.late.lock().unwrap() = Some(chain::settlement());
    shop.gate.sweep().await;
    assert_eq!(shop.states().await, [PaymentState::Served, PaymentState::Paid, PaymentState::Failed]);
}

#[tokio::test]
async fn a_failed_authorization_does_not_block_another_under_the_same_key() {
    let shop = Shop::open().await;
    shop.chain.fails();
    assert!(matches!(shop.present(&v2_header(&payment("1", 10_000), 10_000, None)).await, Decision::Refused { .. }));
    shop.chain.pays();
    // Rows of one millisecond have no order.
    shop.clock.advance(Duration::from_secs(1));
    let mut other = payment("1", 10_000);
    other["until"] = 1_000_050.into();
    receipt(shop.present(&v2_header(&other, 10_000, None)).await).served();
    shop.reaches(&[PaymentState::Served, PaymentState::Failed]).await;
}

#[tokio::test]
async fn what_a_plan_reserved_stays_reserved_until_its_settlement_ended() {
    let shop = Arc::new(Shop::open().await);
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    assert!(matches!(shop.present(&header).await, Decision::Pending(_)));
    // The request and what it verified are gone; the settlement is not.
    assert_eq!(shop.chain.plans_held(), 1);
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
    while shop.gate.settlements().running() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(shop.chain.plans_held(), 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_no_settlement() {
    let shop = Arc::new(Shop::open().await);
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    let waiting = {
        let (shop, header) = (shop.clone(), header.clone());
        tokio::spawn(async move { shop.present(&header).await })
    };
    while shop.chain.settles.load(Ordering::SeqCst) == 0 {
        assert!(!waiting.is_finished(), "{:?}", waiting.await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
    receipt(shop.present(&header).await).served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn nothing_is_claimed_when_the_origin_is_down_or_the_network_closed() {
    let shop = Shop::open().await;
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    shop.origin.0.store(false, Ordering::SeqCst);
    assert!(matches!(shop.present(&header).await, Decision::OriginDown));
    shop.origin.0.store(true, Ordering::SeqCst);
    shop.chain.is_open.store(false, Ordering::SeqCst);
    assert!(matches!(shop.present(&header).await, Decision::Unavailable));
    assert!(shop.states().await.is_empty());
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_node_that_never_answers_holds_no_request() {
    let shop = Shop::open().await;
    shop.chain.pays();
    shop.chain.is_silent.store(true, Ordering::SeqCst);
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    let decision = tokio::time::timeout(Duration::from_secs(5), shop.present(&header)).await.unwrap();
    assert!(matches!(decision, Decision::Unavailable), "{decision:?}");
    assert!(shop.states().await.is_empty());
    shop.chain.is_silent.store(false, Ordering::SeqCst);
    receipt(shop.present(&header).await).served();
}

#[tokio::test]
async fn nothing_is_claimed_when_the_chain_would_refuse() {
    let shop = Shop::open().await;
    *shop.chain.refusal.lock().unwrap() = Some(Reason::EvmInsufficientBalance);
    let decision = shop.present(&v2_header(&payment("1", 10_000), 10_000, None)).await;
    assert!(
        matches!(decision, Decision::Refused { reason: Reason::EvmInsufficientBalance, outcome: None }),
        "{decision:?}"
    );
    assert!(shop.states().await.is_empty());
}

#[tokio::test]
async fn what_an_earlier_run_left_signed_is_settled_by_the_sweep() {
    let shop = Shop::open().await;
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    assert!(matches!(shop.present(&header).await, Decision::Pending(_)));
    // Another process over the same books: it knows of no task, only of the row.
    let other = Gate::new(
        shop.ledger.clone(),
        shop.gate.markets().as_ref().clone(),
        shop.gate.quote_key().clone(),
        shop.gate.rules().clone(),
        Arc::new(shop.clock.clone()),
        Arc::new(Metrics::new().unwrap()),
        tokio::runtime::Handle::current(),
    );
    other.sweep().await;
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn a_sweep_that_read_an_old_row_disturbs_no_delivery() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = v2_header(&payment("1", 10_000), 10_000, None);
    let paid = receipt(shop.present(&header).await);
    // What a sweep does whose list was read before the payment was settled.
    let stale = crate::ledger::PaymentRecord { state: PaymentState::Signed, ..paid.record().clone() };
    shop.gate.settlements().start(stale);
    while shop.gate.settlements().running() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(shop.states().await, [PaymentState::Delivering]);
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 1);
    paid.served();
    shop.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn for_who_finds_no_room_nothing_is_claimed_and_the_same_payment_is_as_good_later() {
    let shop = Shop::open().await;
    let header = |nonce: usize| v2_header(&payment(&nonce.to_string(), 10_000), 10_000, None);
    shop.origin.1.store(false, Ordering::SeqCst);
    assert!(matches!(shop.present(&header(0)).await, Decision::OriginBusy));
    assert_eq!(shop.states().await, []);
    shop.origin.1.store(true, Ordering::SeqCst);
    // Settlements that have no end keep their places, whether or not anybody still waits for them.
    let unsettled: Vec<String> = (0..SETTLEMENTS_MAX).map(header).collect();
    futures::future::join_all(unsettled.iter().map(|header| shop.present(header))).await;
    assert_eq!(shop.states().await.len(), SETTLEMENTS_MAX);
    let late = header(SETTLEMENTS_MAX);
    assert!(matches!(shop.present(&late).await, Decision::SettlementsBusy));
    assert_eq!(shop.states().await.len(), SETTLEMENTS_MAX);
    // What is settled already is never turned away with terms for want of a place at its origin.
    shop.origin.1.store(false, Ordering::SeqCst);
    assert!(matches!(shop.present(&unsettled[0]).await, Decision::Pending(_)));
    shop.chain.pays();
    shop.reaches(&[PaymentState::Paid; SETTLEMENTS_MAX]).await;
    assert!(matches!(shop.present(&unsettled[0]).await, Decision::OriginBusy));
    shop.origin.1.store(true, Ordering::SeqCst);
    receipt(shop.present(&unsettled[0]).await).served();
    receipt(shop.present(&late).await).served();
}
