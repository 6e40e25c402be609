//! The origin, from `servers`.

use serde_json::Value;
use url::Url;

use super::table::one_line;

/// An origin as far as the description knows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upstream {
    /// `host:port`, if it is known.
    server: Option<String>,
    tls: bool,
    /// What all paths start with; no slash at its end.
    prefix: String,
}

impl Upstream {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The same paths at an origin that is for the operator to fill in.
    pub(super) fn without_server(self) -> Self {
        Self { server: None, tls: false, ..self }
    }

    pub(super) fn is_known(&self) -> bool {
        self.server.is_some()
    }

    /// Its section.
    pub(super) fn toml(&self) -> String {
        let known = self.server.as_deref();
        let server = super::table::toml_string(known.unwrap_or("127.0.0.1:9000"));
        let note = if known.is_some() { "" } else { " # where your origin is" };
        let tls = if self.tls { "tls = true\n" } else { "" };
        format!("[upstreams.api]\nservers = [{server}]{note}\n{tls}")
    }
}

/// The first server; the others are told of.
pub(super) fn of(document: &Value, hints: &mut Vec<String>) -> Upstream {
    let servers = document.get("servers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let unknown = |prefix: String| Upstream { server: None, tls: false, prefix };
    if servers.len() > 1 {
        hints.push(format!("the first of {} servers is taken; add others to [upstreams.api] by hand", servers.len()));
    }
    let Some(server) = servers.first() else {
        hints.push("the description names no server: write your origin's host:port under [upstreams.api]".to_owned());
        return unknown(String::new());
    };
    let url = with_variables(server);
    let path_of = |path: &str| path.trim_end_matches('/').to_owned();
    if url.starts_with('/') && !url.starts_with("//") {
        hints.push("the server's URL has no host: write your origin's host:port under [upstreams.api]".to_owned());
        let path = url.split(['?', '#']).next().unwrap_or_default();
        return unknown(path_of(path));
    }
    let parsed = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some((parsed, host, port)) = parsed.and_then(|parsed| {
        let host = parsed.host_str()?.to_owned();
        let port = parsed.port_or_known_default()?;
        Some((parsed, host, port))
    }) else {
        let shown = one_line(&url, 80);
        hints.push(format!("the server {shown:?} is no http or https URL: write your origin under [upstreams.api]"));
        return unknown(String::new());
    };
    if parsed.query().is_some() || !parsed.username().is_empty() || parsed.password().is_some() {
        hints.push("of the server's URL only scheme, host, port and path are taken".to_owned());
    }
    Upstream { server: Some(format!("{host}:{port}")), tls: parsed.scheme() == "https", prefix: path_of(parsed.path()) }
}

/// The URL with each `{variable}` at its default.
fn with_variables(server: &Value) -> String {
    let mut url = server.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
    let variables = server.get("variables").and_then(Value::as_object);
    for (name, variable) in variables.into_iter().flatten().take(32) {
        if let Some(default) = variable.get("default").and_then(Value::as_str) {
            // Not again within what was put in: a default that names itself would grow.
            url = url.replacen(&format!("{{{name}}}"), default, 1);
        }
        url.truncate(url.floor_char_boundary(4096));
    }
    url
}
