//! Lanes: one per gas payer. A lane sends signed bytes in the order of their account nonces, the same bytes again until
//! the chain has passed them, and keeps the nonce sequence free of gaps.
//!
//! What an answer to a send says about a payment is not decided here: no answer is proof of anything (threat E8).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Inner;
use super::abi::quantity;
use super::bump::{PATIENCE, passed_over_after, replacement};
use super::rpc::RpcError;
use super::sent::SendAnswer;
use crate::chain::spending::Allowance;
use crate::ledger::AccountNonce;
use crate::types::{AccountId, AtomicAmount, UnixMillis};

/// Unmined transactions of one lane; nodes keep about so many of one account.
const DEPTH_MAX: usize = 64;
/// Transactions sent in one request.
const SEND_AT_ONCE_MAX: usize = 64;
/// Pause before the same bytes are sent again after a node took them; doubles up to the second value.
const ACCEPTED_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Pause after a failed send; doubles up to the second value.
const FAILED_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often a lane with unfinished business compares itself with the chain.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Gas limit of a transfer of nothing, with room for chains that count data as gas.
const FILLER_GAS: u64 = 60_000;
/// A missing account nonce is filled when it has been missing for so long.
const GAP_GRACE: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Entry {
    raw: Bytes,
    added_at: Instant,
    /// Settlements that wait for it; without any, it is only kept going so that its nonce is passed.
    holders: usize,
    due: Instant,
    tries: u32,
    /// When a node said first that it has it, or that it wants a higher fee.
    known_at: Option<Instant>,
}

impl Entry {
    fn new(raw: Bytes) -> Self {
        let now = Instant::now();
        Self { raw, added_at: now, holders: 0, due: now, tries: 0, known_at: None }
    }
}

#[derive(Default)]
struct Queue {
    entries: BTreeMap<(AccountNonce, B256), Entry>,
    /// Signed and not submitted yet; each still holds its reservation.
    signed: HashSet<B256>,
    /// One past the highest account nonce that was ever handed out, as far as known.
    next: AccountNonce,
    /// What the chain said last of how many were mined.
    mined: AccountNonce,
    /// Since when it is that many.
    mined_since: Option<Instant>,
    counted_at: Option<Instant>,
    /// The missing nonces, each since it is missed.
    gaps: BTreeMap<AccountNonce, Instant>,
}

impl Queue {
    fn set_mined(&mut self, mined: AccountNonce) {
        if self.mined != mined || self.mined_since.is_none() {
            (self.mined, self.mined_since) = (mined, Some(Instant::now()));
        }
    }

    fn holds(&self, nonce: AccountNonce) -> bool {
        self.entries.range((nonce, B256::ZERO)..=(nonce, B256::repeat_byte(0xff))).next().is_some()
    }

    /// Since when the chain could have mined it: nodes know it, and all that comes before it is mined.
    fn next_since(&self, key: (AccountNonce, B256)) -> Option<Instant> {
        let is_next = self.mined == key.0 && self.counted_at.is_some_and(|at| at.elapsed() < COUNT_EVERY * 2);
        let known_at = self.entries.get(&key).filter(|_entry| is_next)?.known_at?;
        Some(known_at.max(self.mined_since?))
    }
}

/// One gas payer.
pub(super) struct Lane {
    pub account: AccountId,
    pub address: Address,
    /// None for a gas payer of an earlier configuration: its transactions are still sent.
    signer: Option<PrivateKeySigner>,
    reserved: AtomicUsize,
    queue: Mutex<Queue>,
    wake: Notify,
    balance: Mutex<Option<U256>>,
    pub allowance: Arc<Allowance>,
    held: Mutex<Held>,
}

/// Whether a gas payer is this gateway's to sign with.
#[derive(Debug, Clone, Copy, Default)]
enum Held {
    /// There is no other gateway.
    #[default]
    Always,
    /// It is, if that hasn't been too long ago.
    Until(Instant),
    /// It is another's, or nobody's.
    No,
}

/// A place in a lane for a transaction that is not submitted yet; given back when dropped, and taken over by the
/// transaction when that is submitted, so that nothing counts twice.
pub(super) struct Reservation {
    pub lane: Arc<Lane>,
    signed: OnceLock<B256>,
}

impl Reservation {
    /// Says which transaction the place is for.
    pub(super) fn signed(&self, hash: B256) {
        if self.signed.set(hash).is_ok()
            && let Ok(mut queue) = self.lane.queue.lock()
        {
            queue.signed.insert(hash);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let is_held = match self.signed.get() {
            Some(hash) => self.lane.queue.lock().is_ok_and(|mut queue| queue.signed.remove(hash)),
            None => true,
        };
        if is_held {
            self.lane.reserved.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A transaction in a lane. Dropping it ends the wait, not the transaction.
pub(super) struct Ticket {
    lane: Arc<Lane>,
    key: (AccountNonce, B256),
}

impl Ticket {
    /// Sends the bytes again now: the chain lost them.
    pub(super) fn resend(&self) {
        self.lane.with_entry(self.key, |entry| entry.due = Instant::now());
        self.lane.wake.notify_one();
    }

    /// Since when the chain could have mined it: nodes know it, and all that comes before it is mined.
    pub(super) fn next_since(&self) -> Option<Instant> {
        self.lane.queue.lock().ok()?.next_since(self.key)
    }

    /// The transaction is mined deeply enough: forget it, and all that would have taken its place.
    pub(super) fn landed(&self) {
        if let Ok(mut queue) = self.lane.queue.lock() {
            queue.entries.retain(|(nonce, _), _| *nonce != self.key.0);
            let mined = queue.mined.max(self.key.0.saturating_add(1));
            queue.set_mined(mined);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.with_entry(self.key, |entry| entry.holders = entry.holders.saturating_sub(1));
    }
}

impl Lane {
    pub(super) fn new(
        account: AccountId,
        address: Address,
        signer: Option<PrivateKeySigner>,
        allowance: Arc<Allowance>,
    ) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            account,
            address,
            signer,
            reserved: AtomicUsize::new(0),
            queue: Mutex::default(),
            wake: Notify::new(),
            balance: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// The key, if this process holds it.
    pub(super) fn signer(&self) -> Option<&PrivateKeySigner> {
        self.signer.as_ref()
    }

    /// Until when this gateway is the only one to sign with this key, or not at all.
    pub(super) fn hold(&self, until: Option<Instant>) {
        if let Ok(mut held) = self.held.lock() {
            *held = until.map_or(Held::No, Held::Until);
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.lock().is_ok_and(|held| match *held {
            Held::Always => true,
            Held::Until(until) => Instant::now() < until,
            Held::No => false,
        })
    }

    pub(super) fn balance(&self) -> Option<U256> {
        self.balance.lock().ok().and_then(|balance| *balance)
    }

    pub(super) fn set_balance(&self, balance: U256) {
        if let Ok(mut held) = self.balance.lock() {
            *held = Some(balance);
        }
    }

    /// A transaction of this gas payer cost so much, or may have; in wei. The balance is read only now and then.
    pub(super) fn spent(&self, fee: U256, at: UnixMillis) {
        if let Ok(mut held) = self.balance.lock() {
            *held = held.map(|balance| balance.saturating_sub(fee));
        }
        self.allowance.spent(AtomicAmount::from(fee), at);
    }

    /// Reserved and unmined transactions.
    fn depth(&self) -> usize {
        let unmined = self.queue.lock().map_or(DEPTH_MAX, |queue| queue.entries.len());
        unmined.saturating_add(self.reserved.load(Ordering::Acquire))
    }

    /// Tells the lane which account nonce will be handed out next.
    pub(super) fn set_next(&self, next: AccountNonce) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.next = queue.next.max(next);
        }
        self.wake.notify_one();
    }

    /// Takes signed bytes to be sent.
    pub(super) fn submit(self: &Arc<Self>, nonce: AccountNonce, hash: B256, raw: Bytes) -> Ticket {
        if let Ok(mut queue) = self.queue.lock() {
            queue.next = queue.next.max(nonce.saturating_add(1));
            if queue.signed.remove(&hash) {
                self.reserved.fetch_sub(1, Ordering::AcqRel);
            }
            let fresh = Entry::new(raw);
            let entry = queue.entries.entry((nonce, hash)).or_insert(fresh);
            entry.holders += 1;
            // One that is known from before is sent again, and so looked for at once.
            entry.due = Instant::now();
        }
        self.wake.notify_one();
        Ticket { lane: Arc::clone(self), key: (nonce, hash) }
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    fn with_entry(&self, key: (AccountNonce, B256), change: impl FnOnce(&mut Entry)) {
        if let Ok(mut queue) = self.queue.lock()
            && let Some(entry) = queue.entries.get_mut(&key)
        {
            change(entry);
        }
    }

    /// What is to be sent now, lowest account nonce first.
    fn due(&self) -> Vec<((AccountNonce, B256), Bytes)> {
        let now = Instant::now();
        let Ok(queue) = self.queue.lock() else { return Vec::new() };
        let due = queue.entries.iter().filter(|(_, entry)| entry.due <= now);
        due.take(SEND_AT_ONCE_MAX).map(|(key, entry)| (*key, entry.raw.clone())).collect()
    }

    /// How long nothing is to be done.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let Ok(queue) = self.queue.lock() else { return COUNT_EVERY };
        let send_in = queue.entries.values().map(|entry| entry.due.saturating_duration_since(now)).min();
        let count_in = (!queue.entries.is_empty() || queue.next > queue.mined).then_some(COUNT_EVERY);
        send_in.into_iter().chain(count_in).min().unwrap_or(Duration::from_secs(3600))
    }

    /// Whether the chain's view is needed: something waits for longer than a healthy chain takes, or a nonce handed out
    /// in an earlier run was never seen mined.
    fn needs_count(&self) -> bool {
        let Ok(queue) = self.queue.lock() else { return false };
        let is_stale = queue.counted_at.is_none_or(|at| at.elapsed() >= COUNT_EVERY);
        let has_old = queue.entries.values().any(|entry| entry.tries > 1 || entry.holders == 0);
        is_stale && (has_old || (queue.entries.is_empty() && queue.next > queue.mined) || !queue.gaps.is_empty())
    }

    async fn send_due(&self, inner: &Inner) {
        let due = self.due();
        if due.is_empty() {
            return;
        }
        crate::crash::point("mid_send");
        let calls = due.iter().map(|(_, raw)| ("eth_sendRawTransaction", json!([raw]))).collect();
        let results = inner.rpc.batch(calls).await;
        crate::crash::point("post_send");
        for (position, (key, _)) in due.iter().enumerate() {
            let result = match &results {
                Ok(results) => results.get(position).cloned().unwrap_or(Ok(Value::Null)),
                Err(error) => Err(error.clone()),
            };
            self.note(*key, &result);
            // Whatever the node said, or didn't: it may have it, so look for it.
            inner.watch.sent(key.1);
        }
    }

    fn note(&self, key: (AccountNonce, B256), result: &Result<Value, RpcError>) {
        let answer = SendAnswer::of(result);
        let mut tries = 0;
        self.with_entry(key, |entry| {
            entry.tries = entry.tries.saturating_add(1);
            if matches!(answer, SendAnswer::Accepted | SendAnswer::Underpriced) {
                entry.known_at.get_or_insert_with(Instant::now);
            }
            tries = entry.tries;
            let has_failed = matches!(answer, SendAnswer::Again | SendAnswer::Underpriced);
            let (first, last) = if has_failed { FAILED_AGAIN } else { ACCEPTED_AGAIN };
            let factor = 1 << (entry.tries - 1).min(8);
            entry.due = Instant::now() + (first * factor).min(last);
        });
        if let Err(error) = result {
            let signer = &self.account;
            match answer {
                SendAnswer::Again | SendAnswer::Underpriced => {
                    tracing::warn!(%error, %signer, account_nonce = key.0, transaction = %key.1, tries, "Sending failed; will send again.");
                }
                SendAnswer::Accepted | SendAnswer::NonceUsed => {
                    tracing::debug!(%error, %signer, account_nonce = key.0, transaction = %key.1, "Node has it already.")
                }
            }
        }
    }

    /// Compares the lane with the chain: forgets what nobody waits for and is passed, and mends all nonces that are lost.
    async fn compare(&self, inner: &Inner) -> Result<(), RpcError> {
        let count = |tag: &str| ("eth_getTransactionCount", json!([self.address, tag]));
        let results = inner.rpc.batch(vec![count("latest"), count("pending")]).await?;
        let mut counts = results.into_iter().map(|result| {
            let text = result?;
            let count = text.as_str().and_then(quantity::parse);
            count.ok_or_else(|| RpcError::Transport("eth_getTransactionCount gave no count".to_owned()))
        });
        let missing = || RpcError::Transport("no count".to_owned());
        let mined = counts.next().ok_or_else(missing)??;
        let pooled = counts.next().ok_or_else(missing)??;
        let passed_over_after = passed_over_after(inner.watch.block_interval());
        let lost = self.lost_nonces(mined, pooled, passed_over_after);
        if let Some(lowest) = lost.first() {
            let mut mended = Ok(());
            for nonce in &lost {
                mended = self.mend(inner, *nonce).await;
                if !self.holds(*nonce) {
                    // What comes after it could not be mined either.
                    break;
                }
            }
            if self.holds(*lowest) {
                self.resend_from(*lowest);
            }
            return mended;
        }
        let base_fee = inner.watch.head().and_then(|head| head.base_fee);
        match base_fee.and_then(|base_fee| self.stuck(mined, base_fee, passed_over_after)) {
            // What a payment needs, its settlement replaces.
            Some(held) if self.booked(inner, mined).await.is_some_and(|booked| booked.is_empty()) => {
                self.fill(inner, mined, Some(held)).await
            }
            _ => Ok(()),
        }
    }

    /// What the books hold for an account nonce; nothing when they can't be asked.
    async fn booked(&self, inner: &Inner, nonce: AccountNonce) -> Option<Vec<Vec<u8>>> {
        let signatures = inner.signatures.get()?;
        match signatures.signed_with(&self.account, nonce).await {
            Ok(booked) => Some(booked),
            Err(error) => {
                tracing::warn!(%error, signer = %self.account, account_nonce = nonce, "A lost account nonce is left for now.");
                None
            }
        }
    }

    /// Sends again what the books hold for a lost account nonce: a chain that took blocks back may have lost the transaction that
    /// paid. Only what no payment needs is filled.
    async fn mend(&self, inner: &Inner, nonce: AccountNonce) -> Result<(), RpcError> {
        let Some(booked) = self.booked(inner, nonce).await else { return Ok(()) };
        if booked.is_empty() {
            return self.fill(inner, nonce, None).await;
        }
        crate::crash::point("mid_mend");
        for raw in booked {
            let Ok(transaction) = TxEnvelope::decode_2718(&mut raw.as_slice()) else {
                tracing::error!(signer = %self.account, account_nonce = nonce, "What the books hold for a lost account nonce is no transaction.");
                continue;
            };
            let hash = *transaction.tx_hash();
            tracing::warn!(signer = %self.account, account_nonce = nonce, %hash, "Sending again what the chain lost.");
            self.insert_unheld(nonce, hash, raw);
        }
        Ok(())
    }

    /// What holds up the lane although nobody waits for it, at a fee that can't be mined, or passed over: a settlement that ended
    /// otherwise, or a filler. Gives the one of the highest fee.
    fn stuck(&self, mined: AccountNonce, base_fee: u128, passed_over_after: Duration) -> Option<TxEip1559> {
        let queue = self.queue.lock().ok()?;
        let entries = || queue.entries.range((mined, B256::ZERO)..=(mined, B256::repeat_byte(0xff)));
        // Each time more patiently: at a fee that suffices it isn't the fee.
        let passed_over_after = passed_over_after.saturating_mul(u32::try_from(entries().count()).unwrap_or(u32::MAX));
        let mut highest: Option<TxEip1559> = None;
        for (key, entry) in entries() {
            let held = unsigned(&entry.raw)?;
            let has_waited = if held.max_fee_per_gas < base_fee {
                entry.added_at.elapsed() >= PATIENCE
            } else {
                queue.next_since(*key).is_some_and(|since| since.elapsed() >= passed_over_after)
            };
            if entry.holders > 0 || !has_waited {
                return None;
            }
            if highest.as_ref().is_none_or(|highest| highest.max_fee_per_gas < held.max_fee_per_gas) {
                highest = Some(held);
            }
        }
        highest
    }

    /// Notes what the chain has; gives the nonces that have been missing for too long, lowest first. What a node's pool holds isn't
    /// missing, unless it is the next to be mined and the chain has passed it over: an earlier run may have left it there.
    fn lost_nonces(&self, mined: AccountNonce, pooled: AccountNonce, passed_over_after: Duration) -> Vec<AccountNonce> {
        let Ok(mut queue) = self.queue.lock() else { return Vec::new() };
        let now = Instant::now();
        queue.set_mined(mined);
        queue.counted_at = Some(now);
        queue.entries.retain(|(nonce, _), entry| entry.holders > 0 || *nonce >= mined);
        let is_passed_over = queue.mined_since.is_some_and(|since| since.elapsed() >= passed_over_after);
        let next = Some(mined).filter(|next| *next < pooled.min(queue.next) && is_passed_over);
        let behind = (mined.max(pooled)..queue.next).take(DEPTH_MAX);
        let missing = next.into_iter().chain(behind).filter(|nonce| !queue.holds(*nonce));
        queue.gaps = missing.map(|nonce| (nonce, queue.gaps.get(&nonce).copied().unwrap_or(now))).collect();
        let is_lost = |since: &Instant| now.saturating_duration_since(*since) >= GAP_GRACE;
        queue.gaps.iter().filter(|(_, since)| is_lost(since)).map(|(nonce, _)| *nonce).collect()
    }

    fn holds(&self, nonce: AccountNonce) -> bool {
        self.queue.lock().is_ok_and(|queue| queue.holds(nonce))
    }

    /// What lay behind a lost nonce, nodes may have lost with it: it is sent again at once, not when its turn would be.
    fn resend_from(&self, nonce: AccountNonce) {
        if let Ok(mut queue) = self.queue.lock() {
            let now = Instant::now();
            queue.entries.range_mut((nonce, B256::ZERO)..).for_each(|(_, entry)| entry.due = now);
        }
        self.wake.notify_one();
    }

    /// Signs a transfer of nothing to oneself at a lost account nonce, or instead of what is held there (threat E9).
    async fn fill(&self, inner: &Inner, nonce: AccountNonce, held: Option<TxEip1559>) -> Result<(), RpcError> {
        let Some(signer) = self.signer.as_ref().filter(|_signer| self.is_held()) else { return Ok(()) };
        let today = inner.fees().await?;
        let base_fee = inner.watch.head().and_then(|head| head.base_fee).unwrap_or(0);
        let fees = match &held {
            Some(held) => replacement(held, base_fee, today, FILLER_GAS, inner.config.max_fee),
            None => (today.with_replacement(FILLER_GAS) <= inner.config.max_fee).then_some(today),
        };
        let Some(fees) = fees else {
            tracing::warn!(signer = %self.account, account_nonce = nonce, "A lost account nonce is not filled now: over max_fee.");
            return Ok(());
        };
        let transaction = TxEip1559 {
            chain_id: inner.chain_id,
            nonce,
            gas_limit: FILLER_GAS,
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.tip,
            to: TxKind::Call(self.address),
            value: U256::ZERO,
            ..TxEip1559::default()
        };
        // Asked again: the fees took their time.
        if !self.is_held() {
            return Ok(());
        }
        match sign(signer, transaction) {
            Ok((hash, raw)) => {
                tracing::warn!(signer = %self.account, account_nonce = nonce, %hash, "Filling a lost account nonce.");
                // Of those with one account nonce one is mined, and what may be spent on the others is counted.
                let counted = held.map_or(U256::ZERO, |held| {
                    U256::from(held.gas_limit).saturating_mul(U256::from(held.max_fee_per_gas))
                });
                self.spent(fees.total(FILLER_GAS).saturating_sub(counted), inner.clock.now());
                self.insert_unheld(nonce, hash, raw);
            }
            Err(error) => tracing::error!(%error, signer = %self.account, "Could not sign a filler."),
        }
        Ok(())
    }

    fn insert_unheld(&self, nonce: AccountNonce, hash: B256, raw: Vec<u8>) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.entries.entry((nonce, hash)).or_insert_with(|| Entry::new(raw.into()));
            queue.gaps.remove(&nonce);
        }
        self.wake.notify_one();
    }
}

/// Signs a transaction: its hash and its EIP-2718 bytes.
pub(super) fn sign(signer: &PrivateKeySigner, transaction: TxEip1559) -> Result<(B256, Vec<u8>), String> {
    let signature = signer.sign_hash_sync(&transaction.signature_hash()).map_err(|error| error.to_string())?;
    let signed = transaction.into_signed(signature);
    Ok((*signed.hash(), signed.encoded_2718()))
}

/// What was signed, from its EIP-2718 bytes.
pub(super) fn unsigned(raw: &[u8]) -> Option<TxEip1559> {
    match TxEnvelope::decode_2718(&mut &*raw) {
        Ok(TxEnvelope::Eip1559(signed)) => Some(signed.tx().clone()),
        _ => None,
    }
}

/// Reserves a place in the lane that has most room, among those that can pay `cost` for all they hold and one more, as far as
/// known: nodes keep no transaction whose account can't pay for it besides those before it.
pub(super) fn reserve(lanes: &[Arc<Lane>], cost: U256, now: UnixMillis) -> Option<Reservation> {
    let mut by_depth: Vec<(usize, &Arc<Lane>)> = lanes
        .iter()
        .filter(|lane| lane.is_held())
        .map(|lane| (lane.depth(), lane))
        .filter(|(depth, lane)| {
            let needed = cost.saturating_mul(U256::from(depth.saturating_add(1)));
            lane.balance().is_none_or(|balance| balance >= needed) && lane.allowance.has_room(cost.into(), now)
        })
        .collect();
    by_depth.sort_by_key(|(depth, _)| *depth);
    let (_, lane) = by_depth.first()?;
    lane.reserved.fetch_add(1, Ordering::AcqRel);
    let reservation = Reservation { lane: Arc::clone(lane), signed: OnceLock::new() };
    // Reserve first and look then: two at once can't both take the last place.
    (lane.depth() <= DEPTH_MAX).then_some(reservation)
}

/// A lane's task; ends when its network is dropped.
pub(super) async fn run(inner: Weak<Inner>, lane: Arc<Lane>) {
    loop {
        match inner.upgrade() {
            Some(inner) => {
                lane.send_due(&inner).await;
                if lane.needs_count()
                    && let Err(error) = lane.compare(&inner).await
                {
                    tracing::debug!(%error, signer = %lane.account, "Could not compare a lane with the chain.");
                }
            }
            None => return,
        }
        let pause = lane.pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lane.wake.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(0);
    const LONG: Duration = Duration::from_secs(60);

    fn lane() -> Arc<Lane> {
        Lane::new(AccountId::new("0xlane").unwrap(), Address::ZERO, None, Arc::default())
    }

    #[test]
    fn a_lane_takes_no_more_than_its_depth_and_gives_places_back() {
        let lanes = [lane()];
        let mut held: Vec<Reservation> = Vec::new();
        while let Some(reservation) = reserve(&lanes, U256::ZERO, NOW) {
            held.push(reservation);
            assert!(held.len() <= DEPTH_MAX);
        }
        assert_eq!(held.len(), DEPTH_MAX);
        held.pop();
        assert!(reserve(&lanes, U256::ZERO, NOW).is_some());
    }

    #[test]
    fn a_place_is_counted_once_however_long_its_reservation_is_kept() {
        let lanes = [lane()];
        let reservation = reserve(&lanes, U256::ZERO, NOW).unwrap();
        reservation.signed(B256::ZERO);
        assert_eq!(lanes[0].depth(), 1);
        let ticket = lanes[0].submit(0, B256::ZERO, Bytes::new());
        assert_eq!(lanes[0].depth(), 1);
        drop(reservation);
        assert_eq!(lanes[0].depth(), 1);
        ticket.landed();
        assert_eq!(lanes[0].depth(), 0);
        let unsent = reserve(&lanes, U256::ZERO, NOW).unwrap();
        unsent.signed(B256::repeat_byte(1));
        drop(unsent);
        assert_eq!(lanes[0].depth(), 0, "a claim that was rolled back");
    }

    #[test]
    fn a_lane_that_cannot_pay_is_passed_over() {
        let (poor, rich) = (lane(), lane());
        poor.set_balance(U256::from(1));
        rich.set_balance(U256::from(100));
        let lanes = [poor, Arc::clone(&rich)];
        let held = [reserve(&lanes, U256::from(50), NOW).unwrap(), reserve(&lanes, U256::from(50), NOW).unwrap()];
        assert!(held.iter().all(|taken| Arc::ptr_eq(&taken.lane, &rich)));
        assert!(reserve(&lanes, U256::from(50), NOW).is_none(), "not for a third besides the two");
    }

    #[test]
    fn what_is_sent_is_in_the_order_of_account_nonces() {
        let lane = lane();
        let _tickets: Vec<Ticket> = [7, 5, 6]
            .map(|nonce| lane.submit(nonce, B256::repeat_byte(u8::try_from(nonce).unwrap()), Bytes::new()))
            .into();
        let order: Vec<u64> = lane.due().iter().map(|((nonce, _), _)| *nonce).collect();
        assert_eq!(order, [5, 6, 7]);
    }

    #[test]
    fn a_nonce_is_lost_only_when_nobody_holds_it_and_the_pool_has_not_passed_it() {
        let lane = lane();
        let held = lane.submit(6, B256::ZERO, Bytes::new());
        let missed = || lane.queue.lock().unwrap().gaps.keys().copied().collect::<Vec<_>>();
        let long_ago = || {
            let long_ago = Instant::now().checked_sub(GAP_GRACE).unwrap();
            lane.queue.lock().unwrap().gaps.values_mut().for_each(|since| *since = long_ago);
        };
        lane.set_next(9);
        assert_eq!((lane.lost_nonces(5, 5, LONG), missed()), (Vec::new(), vec![5, 7, 8]), "only noticed");
        long_ago();
        assert_eq!(lane.lost_nonces(5, 5, LONG), [5, 7, 8], "all of them at once");
        assert_eq!((lane.lost_nonces(5, 8, LONG), missed()), (vec![8], vec![8]), "the pool holds those before");
        assert_eq!((lane.lost_nonces(5, 5, LONG), missed()), (vec![8], vec![5, 7, 8]), "two are missed anew");
        long_ago();
        lane.insert_unheld(7, B256::ZERO, Vec::new());
        assert_eq!((lane.lost_nonces(5, 5, LONG), missed()), (vec![5, 8], vec![5, 8]));
        drop(held);
        assert_eq!(lane.lost_nonces(9, 9, LONG), Vec::<AccountNonce>::new());
        assert!(lane.queue.lock().unwrap().entries.is_empty(), "passed and not waited for: forgotten");
    }

    #[test]
    fn what_an_earlier_run_left_in_the_pool_is_lost_once_the_chain_has_passed_it_over() {
        let lane = lane();
        lane.set_next(9);
        let missed = || lane.queue.lock().unwrap().gaps.keys().copied().collect::<Vec<_>>();
        for (mined, pooled, after, expected) in [
            (5, 9, LONG, vec![]),
            (5, 9, Duration::ZERO, vec![5]),
            (9, 9, Duration::ZERO, vec![]),
            (9, 12, Duration::ZERO, vec![]),
        ] {
            lane.lost_nonces(mined, pooled, after);
            assert_eq!(missed(), expected, "{mined} {pooled} {after:?}");
        }
        let _held = lane.submit(6, B256::ZERO, Bytes::new());
        lane.lost_nonces(6, 9, Duration::ZERO);
        assert_eq!(missed(), [0; 0], "a settlement sees to it");
    }

    #[test]
    fn what_lies_behind_a_lost_nonce_is_sent_again_at_once() {
        let lane = lane();
        let _held: Vec<_> = [4, 6, 7].map(|nonce| lane.submit(nonce, B256::ZERO, Bytes::new())).into();
        let later = Instant::now() + Duration::from_secs(60);
        lane.queue.lock().unwrap().entries.values_mut().for_each(|entry| entry.due = later);
        assert!(lane.due().is_empty());
        lane.resend_from(5);
        assert_eq!(lane.due().iter().map(|((nonce, _), _)| *nonce).collect::<Vec<_>>(), [6, 7]);
    }
}
