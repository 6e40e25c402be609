//! `/.well-known/x402`: the price list, for who looks for something to buy. Served where no route of the operator's own takes
//! the path, and only if the configuration says so: it tells everybody what is for sale.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;

use super::respond::Answer;
use super::snapshot::Snapshot;
use crate::config::{Config, RouteAction, RouteConfig};
use crate::payment::PricedRoute;
use crate::protocol::{DiscoveryDocument, LISTED_MAX, Listed};
use crate::route::{CanonicalTarget, RouteMatch, RouteTable, canonicalize, normalize_host};
use crate::types::UnixMillis;

/// Where it is.
pub(super) const PATH: &str = "/.well-known/x402";

/// The documents of one configuration: a host's own routes are listed to who asks that host.
pub(super) struct Directory {
    any_host: DiscoveryDocument,
    by_host: HashMap<String, DiscoveryDocument>,
}

impl Directory {
    /// Renders every document, if the configuration wants any.
    pub fn new(
        config: &Config,
        routes: &RouteTable,
        priced: &[Option<Arc<PricedRoute>>],
        now: UnixMillis,
    ) -> Option<Self> {
        if !config.server.discovery {
            return None;
        }
        if let Ok(target) = canonicalize(PATH.as_bytes())
            && let RouteMatch::Route(route) = routes.find(None, &target, &Method::GET)
        {
            tracing::warn!(route = route.name(), "This route takes {PATH}, so discovery is not served there.");
        }
        let for_sale: Vec<(&RouteConfig, Listed)> =
            config.routes.iter().zip(priced).filter_map(|(route, priced)| listed(route, priced.as_deref()?)).collect();
        let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs().min(SECS_MAX));
        let updated = humantime::format_rfc3339_seconds(moment).to_string();
        let document = |host: Option<&str>| {
            let own: BTreeSet<&str> = config
                .routes
                .iter()
                .filter(|route| host.is_some() && route.host.as_deref() == host)
                .map(|route| route.path.as_str())
                .collect();
            let is_met = |route: &RouteConfig| match &route.host {
                Some(own) => Some(own.as_str()) == host,
                // On its own paths a host's own routes are all there is.
                None => !own.contains(route.path.as_str()),
            };
            let met = for_sale.iter().filter(|(route, _)| is_met(route));
            let listed: Vec<Listed> = met.map(|(_, listed)| listed.clone()).collect();
            if listed.len() > LISTED_MAX {
                tracing::warn!(routes = listed.len(), "{PATH} lists the first {LISTED_MAX} priced routes only.");
            }
            DiscoveryDocument::new(&listed, &updated)
        };
        let hosts: BTreeSet<&str> = config.routes.iter().filter_map(|route| route.host.as_deref()).collect();
        let by_host = hosts.into_iter().map(|host| (normalize_host(host).into_owned(), document(Some(host)))).collect();
        Some(Self { any_host: document(None), by_host })
    }

    fn of_host(&self, host: Option<&str>) -> &DiscoveryDocument {
        let own = host.and_then(|host| self.by_host.get(normalize_host(host).as_ref()));
        own.unwrap_or(&self.any_host)
    }
}

/// The year 9999, beyond which the formatter panics.
const SECS_MAX: u64 = 253_402_300_799;

fn listed<'a>(route: &'a RouteConfig, priced: &PricedRoute) -> Option<(&'a RouteConfig, Listed)> {
    let RouteAction::Paid(paid) = &route.action else { return None };
    let listed = Listed {
        methods: route.methods.iter().map(ToString::to_string).collect(),
        path: route.path.clone(),
        terms: priced.offers().iter().map(|priced| priced.offer.terms.clone()).collect(),
        resource: priced.resource().clone(),
    };
    paid.discoverable.then_some((route, listed))
}

/// Whether a request that no route takes asks for the list.
pub(super) fn is_asked(snapshot: &Snapshot, target: &CanonicalTarget<'_>) -> bool {
    snapshot.directory.is_some() && target.path().as_str() == PATH
}

/// The answer for it.
pub(super) fn answer(snapshot: &Snapshot, method: &Method, scheme: &str, host: Option<&str>) -> Answer {
    let Some(directory) = &snapshot.directory else { return Answer::not_found() };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Answer::method_not_allowed(&[Method::GET, Method::HEAD]);
    }
    let base = snapshot.resource_url(scheme, host, "");
    Answer::directory(directory.of_host(host).render(&base))
}
