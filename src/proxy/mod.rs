//! HTTP: takes requests in, has paid ones pass the gate, gives them to origins, and says everything that clients are told.
//!
//! Thin over pingora: the phases only call the modules beside them. Money moves in `request_filter` and nowhere else, since
//! that phase runs once, where the later ones may be repeated. Knows no chain and no storage.

mod admission;
mod body;
mod challenge;
mod client;
pub mod connection;
mod context;
mod cors;
mod directory;
mod entry;
mod fingerprint;
mod forward;
mod forward_auth;
mod headers;
mod intake;
mod limits;
mod observe;
mod page;
mod phases;
mod respond;
mod snapshot;
#[cfg(test)]
mod socket_tests;
#[cfg(test)]
pub(crate) mod testing;
mod upstream;

use std::sync::Arc;

use crate::config::Config;
use crate::payment::{Gate, PricedRoute};
use crate::route::RouteTable;
use crate::telemetry::{Metrics, Observers};
use crate::types::Clock;

use client::Trusted;
pub use context::Context;
pub use forward_auth::ForwardAuth;
use limits::Limits;
pub use page::page_for_people;
pub use snapshot::{Current, Snapshot};
pub use upstream::check_files;

/// All that the proxy is made of.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its routes.
    pub routes: RouteTable,
    /// The priced ones by their index in the configuration; nothing where a route isn't priced.
    pub priced: Vec<Option<Arc<PricedRoute>>>,
    /// Who decides on payments.
    pub gate: Arc<Gate>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Counts requests.
    pub metrics: Arc<Metrics>,
    /// Traces and the access log.
    pub observers: Observers,
    /// Where what may change while the gateway runs is kept.
    pub current: Arc<Current>,
}

/// Why a proxy can't be built from its parts: a mistake of ours, found before anything listens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A priced route came without its offers.
    #[error("route `{0}` is priced, but has no offers")]
    NotPriced(String),
    /// An upstream's files can't be used.
    #[error("upstream `{0}`: {1}")]
    Upstream(String, String),
    /// A route's upstream does not exist.
    #[error("route `{0}` has no upstream")]
    NoUpstream(String),
}

/// The proxy.
pub struct Proxy {
    current: Arc<Current>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    observers: Observers,
    /// The proxies in front of this one.
    trusted: Trusted,
    /// What clients may take up on all routes together.
    limits: Arc<Limits>,
}

impl Proxy {
    /// Puts the parts together. Must run inside the runtime that will serve.
    ///
    /// # Errors
    /// When a route lacks what its action needs: it must never be forwarded for want of a price.
    pub fn new(parts: Parts) -> Result<Self, BuildError> {
        let limits = Arc::new(Limits::new(&parts.config.server.limits));
        let trusted = Trusted(parts.config.server.trusted_proxies.clone());
        parts.current.set(Snapshot::new(&parts.config, parts.routes, parts.priced, None, parts.clock.now())?);
        let Parts { gate, clock, metrics, observers, current, .. } = parts;
        Ok(Self { current, gate, clock, metrics, observers, trusted, limits })
    }

    /// The same business, with the same limits, where others are believed about who the client is.
    fn trusting(&self, trusted: Trusted) -> Self {
        Self {
            current: Arc::clone(&self.current),
            gate: Arc::clone(&self.gate),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            observers: self.observers.clone(),
            trusted,
            limits: Arc::clone(&self.limits),
        }
    }
}
