//! Payments that are settled after their request: claimed with the attempt counted, then signed or let go.

use PaymentState::{Forwarded, Released, Signed};

use super::*;

const MAX: u32 = 2;

async fn forward(rig: &Rig, id: &str) -> PaymentRecord {
    match rig.ledger.claim_forwarded(payment(id), MAX).await.unwrap() {
        ForwardOutcome::Claimed(record) => record,
        ForwardOutcome::Exists(record) => panic!("taken by {record:?}"),
    }
}

#[tokio::test]
async fn forwarding_counts_an_attempt_signs_nothing_and_takes_no_account_nonce() {
    let rig = Rig::new().await;
    let forwarded = forward(&rig, "id").await;
    assert_eq!((forwarded.state, forwarded.deliveries, forwarded.attempts.len()), (Forwarded, 1, 0));
    assert_eq!(rig.next_nonce().await, 0);
    let again = rig.ledger.claim_forwarded(payment("id"), MAX).await.unwrap();
    assert!(matches!(again, ForwardOutcome::Exists(row) if row.record == forwarded.record), "taken");
    let other = rig.ledger.claim(payment("id"), signing()).await.unwrap();
    assert!(matches!(other, ClaimOutcome::Exists(row) if row.record == forwarded.record), "for every way to settle");
    let signed = rig.ledger.record_signed(&forwarded.record, Some(signer()), signing()).await.unwrap();
    assert_eq!((signed.state, signed.deliveries, signed.attempts.len()), (Signed, 1, 1));
    assert_eq!((signed.claim.signer, signed.attempts[0].signed.account_nonce), (Some(signer()), Some(0)));
    assert_eq!(rig.next_nonce().await, 1);
    let paid = rig.ledger.record_paid(&forwarded.record, settlement(), true).await.unwrap();
    assert_eq!((paid.state, paid.deliveries), (PaymentState::Delivering, 1), "counted before it was signed");
}

#[tokio::test]
async fn the_attempts_of_a_payment_are_counted_over_all_its_claims() {
    let mut rig = Rig::new().await;
    let first = forward(&rig, "id").await;
    rig.ledger.release(&first.record, false).await.unwrap();
    let unsent = forward(&rig, "id").await;
    assert_eq!(unsent.deliveries, 2);
    rig.ledger.release(&unsent.record, true).await.unwrap();
    rig.reopen().await;
    let second = forward(&rig, "id").await;
    assert_eq!(second.deliveries, 2, "what never reached the origin does not count");
    let released = rig.ledger.release(&second.record, false).await.unwrap();
    assert_eq!((released.state, released.deliveries), (Released, 2));
    let spent = rig.ledger.claim_forwarded(payment("id"), MAX).await;
    assert!(matches!(spent, Err(LedgerError::AttemptsSpent)), "{spent:?}");
    assert_eq!(rig.ledger.list(&PaymentFilter::default()).await.unwrap().len(), 3, "nothing was written");
    let mut other = payment("id");
    other.payload_digest = [9; 32];
    let other = rig.ledger.claim_forwarded(other, MAX).await.unwrap();
    assert!(matches!(other, ForwardOutcome::Claimed(row) if row.deliveries == 1), "another authorization");
}

#[tokio::test]
async fn only_what_is_forwarded_is_signed_or_let_go() {
    let rig = Rig::new().await;
    for state in PaymentState::ALL.into_iter().filter(|state| *state != Forwarded) {
        let record = forward(&rig, &format!("{state}")).await.record;
        rig.set_state(&record, state).await;
        let signed = rig.ledger.record_signed(&record, Some(signer()), signing()).await;
        assert!(matches!(signed, Err(LedgerError::IllegalStep { found, .. }) if found == state), "{signed:?}");
        let released = rig.ledger.release(&record, false).await;
        assert!(matches!(released, Err(LedgerError::IllegalStep { found, .. }) if found == state), "{released:?}");
    }
    assert_eq!(rig.next_nonce().await, 0);
    let record = forward(&rig, "unsigned").await.record;
    let refused = rig.ledger.record_signed(&record, Some(signer()), Box::new(|_| Err("no".to_owned()))).await;
    assert!(matches!(refused, Err(LedgerError::NotSigned(_))), "{refused:?}");
    assert_eq!((rig.state(&record).await, rig.next_nonce().await), (Forwarded, 0));
}

#[tokio::test]
async fn what_a_dead_process_had_forwarded_is_let_go_at_the_next_start_and_stays_counted() {
    let rig = Rig::new().await;
    let record = forward(&rig, "id").await.record;
    rig.ledger.recover_deliveries(MAX, NOON, false).await.unwrap();
    assert_eq!(rig.state(&record).await, Forwarded, "not while it may be alive");
    assert_eq!(rig.ledger.recover_deliveries(MAX, NOON, true).await.unwrap(), 1);
    assert_eq!(rig.state(&record).await, Released);
    assert_eq!(forward(&rig, "id").await.deliveries, 2);
}
