//! What a reload replaces as a whole: routes, their prices and origins. A request keeps the one it began with to its end.

use std::array;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use url::Url;

use super::BuildError;
use super::context::Outcome;
use super::directory::Directory;
use super::limits::{Doors, RouteLimits, ServerDoors};
use super::upstream::{self, Upstream};
use crate::config::Config;
use crate::payment::PricedRoute;
use crate::route::{Route, RouteTable};
use crate::telemetry::Counter;
use crate::types::UnixMillis;

/// Routes, prices and origins of one reading of the configuration.
pub struct Snapshot {
    pub(super) routes: RouteTable,
    /// What `/.well-known/x402` says, if it is served.
    pub(super) directory: Option<Directory>,
    sites: Vec<Site>,
    upstreams: Vec<Arc<Upstream>>,
    /// The origin of resource URLs, without a trailing slash.
    pub(super) public_url: Option<String>,
    /// What stands in for the host of a request that names none.
    listen: String,
    pub(super) offer_ttl: Duration,
}

/// What there is to a route besides its configuration.
pub(super) struct Site {
    pub upstream: Option<Arc<Upstream>>,
    pub priced: Option<Arc<PricedRoute>>,
    pub limits: Arc<RouteLimits>,
    /// Who needs no payment.
    pub doors: Doors,
    /// The request metric's counters, by [`Outcome`].
    pub counters: [OnceLock<Counter>; Outcome::COUNT],
}

/// The snapshot in force; readers never wait for each other, nor for who replaces it.
#[derive(Default)]
pub struct Current(ArcSwapOption<Snapshot>);

impl Current {
    /// From now on requests begin with this one.
    pub fn set(&self, snapshot: Snapshot) {
        self.0.store(Some(Arc::new(snapshot)));
    }

    /// The one in force; nothing before the proxy is built.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Snapshot>> {
        self.0.load_full()
    }
}

impl Snapshot {
    /// Puts the parts together at `now`. Origins that are as they were in `before` keep what is known of them. Must run inside
    /// the runtime that serves.
    ///
    /// # Errors
    /// When a route lacks what its action needs: it must never be forwarded for want of a price.
    pub fn new(
        config: &Config,
        routes: RouteTable,
        priced: Vec<Option<Arc<PricedRoute>>>,
        before: Option<&Self>,
        now: UnixMillis,
    ) -> Result<Self, BuildError> {
        let known = before.map(|before| before.upstreams.as_slice()).unwrap_or_default();
        let upstreams =
            upstream::all(&config.upstreams, known).map_err(|(name, why)| BuildError::Upstream(name, why))?;
        let doors = ServerDoors::new(&config.server.free_for);
        let counted = before.map(|before| before.sites.as_slice()).unwrap_or_default();
        let mut sites = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            use crate::config::RouteAction::{Deny, Free, Paid};
            let is_named =
                |upstream: &&Arc<Upstream>| Some(upstream.config().name.as_str()) == route.upstream.as_deref();
            let upstream = upstreams.iter().find(is_named).map(Arc::clone);
            let priced = priced.get(index).and_then(Option::as_ref).map(Arc::clone);
            let known = counted.iter().find(|site| site.limits.are_of(route)).map(|site| Arc::clone(&site.limits));
            let limits = known.unwrap_or_else(|| Arc::new(RouteLimits::new(route)));
            let doors = doors.of_route(&route.free_for);
            match &route.action {
                Paid(_) if priced.is_none() => return Err(BuildError::NotPriced(route.key.clone())),
                Paid(_) | Free if upstream.is_none() => return Err(BuildError::NoUpstream(route.key.clone())),
                Paid(_) | Free | Deny => {
                    let counters = array::from_fn(|_| OnceLock::new());
                    sites.push(Site { upstream, priced, limits, doors, counters });
                }
            }
        }
        let directory = Directory::new(config, &routes, &priced, now);
        Ok(Self {
            routes,
            directory,
            sites,
            upstreams,
            public_url: config.server.public_url.as_ref().map(origin_of),
            listen: config.server.listen.to_string(),
            offer_ttl: config.server.offer_ttl,
        })
    }

    pub(super) fn site(&self, route: &Route) -> Option<&Site> {
        self.sites.get(route.index())
    }

    /// The URL of a resource as payers are told it (threat G6): the host was checked, the path is canonical.
    pub(super) fn resource_url(&self, scheme: &str, host: Option<&str>, path: &str) -> String {
        match &self.public_url {
            Some(origin) => format!("{origin}{path}"),
            None => format!("{scheme}://{}{path}", host.unwrap_or(&self.listen)),
        }
    }

    /// `http` or `https`, if the public URL says how clients know the gateway: whoever ends TLS before it is named there.
    pub(super) fn public_scheme(&self) -> Option<&'static str> {
        let origin = self.public_url.as_ref()?;
        Some(if origin.starts_with("https:") { "https" } else { "http" })
    }
}

fn origin_of(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
