//! `free_for`: callers that pay in some other way, known by a key that they show or by their address.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::FreeFor;
use crate::ledger::Digest;
use crate::types::AddressRange;

/// Who needs no payment. Holds no key, only what keys hash to.
#[derive(Default)]
pub(super) struct Callers {
    keys: Vec<Digest>,
    header: Option<HeaderName>,
    addresses: Vec<AddressRange>,
}

impl Callers {
    pub fn new(config: &FreeFor) -> Self {
        let hash = |key: &crate::config::Secret| Sha256::digest(key.expose().as_bytes()).into();
        Self {
            keys: config.keys.iter().map(hash).collect(),
            header: config.header.clone(),
            addresses: config.addresses.clone(),
        }
    }

    /// The header in which one of the keys is shown. Takes as long whichever it is, and however much of it was guessed.
    pub fn key_in(&self, fields: &HeaderMap) -> Option<&HeaderName> {
        let name = self.header.as_ref()?;
        let mut is_known = Choice::from(0);
        for value in fields.get_all(name) {
            let shown: Digest = Sha256::digest(key_of(name, value.as_bytes())).into();
            for key in &self.keys {
                is_known |= shown.ct_eq(key);
            }
        }
        bool::from(is_known).then_some(name)
    }

    /// Whether it is one of the addresses.
    pub fn hold(&self, client: IpAddr) -> bool {
        self.addresses.iter().any(|range| range.contains(client))
    }

    /// Whether anybody is known by address.
    pub fn have_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// What of a header's value is the key: in `Authorization` what follows the scheme (RFC 6750 §2.1).
fn key_of<'a>(name: &HeaderName, value: &'a [u8]) -> &'a [u8] {
    if name != header::AUTHORIZATION {
        return value;
    }
    match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn callers(name: &str) -> Callers {
        Callers::new(&FreeFor {
            keys: vec![Secret::new("first-key-of-16-bytes".into()), Secret::new("second-key-of-16-bytes".into())],
            header: Some(name.parse().unwrap()),
            addresses: vec!["192.0.2.0/24".parse().unwrap()],
        })
    }

    fn shows(name: &str, values: &[&str]) -> bool {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        callers(name).key_in(&fields).is_some()
    }

    #[test]
    fn a_key_is_known_whole_and_in_its_own_header_only() {
        assert!(shows("x-api-key", &["first-key-of-16-bytes"]));
        assert!(shows("x-api-key", &["second-key-of-16-bytes"]));
        for wrong in [
            "",
            "first-key-of-16-byte",
            "first-key-of-16-bytesx",
            "FIRST-KEY-OF-16-BYTES",
            "Bearer first-key-of-16-bytes",
        ] {
            assert!(!shows("x-api-key", &[wrong]), "{wrong}");
        }
        assert!(!shows("x-api-key", &[]));
        for right in ["Bearer first-key-of-16-bytes", "bearer second-key-of-16-bytes"] {
            assert!(shows("authorization", &[right]), "{right}");
        }
        for wrong in ["first-key-of-16-bytes", "Basic first-key-of-16-bytes", "Bearer", "Bearer "] {
            assert!(!shows("authorization", &[wrong]), "{wrong}");
        }
        let mut elsewhere = HeaderMap::new();
        elsewhere.insert("x-other", "first-key-of-16-bytes".parse().unwrap());
        assert!(callers("x-api-key").key_in(&elsewhere).is_none());
    }

    #[test]
    fn nobody_is_known_where_nothing_is_said() {
        let nobody = Callers::default();
        assert!(!nobody.hold("192.0.2.1".parse().unwrap()) && !nobody.have_addresses());
        let mut fields = HeaderMap::new();
        fields.insert("x-api-key", "".parse().unwrap());
        assert!(nobody.key_in(&fields).is_none());
        assert!(callers("x-api-key").hold("192.0.2.1".parse().unwrap()));
    }
}
