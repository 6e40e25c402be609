//! What the row of a payment says to whoever presents it.

use super::decision::Decision;
use super::delivery::Delivery;
use super::flight::Flight;
use super::receipt::{Receipt, success_response};
use super::standing::Standing;
use super::verify::refused;
use crate::ledger::PaymentRecord;
use crate::protocol::{Reason, SettlementResponse, Version};

/// What a payment gets that is neither new nor waiting for anything.
pub(super) fn ended(standing: Standing, record: Option<&PaymentRecord>, version: Version) -> Decision {
    match (standing, record) {
        (Standing::Failed, Some(record)) => failed(record, version),
        (Standing::Owed, Some(record)) => Decision::Owed(Box::new(success_response(record, version))),
        (Standing::Served, _) => refused(Reason::PaymentAlreadyUsed),
        (Standing::Bound, _) => Decision::BoundToOtherRequest,
        (_, _) => Decision::InProgress,
    }
}

pub(super) fn deliver(
    record: PaymentRecord,
    version: Version,
    mut delivery: Delivery,
    flight: &mut Option<Flight>,
) -> Decision {
    if let Some(flight) = flight.take() {
        delivery.hold(flight);
    }
    crate::crash::point("post_w2");
    Decision::Deliver(Box::new(Receipt::new(record, version, delivery)))
}

fn unfinished_response(
    record: &PaymentRecord,
    version: Version,
    reason: Reason,
    transaction: &str,
) -> SettlementResponse {
    SettlementResponse {
        success: false,
        error_reason: Some(reason.as_str()),
        payer: Some(record.claim.payer.to_string()),
        transaction: transaction.to_owned(),
        network: SettlementResponse::network_for(version, &record.claim.network),
        amount: None,
        vitwit: None,
    }
    .told_to(version)
}

pub(super) fn pending(record: &PaymentRecord, version: Version) -> Decision {
    let transaction = record.attempts.last().map_or("", |attempt| attempt.signed.transaction.as_str());
    if crate::crash::bug("bug_terms_too_early") {
        return refused_unsettled(record, version, Reason::SettlementPending);
    }
    Decision::Pending(Box::new(unfinished_response(record, version, Reason::SettlementPending, transaction)))
}

/// A payment that nothing was signed for, though its request was forwarded.
pub(super) fn refused_unsettled(record: &PaymentRecord, version: Version, reason: Reason) -> Decision {
    Decision::Refused { reason, outcome: Some(Box::new(unfinished_response(record, version, reason, ""))) }
}

pub(super) fn failed(record: &PaymentRecord, version: Version) -> Decision {
    let reason =
        record.failure.as_deref().and_then(|reason| reason.parse().ok()).unwrap_or(Reason::UnexpectedSettleError);
    let transaction = record.failed_transaction.as_deref().unwrap_or("");
    Decision::Refused { reason, outcome: Some(Box::new(unfinished_response(record, version, reason, transaction))) }
}
