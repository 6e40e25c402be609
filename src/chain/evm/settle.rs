//! From signed bytes to a proven end (threats §2.6, EVM table).
//!
//! Paid: a receipt deep enough that shows the money moving. Failed: proof that it can't move any more by our hand, or
//! that the authorization is gone. Anything else is not an end, however long it takes. Needs nothing but the ledger's
//! record and the chain.
//!
//! The judges say how it ended; what it cost is said once, at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::TxEip1559;
use alloy::primitives::{Address, B256, U256, keccak256};
use futures::FutureExt;
use futures::future::{pending, select_all};
use serde_json::{Value, json};

use super::abi::{Block, Receipt, quantity};
use super::bump::Outgrown;
use super::decode::{Authorization, address, decode, word};
use super::evidence::{Gone, has_moved, is_only_use};
use super::lanes::{self, Ticket};
use super::rpc::{RpcError, parse};
use super::watch::{Head, Watched};
use super::{Inner, Purse};
use crate::chain::inflight::InflightGuard;
use crate::ledger::{AccountNonce, Attempt, NewPayment, PaymentRecord, RecordId, Settlement};
use crate::payment::scheme::{Attempts, SettleOutcome};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, AtomicAmount};

/// How often it is asked whether a transaction that isn't mined was overtaken.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the finalized head is read.
const FINALIZED_EVERY: Duration = Duration::from_secs(2);
/// Pause after a failed call; doubles up to the second value.
const ERROR_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long it is believed that an authorization is gone and brought its failed payment nothing: finding out may take reading
/// the logs of a day, and only a chain that takes blocks back changes it.
const WORTHLESS_HOLDS: Duration = Duration::from_secs(300);
/// Looks that must agree before a transaction counts as overtaken: a node's index may lag behind its state.
const STRIKES: u32 = 2;

/// Drives a record to its end.
pub(super) async fn settle(inner: &Arc<Inner>, record: &PaymentRecord, attempts: &dyn Attempts) -> SettleOutcome {
    match Job::new(inner, record) {
        Ok(job) => job.run(attempts).await,
        Err(detail) => {
            // Nothing can be proven about a row that can't be read, so it has no end here.
            tracing::error!(payment_id = %record.claim.id, record = %record.record, detail, "Payment can't be settled.");
            pending().await
        }
    }
}

/// Whether a payment that was proven failed landed after all: its authorization can be used by anybody until it ends.
pub(super) async fn late_settlement(
    inner: &Arc<Inner>,
    record: &PaymentRecord,
) -> Result<Option<Settlement>, RpcError> {
    if inner.worthless.get(&record.record.0).is_some() {
        return Ok(None);
    }
    // Without its attempts: nothing of a failed payment is sent again.
    let unsent = PaymentRecord { attempts: Vec::new(), ..record.clone() };
    let mut job = Job::new(inner, &unsent).map_err(RpcError::Transport)?;
    let Some(deep) = job.deep_head().await? else { return Ok(None) };
    if !inner.is_authorization_used(job.token, &job.authorization, deep.number).await? {
        return Ok(None);
    }
    let claimed_secs = record.claim.claimed_at.as_secs();
    let gone = inner.find_end(job.token, &job.authorization, claimed_secs, deep.number).await?;
    let settlement = match gone {
        Gone::By(hash) => {
            let is_own = record.attempts.iter().any(|attempt| word(&attempt.signed.transaction) == Some(hash));
            job.worth_of(hash, deep.number, is_own).await?
        }
        Gone::Canceled | Gone::Unseen => None,
    };
    if settlement.is_none() {
        inner.worthless.put(record.record.0.clone(), (), WORTHLESS_HOLDS);
    }
    Ok(settlement)
}

pub(super) struct Try {
    hash: B256,
    nonce: Option<AccountNonce>,
    signer: Option<Address>,
    /// Who signed it, if we did.
    pub account: Option<AccountId>,
    pub ticket: Option<Ticket>,
    /// What was signed, if it can be signed again.
    pub transaction: Option<TxEip1559>,
    pub signed_at: Instant,
    pub watched: Watched,
    /// It will not move money any more: failed, or its account nonce went to another.
    pub is_dead: bool,
    /// A receipt says so. Of one that was overtaken only its absence is known, and an index may lag behind the state.
    is_reverted: bool,
    strikes: u32,
}

/// One payment on its way.
pub(super) struct Job {
    pub inner: Arc<Inner>,
    pub record: RecordId,
    pub claim: NewPayment,
    pub token: Address,
    pub authorization: Authorization,
    pub tries: Vec<Try>,
    pub outgrown: Outgrown,
    purse: InflightGuard<Purse>,
    is_finalized: bool,
    confirmations: u64,
    next_look: Instant,
    finalized: Option<(Head, Instant)>,
}

impl Job {
    fn new(inner: &Arc<Inner>, record: &PaymentRecord) -> Result<Self, String> {
        let claim = record.claim.clone();
        let terms: PaymentRequirements =
            serde_json::from_str(&claim.terms).map_err(|error| format!("terms: {error}"))?;
        let payload: Value = serde_json::from_str(&claim.payload).map_err(|error| format!("payload: {error}"))?;
        let decoded =
            decode(inner.chain_id, &payload, &terms).map_err(|reason| format!("payload does not decode: {reason}"))?;
        let is_consistent = decoded.facts.id == claim.id
            && claim.network == inner.network
            && address(claim.pay_to.as_str()) == Some(decoded.authorization.to)
            && claim.amount.value() == decoded.authorization.value;
        if !is_consistent {
            return Err("claim and payload disagree".to_owned());
        }
        let purse = inner.inflight.enter((decoded.authorization.from, decoded.token), &claim.id, claim.amount);
        let is_new = record.attempts.len() == 1 && inner.clock.now().since(claim.claimed_at) < LOOK_EVERY;
        let tries = record.attempts.iter().map(|attempt| Try::new(inner, attempt, is_new)).collect::<Result<_, _>>()?;
        Ok(Self {
            inner: Arc::clone(inner),
            record: record.record.clone(),
            outgrown: Outgrown::default(),
            token: decoded.token,
            authorization: decoded.authorization,
            tries,
            purse,
            is_finalized: claim.wait_for == "finalized",
            confirmations: claim.confirmations.max(1),
            // A row of an earlier run is looked at at once.
            next_look: if is_new { Instant::now() + LOOK_EVERY } else { Instant::now() },
            finalized: None,
            claim,
        })
    }

    async fn run(mut self, attempts: &dyn Attempts) -> SettleOutcome {
        let _interest = self.inner.watch.interest();
        let mut heads = self.inner.watch.heads();
        let mut pause = ERROR_PAUSE.0;
        loop {
            // Marks the head as seen before it is used, so that none is missed while working.
            heads.borrow_and_update();
            let looked = match self.look().await {
                Ok(None) => self.bump(attempts).await.map(|()| None),
                ended => ended,
            };
            match looked {
                Ok(Some(outcome)) => return self.end(outcome),
                Ok(None) => {
                    pause = ERROR_PAUSE.0;
                    self.wait(&mut heads).await;
                }
                Err(error) => {
                    tracing::debug!(%error, payment_id = %self.claim.id, "Chain did not answer; will ask again.");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ERROR_PAUSE.1);
                }
            }
        }
    }

    /// Lets go of everything that is mined; what isn't stays with its lane, which keeps it going until its account
    /// nonce is passed.
    fn end(self, mut outcome: SettleOutcome) -> SettleOutcome {
        for attempt in &self.tries {
            if attempt.watched.receipt().is_some()
                && let Some(ticket) = &attempt.ticket
            {
                ticket.landed();
            }
        }
        self.count_fees();
        match &mut outcome {
            // Somebody else's transaction cost us nothing; one of ours that came too late did.
            SettleOutcome::Paid(settlement) if settlement.is_external => settlement.fee = self.burnt(),
            SettleOutcome::Paid(_) => {}
            SettleOutcome::Failed { fee, .. } => *fee = self.burnt(),
        }
        let (losses, payer) = (&self.inner.losses, self.authorization.from);
        match &outcome {
            SettleOutcome::Paid(settlement) => {
                if !settlement.is_external {
                    losses.paid(payer, Instant::now());
                    self.inner.breaker.works(&self.token);
                }
                self.purse.paid();
            }
            SettleOutcome::Failed { .. } => {
                if self.tries.iter().any(|attempt| attempt.is_reverted) {
                    losses.lost(payer, Instant::now());
                }
            }
        }
        outcome
    }

    /// What transactions of ours that are mined and moved nothing cost their gas payers, as their receipts say. Those with one
    /// account nonce exclude each other, so that one receipt of each is counted.
    fn burnt(&self) -> Option<AtomicAmount> {
        let mut fees: BTreeMap<(&AccountId, AccountNonce), U256> = BTreeMap::new();
        for attempt in &self.tries {
            let (Some(account), Some(nonce)) = (&attempt.account, attempt.nonce) else { continue };
            if let Some(fee) = attempt.watched.receipt().and_then(|receipt| receipt.fee()) {
                fees.entry((account, nonce)).or_insert(fee);
            }
        }
        let sum = fees.into_values().reduce(|sum, fee| sum.saturating_add(fee));
        sum.map(AtomicAmount::from)
    }

    /// What this settlement cost its gas payers. A transaction that isn't mined yet may still be, and costs what it may. Those
    /// with one account nonce cost only once.
    fn count_fees(&self) {
        let mut costs: BTreeMap<(&AccountId, AccountNonce), (bool, U256)> = BTreeMap::new();
        for attempt in &self.tries {
            let (Some(account), Some(nonce)) = (&attempt.account, attempt.nonce) else { continue };
            let most = attempt
                .transaction
                .as_ref()
                .map(|held| U256::from(held.gas_limit).saturating_mul(U256::from(held.max_fee_per_gas)));
            let receipt = attempt.watched.receipt();
            let is_mined = receipt.is_some();
            // A node that doesn't say what was paid leaves what may have been.
            let Some(fee) = receipt.and_then(|receipt| receipt.fee()).or(most) else { continue };
            let cost = (is_mined, fee);
            // A receipt outweighs all that is only possible.
            let known = costs.entry((account, nonce)).or_insert(cost);
            *known = (*known).max(cost);
        }
        for ((account, _), (_, fee)) in costs {
            if let Some(lane) = self.inner.lane_of(account) {
                lane.spent(fee, self.inner.clock.now());
            }
        }
    }

    async fn wait(&mut self, heads: &mut tokio::sync::watch::Receiver<Option<Head>>) {
        let look_in = self.next_look.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let receipts = self.tries.iter_mut().map(|attempt| attempt.watched.changed().boxed()).collect::<Vec<_>>();
        let any_receipt = async {
            if receipts.is_empty() {
                pending::<()>().await;
            } else {
                select_all(receipts).await;
            }
        };
        tokio::select! {
            () = any_receipt => {}
            _ = heads.changed() => {}
            () = tokio::time::sleep(look_in) => {}
        }
    }

    /// One look at everything that is known; asks the chain only where that may decide something.
    async fn look(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        if let Some(outcome) = self.judge_receipts().await? {
            return Ok(Some(outcome));
        }
        if let Some(outcome) = self.judge_expiry().await? {
            return Ok(Some(outcome));
        }
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOOK_EVERY;
            return self.judge_overtaken().await;
        }
        Ok(None)
    }

    async fn judge_receipts(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let has_landed = |attempt: &Try| attempt.watched.receipt().is_some_and(|receipt| receipt.is_success());
        self.purse.set_landed(self.tries.iter().any(has_landed));
        for position in 0..self.tries.len() {
            let Some(receipt) = self.tries.get(position).and_then(|attempt| attempt.watched.receipt()) else {
                continue;
            };
            if !self.is_deep(position, &receipt).await? {
                continue;
            }
            if receipt.is_success() {
                return Ok(Some(self.judge_success(&receipt)));
            }
            let nonce = self.tries.get(position).and_then(|attempt| attempt.nonce);
            for attempt in &mut self.tries {
                // Attempts with one account nonce exclude each other.
                attempt.is_reverted |=
                    attempt.hash == receipt.transaction_hash || (nonce.is_some() && attempt.nonce == nonce);
                attempt.is_dead |= attempt.is_reverted;
            }
            if self.tries.iter().all(|attempt| attempt.is_dead) {
                return self.judge_all_dead(Some(&receipt)).await;
            }
        }
        Ok(None)
    }

    /// Paid only if the token itself says so (threats B9, B13).
    fn judge_success(&self, receipt: &Receipt) -> SettleOutcome {
        let transaction = receipt.transaction_hash.to_string();
        if has_moved(receipt, self.token, &self.authorization) {
            return SettleOutcome::Paid(Settlement {
                transaction,
                block: receipt.block_number,
                block_hash: receipt.block_hash.to_string(),
                is_external: false,
                fee: receipt.fee().map(AtomicAmount::from),
            });
        }
        let payment_id = &self.claim.id;
        tracing::error!(%payment_id, transaction, token = %self.token, "Token did not move what it was told to.");
        self.inner.breaker.lied(&self.token, Reason::EvmTransferEventMismatch, Instant::now());
        SettleOutcome::Failed {
            reason: Reason::EvmTransferEventMismatch,
            transaction: Some(transaction),
            fee: None,
            still_usable: false,
        }
    }

    /// No attempt can move money any more: what about the authorization itself?
    async fn judge_all_dead(&mut self, failed: Option<&Receipt>) -> Result<Option<SettleOutcome>, RpcError> {
        let Some(deep) = self.deep_head().await? else { return Ok(None) };
        let block = failed.map_or(deep.number, |receipt| receipt.block_number.max(deep.number));
        if self.inner.is_authorization_used(self.token, &self.authorization, block).await? {
            return self.judge_used(block).await;
        }
        if failed.is_some() {
            self.blame_token(block).await;
        }
        let reason = if failed.is_some() { Reason::EvmTransactionFailed } else { Reason::UnexpectedSettleError };
        Ok(Some(SettleOutcome::Failed {
            reason,
            transaction: failed.map(|receipt| receipt.transaction_hash.to_string()),
            fee: None,
            still_usable: deep.timestamp < self.authorization.valid_before_secs(),
        }))
    }

    /// A payer that has the money and did not take its word back is not to blame for a settlement that reverted.
    async fn blame_token(&self, block: u64) {
        let payer = self.authorization.from;
        let balance = self.inner.balance_of(self.token, payer, &format!("{block:#x}")).await;
        if balance.is_ok_and(|balance| balance >= self.authorization.value) {
            self.inner.breaker.failed(&self.token, payer, Reason::EvmTransactionFailed, Instant::now());
        }
    }

    /// Past the authorization's end by the chain's own clock, at a block that counts as settled: if it is unused there, it
    /// stays unused for ever (the token demands block time < validBefore).
    async fn judge_expiry(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let valid_before = self.authorization.valid_before_secs();
        if self.inner.watch.head().is_none_or(|head| head.timestamp <= valid_before) {
            return Ok(None);
        }
        let Some(deep) = self.deep_head().await?.filter(|deep| deep.timestamp > valid_before) else { return Ok(None) };
        // What is mined but not yet deep decides by itself.
        if self.tries.iter().any(|attempt| !attempt.is_dead && attempt.watched.receipt().is_some()) {
            return Ok(None);
        }
        let is_used = self.inner.is_authorization_used(self.token, &self.authorization, deep.number).await?;
        // What a run before this one sent may be mined and not looked for yet: it decides by itself, and tells what it cost.
        if self.fetch_receipts().await? {
            return Ok(None);
        }
        if is_used {
            return self.judge_used(deep.number).await;
        }
        Ok(Some(SettleOutcome::Failed {
            reason: Reason::PaymentExpired,
            transaction: None,
            fee: None,
            still_usable: false,
        }))
    }

    /// Whether another transaction took an attempt's account nonce; the rows of the table for "nonce too low".
    async fn judge_overtaken(&mut self) -> Result<Option<SettleOutcome>, RpcError> {
        let Some(deep) = self.deep_head().await? else { return Ok(None) };
        for attempt in self.tries.iter_mut().filter(|attempt| !attempt.is_dead && attempt.watched.receipt().is_none()) {
            let (Some(nonce), Some(signer)) = (attempt.nonce, attempt.signer) else { continue };
            // In one request, so that one node answers both.
            let count = ("eth_getTransactionCount", json!([signer, format!("{:#x}", deep.number)]));
            let receipt = ("eth_getTransactionReceipt", json!([attempt.hash]));
            let mut results = self.inner.rpc.batch(vec![count, receipt]).await?.into_iter();
            let mut next = || results.next().unwrap_or(Ok(Value::Null));
            let count = next()?.as_str().and_then(quantity::parse);
            let count = count.ok_or_else(|| RpcError::Transport("eth_getTransactionCount gave no count".to_owned()))?;
            match parse::<Option<Receipt>>("eth_getTransactionReceipt", next()?)? {
                Some(receipt) => attempt.watched.put(Some(receipt)),
                None if count > nonce => attempt.strikes += 1,
                None => attempt.strikes = 0,
            }
            attempt.is_dead = attempt.strikes >= STRIKES;
        }
        if self.tries.iter().all(|attempt| attempt.is_dead) {
            return self.judge_all_dead(None).await;
        }
        // Ours may still be waiting, but somebody else's may have been first, or the payer cancelled.
        if self.tries.iter().all(|attempt| attempt.watched.receipt().is_none())
            && self.inner.is_authorization_used(self.token, &self.authorization, deep.number).await?
            && !self.fetch_receipts().await?
        {
            return self.judge_used(deep.number).await;
        }
        Ok(None)
    }

    /// The authorization is gone at `block`, and not by a receipt of ours: by whom?
    async fn judge_used(&mut self, block: u64) -> Result<Option<SettleOutcome>, RpcError> {
        let failed = |reason: Reason, transaction: Option<B256>| {
            let transaction = transaction.map(|hash| hash.to_string());
            Ok(Some(SettleOutcome::Failed { reason, transaction, fee: None, still_usable: false }))
        };
        match self.inner.find_end(self.token, &self.authorization, self.claim.claimed_at.as_secs(), block).await? {
            Gone::Canceled => failed(Reason::EvmAuthorizationCanceled, None),
            Gone::By(hash) if self.tries.iter().any(|attempt| attempt.hash == hash) => {
                // Overtaken as it seemed, it is what moved the money.
                for attempt in self.tries.iter_mut().filter(|attempt| attempt.hash == hash) {
                    (attempt.is_dead, attempt.is_reverted, attempt.strikes) = (false, false, 0);
                }
                self.fetch_receipts().await?;
                Ok(None)
            }
            Gone::By(hash) => match self.worth_of(hash, block, false).await? {
                Some(settlement) => Ok(Some(SettleOutcome::Paid(settlement))),
                None => failed(Reason::EvmNonceAlreadyUsed, None),
            },
            // A log index may lag, as may that of transactions: no proof while an attempt of ours may be what used it. One
            // that seems overtaken may be just that, on a node whose indexes are behind its state.
            Gone::Unseen if self.tries.iter().all(|attempt| attempt.is_reverted) => {
                failed(Reason::EvmNonceAlreadyUsed, None)
            }
            Gone::Unseen => {
                tracing::warn!(payment_id = %self.claim.id, "Authorization is used, and no log says by whom; will look again.");
                Err(RpcError::Transport("no log of a used authorization".to_owned()))
            }
        }
    }

    /// What a transaction that ended the authorization is worth to this claim. If it is no attempt of ours, it counts only
    /// where nobody else earns, and only after our claim (threats §2.5).
    async fn worth_of(&self, hash: B256, block: u64, is_own: bool) -> Result<Option<Settlement>, RpcError> {
        let receipt: Option<Receipt> = self.inner.rpc.call("eth_getTransactionReceipt", json!([hash])).await?;
        let receipt = receipt
            .filter(|receipt| receipt.block_number <= block)
            .ok_or_else(|| RpcError::Transport("no receipt of a logged transaction".to_owned()))?;
        let held_in = self.inner.block(&format!("{:#x}", receipt.block_number)).await?;
        if held_in.hash != receipt.block_hash {
            return Err(RpcError::Transport("receipt is of another branch".to_owned()));
        }
        let is_ours = is_own
            || (self.claim.pay_to_exclusive
                && self.claim.claimed_at.as_secs() <= held_in.timestamp
                && is_only_use(&receipt, self.token, self.authorization.from));
        let is_paid = is_ours && receipt.is_success() && has_moved(&receipt, self.token, &self.authorization);
        Ok(is_paid.then(|| Settlement {
            transaction: receipt.transaction_hash.to_string(),
            block: receipt.block_number,
            block_hash: receipt.block_hash.to_string(),
            is_external: !is_own,
            fee: receipt.fee().filter(|_| is_own).map(AtomicAmount::from),
        }))
    }

    /// Asks for the receipts of all attempts; whether any is there.
    async fn fetch_receipts(&self) -> Result<bool, RpcError> {
        let mut is_any = false;
        for attempt in self.tries.iter().filter(|attempt| !attempt.is_dead) {
            let receipt: Option<Receipt> =
                self.inner.rpc.call("eth_getTransactionReceipt", json!([attempt.hash])).await?;
            if receipt.is_some() {
                is_any = true;
                attempt.watched.put(receipt);
            }
        }
        Ok(is_any)
    }

    /// The newest block that counts as settled under the terms.
    async fn deep_head(&mut self) -> Result<Option<Head>, RpcError> {
        if self.is_finalized {
            if let Some((head, _)) = self.finalized.filter(|(_, read_at)| read_at.elapsed() < FINALIZED_EVERY) {
                return Ok(Some(head));
            }
            let head = head_of(&self.inner.block("finalized").await?);
            self.finalized = Some((head, Instant::now()));
            return Ok(Some(head));
        }
        let Some(head) = self.inner.watch.head() else { return Ok(None) };
        if self.confirmations == 1 {
            return Ok(Some(head));
        }
        match head.number.saturating_add(1).checked_sub(self.confirmations) {
            Some(number) => Ok(Some(head_of(&self.inner.block(&format!("{number:#x}")).await?))),
            None => Ok(None),
        }
    }

    /// Whether a receipt's block counts as settled; looks again whether it is still the chain's.
    async fn is_deep(&mut self, position: usize, receipt: &Receipt) -> Result<bool, RpcError> {
        let deep_number = if self.is_finalized {
            self.deep_head().await?.map(|head| head.number)
        } else if self.confirmations == 1 {
            // Seen in a block just now: that is what one confirmation means.
            return Ok(true);
        } else {
            self.inner.watch.head().and_then(|head| head.number.saturating_add(1).checked_sub(self.confirmations))
        };
        if deep_number.is_none_or(|number| number < receipt.block_number) {
            return Ok(false);
        }
        let again: Option<Receipt> =
            self.inner.rpc.call("eth_getTransactionReceipt", json!([receipt.transaction_hash])).await?;
        if again.as_ref().is_some_and(|again| again.block_hash == receipt.block_hash) {
            let held_in = self.inner.block(&format!("{:#x}", receipt.block_number)).await?;
            if held_in.hash == receipt.block_hash {
                return Ok(true);
            }
        }
        let is_gone = again.is_none();
        if let Some(attempt) = self.tries.get(position) {
            tracing::warn!(payment_id = %self.claim.id, transaction = %attempt.hash, "The chain took a block back.");
            attempt.watched.put(again);
            if is_gone && let Some(ticket) = &attempt.ticket {
                ticket.resend();
            }
        }
        Ok(false)
    }
}

impl Try {
    pub(super) fn new(inner: &Arc<Inner>, attempt: &Attempt, is_new: bool) -> Result<Self, String> {
        let signed = &attempt.signed;
        let hash = word(&signed.transaction).ok_or("transaction id is no hash")?;
        if keccak256(&signed.raw) != hash {
            return Err("stored bytes are not the stored transaction".to_owned());
        }
        let signer = signed.signer.as_ref();
        let watched = inner.watch.add(hash, is_new);
        let (now, age) = (Instant::now(), inner.clock.now().since(attempt.signed_at));
        let ticket = match (signer, signed.account_nonce) {
            (Some(signer), Some(nonce)) => {
                let lane = inner.lane_of(signer).ok_or("signer is no address, or the network was not started")?;
                Some(lane.submit(nonce, hash, signed.raw.clone().into()))
            }
            _ => None,
        };
        Ok(Self {
            hash,
            nonce: signed.account_nonce,
            signer: signer.and_then(|signer| address(signer.as_str())),
            account: signed.signer.clone(),
            ticket,
            transaction: lanes::unsigned(&signed.raw),
            signed_at: if is_new { Instant::now() } else { now.checked_sub(age).unwrap_or(now) },
            watched,
            is_dead: false,
            is_reverted: false,
            strikes: 0,
        })
    }
}

fn head_of(block: &Block) -> Head {
    Head { number: block.number, timestamp: block.timestamp, base_fee: None, seen_at: Instant::now() }
}
