//! The accounts and their storage, as they are and as they were some blocks ago.
//!
//! A block leaves behind what its changes overwrote, so that an older state is read by looking for the first change after
//! it. There is no trie: nothing of this is ever proven to anybody.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use alloy::primitives::{Address, B256, U256};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::primitives::KECCAK_EMPTY;
use revm::state::{AccountInfo, EvmState};

/// How far back the BLOCKHASH instruction sees.
const HASHES: usize = 256;

/// All state of the chain.
#[derive(Default)]
pub(super) struct World {
    accounts: HashMap<Address, AccountInfo>,
    storage: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Bytecode>,
    /// By block: what its changes overwrote.
    before: BTreeMap<u64, Before>,
    hashes: BTreeMap<u64, B256>,
}

/// What a block's changes overwrote. `None`: there was no such account.
#[derive(Default)]
struct Before {
    accounts: HashMap<Address, Option<AccountInfo>>,
    storage: HashMap<(Address, U256), U256>,
}

/// The state after some block.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    world: &'a World,
    /// Changes after this block are not seen.
    number: u64,
}

impl World {
    /// The state after block `number`, as far as changes weren't forgotten.
    pub(super) fn at(&self, number: u64) -> View<'_> {
        View { world: self, number }
    }

    /// The present state.
    pub(super) fn now(&self) -> View<'_> {
        self.at(u64::MAX)
    }

    /// Puts an account where none was asked for; only before the first block.
    pub(super) fn place(&mut self, address: Address, balance: U256, code: Option<Bytecode>) {
        let mut info = AccountInfo { balance, code: None, ..AccountInfo::default() };
        if let Some(code) = code {
            info.code_hash = code.hash_slow();
            info.nonce = 1;
            self.codes.insert(info.code_hash, code);
        }
        self.accounts.insert(address, info);
    }

    /// Takes over what a transaction of block `number` changed.
    pub(super) fn commit(&mut self, number: u64, changes: EvmState) {
        let before = self.before.entry(number).or_default();
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            let is_gone = account.is_selfdestructed() || account.is_empty();
            let old = if is_gone {
                self.accounts.remove(&address)
            } else {
                let mut info = account.info;
                if let Some(code) = info.code.take().filter(|_| info.code_hash != KECCAK_EMPTY) {
                    self.codes.entry(info.code_hash).or_insert(code);
                }
                self.accounts.insert(address, info)
            };
            before.accounts.entry(address).or_insert(old);
            // An account destroys itself only in the transaction that made it (EIP-6780): it leaves no storage behind.
            for (slot, value) in account.storage.into_iter().filter(|(_, value)| !is_gone && value.is_changed()) {
                let key = (address, slot);
                let old = match value.present_value {
                    U256::ZERO => self.storage.remove(&key),
                    present => self.storage.insert(key, present),
                };
                before.storage.entry(key).or_insert(old.unwrap_or_default());
            }
        }
    }

    /// Remembers a block's hash for BLOCKHASH.
    pub(super) fn note_hash(&mut self, number: u64, hash: B256) {
        self.hashes.insert(number, hash);
        while self.hashes.len() > HASHES {
            self.hashes.pop_first();
        }
    }

    /// Forgets the way back to states before block `number`.
    pub(super) fn forget_before(&mut self, number: u64) {
        self.before = self.before.split_off(&number.saturating_add(1));
    }
}

impl<'a> View<'a> {
    fn later(&self) -> impl Iterator<Item = &'a Before> {
        self.world.before.range(self.number.saturating_add(1)..).map(|(_, before)| before)
    }

    /// An account without its code.
    pub(super) fn account(&self, address: Address) -> Option<AccountInfo> {
        if self.number != u64::MAX
            && let Some(old) = self.later().find_map(|before| before.accounts.get(&address))
        {
            return old.clone();
        }
        self.world.accounts.get(&address).cloned()
    }

    /// A storage slot's value.
    pub(super) fn slot(&self, address: Address, slot: U256) -> U256 {
        let key = (address, slot);
        if self.number != u64::MAX
            && let Some(old) = self.later().find_map(|before| before.storage.get(&key))
        {
            return *old;
        }
        self.world.storage.get(&key).copied().unwrap_or_default()
    }

    /// An account's code.
    pub(super) fn code(&self, hash: B256) -> Bytecode {
        self.world.codes.get(&hash).cloned().unwrap_or_default()
    }
}

impl DatabaseRef for View<'_> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.account(address))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.code(code_hash))
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, Infallible> {
        Ok(self.slot(address, index))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(self.world.hashes.get(&number).copied().unwrap_or_default())
    }
}
