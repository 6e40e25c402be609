//! A priced route as the money path sees it: its offers, each with the chain that can settle it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::protocol::{Challenge, ChallengeError, ChallengeTemplate, Offer, QuoteKey, QuoteNonce, ResourceInfo};
use crate::types::{IdentifierRule, UnixMillis, WaitFor};

use super::queue::Queue;
use super::scheme::{Availability, Scheme, VerifyError};

/// A network as the money path sees it.
pub struct Market {
    /// The chain.
    pub scheme: Arc<dyn Scheme>,
    /// When a settlement counts as done, unless a route says otherwise.
    pub wait_for: WaitFor,
    /// Blocks that count as confirmed.
    pub confirmations: u64,
    /// Whether a transfer that somebody else submitted counts.
    pub pay_to_exclusive: bool,
    /// How long a request waits for its settlement.
    pub settle_timeout: Duration,
    /// Room for its settlements, from simulation to end.
    pub queue: Queue,
    /// Whether it is offered while it is being opened: the gateway that had the books before is still letting go of them, and
    /// its clients shall not notice.
    pub is_offered_early: AtomicBool,
}

impl Market {
    /// What a request asks of the chain before anything is signed, for no longer than a settlement may take: a node that
    /// accepts questions and answers none must not hold requests.
    pub(super) async fn in_time<T>(
        &self,
        question: impl Future<Output = Result<T, VerifyError>>,
    ) -> Result<T, VerifyError> {
        let silent = |_elapsed| Err(VerifyError::Unavailable { detail: "no answer in time".to_owned() });
        tokio::time::timeout(self.settle_timeout, question).await.unwrap_or_else(silent)
    }
}

/// An offer and where it is settled.
#[derive(Clone)]
pub struct PricedOffer {
    /// The terms and their digest.
    pub offer: Offer,
    /// The network.
    pub market: Arc<Market>,
    /// When the settlement counts as done.
    pub wait_for: WaitFor,
}

/// A priced route.
pub struct PricedRoute {
    name: String,
    offers: Vec<PricedOffer>,
    resource: ResourceInfo,
    /// Whether the terms are also shown in the vitwit dialect.
    with_vitwit: bool,
    /// Rendered terms by which networks are open, one bit an offer.
    templates: DashMap<u64, Arc<ChallengeTemplate>>,
}

impl PricedRoute {
    /// A route and its offers, at most 64; `with_vitwit` shows the terms also in the vitwit dialect.
    ///
    /// # Errors
    /// When the terms outgrow their header.
    pub fn new(
        name: String,
        offers: Vec<PricedOffer>,
        resource: ResourceInfo,
        with_vitwit: bool,
    ) -> Result<Self, ChallengeError> {
        let all: Vec<Offer> = offers.iter().map(|priced| priced.offer.clone()).collect();
        ChallengeTemplate::new(&all, &resource, with_vitwit)?;
        // Which offer is the first depends on which networks are open.
        for offer in all.iter().filter(|_offer| with_vitwit) {
            ChallengeTemplate::new(std::slice::from_ref(offer), &resource, with_vitwit)?;
        }
        Ok(Self { name, offers, resource, with_vitwit, templates: DashMap::new() })
    }

    /// The route's key in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether purchases may or must be named.
    #[must_use]
    pub fn identifier_rule(&self) -> IdentifierRule {
        self.resource.identifier
    }

    /// What is said of the resource.
    #[must_use]
    pub fn resource(&self) -> &ResourceInfo {
        &self.resource
    }

    /// The offers, in the order shown.
    #[must_use]
    pub fn offers(&self) -> &[PricedOffer] {
        &self.offers
    }

    /// The 402 of this moment, or nothing when no network is open for business.
    #[must_use]
    pub fn challenge(
        &self,
        reason: &str,
        url: &str,
        key: &QuoteKey,
        nonce: QuoteNonce,
        expires: UnixMillis,
    ) -> Option<Challenge> {
        let open = self.open_offers();
        if open == 0 {
            return None;
        }
        let template = match self.templates.get(&open) {
            Some(template) => Arc::clone(&template),
            None => self.template(open)?,
        };
        Some(template.render(reason, url, key, nonce, expires))
    }

    /// The 402 of a moment when every network is open, for whoever wants to see the whole of it.
    #[must_use]
    pub fn challenge_of_all(
        &self,
        reason: &str,
        url: &str,
        key: &QuoteKey,
        nonce: QuoteNonce,
        expires: UnixMillis,
    ) -> Option<Challenge> {
        let offers: Vec<Offer> = self.offers.iter().map(|priced| priced.offer.clone()).collect();
        let template = ChallengeTemplate::new(&offers, &self.resource, self.with_vitwit).ok()?;
        Some(template.render(reason, url, key, nonce, expires))
    }

    fn open_offers(&self) -> u64 {
        self.offers.iter().take(64).enumerate().fold(0, |open, (index, priced)| {
            let (terms, scheme) = (&priced.offer.terms, &priced.market.scheme);
            let is_ready = match scheme.availability_of(&terms.asset) {
                Availability::Ready => true,
                Availability::Opening => priced.market.is_offered_early.load(Ordering::Relaxed),
                Availability::Unavailable(_) => false,
            };
            if is_ready && scheme.covers_fee(&terms.asset, terms.amount) { open | 1 << index } else { open }
        })
    }

    fn template(&self, open: u64) -> Option<Arc<ChallengeTemplate>> {
        let offers: Vec<Offer> = self
            .offers
            .iter()
            .take(64)
            .enumerate()
            .filter(|(index, _)| open & (1 << index) != 0)
            .map(|(_, priced)| priced.offer.clone())
            .collect();
        // A part of terms that fit also fits.
        let template = Arc::new(ChallengeTemplate::new(&offers, &self.resource, self.with_vitwit).ok()?);
        self.templates.insert(open, Arc::clone(&template));
        Some(template)
    }
}
