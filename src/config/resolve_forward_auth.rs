//! From typed to validated: `[forward_auth]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::model::{ForwardAuthConfig, RouteAction, RouteConfig, SettleMode};
use super::raw::ForwardAuth;
use super::reader::Report;
use super::resolve::shown_token;
use super::resolve_server::address_ranges;
use super::secret_source::Secrets;
use crate::types::AddressRange;

/// The section as far as it is valid; what isn't has been reported.
pub(super) fn forward_auth(raw: ForwardAuth, secrets: &Secrets<'_>, report: &mut Report) -> Option<ForwardAuthConfig> {
    let Some(listen) = raw.listen else {
        let places = [
            ("dialect", raw.dialect.map(|at| at.location)),
            ("fronts", raw.fronts.map(|at| at.location)),
            ("token", raw.token.map(|at| at.location)),
        ];
        for (key, location) in places.into_iter().filter_map(|(key, location)| Some((key, location?))) {
            let message = format!("forward_auth.{key} means nothing without forward_auth.listen");
            report.error_with_hint(location, message, "add listen = \"127.0.0.1:8405\" to [forward_auth]");
        }
        return None;
    };
    if raw.dialect.is_none() {
        let hint = "add dialect = \"nginx\", \"traefik\", \"caddy\" or \"envoy\"";
        report.error_with_hint(listen.location, "forward_auth.listen: there is no forward_auth.dialect", hint);
    }
    let fronts = match raw.fronts {
        Some(fronts) => {
            let ranges = address_ranges("forward_auth.fronts", &fronts.value, report);
            if fronts.value.0.is_empty() {
                report.error(fronts.location, "forward_auth.fronts is empty: nobody would be answered");
            }
            ranges
        }
        None if listen.value.ip().is_loopback() => loopback(),
        None => {
            let message =
                format!("forward_auth.listen: {} is not loopback, and there is no forward_auth.fronts", listen.value);
            let hint = "add fronts = [\"10.0.0.7\"] with the front's own addresses, or listen on 127.0.0.1";
            report.error_with_hint(listen.location, message, hint);
            Vec::new()
        }
    };
    let token = raw.token.and_then(|token| shown_token("forward_auth", token, secrets, report));
    Some(ForwardAuthConfig { listen: listen.value, dialect: raw.dialect?.value, fronts, token })
}

/// This machine's own addresses.
fn loopback() -> Vec<AddressRange> {
    [Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()]
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// What can't be kept where the origin's answer is unseen is refused rather than done in another way.
pub(super) fn check_routes(routes: &[RouteConfig], report: &mut Report) {
    for route in routes {
        let is_after = matches!(&route.action, RouteAction::Paid(paid) if paid.settle == SettleMode::After);
        let refused = [
            (is_after, "settle = \"after\"", "use settle = \"before\"; a second gateway may have the route as it is"),
            (route.websocket.is_some(), "websocket = true", "a second gateway may have the route as it is"),
        ];
        for (_, what, hint) in refused.into_iter().filter(|(is_asked, ..)| *is_asked) {
            let message = format!(
                "route `{}`: {what} can't be had with [forward_auth], which does not see the origin's answer",
                route.key
            );
            report.error_with_hint(route.location, message, hint);
        }
    }
}
