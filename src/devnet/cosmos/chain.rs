//! The chain: what is committed, what waits in the mempool, and the blocks between them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ante::{Mode, Outcome, Runner};
use super::params::CosmosParams;
use super::refusal::Refusal;
use super::state::{Address, State};
use super::transaction::{Transaction, hash_of};
use crate::devnet::journal::{Journal, JournalError};
use crate::types::Clock;

/// A line of the journal: what happened to the state, in order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// Money out of nothing.
    Give {
        /// Whose.
        address: Address,
        /// Of what.
        denom: String,
        /// How much, in decimal.
        amount: String,
    },
    /// Money that is gone, as if the account had spent it elsewhere.
    Take {
        /// Whose.
        address: Address,
        /// Of what.
        denom: String,
        /// How much, in decimal.
        amount: String,
    },
    /// A block that wasn't empty.
    Block {
        /// Its height.
        height: u64,
        /// When it was made.
        time_secs: u64,
        /// Its transactions in base64.
        txs: Vec<String>,
    },
}

/// A block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub height: u64,
    pub time_secs: u64,
    pub txs: Vec<Vec<u8>>,
}

impl Block {
    pub(super) fn hash(&self, chain_id: &str) -> Vec<u8> {
        let mut hasher = Sha256::new();
        hasher.update(chain_id);
        hasher.update(self.height.to_be_bytes());
        hasher.update(self.time_secs.to_be_bytes());
        self.txs.iter().for_each(|tx| hasher.update(Sha256::digest(tx)));
        hasher.finalize().to_vec()
    }
}

/// A transaction in a block, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Included {
    pub bytes: Vec<u8>,
    pub height: u64,
    pub time_secs: u64,
    pub gas_wanted: u64,
    pub outcome: Outcome,
}

/// The chain.
pub(super) struct Chain {
    pub params: CosmosParams,
    clock: Arc<dyn Clock>,
    journal: Option<Journal<Entry>>,
    /// After the last block.
    pub committed: State,
    /// After the last block and everything in the mempool: what a node checks and simulates against.
    check: State,
    mempool: Vec<Vec<u8>>,
    /// Hashes of all that was let in once; a node takes none of them again.
    seen: HashSet<String>,
    pub blocks: BTreeMap<u64, Block>,
    included: HashMap<String, Included>,
    /// Every transaction that anybody handed in, in order, refused ones too.
    pub broadcasts: Vec<Vec<u8>>,
}

impl Chain {
    pub(super) fn open(params: CosmosParams, clock: Arc<dyn Clock>) -> Result<Self, JournalError> {
        let mut journal = params.journal.as_deref().map(Journal::open).transpose()?;
        let entries = journal.as_mut().map(Journal::take_entries).unwrap_or_default();
        let time_secs = clock.now().as_secs();
        let mut chain = Self {
            params,
            clock,
            journal: None,
            committed: State::default(),
            check: State::default(),
            mempool: Vec::new(),
            seen: HashSet::new(),
            blocks: BTreeMap::from([(1, Block { height: 1, time_secs, txs: Vec::new() })]),
            included: HashMap::new(),
            broadcasts: Vec::new(),
        };
        for (index, entry) in entries.iter().enumerate() {
            let applied = chain.apply(entry);
            if let (Err(refusal), Some(journal)) = (applied, &journal) {
                return Err(journal.disagrees(index, refusal));
            }
        }
        chain.catch_up();
        chain.journal = journal;
        Ok(chain)
    }

    pub(super) fn head(&self) -> Block {
        let head = self.blocks.last_key_value().map(|(_, block)| block.clone());
        head.unwrap_or(Block { height: 0, time_secs: 0, txs: Vec::new() })
    }

    /// Heights never go back: the blocks that were empty aren't in the journal, but there was one for each block time.
    fn catch_up(&mut self) {
        let head = self.head();
        let now = self.clock.now().as_secs();
        let block_secs = self.params.block_time.map_or(1, |time| time.as_secs()).max(1);
        let missed = now.saturating_sub(head.time_secs) / block_secs;
        let height = head.height.saturating_add(missed).saturating_add(1);
        self.blocks.insert(height, Block { height, time_secs: now, txs: Vec::new() });
        self.check = self.committed.clone();
    }

    /// What an entry did, done again.
    fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        match entry {
            Entry::Give { address, denom, amount } => {
                self.committed.give(address, denom, amount.parse().map_err(|_error| "no amount".to_owned())?);
            }
            Entry::Take { address, denom, amount } => {
                let amount = amount.parse().map_err(|_error| "no amount".to_owned())?;
                self.committed.take(address, denom, amount, "").map_err(|refusal| refusal.log)?;
            }
            Entry::Block { height, time_secs, txs } => {
                let decoded: Result<Vec<_>, _> = txs.iter().map(|tx| STANDARD.decode(tx)).collect();
                let txs = decoded.map_err(|error| error.to_string())?;
                self.seen.extend(txs.iter().map(|tx| hash_of(tx)));
                self.execute(Block { height: *height, time_secs: *time_secs, txs });
            }
        }
        Ok(())
    }

    fn record(&mut self, entry: &Entry) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(entry)
        {
            tracing::error!(%error, "The Cosmos chain could not be written.");
        }
    }

    /// Gives an account money out of nothing, at once.
    pub(super) fn give(&mut self, address: &[u8], denom: &str, amount: u128) {
        let entry = Entry::Give { address: address.to_vec(), denom: denom.to_owned(), amount: amount.to_string() };
        self.record(&entry);
        self.committed.give(address, denom, amount);
        self.check.give(address, denom, amount);
    }

    /// Takes an account's money away at once, whatever waits in the mempool.
    pub(super) fn take(&mut self, address: &[u8], denom: &str, amount: u128) -> Result<(), Refusal> {
        self.committed.take(address, denom, amount, "")?;
        let entry = Entry::Take { address: address.to_vec(), denom: denom.to_owned(), amount: amount.to_string() };
        self.record(&entry);
        // What waits may have spent it already, as far as the mempool knows.
        let left = self.check.balance(address, denom).min(amount);
        self.check.take(address, denom, left, "")
    }

    fn runner(&self) -> Runner<'_> {
        Runner { params: &self.params, height: self.head().height.saturating_add(1) }
    }

    /// `CheckTx`, and into the mempool.
    pub(super) fn broadcast(&mut self, bytes: &[u8]) -> (String, Outcome) {
        let hash = hash_of(bytes);
        self.broadcasts.push(bytes.to_vec());
        if self.seen.contains(&hash) {
            return (hash, refused(Refusal::in_mempool()));
        }
        let tx = match Transaction::decode(bytes) {
            Ok(tx) => tx,
            Err(refusal) => return (hash, refused(refusal)),
        };
        let mut state = self.check.clone();
        let outcome = self.runner().run(&mut state, &tx, Mode::Check);
        if outcome.refusal.is_none() {
            self.check = state;
            self.mempool.push(bytes.to_vec());
            self.seen.insert(hash.clone());
        }
        (hash, outcome)
    }

    /// Runs a transaction for its gas.
    pub(super) fn simulate(&self, bytes: &[u8]) -> Outcome {
        match Transaction::decode(bytes) {
            Ok(tx) => self.runner().run(&mut self.check.clone(), &tx, Mode::Simulate),
            Err(refusal) => refused(refusal),
        }
    }

    pub(super) fn included(&self, hash: &str) -> Option<&Included> {
        self.included.get(&hash.to_ascii_uppercase())
    }

    /// What an event of this kind says this of, newest first.
    pub(super) fn search(&self, kind: &str, key: &str, value: &str) -> Vec<&Included> {
        let says = |included: &&Included| {
            let Outcome { ante_events, events, .. } = &included.outcome;
            ante_events.iter().chain(events).any(|event| event.says(kind, key, value))
        };
        let mut found: Vec<(&String, &Included)> =
            self.included.iter().filter(|(_, included)| says(included)).collect();
        found.sort_by_key(|(hash, included)| (std::cmp::Reverse(included.height), *hash));
        found.into_iter().map(|(_, included)| included).collect()
    }

    pub(super) fn mempool(&self) -> &[Vec<u8>] {
        &self.mempool
    }

    /// Forgets what waits, as a node does that is started again: it would take the same transactions anew.
    pub(super) fn forget_mempool(&mut self) {
        for bytes in std::mem::take(&mut self.mempool) {
            self.seen.remove(&hash_of(&bytes));
        }
        self.check = self.committed.clone();
    }

    /// Makes a block of all that waits.
    pub(super) fn produce_block(&mut self) -> u64 {
        let head = self.head();
        let time_secs = self.clock.now().as_secs().max(head.time_secs);
        let height = head.height.saturating_add(1);
        let txs = std::mem::take(&mut self.mempool);
        if !txs.is_empty() {
            let texts = txs.iter().map(|tx| STANDARD.encode(tx)).collect();
            self.record(&Entry::Block { height, time_secs, txs: texts });
        }
        self.execute(Block { height, time_secs, txs });
        self.check = self.committed.clone();
        height
    }

    fn execute(&mut self, block: Block) {
        let mut state = self.committed.clone();
        for bytes in &block.txs {
            let Ok(tx) = Transaction::decode(bytes) else { continue };
            let runner = Runner { params: &self.params, height: block.height };
            let outcome = runner.run(&mut state, &tx, Mode::Deliver);
            let (height, time_secs, gas_wanted) = (block.height, block.time_secs, tx.fee.gas_limit);
            let included = Included { bytes: bytes.clone(), height, time_secs, gas_wanted, outcome };
            self.included.insert(hash_of(bytes), included);
        }
        self.committed = state;
        self.blocks.insert(block.height, block);
    }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome { refusal: Some(refusal), gas_used: 0, ante_events: Vec::new(), events: Vec::new() }
}
