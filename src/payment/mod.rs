//! The money path: what a presented payment gets, and how it is carried through to its end.
//!
//! Knows neither HTTP nor any chain, so that it is tested without sockets.

mod clearing;
mod decision;
mod delivery;
mod flight;
mod gate;
mod held;
mod holding;
mod markets;
mod priced;
mod purchase;
mod queue;
mod receipt;
mod recover;
mod reorgs;
mod request;
pub mod scheme;
mod settlements;
mod spoilers;
mod standing;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;
mod verify;

pub use clearing::{Clearing, Outcome, Payable, Verdict};
pub use decision::Decision;
pub use gate::{Gate, GateRules};
pub use held::HeldPayment;
pub use markets::{RetireError, Retiring};
pub use priced::{Market, PricedOffer, PricedRoute};
pub use queue::{Place, Queue};
pub use receipt::{Receipt, Sale};
pub use request::{OriginProbe, PaidRequest, PaymentHeaders};
pub use verify::VerifiedPayment;
