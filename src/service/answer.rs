//! An answer before it is HTTP.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// What a request is told.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// The methods there are, for 405.
    pub allow: &'static str,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, body, allow: "", retry_after: None }
    }

    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string().into_bytes())
    }

    pub(crate) fn error(status: StatusCode, reason: &str) -> Self {
        Self::json(status, &json!({ "error": reason }))
    }

    /// 405.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        Self { allow, ..Self::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed") }
    }

    pub(crate) fn into_http(self, is_head: bool) -> Response<Vec<u8>> {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static(self.allow));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if !is_head {
            *response.body_mut() = self.body;
        }
        response
    }
}
