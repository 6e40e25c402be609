//! Prices as integers of atomic units of an asset.

use super::diagnostic::Location;
use super::reader::{At, Report, did_you_mean, shown};
use super::resolve_network::NamedNetwork;
use crate::types::{Asset, AtomicAmount, DecimalAmount};

/// What a priced route asks, before it is known in which asset.
#[derive(Debug)]
pub(super) enum Ask {
    /// Dollars.
    Usd(DecimalAmount),
    /// Atomic units of one asset.
    Atomic {
        /// How many.
        amount: AtomicAmount,
        /// The asset's symbol or address.
        asset: String,
    },
}

impl Ask {
    /// The asset that this is asked in on a network: for dollars its default asset if that is a USD stablecoin, else the
    /// first that is.
    pub fn asset_on<'n>(&self, network: &'n NamedNetwork) -> Option<&'n Asset> {
        match self {
            Self::Usd(_) => network.assets.iter().find(|asset| asset.is_usd),
            Self::Atomic { asset: name, .. } => network
                .assets
                .iter()
                .find(|asset| asset.symbol == *name || asset.id.as_str().eq_ignore_ascii_case(name)),
        }
    }

    /// Reports that no network has the asset.
    pub fn report_nowhere(&self, route: &str, networks: &[NamedNetwork], location: Location, report: &mut Report) {
        match self {
            Self::Usd(_) => {
                let hint = "say usd = true of an asset that is a USD stablecoin, or ask atomic units: \"10000 SYMBOL\"";
                report.error_with_hint(location, format!("{route}: no network has an asset worth dollars"), hint);
            }
            Self::Atomic { asset, .. } => {
                let symbols = networks.iter().flat_map(|network| &network.assets).map(|asset| asset.symbol.as_str());
                let hint = did_you_mean(asset.strip_prefix('u').unwrap_or(asset), symbols)
                    .unwrap_or_else(|| "assets stand under networks.NAME.assets".to_owned());
                report.error_with_hint(location, format!("{route}: no network has an asset {}", shown(asset)), hint);
            }
        }
    }
}

/// What is asked on one network; nothing if a mistake was reported, here or in the network.
pub(super) fn amount_on(
    network: &NamedNetwork,
    route: &str,
    ask: &At<Ask>,
    max_price: DecimalAmount,
    report: &mut Report,
) -> Option<(Asset, AtomicAmount)> {
    if network.assets.is_empty() {
        return None;
    }
    let At { value: ask, location } = ask;
    let Some(asset) = ask.asset_on(network) else {
        let message = format!("{route}: the network {} has no asset to ask this price in", network.name);
        report.error_with_hint(*location, message, "take the network from the route's list, or give it that asset");
        return None;
    };
    let (amount, dollars) = match ask {
        Ask::Usd(dollars) => match dollars.to_atomic(asset.decimals) {
            Some(amount) => (amount, Some(*dollars)),
            None => {
                let message = format!(
                    "{route}: ${dollars} is finer than the {} decimals of {} on {}",
                    asset.decimals, asset.symbol, network.name
                );
                report.error(*location, message);
                return None;
            }
        },
        Ask::Atomic { amount, .. } => {
            (*amount, asset.is_usd.then(|| DecimalAmount::from_atomic(*amount, asset.decimals)))
        }
    };
    if let Some(dollars) = dollars.filter(|dollars| *dollars > max_price) {
        let message = format!("{route}: ${dollars} on {} is more than server.max_price, ${max_price}", network.name);
        report.error_with_hint(*location, message, "raise max_price in [server] if this is meant");
        return None;
    }
    Some((asset.clone(), amount))
}
