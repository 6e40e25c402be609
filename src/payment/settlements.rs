//! Settlements that run on their own: no client, no shutdown of the proxy and no time-out cancels one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::oneshot;

use crate::ledger::{LedgerError, NewAttempt, PaymentRecord, PaymentState, RecordId, Settlement, Tenure};
use crate::protocol::Reason;
use crate::telemetry::{Stage, Trace};
use crate::types::{AtomicAmount, Network};

use super::delivery::{Deliveries, Delivery};
use super::markets::Markets;
use super::scheme::{AttemptError, Attempts, SettleOutcome, SettlementPlan};
use super::spoilers::Spoilers;

/// How long to wait before a ledger write that failed is tried again, at most.
const WRITE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a settlement ended, for the request that waits for it.
pub(super) enum Handover {
    /// The money moved, and the first delivery is counted.
    Paid(Box<PaymentRecord>, Box<Delivery>),
    /// The payment moved nothing.
    Failed(Box<PaymentRecord>),
}

/// How a record came to be settled.
enum Origin {
    /// Claimed just now: nobody else can have settled it. What the plan reserved (a lane's place, the payer's balance) stays
    /// reserved until the settlement has ended. Its client answers for what a failure costs.
    Claimed(Arc<dyn SettlementPlan>, IpAddr),
    /// Read from the ledger: it may have ended since.
    Read,
}

/// The settlements under way in this process.
pub(super) struct Settlements {
    markets: Arc<Markets>,
    deliveries: Arc<Deliveries>,
    running: DashMap<RecordId, Arc<Running>>,
    pub spoilers: Spoilers,
}

/// Further attempts go to the ledger.
struct LedgerAttempts<'a>(&'a Deliveries);

#[async_trait]
impl Attempts for LedgerAttempts<'_> {
    async fn record(&self, record: &RecordId, attempt: NewAttempt) -> Result<(), AttemptError> {
        let recorded = self.0.ledger.record_attempt(record, attempt).await?;
        let last = recorded.attempts.last();
        tracing::warn!(payment = %recorded.record, network = %recorded.claim.network, number = last.map(|last| last.number),
            transaction = last.map(|last| last.signed.transaction.as_str()), "Payment signed again.");
        self.0.metrics.payment(recorded.claim.network.as_str(), "signed_again");
        Ok(())
    }
}

/// A settlement under way and the request that waits for it, if any.
#[derive(Default)]
struct Running {
    claimant: Mutex<Option<oneshot::Sender<Handover>>>,
    /// Dropped with the rest when the settlement has ended.
    onlookers: Mutex<Vec<oneshot::Sender<Handover>>>,
    /// Its row says paid, and its block is gone.
    is_again: bool,
    network: Option<Network>,
    /// Of the request that claimed it.
    trace: Trace,
}

impl Running {
    fn on(record: &PaymentRecord) -> Self {
        Self { network: Some(record.claim.network.clone()), ..Self::default() }
    }

    fn wait(&self) -> oneshot::Receiver<Handover> {
        let (sender, receiver) = oneshot::channel();
        *self.claimant.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// A receiver that never gets anything and fails when the settlement has ended.
    fn look_on(&self) -> oneshot::Receiver<Handover> {
        let (sender, receiver) = oneshot::channel();
        let mut onlookers = self.onlookers.lock().unwrap_or_else(PoisonError::into_inner);
        onlookers.retain(|onlooker| !onlooker.is_closed());
        onlookers.push(sender);
        receiver
    }

    /// The request that still waits, if one does.
    fn take_claimant(&self) -> Option<oneshot::Sender<Handover>> {
        let claimant = self.claimant.lock().unwrap_or_else(PoisonError::into_inner).take();
        claimant.filter(|claimant| !claimant.is_closed())
    }
}

/// Takes a settlement out of the list however its task ends; the sweep then starts it again if it has to.
struct Registration {
    settlements: Arc<Settlements>,
    record: RecordId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.settlements.running.remove(&self.record);
        self.settlements.deliveries.metrics.settlements_running(self.settlements.running.len());
    }
}

impl Settlements {
    pub fn new(markets: Arc<Markets>, deliveries: Arc<Deliveries>) -> Arc<Self> {
        Arc::new(Self { markets, deliveries, running: DashMap::new(), spoilers: Spoilers::default() })
    }

    /// How many are under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many run on a network.
    pub fn running_on(&self, network: &Network) -> usize {
        self.running.iter().filter(|running| running.network.as_ref() == Some(network)).count()
    }

    /// Starts the settlement of a signed payment if it is not under way.
    pub fn start(self: &Arc<Self>, record: PaymentRecord) {
        self.enlist(record, Origin::Read, Trace::default());
    }

    /// Starts the settlement of a signed payment if it is not under way, and waits for its end. The receiver fails when it
    /// ended without anybody waiting: then the ledger knows how.
    pub fn join(self: &Arc<Self>, record: PaymentRecord) -> oneshot::Receiver<Handover> {
        // Its delivery is counted already, and for an answer that is gone: whoever waits is told to look, and is then counted.
        let is_counted = record.deliveries > 0;
        let running = self.enlist(record, Origin::Read, Trace::default());
        if is_counted { running.look_on() } else { running.wait() }
    }

    /// As [`Self::join`], for a payment of this client that was claimed just now under this plan.
    pub fn begin(
        self: &Arc<Self>,
        record: PaymentRecord,
        plan: Arc<dyn SettlementPlan>,
        client: IpAddr,
        trace: Trace,
    ) -> oneshot::Receiver<Handover> {
        self.enlist(record, Origin::Claimed(plan, client), trace).wait()
    }

    /// Settles a paid payment again whose block the chain took back, if that is not under way: with what was signed for it.
    pub fn restore(self: &Arc<Self>, record: PaymentRecord) {
        if let Entry::Vacant(entry) = self.running.entry(record.record.clone()) {
            entry.insert(Arc::new(Running { is_again: true, ..Running::on(&record) }));
            self.deliveries.metrics.settlements_running(self.running.len());
            self.deliveries.runtime.spawn(Arc::clone(self).run_again(record));
        }
    }

    /// Whether a payment's settlement is under way here.
    pub fn is_running(&self, record: &RecordId) -> bool {
        self.running.contains_key(record)
    }

    /// Whether a paid payment's block is known to be gone and its money has not moved again yet.
    pub fn is_taken_back(&self, record: &RecordId) -> bool {
        self.running.get(record).is_some_and(|running| running.is_again)
    }

    async fn run_again(self: Arc<Self>, record: PaymentRecord) {
        let _registration = Registration { settlements: Arc::clone(&self), record: record.record.clone() };
        let Some(market) = self.markets.get(&record.claim.network) else { return };
        let Some(undone) = &record.settlement else { return };
        tracing::error!(payment = %record.record, network = %record.claim.network, state = %record.state,
            "The chain took a settlement's block back; it is settled again.");
        self.deliveries.metrics.payment(record.claim.network.as_str(), "taken_back");
        crate::crash::point("mid_reorg");
        let epoch = self.epoch();
        let outcome = market.scheme.settle(&record, &LedgerAttempts(&self.deliveries)).await;
        if self.is_of_another_epoch(epoch, &record, &outcome) {
            return;
        }
        let ledger = &self.deliveries.ledger;
        // What is not written is found again by the next look at the chain's blocks.
        match outcome {
            SettleOutcome::Paid(settlement) => match ledger.record_settled_again(&record.record, settlement).await {
                Ok(settled) => self.note("settled_again", &settled),
                Err(error) => {
                    tracing::error!(%error, payment = %record.record, "A settlement's new block was not recorded.");
                }
            },
            SettleOutcome::Failed { reason, fee, .. } => {
                match ledger.record_reorged(&record.record, &undone.block_hash, reason.as_str(), fee).await {
                    Ok(reorged) => {
                        self.deliveries.metrics.payment(reorged.claim.network.as_str(), reorged.state.as_str());
                        tracing::error!(payment = %reorged.record, network = %reorged.claim.network, %reason,
                        amount = %reorged.claim.amount, deliveries = reorged.deliveries,
                        "A payment was undone by its chain and won't move its money again.");
                    }
                    Err(error) => {
                        tracing::error!(%error, payment = %record.record, "A payment's undoing was not recorded.")
                    }
                }
            }
        }
    }

    fn epoch(&self) -> Option<i64> {
        self.deliveries.ledger.tenure().map(|tenure| tenure.epoch)
    }

    /// Whether a failure was judged under a registration that has ended since: another gateway may have signed further attempts
    /// in between, which the judge knew nothing of. The sweep judges anew, with all of them. That money moved is true whoever
    /// saw it.
    fn is_of_another_epoch(&self, epoch: Option<i64>, record: &PaymentRecord, outcome: &SettleOutcome) -> bool {
        let is_other = matches!(outcome, SettleOutcome::Failed { .. }) && self.epoch() != epoch;
        if is_other {
            tracing::warn!(payment = %record.record, "A failure is judged anew, since the ledger's lease was lost meanwhile.");
        }
        is_other
    }

    fn enlist(self: &Arc<Self>, record: PaymentRecord, origin: Origin, trace: Trace) -> Arc<Running> {
        let running = match self.running.entry(record.record.clone()) {
            Entry::Occupied(entry) => return Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(&entry.insert(Arc::new(Running { trace, ..Running::on(&record) }))),
        };
        self.deliveries.metrics.settlements_running(self.running.len());
        let settlements = Arc::clone(self);
        self.deliveries.runtime.spawn(settlements.run(record, origin, Arc::clone(&running)));
        running
    }

    async fn run(self: Arc<Self>, record: PaymentRecord, origin: Origin, running: Arc<Running>) {
        let _registration = Registration { settlements: Arc::clone(&self), record: record.record.clone() };
        let claimed = match origin {
            Origin::Claimed(plan, client) => Some((plan, client)),
            Origin::Read if self.is_still_signed(&record.record).await => None,
            Origin::Read => return,
        };
        let Some(market) = self.markets.get(&record.claim.network) else {
            tracing::error!(payment = %record.record, network = %record.claim.network,
                "An unfinished payment is on a network that is not configured.");
            return;
        };
        let started = Instant::now();
        let epoch = self.epoch();
        let outcome = market.scheme.settle(&record, &LedgerAttempts(&self.deliveries)).await;
        if self.is_of_another_epoch(epoch, &record, &outcome) {
            return;
        }
        // Not before: between simulation and settlement the payer's balance would count for other payments too (threat C2).
        let client = claimed.map(|(_plan, client)| client);
        self.deliveries.metrics.stage(Stage::Settle, started, &running.trace);
        crate::crash::point("post_confirm_pre_w2");
        match outcome {
            SettleOutcome::Paid(settlement) => self.write_paid(&record, settlement, &running).await,
            SettleOutcome::Failed { reason, transaction, fee, .. } => {
                // On chain and signed by a gas payer: it cost us.
                let is_ours = record.attempts.iter().any(|attempt| attempt.signed.signer.is_some());
                if let Some(client) = client.filter(|_| transaction.is_some() && is_ours) {
                    self.spoilers.lost(client, Instant::now());
                }
                self.write_failed(&record, reason, transaction.as_deref(), fee, &running).await;
            }
        }
    }

    /// W2, again and again until it is written.
    async fn write_paid(&self, record: &PaymentRecord, settlement: Settlement, running: &Running) {
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        let mut claimant: Option<oneshot::Sender<Handover>> = None;
        let mut may_be_counted = false;
        loop {
            claimant = running.take_claimant().or(claimant.filter(|claimant| !claimant.is_closed()));
            let deliver = claimant.is_some();
            let ledger = &self.deliveries.ledger;
            let tenure = ledger.tenure();
            if crate::crash::bug("bug_lose_w2") {
                let paid = PaymentRecord { settlement: Some(settlement), ..record.clone() };
                return self.hand_over(paid, claimant, record.deliveries > 0, tenure);
            }
            match ledger.record_paid(&record.record, settlement.clone(), deliver).await {
                Ok(paid) => {
                    self.deliveries.metrics.stage(Stage::Record, started, &running.trace);
                    self.note("paid", &paid);
                    self.hand_over(paid, claimant, record.deliveries > 0, tenure);
                    return;
                }
                Err(error) => {
                    may_be_counted |= deliver && matches!(error, LedgerError::Unknown(_));
                    if self.is_settled_otherwise(record, &error).await {
                        if may_be_counted {
                            self.give_back(record, tenure);
                        }
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(WRITE_PAUSE_MAX);
                }
            }
        }
    }

    /// A delivery that may have been counted though nobody was told: nobody begins it, and whoever waits looks again.
    fn give_back(&self, record: &PaymentRecord, tenure: Option<Tenure>) {
        let mut lost = Delivery::new(record.record.clone(), Arc::clone(&self.deliveries), tenure);
        if record.deliveries > 0 {
            lost.forwarding();
        }
    }

    pub(super) fn hand_over(
        &self,
        paid: PaymentRecord,
        claimant: Option<oneshot::Sender<Handover>>,
        has_reached_origin: bool,
        tenure: Option<Tenure>,
    ) {
        let Some(claimant) = claimant else { return };
        let mut delivery = Delivery::new(paid.record.clone(), Arc::clone(&self.deliveries), tenure);
        if has_reached_origin {
            // Settled after its request: what the origin did stays counted, whoever is there to take the answer.
            delivery.forwarding();
        }
        // If the request is gone, the delivery drops with what we hand over, and is recorded as not begun.
        let _undelivered = claimant.send(Handover::Paid(Box::new(paid), Box::new(delivery)));
    }

    async fn write_failed(
        &self,
        record: &PaymentRecord,
        reason: Reason,
        transaction: Option<&str>,
        fee: Option<AtomicAmount>,
        running: &Running,
    ) {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.deliveries.ledger.record_failed(&record.record, reason.as_str(), transaction, fee).await {
                Ok(failed) => {
                    self.note("failed", &failed);
                    if let Some(claimant) = running.take_claimant() {
                        let _nobody_waits = claimant.send(Handover::Failed(Box::new(failed)));
                    }
                    return;
                }
                Err(error) => {
                    if self.is_settled_otherwise(record, &error).await {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(WRITE_PAUSE_MAX);
                }
            }
        }
    }

    async fn is_still_signed(&self, record: &RecordId) -> bool {
        match self.deliveries.ledger.get(record).await {
            Ok(row) => row.is_some_and(|row| row.state == PaymentState::Signed),
            Err(error) => {
                tracing::warn!(%error, payment = %record, "A payment could not be read; the sweep will try again.");
                false
            }
        }
    }

    /// Whether a write that failed need not be tried again, since the row has moved on. What it moved on to is not touched:
    /// a delivery there is somebody's, or is put back at the next start.
    async fn is_settled_otherwise(&self, record: &PaymentRecord, error: &LedgerError) -> bool {
        tracing::error!(%error, payment = %record.record, "A settlement's outcome was not recorded.");
        if matches!(error, LedgerError::HeldElsewhere(_)) {
            // Whoever took it over finds the same on the chain.
            return true;
        }
        match self.deliveries.ledger.get(&record.record).await {
            Ok(Some(row)) => row.state != PaymentState::Signed,
            Ok(None) => {
                self.deliveries.metrics.invariant_violated("settled_row_missing");
                tracing::error!(payment = %record.record, "A settled payment's row is gone.");
                true
            }
            Err(_unreadable) => false,
        }
    }

    fn note(&self, state: &str, record: &PaymentRecord) {
        self.deliveries.metrics.payment(record.claim.network.as_str(), state);
        let transaction = record.settlement.as_ref().map(|settlement| settlement.transaction.as_str());
        tracing::info!(payment = %record.record, network = %record.claim.network, amount = %record.claim.amount,
            asset = %record.claim.asset, payer = %record.claim.payer, transaction, failure = record.failure,
            "Payment {state}.");
    }
}
