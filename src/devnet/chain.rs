//! The chain: takes transactions, runs them, and makes a block of each at once; empty blocks let time go on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::sol;
use alloy::sol_types::SolCall;
use revm::context::BlockEnv;

use super::block::{BASE_FEE, BLOCK_GAS_LIMIT, Block, Place, Run, SignedTx};
use super::evm::{Check, environment_of, run};
use super::fault::Fault;
use super::genesis::{self, CHAIN_ID, GenesisError, TOKEN};
use super::journal::{Entry, Journal, JournalError};
use super::queue::Queue;
use super::transaction::{check_fees, read};
use super::world::World;
use crate::types::Clock;

/// Blocks, their receipts and states that are kept: hours, and enough for whoever looks for a log of the last hour.
const BLOCKS_KEPT: usize = 8192;

/// Wei that the faucet gives: plenty of gas.
const FUND_WEI: u128 = 1_000_000_000_000_000_000;

sol! {
    interface Mintable {
        function mint(address to, uint256 value);
    }
}

/// A chain of one node.
pub struct Chain {
    clock: Arc<dyn Clock>,
    pub(super) world: World,
    head: Arc<Block>,
    blocks: BTreeMap<u64, Arc<Block>>,
    numbers: HashMap<B256, u64>,
    transactions: HashMap<B256, (u64, usize)>,
    pub(super) queue: Queue,
    journal: Option<Journal>,
}

/// Why there is no chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It can't begin.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// It can't be taken up again.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Chain {
    /// A chain that begins now or, with a journal, goes on from where that ends.
    ///
    /// # Errors
    /// When the journal is not of this chain.
    pub fn new(clock: Arc<dyn Clock>, journal: Option<Journal>) -> Result<Self, ChainError> {
        let (entries, journal) = match journal {
            Some(mut journal) => (journal.take_entries(), Some(journal)),
            None => (Vec::new(), None),
        };
        let now = clock.now().as_secs();
        let started = entries.first().map_or(now, |entry| entry.timestamp);
        let first = Block::new(Place { number: 0, timestamp: started, parent_hash: B256::ZERO }, Vec::new());
        let head = Arc::new(first);
        let mut chain = Self {
            clock,
            world: genesis::world()?,
            head: Arc::clone(&head),
            blocks: BTreeMap::new(),
            numbers: HashMap::new(),
            transactions: HashMap::new(),
            queue: Queue::default(),
            journal: None,
        };
        chain.push(head);
        if let Some(journal) = journal {
            chain.replay(&entries, &journal)?;
            chain.journal = Some(journal);
        }
        Ok(chain)
    }

    /// The newest block.
    pub(super) fn head(&self) -> &Arc<Block> {
        &self.head
    }

    /// The oldest block that isn't forgotten.
    pub(super) fn oldest(&self) -> u64 {
        self.blocks.first_key_value().map_or(0, |(number, _)| *number)
    }

    /// A block by number, if it is there and not forgotten.
    pub(super) fn block(&self, number: u64) -> Option<&Arc<Block>> {
        self.blocks.get(&number)
    }

    /// A block by hash.
    pub(super) fn block_by_hash(&self, hash: B256) -> Option<&Arc<Block>> {
        self.block(*self.numbers.get(&hash)?)
    }

    /// Blocks from one number to another, both included.
    pub(super) fn range(&self, first: u64, last: u64) -> impl Iterator<Item = &Arc<Block>> {
        // A range that ends before it begins would panic.
        self.blocks.range(first..=last.max(first)).map(|(_, block)| block).filter(move |_| first <= last)
    }

    /// Where a transaction was run: its block and its index there.
    pub(super) fn find(&self, transaction: B256) -> Option<(&Arc<Block>, usize)> {
        let (number, index) = self.transactions.get(&transaction)?;
        Some((self.block(*number)?, *index))
    }

    /// Takes a signed transaction as a wallet sends it and runs it, unless its turn is yet to come.
    ///
    /// # Errors
    /// Why it is refused, in geth's words.
    pub fn submit(&mut self, raw: &[u8]) -> Result<B256, Fault> {
        let transaction = read(raw)?;
        let (hash, sender, nonce) = (*transaction.hash(), transaction.signer(), transaction.nonce());
        if self.queue.holds(sender, nonce, hash) {
            return Err(Fault::refused("already known"));
        }
        let account = self.world.now().account(sender).unwrap_or_default();
        if nonce < account.nonce {
            return Err(Fault::nonce_too_low(account.nonce, nonce));
        }
        check_fees(&transaction)?;
        let cost = U256::from(transaction.gas_limit())
            .saturating_mul(U256::from(transaction.max_fee_per_gas()))
            .saturating_add(transaction.value());
        if account.balance < cost {
            return Err(Fault::insufficient_funds(account.balance, cost));
        }
        if nonce > account.nonce {
            self.queue.put(transaction)?;
        } else {
            self.mine(transaction)?;
        }
        Ok(hash)
    }

    /// Makes an empty block if the clock has moved on since the last one.
    pub fn tick(&mut self) {
        let place = self.next_place();
        if place.timestamp > self.head.header.timestamp {
            self.push(Arc::new(Block::new(place, Vec::new())));
        }
    }

    /// Gives an account gas and atomic units of the test token, by two transactions of the faucet. The second one's hash.
    ///
    /// # Errors
    /// When the chain refuses them.
    pub fn fund(&mut self, account: Address, units: U256) -> Result<B256, Fault> {
        let mint = Mintable::mintCall { to: account, value: units }.abi_encode();
        self.faucet_sends(account, U256::from(FUND_WEI), Bytes::new())?;
        self.faucet_sends(TOKEN, U256::ZERO, mint.into())
    }

    fn faucet_sends(&mut self, to: Address, value: U256, input: Bytes) -> Result<B256, Fault> {
        let faucet = genesis::faucet().map_err(|error| Fault::refused(error.to_string()))?;
        let nonce = self.world.now().account(faucet.address()).map_or(0, |account| account.nonce);
        let mut unsigned = alloy::consensus::TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 200_000,
            max_fee_per_gas: u128::from(BASE_FEE),
            max_priority_fee_per_gas: 0,
            to: TxKind::Call(to),
            value,
            input,
            ..alloy::consensus::TxEip1559::default()
        };
        let signature =
            faucet.sign_transaction_sync(&mut unsigned).map_err(|error| Fault::refused(error.to_string()))?;
        let signed = TxEnvelope::Eip1559(alloy::consensus::SignableTransaction::into_signed(unsigned, signature));
        self.submit(&signed.encoded_2718())
    }

    /// Where the next block will stand. Blocks of one second share its timestamp: time must not run ahead of the clock.
    pub(super) fn next_place(&self) -> Place {
        let header = &self.head.header;
        Place {
            number: header.number.saturating_add(1),
            timestamp: self.clock.now().as_secs().max(header.timestamp),
            parent_hash: self.head.hash,
        }
    }

    /// Makes a block of a transaction and of those that waited for it.
    fn mine(&mut self, transaction: SignedTx) -> Result<(), Fault> {
        let place = self.next_place();
        let sender = transaction.signer();
        let mut gas_left = BLOCK_GAS_LIMIT;
        let mut runs = vec![self.execute(place, gas_left, transaction)?];
        while let Some(last) = runs.last() {
            gas_left = gas_left.saturating_sub(last.result.tx_gas_used());
            let next = self.world.now().account(sender).map_or(0, |account| account.nonce);
            self.queue.drop_before(sender, next);
            let Some(waiting) = self.queue.take(sender, next) else { break };
            match self.execute(place, gas_left, waiting) {
                Ok(run) => runs.push(run),
                // It can't be run any more, as when its sender spent what it needs: geth drops it too.
                Err(_dropped) => break,
            }
        }
        let block = Arc::new(Block::new(place, runs));
        self.write_down(&block);
        self.push(block);
        Ok(())
    }

    /// Runs a transaction and keeps what it changed.
    fn execute(&mut self, place: Place, gas_left: u64, transaction: SignedTx) -> Result<Run, Fault> {
        let environment = BlockEnv { gas_limit: gas_left, ..place.environment(BASE_FEE) };
        let ran = run(self.world.now(), environment, environment_of(&transaction), Check::Transaction)?;
        self.world.commit(place.number, ran.state);
        Ok(Run { transaction, result: ran.result })
    }

    fn write_down(&mut self, block: &Block) {
        let Some(journal) = &mut self.journal else { return };
        let entry = Entry {
            number: block.header.number,
            timestamp: block.header.timestamp,
            parent_hash: block.header.parent_hash,
            hash: block.hash,
            transactions: block.transactions.iter().map(|transaction| transaction.encoded_2718().into()).collect(),
        };
        if let Err(error) = journal.append(&entry) {
            tracing::error!(%error, "The chain can't be kept: a later start will not know its newest block.");
        }
    }

    fn replay(&mut self, entries: &[Entry], journal: &Journal) -> Result<(), JournalError> {
        for (index, entry) in entries.iter().enumerate() {
            let place = Place { number: entry.number, timestamp: entry.timestamp, parent_hash: entry.parent_hash };
            if place.number <= self.head.header.number {
                return Err(journal.disagrees(index, "its block comes before the one above"));
            }
            let mut runs = Vec::with_capacity(entry.transactions.len());
            for raw in &entry.transactions {
                let run = read(raw).and_then(|transaction| self.execute(place, BLOCK_GAS_LIMIT, transaction));
                runs.push(run.map_err(|fault| journal.disagrees(index, fault.message))?);
            }
            let block = Block::new(place, runs);
            if block.hash != entry.hash {
                return Err(journal.disagrees(index, "its block comes out otherwise; was it made by another version?"));
            }
            self.push(Arc::new(block));
        }
        Ok(())
    }

    fn push(&mut self, block: Arc<Block>) {
        let number = block.header.number;
        self.world.note_hash(number, block.hash);
        self.numbers.insert(block.hash, number);
        for (index, transaction) in block.transactions.iter().enumerate() {
            self.transactions.insert(*transaction.hash(), (number, index));
        }
        self.blocks.insert(number, Arc::clone(&block));
        self.head = block;
        while self.blocks.len() > BLOCKS_KEPT {
            let Some((_, old)) = self.blocks.pop_first() else { break };
            self.numbers.remove(&old.hash);
            for transaction in &old.transactions {
                self.transactions.remove(transaction.hash());
            }
            self.world.forget_before(self.oldest());
        }
    }
}
