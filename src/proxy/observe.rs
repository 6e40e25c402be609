//! What is told of a request to those who look on: its trace and its line in the access log. Neither holds a query, a header's
//! value but `Host`, or anything that could be presented as a payment.

use std::time::{Duration, SystemTime};

use http::{HeaderName, Method, header};
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Proxy;
use super::context::Context;
use super::phases::route_name;
use crate::telemetry::{AccessLine, Attribute, Parent, PaymentFields, Trace};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Most bytes of a path in the log.
const PATH_BYTES_MAX: usize = 2048;

/// Longest host that is noted: a name of 253 bytes or an address, its port, and brackets (RFC 1035 §3.1).
const HOST_BYTES_MAX: usize = 261;

/// Longest method that is noted whole.
const METHOD_BYTES_MAX: usize = 32;

/// Methods that a span names; others are client's words (OpenTelemetry's HTTP conventions).
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];

/// Tells the origin of the trace. A caller that isn't believed has no say in it, not even through the origin.
pub(super) fn pass_on(head: &mut RequestHeader, context: &Context) -> pingora::Result<()> {
    let Some(traceparent) = context.trace.traceparent(context.payment.is_some()) else { return Ok(()) };
    if !context.trace.is_continued() {
        head.remove_header(&TRACESTATE);
    }
    head.insert_header(TRACEPARENT, traceparent)
}

/// The path of a request's target without its query, as far as it can be told, without a byte that isn't printable ASCII.
fn path_of(target: &[u8]) -> Box<str> {
    let target = target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    // Of an absolute target only the path: there may be a password before it.
    let path = match target.first() {
        Some(b'/' | b'*') => target,
        _ => {
            let after = target.windows(3).position(|three| three == b"://").and_then(|at| target.get(at + 3..));
            let start = after.and_then(|rest| rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..)));
            start.unwrap_or(b"-")
        }
    };
    let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '\u{fffd}' };
    path.iter().take(PATH_BYTES_MAX).map(shown).collect::<String>().into_boxed_str()
}

impl Proxy {
    /// Notes what is gone or changed when the request has ended.
    pub(super) fn begin_observing(&self, session: &Session, context: &mut Context) {
        if let Some(tracer) = &self.observers.tracer {
            let said = || {
                let mut values = session.req_header().headers.get_all(TRACEPARENT).iter();
                let (first, second) = (values.next()?, values.next());
                if second.is_some() { None } else { first.to_str().ok().and_then(Parent::read) }
            };
            let parent = if self.trusted.is_from_proxy(session) { said() } else { None };
            context.trace = tracer.begin(parent, context.started, self.clock.now());
        }
        if self.observers.access.is_some() {
            context.path = Some(path_of(session.req_header().raw_path()));
        }
    }

    /// What the books say of the request's payment, if somebody wants to know.
    pub(super) fn payment_fields(&self, context: &Context) -> Option<PaymentFields> {
        if self.observers.access.is_none() && context.trace.id().is_none() {
            return None;
        }
        let receipt = context.receipt.as_deref();
        let held = context.held.as_deref();
        let record = receipt.map(|receipt| receipt.record()).or_else(|| held.and_then(|held| held.record()))?;
        Some(PaymentFields {
            payment: record.record.to_string(),
            network: record.claim.network.to_string(),
            asset: record.claim.asset.to_string(),
            amount: record.claim.amount.to_string(),
            payer: record.claim.payer.to_string(),
            transaction: receipt.map(|receipt| receipt.transaction().to_owned()),
        })
    }

    /// One more request that came to this.
    pub(super) fn count(&self, context: &Context) {
        let (name, outcome) = (route_name(context), context.outcome);
        let site =
            context.snapshot.as_ref().zip(context.route.as_ref()).and_then(|(snapshot, route)| snapshot.site(route));
        match site.and_then(|site| site.counters.get(outcome as usize)) {
            Some(counter) => counter.get_or_init(|| self.metrics.requests(name, outcome.as_str())).inc(),
            None => self.metrics.request(name, outcome.as_str()),
        }
    }

    /// The request has ended.
    pub(super) fn observe(&self, session: &Session, context: &Context, status: u16, payment: Option<PaymentFields>) {
        if let Some(access) = &self.observers.access {
            let head = session.req_header();
            let took = context.started.elapsed();
            let now = Duration::from_millis(u64::try_from(self.clock.now().0).unwrap_or(0));
            access.log(&AccessLine {
                time: SystemTime::UNIX_EPOCH + now.saturating_sub(took),
                client: self.trusted.client(session),
                method: head.method.as_str().get(..METHOD_BYTES_MAX).unwrap_or(head.method.as_str()),
                // One that is no host was refused, and may be as long as a head.
                host: head
                    .headers
                    .get(header::HOST)
                    .and_then(|value| value.to_str().ok())
                    .filter(|host| host.len() <= HOST_BYTES_MAX),
                path: context.path.as_deref().unwrap_or("-"),
                status,
                bytes: session.body_bytes_sent(),
                micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                route: route_name(context),
                outcome: context.outcome.as_str(),
                trace: context.trace.id(),
                payment: payment.clone(),
            });
        }
        finish(&context.trace, session, context, status, payment);
    }
}

/// Attributes as OpenTelemetry's HTTP conventions name them; the route's key is what a server span is called.
fn finish(trace: &Trace, session: &Session, context: &Context, status: u16, payment: Option<PaymentFields>) {
    let route = route_name(context);
    trace.finish(route, status >= 500, || {
        let text = |value: &str| Attribute::Text(value.to_owned());
        let method = &session.req_header().method;
        let method = if METHODS.contains(method) { method.as_str() } else { "_OTHER" };
        let mut attributes = vec![
            ("http.request.method", text(method)),
            ("http.route", text(route)),
            ("http.response.status_code", Attribute::Number(i64::from(status))),
            ("tollhouse.outcome", text(context.outcome.as_str())),
        ];
        if let Some(payment) = payment {
            attributes.extend([
                ("tollhouse.payment", Attribute::Text(payment.payment)),
                ("tollhouse.network", Attribute::Text(payment.network)),
                ("tollhouse.asset", Attribute::Text(payment.asset)),
                ("tollhouse.amount", Attribute::Text(payment.amount)),
            ]);
            attributes
                .extend(payment.transaction.map(|transaction| ("tollhouse.transaction", Attribute::Text(transaction))));
        }
        attributes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_path_has_no_query_no_password_and_no_control() {
        for (target, expected) in [
            (&b"/a/b?key=secret"[..], "/a/b"),
            (b"*", "*"),
            (b"http://user:secret@shop.test/a?b", "/a"),
            (b"http://user:secret@shop.test", "-"),
            (b"shop.test:443", "-"),
            (b"", "-"),
            (b"/a\x1b[31m\n\xff", "/a\u{fffd}[31m\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(&*path_of(target), expected, "{target:?}");
        }
        assert_eq!(path_of(&[b'/'; 100_000]).len(), PATH_BYTES_MAX);
    }
}
