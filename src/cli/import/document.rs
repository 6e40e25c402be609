//! An OpenAPI description as text: YAML or JSON of bounded size, depth and expansion, and references within it.

use serde_json::{Map, Value};

/// References that refer to references.
const HOPS_MAX: usize = 8;

/// Why a file can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Neither YAML nor JSON, or too much of it.
    #[error("{line}:{column}: {message}")]
    Syntax {
        /// Counts from 1; 0 where the parser knows none.
        line: u64,
        /// Counts from 1.
        column: u64,
        /// What was expected and what came.
        message: String,
    },
    /// Not a description of the kind that is read.
    #[error("{0}")]
    Document(&'static str),
    /// An OpenAPI of another version.
    #[error("expected OpenAPI 3.0 or 3.1, got {0}; converters to 3.0 are many")]
    Version(String),
    /// More than anybody edits by hand.
    #[error("more than {0} operations")]
    TooMany(usize),
    /// `--price` is no price that fits every network.
    #[error("--price: {0}")]
    Price(String),
}

/// Reads a description and checks that it is one.
pub(super) fn parse(text: &str) -> Result<Value, ImportError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Value = if text.trim_start().starts_with('{') { json(text)? } else { yaml(text)? };
    if !document.is_object() {
        return Err(ImportError::Document("expected an OpenAPI description: an object with openapi and paths"));
    }
    if let Some(version) = document.get("swagger") {
        return Err(ImportError::Version(format!("Swagger {}", plain(version))));
    }
    let version = document.get("openapi").map(plain);
    match version {
        Some(version) if ["3.0", "3.1"].iter().any(|known| is_version(&version, known)) => Ok(document),
        Some(version) => Err(ImportError::Version(super::table::one_line(&version, 40))),
        None => Err(ImportError::Document("expected the key openapi at the top, with a version such as \"3.1.0\"")),
    }
}

fn is_version(version: &str, known: &str) -> bool {
    version.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A scalar as its text: YAML's `openapi: 3.1` is a number.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn json(text: &str) -> Result<Value, ImportError> {
    serde_json::from_str(text).map_err(|error| {
        let narrow = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let (line, column) = (narrow(error.line()), narrow(error.column()));
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        ImportError::Syntax { line, column, message: format!("JSON: {message}") }
    })
}

fn yaml(text: &str) -> Result<Value, ImportError> {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_nodes = 1_000_000;
    budget.max_events = 3_000_000;
    budget.max_documents = 1;
    budget.max_depth = 64;
    // OpenAPI has references of its own; of YAML's a few are borne, so that none of them makes much of little.
    budget.max_aliases = 256;
    budget.max_anchors = 256;
    budget.max_recorded_anchor_events = 5_000;
    budget.max_recorded_anchor_bytes = 16 * 1024;
    budget.max_merge_keys = 256;
    let mut limits = serde_saphyr::options::AliasLimits::default();
    limits.max_total_replayed_events = 5_000;
    limits.max_replay_stack_depth = 8;
    let options = serde_saphyr::options! {
        budget: Some(budget),
        alias_limits: limits,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
        let message = super::table::one_line(&error.without_snippet().to_string(), 200);
        ImportError::Syntax { line, column, message: format!("YAML: {message}") }
    })
}

/// What a value refers to within the document, or the value itself; nothing for a reference that leads nowhere.
pub(super) fn resolved<'a>(document: &'a Value, value: &'a Value) -> Option<&'a Map<String, Value>> {
    let mut value = value;
    for _ in 0..HOPS_MAX {
        let object = value.as_object()?;
        match object.get("$ref").and_then(Value::as_str) {
            None => return Some(object),
            Some(reference) => value = document.pointer(reference.strip_prefix('#')?)?,
        }
    }
    None
}
