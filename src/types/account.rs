//! Accounts and assets as canonical text.
//!
//! What canonical means is the chain's affair: the constructors here check only the shape that every chain shares, and
//! each chain's own parser builds these values from its own types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An account on some chain, in that chain's canonical text (EIP-55, base58, bech32).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(String);

/// A token: contract address, mint or denom in the chain's canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetId(String);

/// Why a text is no account or asset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 128 printable ASCII characters, got `{0}`")]
pub struct AccountIdError(String);

fn checked(text: String) -> Result<String, AccountIdError> {
    let is_legal = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_legal { Ok(text) } else { Err(AccountIdError(text)) }
}

impl AccountId {
    /// Takes text that a chain's own parser has put in canonical form.
    ///
    /// # Errors
    /// When the text is empty, longer than 128 bytes or not printable ASCII.
    pub fn new(canonical: impl Into<String>) -> Result<Self, AccountIdError> {
        checked(canonical.into()).map(Self)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AssetId {
    /// Takes text that a chain's own parser has put in canonical form.
    ///
    /// # Errors
    /// When the text is empty, longer than 128 bytes or not printable ASCII.
    pub fn new(canonical: impl Into<String>) -> Result<Self, AccountIdError> {
        checked(canonical.into()).map(Self)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The EIP-712 domain a token signs under; chain id and contract come from network and asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eip712Domain {
    /// The domain's `name`.
    pub name: String,
    /// The domain's `version`.
    pub version: String,
}

/// A token that a network may be paid in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Address, mint or denom.
    pub id: AssetId,
    /// What operators call it in prices, for example `USDC`.
    pub symbol: String,
    /// Digits after the point of one whole token.
    pub decimals: u8,
    /// Whether a price in dollars may be asked in this asset.
    pub is_usd: bool,
    /// EVM only.
    pub eip712: Option<Eip712Domain>,
    /// Token-2022 extensions of the mint that the operator allows by name although they could cheat (Solana only), for
    /// example `transferFeeConfig`.
    pub allowed_extensions: Vec<String>,
}
