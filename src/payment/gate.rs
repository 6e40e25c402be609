//! The gate.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::ledger::Digest;

use super::decision::Decision;
use super::priced::PricedRoute;

/// The payment headers of a request, each as often as it came.
#[derive(Debug, Clone, Default)]
pub struct PaymentHeaders<'a> {
    /// `PAYMENT-SIGNATURE`.
    pub v2: Vec<&'a [u8]>,
    /// `X-PAYMENT`.
    pub v1: Vec<&'a [u8]>,
}

/// A request that presents a verified payment.
pub struct PaidRequest<'a> {
    /// SHA-256 over all that identifies the request: method, host, path, query, `Range`, whatever chose the price, body.
    pub fingerprint: Digest,
    /// Whether the same request may be presented again after an origin failure.
    pub redeliverable: bool,
    /// Where it came from.
    pub client: IpAddr,
    /// Method and path, for the books.
    pub summary: String,
    /// Whether the origin would answer.
    pub origin: &'a dyn OriginProbe,
}

/// Whether the origin of a request would answer.
#[async_trait]
pub trait OriginProbe: Send + Sync {
    /// Asks now.
    async fn is_up(&self) -> bool;
}

/// A payment that is proven, or known to the ledger.
pub struct VerifiedPayment {
    _private: (),
}

/// The gate: decides what a presented payment gets.
pub struct Gate {
    _private: (),
}

impl Gate {
    /// Everything that needs neither the ledger's write nor the chain's: decodes the headers, finds the offer, checks and proves
    /// the payment.
    ///
    /// # Errors
    /// The decision, when it is already made: refused, contradictory or unavailable.
    pub async fn verify(
        &self,
        _route: &PricedRoute,
        _headers: &PaymentHeaders<'_>,
    ) -> Result<VerifiedPayment, Decision> {
        Err(Decision::Unavailable)
    }

    /// Claims, settles, or finds what the payment bought earlier.
    pub async fn admit(
        self: &Arc<Self>,
        _route: &PricedRoute,
        _payment: VerifiedPayment,
        _request: PaidRequest<'_>,
    ) -> Decision {
        Decision::Unavailable
    }
}
