//! The last step of TLS towards clients, by OpenSSL: a connection and its certificate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::TransportConnector;
use pingora::listeners::TlsAccept;
use pingora::protocols::IO;
pub use pingora::protocols::tls::SslStream as Secured;
use pingora::protocols::tls::server::handshake_with_callback;
use pingora::protocols::tls::{SslStream, TlsRef};
use pingora::tls::error::ErrorStack;
use pingora::tls::ext;
use pingora::tls::pkey::{PKey, Private};
use pingora::tls::ssl::{
    AlpnError, NameType, SslAcceptor, SslMethod, SslOptions, SslSessionCacheMode, select_next_proto,
};
use pingora::tls::x509::X509;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::Certificates;

/// What is spoken inside of TLS, preferred first, as TLS writes it.
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

/// The suites of TLS 1.2 that rustls has too: forward secrecy and authenticated encryption. Those of TLS 1.3 are all like that.
const SUITES_OF_1_2: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";

/// How long tickets are made with one key. OpenSSL draws it with the context and keeps it as long, and who learns it can read
/// the TLS 1.2 sessions that were resumed with it; rustls changes it as often.
const TICKET_KEY_LASTS: Duration = Duration::from_hours(6);

/// What the backend can't do.
pub type BackendError = ErrorStack;

/// A certificate with its chain and key.
pub(super) type Pair = Arc<Parts>;

pub(super) struct Parts {
    own: X509,
    /// The rest of the chain.
    issuers: Vec<X509>,
    key: PKey<Private>,
}

/// A checked certificate as it is used.
pub(super) fn pair(checked: CertifiedKey, key: &PrivateKeyDer<'_>) -> Result<Pair, BackendError> {
    let own = checked.cert.first().map_or(&[][..], |own| own);
    let issuers = checked.cert.iter().skip(1).map(|issuer| X509::from_der(issuer)).collect::<Result<_, _>>()?;
    let key = PKey::private_key_from_der(key.secret_der())?;
    Ok(Arc::new(Parts { own: X509::from_der(own)?, issuers, key }))
}

impl Parts {
    fn put_into(&self, tls: &mut TlsRef) -> Result<(), ErrorStack> {
        ext::ssl_use_certificate(tls, &self.own)?;
        for issuer in &self.issuers {
            ext::ssl_add_chain_cert(tls, issuer)?;
        }
        ext::ssl_use_private_key(tls, &self.key)
    }
}

#[async_trait]
impl TlsAccept for Certificates {
    /// Without a certificate the handshake fails.
    async fn certificate_callback(&self, tls: &mut TlsRef) {
        let Some(pair) = self.choose(server_name(tls)) else { return };
        if let Err(error) = pair.put_into(tls) {
            tracing::error!(%error, "A certificate could not be used.");
        }
    }
}

/// Takes TLS connections in.
pub(crate) struct Acceptor {
    certificates: Arc<Certificates>,
    /// And since when it is used.
    context: Mutex<(SslAcceptor, Instant)>,
}

/// What takes TLS connections in with these certificates: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub(in crate::server) fn acceptor(certificates: Arc<Certificates>) -> Result<Acceptor, BackendError> {
    Ok(Acceptor { certificates, context: Mutex::new((context()?, Instant::now())) })
}

impl Acceptor {
    /// Pingora's own acceptor is for its own listeners alone.
    pub async fn tls_handshake<S: IO>(&self, stream: S) -> pingora::Result<SslStream<S>> {
        let context = self.context(Instant::now());
        handshake_with_callback(&context, stream, self.certificates.as_ref()).await
    }

    fn context(&self, now: Instant) -> SslAcceptor {
        let mut current = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(current.1) >= TICKET_KEY_LASTS {
            match context() {
                Ok(new) => *current = (new, now),
                Err(error) => tracing::error!(%error, "Could not change the key of session tickets."),
            }
        }
        current.0.clone()
    }
}

fn context() -> Result<SslAcceptor, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_cipher_list(SUITES_OF_1_2)?;
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    // A name is kept with the session only if it was taken note of; who takes a TLS 1.2 session up again is held to that name.
    builder.set_servername_callback(|_, _| Ok(()));
    // Sessions are kept by the clients, in tickets.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_alpn_select_callback(|_, theirs| select_next_proto(PROTOCOLS, theirs).ok_or(AlpnError::ALERT_FATAL));
    Ok(builder.build())
}

/// The name that the client asked for.
pub(in crate::server) fn server_name(tls: &TlsRef) -> Option<&str> {
    tls.servername(NameType::HOST_NAME)
}

/// Nothing here is panicked over: an authority that can't be read is trusted in nothing.
pub(in crate::server) fn check_roots() -> Result<(), String> {
    Ok(())
}

/// Finds out where this system keeps the authorities that origins' certificates are checked with. Pingora does that with its
/// first connector and notes it in the environment, which is sound only while the process has a single thread.
pub fn find_roots() {
    drop(TransportConnector::new(None));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tls::tests::fixture;

    #[test]
    fn tickets_are_made_with_one_key_for_six_hours() {
        let acceptor = acceptor(Arc::new(Certificates::read(vec![fixture("shop")]).unwrap())).unwrap();
        let start = Instant::now();
        let in_hours = |hours| acceptor.context(start + Duration::from_hours(hours));
        let is_same = |one: &SslAcceptor, other: &SslAcceptor| std::ptr::eq(one.context(), other.context());
        let first = in_hours(0);
        assert!(is_same(&first, &in_hours(5)));
        let second = in_hours(7);
        assert!(!is_same(&first, &second));
        assert!(is_same(&second, &in_hours(12)));
        assert!(!is_same(&second, &in_hours(14)));
    }
}
