//! What the documentation promises and this version doesn't do yet: such keys get an answer of their own, so that nobody
//! looks for a typing error.

/// Section and key; the section is the name of its type in `raw`.
const LATER: &[(&str, &[&str])] = &[
    ("Root", &["telemetry"]),
    ("Server", &["tls", "trusted_proxies", "limits"]),
    ("Upstream", &["balance", "health_check"]),
    ("Route", &["websocket", "max_duration", "strip_prefix", "rewrite"]),
];

/// Whether a later version will know this key.
pub(super) fn is_for_later(section: &str, key: &str) -> bool {
    LATER.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}
