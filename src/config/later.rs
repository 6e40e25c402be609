//! What the documentation promises and this version doesn't do yet: such keys get an answer of their own, so that nobody
//! looks for a typing error.

/// Section and key; the section is the name of its type in `raw`.
const LATER: &[(&str, &[&str])] = &[("Root", &["telemetry"])];

/// Whether a later version will know this key.
pub(super) fn is_for_later(section: &str, key: &str) -> bool {
    LATER.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}
