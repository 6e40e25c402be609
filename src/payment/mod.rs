//! The money path: what a presented payment gets, and how it is carried through to its end.
//!
//! Knows neither HTTP nor any chain, so that it is tested without sockets.

mod decision;
mod delivery;
mod flight;
mod gate;
mod priced;
mod receipt;
pub mod scheme;

pub use decision::Decision;
pub use gate::{Gate, OriginProbe, PaidRequest, PaymentHeaders, VerifiedPayment};
pub use priced::{PricedOffer, PricedRoute};
pub use receipt::Receipt;
