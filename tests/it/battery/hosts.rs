//! Hosts that disagree (threat A7): a name decides which prices hold, so there must be one of it.

use super::frames::request;
use super::{RAW, World, assert_no_marker};

/// Where `cheap.wild.test` is free and `raw.wild.test` isn't, nobody may be taken for both.
const ROUTES: &str = "\"cheap.wild.test/{*rest}\" = { price = \"free\", upstream = \"raw\" }\n";

#[tokio::test]
async fn a_request_has_one_host_and_the_origin_sees_that_one() {
    let world = World::open(false, false, ROUTES, "").await;
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    let mut cases = 0;
    let paid = "Host: raw.wild.test\r\n";
    let cheap = "Host: cheap.wild.test\r\n";
    // Two hosts, in every order and spelling of the field.
    for second in ["Host", "host", "HOST", "hOsT"] {
        for (first, other) in [
            ("raw.wild.test", "cheap.wild.test"),
            ("cheap.wild.test", "raw.wild.test"),
            ("raw.wild.test", "raw.wild.test"),
            ("", "raw.wild.test"),
        ] {
            let answer = world.say(get("/api/paid", &format!("Host: {first}\r\n{second}: {other}\r\n"))).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{first} {other}: {answer}");
            cases += 1;
        }
    }
    for name in [
        "cheap.wild.test, raw.wild.test",
        "cheap.wild.test raw.wild.test",
        "raw.wild.test@cheap.wild.test",
        "cheap.wild.test:80@raw.wild.test",
        "cheap.wild.test/",
        "cheap.wild.test/api/paid",
        "cheap.wild.test?",
        "cheap.wild.test#",
        "http://cheap.wild.test",
        "cheap.wild.test\\raw",
        "cheap.wild.test:",
        "cheap.wild.test:80:80",
        "cheap.wild.test:x",
        "cheap.wild.test:-1",
        "cheap.wild.test:999999",
        "cheap.wild.test%00",
        "cheap.wild.test%2eraw",
        "cheap%2ewild.test",
        "[::1",
        "[::1]x",
        "[cheap.wild.test]",
        "",
        " ",
        "\t",
        "*",
        "{rest}",
        "cheap.wild.test;raw",
        "cheap.wild.test,",
        ":80",
        "\u{e9}.wild.test",
    ] {
        let answer = world.say(get("/api/paid", &format!("Host: {name}\r\n"))).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "Host {name:?}: {answer}");
        cases += 1;
    }
    for bytes in [&b"cheap.wild.test\0"[..], b"cheap\x01.wild.test", b"cheap.wild.test\x7f", b"cheap.wild.test\xff"] {
        let answer =
            world.say([b"GET /api/paid HTTP/1.1\r\nHost: ", bytes, b"\r\nConnection: close\r\n\r\n"].concat()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{bytes:?}: {answer}");
        cases += 1;
    }
    // No host at all, and one with a space before its colon or on a folded line.
    for fields in [
        "",
        "X-Host: raw.wild.test\r\n",
        "Host : cheap.wild.test\r\n",
        "X: y\r\n Host: cheap.wild.test\r\n",
        " Host: cheap.wild.test\r\n",
        "Host:\r\n cheap.wild.test\r\n",
    ] {
        let answer = world.say(get("/api/paid", fields)).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer}");
        cases += 1;
    }
    assert!(world.recorder.take().is_empty());
    // One host, written otherwise, is that host.
    for name in [
        "raw.wild.test",
        "RAW.wild.TEST",
        "raw.wild.test.",
        "raw.wild.test:80",
        "raw.wild.test:443",
        "Raw.Wild.Test.:8402",
        "raw.wild.test:0",
        "raw.wild.test:00080",
    ] {
        let answer = world.say(get("/api/paid", &format!("Host: {name}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 402"), "Host {name:?}: {answer}");
        cases += 1;
    }
    // What other fields say of hosts is nobody's business.
    for field in [
        "X-Forwarded-Host",
        "X-Host",
        "X-Original-Host",
        "X-HTTP-Host-Override",
        "Forwarded",
        "X-Forwarded-Server",
        "X_Forwarded_Host",
        "X-Rewrite-Host",
        "X-Backend-Host",
    ] {
        let value = if field == "Forwarded" { "host=cheap.wild.test" } else { "cheap.wild.test" };
        let answer = world.say(get("/api/paid", &format!("{paid}{field}: {value}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 402"), "{field}: {answer}");
        let value = if field == "Forwarded" { "host=raw.wild.test" } else { "raw.wild.test" };
        let answer = world.say(get("/free", &format!("{cheap}{field}: {value}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{field}: {answer}");
        let recorded = world.recorder.take();
        assert_eq!(recorded.len(), 1);
        assert_eq!(recorded[0].all("host"), ["cheap.wild.test"]);
        assert_eq!(recorded[0].all("x-forwarded-host"), ["cheap.wild.test"], "{field}");
        for gone in ["forwarded", "x-forwarded-server", "x_forwarded_host", "x-original-host"] {
            assert!(recorded[0].all(gone).is_empty(), "{gone} came through");
        }
        cases += 2;
    }
    println!("A7 in HTTP/1.1: {cases}");
    world.close_unpaid().await;
}

#[tokio::test]
async fn in_http_2_the_authority_and_the_host_are_one_and_that_of_the_handshake() {
    let world = World::open(true, false, ROUTES, "").await;
    let cheap = "cheap.wild.test";
    let mut cases = 0;
    let hosts: [(&str, Option<&str>); 14] = [
        (RAW, Some(cheap)),
        (cheap, Some(RAW)),
        (RAW, Some("")),
        ("", Some(RAW)),
        ("evil.test", None),
        (cheap, None),
        ("u@raw.wild.test", None),
        ("raw.wild.test,cheap.wild.test", None),
        ("raw.wild.test/", None),
        ("raw.wild.test:x", None),
        ("[raw.wild.test]", None),
        ("", None),
        ("raw wild", None),
        ("shop.test", Some(RAW)),
    ];
    for (authority, host) in hosts {
        let mut fields = request("GET", authority, b"/api/paid");
        fields.extend(host.map(|host| (&b"host"[..], host.as_bytes())));
        let mut h2 = world.h2(RAW).await;
        let outcome = h2.ask(&fields).await;
        assert!(matches!(outcome.status, None | Some(400 | 421)), "{authority} {host:?}: {outcome:?}");
        assert_no_marker(&outcome.text(), authority);
        cases += 1;
    }
    // Without an authority the host field stands for it; with neither there is no host.
    for (host, expected) in [(Some(RAW), Some(402)), (Some(cheap), Some(421)), (None, None)] {
        let mut fields = request("GET", RAW, b"/api/paid");
        fields.remove(2);
        fields.extend(host.map(|host| (&b"host"[..], host.as_bytes())));
        let outcome = world.h2(RAW).await.ask(&fields).await;
        let is_refused = expected.is_none() && matches!(outcome.status, None | Some(400));
        assert!(is_refused || outcome.status == expected, "{host:?}: {outcome:?}");
        cases += 1;
    }
    for authority in ["RAW.WILD.TEST", "raw.wild.test.", "raw.wild.test:443"] {
        let outcome = world.h2(RAW).await.ask(&request("GET", authority, b"/api/paid")).await;
        assert_eq!(outcome.status, Some(402), "{authority}");
        cases += 1;
    }
    println!("A7 in HTTP/2: {cases}");
    world.close_unpaid().await;
}
