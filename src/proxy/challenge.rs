//! The 402 of a request: terms for programs, a page for people. No chain and no ledger is asked for it (threat F4).

use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use serde_json::{Map, Value};

use super::respond::Answer;
use super::snapshot::Snapshot;
use super::{Proxy, page};
use crate::config::{RouteAction, RouteOffer};
use crate::payment::PricedRoute;
use crate::protocol::{QuoteNonce, Reason};
use crate::route::Route;

/// For whom terms are rendered.
pub(super) struct Asked<'a> {
    /// What is in force for the request.
    pub snapshot: &'a Snapshot,
    pub route: &'a Route,
    pub priced: &'a PricedRoute,
    /// As the client knows the gateway.
    pub scheme: &'static str,
    pub host: Option<&'a str>,
    /// Canonical.
    pub path: &'a str,
    /// As it came.
    pub query: Option<&'a str>,
    /// The request.
    pub head: &'a RequestHeader,
}

impl Proxy {
    /// The terms, since no payment came.
    pub(super) fn ask_payment(&self, asked: &Asked<'_>) -> Answer {
        let is_browser = page::is_browser(&asked.head.headers);
        let mut answer = self.terms(asked, Reason::PaymentRequired.as_str(), is_browser);
        if !is_browser {
            answer.headers.push((header::VARY, HeaderValue::from_static("Accept, User-Agent")));
        }
        answer
    }

    /// The terms for a reason, or 503 when no network is open for business.
    pub(super) fn terms(&self, asked: &Asked<'_>, reason: &str, is_for_people: bool) -> Answer {
        let Ok(nonce) = QuoteNonce::random() else {
            tracing::error!("The operating system gives no randomness; no offers can be made.");
            return Answer::unavailable();
        };
        let url = asked.snapshot.resource_url(asked.scheme, asked.host, asked.path);
        let expires = self.clock.now().plus(asked.snapshot.offer_ttl);
        let Some(challenge) = asked.priced.challenge(reason, &url, self.gate.quote_key(), nonce, expires) else {
            return Answer::unavailable();
        };
        let page = match &asked.route.config().action {
            RouteAction::Paid(paid) if is_for_people => {
                // Who pays from the page pays for what the page stands for, query and all.
                let whole = asked.query.map_or_else(|| url.clone(), |query| format!("{url}?{query}"));
                Some(page::render(&page::Page {
                    name: asked.route.name(),
                    route: paid,
                    method: &asked.head.method,
                    url: &whole,
                    terms: &challenge.header,
                    facts: &|offer| wallet_facts(asked.priced, offer),
                }))
            }
            _ => None,
        };
        Answer::challenge(challenge, page)
    }
}

/// What a wallet must know of an offer's chain, from what the chain was last seen at.
fn wallet_facts(priced: &PricedRoute, offer: &RouteOffer) -> Map<String, Value> {
    let mut offers = priced.offers().iter();
    let found = offers.find(|it| it.offer.terms.network == offer.network && it.offer.terms.asset == offer.asset.id);
    found.map(|it| it.market.scheme.wallet_facts(&offer.asset.id)).unwrap_or_default()
}
