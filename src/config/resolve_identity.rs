//! From typed to validated: which chain a table under `[networks]` is about.

use super::diagnostic::Location;
use super::leaf::Lenient;
use super::raw::{ChainId, Kind, Network as RawNetwork};
use super::reader::{At, Report, check_name, did_you_mean, shown, toml_key};
use crate::types::{ChainKind, KNOWN_NETWORKS, Network, canonical_solana_address, is_bech32_prefix};

/// Characters of a genesis hash that name a Solana chain (CAIP-2 profile of the namespace `solana`).
const SOLANA_REFERENCE_CHARACTERS: usize = 32;

/// The chain that a table is about.
pub(super) struct Identity {
    /// The chain.
    pub network: Network,
    /// What addresses start with, before the 1; always there for a Cosmos network without mistakes.
    pub bech32_prefix: Option<String>,
    /// The hash of the first block, if the file says so; Solana only.
    pub genesis_hash: Option<String>,
}

/// The chain that the name, `kind`, `chain_id`, `genesis_hash` and `bech32_prefix` agree on.
pub(super) fn identity(name: &str, location: Location, raw: &RawNetwork, report: &mut Report) -> Option<Identity> {
    let network = network(name, location, raw, report)?;
    let bech32_prefix = match network.kind() {
        ChainKind::Cosmos => bech32_prefix(name, location, &network, raw, report),
        _ => None,
    };
    let genesis_hash = match network.kind() {
        ChainKind::Solana => genesis_hash(name, raw, report),
        _ => None,
    };
    Some(Identity { network, bech32_prefix, genesis_hash })
}

fn network(name: &str, location: Location, raw: &RawNetwork, report: &mut Report) -> Option<Network> {
    let label = toml_key(name);
    let chain_id = raw.chain_id.as_ref().and_then(|at| at.value.0.as_ref().map(|id| (id, at.location)));
    if let Ok(network) = name.parse::<Network>() {
        let is_same = |id: &ChainId| match (id, network.kind()) {
            (ChainId::Number(id), ChainKind::Evm) => Some(*id) == network.chain_id(),
            (ChainId::Text(id), ChainKind::Cosmos) => id == network.reference(),
            _ => false,
        };
        if let Some((other, location)) = chain_id.filter(|(id, _)| !is_same(id)) {
            let message = format!("networks.{label}.chain_id: {name} is {network}, got {}", spelled(other));
            report.error_with_hint(location, message, "leave chain_id out, or give the network another name");
        }
        let kind = raw.kind.as_ref().and_then(|at| at.value.0.map(|kind| (family(kind), at.location)));
        if let Some((other, location)) = kind.filter(|(kind, _)| *kind != network.kind()) {
            let (is, got) = (network.kind().family(), other.family());
            report.error(location, format!("networks.{label}.kind: {name} is a network of the kind {is}, got {got}"));
        }
        return Some(network);
    }
    if name.contains(':') {
        let message = name.parse::<Network>().err().map(|error| error.to_string()).unwrap_or_default();
        report.error(location, message);
        return None;
    }
    let kind = match &raw.kind {
        // A mistake that was reported.
        Some(At { value: Lenient(None), .. }) => return None,
        Some(At { value: Lenient(Some(kind)), .. }) => Some(*kind),
        None => None,
    };
    let needs_chain_id = kind.is_none_or(|kind| kind != Kind::Solana);
    let (Some(kind), false) = (kind, needs_chain_id && raw.chain_id.is_none()) else {
        let names =
            KNOWN_NETWORKS.iter().flat_map(|known| known.v1_name.into_iter().chain(known.aliases.iter().copied()));
        let hint = did_you_mean(name, names)
            .unwrap_or_else(|| "a network of your own states kind = \"evm\", chain_id = … and assets".to_owned());
        report.error_with_hint(location, format!("{} is no known network", shown(name)), hint);
        return None;
    };
    check_name(name, location, report);
    match kind {
        Kind::Evm => evm(&label, chain_id?, report),
        Kind::Cosmos => cosmos(&label, chain_id?, report),
        Kind::Solana => solana(&label, location, raw, report),
    }
}

fn family(kind: Kind) -> ChainKind {
    match kind {
        Kind::Evm => ChainKind::Evm,
        Kind::Solana => ChainKind::Solana,
        Kind::Cosmos => ChainKind::Cosmos,
    }
}

fn spelled(id: &ChainId) -> String {
    match id {
        ChainId::Number(id) => id.to_string(),
        ChainId::Text(id) => shown(id),
    }
}

fn evm(label: &str, (id, at): (&ChainId, Location), report: &mut Report) -> Option<Network> {
    match id {
        ChainId::Number(0) => {
            report.error(at, format!("networks.{label}.chain_id: expected 1 or more, got 0"));
            None
        }
        ChainId::Number(id) => Some(Network::evm(*id)),
        ChainId::Text(id) => {
            let message = format!("networks.{label}.chain_id: expected the number of an EVM chain, got {}", shown(id));
            report.error(at, message);
            None
        }
    }
}

fn cosmos(label: &str, (id, at): (&ChainId, Location), report: &mut Report) -> Option<Network> {
    let network = match id {
        ChainId::Text(id) => format!("cosmos:{id}").parse().ok(),
        ChainId::Number(_) => None,
    };
    if network.is_none() {
        let expected = "expected a Cosmos chain id of 1 to 32 letters, digits, `-` and `_`, such as \"mychain-1\"";
        report.error(at, format!("networks.{label}.chain_id: {expected}, got {}", spelled(id)));
    }
    network
}

/// A Solana chain of the operator's own is named by the hash of its first block.
fn solana(label: &str, location: Location, raw: &RawNetwork, report: &mut Report) -> Option<Network> {
    if let Some(at) = &raw.chain_id {
        let message = format!("networks.{label}.chain_id means nothing on a Solana network");
        report.error_with_hint(at.location, message, "a Solana chain is named by genesis_hash");
    }
    let Some(At { value: Lenient(hash), .. }) = &raw.genesis_hash else {
        let message = format!("networks.{label} lacks the key \"genesis_hash\"");
        report.error_with_hint(location, message, "it is what getGenesisHash answers: solana genesis-hash");
        return None;
    };
    let reference = hash.as_ref()?.get(..SOLANA_REFERENCE_CHARACTERS);
    // A hash that is too short is reported with its form.
    format!("solana:{}", reference.unwrap_or("unreadable")).parse().ok()
}

/// A genesis hash has the form of an address.
fn genesis_hash(name: &str, raw: &RawNetwork, report: &mut Report) -> Option<String> {
    let At { value: Lenient(hash), location } = raw.genesis_hash.as_ref()?;
    let hash = hash.as_ref()?;
    if canonical_solana_address(hash).is_err() {
        let key = format!("networks.{}.genesis_hash", toml_key(name));
        report.error(*location, format!("{key}: expected 32 bytes in base58, got {}", shown(hash)));
        return None;
    }
    Some(hash.clone())
}

fn bech32_prefix(
    name: &str,
    location: Location,
    network: &Network,
    raw: &RawNetwork,
    report: &mut Report,
) -> Option<String> {
    let label = toml_key(name);
    let known = KNOWN_NETWORKS.iter().find(|known| known.caip2 == network.as_str());
    let known = known.and_then(|known| known.bech32_prefix);
    let typed = match &raw.bech32_prefix {
        None => None,
        Some(At { value: Lenient(typed), location }) => Some((typed.as_ref()?, *location)),
    };
    match (typed, known) {
        (None, Some(known)) => Some(known.to_owned()),
        (None, None) => {
            let message = format!("networks.{label} lacks the key \"bech32_prefix\"");
            report.error_with_hint(location, message, "it is what addresses start with before the 1, such as \"osmo\"");
            None
        }
        (Some((typed, at)), Some(known)) if typed != known => {
            let message = format!("networks.{label}.bech32_prefix: addresses of {name} start with {known}1");
            report.error_with_hint(at, message, "leave bech32_prefix out, or give the network another name");
            None
        }
        (Some((typed, at)), _) if !is_bech32_prefix(typed) => {
            let expected = "expected 1 to 20 lower-case letters";
            report.error(at, format!("networks.{label}.bech32_prefix: {expected}, got {}", shown(typed)));
            None
        }
        (Some((typed, _)), _) => Some(typed.clone()),
    }
}
