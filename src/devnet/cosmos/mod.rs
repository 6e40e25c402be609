//! A Cosmos chain inside the process: a node's gRPC service over accounts, balances and blocks that are really kept.
//!
//! Signatures, account numbers, sequences, fees, gas, memos and timeout heights are checked as the SDK checks them, and
//! refused in its codes and words. Only `MsgSend` exists, signed by one secp256k1 key. Knows nothing of payments, nor of
//! the gateway's own reading of transactions: what it accepts is a second opinion.

mod ante;
mod chain;
mod event;
mod fault;
mod node;
mod params;
mod refusal;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod unserved;

pub use self::fault::{CallFault, Faults};
pub use self::node::{CosmosChain, CosmosNode, Delivered, StartError};
pub use self::params::{COSMOS_CHAIN_ID, COSMOS_DENOM, CosmosParams, Dialect, EventForm};
