//! Forward auth: real fronts with the configurations of `docs/forward-auth.md`, and the questions that they ask.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Fault, PRICE, Plan, Serve, Shop, Terms, eventually, free_port, paid};

/// Nothing here takes longer to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Debian keeps it where only administrators' shells look.
const NGINX: &str = "/usr/sbin/nginx";

/// Names by which a client could have an origin serve another URL or method than the one that was priced.
const OVERRIDES: [&str; 14] = [
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Forwarded-Uri",
    "X-Forwarded-Path",
    "X-Forwarded-Prefix",
    "X-Forwarded-Method",
    "X-Forwarded-Server",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Override-URL",
    "X-Envoy-Original-Path",
    "X-Forwarded-Port",
    "Proxy",
];

/// What caches on the way believe more than `Cache-Control`.
const CACHE_OVERRIDES: [&str; 5] =
    ["CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control", "Edge-Control", "X-Accel-Expires"];

fn plan(lines: &'static str) -> Plan {
    Plan {
        server: "discovery = true".to_owned(),
        forward_auth: Some(lines),
        network: "settle_timeout = \"2s\"".to_owned(),
        ..Plan::default()
    }
}

/// A front's process.
struct Front {
    port: u16,
    child: Child,
    directory: TempDir,
}

impl Front {
    async fn nginx(shop: &Shop) -> Self {
        Self::start(|port, directory| {
            let server = documented("nginx", shop, port);
            let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
                .collect();
            let config = directory.join("nginx.conf");
            let text = format!(
                "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{paths}{server}\n}}\n",
                directory.display()
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new(NGINX);
            command.arg("-p").arg(directory).arg("-c").arg(config).arg("-e").arg(directory.join("error.log"));
            command
        })
        .await
    }

    async fn caddy(shop: &Shop) -> Self {
        Self::start(|port, directory| {
            let site = documented("caddyfile", shop, port);
            let config = directory.join("Caddyfile");
            std::fs::write(&config, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}")).unwrap();
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
            command.env("HOME", directory).env("XDG_DATA_HOME", directory).env("XDG_CONFIG_HOME", directory);
            command
        })
        .await
    }

    async fn start(command: impl Fn(u16, &Path) -> Command) -> Self {
        for _ in 0..5 {
            let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
            let log = std::fs::File::create(directory.path().join("log")).unwrap();
            let mut command = command(port, directory.path());
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let child =
                command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run.sh installs it"));
            let mut front = Self { port, child, directory };
            if front.is_up().await {
                return front;
            }
            // Somebody else took the port meanwhile.
            eprintln!("{}", std::fs::read_to_string(front.directory.path().join("log")).unwrap_or_default());
        }
        panic!("the front doesn't start");
    }

    async fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "nobody listens on port {}", self.port);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn call(&self, call: &Call) -> Answer {
        call.send(self.port).await.unwrap_or_else(|error| panic!("{} {}: {error}", call.method, call.target))
    }

    async fn get(&self, target: &str) -> Answer {
        self.call(&Call::get(target)).await
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The configuration as it is documented, with this test's ports and name.
fn documented(language: &str, shop: &Shop, port: u16) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/forward-auth.md")).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let mut block = block.replace("shop.example", "shop.test");
    for (documented, own) in [(8080, port), (8405, shop.forward_auth_port), (9000, shop.origin.port)] {
        assert!(block.contains(&format!(":{documented}")), "no port {documented}");
        block = block.replace(&format!(":{documented}"), &format!(":{own}"));
    }
    // The gateway's own listener, for who needs it.
    block = block.replace(":8402", &format!(":{}", shop.port));
    block
}

/// What every front must do.
async fn assert_sells(shop: &Shop, front: &Front) {
    // Unpaid: terms for every version, and nothing reaches the origin.
    let terms = Terms::read(&front.get("/api/data").await);
    assert_eq!(shop.origin.hits().len(), 0);

    // Paid: the origin's answer, with a receipt; the origin is told by whom, whatever the client says.
    let payment = shop.payer.pay(&terms);
    shop.origin.then([Serve::Cacheable]);
    let spoofed = paid(&payment.v2()).with("X-Payment-Payer", "0xMallory").with("X-Payment-Amount", "1");
    let spoofed = OVERRIDES.iter().fold(spoofed, |call, name| call.with(name, "/mallory"));
    let spoofed = spoofed.with("X_Payment_Payer", "0xMallory").with("X_HTTP_Method_Override", "DELETE");
    let answer = front.call(&spoofed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["origin"], true);
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    let receipt = answer.outcome().expect("a receipt");
    assert_eq!((&receipt["success"], &receipt["transaction"]), (&true.into(), &transfer.transaction.as_str().into()));
    assert_is_for_its_payer(&answer);
    let [hit] = &shop.origin.hits()[..] else { panic!("not one hit") };
    let all = |name: &str| {
        let fields = hit.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-payment-payer"), [shop.payer.address.to_string()]);
    assert_eq!(all("x-payment-amount"), [PRICE.to_string()]);
    assert_eq!(all("x-payment-network"), ["eip155:84532"]);
    assert_eq!(all("x-payment-transaction"), [transfer.transaction.as_str()]);
    assert_eq!((all("payment-signature"), all("x-payment")), (vec![], vec![]));
    let forged = hit.headers.iter().filter(|(name, value)| {
        value == "/mallory" || value.contains("Mallory") || value == "DELETE" || name.contains('_')
    });
    assert_eq!(forged.collect::<Vec<_>>(), Vec::<&(String, String)>::new());
    shop.assert_sold_once().await;

    // Presented again, also for another path: refused, and nothing moves.
    let again = front.call(&paid(&payment.v2())).await;
    Terms::read(&again);
    assert_eq!(again.error(), "payment_already_used");
    let elsewhere = Call { target: "/api/other".to_owned(), ..paid(&payment.v2()) };
    assert_eq!(front.call(&elsewhere).await.status, 402);
    shop.assert_sold_once().await;

    // The older version, with a method that has a body.
    let payment = shop.payer.pay(&terms);
    let (name, value) = payment.v1();
    let post = Call::post("/api/data", "a body").with(name, value);
    let answer = front.call(&post).await;
    assert_eq!((answer.status, answer.outcome().unwrap()["success"].as_bool()), (200, Some(true)), "{answer:?}");
    let last = shop.origin.hits().pop().unwrap();
    assert_eq!((last.method.as_str(), last.body.as_slice()), ("POST", b"a body".as_slice()));
    eventually("two served rows", PATIENCE, || async {
        let rows = shop.rows().await;
        (rows.iter().filter(|row| row.state == PaymentState::Served).count() == 2).then_some(())
    })
    .await;
}

/// What was paid for gets into no shared cache, whatever the origin said.
fn assert_is_for_its_payer(answer: &Answer) {
    let all = |name: &str| {
        let fields = answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(all("cache-control"), ["private, no-store"]);
    assert!(all("vary").contains(&"PAYMENT-SIGNATURE, X-PAYMENT"), "{answer:?}");
    for name in CACHE_OVERRIDES {
        assert_eq!(all(name), Vec::<&str>::new(), "{name}");
    }
}

/// The price list is the gateway's own answer, and what was free stays as the origin would have it cached.
async fn assert_lists_prices_and_leaves_free_answers_alone(shop: &Shop, front: &Front) {
    let hits = shop.origin.hits().len();
    let prices = front.get("/.well-known/x402").await;
    assert_eq!(prices.status, 200, "{prices:?}");
    assert!(prices.json()["resources"].as_array().is_some_and(|list| !list.is_empty()), "{prices:?}");
    assert_eq!(shop.origin.hits().len(), hits);
    shop.origin.then([Serve::Cacheable]);
    let free = front.get("/health").await;
    assert_eq!((free.status, free.header("cache-control")), (200, Some("public, s-maxage=600")), "{free:?}");
    assert_eq!(free.header("cdn-cache-control"), Some("max-age=600"), "{free:?}");
}

/// What no client may do behind a front.
async fn assert_refuses(shop: &Shop, front: &Front) {
    let hits = shop.origin.hits().len();
    assert_eq!(front.get("/nowhere").await.status, 404);
    let answer = front.call(&Call { method: "PUT".to_owned(), ..Call::get("/api/data") }).await;
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("POST")), "{answer:?}");
    let head = front.call(&Call { method: "HEAD".to_owned(), ..Call::get("/api/data") }).await;
    assert_eq!(head.status, 402);

    // Another front's words, or this one's own, from a client.
    for (names, target) in [
        (["X-Original-URI", "X-Original-Method", "X-Original-Host"], "/api/data"),
        (["X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host"], "/api/data"),
        (["X-Original-URL", "X-Rewrite-URL", "X-Envoy-Original-Path"], "/api/data"),
    ] {
        let call = names
            .iter()
            .zip(["/health", "OPTIONS", "shop.test"])
            .fold(Call::get(target), |call, (name, value)| call.with(name, value));
        assert_eq!(front.call(&call).await.status, 402, "{names:?}");
    }

    // Other spellings of a priced path, and of a free one by way of a priced one.
    for target in [
        "/api//data",
        "//api/data",
        "/api/./data",
        "/x/../api/data",
        "/api/%64ata",
        "/%61pi/data",
        "/api%2Fdata",
        "/api%2fdata",
        "/api/data/",
        "/API/DATA",
        "/api/data/../../health",
        "/health/../api/data",
        "/api\\data",
        "/api/data;x=1",
        "/health;/../api/data",
        "/api/data%00",
        "/api/data%20",
        "/api/data?",
        "/api/data#/health",
        "/health%2f..%2fapi%2fdata",
        "/health/..%2fapi/data",
        "/api/data%3f",
        "/api/data%23",
        "http://shop.test/api/data",
        "http://free.test/api/data",
        "/api/data/.",
        "/%2e%2e/api/data",
        "/api/%2e/data",
    ] {
        let answer = front.get(target).await;
        // A front that knows no such host says what it likes.
        let is_elsewhere = target.starts_with("http://free.test") && answer.body.is_empty();
        assert!(is_elsewhere || matches!(answer.status, 400 | 402 | 404), "{target}: {answer:?}");
    }
    assert_eq!(shop.origin.hits().len(), hits, "nothing of this reaches the origin");

    // Free: served, and nobody is a payer there.
    let free = Call::get("/health").with("X-Payment-Payer", "0xMallory").with("X-Payment-Transaction", "0x1");
    assert_eq!(front.call(&free).await.status, 200);
    let hit = shop.origin.hits().pop().unwrap();
    for name in ["x-payment-payer", "x-payment-transaction", "x-payment-amount"] {
        assert_eq!(hit.header(name).unwrap_or_default(), "", "{name}");
    }
    assert!(!hit.headers.iter().any(|(_, value)| value.contains("Mallory")));
}

/// A settlement whose outcome isn't known yet is no reason to pay again, and buys its answer later.
async fn assert_pends(shop: &Shop, front: &Front) {
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::Hold);
    let answer = front.call(&paid(&payment.v2())).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "settlement_pending"), "{answer:?}");
    assert!(!answer.has_terms() && answer.header("retry-after").is_some());
    assert_eq!(answer.outcome().unwrap()["success"], false);
    shop.rpc.clear();
    let answer = eventually("an answer", Duration::from_secs(40), || async {
        let answer = front.call(&paid(&payment.v2())).await;
        assert!(!answer.has_terms(), "{answer:?}");
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.outcome().unwrap()["success"], true);
    // The front has its answer before it is written that it has.
    shop.wait_booked().await;
    assert_eq!(front.call(&paid(&payment.v2())).await.error(), "payment_already_used");
}

fn preflight() -> Call {
    let call = Call { method: "OPTIONS".to_owned(), ..Call::get("/api/data") };
    call.with("Origin", "https://page.test").with("Access-Control-Request-Method", "GET")
}

#[tokio::test]
async fn a_payment_buys_one_answer_through_nginx_as_documented() {
    let shop = Shop::open_with(plan("dialect = \"nginx\"")).await;
    let front = Front::nginx(&shop).await;
    assert_sells(&shop, &front).await;
    assert_refuses(&shop, &front).await;
    assert_pends(&shop, &front).await;
    assert_lists_prices_and_leaves_free_answers_alone(&shop, &front).await;
    let answer = front.call(&preflight()).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.test"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET"));
    drop(front);
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_buys_one_answer_through_caddy_as_documented() {
    let shop = Shop::open_with(plan("dialect = \"caddy\"")).await;
    let front = Front::caddy(&shop).await;
    assert_sells(&shop, &front).await;
    assert_refuses(&shop, &front).await;
    assert_pends(&shop, &front).await;
    assert_lists_prices_and_leaves_free_answers_alone(&shop, &front).await;
    let hits = shop.origin.hits().len();
    assert_eq!(front.call(&preflight()).await.status, 403, "a success would let it pass to the origin");
    assert_eq!(shop.origin.hits().len(), hits);
    drop(front);
    shop.audit().await;
}

#[tokio::test]
async fn a_front_without_a_gateway_serves_nothing() {
    let mut shop = Shop::open_with(plan("dialect = \"nginx\"")).await;
    let front = Front::nginx(&shop).await;
    shop.gateway().kill();
    for target in ["/api/data", "/health"] {
        assert_eq!(front.get(target).await.status, 500, "{target}");
    }
    assert!(shop.origin.hits().is_empty());
}

#[tokio::test]
async fn nobody_moves_money_for_an_origin_that_is_down() {
    let shop = Shop::open_with(plan("dialect = \"nginx\"")).await;
    let front = Front::nginx(&shop).await;
    let payment = shop.payment().await;
    shop.origin.down().await;
    let answer = front.call(&paid(&payment.v2())).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "origin_unavailable"), "{answer:?}");
    assert!(shop.node.transfers().await.is_empty() && !answer.has_terms());
    shop.audit().await;
}

#[tokio::test]
async fn killed_between_its_leave_and_the_books_it_asks_for_no_second_payment() {
    let failpoints = "pre_w3=return".to_owned();
    let mut shop = Shop::open_with(Plan { failpoints, ..plan("dialect = \"nginx\"") }).await;
    let front = Front::nginx(&shop).await;
    let payment = shop.payment().await;
    // The front may have been told before the gateway died, or not.
    let first = front.call(&paid(&payment.v2())).await;
    assert!(!shop.gateway().wait_end().await.success());
    assert_eq!(shop.wait_state(PaymentState::Delivering).await.deliveries, 1);
    drop(front);
    shop.restart().await;
    let front = Front::nginx(&shop).await;
    let again = eventually("a decision", Duration::from_secs(40), || async {
        let answer = front.call(&paid(&payment.v2())).await;
        assert!(!answer.has_terms(), "terms for what was paid: {answer:?}");
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(again.status, 200, "after {first:?}");
    assert_eq!(shop.wait_state(PaymentState::Served).await.deliveries, 2);
    assert_eq!((shop.node.transfers().await.len(), shop.rows().await.len()), (1, 1));
}

/// A question as Traefik asks it.
fn question(target: &str) -> Call {
    let call = Call { host: "127.0.0.1", ..Call::get("/") };
    call.with("X-Forwarded-Method", "GET").with("X-Forwarded-Uri", target).with("X-Forwarded-Host", "shop.test")
}

#[tokio::test]
async fn only_a_trusted_front_with_its_token_is_answered() {
    let shop = Shop::open_with(plan("dialect = \"traefik\"\ntoken = { env = \"BASE_SEPOLIA_SIGNER\" }")).await;
    let token = shop.plan.signer;
    let ask = |call: Call| async move { call.send(shop.forward_auth_port).await.unwrap() };
    let good = question("/health").with("X-Tollhouse-Token", token);
    let stranger = Call { from: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), ..good.clone() };
    for (call, status) in [
        (question("/health"), 403),
        (question("/health").with("X-Tollhouse-Token", "wrong"), 403),
        (good.clone().with("X-Tollhouse-Token", token), 403),
        (stranger, 403),
        (good.clone().with("X-Forwarded-Uri", "/health"), 400),
        (good, 200),
    ] {
        let answer = ask(call.clone()).await;
        assert_eq!(answer.status, status, "{call:?}");
        if status == 200 {
            assert_eq!(answer.header("x-payment-payer"), Some(""));
        }
    }
}

#[tokio::test]
async fn envoy_asks_with_the_request_itself_and_is_told_of_the_payment() {
    let shop = Shop::open_with(plan("dialect = \"envoy\"")).await;
    let port = shop.forward_auth_port;
    let terms = Terms::read(&Call::get("/api/data").send(port).await.unwrap());
    let payment = shop.payer.pay(&terms);
    let answer = paid(&payment.v2()).send(port).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    assert_eq!(answer.header("x-payment-transaction"), Some(transfer.transaction.as_str()));
    assert_eq!(answer.header("x-payment-payer"), Some(shop.payer.address.to_string().as_str()));
    assert_eq!(answer.outcome().unwrap()["success"], true);
    shop.wait_state(PaymentState::Served).await;
    // At the proxy it is as spent as here.
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    assert_eq!(paid(&payment.v2()).send(port).await.unwrap().error(), "payment_already_used");
    for (call, status) in [
        (preflight(), 403),
        (Call::get("//api/data"), 400),
        (Call { method: "OPTIONS".to_owned(), ..Call::get("*") }, 400),
        (Call::get("/api/data").with("X-Forwarded-Uri", "/health"), 402),
        (Call { method: "HEAD".to_owned(), ..Call::get("/health") }, 200),
    ] {
        assert_eq!(call.send(port).await.unwrap().status, status, "{call:?}");
    }
    shop.audit().await;
}
