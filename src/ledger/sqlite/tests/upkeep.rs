//! Account nonces, named values, pruning, and reading beside the writer.

use super::*;

#[tokio::test]
async fn a_signers_nonce_is_only_ever_raised() {
    let rig = Rig::new().await;
    let lease = async |at_least| rig.ledger.lease_signer(&network(), &signer(), at_least).await.unwrap();
    assert_eq!(lease(7).await, 7);
    assert_eq!(lease(3).await, 7);
    assert_eq!(rig.claim(payment("id")).await.attempts[0].signed.account_nonce, Some(7));
    assert_eq!(lease(0).await, 8);
    let elsewhere = rig.ledger.lease_signer(&Network::evm(1), &signer(), 2).await.unwrap();
    assert_eq!(elsewhere, 2, "each network has its own");
    assert!(matches!(rig.ledger.lease_signer(&network(), &signer(), u64::MAX).await, Err(LedgerError::NotWritten(_))));
}

#[tokio::test]
async fn a_named_value_is_made_once() {
    let mut rig = Rig::new().await;
    assert_eq!(rig.ledger.value_or_insert("quote_key", "first".to_owned()).await.unwrap(), "first");
    assert_eq!(rig.ledger.value_or_insert("quote_key", "second".to_owned()).await.unwrap(), "first");
    rig.reopen().await;
    assert_eq!(rig.ledger.value_or_insert("quote_key", "third".to_owned()).await.unwrap(), "first");
}

#[tokio::test]
async fn pruning_takes_old_finished_payments_and_nothing_that_may_still_matter() {
    let rig = Rig::new().await;
    let week = Duration::from_secs(7 * 86_400);
    for state in PaymentState::ALL {
        let record = rig.claim(payment(&format!("{state}"))).await.record;
        rig.set_state(&record, state).await;
        let mut usable = payment(&format!("{state} usable"));
        usable.valid_until = NOON.plus(week * 3);
        let record = rig.claim(usable).await.record;
        rig.set_state(&record, state).await;
    }
    rig.clock.advance(week);
    let recent = rig.claim(payment("recent")).await.record;
    rig.ledger.record_failed(&recent, "expired", None, None).await.unwrap();
    assert_eq!(rig.ledger.prune(NOON).await.unwrap(), 0);
    assert_eq!(rig.ledger.prune(NOON.plus(week)).await.unwrap(), 3);
    let mut left: Vec<String> =
        rig.ledger.list(&PaymentFilter::default()).await.unwrap().into_iter().map(|row| row.claim.id.0).collect();
    left.sort();
    let mut expected: Vec<String> = PaymentState::ALL.iter().map(|state| format!("{state} usable")).collect();
    expected.extend(
        ["claimed", "forwarded", "signed", "paid", "delivering", "reorged", "owed", "recent"].map(str::to_owned),
    );
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_goes_on_until_all_is_done() {
    let rig = Rig::new().await;
    let many = PRUNE_ROWS_MAX * 2 + 1;
    let claims = (0..many).map(|index| rig.ledger.claim(payment(&format!("{index}")), signing()));
    futures::future::try_join_all(claims).await.unwrap();
    rig.sql("UPDATE payments SET state = 'served'").await;
    let end = NOON.plus(Duration::from_secs(86_400));
    assert_eq!(rig.ledger.prune(end).await.unwrap(), u64::from(many));
    assert!(rig.ledger.list(&PaymentFilter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_served_is_kept_while_a_failed_payment_of_the_same_id_could_be_credited() {
    let rig = Rig::new().await;
    let mut longer = payment("1");
    longer.valid_until = UnixMillis(longer.valid_until.0 + 1_000_000);
    let failed = rig.claim(longer.clone()).await.record;
    rig.ledger.record_failed(&failed, "reverted", None, None).await.unwrap();
    let served = rig.claim(payment("1")).await.record;
    rig.ledger.record_paid(&served, settlement(), true).await.unwrap();
    rig.ledger.record_served(&served).await.unwrap();
    assert_eq!(rig.ledger.prune(longer.valid_until).await.unwrap(), 0);
    let credited = rig.ledger.record_paid(&failed, settlement(), false).await;
    assert!(matches!(credited, Err(LedgerError::IllegalStep { .. })), "{credited:?}");
    assert_eq!(rig.ledger.prune(UnixMillis(longer.valid_until.0 + 1)).await.unwrap(), 2);
}

#[tokio::test]
async fn unfinished_and_still_usable_payments_are_found_for_recovery() {
    let rig = Rig::new().await;
    let mut records = Vec::new();
    for index in 0..4 {
        let mut new = payment(&format!("{index}"));
        new.claimed_at = UnixMillis(NOON.0 - index);
        records.push(rig.claim(new).await.record);
    }
    let mut elsewhere = payment("elsewhere");
    (elsewhere.network, elsewhere.signer) = (Network::evm(1), None);
    rig.claim(elsewhere).await;
    rig.ledger.record_failed(&records[0], "expired", None, None).await.unwrap();
    rig.ledger.record_paid(&records[1], settlement(), false).await.unwrap();
    let ids = |rows: Vec<PaymentRecord>| rows.into_iter().map(|row| row.record).collect::<Vec<_>>();
    let unfinished = ids(rig.ledger.unfinished(&network()).await.unwrap());
    assert_eq!(unfinished, [records[3].clone(), records[2].clone()], "oldest first");
    let end = payment("x").valid_until;
    let usable = ids(rig.ledger.failed_but_usable(&network(), UnixMillis(end.0 - 1)).await.unwrap());
    assert_eq!(usable, [records[0].clone()]);
    assert!(rig.ledger.failed_but_usable(&network(), end).await.unwrap().is_empty());
}

#[tokio::test]
async fn lists_are_filtered_limited_and_newest_first() {
    let rig = Rig::new().await;
    for index in 0..5 {
        let mut new = payment(&format!("{index}"));
        new.claimed_at = UnixMillis(NOON.0 + index);
        let record = rig.claim(new).await.record;
        rig.ledger.record_attempt(&record, attempt(Some(50))).await.unwrap();
        if index % 2 == 0 {
            rig.ledger.record_failed(&record, "expired", None, None).await.unwrap();
        }
    }
    let list = async |filter: PaymentFilter| {
        let rows = rig.ledger.list(&filter).await.unwrap();
        assert!(rows.iter().all(|row| row.attempts.len() == 2));
        rows.into_iter().map(|row| row.claim.id.0).collect::<Vec<_>>().join("")
    };
    assert_eq!(list(PaymentFilter::default()).await, "43210");
    assert_eq!(list(PaymentFilter { limit: Some(2), ..PaymentFilter::default() }).await, "43");
    let states = vec![PaymentState::Failed, PaymentState::Paid];
    assert_eq!(list(PaymentFilter { states, limit: Some(2), ..PaymentFilter::default() }).await, "42");
    let network = Some(Network::evm(1));
    assert_eq!(list(PaymentFilter { network, ..PaymentFilter::default() }).await, "");
}

#[tokio::test]
async fn totals_sum_amounts_larger_than_any_integer_of_the_store() {
    let rig = Rig::new().await;
    let large: AtomicAmount = "100000000000000000000000000000000000000".parse().unwrap();
    for (id, amount) in [("a", large), ("b", large), ("c", AtomicAmount::from(5)), ("d", AtomicAmount::from(9))] {
        let mut new = payment(id);
        new.amount = amount;
        let record = rig.claim(new).await.record;
        if id == "d" {
            rig.ledger.record_paid(&record, settlement(), false).await.unwrap();
        }
    }
    let totals = rig.ledger.totals().await.unwrap();
    let total = |state, count, amount: &str| Total {
        state,
        network: network(),
        asset: payment("x").asset,
        count,
        amount: amount.parse().unwrap(),
    };
    let expected =
        [total(PaymentState::Signed, 3, "200000000000000000000000000000000000005"), total(PaymentState::Paid, 1, "9")];
    assert_eq!(totals, expected);
}

#[tokio::test]
async fn answers_of_an_old_copy_are_withheld_and_what_is_claimed_later_is_not() {
    let rig = Rig::new().await;
    let paid = rig.claim(payment("paid")).await.record;
    rig.ledger.record_paid(&paid, settlement(), false).await.unwrap();
    let served = rig.claim(payment("served")).await.record;
    rig.ledger.record_paid(&served, settlement(), true).await.unwrap();
    rig.ledger.record_served(&served).await.unwrap();
    let signed = rig.claim(payment("signed")).await.record;
    let failed = rig.claim(payment("failed")).await.record;
    rig.ledger.record_failed(&failed, "expired", None, None).await.unwrap();
    assert_eq!(rig.ledger.withhold(&Network::evm(1), 2).await.unwrap(), 0, "another network");
    assert_eq!(rig.ledger.withhold(&network(), 2).await.unwrap(), 3);
    let later = rig.claim(payment("later")).await.record;
    for record in [&signed, &failed, &later] {
        rig.ledger.record_paid(record, settlement(), false).await.unwrap();
    }
    let state = async |record: &RecordId| rig.ledger.get(record).await.unwrap().unwrap().state;
    assert_eq!(state(&paid).await, PaymentState::Owed);
    assert_eq!(state(&served).await, PaymentState::Served);
    for record in [&signed, &failed] {
        let begun = rig.ledger.record_delivering(record, 2, NOON).await.unwrap();
        assert!(matches!(begun, DeliveryBegun::Owed(_)), "{begun:?}");
    }
    let begun = rig.ledger.record_delivering(&later, 2, NOON).await.unwrap();
    assert!(matches!(begun, DeliveryBegun::Begun(_)), "{begun:?}");
}
