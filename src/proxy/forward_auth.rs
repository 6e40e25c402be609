//! The forward-auth listener: a front (nginx, Traefik, Caddy, Envoy) asks whether a request of its client may pass, and is
//! answered by the same rules, gate and books as a client of the proxy.
//!
//! The origin's answer is unseen: a payment counts as served once the front was told that it is good. Nothing but what a
//! trusted front says in its own dialect is believed of the request; nothing is ever forwarded from here.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use subtle::ConstantTimeEq as _;

use super::admission::Stop;
use super::client::Trusted;
use super::context::{Context, Outcome};
use super::intake::{self, Malformed};
use super::limits::Pass;
use super::phases::WRITE_TIMEOUT;
use super::respond::{self, Answer};
use super::{Proxy, headers};
use crate::config::{ForwardAuthConfig, FrontDialect, RouteAction, Secret};
use crate::payment::Receipt;
use crate::protocol::{encode_json, names};
use crate::route::canonicalize;

/// The header in which a front shows its token. `Authorization` is the client's.
const TOKEN: &str = "x-tollhouse-token";

/// The status that the client is to get, where the front takes none but 401.
const STATUS: HeaderName = HeaderName::from_static("x-tollhouse-status");

/// The body that the client is to get, where the front drops those of refusals.
const BODY: HeaderName = HeaderName::from_static("x-tollhouse-body");

/// What is to be added to the answer's `Cache-Control`; only there when the answer was paid for (threat A16).
const CACHE_CONTROL: HeaderName = HeaderName::from_static("x-tollhouse-cache-control");

/// What the origin is told of a payment. Every 200 sets all of them, so that none of a client's own is left.
const SALE: [HeaderName; 5] = [
    HeaderName::from_static("x-payment-payer"),
    HeaderName::from_static("x-payment-network"),
    HeaderName::from_static("x-payment-transaction"),
    HeaderName::from_static("x-payment-amount"),
    HeaderName::from_static("x-payment-asset"),
];

/// Answers fronts.
pub struct ForwardAuth {
    proxy: Proxy,
    dialect: FrontDialect,
    fronts: Trusted,
    token: Option<Secret>,
}

impl ForwardAuth {
    /// Does business as `proxy` does, with the same limits, for whom the configuration names as fronts.
    #[must_use]
    pub fn new(proxy: &Proxy, config: ForwardAuthConfig) -> Self {
        let mut trusted = proxy.trusted.clone();
        trusted.0.extend(config.fronts.iter().copied());
        let proxy = proxy.trusting(trusted);
        Self { proxy, dialect: config.dialect, fronts: Trusted(config.fronts), token: config.token }
    }

    /// Whether the request that the front asks about may pass.
    async fn check(&self, session: &mut Session, context: &mut Context) -> Result<(), Stop> {
        let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes()).ok_or(Malformed::Framing)?;
        intake::check(&raw, session.req_header())?;
        if !self.fronts.is_from_proxy(session) || !self.shows_token(session.req_header()) {
            tracing::warn!("Somebody asks the forward-auth listener who is no trusted front, or has not its token.");
            return Err(Answer::unknown_front().into());
        }
        become_asked(session.req_header_mut(), self.dialect)?;
        if intake::asks_for_websocket(session.req_header()) {
            // Nobody would see it end.
            return Err(Malformed::Upgrade.into());
        }
        self.proxy.admit_checked(session, context).await
    }

    fn shows_token(&self, head: &RequestHeader) -> bool {
        let Some(token) = &self.token else { return true };
        let mut given = head.headers.get_all(TOKEN).iter();
        match (given.next(), given.next()) {
            (Some(given), None) => bool::from(given.as_bytes().ct_eq(token.expose().as_bytes())),
            _ => false,
        }
    }

    /// The answer that a front takes for a refusal, whatever its status is for the client.
    fn refusal(&self, mut answer: Answer) -> Answer {
        match self.dialect {
            // Anything but 2xx, 401 and 403 is 500 to nginx, and the body is dropped.
            FrontDialect::Nginx => {
                if answer.status == StatusCode::FORBIDDEN {
                    return answer;
                }
                answer.headers.push((STATUS, HeaderValue::from(answer.status.as_u16())));
                answer.headers.extend(HeaderValue::from_bytes(&answer.body).map(|body| (BODY, body)));
                answer.status = StatusCode::UNAUTHORIZED;
            }
            // A success of ours, such as a preflight's, would let the request pass to the origin.
            FrontDialect::Traefik | FrontDialect::Caddy | FrontDialect::Envoy => {
                if answer.status.is_success() || answer.status.is_informational() {
                    answer.status = StatusCode::FORBIDDEN;
                }
            }
        }
        answer
    }
}

/// The answer that lets a request pass. The last line of defence for promise 1: a priced route without a receipt doesn't.
fn grant(context: &Context) -> Answer {
    let is_free = context.route.as_ref().is_some_and(|route| matches!(route.config().action, RouteAction::Free));
    if context.held.is_some() || (!is_free && context.receipt.is_none() && context.pass.is_none()) {
        return Answer::internal();
    }
    if context.receipt.as_deref().is_some_and(|receipt| !receipt.may_forward()) {
        // Paused for so long that another gateway may be serving it: the payment stays good for its request.
        return Answer::unavailable();
    }
    let mut headers = vec![(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let mut add = |name: HeaderName, value: &str| {
        // Of encoders and the books; what isn't a header value stays empty.
        headers.push((name, HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))));
    };
    let receipt = context.receipt.as_deref();
    let sale = receipt.map(|receipt| {
        let claim = &receipt.record().claim;
        let amount = claim.amount.to_string();
        [
            claim.payer.to_string(),
            claim.network.to_string(),
            receipt.transaction().to_owned(),
            amount,
            claim.asset.to_string(),
        ]
    });
    for (name, value) in SALE.into_iter().zip(sale.unwrap_or_default()) {
        add(name, &value);
    }
    if let Some(outcome) = receipt.map(Receipt::response).map(|response| encode_json(&response)) {
        add(HeaderName::from_static(names::PAYMENT_RESPONSE), &outcome);
        add(HeaderName::from_static(names::X_PAYMENT_RESPONSE), &outcome);
    }
    if receipt.is_some() || context.pass.is_some() {
        add(CACHE_CONTROL, "private");
    }
    if let Some(left) = context.pass.as_ref().and_then(Pass::left) {
        add(headers::RATE_LIMIT, &headers::rate_limit(&left));
        add(headers::RATE_LIMIT_POLICY, &headers::rate_limit_policy(&left));
    }
    Answer { status: StatusCode::OK, headers, body: Bytes::new(), outcome: context.outcome, closes: false }
}

/// Makes the head of the front's question that of the request it asks about.
///
/// # Errors
/// When the front does not say all of it exactly once, or when the target is not in its one spelling: the front sends on
/// what its client wrote, so that what was matched would not be what is forwarded.
fn become_asked(head: &mut RequestHeader, dialect: FrontDialect) -> Result<(), Malformed> {
    head.remove_header(TOKEN);
    // No body comes here that a client would have to be told to send.
    head.remove_header(&header::EXPECT);
    let said = match dialect {
        FrontDialect::Nginx => Some(["x-original-method", "x-original-uri", "x-original-host"]),
        FrontDialect::Traefik | FrontDialect::Caddy => {
            Some(["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"])
        }
        FrontDialect::Envoy => None,
    };
    if dialect == FrontDialect::Nginx {
        // nginx gives its client a body of ours in one type only: no page for browsers.
        head.remove_header(&header::ACCEPT);
    }
    if let Some([method, target, host]) = said {
        let method = Method::from_bytes(only(head, method)?.as_bytes()).map_err(|_error| Malformed::Field)?;
        let (target, host) = (only(head, target)?, only(head, host)?);
        check_spelling(target.as_bytes())?;
        head.set_method(method);
        head.set_raw_path(target.as_bytes()).map_err(|_error| Malformed::TargetForm)?;
        head.insert_header(header::HOST, host).map_err(|_error| Malformed::Host)?;
    }
    check_spelling(head.raw_path())?;
    intake::check_host(head)
}

fn check_spelling(target: &[u8]) -> Result<(), Malformed> {
    if canonicalize(target)?.path_and_query().as_bytes() == target { Ok(()) } else { Err(Malformed::Path) }
}

fn only(head: &RequestHeader, name: &'static str) -> Result<HeaderValue, Malformed> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.clone()),
        _ => {
            tracing::warn!(header = name, "The front does not say what it asks about: see docs/forward-auth.md.");
            Err(Malformed::Field)
        }
    }
}

#[async_trait]
impl ProxyHttp for ForwardAuth {
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Context::new())
    }

    /// No modules.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> Result<()> {
        self.proxy.early_request_filter(session, context).await
    }

    /// Runs once a request, and answers every one.
    async fn request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> Result<bool> {
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        let questions = session.req_header().method.clone();
        let checked = self.check(session, context).await;
        // The answer is to the question, which may be a GET about a HEAD.
        let asked = session.req_header().method.clone();
        session.req_header_mut().set_method(questions);
        // Only `grant` lets a request pass: an answer of ours that is a 200, such as the price list, is none of the origin's.
        let (answer, may_pass) = match checked {
            Ok(()) => (grant(context), true),
            Err(Stop::Answer(answer)) => (*answer, false),
            Err(Stop::ClientGone) => {
                context.outcome = Outcome::ClientGone;
                session.set_keepalive(None);
                return Ok(true);
            }
        };
        context.outcome = answer.outcome;
        let is_granted = may_pass && answer.status == StatusCode::OK;
        let answer = if is_granted { answer } else { self.refusal(answer) };
        match &mut context.receipt {
            // From here on the origin may have the request.
            Some(receipt) if is_granted => {
                receipt.forwarding();
                receipt.finishing();
            }
            // Dropped: the payment stays good.
            receipt => drop(receipt.take()),
        }
        let origin = context.cors_origin.as_ref().filter(|_| !is_granted);
        if let Err(error) = Box::pin(respond::send(session, answer, origin)).await {
            tracing::debug!(%error, "A front was gone before its answer.");
            session.set_keepalive(None);
            drop(context.receipt.take());
        }
        // For the log.
        session.req_header_mut().set_method(asked);
        Ok(true)
    }

    /// Never reached.
    async fn upstream_peer(&self, _session: &mut Session, _context: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Err(Error::explain(ErrorType::InternalError, "the forward-auth listener has no origins"))
    }

    /// A receipt that is still there was told to the front: served (W3), as far as can be known here.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Self::CTX) {
        self.proxy.logging(session, error, context).await;
    }

    fn request_summary(&self, session: &Session, context: &Self::CTX) -> String {
        self.proxy.request_summary(session, context)
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Self::CTX, _error: &Error) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/check", None).unwrap();
        head.insert_header("Host", "127.0.0.1:8405").unwrap();
        for (name, value) in fields {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        head
    }

    const FORWARDED: [(&str, &str); 3] =
        [("X-Forwarded-Method", "POST"), ("X-Forwarded-Uri", "/a?b=%2F"), ("X-Forwarded-Host", "shop.example:443")];
    const ORIGINAL: [(&str, &str); 3] =
        [("X-Original-Method", "HEAD"), ("X-Original-URI", "/c"), ("X-Original-Host", "shop.example")];

    #[test]
    fn every_front_is_heard_in_its_own_dialect_only() {
        let both: Vec<_> = FORWARDED.into_iter().chain(ORIGINAL).collect();
        for (dialect, method, target, host) in [
            (FrontDialect::Traefik, "POST", "/a?b=%2F", "shop.example:443"),
            (FrontDialect::Caddy, "POST", "/a?b=%2F", "shop.example:443"),
            (FrontDialect::Nginx, "HEAD", "/c", "shop.example"),
            (FrontDialect::Envoy, "GET", "/check", "127.0.0.1:8405"),
        ] {
            let mut head = head(&both);
            become_asked(&mut head, dialect).unwrap();
            let asked = (head.method.as_str(), std::str::from_utf8(head.raw_path()).unwrap());
            assert_eq!((asked, head.headers["host"].to_str().unwrap()), ((method, target), host), "{dialect:?}");
        }
        assert_eq!(become_asked(&mut head(&FORWARDED), FrontDialect::Nginx), Err(Malformed::Field));
        assert_eq!(become_asked(&mut head(&ORIGINAL), FrontDialect::Caddy), Err(Malformed::Field));
    }

    #[test]
    fn what_a_front_leaves_out_or_says_twice_is_refused() {
        for left_out in 0..3 {
            let mut said = FORWARDED.to_vec();
            let (name, value) = said.remove(left_out);
            assert_eq!(become_asked(&mut head(&said), FrontDialect::Traefik), Err(Malformed::Field), "{name}");
            said.extend([(name, value), (name, value)]);
            assert_eq!(become_asked(&mut head(&said), FrontDialect::Traefik), Err(Malformed::Field), "{name}");
        }
    }

    #[test]
    fn a_target_in_another_than_its_one_spelling_is_refused() {
        for target in [
            "/%70aid",
            "/free/../paid",
            "/paid/../free",
            "//paid",
            "/./paid",
            "/a%2fb",
            "/a\\b",
            "/a%5cb",
            "/a#b",
            "/a b",
            "/%zz",
            "*",
            "http://shop.example/a",
            "a",
            "",
            "/a%7eb",
        ] {
            let said = [FORWARDED[0], ("X-Forwarded-Uri", target), FORWARDED[2]];
            assert!(become_asked(&mut head(&said), FrontDialect::Traefik).is_err(), "{target}");
        }
        let mut aliased = RequestHeader::build("GET", b"/x/../paid", None).unwrap();
        aliased.insert_header("Host", "h").unwrap();
        assert_eq!(become_asked(&mut aliased, FrontDialect::Envoy), Err(Malformed::Path));
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for host in ["a, b", "u@h", "h/p", "h:x"] {
            let said = [FORWARDED[0], FORWARDED[1], ("X-Forwarded-Host", host)];
            assert_eq!(become_asked(&mut head(&said), FrontDialect::Caddy), Err(Malformed::Host), "{host}");
        }
    }

    #[test]
    fn a_request_that_nothing_was_paid_for_does_not_pass_for_want_of_a_route() {
        assert_eq!(grant(&Context::new()).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
