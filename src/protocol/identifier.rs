//! The `payment-identifier` extension (protocol §6): a client's own name for a purchase, so that asking twice is paying once.

use serde_json::{Map, Value, json};

use crate::types::IdentifierRule;

/// The extension's key in `extensions`.
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// Fewest and most characters of an identifier.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;

/// What a payment says of its identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identifier {
    /// Nothing.
    Absent,
    /// Something that is none.
    Malformed,
    /// 16 to 128 of `[A-Za-z0-9_-]`.
    Given(String),
}

impl Identifier {
    /// From the `extensions` of a v2 payment.
    pub(super) fn of(extensions: Option<&Value>) -> Self {
        let Some(extension) = extensions.and_then(|extensions| extensions.get(PAYMENT_IDENTIFIER)) else {
            return Self::Absent;
        };
        match extension.pointer("/info/id") {
            None | Some(Value::Null) => Self::Absent,
            Some(Value::String(id)) if is_identifier(id) => Self::Given(id.clone()),
            Some(_) => Self::Malformed,
        }
    }
}

fn is_identifier(id: &str) -> bool {
    LENGTHS.contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The `extensions` of terms under a rule.
pub(super) fn extensions(rule: IdentifierRule) -> Value {
    let is_required = match rule {
        IdentifierRule::Off => return Value::Object(Map::new()),
        IdentifierRule::Optional => false,
        IdentifierRule::Required => true,
    };
    json!({ PAYMENT_IDENTIFIER: {
        "info": { "required": is_required },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "required": { "type": "boolean" },
                "id": {
                    "type": "string",
                    "minLength": LENGTHS.start(),
                    "maxLength": LENGTHS.end(),
                    "pattern": "^[a-zA-Z0-9_-]+$",
                },
            },
            "required": ["required"],
        },
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(info: &Value) -> Identifier {
        Identifier::of(Some(&json!({ PAYMENT_IDENTIFIER: { "info": info } })))
    }

    #[test]
    fn an_identifier_is_16_to_128_plain_characters() {
        for good in ["pay_0123456789ab", &"a".repeat(128), "A-Z_a-z_0-9_____"] {
            assert_eq!(read(&json!({"required": true, "id": good})), Identifier::Given(good.to_owned()));
        }
        for bad in
            [json!("short"), json!("a".repeat(129)), json!("with spaces in it"), json!("ümlaut_in_it_0123"), json!(1)]
        {
            assert_eq!(read(&json!({ "id": bad })), Identifier::Malformed, "{bad}");
        }
    }

    #[test]
    fn what_says_nothing_of_an_identifier_has_none() {
        assert_eq!(Identifier::of(None), Identifier::Absent);
        assert_eq!(Identifier::of(Some(&json!({"bazaar": {}}))), Identifier::Absent);
        assert_eq!(read(&json!({"required": true})), Identifier::Absent);
        assert_eq!(read(&json!({"id": null})), Identifier::Absent);
    }

    #[test]
    fn terms_say_whether_one_is_required_and_nothing_where_none_is_taken() {
        assert_eq!(extensions(IdentifierRule::Off), json!({}));
        for (rule, is_required) in [(IdentifierRule::Optional, false), (IdentifierRule::Required, true)] {
            assert_eq!(extensions(rule)[PAYMENT_IDENTIFIER]["info"], json!({ "required": is_required }));
        }
    }
}
