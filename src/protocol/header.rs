//! Header names and the encodings of their values (protocol §1.1, §7).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use serde_json::{Map, Value};

use super::json::parse_strict;
use super::payload::{PaymentPayload, Version};
use super::reason::Reason;

/// Header names of x402.
pub mod names {
    /// The payment, v2.
    pub const PAYMENT_SIGNATURE: &str = "payment-signature";
    /// The payment, v1.
    pub const X_PAYMENT: &str = "x-payment";
    /// The terms, v2.
    pub const PAYMENT_REQUIRED: &str = "payment-required";
    /// The outcome, v2.
    pub const PAYMENT_RESPONSE: &str = "payment-response";
    /// The terms, vitwit: raw JSON of one v1 requirement.
    pub const X_PAYMENT_REQUIREMENTS: &str = "x-payment-requirements";
    /// The outcome, v1.
    pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";
}

/// Most bytes that a payment header may hold; clients echo terms and extensions in it.
pub const PAYMENT_HEADER_BYTES_MAX: usize = 32 * 1024;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(false);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Why a payment header can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`PAYMENT_HEADER_BYTES_MAX`].
    #[error("payment header has {0} bytes, at most {PAYMENT_HEADER_BYTES_MAX} are read")]
    TooLong(usize),
    /// Neither base64 nor JSON.
    #[error("expected base64 of a JSON object")]
    Encoding,
    /// Not one strict JSON object.
    #[error("payment is no valid JSON object: {0}")]
    Json(String),
    /// A field is missing or of the wrong type.
    #[error("payment field {field}: {expected}")]
    Field {
        /// The field's path.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// Neither version 1 nor 2.
    #[error("expected x402Version 1 or 2")]
    Version,
    /// The network is unknown.
    #[error("unknown network")]
    Network,
}

impl DecodeError {
    /// The wire's word for it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Version => Reason::InvalidX402Version,
            Self::Network => Reason::InvalidNetwork,
            _ => Reason::InvalidPayload,
        }
    }
}

/// Reads a payment header: base64 in either alphabet, padded or not, or raw JSON. `inferred` is the version the header's
/// name speaks for, used when the payload states none.
///
/// # Errors
/// When the value is too long, not JSON, or not a payment.
pub fn decode_payment(value: &[u8], inferred: Version) -> Result<PaymentPayload, DecodeError> {
    PaymentPayload::from_object(decode_object(value)?, inferred)
}

/// Reads any x402 header: base64 of a JSON object in either alphabet, padded or not, or the raw JSON object.
///
/// # Errors
/// When the value is too long or holds no strict JSON object.
pub fn decode_object(value: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    if value.len() > PAYMENT_HEADER_BYTES_MAX {
        return Err(DecodeError::TooLong(value.len()));
    }
    let value = value.trim_ascii();
    let decoded;
    let json = if value.first() == Some(&b'{') {
        value
    } else {
        decoded = decode_base64(value).ok_or(DecodeError::Encoding)?;
        &decoded
    };
    let parsed = parse_strict(json).map_err(|error| DecodeError::Json(error.to_string()))?;
    match parsed {
        Value::Object(object) => Ok(object),
        _ => Err(DecodeError::Json("not an object".to_owned())),
    }
}

/// Reads base64 in either alphabet, padded or not.
#[must_use]
pub fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

/// Encodes a JSON value for a response header: standard alphabet, padded, and ASCII only, since v1 clients decode Latin-1.
#[must_use]
pub fn encode_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    base64::engine::general_purpose::STANDARD.encode(escape_non_ascii(&json).as_bytes())
}

/// JSON text with everything that can't stand in a header (beyond ASCII, and DEL) as `\uXXXX`.
pub(super) fn escape_non_ascii(json: &str) -> std::borrow::Cow<'_, str> {
    use std::fmt::Write;
    let is_plain = |character: char| character.is_ascii() && character != '\u{7f}';
    if json.chars().all(is_plain) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    let mut units = [0_u16; 2];
    for character in json.chars() {
        if is_plain(character) {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                let _infallible = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = r#"{"x402Version":2,"accepted":{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0xA","payTo":"0xB","maxTimeoutSeconds":60,"extra":{"name":"USDC","quote":"q+/"}},"payload":{"signature":"0x"}}"#;

    #[test]
    fn every_base64_in_use_and_raw_json_read_the_same() {
        let standard = base64::engine::general_purpose::STANDARD.encode(V2);
        let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(V2);
        let plain = decode_payment(V2.as_bytes(), Version::V1).unwrap();
        assert_eq!(plain.version, Version::V2);
        for text in [standard.as_str(), standard.trim_end_matches('='), url_safe.as_str()] {
            assert_eq!(decode_payment(text.as_bytes(), Version::V2).unwrap(), plain);
        }
    }

    #[test]
    fn malformed_headers_are_refused_with_a_reason() {
        for bad in
            ["", "%%%", "e30=", "bm90IGpzb24=", "{\"x402Version\":3}", "[]", "{\"x402Version\":2,\"x402Version\":2}"]
        {
            let error = decode_payment(bad.as_bytes(), Version::V2).unwrap_err();
            assert!(matches!(error.reason(), Reason::InvalidPayload | Reason::InvalidX402Version), "{bad}");
        }
        let long = "A".repeat(PAYMENT_HEADER_BYTES_MAX + 1);
        assert_eq!(decode_payment(long.as_bytes(), Version::V2), Err(DecodeError::TooLong(long.len())));
    }

    #[test]
    fn response_headers_are_ascii() {
        let encoded = encode_json(&serde_json::json!({"a": "é😀\u{7f}"}));
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), r#"{"a":"\u00e9\ud83d\ude00\u007f"}"#);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
            let _ = decode_payment(&bytes, Version::V1);
            let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
            let _ = decode_payment(encoded.as_bytes(), Version::V2);
        }
    }
}
