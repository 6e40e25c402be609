//! The operator's listener: health, readiness, metrics, the dashboard and what it shows as JSON. It never shares a port with
//! clients (threat G1), takes only names of this machine as host when it is bound to loopback, asks for the token otherwise,
//! and changes nothing but by `POST`. Knows no chain and no payment scheme; secrets never come here.

mod books;
mod endpoint;
mod health;
mod page;
mod problem;
mod shop;
mod stats;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use serde_json::json;

use self::endpoint::Endpoint;
use self::problem::{method_not_allowed, problem, problem_with_reasons};
pub use self::shop::{ChainStatus, InForce, WatchedChain, WatchedSigner};
use self::stats::LastStats;
use crate::config::AdminConfig;
use crate::ledger::Ledger;
use crate::service::{Access, Answer};
use crate::telemetry::Metrics;
use crate::types::Clock;

/// Longest request body that is read, only to be thrown away: nothing here takes one.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The document that describes this interface; a test holds the answers to it.
const OPENAPI: &str = include_str!("openapi.json");

/// What an answer that isn't the page may load: nothing.
const CSP_DATA: &str = "default-src 'none'; frame-ancestors 'none'";

/// All that the operator's listener shows.
pub struct AdminParts {
    /// Where and with which token.
    pub config: AdminConfig,
    /// The configuration in force, and its networks.
    pub in_force: Arc<InForce>,
    /// Whether any route is priced, now.
    pub has_priced_routes: Arc<AtomicBool>,
    /// Who reads the configuration again.
    pub reloader: Option<Arc<dyn Reload>>,
    /// The books.
    pub ledger: Arc<dyn Ledger>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Today's date is of it.
    pub clock: Arc<dyn Clock>,
}

/// Reads the configuration again.
#[async_trait]
pub trait Reload: Send + Sync {
    /// Takes it up, or keeps the old one.
    ///
    /// # Errors
    /// Why the old one was kept, a line each.
    async fn reload(&self) -> Result<(), Vec<String>>;
}

/// The operator's listener.
pub struct Admin {
    access: Access,
    in_force: Arc<InForce>,
    has_priced_routes: Arc<AtomicBool>,
    reloader: Option<Arc<dyn Reload>>,
    ledger: Arc<dyn Ledger>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    is_serving: AtomicBool,
    /// Held while the ledger is asked, so that those who ask at the same time share one answer.
    probed: tokio::sync::Mutex<Option<(Instant, bool)>>,
    last_stats: LastStats,
}

impl Admin {
    /// A listener that isn't ready until [`Self::set_serving`] says so.
    #[must_use]
    pub fn new(parts: AdminParts) -> Self {
        Self {
            access: Access::new(parts.config.listen, parts.config.token),
            in_force: parts.in_force,
            has_priced_routes: parts.has_priced_routes,
            reloader: parts.reloader,
            ledger: parts.ledger,
            metrics: parts.metrics,
            clock: parts.clock,
            is_serving: AtomicBool::new(false),
            probed: tokio::sync::Mutex::new(None),
            last_stats: LastStats::default(),
        }
    }

    /// Whether the proxy accepts requests: false before it does and while it drains.
    pub fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Ordering::Release);
    }

    /// Who may do what. A door that stays shut says so in the log, with who knocked.
    fn admit<'path>(
        &self,
        method: &Method,
        path: &'path str,
        fields: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Result<Endpoint<'path>, Answer> {
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        if !self.access.is_meant(fields) {
            tracing::warn!(peer, %method, "Admin: refused, the request was meant for another host.");
            return Err(problem(StatusCode::FORBIDDEN, "unknown_host", "ask for this machine by its own name"));
        }
        let endpoint = Endpoint::of(path);
        if !endpoint.is_some_and(Endpoint::is_open) && !self.access.is_allowed(fields) {
            tracing::warn!(peer, %method, "Admin: refused, without the token.");
            let detail = "send the token of [admin] as Authorization: Bearer";
            return Err(problem(StatusCode::UNAUTHORIZED, "token_required", detail));
        }
        let endpoint = endpoint.ok_or_else(|| problem(StatusCode::NOT_FOUND, "not_found", "there is no such path"))?;
        if !endpoint.allows(method) {
            return Err(method_not_allowed(endpoint.allow()));
        }
        // A page of somebody else's that an operator looks at has no business here, and no page changes anything.
        let is_changed_by_page =
            endpoint.is_change() && (fields.contains_key(header::ORIGIN) || fields.contains_key("sec-fetch-site"));
        if is_changed_by_page || (!endpoint.is_open() && is_from_elsewhere(fields)) {
            tracing::warn!(peer, %method, path, "Admin: refused, a page of another site asked.");
            return Err(problem(StatusCode::FORBIDDEN, "not_for_pages", "a web page may not ask for this"));
        }
        Ok(endpoint)
    }

    async fn answer(&self, head: &RequestHeader, peer: Option<SocketAddr>) -> Answer {
        let target = std::str::from_utf8(head.raw_path()).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let endpoint = match self.admit(&head.method, path, &head.headers, peer) {
            Ok(endpoint) => endpoint,
            Err(answer) => return answer,
        };
        match endpoint {
            Endpoint::Page => page::page(),
            Endpoint::OpenApi => Answer::new(StatusCode::OK, "application/json", OPENAPI.into()),
            Endpoint::Health => self.health().await,
            Endpoint::Readiness => self.readiness().await,
            Endpoint::Metrics => self.metrics(),
            Endpoint::Payments => books::payments(self.ledger.as_ref(), query).await,
            Endpoint::Payment(id) => books::one(self.ledger.as_ref(), id).await,
            Endpoint::Routes => shop::routes(&self.in_force.get()),
            Endpoint::Networks => shop::networks(&self.in_force.get(), &self.in_force.chains()),
            Endpoint::Signers => shop::signers(&self.in_force.chains()),
            Endpoint::Stats => {
                let (config, now) = (self.in_force.get(), self.clock.now());
                self.last_stats.answer(self.ledger.as_ref(), &config, now, query).await
            }
            Endpoint::Latency => stats::latency(&self.metrics),
            Endpoint::Reload => self.reload(peer).await,
        }
    }

    /// 200, or 409 with the reasons why the old configuration stays.
    async fn reload(&self, peer: Option<SocketAddr>) -> Answer {
        let Some(reloader) = &self.reloader else {
            return problem(StatusCode::NOT_FOUND, "not_found", "there is nothing to read again");
        };
        let outcome = reloader.reload().await;
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::info!(peer, is_done = outcome.is_ok(), "Admin: asked to read the configuration again.");
        match outcome {
            Ok(()) => Answer::json(StatusCode::OK, &json!({ "reloaded": true })),
            Err(reasons) => {
                let detail = "the old configuration stays in force";
                problem_with_reasons(StatusCode::CONFLICT, "reload_refused", detail, &reasons)
            }
        }
    }
}

/// Whether a browser says that another site's page asks.
fn is_from_elsewhere(fields: &HeaderMap) -> bool {
    let told = fields.get_all("sec-fetch-site").iter();
    told.into_iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Reads a body to its end, so that the answer isn't lost with what stays unread.
async fn read_away(session: &mut ServerSession) -> Result<(), Answer> {
    let too_long = || problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", "nothing here takes a body");
    let reading = async {
        let mut read_bytes = 0_usize;
        while let Ok(Some(piece)) = session.read_request_body().await {
            read_bytes = read_bytes.saturating_add(piece.len());
            if read_bytes > BODY_BYTES_MAX {
                return Err(too_long());
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    read.unwrap_or_else(|_elapsed| Err(problem(StatusCode::REQUEST_TIMEOUT, "body_timed_out", "the body did not come")))
}

/// What keeps browsers from doing more with an answer than show it.
fn guard(fields: &mut HeaderMap, is_page: bool) {
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    let policy = if is_page { page::policy() } else { HeaderValue::from_static(CSP_DATA) };
    fields.insert(header::CONTENT_SECURITY_POLICY, policy);
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let peer = session.client_addr().and_then(|peer| peer.as_inet()).copied();
        let mut refusal = None;
        if !session.is_body_empty() {
            // What was not read must not become the next request.
            session.set_keepalive(None);
            if session.get_header(header::EXPECT).is_none() {
                refusal = read_away(session).await.err();
            }
        }
        let head = session.req_header();
        let answer = match refusal {
            Some(refusal) => refusal,
            None => self.answer(head, peer).await,
        };
        let is_page = answer.content_type == page::MEDIA_TYPE;
        let mut response = answer.into_http(head.method == Method::HEAD);
        guard(response.headers_mut(), is_page);
        response
    }
}
