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
mod fingerprint;
mod forward;
mod headers;
mod intake;
mod page;
mod phases;
mod respond;
#[cfg(test)]
mod socket_tests;
#[cfg(test)]
pub(crate) mod testing;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use pingora::proxy::Session;
use url::Url;

use crate::config::Config;
use crate::payment::{Gate, PricedRoute};
use crate::route::{Route, RouteTable};
use crate::telemetry::Metrics;
use crate::types::Clock;

use client::Trusted;
pub use context::Context;
use upstream::Upstream;
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

/// What there is to a route besides its configuration.
struct Site {
    upstream: Option<Arc<Upstream>>,
    priced: Option<Arc<PricedRoute>>,
}

/// The proxy.
pub struct Proxy {
    routes: RouteTable,
    sites: Vec<Site>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// The origin of resource URLs, without a trailing slash.
    public_url: Option<String>,
    /// The proxies in front of this one.
    trusted: Trusted,
    /// What stands in for the host of a request that names none.
    listen: String,
    offer_ttl: Duration,
}

impl Proxy {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When a route lacks what its action needs: it must never be forwarded for want of a price.
    pub fn new(parts: Parts) -> Result<Self, BuildError> {
        let config = &parts.config;
        let upstreams = upstream::by_name(&config.upstreams).map_err(|(name, why)| BuildError::Upstream(name, why))?;
        upstreams.values().for_each(Upstream::look_after);
        let mut sites = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            use crate::config::RouteAction::{Deny, Free, Paid};
            let upstream = route.upstream.as_deref().and_then(|name| upstreams.get(name)).map(Arc::clone);
            let priced = parts.priced.get(index).and_then(Option::as_ref).map(Arc::clone);
            match &route.action {
                Paid(_) if priced.is_none() => return Err(BuildError::NotPriced(route.key.clone())),
                Paid(_) | Free if upstream.is_none() => return Err(BuildError::NoUpstream(route.key.clone())),
                Paid(_) | Free | Deny => sites.push(Site { upstream, priced }),
            }
        }
        Ok(Self {
            sites,
            public_url: config.server.public_url.as_ref().map(origin_of),
            trusted: Trusted(config.server.trusted_proxies.clone()),
            listen: config.server.listen.to_string(),
            offer_ttl: config.server.offer_ttl,
            routes: parts.routes,
            gate: parts.gate,
            clock: parts.clock,
            metrics: parts.metrics,
        })
    }

    fn site(&self, route: &Route) -> Option<&Site> {
        self.sites.get(route.index())
    }

    /// The URL of a resource as payers are told it (threat G6): the host was checked, the path is canonical.
    fn resource_url(&self, scheme: &str, host: Option<&str>, path: &str) -> String {
        match &self.public_url {
            Some(origin) => format!("{origin}{path}"),
            None => format!("{scheme}://{}{path}", host.unwrap_or(&self.listen)),
        }
    }

    /// `http` or `https`: as clients know the gateway. Whoever ends TLS before it is named in its public URL.
    fn scheme(&self, session: &Session) -> &'static str {
        match &self.public_url {
            Some(origin) if origin.starts_with("https:") => "https",
            Some(_) => "http",
            None => self.trusted.scheme(session),
        }
    }
}

fn origin_of(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
