//! What the books are compared with: questions to a chain that change nothing and decide nothing.

use std::collections::HashSet;

use crate::types::{AccountId, AssetId, AtomicAmount, UnixMillis};

/// What a chain says today of a payment that the books call paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// The settlement is in the chain, in the block that the books say, and moved exactly this money.
    Moved {
        /// Whether the chain can't take it back any more.
        is_final: bool,
    },
    /// It moved this money in another block than the books say.
    MovedElsewhere {
        /// The block's number or slot.
        block: u64,
    },
    /// The transaction is in the chain and did not move this money.
    MovedOther,
    /// The nodes know no such transaction.
    Missing,
}

/// Which transfers to look for.
#[derive(Debug, Clone, Copy)]
pub struct Till<'a> {
    /// To whom.
    pub pay_to: &'a AccountId,
    /// In which token.
    pub asset: &'a AssetId,
    /// In blocks of this moment or later, by the chain's clock.
    pub since: UnixMillis,
    /// And before this one.
    pub until: UnixMillis,
    /// Transactions that need not be looked into, since the books have them.
    pub known: &'a HashSet<String>,
}

/// A transfer to a till.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The transaction.
    pub transaction: String,
    /// Its block's number or slot.
    pub block: u64,
    /// From whom, where the chain says so of each transfer.
    pub payer: Option<AccountId>,
    /// How much.
    pub amount: AtomicAmount,
}
