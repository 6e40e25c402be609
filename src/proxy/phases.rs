//! Pingora's phases, in the order in which they run.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::admission::{Stop, is_gone};
use super::connection::{self, Stage as Waiting};
use super::context::{Context, Outcome};
use super::headers::{self, Hop};
use super::respond::{self, Answer};
use super::upstream::{End, Wanted};
use super::{Proxy, body, cors, observe};
use crate::config::RouteAction;
use crate::payment::{HeldPayment, Receipt};
use crate::telemetry::Stage;

/// How long a client may leave a write waiting, where its connection doesn't end sooner for that.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a WebSocket must last to be worth its price, if nothing is said on it.
const WEBSOCKET_MIN: Duration = Duration::from_secs(1);

/// Most connections tried for one request.
const CONNECTS_MAX: usize = 4;

#[async_trait]
impl ProxyHttp for Proxy {
    /// Boxed: pingora copies it with a request's future, in which it stands several times.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Context::new())
    }

    /// No modules: compression is the origin's affair.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// Runs first, and only once the whole head is there.
    async fn early_request_filter(&self, session: &mut Session, _context: &mut Self::CTX) -> Result<()> {
        if let Some(connection) = connection::of(session)
            && !session.is_http2()
        {
            let connection = std::sync::Arc::clone(connection);
            let has_body = !session.as_mut().is_body_empty();
            connection.wait_for_origin(None);
            connection.enter(if has_body { Waiting::Body } else { Waiting::Open });
        }
        Ok(())
    }

    /// Runs once a request, so this is where money moves.
    async fn request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> Result<bool> {
        if session.is_http2() || connection::of(session).is_none() || !self.limits.has_min_response_rate {
            session.set_write_timeout(Some(WRITE_TIMEOUT));
        }
        self.begin_observing(session, context);
        match self.admit(session, context).await {
            Ok(()) => {
                if context.websocket.is_none() {
                    // `h2c` was offered and isn't taken up.
                    session.req_header_mut().remove_header(&header::UPGRADE);
                }
                Ok(false)
            }
            Err(Stop::Answer(answer)) => {
                context.outcome = answer.outcome;
                let sending = Box::pin(respond::send(session, *answer, context.cors_origin.as_ref()));
                if let Err(error) = sending.await {
                    tracing::debug!(%error, "A client was gone before its answer.");
                }
                Ok(true)
            }
            Err(Stop::ClientGone) => {
                context.outcome = Outcome::ClientGone;
                session.set_keepalive(None);
                Ok(true)
            }
        }
    }

    /// May run again when a connection fails; no byte has left by then.
    async fn upstream_peer(&self, session: &mut Session, context: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        context.connects += 1;
        // The last line of defence for promise 1: a priced route without a receipt goes nowhere.
        let is_free = context.route.as_ref().is_some_and(|route| matches!(route.config().action, RouteAction::Free));
        if !is_free && context.receipt.is_none() && context.held.is_none() && context.pass.is_none() {
            return Err(Error::explain(ErrorType::InternalError, "no receipt and no pass for a priced route"));
        }
        let upstream = context.upstream.clone().ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        // What is paid for, and what has more than one end to it, has pingora's timers.
        let is_watched = context.payment.is_none()
            && context.websocket.is_none()
            && !upstream.config().http2
            && !session.is_http2()
            && session.as_mut().is_body_empty();
        let connection = connection::of(session);
        if let Some(connection) = connection {
            connection.wait_for_origin(is_watched.then(|| upstream.read_timeout()));
        }
        let wanted = Wanted {
            client: self.trusted.client(session),
            is_paid: context.payment.is_some(),
            is_websocket: context.websocket.is_some(),
            is_watched: is_watched && connection.is_some(),
        };
        let has_end = wanted.is_websocket || (upstream.config().total_timeout.is_some() && !upstream.config().http2);
        context.end = has_end.then(End::default);
        let (peer, running) =
            upstream.peer(wanted, context.end.clone()).await.ok_or_else(|| Error::new_up(ErrorType::ConnectNoRoute))?;
        context.running = Some(running);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        context: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let Some(upstream) = &context.upstream else { return error };
        if let Some(address) = peer._address.as_inet() {
            upstream.failed(*address);
        }
        // Nothing was sent, so another server may have it.
        error.set_retry(context.connects < upstream.len().min(CONNECTS_MAX));
        error
    }

    /// Runs before anything is sent.
    #[cfg(feature = "openssl")]
    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _is_reused: bool,
        peer: &HttpPeer,
        _socket: std::os::fd::RawFd,
        digest: Option<&pingora::protocols::Digest>,
        context: &mut Self::CTX,
    ) -> Result<()> {
        if super::upstream::is_checked(peer, digest) {
            return Ok(());
        }
        let error = Error::explain(ErrorType::InvalidCert, "the origin's certificate is for another address").into_up();
        Err(self.fail_to_connect(session, peer, context, error))
    }

    /// Runs right before the head is written: from here on a delivery counts.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        let Some(upstream) = &context.upstream else { return Err(Error::new_in(ErrorType::InternalError)) };
        let client = self.trusted.client(session);
        let host = session.req_header().headers.get(header::HOST);
        let public = context.snapshot.as_ref().and_then(|snapshot| snapshot.public_scheme());
        let scheme = public.unwrap_or_else(|| self.trusted.scheme(session));
        let hop = Hop { client, host, scheme };
        for name in &context.hidden {
            head.remove_header(name);
        }
        let sale = context.receipt.as_deref().map(Receipt::sale);
        let sale = sale.or_else(|| context.held.as_deref().and_then(HeldPayment::sale));
        headers::prepare_request(head, upstream.config(), &hop, sale)?;
        observe::pass_on(head, context)?;
        let is_ours = context.receipt.as_deref().is_none_or(Receipt::may_forward)
            && context.held.as_deref().is_none_or(HeldPayment::may_forward);
        if !is_ours {
            // Paused for so long that another gateway may be serving it: the payment stays good for its request.
            return Err(Error::explain(ErrorType::HTTPStatus(503), "the payment may be in another gateway's hands"));
        }
        let has_use = context.receipt.is_some()
            || context.held.is_some()
            || context.websocket.is_some()
            || upstream.config().total_timeout.is_some();
        context.forwarded = has_use.then(Instant::now);
        // A WebSocket's time begins when it does.
        if let (Some(end), Some(limit), None) = (&context.end, upstream.config().total_timeout, context.websocket) {
            let _set_once = end.set(tokio::time::Instant::now() + limit);
        }
        if let Some(receipt) = &mut context.receipt {
            receipt.forwarding();
        }
        if let Some(held) = &mut context.held {
            held.forwarding();
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        is_last: bool,
        context: &mut Self::CTX,
    ) -> Result<()> {
        if session.is_http2() && !is_last && session.response_written().is_none() {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            if context.pace.is_too_slow(bytes, self.limits.min_body_rate) {
                return Err(Error::explain(ErrorType::ReadTimedout, "the body is too slow").into_down());
            }
        }
        body::put_back(&mut context.held_body, piece);
        if is_last && let Some(connection) = connection::of(session) {
            connection.enter(Waiting::Open);
        }
        Ok(())
    }

    /// A paid request's bytes are never sent twice, nor those of a free one that isn't idempotent (threat D5).
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Self::CTX,
        is_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        if connection::of(session).is_some_and(|connection| connection.is_origin_overdue()) {
            // Seen on the client's connection, which is not at fault.
            error.etype = ErrorType::ReadTimedout;
            error.as_up();
        }
        let is_over =
            context.end.as_ref().and_then(|end| end.get()).is_some_and(|end| *end <= tokio::time::Instant::now());
        if is_over && *error.esource() == pingora::ErrorSource::Upstream {
            // Told apart from an origin that broke off.
            error.etype = ErrorType::ReadTimedout;
        }
        let is_origins = *error.esource() == pingora::ErrorSource::Upstream;
        // A connection that was kept for reuse may have been closed for good reasons.
        if is_origins
            && !is_reused
            && session.response_written().is_none()
            && let (Some(upstream), Some(running)) = (&context.upstream, &context.running)
        {
            upstream.ended(running, false);
        }
        let may_repeat = context.payment.is_none()
            && context.held_body.is_none()
            && session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated();
        if may_repeat {
            error.retry.decide_reuse(is_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    /// Runs before anything of the answer is written, so this is where the answer waits for the money (`settle = "after"`).
    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        context: &mut Self::CTX,
    ) -> Result<()> {
        headers::strip_response(head);
        if let (Some(upstream), Some(running)) = (&context.upstream, &context.running) {
            upstream.ended(running, true);
        }
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(duration), None) = (head.status, context.websocket, &context.held)
        {
            // Without a connection to end there would be no end to it.
            let connection = connection::of(session).ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
            connection.end_after(duration);
            if let Some(end) = &context.end {
                let _set_once = end.set(tokio::time::Instant::now() + duration);
            }
            if let Some(receipt) = &context.receipt {
                headers::mark_paid(head, receipt)?;
            }
            return Ok(());
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // No upgrade was asked for, so this would be a tunnel past everything here (threat A12).
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "the origin switched protocols unasked");
            return Err(error.into_up());
        }
        if head.status.is_informational() {
            if context.held.is_some() {
                headers::empty(head);
            }
            return Ok(());
        }
        if let Some(held) = context.held.take() {
            self.release_or_settle(session, head.status, held, context).await?;
        }
        if let Some(receipt) = &context.receipt {
            headers::mark_paid(head, receipt)?;
            headers::show_redirect(head, &session.req_header().headers)?;
        }
        if let Some(pass) = &context.pass {
            headers::mark_passed(head, pass)?;
        }
        if let Some(origin) = &context.cors_origin {
            cors::expose(head, origin)?;
        }
        Ok(())
    }

    /// The answer as a whole has its time, however lively its origin is.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        _piece: &mut Option<Bytes>,
        is_last: bool,
        context: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        let limit = context.upstream.as_ref().and_then(|upstream| upstream.config().total_timeout);
        let is_over = limit.zip(context.forwarded).is_some_and(|(limit, forwarded)| forwarded.elapsed() > limit);
        // A WebSocket has its `max_duration` instead.
        if is_over && !is_last && context.websocket.is_none() {
            return Err(Error::explain(ErrorType::ReadTimedout, "total_timeout").into_up());
        }
        if let Some(receipt) = context.receipt.as_mut().filter(|_| is_last) {
            receipt.finishing();
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Self::CTX) -> FailToProxy {
        if let Some(answer) = context.refusal.take() {
            return self.refuse(session, *answer, context).await;
        }
        // Dropped, the payment is let go: the client has paid nothing.
        drop(context.held.take());
        let paid = context.receipt.as_ref().map(|receipt| (receipt.response(), receipt.is_good_for_another()));
        let is_websocket = has_switched(session);
        let is_begun = session.response_written().is_some_and(|head| !head.status.is_informational()) || is_websocket;
        let answer = Answer::failure(error, paid.as_ref().map(|(outcome, is_good)| (outcome, *is_good)))
            .filter(|_answer| !is_begun);
        let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        context.outcome = match (&answer, paid.is_some()) {
            (_, true) => Outcome::Undelivered,
            (_, false) if payment_is_held(context) => Outcome::Released,
            (Some(answer), false) => answer.outcome,
            (None, false) if *error.esource() == pingora::ErrorSource::Downstream => Outcome::ClientGone,
            (None, false) => Outcome::OriginError,
        };
        let (route, payment) = (route_name(context), context.payment.as_deref());
        if is_websocket {
            tracing::debug!(%error, route, payment, "A WebSocket ended.");
        } else if payment.is_none() && *error.esource() == pingora::ErrorSource::Downstream {
            // Clients come and go; a flood of them must not fill the log.
            tracing::debug!(%error, route, "A client went away.");
        } else {
            tracing::warn!(%error, route, payment, "A request was not proxied.");
        }
        if let Some(answer) = answer {
            session.set_keepalive(None);
            if let Some(receipt) = &mut context.receipt {
                receipt.finishing();
            }
            if let Err(error) = respond::send(session, answer, context.cors_origin.as_ref()).await {
                tracing::debug!(%error, "A client was gone before its answer.");
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    /// Runs last, whatever happened: the delivery is answered for, then counted and logged.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Self::CTX) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let payment = self.payment_fields(context);
        if let Some(mut receipt) = context.receipt.take() {
            crate::crash::point("post_deliver");
            // No error means that the last byte was written and flushed; a cut-off origin or client is one.
            let is_served = error.is_none() && (200..500).contains(&status) || was_websocket(session, context);
            if let Some(forwarded) = context.forwarded {
                self.metrics.stage(Stage::Deliver, forwarded, &context.trace);
            }
            receipt.traced(context.trace.clone());
            if is_served {
                context.outcome = Outcome::Paid;
                receipt.served();
            } else {
                // Dropped, and with that recorded: the payment stays good.
                context.outcome = Outcome::Undelivered;
                drop(receipt);
            }
        } else if error.is_none()
            && matches!(context.outcome, Outcome::Free | Outcome::FreeQuota | Outcome::FreeFor)
            && status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16()
        {
            context.outcome = Outcome::OriginError;
        }
        self.count(context);
        let (route, outcome) = (route_name(context), context.outcome.as_str());
        tracing::info!(
            method = %session.req_header().method,
            route,
            status,
            outcome,
            payment = context.payment,
            micros = u64::try_from(context.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            "Request."
        );
        self.observe(session, context, status, payment);
    }

    /// For pingora's own log lines: never a path, a query or a header.
    fn request_summary(&self, session: &Session, context: &Self::CTX) -> String {
        format!("{} {}", session.req_header().method, route_name(context))
    }

    /// [`Self::fail_to_proxy`] logs it already.
    fn suppress_error_log(&self, _session: &Session, _context: &Self::CTX, _error: &Error) -> bool {
        true
    }
}

/// Whether the client was told that its connection is a WebSocket now.
fn has_switched(session: &Session) -> bool {
    session.response_written().is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS)
}

/// Whether a WebSocket was of use to anybody: one that ended at once, without a byte in either direction, was not.
fn was_websocket(session: &Session, context: &Context) -> bool {
    let has_lasted = context.forwarded.is_some_and(|forwarded| forwarded.elapsed() >= WEBSOCKET_MIN);
    has_switched(session) && (has_lasted || session.body_bytes_read() > 0 || session.body_bytes_sent() > 0)
}

impl Proxy {
    /// What the origin's status means for a payment that waits for it: refused, it is let go; answered, it is settled.
    async fn release_or_settle(
        &self,
        session: &mut Session,
        status: StatusCode,
        held: Box<HeldPayment>,
        context: &mut Context,
    ) -> Result<()> {
        if let Some(forwarded) = context.forwarded {
            context.trace.forwarded(forwarded);
        }
        if status.is_client_error() || status.is_server_error() {
            drop(held);
            return Ok(());
        }
        let (Some(route), Some(snapshot), Some(asked)) =
            (context.route.clone(), context.snapshot.clone(), context.asked.take())
        else {
            return Err(Error::new_in(ErrorType::InternalError));
        };
        if is_gone(session) {
            drop(held);
            return Err(Error::new_down(ErrorType::ConnectionClosed));
        }
        match Box::pin(self.settle_held(session, (&snapshot, &route, &asked), *held)).await {
            Ok(receipt) => {
                context.outcome = Outcome::Undelivered;
                context.forwarded = Some(Instant::now());
                context.receipt = Some(receipt);
                Ok(())
            }
            Err(answer) => {
                let status = answer.status.as_u16();
                context.refusal = Some(Box::new(answer));
                Err(Error::explain(ErrorType::HTTPStatus(status), "the payment was not settled after its request"))
            }
        }
    }

    /// Sends what a client gets whose payment was not settled; the origin's answer is dropped.
    async fn refuse(&self, session: &mut Session, answer: Answer, context: &mut Context) -> FailToProxy {
        let error_code = answer.status.as_u16();
        context.outcome = answer.outcome;
        session.set_keepalive(None);
        if let Err(error) = respond::send(session, answer, context.cors_origin.as_ref()).await {
            tracing::debug!(%error, "A client was gone before its answer.");
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }
}

/// Whether the request went to the origin before it was settled, and was not settled.
fn payment_is_held(context: &Context) -> bool {
    context.outcome == Outcome::Released
}

/// A bounded label: the route's key, or a dash for what no route took.
pub(super) fn route_name(context: &Context) -> &str {
    context.route.as_ref().map_or("-", |route| route.name())
}
