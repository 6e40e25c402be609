//! One watcher per network: the chain's head and the receipts of everything that was sent, with few calls.
//!
//! One payment pending: its receipt is asked for, first after about as long as the last ones took. Many pending: the
//! head is polled, and each new block's receipts serve all of them. Nothing pending: the head now and then. What a
//! receipt means is not decided here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::Inner;
use super::abi::{Block, Receipt};
use super::rpc::{Rpc, RpcError, parse};
use crate::chain::skew::Sighting;

/// Up to so many pending transactions are asked for one by one.
const FEW: usize = 3;
/// New blocks up to which blocks are read rather than single receipts.
const BLOCKS_AT_ONCE_MAX: u64 = 16;
/// Receipts asked for in one request.
const RECEIPTS_AT_ONCE_MAX: usize = 100;
/// How often the head is read while nothing happens.
const HEAD_IDLE: Duration = Duration::from_secs(10);
/// How often the head is read while the network doesn't answer.
const HEAD_UNREACHABLE: Duration = Duration::from_secs(2);
/// How often the head is read while a payment is pending.
const HEAD_BUSY: Duration = Duration::from_secs(1);
/// Bounds of the head's polling while many are pending; the lower one is less where blocks come faster.
const MANY_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// The lower bound where blocks come as fast as transactions do.
const MANY_POLL_MIN: Duration = Duration::from_millis(5);
/// Bounds of one receipt's polling.
const RECEIPT_POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// A receipt that usually comes sooner is asked for at once: chains that mine what they are sent, and a timer's steps are of
/// that size too.
const RECEIPT_AT_ONCE: Duration = Duration::from_millis(2);
/// How often it is asked for again at once there, before a timer is worth its while.
const AGAIN_AT_ONCE_MAX: u8 = 2;
/// How often every pending receipt is asked for although no block showed it.
const RECHECK: Duration = Duration::from_secs(3);
/// An endpoint so many blocks behind the best head seen is behind the chain.
pub(super) const LAG_BLOCKS_MAX: u64 = 10;

/// The chain's head as last seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub number: u64,
    /// Unix seconds.
    pub timestamp: u64,
    /// Wei per gas; none on chains without EIP-1559.
    pub base_fee: Option<u128>,
    pub seen_at: Instant,
}

struct Pending {
    receipt: watch::Sender<Option<Arc<Receipt>>>,
    holders: usize,
    sent_at: Option<Instant>,
    next_poll: Instant,
    delay: Duration,
    /// How often it is still asked for again without a pause.
    at_once: u8,
    /// Blocks up to this one don't hold it.
    scanned_to: u64,
    checked_at: Instant,
}

/// The state shared by the watcher's task and those who wait.
pub(super) struct Watch {
    head: watch::Sender<Option<Head>>,
    pending: Mutex<HashMap<B256, Pending>>,
    wake: Notify,
    interested: AtomicUsize,
    /// How long it lately took from sending to the receipt, in microseconds.
    usual_wait_micros: AtomicU64,
    /// Smoothed time between blocks, in milliseconds.
    block_interval_millis: AtomicU64,
    lag_strikes: AtomicU32,
    /// Held while the head is read; holds the last failure and when it was met.
    refreshing: tokio::sync::Mutex<Option<(RpcError, Instant)>>,
    has_block_receipts: AtomicBool,
    many_delay_micros: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            head: watch::Sender::new(None),
            pending: Mutex::default(),
            wake: Notify::new(),
            interested: AtomicUsize::new(0),
            usual_wait_micros: AtomicU64::new(4000),
            block_interval_millis: AtomicU64::new(2000),
            lag_strikes: AtomicU32::new(0),
            refreshing: tokio::sync::Mutex::default(),
            has_block_receipts: AtomicBool::new(true),
            many_delay_micros: AtomicU64::new(0),
        }
    }
}

/// A place in the watcher's list; leaves when dropped.
pub(super) struct Watched {
    watch: Arc<Watch>,
    hash: B256,
    receipt: watch::Receiver<Option<Arc<Receipt>>>,
}

impl Watched {
    /// The receipt, once seen.
    pub(super) fn receipt(&self) -> Option<Arc<Receipt>> {
        self.receipt.borrow().clone()
    }

    /// Waits until the receipt is seen or changes.
    pub(super) async fn changed(&mut self) {
        if self.receipt.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Puts a receipt that was fetched elsewhere.
    pub(super) fn put(&self, receipt: Option<Receipt>) {
        let receipt = receipt.map(Arc::new);
        self.watch.with(self.hash, |pending| {
            pending.next_poll = Instant::now() + Duration::from_millis(100);
            pending.scanned_to = 0;
            pending.receipt.send_replace(receipt);
        });
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Ok(mut map) = self.watch.pending.lock()
            && let Some(pending) = map.get_mut(&self.hash)
        {
            pending.holders = pending.holders.saturating_sub(1);
            if pending.holders == 0 {
                map.remove(&self.hash);
            }
        }
    }
}

/// Keeps the head fresh while it lives.
pub(super) struct HeadInterest(Arc<Watch>);

impl Drop for HeadInterest {
    fn drop(&mut self) {
        self.0.interested.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watch {
    /// The head as last seen.
    pub(super) fn head(&self) -> Option<Head> {
        *self.head.borrow()
    }

    /// Heads as they come.
    pub(super) fn heads(&self) -> watch::Receiver<Option<Head>> {
        self.head.subscribe()
    }

    /// Smoothed time between blocks.
    pub(super) fn block_interval(&self) -> Duration {
        Duration::from_millis(self.block_interval_millis.load(Ordering::Relaxed))
    }

    /// Has the head read about every second.
    pub(super) fn interest(self: &Arc<Self>) -> HeadInterest {
        self.interested.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
        HeadInterest(Arc::clone(self))
    }

    /// Wakes the task, for example to end.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Starts to watch a transaction. `is_new` says that it has not been sent yet, so asking now would be in vain.
    pub(super) fn add(self: &Arc<Self>, hash: B256, is_new: bool) -> Watched {
        let now = Instant::now();
        let fresh = || Pending {
            receipt: watch::Sender::new(None),
            holders: 0,
            sent_at: None,
            next_poll: if is_new { now + RECHECK } else { now },
            delay: Duration::from_millis(50),
            at_once: 0,
            // The head as known may be old, never too new.
            scanned_to: self.head().map_or(0, |head| head.number),
            checked_at: if is_new { now } else { now.checked_sub(RECHECK).unwrap_or(now) },
        };
        let receipt = match self.pending.lock() {
            Ok(mut map) => {
                let pending = map.entry(hash).or_insert_with(fresh);
                pending.holders += 1;
                pending.receipt.subscribe()
            }
            Err(_poisoned) => watch::Sender::new(None).subscribe(),
        };
        self.wake.notify_one();
        Watched { watch: Arc::clone(self), hash, receipt }
    }

    /// The transaction has just been sent, or may have been.
    pub(super) fn sent(&self, hash: B256) {
        let usual = Duration::from_micros(self.usual_wait_micros.load(Ordering::Relaxed));
        let first = usual * 3 / 4;
        self.with(hash, |pending| {
            let now = Instant::now();
            pending.sent_at.get_or_insert(now);
            let is_at_once = first < RECEIPT_AT_ONCE;
            pending.at_once = if is_at_once { AGAIN_AT_ONCE_MAX } else { 0 };
            pending.next_poll = if is_at_once { now } else { now + first.min(RECEIPT_POLL.1) };
            pending.delay = (usual / 4).clamp(RECEIPT_POLL.0, RECEIPT_POLL.1);
        });
        self.wake.notify_one();
    }

    fn with(&self, hash: B256, change: impl FnOnce(&mut Pending)) {
        if let Ok(mut map) = self.pending.lock()
            && let Some(pending) = map.get_mut(&hash)
        {
            change(pending);
        }
    }

    /// Reads the head unless somebody did within `fresh_for`.
    pub(super) async fn refresh_head(&self, rpc: &Rpc, fresh_for: Duration) -> Result<Head, RpcError> {
        let fresh = |head: &Head| head.seen_at.elapsed() < fresh_for;
        if let Some(head) = self.head().filter(fresh) {
            return Ok(head);
        }
        let asked_at = Instant::now();
        let mut last_failure = self.refreshing.lock().await;
        if let Some(head) = self.head().filter(fresh) {
            return Ok(head);
        }
        // Whoever waited shares the failure too: one after the other would wait for a silent node as often as there are
        // requests, and the watcher behind them.
        if let Some((error, _)) = last_failure.as_ref().filter(|(_, failed_at)| *failed_at >= asked_at) {
            return Err(error.clone());
        }
        let result = self.read_head(rpc).await;
        *last_failure = result.as_ref().err().map(|error| (error.clone(), Instant::now()));
        result
    }

    async fn read_head(&self, rpc: &Rpc) -> Result<Head, RpcError> {
        let block: Block = rpc.call("eth_getBlockByNumber", json!(["latest", false])).await?;
        let head = Head {
            number: block.number,
            timestamp: block.timestamp,
            base_fee: block.base_fee_per_gas.and_then(|fee| u128::try_from(fee).ok()),
            seen_at: Instant::now(),
        };
        if let Some(last) = self.head() {
            self.check_lag(rpc, last, head)?;
            self.learn_interval(last, head);
        }
        self.head.send_replace(Some(head));
        Ok(head)
    }

    /// An endpoint that is behind what was already seen is not believed, unless all say the same.
    fn check_lag(&self, rpc: &Rpc, last: Head, head: Head) -> Result<(), RpcError> {
        if head.number.saturating_add(LAG_BLOCKS_MAX) >= last.number {
            self.lag_strikes.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let strikes = self.lag_strikes.fetch_add(1, Ordering::Relaxed) + 1;
        if usize::try_from(strikes).unwrap_or(usize::MAX) > rpc.endpoints() {
            return Ok(());
        }
        rpc.rest_first();
        Err(RpcError::Transport("endpoint is behind the chain".to_owned()))
    }

    fn learn_interval(&self, last: Head, head: Head) {
        let Some(blocks) = head.number.checked_sub(last.number).filter(|blocks| *blocks > 0) else { return };
        let millis = head.timestamp.saturating_sub(last.timestamp).saturating_mul(1000) / blocks;
        let millis = millis.min(60_000);
        let old = self.block_interval_millis.load(Ordering::Relaxed);
        self.block_interval_millis.store((old * 3 + millis) / 4, Ordering::Relaxed);
    }

    /// Learns from when the question was asked that found a receipt, not from when its answer came: else a question that
    /// is always asked too late would never be asked sooner.
    fn learn_wait(&self, wait: Duration) {
        // A timer's shortest pauses are longer than they were meant: learned as they were, they would never get shorter.
        let wait = if wait < RECEIPT_AT_ONCE * 4 { wait / 2 } else { wait };
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).min(4_000_000);
        let old = self.usual_wait_micros.load(Ordering::Relaxed);
        self.usual_wait_micros.store((old * 7 + micros) / 8, Ordering::Relaxed);
    }

    fn seen(&self, receipt: Receipt, asked_at: Instant) {
        self.with(receipt.transaction_hash, |pending| {
            if let Some(sent_at) = pending.sent_at {
                self.learn_wait(asked_at.saturating_duration_since(sent_at));
            }
            pending.receipt.send_replace(Some(Arc::new(receipt)));
        });
    }

    /// Pending transactions without a receipt: how many, which are due, and when the next is.
    fn due(&self, now: Instant) -> (usize, Vec<B256>, Option<Instant>) {
        let Ok(map) = self.pending.lock() else { return (0, Vec::new(), None) };
        let open = || map.iter().filter(|(_, pending)| pending.receipt.borrow().is_none());
        let due = open().filter(|(_, pending)| pending.next_poll <= now).map(|(hash, _)| *hash).collect();
        let next = open().map(|(_, pending)| pending.next_poll).filter(|next| *next > now).min();
        (open().count(), due, next)
    }

    /// Does what is due and says how long nothing will be.
    async fn tick(&self, rpc: &Rpc) -> Duration {
        let (open, due, _) = self.due(Instant::now());
        if open > FEW {
            return self.tick_many(rpc).await;
        }
        self.many_delay_micros.store(0, Ordering::Relaxed);
        self.ask_receipts(rpc, &due).await;
        let head_every = if !rpc.is_reachable() {
            HEAD_UNREACHABLE
        } else if open > 0 || self.interested.load(Ordering::Relaxed) > 0 {
            HEAD_BUSY
        } else {
            HEAD_IDLE
        };
        let head_due_in = match self.refresh_head(rpc, head_every).await {
            Ok(head) => head_every.saturating_sub(head.seen_at.elapsed()),
            Err(error) => {
                tracing::debug!(%error, "Could not read the head.");
                Duration::from_millis(500)
            }
        };
        let now = Instant::now();
        let (_, still_due, next) = self.due(now);
        let receipt_due_in = match next {
            _ if !still_due.is_empty() => return Duration::ZERO,
            Some(next) => next.saturating_duration_since(now),
            None => HEAD_IDLE,
        };
        head_due_in.min(receipt_due_in).max(RECEIPT_POLL.0)
    }

    async fn tick_many(&self, rpc: &Rpc) -> Duration {
        let before = self.head();
        let shortest = (self.block_interval() / 4).clamp(MANY_POLL_MIN, MANY_POLL.0);
        let delay = Duration::from_micros(self.many_delay_micros.load(Ordering::Relaxed)).max(shortest);
        match self.refresh_head(rpc, delay).await {
            Ok(head) => {
                // Woken early there was nothing to read, which says nothing about the pace of blocks.
                if before.is_none_or(|before| before.seen_at != head.seen_at) {
                    let has_advanced = before.is_none_or(|before| before.number != head.number);
                    let next = if has_advanced { shortest } else { (delay * 2).min(MANY_POLL.1) };
                    self.many_delay_micros.store(u64::try_from(next.as_micros()).unwrap_or(0), Ordering::Relaxed);
                }
                self.read_blocks(rpc, head.number).await;
            }
            Err(error) => tracing::debug!(%error, "Could not read the head."),
        }
        let overdue = self.overdue();
        self.ask_receipts(rpc, &overdue).await;
        Duration::from_micros(self.many_delay_micros.load(Ordering::Relaxed)).max(shortest)
    }

    /// Pending transactions that no block showed for a while.
    fn overdue(&self) -> Vec<B256> {
        let Ok(map) = self.pending.lock() else { return Vec::new() };
        let open = map.iter().filter(|(_, pending)| pending.receipt.borrow().is_none());
        open.filter(|(_, pending)| pending.checked_at.elapsed() > RECHECK).map(|(hash, _)| *hash).collect()
    }

    /// Looks for pending transactions in every block up to `head` that may hold one.
    async fn read_blocks(&self, rpc: &Rpc, head: u64) {
        let behind: Vec<(B256, u64)> = match self.pending.lock() {
            Ok(map) => map
                .iter()
                .filter(|(_, pending)| pending.sent_at.is_some() && pending.scanned_to < head)
                .filter(|(_, pending)| pending.receipt.borrow().is_none())
                .map(|(hash, pending)| (*hash, pending.scanned_to))
                .collect(),
            Err(_poisoned) => return,
        };
        let Some(first) = behind.iter().map(|(_, scanned_to)| scanned_to.saturating_add(1)).min() else { return };
        let hashes: Vec<B256> = behind.into_iter().map(|(hash, _)| hash).collect();
        let blocks = head.saturating_sub(first).saturating_add(1);
        let is_cheaper_by_block =
            blocks <= BLOCKS_AT_ONCE_MAX && usize::try_from(blocks).unwrap_or(usize::MAX) <= hashes.len();
        let is_done = if is_cheaper_by_block && self.has_block_receipts.load(Ordering::Relaxed) {
            self.ask_blocks(rpc, first, head).await
        } else {
            self.ask_receipts(rpc, &hashes).await
        };
        if is_done {
            for hash in hashes {
                self.with(hash, |pending| pending.scanned_to = pending.scanned_to.max(head));
            }
        }
    }

    async fn ask_blocks(&self, rpc: &Rpc, first: u64, last: u64) -> bool {
        let calls =
            (first..=last).map(|number| ("eth_getBlockReceipts", json!([format!("{number:#x}")]))).collect::<Vec<_>>();
        let asked_at = Instant::now();
        let results = match rpc.batch(calls).await {
            Ok(results) => results,
            Err(error) => {
                tracing::debug!(%error, "Could not read receipts.");
                return false;
            }
        };
        let mut is_complete = true;
        for result in results {
            match result.and_then(|value| parse::<Option<Vec<Receipt>>>("eth_getBlockReceipts", value)) {
                Ok(Some(receipts)) => receipts.into_iter().for_each(|receipt| self.seen(receipt, asked_at)),
                // The node that answered doesn't have the block yet.
                Ok(None) => is_complete = false,
                Err(error) => {
                    is_complete = false;
                    if !matches!(error, RpcError::Transport(_)) || error.is_unknown_method() {
                        tracing::info!(%error, "No receipts by block from this node; asking for single ones.");
                        self.has_block_receipts.store(false, Ordering::Relaxed);
                    }
                }
            }
        }
        is_complete
    }

    async fn ask_receipts(&self, rpc: &Rpc, hashes: &[B256]) -> bool {
        let mut is_complete = true;
        for some in hashes.chunks(RECEIPTS_AT_ONCE_MAX) {
            let calls = some.iter().map(|hash| ("eth_getTransactionReceipt", json!([hash]))).collect();
            let asked_at = Instant::now();
            let results = rpc.batch(calls).await;
            let now = Instant::now();
            for (position, hash) in some.iter().enumerate() {
                self.with(*hash, |pending| {
                    pending.checked_at = now;
                    if let Some(left) = pending.at_once.checked_sub(1) {
                        pending.at_once = left;
                        pending.next_poll = now;
                        return;
                    }
                    pending.next_poll = now + pending.delay;
                    pending.delay = (pending.delay * 2).min(RECEIPT_POLL.1);
                });
                let result: Option<Result<Value, RpcError>> =
                    results.as_ref().ok().and_then(|results| results.get(position).cloned());
                match result
                    .map(|result| result.and_then(|value| parse::<Option<Receipt>>("eth_getTransactionReceipt", value)))
                {
                    Some(Ok(Some(receipt))) if receipt.transaction_hash == *hash => self.seen(receipt, asked_at),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        is_complete = false;
                        tracing::debug!(%error, "Could not read a receipt.");
                    }
                    None => is_complete = false,
                }
            }
        }
        is_complete
    }
}

/// Closes the network while the local clock and the chain's don't agree, and says so.
fn compare_clocks(inner: &Inner, watch: &Watch) {
    let Some(head) = watch.head() else { return };
    let seen = Sighting { number: head.number, timestamp: head.timestamp, seen_at: head.seen_at };
    inner.skew.compare(&inner.network, seen, watch.block_interval(), inner.clock.now());
}

/// The watcher's task; ends when its network is dropped.
pub(super) async fn run(inner: Weak<Inner>, watch: Arc<Watch>) {
    loop {
        let pause = match inner.upgrade() {
            Some(inner) => {
                let pause = watch.tick(&inner.rpc).await;
                compare_clocks(&inner, &watch);
                pause
            }
            None => return,
        };
        if pause.is_zero() {
            // A timer's shortest pause is a millisecond or two.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = watch.wake.notified() => {}
        }
    }
}
