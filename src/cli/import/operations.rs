//! Each operation of a description as an entry of the route table.

use serde_json::{Map, Value};

use super::document::{ImportError, resolved};
use super::price;
use super::table::{one_line, toml_string};

/// More than anybody edits by hand.
const OPERATIONS_MAX: usize = 5000;

/// Less than the configuration allows: it stands in every answer that asks for payment.
const DESCRIPTION_CHARACTERS_MAX: usize = 200;

const METHODS: [&str; 8] = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];

/// An operation as a line of `[routes]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    /// `METHOD /path`.
    pub key: String,
    /// The whole line.
    pub line: String,
    /// Why it is no route.
    pub left_out: Option<String>,
}

/// Every operation, by path.
pub(super) fn of(
    document: &Value,
    prefix: &str,
    default_price: &str,
    hints: &mut Vec<String>,
) -> Result<Vec<Operation>, ImportError> {
    let Some(paths) = document.get("paths").and_then(Value::as_object) else {
        return Err(ImportError::Document("expected the key paths, an object of paths"));
    };
    if document.get("webhooks").and_then(Value::as_object).is_some_and(|webhooks| !webhooks.is_empty()) {
        hints.push("webhooks are requests that your origin makes, so they are no routes".to_owned());
    }
    let mut operations = Vec::new();
    for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
        let Some(item) = resolved(document, item) else {
            hints.push(format!("paths.{:?} is no object, or refers to what is not in this file", one_line(path, 80)));
            continue;
        };
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            if operations.len() >= OPERATIONS_MAX {
                return Err(ImportError::TooMany(OPERATIONS_MAX));
            }
            operations.push(entry(document, (prefix, path), (method, item), operation, default_price));
        }
        let has_servers = |value: &Map<String, Value>| value.contains_key("servers");
        if has_servers(item)
            || METHODS.iter().any(|name| item.get(*name).is_some_and(|one| one.get("servers").is_some()))
        {
            let path = one_line(path, 80);
            hints.push(format!("{path:?} has servers of its own, which are not taken: give its routes an upstream"));
        }
    }
    Ok(operations)
}

fn entry(
    document: &Value,
    (prefix, path): (&str, &str),
    (method, item): (&str, &Map<String, Value>),
    operation: &Value,
    default_price: &str,
) -> Operation {
    let key = format!("{} {prefix}{path}", method.to_ascii_uppercase());
    let name = toml_string(&key);
    let Some(operation) = operation.as_object() else {
        let left_out = Some("the operation is no object".to_owned());
        return Operation { line: format!("{name} = \"deny\""), key, left_out };
    };
    let needless = match method {
        "trace" => Some("TRACE is always refused"),
        "options" => Some("preflights are answered without payment"),
        "head" if item.contains_key("get") => Some("GET covers HEAD"),
        _ if !path.starts_with('/') => Some("the path doesn't start with /"),
        _ => None,
    };
    let (price, unpriced) = match price::of(operation, default_price) {
        Ok(price) => (price, None),
        Err(why) => ("$0.00".to_owned(), Some(why)),
    };
    let left_out = needless.map(str::to_owned).or(unpriced);
    Operation { line: format!("{name} = {}", value(document, operation, &price)), key, left_out }
}

/// The price alone, or a table where there is more to say.
fn value(document: &Value, operation: &Map<String, Value>, price: &str) -> String {
    let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
    let summary = text("summary");
    let told = if summary.trim().is_empty() { text("description").lines().next().unwrap_or_default() } else { summary };
    let description = one_line(told, DESCRIPTION_CHARACTERS_MAX);
    let mime_type = mime_type(document, operation).unwrap_or_default();
    let price_text = toml_string(price);
    if matches!(price, "free" | "deny") || (description.is_empty() && mime_type.is_empty()) {
        return price_text;
    }
    let mut table = format!("{{ price = {price_text}");
    for (key, text) in [("description", description.as_str()), ("mime_type", mime_type)] {
        if !text.is_empty() {
            table.push_str(&format!(", {key} = {}", toml_string(text)));
        }
    }
    table.push_str(" }");
    table
}

/// What the answer that is paid for consists of: JSON, if it is among several.
fn mime_type<'a>(document: &'a Value, operation: &'a Map<String, Value>) -> Option<&'a str> {
    let responses = operation.get("responses")?.as_object()?;
    let good = responses.iter().find(|(status, _)| status.starts_with('2'));
    let response = responses.get("200").or(good.map(|(_, response)| response)).or_else(|| responses.get("default"))?;
    let content = resolved(document, response)?.get("content")?.as_object()?;
    let is_plain = |name: &&str| name.is_ascii() && !name.contains('*') && name.len() <= 100 && name.contains('/');
    let mut names = content.keys().map(String::as_str).filter(is_plain);
    if content.contains_key("application/json") { Some("application/json") } else { names.next() }
}
