//! What clients may take up, and who needs no payment: decided before any money is looked at (contract §3, threats F4 to F8).
//!
//! A request that presents a payment loses nothing by being turned away here: nothing was claimed, and the same payment is
//! as good later.

mod callers;
mod quota;
mod rate;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use self::callers::Callers;
pub(super) use self::quota::Left;
use self::quota::Quota;
use self::rate::{InAll, PerAddress};
use super::context::Outcome;
use crate::config::{FreeFor, LimitsConfig, Rates, RouteConfig};
use crate::payment::Queue;
use crate::types::{Rate, UnixMillis, neighbourhood};

/// How long a payment waits for its signature to be checked.
const VERIFICATION_QUEUE: Duration = Duration::from_secs(1);

/// One request too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    /// A bounded label.
    pub limit: &'static str,
    pub retry_after: Duration,
}

/// Rates for requests without and with a payment.
struct Buckets {
    unpaid: Option<PerAddress>,
    paid: Option<PerAddress>,
    total: Option<InAll>,
}

impl Buckets {
    fn new(rates: &Rates) -> Self {
        Self {
            unpaid: rates.unpaid.map(PerAddress::new),
            paid: rates.paid.map(PerAddress::new),
            total: rates.total.map(InAll::new),
        }
    }

    /// Whether anything is asked of a request like this.
    fn asks(&self, is_paid: bool) -> bool {
        let of_address = if is_paid { &self.paid } else { &self.unpaid };
        of_address.is_some() || self.total.is_some()
    }

    fn take(&self, client: IpAddr, is_paid: bool) -> Result<(), TooMany> {
        let (of_address, limit) = if is_paid { (&self.paid, "paid_rate") } else { (&self.unpaid, "unpaid_rate") };
        if let Some(rate) = of_address {
            rate.take(client).map_err(|retry_after| TooMany { limit, retry_after })?;
        }
        match &self.total {
            Some(rate) => rate.take().map_err(|retry_after| TooMany { limit: "total_rate", retry_after }),
            None => Ok(()),
        }
    }
}

/// What holds for all routes together; lives as long as the process.
pub(super) struct Limits {
    buckets: Buckets,
    payments_per_address: usize,
    /// Payments that are worked on, by address; never an entry of none.
    at_work: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Fewest bytes a second of a body.
    pub min_body_rate: u64,
    /// Whether an HTTP/1.1 connection ends when its client takes nothing of an answer.
    pub has_min_response_rate: bool,
    /// Room for verifications.
    pub verifications: Queue,
}

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            buckets: Buckets::new(&config.rates),
            payments_per_address: config.payments_per_address,
            min_body_rate: config.min_body_rate,
            has_min_response_rate: config.min_response_rate > 0,
            at_work: Arc::default(),
            verifications: Queue::new(config.verifications, VERIFICATION_QUEUE),
        }
    }

    /// Counts a request here and for its route. `client` is only asked for where there is a limit.
    ///
    /// # Errors
    /// The limit that it exceeds.
    pub fn take(
        &self,
        route: &RouteLimits,
        is_paid: bool,
        client: impl FnOnce() -> Option<IpAddr>,
    ) -> Result<(), TooMany> {
        if !self.buckets.asks(is_paid) && !route.buckets.asks(is_paid) {
            return Ok(());
        }
        // Every connection has an address; what has none is not let past a limit.
        let nobody = TooMany { limit: "no_address", retry_after: Duration::from_secs(1) };
        let client = client().ok_or(nobody)?;
        self.buckets.take(client, is_paid)?;
        route.buckets.take(client, is_paid)
    }

    /// Counts a request without a payment that is for no route.
    ///
    /// # Errors
    /// The limit that it exceeds.
    pub fn take_unrouted(&self, client: impl FnOnce() -> Option<IpAddr>) -> Result<(), TooMany> {
        if !self.buckets.asks(false) {
            return Ok(());
        }
        let nobody = TooMany { limit: "no_address", retry_after: Duration::from_secs(1) };
        self.buckets.take(client().ok_or(nobody)?, false)
    }

    /// The right to have one more payment of this address worked on; given back when dropped.
    ///
    /// # Errors
    /// When as many are.
    pub fn begin_payment(&self, client: IpAddr) -> Result<AtWork, TooMany> {
        let client = neighbourhood(client);
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let count = at_work.entry(client).or_default();
        if *count >= self.payments_per_address {
            return Err(TooMany { limit: "payments_per_address", retry_after: Duration::from_secs(1) });
        }
        *count = count.saturating_add(1);
        Ok(AtWork { client, counts: Arc::clone(&self.at_work) })
    }
}

/// A payment's share of its address.
pub(super) struct AtWork {
    client: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// What holds for one route. A reload that leaves its limits alone leaves what was counted alone.
pub(super) struct RouteLimits {
    key: String,
    rates: Rates,
    free_quota: Option<Rate>,
    buckets: Buckets,
    quota: Option<Quota>,
}

impl RouteLimits {
    pub fn new(route: &RouteConfig) -> Self {
        Self {
            key: route.key.clone(),
            rates: route.rates,
            free_quota: route.free_quota,
            buckets: Buckets::new(&route.rates),
            quota: route.free_quota.map(Quota::new),
        }
    }

    /// Whether they are what this route says.
    pub fn are_of(&self, route: &RouteConfig) -> bool {
        (&self.key, self.rates, self.free_quota) == (&route.key, route.rates, route.free_quota)
    }

    /// Whether addresses have free requests here.
    pub fn has_quota(&self) -> bool {
        self.quota.is_some()
    }

    /// A pass for a request without a payment, if its address has a free request left; nothing where there is no quota.
    pub fn free_request(&self, client: IpAddr, now: UnixMillis) -> Option<Result<Pass, Left>> {
        let quota = self.quota.as_ref()?;
        Some(quota.take(client, now).map(|left| Pass(Reason::Quota(left))))
    }

    /// A request that had a pass reached nobody.
    pub fn give_back(&self, client: IpAddr, taken: Left) {
        if let Some(quota) = &self.quota {
            quota.give_back(client, taken);
        }
    }
}

/// Leave to forward a request to a priced route without a payment. Only this module makes one, from what the operator
/// wrote.
#[derive(Debug)]
pub(super) struct Pass(Reason);

#[derive(Debug)]
enum Reason {
    Caller,
    Quota(Left),
}

impl Pass {
    pub fn outcome(&self) -> Outcome {
        match self.0 {
            Reason::Caller => Outcome::FreeFor,
            Reason::Quota(_) => Outcome::FreeQuota,
        }
    }

    /// What the caller's address has left, if that is what let it through.
    pub fn left(&self) -> Option<Left> {
        match self.0 {
            Reason::Caller => None,
            Reason::Quota(left) => Some(left),
        }
    }
}

/// Who needs no payment on a route: the server's callers and its own.
pub(super) struct Doors {
    server: Arc<Callers>,
    route: Callers,
}

/// The server's callers.
pub(super) struct ServerDoors(Arc<Callers>);

impl ServerDoors {
    pub fn new(config: &FreeFor) -> Self {
        Self(Arc::new(Callers::new(config)))
    }

    /// A route's doors.
    pub fn of_route(&self, config: &FreeFor) -> Doors {
        Doors { server: Arc::clone(&self.0), route: Callers::new(config) }
    }
}

impl Doors {
    /// The headers that show a key of ours, which are for no origin. Empty, and nothing allocated, as a rule.
    pub fn keys_in(&self, fields: &HeaderMap) -> Vec<HeaderName> {
        [self.server.key_in(fields), self.route.key_in(fields)].into_iter().flatten().cloned().collect()
    }

    /// A pass for a caller that shows a key (as [`Self::keys_in`] found) or asks from an address that has one. `client` is
    /// the client's own address, never that of a proxy whose client isn't known.
    pub fn pass(&self, has_key: bool, client: impl FnOnce() -> Option<IpAddr>) -> Option<Pass> {
        if has_key {
            return Some(Pass(Reason::Caller));
        }
        if !self.server.have_addresses() && !self.route.have_addresses() {
            return None;
        }
        let client = client()?;
        (self.server.hold(client) || self.route.hold(client)).then_some(Pass(Reason::Caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteAction;
    use crate::proxy::testing::{config, route, upstream};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn unpaid_and_paid_requests_are_counted_apart_and_routes_on_their_own() {
        let limits = Limits::new(&config(upstream(&["127.0.0.1:1"]), Vec::new()).server.limits);
        let mut limited = route("/a", RouteAction::Free);
        let none = RouteLimits::new(&limited);
        limited.rates.unpaid = Some("2/day".parse().unwrap());
        let one = RouteLimits::new(&limited);
        let other = RouteLimits::new(&limited);
        let take = |route, is_paid| limits.take(route, is_paid, || Some(CLIENT)).map_err(|too_many| too_many.limit);
        assert_eq!([take(&one, false), take(&one, false), take(&one, false)], [Ok(()), Ok(()), Err("unpaid_rate")]);
        assert_eq!((take(&one, true), take(&other, false)), (Ok(()), Ok(())));
        assert!(limits.take(&none, false, || panic!("nobody is asked for where there is no limit")).is_ok());
        assert_eq!(limits.take(&other, false, || None).map_err(|too_many| too_many.limit), Err("no_address"));
    }

    #[test]
    fn an_address_has_so_many_payments_worked_on_and_nothing_is_kept_of_who_has_none() {
        let mut config = config(upstream(&["127.0.0.1:1"]), Vec::new()).server.limits;
        config.payments_per_address = 2;
        let limits = Limits::new(&config);
        let (one, _other) = (limits.begin_payment(CLIENT).ok(), limits.begin_payment(CLIENT).ok());
        assert!(limits.begin_payment(CLIENT).is_err());
        drop(one);
        assert!(limits.begin_payment(CLIENT).is_ok());
        drop(_other);
        assert!(limits.at_work.lock().unwrap().is_empty());
    }

    #[test]
    fn a_reload_keeps_what_was_counted_under_the_same_limits() {
        let mut shown = route("/a", RouteAction::Free);
        shown.free_quota = Some("2/day".parse().unwrap());
        let limits = RouteLimits::new(&shown);
        assert!(limits.are_of(&shown));
        let mut changed = shown.clone();
        changed.rates.total = Some("1/s".parse().unwrap());
        assert!(!limits.are_of(&changed));
        changed = shown.clone();
        changed.free_quota = None;
        assert!(!limits.are_of(&changed));
    }
}
