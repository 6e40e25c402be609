//! The real gateway in front of a real node: every promise of contract §3, and the faults it must survive.
//!
//! Each test has a shop of its own: a node, an origin that writes down what reaches it, a JSON-RPC proxy between gateway
//! and node that can be told to misbehave, and the gateway's binary. Each ends with an audit: chain, ledger and origin
//! must tell one story. Wants `npm ci --prefix tests/node-tools`, the Solana node of `tests/solana-node` built, and
//! `--features failpoints`; `tests/run.sh` sees to all of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects and stops there; clippy's own exemption ends at the bodies of tests"
)]

mod harness;

mod after;
mod battery;
mod books;
mod clocks;
mod cosmos;
mod crashes;
mod discovery;
mod disk;
mod docs;
mod doctor;
mod edge;
mod facilitator;
mod fees;
mod forged;
mod forward_auth;
mod gateways;
mod handshakes;
mod headers;
mod identifiers;
mod ledgers;
mod lifetime;
mod limits;
mod networks;
mod nodes;
mod origins;
mod payers;
mod paying;
mod races;
mod reload;
mod reorgs;
mod requests;
mod secrets;
mod solana;
mod telemetry;
mod tokens;
mod upgrades;
mod upstreams;
mod vitwit;
mod websockets;
