//! The types of single values: what they look like as typed and in the schema.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::diagnostic::Location;
use super::reader::{At, FromToml, Node, Reader, did_you_mean, listed, shown};
use crate::types::Rate;

/// No duration in the file means anything beyond ten years; below the bound sums can't overflow.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl FromToml for bool {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = node.get_ref().as_bool();
        if value.is_none() {
            reader.wrong(
                node,
                &format!("expected true or false, got {}", super::reader::type_name(node.get_ref())),
                None,
            );
        }
        value
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

impl FromToml for u64 {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = match node.get_ref() {
            DeValue::Integer(integer) => Self::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        };
        if value.is_none() {
            reader.wrong_type(node, "a whole number, not negative");
        }
        value
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl FromToml for String {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "a string")?;
        if text.chars().any(char::is_control) {
            reader.wrong(node, "expected a text without control characters", None);
            return None;
        }
        Some(text.to_owned())
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl FromToml for Duration {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "a duration as a string such as \"60s\", \"5min\" or \"24h\"")?;
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() && duration <= DURATION_MAX => Some(duration),
            Ok(_) => {
                reader.wrong(
                    node,
                    &format!("expected more than nothing and at most ten years, got {}", shown(text)),
                    None,
                );
                None
            }
            Err(error) => {
                let message = format!("expected a duration such as \"60s\", \"5min\" or \"24h\", got {}", shown(text));
                reader.wrong(node, &message, Some(error.to_string()));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "examples": ["60s", "5min", "24h"] })
    }
}

impl FromToml for SocketAddr {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let expected = "an IP address and port such as \"127.0.0.1:8402\" or \"[::]:8402\"";
        let text = reader.text(node, &format!("{expected} as a string"))?;
        let address = text.parse().ok();
        if address.is_none() {
            reader.wrong(node, &format!("expected {expected}, got {}", shown(text)), None);
        }
        address
    }

    fn schema() -> Value {
        json!({ "type": "string", "examples": ["127.0.0.1:8402", "[::]:8402"] })
    }
}

impl FromToml for Rate {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "a rate as a string such as \"100/s\" or \"10/day\"")?;
        let rate = text.parse::<Self>();
        if let Err(error) = &rate {
            reader.wrong(node, &format!("{error}, got {}", shown(text)), None);
        }
        rate.ok()
    }

    fn schema() -> Value {
        json!({ "type": "string", "examples": ["100/s", "20/min", "50/h", "10/day"] })
    }
}

/// A share from 0 to 1, in millionths: exact, where a float would not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ratio(pub u32);

impl Ratio {
    fn read(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() != 1 || fraction.len() > 6 || !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let millionths = format!("{whole}{fraction:0<6}").parse().ok()?;
        (millionths <= 1_000_000).then_some(Self(millionths))
    }
}

impl FromToml for Ratio {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let ratio = match node.get_ref() {
            DeValue::Float(float) => Self::read(float.as_str()),
            DeValue::Integer(integer) => Self::read(integer.as_str()),
            _ => {
                reader.wrong_type(node, "a number from 0 to 1");
                return None;
            }
        };
        if ratio.is_none() {
            reader.wrong(node, "expected a number from 0 to 1 with at most six digits after the point", None);
        }
        ratio
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// A value that is one of a few words.
pub(super) trait Word: Copy + 'static {
    /// The words.
    const WORDS: &'static [(&'static str, Self)];
    /// Words of later versions.
    const LATER: &'static [&'static str] = &[];
}

impl<T: Word> FromToml for T {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let expected = listed(words());
        let expected = if T::WORDS.len() > 1 { format!("one of {expected}") } else { expected };
        let text = reader.text(node, &format!("{expected} as a string"))?;
        if T::LATER.contains(&text) {
            reader.wrong(
                node,
                &format!("{text:?} is not supported by this version yet"),
                Some(format!("use {expected}")),
            );
            return None;
        }
        let found = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            reader.wrong(node, &format!("expected {expected}, got {}", shown(text)), did_you_mean(text, words()));
        }
        found
    }

    fn schema() -> Value {
        json!({ "type": "string", "enum": T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
}

/// A value whose mistake has been reported, but whose presence still counts.
#[derive(Debug, Clone)]
pub(super) struct Lenient<T>(pub Option<T>);

impl<T: FromToml> FromToml for Lenient<T> {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self(T::from_toml(node, reader)))
    }

    fn schema() -> Value {
        T::schema()
    }
}

/// One value or a list of them.
#[derive(Debug, Clone)]
pub(super) struct OneOrMany<T>(pub Vec<At<T>>);

impl<T: FromToml> FromToml for OneOrMany<T> {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if node.get_ref().is_array() {
            List::from_toml(node, reader).map(|List(items)| Self(items))
        } else {
            let location = reader.place_of(node);
            T::from_toml(node, reader).map(|value| Self(vec![At { value, location }]))
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [T::schema(), List::<T>::schema()] })
    }
}

/// A list with something in it; entries that could not be read have been reported and are left out.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub Vec<At<T>>);

impl<T: FromToml> FromToml for List<T> {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(array) = node.get_ref().as_array() else {
            reader.wrong_type(node, "a list in square brackets");
            return None;
        };
        if array.is_empty() {
            reader.wrong(node, "expected at least one entry, got an empty list", None);
            return None;
        }
        let items: Vec<At<T>> = array
            .iter()
            .filter_map(|item| {
                let location = reader.place_of(item);
                T::from_toml(item, reader).map(|value| At { value, location })
            })
            .collect();
        // What could be read is kept, so that its own mistakes are told in the same run.
        (!items.is_empty()).then_some(Self(items))
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema(), "minItems": 1 })
    }
}

/// A table whose keys the operator chooses, in file order.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub Vec<Entry<T>>);

/// One entry of a [`Named`].
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    /// The key.
    pub name: String,
    /// Where the key stands.
    pub location: Location,
    /// Nothing if it could not be read: the name is still known, so that what refers to it isn't called a mistake.
    pub value: Option<At<T>>,
}

impl<T: FromToml> FromToml for Named<T> {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.table(node, "a table")?;
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries.into_iter().map(|(key, node)| {
            let name = key.get_ref().to_string();
            let location = reader.place_of(node);
            let value = reader.within(&name, |reader| T::from_toml(node, reader)).map(|value| At { value, location });
            Entry { name, location: reader.place(key.span().start), value }
        });
        Some(Self(entries.collect()))
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
}

/// Any JSON object, written as a TOML table.
#[derive(Debug, Clone)]
pub(super) struct JsonObject(pub Value);

impl FromToml for JsonObject {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        reader.table(node, "a table")?;
        to_json(node, reader).map(Self)
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": true })
    }
}

/// Recursion is bounded by the TOML parser's own limit on nesting.
fn to_json(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Value> {
    let number = |text: &str| serde_json::from_str::<serde_json::Number>(text).ok().map(Value::Number);
    let value = match node.get_ref() {
        DeValue::String(text) => Some(json!(text)),
        DeValue::Boolean(boolean) => Some(json!(boolean)),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|value| json!(value))
        }
        DeValue::Float(float) => number(float.as_str()),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => {
            let values: Vec<Value> = items.iter().filter_map(|item| to_json(item, reader)).collect();
            return (values.len() == items.len()).then_some(Value::Array(values));
        }
        DeValue::Table(table) => {
            let mut object = Map::new();
            for (key, item) in table {
                object.insert(key.get_ref().to_string(), to_json(item, reader)?);
            }
            return Some(Value::Object(object));
        }
    };
    if value.is_none() {
        let got = super::reader::type_name(node.get_ref());
        reader.wrong(node, &format!("expected a value that JSON has too, got {got}"), None);
    }
    value
}
