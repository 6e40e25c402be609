//! Errors as operators' programs read them: RFC 9457 problem details, with the stable word in `error`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::service::Answer;

/// The media type of RFC 9457.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// Says no. `error` is stable, `detail` is for people.
pub(super) fn problem(status: StatusCode, error: &str, detail: &str) -> Answer {
    body(status, &document(status, error, detail))
}

/// As [`problem`], with the reasons, one each.
pub(super) fn problem_with_reasons(status: StatusCode, error: &str, detail: &str, reasons: &[String]) -> Answer {
    let mut document = document(status, error, detail);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("reasons".to_owned(), json!(reasons));
    }
    body(status, &document)
}

/// 405.
pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
    let detail = format!("this path has {allow}");
    Answer { allow, ..problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail) }
}

/// 503: the books can't be read now.
pub(super) fn ledger_unavailable() -> Answer {
    problem(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", "the ledger does not answer; the log says why")
}

fn document(status: StatusCode, error: &str, detail: &str) -> Value {
    json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "error": error,
        "detail": detail,
    })
}

fn body(status: StatusCode, document: &Value) -> Answer {
    Answer::new(status, MEDIA_TYPE, document.to_string().into_bytes())
}
