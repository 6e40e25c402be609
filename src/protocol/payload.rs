//! What a client presents, v1 and v2 brought to one form (protocol §2.1, §2.2).

use serde_json::{Map, Value};

use super::header::DecodeError;
use super::identifier::Identifier;
use super::requirements::{PaymentRequirements, QUOTE_KEY};
use super::vitwit;
use crate::types::{AtomicAmount, ChainKind, Network};

/// The x402 version a payment is written in; answers are given in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `X-PAYMENT`.
    V1,
    /// `PAYMENT-SIGNATURE`.
    V2,
    /// The vitwit dialect: v1 with the scheme's payload as a base64 string.
    Vitwit,
}

/// The offer that a v2 client says it accepted: a selector, never an authority, unless its quote proves that we made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Scheme.
    pub scheme: String,
    /// Network.
    pub network: Network,
    /// Price.
    pub amount: AtomicAmount,
    /// Token as the client spelled it.
    pub asset: String,
    /// Payee as the client spelled it.
    pub pay_to: String,
    /// Time the payer was given, in seconds.
    pub max_timeout_seconds: u64,
    /// Scheme's fields, without the quote.
    pub extra: Map<String, Value>,
}

/// A decoded payment header.
#[derive(Debug, Clone, PartialEq)]
pub struct PaymentPayload {
    /// Which version's shape it has.
    pub version: Version,
    /// Scheme.
    pub scheme: String,
    /// Network.
    pub network: Network,
    /// The offer accepted; v2 only.
    pub accepted: Option<Accepted>,
    /// The sealed quote, if the client echoed one.
    pub quote: Option<String>,
    /// The client's own name for the purchase; v2 only.
    pub identifier: Identifier,
    /// The scheme's payload: an object, or for Cosmos the base64 of a transaction's bytes.
    pub payload: Value,
}

impl PaymentPayload {
    pub(super) fn from_object(mut object: Map<String, Value>, inferred: Version) -> Result<Self, DecodeError> {
        let version = match object.get("x402Version") {
            None => inferred,
            Some(version) => match version.as_u64() {
                Some(1) => Version::V1,
                Some(2) => Version::V2,
                _ => return Err(DecodeError::Version),
            },
        };
        let payload = match object.remove("payload") {
            Some(payload @ (Value::Object(_) | Value::String(_))) => payload,
            _ => return Err(DecodeError::Field { field: "payload", expected: "an object" }),
        };
        match version {
            Version::V1 | Version::Vitwit => {
                let scheme = text(&object, "scheme", "scheme")?.to_owned();
                let network = network(&object, "network")?;
                let version = if payload.is_string() { Version::Vitwit } else { Version::V1 };
                let (payload, identifier) = (unwrapped(payload, &network)?, Identifier::Absent);
                Ok(Self { version, scheme, network, accepted: None, quote: None, identifier, payload })
            }
            Version::V2 => {
                let Some(Value::Object(accepted)) = object.remove("accepted") else {
                    return Err(DecodeError::Field { field: "accepted", expected: "the accepted offer, an object" });
                };
                let (accepted, quote) = Accepted::from_object(accepted, "amount")?;
                let (scheme, network) = (accepted.scheme.clone(), accepted.network.clone());
                let payload = unwrapped(payload, &network)?;
                let identifier = Identifier::of(object.get("extensions"));
                Ok(Self { version, scheme, network, accepted: Some(accepted), quote, identifier, payload })
            }
        }
    }
}

/// The payload as schemes read it.
fn unwrapped(payload: Value, network: &Network) -> Result<Value, DecodeError> {
    match payload {
        Value::String(text) => vitwit::unwrap(&text, network.kind()),
        payload => Ok(payload),
    }
}

impl Accepted {
    /// Reads terms whose price stands under `amount_key`: `amount` in v2, `maxAmountRequired` in v1.
    pub(super) fn from_object(
        mut object: Map<String, Value>,
        amount_key: &str,
    ) -> Result<(Self, Option<String>), DecodeError> {
        let amount = match object.get(amount_key) {
            Some(Value::String(amount)) => amount.parse().ok(),
            Some(Value::Number(amount)) => amount.as_u64().map(AtomicAmount::from),
            _ => None,
        };
        let amount = amount
            .ok_or(DecodeError::Field { field: "accepted.amount", expected: "a decimal string of atomic units" })?;
        let mut extra = match object.remove("extra") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(extra)) => extra,
            Some(_) => return Err(DecodeError::Field { field: "accepted.extra", expected: "an object" }),
        };
        let quote = match extra.remove(QUOTE_KEY) {
            Some(Value::String(quote)) => Some(quote),
            _ => None,
        };
        let accepted = Self {
            scheme: text(&object, "scheme", "accepted.scheme")?.to_owned(),
            network: network(&object, "accepted.network")?,
            amount,
            asset: text(&object, "asset", "accepted.asset")?.to_owned(),
            pay_to: text(&object, "payTo", "accepted.payTo")?.to_owned(),
            max_timeout_seconds: object
                .get("maxTimeoutSeconds")
                .and_then(Value::as_u64)
                .ok_or(DecodeError::Field { field: "accepted.maxTimeoutSeconds", expected: "an integer" })?,
            extra,
        };
        Ok((accepted, quote))
    }

    /// Whether this is the given offer: all standard fields equal, and the offer's `extra` contained in this one's
    /// (protocol §2.2). EVM addresses compare without case, others byte for byte (§7).
    #[must_use]
    pub fn matches(&self, offer: &PaymentRequirements) -> bool {
        self.matches_payee(offer)
            && self.amount == offer.amount
            && self.max_timeout_seconds == offer.max_timeout_seconds
            && is_subset(&offer.extra, &self.extra)
    }

    /// Whether scheme, network, asset and payee are the offer's.
    #[must_use]
    pub fn matches_payee(&self, offer: &PaymentRequirements) -> bool {
        self.matches_but_for_price(offer) && same_account(offer.network.kind(), &self.pay_to, offer.pay_to.as_str())
    }

    /// Whether scheme, network and asset are the offer's.
    #[must_use]
    pub fn matches_but_for_price(&self, offer: &PaymentRequirements) -> bool {
        self.scheme == offer.scheme
            && self.network == offer.network
            && same_account(offer.network.kind(), &self.asset, offer.asset.as_str())
    }

    /// These terms as requirements of their own, for a quote to prove. The spelling is kept, so that a client that changed
    /// it fails the proof.
    #[must_use]
    pub fn to_requirements(&self) -> Option<PaymentRequirements> {
        Some(PaymentRequirements {
            scheme: self.scheme.clone(),
            network: self.network.clone(),
            amount: self.amount,
            asset: crate::types::AssetId::new(self.asset.as_str()).ok()?,
            pay_to: crate::types::AccountId::new(self.pay_to.as_str()).ok()?,
            max_timeout_seconds: self.max_timeout_seconds,
            extra: self.extra.clone(),
        })
    }
}

fn same_account(kind: ChainKind, one: &str, other: &str) -> bool {
    match kind {
        ChainKind::Evm => one.eq_ignore_ascii_case(other),
        ChainKind::Solana | ChainKind::Cosmos => one == other,
    }
}

/// Whether every key of `part` stands in `whole` with an equal value; objects recursively, arrays exactly.
fn is_subset(part: &Map<String, Value>, whole: &Map<String, Value>) -> bool {
    part.iter().all(|(key, value)| match (value, whole.get(key)) {
        (Value::Object(part), Some(Value::Object(whole))) => is_subset(part, whole),
        (value, Some(found)) => value == found,
        (_, None) => false,
    })
}

fn text<'a>(object: &'a Map<String, Value>, key: &str, field: &'static str) -> Result<&'a str, DecodeError> {
    object.get(key).and_then(Value::as_str).ok_or(DecodeError::Field { field, expected: "a string" })
}

fn network(object: &Map<String, Value>, field: &'static str) -> Result<Network, DecodeError> {
    text(object, "network", field)?.parse().map_err(|_error| DecodeError::Network)
}

#[cfg(test)]
mod tests {
    use super::super::header::decode_payment;
    use super::*;

    fn offer() -> PaymentRequirements {
        serde_json::from_str(
            r#"{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0xAb","payTo":"0xCd","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}}"#,
        )
        .unwrap()
    }

    fn accepted(change: impl FnOnce(&mut Value)) -> Accepted {
        let mut value =
            serde_json::json!({"x402Version":2,"payload":{},"accepted":serde_json::to_value(offer()).unwrap()});
        change(&mut value["accepted"]);
        decode_payment(value.to_string().as_bytes(), Version::V2).unwrap().accepted.unwrap()
    }

    #[test]
    fn an_echoed_offer_matches_whatever_the_client_added() {
        assert!(accepted(|_| {}).matches(&offer()));
        assert!(accepted(|value| value["unknown"] = 1.into()).matches(&offer()));
        assert!(accepted(|value| value["extra"]["quote"] = "x".into()).matches(&offer()));
        assert!(accepted(|value| value["asset"] = "0xAB".into()).matches(&offer()));
        assert!(accepted(|value| value["amount"] = 10000.into()).matches(&offer()));
    }

    #[test]
    fn a_changed_field_matches_no_offer() {
        for (key, value) in [
            ("scheme", Value::from("upto")),
            ("network", "eip155:8453".into()),
            ("amount", "9999".into()),
            ("asset", "0xAc".into()),
            ("payTo", "0xCe".into()),
            ("maxTimeoutSeconds", 61.into()),
            ("extra", serde_json::json!({"name":"USDC"})),
            ("extra", serde_json::json!({"name":"USD Coin","version":"2"})),
            ("extra", Value::Null),
        ] {
            assert!(!accepted(|accepted| accepted[key] = value).matches(&offer()), "{key}");
        }
    }

    #[test]
    fn a_payload_as_a_base64_string_is_read_as_the_object_in_it() {
        use base64::Engine;
        let inner = serde_json::json!({"signature":"0x12","authorization":{"from":"0x1"}});
        let wrapped = base64::engine::general_purpose::STANDARD.encode(inner.to_string());
        let mut header =
            serde_json::json!({"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":wrapped});
        let payload = decode_payment(header.to_string().as_bytes(), Version::V1).unwrap();
        assert_eq!((payload.version, &payload.payload), (Version::Vitwit, &inner));
        header["payload"] = inner.clone();
        assert_eq!(decode_payment(header.to_string().as_bytes(), Version::V1).unwrap().version, Version::V1);
        let v2 =
            serde_json::json!({"x402Version":2,"payload":wrapped,"accepted":serde_json::to_value(offer()).unwrap()});
        let payload = decode_payment(v2.to_string().as_bytes(), Version::V2).unwrap();
        assert_eq!((payload.version, payload.payload), (Version::V2, inner));
        header["payload"] = "bm90IGpzb24".into();
        assert!(decode_payment(header.to_string().as_bytes(), Version::V1).is_err());
    }

    #[test]
    fn v1_has_no_offer_and_no_quote() {
        let header = r#"{"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":{"signature":"0x"}}"#;
        let payload = decode_payment(header.as_bytes(), Version::V1).unwrap();
        assert_eq!(payload.network, Network::evm(84532));
        assert!(payload.accepted.is_none() && payload.quote.is_none());
    }
}
