//! Whether the gateway is well: for load balancers, supervisors and Prometheus.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;

use super::{Admin, problem};
use crate::payment::scheme::Availability;
use crate::service::Answer;

/// How long a ledger may take to prove that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long such a proof is believed: each is a durable write.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);

impl Admin {
    pub(super) async fn health(&self) -> Answer {
        let (is_serving, has_ledger) = (self.is_serving.load(Ordering::Acquire), self.probe().await);
        let is_healthy = is_serving && has_ledger;
        let body = json!({ "status": status_word(is_healthy), "serving": is_serving, "ledger": has_ledger });
        Answer::json(status_code(is_healthy), &body)
    }

    pub(super) async fn readiness(&self) -> Answer {
        let mut networks = serde_json::Map::new();
        let mut has_open_network = false;
        for chain in self.in_force.chains().iter() {
            let state = match chain.scheme.availability().refusal() {
                None => {
                    has_open_network = true;
                    json!({ "ready": true })
                }
                Some(detail) => json!({ "ready": false, "detail": detail }),
            };
            networks.insert(chain.scheme.network().as_str().to_owned(), state);
        }
        let is_serving = self.is_serving.load(Ordering::Acquire);
        let is_ready =
            is_serving && (has_open_network || !self.has_priced_routes.load(Ordering::Relaxed)) && self.probe().await;
        Answer::json(status_code(is_ready), &json!({ "status": status_word(is_ready), "networks": networks }))
    }

    pub(super) fn metrics(&self) -> Answer {
        for chain in self.in_force.chains().iter() {
            let is_up = chain.scheme.availability() == Availability::Ready;
            self.metrics.network_up(chain.scheme.network().as_str(), is_up);
        }
        match self.metrics.render() {
            Ok(body) => Answer::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
            Err(error) => {
                tracing::error!(%error, "Could not render the metrics.");
                problem::problem(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the log says why")
            }
        }
    }

    async fn probe(&self) -> bool {
        let mut probed = self.probed.lock().await;
        if let Some((at, is_there)) = *probed
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
        *probed = Some((Instant::now(), is_there));
        is_there
    }
}

fn status_word(is_good: bool) -> &'static str {
    if is_good { "ok" } else { "unavailable" }
}

fn status_code(is_good: bool) -> StatusCode {
    if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
