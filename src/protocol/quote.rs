//! The sealed quote (contract §3): proof, without state, of what was offered and until when.
//!
//! `base64url(version 1 | expiry, unix seconds, u64 | 16 random bytes | HMAC-SHA256 truncated to 16 bytes)`. The MAC covers
//! all of that, the route and the terms. A quote is also what only its payer knows: a payment's signature becomes public on
//! chain, its quote doesn't.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};

use super::requirements::PaymentRequirements;
use crate::types::UnixMillis;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 16;
const MAC_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + 8 + NONCE_BYTES;

/// The random part of a quote; one serves all offers of a 402.
#[derive(Debug, Clone, Copy)]
pub struct QuoteNonce([u8; NONCE_BYTES]);

impl QuoteNonce {
    /// A fresh one, from the operating system's generator.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; NONCE_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// The key under which quotes are sealed; shared by all instances on one ledger.
#[derive(Clone)]
pub struct QuoteKey(Hmac<Sha256>);

/// What a presented quote proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteVerdict {
    /// We offered these terms on this route, and the offer still stands.
    Valid,
    /// We offered these terms on this route, and the offer has run out.
    Expired,
    /// We did not offer this.
    Forged,
}

impl QuoteKey {
    /// Takes a key of any length; 32 random bytes are right.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(key).ok().map(Self)
    }

    /// Seals an offer: `terms` is the [`terms_digest`] of the offer on that route.
    #[must_use]
    pub fn seal(&self, terms: &[u8; 32], nonce: QuoteNonce, expires: UnixMillis) -> String {
        let mut token = Vec::with_capacity(HEAD_BYTES + MAC_BYTES);
        token.push(VERSION);
        token.extend(expires.as_secs().to_be_bytes());
        token.extend(nonce.0);
        let mac = self.mac(&token, terms).finalize().into_bytes();
        token.extend(mac.into_iter().take(MAC_BYTES));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Judges a quote that came with the given terms on the route they were digested for.
    #[must_use]
    pub fn open(&self, quote: &str, terms: &[u8; 32], now: UnixMillis) -> QuoteVerdict {
        let mut token = [0; HEAD_BYTES + MAC_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(quote, &mut token) {
            Ok(length) if length == token.len() => {}
            _ => return QuoteVerdict::Forged,
        }
        let (head, tail) = token.split_at(HEAD_BYTES);
        if head.first() != Some(&VERSION) || self.mac(head, terms).verify_truncated_left(tail).is_err() {
            return QuoteVerdict::Forged;
        }
        let expires = head.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        if now.as_secs() <= expires { QuoteVerdict::Valid } else { QuoteVerdict::Expired }
    }

    fn mac(&self, head: &[u8], terms: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(head);
        mac.update(terms);
        mac
    }
}

impl std::fmt::Debug for QuoteKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("QuoteKey([redacted])")
    }
}

/// What a quote's MAC covers of an offer: the route and every term.
#[must_use]
pub fn terms_digest(route: &str, terms: &PaymentRequirements) -> [u8; 32] {
    // Each field is preceded by its length, so that no two offers read the same.
    let extra = serde_json::Value::Object(terms.extra.clone()).to_string();
    let mut hasher = Sha256::new();
    for field in [
        route,
        &terms.scheme,
        terms.network.as_str(),
        &terms.amount.to_string(),
        terms.asset.as_str(),
        terms.pay_to.as_str(),
        &terms.max_timeout_seconds.to_string(),
        &extra,
    ] {
        hasher.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.finalize().into()
}

/// How the ledger remembers a quote.
#[must_use]
pub fn quote_digest(quote: &str) -> [u8; 32] {
    Sha256::digest(quote.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(amount: u64) -> PaymentRequirements {
        serde_json::from_value(
            serde_json::json!({"scheme":"exact","network":"eip155:84532","amount":amount.to_string(),
            "asset":"0xA","payTo":"0xB","maxTimeoutSeconds":60,"extra":{"name":"USDC"}}),
        )
        .unwrap()
    }

    #[test]
    fn a_quote_proves_its_own_offer_until_it_expires() {
        let key = QuoteKey::new(&[7; 32]).unwrap();
        let digest = terms_digest("GET /a", &terms(10_000));
        let quote = key.seal(&digest, QuoteNonce::random().unwrap(), UnixMillis::from_secs(1_000));
        assert_eq!(key.open(&quote, &digest, UnixMillis::from_secs(1_000)), QuoteVerdict::Valid);
        assert_eq!(key.open(&quote, &digest, UnixMillis::from_secs(1_001)), QuoteVerdict::Expired);
    }

    #[test]
    fn a_quote_proves_no_other_route_price_or_key() {
        let key = QuoteKey::new(&[7; 32]).unwrap();
        let quote = key.seal(
            &terms_digest("GET /a", &terms(10_000)),
            QuoteNonce::random().unwrap(),
            UnixMillis::from_secs(1_000),
        );
        let now = UnixMillis::from_secs(1);
        let open = |key: &QuoteKey, route: &str, amount| key.open(&quote, &terms_digest(route, &terms(amount)), now);
        assert_eq!(open(&key, "GET /b", 10_000), QuoteVerdict::Forged);
        assert_eq!(open(&key, "GET /a", 9_999), QuoteVerdict::Forged);
        assert_eq!(open(&QuoteKey::new(&[8; 32]).unwrap(), "GET /a", 10_000), QuoteVerdict::Forged);
        assert_eq!(open(&key, "GET /a", 10_000), QuoteVerdict::Valid);
    }

    #[test]
    fn a_tampered_quote_is_forged() {
        let key = QuoteKey::new(&[7; 32]).unwrap();
        let digest = terms_digest("GET /a", &terms(10_000));
        let quote = key.seal(&digest, QuoteNonce::random().unwrap(), UnixMillis::from_secs(1_000));
        for index in 0..quote.len() {
            let mut bytes = quote.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let tampered = String::from_utf8(bytes).unwrap();
            assert_eq!(key.open(&tampered, &digest, UnixMillis::from_secs(1)), QuoteVerdict::Forged, "{index}");
        }
        for bad in ["", "A", &quote[1..], &format!("{quote}A"), &format!("{quote}=")] {
            assert_eq!(key.open(bad, &digest, UnixMillis::from_secs(1)), QuoteVerdict::Forged);
        }
    }
}
