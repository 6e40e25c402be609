//! The JSON Schema of the file, from the same declarations that the parser reads by.

use serde_json::{Map, Value, json};

use super::raw::Root;
use super::reader::{FieldSpec, FromToml};

/// The JSON Schema (2020-12) of `gateway.toml`.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = Root::schema();
    if let Value::Object(object) = &mut schema {
        object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".to_owned(), json!("Tollhouse gateway.toml"));
    }
    schema
}

/// An object with the fields' own schemas, explanations and defaults.
pub(super) fn of_section(about: &str, fields: &[FieldSpec], types: impl IntoIterator<Item = Value>) -> Value {
    let mut properties = Map::new();
    for (field, mut schema) in fields.iter().zip(types) {
        if let Value::Object(object) = &mut schema {
            object.insert("description".to_owned(), json!(one_text(field.doc)));
            let default = field.default.and_then(|text| serde_json::from_str::<Value>(text).ok());
            if let Some(default) = default {
                object.insert("default".to_owned(), default);
            }
        }
        properties.insert(field.key.to_owned(), schema);
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.is_required).map(|field| field.key).collect();
    let mut schema = json!({
        "type": "object",
        "description": one_text(about),
        "properties": properties,
        "additionalProperties": false,
    });
    if let (Value::Object(object), false) = (&mut schema, required.is_empty()) {
        object.insert("required".to_owned(), json!(required));
    }
    schema
}

fn one_text(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
