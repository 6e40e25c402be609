//! How long a gateway that shares its books may do business: told by whoever keeps the books, believed no longer than that.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Why a network is not offered once it is over.
pub(super) const OVER: &str = "the ledger that is shared with other gateways doesn't answer";

/// The end that was told of, if there is one.
#[derive(Debug, Default)]
pub(super) struct Tenure(Mutex<Option<Instant>>);

impl Tenure {
    /// Until then.
    pub(super) fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub(super) fn is_over(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() >= until)
    }
}
