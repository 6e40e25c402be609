//! The assembled proxy over real sockets, with a raw origin behind it.

mod directory;
mod lifetime;
mod paid;
mod unpaid;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::config::RouteAction::{Deny, Free, Paid};
use crate::ledger::PaymentState;
use crate::proxy::testing::{
    RawOrigin, TestGate, config, exchange, paid_route, payment_header, read_message, route, upstream,
};
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
    settle_timeout: Duration,
    /// `[server] discovery`.
    discovery: bool,
    /// One more route.
    more: Option<crate::config::RouteConfig>,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            answer: OK,
            closes: false,
            has_origin: true,
            has_dead_server: false,
            read_timeout: Duration::from_secs(5),
            settle_timeout: Duration::from_millis(300),
            discovery: false,
            more: None,
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
    let mut routes = vec![
        route("/free/{*rest}", Free),
        route("GET /open", Free),
        route("GET,POST /paid", Paid(paid_route())),
        route("/denied", Deny),
    ];
    routes.extend(opening.more);
    let mut upstream = upstream(servers);
    upstream.read_timeout = opening.read_timeout;
    let mut config = config(upstream, routes);
    config.server.discovery = opening.discovery;
    let gate = TestGate::open(opening.settle_timeout).await;
    let server = Server::bind(gate.parts(&config), gate.admin_parts(&config), None, None).await.unwrap();
    let (address, admin) = (server.address(), server.admin_address());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.run(
        async {
            drop(stopped.await);
            crate::server::Ending::Stopped
        },
        |_within| async {},
    ));
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
