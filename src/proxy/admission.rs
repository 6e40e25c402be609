//! What happens to a request before it is forwarded: every refusal that needs no money first, then the gate (threat D6).

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use http::{HeaderValue, Method, header};
use pingora::proxy::Session;

use super::body::{self, BodyError};
use super::challenge::Asked;
use super::context::{Context, Outcome};
use super::fingerprint::RequestIdentity;
use super::intake::{self, Malformed};
use super::limits::Pass;
use super::respond::Answer;
use super::snapshot::Snapshot;
use super::upstream::{PROBE_AGE_MAX, Reserving};
use super::{Proxy, connection, cors, directory, forward};
use crate::config::{ForwardPath, PaidRoute, RouteAction, RouteConfig, SettleMode};
use crate::payment::{Decision, HeldPayment, PaidRequest, PaymentHeaders, PricedRoute, Receipt};
use crate::protocol::names;
use crate::route::{COMMON_METHODS, CanonicalTarget, Route, RouteMatch, canonicalize, normalize_host};
use crate::telemetry::Stage;

/// The headers in which payments are presented.
const PAYMENT_HEADERS: [&str; 2] = [names::PAYMENT_SIGNATURE, names::X_PAYMENT];

/// Why a request is not forwarded.
pub(super) enum Stop {
    /// It gets this answer.
    Answer(Box<Answer>),
    /// Nobody is there to be answered.
    ClientGone,
}

impl From<Answer> for Stop {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Answer::malformed(malformed).into()
    }
}

/// What a payment gave the right to.
enum Taken {
    /// It is paid: forward.
    Paid(Box<Receipt>),
    /// It is claimed: forward, and hold the answer.
    Held(Box<HeldPayment>),
}

/// A request to a priced route, free of the session's buffers.
struct Presented<'a> {
    snapshot: Arc<Snapshot>,
    route: Arc<Route>,
    paid: &'a PaidRoute,
    priced: Arc<PricedRoute>,
    scheme: &'static str,
    host: Option<String>,
    target: CanonicalTarget<'static>,
    v2: Vec<HeaderValue>,
    v1: Vec<HeaderValue>,
}

impl Proxy {
    /// Decides whether the request is forwarded. On a priced route it is only with a receipt in the context.
    pub(super) async fn admit(&self, session: &mut Session, context: &mut Context) -> Result<(), Stop> {
        if session.is_http2() {
            intake::check_h2(session.req_header_mut())?;
        } else {
            // A session without a raw head can't be judged.
            let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes()).ok_or(Malformed::Framing)?;
            intake::check(&raw, session.req_header())?;
        }
        self.admit_checked(session, context).await
    }

    /// As [`Self::admit`], of a request whose head has passed the intake.
    pub(super) async fn admit_checked(&self, session: &mut Session, context: &mut Context) -> Result<(), Stop> {
        self.check_server_name(session)?;
        let snapshot = self.current.get().ok_or_else(Answer::internal)?;
        context.snapshot = Some(Arc::clone(&snapshot));
        let scheme = snapshot.public_scheme().unwrap_or_else(|| self.trusted.scheme(session));
        let head = session.req_header();
        if head.method == Method::OPTIONS && head.raw_path() == b"*" {
            return Err(Answer::server_options().into());
        }
        let target = canonicalize(head.raw_path()).map_err(Malformed::from)?;
        let host = head.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        if intake::is_never_allowed(&head.method) {
            return Err(Answer::method_not_allowed(&COMMON_METHODS).into());
        }
        if let Some(asked) = cors::preflight_for(&head.method, &head.headers) {
            answer_preflight(&snapshot, head.headers.get(header::ORIGIN), host, &target, &asked)?;
        }
        let route = match snapshot.routes.find(host, &target, &head.method) {
            RouteMatch::Route(route) => route,
            RouteMatch::NotFound if directory::is_asked(&snapshot, &target) => {
                self.look_up(session)?;
                return Err(directory::answer(&snapshot, &head.method, scheme, host).into());
            }
            RouteMatch::NotFound => return Err(Answer::not_found().into()),
            RouteMatch::MethodNotAllowed { allow } => return Err(Answer::method_not_allowed(&allow).into()),
            RouteMatch::Ambiguous => return Err(Malformed::Path.into()),
        };
        context.route = Some(Arc::clone(&route));
        let Some(site) = snapshot.site(&route) else { return Err(Answer::internal().into()) };
        context.upstream.clone_from(&site.upstream);
        let config = Arc::clone(route.config());
        if intake::asks_for_websocket(head) {
            context.websocket = Some(config.websocket.ok_or(Malformed::Upgrade)?);
        }
        if matches!(config.action, RouteAction::Deny) {
            return Err(Answer::not_found().into());
        }
        let is_priced = site.priced.is_some();
        if is_priced {
            context.cors_origin = head.headers.get(header::ORIGIN).cloned();
        }
        let has_payment = is_priced && PAYMENT_HEADERS.iter().any(|name| head.headers.contains_key(*name));
        let passed = self.pass(session, context, site, has_payment)?;
        let left = passed.as_ref().and_then(|passed| passed.as_ref().err().copied());
        context.pass = passed.and_then(Result::ok);
        match (&config.action, &site.priced) {
            (RouteAction::Deny, _) => return Err(Answer::not_found().into()),
            (RouteAction::Free, None) => {
                context.outcome = Outcome::Free;
                self.enter(session, context, site).await?;
            }
            (RouteAction::Paid(_), Some(_)) if context.pass.is_some() => {
                context.outcome = context.pass.as_ref().map_or(Outcome::InternalError, Pass::outcome);
                self.enter(session, context, site).await?;
            }
            (RouteAction::Paid(paid), Some(priced)) => {
                let all = |name: &str| head.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
                let (v2, v1) = (all(names::PAYMENT_SIGNATURE), all(names::X_PAYMENT));
                if v2.is_empty() && v1.is_empty() {
                    let path = target.path().as_str();
                    let query = target.query();
                    let asked = Asked { snapshot: &snapshot, route: &route, priced, scheme, host, path, query, head };
                    return Err(self.ask_payment(&asked).with_left(left.as_ref()).into());
                }
                let priced = Arc::clone(priced);
                let (host, target) = (host.map(str::to_owned), target.into_owned());
                let snapshot = Arc::clone(&snapshot);
                let presented = Presented { snapshot, route, paid, priced, scheme, host, target, v2, v1 };
                // Boxed, so that free requests don't carry its state around.
                match Box::pin(self.take_payment(session, context, &presented)).await? {
                    Taken::Paid(receipt) => {
                        context.payment = Some(receipt.record().record.to_string());
                        context.receipt = Some(receipt);
                        context.outcome = Outcome::Undelivered;
                    }
                    Taken::Held(held) => {
                        context.payment = held.record().map(|record| record.record.to_string());
                        context.held = Some(held);
                        context.asked = Some(presented.target.path_and_query().into_owned());
                        context.outcome = Outcome::Released;
                    }
                }
                return forward_canonical(session, config.as_ref(), &presented.target);
            }
            // Price and configuration disagree: closed, whatever the reason.
            (RouteAction::Free, Some(_)) | (RouteAction::Paid(_), None) => return Err(Answer::internal().into()),
        }
        if target.path_and_query().as_bytes() != head.raw_path() || config.forward != ForwardPath::Same {
            let target = target.into_owned();
            return forward_canonical(session, config.as_ref(), &target);
        }
        Ok(())
    }

    /// A client that asked for one server in its TLS handshake gets nothing of another's: its certificate proved only the
    /// first (RFC 9110 §7.4). Trusted proxies ask for many under one name.
    fn check_server_name(&self, session: &Session) -> Result<(), Malformed> {
        let Some(Some(asked)) = connection::of(session).and_then(|connection| connection.tls.as_ref()) else {
            return Ok(());
        };
        let host = session.req_header().headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let Some(host) = host else { return Ok(()) };
        if normalize_host(host) == normalize_host(asked) || self.trusted.is_from_proxy(session) {
            return Ok(());
        }
        Err(Malformed::OtherServer)
    }

    /// Takes the payment: from here on, what is refused costs nothing until the gate says that the money moved.
    async fn take_payment(
        &self,
        session: &mut Session,
        context: &mut Context,
        presented: &Presented<'_>,
    ) -> Result<Taken, Stop> {
        let upstream = context.upstream.clone().ok_or_else(Answer::internal)?;
        let client = self.trusted.client(session).ok_or_else(Answer::internal)?;
        if !upstream.is_up(PROBE_AGE_MAX).await {
            return Err(Answer::origin_down().into());
        }
        let payment_headers = PaymentHeaders {
            v2: presented.v2.iter().map(HeaderValue::as_bytes).collect(),
            v1: presented.v1.iter().map(HeaderValue::as_bytes).collect(),
        };
        let at_work = self.begin_payment(session)?;
        let verifying = self.begin_verification().await?;
        self.metrics.stage(Stage::Match, context.started, &context.trace);
        let started = Instant::now();
        let verified = self.gate.verify(&presented.priced, &payment_headers).await;
        drop(verifying);
        self.metrics.stage(Stage::Verify, started, &context.trace);
        let payment = verified.map_err(|decision| self.decided(session, presented, decision))?;
        let digested = body::digest(session.as_mut()).await.map_err(unread)?;
        context.held_body = digested.held;
        if session.as_mut().is_body_done()
            && let Some(connection) = connection::of(session)
        {
            connection.enter(connection::Stage::Open);
        }
        let (fingerprint, redeliverable) = {
            let head = session.req_header();
            let identity = RequestIdentity {
                method: &head.method,
                host: &presented.host.as_deref().unwrap_or_default().to_ascii_lowercase(),
                path: presented.target.path().as_str(),
                query: presented.target.query(),
                headers: &head.headers,
                body: &digested.digest,
            };
            (identity.fingerprint(), identity.is_redeliverable(presented.paid.redeliver))
        };
        // Lets the runtime look at its sockets once, or a hang-up that is there already isn't seen.
        tokio::task::yield_now().await;
        if is_gone(session) {
            return Err(Stop::ClientGone);
        }
        let summary = format!("{} {}", session.req_header().method, presented.target.path());
        let route = presented.priced.name();
        let settles_after = presented.paid.settle == SettleMode::After;
        let reserving = Reserving::at(&upstream);
        let origin = &reserving;
        let trace = context.trace.clone();
        let request = PaidRequest { fingerprint, redeliverable, settles_after, client, route, summary, origin, trace };
        let decision = self.gate.admit(payment, request).await;
        context.place = reserving.into_place();
        drop(at_work);
        let taken = match decision {
            Decision::Deliver(receipt) => Taken::Paid(receipt),
            Decision::Forward(held) => Taken::Held(held),
            decision => return Err(self.decided(session, presented, decision).into()),
        };
        if is_gone(session) {
            // Dropping what was taken leaves the delivery uncounted: nothing has reached the origin.
            return Err(Stop::ClientGone);
        }
        // Of a long body nothing was asked for until now.
        if session.req_header_mut().remove_header(&header::EXPECT).is_some()
            && session.as_mut().write_continue_response().await.is_err()
        {
            return Err(Stop::ClientGone);
        }
        Ok(taken)
    }

    fn decided(&self, session: &Session, presented: &Presented<'_>, decision: Decision) -> Answer {
        let (path, query) = (presented.target.path().as_str(), presented.target.query());
        let (route, priced, host) = (&presented.route, &presented.priced, presented.host.as_deref());
        let head = session.req_header();
        let (snapshot, scheme) = (presented.snapshot.as_ref(), presented.scheme);
        self.decide(&Asked { snapshot, route, priced, scheme, host, path, query, head }, decision)
    }

    /// What a decision says to whoever asked.
    fn decide(&self, asked: &Asked<'_>, decision: Decision) -> Answer {
        match &decision {
            Decision::OriginBusy => self.metrics.limited("origin_busy"),
            Decision::SettlementsBusy => self.metrics.limited("settlements_busy"),
            _ => {}
        }
        if let Decision::Refused { reason, .. } | Decision::Contradiction(reason) = &decision {
            tracing::debug!(route = %asked.route.name(), %reason, "Refused a payment.");
            self.metrics.refusal(reason.as_str());
        }
        Answer::decision(decision, |reason| self.terms(asked, reason, false))
    }

    /// Moves the money for an answer that the origin has given (`settle = "after"`), or says what the client gets instead.
    /// `asked` is the canonical target as it was asked for, whatever the origin got.
    pub(super) async fn settle_held(
        &self,
        session: &mut Session,
        (snapshot, route, asked): (&Snapshot, &Arc<Route>, &str),
        held: HeldPayment,
    ) -> Result<Box<Receipt>, Answer> {
        let decision = match held.settle().await {
            Decision::Deliver(receipt) => return Ok(receipt),
            decision => decision,
        };
        let priced = snapshot.site(route).and_then(|site| site.priced.clone()).ok_or_else(Answer::internal)?;
        let scheme = snapshot.public_scheme().unwrap_or_else(|| self.trusted.scheme(session));
        let head = session.req_header();
        let host = head.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let target = canonicalize(asked.as_bytes()).map_err(|_error| Answer::internal())?;
        let (path, query) = (target.path().as_str(), target.query());
        let asked = Asked { snapshot, route, priced: &priced, scheme, host, path, query, head };
        Err(self.decide(&asked, decision))
    }
}

/// Preflights of known paths are answered here and free. They are the origin's affair where `OPTIONS` itself is free.
fn answer_preflight(
    snapshot: &Snapshot,
    origin: Option<&HeaderValue>,
    host: Option<&str>,
    target: &CanonicalTarget<'_>,
    asked: &Method,
) -> Result<(), Answer> {
    let (Some(origin), false) = (origin, intake::is_never_allowed(asked)) else { return Ok(()) };
    if let RouteMatch::Route(route) = snapshot.routes.find(host, target, &Method::OPTIONS)
        && !matches!(route.config().action, RouteAction::Paid(_))
    {
        return Ok(());
    }
    let methods = match snapshot.routes.find(host, target, asked) {
        RouteMatch::Route(route) if matches!(route.config().action, RouteAction::Deny) => return Ok(()),
        RouteMatch::NotFound | RouteMatch::Ambiguous => return Ok(()),
        RouteMatch::Route(_) => vec![asked.clone()],
        RouteMatch::MethodNotAllowed { allow } => allow,
    };
    Err(Answer::preflight(origin, &methods))
}

/// What was matched is what is forwarded. The origin never gets a target that isn't in origin form (threat A6).
fn forward_canonical(session: &mut Session, route: &RouteConfig, target: &CanonicalTarget<'_>) -> Result<(), Stop> {
    let head = session.req_header_mut();
    let Some(wanted) = forward::target(route, target) else { return Err(Answer::internal().into()) };
    let is_set = head.set_raw_path(wanted.as_bytes()).is_ok();
    if is_set && head.raw_path() == wanted.as_bytes() && head.raw_path().first() == Some(&b'/') {
        Ok(())
    } else {
        Err(Answer::internal().into())
    }
}

fn unread(error: BodyError) -> Stop {
    tracing::debug!(%error, "A request's body could not be read.");
    match error {
        BodyError::Timeout => Malformed::BodyTimeout.into(),
        BodyError::Broken(_) | BodyError::Unforwardable => Malformed::Body.into(),
    }
}

/// Whether the client hung up. A payment settled now, or a delivery made, would be spent on nobody.
pub(super) fn is_gone(session: &mut Session) -> bool {
    let downstream = session.as_mut();
    downstream.is_body_done() && matches!(downstream.read_body_or_idle(true).now_or_never(), Some(Err(_)))
}
