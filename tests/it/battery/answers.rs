//! What comes back (threats A16, A17, A19): caches, ranges and conditions, and origins that speak of payments.

use super::frames::request;
use super::servers::Server;
use super::wire::Wire;
use super::{MARKER, RAW, World, assert_no_marker};

/// An answer of the recorder's that every cache would keep.
fn cacheable(fields: &str) -> String {
    let body = format!("{MARKER}\n");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{fields}\r\n{body}",
        body.len()
    )
}

/// A shared cache between client and gateway keeps no paid answer, and no demand for payment.
#[tokio::test]
async fn a_shared_cache_in_front_hands_no_paid_answer_to_anybody_else() {
    let world = World::plain().await;
    let nginx = Server::nginx(world.shop.port).await;
    let mut cases = 0;
    let ask = async |target: &str, fields: String| {
        let mut wire = Wire::plain(nginx.cache_port).await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: {RAW}\r\n{fields}\r\n")).await;
        wire.reply("GET").await.unwrap()
    };
    // The cache does keep what may be kept, or all of this shows nothing.
    world.recorder.answer("/kept", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=600\r\n\r\nok");
    for expected in ["MISS", "HIT"] {
        assert_eq!(ask("/kept", String::new()).await.header("x-cache"), Some(expected));
    }
    let directives = [
        "",
        "Cache-Control: public, max-age=600\r\n",
        "Cache-Control: s-maxage=600\r\n",
        "Cache-Control: max-age=600, immutable\r\n",
        "Expires: Fri, 01 Jan 2100 00:00:00 GMT\r\n",
        "X-Accel-Expires: 600\r\n",
        "Surrogate-Control: max-age=600\r\n",
        "CDN-Cache-Control: max-age=600\r\n",
        "Cache-Control: public\r\nCache-Control: max-age=600\r\n",
        "Cache-Control: PUBLIC, S-MAXAGE=600\r\nX-Accel-Expires: 600\r\n",
        "Pragma: cache\r\nExpires: Fri, 01 Jan 2100 00:00:00 GMT\r\nX-Accel-Expires: @4102444800\r\n",
        "Vary: Accept\r\nCache-Control: max-age=600, stale-while-revalidate=600\r\n",
    ];
    for (index, directives) in directives.into_iter().enumerate() {
        let target = format!("/files/{index}");
        world.recorder.answer(&target, cacheable(directives));
        let unpaid = ask(&target, String::new()).await;
        assert_eq!(unpaid.status, 402);
        assert_eq!(unpaid.header("cache-control"), Some("no-store"));
        let (name, value) = world.payment("GET", &target).await;
        let paid = ask(&target, format!("{name}: {value}\r\n")).await;
        assert!(paid.status == 200 && paid.text().contains(MARKER), "{directives:?}: {}", paid.text());
        let control = paid.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cache-control"));
        let control: Vec<_> = control.map(|(_, value)| value.to_lowercase()).collect();
        assert!(
            control.len() == 1
                && control[0].contains("private")
                && !control[0].contains("public")
                && !control[0].contains("s-maxage"),
            "{control:?}"
        );
        for fields in [
            "",
            "If-None-Match: \"v1\"\r\n",
            "If-None-Match: *\r\n",
            "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
            "Range: bytes=0-9\r\n",
            "Cache-Control: only-if-cached\r\n",
            "Cache-Control: max-stale\r\n",
        ] {
            let again = ask(&target, fields.to_owned()).await;
            assert_eq!((again.status, again.header("x-cache")), (402, Some("MISS")), "{directives:?} {fields:?}");
            assert_no_marker(&again.text(), directives);
            cases += 1;
        }
    }
    println!("A16: {cases}");
    world.shop.audit().await;
}

/// Neither a part of it, nor whether it changed, is told to whoever hasn't paid.
#[tokio::test]
async fn ranges_and_conditions_cost_what_the_whole_costs() {
    let world = World::plain().await;
    let tls = World::tls().await;
    let mut cases = 0;
    for field in [
        ("Range", "bytes=0-0"),
        ("Range", "bytes=0-"),
        ("Range", "bytes=-1"),
        ("Range", "bytes=0-0,1-1,2-2"),
        ("Range", "bytes=0-,0-,0-,0-"),
        ("Range", "bytes=9999999-"),
        ("Range", "bytes=5-1"),
        ("Range", "lines=1-2"),
        ("Range", "bytes=0-18446744073709551616"),
        ("Range", ""),
        ("Request-Range", "bytes=0-0"),
        ("If-Range", "\"v1\""),
        ("If-None-Match", "\"v1\""),
        ("If-None-Match", "*"),
        ("If-None-Match", "W/\"v1\""),
        ("If-Match", "\"v1\""),
        ("If-Match", "*"),
        ("If-Match", "\"other\""),
        ("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Expect", "100-continue"),
        ("Expect", "x"),
        ("Accept-Encoding", "gzip"),
        ("TE", "trailers"),
        ("Max-Forwards", "0"),
        ("Accept", "*/*"),
        ("Pragma", "no-cache"),
        ("Cache-Control", "only-if-cached"),
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let reply = world.ask(method, "/api/paid", &format!("{}: {}\r\n", field.0, field.1)).await;
            let status = reply.as_ref().map(|reply| reply.status);
            assert_eq!(status, Some(402), "{method} {field:?}");
            assert_no_marker(&reply.map(|reply| reply.text()).unwrap_or_default(), field.0);
            let (lower, mut fields) = (field.0.to_lowercase(), request(method, RAW, b"/api/paid"));
            fields.push((lower.as_bytes(), field.1.as_bytes()));
            let outcome = tls.h2(RAW).await.ask(&fields).await;
            assert_eq!(outcome.status, Some(402), "{method} {field:?} in HTTP/2");
            cases += 2;
        }
    }
    assert!(world.recorder.take().is_empty() && tls.recorder.take().is_empty());
    // What was paid is what is served: the range goes along, and a 304 or a 416 is an answer.
    for (target, answer, status) in [
        (
            "/files/part",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok",
            206,
        ),
        ("/files/same", "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n", 304),
        (
            "/files/over",
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n",
            416,
        ),
    ] {
        world.recorder.answer(target, answer);
        let (name, value) = world.payment("GET", target).await;
        let fields = format!("Range: bytes=0-1\r\nIf-None-Match: \"v1\"\r\n{name}: {value}\r\n");
        assert_eq!(world.ask("GET", target, &fields).await.unwrap().status, status);
        let recorded = world.recorder.take();
        assert_eq!(
            (recorded.len(), recorded[0].all("range"), recorded[0].all("if-none-match")),
            (1, vec!["bytes=0-1".to_owned()], vec!["\"v1\"".to_owned()])
        );
        assert_ne!(world.ask("GET", target, &fields).await.unwrap().status, status, "served twice");
        assert!(world.recorder.take().is_empty());
        cases += 2;
    }
    println!("A17: {cases}");
    world.shop.audit().await;
    tls.close_unpaid().await;
}

/// An origin is no gateway: what it says of payments is not passed on, and changes nothing.
#[tokio::test]
async fn an_origin_says_nothing_in_the_gateways_name_and_opens_no_tunnel() {
    let world = World::plain().await;
    let mut cases = 0;
    let names = [
        "PAYMENT-RESPONSE",
        "X-PAYMENT-RESPONSE",
        "PAYMENT-REQUIRED",
        "X-PAYMENT-REQUIRED",
        "X-Payment",
        "PAYMENT-SIGNATURE",
        "Settlement-Overrides",
        "Extension-Responses",
        "X-Payment-Anything",
        "payment-response",
        "x-payment-response",
    ];
    for (index, name) in names.into_iter().enumerate() {
        for target in [format!("/hostile/{index}"), format!("/files/hostile/{index}")] {
            let is_free = target.starts_with("/hostile");
            world.recorder.answer(
                &target,
                format!("HTTP/1.1 200 OK\r\n{name}: forged\r\n{name}: twice\r\nContent-Length: 2\r\n\r\nok"),
            );
            let fields = if is_free {
                String::new()
            } else {
                let (name, value) = world.payment("GET", &target).await;
                format!("{name}: {value}\r\n")
            };
            let reply = world.ask("GET", &target, &fields).await.unwrap();
            assert_eq!(reply.status, 200);
            assert!(!reply.text().contains("forged") && !reply.text().contains("twice"), "{name}: {}", reply.text());
            assert_eq!(reply.header("payment-response").is_some(), !is_free);
            cases += 1;
        }
    }
    world.recorder.take();
    // Answers that are none, or more than one.
    for (index, (answer, expected)) in [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw", Some(502)),
        ("HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: forged\r\nContent-Length: 0\r\n\r\n", Some(402)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", Some(502)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra", Some(200)),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", Some(502)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nextra", Some(204)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nextra", Some(304)),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some(200)),
        ("garbage\r\n\r\n", Some(502)),
        ("HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 2\r\n\r\nok", Some(502)),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", None),
        ("HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: x\r\nContent-Length: 2\r\n\r\nok", None),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/odd/{index}");
        world.recorder.answer(&target, answer);
        let mut wire = world.wire(RAW).await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: {RAW}\r\n\r\n")).await;
        let reply = wire.reply("GET").await;
        let status = reply.as_ref().map(|reply| reply.status);
        assert!(
            expected.is_none() || status == expected || status.is_none() && expected == Some(502),
            "{answer:?}: {status:?}"
        );
        assert!(!reply.map(|reply| reply.text()).unwrap_or_default().contains("forged"), "{answer:?}");
        // Whoever comes next, on this connection or another, gets what is theirs.
        for target in ["/free?one", "/free?two"] {
            if wire.is_over {
                wire = world.wire(RAW).await;
            }
            wire.send(format!("GET {target} HTTP/1.1\r\nHost: {RAW}\r\n\r\n")).await;
            let next = wire.reply("GET").await.expect("an answer of its own");
            assert!(
                next.status == 200 && next.text().contains(&format!("seen={target}\n")),
                "after {answer:?}: {}",
                next.text()
            );
            cases += 1;
        }
    }
    println!("A19: {cases}");
    world.recorder.take();
    world.shop.audit().await;
}
