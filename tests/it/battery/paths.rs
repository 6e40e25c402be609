//! Spellings of paths (threats A1–A6).

use http::Method;
use tollhouse::route::{Outcome, RouteMatch, RouteTable};

use super::frames::request;
use super::recorder::Recorder;
use super::wire::Wire;
use super::{H2, MARKER, RAW, World, assert_no_marker, is_priced, spellings};

/// What must become of a request without payment.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Fate {
    /// Answered by the gateway itself.
    Refused(u16),
    /// Forwarded, with this target.
    Free(String),
}

fn fate(table: &RouteTable, host: &str, target: &[u8]) -> Fate {
    let text = String::from_utf8_lossy(target);
    let explained = table.explain(&Method::GET, Some(host), &text);
    match explained.outcome {
        Outcome::BadPath(_) | Outcome::Match(RouteMatch::Ambiguous) => Fate::Refused(400),
        Outcome::Match(RouteMatch::NotFound) => Fate::Refused(404),
        Outcome::Match(RouteMatch::MethodNotAllowed { .. }) => Fate::Refused(405),
        Outcome::Match(RouteMatch::Route(route)) => match route.config().action {
            tollhouse::config::RouteAction::Free => {
                let path = explained.canonical_path.unwrap();
                let query = text.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
                Fate::Free(format!("{path}{query}"))
            }
            _ => Fate::Refused(402),
        },
    }
}

/// Compares an answer with what `explain` says of the target. `status` is none where the request got no answer at all.
fn judge(fate: &Fate, status: Option<u16>, text: &str, what: &str) {
    assert_no_marker(text, what);
    match fate {
        Fate::Refused(400) => assert!(matches!(status, None | Some(400)), "{what}: {status:?}, not 400"),
        Fate::Refused(expected) => assert_eq!(status, Some(*expected), "{what}"),
        Fate::Free(target) => {
            assert_eq!(status, Some(200), "{what}: {text}");
            assert!(!is_priced(target.split('?').next().unwrap_or_default()), "{what} is free");
            assert!(text.contains(&format!("seen={target}\n")), "{what}: forwarded as {target}, yet {text}");
        }
    }
}

/// The recorder has exactly the forwarded targets, in order.
fn judge_record(recorder: &Recorder, fates: &[Fate]) {
    let expected = fates.iter().filter_map(|fate| match fate {
        Fate::Free(target) => Some(format!("GET {target} HTTP/1.1")),
        Fate::Refused(_) => None,
    });
    let recorded: Vec<_> = recorder.take().iter().map(|recorded| recorded.line()).collect();
    assert_eq!(recorded, expected.collect::<Vec<_>>());
}

/// A target as pingora hands it on in HTTP/1: where it holds what is never legal, that and all beyond ASCII is escaped.
fn mended(target: &[u8]) -> Vec<u8> {
    let is_illegal = |byte: u8| byte.is_ascii_control() || b" <>\"".contains(&byte);
    if !target.iter().any(|byte| is_illegal(*byte)) || std::str::from_utf8(target).is_err() {
        return target.to_vec();
    }
    let escape =
        |byte: &u8| if is_illegal(*byte) || *byte >= 0x80 { format!("%{byte:02X}").into() } else { vec![*byte] };
    target.iter().flat_map(escape).collect()
}

async fn over_http_1(world: &World, host: &str, targets: &[Vec<u8>], table: &RouteTable) -> Vec<Fate> {
    let mut wire: Option<Wire> = None;
    let mut fates = Vec::new();
    for target in targets {
        let what = format!("{} of {host} in HTTP/1.1", target.escape_ascii());
        let mut used = match wire.take() {
            Some(wire) if !wire.is_over => wire,
            _ => world.wire(host).await,
        };
        used.send([b"GET ", &target[..], format!(" HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()].concat()).await;
        let reply = used.reply("GET").await;
        let fate = fate(table, host, &mended(target));
        let text = reply.as_ref().map(super::Reply::text).unwrap_or_default();
        judge(&fate, reply.map(|reply| reply.status), &text, &what);
        fates.push(fate);
        wire = Some(used);
    }
    fates
}

async fn over_http_2(world: &World, host: &str, targets: &[Vec<u8>], table: &RouteTable) -> Vec<Fate> {
    let mut h2: Option<H2> = None;
    let mut fates = Vec::new();
    for target in targets {
        let what = format!("{} of {host} in HTTP/2", target.escape_ascii());
        let mut used = match h2.take() {
            Some(h2) if !h2.is_over && h2.goaway.is_none() => h2,
            _ => world.h2(host).await,
        };
        let outcome = used.ask(&request("GET", host, target)).await;
        // The http crate drops fragments before anybody sees them.
        let fate = fate(table, host, target.split(|byte| *byte == b'#').next().unwrap());
        judge(&fate, outcome.status, &outcome.text(), &what);
        fates.push(fate);
        h2 = Some(used);
    }
    fates
}

/// One of a kind: the spellings that are refused before any origin matters are tried on the recorder alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_priced_path_is_served_unpaid_by_any_origin() {
    let world = World::open(true, true, "", "").await;
    let table = world.shop.route_table();
    let targets = spellings::all();
    let fates = over_http_1(&world, RAW, &targets, &table).await;
    judge_record(&world.recorder, &fates);
    let fates = over_http_2(&world, RAW, &targets, &table).await;
    judge_record(&world.recorder, &fates);
    let count = |wanted: &dyn Fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count();
    let (priced, bad) = (count(&|fate| *fate == Fate::Refused(402)), count(&|fate| *fate == Fate::Refused(400)));
    let free = count(&|fate| matches!(fate, Fate::Free(_)));
    println!("{} spellings: {priced} priced, {bad} refused, {free} free", targets.len());
    assert!(targets.len() >= 2_000 && priced >= 100 && bad >= 1_000 && free >= 100);
    let telling: Vec<Vec<u8>> = targets
        .iter()
        .zip(&fates)
        .enumerate()
        .filter(|(index, (_, fate))| *fate != &Fate::Refused(400) || index % 20 == 0)
        .map(|(_, (target, _))| target.clone())
        .collect();
    let names = world.names();
    let others = names.iter().filter(|name| *name != RAW).map(|host| async {
        over_http_1(&world, host, &telling, &table).await;
        over_http_2(&world, host, &telling, &table).await;
    });
    futures::future::join_all(others).await;
    world.close_unpaid().await;
}

/// What the tests above look for is really there: each origin hands it out to whoever pays.
#[tokio::test]
async fn every_origin_hands_out_its_priced_content_once_it_is_paid() {
    let world = World::open(false, true, "", "").await;
    for host in world.names() {
        for target in ["/api/paid", "/PREMIUM/../premium/%72eport.json"] {
            let mut wire = world.wire(&host).await;
            let ask = |payment: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{payment}\r\n");
            wire.send(ask("")).await;
            let super::Reply { status, headers, body } = wire.reply("GET").await.unwrap();
            let terms = super::Terms::read(&super::Answer { status, headers, body, is_complete: true });
            let (name, value) = world.shop.payer.pay(&terms).v2();
            wire.send(ask(&format!("{name}: {value}\r\n"))).await;
            let paid = wire.reply("GET").await.unwrap();
            assert_eq!(paid.status, 200);
            assert!(paid.text().contains(MARKER), "{host} {target}: {}", paid.text());
            let payer = world.shop.payer.address.to_string();
            assert!(paid.text().contains(&format!("payer={payer}\n")), "{host}: {}", paid.text());
            // The connection is as it was: what comes next on it is not paid.
            wire.send(ask("")).await;
            let unpaid = wire.reply("GET").await.unwrap();
            assert_eq!(unpaid.status, 402);
            assert_no_marker(&unpaid.text(), "after a paid one");
        }
    }
    world.shop.audit().await;
}

/// The command says what the gateway does.
#[tokio::test]
async fn explain_says_of_each_kind_of_spelling_what_the_gateway_does() {
    let world = World::plain().await;
    let targets =
        ["/api/paid", "/API//paid/", "/api/%70aid", "/api/paid;x", "/api%2fpaid", "/x/../health", "/wow%21", "/a%2500"];
    for target in targets {
        let reply = world.ask("GET", target, "").await.unwrap();
        let told = world.shop.explain("GET", &format!("http://{RAW}{target}"));
        let status = told["status"].as_u64().unwrap_or(200);
        assert_eq!(u64::from(reply.status), status, "{target}: {told}");
        if told["status"].is_null() {
            let path = told["path"].as_str().unwrap();
            assert_eq!(world.recorder.take()[0].line(), format!("GET {path} HTTP/1.1"));
        }
    }
    world.close_unpaid().await;
}

/// Targets in no form, or in another form than the origin's (threat A6).
#[tokio::test]
async fn no_target_reaches_an_origin_but_in_origin_form() {
    let (world, tls) = (World::plain().await, World::tls().await);
    let mut targets: Vec<String> =
        ["", "*", "?", "?/api/paid", "#", ".", "..", ";", "%", "api/paid", "%2fapi/paid", "\\api/paid"]
            .map(str::to_owned)
            .to_vec();
    for authority in [RAW, "evil.test", "", "shop.test:80", "u@h", "[::1]", "x y"] {
        for path in ["/api/paid", "/free", "", "?q", "/api/paid#x"] {
            for scheme in ["http://", "https://", "HTTP://", "ftp://", "ws://", "http:/", "http:", "//", "foo:bar://"] {
                // Two slashes and a path is a path.
                if scheme != "//" {
                    targets.push(format!("{scheme}{authority}{path}"));
                }
            }
        }
        targets.push(format!("{authority}:443"));
        targets.push(format!("{authority}!/api/paid"));
    }
    let mut cases = 0;
    for target in &targets {
        for method in ["GET", "POST", "CONNECT", "OPTIONS"] {
            let reply = world.ask(method, target, "").await;
            let status = reply.as_ref().map(|reply| reply.status);
            let is_star = target == "*" && method == "OPTIONS";
            let is_fine = if is_star {
                status == Some(200) || status == Some(204)
            } else {
                matches!(status, None | Some(400 | 405 | 501))
            };
            assert!(is_fine, "{method} {target:?}: {status:?}");
            cases += 1;
            if let Some(reply) = reply {
                assert_no_marker(&reply.text(), target);
            }
        }
    }
    let mut h2 = tls.h2(RAW).await;
    // Of a mere fragment the http crate leaves `/`.
    for target in targets.iter().filter(|target| !target.starts_with('#')) {
        if h2.is_over || h2.goaway.is_some() {
            h2 = tls.h2(RAW).await;
        }
        let outcome = h2.ask(&request("GET", RAW, target.as_bytes())).await;
        assert!(matches!(outcome.status, None | Some(400)), "{target:?} in HTTP/2: {:?}", outcome.status);
        cases += 1;
    }
    println!("{cases} targets");
    assert!(world.recorder.take().is_empty() && tls.recorder.take().is_empty());
    world.close_unpaid().await;
    tls.close_unpaid().await;
}
