//! The path that the origin gets: the matched canonical one, or one that is made from it as the route says. Nothing else of
//! the request has a say in it.

use std::borrow::Cow;

use crate::config::{ForwardPath, RouteConfig};
use crate::route::{CanonicalTarget, canonicalize};

/// Path and query for the origin; nothing if the result would be read in another way than it was written, which is a
/// mistake in the route and no reason to send it.
pub(super) fn target<'a>(route: &RouteConfig, asked: &'a CanonicalTarget<'_>) -> Option<Cow<'a, str>> {
    let path = asked.path().as_str();
    let path = match &route.forward {
        ForwardPath::Same => return Some(asked.path_and_query()),
        ForwardPath::Without(prefix) => without(path, prefix)?.to_owned(),
        ForwardPath::Instead(rewrite) => instead(path, &route.path, rewrite)?,
    };
    let target = match asked.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let is_canonical = canonicalize(target.as_bytes()).is_ok_and(|again| again.path_and_query() == target);
    is_canonical.then_some(Cow::Owned(target))
}

/// Letter case is no difference here, since priced routes match without it.
fn without<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = path.split_at_checked(prefix.len())?;
    if !start.eq_ignore_ascii_case(prefix) {
        return None;
    }
    match rest {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// Segments of a canonical path stand where those of the route's pattern do.
fn instead(path: &str, pattern: &str, rewrite: &str) -> Option<String> {
    let segment = |wanted: &str| {
        let index = pattern.split('/').position(|segment| segment == wanted)?;
        if wanted.starts_with("{*") {
            // A catch-all covers its own place left empty, too.
            return Some(path.splitn(index + 1, '/').nth(index).unwrap_or_default());
        }
        path.split('/').nth(index)
    };
    let mut made = Vec::new();
    for piece in rewrite.split('/') {
        made.push(if piece.starts_with('{') { segment(piece)? } else { piece });
    }
    Some(made.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteAction;
    use crate::proxy::testing::route;

    fn forwarded(pattern: &str, forward: ForwardPath, asked: &str) -> Option<String> {
        let route = RouteConfig { forward, ..route(pattern, RouteAction::Free) };
        target(&route, &canonicalize(asked.as_bytes()).unwrap()).map(Cow::into_owned)
    }

    #[test]
    fn a_prefix_is_taken_off_whole_and_in_any_case() {
        for (asked, expected) in [
            ("/api/a/b?x=/api", "/a/b?x=/api"),
            ("/API/a/", "/a/"),
            ("/api", "/"),
            ("/api/", "/"),
            ("/api?q", "/?q"),
            ("//api//a", "/a"),
        ] {
            let got = forwarded("/api/{*rest}", ForwardPath::Without("/api".into()), asked);
            assert_eq!(got.as_deref(), Some(expected), "{asked}");
        }
        assert_eq!(forwarded("/api/{*rest}", ForwardPath::Without("/api".into()), "/apian"), None);
    }

    #[test]
    fn a_rewritten_path_is_made_of_what_the_route_took() {
        for (pattern, rewrite, asked, expected) in [
            ("/a/{id}", "/v2/x/{id}", "/a/7?q=1", "/v2/x/7?q=1"),
            ("/a/{id}", "/{id}/{id}", "/a/7/", "/7/7"),
            ("/a/{id}", "/v2/{id}", "/a/%2e%2e/a/x%20y", "/v2/x%20y"),
            ("/a/{id}/b/{*rest}", "/{id}/{*rest}", "/a/1/b/c/d/", "/1/c/d/"),
            ("/a/{*rest}", "/b/{*rest}", "/a", "/b/"),
            ("/a/{*rest}", "/b/{*rest}", "/a/", "/b/"),
            ("/a", "/b", "/a?x", "/b?x"),
        ] {
            let got = forwarded(pattern, ForwardPath::Instead(rewrite.into()), asked);
            assert_eq!(got.as_deref(), Some(expected), "{asked}");
        }
    }

    #[test]
    fn what_would_be_read_in_another_way_is_not_sent() {
        assert_eq!(forwarded("/a/{id}/b", ForwardPath::Instead("/x/{id}/../y".into()), "/a/1/b"), None);
    }
}
