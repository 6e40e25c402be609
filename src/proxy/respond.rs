//! Where decisions and errors become HTTP (contract §3's table), and nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};
use serde_json::{Value, json};

use super::context::Outcome;
use super::intake::Malformed;
use super::limits::{Left, TooMany};
use super::{cors, headers};
use crate::payment::Decision;
use crate::protocol::{Challenge, SettlementResponse, encode_json, names};

/// What a client is asked to wait before it presents a payment again.
const RETRY_AFTER_SECS: &str = "2";

const PRESENT_AGAIN: &str = "present the same payment again; it is not charged twice";

/// How much of an unread body is read away before an answer, so that the connection can go on.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// How much is read away after an answer, so that closing doesn't take the answer with it.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a request is told that is answered here.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    pub outcome: Outcome,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

impl Answer {
    fn json(status: StatusCode, outcome: Outcome, body: &Value) -> Self {
        Self {
            status,
            headers: vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            body: Bytes::from(body.to_string()),
            outcome,
            closes: false,
        }
    }

    fn error(status: StatusCode, outcome: Outcome, reason: &str) -> Self {
        Self::json(status, outcome, &json!({ "error": reason }))
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        // Values come from encoders and constants; one that isn't a header value would be a mistake to send.
        self.headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
        self
    }

    fn retry_later(self) -> Self {
        self.with(header::RETRY_AFTER, RETRY_AFTER_SECS)
    }

    /// The outcome of a settlement, under both names (protocol §7).
    fn with_outcome(self, outcome: &SettlementResponse) -> Self {
        let value = encode_json(outcome);
        self.with(HeaderName::from_static(names::PAYMENT_RESPONSE), &value)
            .with(HeaderName::from_static(names::X_PAYMENT_RESPONSE), &value)
    }

    /// 400, 408, 414, 431.
    pub fn malformed(why: Malformed) -> Self {
        let mut answer = Self::error(why.status(), Outcome::BadRequest, &why.to_string());
        answer.closes = why.closes();
        answer
    }

    /// 403: whoever asks is not to be answered about others' requests.
    pub fn unknown_front() -> Self {
        Self::error(StatusCode::FORBIDDEN, Outcome::BadRequest, "unknown_front")
    }

    /// 404: no route, or a denied one; the two look the same.
    pub fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, Outcome::NotFound, "not_found")
    }

    /// The list of what is for sale, for every page and for a short time.
    pub fn directory(document: String) -> Self {
        Self {
            status: StatusCode::OK,
            headers: vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60")),
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
            ],
            body: Bytes::from(document),
            outcome: Outcome::Discovery,
            closes: false,
        }
    }

    /// 405 with `Allow`.
    pub fn method_not_allowed(allow: &[Method]) -> Self {
        let answer = Self::error(StatusCode::METHOD_NOT_ALLOWED, Outcome::MethodNotAllowed, "method_not_allowed");
        answer.with(header::ALLOW, &listed(allow))
    }

    /// `OPTIONS *`.
    pub fn server_options() -> Self {
        let answer = Self::error(StatusCode::NO_CONTENT, Outcome::Preflight, "");
        let answer = answer.with(header::ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        Self { body: Bytes::new(), ..answer }
    }

    /// A CORS preflight on a priced path.
    pub fn preflight(origin: &HeaderValue, methods: &[Method]) -> Self {
        let headers = cors::preflight_headers(origin, &listed(methods));
        let status = StatusCode::NO_CONTENT;
        Self { status, headers, body: Bytes::new(), outcome: Outcome::Preflight, closes: false }
    }

    /// 402 with terms; `page` instead of the JSON body for people.
    pub fn challenge(challenge: Challenge, page: Option<String>) -> Self {
        let mut answer = Self::json(StatusCode::PAYMENT_REQUIRED, Outcome::Challenge, &Value::Null);
        answer.body = Bytes::from(challenge.body);
        if let Some(page) = page {
            answer.headers = super::page::headers();
            answer.body = Bytes::from(page);
        }
        if let Some(terms) = &challenge.vitwit {
            answer = answer.with(HeaderName::from_static(names::X_PAYMENT_REQUIREMENTS), terms);
        }
        answer.with(HeaderName::from_static(names::PAYMENT_REQUIRED), &challenge.header)
    }

    /// 503: payments can't be taken. No terms.
    pub fn unavailable() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::error(status, Outcome::Unavailable, "payments_unavailable").retry_later()
    }

    /// 503: the origin is down, and nothing was settled.
    pub fn origin_down() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::error(status, Outcome::OriginDown, "origin_unavailable").retry_later()
    }

    /// 429: one request too many. No terms: who presents a payment is not to make another one.
    pub fn too_many(too_many: &TooMany, presents_payment: bool) -> Self {
        let secs = too_many.retry_after.as_secs().saturating_add(u64::from(too_many.retry_after.subsec_nanos() > 0));
        let secs = secs.max(1).to_string();
        let mut body = json!({ "error": "rate_limited", "limit": too_many.limit });
        if presents_payment && let Some(body) = body.as_object_mut() {
            body.insert("retry".to_owned(), PRESENT_AGAIN.into());
        }
        Self::json(StatusCode::TOO_MANY_REQUESTS, Outcome::RateLimited, &body).with(header::RETRY_AFTER, &secs)
    }

    /// 503: there are as many as may be. No terms; a payment that was presented is as good later.
    pub fn busy(reason: &str, presents_payment: bool) -> Self {
        let mut body = json!({ "error": reason });
        if presents_payment && let Some(body) = body.as_object_mut() {
            body.insert("retry".to_owned(), PRESENT_AGAIN.into());
        }
        Self::json(StatusCode::SERVICE_UNAVAILABLE, Outcome::Busy, &body).retry_later()
    }

    /// The same answer, told how many free requests are left.
    pub fn with_left(self, left: Option<&Left>) -> Self {
        match left {
            Some(left) => self
                .with(headers::RATE_LIMIT, &headers::rate_limit(left))
                .with(headers::RATE_LIMIT_POLICY, &headers::rate_limit_policy(left)),
            None => self,
        }
    }

    /// 500: a mistake of ours, before any money moved.
    pub fn internal() -> Self {
        Self::error(StatusCode::INTERNAL_SERVER_ERROR, Outcome::InternalError, "internal_error")
    }

    /// What a decision other than [`Decision::Deliver`] says. `terms` renders the 402 for a reason.
    pub fn decision(decision: Decision, terms: impl FnOnce(&str) -> Self) -> Self {
        match decision {
            Decision::Refused { reason, outcome } => {
                let answer = terms(reason.as_str());
                let refused = if answer.outcome == Outcome::Challenge { Outcome::Refused } else { answer.outcome };
                let answer = Self { outcome: refused, ..answer };
                outcome.map_or(answer.clone(), |outcome| answer.with_outcome(&outcome))
            }
            Decision::Contradiction(reason) => {
                Self::error(StatusCode::BAD_REQUEST, Outcome::Contradiction, reason.as_str())
            }
            Decision::InProgress => {
                Self::error(StatusCode::CONFLICT, Outcome::InProgress, "payment_in_progress").retry_later()
            }
            Decision::BoundToOtherRequest => {
                Self::error(StatusCode::CONFLICT, Outcome::Bound, "payment_bound_to_other_request")
            }
            Decision::Pending(outcome) => Self::pending(&outcome),
            Decision::Owed(outcome) => {
                Self::error(StatusCode::CONFLICT, Outcome::Owed, "payment_owed").with_outcome(&outcome)
            }
            Decision::OriginDown => Self::origin_down(),
            Decision::OriginBusy => Self::busy("origin_busy", true),
            Decision::SettlementsBusy => Self::busy("settlements_busy", true),
            Decision::Unavailable => Self::unavailable(),
            // The caller keeps deliveries to itself; one that gets here is dropped, and with it recorded as undelivered.
            Decision::Deliver(_) | Decision::Forward(_) => Self::internal(),
        }
    }

    fn pending(outcome: &SettlementResponse) -> Self {
        let body = json!({
            "error": "settlement_pending",
            "transaction": outcome.transaction,
            "retry": PRESENT_AGAIN,
        });
        let answer = Self::json(StatusCode::SERVICE_UNAVAILABLE, Outcome::Pending, &body);
        answer.retry_later().with_outcome(outcome)
    }

    /// What a request is told that could not be proxied: `paid` says what was paid for it, and whether the payment is good
    /// for another try. Nothing, if its client is gone.
    pub fn failure(error: &Error, paid: Option<(&SettlementResponse, bool)>) -> Option<Self> {
        let (status, reason) = failure(error)?;
        let Some((outcome, is_good_for_another)) = paid else {
            let label = if status.is_client_error() { Outcome::BadRequest } else { Outcome::OriginError };
            return Some(Self::error(status, label, reason));
        };
        let body = json!({
            "error": reason,
            "transaction": outcome.transaction,
            "retry": if is_good_for_another {
                PRESENT_AGAIN
            } else {
                "this was the last try: the payment is owed to you, ask the operator for a refund"
            },
        });
        Some(Self::json(status, Outcome::Undelivered, &body).with_outcome(outcome))
    }
}

fn failure(error: &Error) -> Option<(StatusCode, &'static str)> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, TLSHandshakeTimedout, WriteError,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(status)) => Some((StatusCode::from_u16(*status).ok()?, "gateway_error")),
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout) => {
            Some((StatusCode::GATEWAY_TIMEOUT, "origin_timed_out"))
        }
        (ErrorSource::Upstream, _) => Some((StatusCode::BAD_GATEWAY, "origin_failed")),
        (ErrorSource::Downstream, ConnectionClosed | ReadError | WriteError) => None,
        (ErrorSource::Downstream, ReadTimedout | WriteTimedout) => {
            Some((StatusCode::REQUEST_TIMEOUT, "client_too_slow"))
        }
        (ErrorSource::Downstream, _) => Some((StatusCode::BAD_REQUEST, "bad_request")),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some((StatusCode::INTERNAL_SERVER_ERROR, "internal_error")),
    }
}

fn listed(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// Writes an answer. An unread body is read away within bounds or the connection closed: its bytes never become a request,
/// and a reset never takes the answer away (threat A18).
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(session: &mut Session, answer: Answer, origin: Option<&HeaderValue>) -> pingora::Result<()> {
    let waits_for_continue = session.get_header(header::EXPECT).is_some();
    if answer.closes {
        session.set_keepalive(None);
    } else if !waits_for_continue {
        drain(session, DRAIN_BYTES_MAX).await;
    }
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 6))?;
    for (name, value) in answer.headers {
        head.append_header(name, value)?;
    }
    if let Some(origin) = origin {
        for (name, value) in cors::local_headers(origin) {
            head.append_header(name, value)?;
        }
    }
    if answer.status != StatusCode::NO_CONTENT {
        head.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
    }
    let is_bodiless = session.req_header().method == Method::HEAD || answer.body.is_empty();
    let downstream = session.as_mut();
    downstream.write_response_header(Box::new(head)).await?;
    downstream.write_response_body(if is_bodiless { Bytes::new() } else { answer.body }, true).await?;
    if !waits_for_continue {
        drain(session, LINGER_BYTES_MAX).await;
    }
    Ok(())
}

/// Reads the rest of the request's body away, up to a size and a time.
async fn drain(session: &mut Session, bytes_max: usize) {
    let downstream = session.as_mut();
    let reading = async {
        let mut bytes_read = 0;
        while !downstream.is_body_done() && bytes_read < bytes_max {
            match downstream.read_request_body().await {
                Ok(Some(bytes)) => bytes_read += bytes.len(),
                Ok(None) | Err(_) => break,
            }
        }
    };
    let _out_of_time = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Reason;

    fn outcome(success: bool) -> Box<SettlementResponse> {
        Box::new(SettlementResponse {
            success,
            error_reason: (!success).then_some("settlement_pending"),
            payer: None,
            transaction: "0xabc".into(),
            network: "eip155:1".into(),
            amount: None,
            vitwit: None,
        })
    }

    fn terms(reason: &str) -> Answer {
        Answer::challenge(
            Challenge { header: "dGVybXM=".into(), body: json!({ "error": reason }).to_string(), vitwit: None },
            None,
        )
    }

    fn has(answer: &Answer, name: &'static str) -> bool {
        answer.headers.iter().any(|(header, _)| header.as_str() == name)
    }

    fn error_of(answer: &Answer) -> String {
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }

    /// Status, error, terms, PAYMENT-RESPONSE, Retry-After: one line for each row of contract §3.
    #[test]
    fn every_decision_is_answered_as_the_contract_says() {
        let rows: Vec<(Decision, u16, &str, bool, bool, bool)> = vec![
            (
                Decision::Refused { reason: Reason::InvalidPayload, outcome: None },
                402,
                "invalid_payload",
                true,
                false,
                false,
            ),
            (
                Decision::Refused { reason: Reason::EvmTransactionFailed, outcome: Some(outcome(false)) },
                402,
                "invalid_exact_evm_transaction_failed",
                true,
                true,
                false,
            ),
            (
                Decision::Contradiction(Reason::ContradictoryPayments),
                400,
                "contradictory_payment_headers",
                false,
                false,
                false,
            ),
            (Decision::InProgress, 409, "payment_in_progress", false, false, true),
            (Decision::BoundToOtherRequest, 409, "payment_bound_to_other_request", false, false, false),
            (Decision::Pending(outcome(false)), 503, "settlement_pending", false, true, true),
            (Decision::Owed(outcome(true)), 409, "payment_owed", false, true, false),
            (Decision::Unavailable, 503, "payments_unavailable", false, false, true),
            (Decision::OriginDown, 503, "origin_unavailable", false, false, true),
            (Decision::OriginBusy, 503, "origin_busy", false, false, true),
            (Decision::SettlementsBusy, 503, "settlements_busy", false, false, true),
        ];
        for (decision, status, error, has_terms, has_outcome, has_retry) in rows {
            let answer = Answer::decision(decision, terms);
            assert_eq!(answer.status.as_u16(), status, "{error}");
            assert_eq!(error_of(&answer), error);
            assert_eq!(has(&answer, "payment-required"), has_terms, "{error}");
            assert_eq!(has(&answer, "payment-response"), has_outcome, "{error}");
            assert_eq!(has(&answer, "x-payment-response"), has_outcome, "{error}");
            assert_eq!(has(&answer, "retry-after"), has_retry, "{error}");
            assert!(has(&answer, "cache-control"), "{error}");
        }
    }

    #[test]
    fn a_refusal_without_open_networks_asks_for_no_second_payment() {
        let refused = Decision::Refused { reason: Reason::InvalidPayload, outcome: Some(outcome(false)) };
        let answer = Answer::decision(refused, |_reason| Answer::unavailable());
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!has(&answer, "payment-required") && has(&answer, "payment-response"));
        assert_eq!(answer.outcome, Outcome::Unavailable);
    }

    #[test]
    fn an_origin_that_fails_after_payment_leaves_the_payer_a_proof_and_a_way_back() {
        let refused = Error::new_up(ErrorType::ConnectRefused);
        let timeout = Error::new_up(ErrorType::ReadTimedout);
        for (error, status) in [(&refused, 502), (&timeout, 504)] {
            let owed = Answer::failure(error, Some((&outcome(true), false))).unwrap();
            assert!(String::from_utf8_lossy(&owed.body).contains("refund"));
            let answer = Answer::failure(error, Some((&outcome(true), true))).unwrap();
            assert_eq!(answer.status.as_u16(), status);
            assert!(has(&answer, "payment-response") && !has(&answer, "payment-required"));
            assert!(String::from_utf8_lossy(&answer.body).contains("present the same payment again"));
            let free = Answer::failure(error, None).unwrap();
            assert!(!has(&free, "payment-response"));
        }
        assert!(Answer::failure(&Error::new_down(ErrorType::ConnectionClosed), None).is_none());
    }
}
