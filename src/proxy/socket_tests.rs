//! The assembled proxy over real sockets, with a raw origin behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::testing::{
    EmptyLedger, FakeGate, FakeScheme, RawOrigin, config, exchange, paid_route, parts, read_message, route, upstream,
};
use crate::admin::AdminParts;
use crate::config::RouteAction::{Deny, Free, Paid};
use crate::payment::Decision;
use crate::server::Server;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPAYMENT-RESPONSE: forged\r\nX-Origin: yes\r\n\r\nok";

struct Shop {
    address: SocketAddr,
    admin: SocketAddr,
    gate: Arc<FakeGate>,
    origin: RawOrigin,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

struct Opening {
    answer: &'static [u8],
    closes: bool,
    is_open: bool,
    has_origin: bool,
    decide: fn() -> Decision,
}

impl Default for Opening {
    fn default() -> Self {
        Self { answer: OK, closes: false, is_open: true, has_origin: true, decide: || Decision::InProgress }
    }
}

async fn open(opening: Opening) -> Shop {
    let origin = RawOrigin::start(opening.answer, opening.closes).await;
    let server = if opening.has_origin { origin.address.to_string() } else { "127.0.0.1:1".to_owned() };
    let routes = vec![
        route("/free/{*rest}", Free),
        route("GET /open", Free),
        route("GET,POST /paid", Paid(paid_route())),
        route("/denied", Deny),
    ];
    let config = config(upstream(&[&server]), routes);
    let gate = Arc::new(FakeGate { decide: opening.decide, asked: AtomicUsize::new(0) });
    let parts = parts(config.clone(), Arc::clone(&gate) as _, opening.is_open);
    let admin = AdminParts {
        config: config.admin,
        schemes: vec![FakeScheme::network_that(opening.is_open)],
        has_priced_routes: true,
        ledger: Arc::new(EmptyLedger { is_there: true }),
        metrics: Arc::clone(&parts.metrics),
    };
    let server = Server::bind(parts, admin).await.unwrap();
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
    assert_eq!(shop.gate.asked.load(Ordering::SeqCst), 0, "no gate is asked for terms");
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
    let shop = open(Opening { is_open: false, ..Opening::default() }).await;
    let answer = shop.ask("GET /paid", "").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("payments_unavailable"));
    assert!(field(&answer, "payment-required").is_none() && field(&answer, "retry-after").is_some());
}

#[tokio::test]
async fn a_presented_payment_gets_what_the_gate_decides() {
    let shop = shop().await;
    for fields in ["PAYMENT-SIGNATURE: x\r\n", "X-PAYMENT: x\r\n", "X-Payment:\r\n"] {
        let answer = shop.ask("GET /paid", fields).await;
        assert_eq!(status(&answer), 409, "{answer}");
        assert_eq!(body(&answer), r#"{"error":"payment_in_progress"}"#);
        assert_eq!(field(&answer, "retry-after"), Some("2"));
    }
    assert_eq!(shop.gate.asked.load(Ordering::SeqCst), 3);
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn with_the_origin_down_no_payment_is_looked_at() {
    let shop = open(Opening { has_origin: false, ..Opening::default() }).await;
    let answer = shop.ask("GET /paid", "X-PAYMENT: x\r\n").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("origin_unavailable"));
    assert_eq!(shop.gate.asked.load(Ordering::SeqCst), 0);
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
    assert_eq!(shop.gate.asked.load(Ordering::SeqCst), 0);
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
async fn early_hints_pass_and_the_answer_follows() {
    let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let shop = open(Opening { answer, ..Opening::default() }).await;
    let seen = shop.ask("GET /free/a", "").await;
    assert!(seen.starts_with("HTTP/1.1 103") && seen.ends_with("ok"), "{seen}");
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
    let gate = Arc::new(FakeGate { decide: || Decision::Unavailable, asked: AtomicUsize::new(0) });
    let parts = parts(config.clone(), gate, true);
    let admin = AdminParts {
        config: config.admin,
        schemes: Vec::new(),
        has_priced_routes: false,
        ledger: Arc::new(EmptyLedger { is_there: true }),
        metrics: Arc::clone(&parts.metrics),
    };
    let refused = Server::bind(parts, admin).await.err().unwrap();
    assert!(refused.to_string().contains("can't listen on"), "{refused}");
}
