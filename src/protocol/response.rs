//! The outcome as `PAYMENT-RESPONSE` and `X-PAYMENT-RESPONSE` tell it (protocol §2.2, §7).

use serde::Serialize;

use super::payload::Version;
use crate::types::Network;

/// A settlement's outcome for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettlementResponse {
    /// Whether the money moved, as far as is known now.
    pub success: bool,
    /// Why not; `settlement_pending` means "not known yet".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<&'static str>,
    /// Who paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// The transaction, empty when nothing was broadcast.
    pub transaction: String,
    /// The network as the payer's version names it.
    pub network: String,
    /// Atomic units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
}

impl SettlementResponse {
    /// The network's name in the payer's own version: v1 names for v1, CAIP-2 otherwise.
    #[must_use]
    pub fn network_for(version: Version, network: &Network) -> String {
        match version {
            Version::V1 => network.v1_name().unwrap_or(network.as_str()).to_owned(),
            Version::V2 => network.as_str().to_owned(),
        }
    }
}
