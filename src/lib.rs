//! Tollhouse: a reverse proxy that charges.
//!
//! The story of a request: `proxy` matches it to a route (`route`); a free one is forwarded, a priced one without a payment
//! gets the terms (`protocol`). A payment goes through the gate (`payment`), which has the chain (`chain`) verify it, claims
//! it in the ledger (`ledger`) together with the signed settlement, and only then lets the chain see it. The request is
//! forwarded with the receipt, and the ledger remembers that it was served. `app` wires the parts, `server` puts them on
//! listeners, `cli` is what an operator types.
//!
//! Who may import what, down to the dependencies, is a table in `layout_tests`; `docs/architecture.md` tells the whole.

#[cfg(all(feature = "tls-rustls", feature = "openssl"))]
compile_error!("one build has one TLS backend: take `openssl` with `--no-default-features`, and without `tls-rustls`");
#[cfg(not(any(feature = "tls-rustls", feature = "openssl")))]
compile_error!(
    "without a TLS backend there is no gateway: with `--no-default-features` name `tls-rustls` or `openssl`"
);

pub mod admin;
pub mod app;
pub mod chain;
pub mod cli;
pub mod config;
pub mod crash;
#[cfg(feature = "dev")]
pub mod devnet;
pub mod facilitator;
pub mod ledger;
pub mod payment;
pub mod protocol;
pub mod proxy;
pub mod route;
pub mod server;
mod service;
pub mod telemetry;
pub mod types;

#[cfg(test)]
mod layout_tests;
