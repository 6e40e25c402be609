//! What the operator's and the facilitator's listeners have in common: who may enter, and answers before they are HTTP.
//! Knows nothing of what is served.

mod access;
mod answer;

pub(crate) use access::Access;
pub(crate) use answer::Answer;
