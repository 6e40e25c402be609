//! Transactions that came before their turn: their sender's earlier nonces are missing. Bounded, like all that strangers
//! can fill.

use std::collections::BTreeMap;

use alloy::consensus::Transaction;
use alloy::primitives::{Address, B256};

use super::block::SignedTx;
use super::fault::Fault;

/// Transactions that wait, over all senders.
const WAITING_MAX: usize = 1024;
/// Transactions that wait, of one sender.
const WAITING_PER_SENDER_MAX: usize = 64;

/// Transactions by sender and nonce.
#[derive(Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(Address, u64), SignedTx>,
}

impl Queue {
    /// Whether this very transaction waits.
    pub(super) fn holds(&self, sender: Address, nonce: u64, hash: B256) -> bool {
        self.waiting.get(&(sender, nonce)).is_some_and(|held| *held.hash() == hash)
    }

    /// A transaction that waits, by its hash.
    pub(super) fn find(&self, hash: B256) -> Option<&SignedTx> {
        self.waiting.values().find(|held| *held.hash() == hash)
    }

    /// Keeps a transaction until its turn.
    ///
    /// # Errors
    /// When too many wait, or one with its nonce does and this one doesn't pay a tenth more (geth's rule).
    pub(super) fn put(&mut self, transaction: SignedTx) -> Result<(), Fault> {
        let key = (transaction.signer(), transaction.nonce());
        if let Some(held) = self.waiting.get(&key) {
            let outbids = |new: u128, old: u128| new >= old.saturating_add(old / 10) && new > old;
            let is_better =
                outbids(transaction.max_fee_per_gas(), held.max_fee_per_gas()) && outbids(tip(&transaction), tip(held));
            if !is_better {
                return Err(Fault::refused("replacement transaction underpriced"));
            }
        } else if self.waiting.len() >= WAITING_MAX || self.of(key.0).count() >= WAITING_PER_SENDER_MAX {
            return Err(Fault::refused("txpool is full"));
        }
        self.waiting.insert(key, transaction);
        Ok(())
    }

    /// Takes the transaction whose turn it is.
    pub(super) fn take(&mut self, sender: Address, nonce: u64) -> Option<SignedTx> {
        self.waiting.remove(&(sender, nonce))
    }

    /// Drops what can't come any more.
    pub(super) fn drop_before(&mut self, sender: Address, nonce: u64) {
        self.waiting.retain(|(other, waiting), _| *other != sender || *waiting >= nonce);
    }

    fn of(&self, sender: Address) -> impl Iterator<Item = &SignedTx> {
        self.waiting.range((sender, 0)..=(sender, u64::MAX)).map(|(_, transaction)| transaction)
    }
}

fn tip(transaction: &SignedTx) -> u128 {
    transaction.max_priority_fee_per_gas().unwrap_or_else(|| transaction.max_fee_per_gas())
}
