//! What makes two requests the same request: a payment is bound to it (contract §3).

use http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::body::BodyDigest;
use crate::config::Redeliver;
use crate::ledger::Digest;

/// All that identifies a request.
pub(super) struct RequestIdentity<'a> {
    pub method: &'a Method,
    /// Without port tricks: lower case; empty when none came (HTTP/1.0).
    pub host: &'a str,
    /// Canonical: what the origin gets.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub body: &'a BodyDigest,
}

impl RequestIdentity<'_> {
    /// SHA-256 over every part, each preceded by its length, so that no two requests read the same.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(bytes);
        };
        part(b"tollhouse request v1");
        part(self.method.as_str().as_bytes());
        part(self.host.as_bytes());
        part(self.path.as_bytes());
        // No query and an empty query are different requests.
        part(if self.query.is_some() { b"?" } else { b"" });
        part(self.query.unwrap_or_default().as_bytes());
        let ranges = self.headers.get_all(header::RANGE);
        part(&u64::try_from(ranges.iter().count()).unwrap_or(u64::MAX).to_be_bytes());
        for range in ranges {
            part(range.as_bytes());
        }
        match self.body {
            BodyDigest::Whole(digest) => part(digest),
            BodyDigest::TooLong => part(b"not presentable again"),
        }
        hasher.finalize().into()
    }

    /// Whether the same request may be presented again after an origin failure.
    pub fn is_redeliverable(&self, policy: Redeliver) -> bool {
        let allowed = match policy {
            Redeliver::Always => true,
            Redeliver::Idempotent => self.method.is_idempotent(),
            Redeliver::Never => false,
        };
        allowed && matches!(self.body, BodyDigest::Whole(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity<'a>(headers: &'a HeaderMap, body: &'a BodyDigest, method: &'a Method) -> RequestIdentity<'a> {
        RequestIdentity { method, host: "h", path: "/a", query: Some("x=1"), headers, body }
    }

    #[test]
    fn every_part_of_a_request_changes_its_fingerprint() {
        let none = HeaderMap::new();
        let mut ranged = HeaderMap::new();
        ranged.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        let (body, other_body, long) = (BodyDigest::Whole([0; 32]), BodyDigest::Whole([1; 32]), BodyDigest::TooLong);
        let mut prints = vec![
            identity(&none, &body, &Method::GET),
            identity(&none, &body, &Method::HEAD),
            identity(&ranged, &body, &Method::GET),
            identity(&none, &other_body, &Method::GET),
            identity(&none, &long, &Method::GET),
            RequestIdentity { host: "g", ..identity(&none, &body, &Method::GET) },
            RequestIdentity { path: "/ax", query: Some("=1"), ..identity(&none, &body, &Method::GET) },
            RequestIdentity { query: None, ..identity(&none, &body, &Method::GET) },
            RequestIdentity { query: Some(""), ..identity(&none, &body, &Method::GET) },
        ]
        .into_iter()
        .map(|identity| identity.fingerprint())
        .collect::<Vec<_>>();
        assert_eq!(prints.first().copied(), Some(identity(&none, &body, &Method::GET).fingerprint()));
        let count = prints.len();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), count);
    }

    #[test]
    fn what_may_be_presented_again_follows_the_policy_and_the_body() {
        let none = HeaderMap::new();
        let (body, long) = (BodyDigest::Whole([0; 32]), BodyDigest::TooLong);
        for (policy, method, body, expected) in [
            (Redeliver::Always, Method::POST, &body, true),
            (Redeliver::Always, Method::GET, &long, false),
            (Redeliver::Idempotent, Method::POST, &body, false),
            (Redeliver::Idempotent, Method::PUT, &body, true),
            (Redeliver::Idempotent, Method::GET, &body, true),
            (Redeliver::Never, Method::GET, &body, false),
        ] {
            assert_eq!(identity(&none, body, &method).is_redeliverable(policy), expected, "{policy:?} {method}");
        }
    }
}
