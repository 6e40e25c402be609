//! From headers to a proven payment: decode, match the offer, check, prove. Nothing here writes.

use std::sync::Arc;

use crate::ledger::{Digest, PaymentFilter, PaymentState};
use crate::protocol::{
    DecodeError, Identifier, PaymentPayload, PaymentRequirements, QuoteVerdict, Reason, Version, decode_payment,
    quote_digest, terms_digest,
};
use crate::types::{AccountId, IdentifierRule, WaitFor};

use super::decision::Decision;
use super::gate::Gate;
use super::priced::{Market, PricedRoute};
use super::request::PaymentHeaders;
use super::scheme::{IncomingPayment, PaymentFacts, VerifyError};

/// Unfinished payments that are looked through for the terms of one.
const OPEN_ROWS_MAX: u32 = 256;

/// A payment that is proven to be its payer's, or that the ledger knows to the letter.
pub struct VerifiedPayment {
    pub(super) version: Version,
    pub(super) incoming: Box<dyn IncomingPayment>,
    pub(super) terms: PaymentRequirements,
    pub(super) market: Arc<Market>,
    pub(super) wait_for: WaitFor,
    /// The genuine quote it came with.
    pub(super) quote: Option<Digest>,
    /// The quote it came with, genuine today or not: what a payment was made under stays its holder's proof when the route's
    /// name or the key changes, since the ledger took only a genuine one.
    pub(super) shown_quote: Option<Digest>,
    /// The payer's own name for the purchase, where the route takes one.
    pub(super) identifier: Option<String>,
    /// Why it could not be taken today, if only the ledger vouches for it.
    pub(super) stale: Option<Reason>,
}

impl VerifiedPayment {
    /// Who pays.
    #[must_use]
    pub fn payer(&self) -> &AccountId {
        &self.facts().payer
    }

    pub(super) fn facts(&self) -> &PaymentFacts {
        self.incoming.facts()
    }
}

/// Terms that the payment may have been made under.
pub(super) struct Candidate {
    pub terms: PaymentRequirements,
    pub market: Arc<Market>,
    pub wait_for: WaitFor,
    pub quote: Option<Digest>,
    /// Why these terms don't hold today.
    pub stale: Option<Reason>,
}

impl Gate {
    /// Everything that needs neither a ledger write nor, but for contract payers, the chain: decodes the headers, finds the offer,
    /// checks and proves the payment.
    ///
    /// # Errors
    /// The decision, when it is already made: refused, contradictory or unavailable.
    pub async fn verify(&self, route: &PricedRoute, headers: &PaymentHeaders<'_>) -> Result<VerifiedPayment, Decision> {
        let payload = single_payload(headers)?;
        let identifier = identifier(route.identifier_rule(), &payload.identifier)?;
        let mut candidates = self.candidates(route, &payload);
        if candidates.is_empty() {
            candidates = self.open_terms(&payload).await?;
        }
        let mut verified = self.verify_under(&payload, candidates).await?;
        verified.identifier = identifier;
        Ok(verified)
    }

    /// The first of these terms under which the payment is good, or under which the ledger knows it.
    pub(super) async fn verify_under(
        &self,
        payload: &PaymentPayload,
        candidates: Vec<Candidate>,
    ) -> Result<VerifiedPayment, Decision> {
        if !self.ledger().is_open() {
            return Err(Decision::Unavailable);
        }
        let mut refusal = Reason::NoMatchingRequirements;
        let mut stale = Vec::new();
        for candidate in candidates {
            let incoming = candidate.market.scheme.decode(&payload.payload, &candidate.terms).map_err(refused)?;
            let objection = match candidate.stale {
                Some(reason) => Some(reason),
                None => incoming.check(&candidate.terms, self.now()).err(),
            };
            let verified = VerifiedPayment {
                version: payload.version,
                incoming,
                terms: candidate.terms,
                market: candidate.market,
                wait_for: candidate.wait_for,
                quote: candidate.quote,
                shown_quote: payload.quote.as_deref().map(quote_digest),
                identifier: None,
                stale: objection,
            };
            match objection {
                None => return self.prove(verified).await,
                Some(reason) => {
                    if stale.is_empty() {
                        refusal = reason;
                    }
                    stale.push(verified);
                }
            }
        }
        for verified in stale {
            if self.is_known(&verified).await? {
                return Ok(verified);
            }
        }
        Err(refused(refusal))
    }

    async fn prove(&self, mut verified: VerifiedPayment) -> Result<VerifiedPayment, Decision> {
        match verified.market.in_time(verified.incoming.prove(&verified.terms)).await {
            Ok(()) => Ok(verified),
            Err(VerifyError::Invalid { reason }) => Err(refused(reason)),
            Err(VerifyError::Unavailable { detail }) => {
                tracing::warn!(network = %verified.terms.network, %detail, "Could not prove a payment.");
                verified.stale = Some(Reason::SettlementPending);
                if self.is_known(&verified).await? { Ok(verified) } else { Err(Decision::Unavailable) }
            }
        }
    }

    /// Whether the ledger holds this very payment: same key, same signed fields. Then it was proven before, and it is its holder
    /// that has to be proven (contract §3), which the gate does.
    async fn is_known(&self, verified: &VerifiedPayment) -> Result<bool, Decision> {
        let facts = verified.facts();
        match self.ledger().find(&facts.id).await {
            Ok(record) => Ok(record.is_some_and(|record| record.claim.payload_digest == facts.digest)),
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                Err(Decision::Unavailable)
            }
        }
    }

    /// The terms of payments that are not finished on a network which a route doesn't offer any more. A v1 payment names no
    /// terms of its own, and its payer must not be asked for a second one: it is read under those it was claimed with. None of
    /// them can be paid anew.
    async fn open_terms(&self, payload: &PaymentPayload) -> Result<Vec<Candidate>, Decision> {
        use PaymentState::{Claimed, Delivering, Forwarded, Owed, Paid, Signed};
        let Some(market) = self.market(&payload.network) else { return Ok(Vec::new()) };
        let states = vec![Claimed, Forwarded, Signed, Paid, Delivering, Owed];
        let network = Some(payload.network.clone());
        let filter = PaymentFilter { states, network, limit: Some(OPEN_ROWS_MAX), ..PaymentFilter::default() };
        let rows = self.ledger().list(&filter).await.map_err(|error| {
            tracing::error!(%error, "The ledger did not answer.");
            Decision::Unavailable
        })?;
        let mut known: Vec<PaymentRequirements> = Vec::new();
        for row in rows {
            match serde_json::from_str::<PaymentRequirements>(&row.claim.terms) {
                Ok(terms) if terms.scheme == payload.scheme && !known.contains(&terms) => known.push(terms),
                Ok(_) | Err(_) => {}
            }
        }
        let candidate = |terms| Candidate {
            terms,
            market: Arc::clone(&market),
            wait_for: market.wait_for,
            quote: None,
            stale: Some(Reason::NoMatchingRequirements),
        };
        Ok(known.into_iter().map(candidate).collect())
    }

    fn candidates(&self, route: &PricedRoute, payload: &PaymentPayload) -> Vec<Candidate> {
        let of_today = |priced: &super::priced::PricedOffer| Candidate {
            terms: priced.offer.terms.clone(),
            market: Arc::clone(&priced.market),
            wait_for: priced.wait_for,
            quote: None,
            stale: None,
        };
        let Some(accepted) = &payload.accepted else {
            // v1 names no asset: every offer on its network is tried (protocol §2.1).
            let is_candidate = |priced: &&super::priced::PricedOffer| {
                priced.offer.terms.scheme == payload.scheme && priced.offer.terms.network == payload.network
            };
            return route.offers().iter().filter(is_candidate).map(of_today).collect();
        };
        if let Some(priced) = route.offers().iter().find(|priced| accepted.matches(&priced.offer.terms)) {
            let quote = payload
                .quote
                .as_ref()
                .filter(|quote| self.quote_key().open(quote, &priced.offer.digest, self.now()) != QuoteVerdict::Forged);
            return vec![Candidate { quote: quote.map(|quote| quote_digest(quote)), ..of_today(priced) }];
        }
        self.earlier_offer(route, payload).into_iter().collect()
    }

    /// An offer that is not made any more: its quote proves that it was, and tells whether it still holds.
    fn earlier_offer(&self, route: &PricedRoute, payload: &PaymentPayload) -> Option<Candidate> {
        let accepted = payload.accepted.as_ref()?;
        let market = self.market(&accepted.network)?;
        let terms = accepted.to_requirements()?;
        let digest = terms_digest(route.name(), &terms);
        let verdict = payload
            .quote
            .as_ref()
            .map_or(QuoteVerdict::Forged, |quote| self.quote_key().open(quote, &digest, self.now()));
        let stale = match verdict {
            QuoteVerdict::Valid => None,
            QuoteVerdict::Expired => Some(Reason::OfferExpired),
            QuoteVerdict::Forged => Some(Reason::NoMatchingRequirements),
        };
        let quote = match verdict {
            QuoteVerdict::Forged => None,
            _ => payload.quote.as_deref().map(quote_digest),
        };
        let wait_for = route
            .offers()
            .iter()
            .find(|priced| priced.offer.terms.network == terms.network)
            .map_or(market.wait_for, |priced| priced.wait_for);
        Some(Candidate { terms, market, wait_for, quote, stale })
    }
}

/// The one payment that the headers present (contract §3: two that say the same are one, two that don't are 400).
fn single_payload(headers: &PaymentHeaders<'_>) -> Result<PaymentPayload, Decision> {
    let all =
        headers.v2.iter().map(|value| (value, Version::V2)).chain(headers.v1.iter().map(|value| (value, Version::V1)));
    let decoded: Vec<Result<PaymentPayload, DecodeError>> =
        all.map(|(value, inferred)| decode_payment(value, inferred)).collect();
    let is_single = decoded.len() == 1;
    let mut first: Option<PaymentPayload> = None;
    for result in decoded {
        let payload = match result {
            Ok(payload) => payload,
            Err(error) if is_single => return Err(refused(error.reason())),
            Err(_error) => return Err(Decision::Contradiction(Reason::ContradictoryPayments)),
        };
        match &first {
            None => first = Some(payload),
            Some(first) if first.network == payload.network && first.payload == payload.payload => {}
            Some(_) => return Err(Decision::Contradiction(Reason::ContradictoryPayments)),
        }
    }
    let payload = first.ok_or_else(|| refused(Reason::PaymentRequired))?;
    if payload.scheme != crate::protocol::EXACT {
        return Err(refused(Reason::UnsupportedScheme));
    }
    Ok(payload)
}

fn identifier(rule: IdentifierRule, given: &Identifier) -> Result<Option<String>, Decision> {
    match (rule, given) {
        (IdentifierRule::Off, _) | (IdentifierRule::Optional, Identifier::Absent) => Ok(None),
        (IdentifierRule::Required, Identifier::Absent) => Err(Decision::Contradiction(Reason::IdentifierRequired)),
        (_, Identifier::Malformed) => Err(Decision::Contradiction(Reason::IdentifierMalformed)),
        (_, Identifier::Given(identifier)) => Ok(Some(identifier.clone())),
    }
}

pub(super) fn refused(reason: Reason) -> Decision {
    Decision::Refused { reason, outcome: None }
}
