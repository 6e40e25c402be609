//! x402 on the wire: v1, v2 and their codecs. Knows no proxy, no chain and no ledger.

mod bazaar;
mod challenge;
mod discovery;
mod facilitator;
mod header;
mod identifier;
mod json;
mod payload;
mod quote;
mod reason;
mod requirements;
mod response;
mod vitwit;

pub use bazaar::{BodyType, Usage};
pub use challenge::{Challenge, ChallengeError, ChallengeTemplate, Offer, ResourceInfo};
pub use discovery::{DiscoveryDocument, LISTED_MAX, Listed};
pub use facilitator::{FacilitatorRequest, FacilitatorRequestError};
pub use header::{
    DecodeError, PAYMENT_HEADER_BYTES_MAX, decode_base64, decode_object, decode_payment, encode_json, names,
};
pub use identifier::{Identifier, PAYMENT_IDENTIFIER};
pub use payload::{Accepted, PaymentPayload, Version};
pub use quote::{QuoteKey, QuoteNonce, QuoteVerdict, quote_digest, terms_digest};
pub use reason::Reason;
pub use requirements::{EXACT, MEMO_KEY, PaymentRequirements, QUOTE_KEY};
pub use response::{SettlementResponse, VitwitOutcome};
