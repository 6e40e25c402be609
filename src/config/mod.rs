//! The configuration: as typed (`raw`), as validated (`model`), and the errors between the two.
//!
//! Knows no chain library and no proxy: it checks all that can be known from the file alone, and reports every mistake at
//! once with file, line and column.

mod diagnostic;
mod model;
mod secret;

pub use diagnostic::{Diagnostic, Diagnostics, Location};
pub use model::{
    AdminConfig, Config, LedgerConfig, LedgerUrl, LogConfig, LogFormat, NetworkConfig, PaidRoute, Payers, Redeliver,
    RouteAction, RouteConfig, RouteOffer, ServerConfig, SettleMode, SignerSource, UpstreamConfig,
};
pub use secret::Secret;

pub use crate::types::WaitFor;
