//! What a row of the books holds.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// SHA-256.
pub type Digest = [u8; 32];

/// A gas payer's transaction count (EVM account nonce).
pub type AccountNonce = u64;

/// The chain's own replay key as text, for example `eip155:84532/0x036C…/0x19E7…/0x2222…` (chain, token, from, nonce).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentId(pub String);

impl fmt::Display for PaymentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A row's own id: `pay_` and 32 hex digits. Unlike a [`PaymentId`] it never comes again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(pub String);

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PaymentState {
    /// Claimed; nothing was signed.
    Claimed,
    /// The request is with the origin and nothing is signed yet (`settle = "after"`).
    Forwarded,
    /// Signed: must be assumed sent.
    Signed,
    /// The money moved; the answer is due.
    Paid,
    /// The request is with the origin.
    Delivering,
    /// The answer was given.
    Served,
    /// Let go before anything was signed.
    Released,
    /// Proven to have moved nothing.
    Failed,
    /// Paid once, then undone by the chain.
    Reorged,
    /// The money moved, and the answer can't be delivered any more.
    Owed,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Claimed,
        Self::Forwarded,
        Self::Signed,
        Self::Paid,
        Self::Delivering,
        Self::Served,
        Self::Released,
        Self::Failed,
        Self::Reorged,
        Self::Owed,
    ];

    /// The word in the ledger, logs, metrics and books.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Forwarded => "forwarded",
            Self::Signed => "signed",
            Self::Paid => "paid",
            Self::Delivering => "delivering",
            Self::Served => "served",
            Self::Released => "released",
            Self::Failed => "failed",
            Self::Reorged => "reorged",
            Self::Owed => "owed",
        }
    }
}

impl fmt::Display for PaymentState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for PaymentState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// Who may present the payment again (contract §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Whoever knows the quote with this SHA-256.
    Quote(Digest),
    /// Clients at this address.
    Address(IpAddr),
}

/// A payment about to be claimed.
#[derive(Debug, Clone)]
pub struct NewPayment {
    /// The chain's replay key.
    pub id: PaymentId,
    /// Digest of the signed payload.
    pub payload_digest: Digest,
    /// The request it was presented with.
    pub fingerprint: Digest,
    /// Whether the same request may be presented again after an origin failure.
    pub redeliverable: bool,
    /// Who may present it again.
    pub holder: Holder,
    /// The route's key, for the books.
    pub route: String,
    /// Method and target, for the books.
    pub request: String,
    /// The full terms it was sold under, as x402 v2 JSON.
    pub terms: String,
    /// `confirmed` or `finalized`.
    pub wait_for: String,
    /// Blocks that count as confirmed.
    pub confirmations: u64,
    /// Whether a transfer that somebody else submitted counts.
    pub pay_to_exclusive: bool,
    /// The chain.
    pub network: Network,
    /// The token.
    pub asset: AssetId,
    /// Who pays.
    pub payer: AccountId,
    /// Who is paid.
    pub pay_to: AccountId,
    /// How much.
    pub amount: AtomicAmount,
    /// The scheme's payload in canonical JSON.
    pub payload: String,
    /// When the authorization ends.
    pub valid_until: UnixMillis,
    /// The gas payer whose account nonce the claim takes, if any.
    pub signer: Option<AccountId>,
    /// When it was claimed.
    pub claimed_at: UnixMillis,
    /// The payer's own name for the purchase; taken while the payment may still be or was paid.
    pub identifier: Option<String>,
}

/// A signed transaction that is about to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttempt {
    /// Who signed, if we did.
    pub signer: Option<AccountId>,
    /// The signer's account nonce, if it has one.
    pub account_nonce: Option<AccountNonce>,
    /// The transaction's id: known before it is sent.
    pub transaction: String,
    /// The signed bytes.
    pub raw: Vec<u8>,
    /// Most that this attempt can cost, in the chain's native unit, decimal.
    pub fee_max: String,
}

/// A signed transaction of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// What was signed.
    pub signed: NewAttempt,
    /// When it was stored.
    pub signed_at: UnixMillis,
}

/// What a signed transaction may cost its gas payer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outlay {
    /// The payment it was signed for.
    pub record: RecordId,
    /// Who signed.
    pub signer: AccountId,
    /// The signer's account nonce, if it has one.
    pub account_nonce: Option<AccountNonce>,
    /// Most that it can cost, in the chain's native unit, decimal.
    pub fee_max: String,
    /// When it was stored.
    pub signed_at: UnixMillis,
}

/// How the money moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The transaction that moved it.
    pub transaction: String,
    /// Its block's number or slot.
    pub block: u64,
    /// Its block's hash.
    pub block_hash: String,
    /// Whether somebody else submitted it.
    pub is_external: bool,
    /// What it cost our gas payer, in the chain's native unit; none where that isn't known, or nobody of ours paid. Where
    /// somebody else submitted it, it is what our own transaction cost that came too late. In a row of the books it is the
    /// row's [`PaymentRecord::fee`].
    pub fee: Option<AtomicAmount>,
}

/// What an operator did about an owed payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The transaction that gave the money back.
    pub transaction: String,
    /// The operator's own words.
    pub note: Option<String>,
    /// When it was recorded.
    pub at: UnixMillis,
}

/// A block in which payments were settled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SettledBlock {
    /// Its number or slot.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

/// A row of the books.
#[derive(Debug, Clone)]
pub struct PaymentRecord {
    /// The row's own id.
    pub record: RecordId,
    /// What was claimed.
    pub claim: NewPayment,
    /// Where it stands.
    pub state: PaymentState,
    /// Signed transactions, oldest first.
    pub attempts: Vec<Attempt>,
    /// How the money moved, once it has.
    pub settlement: Option<Settlement>,
    /// When it was recorded as paid.
    pub paid_at: Option<UnixMillis>,
    /// How often the request was given to the origin.
    pub deliveries: u32,
    /// Why it failed, as [`crate::protocol::Reason`] spells it.
    pub failure: Option<String>,
    /// The transaction that failed.
    pub failed_transaction: Option<String>,
    /// What its transactions cost our gas payer, in the chain's native unit, whether they moved the money or failed; none where
    /// none was mined or that isn't known, or nobody of ours paid.
    pub fee: Option<AtomicAmount>,
    /// What an operator did about it, once it was owed.
    pub resolution: Option<Resolution>,
    /// When the row last changed.
    pub updated_at: UnixMillis,
}

/// Whether a delivery may begin.
#[derive(Debug)]
pub enum DeliveryBegun {
    /// Yes, and it is counted.
    Begun(PaymentRecord),
    /// No more deliveries: the payment is owed.
    Owed(PaymentRecord),
    /// It is not `paid`: the record as it is.
    NotPaid(PaymentRecord),
}
