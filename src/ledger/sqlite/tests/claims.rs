//! W1: one payment is claimed once, whoever races, and takes exactly one account nonce.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_payment_is_claimed_once_by_200_at_once_and_takes_one_nonce() {
    let rig = Rig::new().await;
    let signed = Arc::new(AtomicUsize::new(0));
    let claims = (0..200).map(|_| {
        let (ledger, signed) = (rig.ledger.clone(), signed.clone());
        tokio::spawn(async move {
            let sign: SignInClaim = Box::new(move |nonce| {
                signed.fetch_add(1, Ordering::SeqCst);
                Ok(attempt(nonce))
            });
            ledger.claim(payment("same"), sign).await.unwrap()
        })
    });
    let outcomes: Vec<ClaimOutcome> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
    let claimed: Vec<_> = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Claimed(_))).collect();
    assert_eq!(claimed.len(), 1);
    let ids: BTreeSet<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            ClaimOutcome::Claimed(record) | ClaimOutcome::Exists(record) => record.record.clone(),
        })
        .collect();
    assert_eq!(ids.len(), 1, "all see the one row");
    assert_eq!(signed.load(Ordering::SeqCst), 1);
    assert_eq!(rig.next_nonce().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn payments_claimed_at_once_get_nonces_without_a_gap_and_share_commits() {
    let commits = Arc::new(AtomicUsize::new(0));
    let counter = commits.clone();
    let rig = Rig::observed(Arc::new(move |name, _took| {
        counter.fetch_add(usize::from(name == "commit"), Ordering::SeqCst);
    }))
    .await;
    rig.ledger.lease_signer(&network(), &signer(), 17).await.unwrap();
    let before = commits.load(Ordering::SeqCst);
    let claims = (0..300).map(|index| {
        let ledger = rig.ledger.clone();
        tokio::spawn(async move { ledger.claim(payment(&format!("id{index}")), signing()).await.unwrap() })
    });
    let mut nonces = BTreeSet::new();
    for outcome in join_all(claims).await {
        let ClaimOutcome::Claimed(record) = outcome.unwrap() else { panic!("nobody else claims it") };
        nonces.insert(record.attempts[0].signed.account_nonce.unwrap());
    }
    assert_eq!(nonces, (17..317).collect());
    let commits = commits.load(Ordering::SeqCst) - before;
    assert!(commits < 150, "{commits} commits for 300 claims");
}

#[tokio::test]
async fn what_was_claimed_is_what_is_read() {
    let rig = Rig::new().await;
    let mut other = payment("other");
    other.holder = Holder::Address("2001:db8::1".parse().unwrap());
    other.redeliverable = false;
    other.pay_to_exclusive = false;
    other.amount = "115792089237316195423570985008687907853269984665640564039457584007913129639935".parse().unwrap();
    other.signer = None;
    for claim in [payment("id"), other] {
        let claimed = rig.claim(claim.clone()).await;
        assert_eq!(format!("{:?}", claimed.claim), format!("{claim:?}"));
        assert_eq!(claimed.state, PaymentState::Signed);
        assert_eq!(claimed.record.0.len(), 36);
        assert!(claimed.record.0.starts_with("pay_"));
        let found = rig.ledger.find(&claim.id).await.unwrap().unwrap();
        assert_eq!(seen(&found), seen(&claimed));
        assert_eq!(seen(&rig.ledger.get(&claimed.record).await.unwrap().unwrap()), seen(&claimed));
    }
    assert!(rig.ledger.find(&PaymentId("none".to_owned())).await.unwrap().is_none());
    assert!(rig.ledger.get(&RecordId("pay_none".to_owned())).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_was_not_signed_leaves_nothing_and_its_neighbours_stand() {
    let rig = Rig::new().await;
    let claims = (0..60).map(|index| {
        let ledger = rig.ledger.clone();
        tokio::spawn(async move {
            let sign: SignInClaim = match index % 4 {
                0 => Box::new(|_| Err("no key".to_owned())),
                1 => Box::new(|_| panic!("broken signer")),
                2 => Box::new(|nonce| Ok(attempt(nonce.map(|nonce| nonce + 1)))),
                _ => signing(),
            };
            (index, ledger.claim(payment(&format!("id{index}")), sign).await)
        })
    });
    let mut nonces = BTreeSet::new();
    for done in join_all(claims).await {
        match done.unwrap() {
            (3 | 7 | 11.., Ok(ClaimOutcome::Claimed(record))) => {
                nonces.insert(record.attempts[0].signed.account_nonce.unwrap());
            }
            (index, Err(LedgerError::NotSigned(_))) => {
                assert_ne!(index % 4, 3);
                assert!(rig.ledger.find(&PaymentId(format!("id{index}"))).await.unwrap().is_none());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(nonces, (0..15).collect(), "failed claims took no nonce");
    assert_eq!(rig.next_nonce().await, 15);
}

#[tokio::test]
async fn a_signer_whose_nonce_was_never_compared_with_its_chain_signs_nothing() {
    let rig = Rig::new().await;
    let mut unknown = payment("id");
    unknown.signer = Some(AccountId::new("0xunknown").unwrap());
    let refused = rig.ledger.claim(unknown, Box::new(|_| panic!("must not sign"))).await;
    assert!(matches!(refused, Err(LedgerError::NotWritten(_))), "{refused:?}");
    assert!(rig.ledger.list(&PaymentFilter::default()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_runs_to_its_end_when_its_caller_is_gone() {
    let rig = Rig::new().await;
    {
        let mut claim = std::pin::pin!(rig.ledger.claim(payment("id"), signing()));
        assert!(futures::poll!(&mut claim).is_pending());
    }
    rig.ledger.probe().await.unwrap();
    let found = rig.ledger.find(&PaymentId("id".to_owned())).await.unwrap().unwrap();
    assert_eq!(found.state, PaymentState::Signed);
}

#[tokio::test]
async fn a_failed_payment_does_not_block_its_id_and_the_live_one_is_found() {
    let rig = Rig::new().await;
    let id = PaymentId("id".to_owned());
    let mut failed = Vec::new();
    for _ in 0..2 {
        let record = rig.claim(payment("id")).await.record;
        rig.clock.advance(Duration::from_secs(1));
        rig.ledger.record_failed(&record, "expired", Some("0xdead"), None).await.unwrap();
        assert_eq!(rig.ledger.find(&id).await.unwrap().unwrap().record, record, "the newest failed one");
        failed.push(record);
    }
    let mut earlier = payment("id");
    earlier.claimed_at = UnixMillis(1);
    let live = rig.claim(earlier).await;
    assert_eq!(rig.ledger.find(&id).await.unwrap().unwrap().record, live.record, "live before newer");
    rig.set_state(&live.record, PaymentState::Released).await;
    assert_eq!(rig.ledger.find(&id).await.unwrap().unwrap().record, failed[1], "a released one is never found");
    rig.sql("DELETE FROM attempts").await;
    rig.sql("DELETE FROM payments WHERE state = 'failed'").await;
    assert!(rig.ledger.find(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn while_the_writer_is_busy_reads_go_on_commands_queue_and_too_many_are_refused() {
    let commits = Arc::new(AtomicUsize::new(0));
    let counter = commits.clone();
    let rig = Rig::observed(Arc::new(move |name, _took| {
        counter.fetch_add(usize::from(name == "commit"), Ordering::SeqCst);
    }))
    .await;
    let before = commits.load(Ordering::SeqCst);
    let (at_work, is_at_work) = oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let sign: SignInClaim = Box::new(move |nonce| {
        at_work.send(()).unwrap();
        may_go_on.recv().unwrap();
        Ok(attempt(nonce))
    });
    let mut claim = std::pin::pin!(rig.ledger.claim(payment("id"), sign));
    assert!(futures::poll!(&mut claim).is_pending());
    is_at_work.await.unwrap();
    assert!(rig.ledger.find(&PaymentId("id".to_owned())).await.unwrap().is_none(), "not yet durable, not yet seen");
    let mut waiting: Vec<_> = (0..QUEUE_COMMANDS_MAX).map(|_| rig.ledger.probe()).collect();
    for probe in &mut waiting {
        assert!(futures::poll!(probe).is_pending());
    }
    let refused = rig.ledger.probe().await;
    assert!(matches!(refused, Err(LedgerError::NotWritten(_))), "{refused:?}");
    go_on.send(()).unwrap();
    assert!(matches!(claim.await, Ok(ClaimOutcome::Claimed(_))));
    futures::future::try_join_all(waiting).await.unwrap();
    let batches = (QUEUE_COMMANDS_MAX + 1).div_ceil(256);
    assert_eq!(commits.load(Ordering::SeqCst) - before, batches, "full batches while there is a queue");
}

#[tokio::test]
async fn a_signer_that_ran_out_of_nonces_signs_nothing() {
    let rig = Rig::new().await;
    let last = AccountNonce::try_from(i64::MAX).unwrap();
    rig.ledger.lease_signer(&network(), &signer(), last).await.unwrap();
    let refused = rig.ledger.claim(payment("id"), Box::new(|_| panic!("must not sign"))).await;
    assert!(matches!(refused, Err(LedgerError::NotWritten(_))), "{refused:?}");
    assert_eq!(rig.next_nonce().await, last);
}

#[tokio::test]
async fn a_payers_name_for_a_purchase_is_taken_while_its_payment_may_still_be_or_was_paid() {
    let rig = Rig::new().await;
    let named = |id: &str| NewPayment { identifier: Some("order_0000000001".to_owned()), ..payment(id) };
    let first = rig.claim(named("a")).await;
    let taken = rig.ledger.claim(named("b"), signing()).await.unwrap();
    assert!(matches!(taken, ClaimOutcome::Exists(row) if row.record == first.record), "by another authorization");
    let found = async || {
        let found = rig.ledger.find_identified(&first.claim.payer, "order_0000000001").await.unwrap();
        found.map(|row| row.record)
    };
    assert_eq!(found().await, Some(first.record.clone()));
    assert_eq!(rig.next_nonce().await, 1, "a lost race takes no nonce");
    rig.ledger.record_failed(&first.record, "expired", None, None).await.unwrap();
    assert_eq!(found().await, None);
    let second = rig.claim(named("b")).await;
    assert_eq!(found().await, Some(second.record.clone()));
    // The first lands after all: its payer is credited, the name stays with the second.
    rig.ledger.record_paid(&first.record, settlement(), false).await.unwrap();
    assert_eq!(found().await, Some(second.record));
    let stranger = NewPayment { payer: AccountId::new("0xstranger").unwrap(), ..named("c") };
    assert!(matches!(rig.ledger.claim(stranger, signing()).await.unwrap(), ClaimOutcome::Claimed(_)));
}
