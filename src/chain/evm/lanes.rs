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
use super::bump::{PATIENCE, replacement};
use super::rpc::RpcError;
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
}

impl Entry {
    fn new(raw: Bytes) -> Self {
        let now = Instant::now();
        Self { raw, added_at: now, holders: 0, due: now, tries: 0 }
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
    counted_at: Option<Instant>,
    /// The lowest missing nonce and since when it is missing.
    gap: Option<(AccountNonce, Instant)>,
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

    /// The transaction is mined deeply enough: forget it, and all that would have taken its place.
    pub(super) fn landed(&self) {
        if let Ok(mut queue) = self.lane.queue.lock() {
            queue.entries.retain(|(nonce, _), _| *nonce != self.key.0);
            queue.mined = queue.mined.max(self.key.0.saturating_add(1));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.with_entry(self.key, |entry| entry.holders = entry.holders.saturating_sub(1));
    }
}

/// What an answer to `eth_sendRawTransaction` means for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendAnswer {
    /// The node has it.
    Accepted,
    /// This account nonce was used: by it or by another.
    NonceUsed,
    /// Nothing is known, or the node refuses: try again.
    Again,
}

impl SendAnswer {
    fn of(result: &Result<Value, RpcError>) -> Self {
        match result {
            Ok(_) => Self::Accepted,
            Err(RpcError::Server { message, .. }) => {
                let message = message.to_ascii_lowercase();
                let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
                if says(&["already known", "known transaction", "already imported", "already exists", "underpriced"])
                    && !message.starts_with("transaction underpriced")
                {
                    Self::Accepted
                } else if says(&["nonce too low", "nonce is too low", "invalid nonce", "old nonce"]) {
                    Self::NonceUsed
                } else {
                    Self::Again
                }
            }
            Err(_) => Self::Again,
        }
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
        is_stale && (has_old || (queue.entries.is_empty() && queue.next > queue.mined) || queue.gap.is_some())
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
            tries = entry.tries;
            let (first, last) = if answer == SendAnswer::Again { FAILED_AGAIN } else { ACCEPTED_AGAIN };
            let factor = 1 << (entry.tries - 1).min(8);
            entry.due = Instant::now() + (first * factor).min(last);
        });
        if let Err(error) = result {
            let signer = &self.account;
            match answer {
                SendAnswer::Again => {
                    tracing::warn!(%error, %signer, account_nonce = key.0, transaction = %key.1, tries, "Sending failed; will send again.");
                }
                _ => {
                    tracing::debug!(%error, %signer, account_nonce = key.0, transaction = %key.1, "Node has it already.")
                }
            }
        }
    }

    /// Compares the lane with the chain: forgets what nobody waits for and is passed, and fills a nonce that is lost.
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
        if let Some(nonce) = self.lost_nonce(mined, pooled) {
            return self.mend(inner, nonce).await;
        }
        let base_fee = inner.watch.head().and_then(|head| head.base_fee);
        match base_fee.and_then(|base_fee| self.outgrown(mined, base_fee)) {
            // What a payment needs, its settlement replaces.
            Some(held) if self.booked(inner, mined).await.is_some_and(|booked| booked.is_empty()) => {
                self.fill(inner, mined, Some(held)).await
            }
            _ => Ok(()),
        }
    }

    /// What the books hold for an account nonce; nothing when they can't be asked.
    async fn booked(&self, inner: &Inner, nonce: AccountNonce) -> Option<Vec<Vec<u8>>> {
        let Some(signatures) = inner.signatures.get() else { return Some(Vec::new()) };
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
        for raw in booked {
            let Ok(transaction) = TxEnvelope::decode_2718(&mut raw.as_slice()) else { continue };
            let hash = *transaction.tx_hash();
            tracing::warn!(signer = %self.account, account_nonce = nonce, %hash, "Sending again what the chain lost.");
            self.insert_unheld(nonce, hash, raw);
        }
        Ok(())
    }

    /// What holds up the lane although nobody waits for it, at a fee that can't be mined: a settlement that ended otherwise,
    /// or a filler. Gives the one of the highest fee.
    fn outgrown(&self, mined: AccountNonce, base_fee: u128) -> Option<TxEip1559> {
        let queue = self.queue.lock().ok()?;
        let mut highest: Option<TxEip1559> = None;
        for (_, entry) in queue.entries.range((mined, B256::ZERO)..=(mined, B256::repeat_byte(0xff))) {
            let held = unsigned(&entry.raw)?;
            if entry.holders > 0 || entry.added_at.elapsed() < PATIENCE || held.max_fee_per_gas >= base_fee {
                return None;
            }
            if highest.as_ref().is_none_or(|highest| highest.max_fee_per_gas < held.max_fee_per_gas) {
                highest = Some(held);
            }
        }
        highest
    }

    /// Notes what the chain has; gives the nonce that has been missing for too long.
    fn lost_nonce(&self, mined: AccountNonce, pooled: AccountNonce) -> Option<AccountNonce> {
        let mut queue = self.queue.lock().ok()?;
        queue.mined = mined;
        queue.counted_at = Some(Instant::now());
        queue.entries.retain(|(nonce, _), entry| entry.holders > 0 || *nonce >= mined);
        let from = mined.max(pooled);
        let is_held = |nonce: AccountNonce| {
            queue.entries.range((nonce, B256::ZERO)..=(nonce, B256::repeat_byte(0xff))).next().is_some()
        };
        let missing = (from..queue.next).take(DEPTH_MAX).find(|nonce| !is_held(*nonce));
        queue.gap = match (missing, queue.gap) {
            (Some(nonce), Some((same, since))) if nonce == same => Some((nonce, since)),
            (Some(nonce), _) => Some((nonce, Instant::now())),
            (None, _) => None,
        };
        queue.gap.filter(|(_, since)| since.elapsed() >= GAP_GRACE).map(|(nonce, _)| nonce)
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
                self.spent(fees.total(FILLER_GAS), inner.clock.now());
                self.insert_unheld(nonce, hash, raw);
            }
            Err(error) => tracing::error!(%error, signer = %self.account, "Could not sign a filler."),
        }
        Ok(())
    }

    fn insert_unheld(&self, nonce: AccountNonce, hash: B256, raw: Vec<u8>) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.entries.entry((nonce, hash)).or_insert_with(|| Entry::new(raw.into()));
            queue.gap = None;
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

    fn server(message: &str) -> Result<Value, RpcError> {
        Err(RpcError::Server { code: -32000, message: message.to_owned(), data: None })
    }

    fn lane() -> Arc<Lane> {
        Lane::new(AccountId::new("0xlane").unwrap(), Address::ZERO, None, Arc::default())
    }

    #[test]
    fn no_answer_to_a_send_is_ever_a_failure() {
        for (message, expected) in [
            ("already known", SendAnswer::Accepted),
            ("transaction already imported", SendAnswer::Accepted),
            ("replacement transaction underpriced", SendAnswer::Accepted),
            ("transaction underpriced: tip needed 1", SendAnswer::Again),
            ("nonce too low: next nonce 5, tx nonce 4", SendAnswer::NonceUsed),
            ("insufficient funds for gas * price + value", SendAnswer::Again),
            ("internal error", SendAnswer::Again),
        ] {
            assert_eq!(SendAnswer::of(&server(message)), expected, "{message}");
        }
        assert_eq!(SendAnswer::of(&Err(RpcError::Transport("HTTP status 502".into()))), SendAnswer::Again);
        assert_eq!(SendAnswer::of(&Ok(Value::Null)), SendAnswer::Accepted);
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
        assert_eq!(lane.lost_nonce(5, 5), None, "only noticed");
        assert_eq!(lane.queue.lock().unwrap().gap.unwrap().0, 5);
        let long_ago = Instant::now().checked_sub(GAP_GRACE).unwrap();
        lane.queue.lock().unwrap().gap = Some((5, long_ago));
        assert_eq!(lane.lost_nonce(5, 5), Some(5));
        assert_eq!(lane.lost_nonce(5, 7), None, "the pool holds 5 and 6");
        drop(held);
        assert_eq!(lane.lost_nonce(7, 7), None);
        assert!(lane.queue.lock().unwrap().entries.is_empty(), "passed and not waited for: forgotten");
    }
}
