//! The state machine: which step starts from which state, and where it leads.

use super::*;
use PaymentState::{Claimed, Delivering, Failed, Forwarded, Owed, Paid, Released, Reorged, Served, Signed};

const MAX: u32 = 2;

async fn take(rig: &Rig, record: &RecordId, step: &str) -> Result<PaymentRecord, LedgerError> {
    match step {
        "record_attempt" => rig.ledger.record_attempt(record, attempt(Some(9))).await,
        "record_paid" => rig.ledger.record_paid(record, settlement(), false).await,
        "record_paid and deliver" => rig.ledger.record_paid(record, settlement(), true).await,
        "record_failed" => rig.ledger.record_failed(record, "why", Some("0xbad"), None).await,
        "record_undelivered" => rig.ledger.record_undelivered(record, MAX, false).await,
        "record_served" => rig.ledger.record_served(record).await,
        "record_settled_again" => rig.ledger.record_settled_again(record, settlement()).await,
        "record_reorged" => {
            rig.sql(format!("UPDATE payments SET settled_block_hash = '0xblock' WHERE record = '{record}'")).await;
            rig.ledger.record_reorged(record, "0xblock", "why", None).await
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_step_is_taken_from_its_own_states_and_refused_from_all_others() {
    let rig = Rig::new().await;
    let settled = [Paid, Delivering, Served, Owed];
    // The state that a step leads to, or none where it stays.
    let table: [(&str, &[PaymentState], Option<PaymentState>); 8] = [
        ("record_attempt", &[Signed, Paid, Delivering, Served, Owed], None),
        ("record_paid", &[Signed, Failed, Reorged], Some(Paid)),
        ("record_paid and deliver", &[Signed, Failed, Reorged], Some(Delivering)),
        ("record_failed", &[Signed], Some(Failed)),
        ("record_undelivered", &[Delivering], Some(Paid)),
        ("record_served", &[Delivering], Some(Served)),
        ("record_settled_again", &settled, None),
        ("record_reorged", &settled, Some(Reorged)),
    ];
    for (step, from, to) in table {
        for state in PaymentState::ALL {
            let record = rig.claim(payment(&format!("{step} {state}"))).await.record;
            rig.set_state(&record, state).await;
            let before = rig.ledger.get(&record).await.unwrap().unwrap();
            match take(&rig, &record, step).await {
                Ok(after) if from.contains(&state) => {
                    assert_eq!(after.state, to.unwrap_or(state), "{step} from {state}");
                    assert_eq!(seen(&after), seen(&rig.ledger.get(&record).await.unwrap().unwrap()));
                }
                Err(LedgerError::IllegalStep { record: named, found, .. }) if !from.contains(&state) => {
                    assert_eq!((named, found), (record.clone(), state));
                    assert_eq!(seen(&before), seen(&rig.ledger.get(&record).await.unwrap().unwrap()));
                }
                other => panic!("{step} from {state}: {other:?}"),
            }
        }
        let missing = take(&rig, &RecordId("pay_none".to_owned()), step).await;
        assert!(matches!(missing, Err(LedgerError::Missing(_))), "{step}: {missing:?}");
    }
}

#[tokio::test]
async fn a_delivery_begins_only_from_paid() {
    let rig = Rig::new().await;
    for state in PaymentState::ALL {
        let record = rig.claim(payment(&format!("{state}"))).await.record;
        rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
        rig.set_state(&record, state).await;
        match (state, rig.ledger.record_delivering(&record, MAX, NOON).await.unwrap()) {
            (Paid, DeliveryBegun::Begun(begun)) => assert_eq!((begun.state, begun.deliveries), (Delivering, 1)),
            (
                Claimed | Forwarded | Signed | Delivering | Served | Released | Failed | Reorged | Owed,
                DeliveryBegun::NotPaid(row),
            ) => {
                assert_eq!((row.state, row.deliveries), (state, 0));
            }
            (_, other) => panic!("{state}: {other:?}"),
        }
    }
    let missing = rig.ledger.record_delivering(&RecordId("pay_none".to_owned()), MAX, NOON).await;
    assert!(matches!(missing, Err(LedgerError::Missing(_))), "{missing:?}");
}

#[tokio::test]
async fn being_paid_is_recorded_with_its_proof_and_clears_an_earlier_failure() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    let failed = rig.ledger.record_failed(&record, "expired", Some("0xdead"), None).await.unwrap();
    assert_eq!((failed.failure.as_deref(), failed.failed_transaction.as_deref()), (Some("expired"), Some("0xdead")));
    rig.clock.advance(Duration::from_secs(5));
    let landed = Settlement { is_external: true, ..settlement() };
    let paid = rig.ledger.record_paid(&record, landed.clone(), true).await.unwrap();
    assert_eq!(paid.settlement, Some(landed));
    assert_eq!(paid.paid_at, Some(NOON.plus(Duration::from_secs(5))));
    assert_eq!((paid.state, paid.deliveries), (Delivering, 1));
    assert_eq!((paid.failure, paid.failed_transaction), (None, None));
}

#[tokio::test]
async fn a_failed_row_is_not_paid_while_its_id_is_claimed_anew() {
    let rig = Rig::new().await;
    let old = rig.claim(payment("id")).await.record;
    rig.ledger.record_failed(&old, "expired", None, None).await.unwrap();
    let new = rig.claim(payment("id")).await.record;
    let refused = rig.ledger.record_paid(&old, settlement(), false).await;
    assert!(matches!(refused, Err(LedgerError::IllegalStep { found: Failed, .. })), "{refused:?}");
    assert_eq!((rig.state(&old).await, rig.state(&new).await), (Failed, Signed));
}

#[tokio::test]
async fn further_attempts_are_kept_in_order() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    for nonce in 5..8 {
        rig.ledger.record_attempt(&record, attempt(Some(nonce))).await.unwrap();
    }
    let row = rig.ledger.get(&record).await.unwrap().unwrap();
    let attempts: Vec<_> =
        row.attempts.iter().map(|attempt| (attempt.number, attempt.signed.account_nonce.unwrap())).collect();
    assert_eq!(attempts, [(1, 0), (2, 5), (3, 6), (4, 7)]);
}

#[tokio::test]
async fn a_payment_is_delivered_at_most_so_often_then_owed() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    rig.ledger.record_paid(&record, settlement(), true).await.unwrap();
    let once = rig.ledger.record_undelivered(&record, MAX, false).await.unwrap();
    assert_eq!((once.state, once.deliveries), (Paid, 1));
    assert!(matches!(rig.ledger.record_delivering(&record, MAX, NOON).await, Ok(DeliveryBegun::Begun(_))));
    let twice = rig.ledger.record_undelivered(&record, MAX, false).await.unwrap();
    assert_eq!((twice.state, twice.deliveries), (Owed, 2));
    assert!(matches!(rig.ledger.record_delivering(&record, MAX, NOON).await, Ok(DeliveryBegun::NotPaid(_))));
}

#[tokio::test]
async fn a_delivery_that_never_reached_the_origin_does_not_count() {
    let rig = Rig::new().await;
    let mut once_only = payment("id");
    once_only.redeliverable = false;
    let record = rig.claim(once_only).await.record;
    rig.ledger.record_paid(&record, settlement(), true).await.unwrap();
    for _ in 0..5 {
        let back = rig.ledger.record_undelivered(&record, MAX, true).await.unwrap();
        assert_eq!((back.state, back.deliveries), (Paid, 0));
        assert!(matches!(rig.ledger.record_delivering(&record, MAX, NOON).await, Ok(DeliveryBegun::Begun(_))));
    }
    let owed = rig.ledger.record_undelivered(&record, MAX, false).await.unwrap();
    assert_eq!((owed.state, owed.deliveries), (Owed, 1), "it reached the origin and may not be presented again");
}

#[tokio::test]
async fn a_payment_settled_too_long_ago_is_owed() {
    let rig = Rig::new().await;
    for (settled_after, expected) in [(NOON, Delivering), (NOON.plus(Duration::from_millis(1)), Owed)] {
        let record = rig.claim(payment(&format!("{expected}"))).await.record;
        rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
        rig.ledger.record_delivering(&record, MAX, settled_after).await.unwrap();
        assert_eq!(rig.state(&record).await, expected);
    }
}

#[tokio::test]
async fn an_account_nonce_is_a_payments_as_long_as_its_transaction_may_be_what_pays() {
    let rig = Rig::new().await;
    let open = rig.claim(payment("open")).await;
    let own = open.attempts[0].signed.clone();
    let ask = async |nonce| rig.ledger.signed_with(&network(), &signer(), nonce, UnixMillis(0)).await.unwrap();
    let nonce = own.account_nonce.unwrap();
    assert_eq!(ask(nonce).await, std::slice::from_ref(&own.raw));
    assert!(ask(nonce + 1).await.is_empty());
    let after = rig.ledger.signed_with(&network(), &signer(), nonce, NOON.plus(Duration::from_millis(1))).await;
    assert!(after.unwrap().is_empty(), "claimed before that");
    let settled = Settlement { transaction: own.transaction.clone(), ..settlement() };
    rig.ledger.record_paid(&open.record, settled, false).await.unwrap();
    for state in [Paid, Delivering, Served, Owed] {
        rig.set_state(&open.record, state).await;
        assert_eq!(ask(nonce).await, std::slice::from_ref(&own.raw), "{state}");
    }
    for state in [Failed, Reorged, Released] {
        rig.set_state(&open.record, state).await;
        assert!(ask(nonce).await.is_empty(), "{state}");
    }
    // Somebody else's transaction paid: ours never will.
    let other = rig.claim(payment("other")).await;
    rig.ledger.record_paid(&other.record, settlement(), false).await.unwrap();
    assert!(ask(other.attempts[0].signed.account_nonce.unwrap()).await.is_empty());
}

#[tokio::test]
async fn what_a_dead_process_was_delivering_is_paid_or_owed_after_the_start() {
    let rig = Rig::new().await;
    let mut records = Vec::new();
    // (redeliverable, deliveries, state, after start, otherwise)
    let table = [
        (true, 1, Delivering, Paid, Delivering),
        (true, 2, Delivering, Owed, Delivering),
        (false, 1, Delivering, Owed, Delivering),
        (true, 1, Paid, Paid, Paid),
        (true, 2, Paid, Owed, Owed),
        (false, 0, Paid, Paid, Paid),
        (true, 1, Served, Served, Served),
        (true, 9, Owed, Owed, Owed),
        (true, 0, Signed, Signed, Signed),
    ];
    for (at_start, changed) in [(false, 1), (true, 4)] {
        for (index, (redeliverable, deliveries, state, ..)) in table.iter().enumerate() {
            let mut new = payment(&format!("{at_start} {index}"));
            new.redeliverable = *redeliverable;
            let record = rig.claim(new).await.record;
            rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
            rig.sql(format!("UPDATE payments SET deliveries = {deliveries} WHERE record = '{record}'")).await;
            rig.set_state(&record, *state).await;
            records.push(record);
        }
        assert_eq!(rig.ledger.recover_deliveries(MAX, NOON, at_start).await.unwrap(), changed);
        for (record, (.., after_start, otherwise)) in records.drain(..).zip(table) {
            assert_eq!(rig.state(&record).await, if at_start { after_start } else { otherwise });
            rig.set_state(&record, Served).await;
        }
    }
}

#[tokio::test]
async fn paid_rows_that_are_too_old_become_owed_now_and_then() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
    assert_eq!(rig.ledger.recover_deliveries(MAX, NOON, false).await.unwrap(), 0);
    assert_eq!(rig.ledger.recover_deliveries(MAX, UnixMillis(NOON.0 + 1), false).await.unwrap(), 1);
    assert_eq!(rig.state(&record).await, Owed);
}

#[tokio::test]
async fn a_block_is_watched_until_it_is_final_and_all_its_payments_with_it() {
    let rig = Rig::new().await;
    let block = |number: u64| SettledBlock { number, hash: format!("0x{number}") };
    let settled = |number: u64| Settlement { block: number, block_hash: format!("0x{number}"), ..settlement() };
    let mut records = Vec::new();
    for (id, number) in [("a", 2), ("b", 1), ("c", 2)] {
        let record = rig.claim(payment(id)).await.record;
        rig.ledger.record_paid(&record, settled(number), false).await.unwrap();
        records.push(record);
    }
    let unfinal = async |since| rig.ledger.unfinal_blocks(&network(), since, 10).await.unwrap();
    assert_eq!(unfinal(NOON).await, [block(1), block(2)], "lowest first, each once");
    assert_eq!(unfinal(UnixMillis(NOON.0 + 1)).await, [], "not for ever");
    assert_eq!(rig.ledger.unfinal_blocks(&network(), NOON, 1).await.unwrap(), [block(1)]);
    assert_eq!(rig.ledger.unfinal_blocks(&Network::evm(1), NOON, 10).await.unwrap(), []);
    rig.ledger.record_final(&network(), &[SettledBlock { hash: "0xother".to_owned(), ..block(2) }]).await.unwrap();
    let in_two = rig.ledger.settled_in(&network(), &block(2)).await.unwrap();
    assert_eq!(in_two.len(), 2);
    assert!(in_two.iter().all(|row| [&records[0], &records[2]].contains(&&row.record)));
    rig.ledger.record_final(&network(), &[block(2)]).await.unwrap();
    assert_eq!(unfinal(NOON).await, [block(1)]);
    // Moved to another block, it is watched there.
    rig.ledger.record_settled_again(&records[0], settled(5)).await.unwrap();
    assert_eq!(unfinal(NOON).await, [block(1), block(5)]);
    let late = rig.ledger.record_reorged(&records[0], &block(2).hash, "payment_expired", None).await;
    assert!(matches!(late, Err(LedgerError::IllegalStep { .. })), "settled again since: {late:?}");
    assert_eq!(unfinal(NOON).await, [block(1), block(5)]);
    rig.ledger.record_reorged(&records[1], &block(1).hash, "payment_expired", None).await.unwrap();
    assert_eq!(unfinal(NOON).await, [block(5)], "nothing to watch of what is undone");
    let undone = rig.ledger.failed_but_usable(&network(), NOON).await.unwrap();
    assert_eq!((undone.len(), undone[0].failure.as_deref()), (1, Some("payment_expired")), "it may land after all");
}

/// A payment that is owed: its two deliveries failed.
async fn owed(rig: &Rig, id: &str) -> RecordId {
    let record = rig.claim(payment(id)).await.record;
    rig.ledger.record_paid(&record, settlement(), true).await.unwrap();
    let row = rig.ledger.record_undelivered(&record, 1, false).await.unwrap();
    assert_eq!(row.state, PaymentState::Owed);
    record
}

fn refund(transaction: &str) -> Resolution {
    Resolution { transaction: transaction.to_owned(), note: Some("sorry".to_owned()), at: NOON }
}

#[tokio::test]
async fn a_refund_is_noted_beside_a_writer_at_work_once_and_for_owed_payments_only() {
    let rig = Rig::new().await;
    let record = owed(&rig, "a").await;
    let resolved = resolve_in_sqlite(&rig.path, &record, &refund("0x1")).await.unwrap();
    assert_eq!((resolved.state, resolved.resolution), (PaymentState::Owed, Some(refund("0x1"))));
    let again = resolve_in_sqlite(&rig.path, &record, &refund("0x2")).await.unwrap();
    assert_eq!(again.resolution, Some(refund("0x1")), "the first one stays");
    let open = rig.claim(payment("b")).await.record;
    let refused = resolve_in_sqlite(&rig.path, &open, &refund("0x3")).await;
    assert!(matches!(refused, Err(LedgerError::IllegalStep { found: PaymentState::Signed, .. })), "{refused:?}");
    let missing = resolve_in_sqlite(&rig.path, &RecordId("pay_0".to_owned()), &refund("0x3")).await;
    assert!(matches!(missing, Err(LedgerError::Missing(_))), "{missing:?}");
    // The gateway's own reader sees it, its totals leave it out, and its writer goes on.
    assert!(rig.ledger.get(&record).await.unwrap().unwrap().resolution.is_some());
    let totals = rig.ledger.totals().await.unwrap();
    assert!(totals.iter().all(|total| total.state != PaymentState::Owed), "{totals:?}");
    rig.ledger.record_failed(&open, "expired", None, None).await.unwrap();
    let unresolved = PaymentFilter { unresolved: true, ..PaymentFilter::default() };
    assert_eq!(rig.ledger.list(&unresolved).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refunded_payment_that_comes_back_after_a_reorg_buys_no_answer_besides() {
    let rig = Rig::new().await;
    let record = owed(&rig, "a").await;
    resolve_in_sqlite(&rig.path, &record, &refund("0x1")).await.unwrap();
    rig.ledger.record_reorged(&record, "0xblock", "reorged", None).await.unwrap();
    let back = rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
    assert_eq!((back.state, back.resolution), (PaymentState::Owed, Some(refund("0x1"))));
}

#[tokio::test]
async fn a_settlements_fee_is_kept_and_changes_with_its_block() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("a")).await.record;
    let fee = |fee| Settlement { fee, ..settlement() };
    let paid = rig.ledger.record_paid(&record, fee(Some(AtomicAmount::from(5))), false).await.unwrap();
    assert_eq!(paid.settlement.unwrap().fee, Some(AtomicAmount::from(5)));
    let again = rig.ledger.record_settled_again(&record, fee(None)).await.unwrap();
    assert_eq!(again.settlement.unwrap().fee, None);
}

#[tokio::test]
async fn what_a_failure_cost_is_kept_and_summed_and_moves_no_money() {
    let mut rig = Rig::new().await;
    let record = rig.claim(payment("a")).await.record;
    let failed = rig.ledger.record_failed(&record, "reverted", Some("0xdead"), amount(7)).await.unwrap();
    assert_eq!((failed.state, failed.fee, failed.settlement, failed.paid_at), (Failed, amount(7), None, None));
    let free = rig.claim(payment("b")).await.record;
    rig.ledger.record_failed(&free, "expired", None, None).await.unwrap();
    let paid = rig.claim(payment("c")).await.record;
    rig.ledger.record_paid(&paid, costing(false, amount(5)), false).await.unwrap();
    rig.reopen().await;
    assert_eq!(rig.ledger.get(&record).await.unwrap().unwrap().fee, amount(7));
    let sums = rig.ledger.reader.sums(&PaymentFilter::default(), SumBy::Network).await.unwrap();
    let [sum] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((sum.payments, sum.moved_count, sum.moved), (3, 1, AtomicAmount::from(10_000)));
    assert_eq!((sum.fees_count, sum.fees), (2, AtomicAmount::from(12)));
}

#[tokio::test]
async fn a_failed_payment_that_landed_costs_its_own_transaction_once_and_what_failed_if_it_was_somebody_elses() {
    let rig = Rig::new().await;
    for (id, landed, expected) in [
        ("ours", costing(false, amount(5)), amount(5)),
        ("ours, at an unknown fee", costing(false, None), None),
        ("somebody else's", costing(true, None), amount(7)),
        ("somebody else's, before ours", costing(true, amount(9)), amount(9)),
    ] {
        let record = rig.claim(payment(id)).await.record;
        rig.ledger.record_failed(&record, "reverted", Some("0xdead"), amount(7)).await.unwrap();
        let paid = rig.ledger.record_paid(&record, landed, false).await.unwrap();
        assert_eq!((paid.fee, paid.settlement.unwrap().fee), (expected, expected), "{id}");
    }
}

#[tokio::test]
async fn what_the_chain_took_back_gave_its_fee_back_and_costs_what_failed_instead() {
    let rig = Rig::new().await;
    for (id, burnt) in [("reverted", amount(6)), ("expired", None)] {
        let record = rig.claim(payment(id)).await.record;
        rig.ledger.record_paid(&record, costing(false, amount(5)), false).await.unwrap();
        let reorged = rig.ledger.record_reorged(&record, "0xblock", id, burnt).await.unwrap();
        assert_eq!(reorged.fee, burnt);
        let back = rig.ledger.record_paid(&record, costing(true, None), false).await.unwrap();
        assert_eq!(back.fee, burnt);
    }
}

fn amount(units: u64) -> Option<AtomicAmount> {
    Some(AtomicAmount::from(units))
}

fn costing(is_external: bool, fee: Option<AtomicAmount>) -> Settlement {
    Settlement { is_external, fee, ..settlement() }
}
