//! What the ledger is told of a payment and the request that presents it. Knows no chain and decides nothing.

use crate::ledger::{Holder, NewPayment};
use crate::types::UnixMillis;

use super::request::PaidRequest;
use super::scheme::SettlementPlan;
use super::standing::Presentation;
use super::verify::VerifiedPayment;

/// What the ledger is asked to claim. Fails only if the terms can't be written as JSON.
pub(super) fn new_payment(
    payment: &VerifiedPayment,
    request: &PaidRequest<'_>,
    plan: &dyn SettlementPlan,
    now: UnixMillis,
) -> Result<NewPayment, serde_json::Error> {
    let facts = payment.facts();
    Ok(NewPayment {
        id: facts.id.clone(),
        payload_digest: facts.digest,
        fingerprint: request.fingerprint,
        redeliverable: request.redeliverable,
        holder: payment.quote.map_or(Holder::Address(request.client), Holder::Quote),
        route: request.route.to_owned(),
        request: request.summary.clone(),
        terms: serde_json::to_string(&payment.terms)?,
        wait_for: payment.wait_for.as_str().to_owned(),
        confirmations: payment.market.confirmations,
        pay_to_exclusive: payment.market.pay_to_exclusive,
        network: payment.terms.network.clone(),
        asset: facts.asset.clone(),
        payer: facts.payer.clone(),
        pay_to: facts.pay_to.clone(),
        amount: facts.amount,
        payload: facts.payload.to_string(),
        valid_until: facts.valid_until,
        signer: plan.signer().cloned(),
        claimed_at: now,
        identifier: payment.identifier.clone(),
    })
}

/// How a payment and its request look to the table of standings.
pub(super) fn presentation(payment: &VerifiedPayment, request: &PaidRequest<'_>) -> Presentation {
    Presentation {
        payload_digest: payment.facts().digest,
        fingerprint: request.fingerprint,
        quote: payment.shown_quote,
        client: request.client,
    }
}
