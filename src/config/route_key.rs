//! The keys of `[routes]`: `"[METHOD[,METHOD…] ][host]/path"`.
//!
//! Checks form only: which keys mean the same, and what the braces in a path mean, is the route table's affair.

use http::Method;

use super::reader::{did_you_mean, shown};
use super::resolve_upstream::is_host;

/// A key's parts.
#[derive(Debug)]
pub(super) struct RouteKey {
    /// Methods; none means all.
    pub methods: Vec<Method>,
    /// Host in lower case; none means any.
    pub host: Option<String>,
    /// Path, as typed.
    pub path: String,
}

/// Why a key is none: what was expected and what came, and what to do.
#[derive(Debug)]
pub(super) struct RouteKeyError {
    pub message: String,
    pub hint: Option<String>,
}

/// Methods that a typing error is measured against.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

impl RouteKey {
    pub fn parse(key: &str) -> Result<Self, RouteKeyError> {
        let form = |hint: &str| RouteKeyError {
            message: format!("expected \"[METHOD[,METHOD…] ][host]/path\", got {}", shown(key)),
            hint: Some(hint.to_owned()),
        };
        if key.chars().any(char::is_control) {
            return Err(form("a route holds no control characters"));
        }
        let (methods, target) = match key.split_once(' ') {
            Some((methods, target)) => (methods_of(methods)?, target),
            None => (Vec::new(), key),
        };
        if target.contains(char::is_whitespace) {
            return Err(form("one space after the methods, none between them: \"GET,POST /path\""));
        }
        let Some(slash) = target.find('/') else {
            return Err(form("the path starts with /"));
        };
        if target.contains("://") {
            return Err(form("leave the scheme out"));
        }
        let (host, path) = target.split_at_checked(slash).unwrap_or((target, ""));
        if path.contains(['?', '#']) {
            return Err(form("a route is chosen by its path; leave ? and # out"));
        }
        let host = if host.is_empty() { None } else { Some(host_of(host)?) };
        Ok(Self { methods, host, path: path.to_owned() })
    }
}

fn methods_of(text: &str) -> Result<Vec<Method>, RouteKeyError> {
    let mut methods: Vec<Method> = Vec::new();
    for word in text.split(',') {
        let refuse = |why: &str, hint: Option<String>| {
            Err(RouteKeyError { message: format!("expected a method, got {}: {why}", shown(word)), hint })
        };
        let is_upper_case = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if !is_upper_case {
            let hint = did_you_mean(word, METHODS)
                .or_else(|| Some("methods are joined by commas without spaces: \"GET,POST /path\"".to_owned()));
            return refuse("methods are words in capitals", hint);
        }
        if word == "CONNECT" {
            return refuse("it asks for a tunnel, which this gateway never opens", None);
        }
        // `GTE /path` is legal, and would leave `GET /path` unserved.
        let nearest = METHODS.iter().find(|known| strsim::damerau_levenshtein(word, known) == 1);
        if let Some(nearest) = nearest.filter(|_| !METHODS.contains(&word)) {
            return refuse("it is a typing error of a common one", Some(format!("did you mean {nearest:?}?")));
        }
        let Ok(method) = Method::from_bytes(word.as_bytes()) else {
            return refuse("it is no legal method", None);
        };
        if methods.contains(&method) {
            return refuse("it is listed twice", None);
        }
        methods.push(method);
    }
    Ok(methods)
}

fn host_of(host: &str) -> Result<String, RouteKeyError> {
    let refuse = |hint: &str| {
        let message = format!("expected a host name in lower case before the path, got {}", shown(host));
        Err(RouteKeyError { message, hint: Some(hint.to_owned()) })
    };
    if host.contains(':') {
        return refuse("leave the port out: a route is for every port");
    }
    if host.contains('*') {
        return refuse("name each host; without one the route is for all of them");
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return refuse(&format!("write {:?}", host.to_ascii_lowercase()));
    }
    if !is_host(host) {
        return refuse(
            "a host is letters, digits, hyphens and dots, as in \"shop.example/path\"; a path starts with /",
        );
    }
    // "api/data" would be the path /data of a host that nobody asks for, and a free catch-all would serve what it prices.
    if !host.contains('.') && host != "localhost" {
        return refuse("a path starts with /; a host has a dot in it, or is \"localhost\"");
    }
    Ok(host.to_owned())
}
