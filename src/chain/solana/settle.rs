//! From signed bytes to a proven end (threats §2.6, Solana table).
//!
//! Paid: a status deep enough, and the transaction itself shows the payee's token account growing by the price. Failed: its
//! error is in a block, or the chain has finalized blocks past every moment at which it could land and no healthy endpoint
//! knows it or its blockhash. What a send is answered means nothing: a node answers with a signature for what can never land. The bytes are
//! signed once; no other transaction of this payment ever is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::pending;
use serde::Deserialize;
use serde_json::{Value, json};
use solana_transaction::versioned::VersionedTransaction;

use super::decode::{Decoded, decode, key};
use super::effect::{self, Effect};
use super::health;
use super::send::Sender;
use super::watch::{Level, Status, Watched, one_status, statuses_call};
use super::{Inner, Purse};
use crate::chain::inflight::InflightGuard;
use crate::chain::jsonrpc::{RpcError, parse};
use crate::ledger::{NewPayment, PaymentRecord, Settlement};
use crate::payment::scheme::SettleOutcome;
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::AtomicAmount;

/// How often it is asked whether a transaction has expired, once it may have.
const LOOK_EVERY: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };
/// How long after its claim a payment may count as never sent.
const NEW_FOR: Duration = Duration::from_secs(5);
/// Pause after a failed call; doubles up to the second value.
const ERROR_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long it is asked what a transaction that failed has cost.
const FEE_PATIENCE: Duration = Duration::from_secs(5);
/// Blocks beyond the last in which a transaction could land: endpoints differ in what they have seen.
const MARGIN_BLOCKS: u64 = 64;
/// Looks that must agree that a transaction can't land any more.
const STRIKES: u32 = 2;
/// The same, where only one endpoint answers.
const STRIKES_ALONE: u32 = 3;
/// How far back every node is taken to know statuses: even one that began from a snapshot has those of the last 300 slots.
/// Beyond, it must show that its history reaches so far.
const HISTORY_ASSURED: Duration = Duration::from_secs(100);
/// How long a failed payment that is nowhere on chain is left alone. Shorter than failed payments are watched: one node that was
/// behind must not be the only one that is ever asked.
const WORTHLESS_HOLDS: Duration = Duration::from_secs(300);

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

/// Whether a payment that was proven failed is on chain after all. It can't land any more; this finds a proof that was wrong.
pub(super) async fn late_settlement(
    inner: &Arc<Inner>,
    record: &PaymentRecord,
) -> Result<Option<Settlement>, RpcError> {
    if inner.worthless.get(&record.record.0).is_some() {
        return Ok(None);
    }
    let payment = Payment::read(inner, record).map_err(RpcError::Transport)?;
    let (method, params) = statuses_call(std::slice::from_ref(&payment.signature), true);
    let status = one_status(inner.rpc.call(method, params).await?)?;
    let landed = status.filter(|status| status.level() >= payment.wanted && status.error().is_none());
    let settlement = match landed {
        Some(_) => match payment.effect(inner).await? {
            Some(Effect::Moved { slot, fee }) => Some(payment.settlement(slot, fee)),
            Some(Effect::Failed { .. } | Effect::MovedOther { .. }) => None,
            None => return Err(RpcError::Transport("the node has a status but no transaction".to_owned())),
        },
        None => None,
    };
    if settlement.is_none() {
        inner.worthless.put(record.record.0.clone(), (), WORTHLESS_HOLDS);
    }
    Ok(settlement)
}

/// What a record says that was sent.
pub(super) struct Payment {
    claim: NewPayment,
    decoded: Decoded,
    pub signature: String,
    raw: Vec<u8>,
    pub wanted: Level,
}

impl Payment {
    pub(super) fn read(inner: &Inner, record: &PaymentRecord) -> Result<Self, String> {
        let claim = record.claim.clone();
        let terms: PaymentRequirements =
            serde_json::from_str(&claim.terms).map_err(|error| format!("terms: {error}"))?;
        let payload: Value = serde_json::from_str(&claim.payload).map_err(|error| format!("payload: {error}"))?;
        let decoded = decode(&inner.network, &payload, &terms, claim.claimed_at)
            .map_err(|reason| format!("payload does not decode: {reason}"))?;
        let attempt = match record.attempts.as_slice() {
            [attempt] => attempt.signed.clone(),
            other => return Err(format!("expected one signed transaction, found {}", other.len())),
        };
        let sent: VersionedTransaction =
            wincode::deserialize_exact(&attempt.raw).map_err(|error| format!("stored bytes: {error}"))?;
        let is_consistent = decoded.facts.id == claim.id
            && claim.network == inner.network
            && claim.amount == decoded.facts.amount
            && sent.message == decoded.transaction.message
            && sent.signatures.first().is_some_and(|own| own.to_string() == attempt.transaction);
        if !is_consistent {
            return Err("claim, payload and stored transaction disagree".to_owned());
        }
        let wanted = if claim.wait_for == "finalized" { Level::Finalized } else { Level::Confirmed };
        Ok(Self { claim, decoded, signature: attempt.transaction, raw: attempt.raw, wanted })
    }

    /// What the transaction did; none where the node doesn't have it at the level that is wanted.
    pub(super) async fn effect(&self, inner: &Inner) -> Result<Option<Effect>, RpcError> {
        let params = json!([self.signature, {
            "encoding": "base64",
            "commitment": self.wanted.as_str(),
            "maxSupportedTransactionVersion": 0,
        }]);
        let answer: Option<effect::Landed> = inner.rpc.call("getTransaction", params).await?;
        answer.map(|landed| landed.effect(&self.raw, &self.decoded)).transpose().map_err(RpcError::Transport)
    }

    fn settlement(&self, slot: u64, fee: Option<u64>) -> Settlement {
        // A transaction's answer holds no block hash, and none is needed: a slot has one block.
        Settlement {
            transaction: self.signature.clone(),
            block: slot,
            block_hash: String::new(),
            is_external: false,
            fee: fee.map(AtomicAmount::from),
        }
    }
}

#[derive(Deserialize)]
struct BlockhashValid {
    value: bool,
}

/// How sure it is that a transaction can't land any more, after one look.
enum Absence {
    /// So many endpoints agree.
    Agreed(usize),
    /// An endpoint knows it.
    Seen(Status),
    /// An endpoint is behind, or its history is.
    Open,
}

/// One payment on its way.
struct Job {
    inner: Arc<Inner>,
    payment: Payment,
    watched: Watched,
    _sender: Sender,
    purse: InflightGuard<Purse>,
    /// After this block height the transaction can't land any more.
    last_valid: Option<u64>,
    started: Instant,
    next_look: Instant,
    strikes: u32,
}

impl Job {
    fn new(inner: &Arc<Inner>, record: &PaymentRecord) -> Result<Self, String> {
        let payment = Payment::read(inner, record)?;
        let transfer = &payment.decoded.transfer;
        let purse = inner.inflight.enter((transfer.source, transfer.mint), &payment.claim.id, payment.claim.amount);
        let is_new = inner.clock.now().since(payment.claim.claimed_at) < NEW_FOR;
        let watched = inner.watch.add(&payment.signature, payment.wanted, is_new);
        let now = Instant::now();
        Ok(Self {
            inner: Arc::clone(inner),
            _sender: Sender::start(inner, &payment.signature, &payment.raw, payment.wanted),
            watched,
            purse,
            payment,
            last_valid: None,
            started: now,
            next_look: now,
            strikes: 0,
        })
    }

    async fn run(mut self) -> SettleOutcome {
        let mut heads = self.inner.watch.heads();
        let mut pause = ERROR_PAUSE.0;
        loop {
            // Marks the head as seen before it is used, so that none is missed while working.
            heads.borrow_and_update();
            match self.look().await {
                Ok(Some(outcome)) => return self.end(outcome),
                Ok(None) => {
                    pause = ERROR_PAUSE.0;
                    tokio::select! {
                        () = self.watched.changed() => {}
                        _ = heads.changed() => {}
                    }
                }
                Err(error) => {
                    let payment_id = &self.payment.claim.id;
                    tracing::debug!(%error, %payment_id, "Chain gave no usable answer; will ask again.");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ERROR_PAUSE.1);
                }
            }
        }
    }

    fn end(self, outcome: SettleOutcome) -> SettleOutcome {
        let (losses, payer) = (&self.inner.losses, self.payment.decoded.transfer.authority);
        let has_landed =
            matches!(&outcome, SettleOutcome::Paid(_) | SettleOutcome::Failed { transaction: Some(_), .. });
        let fee_payer = key(&self.payment.decoded.transaction.message, 0).and_then(|key| self.inner.signer(&key));
        if let Some(fee_payer) = fee_payer.filter(|_| has_landed) {
            fee_payer.spent(self.payment.decoded.fee(), self.inner.clock.now());
        }
        match &outcome {
            SettleOutcome::Paid(_) => {
                losses.paid(payer, Instant::now());
                self.inner.breaker.works(&self.payment.decoded.transfer.mint);
                self.purse.paid();
            }
            // Only what is in a block cost us its fee.
            SettleOutcome::Failed { transaction: Some(_), .. } => losses.lost(payer, Instant::now()),
            SettleOutcome::Failed { .. } => {}
        }
        outcome
    }

    async fn look(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let status = self.watched.status();
        // Simulations run on what is confirmed.
        let has_landed = |status: &Status| status.level() >= Level::Confirmed && status.error().is_none();
        self.purse.set_landed(status.as_ref().is_some_and(has_landed));
        match status {
            Some(status) if status.level() < self.payment.wanted => return Ok(None),
            Some(status) => return self.judge_landed(&status).await,
            None => {}
        }
        self.judge_expiry().await
    }

    async fn judge_landed(&self, status: &Status) -> Result<Option<SettleOutcome>, RpcError> {
        let payment = &self.payment;
        let failed = |reason, fee: Option<u64>| {
            let (transaction, fee) = (Some(payment.signature.clone()), fee.map(AtomicAmount::from));
            Ok(Some(SettleOutcome::Failed { reason, transaction, fee, still_usable: false }))
        };
        if let Some(error) = status.error() {
            tracing::warn!(payment_id = %payment.claim.id, %error, "Settlement failed on chain.");
            self.inner.blame_token(&payment.decoded, error, Reason::SvmTransactionFailed).await;
            return failed(Reason::SvmTransactionFailed, self.burnt().await);
        }
        // Paid only if the token account itself says so (threat B20).
        match payment.effect(&self.inner).await? {
            Some(Effect::Moved { slot, fee }) => Ok(Some(SettleOutcome::Paid(payment.settlement(slot, fee)))),
            Some(Effect::Failed { fee }) => failed(Reason::SvmTransactionFailed, fee),
            Some(Effect::MovedOther { fee }) => {
                let mint = payment.decoded.transfer.mint;
                tracing::error!(payment_id = %payment.claim.id, transaction = payment.signature, %mint, "Token did not move what it was told to; it is not taken for a while.");
                self.inner.breaker.lied(&mint, Reason::SvmTransferNotConfirmed, Instant::now());
                failed(Reason::SvmTransferNotConfirmed, fee)
            }
            None => {
                // Another node, or another branch: the status is asked for anew.
                self.watched.put(None);
                Ok(None)
            }
        }
    }

    /// What a transaction with an error cost our fee payer, in lamports. How it ended is known without it, so a node that keeps
    /// it to itself is not asked for long.
    async fn burnt(&self) -> Option<u64> {
        let ask = async {
            loop {
                match self.payment.effect(&self.inner).await {
                    Ok(Some(Effect::Failed { fee })) => return fee,
                    Ok(Some(Effect::Moved { .. } | Effect::MovedOther { .. })) => return None,
                    // Another node than the one that had the status, and behind it.
                    Ok(None) => {}
                    Err(error) => {
                        let payment_id = &self.payment.claim.id;
                        tracing::debug!(%error, %payment_id, "A failed transaction's fee could not be read.");
                    }
                }
                tokio::time::sleep(ERROR_PAUSE.0).await;
            }
        };
        tokio::time::timeout(FEE_PATIENCE, ask).await.ok().flatten()
    }

    async fn judge_expiry(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let Some(head) = self.inner.watch.head() else { return Ok(None) };
        // Whatever blockhash the payer took was known when this began, and no hash that was known then outlives the newest.
        // So the bound needs no place in the books: after a restart it is drawn anew, at most one blockhash's life later.
        let last_valid = match self.last_valid {
            Some(last_valid) => last_valid,
            None if head.seen_at > self.started => {
                let bound = head.last_valid.saturating_add(MARGIN_BLOCKS);
                self.last_valid = Some(bound);
                bound
            }
            None => return Ok(None),
        };
        if head.height() <= last_valid || Instant::now() < self.next_look {
            return Ok(None);
        }
        self.next_look = Instant::now() + LOOK_EVERY;
        match self.look_everywhere(last_valid).await? {
            Absence::Agreed(endpoints) => {
                // A look that nobody answered is none.
                self.strikes = if endpoints > 0 { self.strikes + 1 } else { 0 };
                let needed = if endpoints > 1 { STRIKES } else { STRIKES_ALONE };
                let is_proven = self.strikes >= needed;
                Ok(is_proven.then_some(SettleOutcome::Failed {
                    reason: Reason::PaymentExpired,
                    transaction: None,
                    fee: None,
                    still_usable: false,
                }))
            }
            Absence::Seen(status) => {
                self.strikes = 0;
                self.watched.put(Some(status));
                Ok(None)
            }
            Absence::Open => {
                self.strikes = 0;
                let payment_id = &self.payment.claim.id;
                tracing::warn!(%payment_id, "A payment seems expired, but an endpoint is behind or lacks history.");
                Ok(None)
            }
        }
    }

    /// One look at every endpoint that answers.
    async fn look_everywhere(&self, last_valid: u64) -> Result<Absence, RpcError> {
        let claimed_at = self.payment.claim.claimed_at;
        let is_old = self.inner.clock.now().since(claimed_at) > HISTORY_ASSURED;
        let blockhash = self.payment.decoded.transaction.message.recent_blockhash().to_string();
        let mut calls = health::calls();
        calls.extend([
            ("isBlockhashValid", json!([blockhash, {"commitment": Level::Processed.as_str()}])),
            ("getBlockHeight", json!([{"commitment": Level::Finalized.as_str()}])),
            statuses_call(std::slice::from_ref(&self.payment.signature), true),
        ]);
        if is_old {
            calls.push(("getFirstAvailableBlock", json!([])));
        }
        let mut agreed = 0;
        let mut first_kept = 0;
        let mut is_behind = false;
        for (answers, _took) in self.inner.rpc.ask_each(&calls).await {
            let Ok(answers) = answers else { continue };
            let mut answers = answers.into_iter();
            // A node that is catching up knows neither what landed nor how far the chain is, and the bound may have been drawn
            // from it.
            if !health::is_healthy(&mut answers, self.inner.clock.now()) {
                continue;
            }
            let Ok(values) = answers.collect::<Result<Vec<Value>, RpcError>>() else { continue };
            let mut values = values.into_iter();
            let mut next = || values.next().unwrap_or(Value::Null);
            let blockhash: BlockhashValid = parse("isBlockhashValid", next())?;
            let height: u64 = parse("getBlockHeight", next())?;
            if let Some(status) = one_status(next())? {
                return Ok(Absence::Seen(status));
            }
            if is_old {
                first_kept = first_kept.max(parse("getFirstAvailableBlock", next())?);
            }
            is_behind |= height <= last_valid || blockhash.value;
            agreed += 1;
        }
        if is_behind || (is_old && !self.has_history(first_kept, claimed_at.as_secs()).await?) {
            return Ok(Absence::Open);
        }
        Ok(Absence::Agreed(agreed))
    }

    /// Whether what nodes keep begins before a moment.
    async fn has_history(&self, first_kept: u64, moment: u64) -> Result<bool, RpcError> {
        if first_kept == 0 {
            return Ok(true);
        }
        let time: Option<i64> = self.inner.rpc.call("getBlockTime", json!([first_kept])).await?;
        Ok(time.and_then(|time| u64::try_from(time).ok()).is_some_and(|time| time.saturating_add(60) < moment))
    }
}
