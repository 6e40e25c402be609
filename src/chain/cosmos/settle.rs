//! From claimed bytes to a proven end (threats §2.6, Cosmos table).
//!
//! Paid: included with code 0 and the bank's own event; one block is final. Failed: included without effect, or proof that it
//! can't be included any more. Anything else is not an end, however long it takes: a transaction without a timeout height
//! that nodes refuse today may be taken tomorrow. Needs nothing but the ledger's record and the chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cosmrs::proto::cosmos::base::abci::v1beta1::TxResponse;
use cosmrs::proto::cosmos::tx::v1beta1::{BroadcastMode, BroadcastTxRequest, GetTxRequest};
use futures::future::pending;
use serde_json::Value;

use super::Inner;
use super::account::sequence_at;
use super::decode::{Decoded, decode, transaction_hash};
use super::evidence::{Effect, Scanned, Standing, effect, included, standing};
use super::rpc::RpcError;
use crate::chain::Audit;
use crate::ledger::{NewPayment, PaymentRecord, Settlement};
use crate::payment::scheme::SettleOutcome;
use crate::protocol::Reason;

/// Pause between two looks for an inclusion; grows up to the second value, to the third for what nobody waits for, and to the
/// fourth for what nodes refuse besides.
const POLL: (Duration, Duration, Duration, Duration) =
    (Duration::from_millis(100), Duration::from_millis(1500), Duration::from_secs(5), Duration::from_secs(60));
/// The longest pause between two sends, or two looks at its sequence, of what nodes refuse.
const SLOWEST: Duration = Duration::from_secs(600);
/// How long somebody may be waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// Looks that must agree before a transaction counts as gone.
const STRIKES: u32 = 2;
/// Nodes that must agree, where there are as many.
const WITNESSES: usize = 2;

/// CheckTx: accepted, and "tx already in mempool" (codespace `sdk`).
const ACCEPTED: [u32; 2] = [0, 19];

/// Drives a record to its end.
pub(super) async fn settle(inner: &Arc<Inner>, record: &PaymentRecord) -> SettleOutcome {
    match Job::new(inner, record) {
        Ok(job) => job.run().await,
        Err(detail) => {
            // Nothing can be proven about a row that can't be read, so it has no end here.
            tracing::error!(payment_id = %record.claim.id, record = %record.record, detail, "Payment can't be settled.");
            pending().await
        }
    }
}

/// Whether a payment that was proven failed landed after all. It can't, by the proof; this is what notices a wrong one.
pub(super) async fn late_settlement(
    inner: &Arc<Inner>,
    record: &PaymentRecord,
) -> Result<Option<Settlement>, RpcError> {
    if inner.worthless.get(&record.record.0).is_some() {
        return Ok(None);
    }
    let job = Job::new(inner, record).map_err(RpcError::Transport)?;
    let settlement = match job.find().await? {
        Some(found) if found.code == 0 && effect(&found, &job.decoded) == Effect::Moved => Some(job.settlement(&found)),
        _ => None,
    };
    if settlement.is_none() {
        inner.worthless.put(record.record.0.clone(), (), super::WORTHLESS_HOLDS);
    }
    Ok(settlement)
}

/// Looks a settlement up that the books have. One block is final.
pub(super) async fn audit(inner: &Arc<Inner>, record: &PaymentRecord) -> Result<Audit, RpcError> {
    let Some(settlement) = &record.settlement else {
        return Err(RpcError::Transport("the books name no settlement".to_owned()));
    };
    let job = Job::new(inner, record).map_err(RpcError::Transport)?;
    let Some(found) = job.find().await? else { return Ok(Audit::Missing) };
    if found.code != 0 {
        return Ok(Audit::MovedOther);
    }
    let again = job.settlement(&found);
    match effect(&found, &job.decoded) {
        Effect::Moved if (&again.transaction, again.block) == (&settlement.transaction, settlement.block) => {
            Ok(Audit::Moved { is_final: true })
        }
        Effect::Moved => Ok(Audit::MovedElsewhere { block: again.block }),
        Effect::Other => Ok(Audit::MovedOther),
        Effect::Unknown => Err(RpcError::Transport("node keeps no events".to_owned())),
    }
}

/// One payment on its way.
struct Job {
    inner: Arc<Inner>,
    claim: NewPayment,
    decoded: Decoded,
    started: Instant,
    next_send: Instant,
    next_look: Instant,
    strikes: u32,
    /// Sends in a row that a node refused.
    refusals: u32,
    scanned: Scanned,
}

impl Job {
    fn new(inner: &Arc<Inner>, record: &PaymentRecord) -> Result<Self, String> {
        let claim = record.claim.clone();
        let payload: Value = serde_json::from_str(&claim.payload).map_err(|error| format!("payload: {error}"))?;
        let decoded = decode(&inner.network, &inner.prefix, &payload, |_timeout| claim.valid_until)
            .map_err(|reason| format!("payload does not decode: {reason}"))?;
        let facts = &decoded.facts;
        let is_consistent = facts.id == claim.id
            && claim.network == inner.network
            && (&facts.payer, &facts.pay_to) == (&claim.payer, &claim.pay_to)
            && (&facts.asset, facts.amount) == (&claim.asset, claim.amount)
            && facts.digest == claim.payload_digest;
        if !is_consistent {
            return Err("claim and payload disagree".to_owned());
        }
        let [attempt] = record.attempts.as_slice() else { return Err("expected one attempt".to_owned()) };
        if attempt.signed.transaction != decoded.hash || transaction_hash(&attempt.signed.raw) != decoded.hash {
            return Err("attempt and payload disagree".to_owned());
        }
        let now = Instant::now();
        let scanned = Scanned::default();
        let inner = Arc::clone(inner);
        Ok(Self {
            inner,
            claim,
            decoded,
            started: now,
            next_send: now,
            next_look: now,
            strikes: 0,
            refusals: 0,
            scanned,
        })
    }

    async fn run(mut self) -> SettleOutcome {
        let mut pause = POLL.0;
        // Most are new: nothing is there to be found before it was sent.
        self.next_look += self.inner.look_every;
        loop {
            match self.step().await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, payment_id = %self.claim.id, "Chain did not answer; will ask again.");
                }
            }
            tokio::time::sleep(pause).await;
            let slowest = if self.is_hopeless() {
                POLL.3
            } else if self.is_awaited() {
                POLL.1
            } else {
                POLL.2
            };
            pause = (pause * 3 / 2).min(slowest);
        }
    }

    fn is_awaited(&self) -> bool {
        self.started.elapsed() < PATIENCE
    }

    /// Nodes refuse it, nobody waits for it, and no height ends it: only its sequence going elsewhere will, whenever the payer
    /// pays somebody again. Until then it stays in the books as unfinished, and costs the node next to nothing.
    fn is_hopeless(&self) -> bool {
        self.decoded.timeout_height == 0 && self.refusals > 0 && !self.is_awaited()
    }

    fn look_every(&self) -> Duration {
        if self.is_hopeless() { slower(self.inner.look_every, self.refusals) } else { self.inner.look_every }
    }

    async fn step(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        if Instant::now() >= self.next_send {
            self.next_send = Instant::now() + self.look_every();
            self.send().await;
        }
        if let Some(found) = self.find().await? {
            return self.judge(&found).await;
        }
        if Instant::now() < self.next_look {
            return Ok(None);
        }
        self.next_look = Instant::now() + self.look_every();
        self.look().await
    }

    /// Always the same bytes. Whatever comes of it is at most a reason to look: a refusal proves nothing, since another node
    /// may have taken them, now or later.
    async fn send(&mut self) {
        crate::crash::point("mid_send");
        let query = BroadcastTxRequest { tx_bytes: self.decoded.raw.clone(), mode: i32::from(BroadcastMode::Sync) };
        let answer = self.inner.rpc.call(query).await;
        crate::crash::point("post_send");
        let (hash, payment_id) = (&self.decoded.hash, &self.claim.id);
        match answer.map(|answer| answer.tx_response.unwrap_or_default()) {
            Ok(answer) if ACCEPTED.contains(&answer.code) && is_own_space(&answer) => self.refusals = 0,
            Ok(answer) => {
                let TxResponse { code, codespace, .. } = answer;
                if self.refusals == 0 && self.decoded.timeout_height == 0 {
                    tracing::warn!(hash, %payment_id, code, codespace,
                        "A node refuses a transaction without a timeout height: it stays unfinished until its sequence is used.");
                }
                self.refusals = self.refusals.saturating_add(1);
                tracing::debug!(hash, %payment_id, code, codespace, "A node refused a transaction; looking closer.");
                self.next_look = Instant::now();
            }
            // Nodes of SDK 0.43 say of what they hold already that it "already exists in cache" as an error.
            Err(error) => {
                tracing::debug!(%error, hash, %payment_id, "A transaction may or may not have been sent.");
                self.next_look = Instant::now();
            }
        }
    }

    async fn find(&self) -> Result<Option<TxResponse>, RpcError> {
        let hash = &self.decoded.hash;
        let answer = self.inner.rpc.call(GetTxRequest { hash: hash.clone() }).await.map(|answer| answer.tx_response);
        included(answer, hash)
    }

    /// The transaction is in a block.
    async fn judge(&mut self, found: &TxResponse) -> Result<Option<SettleOutcome>, RpcError> {
        if found.code != 0 {
            return self.judge_failed(found).await;
        }
        match effect(found, &self.decoded) {
            Effect::Moved => {
                self.inner.breaker.works(&self.decoded.facts.asset);
                Ok(Some(SettleOutcome::Paid(self.settlement(found))))
            }
            Effect::Unknown => Err(RpcError::Transport("node keeps no events".to_owned())),
            Effect::Other => {
                tracing::error!(payment_id = %self.claim.id, transaction = self.decoded.hash,
                    "A transaction was included, but the bank did not move what it was told to.");
                let reason = Reason::CosmosTransferEventMismatch;
                self.inner.breaker.lied(&self.decoded.facts.asset, reason, Instant::now());
                Ok(Some(self.failed(Reason::CosmosTransferEventMismatch, true)))
            }
        }
    }

    /// Included and failed. That is the end once its sequence is used up; what fails before that, for example for want of the
    /// fee, can be included again.
    async fn judge_failed(&mut self, found: &TxResponse) -> Result<Option<SettleOutcome>, RpcError> {
        for node in self.inner.rpc.nodes() {
            if sequence_at(node, &self.decoded, None).await.is_ok_and(|sequence| sequence > self.decoded.sequence) {
                // `ErrInsufficientFunds` of codespace `sdk`: an overspend, which CheckTx lets through.
                let is_overspent = found.code == 5 && is_own_space(found);
                let reason =
                    if is_overspent { Reason::CosmosInsufficientBalance } else { Reason::CosmosTransactionFailed };
                return Ok(Some(self.failed(reason, true)));
            }
        }
        if Instant::now() < self.next_look {
            return Ok(None);
        }
        self.next_look = Instant::now() + self.look_every();
        self.look().await
    }

    /// Asks the nodes whether the transaction can still be included, and believes that it can't only if enough of them say so
    /// twice.
    async fn look(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let nodes = self.inner.rpc.nodes();
        let needed = nodes.len().min(WITNESSES);
        let mut verdicts = Vec::new();
        for node in nodes {
            match standing(node, &self.decoded, self.claim.claimed_at, &mut self.scanned).await {
                Ok(Standing::Open) => {}
                Ok(verdict) => verdicts.push(verdict),
                Err(error) => tracing::debug!(%error, payment_id = %self.claim.id, "A node can't tell."),
            }
            if verdicts.len() >= needed {
                break;
            }
        }
        let (Some(verdict), true) = (verdicts.first(), verdicts.len() >= needed) else {
            self.strikes = 0;
            return Ok(None);
        };
        self.strikes += 1;
        if self.strikes < STRIKES {
            return Ok(None);
        }
        Ok(Some(match verdict {
            Standing::Superseded => self.failed(Reason::CosmosSequenceMismatch, false),
            _ => self.failed(Reason::PaymentExpired, false),
        }))
    }

    fn settlement(&self, found: &TxResponse) -> Settlement {
        Settlement {
            transaction: self.decoded.hash.clone(),
            block: u64::try_from(found.height).unwrap_or_default(),
            // The index names no hash, and a block's height is as good: one block is final.
            block_hash: found.height.to_string(),
            is_external: false,
            // The payer's own transaction: the payer's own fee.
            fee: None,
        }
    }

    fn failed(&self, reason: Reason, is_included: bool) -> SettleOutcome {
        let transaction = is_included.then(|| self.decoded.hash.clone());
        // The payer's own transaction: whatever it cost, it cost the payer.
        SettleOutcome::Failed { reason, transaction, fee: None, still_usable: false }
    }
}

/// The pause after so many refusals.
fn slower(pause: Duration, refusals: u32) -> Duration {
    pause.saturating_mul(1 << refusals.min(16)).min(SLOWEST)
}

/// Whether a code is one of the SDK's own: other codespaces number for themselves. Code 0 has none.
fn is_own_space(answer: &TxResponse) -> bool {
    matches!(answer.codespace.as_str(), "" | "sdk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_refuse_is_asked_for_ever_more_seldom_and_never_given_up() {
        let pauses: Vec<u64> = (0..9).map(|refusals| slower(Duration::from_secs(10), refusals).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(slower(Duration::from_secs(10), u32::MAX), SLOWEST);
    }
}
