//! From typed to validated: `[networks]`.

use std::collections::HashSet;
use std::time::Duration;

use url::Url;

use super::diagnostic::Location;
use super::finality::time_to_finality;
use super::later;
use super::leaf::{Entry, Lenient, List, Named, OneOrMany};
use super::model::{NetworkConfig, Payers, SignerSource};
use super::raw::{Network as RawNetwork, PayerKind};
use super::reader::{At, Report, check_name, did_you_mean, shown, toml_key};
use super::resolve::bounded;
use super::resolve_asset::assets;
use super::secret::Secret;
use super::secret_source::{Secrets, Signer, TextOrSecret, location_of};
use crate::types::WaitFor;
use crate::types::{
    AccountId, Asset, AtomicAmount, ChainKind, DecimalAmount, KNOWN_NETWORKS, Network, canonical_evm_address,
};

const CONFIRMATIONS_MAX: u64 = 10_000;
const ETHER_DECIMALS: u8 = 18;

/// A network's name and as much as is valid of what routes need; routes are checked against it even if the rest of the
/// network isn't valid.
#[derive(Debug)]
pub(super) struct NamedNetwork {
    /// The name as typed.
    pub name: String,
    /// The chain, if the name tells.
    pub network: Option<Network>,
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
    fn unreadable(name: String) -> Self {
        Self {
            network: name.parse().ok(),
            name,
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
    let raw = value?.value;
    let label = toml_key(&name);
    let chain = chain(&name, location, &raw, report);
    if chain.as_ref().is_some_and(|chain| chain.kind() != ChainKind::Evm) {
        return None;
    }
    let assets = match &chain {
        Some(chain) => assets(&label, location, chain, raw.assets?.value, raw.asset.as_ref(), report),
        None => None,
    };
    let rpc_urls = raw.rpc_url.and_then(|urls| rpc_urls(&label, urls.value, secrets, report));
    let signers = raw.signer.and_then(|signers| read_signers(&label, signers.value, secrets, report));
    let pay_to = raw.pay_to.and_then(|text| {
        let key = format!("networks.{label}.pay_to");
        let account = account(&key, &text, report)?;
        refuse_token_as_payee(&key, &account, assets.as_deref().unwrap_or_default(), text.location, report);
        Some(account)
    });
    let payers = payers(&label, raw.payers?.value, report);
    let confirmations =
        bounded(&format!("networks.{label}.confirmations"), &raw.confirmations?, 1..=CONFIRMATIONS_MAX, report);
    let max_fee = max_fee(&label, &raw.max_fee?, report);
    let (wait_for, settle_timeout, max_window) = (raw.wait_for?, raw.settle_timeout?.value, raw.max_window?.value);
    if let Some(chain) = &chain {
        check_finality(&label, chain, &wait_for, settle_timeout, report);
    }
    let config = (|| {
        Some(NetworkConfig {
            network: chain.clone()?,
            name: name.clone(),
            rpc_urls: rpc_urls?,
            signers: signers?,
            pay_to: pay_to.clone()?,
            pay_to_exclusive: raw.pay_to_exclusive?.value,
            payers,
            max_window,
            confirmations: confirmations?,
            assets: assets.clone()?,
            wait_for: wait_for.value,
            max_fee: max_fee?,
            settle_timeout,
            location,
        })
    })();
    let assets = assets.unwrap_or_default();
    let wait_for = wait_for.value;
    Some(NamedNetwork { name, network: chain, assets, pay_to, wait_for, settle_timeout, max_window, config })
}

/// The chain that name, `kind` and `chain_id` agree on.
fn chain(name: &str, location: Location, raw: &RawNetwork, report: &mut Report) -> Option<Network> {
    let named: Option<Network> = name.parse().ok();
    if later::is_network_for_later(name) || named.as_ref().is_some_and(|network| network.kind() != ChainKind::Evm) {
        let message = format!("the network {} is not supported by this version yet", shown(name));
        report.error_with_hint(location, message, "this version knows EVM networks");
        return named.or_else(|| "cosmos:later".parse().ok());
    }
    let label = toml_key(name);
    if let Some(network) = named {
        let chain_id = raw.chain_id.as_ref().and_then(|at| at.value.0.map(|id| (id, at.location)));
        if let Some((other, location)) = chain_id.filter(|(id, _)| Some(*id) != network.chain_id()) {
            let message = format!("networks.{label}.chain_id: {name} is {network}, got {other}");
            report.error_with_hint(location, message, "leave chain_id out, or give the network another name");
        }
        return Some(network);
    }
    if name.contains(':') {
        let message = name.parse::<Network>().err().map(|error| error.to_string()).unwrap_or_default();
        report.error(location, message);
        return None;
    }
    if raw.kind.as_ref().is_some_and(|kind| kind.value.0.is_none()) {
        return None;
    }
    let (Some(At { value: Lenient(chain_id), location: at }), Some(_)) = (raw.chain_id.as_ref(), &raw.kind) else {
        let names =
            KNOWN_NETWORKS.iter().flat_map(|known| known.v1_name.into_iter().chain(known.aliases.iter().copied()));
        let hint = did_you_mean(name, names)
            .unwrap_or_else(|| "a network of your own states kind = \"evm\", chain_id = … and assets".to_owned());
        report.error_with_hint(location, format!("{} is no known network", shown(name)), hint);
        return None;
    };
    check_name(name, location, report);
    let chain_id = (*chain_id)?;
    if chain_id == 0 {
        report.error(*at, format!("networks.{label}.chain_id: expected 1 or more, got 0"));
        return None;
    }
    Some(Network::evm(chain_id))
}

/// The URLs are never shown: they often hold an access token.
fn rpc_urls(
    name: &str,
    raw: OneOrMany<TextOrSecret>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Vec<Secret>> {
    let count = raw.0.len();
    let mut urls: Vec<Secret> = Vec::new();
    for url in raw.0 {
        let Some(secret) = secrets.read_text(&url, report) else { continue };
        let key = format!("networks.{name}.rpc_url");
        let is_endpoint = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        match Url::parse(secret.expose()) {
            Ok(parsed) if is_endpoint(&parsed) => {
                if urls.iter().any(|other| other.expose() == secret.expose()) {
                    report.error(url.location, format!("{key}: the same URL is listed twice"));
                } else {
                    urls.push(secret);
                }
            }
            Ok(parsed) => {
                let message =
                    format!("{key}: expected an http or https URL, got the scheme {}", shown(parsed.scheme()));
                report.error(url.location, message);
            }
            Err(error) => report.error(url.location, format!("{key}: expected an http or https URL: {error}")),
        }
    }
    (urls.len() == count).then_some(urls)
}

fn read_signers(
    name: &str,
    raw: OneOrMany<Signer>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Vec<SignerSource>> {
    let count = raw.0.len();
    let mut signers: Vec<SignerSource> = Vec::new();
    for signer in &raw.0 {
        let Some(source) = secrets.read_signer(signer, report) else { continue };
        // Two lanes with one key would take the same account nonces.
        if signers.iter().any(|other| is_same_signer(other, &source)) {
            let message = format!("networks.{name}.signer: the same key is listed twice; each lane needs its own");
            report.error(location_of(&source), message);
            continue;
        }
        signers.push(source);
    }
    (signers.len() == count).then_some(signers)
}

fn is_same_signer(one: &SignerSource, other: &SignerSource) -> bool {
    let digits = |key: &Secret| key.expose().trim_start_matches("0x").to_ascii_lowercase();
    match (one, other) {
        (SignerSource::Key { key: one, .. }, SignerSource::Key { key: other, .. }) => digits(one) == digits(other),
        (SignerSource::Keystore { path: one, .. }, SignerSource::Keystore { path: other, .. }) => one == other,
        _ => false,
    }
}

/// An EVM address that money may go to.
pub(super) fn account(key: &str, text: &At<String>, report: &mut Report) -> Option<AccountId> {
    match canonical_evm_address(&text.value) {
        Ok(canonical) => AccountId::new(canonical).ok(),
        Err(error) => {
            report.error(text.location, format!("{key}: {error}, got {}", shown(&text.value)));
            None
        }
    }
}

/// Tokens sent to their own contract are lost as a rule.
pub(super) fn refuse_token_as_payee(
    key: &str,
    pay_to: &AccountId,
    assets: &[Asset],
    at: Location,
    report: &mut Report,
) {
    if let Some(asset) = assets.iter().find(|asset| asset.id.as_str() == pay_to.as_str()) {
        report.error(at, format!("{key}: {pay_to} is the contract of {} itself, where money is lost", asset.symbol));
    }
}

fn payers(name: &str, raw: List<PayerKind>, report: &mut Report) -> Payers {
    let mut payers = Payers { eoa: false, contract: false };
    for At { value, location } in raw.0 {
        let taken = match value {
            PayerKind::Eoa => &mut payers.eoa,
            PayerKind::Contract => &mut payers.contract,
        };
        if std::mem::replace(taken, true) {
            report.error(location, format!("networks.{name}.payers: the same kind is listed twice"));
        }
    }
    payers
}

fn max_fee(name: &str, text: &At<String>, report: &mut Report) -> Option<AtomicAmount> {
    let wei = text.value.parse::<DecimalAmount>().ok().and_then(|fee| fee.to_atomic(ETHER_DECIMALS));
    match wei {
        Some(wei) if !wei.is_zero() => Some(wei),
        _ => {
            let expected = "expected native units above zero with at most 18 decimals, such as \"0.001\"";
            report.error(text.location, format!("networks.{name}.max_fee: {expected}, got {}", shown(&text.value)));
            None
        }
    }
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
