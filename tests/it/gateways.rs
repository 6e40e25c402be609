//! Several gateways, one ledger on PostgreSQL (threats H1–H3, H6).

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tollhouse::ledger::{Ledger, PaymentState, PostgresLedger};
use tollhouse::types::{AccountId, Network, SystemClock};

use crate::harness::{
    Answer, Call, Header, OTHER_SIGNER, PASSWORD, Plan, Postgres, SIGNER, SIGNER_ADDRESS, Serve, Shop, THIRD_SIGNER,
    Tap, Terms, eventually, paid,
};

/// Longer than a lease, with time to notice.
const PAUSE: Duration = Duration::from_secs(13);

/// What another gateway takes over is done within this.
const TAKEN_OVER: Duration = Duration::from_secs(30);

fn plan(postgres: &Postgres, signer: &'static str) -> Plan {
    let network = "settle_timeout = \"3s\"".to_owned();
    let server = "[server.limits]\nconnections_per_address = 2000\npayments_per_address = 2000\n".to_owned();
    Plan { ledger: Some(postgres.url()), signer, network, server, ..Plan::default() }
}

fn dying_at(postgres: &Postgres, failpoints: &str) -> Plan {
    Plan { failpoints: failpoints.to_owned(), ..plan(postgres, SIGNER) }
}

/// A gateway, and another with a gas payer of its own.
async fn two(postgres: &Postgres, first: Plan) -> (Shop, Shop) {
    let mut first = Shop::build(first).await;
    let mut second = first.beside(plan(postgres, OTHER_SIGNER)).await;
    tokio::join!(first.start(), second.start());
    (first, second)
}

/// Presents a payment until it is served.
async fn served_in_the_end(shop: &Shop, header: &Header) -> Answer {
    eventually("the answer", TAKEN_OVER, || async {
        let answer = shop.present(header).await;
        assert!(!answer.has_terms(), "terms for what was paid: {answer:?}");
        (answer.status == 200).then_some(answer)
    })
    .await
}

/// Waits until a gateway that had no gas payer offers something.
async fn opens(shop: &Shop, within: Duration) {
    eventually("it to open", within, || async {
        let answer = shop.try_call(&Call::get("/api/data")).await;
        answer.is_ok_and(|answer| answer.status == 402).then_some(())
    })
    .await;
}

/// The account nonces of all that was signed.
async fn nonces(shop: &Shop) -> Vec<u64> {
    let rows = shop.rows().await;
    let attempts = rows.iter().flat_map(|row| &row.attempts);
    let mut nonces: Vec<_> = attempts.filter_map(|attempt| attempt.signed.account_nonce).collect();
    nonces.sort_unstable();
    nonces
}

#[tokio::test]
async fn a_payment_is_sold_on_postgres_as_on_a_file() {
    let postgres = Postgres::start().await;
    let shop = Shop::open_with(plan(&postgres, SIGNER)).await;
    let payment = shop.buy().await;
    let again = shop.present(&payment.v2()).await;
    assert_eq!((again.status, again.error().as_str()), (402, "payment_already_used"));
    shop.assert_sold_once().await;
    let books = Command::new(env!("CARGO_BIN_EXE_tollhouse"))
        .args(["payments", "list", "--json", "--config"])
        .arg(shop.config())
        .envs([("LEDGER_URL", postgres.url()), ("BASE_SEPOLIA_SIGNER", SIGNER.to_owned())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&books.stderr);
    let rows: Result<serde_json::Value, _> = serde_json::from_slice(&books.stdout);
    assert_eq!(rows.unwrap_or_else(|error| panic!("{error}: {said}")).as_array().unwrap().len(), 1);
    assert!(!said.contains(PASSWORD));
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_payload_from_1000_clients_at_three_gateways_is_one_hit_and_one_transfer() {
    let postgres = Postgres::start().await;
    let mut first = Shop::build(plan(&postgres, SIGNER)).await;
    let mut second = first.beside(plan(&postgres, OTHER_SIGNER)).await;
    let mut third = first.beside(plan(&postgres, THIRD_SIGNER)).await;
    // All at once on an empty database.
    tokio::join!(first.start(), second.start(), third.start());
    for round in 1..=5 {
        let payment = first.payment().await;
        let call = paid(&payment.v2());
        let ports = [first.port, second.port, third.port];
        let answers = join_all((0..1000).map(|client| {
            let (call, port) = (call.clone(), ports[client % ports.len()]);
            async move { call.send(port).await }
        }))
        .await;
        let mut tally = BTreeMap::new();
        for answer in answers {
            let answer = answer.unwrap();
            let is_answered = answer.status == 200;
            let word = if is_answered { String::new() } else { answer.error() };
            assert_eq!(answer.has_terms(), word == "payment_already_used", "{answer:?}");
            *tally.entry((answer.status, word)).or_insert(0) += 1;
        }
        let unserved = ["", "payment_in_progress", "settlement_pending", "payment_already_used"];
        assert!(tally.keys().all(|(_, word)| unserved.contains(&word.as_str())), "round {round}: {tally:?}");
        assert_eq!(tally.get(&(200, String::new())), Some(&1), "round {round}: {tally:?}");
        assert_eq!(first.node.transfers().await.len(), round, "round {round}: {tally:?}");
        assert_eq!(first.priced_hits(), round, "round {round}: {tally:?}");
        let spent = third.present_until_decided(&payment.v2()).await;
        assert_eq!((spent.status, spent.error().as_str()), (402, "payment_already_used"));
    }
    first.audit().await;
}

/// Presents a payment to a gateway that dies of it, and then to another one until that has served it.
async fn taken_over_after(point: &str) {
    let postgres = Postgres::start().await;
    let (mut first, second) = two(&postgres, dying_at(&postgres, &format!("{point}=return"))).await;
    let payment = first.payment().await;
    let _lost = first.try_present(&payment.v2()).await;
    assert!(!first.gateway().wait_end().await.success());
    let at_once = second.present(&payment.v2()).await;
    assert!(matches!(at_once.status, 409 | 503) && !at_once.has_terms(), "{at_once:?}");
    let answer = served_in_the_end(&second, &payment.v2()).await;
    assert_eq!(answer.outcome().unwrap()["success"], true);
    second.assert_sold_once().await;
    second.buy().await;
    second.audit().await;
}

#[tokio::test]
async fn what_a_gateway_had_signed_when_it_was_killed_another_one_settles_and_serves() {
    taken_over_after("post_w1_pre_send").await;
}

#[tokio::test]
async fn what_a_gateway_had_sent_when_it_was_killed_another_one_finds_and_serves() {
    taken_over_after("post_send").await;
}

#[tokio::test]
async fn what_a_gateway_had_recorded_when_it_was_killed_another_one_serves() {
    taken_over_after("post_w2").await;
}

#[tokio::test]
async fn a_gas_payer_is_one_gateways_and_anothers_when_that_one_is_dead() {
    let postgres = Postgres::start().await;
    let mut first = Shop::open_with(plan(&postgres, SIGNER)).await;
    let mut second = first.beside(plan(&postgres, SIGNER)).await;
    second.start_until("/healthz").await;
    first.buy().await;
    let waiting = second.call(&Call::get("/api/data")).await;
    assert!(waiting.status == 503 && !waiting.has_terms(), "{waiting:?}");
    assert_eq!(second.call(&Call::get("/health")).await.status, 200);
    // A payment is not lost by being shown to a gateway that can't settle it.
    let payment = first.payment().await;
    let refused = second.present(&payment.v2()).await;
    assert!(refused.status == 503 && !refused.has_terms(), "{refused:?}");
    assert_eq!(first.present(&payment.v2()).await.status, 200);
    first.gateway().kill();
    opens(&second, TAKEN_OVER).await;
    second.buy().await;
    assert_eq!(nonces(&second).await.windows(2).filter(|pair| pair[1] == pair[0] + 1).count(), 2, "no nonce twice");
    second.audit().await;
}

#[tokio::test]
async fn a_gateway_that_ends_in_order_gives_up_its_gas_payer_at_once() {
    let postgres = Postgres::start().await;
    let mut first = Shop::open_with(plan(&postgres, SIGNER)).await;
    let mut second = first.beside(plan(&postgres, SIGNER)).await;
    second.start_until("/healthz").await;
    first.gateway().terminate();
    assert!(first.gateway().wait_end().await.success());
    opens(&second, Duration::from_secs(6)).await;
    second.buy().await;
    second.audit().await;
}

#[tokio::test]
async fn a_gateway_paused_while_it_settled_writes_nothing_over_what_another_one_did() {
    let postgres = Postgres::start().await;
    let (mut first, second) = two(&postgres, plan(&postgres, SIGNER)).await;
    let payment = first.payment().await;
    let client = first.present_and_hold(&paid(&payment.v2())).await;
    first.gateway().pause();
    served_in_the_end(&second, &payment.v2()).await;
    first.gateway().resume();
    first.rpc.clear();
    drop(client);
    // It comes back to business under another registration.
    eventually("it to notice", TAKEN_OVER, || {
        let has_noticed = first.log().contains("lease on the ledger had ended");
        async move { has_noticed.then_some(()) }
    })
    .await;
    opens(&first, TAKEN_OVER).await;
    let spent = first.present_until_decided(&payment.v2()).await;
    assert_eq!((spent.status, spent.error().as_str()), (402, "payment_already_used"));
    assert_eq!((first.node.transfers().await.len(), first.priced_hits()), (1, 1));
    first.buy().await;
    second.buy().await;
    first.audit().await;
}

#[tokio::test]
async fn a_gateway_paused_before_it_delivered_does_not_deliver_what_another_one_did() {
    let postgres = Postgres::start().await;
    let (mut first, second) = two(&postgres, dying_at(&postgres, "post_w2=1*sleep(2000)")).await;
    let payment = first.payment().await;
    let mut client = paid(&payment.v2()).open(first.port).await.unwrap();
    second.wait_state(PaymentState::Delivering).await;
    first.gateway().pause();
    served_in_the_end(&second, &payment.v2()).await;
    first.gateway().resume();
    let mut late = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut late);
    let _ended = tokio::time::timeout(Duration::from_secs(10), reading).await;
    assert!(late.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&late));
    assert_eq!((first.node.transfers().await.len(), first.priced_hits()), (1, 1));
    second.wait_state(PaymentState::Served).await;
    second.audit().await;
}

#[tokio::test]
async fn a_gateway_paused_before_it_signed_signs_nothing() {
    let postgres = Postgres::start().await;
    let mut first = Shop::build(dying_at(&postgres, "post_verify=1*sleep(1500)")).await;
    let mut second = first.beside(plan(&postgres, SIGNER)).await;
    first.start().await;
    second.start_until("/healthz").await;
    let payment = first.payment().await;
    let client = paid(&payment.v2()).open(first.port).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    first.gateway().pause();
    opens(&second, TAKEN_OVER).await;
    second.buy().await;
    first.gateway().resume();
    // Longer than what it was about to do takes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(client);
    assert_eq!(second.rows().await.len(), 1, "the paused one claimed a payment with a gas payer that it lost");
    let waiting = first.call(&Call::get("/api/data")).await;
    assert_eq!(waiting.status, 503, "{waiting:?}");
    // The payment is as good as before.
    assert_eq!(second.present(&payment.v2()).await.status, 200);
    let signed = nonces(&second).await;
    assert!(signed.len() == 2 && signed[1] == signed[0] + 1, "{signed:?}");
    second.audit().await;
}

#[tokio::test]
async fn with_the_database_down_nothing_is_signed_free_routes_go_on_and_it_comes_back_by_itself() {
    let mut postgres = Postgres::start().await;
    let mut shop = Shop::open_with(plan(&postgres, SIGNER)).await;
    shop.buy().await;
    let payment = shop.payment().await;
    postgres.down();
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    let refused = shop.present(&payment.v2()).await;
    assert!(refused.status == 503 && !refused.has_terms(), "{refused:?}");
    // Nothing is offered either, once the lease that can't be renewed is over.
    tokio::time::sleep(PAUSE).await;
    let unpaid = shop.call(&Call::get("/api/data")).await;
    assert!(unpaid.status == 503 && !unpaid.has_terms(), "{unpaid:?}");
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    assert_eq!(shop.node.transfers().await.len(), 1);
    postgres.up().await;
    assert!(shop.gateway().ended().is_none());
    let answer = shop.present_until_decided(&payment.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shop.buy().await;
    assert_eq!(shop.node.transfers().await.len(), 3);
    shop.audit().await;
}

#[tokio::test]
async fn a_database_that_dies_while_the_origin_works_costs_no_second_charge_and_no_second_delivery() {
    let mut postgres = Postgres::start().await;
    let shop = Shop::open_with(plan(&postgres, SIGNER)).await;
    shop.origin.then([Serve::Slow(Duration::from_secs(2))]);
    let header = shop.payment().await.v2();
    let crash = async {
        shop.wait_state(PaymentState::Delivering).await;
        postgres.down();
        tokio::time::sleep(Duration::from_secs(3)).await;
        postgres.up().await;
    };
    let (answer, ()) = tokio::join!(shop.present(&header), crash);
    assert_eq!(answer.status, 200, "{answer:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_database_that_may_forget_what_it_said_was_written_is_refused() {
    for (setting, word) in [
        ("synchronous_commit=off", "synchronous_commit is off"),
        ("fsync=off", "fsync is off"),
        ("full_page_writes=off", "full_page_writes is off"),
    ] {
        let postgres = Postgres::start_with(&[setting]).await;
        let mut shop = Shop::build(plan(&postgres, SIGNER)).await;
        let mut gateway = shop.launch();
        assert!(!gateway.wait_end().await.success());
        let log = gateway.log();
        assert!(log.contains(word) && !log.contains(PASSWORD), "{log}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told_of_without_its_password() {
    let mut postgres = Postgres::start().await;
    postgres.down();
    let mut shop = Shop::build(plan(&postgres, SIGNER)).await;
    let mut gateway = shop.launch();
    assert!(!gateway.wait_end().await.success());
    let log = gateway.log();
    assert!(log.contains("can't open the ledger") && !log.contains(PASSWORD), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_a_gas_payer_answers_nothing_from_a_restored_old_ledger() {
    let postgres = Postgres::start().await;
    let mut shop = Shop::open_with(plan(&postgres, SIGNER)).await;
    shop.origin.then([Serve::Status(503)]);
    let due = shop.payment().await;
    assert_eq!(shop.present(&due.v2()).await.status, 503);
    let row = shop.wait_state(PaymentState::Paid).await;
    shop.buy().await;
    let hits = shop.priced_hits();
    shop.gateway().terminate();
    shop.gateway().wait_end().await;
    // As the books were before the last sale. Another gateway has the gas payer, and didn't look at the chain yet.
    let pool = sqlx::PgPool::connect(&postgres.url()).await.unwrap();
    let forgotten = [
        format!("DELETE FROM payments WHERE record <> '{}'", row.record),
        "UPDATE signers SET next_nonce = 1".to_owned(),
    ];
    for statement in forgotten {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("SELECT set_config('tollhouse.epoch', owner::text, true) FROM signers")
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    pool.close().await;
    let observer = Arc::new(|_name: &'static str, _took| ());
    let other = PostgresLedger::open_observed(&postgres.url(), Arc::new(SystemClock), observer).await.unwrap();
    let other: Arc<dyn Ledger> = Arc::new(other);
    let signer = AccountId::new(SIGNER_ADDRESS.to_string()).unwrap();
    assert_eq!(other.lease_signer(&Network::evm(84_532), &signer, 0).await.unwrap(), 1);
    shop.start_until("/healthz").await;
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let answer = shop.present(&due.v2()).await;
        assert!(answer.status == 503 && answer.error() == "settlement_pending", "{answer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(shop.log().contains("the ledger is behind gas payer"));
    other.end().await;
    let answer = shop.present_until_decided(&due.v2()).await;
    assert!(answer.status == 409 && answer.error() == "payment_owed", "{answer:?}");
    assert_eq!(shop.priced_hits(), hits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_though_nobody_was_told_keeps_no_payment_from_its_payer() {
    let postgres = Postgres::start().await;
    let failpoints = "record_paid=1*return;record_delivering=1*return;claim_forwarded=1*return";
    let routes = "\"/api/data\" = \"$0.01\"\n\"/api/after\" = { price = \"$0.01\", settle = \"after\" }\n".to_owned();
    let shop = Shop::open_with(Plan { routes, settles_after: true, ..dying_at(&postgres, failpoints) }).await;
    // The record of its settlement.
    let first = shop.payment().await;
    assert_eq!(shop.present_until_decided(&first.v2()).await.status, 200);
    // A further delivery, which the first payment needed, too.
    shop.origin.then([Serve::Status(503)]);
    let second = shop.payment().await;
    assert_eq!(shop.present(&second.v2()).await.status, 503);
    shop.wait_state(PaymentState::Paid).await;
    assert_eq!(shop.present_until_decided(&second.v2()).await.status, 200);
    // The claim of an attempt.
    let terms = Terms::read(&shop.call(&Call::get("/api/after")).await);
    let (name, value) = shop.payer.pay(&terms).v2();
    let call = Call::get("/api/after").with(name, value);
    eventually("the answer", TAKEN_OVER, || async { (shop.call(&call).await.status == 200).then_some(()) }).await;
    let rows = shop.rows().await;
    assert_eq!(rows.iter().map(|row| row.deliveries).collect::<Vec<_>>(), [1, 0, 2, 1]);
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (4, 3));
    shop.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_database_hangs_is_answered_and_its_payment_stays_good() {
    let postgres = Postgres::start().await;
    let tap = Tap::before(postgres.port()).await;
    let shop = Shop::open_with(Plan { ledger: Some(postgres.url_at(tap.port)), ..plan(&postgres, SIGNER) }).await;
    shop.origin.then([Serve::Status(503)]);
    let due = shop.payment().await;
    assert_eq!(shop.present(&due.v2()).await.status, 503);
    let new = shop.payment().await;
    tap.hang();
    for header in [due.v2(), new.v2()] {
        let presented = tokio::time::timeout(Duration::from_secs(45), shop.present(&header)).await;
        let answer = presented.expect("an answer");
        assert!(matches!(answer.status, 409 | 503) && !answer.has_terms(), "{answer:?}");
    }
    tap.pass_new();
    served_in_the_end(&shop, &due.v2()).await;
    eventually("the gas payer's lease", Duration::from_secs(60), || async {
        let answer = shop.present(&new.v2()).await;
        assert!(!answer.has_terms(), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(shop.node.transfers().await.len(), 2);
}
