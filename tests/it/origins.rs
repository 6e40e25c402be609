//! Origins that fail before and after the money moved.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Plan, Serve, Shop, Terms, eventually, paid, read_body, read_head};

fn assert_paid(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.has_terms());
    assert_eq!(answer.outcome().unwrap()["success"], true);
}

#[tokio::test]
async fn an_origin_that_is_down_before_settlement_costs_nobody_anything() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    shop.origin.down().await;
    let answer = shop.present(&payment.v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "origin_unavailable"));
    assert!(!answer.has_terms() && answer.outcome().is_none());
    shop.assert_untouched().await;
    shop.origin.up().await;
    let answer = eventually("the origin to be found up", Duration::from_secs(10), || async {
        let answer = shop.present(&payment.v2()).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_paid(&answer, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_that_fails_after_settlement_is_asked_again_without_a_second_charge() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    let failed = shop.present(&payment.v2()).await;
    assert_paid(&failed, 500);
    let again = shop.present(&payment.v2()).await;
    assert_paid(&again, 200);
    assert_eq!(again.outcome(), failed.outcome());
    shop.wait_state(PaymentState::Served).await;
    let third = shop.present(&payment.v2()).await;
    Terms::read(&third);
    assert_eq!(third.error(), "payment_already_used");
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    // So that an origin can tell a second delivery from a second sale.
    let keys: Vec<_> = shop.origin.hits().iter().map(|hit| hit.header("idempotency-key").map(str::to_owned)).collect();
    assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_that_fails_twice_leaves_the_payment_owed() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(503), Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v1()).await, 503);
    assert_paid(&shop.present(&payment.v1()).await, 500);
    shop.wait_state(PaymentState::Owed).await;
    let third = shop.present(&payment.v1()).await;
    assert_paid(&third, 409);
    assert_eq!(third.error(), "payment_owed");
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_may_be_fetched_again() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::CutOff]);
    let payment = shop.payment().await;
    let half = shop.present(&payment.v2()).await;
    assert!(!half.is_complete, "{half:?}");
    shop.wait_state(PaymentState::Paid).await;
    let whole = shop.present(&payment.v2()).await;
    assert!(whole.is_complete);
    assert_paid(&whole, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_that_hangs_up_gets_the_request_only_once() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::NoAnswer]);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v2()).await, 502);
    assert_eq!(shop.priced_hits(), 1, "a paid request is never repeated by itself");
    shop.wait_state(PaymentState::Paid).await;
    assert_paid(&shop.present(&payment.v2()).await, 200);
    assert_eq!(shop.node.transfers().await.len(), 1);
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_that_is_silent_for_too_long_may_be_asked_again() {
    let plan = Plan { upstream: "read_timeout = \"1s\"".to_owned(), ..Plan::default() };
    let shop = Shop::open_with(plan).await;
    shop.origin.then([Serve::Stall]);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v2()).await, 504);
    assert_paid(&shop.present(&payment.v2()).await, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

#[tokio::test]
async fn an_origin_has_its_time_anew_for_each_free_request_and_for_each_piece_of_an_answer() {
    const PIECES: usize = 60;
    let shop = Shop::open_with(Plan { upstream: "read_timeout = \"1s\"".to_owned(), ..Plan::default() }).await;
    // One connection for all of them, as from a browser.
    let socket = TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap();
    let mut reader = BufReader::new(socket);
    let mut ask = async || {
        let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", Call::get("/").host);
        reader.get_mut().write_all(head.as_bytes()).await.unwrap();
        let started = Instant::now();
        let (start, headers) = read_head(&mut reader).await.unwrap().expect("an answer");
        let mut body = Vec::new();
        let is_complete = read_body(&mut reader, &headers, true, &mut body).await.is_ok();
        (start, is_complete, body.len(), started.elapsed())
    };
    for _ in 0..3 {
        shop.origin.then([Serve::Slow(Duration::from_millis(700))]);
        let (start, is_complete, ..) = ask().await;
        assert!(start.contains(" 200 ") && is_complete, "{start}");
    }
    shop.origin.then([Serve::Pieces(PIECES)]);
    let (start, is_complete, bytes, took) = ask().await;
    assert!(start.contains(" 200 ") && is_complete, "{start}");
    assert!(bytes == PIECES && took > Duration::from_secs(2), "{bytes} bytes in {took:?}");
    shop.origin.then([Serve::Stall]);
    let (start, _, _, took) = ask().await;
    assert!(start.contains(" 504 "), "{start}");
    assert!((1000..2500).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn an_answer_that_came_while_the_gateway_stood_still_is_not_too_late() {
    let mut shop = Shop::open_with(Plan { upstream: "read_timeout = \"1s\"".to_owned(), ..Plan::default() }).await;
    for _ in 0..3 {
        shop.origin.then([Serve::Slow(Duration::from_millis(400))]);
        let before = shop.origin.hits().len();
        let asked = Call::get("/health").open(shop.port).await.unwrap();
        eventually("the origin to be asked", Duration::from_secs(5), || async {
            (shop.origin.hits().len() > before).then_some(())
        })
        .await;
        // As a machine that is put to sleep.
        shop.gateway().pause();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        shop.gateway().resume();
        let answer = Answer::read(asked).await.unwrap();
        assert_eq!((answer.status, answer.is_complete), (200, true), "{answer:?}");
    }
}

#[tokio::test]
async fn an_origin_that_is_silent_for_too_long_is_to_blame_and_not_its_client() {
    let shop = Shop::open_with(Plan { upstream: "read_timeout = \"1s\"".to_owned(), ..Plan::default() }).await;
    for call in [Call::get("/health"), Call::post("/health", "a body")] {
        shop.origin.then([Serve::Stall]);
        let started = Instant::now();
        let answer = shop.call(&call).await;
        assert_eq!((answer.status, answer.error().as_str()), (504, "origin_timed_out"), "{answer:?}");
        assert!((1000..2500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
        assert!(!answer.has_terms());
        // It spoke, and then no more.
        shop.origin.then([Serve::Half(Duration::from_millis(600))]);
        let started = Instant::now();
        let answer = shop.call(&call).await;
        assert_eq!((answer.status, answer.is_complete), (200, false), "{answer:?}");
        assert!((1600..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    }
    assert_eq!(shop.origin.hits().len(), 4, "what may have been done is not done again");
    // Who goes away in the middle has nothing to do with it.
    shop.origin.then([Serve::Stall]);
    drop(Call::get("/health").open(shop.port).await.unwrap());
    let metrics = eventually("the outcomes to be counted", Duration::from_secs(5), || async {
        let metrics = Call::local("/metrics").send(shop.admin_port).await.unwrap();
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        metrics.contains("{outcome=\"client_gone\",route=\"/health\"} 1").then_some(metrics)
    })
    .await;
    assert!(metrics.contains("{outcome=\"origin_error\",route=\"/health\"} 4"), "{metrics}");
}

#[tokio::test]
async fn an_origin_that_goes_down_during_settlement_may_be_asked_again() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.origin.down().await;
    shop.rpc.clear();
    assert_paid(&Answer::read(client).await.unwrap(), 502);
    shop.wait_state(PaymentState::Paid).await;
    shop.origin.up().await;
    let answer = eventually("the origin to be found up", Duration::from_secs(10), || async {
        let answer = shop.present(&payment.v2()).await;
        assert!(!answer.has_terms(), "{answer:?}");
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_paid(&answer, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_complete_answer_below_500_counts_as_served() {
    let shop = Shop::open().await;
    for status in [404, 301, 204] {
        shop.origin.then([Serve::Status(status)]);
        let payment = shop.payment().await;
        assert_paid(&shop.present(&payment.v2()).await, status);
        let again = eventually("the delivery to be written down", Duration::from_secs(5), || async {
            let again = shop.present(&payment.v2()).await;
            (again.status != 409).then_some(again)
        })
        .await;
        assert_eq!(again.error(), "payment_already_used", "{status}");
    }
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (3, 3));
    shop.audit().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_during_settlement_may_present_its_payment_again() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    drop(client);
    // The gateway may notice before or after the money moves; neither may cost the payer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    shop.rpc.clear();
    shop.wait_state(PaymentState::Paid).await;
    assert_eq!(shop.priced_hits(), 0, "nobody was there to be answered");
    assert_paid(&shop.present_until_decided(&payment.v2()).await, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn clients_that_hang_up_at_any_moment_never_pay_twice() {
    let shop = Shop::open().await;
    for millis in [0, 1, 2, 4, 7, 11, 16, 22, 30, 45] {
        let payment = shop.payment().await;
        let before = shop.priced_hits();
        let client = paid(&payment.v2()).open(shop.port).await.unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        drop(client);
        let answer = shop.present_until_decided(&payment.v2()).await;
        // Its answer may have been written to a connection that nobody read.
        let is_fair = answer.status == 200 || answer.error() == "payment_already_used";
        assert!(is_fair, "after {millis} ms: {answer:?}");
        assert!(shop.priced_hits() > before);
    }
    assert_eq!(shop.node.transfers().await.len(), 10);
    shop.audit().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_the_origin_works_may_present_its_payment_again() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Stall]);
    let payment = shop.payment().await;
    let client = paid(&payment.v2()).open(shop.port).await.unwrap();
    eventually("the request to reach the origin", Duration::from_secs(10), || async {
        (shop.priced_hits() == 1).then_some(())
    })
    .await;
    drop(client);
    assert_paid(&shop.present_until_decided(&payment.v2()).await, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off_and_may_present_its_payment_again() {
    /// More than all sockets on the way hold together.
    const BYTES: usize = 64 << 20;
    let shop = Shop::open().await;
    shop.origin.then([Serve::Large(BYTES), Serve::Large(BYTES)]);
    let payment = shop.payment().await;
    let payer = paid(&payment.v2()).open(shop.port).await.unwrap();
    let mut other = Call::get("/health").open(shop.port).await.unwrap();
    let delivering = shop.wait_state(PaymentState::Delivering).await;
    let started = Instant::now();
    eventually("the delivery to be given up", Duration::from_secs(45), || async {
        let rows = shop.rows().await;
        rows.into_iter().find(|row| row.record == delivering.record && row.state == PaymentState::Paid)
    })
    .await;
    assert!(started.elapsed() > Duration::from_secs(15), "{:?}", started.elapsed());
    drop(payer);
    // Whoever paid nothing keeps its place at the origin for no longer. What is on its way already is still there.
    let mut taken = Vec::new();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _cut_off = tokio::time::timeout(Duration::from_secs(5), other.read_to_end(&mut taken)).await.unwrap();
    assert!(taken.starts_with(b"HTTP/1.1 200 ") && taken.len() < BYTES, "{} bytes", taken.len());
    assert_paid(&shop.present_until_decided(&payment.v2()).await, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 2));
    shop.audit().await;
}

/// A shop whose priced route says this about redelivery.
fn redelivering(when: &str) -> Plan {
    let routes = format!("\"GET,POST /api/data\" = {{ price = \"$0.01\", redeliver = \"{when}\" }}\n");
    Plan { routes, ..Plan::default() }
}

#[tokio::test]
async fn where_only_idempotent_requests_are_delivered_again_a_failed_post_is_owed_and_a_get_is_not() {
    let shop = Shop::open_with(redelivering("idempotent")).await;
    shop.origin.then([Serve::Status(500), Serve::Status(500)]);
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    let post = Call::post("/api/data", "order").with(name, value);
    assert_paid(&shop.call(&post).await, 500);
    shop.wait_state(PaymentState::Owed).await;
    assert_paid(&shop.call(&post).await, 409);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v2()).await, 500);
    shop.wait_state(PaymentState::Paid).await;
    assert_paid(&shop.present(&payment.v2()).await, 200);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (2, 3));
    shop.audit().await;
}

#[tokio::test]
async fn where_nothing_is_delivered_again_a_failed_request_is_owed() {
    let shop = Shop::open_with(redelivering("never")).await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v2()).await, 500);
    shop.wait_state(PaymentState::Owed).await;
    assert_paid(&shop.present(&payment.v2()).await, 409);
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 1));
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_comes_again_too_late_is_owed() {
    let shop = Shop::open_with(Plan { server: "redeliver_for = \"1s\"".to_owned(), ..Plan::default() }).await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_paid(&shop.present(&payment.v2()).await, 500);
    shop.wait_state(PaymentState::Paid).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let late = shop.present(&payment.v2()).await;
    assert_paid(&late, 409);
    assert_eq!(late.error(), "payment_owed");
    shop.wait_state(PaymentState::Owed).await;
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 1));
    shop.audit().await;
}
