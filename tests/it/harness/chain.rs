//! What a shop needs of a chain, whatever the chain: a node of it, a payer on it, and what moved.

use alloy::primitives::U256;
use serde_json::Value;

use super::payer::{Header, Terms};
use super::shop::Plan;

/// Money that arrived at the shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub transaction: String,
    /// What may move money once only: an EVM authorization by account and nonce, a Solana message.
    pub authorization: String,
    pub value: U256,
}

/// A node of a chain of its own.
pub trait Chain {
    type Payer;
    type Payment;

    /// The call that hands the node a transaction.
    const SEND: &'static str;

    fn port(&self) -> u16;

    /// The network's tables in the configuration, with the node behind this port.
    fn network(&self, rpc_port: u16, plan: &Plan) -> String;

    /// What the gateway's process finds in its environment: the keys that `network` names.
    fn environment(&self, plan: &Plan) -> Vec<(&'static str, String)>;

    /// A new payer with this much.
    async fn fund_payer(&self, value: u64) -> Self::Payer;

    /// An honest payment.
    async fn pay(&self, payer: &Self::Payer, terms: &Terms) -> Self::Payment;

    /// A payment as a v2 header.
    fn header(payment: &Self::Payment) -> Header;

    /// Everything that was ever paid to the shop, oldest first.
    async fn moved(&self) -> Vec<Moved>;

    /// The id of the transaction in a call of `SEND`, or nothing if it moves nothing.
    fn sent(params: &Value) -> Option<String>;

    /// What of a payment's payload must be in no log.
    fn payment_secret(payload: &Value) -> String;
}
