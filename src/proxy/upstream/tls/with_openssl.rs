//! Certificates as pingora takes them for its OpenSSL backend, and what that one leaves out: an origin's address.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use pingora::protocols::Digest;
use pingora::protocols::tls::{CaType, TlsRef};
use pingora::tls::error::ErrorStack;
use pingora::tls::pkey::PKey;
use pingora::tls::x509::X509;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::utils::tls::CertKey;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a connection bears whose certificate is for the address that it leads to.
struct AddressChecked;

pub(super) fn authorities(found: Vec<CertificateDer<'static>>) -> Result<Arc<CaType>, ErrorStack> {
    Ok(Arc::new(found.iter().map(|one| X509::from_der(one)).collect::<Result<_, _>>()?))
}

pub(super) fn pair(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Arc<CertKey>, ErrorStack> {
    let chain = chain.iter().map(|one| X509::from_der(one)).collect::<Result<_, _>>()?;
    Ok(Arc::new(CertKey::new(chain, PKey::private_key_from_der(key.secret_der())?)))
}

/// Pingora has OpenSSL look for an address among a certificate's names, where none is. The authority of the certificate is
/// checked all the same; the address is compared here, and whoever uses the connection must ask for that with [`is_checked`].
pub(in crate::proxy) fn check_address(peer: &mut HttpPeer) {
    let Some(address) = address(peer) else { return };
    peer.options.verify_hostname = false;
    peer.options.upstream_tls_handshake_complete_hook =
        Some(Arc::new(move |tls| is_for(tls, address).then(|| Arc::new(AddressChecked) as Arc<dyn Any + Send + Sync>)));
}

/// Whether the origin at the other end may get a request.
pub(in crate::proxy) fn is_checked(peer: &HttpPeer, digest: Option<&Digest>) -> bool {
    let has_checked = || digest?.ssl_digest.as_ref()?.extension.get::<AddressChecked>();
    address(peer).is_none() || has_checked().is_some()
}

/// The address that the origin's certificate must bear, if it isn't a name.
fn address(peer: &HttpPeer) -> Option<IpAddr> {
    if peer.tls() { peer.sni.parse().ok() } else { None }
}

fn is_for(tls: &TlsRef, address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let names = tls.peer_certificate().and_then(|own| own.subject_alt_names());
    names.is_some_and(|names| names.iter().any(|name| name.ipaddress() == Some(octets.as_slice())))
}
