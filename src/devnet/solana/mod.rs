//! A Solana chain of one node: blocks by the clock over a real SVM (crate litesvm), with a mint at the address of devnet's
//! USDC. In memory only: each start is a chain of its own, with a genesis hash of its own.
//!
//! What an account holds is the same at every commitment; how sure the cluster is of a block is told by its age.

mod chain;
mod read;
mod rpc;
mod transaction;
mod vm;

#[cfg(test)]
mod tests;

pub use self::chain::{SLOT_TIME, SolanaChain, SolanaError};
pub use self::vm::USDC;
