//! The last step of TLS towards clients, by rustls: a connection and its certificate.

use std::sync::Arc;

pub(in crate::server) use pingora::listeners::tls::Acceptor;
use pingora::protocols::tls::TlsRef;
pub use pingora::protocols::tls::TlsStream as Secured;
use pingora::tls::{RootCertStore, load_platform_certs_incl_env_into_store};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificates;

/// What is spoken inside of TLS, preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the backend can't do.
pub type BackendError = rustls::Error;

/// A certificate with its chain and key.
pub(super) type Pair = Arc<CertifiedKey>;

/// A checked certificate as it is used.
pub(super) fn pair(checked: CertifiedKey, _key: &PrivateKeyDer<'_>) -> Result<Pair, BackendError> {
    Ok(Arc::new(checked))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// What takes TLS connections in with these certificates: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub(in crate::server) fn acceptor(certificates: Arc<Certificates>) -> Result<Acceptor, BackendError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = ring::Ticketer::new()?;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

/// The name that the client asked for.
pub(in crate::server) fn server_name(tls: &TlsRef) -> Option<&str> {
    tls.server_name()
}

/// Pingora panics over a certificate store that it can't read, so it is read here first.
pub(in crate::server) fn check_roots() -> Result<(), String> {
    let mut store = RootCertStore::empty();
    load_platform_certs_incl_env_into_store(&mut store).map_err(|error| error.to_string())
}
