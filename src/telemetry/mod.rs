//! What operators see: one place that names every metric. Knows nothing of requests or chains but their labels.

mod logging;
mod metrics;

pub use logging::{LoggingError, init};
pub use metrics::{Metrics, Stage, StageLatency};
