//! A client's connection, plain or in TLS, on which any bytes may be sent and answers are read one by one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{header, read_body, read_head};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where to connect.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub port: u16,
    /// The name asked for in TLS; none for a plain connection.
    pub server: Option<&'a str>,
}

pub async fn connect(place: Place<'_>, protocol: &[u8]) -> Box<dyn Stream> {
    let socket = TcpStream::connect(("127.0.0.1", place.port)).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let Some(server) = place.server else { return Box::new(socket) };
    let name = ServerName::try_from(server.to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(protocol)));
    let stream = connector.connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    Box::new(stream)
}

fn tls(protocol: &[u8]) -> rustls::ClientConfig {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls/ca.cert.pem");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// An answer to a request in HTTP/1.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn text(&self) -> String {
        let fields: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!("{fields}\n{}", String::from_utf8_lossy(&self.body))
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection in HTTP/1.1.
pub struct Wire {
    reader: BufReader<Box<dyn Stream>>,
    /// Whether nothing more will come.
    pub is_over: bool,
}

impl Wire {
    pub async fn open(place: Place<'_>) -> Self {
        Self { reader: BufReader::new(connect(place, b"http/1.1").await), is_over: false }
    }

    pub async fn plain(port: u16) -> Self {
        Self::open(Place { port, server: None }).await
    }

    /// A connection that the other end closed meanwhile takes no bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = async {
            self.reader.get_mut().write_all(bytes.as_ref()).await?;
            self.reader.get_mut().flush().await
        };
        if sent.await.is_err() {
            self.is_over = true;
        }
    }

    /// The next answer that isn't an interim one; none if the connection ended instead.
    pub async fn reply(&mut self, method: &str) -> Option<Reply> {
        loop {
            let reply = timeout(PATIENCE, self.read(method)).await.expect("an answer or an end");
            match reply {
                Ok(Some(reply)) if (100..200).contains(&reply.status) && reply.status != 101 => {}
                Ok(Some(reply)) => {
                    self.is_over |= reply.closes();
                    return Some(reply);
                }
                Ok(None) | Err(_) => {
                    self.is_over = true;
                    return None;
                }
            }
        }
    }

    async fn read(&mut self, method: &str) -> io::Result<Option<Reply>> {
        let Some((start, headers)) = read_head(&mut self.reader).await? else { return Ok(None) };
        assert!(start.starts_with("HTTP/1.1 "), "no answer: {start}");
        let status = start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let mut body = Vec::new();
        if method != "HEAD" && status >= 200 && status != 204 && status != 304 {
            read_body(&mut self.reader, &headers, true, &mut body).await?;
        }
        Ok(Some(Reply { status, headers, body }))
    }

    /// All that comes until the other end closes, or says nothing for a while.
    pub async fn rest(mut self, quiet: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(Ok(count @ 1..)) = timeout(quiet, self.reader.read(&mut piece)).await {
            bytes.extend_from_slice(&piece[..count]);
        }
        bytes
    }
}
