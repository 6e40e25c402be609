//! Methods, and patterns that are looser than they look (threats A9, A10).

use super::frames::request;
use super::{RAW, World, assert_no_marker, is_priced};

const METHODS: [&str; 34] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "SEARCH",
    "REPORT",
    "M-SEARCH",
    "NOTIFY",
    "PURGE",
    "BAN",
    "LINK",
    "UNLINK",
    "get",
    "Get",
    "gET",
    "head",
    "GETX",
    "G",
    "TRACK",
    "DEBUG",
    "QUERY",
    "PRI",
];

const ROUTES: &str = r#"
"raw.wild.test/all" = { price = "$0.01", upstream = "raw" }
"GET raw.wild.test/read" = { price = "$0.01", upstream = "raw" }
"POST raw.wild.test/read" = { price = "free", upstream = "raw" }
"GET,POST raw.wild.test/both" = { price = "$0.01", upstream = "raw" }
"GET raw.wild.test/star/{*rest}" = { price = "$0.01", upstream = "raw" }
"raw.wild.test/one/{id}" = { price = "$0.01", upstream = "raw" }
"raw.wild.test/no/{*rest}" = { price = "deny" }
"#;

#[tokio::test]
async fn no_method_finds_a_way_round_a_price() {
    let world = World::open(false, false, ROUTES, "").await;
    let tls = World::open(true, false, ROUTES, "").await;
    let mut cases = 0;
    for method in METHODS {
        for path in ["/all", "/read", "/both", "/star/x", "/api/paid"] {
            let is_free = path == "/read" && method == "POST";
            for fields in [
                "",
                "Content-Length: 0\r\n",
                "Origin: https://evil.test\r\n",
                "Access-Control-Request-Method: GET\r\n",
                "Origin: https://evil.test\r\nAccess-Control-Request-Method: GET\r\n",
            ] {
                let status = world.ask(method, path, fields).await.map(|reply| reply.status);
                let hits = world.recorder.take();
                assert_eq!(hits.len(), usize::from(is_free), "{method} {path} {fields:?}: {status:?}");
                let is_preflight = method == "OPTIONS" && fields.contains("-Method") && fields.contains("Origin");
                let is_fine = match method {
                    _ if is_free => status == Some(200),
                    _ if is_preflight => status == Some(204),
                    // Neither may ever pass.
                    "TRACE" | "CONNECT" => matches!(status, None | Some(400 | 405)),
                    "PRI" => true,
                    _ => matches!(status, Some(402 | 405)),
                };
                assert!(is_fine, "{method} {path} {fields:?}: {status:?}");
                cases += 1;
            }
            let mut h2 = tls.h2(RAW).await;
            let outcome = h2.ask(&request(method, RAW, path.as_bytes())).await;
            assert_eq!(tls.recorder.take().len(), usize::from(is_free), "{method} {path} in HTTP/2");
            assert!(is_free || !matches!(outcome.status, Some(200..300)), "{method} {path} in HTTP/2: {outcome:?}");
            assert_no_marker(&outcome.text(), path);
            cases += 1;
        }
    }
    // What is no token is no method.
    for method in
        ["", " ", "GE T", "G\tET", "G\0ET", "GET,POST", "GET/", "(GET)", "\"GET\"", "G\u{e9}T", "GET:", "{GET}"]
    {
        let answer =
            world.say(format!("{method} /api/paid HTTP/1.1\r\nHost: {RAW}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{method:?}: {answer}");
        let outcome = tls.h2(RAW).await.ask(&request(method, RAW, b"/all")).await;
        assert!(matches!(outcome.status, None | Some(400)), "{method:?} in HTTP/2: {outcome:?}");
        cases += 2;
    }
    println!("A9: {cases}");
    world.close_unpaid().await;
    tls.close_unpaid().await;
}

#[tokio::test]
async fn patterns_end_where_they_say_and_their_signs_mean_nothing_in_a_url() {
    let world = World::open(false, false, ROUTES, "").await;
    let cases = [
        (402, "/star"),
        (402, "/star/"),
        (402, "/star/x/y"),
        (402, "/STAR/x"),
        (402, "/star/{*rest}"),
        (402, "/star/*"),
        (402, "/star/{x}"),
        (402, "/one/x"),
        (402, "/one/{id}"),
        (402, "/one/:id"),
        (402, "/one/*"),
        (402, "/one/x/"),
        (402, "/ONE/x"),
        (402, "/one/x.json"),
        (200, "/one/x/y"),
        (200, "/one/"),
        (200, "/one"),
        (200, "/starx"),
        (200, "/star-internal/x"),
        (200, "/xstar/x"),
        (200, "/all-of-it"),
        (200, "/all/x"),
        (200, "/{*rest}"),
        (200, "/{rest}"),
        (200, "/*"),
        (200, "/.*"),
        (200, "/(all)"),
        (200, "/all|x"),
        (200, "/al"),
        (402, "/all"),
        (402, "/All/"),
        (404, "/no"),
        (404, "/no/"),
        (404, "/NO/x"),
        (200, "/nope"),
        (402, "/all?x=/free"),
        (402, "/all?"),
        (200, "/x?/all"),
        (200, "/?/../all"),
        (402, "/free/../all"),
        (200, "/all/../free"),
        (402, "/x/../all?../free"),
        (404, "/no/../no/x"),
    ];
    for (status, target) in cases {
        let reply = world.ask("GET", target, "").await.unwrap();
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        let hits = world.recorder.take();
        assert_eq!(hits.len(), usize::from(status == 200), "{target}");
        assert!(hits.iter().all(|hit| !is_priced(hit.line().split(' ').nth(1).unwrap())));
    }
    // Elsewhere nothing is for nobody.
    for host in ["evil.test", "wild.test", "x.raw.wild.test", "raw.wild.test.evil.test", "localhost", "127.0.0.1"] {
        let answer = world.say(format!("GET /free HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{host}: {answer}");
    }
    println!("A10: {}", cases.len() + 6);
    world.close_unpaid().await;
}
