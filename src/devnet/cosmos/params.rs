//! What a chain is like: its name, its money, and which release of the Cosmos SDK its nodes run.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cosmrs::AccountId;

/// The chain of `tollhouse dev`, an id of Noble's test network.
pub const COSMOS_CHAIN_ID: &str = "grand-1";

/// The denomination that it is paid in.
pub const COSMOS_DENOM: &str = "uusdc";

/// How the nodes answer: releases of the SDK differ on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Unknown hashes and refused simulations are `InvalidArgument`; no `SpendableBalanceByDenom`, no node configuration;
    /// results carry logs.
    Sdk043,
    /// Unknown hashes are `NotFound`, refused simulations `Unknown`; results carry events only, with `msg_index`.
    Sdk053,
}

/// How the attributes of events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventForm {
    /// As they are.
    Plain,
    /// In base64, as CometBFT before 0.37 showed them and as proxies of that time still hand them on.
    Base64,
    /// No events at all: SDK 0.43 has them in the logs alone.
    LogsOnly,
}

/// A chain that can be started.
#[derive(Debug, Clone)]
pub struct CosmosParams {
    /// Its id; every signature covers it.
    pub chain_id: String,
    /// The prefix of its addresses.
    pub prefix: String,
    /// What fees are paid in.
    pub fee_denom: String,
    /// The node's minimum gas price, in millionths of an atomic unit of `fee_denom` per unit of gas.
    pub gas_price_micros: u64,
    /// How its nodes answer.
    pub dialect: Dialect,
    /// How they write events.
    pub events: EventForm,
    /// How often a block is made; `None` makes one only when asked.
    pub block_time: Option<Duration>,
    /// Where its node listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The file that blocks are kept in.
    pub journal: Option<PathBuf>,
}

impl Default for CosmosParams {
    fn default() -> Self {
        Self {
            chain_id: COSMOS_CHAIN_ID.to_owned(),
            prefix: "noble".to_owned(),
            fee_denom: COSMOS_DENOM.to_owned(),
            gas_price_micros: 100_000,
            dialect: Dialect::Sdk053,
            events: EventForm::Plain,
            block_time: Some(Duration::from_secs(1)),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            journal: None,
        }
    }
}

impl CosmosParams {
    /// What gas may cost at least, rounded up.
    pub(super) fn fee_for(&self, gas_limit: u64) -> u128 {
        u128::from(gas_limit).saturating_mul(u128::from(self.gas_price_micros)).div_ceil(1_000_000)
    }

    /// The price as a node's configuration states it: a decimal with the denomination after it.
    pub(super) fn gas_price_text(&self) -> String {
        if self.gas_price_micros == 0 {
            return String::new();
        }
        let (whole, rest) = (self.gas_price_micros / 1_000_000, self.gas_price_micros % 1_000_000);
        format!("{whole}.{rest:06}000000000000{}", self.fee_denom)
    }

    /// Whether `text` is an address of this chain.
    pub(super) fn address(&self, text: &str) -> Option<AccountId> {
        text.parse::<AccountId>().ok().filter(|address| address.prefix() == self.prefix)
    }
}
