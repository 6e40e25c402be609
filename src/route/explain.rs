//! Why a request takes the route it takes, in words, for `tollhouse explain`.

use http::Method;

use super::path::{PathError, canonicalize};
use super::scope::{COMMON_METHODS, Candidates, Choice, Entry, is_never_allowed};
use super::table::{RouteMatch, RouteTable, normalize_host};
use super::views;

/// What a request meets, and why.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What would go to the origin, without the query; none if the path is refused.
    pub canonical_path: Option<String>,
    /// The decision; the same that a request meets.
    pub outcome: Outcome,
    /// How it came about, one sentence each, in order.
    pub reasons: Vec<String>,
}

/// A decision about a request that may have no legal path.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The table decided.
    Match(RouteMatch),
    /// There was no path to decide on: 400.
    BadPath(PathError),
}

impl RouteTable {
    /// Explains what a request meets. `host` and `raw_target` are as a client sends them.
    #[must_use]
    pub fn explain(&self, method: &Method, host: Option<&str>, raw_target: &str) -> Explanation {
        let target = match canonicalize(raw_target.as_bytes()) {
            Ok(target) => target,
            Err(error) => {
                let reasons = vec![format!("the request is refused before any route is looked at: {error}")];
                return Explanation { canonical_path: None, outcome: Outcome::BadPath(error), reasons };
            }
        };
        if is_never_allowed(method) {
            // Before any route is looked at, so that refusing says nothing of what there is.
            let outcome = Outcome::Match(RouteMatch::MethodNotAllowed { allow: COMMON_METHODS.to_vec() });
            let canonical_path = Some(target.path().as_str().to_owned());
            return Explanation { canonical_path, outcome, reasons: vec![format!("{method} is never allowed")] };
        }
        let path = target.path().as_str();
        let key = target.path().match_key();
        let mut reasons = Vec::new();
        if raw_target.split('?').next() != Some(path) {
            reasons.push(format!("the path is matched and forwarded as `{path}`"));
        }
        let hosted = self.scope_of(host);
        reasons.push(self.explain_host(host, path, &key));
        let all = self.all_candidates(hosted, path, &key);
        let chosen = all.map(Candidates::most_specific);
        reasons.extend(all.into_iter().flat_map(Candidates::entries).map(explain_entry));
        if let (Some(Candidates { loose: Some(loose), exact: Some(exact) }), Some(chosen)) = (all, chosen) {
            reasons.push(explain_specificity(loose, exact, chosen));
        }
        if all.is_none() {
            reasons.push("no pattern matches the path, and what no route matches is not forwarded".to_owned());
        }
        let plain = chosen.map(|candidates| candidates.choose(method));
        reasons.extend(plain.map(|choice| explain_method(method, choice)));
        if views::may_be_ambiguous(path)
            && let Some(reading) = self.differing_reading(hosted, path, method, plain)
        {
            reasons
                .push(format!("an origin may also read the path as `{reading}`, which would be decided differently"));
        }
        let outcome = Outcome::Match(self.find(host, &target, method));
        Explanation { canonical_path: Some(path.to_owned()), outcome, reasons }
    }

    fn explain_host(&self, host: Option<&str>, path: &str, key: &str) -> String {
        let Some(host) = host else {
            return "no host is given: only routes for any host count".to_owned();
        };
        let name = normalize_host(host);
        match self.scope_of(Some(host)).map(|scope| scope.candidates(path, key).is_some()) {
            None => format!("host `{name}` has no routes of its own: routes for any host count"),
            Some(true) => format!("host `{name}` has routes of its own that match: routes for any host don't count"),
            Some(false) => format!("no route of host `{name}` matches the path: routes for any host count"),
        }
    }
}

fn explain_entry(entry: &Entry) -> String {
    let names: Vec<String> = entry.routes.iter().map(|route| format!("`{}`", route.name())).collect();
    let is_loose = entry.routes.iter().any(|route| super::scope::is_loose(route));
    let how = if is_loose { "in any letter case, with or without a trailing slash" } else { "exactly, being free" };
    format!("{} matches the path {how}", names.join(", "))
}

fn explain_specificity(loose: &Entry, exact: &Entry, chosen: Candidates<'_>) -> String {
    let name = |entry: &Entry| entry.routes.first().map(|route| route.name().to_owned()).unwrap_or_default();
    match (chosen.loose, chosen.exact) {
        (Some(_), Some(_)) => "their patterns are equal, so methods decide".to_owned(),
        (Some(_), None) => format!("`{}` is more specific than `{}`, so it alone counts", name(loose), name(exact)),
        _ => format!("`{}` is more specific than `{}`, so it alone counts", name(exact), name(loose)),
    }
}

fn explain_method(method: &Method, choice: Choice<'_>) -> String {
    match choice {
        Choice::MethodNotAllowed => {
            format!("none of its routes takes {method}, and a known path never falls through to another route")
        }
        Choice::Route(route) if route.config().methods.contains(method) => {
            format!("`{}` names {method}", route.name())
        }
        Choice::Route(route) if route.config().methods.is_empty() => {
            format!("`{}` takes every method that no other route of this path names", route.name())
        }
        Choice::Route(route) => format!("`{}` names GET, which covers HEAD", route.name()),
    }
}
