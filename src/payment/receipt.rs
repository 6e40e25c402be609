//! Proof that money moved, and the duty to say what became of the answer.

use std::fmt;

use crate::ledger::PaymentRecord;
use crate::protocol::{SettlementResponse, Version};
use crate::telemetry::Trace;

use super::delivery::Delivery;

/// What an origin is told of the payment that a request came with.
#[derive(Debug, Clone, Copy)]
pub struct Sale<'a> {
    /// The ledger's row.
    pub record: &'a PaymentRecord,
    /// The transaction that moved the money; none where it moves only after the origin has answered.
    pub transaction: Option<&'a str>,
}

/// Proof that a request is paid for. Only the money path makes one, and forwarding a priced request takes one, so that
/// unpaid forwarding doesn't compile.
pub struct Receipt {
    record: PaymentRecord,
    version: Version,
    delivery: Delivery,
}

impl Receipt {
    pub(super) fn new(record: PaymentRecord, version: Version, delivery: Delivery) -> Self {
        Self { record, version, delivery }
    }

    /// The ledger's row.
    #[must_use]
    pub fn record(&self) -> &PaymentRecord {
        &self.record
    }

    /// The transaction that moved the money.
    #[must_use]
    pub fn transaction(&self) -> &str {
        self.record.settlement.as_ref().map_or("", |settlement| settlement.transaction.as_str())
    }

    /// For the origin.
    #[must_use]
    pub fn sale(&self) -> Sale<'_> {
        Sale { record: &self.record, transaction: Some(self.transaction()) }
    }

    /// The outcome for the client, in its own version.
    #[must_use]
    pub fn response(&self) -> SettlementResponse {
        success_response(&self.record, self.version)
    }

    /// Whether the payment may be presented again if this delivery fails.
    #[must_use]
    pub fn is_good_for_another(&self) -> bool {
        self.record.claim.redeliverable && self.record.deliveries < self.delivery.deliveries_max()
    }

    /// Whether the request may go to the origin: not once another gateway may have taken the payment over.
    #[must_use]
    pub fn may_forward(&self) -> bool {
        self.delivery.may_begin()
    }

    /// The request is about to reach the origin: from here on this delivery counts.
    pub fn forwarding(&mut self) {
        self.delivery.forwarding();
    }

    /// The last of the answer is about to leave: whoever presents the payment once more as soon as it arrives waits for the
    /// books instead of being told that it is in progress.
    pub fn finishing(&mut self) {
        self.delivery.finishing();
    }

    /// Whose trace is told when the ending is written.
    pub fn traced(&mut self, trace: Trace) {
        self.delivery.traced(trace);
    }

    /// A complete answer below 500 reached the client (W3). Dropping a receipt instead says that it did not.
    pub fn served(self) {
        let _writes_on = self.delivery.served();
    }

    /// As [`Self::served`], and waits until that is written: whoever tells of it afterwards tells it once. False when the
    /// books did not take it.
    pub(super) async fn served_for_good(self) -> bool {
        match self.delivery.served() {
            Some(written) => written.await.unwrap_or(false),
            None => false,
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Receipt").field("record", &self.record.record).finish_non_exhaustive()
    }
}

/// The outcome of a payment that moved money.
pub(super) fn success_response(record: &PaymentRecord, version: Version) -> SettlementResponse {
    SettlementResponse {
        success: true,
        error_reason: None,
        payer: Some(record.claim.payer.to_string()),
        transaction: record.settlement.as_ref().map(|settlement| settlement.transaction.clone()).unwrap_or_default(),
        network: SettlementResponse::network_for(version, &record.claim.network),
        amount: Some(record.claim.amount.to_string()),
        vitwit: None,
    }
    .told_to(version)
}
