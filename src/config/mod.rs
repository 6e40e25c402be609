//! The configuration: as typed (`raw`), as validated (`model`), and the errors between the two.
//!
//! Knows no chain library and no proxy: it checks all that can be known from the file alone, and reports every mistake at
//! once with file, line and column.

mod changes;
mod diagnostic;
mod finality;
mod forward_path;
mod free_for;
mod leaf;
mod model;
mod parse;
mod raw;
mod reader;
mod resolve;
mod resolve_asset;
mod resolve_chain;
mod resolve_forward_auth;
mod resolve_identity;
mod resolve_input;
mod resolve_network;
mod resolve_price;
mod resolve_route;
mod resolve_server;
mod resolve_telemetry;
mod resolve_upstream;
mod route_key;
mod schema;
mod secret;
mod secret_source;
mod section;

pub use changes::{changed_networks, restart_only};
pub use diagnostic::{Diagnostic, Diagnostics, Location};
pub use model::{
    AccessLogTarget, AdminConfig, Balance, BodyKind, ChainConfig, Config, CosmosConfig, EvmConfig, FacilitatorConfig,
    FeeRules, ForwardAuthConfig, ForwardPath, FreeFor, FrontDialect, HealthCheck, LedgerConfig, LedgerUrl,
    LimitsConfig, LogConfig, LogFormat, NetworkConfig, PaidRoute, Payers, Rates, Redeliver, RouteAction, RouteConfig,
    RouteInput, RouteOffer, ServerConfig, SettleMode, SignerSource, SolanaConfig, TelemetryConfig, TlsCertificate,
    UpstreamConfig,
};
pub use parse::{Parsed, load, parse, read};
pub use schema::json_schema;
pub use secret::Secret;

pub use crate::types::WaitFor;

#[cfg(test)]
mod document_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
