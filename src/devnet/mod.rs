//! Chains and a shop inside the process, for `tollhouse dev` and for tests: an EVM with the test token at the address of
//! Base Sepolia's USDC, served as JSON-RPC, a Cosmos chain, served as gRPC, and an origin with something to sell; with the
//! cargo feature `dev-solana` also a Solana chain.
//!
//! Everything is offline and worth nothing. Knows nothing of payments: the gateway, wallets and clients meet it as they
//! meet any node. Not in production images (cargo feature `dev`).

mod block;
mod call;
mod chain;
pub mod cosmos;
mod evm;
mod fault;
mod genesis;
mod journal;
mod node;
mod origin;
mod params;
mod queue;
mod read;
mod rpc;
#[cfg(feature = "dev-solana")]
pub mod solana;
#[cfg(test)]
mod tests;
mod transaction;
mod world;

pub use self::chain::Chain;
pub use self::fault::Fault;
pub use self::genesis::{CHAIN_ID, TOKEN};
pub use self::journal::{Journal, JournalError};
pub use self::node::{Node, Served};
pub use self::origin::{Origin, ROUTES, SampleRoute};
