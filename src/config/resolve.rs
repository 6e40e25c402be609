//! From typed to validated: the sections about the gateway itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::diagnostic::Location;
use super::model::{AdminConfig, Config, FacilitatorConfig, LedgerConfig, LedgerUrl, RouteConfig};
use super::raw::{Admin, Facilitator, Ledger, Root};
use super::reader::{At, Report, shown};
use super::secret::Secret;
use super::secret_source::{SecretSource, Secrets, TextOrSecret};
use super::{
    resolve_forward_auth, resolve_network, resolve_route, resolve_server, resolve_telemetry, resolve_upstream,
};

/// The configuration as far as it is valid; what isn't has been reported.
pub(super) fn config(raw: Root, file: &Path, secrets: &Secrets<'_>, report: &mut Report) -> Option<Config> {
    let (raw_server, raw_admin) = (raw.server?.value, raw.admin?.value);
    let raw_facilitator = raw.facilitator?.value;
    let raw_forward_auth = raw.forward_auth?.value;
    let typed_listeners = [
        ("server", &raw_server.listen),
        ("admin", &raw_admin.listen),
        ("facilitator", &raw_facilitator.listen),
        ("forward_auth", &raw_forward_auth.listen),
    ];
    let listeners = distinct_listeners(typed_listeners, report);
    let speaks_vitwit =
        raw_server.dialects.as_ref().is_some_and(|typed| resolve_route::speaks_vitwit("server", typed, report));
    let server = resolve_server::server(raw_server, secrets, report);
    let admin = admin(raw_admin, secrets, report);
    let facilitator = facilitator(raw_facilitator, secrets, report);
    let forward_auth = resolve_forward_auth::forward_auth(raw_forward_auth, secrets, report);
    let ledger = ledger(raw.ledger?.value, secrets, report);
    let log = resolve_telemetry::log(raw.log?.value, secrets.dir, report);
    let telemetry = resolve_telemetry::telemetry(raw.telemetry?.value, secrets, report);
    let upstreams = resolve_upstream::upstreams(raw.upstreams?.value, &listeners, secrets, report);
    let networks = resolve_network::networks(raw.networks?.value, secrets, report);
    if let (Some((_, location)), true) = (&facilitator, networks.is_empty()) {
        let hint = "add [networks.base-sepolia] with rpc_url, signer and pay_to";
        report.error_with_hint(*location, "facilitator.listen: there is no network to settle on", hint);
    }
    let typed_routes = raw.routes.as_ref().map_or(0, |routes| routes.value.0.len());
    let mut routes: Vec<RouteConfig> = Vec::new();
    if let (Some(raw_routes), Some(server)) = (raw.routes, &server) {
        if raw_routes.value.0.is_empty() {
            report.error(raw_routes.location, "[routes] is empty: every request would be answered 404");
        }
        let scope = resolve_route::Scope {
            upstreams: &upstreams,
            networks: &networks,
            max_price: server.max_price,
            vitwit: speaks_vitwit,
            trusted: &server.trusted_proxies,
            secrets,
        };
        routes = raw_routes.value.0.iter().filter_map(|route| scope.route(route, report)).collect();
    }
    if forward_auth.is_some() {
        resolve_forward_auth::check_routes(&routes, report);
    }
    let typed = (upstreams.len(), networks.len(), typed_routes);
    let config = Config {
        file: file.to_owned(),
        server: server?,
        admin: admin?,
        facilitator: facilitator.map(|(facilitator, _)| facilitator),
        forward_auth,
        ledger: ledger?,
        log: log?,
        telemetry,
        upstreams: upstreams.into_iter().filter_map(|upstream| upstream.config).collect(),
        networks: networks.into_iter().filter_map(|network| network.config).collect(),
        routes,
    };
    // Whatever is left out has a mistake to show for it; should that ever fail, nothing starts.
    if report.list.is_empty() && typed != (config.upstreams.len(), config.networks.len(), config.routes.len()) {
        report.error(Location { line: 1, column: 1 }, "a part of the configuration could not be read");
    }
    Some(config)
}

/// The gateway's own listeners; any two that can't be had together are reported.
fn distinct_listeners(typed: [(&'static str, &Option<At<SocketAddr>>); 4], report: &mut Report) -> Vec<SocketAddr> {
    let mut known: Vec<(&str, &At<SocketAddr>)> = Vec::new();
    for (name, listen) in typed.into_iter().filter_map(|(name, listen)| Some((name, listen.as_ref()?))) {
        for (other_name, other_listen) in &known {
            let (one, other) = (listen.value, other_listen.value);
            let is_shared_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            // Port 0 is any free port, so two of them never meet.
            if one.port() == other.port() && one.port() != 0 && is_shared_ip {
                let location = listen.location.max(other_listen.location);
                let message = format!("{other_name}.listen and {name}.listen share the port {}", one.port());
                report.error(location, message);
            }
        }
        known.push((name, listen));
    }
    known.into_iter().map(|(_, listen)| listen.value).collect()
}

/// The number if it lies in the range.
pub(super) fn bounded(
    key: &str,
    number: &At<u64>,
    range: std::ops::RangeInclusive<u64>,
    report: &mut Report,
) -> Option<u64> {
    if range.contains(&number.value) {
        return Some(number.value);
    }
    let message = format!("{key}: expected {} to {}, got {}", range.start(), range.end(), number.value);
    report.error(number.location, message);
    None
}

fn admin(raw: Admin, secrets: &Secrets<'_>, report: &mut Report) -> Option<AdminConfig> {
    let listen = raw.listen?;
    let token = token("admin", &listen, raw.token, secrets, report);
    Some(AdminConfig { listen: listen.value, token })
}

fn facilitator(raw: Facilitator, secrets: &Secrets<'_>, report: &mut Report) -> Option<(FacilitatorConfig, Location)> {
    let Some(listen) = raw.listen else {
        if let Some(token) = raw.token {
            let hint = "add listen = \"127.0.0.1:8404\" to [facilitator]";
            report.error_with_hint(token.location, "facilitator.token means nothing without facilitator.listen", hint);
        }
        return None;
    };
    let token = token("facilitator", &listen, raw.token, secrets, report);
    Some((FacilitatorConfig { listen: listen.value, token }, listen.location))
}

/// A listener's bearer token; only one that nobody else can reach may go without.
fn token(
    section: &str,
    listen: &At<SocketAddr>,
    source: Option<At<SecretSource>>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Secret> {
    if !listen.value.ip().is_loopback() && source.is_none() {
        let message = format!("{section}.listen: {} is not loopback, and there is no {section}.token", listen.value);
        let hint = format!("add token = {{ env = \"…\" }} to [{section}], or listen on 127.0.0.1");
        report.error_with_hint(listen.location, message, hint);
    }
    shown_token(section, source?, secrets, report)
}

/// A token that is shown in a header.
pub(super) fn shown_token(
    section: &str,
    At { value: source, location }: At<SecretSource>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Secret> {
    let token = secrets.read(&source, report)?;
    if token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        report.error(location, format!("{section}.token: expected printable ASCII without spaces"));
        return None;
    }
    Some(token)
}

fn ledger(raw: Ledger, secrets: &Secrets<'_>, report: &mut Report) -> Option<LedgerConfig> {
    let url = ledger_url(&raw.url?, secrets, report).unwrap_or(LedgerUrl::Sqlite(PathBuf::new()));
    Some(LedgerConfig { url, retention: raw.retention?.value })
}

fn ledger_url(text: &At<TextOrSecret>, secrets: &Secrets<'_>, report: &mut Report) -> Option<LedgerUrl> {
    let location = text.location;
    let secret = secrets.read_text(text, report)?;
    let url = secret.expose();
    if let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) {
        if matches!(text.value, TextOrSecret::Text(_)) && holds_password(rest) {
            let message = "ledger.url: a password is a secret, and a secret in this file ends up in backups";
            report.error_with_hint(
                location,
                message,
                "write url = { env = \"TOLLHOUSE_LEDGER_URL\" }, or { file = … }",
            );
            return None;
        }
        return Some(LedgerUrl::Postgres(secret));
    }
    // The message shows nothing that was not written in this file.
    let shown = match &text.value {
        TextOrSecret::Text(_) => shown(url),
        TextOrSecret::Source(_) => "something else".to_owned(),
    };
    sqlite_path(url, &shown, secrets.dir, (location, report))
}

/// Whether what follows `postgres://` has a password in it.
fn holds_password(rest: &str) -> bool {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _host)| user);
    user.contains(':') || rest.split(['?', '&']).any(|part| part.starts_with("password="))
}

fn sqlite_path(url: &str, shown: &str, dir: &Path, (location, report): (Location, &mut Report)) -> Option<LedgerUrl> {
    let mut refuse = |message: String, hint: &str| {
        report.error_with_hint(location, message, hint);
        None
    };
    let Some(path) = url.strip_prefix("sqlite:") else {
        let message = "ledger.url: expected \"sqlite:\" and a path, or \"postgres://…\", got something else".to_owned();
        return refuse(message, "for example \"sqlite:tollhouse.db\" or \"sqlite:/var/lib/tollhouse/tollhouse.db\"");
    };
    if path.contains(":memory:") || path.contains("mode=memory") {
        let message = "ledger.url: a ledger in memory forgets payments when the gateway stops".to_owned();
        return refuse(message, "name a file");
    }
    let path = match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => "",
        None => path,
    };
    if path.is_empty() || path.ends_with('/') || path.contains(['?', '#', '%']) {
        let message = format!("ledger.url: expected \"sqlite:\" and the path of a file, got {shown}");
        return refuse(message, "for example \"sqlite:tollhouse.db\"; parameters after ? are not taken");
    }
    Some(LedgerUrl::Sqlite(dir.join(path)))
}
