//! What operators see: metrics, traces and logs, each named in one place. Knows nothing of requests or chains but their labels.

mod access;
mod logging;
mod lossy;
mod metrics;
mod otlp;
mod trace;

use std::sync::Arc;

pub use access::{AccessLine, AccessLog, AccessTarget, PaymentFields};
pub use logging::{LogGuard, LoggingError, init, init_lossy};
pub use metrics::{Counter, Metrics, Stage, StageLatency};
pub use otlp::ExporterError;
pub use trace::{Attribute, Parent, Trace, Tracer, TracerConfig};

/// What looks on at every request, if the configuration asks for it.
#[derive(Debug, Clone, Default)]
pub struct Observers {
    /// Makes traces.
    pub tracer: Option<Arc<Tracer>>,
    /// Logs requests.
    pub access: Option<Arc<AccessLog>>,
}
