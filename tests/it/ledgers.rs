//! What the ledger promises, on PostgreSQL with several gateways' ledgers open at once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sqlx::Connection;
use tokio::task::JoinHandle;
use tollhouse::ledger::{
    ClaimOutcome, DeliveryBegun, ForwardOutcome, Holder, Ledger, LedgerError, NewAttempt, NewPayment, PaymentFilter,
    PaymentId, PaymentState, PostgresLedger, PostgresReader, SettledBlock, Settlement, SignInClaim, SumBy,
};
use tollhouse::types::{AccountId, AssetId, AtomicAmount, Clock, Network, SystemClock, UnixMillis};

use crate::harness::{Postgres, Tap};

async fn open(postgres: &Postgres) -> Arc<dyn Ledger> {
    open_at(&postgres.url()).await
}

async fn open_at(url: &str) -> Arc<dyn Ledger> {
    let observer = Arc::new(|_name: &'static str, _took| ());
    Arc::new(PostgresLedger::open_observed(url, Arc::new(SystemClock), observer).await.unwrap())
}

fn network() -> Network {
    Network::evm(84532)
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn payment(id: &str, signer: &str) -> NewPayment {
    NewPayment {
        id: PaymentId(id.to_owned()),
        payload_digest: [1; 32],
        fingerprint: [2; 32],
        redeliverable: true,
        holder: Holder::Quote([3; 32]),
        route: "GET /api".to_owned(),
        request: "GET /api?q=ü".to_owned(),
        terms: "{}".to_owned(),
        wait_for: "confirmed".to_owned(),
        confirmations: 1,
        pay_to_exclusive: false,
        network: network(),
        asset: AssetId::new("0xToken").unwrap(),
        payer: account("0xPayer"),
        pay_to: account("0xPayee"),
        amount: AtomicAmount::from(10_000),
        payload: "{}".to_owned(),
        valid_until: UnixMillis::from_secs(4_000_000_000),
        signer: Some(account(signer)),
        claimed_at: SystemClock.now(),
        identifier: None,
    }
}

fn signing(signer: &str) -> SignInClaim {
    let signer = Some(account(signer));
    Box::new(move |account_nonce| {
        let (transaction, fee_max) = (format!("0xhash{account_nonce:?}"), "1".to_owned());
        Ok(NewAttempt { signer, account_nonce, transaction, raw: vec![0, 0xff], fee_max })
    })
}

fn settlement() -> Settlement {
    Settlement {
        transaction: "0xpaid".to_owned(),
        block: 42,
        block_hash: "0xblock".to_owned(),
        is_external: false,
        fee: None,
    }
}

#[tokio::test]
async fn of_claims_at_three_ledgers_one_wins_and_no_account_nonce_is_lost() {
    let postgres = Postgres::start().await;
    let ledgers = [open(&postgres).await, open(&postgres).await, open(&postgres).await];
    let signers = ["0xA", "0xB", "0xC"];
    for (ledger, signer) in ledgers.iter().zip(signers) {
        assert_eq!(ledger.lease_signer(&network(), &account(signer), 7).await.unwrap(), 7);
    }
    let claims = (0..30).map(|number| {
        let (ledger, signer) = (&ledgers[number % 3], signers[number % 3]);
        let id = format!("payment {}", number / 3);
        async move { ledger.claim(payment(&id, signer), signing(signer)).await.unwrap() }
    });
    let claimed = join_all(claims).await.into_iter().filter(|claim| matches!(claim, ClaimOutcome::Claimed(_))).count();
    assert_eq!(claimed, 10);
    let mut taken = 0;
    for (ledger, signer) in ledgers.iter().zip(signers) {
        taken += ledger.lease_signer(&network(), &account(signer), 0).await.unwrap() - 7;
    }
    assert_eq!(taken, 10, "a lost race takes no nonce");
}

#[tokio::test]
async fn what_a_living_gateway_has_in_hand_no_other_one_writes() {
    let postgres = Postgres::start().await;
    let (ours, theirs) = (open(&postgres).await, open(&postgres).await);
    ours.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    let held = theirs.lease_signer(&network(), &account("0xA"), 0).await;
    assert!(matches!(held, Err(LedgerError::HeldElsewhere(_))), "{held:?}");
    let stolen = theirs.claim(payment("stolen", "0xA"), signing("0xA")).await;
    assert!(matches!(stolen, Err(LedgerError::HeldElsewhere(_))), "{stolen:?}");
    assert!(theirs.find(&PaymentId("stolen".to_owned())).await.unwrap().is_none());
    let ClaimOutcome::Claimed(row) = ours.claim(payment("one", "0xA"), signing("0xA")).await.unwrap() else {
        panic!("taken")
    };
    let id = &row.record;
    assert!(ours.own(id).await.unwrap() && !theirs.own(id).await.unwrap());
    assert_eq!(
        (theirs.unfinished(&network()).await.unwrap().len(), ours.unfinished(&network()).await.unwrap().len()),
        (0, 1)
    );
    for refused in [
        theirs.record_paid(id, settlement(), true).await,
        theirs.record_failed(id, "reason", None, None).await,
        theirs.record_attempt(id, row.attempts[0].signed.clone()).await,
    ] {
        assert!(matches!(refused, Err(LedgerError::HeldElsewhere(_))), "{refused:?}");
    }
    assert_eq!(ours.record_paid(id, settlement(), true).await.unwrap().deliveries, 1);
    let served = theirs.record_served(id).await;
    assert!(matches!(served, Err(LedgerError::HeldElsewhere(_))), "{served:?}");
    let long_ago = UnixMillis(0);
    assert_eq!(theirs.recover_deliveries(2, long_ago, true).await.unwrap(), 0, "its gateway lives");
    // That its block is final, anybody may note, and takes nothing with that.
    theirs.record_final(&network(), &[SettledBlock { number: 42, hash: "0xblock".to_owned() }]).await.unwrap();
    assert!(ours.unfinal_blocks(&network(), long_ago, 10).await.unwrap().is_empty());
    let served = theirs.record_served(id).await;
    assert!(matches!(served, Err(LedgerError::HeldElsewhere(_))), "{served:?}");
    // Given back, it is anybody's: one delivery at a time.
    ours.record_undelivered(id, 2, false).await.unwrap();
    let begun = join_all([&ours, &theirs].map(|ledger| ledger.record_delivering(id, 2, long_ago))).await;
    let begun = begun.into_iter().filter(|begun| matches!(begun, Ok(DeliveryBegun::Begun(_)))).count();
    assert_eq!(begun, 1);
}

#[tokio::test]
async fn what_a_gateway_that_ended_had_in_hand_is_taken_over_and_it_writes_nothing_more() {
    let postgres = Postgres::start().await;
    let (ours, theirs) = (open(&postgres).await, open(&postgres).await);
    assert!(ours.lease_duty("watch").await.unwrap() && !theirs.lease_duty("watch").await.unwrap());
    ours.lease_signer(&network(), &account("0xA"), 3).await.unwrap();
    for id in ["signed", "delivering"] {
        let ClaimOutcome::Claimed(row) = ours.claim(payment(id, "0xA"), signing("0xA")).await.unwrap() else {
            panic!("taken")
        };
        if id == "delivering" {
            ours.record_paid(&row.record, settlement(), true).await.unwrap();
        }
    }
    ours.end().await;
    let taken = theirs.unfinished(&network()).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].attempts.len(), 1);
    assert_eq!(theirs.recover_deliveries(2, UnixMillis(0), false).await.unwrap(), 1);
    let row = theirs.find(&PaymentId("delivering".to_owned())).await.unwrap().unwrap();
    assert_eq!((row.state, row.deliveries), (PaymentState::Paid, 1));
    assert!(theirs.lease_duty("watch").await.unwrap());
    assert_eq!(theirs.lease_signer(&network(), &account("0xA"), 0).await.unwrap(), 5);
}

#[tokio::test]
async fn what_is_noted_of_a_dead_gateways_delivery_does_not_make_it_the_delivery_of_another_one() {
    let postgres = Postgres::start().await;
    let (ours, theirs) = (open(&postgres).await, open(&postgres).await);
    ours.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    for id in ["final", "mined again"] {
        let ClaimOutcome::Claimed(row) = ours.claim(payment(id, "0xA"), signing("0xA")).await.unwrap() else {
            panic!("taken")
        };
        let block = if id == "final" { 42 } else { 43 };
        ours.record_paid(&row.record, Settlement { block, ..settlement() }, true).await.unwrap();
    }
    ours.end().await;
    theirs.record_final(&network(), &[SettledBlock { number: 42, hash: "0xblock".to_owned() }]).await.unwrap();
    let again = theirs.find(&PaymentId("mined again".to_owned())).await.unwrap().unwrap();
    theirs.record_settled_again(&again.record, Settlement { block: 44, ..settlement() }).await.unwrap();
    assert_eq!(theirs.recover_deliveries(2, UnixMillis(0), false).await.unwrap(), 2);
    for id in ["final", "mined again"] {
        let row = theirs.find(&PaymentId(id.to_owned())).await.unwrap().unwrap();
        assert_eq!((row.state, row.deliveries), (PaymentState::Paid, 1), "{id}");
    }
}

#[tokio::test]
async fn an_account_nonce_is_a_payments_whichever_gateway_asks() {
    let postgres = Postgres::start().await;
    let (ours, theirs) = (open(&postgres).await, open(&postgres).await);
    ours.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    let ClaimOutcome::Claimed(row) = ours.claim(payment("id", "0xA"), signing("0xA")).await.unwrap() else {
        panic!("taken")
    };
    let own = row.attempts[0].signed.clone();
    let nonce = own.account_nonce.unwrap();
    let settled = Settlement { transaction: own.transaction.clone(), ..settlement() };
    ours.record_paid(&row.record, settled, false).await.unwrap();
    let ask = async |nonce| theirs.signed_with(&network(), &account("0xA"), nonce, UnixMillis(0)).await.unwrap();
    assert_eq!(ask(nonce).await, [own.raw]);
    assert!(ask(nonce + 1).await.is_empty());
}

#[tokio::test]
async fn what_a_failure_cost_is_kept_summed_and_not_counted_twice() {
    let postgres = Postgres::start().await;
    let ledger = open(&postgres).await;
    ledger.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    let fee = |units: u64| Some(AtomicAmount::from(units));
    let claim = async |id: &str| match ledger.claim(payment(id, "0xA"), signing("0xA")).await.unwrap() {
        ClaimOutcome::Claimed(row) => row.record,
        ClaimOutcome::Exists(row) => panic!("taken by {row:?}"),
    };
    let costing = |is_external, fee| Settlement { is_external, fee, ..settlement() };
    let failed = claim("failed").await;
    let row = ledger.record_failed(&failed, "reverted", Some("0xdead"), fee(7)).await.unwrap();
    assert_eq!((row.state, row.fee, row.settlement), (PaymentState::Failed, fee(7), None));
    for (id, landed, expected) in [
        ("ours", costing(false, fee(5)), fee(5)),
        ("ours, at an unknown fee", costing(false, None), None),
        ("somebody else's", costing(true, None), fee(7)),
    ] {
        let record = claim(id).await;
        ledger.record_failed(&record, "reverted", Some("0xdead"), fee(7)).await.unwrap();
        let paid = ledger.record_paid(&record, landed, false).await.unwrap();
        assert_eq!((paid.fee, paid.settlement.unwrap().fee), (expected, expected), "{id}");
    }
    let undone = claim("undone").await;
    ledger.record_paid(&undone, costing(false, fee(5)), false).await.unwrap();
    let row = ledger.record_reorged(&undone, "0xblock", "reverted", fee(6)).await.unwrap();
    assert_eq!((row.state, row.fee), (PaymentState::Reorged, fee(6)));
    let reader = PostgresReader::open(&postgres.url()).await.unwrap();
    let sums = reader.sums(&PaymentFilter::default(), SumBy::Network).await.unwrap();
    let [sum] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((sum.payments, sum.moved_count, sum.fees_count), (5, 3, 4));
    assert_eq!(sum.fees, AtomicAmount::from(7 + 5 + 7 + 6));
}

#[tokio::test]
async fn one_quote_key_is_made_however_many_gateways_start_at_once() {
    let postgres = Postgres::start().await;
    let ledgers = join_all((0..3).map(|_| open(&postgres))).await;
    let keys = join_all(ledgers.iter().enumerate().map(|(number, ledger)| {
        let make = format!("key {number}");
        async move { ledger.value_or_insert("quote_key", make).await.unwrap() }
    }))
    .await;
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn a_claim_runs_to_its_end_though_nobody_waits_for_it() {
    let postgres = Postgres::start().await;
    let ledger = open(&postgres).await;
    ledger.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    let asked = ledger.claim(payment("one", "0xA"), signing("0xA"));
    let _left = tokio::time::timeout(Duration::from_micros(50), asked).await;
    crate::harness::eventually("the claim", Duration::from_secs(10), || async {
        ledger.find(&PaymentId("one".to_owned())).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_gateways_try_at_once_an_origin_works_so_often_for_one_payment() {
    const MAX: u32 = 2;
    let postgres = Postgres::start().await;
    let ledgers = [open(&postgres).await, open(&postgres).await, open(&postgres).await];
    for number in 0..8 {
        let tries = (0..9).map(|place| {
            let ledger = Arc::clone(&ledgers[place % 3]);
            tokio::spawn(async move {
                let mut attempts = 0_u32;
                loop {
                    let claim = NewPayment { signer: None, ..payment(&format!("after {number}"), "0xA") };
                    match ledger.claim_forwarded(claim, MAX).await {
                        Ok(ForwardOutcome::Claimed(row)) => {
                            attempts += 1;
                            ledger.release(&row.record, false).await.unwrap();
                        }
                        Ok(ForwardOutcome::Exists(_)) => {}
                        Err(LedgerError::AttemptsSpent) => return attempts,
                        // The row that was in the way is gone again.
                        Err(error) => assert!(matches!(error, LedgerError::NotWritten(_)), "{error}"),
                    }
                }
            })
        });
        let attempts: u32 = join_all(tries).await.into_iter().map(Result::unwrap).sum();
        assert_eq!(attempts, MAX, "payment {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_holds_neither_questions_nor_the_lease() {
    let postgres = Postgres::start().await;
    let tap = Tap::before(postgres.port()).await;
    let ledger = open_at(&postgres.url_at(tap.port)).await;
    ledger.lease_signer(&network(), &account("0xA"), 0).await.unwrap();
    let id = PaymentId("none".to_owned());
    let ask = || tokio::time::timeout(Duration::from_secs(30), ledger.find(&id));
    let warm = join_all((0..16).map(|_| ask())).await;
    assert!(warm.iter().all(|answer| matches!(answer, Ok(Ok(None)))), "{warm:?}");
    tap.hang();
    let answers = join_all((0..20).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Err(LedgerError::NotRead(_))))), "{answers:?}");
    // What hangs, hangs for good; who connects anew is answered.
    tap.pass_new();
    crate::harness::eventually("answers and a lease", Duration::from_secs(60), || async {
        let is_running = ledger.tenure().unwrap().is_running();
        (is_running && matches!(ask().await, Ok(Ok(None)))).then_some(())
    })
    .await;
    tap.hang();
    tokio::time::timeout(Duration::from_secs(20), ledger.end()).await.unwrap();
}

/// What the server says of itself.
async fn asked(postgres: &Postgres, question: &str) -> String {
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    let answer = sqlx::query_scalar(sqlx::AssertSqlSafe(question)).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    answer
}

/// A claim, by an operation that waits for the database however long it takes.
fn claiming(ledger: &Arc<dyn Ledger>, id: &str) -> JoinHandle<Result<ForwardOutcome, LedgerError>> {
    let (ledger, payment) = (Arc::clone(ledger), payment(id, "0xA"));
    tokio::spawn(async move { ledger.claim_forwarded(payment, 3).await })
}

/// A ledger behind a tap that hangs at the COMMIT of a claim.
async fn hung_at_commit(
    postgres: &Postgres,
    passes: bool,
) -> (Tap, Arc<dyn Ledger>, JoinHandle<Result<ForwardOutcome, LedgerError>>) {
    let tap = Tap::before(postgres.port()).await;
    let ledger = open_at(&postgres.url_at(tap.port)).await;
    // The first renewal comes at once, the next one in two seconds.
    crate::harness::eventually("a renewal", PATIENCE, || async {
        (asked(postgres, "SELECT bool_and(heartbeat > started_at)::text FROM instances").await == "true").then_some(())
    })
    .await;
    tap.hang_at(b"COMMIT\0", passes);
    let claiming = claiming(&ledger, "ours");
    crate::harness::eventually("a COMMIT", PATIENCE, || async { tap.is_hanging().then_some(()) }).await;
    (tap, ledger, claiming)
}

async fn outcome(claiming: JoinHandle<Result<ForwardOutcome, LedgerError>>) -> Result<ForwardOutcome, LedgerError> {
    tokio::time::timeout(PATIENCE, claiming).await.expect("an outcome").unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);

/// A claim whose transaction a crash undid, and another's transaction of the same number that committed. False when something of
/// the claim had reached the disk, so that the server gave the number to nobody else.
async fn is_known_to_be_undone_by_a_crash() -> bool {
    // Nothing of it reaches the disk before its COMMIT does, or somebody else's.
    let mut postgres = Postgres::start_with(&["wal_writer_delay=10s", "autovacuum=off"]).await;
    let (tap, ledger, claiming) = hung_at_commit(&postgres, false).await;
    let question = "SELECT backend_xid::text FROM pg_stat_activity WHERE state = 'idle in transaction'";
    let number: u64 = asked(&postgres, question).await.parse().unwrap();
    postgres.down();
    postgres.up().await;
    let other = open(&postgres).await;
    for id in ["theirs", "theirs too"] {
        assert!(matches!(other.claim_forwarded(payment(id, "0xB"), 3).await, Ok(ForwardOutcome::Claimed(_))));
    }
    let is_given_again = asked(&postgres, &format!("SELECT pg_xact_status('{number}'::xid8)")).await == "committed";
    tap.pass_new();
    let claimed = outcome(claiming).await;
    assert!(matches!(claimed, Err(LedgerError::NotWritten(_))), "{claimed:?}");
    let id = PaymentId("ours".to_owned());
    assert!(matches!(other.find(&id).await, Ok(None)));
    crate::harness::eventually("the claim, made again", PATIENCE, || async {
        let claimed = ledger.claim_forwarded(payment("ours", "0xA"), 3).await;
        matches!(claimed, Ok(ForwardOutcome::Claimed(_))).then_some(())
    })
    .await;
    assert!(matches!(other.find(&id).await, Ok(Some(_))));
    is_given_again
}

/// A server that crashed gives the number of a transaction that left no trace to another one: that this one committed says
/// nothing of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_a_crash_of_the_database_undid_is_not_taken_for_another_ones() {
    for _ in 0..4 {
        if is_known_to_be_undone_by_a_crash().await {
            return;
        }
    }
    panic!("the server never gave the number of the claim's transaction to another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_database_got_is_found_though_its_answer_was_lost() {
    let postgres = Postgres::start().await;
    let (tap, _ledger, claiming) = hung_at_commit(&postgres, true).await;
    tap.pass_new();
    let claimed = outcome(claiming).await;
    assert!(matches!(claimed, Ok(ForwardOutcome::Claimed(_))), "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_reached_the_database_is_known_not_to_be_written() {
    let postgres = Postgres::start().await;
    let (tap, _ledger, claiming) = hung_at_commit(&postgres, false).await;
    tap.pass_new();
    let claimed = outcome(claiming).await;
    assert!(matches!(claimed, Err(LedgerError::NotWritten(_))), "{claimed:?}");
    let other = open(&postgres).await;
    assert!(matches!(other.find(&PaymentId("ours".to_owned())).await, Ok(None)));
}

/// The server has not made up its mind: neither is it written, nor is it not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_commit_that_waits_for_a_standby_nothing_is_said_before_it_has_ended() {
    let postgres = Postgres::start().await;
    let ledger = open(&postgres).await;
    let standbys = async |names: &'static str| {
        let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
        sqlx::raw_sql(names).execute(&mut connection).await.unwrap();
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    };
    standbys("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    crate::harness::eventually("the setting", PATIENCE, || async {
        (asked(&postgres, "SHOW synchronous_standby_names").await == "nobody").then_some(())
    })
    .await;
    let mut claiming = claiming(&ledger, "ours");
    // A COMMIT is waited for for 6 s, and then asked for twice a second and rarer.
    let early = tokio::time::timeout(Duration::from_secs(11), &mut claiming).await;
    assert!(early.is_err(), "{early:?}");
    standbys("ALTER SYSTEM RESET synchronous_standby_names").await;
    let claimed = outcome(claiming).await;
    assert!(matches!(claimed, Ok(ForwardOutcome::Claimed(_))), "{claimed:?}");
}

/// A database that was set back gives an epoch out again: to whom it was given first, it is not his any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_was_given_out_twice_is_one_gateways() {
    let postgres = Postgres::start().await;
    let (tap, first, claiming) = hung_at_commit(&postgres, true).await;
    let epoch = first.tenure().unwrap().epoch;
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::raw_sql("DELETE FROM instances; DELETE FROM marks; ALTER TABLE instances ALTER COLUMN epoch RESTART WITH 1")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut second = open(&postgres).await;
    while second.tenure().unwrap().epoch < epoch {
        second = open(&postgres).await;
    }
    assert_eq!(second.tenure().unwrap().epoch, epoch);
    tap.pass_new();
    let claimed = outcome(claiming).await;
    assert!(matches!(claimed, Err(LedgerError::Unknown(_))), "{claimed:?}");
    crate::harness::eventually("an epoch of its own", PATIENCE, || async {
        (first.tenure().unwrap().epoch > epoch).then_some(())
    })
    .await;
    assert!(matches!(first.claim_forwarded(payment("first", "0xA"), 3).await, Ok(ForwardOutcome::Claimed(_))));
    assert!(matches!(second.claim_forwarded(payment("second", "0xA"), 3).await, Ok(ForwardOutcome::Claimed(_))));
}
