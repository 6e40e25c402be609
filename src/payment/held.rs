//! `settle = "after"`: a payment that is claimed, whose request goes to the origin, and that is settled before the origin's
//! answer is let out (threat B8).
//!
//! The claim is durable and counts the attempt, so that however often a payment is presented the origin works for it a bounded
//! number of times. Nothing is signed until the origin has answered; from then on all is as with any other payment.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::decision::Decision;
use super::flight::Flight;
use super::gate::Gate;
use super::queue::Seated;
use super::receipt::Sale;
use super::scheme::{SettlementPlan, VerifyError};
use super::settlements::Handover;
use super::verdict::{deliver, failed, pending, refused_unsettled};
use super::verify::VerifiedPayment;
use crate::ledger::{LedgerError, PaymentId, PaymentRecord, PaymentState, RecordId, Tenure};
use crate::telemetry::{Stage, Trace};

/// A claimed payment whose request may go to the origin and whose answer may not go to the client yet. Dropped, the payment is
/// let go: nothing was charged.
pub struct HeldPayment {
    open: Option<Open>,
}

struct Open {
    gate: Arc<Gate>,
    payment: VerifiedPayment,
    record: PaymentRecord,
    /// Keeps the payer's balance and the lane's place while the origin works.
    plan: Box<dyn SettlementPlan>,
    flight: Option<Flight>,
    client: IpAddr,
    trace: Trace,
    reached_origin: bool,
    /// What was in force before the claim.
    tenure: Option<Tenure>,
}

/// A settlement under way and what is needed when it ends.
struct Signed {
    record: PaymentRecord,
    handover: oneshot::Receiver<Handover>,
    flight: Option<Flight>,
}

impl HeldPayment {
    pub(super) fn new(
        gate: Arc<Gate>,
        payment: VerifiedPayment,
        record: PaymentRecord,
        plan: Box<dyn SettlementPlan>,
        flight: Option<Flight>,
        (client, trace): (IpAddr, Trace),
        tenure: Option<Tenure>,
    ) -> Self {
        Self { open: Some(Open { gate, payment, record, plan, flight, client, trace, reached_origin: false, tenure }) }
    }

    /// Whether the request may go to the origin: not once another gateway may have taken the payment over.
    #[must_use]
    pub fn may_forward(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.gate.deliveries().is_ours(open.tenure))
    }

    /// The ledger's row.
    #[must_use]
    pub fn record(&self) -> Option<&PaymentRecord> {
        self.open.as_ref().map(|open| &open.record)
    }

    /// For the origin.
    #[must_use]
    pub fn sale(&self) -> Option<Sale<'_>> {
        self.record().map(|record| Sale { record, transaction: None })
    }

    /// The request is about to reach the origin: from here on this attempt counts.
    pub fn forwarding(&mut self) {
        if let Some(open) = &mut self.open {
            open.reached_origin = true;
        }
    }

    /// The origin has answered below 400: moves the money. Only [`Decision::Deliver`] lets the answer out.
    pub async fn settle(self) -> Decision {
        let Some(open) = &self.open else { return Decision::Unavailable };
        let version = open.payment.version;
        let patience = Instant::now() + open.payment.market.settle_timeout;
        let runtime = open.gate.runtime().clone();
        // From here on nothing may depend on the request: a client that hangs up cancels no settlement.
        let signed = match tokio::time::timeout_at(patience.into(), runtime.spawn(self.sign())).await {
            Ok(Ok(Ok(signed))) => signed,
            Ok(Ok(Err(decision))) => return *decision,
            Ok(Err(error)) => {
                tracing::error!(%error, "A settlement's task died before it was signed.");
                return Decision::Unavailable;
            }
            // It goes on: signed or let go, the same payment presented later finds it so.
            Err(_elapsed) => {
                tracing::error!("A settlement after its request was not signed in time.");
                return Decision::Unavailable;
            }
        };
        let Signed { record, handover, mut flight } = signed;
        match tokio::time::timeout_at(patience.into(), handover).await {
            Ok(Ok(Handover::Paid(record, mut delivery))) => {
                // The origin has worked for it, whatever becomes of the answer.
                delivery.forwarding();
                deliver(*record, version, *delivery, &mut flight)
            }
            Ok(Ok(Handover::Failed(record))) => failed(&record, version),
            Ok(Err(_)) | Err(_) => pending(&record, version),
        }
    }

    /// Asks the chain again, since the payer had the origin's time to spend the money elsewhere, and signs (W1).
    async fn sign(mut self) -> Result<Signed, Box<Decision>> {
        let Some(open) = &self.open else { return Err(Box::new(Decision::Unavailable)) };
        let (payment, record) = (&open.payment, &open.record);
        let refuse = |reason| Box::new(refused_unsettled(record, payment.version, reason));
        payment.incoming.check(&payment.terms, open.gate.now()).map_err(refuse)?;
        let Some(place) = payment.market.queue.enter().await else {
            return Err(Box::new(Decision::SettlementsBusy));
        };
        let started = Instant::now();
        let simulated = payment.market.in_time(payment.incoming.simulate(&payment.terms)).await;
        open.gate.metrics().stage(Stage::Simulate, started, &open.trace);
        let plan: Arc<dyn SettlementPlan> = match simulated {
            Ok(plan) => Arc::new(Seated { plan, _place: place }),
            Err(VerifyError::Invalid { reason }) => return Err(refuse(reason)),
            Err(VerifyError::Unavailable { detail }) => {
                tracing::warn!(payment = %record.record, %detail, "Could not simulate a settlement after its request.");
                return Err(Box::new(Decision::Unavailable));
            }
        };
        crate::crash::point("post_answer_pre_w1");
        let signing = Arc::clone(&plan);
        let sign = Box::new(move |nonce| signing.sign(nonce).map_err(|error| error.to_string()));
        let started = Instant::now();
        let signed = open.gate.ledger().record_signed(&record.record, plan.signer().cloned(), sign).await;
        open.gate.metrics().stage(Stage::Claim, started, &open.trace);
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(%error, payment = %record.record, "A settlement was not written down; nothing was sent.");
                return Err(Box::new(Decision::Unavailable));
            }
        };
        let Some(open) = self.open.take() else { return Err(Box::new(Decision::Unavailable)) };
        open.gate.metrics().payment(signed.claim.network.as_str(), signed.state.as_str());
        crate::crash::point("post_w1_pre_send");
        let handover = open.gate.settlements().begin(signed.clone(), plan, open.client, open.trace);
        drop(open.plan);
        Ok(Signed { record: signed, handover, flight: open.flight })
    }
}

impl Drop for HeldPayment {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if let Some(flight) = &mut open.flight {
            flight.finishing();
        }
        let Open { gate, record, reached_origin, flight, .. } = open;
        let runtime = gate.runtime().clone();
        runtime.spawn(release(gate, record.record, !reached_origin, flight));
    }
}

impl fmt::Debug for HeldPayment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.open.as_ref().map(|open| &open.record.record);
        formatter.debug_struct("HeldPayment").field("record", &record).finish_non_exhaustive()
    }
}

/// Lets a claim go, again and again until that is written: while it isn't, the payment must not be presented again here.
pub(super) async fn release(gate: Arc<Gate>, record: RecordId, uncount: bool, flight: Option<Flight>) {
    let mut pause = Duration::from_millis(20);
    loop {
        match gate.ledger().release(&record, uncount).await {
            Ok(released) => {
                gate.metrics().payment(released.claim.network.as_str(), released.state.as_str());
                tracing::info!(payment = %record, attempts = released.deliveries, "Payment released: nothing was charged.");
                break;
            }
            // Signed after all, as the answer to the write was lost: the sweep settles it. Or let go by whoever took it over.
            Err(
                error @ (LedgerError::IllegalStep { .. } | LedgerError::Missing(_) | LedgerError::HeldElsewhere(_)),
            ) => {
                tracing::warn!(%error, payment = %record, "A claim was not let go.");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, payment = %record, "Could not let a claim go; trying again.");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
    drop(flight);
}

/// A claim that may have been written though nobody was told: lets it go if it was. Meanwhile its flight keeps the payment from
/// being presented again here, so that the row is nobody else's of this process.
pub(super) async fn release_lost(gate: Arc<Gate>, id: PaymentId, flight: Option<Flight>) {
    let mut pause = Duration::from_millis(20);
    loop {
        match gate.ledger().find(&id).await {
            Ok(Some(row)) if row.state == PaymentState::Forwarded => {
                return release(gate, row.record, true, flight).await;
            }
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, payment = %id, "What became of a claim could not be read; trying again.");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
}
