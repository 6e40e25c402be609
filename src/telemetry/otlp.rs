//! Sends spans to a collector: OTLP over HTTP with protobuf bodies (opentelemetry.io/docs/specs/otlp). A collector that fails
//! costs spans, which are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan, Status, span, status};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::Metrics;
use super::trace::{Attribute, Side, Span, TracerConfig};

/// Spans that are sent at once.
const BATCH_SPANS: usize = 512;

/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait before what the collector could not take is sent again; it is given up after the last.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How often a failure is told of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Why traces can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// A header's name or value can't be sent.
    #[error("the header {0:?} can't be sent")]
    Header(String),
    /// The client can't be built.
    #[error("{0}")]
    Client(String),
}

pub(super) enum Message {
    Span(Span),
    Flush(oneshot::Sender<()>),
}

pub(super) struct Exporter {
    client: reqwest::Client,
    url: String,
    service_name: String,
    metrics: Arc<Metrics>,
    complained: Option<Instant>,
}

/// Why a try did not succeed.
struct Failure {
    what: String,
    may_retry: bool,
}

impl Exporter {
    pub fn new(config: &TracerConfig, metrics: Arc<Metrics>) -> Result<Self, ExporterError> {
        // Idempotent; the client refuses to be built without a provider.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let mut headers = reqwest::header::HeaderMap::new();
        for (name, value) in &config.headers {
            let bad = || ExporterError::Header(name.clone());
            let mut value = reqwest::header::HeaderValue::from_str(value).map_err(|_error| bad())?;
            value.set_sensitive(true);
            let name: reqwest::header::HeaderName = name.parse().map_err(|_error| bad())?;
            headers.insert(name, value);
        }
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .build()
            .map_err(|error| ExporterError::Client(error.without_url().to_string()))?;
        let url = format!("{}/v1/traces", config.endpoint.trim_end_matches('/'));
        Ok(Self { client, url, service_name: config.service_name.clone(), metrics, complained: None })
    }

    /// Ends when the tracer was dropped and all is sent.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(first) = queue.recv().await {
            let deadline = tokio::time::Instant::now() + BATCH_WAIT;
            let mut batch = Vec::new();
            let mut waiting = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Span(span) => batch.push(span),
                    Message::Flush(done) => waiting = Some(done),
                }
                if batch.len() >= BATCH_SPANS || waiting.is_some() {
                    break;
                }
                next = tokio::time::timeout_at(deadline, queue.recv()).await.ok().flatten();
            }
            if !batch.is_empty() {
                self.export(batch).await;
            }
            if let Some(done) = waiting {
                let _gone = done.send(());
            }
        }
    }

    async fn export(&mut self, batch: Vec<Span>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let body = bytes_of(batch, &self.service_name);
        let mut pauses = PAUSES.iter();
        let failure = loop {
            let failure = match self.send(body.clone()).await {
                Ok(rejected) => {
                    self.metrics.spans_exported(count.saturating_sub(rejected));
                    self.metrics.spans_dropped("rejected", rejected);
                    return;
                }
                Err(failure) => failure,
            };
            match pauses.next() {
                Some(pause) if failure.may_retry => tokio::time::sleep(*pause).await,
                _ => break failure,
            }
        };
        self.metrics.spans_dropped("export_failed", count);
        if self.complained.is_none_or(|told| told.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(error = failure.what, "The collector does not take traces; they are dropped.");
        }
    }

    /// How many the collector took and would not have.
    async fn send(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let request = self.client.post(&self.url).header("content-type", "application/x-protobuf").body(body);
        let answer =
            request.send().await.map_err(|error| Failure { what: error.without_url().to_string(), may_retry: true })?;
        let status = answer.status();
        if !status.is_success() {
            // The specification's list.
            let may_retry = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            return Err(Failure { what: format!("the collector answered {status}"), may_retry });
        }
        let answer = answer.bytes().await.ok().and_then(|body| ExportTraceServiceResponse::decode(body).ok());
        let rejected = answer.and_then(|answer| answer.partial_success).map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

fn bytes_of(batch: Vec<Span>, service_name: &str) -> Vec<u8> {
    let text = |key: &'static str, value: &str| to_wire((key, Attribute::Text(value.to_owned())));
    let resource = Resource {
        attributes: vec![text("service.name", service_name), text("service.version", env!("CARGO_PKG_VERSION"))],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: env!("CARGO_PKG_NAME").to_owned(), ..InstrumentationScope::default() };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: batch.into_iter().map(wire_span).collect(), ..ScopeSpans::default() };
    let resource_spans =
        ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

fn wire_span(span: Span) -> WireSpan {
    let kind = match span.side {
        Side::Server => span::SpanKind::Server,
        Side::Internal => span::SpanKind::Internal,
        Side::Client => span::SpanKind::Client,
    };
    let status = Status { code: status::StatusCode::Error.into(), ..Status::default() };
    WireSpan {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: span.started,
        end_time_unix_nano: span.ended,
        attributes: span.attributes.into_iter().map(to_wire).collect(),
        status: span.is_error.then_some(status),
        // The trace is sampled, or there would be no span.
        flags: 1,
        ..WireSpan::default()
    }
}

fn to_wire((key, value): (&'static str, Attribute)) -> KeyValue {
    let value = match value {
        Attribute::Text(text) => any_value::Value::StringValue(text),
        Attribute::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
