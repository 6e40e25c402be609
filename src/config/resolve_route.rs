//! From typed to validated: `[routes]`.

use std::time::Duration;

use super::diagnostic::Location;
use super::forward_path::forward_path;
use super::free_for;
use super::leaf::{Entry, List, Named};
use super::model::{PaidRoute, Rates, RouteAction, RouteConfig, RouteOffer, SettleMode};
use super::raw::{Dialect, Route, RouteValue};
use super::reader::{At, Report, did_you_mean, listed, shown, toml_key};
use super::resolve_input::input;
use super::resolve_network::{NamedNetwork, account, check_finality, is_payee};
use super::resolve_price::{Ask, amount_on};
use super::resolve_upstream::NamedUpstream;
use super::route_key::RouteKey;
use super::secret_source::Secrets;
use crate::types::{AccountId, AddressRange, ChainKind, DecimalAmount, KNOWN_NETWORKS, Network, Price, Rate};

const DESCRIPTION_CHARACTERS_MAX: usize = 500;
/// protocol §4; Cosmos chains' usual `max_memo_characters` is the same.
const MEMO_BYTES_MAX: usize = 256;

/// What routes refer to.
pub(super) struct Scope<'a> {
    /// Upstreams by name, valid or not.
    pub upstreams: &'a [NamedUpstream],
    /// Networks by name, valid or not.
    pub networks: &'a [NamedNetwork],
    /// The highest price, in dollars.
    pub max_price: DecimalAmount,
    /// Whether routes that don't say so speak the vitwit dialect.
    pub vitwit: bool,
    /// The proxies in front.
    pub trusted: &'a [AddressRange],
    /// How the keys of callers are read.
    pub secrets: &'a Secrets<'a>,
}

impl<'a> Scope<'a> {
    /// One route, or nothing if a mistake was reported here or in what it refers to.
    pub fn route(&self, entry: &Entry<RouteValue>, report: &mut Report) -> Option<RouteConfig> {
        let Entry { name: key, location, value } = entry;
        let parts = RouteKey::parse(key)
            .map_err(|error| {
                report.list.push(super::Diagnostic { location: *location, message: error.message, hint: error.hint })
            })
            .ok();
        let (price, table) = match value.as_ref().map(|at| (&at.value, at.location)) {
            None => return None,
            Some((RouteValue::Price(price), location)) => (At { value: price.clone(), location }, None),
            Some((RouteValue::Table(table), _)) => (table.price.clone()?, Some(table.as_ref())),
        };
        let parsed: Option<Price> = price
            .value
            .parse()
            .map_err(|error: crate::types::PriceError| {
                report.error(price.location, format!("{}: {error}", name_of(key)))
            })
            .ok();
        let is_denied = parsed == Some(Price::Deny);
        let upstream =
            self.upstream(key, *location, table.and_then(|table| table.upstream.as_ref()), is_denied, report);
        let action = match parsed? {
            Price::Free => free_action(key, table, report, RouteAction::Free),
            Price::Deny => free_action(key, table, report, RouteAction::Deny),
            Price::Usd(dollars) => {
                self.paid(key, &At { value: Ask::Usd(dollars), location: price.location }, table, report)
            }
            Price::Atomic { amount, asset } => {
                let ask = Ask::Atomic { amount, asset };
                self.paid(key, &At { value: ask, location: price.location }, table, report)
            }
        };
        let RouteKey { methods, host, path } = parts?;
        let forward = table.map(|table| forward_path(&name_of(key), &path, table, report)).unwrap_or_default();
        let is_websocket = table.and_then(|table| table.websocket.as_ref()).is_some_and(|websocket| websocket.value);
        if let Some(settle) = table.and_then(|table| table.settle.as_ref()).filter(|_| is_websocket)
            && settle.value == SettleMode::After
        {
            let message = format!("{}.settle: \"after\" is not possible with websocket = true", name_of(key));
            report.error_with_hint(settle.location, message, "a WebSocket has no answer that could wait for its money");
        }
        let max_duration = table.and_then(|table| table.max_duration.as_ref()).map(|duration| duration.value);
        let websocket = if is_websocket { Some(max_duration?) } else { None };
        let upstream = if is_denied { None } else { Some(upstream?) };
        let free_for = table.and_then(|table| table.free_for.as_ref());
        let free_for = free_for::free_for(&name_of(key), free_for, self.trusted, self.secrets, report)?;
        let rate = |read: fn(&Route) -> Option<&At<Rate>>| table.and_then(read).map(|at| at.value);
        let rates = Rates {
            unpaid: rate(|table| table.unpaid_rate.as_ref()),
            paid: rate(|table| table.paid_rate.as_ref()),
            total: rate(|table| table.total_rate.as_ref()),
        };
        Some(RouteConfig {
            key: key.clone(),
            location: *location,
            methods,
            host,
            path,
            action: action?,
            upstream,
            forward,
            websocket,
            rates,
            free_quota: rate(|table| table.free_quota.as_ref()),
            free_for,
        })
    }

    fn upstream(
        &self,
        key: &str,
        location: Location,
        named: Option<&At<String>>,
        is_denied: bool,
        report: &mut Report,
    ) -> Option<String> {
        let names = || self.upstreams.iter().map(|upstream| upstream.name.as_str());
        if let Some(At { value, location }) = named {
            if names().any(|name| name == value) {
                return Some(value.clone());
            }
            let hint = did_you_mean(value, names()).unwrap_or_else(|| format!("add [upstreams.{}]", toml_key(value)));
            report.error_with_hint(
                *location,
                format!("{}.upstream: no upstream is called {}", name_of(key), shown(value)),
                hint,
            );
            return None;
        }
        match (self.upstreams, is_denied) {
            (_, true) => None,
            ([only], _) => Some(only.name.clone()),
            ([], _) => {
                let hint = "add [upstreams.api] with servers = [\"127.0.0.1:9000\"]";
                report.error_with_hint(location, format!("{} has no upstream to go to", name_of(key)), hint);
                None
            }
            _ => {
                let message = format!("{} does not say which upstream it goes to", name_of(key));
                let hint = format!("write a table with upstream = \"…\"; the upstreams are {}", listed(names()));
                report.error_with_hint(location, message, hint);
                None
            }
        }
    }

    fn paid(&self, key: &str, ask: &At<Ask>, table: Option<&Route>, report: &mut Report) -> Option<RouteAction> {
        let defaults;
        let table = match table {
            Some(table) => table,
            None => {
                defaults = Route::with_defaults()?;
                &defaults
            }
        };
        let offered = self.offered(key, ask, table.networks.as_ref(), report);
        let max_timeout = table.max_timeout.clone()?;
        check_timeout(key, &max_timeout, &offered, report);
        let payees = self.payees(key, table.pay_to.as_ref(), &offered, report);
        let texts_are_legal = texts_are_legal(key, table, report);
        let may_settle_then = may_settle_then(key, table, &offered, report);
        let memo = memo(key, table.memo.as_ref(), &offered, report);
        let input = match &table.input {
            Some(typed) => Some(input(&name_of(key), key, typed, report)?),
            None => None,
        };
        let offers: Vec<RouteOffer> = offered
            .iter()
            .filter_map(|network| {
                let (asset, amount) = amount_on(network, &name_of(key), ask, self.max_price, report)?;
                if let (Some(wait_for), Some(chain)) = (&table.wait_for, &network.network) {
                    check_finality(&toml_key(&network.name), chain, wait_for, network.settle_timeout, report);
                }
                let own = payees.iter().find(|(name, _)| *name == network.name).map(|(_, account)| account.clone());
                Some(RouteOffer {
                    network: network.network.clone()?,
                    asset,
                    amount,
                    pay_to: own.or_else(|| network.pay_to.clone())?,
                    wait_for: table.wait_for.as_ref().map_or(network.wait_for, |at| at.value),
                    memo: memo.clone().filter(|_| network.has_memo()),
                })
            })
            .collect();
        refuse_differing_units(&name_of(key), ask, &offers, report)?;
        // A network that can't be offered is a mistake that was reported; a route without it is not what was asked for.
        if offers.is_empty() || offers.len() != offered.len() || !texts_are_legal || !may_settle_then {
            return None;
        }
        Some(RouteAction::Paid(PaidRoute {
            offers,
            description: table.description.clone()?.value,
            mime_type: table.mime_type.clone()?.value,
            output_schema: table.output_schema.clone().map(|schema| schema.value.0),
            input,
            discoverable: table.discoverable.as_ref().is_none_or(|discoverable| discoverable.value),
            max_timeout: max_timeout.value,
            settle: table.settle.clone()?.value,
            redeliver: table.redeliver.clone()?.value,
            vitwit: match &table.dialects {
                Some(typed) => speaks_vitwit(&name_of(key), typed, report),
                None => self.vitwit,
            },
            payment_identifier: table.payment_identifier.clone()?.value,
        }))
    }

    /// The networks that a route is offered on, in its order.
    fn offered(
        &self,
        key: &str,
        ask: &At<Ask>,
        named: Option<&At<List<String>>>,
        report: &mut Report,
    ) -> Vec<&'a NamedNetwork> {
        if let Some(named) = named {
            let mut offered: Vec<&NamedNetwork> = Vec::new();
            for name in &named.value.0 {
                let Some(network) = self.network(&format!("{}.networks", name_of(key)), name, report) else { continue };
                if offered.iter().any(|other| other.name == network.name) {
                    let message = format!("{}.networks: {} is listed twice", name_of(key), shown(&name.value));
                    report.error(name.location, message);
                    continue;
                }
                offered.push(network);
            }
            return offered;
        }
        if self.networks.is_empty() {
            let hint = "add [networks.base-sepolia] with rpc_url, signer and pay_to";
            report.error_with_hint(
                ask.location,
                format!("{} has a price and no network to be paid on", name_of(key)),
                hint,
            );
            return Vec::new();
        }
        // Networks that couldn't be read stay, so that the route isn't blamed.
        let fits = |network: &&NamedNetwork| network.assets.is_empty() || ask.value.asset_on(network).is_some();
        let offered: Vec<&NamedNetwork> = self.networks.iter().filter(fits).collect();
        if offered.is_empty() {
            ask.value.report_nowhere(&name_of(key), self.networks, ask.location, report);
        }
        offered
    }

    /// The network of a name in a route: as in the file, or any other name of the same chain.
    fn network(&self, key: &str, name: &At<String>, report: &mut Report) -> Option<&'a NamedNetwork> {
        let At { value, location } = name;
        let chain: Option<Network> = value.parse().ok();
        let is_meant =
            |network: &&NamedNetwork| network.name == *value || (chain.is_some() && network.network == chain);
        let found = self.networks.iter().find(is_meant);
        if found.is_none() {
            let hint = did_you_mean(value, self.networks.iter().map(|network| network.name.as_str()));
            let is_known = KNOWN_NETWORKS.iter().any(|known| known.is_called(value));
            let hint = hint.filter(|_| !is_known).unwrap_or_else(|| format!("add [networks.{}]", toml_key(value)));
            report.error_with_hint(*location, format!("{key}: no network is called {}", shown(value)), hint);
        }
        found
    }

    /// The route's own payees by the networks' names as in `[networks]`.
    fn payees(
        &self,
        key: &str,
        raw: Option<&At<Named<String>>>,
        offered: &[&NamedNetwork],
        report: &mut Report,
    ) -> Vec<(String, AccountId)> {
        let mut payees: Vec<(String, AccountId)> = Vec::new();
        let key = format!("{}.pay_to", name_of(key));
        for Entry { name, location, value } in raw.map(|raw| raw.value.0.as_slice()).unwrap_or_default() {
            let name = At { value: name.clone(), location: *location };
            let Some(network) = self.network(&key, &name, report) else { continue };
            if !offered.iter().any(|other| other.name == network.name) {
                report.error(*location, format!("{key}: the route is not offered on {}", shown(&name.value)));
                continue;
            }
            if payees.iter().any(|(other, _)| *other == network.name) {
                report.error(*location, format!("{key}: {} is named twice", shown(&name.value)));
                continue;
            }
            let Some(text) = value else { continue };
            let Some(chain) = &network.network else { continue };
            if let Some(account) = account(&key, chain, network.bech32_prefix.as_deref(), text, report)
                && is_payee(&key, &account, &network.assets, text.location, report)
            {
                payees.push((network.name.clone(), account));
            }
        }
        payees
    }
}

fn name_of(key: &str) -> String {
    format!("routes.{}", shown(key))
}

/// A free or denied route has nothing to say of payment.
fn free_action(key: &str, table: Option<&Route>, report: &mut Report, action: RouteAction) -> Option<RouteAction> {
    let Some(table) = table else { return Some(action) };
    let place = |key: &'static str, location: Option<Location>| location.map(|location| (key, location));
    let given = [
        place("networks", table.networks.as_ref().map(|at| at.location)),
        place("output_schema", table.output_schema.as_ref().map(|at| at.location)),
        place("input", table.input.as_ref().map(|at| at.location)),
        place("discoverable", table.discoverable.as_ref().filter(|at| !at.value).map(|at| at.location)),
        place("free_quota", table.free_quota.as_ref().map(|at| at.location)),
        place("free_for", table.free_for.as_ref().map(|at| at.location)),
        place("paid_rate", table.paid_rate.as_ref().map(|at| at.location)),
        place("memo", table.memo.as_ref().map(|at| at.location)),
        place("dialects", table.dialects.as_ref().map(|at| at.location)),
        place("wait_for", table.wait_for.as_ref().map(|at| at.location)),
        place("pay_to", table.pay_to.as_ref().filter(|at| !at.value.0.is_empty()).map(|at| at.location)),
        place("description", table.description.as_ref().filter(|at| !at.value.is_empty()).map(|at| at.location)),
        place("mime_type", table.mime_type.as_ref().filter(|at| !at.value.is_empty()).map(|at| at.location)),
    ];
    for (name, location) in given.into_iter().flatten() {
        let message = format!("{}.{name} means nothing for a route without a price", name_of(key));
        report.error_with_hint(location, message, "remove it, or ask a price");
    }
    Some(action)
}

/// What payers must write into the payment's memo, where a chain has one.
fn memo(key: &str, memo: Option<&At<String>>, offered: &[&NamedNetwork], report: &mut Report) -> Option<String> {
    let At { value, location } = memo?;
    let key = name_of(key);
    if !(1..=MEMO_BYTES_MAX).contains(&value.len()) {
        let message = format!("{key}.memo: expected 1 to {MEMO_BYTES_MAX} bytes, got {}", value.len());
        report.error(*location, message);
        return None;
    }
    // Networks that couldn't be read stay, so that the route isn't blamed.
    if offered.iter().all(|network| network.network.is_some() && !network.has_memo()) {
        let message = format!("{key}.memo: no network that the route is offered on has memos");
        report.error_with_hint(*location, message, "Solana and Cosmos networks have; remove it");
    }
    Some(value.clone())
}

/// Whether a list of dialects names vitwit's; x402 itself is always spoken, so it must stand there.
pub(super) fn speaks_vitwit(section: &str, typed: &At<List<Dialect>>, report: &mut Report) -> bool {
    let count = |dialect| typed.value.0.iter().filter(|named| named.value == dialect).count();
    let (x402, vitwit) = (count(Dialect::X402), count(Dialect::Vitwit));
    if x402 == 0 {
        let message = format!("{section}.dialects: \"x402\" is missing, and is always spoken");
        report.error_with_hint(typed.location, message, "write [\"x402\", \"vitwit\"]");
    } else if x402 > 1 || vitwit > 1 {
        report.error(typed.location, format!("{section}.dialects: the same dialect is listed twice"));
    }
    vitwit > 0
}

/// The same number of atomic units is another price where the asset has other decimals.
fn refuse_differing_units(route: &str, ask: &At<Ask>, offers: &[RouteOffer], report: &mut Report) -> Option<()> {
    let Ask::Atomic { .. } = ask.value else { return Some(()) };
    let first = offers.first()?;
    let Some(other) = offers.iter().find(|offer| offer.asset.decimals != first.asset.decimals) else { return Some(()) };
    let message = format!(
        "{route}: {} has {} decimals on {} and {} on {}, so the same number of units is another price",
        first.asset.symbol, first.asset.decimals, first.network, other.asset.decimals, other.network
    );
    report.error_with_hint(ask.location, message, "ask a price in dollars, or name one network with networks = […]");
    None
}

/// The protocol counts whole seconds, and a payer needs a signature that stays valid for that long.
fn check_timeout(key: &str, timeout: &At<Duration>, offered: &[&NamedNetwork], report: &mut Report) {
    let shown = humantime::format_duration(timeout.value);
    if timeout.value.subsec_nanos() != 0 {
        report.error(timeout.location, format!("{}.max_timeout: expected whole seconds, got {shown}", name_of(key)));
    }
    if let Some(network) = offered.iter().find(|network| network.max_window < timeout.value) {
        let message = format!(
            "{}.max_timeout: {shown} is longer than the {} that networks.{}.max_window accepts",
            name_of(key),
            humantime::format_duration(network.max_window),
            network.name
        );
        report.error(timeout.location, message);
    }
}

/// A Cosmos payer can spend the sequence of its own transaction elsewhere while the origin works (protocol §5.4).
fn may_settle_then(key: &str, table: &Route, offered: &[&NamedNetwork], report: &mut Report) -> bool {
    let Some(settle) = table.settle.as_ref().filter(|settle| settle.value == SettleMode::After) else { return true };
    let is_cosmos =
        |network: &&&NamedNetwork| network.network.as_ref().is_some_and(|network| network.kind() == ChainKind::Cosmos);
    let Some(cosmos) = offered.iter().find(is_cosmos) else { return true };
    let message =
        format!("{}.settle: \"after\" is not possible on {}, a Cosmos network", name_of(key), toml_key(&cosmos.name));
    let hint = "a payer there can spend the money elsewhere while the origin works: leave the network out of networks, or use \"before\"";
    report.error_with_hint(settle.location, message, hint.to_owned());
    false
}

fn texts_are_legal(key: &str, table: &Route, report: &mut Report) -> bool {
    let mut is_legal = true;
    if let Some(At { value, location }) = &table.description {
        let count = value.chars().count();
        if count > DESCRIPTION_CHARACTERS_MAX {
            let message = format!(
                "{}.description: expected at most {DESCRIPTION_CHARACTERS_MAX} characters, got {count}",
                name_of(key)
            );
            report.error_with_hint(
                *location,
                message,
                "it is sent in a header with every answer that asks for payment",
            );
            is_legal = false;
        }
    }
    if let Some(At { value, location }) = &table.mime_type {
        let is_type = value.is_empty()
            || (value.is_ascii()
                && value.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty()));
        if !is_type {
            let message = format!(
                "{}.mime_type: expected a media type such as \"application/json\", got {}",
                name_of(key),
                shown(value)
            );
            report.error(*location, message);
            is_legal = false;
        }
    }
    is_legal
}
