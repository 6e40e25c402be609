//! Certificates as pingora takes them for its rustls backend.

use std::convert::Infallible;
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(super) fn authorities(found: Vec<CertificateDer<'static>>) -> Result<Arc<CaType>, Infallible> {
    Ok(found.into_iter().map(|one| WrappedX509::new(one.to_vec(), parse_x509)).collect())
}

pub(super) fn pair(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Arc<CertKey>, Infallible> {
    let chain = chain.into_iter().map(|one| one.to_vec()).collect();
    Ok(Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
}
