//! Whether the public URL leads to a gateway with this price table, asked the way a client comes.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url};

use crate::app::Blueprint;
use crate::chain::Finding;
use crate::cli::health::admin_url;
use crate::cli::pay::terms;
use crate::config::{Config, PaidRoute, RouteAction, RouteConfig};
use crate::protocol::names;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const SUBJECT: &str = "public_url";

/// Nothing to say without a public URL.
pub(super) async fn examine(blueprint: &Blueprint) -> Option<Finding> {
    let config = &blueprint.config;
    let public = config.server.public_url.as_ref()?;
    if !is_running(config).await {
        let text = "not asked: no gateway with this configuration answers on its admin listener";
        return Some(Finding::warn(SUBJECT, text, "run `tollhouse doctor` again beside the running gateway"));
    }
    let Some((route, paid)) = config.routes.iter().find_map(|route| askable(route, public)) else {
        return Some(Finding::ok(SUBJECT, format!("{public} has no priced route that can be asked for with GET")));
    };
    Some(ask(public, route, paid).await)
}

/// Straight to the listener: a proxy's answer would say nothing about the gateway.
async fn is_running(config: &Config) -> bool {
    let url = admin_url(config.admin.listen).and_then(|url| Ok(url.join("/healthz")?));
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build();
    let (Ok(url), Ok(client)) = (url, client) else { return false };
    client.get(url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

/// A priced route that is one place, and that nobody has for nothing.
fn askable<'a>(route: &'a RouteConfig, public: &Url) -> Option<(&'a RouteConfig, &'a PaidRoute)> {
    let RouteAction::Paid(paid) = &route.action else { return None };
    let is_get = route.methods.is_empty() || route.methods.contains(&http::Method::GET);
    let is_here = route.host.as_deref().is_none_or(|host| Some(host) == public.host_str());
    let is_one = !route.path.contains(['{', '*']);
    (is_get && is_here && is_one && route.free_quota.is_none() && route.free_for.is_empty()).then_some((route, paid))
}

async fn ask(public: &Url, route: &RouteConfig, paid: &PaidRoute) -> Finding {
    let base = public.as_str().trim_end_matches('/');
    let url = format!("{base}{}", route.path);
    let hint = "check DNS, the port, certificates and the proxy in front: the URL must lead to this gateway";
    let client = Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT).build();
    let answer = match client {
        Ok(client) => client.get(&url).send().await,
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let mut cause = &error.without_url() as &dyn std::error::Error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            return Finding::fail(SUBJECT, format!("{url} does not answer: {cause}"), hint);
        }
    };
    let status = answer.status();
    match status {
        StatusCode::PAYMENT_REQUIRED => {}
        StatusCode::SERVICE_UNAVAILABLE => {
            let hint = "GET /readyz of the admin listener says which network is closed, and why";
            return Finding::fail(SUBJECT, format!("{url} takes no payments now (503)"), hint);
        }
        StatusCode::OK => {
            let hint =
                "if free_for of [server] names this machine, ask from another one; else something in front answers";
            return Finding::warn(SUBJECT, format!("{url} answers 200 without a payment"), hint);
        }
        other => return Finding::fail(SUBJECT, format!("{url} answers {} instead of 402", other.as_u16()), hint),
    }
    match compare(&answer, base, paid) {
        Ok(()) => Finding::ok(SUBJECT, format!("{url} asks for the price of `{}`", route.key)),
        Err(text) => Finding::fail(SUBJECT, format!("{url} {text}"), hint),
    }
}

/// Whether the answer asks for what the configuration does; networks that are closed now may be missing.
fn compare(answer: &Response, base: &str, paid: &PaidRoute) -> Result<(), String> {
    let header = answer.headers().get(names::PAYMENT_REQUIRED).cloned();
    let header = header.ok_or(
        "answers 402 without a PAYMENT-REQUIRED header: the proxy in front removes it, or it is not this gateway",
    )?;
    let seen =
        terms::read(Some(header.as_bytes()), b"", false).map_err(|error| format!("answers a 402, but {error}"))?;
    let is_known = |offer: &terms::SeenOffer| {
        offer.terms.as_ref().is_ok_and(|terms| {
            paid.offers.iter().any(|own| {
                own.network == terms.network
                    && own.asset.id == terms.asset
                    && own.amount == terms.amount
                    && own.pay_to == terms.pay_to
            })
        })
    };
    if seen.offers.is_empty() || !seen.offers.iter().all(is_known) {
        return Err(
            "asks another price than this configuration: another gateway, or one that has not taken it up".to_owned()
        );
    }
    let url = seen.resource.as_ref().and_then(|resource| resource.get("url")).and_then(serde_json::Value::as_str);
    if !url.is_some_and(|url| url.starts_with(base)) {
        return Err("names a resource elsewhere: the running gateway has another public_url".to_owned());
    }
    Ok(())
}
