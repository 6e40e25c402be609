//! What an atomic unit is worth in whole tokens, from the configuration and from the tokens that everybody knows.

use crate::cli::human::known_asset;
use crate::config::Config;
use crate::types::{AssetId, AtomicAmount, ChainKind, DecimalAmount, Network};

/// Digits after the point of ether and its like.
const EVM_NATIVE_DECIMALS: u8 = 18;
/// Digits after the point of SOL.
const SOLANA_NATIVE_DECIMALS: u8 = 9;

/// Tokens and their decimals.
#[derive(Debug, Clone, Default)]
pub struct Units {
    configured: Vec<(Network, AssetId, u8, String)>,
}

impl Units {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let configured = config.networks.iter().flat_map(|network| {
            let unit = |asset: &crate::types::Asset| {
                (network.network.clone(), asset.id.clone(), asset.decimals, asset.symbol.clone())
            };
            network.assets.iter().map(unit)
        });
        Self { configured: configured.collect() }
    }

    /// Decimals and symbol of a token, where they are known.
    #[must_use]
    pub fn find(&self, network: &Network, asset: &AssetId) -> Option<(u8, &str)> {
        let configured = self.configured.iter().find(|(on, id, ..)| on == network && id == asset);
        let configured = configured.map(|(_, _, decimals, symbol)| (*decimals, symbol.as_str()));
        configured.or_else(|| known_asset(network, asset.as_str()).map(|known| (known.decimals, known.symbol)))
    }

    /// An amount in whole tokens, exact.
    #[must_use]
    pub fn decimal(&self, amount: AtomicAmount, network: &Network, asset: &AssetId) -> Option<String> {
        self.find(network, asset).map(|(decimals, _)| DecimalAmount::from_atomic(amount, decimals).to_string())
    }

    /// `0.01 USDC`, or `10000 0x…` where the token isn't known.
    #[must_use]
    pub fn text(&self, amount: AtomicAmount, network: &Network, asset: &AssetId) -> String {
        match self.find(network, asset) {
            Some((decimals, symbol)) => format!("{} {symbol}", DecimalAmount::from_atomic(amount, decimals)),
            None => format!("{amount} {asset}"),
        }
    }
}

/// A fee in the chain's whole coins, exact.
#[must_use]
pub fn fee_decimal(fee: AtomicAmount, network: &Network) -> Option<String> {
    let decimals = match network.kind() {
        ChainKind::Evm => EVM_NATIVE_DECIMALS,
        ChainKind::Solana => SOLANA_NATIVE_DECIMALS,
        ChainKind::Cosmos => return None,
    };
    Some(DecimalAmount::from_atomic(fee, decimals).to_string())
}
