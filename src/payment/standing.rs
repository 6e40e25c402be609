//! What a payment that the ledger knows gets when it is presented (threats §2.4). A pure table.

use crate::ledger::{Digest, Holder, PaymentRecord, PaymentState};

/// What the presented payment and its request look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Presentation {
    pub payload_digest: Digest,
    pub fingerprint: Digest,
    pub quote: Option<Digest>,
    pub client: std::net::IpAddr,
}

impl Presentation {
    /// A payment presented by whoever is known to hold it, for its own request.
    pub fn by_its_holder(record: &PaymentRecord, client: std::net::IpAddr) -> Self {
        let (quote, client) = match record.claim.holder {
            Holder::Quote(quote) => (Some(quote), client),
            Holder::Address(address) => (None, address),
        };
        let (payload_digest, fingerprint) = (record.claim.payload_digest, record.claim.fingerprint);
        Self { payload_digest, fingerprint, quote, client }
    }
}

/// Where the presented payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that is known stands in its way.
    New,
    /// Its settlement's outcome is not proven yet.
    Pending,
    /// The money moved and the answer is due.
    Redeliver,
    /// Somebody is delivering it.
    InFlight,
    /// It belongs to another request, or to somebody else.
    Bound,
    /// It bought its answer.
    Served,
    /// It is proven to have moved nothing.
    Failed,
    /// The money moved, and the answer can't be delivered any more.
    Owed,
}

impl Standing {
    pub fn of(record: Option<&PaymentRecord>, presented: &Presentation) -> Self {
        let Some(record) = record else { return Self::New };
        let is_same_payment = record.claim.payload_digest == presented.payload_digest;
        match record.state {
            PaymentState::Released => return Self::New,
            // Another authorization under the same key may still succeed: the failed one doesn't block it.
            PaymentState::Failed if !is_same_payment => return Self::New,
            // Undone by its chain, it moved nothing in the end.
            PaymentState::Failed | PaymentState::Reorged => return Self::Failed,
            PaymentState::Served => return Self::Served,
            _ => {}
        }
        let is_same_request =
            record.claim.fingerprint == presented.fingerprint || crate::crash::bug("bug_other_request");
        if !is_same_payment || !is_same_request || !is_held(record.claim.holder, presented) {
            return Self::Bound;
        }
        match record.state {
            PaymentState::Paid => Self::Redeliver,
            PaymentState::Delivering | PaymentState::Forwarded => Self::InFlight,
            PaymentState::Owed => Self::Owed,
            _ => Self::Pending,
        }
    }
}

/// A payment's signature is public once it is on chain, so it takes the quote, or the same address, to present it again.
fn is_held(holder: Holder, presented: &Presentation) -> bool {
    match holder {
        Holder::Quote(quote) => presented.quote == Some(quote),
        Holder::Address(address) => address == presented.client,
    }
}
