//! What operators ask of the books: pages of payments, and what was earned on which day.

use super::{PaymentState, RecordId};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// A day of UTC in milliseconds.
pub const DAY_MILLIS: i64 = 86_400_000;

/// Which payments a page holds: newest first, all conditions at once.
#[derive(Debug, Clone, Default)]
pub struct PageFilter {
    /// Only these states; none means all.
    pub states: Vec<PaymentState>,
    /// Only this network.
    pub network: Option<Network>,
    /// Only the route with this key.
    pub route: Option<String>,
    /// Only this payer, in the chain's canonical text.
    pub payer: Option<AccountId>,
    /// Claimed at this moment or later.
    pub since: Option<UnixMillis>,
    /// Claimed before this moment.
    pub until: Option<UnixMillis>,
    /// Leaves out owed payments whose refund is recorded.
    pub unresolved: bool,
    /// Only what comes after this row: the last one of the page before.
    pub after: Option<(UnixMillis, RecordId)>,
    /// At most so many.
    pub limit: u32,
}

/// What a route earned in an asset on a day: payments whose money moved then, was not taken back by the
/// chain, and was not given back by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earning {
    /// The day they were recorded as paid, in days of UTC since the Unix epoch.
    pub day: i64,
    /// Network.
    pub network: Network,
    /// Asset.
    pub asset: AssetId,
    /// The route's key at that time.
    pub route: String,
    /// How many payments.
    pub count: u64,
    /// Their sum.
    pub amount: AtomicAmount,
}
