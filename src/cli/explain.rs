//! `tollhouse explain METHOD URL`: which route a request takes, what it costs, where it goes, and why.
//!
//! Asks the table that `run` would use; knows no chain and opens no socket.

use std::io::Write;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};

use crate::config::{Config, RouteAction, RouteOffer};
use crate::route::{Explanation, Outcome, Route, RouteMatch, RouteTable};
use crate::types::DecimalAmount;

/// Explains one request. `url` is a URL or a path; without a host only routes for any host count.
///
/// # Errors
/// When `method` is no HTTP token, `url` is neither URL nor path, or `out` can't be written.
pub fn run(
    config: &Config,
    table: &RouteTable,
    method: &str,
    url: &str,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let method: Method = method.parse().with_context(|| format!("expected an HTTP method, got `{method}`"))?;
    let (host, target) = split_url(url)?;
    let explanation = table.explain(&method, host, &target);
    let route = match &explanation.outcome {
        Outcome::Match(RouteMatch::Route(route)) => Some(route.as_ref()),
        _ => None,
    };
    if json {
        let value = as_json(config, &explanation, route);
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    print_text(config, &explanation, route, out)
}

/// Takes a URL apart without changing its path, which a URL parser would do.
fn split_url(url: &str) -> anyhow::Result<(Option<&str>, String)> {
    if url.starts_with('/') {
        return Ok((None, url.to_owned()));
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let rest = rest.with_context(|| format!("expected a URL with http or https, or a path, got `{url}`"))?;
    let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    anyhow::ensure!(
        !host.is_empty() && host.bytes().all(is_host),
        "expected a host of letters, digits, hyphens and dots, without user or password, got `{url}`"
    );
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((Some(host), format!("{slash}{target}")))
}

/// The status a request without payment gets from the gateway itself; none if it is forwarded.
fn status(outcome: &Outcome) -> Option<u16> {
    match outcome {
        Outcome::BadPath(_) | Outcome::Match(RouteMatch::Ambiguous) => Some(400),
        Outcome::Match(RouteMatch::NotFound) => Some(404),
        Outcome::Match(RouteMatch::MethodNotAllowed { .. }) => Some(405),
        Outcome::Match(RouteMatch::Route(route)) => match route.config().action {
            RouteAction::Free => None,
            RouteAction::Deny => Some(404),
            RouteAction::Paid(_) => Some(402),
        },
    }
}

fn action(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::BadPath(_) => "refused: the path isn't legal",
        Outcome::Match(RouteMatch::Ambiguous) => "refused: the path is ambiguous",
        Outcome::Match(RouteMatch::NotFound) => "refused: no route",
        Outcome::Match(RouteMatch::MethodNotAllowed { .. }) => "refused: method not allowed",
        Outcome::Match(RouteMatch::Route(route)) => match route.config().action {
            RouteAction::Free => "free",
            RouteAction::Deny => "denied",
            RouteAction::Paid(_) => "paid",
        },
    }
}

fn offers(route: Option<&Route>) -> &[RouteOffer] {
    match route.map(|route| &route.config().action) {
        Some(RouteAction::Paid(paid)) => &paid.offers,
        _ => &[],
    }
}

fn network_name<'a>(config: &'a Config, offer: &'a RouteOffer) -> &'a str {
    let known = config.networks.iter().find(|network| network.network == offer.network);
    known.map_or(offer.network.as_str(), |network| network.name.as_str())
}

fn servers<'a>(config: &'a Config, upstream: &str) -> &'a [String] {
    let found = config.upstreams.iter().find(|candidate| candidate.name == upstream);
    found.map_or(&[], |upstream| &upstream.servers)
}

fn as_json(config: &Config, explanation: &Explanation, route: Option<&Route>) -> Value {
    let prices: Vec<Value> = offers(route)
        .iter()
        .map(|offer| {
            json!({
                "network": offer.network,
                "name": network_name(config, offer),
                "asset": offer.asset.id,
                "symbol": offer.asset.symbol,
                "decimals": offer.asset.decimals,
                "amount": offer.amount,
                "payTo": offer.pay_to,
            })
        })
        .collect();
    let allow: Option<Vec<&str>> = match &explanation.outcome {
        Outcome::Match(RouteMatch::MethodNotAllowed { allow }) => Some(allow.iter().map(Method::as_str).collect()),
        _ => None,
    };
    json!({
        "path": explanation.canonical_path,
        "route": route.map(Route::name),
        "line": route.map(|route| route.config().location.line),
        "action": action(&explanation.outcome),
        "status": status(&explanation.outcome),
        "allow": allow,
        "prices": prices,
        "upstream": route.and_then(|route| route.config().upstream.as_deref()),
        "why": explanation.reasons,
    })
}

fn print_text(
    config: &Config,
    explanation: &Explanation,
    route: Option<&Route>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if let Some(route) = route {
        let place = route.config().location;
        let file = config.file.display();
        writeln!(out, "route     {} ({file}:{}:{})", route.name(), place.line, place.column)?;
    }
    match status(&explanation.outcome) {
        Some(status) => writeln!(out, "action    {} ({status} without payment)", action(&explanation.outcome))?,
        None => writeln!(out, "action    {}", action(&explanation.outcome))?,
    }
    for offer in offers(route) {
        let price = DecimalAmount::from_atomic(offer.amount, offer.asset.decimals);
        let (symbol, decimals) = (&offer.asset.symbol, offer.asset.decimals);
        let (name, network, pay_to) = (network_name(config, offer), &offer.network, &offer.pay_to);
        let atomic = offer.amount;
        writeln!(
            out,
            "price     {price} {symbol} on {name} ({network}): {atomic} atomic units, {decimals} decimals, to {pay_to}"
        )?;
    }
    if let Some(upstream) = route.and_then(|route| route.config().upstream.as_deref()) {
        writeln!(out, "upstream  {upstream} ({})", servers(config, upstream).join(", "))?;
    }
    for reason in &explanation.reasons {
        writeln!(out, "why       {reason}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SHOP: &str = r#"
[upstreams.api]
servers = ["127.0.0.1:9000"]

[networks.base-sepolia]
rpc_url = "http://127.0.0.1:1"
signer  = { env = "SIGNER" }
pay_to  = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"

[routes]
"/health"       = "free"
"GET /api/data" = "$0.01"
"#;

    fn explain(method: &str, url: &str, json: bool) -> anyhow::Result<String> {
        let env = |name: &str| (name == "SIGNER").then(|| "11".repeat(32));
        let config = crate::config::parse(SHOP, Path::new("gateway.toml"), &env).into_result()?;
        let table = RouteTable::build(&config.routes).unwrap();
        let mut out = Vec::new();
        run(&config, &table, method, url, json, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn a_priced_route_is_explained_with_price_and_upstream() {
        let text = explain("HEAD", "https://shop.example/API//data?x=1", false).unwrap();
        for part in [
            "route     GET /api/data (gateway.toml:12:1)",
            "action    paid (402 without payment)",
            "0.01 USDC on base-sepolia (eip155:84532): 10000 atomic units, 6 decimals",
            "upstream  api (127.0.0.1:9000)",
            "why       the path is matched and forwarded as `/API/data`",
            "covers HEAD",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains(&"11".repeat(32)));
    }

    #[test]
    fn programs_read_the_same_as_json() {
        let value: Value = serde_json::from_str(&explain("GET", "/api/data", true).unwrap()).unwrap();
        assert_eq!(value["route"], "GET /api/data");
        assert_eq!(value["status"], 402);
        assert_eq!(value["prices"][0]["amount"], "10000");
        assert_eq!(value["prices"][0]["network"], "eip155:84532");
        assert_eq!(value["upstream"], "api");
    }

    #[test]
    fn refusals_are_explained_too() {
        for (method, url, status) in [
            ("GET", "/nothing", 404),
            ("POST", "/api/data", 405),
            ("TRACE", "/health", 405),
            ("TRACE", "/nothing", 405),
            ("GET", "/api/data;x", 400),
            ("GET", "/api%2Fdata", 400),
            ("GET", "http://h#x", 400),
        ] {
            let value: Value = serde_json::from_str(&explain(method, url, true).unwrap()).unwrap();
            assert_eq!(value["status"], status, "{method} {url} {value}");
            assert!(!value["why"].as_array().unwrap().is_empty());
        }
        let value: Value = serde_json::from_str(&explain("GET", "http://h:80/health", true).unwrap()).unwrap();
        assert_eq!((&value["status"], &value["action"]), (&Value::Null, &json!("free")));
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        assert!(explain("GE T", "/", false).is_err());
        assert!(explain("GET", "ftp://h/", false).is_err());
        assert!(explain("GET", "http://user@h/", false).is_err());
        assert!(explain("GET", "http:///x", false).is_err());
        assert!(explain("GET", "http://h%2fapi/data", false).is_err());
    }
}
