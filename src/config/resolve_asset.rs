//! From typed to validated: the assets of a network.

use super::diagnostic::Location;
use super::leaf::{Entry, Named};
use super::raw::Asset as RawAsset;
use super::reader::{At, Report, did_you_mean, listed, shown};
use super::resolve::bounded;
use crate::types::{Asset, AssetId, Eip712Domain, KNOWN_NETWORKS, Network, canonical_evm_address};

/// More digits than any token has; a typing error beyond.
const DECIMALS_MAX: u64 = 36;
const SYMBOL_BYTES_MAX: usize = 32;
const DEFAULT_SYMBOL: &str = "USDC";

/// The assets of a network, the default first; nothing if a mistake was reported.
pub(super) fn assets(
    name: &str,
    location: Location,
    chain: &Network,
    own: Named<RawAsset>,
    default: Option<&At<String>>,
    report: &mut Report,
) -> Option<Vec<Asset>> {
    let count = own.0.len();
    let symbols: Vec<String> = own.0.iter().map(|entry| entry.name.clone()).collect();
    let own: Vec<Asset> = own.0.into_iter().filter_map(|entry| own_asset(name, entry, report)).collect();
    let has_mistakes = own.len() != count;
    let mut assets: Vec<Asset> =
        known_asset(chain).into_iter().filter(|known| !symbols.contains(&known.symbol)).collect();
    for asset in own {
        if let Some(other) = assets.iter().find(|other| other.id == asset.id) {
            let message =
                format!("networks.{name}.assets: {} and {} are the same contract", other.symbol, asset.symbol);
            report.error(location, message);
        }
        assets.push(asset);
    }
    if has_mistakes {
        return None;
    }
    if assets.is_empty() {
        let hint = format!("add [networks.{name}.assets.USDC] with address, decimals, name and version");
        report.error_with_hint(location, format!("[networks.{name}] has no asset to be paid in"), hint);
        return None;
    }
    let index = default_index(name, location, &assets, default, report)?;
    assets.get_mut(..=index)?.rotate_right(1);
    Some(assets)
}

fn default_index(
    name: &str,
    location: Location,
    assets: &[Asset],
    default: Option<&At<String>>,
    report: &mut Report,
) -> Option<usize> {
    let position = |symbol: &str| assets.iter().position(|asset| asset.symbol == symbol);
    let symbols = || assets.iter().map(|asset| asset.symbol.as_str());
    if let Some(At { value: symbol, location }) = default {
        let found = position(symbol);
        if found.is_none() {
            let message = format!("networks.{name}.asset: {} is none of this network's assets", shown(symbol));
            let hint = did_you_mean(symbol, symbols()).unwrap_or_else(|| format!("they are {}", listed(symbols())));
            report.error_with_hint(*location, message, hint);
        }
        return found;
    }
    let found = position(DEFAULT_SYMBOL).or(if assets.len() == 1 { Some(0) } else { None });
    if found.is_none() {
        let message = format!("[networks.{name}] has several assets: {}", listed(symbols()));
        report.error_with_hint(location, message, "say with asset = \"…\" which one is asked for prices in dollars");
    }
    found
}

fn known_asset(chain: &Network) -> Option<Asset> {
    let known = KNOWN_NETWORKS.iter().find(|known| known.caip2 == chain.as_str())?;
    // Some of the table's addresses carry no checksum.
    let address = canonical_evm_address(&known.asset.to_ascii_lowercase()).ok()?;
    let (name, version) = known.eip712?;
    Some(Asset {
        id: AssetId::new(address).ok()?,
        symbol: known.symbol.to_owned(),
        decimals: known.decimals,
        is_usd: true,
        eip712: Some(Eip712Domain { name: name.to_owned(), version: version.to_owned() }),
    })
}

fn own_asset(network: &str, entry: Entry<RawAsset>, report: &mut Report) -> Option<Asset> {
    let Entry { name: symbol, location, value } = entry;
    let key = format!("networks.{network}.assets.{symbol}");
    if symbol.is_empty() || symbol.len() > SYMBOL_BYTES_MAX || !symbol.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message =
            format!("expected a symbol of 1 to {SYMBOL_BYTES_MAX} printable characters, got {}", shown(&symbol));
        report.error(location, message);
        return None;
    }
    let raw = value?.value;
    let decimals =
        raw.decimals.and_then(|decimals| bounded(&format!("{key}.decimals"), &decimals, 0..=DECIMALS_MAX, report));
    let address = raw.address.and_then(|address| match canonical_evm_address(&address.value) {
        Ok(canonical) => AssetId::new(canonical).ok(),
        Err(error) => {
            report.error(address.location, format!("{key}.address: {error}, got {}", shown(&address.value)));
            None
        }
    });
    Some(Asset {
        id: address?,
        symbol,
        decimals: u8::try_from(decimals?).ok()?,
        is_usd: raw.usd?.value,
        eip712: Some(Eip712Domain { name: raw.name?.value, version: raw.version?.value }),
    })
}
