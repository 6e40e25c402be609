//! TLS towards clients: certificates from files, chosen by the name that a client asks for, read again when they change.
//!
//! A certificate that can't be used never takes the place of one that can. What is fit for use, and which certificate a client
//! gets, is for rustls to say in every build; `with_rustls` and `with_openssl` know how a handshake is done, and no files.

mod socket;
#[cfg(feature = "openssl")]
mod with_openssl;
#[cfg(not(feature = "openssl"))]
mod with_rustls;

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::config::{Location, TlsCertificate};
#[cfg(feature = "openssl")]
use with_openssl as backend;
#[cfg(not(feature = "openssl"))]
use with_rustls as backend;

pub use backend::BackendError;
#[cfg(feature = "openssl")]
pub use backend::find_roots;
pub(super) use backend::{Acceptor, Secured, acceptor, check_roots, server_name};
pub(super) use socket::Socket;

/// How often the files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A certificate that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    /// Where it was named.
    pub location: Location,
    /// What is wrong with it.
    pub message: String,
}

/// Certificates in use.
pub struct Certificates {
    state: RwLock<State>,
}

struct State {
    sources: Vec<TlsCertificate>,
    /// What the files looked like when they were last read, whether or not they could be used.
    seen: Vec<Option<Look>>,
    certified: Arc<[Certified]>,
}

/// A certificate that can be used.
pub struct Certified {
    own: CertificateDer<'static>,
    pair: backend::Pair,
}

/// Time, size and number of a file and of its key: a change of content changes one of them.
type Look = [(Option<SystemTime>, u64, u64); 2];

/// Reads certificates and keys and proves that they belong together.
///
/// # Errors
/// Every one that can't be used.
pub fn load(sources: &[TlsCertificate]) -> Result<Vec<Certified>, Vec<TlsError>> {
    let (mut certified, mut errors) = (Vec::new(), Vec::new());
    for source in sources {
        match load_one(source) {
            Ok(one) => certified.push(one),
            Err(message) => errors.push(TlsError { location: source.location, message }),
        }
    }
    if errors.is_empty() { Ok(certified) } else { Err(errors) }
}

fn load_one(source: &TlsCertificate) -> Result<Certified, String> {
    let (cert, key) = (source.cert.display(), source.key.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&source.cert)
            .and_then(Iterator::collect)
            .map_err(|error| format!("the certificate {cert} can't be read: {error}"))?;
    let Some(own) = chain.first().cloned() else { return Err(format!("{cert} holds no certificate in PEM")) };
    ParsedCertificate::try_from(&own).map_err(|error| format!("the certificate {cert} can't be used: {error}"))?;
    let private = PrivateKeyDer::from_pem_file(&source.key)
        .map_err(|error| format!("{key} holds no private key in PEM that can be read: {error}"))?;
    let provider = ring::default_provider();
    let checked = CertifiedKey::from_der(chain, private.clone_key(), &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!("the key {key} is not that of the certificate {cert}"),
        error => format!("the key {key} can't be used: {error}"),
    })?;
    let pair = backend::pair(checked, &private)
        .map_err(|error| format!("the certificate {cert} or the key {key} can't be used: {error}"))?;
    Ok(Certified { own, pair })
}

fn look(source: &TlsCertificate) -> Option<Look> {
    let one = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
    };
    Some([one(&source.cert)?, one(&source.key)?])
}

impl Certificates {
    /// Reads the files; the first certificate is for clients that name no server or an unknown one.
    ///
    /// # Errors
    /// Every one that can't be used.
    pub fn read(sources: Vec<TlsCertificate>) -> Result<Self, Vec<TlsError>> {
        let seen = sources.iter().map(look).collect();
        let certified = load(&sources)?.into();
        Ok(Self { state: RwLock::new(State { sources, seen, certified }) })
    }

    /// Reads the files again if one has changed since. What is in use stays, loudly, if the new ones can't be used.
    pub fn look_again(&self) {
        let (sources, seen) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.sources.clone(), state.seen.clone())
        };
        let now: Vec<_> = sources.iter().map(look).collect();
        if now != seen {
            self.replace(sources, now);
        }
    }

    /// Uses these from now on, unless they can't be used.
    pub fn set(&self, sources: Vec<TlsCertificate>) {
        let seen = sources.iter().map(look).collect();
        self.replace(sources, seen);
    }

    fn replace(&self, sources: Vec<TlsCertificate>, seen: Vec<Option<Look>>) {
        let loaded = load(&sources);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.seen = seen;
        match loaded {
            Ok(certified) => {
                state.sources = sources;
                state.certified = certified.into();
                tracing::info!(certificates = state.certified.len(), "Took the certificates anew.");
            }
            Err(errors) => {
                for error in errors {
                    tracing::error!(%error, "A changed certificate can't be used; the old one stays.");
                }
            }
        }
    }

    fn certified(&self) -> Arc<[Certified]> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).certified)
    }

    /// What a client gets that asks for this name, or for none.
    fn choose(&self, name: Option<&str>) -> Option<backend::Pair> {
        let certified = self.certified();
        if certified.len() > 1
            && let Some(name) = name.and_then(|name| ServerName::try_from(name).ok())
            && let Some(named) = certified.iter().find(|one| is_for(&one.own, &name))
        {
            return Some(Arc::clone(&named.pair));
        }
        certified.first().map(|first| Arc::clone(&first.pair))
    }
}

impl fmt::Debug for Certified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certified").finish_non_exhaustive()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").finish_non_exhaustive()
    }
}

fn is_for(own: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(own).is_ok_and(|own| verify_server_name(&own, name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    pub(super) fn fixture(name: &str) -> TlsCertificate {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        let file = |kind: &str| dir.join(format!("{name}.{kind}.pem"));
        TlsCertificate { cert: file("cert"), key: file("key"), location: Location::default() }
    }

    fn der(source: &TlsCertificate) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&source.cert).unwrap()
    }

    #[test]
    fn a_certificate_is_chosen_by_the_name_it_bears() {
        let keys = load(&[fixture("shop"), fixture("wild")]).unwrap();
        let chosen = |name: &str| keys.iter().position(|key| is_for(&key.own, &ServerName::try_from(name).unwrap()));
        assert_eq!(chosen("shop.test"), Some(0));
        assert_eq!(chosen("a.wild.test"), Some(1));
        assert_eq!(chosen("other.test"), None);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let mixed = TlsCertificate { key: fixture("wild").key, ..fixture("shop") };
        let nothing = TlsCertificate { cert: PathBuf::from("nowhere"), ..fixture("shop") };
        let swapped = TlsCertificate { cert: fixture("shop").key, key: fixture("shop").cert, ..fixture("shop") };
        let errors = load(&[mixed, fixture("shop"), nothing, swapped]).unwrap_err();
        let texts: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("is not that of the certificate"), "{texts:?}");
        assert!(texts[1].contains("nowhere can't be read"), "{texts:?}");
        assert!(texts[2].contains("holds no certificate"), "{texts:?}");
    }

    #[test]
    fn changed_files_are_taken_anew_and_bad_ones_leave_the_old_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let own = TlsCertificate {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            location: Location::default(),
        };
        let put = |from: &TlsCertificate| {
            fs::copy(&from.key, &own.key).unwrap();
            fs::copy(&from.cert, &own.cert).unwrap();
        };
        put(&fixture("shop"));
        let certificates = Certificates::read(vec![own.clone()]).unwrap();
        let used = || certificates.certified()[0].own.clone();
        assert_eq!(used(), der(&fixture("shop")));
        fs::write(&own.cert, "half a certificate").unwrap();
        certificates.look_again();
        assert_eq!(used(), der(&fixture("shop")));
        put(&fixture("wild"));
        certificates.look_again();
        assert_eq!(used(), der(&fixture("wild")));
        fs::remove_file(&own.key).unwrap();
        certificates.look_again();
        assert_eq!(used(), der(&fixture("wild")));
    }
}
