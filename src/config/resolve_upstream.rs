//! From typed to validated: `[upstreams]`.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::forward_path::is_path;
use super::leaf::{Entry, Named};
use super::model::{HealthCheck, TlsCertificate, UpstreamConfig};
use super::raw::Upstream;
use super::reader::{At, Report, check_name, shown, toml_key};
use super::resolve::bounded;
use super::secret::Secret;
use super::secret_source::{Secrets, TextOrSecret};

/// Answers or failures in a row beyond which nobody would wait.
const IN_A_ROW_MAX: u64 = 1000;

/// More than a machine has ports for.
const CONCURRENT_MAX: u64 = 1_000_000;

/// An upstream's name and, if it is valid, the rest.
#[derive(Debug)]
pub(super) struct NamedUpstream {
    /// The name that routes use.
    pub name: String,
    /// Nothing if a mistake was reported.
    pub config: Option<UpstreamConfig>,
}

/// `listeners` are the gateway's own: traffic sent there would go round in circles, or reach what is for operators only.
pub(super) fn upstreams(
    raw: Named<Upstream>,
    listeners: &[SocketAddr],
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Vec<NamedUpstream> {
    let resolve = |Entry { name, location, value }: Entry<Upstream>| {
        check_name(&name, location, report);
        for server in
            value.as_ref().and_then(|at| at.value.servers.as_ref()).map(|at| &at.value.0).into_iter().flatten()
        {
            refuse_own_listener(&toml_key(&name), server, listeners, report);
        }
        let config = value.and_then(|value| upstream(&name, value.value, secrets, report));
        NamedUpstream { name, config }
    };
    raw.0.into_iter().map(resolve).collect()
}

fn upstream(name: &str, raw: Upstream, secrets: &Secrets<'_>, report: &mut Report) -> Option<UpstreamConfig> {
    let tls = raw.tls?.value;
    let tls_server_name = raw.tls_server_name.and_then(|server_name| {
        let key = format!("upstreams.{name}.tls_server_name");
        if !tls {
            report.error_with_hint(server_name.location, format!("{key} means nothing without TLS"), "add tls = true");
        }
        if !is_host(&server_name.value) {
            report
                .error(server_name.location, format!("{key}: expected a host name, got {}", shown(&server_name.value)));
            return None;
        }
        Some(server_name.value)
    });
    let tls_files = [&raw.tls_ca, &raw.tls_cert, &raw.tls_key];
    for (file, key) in tls_files.into_iter().zip(["tls_ca", "tls_cert", "tls_key"]) {
        if let (Some(file), false) = (file, tls) {
            let message = format!("upstreams.{name}.{key} means nothing without TLS");
            report.error_with_hint(file.location, message, "add tls = true");
        }
    }
    let tls_ca = raw.tls_ca.and_then(|file| secrets.existing_file(&file, report));
    let tls_client = client_certificate(name, raw.tls_cert, raw.tls_key, secrets, report);
    let health = raw.health_check.and_then(|path| {
        let timing = (raw.health_interval?.value, raw.health_timeout?.value);
        health_check(name, &path, timing, (&raw.health_passes?, &raw.health_failures?), report)
    });
    let max_concurrent = raw.max_concurrent.and_then(|number| {
        let number = bounded(&format!("upstreams.{name}.max_concurrent"), &number, 1..=CONCURRENT_MAX, report)?;
        usize::try_from(number).ok()
    });
    let set_headers = set_headers(name, raw.set_headers?.value, secrets, report);
    let servers = servers(name, raw.servers?.value.0, report);
    Some(UpstreamConfig {
        name: name.to_owned(),
        servers: servers?,
        tls,
        tls_server_name,
        tls_ca,
        tls_client,
        http2: raw.http2?.value,
        balance: raw.balance?.value,
        health,
        total_timeout: raw.total_timeout.map(|timeout| timeout.value),
        max_concurrent,
        queue_timeout: raw.queue_timeout?.value,
        connect_timeout: raw.connect_timeout?.value,
        read_timeout: raw.read_timeout?.value,
        write_timeout: raw.write_timeout?.value,
        set_headers: set_headers?,
    })
}

fn client_certificate(
    name: &str,
    cert: Option<At<String>>,
    key: Option<At<String>>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<TlsCertificate> {
    match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let file = secrets.existing_file(&cert, report);
            let key = secrets.existing_private_file(&key, report);
            Some(TlsCertificate { cert: file?, key: key?, location: cert.location })
        }
        (Some(one), None) | (None, Some(one)) => {
            report.error(one.location, format!("upstreams.{name}: tls_cert and tls_key belong together"));
            None
        }
    }
}

fn health_check(
    name: &str,
    path: &At<String>,
    (interval, timeout): (Duration, Duration),
    (passes, failures): (&At<u64>, &At<u64>),
    report: &mut Report,
) -> Option<HealthCheck> {
    let key = format!("upstreams.{name}");
    if !is_path(&path.value) || path.value.contains(['{', '}']) {
        let message = format!("{key}.health_check: expected a path such as \"/health\", got {}", shown(&path.value));
        report.error(path.location, message);
        return None;
    }
    let mut count = |key: &str, number: &At<u64>| {
        bounded(key, number, 1..=IN_A_ROW_MAX, report).and_then(|number| u32::try_from(number).ok())
    };
    let passes = count(&format!("{key}.health_passes"), passes);
    let failures = count(&format!("{key}.health_failures"), failures);
    Some(HealthCheck { path: path.value.clone(), interval, timeout, passes: passes?, failures: failures? })
}

fn refuse_own_listener(name: &str, server: &At<String>, listeners: &[SocketAddr], report: &mut Report) {
    let Some(address) = server.value.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>().ok() else { return };
    let is_here = |listener: &&SocketAddr| {
        let reaches = address.ip() == listener.ip()
            || address.ip().is_unspecified()
            || (listener.ip().is_unspecified() && address.ip().is_loopback());
        listener.port() == address.port() && reaches
    };
    if let Some(listener) = listeners.iter().find(is_here) {
        let message = format!("upstreams.{name}.servers: {} is this gateway's own listener, {listener}", server.value);
        report.error(server.location, message);
    }
}

fn servers(name: &str, raw: Vec<At<String>>, report: &mut Report) -> Option<Vec<String>> {
    let count = raw.len();
    let mut servers: Vec<String> = Vec::new();
    for At { value, location } in raw {
        if let Err(hint) = check_server(&value) {
            let message = format!("upstreams.{name}.servers: expected host:port, got {}", shown(&value));
            report.error_with_hint(location, message, hint);
        } else if servers.contains(&value) {
            report.error(location, format!("upstreams.{name}.servers: {} is listed twice", shown(&value)));
        } else {
            servers.push(value);
        }
    }
    (servers.len() == count).then_some(servers)
}

fn check_server(server: &str) -> Result<(), &'static str> {
    if server.contains("://") {
        return Err("leave the scheme out; tls = true speaks TLS to the origin");
    }
    if server.contains('/') {
        return Err("leave the path out; requests keep their own");
    }
    let (host, port) = server.rsplit_once(':').ok_or("add the port, for example \"127.0.0.1:9000\"")?;
    let port_is_legal =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_legal = bracketed.map_or_else(|| is_host(host), |address| address.parse::<Ipv6Addr>().is_ok());
    match (host_is_legal, port_is_legal) {
        (true, true) => Ok(()),
        (true, false) => Err("the port is a number from 1 to 65535"),
        (false, _) => Err("the host is a name, an IPv4 address, or an IPv6 address in brackets"),
    }
}

/// Whether a text is a host name or an IPv4 address, in any case.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn set_headers(
    upstream: &str,
    raw: Named<TextOrSecret>,
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<Vec<(HeaderName, Secret)>> {
    let count = raw.0.len();
    let mut headers: Vec<(HeaderName, Secret)> = Vec::new();
    for Entry { name, location, value } in raw.0 {
        let key = format!("upstreams.{upstream}.set_headers");
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            report.error(location, format!("{key}: expected a header name, got {}", shown(&name)));
            continue;
        };
        if let Some(why) = why_not_settable(header.as_str()) {
            report.error(location, format!("{key}: {name:?} can't be set here: {why}"));
            continue;
        }
        if headers.iter().any(|(other, _)| *other == header) {
            report.error(location, format!("{key}: {name:?} is set twice; header names know no case"));
            continue;
        }
        let Some(value) = value else { continue };
        if matches!(value.value, TextOrSecret::Text(_)) && names_a_secret(header.as_str()) {
            let hint = "a secret in this file ends up in backups and version control: write { env = \"NAME\" } or \
                        { file = \"path\" }";
            report.error_with_hint(value.location, format!("{key}: {name:?} holds a secret, got a literal"), hint);
            continue;
        }
        let Some(secret) = secrets.read_text(&value, report) else { continue };
        if HeaderValue::from_str(secret.expose()).is_err() {
            report.error(value.location, format!("{key}: the value of {name:?} is no legal header value"));
            continue;
        }
        headers.push((header, secret));
    }
    (headers.len() == count).then_some(headers)
}

/// Headers of the connection (RFC 9110 §7.6.1) and of the message's frame.
const CONNECTION_HEADERS: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
];

fn why_not_settable(header: &str) -> Option<&'static str> {
    if CONNECTION_HEADERS.contains(&header) {
        Some("it belongs to the connection, not to the request")
    } else if header.starts_with("x-payment") || header.starts_with("payment-") || header == "idempotency-key" {
        Some("the gateway itself speaks of payments in it")
    } else {
        None
    }
}

pub(super) fn names_a_secret(header: &str) -> bool {
    header == "cookie"
        || ["auth", "token", "secret", "password", "api-key", "apikey"].iter().any(|word| header.contains(word))
}
