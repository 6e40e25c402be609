//! What the gateway sells and with what: routes, networks, gas payers; as the configuration in force and the chains say.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::config::{Config, NetworkConfig, Redeliver, RouteAction, RouteConfig, RouteOffer, SettleMode};
use crate::payment::scheme::{Availability, Scheme};
use crate::service::Answer;
use crate::types::{AccountId, AssetId, AtomicAmount, KNOWN_NETWORKS, Network, WaitFor};

/// The largest integer that every reader of JSON keeps exactly.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The configuration in force: a reload puts another one in its place.
pub struct InForce(RwLock<(Arc<Config>, Arc<[WatchedChain]>)>);

impl InForce {
    /// Begins with this one.
    #[must_use]
    pub fn new(config: Arc<Config>, chains: Vec<WatchedChain>) -> Self {
        Self(RwLock::new((config, chains.into())))
    }

    /// The one that holds now.
    #[must_use]
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Its networks.
    #[must_use]
    pub fn chains(&self) -> Arc<[WatchedChain]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// From now on this one holds.
    pub fn set(&self, config: Arc<Config>, chains: Vec<WatchedChain>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (config, chains.into());
    }
}

/// A chain as operators watch it.
#[derive(Clone)]
pub struct WatchedChain {
    /// Its scheme.
    pub scheme: Arc<dyn Scheme>,
    /// How it stands now; asks nobody.
    pub status: Arc<dyn Fn() -> ChainStatus + Send + Sync>,
}

/// How a chain stands.
#[derive(Debug, Clone, Default)]
pub struct ChainStatus {
    /// The newest block's number and how long ago the chain was seen there.
    pub head: Option<(u64, Duration)>,
    /// By how many seconds the chain's clock is ahead of the local one.
    pub clock_skew_secs: Option<i64>,
    /// Digits after the point of the native currency.
    pub native_decimals: u8,
    /// Gas payers.
    pub signers: Vec<WatchedSigner>,
}

/// A gas payer.
#[derive(Debug, Clone)]
pub struct WatchedSigner {
    /// Who.
    pub signer: AccountId,
    /// What it has in the native currency's smallest unit, if it was read yet.
    pub balance: Option<AtomicAmount>,
    /// For how many settlements that lasts at today's fees, as far as they are known.
    pub lasts: Option<u64>,
}

/// `GET /routes`.
pub(super) fn routes(config: &Config) -> Answer {
    let routes: Vec<Value> = config.routes.iter().map(route).collect();
    Answer::json(StatusCode::OK, &json!({ "routes": routes }))
}

fn route(route: &RouteConfig) -> Value {
    let paid = match &route.action {
        RouteAction::Paid(paid) => Some(paid),
        RouteAction::Free | RouteAction::Deny => None,
    };
    let action = match &route.action {
        RouteAction::Paid(_) => "paid",
        RouteAction::Free => "free",
        RouteAction::Deny => "deny",
    };
    json!({
        "route": route.key,
        "action": action,
        "methods": route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
        "host": route.host,
        "path": route.path,
        "upstream": route.upstream,
        "description": paid.map(|paid| paid.description.as_str()),
        "settle": paid.map(|paid| match paid.settle {
            SettleMode::Before => "before",
            SettleMode::After => "after",
        }),
        "redeliver": paid.map(|paid| match paid.redeliver {
            Redeliver::Always => "always",
            Redeliver::Idempotent => "idempotent",
            Redeliver::Never => "never",
        }),
        "offers": paid.map(|paid| paid.offers.iter().map(offer).collect::<Vec<_>>()).unwrap_or_default(),
    })
}

fn offer(offer: &RouteOffer) -> Value {
    json!({
        "network": offer.network.as_str(),
        "asset": offer.asset.id.as_str(),
        "symbol": offer.asset.symbol,
        "decimals": offer.asset.decimals,
        "amount": offer.amount.to_string(),
        "pay_to": offer.pay_to.as_str(),
        "wait_for": wait_for(offer.wait_for),
    })
}

fn wait_for(level: WaitFor) -> &'static str {
    level.as_str()
}

/// `GET /networks`.
pub(super) fn networks(config: &Config, chains: &[WatchedChain]) -> Answer {
    let networks: Vec<Value> = chains.iter().map(|chain| network(config, chain)).collect();
    Answer::json(StatusCode::OK, &json!({ "networks": networks }))
}

fn network(config: &Config, chain: &WatchedChain) -> Value {
    let id = chain.scheme.network();
    let configured = config.networks.iter().find(|network| network.network == *id);
    let status = (chain.status)();
    let (is_ready, detail) = told(chain.scheme.availability());
    json!({
        "network": id.as_str(),
        "name": configured.map_or(id.as_str(), |network| network.name.as_str()),
        "ready": is_ready,
        "detail": detail,
        "head": status.head.map(|(number, age)| json!({
            "number": number.min(INTEGER_MAX),
            "age_millis": u64::try_from(age.as_millis()).unwrap_or(INTEGER_MAX).min(INTEGER_MAX),
        })),
        "clock_skew_seconds": status.clock_skew_secs,
        "pay_to": configured.map(|network| network.pay_to.as_str()),
        "wait_for": configured.map(|network| wait_for(network.wait_for)),
        "assets": configured.map(|network| assets(network, chain.scheme.as_ref())).unwrap_or_default(),
    })
}

fn assets(network: &NetworkConfig, scheme: &dyn Scheme) -> Vec<Value> {
    let of_asset = |asset: &crate::types::Asset| {
        let (is_ready, detail) = told(scheme.availability_of(&asset.id));
        json!({
            "asset": asset.id.as_str(),
            "symbol": asset.symbol,
            "decimals": asset.decimals,
            "is_usd": asset.is_usd,
            "ready": is_ready,
            "detail": detail,
        })
    };
    network.assets.iter().map(of_asset).collect()
}

fn told(availability: Availability) -> (bool, Option<String>) {
    let refusal = availability.refusal();
    (refusal.is_none(), refusal)
}

/// `GET /signers`.
pub(super) fn signers(chains: &[WatchedChain]) -> Answer {
    let mut all = Vec::new();
    for chain in chains {
        let status = (chain.status)();
        for signer in &status.signers {
            all.push(json!({
                "network": chain.scheme.network().as_str(),
                "signer": signer.signer.as_str(),
                "balance": signer.balance.map(|balance| balance.to_string()),
                "decimals": status.native_decimals,
                "payments_left_min": signer.lasts.map(|lasts| lasts.min(INTEGER_MAX)),
            }));
        }
    }
    Answer::json(StatusCode::OK, &json!({ "signers": all }))
}

/// What an asset is called and how it is counted, where the configuration or the table of known networks says.
pub(super) fn asset(config: &Config, network: &Network, asset: &AssetId) -> Option<Value> {
    let of_network = config.networks.iter().find(|known| known.network == *network);
    let configured = of_network.and_then(|known| known.assets.iter().find(|known| known.id == *asset));
    let (symbol, decimals, is_usd) = match configured {
        Some(known) => (known.symbol.as_str(), known.decimals, known.is_usd),
        // Books outlive configurations.
        None => {
            let is_it = |known: &&crate::types::KnownNetwork| {
                known.caip2 == network.as_str() && known.asset.eq_ignore_ascii_case(asset.as_str())
            };
            let known = KNOWN_NETWORKS.iter().find(is_it)?;
            (known.symbol, known.decimals, known.symbol.starts_with("USD"))
        }
    };
    Some(json!({
        "network": network.as_str(),
        "asset": asset.as_str(),
        "symbol": symbol,
        "decimals": decimals,
        "is_usd": is_usd,
    }))
}
