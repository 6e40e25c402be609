//! What an upstream's TLS needs from files: its own CA, and the certificate that the gateway shows.
//!
//! What is fit for use is for rustls to say in every build; `with_rustls` and `with_openssl` turn it into what pingora takes.

#[cfg(feature = "openssl")]
mod with_openssl;
#[cfg(not(feature = "openssl"))]
mod with_rustls;

use std::path::Path;
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::CertKey;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::config::{TlsCertificate, UpstreamConfig};
#[cfg(feature = "openssl")]
use with_openssl as backend;
#[cfg(feature = "openssl")]
pub(in crate::proxy) use with_openssl::{check_address, is_checked};
#[cfg(not(feature = "openssl"))]
use with_rustls as backend;

/// Read files.
#[derive(Default)]
pub(super) struct OriginTls {
    pub ca: Option<Arc<CaType>>,
    pub client: Option<Arc<CertKey>>,
}

impl OriginTls {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// What can't be used, for people.
    pub fn read(config: &UpstreamConfig) -> Result<Self, String> {
        Ok(Self {
            ca: config.tls_ca.as_deref().map(authorities).transpose()?,
            client: config.tls_client.as_ref().map(client).transpose()?,
        })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("the certificate {shown} can't be read: {error}"))?;
    if found.is_empty() {
        return Err(format!("{shown} holds no certificate in PEM"));
    }
    for one in &found {
        // Pingora panics over what it can't parse.
        ParsedCertificate::try_from(one).map_err(|error| format!("the certificate {shown} can't be used: {error}"))?;
    }
    Ok(found)
}

fn authorities(file: &Path) -> Result<Arc<CaType>, String> {
    let mut store = rustls::RootCertStore::empty();
    let found = certificates(file)?;
    for one in &found {
        store.add(one.clone()).map_err(|error| format!("{}: not a certificate authority: {error}", file.display()))?;
    }
    backend::authorities(found).map_err(|error| format!("{}: not a certificate authority: {error}", file.display()))
}

fn client(source: &TlsCertificate) -> Result<Arc<CertKey>, String> {
    let chain = certificates(&source.cert)?;
    let (cert, key) = (source.cert.display(), source.key.display());
    let private = PrivateKeyDer::from_pem_file(&source.key)
        .map_err(|error| format!("{key} holds no private key in PEM that can be read: {error}"))?;
    CertifiedKey::from_der(chain.clone(), private.clone_key(), &ring::default_provider())
        .map_err(|error| format!("the key {key} and the certificate {cert} can't be used together: {error}"))?;
    backend::pair(chain, &private)
        .map_err(|error| format!("the key {key} and the certificate {cert} can't be used: {error}"))
}
