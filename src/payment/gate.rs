//! The gate: what a presented payment gets. Every row of contract §3 that concerns money is decided here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::ledger::{
    ClaimOutcome, DeliveryBegun, ForwardOutcome, Ledger, LedgerError, NewPayment, PaymentRecord, RecordId,
};
use crate::protocol::{QuoteKey, Reason};
use crate::telemetry::{Metrics, Stage, Trace};
use crate::types::{Clock, Network, UnixMillis};

use super::decision::Decision;
use super::delivery::Deliveries;
use super::flight::{Entered, Flight, Flights};
use super::held::{HeldPayment, release, release_lost};
use super::markets::Markets;
use super::priced::Market;
use super::purchase::{new_payment, presentation};
use super::queue::{Place, Seated, StandingAside};
use super::receipt::success_response;
use super::request::PaidRequest;
use super::scheme::{SettlementPlan, VerifyError};
use super::settlements::{Handover, Settlements};
use super::standing::{Presentation, Standing};
use super::verdict::{deliver, ended, failed, pending};
use super::verify::{VerifiedPayment, refused};

/// How often a decision is looked up again after the ledger changed under it.
const LOOKUPS_MAX: usize = 8;

/// How the gate does business.
#[derive(Debug, Clone)]
pub struct GateRules {
    /// How often a paid request may be sent to its origin in all.
    pub deliveries_max: u32,
    /// How long after settlement a payment may be presented again.
    pub redeliver_for: Duration,
    /// How long finished payments are kept.
    pub retention: Duration,
}

/// Decides what a presented payment gets, and carries it there.
pub struct Gate {
    flights: Arc<Flights>,
    settlements: Arc<Settlements>,
    markets: Arc<Markets>,
    deliveries: Arc<Deliveries>,
    quote_key: QuoteKey,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    rules: GateRules,
    /// Networks with whose chains the books were compared, and under which registration with the ledger.
    compared: DashMap<Network, Option<i64>>,
}

/// What one look at the ledger led to.
enum Step {
    Done(Decision),
    Wait(Box<PaymentRecord>, oneshot::Receiver<Handover>),
    Forward(Box<PaymentRecord>, Box<dyn SettlementPlan>),
    LookAgain,
}

/// A settlement that would succeed, and its place among those of its network.
struct Planned {
    plan: Box<dyn SettlementPlan>,
    place: Place,
}

impl Gate {
    /// A gate over a ledger and its markets. `runtime` runs what must outlive a request: claims, settlements, endings.
    #[must_use]
    pub fn new(
        ledger: Arc<dyn Ledger>,
        markets: HashMap<Network, Arc<Market>>,
        quote_key: QuoteKey,
        rules: GateRules,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        let deliveries = Arc::new(Deliveries {
            ledger,
            runtime,
            deliveries_max: rules.deliveries_max,
            metrics: Arc::clone(&metrics),
        });
        let markets = Markets::new(markets);
        let settlements = Settlements::new(Arc::clone(&markets), Arc::clone(&deliveries));
        let flights = Arc::new(Flights::default());
        Arc::new(Self {
            flights,
            settlements,
            markets,
            deliveries,
            quote_key,
            clock,
            metrics,
            rules,
            compared: DashMap::new(),
        })
    }

    pub(super) fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.deliveries.ledger
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    pub(super) fn market(&self, network: &Network) -> Option<Arc<Market>> {
        self.markets.get(network)
    }

    /// Every network of business, as of now.
    #[must_use]
    pub fn markets(&self) -> Arc<HashMap<Network, Arc<Market>>> {
        self.markets.all()
    }

    pub(super) fn open_markets(&self) -> &Markets {
        &self.markets
    }

    pub(super) fn deliveries(&self) -> &Deliveries {
        &self.deliveries
    }

    pub(super) fn settlements(&self) -> &Arc<Settlements> {
        &self.settlements
    }

    /// The books are not behind this network's chain, under the registration with the ledger of this epoch.
    pub(super) fn set_compared(&self, network: &Network, epoch: Option<i64>) {
        self.compared.insert(network.clone(), epoch);
    }

    pub(super) fn forget_compared(&self, network: &Network) {
        self.compared.remove(network);
    }

    /// Whether what the books call due may be answered: not while they may be an old copy (threat E13). A registration anew may
    /// be with other books.
    pub(super) fn is_compared(&self, market: &Market) -> bool {
        let epoch = self.ledger().tenure().map(|tenure| tenure.epoch);
        let compared = self.compared.get(market.scheme.network()).map(|compared| *compared);
        !market.scheme.counts_nonces() || compared == Some(epoch)
    }

    pub(super) fn rules(&self) -> &GateRules {
        &self.rules
    }

    pub(super) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.deliveries.runtime
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The key under which offers are sealed.
    #[must_use]
    pub fn quote_key(&self) -> &QuoteKey {
        &self.quote_key
    }

    /// Waits until no request and no settlement is running, or until the time is up. Settlements go on either way.
    pub async fn drain(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && (self.flights.len() > 0 || self.settlements.running() > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Claims and settles a payment, or finds what it bought earlier.
    pub async fn admit(self: &Arc<Self>, payment: VerifiedPayment, request: PaidRequest<'_>) -> Decision {
        crate::crash::point("pre_m0");
        let flight = match self.flights.enter(&payment.facts().id, request.fingerprint).await {
            Entered::Flight(flight) => flight,
            Entered::Occupied => return Decision::InProgress,
            Entered::OccupiedByOther => return self.beside_another(&payment, &request).await,
        };
        crate::crash::point("post_m0");
        let patience = Instant::now() + payment.market.settle_timeout;
        let tenure = self.ledger().tenure();
        let mut flight = Some(flight);
        for _ in 0..LOOKUPS_MAX {
            let step = self.look(&payment, &request, &mut flight).await;
            let (record, handover) = match step {
                Step::Done(decision) => return decision,
                Step::LookAgain => continue,
                Step::Forward(record, plan) => {
                    let asker = (request.client, request.trace);
                    let held = HeldPayment::new(Arc::clone(self), payment, *record, plan, flight, asker, tenure);
                    return Decision::Forward(Box::new(held));
                }
                Step::Wait(record, handover) => (record, handover),
            };
            match tokio::time::timeout_at(patience.into(), handover).await {
                Ok(Ok(Handover::Paid(record, delivery))) => {
                    return deliver(*record, payment.version, *delivery, &mut flight);
                }
                Ok(Ok(Handover::Failed(record))) => return failed(&record, payment.version),
                // The settlement ended as nobody waited: the ledger knows how.
                Ok(Err(_closed)) => {}
                Err(_elapsed) => return pending(&record, payment.version),
            }
        }
        tracing::error!(payment = %payment.facts().id, "A payment's state changed again and again under one request.");
        Decision::InProgress
    }

    /// A payment that is being worked on for another request. Who came first with it isn't its holder for that: the books say who
    /// is, and nobody is turned away for good while they don't.
    async fn beside_another(&self, payment: &VerifiedPayment, request: &PaidRequest<'_>) -> Decision {
        match self.ledger().find(&payment.facts().id).await {
            Ok(found) if Standing::of(found.as_ref(), &presentation(payment, request)) == Standing::Bound => {
                Decision::BoundToOtherRequest
            }
            Ok(_) => Decision::InProgress,
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                Decision::InProgress
            }
        }
    }

    /// What [`Self::admit`] would do at first sight, without doing it: nothing is written, claimed or sent.
    ///
    /// # Errors
    /// The decision, where it would not settle or deliver.
    pub(super) async fn preview(&self, payment: &VerifiedPayment, request: &PaidRequest<'_>) -> Result<(), Decision> {
        let found = self.ledger().find(&payment.facts().id).await.map_err(|error| {
            tracing::error!(%error, "The ledger did not answer.");
            Decision::Unavailable
        })?;
        let standing = Standing::of(found.as_ref(), &presentation(payment, request));
        match (standing, found) {
            (Standing::New, _) => self.plan(payment, request).await.map(drop),
            (Standing::Pending | Standing::Redeliver, _) => Ok(()),
            (Standing::InFlight, _) => Err(Decision::InProgress),
            (standing, found) => Err(ended(standing, found.as_ref(), payment.version)),
        }
    }

    /// One look at what the ledger knows, and the step that follows from it.
    async fn look(
        self: &Arc<Self>,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
        flight: &mut Option<Flight>,
    ) -> Step {
        let found = match self.ledger().find(&payment.facts().id).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                return Step::Done(Decision::Unavailable);
            }
        };
        match (Standing::of(found.as_ref(), &presentation(payment, request)), found) {
            (Standing::New, _) => match self.identified(payment, request, flight).await {
                Ok(Some((standing, record))) => self.step_of(standing, record, payment, request, flight).await,
                Ok(None) => self.settle_new(payment, request, flight).await,
                Err(decision) => Step::Done(*decision),
            },
            (standing, Some(record)) => self.step_of(standing, record, payment, request, flight).await,
            (_, None) => Step::Done(Decision::InProgress),
        }
    }

    /// The payment that the payer already made under the same name, if it did: a client that lost its payment signs another
    /// one, and must not pay twice (protocol §6). That it is the same payer is proven by the signature of this one.
    async fn identified(
        &self,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
        flight: &mut Option<Flight>,
    ) -> Result<Option<(Standing, PaymentRecord)>, Box<Decision>> {
        let (Some(identifier), None) = (&payment.identifier, payment.stale) else { return Ok(None) };
        let record = match self.ledger().find_identified(&payment.facts().payer, identifier).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                return Err(Box::new(Decision::Unavailable));
            }
        };
        let (claim, facts) = (&record.claim, payment.facts());
        let is_same_purchase = claim.fingerprint == request.fingerprint
            && claim.route == request.route
            && claim.network == payment.terms.network
            && (&claim.asset, &claim.amount, &claim.pay_to) == (&facts.asset, &facts.amount, &facts.pay_to);
        if !is_same_purchase {
            return Err(Box::new(Decision::BoundToOtherRequest));
        }
        if flight.as_ref().is_none_or(|flight| *flight.id() != claim.id) {
            // Whoever works on that payment now goes on undisturbed.
            match self.flights.enter(&claim.id, request.fingerprint).await {
                Entered::Flight(entered) => *flight = Some(entered),
                Entered::Occupied | Entered::OccupiedByOther => return Err(Box::new(Decision::InProgress)),
            }
        }
        Ok(Some((Standing::of(Some(&record), &Presentation::by_its_holder(&record, request.client)), record)))
    }

    /// The step that follows from where a known payment stands.
    async fn step_of(
        &self,
        standing: Standing,
        record: PaymentRecord,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
        flight: &mut Option<Flight>,
    ) -> Step {
        let version = payment.version;
        match standing {
            Standing::Pending | Standing::Redeliver if !self.is_compared(&payment.market) => {
                Step::Done(pending(&record, version))
            }
            Standing::Pending => match self.is_ours(&record.record).await {
                // Nobody is told to pay again for want of a place: the same payment gets its answer later.
                Ok(true) if !request.origin.reserve().await => Step::Done(pending(&record, version)),
                Ok(true) => {
                    let handover = self.settlements.join(record.clone());
                    Step::Wait(Box::new(record), handover)
                }
                // Another gateway settles it; whoever is asked next has the answer.
                Ok(false) => Step::Done(pending(&record, version)),
                Err(error) => {
                    tracing::error!(%error, payment = %record.record, "Whose a payment is could not be told.");
                    Step::Done(pending(&record, version))
                }
            },
            // The chain took its block back: until the money has moved again, it buys nothing.
            Standing::Redeliver if self.settlements.is_taken_back(&record.record) => {
                Step::Done(pending(&record, version))
            }
            Standing::Redeliver => self.redeliver(&record.record, payment, request, flight).await,
            standing => Step::Done(ended(standing, Some(&record), version)),
        }
    }

    /// A payment that nothing is known of: simulate, claim, and let the settlement run on its own.
    async fn settle_new(
        self: &Arc<Self>,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
        flight: &mut Option<Flight>,
    ) -> Step {
        let Planned { plan, place } = match self.plan(payment, request).await {
            Ok(planned) => planned,
            Err(decision) => return self.unless_known_by_now(decision, payment, request).await,
        };
        let claim = match new_payment(payment, request, plan.as_ref(), self.now()) {
            Ok(claim) => claim,
            Err(error) => {
                tracing::error!(%error, "Terms can't be written down.");
                return Step::Done(Decision::Unavailable);
            }
        };
        if request.settles_after {
            // A slow origin must not keep others from being settled: the place is taken again when the origin has answered.
            let aside = payment.market.queue.stand_aside();
            drop(place);
            let plan = Box::new(StandingAside { plan, _aside: aside });
            return self.claim_forwarded(claim, plan, payment, &request.trace, flight).await;
        }
        let plan: Arc<dyn SettlementPlan> = Arc::new(Seated { plan, _place: place });
        // From the claim on nothing may depend on the request: a client that hangs up cancels no settlement.
        let (gate, client, trace) = (Arc::clone(self), request.client, request.trace.clone());
        match self.deliveries.runtime.spawn(async move { gate.claim(claim, plan, client, trace).await }).await {
            Ok(step) => step,
            Err(error) => {
                tracing::error!(%error, "A claim's task died.");
                Step::Done(Decision::Unavailable)
            }
        }
    }

    /// What was decided, unless another gateway has claimed the payment since it was looked up: then the chain refuses it because
    /// it was settled there, and its payer must not be asked for another (threat H1).
    async fn unless_known_by_now(
        &self,
        decision: Decision,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
    ) -> Step {
        if self.ledger().tenure().is_none() {
            return Step::Done(decision);
        }
        match self.ledger().find(&payment.facts().id).await {
            Ok(found) => match Standing::of(found.as_ref(), &presentation(payment, request)) {
                Standing::New => Step::Done(decision),
                _ => Step::LookAgain,
            },
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                Step::Done(Decision::Unavailable)
            }
        }
    }

    /// Whether a payment that nothing is known of would settle now, and how.
    async fn plan(&self, payment: &VerifiedPayment, request: &PaidRequest<'_>) -> Result<Planned, Decision> {
        if let Some(reason) = payment.stale {
            return Err(refused(reason));
        }
        if let Some(detail) = payment.market.scheme.availability_of(&payment.terms.asset).refusal() {
            tracing::warn!(network = %payment.terms.network, %detail, "A payment came for a network that is closed.");
            return Err(Decision::Unavailable);
        }
        if self.settlements.spoilers.refuses(request.client, Instant::now()) {
            tracing::warn!(network = %payment.terms.network, client = %request.client, "A client's payments cost too much gas lately.");
            return Err(Decision::Unavailable);
        }
        if !request.origin.is_up().await {
            return Err(Decision::OriginDown);
        }
        // Before a place among the network's settlements: who waits for a slow origin must not keep those of others from being
        // settled (threat F8).
        if !request.origin.reserve().await {
            return Err(Decision::OriginBusy);
        }
        crate::crash::point("post_verify");
        let Some(place) = payment.market.queue.enter().await else { return Err(Decision::SettlementsBusy) };
        let started = Instant::now();
        let simulated = payment.market.in_time(payment.incoming.simulate(&payment.terms)).await;
        self.metrics.stage(Stage::Simulate, started, &request.trace);
        let plan = match simulated {
            Ok(plan) => plan,
            Err(VerifyError::Invalid { reason }) => return Err(refused(reason)),
            Err(VerifyError::Unavailable { detail }) => {
                tracing::warn!(network = %payment.terms.network, %detail, "Could not simulate a settlement.");
                return Err(Decision::Unavailable);
            }
        };
        Ok(Planned { plan, place })
    }

    /// W1. Nothing leaves the process before this returns with a claim.
    async fn claim(
        self: Arc<Self>,
        claim: NewPayment,
        plan: Arc<dyn SettlementPlan>,
        client: IpAddr,
        trace: Trace,
    ) -> Step {
        let started = Instant::now();
        let network = claim.network.clone();
        let signing = Arc::clone(&plan);
        let sign = Box::new(move |account_nonce| signing.sign(account_nonce).map_err(|error| error.to_string()));
        let outcome = self.ledger().claim(claim, sign).await;
        self.metrics.stage(Stage::Claim, started, &trace);
        match outcome {
            Ok(ClaimOutcome::Claimed(record)) => {
                self.metrics.payment(network.as_str(), "signed");
                crate::crash::point("post_w1_pre_send");
                let handover = self.settlements.begin(record.clone(), plan, client, trace);
                Step::Wait(Box::new(record), handover)
            }
            Ok(ClaimOutcome::Exists(_)) => Step::LookAgain,
            Err(error @ (LedgerError::NotWritten(_) | LedgerError::NotSigned(_) | LedgerError::HeldElsewhere(_))) => {
                tracing::error!(%error, "A claim was not written; nothing was sent.");
                Step::Done(Decision::Unavailable)
            }
            // If the row is there after all, the sweep finds and settles it; the payer gets no new terms meanwhile.
            Err(error) => {
                tracing::error!(%error, "A claim may or may not have been written.");
                Step::Done(Decision::Unavailable)
            }
        }
    }

    /// The claim of a payment that is settled after its request. Durable before anything reaches the origin.
    async fn claim_forwarded(
        self: &Arc<Self>,
        claim: NewPayment,
        plan: Box<dyn SettlementPlan>,
        payment: &VerifiedPayment,
        trace: &Trace,
        flight: &mut Option<Flight>,
    ) -> Step {
        let started = Instant::now();
        let (network, id) = (claim.network.clone(), claim.id.clone());
        let (gate, attempts_max) = (Arc::clone(self), self.rules.deliveries_max);
        // It may be written though the request is gone by then, or though nobody is told: then it is let go, with the flight.
        let (sender, receiver) = oneshot::channel();
        let flown = flight.take();
        self.deliveries.runtime.spawn(async move {
            let outcome = gate.ledger().claim_forwarded(claim, attempts_max).await;
            if matches!(outcome, Err(LedgerError::Unknown(_))) {
                let _gone = sender.send((outcome, None));
                return release_lost(gate, id, flown).await;
            }
            if let Err((Ok(ForwardOutcome::Claimed(record)), flown)) = sender.send((outcome, flown)) {
                release(gate, record.record, true, flown).await;
            }
        });
        let outcome = tokio::time::timeout(payment.market.settle_timeout, receiver).await;
        self.metrics.stage(Stage::Claim, started, trace);
        let Ok(outcome) = outcome else {
            tracing::error!("A claim was not written in time; nothing was forwarded.");
            return Step::Done(Decision::Unavailable);
        };
        let outcome = outcome.map(|(outcome, flown)| {
            *flight = flown;
            outcome
        });
        match outcome {
            Ok(Ok(ForwardOutcome::Claimed(record))) => {
                self.metrics.payment(network.as_str(), record.state.as_str());
                crate::crash::point("post_claim_pre_forward");
                Step::Forward(Box::new(record), plan)
            }
            Ok(Ok(ForwardOutcome::Exists(_))) => Step::LookAgain,
            Ok(Err(LedgerError::AttemptsSpent)) => Step::Done(refused(Reason::AttemptsSpent)),
            Ok(Err(error)) => {
                tracing::error!(%error, "A claim was not written, or is not known to be; nothing was forwarded.");
                Step::Done(Decision::Unavailable)
            }
            Err(_died) => Step::Done(Decision::Unavailable),
        }
    }

    async fn redeliver(
        &self,
        record: &RecordId,
        payment: &VerifiedPayment,
        request: &PaidRequest<'_>,
        flight: &mut Option<Flight>,
    ) -> Step {
        let version = payment.version;
        if !request.origin.is_up().await {
            return Step::Done(Decision::OriginDown);
        }
        if !request.origin.reserve().await {
            return Step::Done(Decision::OriginBusy);
        }
        let redeliver_for = i64::try_from(self.rules.redeliver_for.as_millis()).unwrap_or(i64::MAX);
        let settled_after = UnixMillis(self.now().0.saturating_sub(redeliver_for));
        // As with a claim: a count that nobody answers for would keep the payment from its payer until the next start.
        let (deliveries, record, mut flown) = (Arc::clone(&self.deliveries), record.clone(), flight.take());
        let beginning = self.deliveries.runtime.spawn(async move {
            let (begun, mut delivery) = deliveries.begin(&record, settled_after).await;
            if let Some(delivery) = &mut delivery
                && let Some(flight) = flown.take()
            {
                delivery.hold(flight);
            }
            (begun, delivery, flown)
        });
        let (begun, delivery) = match tokio::time::timeout(payment.market.settle_timeout, beginning).await {
            Ok(Ok((begun, delivery, flown))) => {
                *flight = flown;
                (begun, delivery)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "A delivery's task died.");
                return Step::Done(Decision::Unavailable);
            }
            // It goes on with the flight, and gives back what it began.
            Err(_elapsed) => {
                tracing::error!("A delivery was not recorded in time.");
                return Step::Done(Decision::Unavailable);
            }
        };
        match begun {
            Ok(DeliveryBegun::Begun(record)) => match delivery {
                Some(delivery) => Step::Done(deliver(record, version, delivery, flight)),
                None => Step::Done(Decision::InProgress),
            },
            Ok(DeliveryBegun::Owed(record)) => Step::Done(Decision::Owed(Box::new(success_response(&record, version)))),
            Ok(DeliveryBegun::NotPaid(_)) => Step::LookAgain,
            Err(error) => {
                tracing::error!(%error, "A delivery could not be recorded.");
                Step::Done(Decision::Unavailable)
            }
        }
    }
}
