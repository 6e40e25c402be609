//! Blocks, and what landed in them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

use super::rpc;
use super::transaction::Landed;
use super::vm::{Simulated, Vm, error_json};
use crate::devnet::node::Served;
use crate::devnet::rpc as envelope;
use crate::types::Clock;

/// How often there is a block, as on the public chains.
pub const SLOT_TIME: Duration = Duration::from_millis(400);
/// Blocks for which a block hash can be used.
pub(super) const BLOCKHASH_BLOCKS: u64 = 150;
/// Age in blocks at which the cluster is taken to have voted for one.
const CONFIRMED_AFTER: u64 = 2;
/// The same for what is never undone.
const FINALIZED_AFTER: u64 = 32;
/// Blocks that are kept: a day's.
const KEPT_BLOCKS: usize = 216_000;

/// Why the chain could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SolanaError {
    /// An account that the SVM doesn't take.
    #[error("can't write an account: {0}")]
    Account(String),
    /// A transaction that can't be brought to the SVM.
    #[error("can't read a transaction: {0}")]
    Transaction(String),
    /// More than there can be.
    #[error("an account can't hold so much")]
    Overflow,
    /// No genesis hash.
    #[error("no randomness for a genesis hash: {0}")]
    Random(getrandom::Error),
}

/// How sure the cluster is of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Commitment {
    Processed,
    Confirmed,
    Finalized,
}

impl Commitment {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Confirmed => "confirmed",
            Self::Finalized => "finalized",
        }
    }
}

/// A block: each slot has one, so its number is its height too.
pub(super) struct Block {
    pub(super) hash: Hash,
    pub(super) unix_secs: u64,
    signatures: Vec<Signature>,
}

/// Why a transaction can't land now.
pub(super) enum Unfit {
    Signature,
    /// A transaction's error by the name that nodes give it.
    Named(&'static str),
}

/// The chain.
pub struct SolanaChain {
    clock: Arc<dyn Clock>,
    genesis_hash: Hash,
    first: u64,
    blocks: VecDeque<Block>,
    landed: HashMap<Signature, Landed>,
    messages: HashSet<Hash>,
    pub(super) vm: Vm,
}

impl SolanaChain {
    /// A chain with a mint and no holders.
    ///
    /// # Errors
    /// When the SVM can't be set up.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self, SolanaError> {
        let mut genesis = [0_u8; 32];
        getrandom::fill(&mut genesis).map_err(SolanaError::Random)?;
        let genesis_hash = Hash::new_from_array(genesis);
        let mut chain = Self {
            clock,
            genesis_hash,
            first: 0,
            blocks: VecDeque::new(),
            landed: HashMap::new(),
            messages: HashSet::new(),
            vm: Vm::new()?,
        };
        // The first block is final from the start, so nothing may land in it.
        chain.push_block();
        chain.push_block();
        Ok(chain)
    }

    /// The hash by which this chain is told from any other.
    #[must_use]
    pub fn genesis_hash(&self) -> String {
        self.genesis_hash.to_string()
    }

    /// Gives an account lamports, of which 10^9 are a SOL.
    ///
    /// # Errors
    /// When it can't hold so much.
    pub fn fund(&mut self, owner: Pubkey, lamports: u64) -> Result<(), SolanaError> {
        self.vm.fund(owner, lamports)
    }

    /// Gives an account atomic units of USDC, in its associated token account, which is made if need be.
    ///
    /// # Errors
    /// When it can't hold so much.
    pub fn fund_usdc(&mut self, owner: Pubkey, units: u64) -> Result<(), SolanaError> {
        self.vm.fund_usdc(owner, units)
    }

    fn push_block(&mut self) {
        let slot = self.first.saturating_add(self.blocks.len() as u64);
        let parent = self.blocks.back().map_or(self.genesis_hash, |block| block.hash);
        let digest = Sha256::new_with_prefix(parent.as_ref()).chain_update(slot.to_le_bytes()).finalize();
        let unix_secs = self.clock.now().as_secs();
        self.blocks.push_back(Block { hash: Hash::new_from_array(digest.into()), unix_secs, signatures: Vec::new() });
        self.vm.at_slot(slot);
        if self.blocks.len() > KEPT_BLOCKS
            && let Some(block) = self.blocks.pop_front()
        {
            self.first = self.first.saturating_add(1);
            for signature in block.signatures {
                if let Some(landed) = self.landed.remove(&signature) {
                    self.messages.remove(&landed.message_hash);
                }
            }
        }
    }

    /// The oldest block that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The newest slot of which the cluster is so sure.
    pub(super) fn slot(&self, commitment: Commitment) -> u64 {
        let head = self.first.saturating_add(self.blocks.len() as u64).saturating_sub(1);
        let age = match commitment {
            Commitment::Processed => 0,
            Commitment::Confirmed => CONFIRMED_AFTER,
            Commitment::Finalized => FINALIZED_AFTER,
        };
        head.saturating_sub(age).max(self.first)
    }

    /// How sure the cluster is of a slot.
    pub(super) fn commitment_of(&self, slot: u64) -> Commitment {
        let reaches = |commitment: &Commitment| slot <= self.slot(*commitment);
        [Commitment::Finalized, Commitment::Confirmed].into_iter().find(reaches).unwrap_or(Commitment::Processed)
    }

    pub(super) fn block(&self, slot: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(slot.checked_sub(self.first)?).ok()?)
    }

    /// Whether a transaction with this block hash can land now.
    pub(super) fn is_recent(&self, hash: &Hash) -> bool {
        let usable = usize::try_from(BLOCKHASH_BLOCKS).unwrap_or(usize::MAX).saturating_add(1);
        self.blocks.iter().rev().take(usable).any(|block| block.hash == *hash)
    }

    pub(super) fn landed(&self, signature: &Signature) -> Option<&Landed> {
        self.landed.get(signature)
    }

    /// What keeps a transaction from landing, short of what its execution would say; else its message's hash.
    pub(super) fn check(&self, transaction: &VersionedTransaction) -> Result<Hash, Unfit> {
        let message_hash = transaction.verify_and_hash_message().map_err(|_error| Unfit::Signature)?;
        self.check_age(transaction)?;
        if self.messages.contains(&message_hash) {
            return Err(Unfit::Named("AlreadyProcessed"));
        }
        Ok(message_hash)
    }

    pub(super) fn check_age(&self, transaction: &VersionedTransaction) -> Result<(), Unfit> {
        if self.is_recent(transaction.message.recent_blockhash()) {
            Ok(())
        } else {
            Err(Unfit::Named("BlockhashNotFound"))
        }
    }

    pub(super) fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulated, SolanaError> {
        self.vm.simulate(transaction)
    }

    /// Runs a transaction in the newest block, if it can land; a real node doesn't tell either.
    pub(super) fn submit(&mut self, transaction: &VersionedTransaction) -> Result<(), SolanaError> {
        let Ok(message_hash) = self.check(transaction) else { return Ok(()) };
        let Some(signature) = transaction.signatures.first().copied() else { return Ok(()) };
        let keys = transaction.message.static_account_keys();
        let before = self.holdings(keys);
        let (meta, error) = match self.vm.execute(transaction)? {
            Ok(meta) => (meta, None),
            Err((_, false)) => return Ok(()),
            Err((failed, true)) => (failed.meta.clone(), Some(error_json(&failed)?)),
        };
        let after = self.holdings(keys);
        let slot = self.slot(Commitment::Processed);
        let landed = Landed { slot, message_hash, transaction: transaction.clone(), meta, error, before, after };
        self.messages.insert(message_hash);
        self.landed.insert(signature, landed);
        if let Some(block) = self.blocks.back_mut() {
            block.signatures.push(signature);
        }
        Ok(())
    }
}

impl Served for SolanaChain {
    fn answer(&mut self, body: &[u8]) -> Option<Value> {
        envelope::answer(body, &mut |method, params| rpc::call(self, method, params))
    }

    fn tick(&mut self) {
        self.push_block();
    }

    fn block_time(&self) -> Duration {
        SLOT_TIME
    }
}
