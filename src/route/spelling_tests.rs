//! Random tables, random spellings: what is priced is never served free, and matchit agrees with a plain reading of the
//! contract that knows no matchit.

use std::cell::Cell;

use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::path::canonicalize;
use super::table::{RouteMatch, RouteTable};
use super::table_tests::route;
use crate::config::{RouteAction, RouteConfig};

const CASES: u32 = 4_000;
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PROPFIND", "get", "TRACE", "CONNECT"];

/// Keeps each route that can stand beside those before it.
fn build(wanted: Vec<(String, &'static str)>) -> (Vec<RouteConfig>, RouteTable) {
    let mut kept: Vec<RouteConfig> = Vec::new();
    for ((key, action), line) in wanted.iter().zip(1..) {
        kept.push(route(key, action, line));
        if RouteTable::build(&kept).is_err() {
            kept.pop();
        }
    }
    let table = RouteTable::build(&kept).unwrap();
    (kept, table)
}

fn key() -> impl Strategy<Value = String> {
    let methods = prop_oneof![3 => Just(""), 2 => Just("GET "), 1 => Just("POST "), 1 => Just("GET,PUT ")];
    let host = prop_oneof![4 => Just(""), 1 => Just("a.com")];
    let segment = prop_oneof![
        Just("paid"),
        Just("Paid"),
        Just("a"),
        Just("b"),
        Just("x.json"),
        Just("{x}"),
        Just("{y}.json"),
        Just("p{y}"),
        Just("wow!")
    ];
    let end = prop_oneof![3 => Just(""), 1 => Just("/"), 1 => Just("/{*r}")];
    (methods, host, prop::collection::vec(segment, 0..3), end).prop_map(|(methods, host, segments, end)| {
        let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect::<String>() + end;
        format!("{methods}{host}{}", if path.is_empty() { "/" } else { &path })
    })
}

fn wanted_routes() -> impl Strategy<Value = Vec<(String, &'static str)>> {
    let action = prop_oneof![3 => Just("free"), 3 => Just("paid"), 1 => Just("deny")];
    prop::collection::vec((key(), action), 1..7)
}

/// One way to write a path so that some origin may read it as that path.
#[derive(Debug, Clone)]
enum Trick {
    FlipCase(usize),
    Encode(usize, bool),
    EncodeTwice(usize),
    Insert(usize, &'static str),
    Append(&'static str),
    Prepend(&'static str),
}

fn tricks() -> impl Strategy<Value = Vec<Trick>> {
    let place = || 0_usize..16;
    let at_slash =
        prop::sample::select(vec!["/", "/.", "/%2e", "/zz/..", "/zz/%2E%2e", "/zz/..;", "/zz/..;q=1", "/;q", "/%20"]);
    let end = prop::sample::select(vec![
        "/", "//", "/.", ";x", ";a=b;c", "%3bx", ".", "..", "%2e", "%20", "%20.", "%3Fq", "%23q", "?q",
    ]);
    let start = prop::sample::select(vec!["/", "//", "/.", "/..;", "/zz/..", "/%252e%252e"]);
    let trick = prop_oneof![
        place().prop_map(Trick::FlipCase),
        (place(), any::<bool>()).prop_map(|(at, upper)| Trick::Encode(at, upper)),
        place().prop_map(Trick::EncodeTwice),
        (place(), at_slash).prop_map(|(at, text)| Trick::Insert(at, text)),
        end.prop_map(Trick::Append),
        start.prop_map(Trick::Prepend),
    ];
    prop::collection::vec(trick, 0..4)
}

/// Applies tricks to the letters of a path, so that no trick undoes another.
fn spell(path: &str, tricks: &[Trick]) -> String {
    let mut units: Vec<String> = path.chars().map(String::from).collect();
    let (mut before, mut behind) = (String::new(), String::new());
    for trick in tricks {
        let letters: Vec<usize> = (0..units.len()).filter(|at| units[*at].len() == 1 && units[*at] != "/").collect();
        let slashes: Vec<usize> = (0..units.len()).filter(|at| units[*at].starts_with('/')).collect();
        let pick = |list: &[usize], at: usize| list.get(at % list.len().max(1)).copied();
        match trick {
            Trick::FlipCase(at) => {
                if let Some(at) = pick(&letters, *at) {
                    let letter = units[at].chars().next().unwrap();
                    units[at] = if letter.is_lowercase() { units[at].to_uppercase() } else { units[at].to_lowercase() };
                }
            }
            Trick::Encode(at, upper) => {
                if let Some(at) = pick(&letters, *at) {
                    let byte = units[at].as_bytes()[0];
                    units[at] = if *upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
                }
            }
            Trick::EncodeTwice(at) => {
                if let Some(at) = pick(&letters, *at) {
                    units[at] = format!("%25{:02x}", units[at].as_bytes()[0]);
                }
            }
            Trick::Insert(at, text) => {
                if let Some(at) = pick(&slashes, *at) {
                    units[at] = format!("{text}/");
                }
            }
            Trick::Append(text) => {
                // A dot behind a slash or another dot makes `..`, which is another path.
                let so_far = format!("{path}{behind}");
                let makes_parent = ["/", ".", "%2e"].iter().any(|end| so_far.ends_with(end))
                    && (text.starts_with('.') || text.starts_with("%2e"));
                if !makes_parent {
                    behind.push_str(text);
                }
            }
            Trick::Prepend(text) => before.push_str(text),
        }
    }
    format!("{before}{}{behind}", units.concat())
}

/// The contract's rules about patterns, said without matchit and without the table's own types.
mod oracle {
    use super::*;

    fn segments(path: &str) -> Vec<&str> {
        path.split('/').filter(|segment| !segment.is_empty()).collect()
    }

    /// One number for each segment, smaller being more specific; `None` if the pattern doesn't match. Ends with 0.
    pub(super) fn rank(pattern: &str, path: &str, is_exact: bool) -> Option<Vec<u8>> {
        let fold = |text: &str| if is_exact { text.to_owned() } else { text.to_lowercase() };
        let (folded_pattern, folded_path) = (fold(pattern), fold(path));
        let (pattern, path) = (segments(&folded_pattern), segments(&folded_path));
        let mut rank = Vec::new();
        for (at, want) in pattern.iter().enumerate() {
            if want.starts_with("{*") {
                rank.push(3);
                return Some(rank);
            }
            let got = path.get(at)?;
            rank.push(if *want == *got {
                0
            } else if let (Some((prefix, _)), Some((_, suffix))) = (want.split_once('{'), want.split_once('}')) {
                if got.strip_prefix(prefix)?.strip_suffix(suffix)?.is_empty() {
                    return None;
                }
                if prefix.is_empty() && suffix.is_empty() { 2 } else { 1 }
            } else {
                return None;
            });
        }
        if is_exact && folded_path.ends_with('/') != folded_pattern.ends_with('/') && folded_path != "/" {
            return None;
        }
        rank.push(0);
        (pattern.len() == path.len()).then_some(rank)
    }

    pub(super) fn is_free(route: &RouteConfig) -> bool {
        matches!(route.action, RouteAction::Free)
    }

    fn choose<'a>(routes: &[&'a RouteConfig], method: &str) -> Option<&'a RouteConfig> {
        let names = |wanted: &str| routes.iter().find(|one| one.methods.iter().any(|method| method == wanted));
        names(method)
            .or_else(|| if method == "HEAD" { names("GET") } else { None })
            .or_else(|| routes.iter().find(|one| one.methods.is_empty()))
            .copied()
    }

    /// `Err(true)` is 405, `Err(false)` is 404.
    pub(super) fn find<'a>(
        routes: &'a [RouteConfig],
        host: Option<&str>,
        path: &str,
        method: &str,
    ) -> Result<&'a RouteConfig, bool> {
        for wanted in [host, None] {
            let matching: Vec<(Vec<u8>, &RouteConfig)> = routes
                .iter()
                .filter(|one| one.host.as_deref() == wanted)
                .filter_map(|one| Some((rank(&one.path, path, is_free(one))?, one)))
                .collect();
            let Some(best) = matching.iter().map(|(rank, _)| rank).min() else { continue };
            let best: Vec<&RouteConfig> =
                matching.iter().filter(|(rank, _)| rank == best).map(|(_, one)| *one).collect();
            if method == "TRACE" || method == "CONNECT" {
                return Err(true);
            }
            return choose(&best, method).ok_or(true);
        }
        Err(false)
    }
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![4 => Just("paid"), 2 => Just("Paid"), 2 => Just("a"), 2 => Just("B"), 2 => Just("x.json"), 1 => Just("X.JSON"), 1 => Just("wow!"), 1 => Just("q")];
    (prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(segments, slash)| {
        let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        if slash || path.is_empty() { path + "/" } else { path }
    })
}

fn runner() -> TestRunner {
    runner_of(CASES)
}

fn runner_of(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, max_global_rejects: 200_000, ..ProptestConfig::default() })
}

#[test]
fn the_table_decides_as_the_contract_reads() {
    let hosts = prop_oneof![2 => Just(None), 1 => Just(Some("a.com")), 1 => Just(Some("b.com"))];
    let found_count = Cell::new(0_u32);
    runner()
        .run(&(wanted_routes(), hosts, path(), prop::sample::select(&METHODS[..])), |(wanted, host, path, method)| {
            let (routes, table) = build(wanted);
            let target = canonicalize(path.as_bytes()).unwrap();
            let met = table.find(host, &target, &method.parse::<Method>().unwrap());
            let expected = oracle::find(&routes, host, &path, method);
            let agrees = match (&met, expected) {
                (RouteMatch::Route(route), Ok(expected)) => {
                    route.name() == expected.key && route.config().location == expected.location
                }
                (RouteMatch::NotFound, Err(false)) => true,
                (RouteMatch::MethodNotAllowed { .. }, Err(true)) => true,
                _ => false,
            };
            found_count.set(found_count.get() + u32::from(matches!(met, RouteMatch::Route(_))));
            prop_assert!(
                agrees,
                "{:?}: {met:?} but {expected:?}",
                routes.iter().map(|one| &one.key).collect::<Vec<_>>()
            );
            Ok(())
        })
        .unwrap();
    assert!(found_count.get() > CASES / 10, "only {} of the paths met a route", found_count.get());
}

#[test]
fn no_spelling_and_no_method_of_a_priced_path_is_free() {
    let priced = prop::sample::select(vec!["/paid", "/a/paid", "/a/x.json", "/wow!/B", "/Paid/a/"]);
    let methods = prop::sample::select(vec!["", "GET ", "GET,PUT "]);
    let charged_count = Cell::new(0_u32);
    let strategy = (priced, methods, wanted_routes(), tricks(), prop::sample::select(&METHODS[..]));
    runner()
        .run(&strategy, |(path, methods, mut wanted, tricks, method)| {
            wanted.insert(0, (format!("{methods}{path}"), "paid"));
            wanted.push(("/{*all}".to_owned(), "free"));
            // Methods of this very path that somebody frees by name are free, and other hosts have their own prices.
            let folded = |key: &str| key.rsplit(' ').next().map(|path| path.trim_end_matches('/').to_lowercase());
            wanted.retain(|(key, action)| !key.contains("a.com") && (*action != "free" || folded(key) != folded(path)));
            let (routes, table) = build(wanted);
            let spelling = spell(path, &tricks);
            let Ok(target) = canonicalize(spelling.as_bytes()) else { return Ok(()) };
            if let RouteMatch::Route(met) = table.find(None, &target, &method.parse::<Method>().unwrap()) {
                let keys: Vec<&String> = routes.iter().map(|one| &one.key).collect();
                prop_assert!(
                    !oracle::is_free(met.config()),
                    "{method} {spelling} is free in {keys:?} by {}",
                    met.name()
                );
                charged_count.set(charged_count.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(charged_count.get() > CASES / 10, "only {} of the spellings were charged", charged_count.get());
}

/// What lenient origins make of a path, one step each, in any order; written apart from the code that is tested.
fn naive_readings(path: &str) -> Vec<String> {
    let decode = |text: &str| -> String {
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
                Some(byte) => {
                    out.push(byte);
                    rest = &after[2..];
                }
                None => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let collapse = |text: &str| -> String {
        let mut kept: Vec<&str> = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                other => kept.push(other),
            }
        }
        format!("/{}", kept.join("/"))
    };
    let per_segment = |text: &str, change: &dyn Fn(&str) -> String| -> String {
        text.split('/').map(change).collect::<Vec<_>>().join("/")
    };
    let without_parameters = |text: &str| per_segment(text, &|one| one.split(';').next().unwrap().to_owned());
    let trimmed = |text: &str| per_segment(text, &|one| one.trim_end_matches(['.', ' ']).to_owned());
    let mut readings = vec![collapse(path)];
    for decoded in [path.to_owned(), decode(path), decode(&decode(path))] {
        readings.push(collapse(&decoded));
        readings.push(collapse(&without_parameters(&decoded)));
        readings.push(collapse(&trimmed(&collapse(&without_parameters(&decoded)))));
        readings.push(collapse(decoded.split(['?', '#']).next().unwrap()));
    }
    readings
}

#[test]
fn a_free_path_has_no_reading_that_is_priced() {
    let free_count = Cell::new(0_u32);
    // Few spellings of random paths are free: more are tried, so that enough of them are.
    runner_of(CASES * 2)
        .run(
            &(wanted_routes(), path(), tricks(), prop::sample::select(&METHODS[..])),
            |(wanted, path, tricks, method)| {
                let (routes, table) = build(wanted);
                let spelling = spell(&path, &tricks);
                let Ok(target) = canonicalize(spelling.as_bytes()) else { return Ok(()) };
                let RouteMatch::Route(met) = table.find(None, &target, &method.parse::<Method>().unwrap()) else {
                    return Ok(());
                };
                if !oracle::is_free(met.config()) {
                    return Ok(());
                }
                free_count.set(free_count.get() + 1);
                for reading in naive_readings(target.path().as_str()) {
                    let free_rank = oracle::rank(&met.config().path, &reading, false);
                    for priced in routes.iter().filter(|one| one.host.is_none() && !oracle::is_free(one)) {
                        let Some(rank) = oracle::rank(&priced.path, &reading, false) else { continue };
                        // A priced pattern may match only if the free one is more specific, or names methods on the same pattern.
                        let is_beaten = match &free_rank {
                            Some(free) => *free < rank || (*free == rank && priced.methods != met.config().methods),
                            None => false,
                        };
                        if !is_beaten {
                            return Err(TestCaseError::fail(format!(
                                "{method} {spelling} is free by {}, but {} prices {reading}",
                                met.name(),
                                priced.key
                            )));
                        }
                    }
                }
                Ok(())
            },
        )
        .unwrap();
    assert!(free_count.get() > CASES / 20, "only {} of the paths were free", free_count.get());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn no_bytes_make_the_table_panic(wanted in wanted_routes(), raw in "/[ -~]{0,24}", host in "\\PC{0,8}", method in "[A-Za-z]{1,8}") {
        let (_, table) = build(wanted);
        if let Ok(target) = canonicalize(raw.as_bytes()) {
            let method: Method = method.parse().unwrap();
            let _met = table.find(Some(&host), &target, &method);
            let _explained = table.explain(&method, Some(&host), &raw);
        }
    }

    #[test]
    fn no_pattern_makes_building_panic(pattern in "/[ -~]{0,16}") {
        let mut config = route("/x", "paid", 1);
        config.path = pattern;
        let _built = RouteTable::build(&[config]);
    }
}
