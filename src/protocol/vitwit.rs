//! The vitwit dialect: version 1 with the scheme's payload as a base64 string (protocol §2.3, §5.1). Brought to the form that
//! schemes read here and nowhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::header::{DecodeError, decode_base64};
use super::json::parse_strict;
use crate::types::{ChainKind, Network};

/// The scheme's payload inside a base64 string: a JSON object if it is one, else a transaction's bytes, which Solana schemes
/// get as `{"transaction"}` and Cosmos schemes as the string, in the standard alphabet.
///
/// # Errors
/// When the text is not base64, or holds bytes for a chain whose payload is always an object.
pub(super) fn unwrap(text: &str, kind: ChainKind) -> Result<Value, DecodeError> {
    let malformed = DecodeError::Field { field: "payload", expected: "an object, or base64 of one" };
    let bytes = decode_base64(text.trim().as_bytes()).ok_or_else(|| malformed.clone())?;
    if let Ok(object @ Value::Object(_)) = parse_strict(&bytes) {
        return Ok(object);
    }
    match kind {
        ChainKind::Solana if !bytes.is_empty() => Ok(json!({ "transaction": STANDARD.encode(bytes) })),
        ChainKind::Cosmos if !bytes.is_empty() => Ok(Value::String(STANDARD.encode(bytes))),
        _ => Err(malformed),
    }
}

/// What the dialect calls a network: its v1 name, or a Cosmos chain's own id.
pub(super) fn network_name(network: &Network) -> &str {
    match network.kind() {
        ChainKind::Cosmos => network.reference(),
        ChainKind::Evm | ChainKind::Solana => network.v1_name().unwrap_or(network.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn an_object_in_any_base64_is_the_payload() {
        let inner = r#"{"signature":"0x??>>","authorization":{}}"#;
        let expected: Value = serde_json::from_str(inner).unwrap();
        for text in [
            STANDARD.encode(inner),
            STANDARD_NO_PAD.encode(inner),
            URL_SAFE.encode(inner),
            URL_SAFE_NO_PAD.encode(inner),
            format!(" {}\n", STANDARD.encode(inner)),
        ] {
            for kind in [ChainKind::Evm, ChainKind::Solana, ChainKind::Cosmos] {
                assert_eq!(unwrap(&text, kind).unwrap(), expected, "{text}");
            }
        }
    }

    #[test]
    fn raw_bytes_are_a_transaction_where_chains_have_such_payloads() {
        let bytes = [0x80_u8, 1, 0xff, 0xfe, 0];
        let text = URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(unwrap(&text, ChainKind::Solana).unwrap(), json!({ "transaction": STANDARD.encode(bytes) }));
        assert_eq!(unwrap(&text, ChainKind::Cosmos).unwrap(), Value::String(STANDARD.encode(bytes)));
        assert!(unwrap(&text, ChainKind::Evm).is_err());
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, kind) in [
            ("", ChainKind::Solana),
            ("", ChainKind::Cosmos),
            ("e30", ChainKind::Evm),
            ("%%%", ChainKind::Solana),
            ("{\"signature\":\"0x\"}", ChainKind::Evm),
            (&STANDARD.encode(r#"{"a":1,"a":2}"#), ChainKind::Evm),
            (&STANDARD.encode("[]"), ChainKind::Evm),
        ] {
            let is_empty_object = text == "e30";
            assert_eq!(unwrap(text, kind).is_ok(), is_empty_object, "{text}");
        }
    }

    #[test]
    fn networks_are_called_by_their_bare_names() {
        for (id, name) in
            [("eip155:84532", "base-sepolia"), ("eip155:424242", "eip155:424242"), ("cosmos:grand-1", "grand-1")]
        {
            assert_eq!(network_name(&id.parse().unwrap()), name);
        }
    }
}
