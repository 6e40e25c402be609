//! What the documentation promises and this version doesn't do yet: such keys get an answer of their own, so that nobody
//! looks for a typing error.

/// Section and key; the section is the name of its type in `raw`.
const LATER: &[(&str, &[&str])] = &[("Root", &["telemetry", "facilitator"]), ("Network", &["grpc_url"])];

/// Networks by name that a later version will know.
const LATER_NETWORKS: &[&str] = &["solana", "solana-devnet", "noble", "noble-testnet", "cosmoshub"];

/// Whether a later version will know this key.
pub(super) fn is_for_later(section: &str, key: &str) -> bool {
    LATER.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}

/// Whether a later version will know this network.
pub(super) fn is_network_for_later(name: &str) -> bool {
    LATER_NETWORKS.contains(&name)
}
