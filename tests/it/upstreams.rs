//! Origins: several servers, health checks, other paths, TLS with certificates on both sides, time limits.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tollhouse::ledger::PaymentState;

use crate::harness::{Call, Origin, Plan, Serve, Shop, eventually};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

#[tokio::test]
async fn with_no_server_well_payments_are_refused_and_nothing_is_settled() {
    let upstream = "health_check = \"/health\"\nhealth_interval = \"100ms\"\nhealth_passes = 1\nhealth_failures = 2";
    let shop = Shop::open_with(Plan { upstream: upstream.to_owned(), ..Plan::default() }).await;
    let payment = shop.payment().await;
    shop.origin.set_sick(true);
    eventually("the server is unwell", Duration::from_secs(10), || async {
        (shop.call(&Call::get("/health")).await.status == 502).then_some(())
    })
    .await;
    // It still takes connections: only the health check knows.
    let answer = shop.present(&payment.v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "origin_unavailable"));
    assert!(!answer.has_terms());
    shop.assert_untouched().await;
    shop.origin.set_sick(false);
    eventually("the server is well", Duration::from_secs(10), || async {
        (shop.call(&Call::get("/health")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_server_that_is_unwell_gets_nothing_while_another_is_well() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let upstream = format!(
        "[upstreams.pool]\nservers = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\nbalance = \"least-connections\"\n\
         health_check = \"/health\"\nhealth_interval = \"100ms\"\nhealth_failures = 1",
        one.port, other.port
    );
    let routes = "\"/free\" = { price = \"free\", upstream = \"pool\" }\n\
                  \"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n";
    let shop = Shop::open_with(Plan { upstream, routes: routes.to_owned(), ..Plan::default() }).await;
    let free = |origin: &Origin| origin.hits().iter().filter(|hit| hit.target == "/free").count();
    for _ in 0..6 {
        assert_eq!(shop.call(&Call::get("/free")).await.status, 200);
    }
    assert!(free(&one) > 0 && free(&other) > 0);
    one.set_sick(true);
    eventually("told of it", Duration::from_secs(10), || async {
        let before = free(&one);
        for _ in 0..4 {
            shop.call(&Call::get("/free")).await;
        }
        (free(&one) == before).then_some(())
    })
    .await;
    let before = free(&one);
    for _ in 0..6 {
        assert_eq!(shop.call(&Call::get("/free")).await.status, 200);
    }
    assert_eq!(free(&one), before);
    shop.audit().await;
}

#[tokio::test]
async fn the_origin_gets_the_path_that_the_route_says_and_the_payment_stays_with_the_one_that_was_asked() {
    let routes = "\"/shop/{*rest}\" = { price = \"free\", strip_prefix = \"/shop\" }\n\
                  \"/api/data\" = \"$0.01\"\n\
                  \"/buy/{id}\" = { price = \"$0.01\", rewrite = \"/api/items/{id}\" }\n";
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    for (asked, got) in
        [("/shop/a/b?x=1", "/a/b?x=1"), ("/shop", "/"), ("/shop/%2e%2e/shop/c", "/c"), ("/shop//d", "/d")]
    {
        assert_eq!(shop.call(&Call::get(asked)).await.status, 200, "{asked}");
        assert_eq!(shop.origin.hits().last().unwrap().target, got, "{asked}");
    }
    // Encoded, it would become another path at the origin than the one that was matched.
    assert_eq!(shop.call(&Call::get("/shop/..%2fapi/data")).await.status, 400);
    let seen = shop.origin.hits().len();
    let terms = crate::harness::Terms::read(&shop.call(&Call::get("/buy/7?full")).await);
    assert_eq!(shop.origin.hits().len(), seen);
    let (name, value) = shop.payer.pay(&terms).v2();
    let bound = Call::get("/buy/7?full").with(name, value.clone());
    assert_eq!(shop.call(&bound).await.status, 200);
    assert_eq!(shop.origin.hits().last().unwrap().target, "/api/items/7?full");
    shop.wait_state(PaymentState::Served).await;
    shop.audit().await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_in_all_is_cut_off() {
    let upstream = "total_timeout = \"1s\"".to_owned();
    let shop = Shop::open_with(Plan { upstream, ..Plan::default() }).await;
    shop.origin.then([Serve::Pieces(1000)]);
    let started = tokio::time::Instant::now();
    let answer = shop.call(&Call::get("/health")).await;
    assert!(!answer.is_complete);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    shop.audit().await;
}

/// An origin with the certificate `name` that takes only clients with one of the fixtures' CA; it tells what it was asked for.
fn tls_origin(port: u16, name: &str) -> Receiver<(String, Option<Vec<u8>>)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("ca.cert.pem")).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(fixture(&format!("{name}.cert.pem"))).unwrap()],
            PrivateKeyDer::from_pem_file(fixture(&format!("{name}.key.pem"))).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (config, (sender, receiver)) = (Arc::new(config), channel());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(rustls::StreamOwned::new(connection, socket));
            let mut line = String::new();
            // Probes hang up, and strangers are refused, before there is a line.
            if stream.read_line(&mut line).is_err() || line.is_empty() {
                continue;
            }
            let alpn = stream.get_ref().conn.alpn_protocol().map(<[u8]>::to_vec);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _gone = stream.get_mut().write_all(answer).and_then(|()| stream.get_mut().flush());
            stream.get_mut().conn.send_close_notify();
            let _gone = stream.get_mut().flush();
            if sender.send((line.trim().to_owned(), alpn)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[tokio::test]
async fn origins_are_spoken_to_over_tls_with_certificates_of_both_sides() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("client.key.pem");
    std::fs::copy(fixture("client.key.pem"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (port, elsewhere) = (crate::harness::free_port(), crate::harness::free_port());
    let (asked, asked_elsewhere) = (tls_origin(port, "origin"), tls_origin(elsewhere, "shop"));
    let at = |port: u16, name: &str, more: &str| {
        format!("[upstreams.{name}]\nservers = [\"127.0.0.1:{port}\"]\ntls = true\n{more}\n")
    };
    let section = |name: &str, more: &str| at(port, name, more);
    let ca = format!("tls_ca = {:?}", fixture("ca.cert.pem").display().to_string());
    let own = format!("tls_cert = {:?}\ntls_key = {:?}", fixture("client.cert.pem").display().to_string(), key);
    let upstream = [
        section("good", &format!("{ca}\n{own}\nhttp2 = true")),
        section("nameless", &ca),
        section("unknown", &own),
        section("misnamed", &format!("{ca}\n{own}\ntls_server_name = \"elsewhere.test\"")),
        section("named", &format!("{ca}\n{own}\ntls_server_name = \"origin.test\"")),
        at(elsewhere, "misplaced", &format!("{ca}\n{own}")),
    ]
    .concat();
    let mut routes = "\"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n".to_owned();
    for name in ["good", "nameless", "unknown", "misnamed", "named", "misplaced"] {
        routes.push_str(&format!("\"/{name}\" = {{ price = \"free\", upstream = \"{name}\" }}\n"));
    }
    let shop = Shop::open_with(Plan { upstream, routes, ..Plan::default() }).await;
    let good = shop.call(&Call::get("/good")).await;
    assert_eq!((good.status, good.body.as_slice()), (200, b"ok".as_slice()));
    let (line, alpn) = asked.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!((line.as_str(), alpn.as_deref()), ("GET /good HTTP/1.1", Some(b"http/1.1".as_slice())));
    assert_eq!(shop.call(&Call::get("/named")).await.status, 200);
    assert_eq!(asked.recv_timeout(Duration::from_secs(5)).unwrap().0, "GET /named HTTP/1.1");
    for name in ["nameless", "unknown", "misnamed", "misplaced"] {
        assert_eq!(shop.call(&Call::get(&format!("/{name}"))).await.status, 502, "{name}");
    }
    assert!(asked.try_recv().is_err());
    assert!(asked_elsewhere.try_recv().is_err());
    shop.audit().await;
}
