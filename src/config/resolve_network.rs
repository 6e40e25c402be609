//! From typed to validated: `[networks]`.

use std::collections::HashSet;
use std::time::Duration;

use super::diagnostic::Location;
use super::finality::time_to_finality;
use super::leaf::{Entry, Named};
use super::model::{ChainConfig, NetworkConfig};
use super::raw::Network as RawNetwork;
use super::reader::{At, Report, shown, toml_key};
use super::resolve::bounded;
use super::resolve_asset::assets;
use super::resolve_chain::Place;
use super::secret_source::Secrets;
use super::{resolve_chain, resolve_identity};
use crate::types::{
    AccountId, Asset, ChainKind, Network, WaitFor, canonical_cosmos_address, canonical_evm_address,
    canonical_solana_address,
};

/// The depth of a lane: nodes keep about as many of one account's waiting transactions.
const EVM_SETTLEMENTS_MAX: u64 = 64;

/// Where nothing but memory and the node set a limit, and nothing is said.
const SETTLEMENTS_STANDARD: u64 = 256;

const SETTLEMENTS_MAX: u64 = 100_000;

/// A network's name and as much as is valid of what routes need; routes are checked against it even if the rest of the
/// network isn't valid.
#[derive(Debug)]
pub(super) struct NamedNetwork {
    /// The name as typed.
    pub name: String,
    /// The chain, if the name tells.
    pub network: Option<Network>,
    /// What addresses start with, before the 1; Cosmos only.
    pub bech32_prefix: Option<String>,
    /// Assets, the default first; none if they couldn't be read.
    pub assets: Vec<Asset>,
    /// Where the money goes.
    pub pay_to: Option<AccountId>,
    /// When a settlement counts as done.
    pub wait_for: WaitFor,
    /// How long a request waits for its settlement.
    pub settle_timeout: Duration,
    /// Longest validity of a payment.
    pub max_window: Duration,
    /// Nothing if a mistake was reported.
    pub config: Option<NetworkConfig>,
}

pub(super) fn networks(raw: Named<RawNetwork>, secrets: &Secrets<'_>, report: &mut Report) -> Vec<NamedNetwork> {
    let mut seen: HashSet<Network> = HashSet::new();
    let mut networks = Vec::new();
    for entry in raw.0 {
        let (name, location) = (entry.name.clone(), entry.location);
        let Some(network) = network(entry, secrets, report) else {
            networks.push(NamedNetwork::unreadable(name));
            continue;
        };
        if network.network.as_ref().is_some_and(|chain| !seen.insert(chain.clone())) {
            let message =
                format!("[networks.{}] is a network that already stands above under another name", toml_key(&name));
            report.error(location, message);
        }
        networks.push(network);
    }
    networks
}

impl NamedNetwork {
    /// Whether payments on this network can carry a memo.
    pub fn has_memo(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.kind() != ChainKind::Evm)
    }

    fn unreadable(name: String) -> Self {
        Self {
            network: name.parse().ok(),
            name,
            bech32_prefix: None,
            assets: Vec::new(),
            pay_to: None,
            wait_for: WaitFor::Confirmed,
            settle_timeout: Duration::MAX,
            max_window: Duration::MAX,
            config: None,
        }
    }
}

fn network(entry: Entry<RawNetwork>, secrets: &Secrets<'_>, report: &mut Report) -> Option<NamedNetwork> {
    let Entry { name, location, value } = entry;
    let mut raw = value?.value;
    let label = toml_key(&name);
    let identity = resolve_identity::identity(&name, location, &raw, report);
    let network = identity.as_ref().map(|identity| identity.network.clone());
    let chain = identity.as_ref().and_then(|identity| {
        resolve_chain::chain(&Place { label: &label, location }, identity, &mut raw, secrets, report)
    });
    let assets = match &identity {
        Some(identity) => assets(&label, location, &identity.network, raw.assets?.value, raw.asset.as_ref(), report),
        None => None,
    };
    let prefix = identity.as_ref().and_then(|identity| identity.bech32_prefix.clone());
    let pay_to = match (&network, raw.pay_to) {
        (Some(network), Some(text)) => {
            let key = format!("networks.{label}.pay_to");
            account(&key, network, prefix.as_deref(), &text, report)
                .filter(|account| is_payee(&key, account, assets.as_deref().unwrap_or_default(), text.location, report))
        }
        _ => None,
    };
    let (wait_for, settle_timeout, max_window) = (raw.wait_for?, raw.settle_timeout?.value, raw.max_window?.value);
    if let Some(network) = &network {
        check_finality(&label, network, &wait_for, settle_timeout, report);
    }
    let signers = chain.as_ref().map_or(1, signers);
    let per_signer = max_settlements(&label, raw.max_settlements.as_ref(), network.as_ref(), report);
    let config = (|| {
        Some(NetworkConfig {
            settlements_max: per_signer.saturating_mul(signers),
            queue_timeout: raw.queue_timeout?.value,
            network: network.clone()?,
            name: name.clone(),
            chain: chain?,
            pay_to: pay_to.clone()?,
            pay_to_exclusive: raw.pay_to_exclusive?.value,
            max_window,
            assets: assets.clone()?,
            wait_for: wait_for.value,
            settle_timeout,
            location,
        })
    })();
    let assets = assets.unwrap_or_default();
    let wait_for = wait_for.value;
    Some(NamedNetwork {
        name,
        network,
        bech32_prefix: prefix,
        assets,
        pay_to,
        wait_for,
        settle_timeout,
        max_window,
        config,
    })
}

/// Settlements of one signer at one time. An EVM account can't have more transactions waiting than nodes keep of it.
fn max_settlements(label: &str, raw: Option<&At<u64>>, network: Option<&Network>, report: &mut Report) -> usize {
    let is_evm = network.is_none_or(|network| network.kind() == ChainKind::Evm);
    let most = if is_evm { EVM_SETTLEMENTS_MAX } else { SETTLEMENTS_MAX };
    let standard = if is_evm { EVM_SETTLEMENTS_MAX } else { SETTLEMENTS_STANDARD };
    let given = raw.map(|number| bounded(&format!("networks.{label}.max_settlements"), number, 1..=most, report));
    usize::try_from(given.flatten().unwrap_or(standard)).unwrap_or(1)
}

/// How many accounts settle side by side; a Cosmos payer's own transaction needs none.
fn signers(chain: &ChainConfig) -> usize {
    match chain {
        ChainConfig::Evm(evm) => evm.signers.len(),
        ChainConfig::Solana(solana) => solana.signers.len(),
        ChainConfig::Cosmos(_) => 1,
    }
}

/// An address on a network that money may go to. A Cosmos network whose prefix isn't known has reported that.
pub(super) fn account(
    key: &str,
    network: &Network,
    bech32_prefix: Option<&str>,
    text: &At<String>,
    report: &mut Report,
) -> Option<AccountId> {
    let canonical = match network.kind() {
        ChainKind::Evm => canonical_evm_address(&text.value).map_err(|error| error.to_string()),
        ChainKind::Solana => canonical_solana_address(&text.value).map_err(|error| error.to_string()),
        ChainKind::Cosmos => canonical_cosmos_address(bech32_prefix?, &text.value).map_err(|error| error.to_string()),
    };
    match canonical {
        Ok(canonical) => AccountId::new(canonical).ok(),
        Err(error) => {
            report.error(text.location, format!("{key}: {error}, got {}", shown(&text.value)));
            None
        }
    }
}

/// Tokens sent to their own contract or mint are lost as a rule.
pub(super) fn is_payee(key: &str, pay_to: &AccountId, assets: &[Asset], at: Location, report: &mut Report) -> bool {
    let own = assets.iter().find(|asset| asset.id.as_str() == pay_to.as_str());
    if let Some(asset) = own {
        report.error(at, format!("{key}: {pay_to} is the contract of {} itself, where money is lost", asset.symbol));
    }
    own.is_none()
}

/// Refuses to wait for finality for a shorter time than it takes (contract §1.2).
pub(super) fn check_finality(
    name: &str,
    network: &Network,
    wait_for: &At<WaitFor>,
    settle_timeout: Duration,
    report: &mut Report,
) {
    let needed = time_to_finality(network);
    if wait_for.value == WaitFor::Finalized && settle_timeout < needed {
        let message = format!(
            "wait_for = \"finalized\" takes {} on {name}, but settle_timeout is {}",
            humantime::format_duration(needed),
            humantime::format_duration(settle_timeout)
        );
        let hint = format!("set networks.{name}.settle_timeout to that or more, or wait_for = \"confirmed\"");
        report.error_with_hint(wait_for.location, message, hint);
    }
}
