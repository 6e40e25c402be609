//! What is asked: `PaymentRequirements` of x402 v2, the form in which terms live inside and in the ledger.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::types::{AccountId, AssetId, AtomicAmount, Eip712Domain, Network};

/// The only scheme offered today.
pub const EXACT: &str = "exact";

/// The key in `extra` that carries the sealed quote (contract §3).
pub const QUOTE_KEY: &str = "quote";

/// The key in `extra` that asks for a memo in the payment (protocol §4, §5.1).
pub const MEMO_KEY: &str = "memo";

/// Terms for one payment (x402 v2 `PaymentRequirements`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequirements {
    /// The scheme, `exact`.
    pub scheme: String,
    /// CAIP-2 id.
    pub network: Network,
    /// Price in atomic units.
    pub amount: AtomicAmount,
    /// The token.
    pub asset: AssetId,
    /// Who is paid.
    pub pay_to: AccountId,
    /// How long the payer may take, in seconds.
    pub max_timeout_seconds: u64,
    /// Scheme's own fields; for EVM the EIP-712 domain's `name` and `version`, for Solana
    /// `feePayer`, for Solana and Cosmos perhaps `memo`. Never holds the quote here.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl PaymentRequirements {
    /// The EIP-712 domain in `extra`, if both parts are there.
    #[must_use]
    pub fn eip712_domain(&self) -> Option<Eip712Domain> {
        let text = |key: &str| self.extra.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Eip712Domain { name: text("name")?, version: text("version")? })
    }
}
