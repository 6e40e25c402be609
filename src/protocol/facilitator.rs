//! What a resource server asks of a facilitator (protocol §2.3): a payment, and the terms that it must meet.

use serde_json::{Map, Value};

use super::header::DecodeError;
use super::json::parse_strict;
use super::payload::{Accepted, PaymentPayload, Version};
use super::reason::Reason;

/// The body of `POST /verify` and `POST /settle`, v1, v2 and vitwit alike.
#[derive(Debug, Clone, PartialEq)]
pub struct FacilitatorRequest {
    /// The payment as its payer made it.
    pub payment: PaymentPayload,
    /// The terms as the resource server set them.
    pub terms: Accepted,
}

/// Why a request to a facilitator can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FacilitatorRequestError {
    /// Not one strict JSON object of the official shape.
    #[error("{0}")]
    Body(String),
    /// The payment in it is malformed.
    #[error("paymentPayload: {0}")]
    Payment(DecodeError),
    /// The terms in it are malformed.
    #[error("paymentRequirements: {0}")]
    Terms(DecodeError),
}

impl FacilitatorRequestError {
    /// The wire's word for it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Body(_) => Reason::InvalidPayload,
            Self::Payment(error) => error.reason(),
            Self::Terms(DecodeError::Network) => Reason::InvalidNetwork,
            Self::Terms(_) => Reason::InvalidRequirements,
        }
    }
}

impl FacilitatorRequest {
    /// Reads a request's body.
    ///
    /// # Errors
    /// When it is no strict JSON, lacks a part, or its parts are of different versions.
    pub fn read(body: &[u8]) -> Result<Self, FacilitatorRequestError> {
        use FacilitatorRequestError::{Body, Payment, Terms};
        let parsed = parse_strict(body).map_err(|error| Body(error.to_string()))?;
        let Value::Object(mut body) = parsed else { return Err(Body("expected a JSON object".to_owned())) };
        let version = match body.get("x402Version").and_then(Value::as_u64) {
            Some(1) => Version::V1,
            Some(2) => Version::V2,
            _ => return Err(Payment(DecodeError::Version)),
        };
        let payment = PaymentPayload::from_object(part(&mut body, "paymentPayload")?, version).map_err(Payment)?;
        if (version == Version::V2) != (payment.version == Version::V2) {
            return Err(Payment(DecodeError::Version));
        }
        let amount_key = if version == Version::V2 { "amount" } else { "maxAmountRequired" };
        let (terms, _no_quote) =
            Accepted::from_object(part(&mut body, "paymentRequirements")?, amount_key).map_err(Terms)?;
        Ok(Self { payment, terms })
    }
}

fn part(body: &mut Map<String, Value>, key: &str) -> Result<Map<String, Value>, FacilitatorRequestError> {
    match body.remove(key) {
        Some(Value::Object(part)) => Ok(part),
        _ => Err(FacilitatorRequestError::Body(format!("{key}: expected an object"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn v2() -> Value {
        let terms = json!({"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0xA","payTo":"0xB",
            "maxTimeoutSeconds":60,"extra":{"name":"USDC"}});
        json!({"x402Version":2,"paymentPayload":{"x402Version":2,"accepted":terms,"payload":{"signature":"0x"}},
            "paymentRequirements":terms})
    }

    fn v1(payload: &Value) -> Value {
        json!({"x402Version":1,"network":"base-sepolia",
            "paymentPayload":{"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":payload},
            "paymentRequirements":{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"10000","asset":"0xA",
                "payTo":"0xB","maxTimeoutSeconds":60,"resource":"https://h/","description":"","mimeType":""}})
    }

    fn read(body: &Value) -> Result<FacilitatorRequest, FacilitatorRequestError> {
        FacilitatorRequest::read(body.to_string().as_bytes())
    }

    #[test]
    fn every_version_reads_as_a_payment_and_its_terms() {
        let requests = [
            (v2(), Version::V2),
            (v1(&json!({"signature":"0x"})), Version::V1),
            (v1(&json!("eyJzaWduYXR1cmUiOiIweCJ9")), Version::Vitwit),
        ];
        for (body, version) in requests {
            let request = read(&body).unwrap();
            assert_eq!(request.payment.version, version);
            assert_eq!(request.payment.payload, json!({"signature":"0x"}));
            assert_eq!(request.terms.amount.to_string(), "10000");
            assert_eq!(request.terms.network, request.payment.network);
        }
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_a_reason() {
        let changed = |change: fn(&mut Value)| {
            let mut body = v2();
            change(&mut body);
            read(&body).unwrap_err().reason()
        };
        assert_eq!(changed(|body| body["x402Version"] = 3.into()), Reason::InvalidX402Version);
        assert_eq!(changed(|body| body["x402Version"] = 1.into()), Reason::InvalidX402Version);
        assert_eq!(changed(|body| body["paymentPayload"] = "x".into()), Reason::InvalidPayload);
        assert_eq!(changed(|body| body["paymentPayload"]["payload"] = 5.into()), Reason::InvalidPayload);
        assert_eq!(changed(|body| body["paymentRequirements"] = Value::Null), Reason::InvalidPayload);
        assert_eq!(changed(|body| body["paymentRequirements"]["amount"] = "1e4".into()), Reason::InvalidRequirements);
        assert_eq!(changed(|body| body["paymentRequirements"]["network"] = "mars".into()), Reason::InvalidNetwork);
        for bad in ["", "[]", "{", r#"{"x402Version":1,"x402Version":1}"#] {
            assert_eq!(FacilitatorRequest::read(bad.as_bytes()).unwrap_err().reason(), Reason::InvalidPayload, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = FacilitatorRequest::read(&bytes);
        }
    }
}
