//! The metrics, all of them, with bounded labels: routes, networks, states and methods, never an address or a path
//! (threat G2).

use std::time::{Duration, Instant};

use prometheus::core::Collector as _;
use prometheus::proto::Metric;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use super::Trace;

/// A count of one series.
pub type Counter = IntCounter;

/// A stage of the money path whose latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head until its payment is looked at: route, limits, origin.
    Match,
    /// Decode, check, prove the signature.
    Verify,
    /// Ask the chain whether the settlement would succeed.
    Simulate,
    /// W1: claim and sign.
    Claim,
    /// Broadcast until the outcome is proven.
    Settle,
    /// W2: record as paid.
    Record,
    /// From the first byte to the origin to the last byte to the client.
    Deliver,
    /// W3: record as served.
    Serve,
}

impl Stage {
    /// Every stage, in the order in which a payment comes to them.
    const ALL: [Self; 8] = [
        Self::Match,
        Self::Verify,
        Self::Simulate,
        Self::Claim,
        Self::Settle,
        Self::Record,
        Self::Deliver,
        Self::Serve,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Verify => "verify",
            Self::Simulate => "simulate",
            Self::Claim => "claim",
            Self::Settle => "settle",
            Self::Record => "record",
            Self::Deliver => "deliver",
            Self::Serve => "serve",
        }
    }
}

/// How long a stage took, as a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct StageLatency {
    /// The stage's word in metrics.
    pub stage: &'static str,
    /// How often it was measured.
    pub count: u64,
    /// All of it together, in seconds.
    pub seconds_total: f64,
    /// Upper bounds in seconds, rising, and how many took no longer.
    pub buckets: Vec<(f64, u64)>,
}

impl StageLatency {
    fn of(metric: &Metric) -> Option<Self> {
        let label = metric.get_label().iter().find(|label| label.name() == "stage")?;
        let stage = Stage::ALL.iter().find(|stage| stage.as_str() == label.value())?;
        let histogram = metric.get_histogram();
        let bounds = histogram.get_bucket().iter();
        Some(Self {
            stage: stage.as_str(),
            count: histogram.get_sample_count(),
            seconds_total: histogram.get_sample_sum(),
            buckets: bounds.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
        })
    }
}

/// Every metric of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    payments: IntCounterVec,
    refusals: IntCounterVec,
    limited: IntCounterVec,
    stage_seconds: HistogramVec,
    rpc_calls: IntCounterVec,
    rpc_seconds: HistogramVec,
    ledger_seconds: HistogramVec,
    signer_balance: GaugeVec,
    signer_payments_left: GaugeVec,
    offers_below_fee: GaugeVec,
    network_up: GaugeVec,
    clock_skew: GaugeVec,
    settlements_running: IntGauge,
    invariant_violations: IntCounterVec,
    access_lines_dropped: IntCounter,
    spans_exported: IntCounter,
    spans_dropped: IntCounterVec,
}

impl Metrics {
    /// Registers everything in a registry of its own.
    ///
    /// # Errors
    /// When two metrics share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let buckets = exponential_buckets(0.000_1, 2.5, 15)?;
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let settlements_running =
            IntGauge::new("tollhouse_settlements_running", "Settlements whose outcome is not proven yet")?;
        registry.register(Box::new(settlements_running.clone()))?;
        let plain = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Self {
            requests: counter("tollhouse_requests_total", "Requests by route and outcome", &["route", "outcome"])?,
            payments: counter("tollhouse_payments_total", "Payments that entered a state", &["network", "state"])?,
            refusals: counter("tollhouse_refusals_total", "Refused payments by reason", &["reason"])?,
            limited: counter("tollhouse_limited_total", "Requests turned away by a limit", &["limit"])?,
            stage_seconds: histogram("tollhouse_stage_seconds", "Latency of the money path by stage", &["stage"])?,
            rpc_calls: counter(
                "tollhouse_rpc_calls_total",
                "Calls to chain nodes, members of a batch one each",
                &["network", "method", "outcome"],
            )?,
            rpc_seconds: histogram("tollhouse_rpc_seconds", "Latency of calls to chain nodes", &["network", "method"])?,
            ledger_seconds: histogram("tollhouse_ledger_seconds", "Latency of ledger operations", &["operation"])?,
            signer_balance: gauge(
                "tollhouse_signer_balance",
                "Balance of a gas payer in whole native units",
                &["network", "signer"],
            )?,
            signer_payments_left: gauge(
                "tollhouse_signer_payments_left",
                "Settlements that a gas payer's balance lasts for at today's fees",
                &["network", "signer"],
            )?,
            offers_below_fee: gauge(
                "tollhouse_offers_below_fee",
                "Offers whose price doesn't cover their settlement's expected fee, and which are left out",
                &["network"],
            )?,
            network_up: gauge("tollhouse_network_up", "Whether payments are taken on a network", &["network"])?,
            clock_skew: gauge(
                "tollhouse_clock_skew_seconds",
                "How far the newest block's clock was ahead of the local one",
                &["network"],
            )?,
            invariant_violations: counter(
                "tollhouse_invariant_violations_total",
                "Broken ledger invariants: each needs an operator",
                &["invariant"],
            )?,
            access_lines_dropped: plain(
                "tollhouse_access_lines_dropped_total",
                "Lines of the access log that were not written",
            )?,
            spans_exported: plain("tollhouse_spans_exported_total", "Spans that the collector took")?,
            spans_dropped: counter(
                "tollhouse_spans_dropped_total",
                "Spans that were not exported, by reason",
                &["reason"],
            )?,
            settlements_running,
            registry,
        })
    }

    /// A request was answered.
    pub fn request(&self, route: &str, outcome: &str) {
        self.requests(route, outcome).inc();
    }

    /// What counts requests of a route that came to the same: looking it up takes longer than counting.
    #[must_use]
    pub fn requests(&self, route: &str, outcome: &str) -> Counter {
        self.requests.with_label_values(&[route, outcome])
    }

    /// A payment entered a state.
    pub fn payment(&self, network: &str, state: &str) {
        self.payments.with_label_values(&[network, state]).inc();
    }

    /// A payment was refused.
    pub fn refusal(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// A limit turned a request away.
    pub fn limited(&self, limit: &str) {
        self.limited.with_label_values(&[limit]).inc();
    }

    /// A stage of the money path that began then has ended now, for this request.
    pub fn stage(&self, stage: Stage, started: Instant, trace: &Trace) {
        self.stage_seconds.with_label_values(&[stage.as_str()]).observe(started.elapsed().as_secs_f64());
        trace.stage(stage, started);
    }

    /// A node was called. `outcome` is `ok`, `error` (the node said no) or `unanswered`.
    pub fn rpc(&self, network: &str, method: &str, outcome: &str, took: Duration) {
        self.rpc_calls.with_label_values(&[network, method, outcome]).inc();
        self.rpc_seconds.with_label_values(&[network, method]).observe(took.as_secs_f64());
    }

    /// A ledger operation took this long.
    pub fn ledger(&self, operation: &str, took: Duration) {
        self.ledger_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// A gas payer's balance in whole native units.
    pub fn signer_balance(&self, network: &str, signer: &str, balance: f64) {
        self.signer_balance.with_label_values(&[network, signer]).set(balance);
    }

    /// How many settlements a gas payer's balance lasts for.
    pub fn signer_payments_left(&self, network: &str, signer: &str, count: f64) {
        self.signer_payments_left.with_label_values(&[network, signer]).set(count);
    }

    /// How many of the routes' offers are left out since their price doesn't cover their fee.
    pub fn offers_below_fee(&self, network: &str, count: f64) {
        self.offers_below_fee.with_label_values(&[network]).set(count);
    }

    /// Whether payments are taken on a network.
    pub fn network_up(&self, network: &str, is_up: bool) {
        self.network_up.with_label_values(&[network]).set(if is_up { 1.0 } else { 0.0 });
    }

    /// How far a chain's clock was ahead of the local one.
    pub fn clock_skew(&self, network: &str, secs: f64) {
        self.clock_skew.with_label_values(&[network]).set(secs);
    }

    /// A network is not in business any more, and says nothing of itself from now on; nor do its so many gas payers.
    pub fn forget_network(&self, network: &str, signers: usize) {
        // What was never told can't be forgotten, which is as good.
        for gauge in [&self.network_up, &self.clock_skew, &self.offers_below_fee] {
            let _unknown = gauge.remove_label_values(&[network]);
        }
        for index in (0..signers).map(|index| index.to_string()) {
            for gauge in [&self.signer_balance, &self.signer_payments_left] {
                let _unknown = gauge.remove_label_values(&[network, &index]);
            }
        }
    }

    /// How many settlements have no proven outcome yet.
    pub fn settlements_running(&self, count: usize) {
        self.settlements_running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A ledger invariant broke.
    pub fn invariant_violated(&self, invariant: &str) {
        self.invariant_violations.with_label_values(&[invariant]).inc();
    }

    /// Lines of the access log were lost.
    pub fn access_lines_dropped(&self, count: u64) {
        self.access_lines_dropped.inc_by(count);
    }

    /// The collector took spans.
    pub fn spans_exported(&self, count: u64) {
        self.spans_exported.inc_by(count);
    }

    /// Spans were lost: `queue_full`, `export_failed` or `rejected` by the collector.
    pub fn spans_dropped(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.spans_dropped.with_label_values(&[reason]).inc_by(count);
        }
    }

    /// How long each stage took so far; stages that no payment came to are left out.
    #[must_use]
    pub fn stage_latencies(&self) -> Vec<StageLatency> {
        let families = self.stage_seconds.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let mut latencies: Vec<StageLatency> = metrics.filter_map(StageLatency::of).collect();
        latencies.sort_by_key(|latency| Stage::ALL.iter().position(|stage| stage.as_str() == latency.stage));
        latencies
    }

    /// Everything in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric can't be encoded.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_renders() {
        let metrics = Metrics::new().unwrap();
        metrics.request("GET /a", "free");
        metrics.rpc("eip155:1", "eth_call", "ok", Duration::from_millis(3));
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains(r#"tollhouse_requests_total{outcome="free",route="GET /a"} 1"#), "{text}");
        assert!(text.contains("tollhouse_rpc_seconds_bucket"), "{text}");
    }

    /// Everything at once, so that every metric has something to show.
    fn exercise(metrics: &Metrics) {
        let took = Duration::from_millis(1);
        metrics.request("GET /a", "free");
        metrics.payment("eip155:1", "paid");
        metrics.refusal("x");
        metrics.limited("x");
        metrics.stage(Stage::Match, Instant::now(), &Trace::default());
        metrics.rpc("eip155:1", "eth_call", "ok", took);
        metrics.ledger("claim", took);
        metrics.signer_balance("eip155:1", "0", 1.0);
        metrics.signer_payments_left("eip155:1", "0", 1.0);
        metrics.offers_below_fee("eip155:1", 0.0);
        metrics.network_up("eip155:1", true);
        metrics.clock_skew("eip155:1", 0.0);
        metrics.settlements_running(1);
        metrics.invariant_violated("x");
        metrics.access_lines_dropped(1);
        metrics.spans_exported(1);
        metrics.spans_dropped("queue_full", 1);
    }

    /// Name, type and labels, sorted.
    type Row = (String, String, Vec<String>);

    fn shown() -> Vec<Row> {
        let metrics = Metrics::new().unwrap();
        exercise(&metrics);
        let families = metrics.registry.gather();
        let row = |family: &prometheus::proto::MetricFamily| {
            let labels = family.get_metric()[0].get_label().iter().map(|label| label.name().to_owned()).collect();
            (family.name().to_owned(), format!("{:?}", family.get_field_type()).to_lowercase(), labels)
        };
        families.iter().map(row).collect()
    }

    /// The table in the operators' documentation.
    fn documented() -> Vec<Row> {
        let words = |cell: &str| {
            let mut words: Vec<_> = cell
                .split(',')
                .map(|word| word.trim().trim_matches('`').to_owned())
                .filter(|w| !w.is_empty())
                .collect();
            words.sort();
            words
        };
        let text = include_str!("../../docs/operations.md");
        let mut rows: Vec<Row> = text
            .lines()
            .filter(|line| line.starts_with("| `tollhouse_"))
            .map(|line| {
                let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
                let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {line}") };
                assert!(!meaning.is_empty(), "{line}");
                (name.trim_matches('`').to_owned(), kind.to_owned(), words(labels))
            })
            .collect();
        rows.sort();
        rows
    }

    #[test]
    fn the_documentation_has_every_metric_with_its_type_and_labels_and_no_other() {
        assert_eq!(documented(), shown());
        // What is exercised is all there is.
        let source = include_str!("metrics.rs").split("#[cfg(test)]").next().unwrap();
        let mut named: Vec<&str> =
            source.split('"').filter(|word| word.starts_with("tollhouse_") && !word.contains(' ')).collect();
        named.sort_unstable();
        assert_eq!(named, shown().iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>());
    }

    #[test]
    fn alerts_and_board_watch_metrics_that_exist() {
        let metrics = Metrics::new().unwrap();
        exercise(&metrics);
        let shown = String::from_utf8(metrics.render().unwrap()).unwrap();
        let shown: Vec<&str> = shown.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
        for name in ["alerts.yml", "alerts.test.yml", "grafana/boards/tollhouse.json"] {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let starts: Vec<usize> = text.match_indices("tollhouse_").map(|(at, _)| at).collect();
            assert!(starts.len() >= 10, "{name}");
            for at in starts {
                let word = text[at..].split(|char: char| !char.is_ascii_alphanumeric() && char != '_').next().unwrap();
                assert!(shown.contains(&word), "{name}: {word}");
            }
        }
    }
}
