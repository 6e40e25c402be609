//! The listener: TLS, HTTP/2, certificates, proxies in front, clients that take too much.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Plan, Shop, Terms, eventually, paid};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// Certificates in a folder of their own, where they may be replaced.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let certificates = Self(tempfile::tempdir().unwrap());
        certificates.put("shop", "shop");
        certificates.put("wild", "wild");
        certificates
    }

    /// The fixture `from` under the name `to`.
    fn put(&self, from: &str, to: &str) {
        for kind in ["key", "cert"] {
            let file = self.0.path().join(format!("{to}.{kind}.pem"));
            std::fs::copy(fixture(&format!("{from}.{kind}.pem")), &file).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn toml(&self) -> String {
        let pair = |name: &str| {
            let file = |kind: &str| self.0.path().join(format!("{name}.{kind}.pem")).display().to_string();
            format!("{{ cert = {:?}, key = {:?} }}", file("cert"), file("key"))
        };
        format!("tls = [{}, {}]", pair("shop"), pair("wild"))
    }
}

/// A client that trusts the fixtures' CA and finds every name here.
fn client(port: u16, is_http2: bool) -> reqwest::Client {
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    let authority = reqwest::Certificate::from_pem(&std::fs::read(fixture("ca.cert.pem")).unwrap()).unwrap();
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).tls_info(true);
    for name in ["shop.test", "a.wild.test"] {
        builder = builder.resolve(name, here);
    }
    if is_http2 { builder } else { builder.http1_only() }.build().unwrap()
}

async fn get(client: &reqwest::Client, url: &str, headers: &[(&str, &str)]) -> (reqwest::Version, Answer) {
    let mut request = client.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (version, status) = (response.version(), response.status().as_u16());
    let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = response.bytes().await.unwrap().to_vec();
    (version, Answer { status, headers, body, is_complete: true })
}

async fn tls_shop() -> (Shop, Certificates) {
    let certificates = Certificates::new();
    let shop = Shop::open_with(Plan { server: certificates.toml(), ..Plan::default() }).await;
    (shop, certificates)
}

#[tokio::test]
async fn a_request_is_paid_over_tls_in_http_2_and_http_1() {
    let (shop, _certificates) = tls_shop().await;
    for is_http2 in [true, false] {
        let client = client(shop.port, is_http2);
        let url = format!("https://shop.test:{}/api/data", shop.port);
        let (version, unpaid) = get(&client, &url, &[]).await;
        let expected = if is_http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 };
        assert_eq!(version, expected);
        let terms = Terms::read(&unpaid);
        assert_eq!(terms.v1["resource"].as_str(), Some(url.as_str()), "resource URLs are those of the listener");
        let (name, value) = shop.payer.pay(&terms).v2();
        let (_, answer) = get(&client, &url, &[(name, &value)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.outcome().unwrap()["success"], true);
        let (_, again) = get(&client, &url, &[(name, &value)]).await;
        assert_eq!(again.error(), "payment_already_used");
    }
    let hits: Vec<_> = shop.origin.hits().into_iter().filter(|hit| hit.target == "/api/data").collect();
    assert_eq!(hits.len(), 2);
    for hit in hits {
        assert_eq!(hit.header("host"), Some(format!("shop.test:{}", shop.port).as_str()));
        assert_eq!(hit.header("x-forwarded-proto"), Some("https"));
    }
    shop.audit().await;
}

#[tokio::test]
async fn over_http_2_an_answer_waits_for_the_money_too() {
    let certificates = Certificates::new();
    let routes = "\"GET,POST /api/data\" = { price = \"$0.01\", settle = \"after\" }\n".to_owned();
    let plan = Plan { server: certificates.toml(), routes, settles_after: true, ..Plan::default() };
    let shop = Shop::open_with(plan).await;
    let client = client(shop.port, true);
    let url = format!("https://shop.test:{}/api/data", shop.port);
    let payment = shop.payer.pay(&Terms::read(&get(&client, &url, &[]).await.1));
    let (name, value) = payment.v2();
    let (_, answer) = get(&client, &url, &[(name, &value)]).await;
    assert_eq!((answer.status, shop.priced_hits()), (200, 1), "{answer:?}");
    shop.wait_state(PaymentState::Served).await;
    // Of many at once, on one connection, one gets it.
    let payment = shop.payer.pay(&Terms::read(&get(&client, &url, &[]).await.1));
    let (name, value) = payment.v2();
    let all = futures::future::join_all((0..20).map(|_| {
        let value = value.clone();
        let (client, url) = (&client, &url);
        async move { get(client, url, &[(name, &value)]).await.1.status }
    }));
    let statuses = all.await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (2, 2));
    shop.audit().await;
}

#[tokio::test]
async fn what_is_refused_on_http_1_is_refused_on_http_2() {
    let (shop, _certificates) = tls_shop().await;
    let client = client(shop.port, true);
    let origin = format!("https://shop.test:{}", shop.port);
    for (path, status) in [
        ("/API/data/", 402),
        ("/api/%64ata", 402),
        ("//api//data", 402),
        ("/api%2Fdata", 400),
        ("/api/data%00", 400),
        ("/nowhere", 404),
        ("/health", 200),
    ] {
        let (_, answer) = get(&client, &format!("{origin}{path}"), &[]).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
    }
    let (_, forged) = get(&client, &format!("{origin}/health"), &[("x-payment-payer", "me")]).await;
    assert_eq!(forged.status, 200);
    assert!(shop.origin.hits().iter().all(|hit| hit.header("x-payment-payer").is_none()));
    let long = "x".repeat(40_000);
    let refused = client.get(format!("{origin}/health")).header("x-long", &long).send().await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    let many = (0..120).fold(client.get(format!("{origin}/health")), |request, _| request.header("x-many", "y"));
    assert_eq!(many.send().await.unwrap().status(), 431);
    shop.assert_untouched().await;
    shop.audit().await;
}

fn certificate_of(response: &reqwest::Response) -> Vec<u8> {
    let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

fn der(name: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_file(fixture(&format!("{name}.cert.pem"))).unwrap().to_vec()
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_asked_for_and_a_request_for_another_is_misdirected() {
    let (shop, _certificates) = tls_shop().await;
    for (host, name) in [("shop.test", "shop"), ("a.wild.test", "wild")] {
        for is_http2 in [true, false] {
            let client = client(shop.port, is_http2);
            let url = format!("https://{host}:{}/health", shop.port);
            let response = client.get(&url).send().await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(certificate_of(&response), der(name));
        }
    }
    let client = client(shop.port, false);
    let url = format!("https://shop.test:{}/health", shop.port);
    let (_, elsewhere) = get(&client, &url, &[("host", "a.wild.test")]).await;
    assert_eq!((elsewhere.status, elsewhere.error().as_str()), (421, "misdirected_request"));
    shop.audit().await;
}

#[tokio::test]
async fn certificates_are_replaced_without_a_restart_and_bad_ones_are_not_taken() {
    let (mut shop, certificates) = tls_shop().await;
    let url = format!("https://shop.test:{}/health", shop.port);
    let port = shop.port;
    let served = || async {
        let response = client(port, true).get(&url).send().await.unwrap();
        certificate_of(&response)
    };
    assert_eq!(served().await, der("shop"));
    std::fs::write(certificates.0.path().join("shop.cert.pem"), "not a certificate").unwrap();
    let gateway = shop.gateway();
    eventually("told of the bad certificate", Duration::from_secs(20), || async {
        gateway.log().contains("the old one stays").then_some(())
    })
    .await;
    assert_eq!(served().await, der("shop"));
    certificates.put("next", "shop");
    eventually("the new certificate", Duration::from_secs(20), || async {
        (served().await == der("next")).then_some(())
    })
    .await;
    shop.audit().await;
}

#[tokio::test]
async fn plain_http_2_is_not_spoken() {
    let shop = Shop::open().await;
    let mut socket = TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stayed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    shop.audit().await;
}

#[tokio::test]
async fn the_word_of_a_trusted_proxy_counts_and_that_of_others_does_not() {
    for (ranges, client, scheme) in
        [("[\"127.0.0.0/8\"]", "198.51.100.7", "https"), ("[\"10.0.0.0/8\"]", "127.0.0.1", "http")]
    {
        let plan = Plan { server: format!("trusted_proxies = {ranges}"), ..Plan::default() };
        let shop = Shop::open_with(plan).await;
        let forwarded =
            |call: Call| call.with("X-Forwarded-For", "203.0.113.9, 198.51.100.7").with("X-Forwarded-Proto", "https");
        assert_eq!(shop.call(&forwarded(Call::get("/health"))).await.status, 200);
        let hits = shop.origin.hits();
        let hit = hits.iter().find(|hit| hit.target == "/health").unwrap();
        assert_eq!(hit.header("x-forwarded-for"), Some(client));
        assert_eq!(hit.header("x-forwarded-proto"), Some(scheme));
        let terms = Terms::read(&shop.call(&forwarded(Call::get("/api/data"))).await);
        assert_eq!(terms.v1["resource"], format!("{scheme}://shop.test/api/data"));
        shop.audit().await;
    }
}

/// What comes back when these bytes are all that a client sends.
async fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
    // A reset is as good as an end.
    drop(read.expect("the connection stayed"));
    answer
}

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn the_proxy_protocol_names_the_client_and_nobody_else_gets_in() {
    let server = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true";
    let shop = Shop::open_with(Plan { server: server.to_owned(), ..Plan::default() }).await;
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[198, 51, 100, 8, 10, 0, 0, 1, 1, 2, 3, 4]].concat();
    for (header, client) in
        [(b"PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\r\n".to_vec(), "198.51.100.7"), (v2, "198.51.100.8")]
    {
        let seen = shop.origin.hits().len();
        let answer = say(shop.port, &[&header, REQUEST].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(shop.origin.hits()[seen].header("x-forwarded-for"), Some(client));
    }
    let seen = shop.origin.hits().len();
    assert!(say(shop.port, REQUEST).await.is_empty(), "a request without the header");
    assert_eq!(shop.origin.hits().len(), seen);
    shop.audit().await;

    let server = "trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true";
    let shop = Shop::open_with(Plan { server: server.to_owned(), ..Plan::default() }).await;
    let spoofed = [b"PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\r\n", REQUEST].concat();
    assert!(say(shop.port, &spoofed).await.is_empty(), "a header from somebody who isn't trusted");
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_without_a_quote_belongs_to_the_client_behind_the_proxy() {
    let server = "trusted_proxies = [\"127.0.0.0/8\"]".to_owned();
    let shop = Shop::open_with(Plan { server, ..Plan::default() }).await;
    let from = |call: Call, client: &str| call.with("X-Forwarded-For", client);
    shop.origin.then([crate::harness::Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.call(&from(paid(&payment.v1()), "198.51.100.7")).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    let other = shop.call(&from(paid(&payment.v1()), "198.51.100.8")).await;
    assert_ne!(other.status, 200, "somebody else behind the same proxy presented it");
    assert_eq!(shop.call(&from(paid(&payment.v1()), "198.51.100.7")).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn slow_and_idle_clients_are_cut_off_and_later_heads_have_a_deadline_too() {
    let server = "limits = { head_timeout = \"1s\", idle_timeout = \"2s\" }".to_owned();
    let shop = Shop::open_with(Plan { server, ..Plan::default() }).await;
    let started = Instant::now();
    assert!(say(shop.port, b"").await.is_empty());
    assert!(say(shop.port, b"GET /health HTTP/1.1\r\nHost: sh").await.is_empty());
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let mut socket = TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap();
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: shop.test\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // A byte now and then keeps neither the head's deadline nor the connection.
    let started = Instant::now();
    let is_cut_off = async {
        for byte in b"GET /health HTTP/1.1\r\nX-Slow: ".iter().cycle() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if socket.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_cut_off).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    shop.audit().await;
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections_and_no_more() {
    let server = "limits = { connections_per_address = 3 }".to_owned();
    let shop = Shop::open_with(Plan { server, ..Plan::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(say(shop.port, REQUEST).await.is_empty());
    let other = Call { from: [127, 0, 0, 2].into(), ..Call::get("/health") };
    assert_eq!(shop.call(&other).await.status, 200, "another client is not affected");
    drop(held);
    eventually("a place", Duration::from_secs(5), || async {
        shop.try_call(&Call::get("/health")).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    shop.audit().await;
}

#[tokio::test]
async fn connections_beyond_the_total_wait_until_there_is_room() {
    let server = "limits = { connections = 2, head_timeout = \"2s\" }".to_owned();
    let shop = Shop::open_with(Plan { server, ..Plan::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(("127.0.0.1", shop.port)).await.unwrap());
    }
    let started = Instant::now();
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    assert!(started.elapsed() > Duration::from_millis(500), "it did not wait");
    shop.audit().await;
}

#[tokio::test]
async fn a_body_that_creeps_over_http_2_is_cut_off() {
    let (shop, _certificates) = tls_shop().await;
    let pieces = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"x")), ()))
    });
    let request = client(shop.port, true).post(format!("https://shop.test:{}/health", shop.port));
    let started = Instant::now();
    let sending = request.body(reqwest::Body::wrap_stream(pieces)).send();
    let ended = tokio::time::timeout(Duration::from_secs(40), sending).await.expect("it crept on");
    let lasted = started.elapsed();
    assert!(ended.is_err() || ended.is_ok_and(|answer| answer.status() == 408));
    assert!(lasted > Duration::from_secs(15) && lasted < Duration::from_secs(30), "{lasted:?}");
    shop.audit().await;
}
