//! How long chains take until a block is final, for refusing waits that can't end well.

use std::time::Duration;

use crate::types::{ChainKind, Network};

/// Chains whose own consensus makes blocks final within seconds: Avalanche and Flare (Snowman), Sei, Story and Stable
/// (CometBFT), Monad. The time is an ample bound, not the usual case.
const FAST: Duration = Duration::from_secs(10);
const FAST_CHAINS: &[u64] = &[43114, 43113, 14, 1329, 1328, 1514, 988, 2201, 143];

/// A block is final when 31 more are built on it.
const SOLANA: Duration = Duration::from_secs(30);

/// Polygon's milestones follow its blocks within seconds, with room for a late one.
const POLYGON: Duration = Duration::from_secs(60);
const POLYGON_CHAINS: &[u64] = &[137, 80002];

/// Ethereum finalises after two epochs, 12.8 min at best, and chains that rest on it wait until their data is in a final
/// block there. What isn't known is taken for one of those.
const ETHEREUM_LIKE: Duration = Duration::from_secs(20 * 60);

/// The shortest wait in which a settlement can be expected to become final.
pub(super) fn time_to_finality(network: &Network) -> Duration {
    match network.kind() {
        ChainKind::Solana => return SOLANA,
        // What CometBFT has made a block of is final.
        ChainKind::Cosmos => return FAST,
        ChainKind::Evm => {}
    }
    match network.chain_id() {
        Some(id) if FAST_CHAINS.contains(&id) => FAST,
        Some(id) if POLYGON_CHAINS.contains(&id) => POLYGON,
        _ => ETHEREUM_LIKE,
    }
}
