//! One delivery of a paid request: counted before it begins, and answered for whatever happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::ledger::{DeliveryBegun, Ledger, LedgerError, PaymentRecord, RecordId, Tenure};
use crate::telemetry::{Metrics, Stage, Trace};
use crate::types::UnixMillis;

use super::flight::Flight;

/// What deliveries need of their surroundings.
pub(super) struct Deliveries {
    pub ledger: Arc<dyn Ledger>,
    pub runtime: tokio::runtime::Handle,
    pub deliveries_max: u32,
    pub metrics: Arc<Metrics>,
}

impl Deliveries {
    /// Counts one more delivery of a paid request, if it may have one. Whoever lets go of what this gives gives it back: also
    /// one of which it is unknown whether it was counted, or the row would stay with nobody as long as this process lives.
    pub async fn begin(
        self: &Arc<Self>,
        record: &RecordId,
        settled_after: UnixMillis,
    ) -> (Result<DeliveryBegun, LedgerError>, Option<Delivery>) {
        let tenure = self.ledger.tenure();
        let begun = self.ledger.record_delivering(record, self.deliveries_max, settled_after).await;
        let delivery = match &begun {
            Ok(DeliveryBegun::Begun(_)) | Err(LedgerError::Unknown(_)) => {
                Some(Delivery::new(record.clone(), Arc::clone(self), tenure))
            }
            _ => None,
        };
        (begun, delivery)
    }

    /// Whether what was written down under this tenure is still in this process's hands.
    pub fn is_ours(&self, tenure: Option<Tenure>) -> bool {
        let epoch = tenure.map(|tenure| tenure.epoch);
        self.ledger.tenure().is_none_or(|now| Some(now.epoch) == epoch && now.is_running())
    }
}

/// A counted delivery. Dropped without [`Delivery::served`], it is recorded as undelivered, uncounted if the request never
/// went out.
pub(super) struct Delivery {
    open: Option<Open>,
}

struct Open {
    record: RecordId,
    surroundings: Arc<Deliveries>,
    /// What was in force before the delivery was counted.
    tenure: Option<Tenure>,
    flight: Option<Flight>,
    reached_origin: bool,
    trace: Trace,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Served,
    Undelivered { uncount: bool },
}

impl Delivery {
    /// A delivery that was counted under this tenure.
    pub fn new(record: RecordId, surroundings: Arc<Deliveries>, tenure: Option<Tenure>) -> Self {
        let trace = Trace::default();
        Self { open: Some(Open { record, surroundings, tenure, flight: None, reached_origin: false, trace }) }
    }

    /// Whether the request may go to the origin: not once another gateway may have taken the payment over (threat H2).
    pub fn may_begin(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.surroundings.is_ours(open.tenure))
    }

    /// Keeps the payment's single flight until the ending is in the ledger.
    pub fn hold(&mut self, flight: Flight) {
        if let Some(open) = &mut self.open {
            open.flight = Some(flight);
        }
    }

    /// Whose trace is told of the ending.
    pub fn traced(&mut self, trace: Trace) {
        if let Some(open) = &mut self.open {
            open.trace = trace;
        }
    }

    /// How many deliveries a payment may have in all.
    pub fn deliveries_max(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.surroundings.deliveries_max)
    }

    pub fn forwarding(&mut self) {
        if let Some(open) = &mut self.open {
            open.reached_origin = true;
        }
    }

    /// Nothing is left but the ending.
    pub fn finishing(&mut self) {
        if let Some(flight) = self.open.as_mut().and_then(|open| open.flight.as_mut()) {
            flight.finishing();
        }
    }

    /// Served. What this gives ends once that is written, with whether it was.
    pub fn served(mut self) -> Option<JoinHandle<bool>> {
        self.end(|_open| Ending::Served)
    }

    fn end(&mut self, ending: impl FnOnce(&Open) -> Ending) -> Option<JoinHandle<bool>> {
        self.finishing();
        let open = self.open.take()?;
        let mut ending = ending(&open);
        if crate::crash::bug("bug_credit_twice") {
            ending = Ending::Undelivered { uncount: true };
        }
        let runtime = open.surroundings.runtime.clone();
        Some(runtime.spawn(write_ending(open, ending)))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let _writes_on = self.end(|open| Ending::Undelivered { uncount: !open.reached_origin });
    }
}

/// Writes the ending until it is written: while it isn't, the payment must not be presented again here. Whether the row
/// took it.
async fn write_ending(open: Open, ending: Ending) -> bool {
    crate::crash::point("pre_w3");
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match try_write(&open, ending).await {
            Ok(record) => {
                if matches!(ending, Ending::Served) {
                    open.surroundings.metrics.stage(Stage::Serve, started, &open.trace);
                }
                open.surroundings.metrics.payment(record.claim.network.as_str(), record.state.as_str());
                tracing::debug!(payment = %record.record, state = %record.state, "Delivery ended.");
                return true;
            }
            Err(
                error @ (LedgerError::IllegalStep { .. } | LedgerError::Missing(_) | LedgerError::HeldElsewhere(_)),
            ) => {
                tracing::error!(%error, payment = %open.record, "A delivery ended, and the payment was in another's hands or knew no delivery.");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, payment = %open.record, "Could not record a delivery's end; trying again.");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn try_write(open: &Open, ending: Ending) -> Result<PaymentRecord, LedgerError> {
    let ledger = &open.surroundings.ledger;
    match ending {
        Ending::Served => ledger.record_served(&open.record).await,
        Ending::Undelivered { uncount } => {
            ledger.record_undelivered(&open.record, open.surroundings.deliveries_max, uncount).await
        }
    }
}
