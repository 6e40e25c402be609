//! From typed to validated: the sections about the gateway itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::diagnostic::Location;
use super::model::{AdminConfig, Config, LedgerConfig, LedgerUrl, LogConfig, RouteConfig};
use super::raw::{Admin, Ledger, Log, Root};
use super::reader::{At, Report, did_you_mean, shown};
use super::secret_source::Secrets;
use super::{resolve_network, resolve_route, resolve_server, resolve_upstream};

/// The configuration as far as it is valid; what isn't has been reported.
pub(super) fn config(raw: Root, file: &Path, secrets: &Secrets<'_>, report: &mut Report) -> Option<Config> {
    let (raw_server, raw_admin) = (raw.server?.value, raw.admin?.value);
    if let (Some(listen), Some(admin_listen)) = (&raw_server.listen, &raw_admin.listen) {
        refuse_same_listener(listen, admin_listen, report);
    }
    let listeners: Vec<SocketAddr> =
        [&raw_server.listen, &raw_admin.listen].into_iter().flatten().map(|at| at.value).collect();
    let speaks_vitwit =
        raw_server.dialects.as_ref().is_some_and(|typed| resolve_route::speaks_vitwit("server", typed, report));
    let server = resolve_server::server(raw_server, secrets, report);
    let admin = admin(raw_admin, secrets, report);
    let ledger = ledger(raw.ledger?.value, secrets.dir, report);
    let log = log(raw.log?.value, report);
    let upstreams = resolve_upstream::upstreams(raw.upstreams?.value, &listeners, secrets, report);
    let networks = resolve_network::networks(raw.networks?.value, secrets, report);
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
        };
        routes = raw_routes.value.0.iter().filter_map(|route| scope.route(route, report)).collect();
    }
    let typed = (upstreams.len(), networks.len(), typed_routes);
    let config = Config {
        file: file.to_owned(),
        server: server?,
        admin: admin?,
        ledger: ledger?,
        log: log?,
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

fn refuse_same_listener(server: &At<SocketAddr>, admin: &At<SocketAddr>, report: &mut Report) {
    let (one, other) = (server.value, admin.value);
    let is_shared_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    // Port 0 is any free port, so two of them never meet.
    if one.port() == other.port() && one.port() != 0 && is_shared_ip {
        let location = server.location.max(admin.location);
        report.error(location, format!("server.listen and admin.listen share the port {}", one.port()));
    }
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
    let has_token = raw.token.is_some();
    let token = raw.token.and_then(|source| {
        let token = secrets.read(&source.value, report)?;
        if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            report.error(source.location, "admin.token: expected printable ASCII without spaces");
            return None;
        }
        Some(token)
    });
    if !listen.value.ip().is_loopback() && !has_token {
        let message = format!("admin.listen: {} is not loopback, and there is no admin.token", listen.value);
        let hint = "add token = { env = \"…\" } to [admin], or listen on 127.0.0.1";
        report.error_with_hint(listen.location, message, hint);
    }
    Some(AdminConfig { listen: listen.value, token })
}

fn ledger(raw: Ledger, dir: &Path, report: &mut Report) -> Option<LedgerConfig> {
    let url = ledger_url(&raw.url?, dir, report).unwrap_or(LedgerUrl::Sqlite(PathBuf::new()));
    Some(LedgerConfig { url, retention: raw.retention?.value })
}

fn ledger_url(text: &At<String>, dir: &Path, report: &mut Report) -> Option<LedgerUrl> {
    let At { value: url, location } = text;
    let mut refuse = |message: String, hint: &str| {
        report.error_with_hint(*location, message, hint);
        None
    };
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        // The URL itself holds a password as a rule.
        let message = "ledger.url: PostgreSQL is not supported by this version yet".to_owned();
        return refuse(message, "use \"sqlite:tollhouse.db\"");
    }
    let Some(path) = url.strip_prefix("sqlite:") else {
        let message = "ledger.url: expected \"sqlite:\" and a path, got something else".to_owned();
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
        let message = format!("ledger.url: expected \"sqlite:\" and the path of a file, got {}", shown(url));
        return refuse(message, "for example \"sqlite:tollhouse.db\"; parameters after ? are not taken");
    }
    Some(LedgerUrl::Sqlite(dir.join(path)))
}

fn log(raw: Log, report: &mut Report) -> Option<LogConfig> {
    let level = raw.level?;
    check_level(&level.value, level.location, report);
    Some(LogConfig { level: level.value, format: raw.format?.value })
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter takes any word for the name of a module and then logs nothing, so levels are checked here.
fn check_level(level: &str, location: Location, report: &mut Report) {
    for directive in level.split(',') {
        let (target, word) = directive.split_once('=').unwrap_or(("", directive));
        let target_is_legal = target.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
        if !target_is_legal || !LEVELS.contains(&word) {
            let expected = "expected a level such as \"info\", or levels by part such as \"info,tollhouse=debug\"";
            let message = format!("log.level: {expected}, got {}", shown(directive));
            let hint = did_you_mean(word, LEVELS).unwrap_or_else(|| format!("the levels are {}", LEVELS.join(", ")));
            report.error_with_hint(location, message, hint);
        }
    }
}
