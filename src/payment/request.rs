//! A request that presents a payment, as the gate sees it.

use std::net::IpAddr;

use async_trait::async_trait;

use crate::ledger::Digest;
use crate::telemetry::Trace;

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
    /// Whether the money moves only once the origin has answered.
    pub settles_after: bool,
    /// Where it came from.
    pub client: IpAddr,
    /// The route's key, for the books.
    pub route: &'a str,
    /// Method and path, for the books.
    pub summary: String,
    /// Whether the origin would answer.
    pub origin: &'a dyn OriginProbe,
    /// Where its stages are told.
    pub trace: Trace,
}

/// Whether the origin of a request would answer.
#[async_trait]
pub trait OriginProbe: Send + Sync {
    /// Asks now.
    async fn is_up(&self) -> bool;

    /// Keeps a place at the origin for this request, however often it is asked, so that what is paid for finds it free;
    /// false if none came free in time. Asked before anything is claimed.
    async fn reserve(&self) -> bool;
}
