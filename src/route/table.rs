//! The price table: host, then path, then method (contract §1.1). Order in the file means nothing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::Method;

use super::path::{CanonicalTarget, match_key};
use super::pattern::Pattern;
use super::scope::{Candidates, Choice, Parsed, Scope, is_loose, is_never_allowed};
use super::views;
use crate::config::{Diagnostic, RouteAction, RouteConfig};

/// A route of the table.
#[derive(Debug)]
pub struct Route {
    index: usize,
    config: Arc<RouteConfig>,
}

impl Route {
    /// Its place in the configuration's list of routes, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its name in metrics and books: the key as typed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.key
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }
}

/// What a request meets.
#[derive(Debug, Clone)]
pub enum RouteMatch {
    /// A route; also a denied one.
    Route(Arc<Route>),
    /// No route's pattern matches: 404.
    NotFound,
    /// The path is known and this method isn't: 405. It never falls through to a less specific route.
    MethodNotAllowed {
        /// What the `Allow` header lists.
        allow: Vec<Method>,
    },
    /// Another reading of the path meets something else: 400.
    Ambiguous,
}

/// Every route, ready to be searched.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    any_host: Scope,
    by_host: HashMap<String, Scope>,
}

impl RouteTable {
    /// Reads the configuration's routes.
    ///
    /// # Errors
    /// Every bad pattern and every clash at once, at the later key of the two.
    pub fn build(routes: &[RouteConfig]) -> Result<Self, Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let mut table = Self::default();
        let mut by_host: BTreeMap<Option<String>, Vec<Parsed>> = BTreeMap::new();
        for (index, config) in routes.iter().enumerate() {
            if let Some(method) = config.methods.iter().find(|method| is_never_allowed(method)) {
                let message = format!("expected a method that can be allowed, got `{method}` in `{}`", config.key);
                diagnostics.push(diagnostic(config, message, "TRACE and CONNECT are always refused"));
            }
            match Pattern::parse(&config.path) {
                Ok(pattern) => {
                    let route = Arc::new(Route { index, config: Arc::new(config.clone()) });
                    table.routes.push(Arc::clone(&route));
                    let host = config.host.as_deref().map(|host| normalize_host(host).into_owned());
                    by_host.entry(host).or_default().push(Parsed { route, pattern });
                }
                Err(refused) => diagnostics.push(Diagnostic {
                    location: config.location,
                    message: refused.message,
                    hint: refused.hint,
                }),
            }
        }
        for (host, parsed) in by_host {
            let clashes = find_clashes(&parsed);
            if !clashes.is_empty() {
                diagnostics.extend(clashes);
                continue;
            }
            match Scope::build(&parsed) {
                Ok(scope) => match host {
                    Some(host) => drop(table.by_host.insert(host, scope)),
                    None => table.any_host = scope,
                },
                Err((pattern, refused)) => {
                    let culprit = parsed.iter().find(|one| one.pattern == pattern);
                    diagnostics.extend(culprit.map(|one| {
                        let config = one.route.config();
                        diagnostic(config, format!("`{}` can't be matched: {refused}", config.key), "reword the path")
                    }));
                }
            }
        }
        if diagnostics.is_empty() { Ok(table) } else { Err(diagnostics) }
    }

    /// Every route, in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Chooses by host, then by path, then by method. `host` is the `Host` header or authority, with or without a port.
    #[must_use]
    pub fn find(&self, host: Option<&str>, target: &CanonicalTarget<'_>, method: &Method) -> RouteMatch {
        let path = target.path();
        let hosted = self.scope_of(host);
        let key = path.match_key();
        let candidates = self.candidates(hosted, path.as_str(), &key);
        let plain = candidates.map(|candidates| candidates.choose(method));
        if views::may_be_ambiguous(path.as_str())
            && self.differing_reading(hosted, path.as_str(), method, plain).is_some()
        {
            return RouteMatch::Ambiguous;
        }
        match (candidates, plain) {
            (Some(_), Some(Choice::Route(route))) => RouteMatch::Route(Arc::clone(route)),
            (Some(candidates), _) => RouteMatch::MethodNotAllowed { allow: candidates.allow() },
            (None, _) => RouteMatch::NotFound,
        }
    }

    /// The host's own routes, if it has any.
    pub(super) fn scope_of(&self, host: Option<&str>) -> Option<&Scope> {
        if self.by_host.is_empty() {
            return None;
        }
        self.by_host.get(normalize_host(host?).as_ref())
    }

    /// What is left at a path when host and pattern have decided.
    fn candidates<'a>(&'a self, hosted: Option<&'a Scope>, path: &str, key: &str) -> Option<Candidates<'a>> {
        self.all_candidates(hosted, path, key).map(Candidates::most_specific)
    }

    /// Any-host routes count only if none of the host's own patterns matches the path.
    pub(super) fn all_candidates<'a>(
        &'a self,
        hosted: Option<&'a Scope>,
        path: &str,
        key: &str,
    ) -> Option<Candidates<'a>> {
        hosted.and_then(|scope| scope.candidates(path, key)).or_else(|| self.any_host.candidates(path, key))
    }

    /// A reading of the path that meets something else than the plain one, in words.
    pub(super) fn differing_reading(
        &self,
        hosted: Option<&Scope>,
        path: &str,
        method: &Method,
        plain: Option<Choice<'_>>,
    ) -> Option<String> {
        let Ok(readings) = views::other_readings(path) else {
            return Some("a control byte".to_owned());
        };
        readings.into_iter().find(|reading| {
            let candidates = self.candidates(hosted, reading, &match_key(reading));
            !is_same(plain, candidates.map(|candidates| candidates.choose(method)))
        })
    }
}

fn is_same(one: Option<Choice<'_>>, other: Option<Choice<'_>>) -> bool {
    match (one, other) {
        (None, None) | (Some(Choice::MethodNotAllowed), Some(Choice::MethodNotAllowed)) => true,
        (Some(Choice::Route(one)), Some(Choice::Route(other))) => one.index == other.index,
        _ => false,
    }
}

/// Lower case, without port and trailing dot.
pub fn normalize_host(host: &str) -> Cow<'_, str> {
    let end = match host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(bracket) => bracket + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn diagnostic(config: &RouteConfig, message: String, hint: &str) -> Diagnostic {
    Diagnostic { location: config.location, message, hint: Some(hint.to_owned()) }
}

/// Every route that can't stand beside an earlier one of the same host.
fn find_clashes(parsed: &[Parsed]) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut patterns = matchit::Router::new();
    let mut by_pattern: HashMap<&str, Vec<&Parsed>> = HashMap::new();
    for (position, later) in parsed.iter().enumerate() {
        let same = by_pattern.entry(&later.pattern.loose).or_default();
        // One message for each route is enough.
        diagnostics.extend(same.iter().find_map(|earlier| method_clash(earlier, later)));
        // A mixed pattern isn't matched by matchit, and so never in the way of others.
        if same.is_empty() && !later.pattern.is_mixed() {
            let refused = patterns.insert(later.pattern.loose.clone(), ()).err();
            diagnostics.extend(refused.map(|refused| pattern_clash(parsed.iter().take(position), later, &refused)));
        }
        same.push(later);
    }
    diagnostics
}

/// Names the route whose pattern is in the way.
fn pattern_clash<'a>(
    earlier: impl Iterator<Item = &'a Parsed>,
    later: &Parsed,
    refused: &matchit::InsertError,
) -> Diagnostic {
    let culprit = earlier.filter(|earlier| !earlier.pattern.is_mixed()).find(|earlier| {
        let mut pair = matchit::Router::new();
        let first = pair.insert(earlier.pattern.loose.clone(), ());
        first.and_then(|()| pair.insert(later.pattern.loose.clone(), ())).is_err()
    });
    let config = later.route.config();
    let message = match culprit {
        Some(culprit) => {
            format!("`{}` clashes with {}: another kind of parameter in the same place", config.key, place(culprit))
        }
        None => format!("`{}` clashes with other routes: {refused}", config.key),
    };
    diagnostic(config, message, "use either a parameter or a catch-all in one place")
}

fn place(parsed: &Parsed) -> String {
    let config = parsed.route.config();
    format!("`{}` at {}:{}", config.key, config.location.line, config.location.column)
}

/// Compares the methods of two routes whose patterns have the same match key.
fn method_clash(earlier: &Parsed, later: &Parsed) -> Option<Diagnostic> {
    let both = [earlier, later];
    let are_both_free = both.iter().all(|one| !is_loose(&one.route));
    if are_both_free && earlier.pattern.exact != later.pattern.exact {
        return None;
    }
    let config = later.route.config();
    let (one, other) = (&earlier.route.config().methods, &config.methods);
    if let Some(method) = one.iter().find(|method| other.contains(method)) {
        let message = format!("`{}` clashes with {}: both take {method} on this path", config.key, place(earlier));
        return Some(diagnostic(config, message, "priced routes ignore letter case and a trailing slash"));
    }
    if one.is_empty() && other.is_empty() {
        let message = format!("`{}` clashes with {}: both take all methods on this path", config.key, place(earlier));
        return Some(diagnostic(config, message, "drop one, or name methods"));
    }
    // A path that is priced for some methods must not be free for all that nobody named (contract §1.1).
    let config_of = |one: &Parsed| Arc::clone(one.route.config());
    let is_some_priced =
        both.map(config_of).iter().any(|one| !one.methods.is_empty() && matches!(one.action, RouteAction::Paid(_)));
    let is_rest_free =
        both.map(config_of).iter().any(|one| one.methods.is_empty() && matches!(one.action, RouteAction::Free));
    if is_some_priced && is_rest_free {
        let place = place(earlier);
        let message =
            format!("`{}` clashes with {place}: one prices some methods, the other frees all others", config.key);
        return Some(diagnostic(config, message, "name the methods that are free"));
    }
    None
}
