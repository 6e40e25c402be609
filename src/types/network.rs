//! Which chain: CAIP-2 ids inside, v1 names and aliases at the edges.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::known::KNOWN_NETWORKS;

/// A family of chains, one folder under `chain/` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChainKind {
    /// CAIP-2 namespace `eip155`.
    Evm,
    /// CAIP-2 namespace `solana`.
    Solana,
    /// CAIP-2 namespace `cosmos`.
    Cosmos,
}

impl ChainKind {
    /// The word in the configuration.
    #[must_use]
    pub fn family(self) -> &'static str {
        match self {
            Self::Evm => "evm",
            Self::Solana => "solana",
            Self::Cosmos => "cosmos",
        }
    }

    /// What people call such a network, with its article.
    #[must_use]
    pub fn a_network(self) -> &'static str {
        match self {
            Self::Evm => "an EVM network",
            Self::Solana => "a Solana network",
            Self::Cosmos => "a Cosmos network",
        }
    }

    /// The CAIP-2 namespace.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Evm => "eip155",
            Self::Solana => "solana",
            Self::Cosmos => "cosmos",
        }
    }
}

/// A chain by its CAIP-2 id, for example `eip155:84532`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(Arc<str>);

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither CAIP-2 nor a known name.
    #[error("expected a CAIP-2 id such as `eip155:84532` or a known name such as `base-sepolia`, got `{0}`")]
    Unknown(String),
    /// The reference of an `eip155` id is no chain id.
    #[error("expected a decimal chain id after `eip155:`, got `{0}`")]
    ChainId(String),
}

impl Network {
    /// The network of an EVM chain id.
    #[must_use]
    pub fn evm(chain_id: u64) -> Self {
        Self(format!("eip155:{chain_id}").into())
    }

    /// The CAIP-2 id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The chain family.
    #[must_use]
    pub fn kind(&self) -> ChainKind {
        match self.0.split_once(':').map(|(namespace, _)| namespace) {
            Some("solana") => ChainKind::Solana,
            Some("cosmos") => ChainKind::Cosmos,
            _ => ChainKind::Evm,
        }
    }

    /// What stands after the namespace.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, reference)| reference)
    }

    /// The EVM chain id, if this is an EVM network.
    #[must_use]
    pub fn chain_id(&self) -> Option<u64> {
        if self.kind() == ChainKind::Evm { self.reference().parse().ok() } else { None }
    }

    /// The name x402 v1 uses for this network, if it has one.
    #[must_use]
    pub fn v1_name(&self) -> Option<&'static str> {
        KNOWN_NETWORKS.iter().find(|known| known.caip2 == self.as_str()).and_then(|known| known.v1_name)
    }

    /// Whether the v1 JavaScript client knows this network; any other entry in a v1 body makes it throw.
    #[must_use]
    pub fn is_v1_safe(&self) -> bool {
        KNOWN_NETWORKS.iter().any(|known| known.caip2 == self.as_str() && known.v1_safe)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads a CAIP-2 id, a v1 name or an alias.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Some(known) = KNOWN_NETWORKS.iter().find(|known| known.is_called(text)) {
            return Ok(Self(known.caip2.into()));
        }
        let unknown = || NetworkError::Unknown(text.to_owned());
        let (namespace, reference) = text.split_once(':').ok_or_else(unknown)?;
        // CAIP-2: reference is [-_a-zA-Z0-9]{1,32}.
        let reference_is_legal = (1..=32).contains(&reference.len())
            && reference.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !reference_is_legal {
            return Err(unknown());
        }
        match namespace {
            "eip155" => {
                let chain_id: u64 = reference.parse().map_err(|_error| NetworkError::ChainId(reference.to_owned()))?;
                if chain_id.to_string() != reference || chain_id == 0 {
                    return Err(NetworkError::ChainId(reference.to_owned()));
                }
                Ok(Self::evm(chain_id))
            }
            "solana" | "cosmos" => Ok(Self(text.into())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// When a settlement counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// `confirmations` blocks (EVM), `confirmed` (Solana), inclusion (Cosmos).
    Confirmed,
    /// The chain's own finality.
    Finalized,
}

/// Whether clients may, or must, name their purchases (x402 extension `payment-identifier`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdentifierRule {
    /// Names are neither asked for nor read.
    #[default]
    Off,
    /// Who names a purchase is charged for it once.
    Optional,
    /// A payment without one is refused.
    Required,
}

impl WaitFor {
    /// The word in configuration and ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Finalized => "finalized",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_of_one_chain_are_one_network() {
        let by_name: Network = "base-sepolia".parse().unwrap();
        let by_id: Network = "eip155:84532".parse().unwrap();
        assert_eq!(by_name, by_id);
        assert_eq!(by_id.chain_id(), Some(84532));
        assert_eq!(by_id.v1_name(), Some("base-sepolia"));
        assert_eq!(by_id.kind(), ChainKind::Evm);
    }

    #[test]
    fn ids_that_are_not_canonical_are_refused() {
        for bad in
            ["", "base-sepolla", "eip155:", "eip155:010", "eip155:0x1", "eip155:-1", "eip155:0", "btc:1", "a:b:c"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_names_of_the_v1_client_are_v1_safe() {
        assert!(Network::evm(84532).is_v1_safe());
        assert!(!Network::evm(31337).is_v1_safe());
        assert!(!"cosmos:noble-1".parse::<Network>().unwrap().is_v1_safe());
    }
}
