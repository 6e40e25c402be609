//! The facilitator API: resource servers have payments verified and settled here (contract §3, protocol §2.3).
//!
//! HTTP and shapes only; what a payment gets is [`Clearing`]'s to say. Callers are the operator's own servers: they come over
//! loopback or with the token.

mod shapes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::config::FacilitatorConfig;
use crate::payment::{Clearing, Verdict};
use crate::protocol::{FacilitatorRequest, Reason};
use crate::proxy::connection::{self, Stage};
use crate::service::{Access, Answer};
use crate::telemetry::Metrics;
use crate::types::Clock;

/// Longest body; a payment with its terms has a few kilobytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a caller may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most requests at work at once; a settlement may take as long as its network's `settle_timeout`.
const REQUESTS_MAX: usize = 256;

/// What a caller is asked to wait when there are more.
const RETRY_AFTER_SECS: u32 = 1;

/// All that the facilitator API is made of.
pub struct FacilitatorParts {
    /// Where and with which token.
    pub config: FacilitatorConfig,
    /// Who verifies and settles.
    pub clearing: Arc<Clearing>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Counts requests and refusals.
    pub metrics: Arc<Metrics>,
}

/// The facilitator API.
pub struct Facilitator {
    access: Access,
    clearing: Arc<Clearing>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    seats: Semaphore,
}

/// What there is to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Supported,
    Verify(Shape),
    Settle(Shape),
}

/// Whose shape an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Official,
    Vitwit,
}

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/supported" => Self::Supported,
            "/verify" => Self::Verify(Shape::Official),
            "/settle" => Self::Settle(Shape::Official),
            "/api/v1/verify" => Self::Verify(Shape::Vitwit),
            "/api/v1/settle" => Self::Settle(Shape::Vitwit),
            _ => return None,
        })
    }

    /// The `route` label in metrics and log; a row of the books has none of these.
    fn label(self) -> &'static str {
        match self {
            Self::Supported => "facilitator /supported",
            Self::Verify(_) => "facilitator /verify",
            Self::Settle(_) => "facilitator /settle",
        }
    }
}

/// An answer, and its word in metrics and log.
type Told = (Answer, &'static str);

impl Facilitator {
    /// An API that answers at once.
    #[must_use]
    pub fn new(parts: FacilitatorParts) -> Self {
        Self {
            access: Access::new(parts.config.listen, parts.config.token),
            clearing: parts.clearing,
            clock: parts.clock,
            metrics: parts.metrics,
            seats: Semaphore::new(REQUESTS_MAX),
        }
    }

    fn supported(&self) -> Value {
        let networks = self.clearing.networks();
        let networks: Vec<_> = networks.iter().map(|(network, terms)| (network, terms)).collect();
        shapes::supported(&networks, &self.clearing.signers())
    }

    /// Everything that can be refused before a body is read.
    fn admit(&self, method: &Method, path: &str, fields: &HeaderMap) -> Result<Endpoint, Answer> {
        if !self.access.is_meant(fields) {
            return Err(Answer::error(StatusCode::FORBIDDEN, "unknown_host"));
        }
        if !self.access.is_allowed(fields) {
            return Err(Answer::error(StatusCode::UNAUTHORIZED, "token_required"));
        }
        let endpoint = Endpoint::of(path).ok_or_else(|| Answer::error(StatusCode::NOT_FOUND, "not_found"))?;
        match (endpoint, method) {
            (Endpoint::Supported, &(Method::GET | Method::HEAD)) => Ok(endpoint),
            (Endpoint::Supported, _) => Err(Answer::method_not_allowed("GET, HEAD")),
            // A browser asks before it sends this type to another origin, and is never told yes.
            (_, &Method::POST) if is_json(fields) => Ok(endpoint),
            (_, &Method::POST) => Err(Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected_application_json")),
            _ => Err(Answer::method_not_allowed("POST")),
        }
    }

    async fn answer(&self, session: &mut ServerSession) -> (Answer, &'static str, &'static str) {
        let head = session.req_header();
        let path = std::str::from_utf8(head.raw_path()).unwrap_or_default();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let endpoint = match self.admit(&head.method, path, &head.headers) {
            Ok(Endpoint::Supported) => {
                let answer = Answer::json(StatusCode::OK, &self.supported());
                return (answer, Endpoint::Supported.label(), "ok");
            }
            Ok(endpoint) => endpoint,
            Err(answer) => return (answer, "facilitator", "refused"),
        };
        let Ok(_seat) = self.seats.try_acquire() else {
            let busy = Answer::error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
            return (Answer { retry_after: Some(RETRY_AFTER_SECS), ..busy }, endpoint.label(), "too_many_requests");
        };
        let (answer, outcome) = match read_body(session).await {
            // Boxed, so that a connection doesn't carry its state around.
            Ok(body) => Box::pin(self.serve(endpoint, &body)).await,
            Err(answer) => (answer, "bad_request"),
        };
        (answer, endpoint.label(), outcome)
    }

    async fn serve(&self, endpoint: Endpoint, body: &[u8]) -> Told {
        let request = match FacilitatorRequest::read(body) {
            Ok(request) => request,
            Err(error) => {
                let reason = error.reason();
                self.metrics.refusal(reason.as_str());
                let body = shapes::malformed(endpoint, reason, &error.to_string());
                return (Answer::json(StatusCode::BAD_REQUEST, &body), reason.as_str());
            }
        };
        match endpoint {
            Endpoint::Supported => (Answer::json(StatusCode::OK, &self.supported()), "ok"),
            Endpoint::Verify(shape) => self.verify(&request, shape).await,
            Endpoint::Settle(shape) => self.settle(&request, shape).await,
        }
    }

    async fn verify(&self, request: &FacilitatorRequest, shape: Shape) -> Told {
        let verdict = self.clearing.verify(request).await;
        let (status, outcome) = match &verdict {
            Verdict::Valid { .. } => (StatusCode::OK, "valid"),
            Verdict::Invalid { reason, .. } => {
                self.metrics.refusal(reason.as_str());
                (StatusCode::OK, reason.as_str())
            }
            Verdict::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Reason::UnexpectedVerifyError.as_str()),
        };
        let body = match shape {
            Shape::Official => shapes::verdict(&verdict),
            Shape::Vitwit => shapes::vitwit_verdict(&verdict, request, self.clock.now()),
        };
        (Answer::json(status, &body), outcome)
    }

    async fn settle(&self, request: &FacilitatorRequest, shape: Shape) -> Told {
        let settled = self.clearing.settle(request).await;
        let outcome = settled.response.error_reason.unwrap_or("settled");
        if !settled.response.success && !settled.is_unavailable {
            self.metrics.refusal(outcome);
        }
        let status = if settled.is_unavailable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let body = match shape {
            Shape::Official => shapes::settled(&settled),
            Shape::Vitwit => shapes::vitwit_settled(&settled, request, self.clock.now()),
        };
        (Answer::json(status, &body), outcome)
    }
}

fn is_json(fields: &HeaderMap) -> bool {
    let text = fields.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The whole body, or what is wrong with it.
async fn read_body(session: &mut ServerSession) -> Result<Vec<u8>, Answer> {
    let too_long = || Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long");
    let declared = session.get_header(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|length| length.trim().parse::<usize>().ok());
    if declared.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_long());
    }
    let reading = async {
        if session.get_header(header::EXPECT).is_some() && session.write_continue_response().await.is_err() {
            return Err(Answer::error(StatusCode::BAD_REQUEST, "body_unreadable"));
        }
        let mut body = Vec::new();
        loop {
            match session.read_request_body().await {
                Ok(Some(piece)) if body.len() + piece.len() > BODY_BYTES_MAX => return Err(too_long()),
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return Ok(body),
                Err(_broken) => return Err(Answer::error(StatusCode::BAD_REQUEST, "body_unreadable")),
            }
        }
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    read.unwrap_or_else(|_elapsed| Err(Answer::error(StatusCode::REQUEST_TIMEOUT, "body_timed_out")))
}

#[async_trait]
impl ServeHttp for Facilitator {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if let Some(connection) = connection::of_digest(session.digest()) {
            // The body has a deadline of its own.
            connection.enter(Stage::Open);
        }
        let started = Instant::now();
        let (answer, route, outcome) = self.answer(session).await;
        self.metrics.request(route, outcome);
        tracing::info!(
            method = %session.req_header().method,
            route,
            status = answer.status.as_u16(),
            outcome,
            micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            "Request."
        );
        if !session.is_body_done() {
            // What was not read must not become the next request.
            session.set_keepalive(None);
        }
        let is_head = session.req_header().method == Method::HEAD;
        answer.into_http(is_head)
    }
}

#[cfg(test)]
mod tests;
