//! The routes of one host (or of any host): patterns into matchit, and the decision between what matches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Method;

use super::pattern::{self, MoreSpecific, Pattern};
use super::table::Route;
use crate::config::RouteAction;

/// All routes of one pattern; they differ by method.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pattern: Pattern,
    pub(super) routes: Vec<Arc<Route>>,
}

/// A route and its pattern, while the table is built.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) route: Arc<Route>,
    pub(super) pattern: Pattern,
}

/// The routes of one host.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Priced and denied ones, by match key.
    loose: Patterns,
    /// Free ones, by canonical path.
    exact: Patterns,
}

/// Patterns of one form, to be searched by a path of that form.
#[derive(Debug, Default)]
struct Patterns {
    router: matchit::Router<Arc<Entry>>,
    /// Those with a parameter that has text round it, longest first. matchit 0.9 doesn't come back from a suffix that fits
    /// when the rest of the path doesn't, and so misses other patterns that do.
    mixed: Vec<(String, Arc<Entry>)>,
}

/// What matches a path, before methods are looked at. At least one of the two is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub(super) loose: Option<&'a Entry>,
    pub(super) exact: Option<&'a Entry>,
}

/// What a method meets at a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice<'a> {
    Route(&'a Arc<Route>),
    MethodNotAllowed,
}

/// Whether a route is matched by its match key: all but free ones.
pub(super) fn is_loose(route: &Route) -> bool {
    !matches!(route.config().action, RouteAction::Free)
}

impl Scope {
    /// Takes routes without clashes.
    ///
    /// # Errors
    /// A pattern that matchit refuses, with its words.
    pub(super) fn build(parsed: &[Parsed]) -> Result<Self, (Pattern, matchit::InsertError)> {
        let (loose, exact): (Vec<&Parsed>, Vec<&Parsed>) = parsed.iter().partition(|one| is_loose(&one.route));
        Ok(Self {
            loose: fill(&loose, |pattern| &pattern.loose, false)?,
            exact: fill(&exact, |pattern| &pattern.exact, true)?,
        })
    }

    /// What matches a canonical path and its match key, if anything does.
    pub(super) fn candidates(&self, path: &str, match_key: &str) -> Option<Candidates<'_>> {
        let loose = self.loose.at(match_key);
        let exact = self.exact.at(path);
        (loose.is_some() || exact.is_some()).then_some(Candidates { loose, exact })
    }
}

impl Patterns {
    /// The most specific pattern that matches.
    fn at(&self, path: &str) -> Option<&Entry> {
        let plain = self.router.at(path).ok().map(|found| found.value.as_ref());
        let mixed = self.mixed.iter().filter(|(text, _)| pattern::matches(text, path)).map(|(_, entry)| entry.as_ref());
        mixed.chain(plain).reduce(|best, next| match best.pattern.compare(&next.pattern) {
            MoreSpecific::Right => next,
            MoreSpecific::Left | MoreSpecific::Neither => best,
        })
    }
}

fn fill(
    parsed: &[&Parsed],
    form: impl Fn(&Pattern) -> &String,
    with_slash: bool,
) -> Result<Patterns, (Pattern, matchit::InsertError)> {
    let mut patterns = Patterns::default();
    let mut groups: BTreeMap<&String, Entry> = BTreeMap::new();
    for one in parsed {
        groups
            .entry(form(&one.pattern))
            .or_insert_with(|| Entry { pattern: one.pattern.clone(), routes: Vec::new() })
            .routes
            .push(Arc::clone(&one.route));
    }
    let named: BTreeSet<String> = groups.keys().map(|text| (*text).clone()).collect();
    for (text, entry) in groups {
        let entry = Arc::new(entry);
        let mut places = vec![text.clone()];
        if let Some(parent) = Pattern::empty_catch_all(text) {
            let root = parent.is_empty();
            places.extend((with_slash || root).then(|| format!("{parent}/")));
            places.extend((!root).then(|| parent.to_owned()));
            // Routes that name these places keep them.
            places.retain(|place| place == text || !named.contains(place));
        }
        for place in places {
            if entry.pattern.is_mixed() {
                patterns.mixed.push((place, Arc::clone(&entry)));
                continue;
            }
            let inserted = patterns.router.insert(place, Arc::clone(&entry));
            inserted.map_err(|refused| (entry.pattern.clone(), refused))?;
        }
    }
    patterns.mixed.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    Ok(patterns)
}

impl<'a> Candidates<'a> {
    /// The entries that are left when the more specific pattern has won: both only if their patterns are equal.
    pub(super) fn most_specific(self) -> Self {
        let (Some(loose), Some(exact)) = (self.loose, self.exact) else { return self };
        match loose.pattern.compare(&exact.pattern) {
            MoreSpecific::Left => Self { loose: self.loose, exact: None },
            MoreSpecific::Right => Self { loose: None, exact: self.exact },
            MoreSpecific::Neither => self,
        }
    }

    /// The entries, the one that charges or denies first.
    pub(super) fn entries(self) -> impl Iterator<Item = &'a Entry> {
        self.loose.into_iter().chain(self.exact)
    }

    /// The route for a method: one that names it, then for `HEAD` one that names `GET`, then one for all methods. `TRACE`
    /// and `CONNECT` are never allowed (threat A9).
    pub(super) fn choose(self, method: &Method) -> Choice<'a> {
        if is_never_allowed(method) {
            return Choice::MethodNotAllowed;
        }
        let find = |fits: &dyn Fn(&[Method]) -> bool| {
            self.entries().flat_map(|entry| &entry.routes).find(|route| fits(&route.config().methods))
        };
        let named = find(&|methods| methods.contains(method))
            .or_else(|| find(&|methods| *method == Method::HEAD && methods.contains(&Method::GET)))
            .or_else(|| find(&|methods| methods.is_empty()));
        named.map_or(Choice::MethodNotAllowed, Choice::Route)
    }

    /// What `Allow` lists, for a path that refuses a method.
    pub(super) fn allow(self) -> Vec<Method> {
        let mut allow: Vec<Method> = Vec::new();
        let all =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        for route in self.entries().flat_map(|entry| &entry.routes) {
            let methods = &route.config().methods;
            let listed = if methods.is_empty() { all.as_slice() } else { methods.as_slice() };
            for method in listed {
                push_once(&mut allow, method);
                if *method == Method::GET {
                    push_once(&mut allow, &Method::HEAD);
                }
            }
        }
        allow
    }
}

fn push_once(list: &mut Vec<Method>, method: &Method) {
    if !list.contains(method) {
        list.push(method.clone());
    }
}

/// What an `Allow` header lists for a method that is refused everywhere.
pub const COMMON_METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Methods that no route can allow: `TRACE` echoes headers, `CONNECT` makes a tunnel.
pub(super) fn is_never_allowed(method: &Method) -> bool {
    *method == Method::TRACE || *method == Method::CONNECT
}
