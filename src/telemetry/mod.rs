//! What operators see: one place that names every metric. Knows nothing of requests or chains but their labels.

pub mod logging;
mod metrics;

pub use metrics::{Metrics, Stage};
