//! CORS for what the gateway itself says (protocol §1.5): pages may read terms and outcomes, and send payments.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora::http::ResponseHeader;

/// What pages may read.
const EXPOSED: &str = "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE, X-PAYMENT-REQUIREMENTS";

/// What pages may send. Clients send `Access-Control-Expose-Headers` as a request header, so it is among them.
const ALLOWED: &str =
    "X-PAYMENT, PAYMENT-SIGNATURE, SIGN-IN-WITH-X, Content-Type, Authorization, Access-Control-Expose-Headers";

/// The method that a CORS preflight asks for, if this is one.
pub(super) fn preflight_for(method: &Method, fields: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !fields.contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(fields.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The head of a preflight's answer.
pub(super) fn preflight_headers(origin: &HeaderValue, methods: &str) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = local_headers(origin);
    headers.extend(HeaderValue::from_str(methods).map(|value| (header::ACCESS_CONTROL_ALLOW_METHODS, value)));
    headers.push((header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED)));
    headers.push((header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")));
    headers
}

/// What makes an answer of the gateway's own readable to a page. Cookies are no part of it.
pub(super) fn local_headers(origin: &HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
    vec![
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED)),
        (header::VARY, HeaderValue::from_static("Origin")),
    ]
}

/// Makes a paid answer of an origin readable to the page that paid for it. What the origin says of CORS itself stands.
pub(super) fn expose(head: &mut ResponseHeader, origin: &HeaderValue) -> pingora::Result<()> {
    head.append_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
    if !head.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())?;
        head.append_header(header::VARY, "Origin")?;
    }
    Ok(())
}
