//! TLS handshakes with the listener: which certificate a client gets, what is spoken, and sessions that are taken up again.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::battery;
use crate::harness::{Plan, Shop};

/// What is spoken inside of TLS, by its name in ALPN.
type Protocol = &'static [u8];

async fn shop() -> (Shop, tempfile::TempDir) {
    let certificates = tempfile::tempdir().unwrap();
    let plan = Plan { server: battery::tls(&certificates), ..Plan::default() };
    (Shop::open_with(plan).await, certificates)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    CertificateDer::from_pem_file(folder.join(format!("{name}.cert.pem"))).unwrap()
}

/// A client that speaks these versions and asks for these protocols.
fn client(versions: &[&'static SupportedProtocolVersion], protocols: &[Protocol]) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

async fn connect(port: u16, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, socket).await
}

#[tokio::test]
async fn who_names_no_server_or_an_unknown_one_gets_the_first_certificate() {
    let (shop, _certificates) = shop().await;
    let mut nameless = client(rustls::ALL_VERSIONS, &[]);
    nameless.enable_sni = false;
    let stream = connect(shop.port, "shop.test", &Arc::new(nameless)).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap(), [certificate("shop")]);
    let config = Arc::new(client(rustls::ALL_VERSIONS, &[]));
    let refused = connect(shop.port, "nobody.test", &config).await.unwrap_err().to_string();
    assert!(refused.contains("not valid for name") && refused.contains("shop.test"), "{refused}");
    shop.audit().await;
}

#[tokio::test]
async fn http_2_is_preferred_and_what_is_not_spoken_is_refused() {
    let (shop, _certificates) = shop().await;
    let rows: [(&[Protocol], Option<Protocol>); 4] = [
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"spdy/3", b"http/1.1"], Some(b"http/1.1")),
        (&[b"h2"], Some(b"h2")),
        (&[], None),
    ];
    for (offered, expected) in rows {
        let config = Arc::new(client(rustls::ALL_VERSIONS, offered));
        let stream = connect(shop.port, "shop.test", &config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected);
    }
    let config = Arc::new(client(rustls::ALL_VERSIONS, &[b"spdy/3"]));
    let refused = connect(shop.port, "shop.test", &config).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    shop.audit().await;
}

#[tokio::test]
async fn who_comes_back_takes_up_the_session_and_is_still_held_to_its_name() {
    let (shop, _certificates) = shop().await;
    for version in rustls::ALL_VERSIONS {
        let config = Arc::new(client(&[version], &[b"http/1.1"]));
        for (kind, host, status) in [
            (HandshakeKind::Full, "shop.test", 200),
            (HandshakeKind::Resumed, "shop.test", 200),
            (HandshakeKind::Resumed, "a.wild.test", 421),
        ] {
            let mut stream = connect(shop.port, "shop.test", &config).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
            let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    shop.audit().await;
}
