//! What a presented payment gets, in words that HTTP has no part in.

use crate::protocol::{Reason, SettlementResponse};

use super::held::HeldPayment;
use super::receipt::Receipt;

/// The gate's answer; contract §3 has one row for each.
#[derive(Debug)]
pub enum Decision {
    /// The money moved: forward the request.
    Deliver(Box<Receipt>),
    /// Claimed, nothing moved yet: forward the request, and hold its answer (`settle = "after"`).
    Forward(Box<HeldPayment>),
    /// 402 with fresh terms.
    Refused {
        /// Why.
        reason: Reason,
        /// Set when a settlement was proven failed: goes out as `PAYMENT-RESPONSE`.
        outcome: Option<Box<SettlementResponse>>,
    },
    /// 400: the headers contradict each other, can't be one payment, or lack the identifier that the route asks for.
    Contradiction(Reason),
    /// 409 `payment_in_progress`, no terms.
    InProgress,
    /// 409 `payment_bound_to_other_request`, no terms.
    BoundToOtherRequest,
    /// 503 with `settlement_pending`, no terms.
    Pending(Box<SettlementResponse>),
    /// 409 `payment_owed`, no terms: the money moved and the answer can't be delivered any more.
    Owed(Box<SettlementResponse>),
    /// 503 `payments_unavailable`, no terms: no network, ledger or fee budget. Nothing was settled.
    Unavailable,
    /// 503 `origin_unavailable`, no terms. Nothing was settled.
    OriginDown,
    /// 503 `origin_busy`, no terms: as many requests are at the origin as may be. Nothing was claimed or charged again.
    OriginBusy,
    /// 503 `settlements_busy`, no terms: as many settlements of the network are under way as may be. Nothing was settled.
    SettlementsBusy,
}
