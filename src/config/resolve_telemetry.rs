//! From typed to validated: what operators look at, `[log]` and `[telemetry]`.

use std::path::Path;

use http::{HeaderName, HeaderValue};
use url::Url;

use super::diagnostic::Location;
use super::leaf::{Entry, Named};
use super::model::{AccessLogTarget, LogConfig, TelemetryConfig};
use super::raw::{Log, Telemetry};
use super::reader::{At, Report, did_you_mean, shown};
use super::resolve_upstream::names_a_secret;
use super::secret::Secret;
use super::secret_source::{Secrets, TextOrSecret};

pub(super) fn log(raw: Log, dir: &Path, report: &mut Report) -> Option<LogConfig> {
    let level = raw.level?;
    check_level(&level.value, level.location, report);
    let access = access(&raw.access?, dir, report);
    Some(LogConfig { level: level.value, format: raw.format?.value, access })
}

fn access(typed: &At<String>, dir: &Path, report: &mut Report) -> Option<AccessLogTarget> {
    match typed.value.as_str() {
        "off" => None,
        "stdout" => Some(AccessLogTarget::Stdout),
        path if path.is_empty() || path.ends_with('/') => {
            let message =
                format!("log.access: expected \"off\", \"stdout\" or the path of a file, got {}", shown(path));
            report.error(typed.location, message);
            None
        }
        path => Some(AccessLogTarget::File(dir.join(path))),
    }
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

/// Nothing without an endpoint; then what else stands there means nothing, and is checked all the same.
pub(super) fn telemetry(raw: Telemetry, secrets: &Secrets<'_>, report: &mut Report) -> Option<TelemetryConfig> {
    let endpoint = raw.otlp_endpoint.map(|typed| endpoint(&typed, report));
    let headers = headers(raw.headers?.value, secrets, report);
    let service_name = raw.service_name?;
    if service_name.value.is_empty() {
        report.error(service_name.location, "telemetry.service_name: expected a name, got nothing");
    }
    Some(TelemetryConfig {
        otlp_endpoint: endpoint??,
        service_name: service_name.value,
        sampled_ppm: raw.sample_ratio?.value.0,
        headers,
    })
}

fn endpoint(typed: &At<String>, report: &mut Report) -> Option<String> {
    let is_good = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && !url.path().trim_end_matches('/').ends_with("/v1/traces")
    };
    match Url::parse(&typed.value) {
        Ok(url) if is_good(&url) => Some(url.as_str().trim_end_matches('/').to_owned()),
        _ => {
            let message = "telemetry.otlp_endpoint: expected an http or https URL such as \"http://127.0.0.1:4318\", without \
                           /v1/traces, user or password";
            report.error(typed.location, message);
            None
        }
    }
}

fn headers(raw: Named<TextOrSecret>, secrets: &Secrets<'_>, report: &mut Report) -> Vec<(HeaderName, Secret)> {
    let mut headers: Vec<(HeaderName, Secret)> = Vec::new();
    for Entry { name, location, value } in raw.0 {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            report.error(location, format!("telemetry.headers: expected a header name, got {}", shown(&name)));
            continue;
        };
        if headers.iter().any(|(other, _)| *other == header) {
            report.error(location, format!("telemetry.headers: {name:?} is set twice; header names know no case"));
            continue;
        }
        let Some(value) = value else { continue };
        if matches!(value.value, TextOrSecret::Text(_)) && names_a_secret(header.as_str()) {
            let hint = "a secret in this file ends up in backups and version control: write { env = \"NAME\" } or \
                        { file = \"path\" }";
            let message = format!("telemetry.headers: {name:?} holds a secret, got a literal");
            report.error_with_hint(value.location, message, hint);
            continue;
        }
        let Some(secret) = secrets.read_text(&value, report) else { continue };
        if HeaderValue::from_str(secret.expose()).is_err() {
            report.error(value.location, format!("telemetry.headers: the value of {name:?} is no legal header value"));
            continue;
        }
        headers.push((header, secret));
    }
    headers
}
