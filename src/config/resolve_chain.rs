//! From typed to validated: what only one family of chains has under `[networks]`.

use url::Url;

use super::diagnostic::Location;
use super::leaf::{Lenient, List, OneOrMany};
use super::model::{ChainConfig, CosmosConfig, EvmConfig, FeeRules, Payers, SignerSource, SolanaConfig};
use super::raw::{Network as RawNetwork, PayerKind};
use super::reader::{At, Report, shown};
use super::resolve::bounded;
use super::resolve_identity::Identity;
use super::secret::Secret;
use super::secret_source::{Secrets, Signer, TextOrSecret, location_of};
use crate::types::{AtomicAmount, ChainKind, DecimalAmount};

const CONFIRMATIONS_MAX: u64 = 10_000;
/// Decimals of the native unit, and `max_fee` where the file says nothing.
const ETHER: (u8, &str) = (18, "0.001");
const SOL: (u8, &str) = (9, "0.0001");
/// Digits after the point of a dollar.
const USD_DECIMALS: u8 = 6;

/// Which network mistakes are about.
pub(super) struct Place<'a> {
    /// Its name as it would be written in the file.
    pub label: &'a str,
    /// Where its table stands.
    pub location: Location,
}

/// What the family needs; nothing if a mistake was reported.
pub(super) fn chain(
    place: &Place<'_>,
    identity: &Identity,
    raw: &mut RawNetwork,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<ChainConfig> {
    let kind = identity.network.kind();
    refuse_foreign(place, kind, raw, report);
    match kind {
        ChainKind::Evm => evm(place, raw, secrets, report).map(ChainConfig::Evm),
        ChainKind::Solana => {
            let (rpc_urls, signers) = endpoints_and_signers(place, kind, raw, secrets, report);
            let max_fee = max_fee(place.label, raw.max_fee.as_ref(), SOL, report);
            let fees = fee_rules(place.label, raw, SOL, report);
            Some(ChainConfig::Solana(SolanaConfig {
                rpc_urls: rpc_urls?,
                signers: signers?,
                max_fee: max_fee?,
                fees: fees?,
                genesis_hash: identity.genesis_hash.clone(),
            }))
        }
        ChainKind::Cosmos => {
            let grpc_urls = needed(place, "grpc_url", "The gRPC endpoint of a node.", raw.grpc_url.take(), report)
                .and_then(|raw| urls(&format!("networks.{}.grpc_url", place.label), raw, secrets, report));
            Some(ChainConfig::Cosmos(CosmosConfig {
                grpc_urls: grpc_urls?,
                bech32_prefix: identity.bech32_prefix.clone()?,
                requires_timeout_height: raw.require_timeout_height.as_ref().is_some_and(|at| at.value),
            }))
        }
    }
}

fn evm(place: &Place<'_>, raw: &mut RawNetwork, secrets: &Secrets<'_>, report: &mut Report) -> Option<EvmConfig> {
    let (rpc_urls, signers) = endpoints_and_signers(place, ChainKind::Evm, raw, secrets, report);
    let payers =
        raw.payers.take().map_or(Payers { eoa: true, contract: true }, |raw| payers(place.label, raw.value, report));
    let confirmations = match &raw.confirmations {
        Some(number) => {
            bounded(&format!("networks.{}.confirmations", place.label), number, 1..=CONFIRMATIONS_MAX, report)
        }
        None => Some(1),
    };
    let max_fee = max_fee(place.label, raw.max_fee.as_ref(), ETHER, report);
    let fees = fee_rules(place.label, raw, ETHER, report);
    Some(EvmConfig {
        rpc_urls: rpc_urls?,
        signers: signers?,
        payers,
        confirmations: confirmations?,
        max_fee: max_fee?,
        fees: fees?,
    })
}

fn endpoints_and_signers(
    place: &Place<'_>,
    kind: ChainKind,
    raw: &mut RawNetwork,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> (Option<Vec<Secret>>, Option<Vec<SignerSource>>) {
    let about = "The JSON-RPC endpoint, or a list of which the first healthy one wins.";
    let rpc_urls = needed(place, "rpc_url", about, raw.rpc_url.take(), report)
        .and_then(|raw| urls(&format!("networks.{}.rpc_url", place.label), raw, secrets, report));
    let about = "The account that pays fees and holds no revenue; a list gives parallel lanes.";
    let signers = needed(place, "signer", about, raw.signer.take(), report)
        .and_then(|raw| read_signers(place.label, raw, kind, secrets, report));
    (rpc_urls, signers)
}

/// A key that this family can't do without; a bad value has been reported.
fn needed<T>(
    place: &Place<'_>,
    key: &str,
    about: &str,
    value: Option<At<Lenient<T>>>,
    report: &mut Report,
) -> Option<T> {
    let Some(At { value: Lenient(value), .. }) = value else {
        let message = format!("networks.{} lacks the key {key:?}", place.label);
        report.error_with_hint(place.location, message, format!("it is needed: {about}"));
        return None;
    };
    value
}

/// Refuses keys that mean nothing for a family.
fn refuse_foreign(place: &Place<'_>, kind: ChainKind, raw: &RawNetwork, report: &mut Report) {
    let (evm, solana, cosmos) = (ChainKind::Evm, ChainKind::Solana, ChainKind::Cosmos);
    let given: [(&str, Option<Location>, &[ChainKind]); 11] = [
        ("rpc_url", raw.rpc_url.as_ref().map(|at| at.location), &[evm, solana]),
        ("grpc_url", raw.grpc_url.as_ref().map(|at| at.location), &[cosmos]),
        ("signer", raw.signer.as_ref().map(|at| at.location), &[evm, solana]),
        ("payers", raw.payers.as_ref().map(|at| at.location), &[evm]),
        ("confirmations", raw.confirmations.as_ref().map(|at| at.location), &[evm]),
        ("max_fee", raw.max_fee.as_ref().map(|at| at.location), &[evm, solana]),
        ("max_fee_per_day", raw.max_fee_per_day.as_ref().map(|at| at.location), &[evm, solana]),
        ("native_usd", raw.native_usd.as_ref().map(|at| at.location), &[evm, solana]),
        ("require_timeout_height", raw.require_timeout_height.as_ref().map(|at| at.location), &[cosmos]),
        ("genesis_hash", raw.genesis_hash.as_ref().map(|at| at.location), &[solana]),
        ("bech32_prefix", raw.bech32_prefix.as_ref().map(|at| at.location), &[cosmos]),
    ];
    for (key, location, kinds) in given {
        if let Some(location) = location.filter(|_| !kinds.contains(&kind)) {
            let message = format!("networks.{}.{key} means nothing on {}", place.label, kind.a_network());
            let hint = match (key, kind) {
                ("rpc_url", ChainKind::Cosmos) => "a Cosmos network is reached through grpc_url",
                ("signer" | "max_fee" | "max_fee_per_day" | "native_usd", ChainKind::Cosmos) => {
                    "the payer's own transaction pays its fee; remove it"
                }
                _ => "remove it",
            };
            report.error_with_hint(location, message, hint);
        }
    }
}

/// The URLs are never shown: they often hold an access token.
fn urls(key: &str, raw: OneOrMany<TextOrSecret>, secrets: &Secrets<'_>, report: &mut Report) -> Option<Vec<Secret>> {
    let count = raw.0.len();
    let mut urls: Vec<Secret> = Vec::new();
    for url in raw.0 {
        let Some(secret) = secrets.read_text(&url, report) else { continue };
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
    kind: ChainKind,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Vec<SignerSource>> {
    let count = raw.0.len();
    let mut signers: Vec<SignerSource> = Vec::new();
    for signer in &raw.0 {
        let Some(source) = secrets.read_signer(signer, kind, report) else { continue };
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

/// The most that one settlement may cost, in the chain's smallest unit.
fn max_fee(
    name: &str,
    text: Option<&At<String>>,
    (decimals, default): (u8, &str),
    report: &mut Report,
) -> Option<AtomicAmount> {
    match text {
        Some(text) => units("native units", decimals, default, &format!("networks.{name}.max_fee"), text, report),
        None => default.parse::<DecimalAmount>().ok().and_then(|fee| fee.to_atomic(decimals)),
    }
}

/// What bounds fees beyond those of one settlement.
fn fee_rules(name: &str, raw: &RawNetwork, (decimals, example): (u8, &str), report: &mut Report) -> Option<FeeRules> {
    let mut read = |what: &str, decimals: u8, example: &str, key: &str, text: Option<&At<String>>| match text {
        Some(text) => units(what, decimals, example, &format!("networks.{name}.{key}"), text, report).map(Some),
        None => Some(None),
    };
    let max_per_day = read("native units", decimals, example, "max_fee_per_day", raw.max_fee_per_day.as_ref());
    let native_usd = read("dollars", USD_DECIMALS, "2500", "native_usd", raw.native_usd.as_ref());
    Some(FeeRules { max_per_day: max_per_day?, native_usd_millionths: native_usd? })
}

/// A decimal number above zero in its smallest unit.
fn units(
    what: &str,
    decimals: u8,
    example: &str,
    key: &str,
    text: &At<String>,
    report: &mut Report,
) -> Option<AtomicAmount> {
    let units = text.value.parse::<DecimalAmount>().ok().and_then(|number| number.to_atomic(decimals));
    let units = units.filter(|units| !units.is_zero());
    if units.is_none() {
        let expected = format!("expected {what} above zero with at most {decimals} decimals, such as \"{example}\"");
        report.error(text.location, format!("{key}: {expected}, got {}", shown(&text.value)));
    }
    units
}
