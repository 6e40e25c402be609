//! The table's promises, one by one.

use std::time::Duration;

use http::Method;

use super::path::canonicalize;
use super::table::{RouteMatch, RouteTable};
use super::{Outcome, PathError};
use crate::config::{Location, PaidRoute, Redeliver, RouteAction, RouteConfig, SettleMode};

/// A route from its key and one of `free`, `deny`, `paid`.
pub(super) fn route(key: &str, action: &str, line: u32) -> RouteConfig {
    let (methods, rest) = key.rsplit_once(' ').unwrap_or(("", key));
    let methods =
        methods.split(',').filter(|method| !method.is_empty()).map(|method| method.parse().unwrap()).collect();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let action = match action {
        "free" => RouteAction::Free,
        "deny" => RouteAction::Deny,
        _ => RouteAction::Paid(PaidRoute {
            offers: vec![],
            description: String::new(),
            mime_type: String::new(),
            output_schema: None,
            input: None,
            discoverable: true,
            max_timeout: Duration::from_secs(60),
            settle: SettleMode::Before,
            redeliver: Redeliver::Always,
            vitwit: false,
            payment_identifier: crate::types::IdentifierRule::Off,
        }),
    };
    RouteConfig {
        forward: crate::config::ForwardPath::Same,
        websocket: None,
        rates: crate::config::Rates::default(),
        free_quota: None,
        free_for: crate::config::FreeFor::default(),
        key: key.to_owned(),
        location: Location { line, column: 1 },
        methods,
        host: (!host.is_empty()).then(|| host.to_owned()),
        path: path.to_owned(),
        action,
        upstream: Some("api".to_owned()),
    }
}

fn routes(keys: &[(&str, &str)]) -> Vec<RouteConfig> {
    keys.iter().zip(1..).map(|((key, action), line)| route(key, action, line)).collect()
}

fn table(keys: &[(&str, &str)]) -> RouteTable {
    RouteTable::build(&routes(keys)).unwrap()
}

/// The outcome as a text: the route's key, or `404`, `405 ALLOW`, `400`.
fn met(table: &RouteTable, method: &str, host: Option<&str>, path: &str) -> String {
    let Ok(target) = canonicalize(path.as_bytes()) else { return "400".to_owned() };
    match table.find(host, &target, &method.parse::<Method>().unwrap()) {
        RouteMatch::Route(route) => route.name().to_owned(),
        RouteMatch::NotFound => "404".to_owned(),
        RouteMatch::MethodNotAllowed { allow } => {
            let allow: Vec<&str> = allow.iter().map(Method::as_str).collect();
            format!("405 {}", allow.join(","))
        }
        RouteMatch::Ambiguous => "400".to_owned(),
    }
}

fn get(table: &RouteTable, path: &str) -> String {
    met(table, "GET", None, path)
}

#[test]
fn no_spelling_of_a_priced_path_reaches_the_free_rest() {
    let table = table(&[("/paid", "paid"), ("/api/premium", "paid"), ("/{*path}", "free")]);
    for (path, expected) in [
        // A1
        ("/%70aid", "/paid"),
        ("/pai%64", "/paid"),
        ("/%2570aid", "400"),
        ("/%zz", "400"),
        ("/%c0paid", "400"),
        // A2
        ("/api%2Fpremium", "400"),
        ("/api%252Fpremium", "400"),
        ("/api%5cpremium", "400"),
        ("/\\paid", "400"),
        ("/paid\\", "400"),
        // A3
        ("/./paid", "/paid"),
        ("/x/../paid", "/paid"),
        ("/%2e%2e/paid", "400"),
        ("/x/%2e%2e/paid", "/paid"),
        ("/x/..;/paid", "400"),
        ("/x/..;a=b/paid", "400"),
        ("/paid;jsessionid=1", "400"),
        ("/paid%3bjsessionid=1", "400"),
        ("/api;x/premium", "400"),
        // A4
        ("//paid", "/paid"),
        ("/api//premium", "/api/premium"),
        ("///", "/{*path}"),
        // A5
        ("/PAID", "/paid"),
        ("/paid/", "/paid"),
        ("/pAiD//", "/paid"),
        ("/paid.", "400"),
        ("/paid%2e", "400"),
        ("/paid%20", "400"),
        ("/paid/%20", "400"),
        ("/paid%00", "400"),
        ("/paid#x", "400"),
        ("/pa id", "400"),
        ("/paid%3Fx", "400"),
        // A6
        ("paid", "400"),
        ("http://h/paid", "400"),
        ("*", "400"),
        // A10
        ("/paid-not", "/{*path}"),
        ("/api/premiums", "/{*path}"),
        ("/api", "/{*path}"),
        ("/paid/x", "/{*path}"),
        ("/*", "/{*path}"),
        ("/:paid", "/{*path}"),
        ("/{x}", "/{*path}"),
        // What is harmless stays so.
        ("/other;v=1", "/{*path}"),
        ("/other%20file%2C.txt", "/{*path}"),
        ("/50%25", "/{*path}"),
        ("/caf%C3%A9", "/{*path}"),
    ] {
        assert_eq!(get(&table, path), expected, "{path}");
    }
}

#[test]
fn a_route_without_methods_prices_all_of_them() {
    let table = table(&[("/paid", "paid"), ("/{*path}", "free")]);
    for method in ["GET", "HEAD", "POST", "OPTIONS", "PROPFIND", "get", "X"] {
        assert_eq!(met(&table, method, None, "/paid"), "/paid", "{method}");
    }
}

#[test]
fn trace_and_connect_are_never_allowed() {
    let table = table(&[("/paid", "paid"), ("/{*path}", "free")]);
    for method in ["TRACE", "CONNECT"] {
        for path in ["/paid", "/other"] {
            assert_eq!(met(&table, method, None, path), "405 GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS", "{method}");
        }
    }
    let refused = RouteTable::build(&routes(&[("TRACE /x", "free")])).unwrap_err();
    assert!(refused[0].message.contains("TRACE"), "{refused:?}");
}

#[test]
fn a_path_priced_for_some_methods_never_falls_through() {
    let table = table(&[("GET /paid", "paid"), ("PUT /paid", "free"), ("/{*path}", "free")]);
    assert_eq!(met(&table, "GET", None, "/paid"), "GET /paid");
    assert_eq!(met(&table, "HEAD", None, "/paid"), "GET /paid");
    assert_eq!(met(&table, "PUT", None, "/paid"), "PUT /paid");
    for method in ["POST", "get", "OPTIONS", "PROPFIND"] {
        assert_eq!(met(&table, method, None, "/paid"), "405 GET,HEAD,PUT", "{method}");
    }
    // The free one is exact: its other spellings are the priced one's.
    assert_eq!(met(&table, "PUT", None, "/PAID/"), "405 GET,HEAD");
}

#[test]
fn a_free_path_with_methods_refuses_the_others() {
    let table = table(&[("GET /health", "free"), ("/{*path}", "paid")]);
    assert_eq!(met(&table, "HEAD", None, "/health"), "GET /health");
    assert_eq!(met(&table, "POST", None, "/health"), "405 GET,HEAD");
}

#[test]
fn methods_that_are_named_beat_those_that_are_not() {
    let table =
        table(&[("GET /x", "free"), ("/x", "paid"), ("DELETE /y", "deny"), ("/y", "free"), ("HEAD /x", "paid")]);
    assert_eq!(met(&table, "GET", None, "/x"), "GET /x");
    assert_eq!(met(&table, "HEAD", None, "/x"), "HEAD /x");
    assert_eq!(met(&table, "POST", None, "/x"), "/x");
    assert_eq!(met(&table, "GET", None, "/X"), "/x");
    assert_eq!(met(&table, "DELETE", None, "/y"), "DELETE /y");
    assert_eq!(met(&table, "GET", None, "/y"), "/y");
}

#[test]
fn free_routes_match_exactly_and_the_rest_is_not_found() {
    let table = table(&[("/health", "free"), ("/files/{*rest}", "free"), ("/users/{id}", "free")]);
    assert_eq!(get(&table, "/health"), "/health");
    for path in ["/Health", "/health/", "/", "/users", "/users/", "/users/1/", "/USERS/1"] {
        assert_eq!(get(&table, path), "404", "{path}");
    }
    assert_eq!(get(&table, "/users/1"), "/users/{id}");
    for path in ["/files", "/files/", "/files/a", "/files/a/"] {
        assert_eq!(get(&table, path), "/files/{*rest}", "{path}");
    }
}

#[test]
fn priced_and_denied_routes_match_loosely() {
    let table =
        table(&[("/Files/{*rest}", "paid"), ("/Users/{Id}/", "deny"), ("/caf%C3%A9", "paid"), ("/{*p}", "free")]);
    for path in ["/files", "/FILES/", "/files/A", "/filEs/a/"] {
        assert_eq!(get(&table, path), "/Files/{*rest}", "{path}");
    }
    assert_eq!(get(&table, "/users/1"), "/Users/{Id}/");
    assert_eq!(get(&table, "/CAF%c3%89"), "/caf%C3%A9");
    assert_eq!(get(&table, "/"), "/{*p}");
}

#[test]
fn the_more_specific_pattern_wins_whatever_it_costs() {
    let table = table(&[
        ("/shop/{id}", "paid"),
        ("/shop/sample", "free"),
        ("/{*rest}", "free"),
        ("/", "paid"),
        ("/a/{x}", "free"),
        ("/a/secret", "paid"),
        ("/files/{*rest}", "paid"),
        ("/files/", "free"),
        ("/img/{name}.png", "free"),
        ("/img/{name}", "paid"),
    ]);
    for (path, expected) in [
        ("/shop/1", "/shop/{id}"),
        ("/shop/sample", "/shop/sample"),
        ("/shop/SAMPLE", "/shop/{id}"),
        ("/shop/sample/", "/shop/{id}"),
        ("/shop/sample;x", "400"),
        ("/shop/a/b", "/{*rest}"),
        ("/", "/"),
        ("/a/b", "/a/{x}"),
        ("/a/SECRET/", "/a/secret"),
        ("/files/", "/files/"),
        ("/files", "/files/{*rest}"),
        ("/img/a.png", "/img/{name}.png"),
        ("/img/a.PNG", "/img/{name}"),
    ] {
        assert_eq!(get(&table, path), expected, "{path}");
    }
}

#[test]
fn a_parameter_with_text_round_it_hides_no_other_pattern() {
    // matchit 0.9.2 alone finds nothing for the first path, and would leave it to whatever is less specific.
    let table = table(&[("/{x}/{*r}", "paid"), ("/{y}.json/paid", "paid"), ("/p{z}", "paid")]);
    for (path, expected) in [
        ("/x.json/other", "/{x}/{*r}"),
        ("/x.json/paid", "/{y}.json/paid"),
        ("/X.JSON/PAID/", "/{y}.json/paid"),
        ("/pa", "/p{z}"),
        ("/p", "/{x}/{*r}"),
    ] {
        assert_eq!(get(&table, path), expected, "{path}");
    }
}

#[test]
fn hosts_are_compared_without_case_port_and_trailing_dot() {
    let table = table(&[("a.com/x", "paid"), ("/x", "free"), ("/y", "free"), ("[::1]/x", "deny")]);
    for host in ["a.com", "A.com:8402", "a.COM.", "a.com.:80"] {
        assert_eq!(met(&table, "GET", Some(host), "/x"), "a.com/x", "{host}");
        assert_eq!(met(&table, "GET", Some(host), "/y"), "/y", "{host}");
    }
    assert_eq!(met(&table, "GET", Some("[::1]:80"), "/x"), "[::1]/x");
    for host in [None, Some("b.com"), Some("xa.com"), Some("")] {
        assert_eq!(met(&table, "GET", host, "/x"), "/x", "{host:?}");
    }
}

#[test]
fn a_method_that_the_host_refuses_is_not_taken_by_any_host() {
    let table = table(&[("GET a.com/x", "paid"), ("/x", "free")]);
    assert_eq!(met(&table, "POST", Some("a.com"), "/x"), "405 GET,HEAD");
    assert_eq!(met(&table, "POST", Some("b.com"), "/x"), "/x");
}

#[test]
fn an_empty_table_serves_nothing() {
    assert_eq!(get(&table(&[]), "/"), "404");
}

#[test]
fn clashes_are_reported_all_at_once_with_both_places() {
    let refused = RouteTable::build(&routes(&[
        ("GET /a", "paid"),
        ("GET /A/", "free"),
        ("/b", "free"),
        ("/b", "free"),
        ("/c/{x}", "free"),
        ("/c/{*y}", "paid"),
        ("/d/{x}", "paid"),
        ("/d/{y}", "paid"),
        ("GET,PUT /e", "paid"),
        ("/e", "free"),
        ("/%70", "free"),
        ("h.com/f", "paid"),
        ("h.com/F", "paid"),
    ]))
    .unwrap_err();
    let mut found: Vec<(u32, String)> = refused.iter().map(|one| (one.location.line, one.message.clone())).collect();
    found.sort();
    let expected = [
        (2, "`GET /a` at 1:1"),
        (4, "`/b` at 3:1"),
        (6, "`/c/{x}` at 5:1"),
        (8, "`/d/{x}` at 7:1"),
        (10, "`GET,PUT /e` at 9:1"),
        (11, "canonical"),
        (13, "`h.com/f` at 12:1"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, message), (expected_line, part)) in found.iter().zip(expected) {
        assert!(*line == expected_line && message.contains(part), "{line} {message} | {expected_line} {part}");
    }
}

#[test]
fn routes_that_differ_stand_beside_each_other() {
    for keys in [
        &[("/about", "free"), ("/About", "free"), ("/about/", "free")][..],
        &[("GET /a", "paid"), ("POST /A", "free")],
        &[("a.com/x", "paid"), ("b.com/x", "free"), ("/x", "free")],
        &[("/f/{*r}", "paid"), ("/f", "free")],
        &[("/{x}/{*r}", "paid"), ("/{y}", "free"), ("/", "free")],
        &[("/u/{id}/a", "paid"), ("/u/{name}/b", "free")],
    ] {
        assert!(RouteTable::build(&routes(keys)).is_ok(), "{keys:?}");
    }
}

#[test]
fn explanations_say_what_find_decides_and_why() {
    let table = table(&[("GET /paid", "paid"), ("/{*path}", "free"), ("a.com/x", "deny")]);
    let explained = table.explain(&Method::HEAD, Some("a.com:80"), "/x/../%50AID/?q=1");
    assert_eq!(explained.canonical_path.as_deref(), Some("/PAID/"));
    assert!(matches!(&explained.outcome, Outcome::Match(RouteMatch::Route(route)) if route.name() == "GET /paid"));
    let words = explained.reasons.join("\n");
    for part in ["forwarded as `/PAID/`", "no route of host `a.com` matches", "more specific than `/{*path}`", "HEAD"] {
        assert!(words.contains(part), "{part} is missing in {words}");
    }
    let explained = table.explain(&Method::GET, None, "/paid;x");
    assert!(matches!(explained.outcome, Outcome::Match(RouteMatch::Ambiguous)));
    assert!(explained.reasons.join("\n").contains("read the path as `/paid`"));
    let explained = table.explain(&Method::GET, None, "/%2f");
    assert!(matches!(explained.outcome, Outcome::BadPath(PathError::EncodedSeparator)));
}
