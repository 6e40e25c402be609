//! A payment belongs to the request it was first presented with.

use std::time::Duration;

use serde_json::json;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Header, Plan, Serve, Shop, Terms, paid};

fn assert_bound(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (409, "payment_bound_to_other_request"), "{what}");
    assert!(!answer.has_terms() && answer.outcome().is_none(), "{what}");
}

fn others(header: &Header) -> Vec<(&'static str, Call)> {
    let with = |call: Call| call.with(header.0, header.1.clone());
    vec![
        ("path", with(Call::get("/api/other"))),
        ("query", with(Call::get("/api/data?page=2"))),
        ("spelling", with(Call::get("/API/data"))),
        ("method", with(Call::post("/api/data", ""))),
        ("host", Call { host: "other.test", ..with(Call::get("/api/data")) }),
        ("range", with(Call::get("/api/data").with("Range", "bytes=0-9"))),
        ("body", Call { method: "GET".to_owned(), ..with(Call::post("/api/data", "x")) }),
    ]
}

#[tokio::test]
async fn a_paid_payment_is_good_for_its_own_request_only() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    for (what, call) in others(&payment.v2()) {
        assert_bound(&shop.call(&call).await, what);
    }
    assert_eq!(shop.priced_hits(), 1);
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_pending_payment_is_good_for_its_own_request_only() {
    let plan = Plan { network: "settle_timeout = \"1s\"".to_owned(), ..Plan::default() };
    let shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    assert_eq!(Answer::read(client).await.unwrap().error(), "settlement_pending");
    for (what, call) in others(&payment.v2()) {
        assert_bound(&shop.call(&call).await, what);
    }
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_is_worked_on_is_in_progress_for_everybody_else() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    for _ in 0..3 {
        let answer = shop.present(&payment.v2()).await;
        assert_eq!((answer.status, answer.error().as_str()), (409, "payment_in_progress"));
        assert!(!answer.has_terms() && answer.header("retry-after").is_some());
    }
    shop.rpc.clear();
    assert_eq!(Answer::read(client).await.unwrap().status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn who_presents_a_payment_first_for_another_request_does_not_turn_its_holder_away() {
    // What comes second is held up before anything is looked up.
    let shop =
        Shop::open_with(Plan { failpoints: "post_m0=1*off->1*sleep(2000)->off".to_owned(), ..Plan::default() }).await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    let header = payment.v2();
    let theirs = Call::get("/api/other").with(header.0, header.1.clone());
    let a_third = Call::get("/api/data?page=2").with(header.0, header.1.clone());
    let (stolen, own) = futures::future::join(shop.call(&theirs), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_bound(&shop.call(&a_third).await, "the books know whose it is");
        shop.present(&payment.v2()).await
    })
    .await;
    assert_bound(&stolen, "the first");
    assert_eq!((own.status, own.error().as_str()), (409, "payment_in_progress"));
    assert!(!own.has_terms() && own.header("retry-after").is_some());
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_whose_answer_has_arrived_is_in_progress_for_nobody() {
    // Whoever has the last byte may come again before the books say so, and is made to wait for them.
    let shop = Shop::open_with(Plan { failpoints: "post_deliver=sleep(300)".to_owned(), ..Plan::default() }).await;
    // Whether the second request finds a thread while the first one's sleeps is chance.
    for (serve, status) in
        [(Serve::Fine, 402), (Serve::Status(500), 200), (Serve::NoAnswer, 200)].iter().cycle().take(9)
    {
        shop.origin.then([serve.clone()]);
        let payment = shop.payment().await;
        let first = shop.present(&payment.v2()).await;
        let again = shop.present(&payment.v2()).await;
        assert_eq!(again.status, *status, "{first:?}, then {again:?}");
        assert_eq!(*status == 402, again.error() == "payment_already_used", "{again:?}");
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_under_another_quote_is_not_its_payers() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    // Whoever reads the chain has the signature, but not the quote.
    let mut stolen = payment.clone();
    stolen.terms = shop.terms().await;
    let mut forged = payment.clone();
    forged.terms.v2["extra"]["quote"] = json!("AAAA");
    for (what, header) in [("own quote", stolen.v2()), ("forged quote", forged.v2()), ("no quote", payment.v1())] {
        let answer = shop.present(&header).await;
        assert_eq!(answer.status, 409, "{what}: {answer:?}");
    }
    assert_eq!(shop.priced_hits(), 1);
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_without_a_quote_comes_again_from_its_own_address_only() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v1()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    let elsewhere = Call { from: [127, 0, 0, 2].into(), ..paid(&payment.v1()) };
    assert_bound(&shop.call(&elsewhere).await, "another address");
    assert_eq!(shop.present(&payment.v1()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_with_a_quote_comes_again_from_any_address() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    let elsewhere = Call { from: [127, 0, 0, 2].into(), ..paid(&payment.v2()) };
    assert_eq!(shop.call(&elsewhere).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn bodies_pass_through_intact_whatever_their_size() {
    let shop = Shop::open().await;
    for size in [0, 1, 1000, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|index: u64| u8::try_from(index * 7919 % 251).unwrap()).collect();
        let payment = shop.payment().await;
        let (name, value) = payment.v2();
        let answer = shop.call(&Call::post("/api/data", body.clone()).with(name, value)).await;
        assert_eq!(answer.status, 200, "{size}: {answer:?}");
        let hit = shop.origin.hits().pop().unwrap();
        assert_eq!((hit.method.as_str(), hit.body.len()), ("POST", body.len()));
        assert!(hit.body == body, "{size}");
    }
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_is_good_for_its_own_body_only() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    let post = |body: &str| Call::post("/api/data", body).with(name, value.clone());
    assert_eq!(shop.call(&post("order 1")).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    for other in ["order 2", "order 1 ", "", &"x".repeat(100_000)] {
        assert_bound(&shop.call(&post(other)).await, other);
    }
    assert_eq!(shop.call(&post("order 1")).await.status, 200);
    let hits = shop.origin.hits();
    assert!(hits.len() == 2 && hits.iter().all(|hit| hit.body == b"order 1"));
    shop.audit().await;
}

#[tokio::test]
async fn a_request_with_a_long_body_that_fails_is_owed() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    let call = Call::post("/api/data", "x".repeat(100_000)).with(name, value);
    assert_eq!(shop.call(&call).await.status, 500);
    shop.wait_state(PaymentState::Owed).await;
    let again = shop.call(&call).await;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(!again.has_terms());
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 1));
    shop.audit().await;
}

#[tokio::test]
async fn an_unpaid_request_is_answered_without_its_body_being_read() {
    let shop = Shop::open().await;
    // Announced and never sent: whoever waits for it waits for ever.
    let call = Call::get("/api/data").with("Content-Length", "1000000");
    Terms::read(&shop.call(&Call { method: "POST".to_owned(), ..call }).await);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn what_would_be_refused_anyway_is_refused_before_it_is_paid() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    let with = |call: Call| call.with(name, value.clone());
    let calls = [
        (404, with(Call::get("/nowhere"))),
        (405, Call { method: "DELETE".to_owned(), ..with(Call::get("/api/data")) }),
        (405, Call { method: "TRACE".to_owned(), ..with(Call::get("/api/data")) }),
        (400, with(Call::get("/api%2Fdata"))),
        (400, with(Call::get("/api\\data"))),
        (400, with(Call::get("/api/%zz"))),
        (400, with(Call::get("http://shop.test/api/data"))),
        (400, with(Call::get("/api/data")).with("Upgrade", "websocket")),
        (400, with(Call::get("/api/data")).with("Connection", "X-Payment-Payer")),
        (400, with(Call::get("/api/data")).with("Transfer-Encoding", "chunked").with("Content-Length", "0")),
    ];
    for (status, call) in calls {
        let answer = shop.call(&call).await;
        assert_eq!(answer.status, status, "{} {}: {answer:?}", call.method, call.target);
        assert!(!answer.has_terms());
    }
    shop.assert_untouched().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_client_that_waits_for_continue_sends_a_long_body_only_once_it_has_paid() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let shop = Shop::open().await;
    let (port, body) = (shop.port, vec![b'x'; 200_000]);
    let head = |payment: &str| {
        format!(
            "POST /api/data HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n{payment}\r\n",
            body.len()
        )
    };
    let open = |head: String| async move {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    };
    let unpaid = Answer::read(open(head("")).await).await.unwrap();
    let payment = shop.payer.pay(&Terms::read(&unpaid));
    let (name, value) = payment.v2();
    let sent = shop.rpc.count("eth_sendRawTransaction");
    shop.rpc.set("eth_sendRawTransaction", crate::harness::Fault::Hold);
    let mut socket = open(head(&format!("{name}: {value}\r\n"))).await;
    shop.rpc.wait_for("eth_sendRawTransaction", sent).await;
    let mut word = [0; 25];
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), socket.peek(&mut word)).await;
    assert!(early.is_err(), "it was asked for its body before the money moved");
    shop.rpc.clear();
    let mut word = [0; 25];
    socket.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(&body).await.unwrap();
    assert_eq!(Answer::read(socket).await.unwrap().status, 200);
    let hit = shop.origin.hits().pop().unwrap();
    assert_eq!((hit.body.len(), hit.header("expect")), (body.len(), None));
    shop.assert_sold_once().await;
    shop.audit().await;
}
