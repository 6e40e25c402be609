//! What a 402 asks for: the v2 terms of `PAYMENT-REQUIRED` or the v1 terms of the body (protocol §1.2, §2.1, §2.2).

use serde_json::{Map, Value};

use crate::protocol::{DecodeError, PaymentRequirements, Version, decode_object};

/// One entry of `accepts`.
#[derive(Debug, Clone)]
pub struct SeenOffer {
    /// Exactly as it came: v2 echoes it whole, sealed quote included.
    pub raw: Value,
    /// As terms, or why it can't be read.
    pub terms: Result<PaymentRequirements, String>,
}

/// The terms of a 402.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The version they are written in, and the payment will be.
    pub version: Version,
    /// Why the request was refused.
    pub error: Option<String>,
    /// v2 `resource`, echoed.
    pub resource: Option<Value>,
    /// v2 `extensions`, echoed.
    pub extensions: Option<Value>,
    /// The offers, in the server's order.
    pub offers: Vec<SeenOffer>,
}

/// Why a 402 holds no terms.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// Neither header nor body holds terms.
    #[error("the server asks for payment but states no x402 terms")]
    Absent,
    /// `--v1` against a server that speaks only v2.
    #[error("the server states no x402 v1 terms in its answer")]
    NoV1,
    /// Terms that can't be read.
    #[error("the server's terms can't be read")]
    Decode(#[from] DecodeError),
    /// A version that this client doesn't speak.
    #[error("the server's terms are of an x402 version other than 1 and 2")]
    Version,
}

/// Reads the terms: v2 from the header if it is there, unless `v1_only`; else v1 from the body.
///
/// # Errors
/// When there are no terms of a version that may be used, or they can't be read.
pub fn read(header: Option<&[u8]>, body: &[u8], v1_only: bool) -> Result<Terms, TermsError> {
    if let (Some(header), false) = (header, v1_only) {
        let object = decode_object(header)?;
        return match object.get("x402Version").and_then(Value::as_u64) {
            Some(2) => Ok(from_object(object, Version::V2)),
            _ => Err(TermsError::Version),
        };
    }
    let missing = if v1_only { TermsError::NoV1 } else { TermsError::Absent };
    if body.trim_ascii().first() != Some(&b'{') {
        return Err(missing);
    }
    let object = decode_object(body)?;
    match object.get("x402Version").and_then(Value::as_u64) {
        Some(1) => Ok(from_object(object, Version::V1)),
        _ => Err(missing),
    }
}

fn from_object(mut object: Map<String, Value>, version: Version) -> Terms {
    let entries = match object.remove("accepts") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let offers = entries.into_iter().map(|raw| SeenOffer { terms: requirements(&raw, version), raw }).collect();
    let mut echoed =
        |key: &str| object.remove(key).filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
    let (resource, extensions) = (echoed("resource"), echoed("extensions"));
    let error = object.get("error").and_then(Value::as_str).map(str::to_owned);
    Terms { version, error, resource, extensions, offers }
}

/// One entry as v2 requirements; v1 only names the amount differently and the network by name.
fn requirements(raw: &Value, version: Version) -> Result<PaymentRequirements, String> {
    let mut entry = raw.as_object().cloned().ok_or_else(|| "not an object".to_owned())?;
    if version == Version::V1
        && let Some(amount) = entry.remove("maxAmountRequired")
    {
        entry.insert("amount".to_owned(), amount);
    }
    if entry.get("extra").is_some_and(Value::is_null) {
        entry.remove("extra");
    }
    serde_json::from_value(Value::Object(entry)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn v2_terms_win_unless_v1_is_demanded() {
        let (header, body) = fixtures::terms_402(&[fixtures::offer("eip155:84532", "10000")]);
        let v2 = read(Some(header.as_bytes()), body.as_bytes(), false).unwrap();
        assert_eq!(v2.version, Version::V2);
        assert_eq!(v2.offers[0].raw["extra"]["quote"], "sealed-quote");
        let v1 = read(Some(header.as_bytes()), body.as_bytes(), true).unwrap();
        assert_eq!(v1.version, Version::V1);
        let asked = v1.offers[0].terms.as_ref().unwrap();
        assert_eq!((asked.amount.to_string().as_str(), asked.network.as_str()), ("10000", "eip155:84532"));
        assert_eq!(read(None, body.as_bytes(), false).unwrap().version, Version::V1);
    }

    #[test]
    fn a_402_without_terms_is_an_error() {
        assert!(matches!(read(None, b"pay me", false), Err(TermsError::Absent)));
        assert!(matches!(read(None, b"{}", false), Err(TermsError::Absent)));
        assert!(matches!(read(Some(b"e30="), b"", false), Err(TermsError::Version)));
        assert!(matches!(read(Some(b"e30="), b"{}", true), Err(TermsError::NoV1)));
        assert!(matches!(read(Some(b"%%%"), b"", false), Err(TermsError::Decode(_))));
    }

    #[test]
    fn an_unreadable_offer_does_not_hide_the_others() {
        let mut bad = fixtures::offer("eip155:84532", "10000");
        bad["amount"] = "0x10".into();
        let (header, _) = fixtures::terms_402(&[bad, fixtures::offer("eip155:84532", "5")]);
        let terms = read(Some(header.as_bytes()), b"", false).unwrap();
        assert!(terms.offers[0].terms.is_err());
        assert!(terms.offers[1].terms.is_ok());
    }
}
