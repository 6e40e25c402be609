//! Traces of requests: a server span each and, where a payment is presented, a span for each stage of the money path.
//!
//! A finished span goes to a bounded queue and is lost, and counted, if that is full: no request waits for a collector.
//! Without `[telemetry] otlp_endpoint` there is no tracer, and a [`Trace`] is an empty pointer. Knows no HTTP but the words
//! of W3C's `traceparent`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use super::otlp::{self, Exporter, Message};
use super::{Metrics, Stage};
use crate::types::UnixMillis;

/// Spans that may wait to be sent.
const QUEUE_SPANS: usize = 4096;

/// How traces are made and where they go.
pub struct TracerConfig {
    /// Where the collector takes traces: its base, to which `/v1/traces` is added (OTLP/HTTP).
    pub endpoint: String,
    /// `service.name`.
    pub service_name: String,
    /// Of a million requests, how many are traced whose caller didn't decide that.
    pub sampled_ppm: u32,
    /// Headers for the collector, for example a key.
    pub headers: Vec<(String, String)>,
}

/// Makes traces.
#[derive(Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Message>,
    sampled_ppm: u32,
    metrics: Arc<Metrics>,
}

/// What a caller that is believed said of its trace (W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

impl Parent {
    /// Reads a `traceparent`; nothing if it is malformed, in which case a new trace begins.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let [version] = hex::<1>(version)?;
        let [flags] = hex::<1>(flags)?;
        // Version 0 has these four; later ones may have more behind them.
        let has_more = fields.next().is_some();
        let (trace, span) = (hex::<16>(trace)?, hex::<8>(span)?);
        let is_good = version != 0xff && !(version == 0 && has_more) && trace != [0; 16] && span != [0; 8];
        is_good.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

/// Lowercase, and nothing else.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Which side of a conversation a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Internal,
    Client,
}

/// A finished span.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub trace: [u8; 16],
    pub id: [u8; 8],
    pub parent: Option<[u8; 8]>,
    pub name: String,
    pub side: Side,
    /// Nanoseconds of Unix time.
    pub started: u64,
    pub ended: u64,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub is_error: bool,
}

/// What a span says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// The trace of one request, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    tracer: Arc<Tracer>,
    trace: [u8; 16],
    /// The server span.
    server: [u8; 8],
    parent: Option<[u8; 8]>,
    /// The span whose id the origin is told.
    forward: [u8; 8],
    is_forwarded: AtomicBool,
    is_sampled: bool,
    began: Instant,
    /// The same in nanoseconds of Unix time.
    began_at: u64,
}

impl Tracer {
    /// Starts to export on `runtime`.
    ///
    /// # Errors
    /// When the HTTP client can't be built, for example since a header can't be one.
    pub fn start(
        config: &TracerConfig,
        metrics: Arc<Metrics>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Arc<Self>, otlp::ExporterError> {
        let (queue, spans) = mpsc::channel(QUEUE_SPANS);
        let exporter = Exporter::new(config, Arc::clone(&metrics))?;
        runtime.spawn(exporter.run(spans));
        Ok(Arc::new(Self { queue, sampled_ppm: config.sampled_ppm.min(1_000_000), metrics }))
    }

    /// The trace of a request that began then: its caller's, or a new one.
    pub fn begin(self: &Arc<Self>, parent: Option<Parent>, began: Instant, now: UnixMillis) -> Trace {
        let mut random = [0; 36];
        if getrandom::fill(&mut random).is_err() {
            return Trace::default();
        }
        let (trace, rest) = take::<16>(&random);
        let (server, rest) = take::<8>(rest);
        let (forward, rest) = take::<8>(rest);
        let (dice, _) = take::<4>(rest);
        // Of 2^32 equally likely numbers the lowest ones, as many as the share says.
        let is_chosen = u64::from(u32::from_be_bytes(dice)) * 1_000_000 < u64::from(self.sampled_ppm) << 32;
        let now = u64::try_from(now.0).unwrap_or(0).saturating_mul(1_000_000);
        let ago = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Trace(Some(Arc::new(Inner {
            tracer: Arc::clone(self),
            trace: parent.map_or(trace, |parent| parent.trace),
            server,
            parent: parent.map(|parent| parent.span),
            forward,
            is_forwarded: AtomicBool::new(false),
            is_sampled: parent.map_or(is_chosen, |parent| parent.is_sampled),
            began,
            began_at: now.saturating_sub(ago),
        })))
    }

    /// Waits until what was queued has been sent or given up, for a while.
    pub async fn flush(&self, within: std::time::Duration) {
        let (done, wait) = tokio::sync::oneshot::channel();
        let flushing = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ended = wait.await;
            }
        };
        let _late = tokio::time::timeout(within, flushing).await;
    }

    fn send(&self, span: Span) {
        if self.queue.try_send(Message::Span(span)).is_err() {
            self.metrics.spans_dropped("queue_full", 1);
        }
    }
}

/// The first bytes and the rest; zeros where there are none.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk::<N>().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

impl Trace {
    /// Its id in hexadecimal, if it is sampled.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.sampled().map(|inner| to_hex(&inner.trace))
    }

    /// `traceparent` for the origin of a request: below the span that forwards it, where there will be one.
    #[must_use]
    pub fn traceparent(&self, is_paid: bool) -> Option<String> {
        let inner = self.0.as_ref()?;
        let span = if is_paid { &inner.forward } else { &inner.server };
        let flags = u8::from(inner.is_sampled);
        Some(format!("00-{}-{}-{flags:02x}", to_hex(&inner.trace), to_hex(span)))
    }

    /// Whether it continues its caller's.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.parent.is_some())
    }

    /// A stage that began then has ended now. Whoever measures says it to [`Metrics::stage`], which comes here.
    pub(super) fn stage(&self, stage: Stage, started: Instant) {
        let Some(inner) = self.sampled() else { return };
        if stage == Stage::Deliver {
            return self.forwarded(started);
        }
        let mut id = [0; 8];
        if getrandom::fill(&mut id).is_ok() {
            inner.child(id, stage.as_str(), Side::Internal, started);
        }
    }

    /// The origin has answered. Of a payment that is settled after its request the answer's way to the client is a span of
    /// its own.
    pub fn forwarded(&self, started: Instant) {
        let Some(inner) = self.sampled() else { return };
        if !inner.is_forwarded.swap(true, Ordering::Relaxed) {
            return inner.child(inner.forward, "forward", Side::Client, started);
        }
        let mut id = [0; 8];
        if getrandom::fill(&mut id).is_ok() {
            inner.child(id, Stage::Deliver.as_str(), Side::Internal, started);
        }
    }

    /// The request has ended. Stages may end later: a settlement goes on when its client is gone.
    pub fn finish(&self, name: &str, is_error: bool, attributes: impl FnOnce() -> Vec<(&'static str, Attribute)>) {
        let Some(inner) = self.sampled() else { return };
        inner.tracer.send(Span {
            trace: inner.trace,
            id: inner.server,
            parent: inner.parent,
            name: name.to_owned(),
            side: Side::Server,
            started: inner.began_at,
            ended: inner.unix_nanos(Instant::now()),
            attributes: attributes(),
            is_error,
        });
    }

    fn sampled(&self) -> Option<&Inner> {
        self.0.as_deref().filter(|inner| inner.is_sampled)
    }
}

impl Inner {
    fn child(&self, id: [u8; 8], name: &'static str, side: Side, started: Instant) {
        self.tracer.send(Span {
            trace: self.trace,
            id,
            parent: Some(self.server),
            name: name.to_owned(),
            side,
            started: self.unix_nanos(started),
            ended: self.unix_nanos(Instant::now()),
            attributes: Vec::new(),
            is_error: false,
        });
    }

    /// By the monotonic clock, so that no span ends before it began.
    fn unix_nanos(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.began).as_nanos();
        self.began_at.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(sampled_ppm: u32, places: usize) -> (Arc<Tracer>, mpsc::Receiver<Message>, Arc<Metrics>) {
        let (queue, spans) = mpsc::channel(places);
        let metrics = Arc::new(Metrics::new().unwrap());
        (Arc::new(Tracer { queue, sampled_ppm, metrics: Arc::clone(&metrics) }), spans, metrics)
    }

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let parent = Parent::read(GOOD).unwrap();
        assert_eq!(to_hex(&parent.trace), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled);
        assert!(!Parent::read(&GOOD.replace("-01", "-00")).unwrap().is_sampled);
        assert!(Parent::read(&format!("{}-more", GOOD.replacen("00", "01", 1))).is_some());
        for bad in [
            "",
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &GOOD.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_sampled_makes_no_span_and_its_origin_is_told_so() {
        let (tracer, mut spans, _metrics) = tracer(0, 10);
        let trace = tracer.begin(None, Instant::now(), UnixMillis(0));
        trace.stage(Stage::Verify, Instant::now());
        trace.finish("GET /a", false, || panic!("made for nothing"));
        assert!(spans.try_recv().is_err());
        assert!(trace.traceparent(true).unwrap().ends_with("-00"));
        assert_eq!(trace.id(), None);
        // But for a caller that decided otherwise.
        let trace = tracer.begin(Parent::read(GOOD), Instant::now(), UnixMillis(0));
        trace.finish("GET /a", false, Vec::new);
        assert!(spans.try_recv().is_ok());
        assert_eq!(trace.id().unwrap(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn a_share_of_all_requests_is_sampled() {
        let (tracer, _spans, _metrics) = tracer(250_000, 1);
        let sampled = (0..4000).filter(|_| tracer.begin(None, Instant::now(), UnixMillis(0)).id().is_some()).count();
        assert!((800..1200).contains(&sampled), "{sampled} of 4000");
    }

    #[test]
    fn a_full_queue_costs_spans_that_are_counted() {
        let (tracer, _spans, metrics) = tracer(1_000_000, 2);
        let trace = tracer.begin(None, Instant::now(), UnixMillis(0));
        for _ in 0..5 {
            trace.stage(Stage::Verify, Instant::now());
        }
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains(r#"tollhouse_spans_dropped_total{reason="queue_full"} 3"#), "{text}");
    }

    #[test]
    fn without_a_tracer_there_is_nothing_to_pay_for() {
        assert_eq!(size_of::<Trace>(), size_of::<usize>());
        let trace = Trace::default();
        trace.stage(Stage::Verify, Instant::now());
        trace.finish("GET /a", false, || panic!("made for nothing"));
        assert_eq!((trace.traceparent(true), trace.id()), (None, None));
    }
}
