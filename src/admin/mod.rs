//! The operator's listener: health, readiness, metrics and the books, read-only. It never shares a port with clients (threat
//! G1), takes only names of this machine as host when it is bound to loopback, and asks for the token otherwise.

mod books;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use serde_json::json;

use crate::config::AdminConfig;
use crate::ledger::Ledger;
use crate::payment::scheme::{Availability, Scheme};
use crate::service::{Access, Answer};
use crate::telemetry::Metrics;

/// How long a ledger may take to prove that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long such a proof is believed: each is a durable write.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);

/// All that the operator's listener shows.
pub struct AdminParts {
    /// Where and with which token.
    pub config: AdminConfig,
    /// The networks of business; empty when nothing is priced.
    pub schemes: Vec<Arc<dyn Scheme>>,
    /// Whether any route is priced.
    pub has_priced_routes: bool,
    /// The books.
    pub ledger: Arc<dyn Ledger>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// The operator's listener.
pub struct Admin {
    access: Access,
    schemes: Vec<Arc<dyn Scheme>>,
    has_priced_routes: bool,
    ledger: Arc<dyn Ledger>,
    metrics: Arc<Metrics>,
    is_serving: AtomicBool,
    probed: Mutex<Option<(Instant, bool)>>,
}

impl Admin {
    /// A listener that isn't ready until [`Self::set_serving`] says so.
    #[must_use]
    pub fn new(parts: AdminParts) -> Self {
        Self {
            access: Access::new(parts.config.listen, parts.config.token),
            schemes: parts.schemes,
            has_priced_routes: parts.has_priced_routes,
            ledger: parts.ledger,
            metrics: parts.metrics,
            is_serving: AtomicBool::new(false),
            probed: Mutex::new(None),
        }
    }

    /// Whether the proxy accepts requests: false before it does and while it drains.
    pub fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Ordering::Release);
    }

    async fn answer(&self, head: &RequestHeader) -> Answer {
        if !self.access.is_meant(&head.headers) {
            return Answer::error(StatusCode::FORBIDDEN, "unknown_host");
        }
        let path = std::str::from_utf8(head.raw_path()).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") && !self.access.is_allowed(&head.headers) {
            return Answer::error(StatusCode::UNAUTHORIZED, "token_required");
        }
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        match path {
            "/healthz" | "/readyz" | "/metrics" | "/payments" if !is_read => Answer::method_not_allowed("GET, HEAD"),
            "/healthz" => self.health().await,
            "/readyz" => self.readiness().await,
            "/metrics" => self.metrics(),
            "/payments" => books::payments(self.ledger.as_ref(), query).await,
            _ => Answer::error(StatusCode::NOT_FOUND, "not_found"),
        }
    }

    async fn health(&self) -> Answer {
        let (is_serving, has_ledger) = (self.is_serving.load(Ordering::Acquire), self.probe().await);
        let is_healthy = is_serving && has_ledger;
        let body = json!({ "status": status_word(is_healthy), "serving": is_serving, "ledger": has_ledger });
        Answer::json(status_code(is_healthy), &body)
    }

    async fn readiness(&self) -> Answer {
        let mut networks = serde_json::Map::new();
        let mut has_open_network = false;
        for scheme in &self.schemes {
            let state = match scheme.availability() {
                Availability::Ready => {
                    has_open_network = true;
                    json!({ "ready": true })
                }
                Availability::Unavailable(detail) => json!({ "ready": false, "detail": detail }),
            };
            networks.insert(scheme.network().as_str().to_owned(), state);
        }
        let is_serving = self.is_serving.load(Ordering::Acquire);
        let is_ready = is_serving && (has_open_network || !self.has_priced_routes) && self.probe().await;
        Answer::json(status_code(is_ready), &json!({ "status": status_word(is_ready), "networks": networks }))
    }

    fn metrics(&self) -> Answer {
        for scheme in &self.schemes {
            self.metrics.network_up(scheme.network().as_str(), scheme.availability() == Availability::Ready);
        }
        match self.metrics.render() {
            Ok(body) => Answer::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
            Err(error) => {
                tracing::error!(%error, "Could not render the metrics.");
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
            }
        }
    }

    async fn probe(&self) -> bool {
        let known = *self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, is_there)) = known
            && at.elapsed() < PROBE_AGE_MAX
        {
            return is_there;
        }
        let is_there = match tokio::time::timeout(PROBE_TIMEOUT, self.ledger.probe()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "The ledger takes no writes.");
                false
            }
            Err(_elapsed) => {
                tracing::error!("The ledger does not answer.");
                false
            }
        };
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), is_there));
        is_there
    }
}

fn status_word(is_good: bool) -> &'static str {
    if is_good { "ok" } else { "unavailable" }
}

fn status_code(is_good: bool) -> StatusCode {
    if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        // A body is never asked for; the connection ends rather than read one.
        if !session.is_body_empty() {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let is_head = head.method == Method::HEAD;
        self.answer(head).await.into_http(is_head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::proxy::testing::{TestGate, config, upstream};

    async fn admin(listen: &str, token: Option<&str>) -> (Admin, TestGate) {
        let gate = TestGate::open(Duration::from_millis(300)).await;
        let mut parts = gate.admin_parts(&config(upstream(&["127.0.0.1:1"]), Vec::new()));
        parts.config.listen = listen.parse().unwrap();
        parts.config.token = token.map(|token| Secret::new(token.to_owned()));
        (Admin::new(parts), gate)
    }

    async fn ask(admin: &Admin, method: &str, path: &str, fields: &[(&'static str, &str)]) -> u16 {
        let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        admin.answer(&head).await.status.as_u16()
    }

    #[tokio::test]
    async fn beyond_loopback_the_books_need_the_token_and_health_does_not() {
        let (admin, _gate) = admin("0.0.0.0:8403", Some("right")).await;
        admin.set_serving(true);
        for (given, expected) in [
            ("Bearer right", 200),
            ("bearer right", 200),
            ("Bearer wrong", 401),
            ("Bearer right ", 401),
            ("Bearer ", 401),
            ("right", 401),
            ("", 401),
        ] {
            assert_eq!(ask(&admin, "GET", "/payments", &[("Authorization", given)]).await, expected, "{given}");
        }
        assert_eq!(ask(&admin, "GET", "/payments", &[]).await, 401);
        assert_eq!(ask(&admin, "GET", "/unknown", &[]).await, 401, "nor is told what there is");
        assert_eq!(ask(&admin, "GET", "/healthz", &[]).await, 200);
        assert_eq!(ask(&admin, "GET", "/metrics", &[]).await, 200);
    }

    #[tokio::test]
    async fn without_a_token_nobody_gets_in_from_elsewhere() {
        let (admin, _gate) = admin("0.0.0.0:8403", None).await;
        assert_eq!(ask(&admin, "GET", "/payments", &[("Authorization", "Bearer ")]).await, 401);
    }

    #[tokio::test]
    async fn health_says_no_until_the_gateway_serves_and_readiness_until_a_network_is_open() {
        let (admin, gate) = admin("127.0.0.1:8403", None).await;
        let host = [("Host", "127.0.0.1:8403")];
        assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 503);
        admin.set_serving(true);
        assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 200);
        assert_eq!(ask(&admin, "HEAD", "/readyz", &host).await, 200);
        gate.chain.is_open.store(false, Ordering::SeqCst);
        assert_eq!(ask(&admin, "GET", "/readyz", &host).await, 503);
        assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 200);
    }

    #[tokio::test]
    async fn nothing_is_changed_through_this_listener() {
        let (admin, _gate) = admin("127.0.0.1:8403", None).await;
        for path in ["/healthz", "/readyz", "/metrics", "/payments"] {
            assert_eq!(ask(&admin, "POST", path, &[("Host", "localhost")]).await, 405);
        }
        assert_eq!(ask(&admin, "GET", "/payments", &[("Host", "localhost"), ("Host", "localhost")]).await, 403);
        assert_eq!(ask(&admin, "GET", "/payments", &[]).await, 403);
    }
}
