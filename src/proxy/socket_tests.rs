//! The assembled proxy over real sockets, with a raw origin behind it.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::testing::{
    RawOrigin, TestGate, config, exchange, paid_route, payment_header, read_message, route, upstream,
};
use crate::config::RouteAction::{Deny, Free, Paid};
use crate::ledger::PaymentState;
use crate::server::Server;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPAYMENT-RESPONSE: forged\r\nX-Origin: yes\r\n\r\nok";

struct Shop {
    address: SocketAddr,
    admin: SocketAddr,
    gate: TestGate,
    origin: RawOrigin,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

struct Opening {
    answer: &'static [u8],
    closes: bool,
    has_origin: bool,
    /// A server that is down stands before the origin.
    has_dead_server: bool,
    read_timeout: Duration,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            answer: OK,
            closes: false,
            has_origin: true,
            has_dead_server: false,
            read_timeout: Duration::from_secs(5),
        }
    }
}

async fn open(opening: Opening) -> Shop {
    let origin = RawOrigin::start(opening.answer, opening.closes).await;
    let live = origin.address.to_string();
    let servers: &[&str] = match (opening.has_dead_server, opening.has_origin) {
        (true, true) => &["127.0.0.1:1", &live],
        (false, true) => &[&live],
        (_, false) => &["127.0.0.1:1"],
    };
    let routes = vec![
        route("/free/{*rest}", Free),
        route("GET /open", Free),
        route("GET,POST /paid", Paid(paid_route())),
        route("/denied", Deny),
    ];
    let mut upstream = upstream(servers);
    upstream.read_timeout = opening.read_timeout;
    let config = config(upstream, routes);
    let gate = TestGate::open().await;
    let server = Server::bind(gate.parts(&config), gate.admin_parts(&config)).await.unwrap();
    let (address, admin) = (server.address(), server.admin_address());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.run(async { drop(stopped.await) }, |_within| async {}));
    Shop { address, admin, gate, origin, stop: Some(stop), ended }
}

async fn shop() -> Shop {
    open(Opening::default()).await
}

impl Shop {
    /// One request with `Connection: close` and these further lines.
    async fn ask(&self, line: &str, fields: &str) -> String {
        let request = format!("{line} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n{fields}\r\n");
        exchange(self.address, request.as_bytes()).await
    }

    /// How many payments the chain was shown.
    fn decoded(&self) -> usize {
        self.gate.chain.simulates.load(Ordering::SeqCst)
    }

    async fn pay(&self, line: &str, nonce: &str) -> String {
        self.ask(line, &format!("PAYMENT-SIGNATURE: {}\r\n", payment_header(nonce))).await
    }

    fn hits(&self) -> usize {
        self.origin.requests.lock().unwrap().len()
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|(_, value)| value)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn a_free_request_reaches_the_origin_without_what_a_client_could_forge() {
    let shop = shop().await;
    let fields = "X-Payment-Payer: me\r\nX-PAYMENT: x\r\nPAYMENT-SIGNATURE: y\r\nX-Original-URL: /paid\r\nX-Forwarded-For: 1.2.3.4\r\nUpgrade: h2c\r\nX-Kept: 1\r\n";
    let answer = shop.ask("GET /free/%61/../b?x=%2F", fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(body(&answer), "ok");
    assert!(field(&answer, "payment-response").is_none(), "the origin's forgery passed: {answer}");
    assert_eq!(field(&answer, "x-origin"), Some("yes"));
    let head = shop.origin.heads().remove(0);
    assert!(head.starts_with("get /free/b?x=%2f http/1.1"), "{head}");
    for gone in ["x-payment", "payment-signature", "x-original-url", "1.2.3.4", "upgrade"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("x-kept: 1") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert!(head.contains("x-forwarded-host: shop.example"), "{head}");
}

#[tokio::test]
async fn an_unpaid_request_gets_the_terms_and_never_reaches_the_origin() {
    let shop = shop().await;
    for line in ["GET /paid", "POST /paid", "HEAD /paid", "GET /PAID/", "GET /x/../paid", "GET /%70aid"] {
        let answer = shop.ask(line, "").await;
        assert_eq!(status(&answer), 402, "{line}: {answer}");
        assert_eq!(field(&answer, "cache-control"), Some("no-store"));
        assert_eq!(field(&answer, "content-type"), Some("application/json"));
        let header =
            base64::engine::general_purpose::STANDARD.decode(field(&answer, "payment-required").unwrap()).unwrap();
        let terms: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(terms["error"], "payment_required");
        assert!(terms["resource"]["url"].as_str().unwrap().starts_with("http://shop.example/"));
        if line.starts_with("HEAD") {
            assert_eq!(body(&answer), "");
            assert_ne!(field(&answer, "content-length"), Some("0"));
        } else {
            let v1: Value = serde_json::from_str(body(&answer)).unwrap();
            assert_eq!(v1["x402Version"], 1);
        }
    }
    assert_eq!(shop.hits(), 0);
    assert_eq!(shop.decoded(), 0, "no gate is asked for terms");
}

#[tokio::test]
async fn a_browser_gets_a_page_and_programs_find_the_terms_in_it_too() {
    let shop = shop().await;
    let answer = shop.ask("GET /paid", "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\n").await;
    assert_eq!(status(&answer), 402);
    assert!(field(&answer, "content-type").unwrap().starts_with("text/html"));
    assert!(field(&answer, "content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(field(&answer, "payment-required").is_some());
    assert!(body(&answer).contains("tollhouse pay http://shop.example/paid"), "{answer}");
    let paying = shop.ask("GET /paid", "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\nX-PAYMENT: x\r\n").await;
    assert_eq!(field(&paying, "content-type"), Some("application/json"));
}

#[tokio::test]
async fn with_no_network_open_no_terms_are_shown() {
    let shop = shop().await;
    shop.gate.chain.is_open.store(false, Ordering::SeqCst);
    let answer = shop.ask("GET /paid", "").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("payments_unavailable"));
    assert!(field(&answer, "payment-required").is_none() && field(&answer, "retry-after").is_some());
}

#[tokio::test]
async fn a_payment_that_is_no_good_gets_terms_with_the_reason() {
    let shop = shop().await;
    for fields in ["PAYMENT-SIGNATURE: x\r\n", "X-PAYMENT: x\r\n", "X-Payment:\r\n"] {
        let answer = shop.ask("GET /paid", fields).await;
        assert_eq!(status(&answer), 402, "{answer}");
        assert!(field(&answer, "payment-required").is_some() && field(&answer, "payment-response").is_none());
        let terms: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(terms["error"], "invalid_payload");
    }
    let two = format!("PAYMENT-SIGNATURE: {}\r\nX-PAYMENT: {}\r\n", payment_header("1"), payment_header("2"));
    let answer = shop.ask("GET /paid", &two).await;
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn a_paid_request_is_served_once_with_proof_for_both_sides() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let answer = shop.pay("GET /paid?x=1", "1").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(body(&answer), "ok");
    let outcome = field(&answer, "payment-response").unwrap();
    assert_eq!(Some(outcome), field(&answer, "x-payment-response"));
    assert_eq!(answer.matches("yment-response: ").count(), 2, "the origin's forgery passed: {answer}");
    let outcome: Value =
        serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(outcome).unwrap()).unwrap();
    assert_eq!((&outcome["success"], &outcome["transaction"]), (&Value::Bool(true), &"0xtx".into()));
    assert_eq!(field(&answer, "cache-control"), Some("private, no-store"));
    assert_eq!(field(&answer, "vary"), Some("PAYMENT-SIGNATURE, X-PAYMENT"));
    let head = shop.origin.heads().remove(0);
    for said in [
        "get /paid?x=1 http/1.1",
        "x-payment-payer: 0xpayer",
        "x-payment-network: eip155:84532",
        "x-payment-transaction: 0xtx",
        "x-payment-amount: 10000",
        "x-payment-asset: 0xtoken",
        "idempotency-key: pay_",
    ] {
        assert!(head.contains(said), "{said} in {head}");
    }
    assert!(!head.contains("payment-signature"), "{head}");
    shop.gate.reaches(&[PaymentState::Served]).await;
    let again = shop.pay("GET /paid?x=1", "1").await;
    assert_eq!(status(&again), 402, "{again}");
    assert!(again.contains("payment_already_used") && shop.hits() == 1);
}

#[tokio::test]
async fn a_pending_settlement_is_never_answered_with_terms() {
    let shop = shop().await;
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(field(&answer, "payment-required").is_none() && field(&answer, "retry-after") == Some("2"));
    assert!(body(&answer).contains("settlement_pending") && field(&answer, "payment-response").is_some());
    let other = shop.pay("GET /paid?other", "1").await;
    assert_eq!(status(&other), 409, "{other}");
    assert!(other.contains("payment_bound_to_other_request"));
    shop.gate.chain.pays();
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(status(&shop.pay("GET /paid", "1").await), 200);
    assert_eq!(shop.hits(), 1);
}

#[tokio::test]
async fn a_settlement_that_failed_is_answered_with_fresh_terms() {
    let shop = shop().await;
    shop.gate.chain.fails();
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 402, "{answer}");
    assert!(field(&answer, "payment-required").is_some() && field(&answer, "payment-response").is_some());
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn an_origin_that_fails_after_payment_leaves_the_payment_good() {
    for (answer, closes, expected) in [
        (&b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno"[..], false, 500),
        (b"", true, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true, 200),
    ] {
        let shop = open(Opening { answer, closes, ..Opening::default() }).await;
        shop.gate.chain.pays();
        let first = shop.pay("GET /paid", "1").await;
        assert_eq!(status(&first), expected, "{first}");
        assert!(field(&first, "payment-response").is_some(), "{first}");
        assert_eq!(shop.hits(), 1, "a paid request is never repeated by itself");
        shop.gate.reaches(&[PaymentState::Paid]).await;
        let second = shop.pay("GET /paid", "1").await;
        assert_eq!(status(&second), expected, "{second}");
        shop.gate.reaches(&[PaymentState::Owed]).await;
        let third = shop.pay("GET /paid", "1").await;
        assert_eq!((status(&third), shop.hits()), (409, 2), "{third}");
        assert!(third.contains("payment_owed"), "{third}");
        assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_settled_and_served_later() {
    let shop = shop().await;
    let request =
        format!("GET /paid HTTP/1.1\r\nHost: shop.example\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header("1"));
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(socket);
    shop.gate.chain.pays();
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(shop.hits(), 0, "nothing is spent on a client that is gone");
    assert_eq!(status(&shop.pay("GET /paid", "1").await), 200);
    shop.gate.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_the_origin_works_keeps_its_payment() {
    let shop = open(Opening { answer: b"", ..Opening::default() }).await;
    shop.gate.chain.pays();
    let request =
        format!("GET /paid HTTP/1.1\r\nHost: shop.example\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header("1"));
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    while shop.hits() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shop.gate.reaches(&[PaymentState::Delivering]).await;
    drop(socket);
    shop.gate.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn an_origin_that_is_too_slow_leaves_the_payment_good() {
    let read_timeout = Duration::from_millis(200);
    let shop = open(Opening { answer: b"", read_timeout, ..Opening::default() }).await;
    shop.gate.chain.pays();
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 504, "{answer}");
    assert!(field(&answer, "payment-response").is_some() && body(&answer).contains("present the same payment again"));
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(shop.hits(), 1);
    assert_eq!(status(&shop.ask("GET /open", "").await), 504);
}

#[tokio::test]
async fn a_server_that_is_down_costs_neither_payers_nor_others_their_answer() {
    let shop = open(Opening { has_dead_server: true, ..Opening::default() }).await;
    shop.gate.chain.pays();
    for nonce in ["1", "2", "3"] {
        assert_eq!(status(&shop.pay("POST /paid", nonce).await), 200);
        assert_eq!(status(&shop.ask("POST /free/a", "Content-Length: 0\r\n").await), 200);
    }
    assert_eq!(shop.hits(), 6);
    shop.gate.reaches(&[PaymentState::Served; 3]).await;
}

#[tokio::test]
async fn terms_and_outcomes_are_readable_to_the_page_that_pays() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let fields = format!("Origin: https://page.example\r\nPAYMENT-SIGNATURE: {}\r\n", payment_header("1"));
    let answer = shop.ask("GET /paid", &fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&answer, "access-control-expose-headers").unwrap().contains("PAYMENT-RESPONSE"));
}

#[tokio::test]
async fn a_paid_request_passes_nothing_on_to_the_next_one_on_its_connection() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    for nonce in ["1", "2"] {
        let paying = format!("GET /paid HTTP/1.1\r\nHost: h\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header(nonce));
        socket.write_all(paying.as_bytes()).await.unwrap();
        assert_eq!(status(&String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap()), 200);
        socket.write_all(b"GET /paid HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let unpaid = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert_eq!(status(&unpaid), 402);
        socket.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let free = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert!(status(&free) == 200 && field(&free, "payment-response").is_none());
    }
    assert!(!shop.origin.heads().remove(1).contains("x-payment"));
}

#[tokio::test]
async fn bodies_of_paid_requests_arrive_whole_and_bind_the_payment() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let limit = 64 * 1024;
    for (at, size) in [0, 1, limit - 1, limit, limit + 1, 2 * limit + 17, 1024 * 1024].into_iter().enumerate() {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for (way, chunk) in [("length", 0), ("one chunk", usize::MAX), ("chunks", 10_000), ("large chunks", 65_537)] {
            let nonce = format!("{at}-{way}");
            let head = format!(
                "POST /paid HTTP/1.1\r\nHost: h\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n",
                payment_header(&nonce)
            );
            let framed = if chunk == 0 {
                [format!("{head}Content-Length: {size}\r\n\r\n").as_bytes(), &sent].concat()
            } else {
                let mut framed = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for piece in sent.chunks(chunk.min(size.max(1))) {
                    framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    framed.extend_from_slice(piece);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(b"0\r\n\r\n");
                framed
            };
            let answer = exchange(shop.address, &framed).await;
            assert_eq!(status(&answer), 200, "{size} {way}: {answer}");
            assert!(shop.origin.last_body() == sent, "{size} bytes by {way} did not arrive as they were sent");
        }
    }
    assert_eq!(shop.hits(), 28);
}

#[tokio::test]
async fn a_client_that_waits_for_continue_is_asked_for_its_body_once_its_payment_is_proven() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let head = format!(
        "POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n\r\n",
        payment_header("1")
    );
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let interim = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
    assert_eq!(status(&interim), 100);
    assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 0, "the money moves when the request is whole");
    socket.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200);
    assert_eq!(shop.origin.last_body(), b"body");
    assert!(!shop.origin.heads().remove(0).contains("expect"));
}

#[tokio::test]
async fn with_the_origin_down_no_payment_is_looked_at() {
    let shop = open(Opening { has_origin: false, ..Opening::default() }).await;
    let answer = shop.ask("GET /paid", "X-PAYMENT: x\r\n").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("origin_unavailable"));
    assert_eq!(shop.decoded(), 0);
    assert_eq!(status(&shop.ask("GET /paid", "").await), 402, "terms need no origin");
    assert_eq!(status(&shop.ask("GET /open", "").await), 502);
}

#[tokio::test]
async fn what_no_route_takes_is_refused_and_never_forwarded() {
    let shop = shop().await;
    assert_eq!(status(&shop.ask("GET /nowhere", "").await), 404);
    assert_eq!(status(&shop.ask("GET /denied", "").await), 404);
    let answer = shop.ask("DELETE /paid", "X-PAYMENT: x\r\n").await;
    assert_eq!(status(&answer), 405);
    assert!(field(&answer, "allow").unwrap().contains("GET"));
    assert_eq!(status(&shop.ask("TRACE /paid", "").await), 405);
    assert_eq!(status(&shop.ask("TRACE /free/a", "").await), 405);
    assert_eq!(status(&shop.ask("CONNECT shop.example:80", "").await), 405);
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn unsafe_requests_are_refused_before_any_payment() {
    let shop = shop().await;
    let long = format!("GET /free/a HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many = format!("GET /free/a HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(101));
    for (request, expected) in [
        ("GET http://h/paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET free/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET ?/free/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET foo:bar://e/paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET /free/a%2Fpaid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/a\\..\\paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/%00 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("POST /free/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\nHost: h\n\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: h\r\nConnection: close, X-Payment-Payer\r\n\r\n", 400),
        (long.as_str(), 431),
        (many.as_str(), 431),
    ] {
        // The last client header keeps connections that stay usable from being waited for.
        let request = request.replacen(
            "\r\n\r\n",
            "\r\nConnection: close\r\n\r\n",
            usize::from(!request.contains("Connection") && expected == 400),
        );
        let answer = exchange(shop.address, request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{request:.80} {answer}");
    }
    assert_eq!(shop.hits(), 0);
    assert_eq!(shop.decoded(), 0);
}

#[tokio::test]
async fn preflights_of_priced_paths_are_free_and_those_of_free_paths_are_the_origins() {
    let shop = shop().await;
    let fields = "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = shop.ask("OPTIONS /paid", fields).await;
    assert_eq!(status(&answer), 204, "{answer}");
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&answer, "access-control-allow-headers").unwrap().contains("PAYMENT-SIGNATURE"));
    assert_eq!(shop.hits(), 0);
    assert_eq!(status(&shop.ask("OPTIONS /paid", "").await), 405, "without Origin it is no preflight");
    assert_eq!(status(&shop.ask("OPTIONS /open", fields).await), 204, "nobody else would answer for a GET route");
    assert_eq!(status(&shop.ask("OPTIONS /denied", fields).await), 404);
    assert_eq!(shop.hits(), 0);
    assert_eq!(status(&shop.ask("OPTIONS /free/a", fields).await), 200);
    assert_eq!(shop.hits(), 1);
    let terms = shop.ask("GET /paid", "Origin: https://page.example\r\n").await;
    assert_eq!(field(&terms, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&terms, "access-control-expose-headers").unwrap().contains("PAYMENT-REQUIRED"));
    assert_eq!(status(&shop.ask("OPTIONS *", "").await), 204);
}

#[tokio::test]
async fn a_connection_goes_on_after_terms_and_a_body_never_becomes_a_request() {
    let shop = shop().await;
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    let smuggled = "GET /free/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let request = format!("POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    for _ in 0..3 {
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert_eq!(status(&answer), 402);
        assert_eq!(field(&answer, "connection"), Some("keep-alive"));
    }
    socket.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert_eq!(status(&String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap()), 200);
    assert_eq!(shop.hits(), 1);
}

#[tokio::test]
async fn a_large_unread_body_does_not_take_the_answer_away() {
    let shop = shop().await;
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    let body_bytes = 900 * 1024;
    let head = format!("POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: {body_bytes}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![b'x'; body_bytes]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 402);
    assert_eq!(field(&answer, "connection"), Some("close"));
}

#[tokio::test]
async fn a_client_that_waits_for_continue_gets_terms_at_once() {
    let shop = shop().await;
    let started = Instant::now();
    let answer = exchange(
        shop.address,
        b"POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(status(&answer), 402, "{answer}");
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let shop = open(Opening { answer, closes: true, ..Opening::default() }).await;
        let seen = shop.ask("POST /free/a", "Content-Length: 0\r\n").await;
        assert!(seen.contains("half") && !seen.contains("\r\n0\r\n\r\n"), "{seen}");
        assert_eq!(shop.hits(), 1, "a POST is never repeated");
    }
}

#[tokio::test]
async fn an_origin_that_switches_protocols_unasked_is_cut_off() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsecret";
    let shop = open(Opening { answer, ..Opening::default() }).await;
    let seen = shop.ask("GET /free/a", "").await;
    assert!(status(&seen) == 502 && !seen.contains("secret"), "{seen}");
    shop.gate.chain.pays();
    let paid = shop.pay("GET /paid", "1").await;
    assert!(status(&paid) == 502 && field(&paid, "payment-response").is_some(), "{paid}");
    shop.gate.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn early_hints_pass_and_the_answer_follows() {
    let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let shop = open(Opening { answer, ..Opening::default() }).await;
    let seen = shop.ask("GET /free/a", "").await;
    assert!(seen.starts_with("HTTP/1.1 103") && seen.ends_with("ok"), "{seen}");
    shop.gate.chain.pays();
    let paid = shop.pay("GET /paid", "1").await;
    assert!(paid.starts_with("HTTP/1.1 103") && paid.ends_with("ok"), "{paid}");
    assert_eq!(paid.matches("yment-response: ").count(), 2, "only the answer itself carries the outcome: {paid}");
    shop.gate.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn bodies_of_free_requests_arrive_whole() {
    let shop = shop().await;
    for size in [0, 1, 64 * 1024, 1024 * 1024] {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let head = format!("POST /free/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
        let answer = exchange(shop.address, &[head.as_bytes(), &sent].concat()).await;
        assert_eq!(status(&answer), 200);
        assert!(shop.origin.last_body() == sent, "{size}");
    }
}

#[tokio::test]
async fn operators_see_health_metrics_and_books_and_strangers_names_are_refused() {
    let shop = shop().await;
    let ask = async |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(shop.admin, request.as_bytes()).await
    };
    assert_eq!(status(&shop.ask("GET /paid", "").await), 402);
    let health = ask("/healthz", "localhost").await;
    assert_eq!(status(&health), 200, "{health}");
    assert_eq!(status(&ask("/readyz", "127.0.0.1:8403").await), 200);
    let metrics = ask("/metrics", "[::1]:8403").await;
    assert!(metrics.contains(r#"tollhouse_requests_total{outcome="challenge",route="GET,POST /paid"} 1"#), "{metrics}");
    assert_eq!(body(&ask("/payments?limit=5", "localhost").await), r#"{"payments":[]}"#);
    assert_eq!(status(&ask("/payments?limit=x", "localhost").await), 400);
    assert_eq!(status(&ask("/secrets", "localhost").await), 404);
    assert_eq!(status(&ask("/payments", "evil.example").await), 403);
    assert_eq!(status(&ask("/healthz", "localhost.evil.example").await), 403);
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once_and_a_busy_one_ends_its_requests() {
    let mut idle = shop().await;
    let mut kept = TcpStream::connect(idle.address).await.unwrap();
    kept.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(read_message(&mut kept).await.is_some());
    let started = Instant::now();
    drop(idle.stop.take());
    idle.ended.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    let mut busy = shop().await;
    let mut socket = TcpStream::connect(busy.address).await.unwrap();
    socket.write_all(b"POST /free/a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(busy.stop.take());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(busy.address).await.is_err(), "it still accepts");
    assert!(!busy.ended.is_finished());
    socket.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    busy.ended.await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_and_no_panic() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(upstream(&["127.0.0.1:1"]), vec![route("/a", Free)]);
    config.server.listen = taken.local_addr().unwrap();
    let gate = TestGate::open().await;
    let refused = Server::bind(gate.parts(&config), gate.admin_parts(&config)).await.err().unwrap();
    assert!(refused.to_string().contains("can't listen on"), "{refused}");
}

#[tokio::test]
async fn the_same_payment_many_times_at_once_reaches_the_origin_once() {
    let shop = shop().await;
    let request = format!(
        "GET /paid HTTP/1.1\r\nHost: h\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n\r\n",
        payment_header("1")
    );
    let asking = futures::future::join_all((0..200).map(|_| exchange(shop.address, request.as_bytes())));
    let paying = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        shop.gate.chain.pays();
    };
    let (answers, ()) = tokio::join!(asking, paying);
    let count = |wanted: u16| answers.iter().filter(|answer| status(answer) == wanted).count();
    assert_eq!(count(200), 1);
    assert_eq!(count(200) + count(409) + count(402), 200);
    assert_eq!(shop.hits(), 1);
    assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 1);
}
