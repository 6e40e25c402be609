//! The outcome as `PAYMENT-RESPONSE` and `X-PAYMENT-RESPONSE` tell it (protocol §2.2, §7).

use serde::Serialize;

use super::payload::Version;
use super::reason::Reason;
use super::vitwit;
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
    /// vitwit's words for it, for callers who speak that.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub vitwit: Option<VitwitOutcome>,
}

/// What vitwit clients look for beside the official fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VitwitOutcome {
    /// `success` or `failed`; nothing while that isn't known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// The transaction, empty when nothing was broadcast.
    pub transaction_hash: String,
}

impl SettlementResponse {
    /// The same with what callers of a version expect besides.
    #[must_use]
    pub fn told_to(mut self, version: Version) -> Self {
        self.vitwit = (version == Version::Vitwit).then(|| VitwitOutcome {
            status: match self.error_reason {
                _ if self.success => Some("success"),
                // They know no word for it, and "failed" would ask for a second payment.
                Some(reason) if reason == Reason::SettlementPending.as_str() => None,
                _ => Some("failed"),
            },
            transaction_hash: self.transaction.clone(),
        });
        self
    }

    /// The network's name in the payer's own version: bare names for v1 and vitwit, CAIP-2 otherwise.
    #[must_use]
    pub fn network_for(version: Version, network: &Network) -> String {
        match version {
            Version::V1 => network.v1_name().unwrap_or(network.as_str()).to_owned(),
            Version::Vitwit => vitwit::network_name(network).to_owned(),
            Version::V2 => network.as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn vitwit_callers_find_their_own_fields_beside_the_official_ones() {
        let response = |success, error_reason| SettlementResponse {
            success,
            error_reason,
            payer: None,
            transaction: "0xab".into(),
            network: "base-sepolia".into(),
            amount: None,
            vitwit: None,
        };
        let told = |success, reason, version| serde_json::to_value(response(success, reason).told_to(version)).unwrap();
        assert_eq!(
            told(true, None, Version::Vitwit),
            json!({"success":true,"transaction":"0xab","network":"base-sepolia","status":"success","transactionHash":"0xab"})
        );
        assert_eq!(told(false, Some("payment_expired"), Version::Vitwit)["status"], "failed");
        assert!(told(false, Some("settlement_pending"), Version::Vitwit).get("status").is_none());
        for version in [Version::V1, Version::V2] {
            assert_eq!(
                told(true, None, version),
                json!({"success":true,"transaction":"0xab","network":"base-sepolia"})
            );
        }
    }
}
