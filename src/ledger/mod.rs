//! The books: what was claimed, signed, paid and served, written before it is acted on.
//!
//! Knows no chain and no HTTP. The store is the authority: what is held in memory only ever says "in flight here".

mod awaited;
mod hex;
mod model;
#[allow(clippy::duplicate_mod, reason = "the steps in `books` are compiled for each store's driver")]
mod postgres;
mod reader;
mod report;
mod schema;
mod sqlite;
mod sums;

pub use awaited::AwaitedLedger;
pub use model::{
    AccountNonce, Attempt, DeliveryBegun, Digest, Holder, NewAttempt, NewPayment, Outlay, PaymentId, PaymentRecord,
    PaymentState, RecordId, Resolution, SettledBlock, Settlement,
};

pub use reader::BooksReader;

pub use postgres::{PostgresLedger, PostgresReader, resolve_in_postgres};
pub use report::{DAY_MILLIS, Earning, PageFilter};
pub use sqlite::{Observer, SqliteLedger, SqliteReader, resolve_in_sqlite};
pub use sums::{Sum, SumBy, SumEntry, Sums};

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// Signs the settlement inside the claim's transaction; gets the account nonce that the transaction took.
pub type SignInClaim = Box<dyn FnOnce(Option<AccountNonce>) -> Result<NewAttempt, String> + Send>;

/// What a claim met.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// The payment is ours to settle: claim and signed attempt are durable (W1).
    Claimed(PaymentRecord),
    /// A row that may still be or was paid holds this payment id already.
    Exists(PaymentRecord),
}

/// What a claim before forwarding met.
#[derive(Debug)]
pub enum ForwardOutcome {
    /// The request may go to the origin; this attempt is counted, and that is durable.
    Claimed(PaymentRecord),
    /// A row that may still be or was paid holds this payment id already.
    Exists(PaymentRecord),
}

/// Why the ledger did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Nothing was written, for certain.
    #[error("ledger did not write: {0}")]
    NotWritten(String),
    /// The commit's answer was lost: the row must be read again by its key.
    #[error("ledger may or may not have written: {0}")]
    Unknown(String),
    /// A read failed.
    #[error("ledger did not answer: {0}")]
    NotRead(String),
    /// The closure that signs failed; the claim was rolled back.
    #[error("signing failed inside the claim: {0}")]
    NotSigned(String),
    /// The origin has worked for this payment as often as it may; nothing was written.
    #[error("the payment's attempts at the origin are spent")]
    AttemptsSpent,
    /// A row was not in a state that allows the step; nothing was written.
    #[error("payment {record} is {found}, which doesn't allow {step}")]
    IllegalStep {
        /// The row.
        record: RecordId,
        /// The state it is in.
        found: PaymentState,
        /// What was asked.
        step: &'static str,
    },
    /// Another gateway that shares the ledger works on it; nothing was written.
    #[error("in the hands of another gateway: {0}")]
    HeldElsewhere(String),
    /// No such row.
    #[error("no payment {0}")]
    Missing(RecordId),
    /// A row holds what this version can't read.
    #[error("payment {record} can't be read: {detail}")]
    Corrupt {
        /// The row's id as stored.
        record: String,
        /// What is wrong.
        detail: String,
    },
    /// The store can't be opened.
    #[error("can't open the ledger: {0}")]
    Open(String),
    /// The store can't be opened as long as another process has it.
    #[error("can't open the ledger: {0}")]
    InUse(String),
}

/// How long a process may act on what it holds in a ledger that it shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// The registration; another one after the lease had ended, and then nothing is held any more.
    pub epoch: i64,
    /// From here on others may have taken over what it held.
    pub until: Instant,
}

impl Tenure {
    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Which payments to list.
#[derive(Debug, Clone, Default)]
pub struct PaymentFilter {
    /// Only these states; none means all.
    pub states: Vec<PaymentState>,
    /// Only this network.
    pub network: Option<Network>,
    /// Only this route's key.
    pub route: Option<String>,
    /// Only this payer; hex addresses in any case.
    pub payer: Option<AccountId>,
    /// Only this token; hex addresses in any case.
    pub asset: Option<AssetId>,
    /// Only those claimed at this moment or later.
    pub since: Option<UnixMillis>,
    /// Only those claimed before this moment.
    pub until: Option<UnixMillis>,
    /// Only those whose row changed at this moment or later.
    pub changed_since: Option<UnixMillis>,
    /// Leaves out owed payments that an operator resolved.
    pub unresolved: bool,
    /// At most this many, newest first; none means all.
    pub limit: Option<u32>,
}

/// Where payments are remembered. Every write that returned `Ok` is durable.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Whether it takes writes yet: not while another gateway is about to let go of it.
    fn is_open(&self) -> bool {
        true
    }

    /// The newest row of a payment id that is neither released nor (if another exists) failed; else the newest failed one.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    async fn find(&self, id: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError>;

    /// The payment that a payer's own name for a purchase stands for: neither released, failed nor undone.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    async fn find_identified(&self, payer: &AccountId, identifier: &str) -> Result<Option<PaymentRecord>, LedgerError>;

    /// A row by its own id.
    ///
    /// # Errors
    /// [`LedgerError::NotRead`], [`LedgerError::Corrupt`].
    async fn get(&self, record: &RecordId) -> Result<Option<PaymentRecord>, LedgerError>;

    /// W1: in one durable transaction inserts the claim unless the payment id is taken, takes the signer's next account
    /// nonce, signs, and stores the signed attempt. A lost race takes no nonce. Once asked, the claim runs to its end, even
    /// if the future is dropped.
    ///
    /// # Errors
    /// [`LedgerError::NotWritten`], also when the signer was never leased ([`Self::lease_signer`]);
    /// [`LedgerError::NotSigned`], also when the attempt doesn't carry the nonce that was taken;
    /// [`LedgerError::Unknown`] when the commit's answer is lost.
    async fn claim(&self, payment: NewPayment, sign: SignInClaim) -> Result<ClaimOutcome, LedgerError>;

    /// The claim of a payment that is settled after its request: in one durable transaction inserts it as `forwarded` with one
    /// more attempt at the origin counted than those under which it was released before. Signs nothing, takes no nonce.
    ///
    /// # Errors
    /// [`LedgerError::AttemptsSpent`] when that would be more than `attempts_max`; else as for every write.
    async fn claim_forwarded(&self, payment: NewPayment, attempts_max: u32) -> Result<ForwardOutcome, LedgerError>;

    /// W1 of a payment that was forwarded: `forwarded` → `signed`, with nonce and attempt as in [`Self::claim`].
    ///
    /// # Errors
    /// As for [`Self::claim`].
    async fn record_signed(
        &self,
        record: &RecordId,
        signer: Option<AccountId>,
        sign: SignInClaim,
    ) -> Result<PaymentRecord, LedgerError>;

    /// Lets a payment go that nothing was signed for: `forwarded` → `released`. With `uncount` the request never reached the
    /// origin and the attempt is not counted.
    ///
    /// # Errors
    /// As for every write.
    async fn release(&self, record: &RecordId, uncount: bool) -> Result<PaymentRecord, LedgerError>;

    /// Adds a further signed attempt to a payment that is signed, or whose block the chain took back, before it is sent.
    ///
    /// # Errors
    /// As for every write.
    async fn record_attempt(&self, record: &RecordId, attempt: NewAttempt) -> Result<PaymentRecord, LedgerError>;

    /// W2: `signed` (or a `failed` one that landed after all, or a `reorged` one that came back) → `paid`, or straight to
    /// `delivering` with the first delivery counted when somebody waits for the answer. One that was counted before it was
    /// signed (`settle = "after"`) is not counted again.
    ///
    /// # Errors
    /// As for every write. [`LedgerError::IllegalStep`] also for a `failed` row whose payment id was claimed anew: that
    /// newer row is the one to be paid.
    async fn record_paid(
        &self,
        record: &RecordId,
        settlement: Settlement,
        deliver: bool,
    ) -> Result<PaymentRecord, LedgerError>;

    /// Proof that the payment moved nothing: `signed` → `failed`, with what it cost our gas payer all the same.
    ///
    /// # Errors
    /// As for every write.
    async fn record_failed(
        &self,
        record: &RecordId,
        reason: &str,
        transaction: Option<&str>,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError>;

    /// `paid` → `delivering` with one more delivery counted, if fewer than `deliveries_max` were begun, the payment was
    /// recorded as paid at `settled_after` or later, and it may be presented again or was never delivered; else `paid` →
    /// `owed`.
    ///
    /// # Errors
    /// As for every write.
    async fn record_delivering(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        settled_after: UnixMillis,
    ) -> Result<DeliveryBegun, LedgerError>;

    /// The origin did not answer: `delivering` → `paid`, or `owed` when it may not be presented again or
    /// `deliveries_max` were begun. With `uncount` the delivery never reached the origin and is not counted.
    ///
    /// # Errors
    /// As for every write.
    async fn record_undelivered(
        &self,
        record: &RecordId,
        deliveries_max: u32,
        uncount: bool,
    ) -> Result<PaymentRecord, LedgerError>;

    /// W3: `delivering` → `served`.
    ///
    /// # Errors
    /// As for every write.
    async fn record_served(&self, record: &RecordId) -> Result<PaymentRecord, LedgerError>;

    /// Puts what a dead process left in `delivering` back to `paid` (or `owed`), what it left in `forwarded` to `released`, and `paid` rows that can no longer be
    /// presented to `owed`. Run at start, before requests, and now and then. Gives how many rows changed.
    ///
    /// # Errors
    /// As for every write.
    async fn recover_deliveries(
        &self,
        deliveries_max: u32,
        settled_after: UnixMillis,
        at_start: bool,
    ) -> Result<u64, LedgerError>;

    /// The books turned out to be an old copy: what they call unanswered may have been answered since. Uses up the deliveries of
    /// every payment of a network that isn't served or let go, so that none buys an answer: `paid` → `owed` at once, `signed`,
    /// `failed` and `reorged` ones once they are proven to be paid. Gives how many rows changed.
    ///
    /// # Errors
    /// As for every write.
    async fn withhold(&self, network: &Network, deliveries_max: u32) -> Result<u64, LedgerError>;

    /// All `claimed` and `signed` payments of a network, oldest first; in a ledger that is shared, those of this process and those
    /// that a dead one left, which are this one's from now on.
    ///
    /// # Errors
    /// As for every read.
    async fn unfinished(&self, network: &Network) -> Result<Vec<PaymentRecord>, LedgerError>;

    /// What our gas payers signed at `since` or later for payments of a network that were claimed at `claimed_since` or later.
    ///
    /// # Errors
    /// As for every read.
    async fn outlays(
        &self,
        network: &Network,
        claimed_since: UnixMillis,
        since: UnixMillis,
    ) -> Result<Vec<Outlay>, LedgerError>;

    /// What a gas payer signed with an account nonce, oldest first, for payments of a network that were claimed at `claimed_since`
    /// or later, and that either aren't decided or were settled by a transaction with this very nonce.
    ///
    /// # Errors
    /// As for every read.
    async fn signed_with(
        &self,
        network: &Network,
        signer: &AccountId,
        nonce: AccountNonce,
        claimed_since: UnixMillis,
    ) -> Result<Vec<Vec<u8>>, LedgerError>;

    /// Blocks of a network that settled payments, recorded as paid at `since` or later, and that aren't known to be final; lowest
    /// first, at most so many.
    ///
    /// # Errors
    /// As for every read.
    async fn unfinal_blocks(
        &self,
        network: &Network,
        since: UnixMillis,
        blocks_max: u32,
    ) -> Result<Vec<SettledBlock>, LedgerError>;

    /// The payments that a block settled and that aren't known to be final.
    ///
    /// # Errors
    /// As for every read.
    async fn settled_in(&self, network: &Network, block: &SettledBlock) -> Result<Vec<PaymentRecord>, LedgerError>;

    /// These blocks can't be taken back any more.
    ///
    /// # Errors
    /// As for every write.
    async fn record_final(&self, network: &Network, blocks: &[SettledBlock]) -> Result<(), LedgerError>;

    /// The chain took a settlement's block back, and the money moved again: the state stays, the settlement is another. From
    /// `paid`, `delivering`, `served` and `owed`.
    ///
    /// # Errors
    /// As for every write.
    async fn record_settled_again(
        &self,
        record: &RecordId,
        settlement: Settlement,
    ) -> Result<PaymentRecord, LedgerError>;

    /// The chain took a settlement's block back, and it is proven that the money won't move again: `paid`, `delivering`,
    /// `served` or `owed` → `reorged`. Only as long as the books say that it was settled in this block: what was settled in
    /// another one since is not undone by it. What was paid in that block was given back with it: the fee is what the failure
    /// cost.
    ///
    /// # Errors
    /// As for every write.
    async fn record_reorged(
        &self,
        record: &RecordId,
        block_hash: &str,
        reason: &str,
        fee: Option<AtomicAmount>,
    ) -> Result<PaymentRecord, LedgerError>;

    /// `failed` and `reorged` payments of a network whose authorization ends after `now`: they could still land.
    ///
    /// # Errors
    /// As for every read.
    async fn failed_but_usable(&self, network: &Network, now: UnixMillis) -> Result<Vec<PaymentRecord>, LedgerError>;

    /// Makes this process the signer's only holder and raises its next account nonce to at least `at_least`; gives the next
    /// nonce that will be handed out.
    ///
    /// # Errors
    /// As for every write; [`LedgerError::HeldElsewhere`] when another process that lives holds it.
    async fn lease_signer(
        &self,
        network: &Network,
        signer: &AccountId,
        at_least: AccountNonce,
    ) -> Result<AccountNonce, LedgerError>;

    /// The account nonce that whoever holds a signer hands out next; none of one that was never leased.
    ///
    /// # Errors
    /// As for every read.
    async fn next_nonce(&self, network: &Network, signer: &AccountId) -> Result<Option<AccountNonce>, LedgerError>;

    /// Payments by filter, newest first.
    ///
    /// # Errors
    /// As for every read.
    async fn list(&self, filter: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError>;

    /// A page of payments, newest first.
    ///
    /// # Errors
    /// As for every read.
    async fn page(&self, filter: &PageFilter) -> Result<Vec<PaymentRecord>, LedgerError>;

    /// What each route earned in each asset on each day, from payments recorded as paid at `since` or later.
    ///
    /// # Errors
    /// As for every read.
    async fn earnings(&self, since: UnixMillis) -> Result<Vec<Earning>, LedgerError>;

    /// How many payments stand in each state, and their amount per (network, asset). Owed ones that an operator resolved are
    /// left out.
    ///
    /// # Errors
    /// As for every read.
    async fn totals(&self) -> Result<Vec<Total>, LedgerError>;

    /// A named value, made by `make` if it is not there yet; for the quote key.
    ///
    /// # Errors
    /// As for every write.
    async fn value_or_insert(&self, name: &str, make: String) -> Result<String, LedgerError>;

    /// Deletes `served`, `released` and `failed` payments that ended before `before` and whose authorization ended before then
    /// too, as did every failed one under the same payment id.
    ///
    /// # Errors
    /// As for every write.
    async fn prune(&self, before: UnixMillis) -> Result<u64, LedgerError>;

    /// Proves that the store takes durable writes right now.
    ///
    /// # Errors
    /// As for every write.
    async fn probe(&self) -> Result<(), LedgerError>;

    /// How long this process may act on what it holds. None where nobody else could take it over.
    fn tenure(&self) -> Option<Tenure> {
        None
    }

    /// Whether an unfinished payment is this process's to work on; takes it over if whoever worked on it is dead.
    ///
    /// # Errors
    /// As for every write.
    async fn own(&self, _record: &RecordId) -> Result<bool, LedgerError> {
        Ok(true)
    }

    /// Whether work that one process does for all is this one's from now on.
    ///
    /// # Errors
    /// As for every write.
    async fn lease_duty(&self, _name: &str) -> Result<bool, LedgerError> {
        Ok(true)
    }

    /// Waits until the process must end for the ledger's sake, and says why.
    async fn halted(&self) -> String {
        std::future::pending().await
    }

    /// Gives up what is held and closes the store. Tidy, but not needed: what was answered is durable.
    async fn end(self: Arc<Self>);
}

/// One line of the books' summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// State.
    pub state: PaymentState,
    /// Network.
    pub network: Network,
    /// Asset.
    pub asset: AssetId,
    /// How many payments.
    pub count: u64,
    /// Their sum.
    pub amount: AtomicAmount,
}
