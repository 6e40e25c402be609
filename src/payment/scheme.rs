//! The port between the money path and the chains: what a chain must be able to do.
//!
//! One implementation per (scheme, chain family). Knows neither HTTP nor the ledger's storage; a chain gets what it needs
//! from the terms and from the ledger's record, so that a later configuration can't change how a payment ends.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::ledger::{
    AccountNonce, LedgerError, NewAttempt, PaymentId, PaymentRecord, RecordId, SettledBlock, Settlement,
};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// What a payment says of itself, read from its signed part only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentFacts {
    /// The chain's own replay key.
    pub id: PaymentId,
    /// Who pays.
    pub payer: AccountId,
    /// Who is paid.
    pub pay_to: AccountId,
    /// In which token.
    pub asset: AssetId,
    /// How much.
    pub amount: AtomicAmount,
    /// When the authorization ends: after this moment (chain time) it can't move money any more.
    pub valid_until: UnixMillis,
    /// SHA-256 over everything that was signed, without the signature, so that one payment has one digest however it was
    /// spelled (threats B5, B19, B24).
    pub digest: [u8; 32],
    /// The scheme's payload in canonical JSON, as the ledger keeps it.
    pub payload: Value,
}

/// Why a payment can't go on now.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The payment is not good: the payer's affair. Nothing was signed or sent.
    #[error("{reason}")]
    Invalid {
        /// The wire's word for it.
        reason: Reason,
    },
    /// The chain can't be asked, or costs too much now: our affair. Nothing was signed or sent.
    #[error("network unavailable: {detail}")]
    Unavailable {
        /// For the log only; holds no endpoint address.
        detail: String,
    },
}

impl From<Reason> for VerifyError {
    fn from(reason: Reason) -> Self {
        Self::Invalid { reason }
    }
}

/// A payment that decoded: shape is right, nothing else is known.
#[async_trait]
pub trait IncomingPayment: Send + Sync {
    /// What the payment says.
    fn facts(&self) -> &PaymentFacts;

    /// Compares the payment with the terms, cheapest first. No network, no cryptography.
    ///
    /// # Errors
    /// The first thing that disagrees.
    fn check(&self, terms: &PaymentRequirements, now: UnixMillis) -> Result<(), Reason>;

    /// Proves the payer's signature. Touches the network only where the chain demands it (EIP-1271 and EIP-7702 payers).
    ///
    /// # Errors
    /// When the signature is not the payer's, or a needed look-up failed.
    async fn prove(&self, terms: &PaymentRequirements) -> Result<(), VerifyError>;

    /// Asks the chain whether the settlement would succeed now and what it would cost, picks a lane, and reserves it.
    /// Signs nothing (threat C9).
    ///
    /// # Errors
    /// When the chain says no, can't be asked, or costs more than `max_fee`.
    async fn simulate(&self, terms: &PaymentRequirements) -> Result<Box<dyn SettlementPlan>, VerifyError>;
}

/// A settlement that is ready to be signed, with its lane reserved until this value is dropped.
pub trait SettlementPlan: Send + Sync {
    /// The signer whose account nonce is needed, or none where the payer's own transaction is sent.
    fn signer(&self) -> Option<&AccountId>;

    /// Signs the settlement transaction. Called inside the claim's ledger transaction, so it must be quick and must not
    /// block; what it returns is durable before anything leaves the process (W1).
    ///
    /// # Errors
    /// When signing fails; the claim is then rolled back.
    fn sign(&self, account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError>;
}

/// Signing failed; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("could not sign the settlement: {0}")]
pub struct SignError(pub String);

/// How a signed payment ended. There is no "unknown" here: that is a settlement that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettleOutcome {
    /// The chain moved exactly the money that was asked.
    Paid(Settlement),
    /// It is proven that this payment moved nothing (threats §2.1 principle 3).
    Failed {
        /// The wire's word for it.
        reason: Reason,
        /// The transaction that failed, if one did.
        transaction: Option<String>,
        /// What our gas payer paid for transactions of this payment that were mined and moved nothing, in the chain's native
        /// unit; none where none was, that isn't known, or nobody of ours paid.
        fee: Option<AtomicAmount>,
        /// Whether the authorization could still be used by somebody until `valid_until`.
        still_usable: bool,
    },
}

/// Where a chain writes down a further signed transaction of a payment that it is settling.
#[async_trait]
pub trait Attempts: Send + Sync {
    /// Writes it down; only what was recorded may be sent.
    ///
    /// # Errors
    /// When it is not known to be durable: then it must never leave the process.
    async fn record(&self, record: &RecordId, attempt: NewAttempt) -> Result<(), AttemptError>;
}

/// What the books know of earlier signatures.
#[async_trait]
pub trait Signatures: Send + Sync {
    /// What a gas payer signed with an account nonce, for payments that it moves the money of, or may: such a nonce is never
    /// free for anything else, even where a chain that took blocks back lost the transaction.
    ///
    /// # Errors
    /// When the books can't be asked: then nothing is known to be free.
    async fn signed_with(&self, signer: &AccountId, nonce: AccountNonce) -> Result<Vec<Vec<u8>>, LedgerError>;
}

/// A further attempt was not recorded, or may not have been.
#[derive(Debug, thiserror::Error)]
#[error("a further attempt was not recorded: {0}")]
pub struct AttemptError(#[from] LedgerError);

/// Whether a block is in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockStanding {
    /// It is.
    Held,
    /// Another one is in its place.
    Gone,
    /// The node can't say.
    Unknown,
}

/// What a chain says of blocks that settled payments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standings {
    /// Up to this number nothing can be taken back.
    pub final_number: u64,
    /// One for each block that was asked for, in order.
    pub blocks: Vec<BlockStanding>,
}

/// Whether a network may be offered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Yes.
    Ready,
    /// In a moment: what earlier runs left unfinished is being put in hand.
    Opening,
    /// Not now; the text is for operators.
    Unavailable(String),
}

impl Availability {
    /// Why not, in words for operators.
    #[must_use]
    pub fn refusal(self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Opening => Some("unfinished payments are being reconciled".to_owned()),
            Self::Unavailable(detail) => Some(detail),
        }
    }
}

/// One payment scheme on one network.
#[async_trait]
pub trait Scheme: Send + Sync {
    /// The network.
    fn network(&self) -> &Network;

    /// Whether payments may be taken now. Cheap: no network.
    fn availability(&self) -> Availability;

    /// Whether payments in this asset may be taken now: one that fails its payers leaves the offers alone. Cheap: no network.
    fn availability_of(&self, _asset: &AssetId) -> Availability {
        self.availability()
    }

    /// Whether a price covers what its settlement would cost the gateway now, as far as the operator said what fees are worth
    /// (threat C11). One that doesn't is not offered; an offer that was made is kept. Cheap: no network.
    fn covers_fee(&self, _asset: &AssetId, _price: AtomicAmount) -> bool {
        true
    }

    /// Whether what gas payers spent within the last day matters: then [`Self::spent`] is told before [`Self::open`] is called.
    fn counts_spending(&self) -> bool {
        false
    }

    /// The day's spending of a gas payer, or of all, is about to be told by [`Self::spent`] from its beginning.
    fn forget_spending(&self, _only: Option<&AccountId>) {}

    /// An earlier run signed something for a gas payer that may have cost up to so much of the native unit.
    fn spent(&self, _signer: &AccountId, _at_most: AtomicAmount, _at: UnixMillis) {}

    /// What this scheme adds to the `extra` of an offer in an asset: the EIP-712 domain (EVM), the fee payer (Solana).
    fn terms_extra(&self, asset: &AssetId) -> Map<String, Value>;

    /// What a wallet in a browser needs besides the terms to pay in an asset: a page has no node to ask. Nothing where the
    /// terms are enough. Cheap: no network.
    fn wallet_facts(&self, _asset: &AssetId) -> Map<String, Value> {
        Map::new()
    }

    /// Reads a scheme payload as a payment in `asset` under the EIP-712 domain or other facts of `terms`.
    /// No network, no cryptography beyond hashing.
    ///
    /// # Errors
    /// When the payload is malformed.
    fn decode(&self, payload: &Value, terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason>;

    /// Drives a signed payment to its end: sends what has not been sent, again and again the same bytes, watches, and
    /// decides only on proof. Runs as long as it takes; the caller's patience is the caller's affair. May be called for
    /// a record of an earlier run. It needs nothing but the record and the network. Where other bytes must be signed, such as
    /// the same transaction at a higher fee, they are given to `attempts` before they are sent.
    async fn settle(&self, record: &PaymentRecord, attempts: &dyn Attempts) -> SettleOutcome;

    /// Looks whether a failed payment landed after all: its authorization is public until it expires (contract §3).
    ///
    /// # Errors
    /// When the chain can't be asked.
    async fn late_settlement(&self, record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError>;

    /// Whether blocks in which payments were settled are still the chain's. Where a settlement is final as soon as it is recorded
    /// there is nothing to ask, which is what this says by itself.
    ///
    /// # Errors
    /// When the chain can't be asked.
    async fn stand(&self, blocks: &[SettledBlock]) -> Result<Standings, VerifyError> {
        Ok(Standings { final_number: u64::MAX, blocks: vec![BlockStanding::Held; blocks.len()] })
    }

    /// Each gas payer and the account nonce the chain expects of it next; none where the gateway signs no transactions.
    ///
    /// # Errors
    /// When the chain can't be asked, or is not the one that was configured.
    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError>;

    /// Whether the chain counts what each gas payer sent, so that books that are an old copy show against it. Then nothing that
    /// the books call due is answered before they were compared with [`Self::signer_nonces`] (threat E13).
    fn counts_nonces(&self) -> bool {
        false
    }

    /// Whom to ask before an account nonce is used for anything but a payment. Said before the first [`Self::settle`].
    fn consult(&self, _signatures: Arc<dyn Signatures>) {}

    /// Unfinished payments of earlier runs are in hand: new ones may be taken. `next` says which account nonce the ledger
    /// will hand out next for each gas payer, so that nonces whose transactions are lost can be filled.
    fn open(&self, next: &[(AccountId, AccountNonce)]);

    /// Where several gateways share the books: of the gas payers only these are this one's, and they and everything else only
    /// until then, unless this is said again. Never said where there is one gateway.
    fn hold(&self, _signers: &[AccountId], _until: Instant) {}
}
