//! What browsers and x402 clients would make of the 402 of each priced route: it is rendered and read back.

use std::collections::BTreeMap;

use crate::app::Blueprint;
use crate::chain::Finding;
use crate::cli::human::known_asset;
use crate::cli::pay::terms;
use crate::config::{Config, PaidRoute, RouteAction, RouteOffer};
use crate::payment::PricedRoute;
use crate::protocol::{Challenge, QuoteKey, QuoteNonce};
use crate::types::{AtomicAmount, ChainKind, UnixMillis};

/// What a reverse proxy in front, nginx for one, takes for all headers of an answer unless it is told otherwise.
const FRONT_HEADERS_BYTES: usize = 4096;
/// What the other headers of a 402 take.
const OTHER_HEADERS_BYTES: usize = 600;
/// What today's v2 clients pay at most for one request by default, in cents.
const V2_CAP_CENTS: u64 = 100;
/// What v1 clients pay at most for one request by default, in cents.
const V1_CAP_CENTS: u64 = 10;
/// Known stablecoins that are not in the default table of today's v2 JavaScript client, by network (protocol §2.5).
const NOT_IN_V2_TABLE: [&str; 12] = [
    "eip155:43113",
    "eip155:80002",
    "eip155:4689",
    "eip155:3338",
    "eip155:2741",
    "eip155:11124",
    "eip155:1514",
    "eip155:41923",
    "eip155:324705682",
    "eip155:10143",
    "eip155:5042",
    "eip155:5042002",
];
/// Mints of Solana's mainnet besides USDC that are in that table.
const MORE_MINTS: [&str; 4] = [
    "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB",
    "2u1tszSeqZ3qBWF3uNGPFc8TzMk2tdiwknnRMWGWjGWH",
    "2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo",
    "CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH",
];

/// A note and what to do about it.
type Note = (String, &'static str);

/// One line for all routes whose 402 everybody takes, and one for each thing that somebody doesn't.
pub(super) fn examine(blueprint: &Blueprint) -> Vec<Finding> {
    let config = &blueprint.config;
    let mut findings = Vec::new();
    let mut noted: BTreeMap<Note, Vec<&str>> = BTreeMap::new();
    let (mut fine, mut largest) = (0_usize, 0_usize);
    for (route, priced) in config.routes.iter().zip(blueprint.priced()) {
        let (RouteAction::Paid(paid), Some(priced)) = (&route.action, priced) else { continue };
        match read_back(config, priced, paid) {
            Ok((bytes, has_v1)) => {
                (fine, largest) = (fine.saturating_add(1), largest.max(bytes));
                for note in notes(paid, bytes, has_v1) {
                    noted.entry(note).or_default().push(&route.key);
                }
            }
            Err(problem) => {
                let hint = "this is a mistake of tollhouse: please report it with the route's configuration";
                findings.push(Finding::fail(format!("402 of {}", route.key), problem, hint));
            }
        }
    }
    if fine > 0 {
        let text = format!(
            "{fine} priced routes: v2 clients, v1 clients and browsers can read their terms; the longest header has {largest} bytes"
        );
        findings.push(Finding::ok("402", text));
    }
    for ((text, hint), routes) in noted {
        let first = routes.first().copied().unwrap_or_default();
        let subject = match routes.len().saturating_sub(1) {
            0 => format!("402 of {first}"),
            more => format!("402 of {first} and {more} more"),
        };
        findings.push(Finding::warn(subject, text, hint));
    }
    findings
}

/// Renders a route's 402 and reads it as each kind of client does. Gives its header's size and whether a v1 client finds
/// an offer.
fn read_back(config: &Config, priced: &PricedRoute, paid: &PaidRoute) -> Result<(usize, bool), String> {
    // Neither key nor quote is ever shown to anybody.
    let key = QuoteKey::new(&[0; 32]).ok_or("no key for quotes")?;
    let nonce = QuoteNonce::random().map_err(|_error| "no randomness")?;
    let public = config.server.public_url.as_ref().map_or("https://shop.example/", |url| url.as_str());
    let url = format!("{}/some/path", public.trim_end_matches('/'));
    let expires = UnixMillis::from_secs(2_000_000_000);
    let rendered = priced.challenge_of_all("payment required", &url, &key, nonce, expires);
    let Challenge { header, body, vitwit } = rendered.ok_or("its terms can't be rendered")?;
    let bytes = header.len().saturating_add(vitwit.as_ref().map_or(0, String::len));
    let v2 = terms::read(Some(header.as_bytes()), body.as_bytes(), false).map_err(|error| format!("v2: {error}"))?;
    let expected: Vec<&RouteOffer> = paid.offers.iter().collect();
    compare("v2", &v2, &expected)?;
    let safe: Vec<&RouteOffer> = paid.offers.iter().filter(|offer| offer.network.is_v1_safe()).collect();
    match terms::read(None, body.as_bytes(), true) {
        Ok(v1) => compare("v1", &v1, &safe)?,
        Err(_) if safe.is_empty() => {}
        Err(error) => return Err(format!("v1: {error}")),
    }
    let page = crate::proxy::page_for_people(priced.name(), paid, &url, &header);
    let shown = paid.offers.iter().all(|offer| page.contains(offer.pay_to.as_str()));
    if !page.starts_with("<!doctype html>") || !shown || !page.contains(&header) {
        return Err("the page for people doesn't show its offers".to_owned());
    }
    Ok((bytes, !safe.is_empty()))
}

/// Whether a client would read what the configuration says.
fn compare(version: &str, seen: &terms::Terms, expected: &[&RouteOffer]) -> Result<(), String> {
    if seen.offers.len() != expected.len() {
        return Err(format!("{version}: a client reads {} offers instead of {}", seen.offers.len(), expected.len()));
    }
    for (offer, expected) in seen.offers.iter().zip(expected) {
        let terms = offer.terms.as_ref().map_err(|error| format!("{version}: an offer can't be read: {error}"))?;
        let is_same = terms.network == expected.network
            && terms.asset == expected.asset.id
            && terms.amount == expected.amount
            && terms.pay_to == expected.pay_to;
        if !is_same {
            return Err(format!(
                "{version}: a client reads another offer than {} on {}",
                expected.amount, expected.network
            ));
        }
    }
    Ok(())
}

/// What keeps some clients from paying.
fn notes(paid: &PaidRoute, bytes: usize, has_v1: bool) -> Vec<Note> {
    let mut notes = Vec::new();
    if bytes.saturating_add(OTHER_HEADERS_BYTES) > FRONT_HEADERS_BYTES {
        let text = "the terms take more header bytes than a proxy in front takes by default (4096 in all)".to_owned();
        notes.push((
            text,
            "behind nginx set proxy_buffer_size 16k; or offer fewer networks and shorten the description",
        ));
    }
    if !has_v1 {
        let text = "no offer is on a network that v1 clients know: only v2 clients can pay".to_owned();
        notes.push((text, "offer a network with a v1 name besides, such as base, if v1 clients should pay"));
    }
    if !paid.offers.iter().any(is_default_asset) {
        let text = "official v2 clients refuse these assets by default".to_owned();
        notes.push((
            text,
            "offer USDC on a network they know besides, or tell payers to allow the asset (allowedAssets)",
        ));
    }
    let is_above = |cents: u64| paid.offers.iter().all(|offer| is_over(offer, cents));
    if is_above(V2_CAP_CENTS) {
        let text = "official v2 clients pay at most $1 for one request by default".to_owned();
        notes.push((text, "ask less, or tell payers to raise their limit (spendControls)"));
    } else if has_v1 && is_above(V1_CAP_CENTS) {
        let text = "official v1 clients pay at most $0.10 for one request by default".to_owned();
        notes.push((text, "ask less, or tell payers to raise their limit (maxValue)"));
    }
    notes
}

fn is_default_asset(offer: &RouteOffer) -> bool {
    let (network, asset) = (&offer.network, offer.asset.id.as_str());
    network.kind() != ChainKind::Cosmos
        && !NOT_IN_V2_TABLE.contains(&network.as_str())
        && (known_asset(network, asset).is_some() || MORE_MINTS.contains(&asset))
}

/// Whether a price in dollars is over so many cents.
fn is_over(offer: &RouteOffer, cents: u64) -> bool {
    let unit = AtomicAmount::ten_to_the(offer.asset.decimals);
    let limit = unit.and_then(|unit| unit.checked_mul(AtomicAmount::from(cents)));
    let price = offer.amount.checked_mul(AtomicAmount::from(100));
    offer.asset.is_usd && price.zip(limit).is_some_and(|(price, limit)| price > limit)
}
