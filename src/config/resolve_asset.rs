//! From typed to validated: the assets of a network.

use super::diagnostic::Location;
use super::leaf::{Entry, Lenient, List, Named};
use super::raw::Asset as RawAsset;
use super::reader::{At, Report, did_you_mean, listed, shown};
use super::resolve::bounded;
use crate::types::{
    Asset, AssetId, ChainKind, Eip712Domain, KNOWN_NETWORKS, Network, canonical_evm_address, canonical_solana_address,
};

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
    let kind = chain.kind();
    let own: Vec<Asset> = own.0.into_iter().filter_map(|entry| own_asset(name, kind, entry, report)).collect();
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
        let needed =
            if kind == ChainKind::Evm { "address, decimals, name and version" } else { "address and decimals" };
        let hint = format!("add [networks.{name}.assets.USDC] with {needed}");
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
    if known.symbol.is_empty() {
        return None;
    }
    let id = match chain.kind() {
        // Some of the table's addresses carry no checksum.
        ChainKind::Evm => canonical_evm_address(&known.asset.to_ascii_lowercase()).ok()?,
        ChainKind::Solana | ChainKind::Cosmos => known.asset.to_owned(),
    };
    let domain = |(name, version): (&str, &str)| Eip712Domain { name: name.to_owned(), version: version.to_owned() };
    Some(Asset {
        id: AssetId::new(id).ok()?,
        symbol: known.symbol.to_owned(),
        decimals: known.decimals,
        is_usd: true,
        eip712: known.eip712.map(domain),
        allowed_extensions: Vec::new(),
    })
}

fn own_asset(network: &str, kind: ChainKind, entry: Entry<RawAsset>, report: &mut Report) -> Option<Asset> {
    let Entry { name: symbol, location, value } = entry;
    let key = format!("networks.{network}.assets.{symbol}");
    if symbol.is_empty() || symbol.len() > SYMBOL_BYTES_MAX || !symbol.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message =
            format!("expected a symbol of 1 to {SYMBOL_BYTES_MAX} printable characters, got {}", shown(&symbol));
        report.error(location, message);
        return None;
    }
    let At { value: raw, location: place } = value?;
    let eip712 = eip712(&key, kind, place, raw.name, raw.version, report);
    let allowed_extensions = extensions(&key, kind, raw.allow_extensions, report);
    let decimals =
        raw.decimals.and_then(|decimals| bounded(&format!("{key}.decimals"), &decimals, 0..=DECIMALS_MAX, report));
    let address = raw.address.and_then(|address| match canonical(kind, &address.value) {
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
        eip712: eip712?,
        allowed_extensions: allowed_extensions?,
    })
}

fn canonical(kind: ChainKind, text: &str) -> Result<String, String> {
    match kind {
        ChainKind::Evm => canonical_evm_address(text).map_err(|error| error.to_string()),
        ChainKind::Solana => canonical_solana_address(text).map_err(|error| error.to_string()),
        ChainKind::Cosmos if is_denom(text) => Ok(text.to_owned()),
        ChainKind::Cosmos => Err("expected a denom such as \"uusdc\" or \"ibc/498A…\"".to_owned()),
    }
}

/// Cosmos SDK `types/coin.go`: `[a-zA-Z][a-zA-Z0-9/:._-]{2,127}`.
fn is_denom(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._-".contains(&byte);
    (3..=128).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(is_legal)
}

/// The domain that EVM tokens sign under and others don't have; nothing if a mistake was reported.
#[allow(clippy::option_option)]
fn eip712(
    key: &str,
    kind: ChainKind,
    place: Location,
    name: Option<At<Lenient<String>>>,
    version: Option<At<Lenient<String>>>,
    report: &mut Report,
) -> Option<Option<Eip712Domain>> {
    if kind != ChainKind::Evm {
        for (part, given) in [("name", &name), ("version", &version)] {
            if let Some(at) = given {
                let message = format!("{key}.{part} means nothing on {}", kind.a_network());
                report.error_with_hint(at.location, message, "remove it");
            }
        }
        return Some(None);
    }
    let mut part = |part: &str, value: Option<At<Lenient<String>>>| {
        let Some(At { value: Lenient(value), .. }) = value else {
            let hint = format!("it is needed: The token's EIP-712 domain {part}.");
            report.error_with_hint(place, format!("{key} lacks the key {part:?}"), hint);
            return None;
        };
        value
    };
    let (name, version) = (part("name", name), part("version", version));
    Some(Some(Eip712Domain { name: name?, version: version? }))
}

fn extensions(key: &str, kind: ChainKind, raw: Option<At<List<String>>>, report: &mut Report) -> Option<Vec<String>> {
    let Some(At { value: List(names), location }) = raw else { return Some(Vec::new()) };
    if kind != ChainKind::Solana {
        let message = format!("{key}.allow_extensions means nothing on {}", kind.a_network());
        report.error_with_hint(location, message, "remove it");
        return None;
    }
    Some(names.into_iter().map(|name| name.value).collect())
}
