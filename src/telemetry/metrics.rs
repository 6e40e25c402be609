//! The metrics, all of them, with bounded labels: routes, networks, states and methods, never an address or a path
//! (threat G2).

use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::proto::Metric;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    exponential_buckets,
};

/// A stage of the money path whose latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Decode, match, check, prove the signature.
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
}

impl Stage {
    /// Every stage, in the order in which a payment comes to them.
    const ALL: [Self; 6] = [Self::Verify, Self::Simulate, Self::Claim, Self::Settle, Self::Record, Self::Deliver];

    fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Simulate => "simulate",
            Self::Claim => "claim",
            Self::Settle => "settle",
            Self::Record => "record",
            Self::Deliver => "deliver",
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
            settlements_running,
            registry,
        })
    }

    /// A request was answered.
    pub fn request(&self, route: &str, outcome: &str) {
        self.requests.with_label_values(&[route, outcome]).inc();
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

    /// A stage of the money path took this long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stage_seconds.with_label_values(&[stage.as_str()]).observe(took.as_secs_f64());
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

    /// How many settlements have no proven outcome yet.
    pub fn settlements_running(&self, count: usize) {
        self.settlements_running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A ledger invariant broke.
    pub fn invariant_violated(&self, invariant: &str) {
        self.invariant_violations.with_label_values(&[invariant]).inc();
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

    #[test]
    fn alerts_and_board_watch_metrics_that_exist() {
        let metrics = Metrics::new().unwrap();
        // A vector shows nothing until it has a member.
        metrics.request("GET /a", "free");
        metrics.payment("eip155:1", "paid");
        metrics.refusal("expired");
        metrics.stage(Stage::Claim, Duration::ZERO);
        metrics.rpc("eip155:1", "eth_call", "ok", Duration::ZERO);
        metrics.ledger("commit", Duration::ZERO);
        metrics.signer_balance("eip155:1", "0", 1.0);
        metrics.network_up("eip155:1", true);
        metrics.clock_skew("eip155:1", 0.0);
        metrics.invariant_violated("balance");
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
