//! One watcher per network: the chain's head and the status of everything that was sent, all of them with one call.
//!
//! What a status means is not decided here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use solana_sdk::hash::Hash;
use tokio::sync::{Notify, watch};

use super::Inner;
use crate::chain::jsonrpc::{Call, Rpc, RpcError, parse};

/// Statuses that a node gives in one answer.
const STATUSES_AT_ONCE_MAX: usize = 256;
/// Blocks for which a blockhash can be used.
const BLOCKHASH_BLOCKS: u64 = 150;
/// How often the head is read while nothing happens.
const HEAD_IDLE: Duration = Duration::from_secs(10);
/// How often the head is read while a payment is pending, or the network doesn't answer.
const HEAD_BUSY: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(2) };
/// Bounds of a status's polling.
const STATUS_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How often a payment of an earlier run is looked for in a node's history, which costs the node more.
const HISTORY_POLL: Duration = Duration::from_secs(3);

/// How sure the cluster is of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Processed,
    Confirmed,
    Finalized,
}

impl Level {
    /// The word in requests.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Confirmed => "confirmed",
            Self::Finalized => "finalized",
        }
    }
}

/// What a node says of a transaction.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default)]
    err: Option<Value>,
    #[serde(default)]
    confirmation_status: Option<Level>,
}

impl Status {
    /// A status without a level is of a node too old to give one: not believed beyond the least.
    pub(super) fn level(&self) -> Level {
        self.confirmation_status.unwrap_or(Level::Processed)
    }

    /// What made the transaction fail, if it did.
    pub(super) fn error(&self) -> Option<&Value> {
        self.err.as_ref()
    }
}

/// An answer of `getSignatureStatuses`.
#[derive(Deserialize)]
pub(super) struct Statuses {
    pub value: Vec<Option<Status>>,
}

/// The chain's head as last seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The newest blockhash, if the node gave a readable one.
    pub blockhash: Option<Hash>,
    /// The last block height at which the newest blockhash can be used; no older hash lives longer.
    pub last_valid: u64,
    pub seen_at: Instant,
}

impl Head {
    /// About the height of the chain.
    pub(super) fn height(&self) -> u64 {
        self.last_valid.saturating_sub(BLOCKHASH_BLOCKS)
    }
}

#[derive(Deserialize)]
struct LatestBlockhash {
    value: LatestBlockhashValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LatestBlockhashValue {
    #[serde(default)]
    blockhash: Option<String>,
    last_valid_block_height: u64,
}

struct Pending {
    status: watch::Sender<Option<Status>>,
    holders: usize,
    wanted: Level,
    /// Too old for a node's memory of recent statuses.
    is_old: bool,
    sent_at: Option<Instant>,
    next_poll: Instant,
    delay: Duration,
}

impl Pending {
    fn is_open(&self) -> bool {
        self.status.borrow().as_ref().is_none_or(|status| status.level() < self.wanted)
    }

    /// What was not sent yet can't have a status.
    fn is_askable(&self) -> bool {
        self.is_open() && (self.is_old || self.sent_at.is_some())
    }
}

/// The state shared by the watcher's task and those who wait.
pub(super) struct Watch {
    head: watch::Sender<Option<Head>>,
    pending: Mutex<HashMap<String, Pending>>,
    wake: Notify,
    /// How long it lately took from sending to confirmation, in microseconds.
    usual_wait_micros: AtomicU64,
    /// Held while the head is read; holds the last failure and when it was met.
    refreshing: tokio::sync::Mutex<Option<(RpcError, Instant)>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            head: watch::Sender::new(None),
            pending: Mutex::default(),
            wake: Notify::new(),
            usual_wait_micros: AtomicU64::new(800_000),
            refreshing: tokio::sync::Mutex::default(),
        }
    }
}

/// A place in the watcher's list; leaves when dropped.
pub(super) struct Watched {
    watch: Arc<Watch>,
    signature: String,
    status: watch::Receiver<Option<Status>>,
}

impl Watched {
    /// What was last seen.
    pub(super) fn status(&self) -> Option<Status> {
        self.status.borrow().clone()
    }

    /// Waits until the status changes.
    pub(super) async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Puts a status that was fetched elsewhere; none has it asked for again.
    pub(super) fn put(&self, status: Option<Status>) {
        self.watch.with(&self.signature, |pending| {
            pending.next_poll = Instant::now() + STATUS_POLL.1;
            pending.status.send_replace(status);
        });
        self.watch.wake();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Ok(mut map) = self.watch.pending.lock()
            && let Some(pending) = map.get_mut(&self.signature)
        {
            pending.holders = pending.holders.saturating_sub(1);
            if pending.holders == 0 {
                map.remove(&self.signature);
            }
        }
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

    /// Wakes the task, for example to end.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Starts to watch a transaction. One that is new has not been sent yet, so asking now would be in vain.
    pub(super) fn add(self: &Arc<Self>, signature: &str, wanted: Level, is_new: bool) -> Watched {
        let now = Instant::now();
        let fresh = || Pending {
            status: watch::Sender::new(None),
            holders: 0,
            wanted,
            is_old: !is_new,
            sent_at: None,
            next_poll: if is_new { now + STATUS_POLL.1 } else { now },
            delay: if is_new { STATUS_POLL.1 } else { HISTORY_POLL },
        };
        let status = match self.pending.lock() {
            Ok(mut map) => {
                let pending = map.entry(signature.to_owned()).or_insert_with(fresh);
                pending.holders += 1;
                pending.wanted = pending.wanted.max(wanted);
                pending.status.subscribe()
            }
            Err(_poisoned) => watch::Sender::new(None).subscribe(),
        };
        self.wake();
        Watched { watch: Arc::clone(self), signature: signature.to_owned(), status }
    }

    /// The transaction has just been sent, or may have been.
    pub(super) fn sent(&self, signature: &str) {
        let usual = Duration::from_micros(self.usual_wait_micros.load(Ordering::Relaxed));
        self.with(signature, |pending| {
            let now = Instant::now();
            // Finality takes its dozen seconds; once a second is often enough for it.
            if pending.sent_at.is_none() && !pending.is_old && pending.wanted < Level::Finalized {
                pending.next_poll = now + (usual * 3 / 4).clamp(STATUS_POLL.0, STATUS_POLL.1);
                pending.delay = (usual / 4).clamp(STATUS_POLL.0, STATUS_POLL.1);
            }
            pending.sent_at.get_or_insert(now);
        });
        self.wake();
    }

    /// Whether the transaction was last seen at a level.
    pub(super) fn has(&self, signature: &str, level: Level) -> bool {
        let reaches = |pending: &Pending| pending.status.borrow().as_ref().is_some_and(|it| it.level() >= level);
        self.pending.lock().is_ok_and(|map| map.get(signature).is_some_and(reaches))
    }

    fn with(&self, signature: &str, change: impl FnOnce(&mut Pending)) {
        if let Ok(mut map) = self.pending.lock()
            && let Some(pending) = map.get_mut(signature)
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
        if let Some((error, _)) = last_failure.as_ref().filter(|(_, failed_at)| *failed_at >= asked_at) {
            return Err(error.clone());
        }
        let result = self.read_head(rpc).await;
        *last_failure = result.as_ref().err().map(|error| (error.clone(), Instant::now()));
        result
    }

    async fn read_head(&self, rpc: &Rpc) -> Result<Head, RpcError> {
        // Of when it was asked: a bound on hashes that were known by then holds for every earlier moment too.
        let seen_at = Instant::now();
        let latest: LatestBlockhash = rpc.call("getLatestBlockhash", json!([{"commitment": "processed"}])).await?;
        let blockhash = latest.value.blockhash.and_then(|text| text.parse().ok());
        let head = Head { blockhash, last_valid: latest.value.last_valid_block_height, seen_at };
        self.head.send_replace(Some(head));
        Ok(head)
    }

    /// Learns from when the question was asked that found the status, not from when its answer came: else a question that
    /// is always asked too late would never be asked sooner.
    fn learn_wait(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).min(10_000_000);
        let old = self.usual_wait_micros.load(Ordering::Relaxed);
        self.usual_wait_micros.store((old * 7 + micros) / 8, Ordering::Relaxed);
    }

    /// Once one is due, all that are open are asked for: it is one call either way. Also when the next is due.
    fn due(&self, now: Instant) -> (Vec<(String, bool)>, Option<Duration>) {
        let Ok(map) = self.pending.lock() else { return (Vec::new(), None) };
        let open = || map.iter().filter(|(_, pending)| pending.is_askable());
        let next = open().map(|(_, pending)| pending.next_poll).min();
        match next {
            Some(next) if next <= now => {
                let due = open().filter(|(_, pending)| !pending.is_old || pending.next_poll <= now);
                (due.map(|(signature, pending)| (signature.clone(), pending.is_old)).collect(), None)
            }
            next => (Vec::new(), next.map(|next| next.saturating_duration_since(now))),
        }
    }

    fn has_open(&self) -> bool {
        self.pending.lock().is_ok_and(|map| map.values().any(Pending::is_open))
    }

    /// Does what is due and says how long nothing will be.
    async fn tick(&self, rpc: &Rpc) -> Duration {
        let (due, _) = self.due(Instant::now());
        let (old, recent): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, is_old)| *is_old);
        for (list, is_old) in [(recent, false), (old, true)] {
            let signatures: Vec<String> = list.into_iter().map(|(signature, _)| signature).collect();
            for some in signatures.chunks(STATUSES_AT_ONCE_MAX) {
                self.ask(rpc, some, is_old).await;
            }
        }
        let head_every = if self.has_open() || !rpc.is_reachable() { HEAD_BUSY } else { HEAD_IDLE };
        let head_due_in = match self.refresh_head(rpc, head_every).await {
            Ok(head) => head_every.saturating_sub(head.seen_at.elapsed()),
            Err(error) => {
                tracing::debug!(%error, "Could not read the head.");
                Duration::from_millis(500)
            }
        };
        let now = Instant::now();
        let (still_due, next) = self.due(now);
        let status_due_in = if still_due.is_empty() { next.unwrap_or(HEAD_IDLE) } else { STATUS_POLL.0 };
        head_due_in.min(status_due_in).max(STATUS_POLL.0)
    }

    async fn ask(&self, rpc: &Rpc, signatures: &[String], is_old: bool) {
        let asked_at = Instant::now();
        let answer = rpc.call::<Statuses>(STATUSES, statuses_call(signatures, is_old).1).await;
        let now = Instant::now();
        for signature in signatures {
            self.with(signature, |pending| {
                pending.next_poll = now + pending.delay;
                if !pending.is_old {
                    pending.delay = (pending.delay * 3 / 2).min(STATUS_POLL.1);
                }
            });
        }
        let statuses = match answer {
            Ok(statuses) if statuses.value.len() == signatures.len() => statuses.value,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "Could not read statuses.");
                return;
            }
        };
        for (signature, status) in signatures.iter().zip(statuses) {
            self.with(signature, |pending| {
                let is_first = status.as_ref().is_some_and(|status| status.level() >= Level::Confirmed);
                if let Some(sent_at) = pending.sent_at.filter(|_| is_first && pending.wanted == Level::Confirmed) {
                    self.learn_wait(asked_at.saturating_duration_since(sent_at));
                }
                if *pending.status.borrow() != status {
                    pending.status.send_replace(status);
                }
            });
        }
    }
}

const STATUSES: &str = "getSignatureStatuses";

/// The call for some statuses; with history, a node looks through all it has.
pub(super) fn statuses_call(signatures: &[String], with_history: bool) -> Call {
    (STATUSES, json!([signatures, {"searchTransactionHistory": with_history}]))
}

/// The one status in an answer to [`statuses_call`].
pub(super) fn one_status(answer: Value) -> Result<Option<Status>, RpcError> {
    let statuses: Statuses = parse(STATUSES, answer)?;
    match <[Option<Status>; 1]>::try_from(statuses.value) {
        Ok([status]) => Ok(status),
        Err(_) => Err(RpcError::Transport(format!("{STATUSES} gave another number of statuses"))),
    }
}

/// The watcher's task; ends when its network is dropped.
pub(super) async fn run(inner: Weak<Inner>, watch: Arc<Watch>) {
    loop {
        let pause = match inner.upgrade() {
            Some(inner) => watch.tick(&inner.rpc).await,
            None => return,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = watch.wake.notified() => {}
        }
    }
}
