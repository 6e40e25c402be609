//! x402 on the wire: v1, v2 and their codecs. Knows no proxy, no chain and no ledger.

mod reason;
mod requirements;

pub use reason::Reason;
pub use requirements::{EXACT, PaymentRequirements, QUOTE_KEY};
