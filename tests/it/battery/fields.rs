//! Header fields (threats A8, A14, A15): what a client says in one never stands for what the gateway says.

use super::frames::request;
use super::{MARKER, QUIET, RAW, World, assert_no_marker};

/// Names by which some framework takes another URL, host or method for the request's.
const OVERRIDES: [&str; 30] = [
    "X-Original-URL",
    "X-Original-URI",
    "X-Rewrite-URL",
    "X-Override-URL",
    "X-Forwarded-Uri",
    "X-Forwarded-Path",
    "X-Forwarded-Prefix",
    "X-Forwarded-Method",
    "X-Forwarded-Server",
    "X-Forwarded-Port",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Envoy-Original-Path",
    "X-Original-Host",
    "Proxy",
    "X_Original_URL",
    "X_Rewrite_URL",
    "x-original_url",
    "X_HTTP_Method_Override",
    "X-HTTP_Method-Override",
    "x_method_override",
    "X_Forwarded_Uri",
    "X_Forwarded_Prefix",
    "X-Forwarded_Path",
    "X_Forwarded_Method",
    "X_Envoy_Original_Path",
    "X_Override_URL",
    "x_Original-Uri",
    "X_Forwarded_Port",
];

/// Names that are the gateway's, as an origin might still take for them.
fn owned() -> Vec<String> {
    let mut all = Vec::new();
    for name in [
        "X-Payment-Payer",
        "X-Payment-Network",
        "X-Payment-Transaction",
        "X-Payment-Amount",
        "X-Payment-Asset",
        "X-Payment-Verified",
        "X-Payment",
        "X-Payment-Response",
        "PAYMENT-SIGNATURE",
        "PAYMENT-REQUIRED",
        "PAYMENT-RESPONSE",
        "Settlement-Overrides",
        "Sign-In-With-X",
        "Extension-Responses",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "Forwarded",
    ] {
        all.extend([
            name.to_owned(),
            name.to_lowercase(),
            name.to_uppercase(),
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
        ]);
        if let Some((before, after)) = name.rsplit_once('-') {
            all.push(format!("{before}_{after}"));
        }
    }
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn no_field_overrides_the_url_or_the_method_that_was_judged() {
    let world = World::open(false, true, "", "").await;
    let mut cases = 0;
    for host in world.names() {
        for name in OVERRIDES {
            for value in ["/api/paid", "http://raw.wild.test/api/paid", "/free", "DELETE", "get"] {
                let mut wire = world.wire(&host).await;
                wire.send(format!("GET /free HTTP/1.1\r\nHost: {host}\r\n{name}: {value}\r\n\r\n")).await;
                let reply = wire.reply("GET").await.unwrap();
                assert_eq!(reply.status, 200, "{host} {name}");
                assert_no_marker(&reply.text(), &format!("{host}, {name}: {value}"));
                assert!(!reply.text().contains("method=DELETE") && !reply.text().contains("method=get"), "{name}");
                // Nor does one make a priced path free.
                wire.send(format!("GET /api/paid HTTP/1.1\r\nHost: {host}\r\n{name}: {value}\r\n\r\n")).await;
                let reply = wire.reply("GET").await.unwrap();
                assert_eq!(reply.status, 402, "{host} {name}");
                assert_no_marker(&reply.text(), name);
                cases += 2;
            }
        }
        for query in [
            "_method=DELETE",
            "_method=get",
            "X-HTTP-Method-Override=PUT",
            "url=/api/paid",
            "path=/api/paid",
            "route=/api/paid",
            "x-payment=1",
        ] {
            let mut wire = world.wire(&host).await;
            wire.send(format!("GET /api/paid?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(wire.reply("GET").await.unwrap().status, 402, "{query}");
            wire.send(format!("POST /free?{query} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 14\r\n\r\n_method=DELETE")).await;
            assert_no_marker(&wire.reply("POST").await.map(|reply| reply.text()).unwrap_or_default(), query);
            cases += 2;
        }
    }
    for recorded in world.recorder.take() {
        for name in OVERRIDES {
            assert!(recorded.all(name).is_empty(), "{name} came through: {}", recorded.head());
        }
    }
    println!("A8: {cases}");
    world.close_unpaid().await;
}

#[tokio::test]
async fn no_client_speaks_in_the_gateways_name() {
    let world = World::open(false, true, "", "").await;
    let tls = World::tls().await;
    let mut cases = 0;
    for name in owned() {
        let is_a_credential = ["payment-signature", "x-payment"].contains(&name.to_lowercase().as_str());
        for host in world.names() {
            let mut wire = world.wire(&host).await;
            wire.send(format!("GET /free HTTP/1.1\r\nHost: {host}\r\n{name}: forged\r\n{name}: twice\r\n\r\n")).await;
            let reply = wire.reply("GET").await.unwrap();
            assert_eq!(reply.status, 200, "{name}");
            assert!(
                !reply.text().contains("forged") && !reply.text().contains("twice"),
                "{host} {name}: {}",
                reply.text()
            );
            cases += 1;
        }
        let mut fields = request("GET", RAW, b"/free");
        let lower = name.to_lowercase();
        fields.extend([(lower.as_bytes(), &b"forged"[..]), (lower.as_bytes(), b"twice")]);
        let outcome = tls.h2(RAW).await.ask(&fields).await;
        assert_eq!(outcome.status, Some(200), "{name} in HTTP/2");
        // In a trailer it stays where it was.
        let chunked = "Transfer-Encoding: chunked\r\n\r\n0\r\n";
        let mut wire = world.wire(RAW).await;
        wire.send(format!("POST /free HTTP/1.1\r\nHost: {RAW}\r\nTrailer: {name}\r\n{chunked}{name}: forged\r\n\r\n"))
            .await;
        let _answered = wire.reply("POST").await;
        for recorded in world.recorder.take().into_iter().chain(tls.recorder.take()) {
            let text = format!("{}{}", recorded.head(), String::from_utf8_lossy(&recorded.body));
            assert!(!text.contains("forged") && !text.contains("twice"), "{name}: {text}");
        }
        // And on a priced route it buys nothing.
        let status = world.ask("GET", "/api/paid", &format!("{name}: forged\r\n")).await.unwrap().status;
        assert_eq!(status, 402, "{name}, a credential: {is_a_credential}");
        cases += 3;
    }
    println!("A14, spoofed: {cases}");
    world.close_unpaid().await;
    tls.close_unpaid().await;
}

#[tokio::test]
async fn connection_takes_nothing_from_the_origin_that_the_gateway_says() {
    let world = World::plain().await;
    let (name, value) = world.payment("GET", "/api/paid").await;
    let mut cases = 0;
    let mut nominations: Vec<String> = owned().into_iter().filter(|name| !name.contains('_')).collect();
    nominations.extend(["Host", "Content-Length", "Transfer-Encoding", "Idempotency-Key"].map(str::to_owned));
    for nominated in &nominations {
        for list in [
            nominated.clone(),
            format!("close, {nominated}"),
            format!("{nominated},keep-alive"),
            format!("x,\t{nominated} ,y"),
            format!("close\r\nConnection: {nominated}"),
        ] {
            let reply =
                world.ask("GET", "/api/paid", &format!("Connection: {list}\r\n{name}: {value}\r\n")).await.unwrap();
            assert_eq!(reply.status, 400, "Connection: {list}");
            cases += 1;
        }
    }
    assert!(world.recorder.take().is_empty());
    world.shop.assert_untouched().await;
    // Fields of this hop end here.
    let hop = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n";
    let reply = world.ask("GET", "/api/paid", &format!("{hop}{name}: {value}\r\n")).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let recorded = world.recorder.take();
    let mut names: Vec<String> = recorded[0]
        .head()
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.to_lowercase())
        .collect();
    names.sort();
    for gone in ["x-hop", "keep-alive", "proxy-connection", "connection-x", name.to_lowercase().as_str()] {
        assert!(!names.contains(&gone.to_owned()), "{gone} came through: {names:?}");
    }
    for said in [
        "x-payment-payer",
        "x-payment-network",
        "x-payment-transaction",
        "x-payment-amount",
        "x-payment-asset",
        "idempotency-key",
        "x-forwarded-for",
    ] {
        assert_eq!(names.iter().filter(|name| *name == said).count(), 1, "{said}: {names:?}");
    }
    println!("A14, nominated: {cases}; the origin saw {names:?}");
    world.shop.audit().await;
}

/// A payment counts from its two headers only, and one of it (threat A15).
#[tokio::test]
async fn a_credential_counts_where_it_belongs_and_once() {
    let world = World::plain().await;
    let tls = World::tls().await;
    let ((name, one), (_, other)) = (world.payment("GET", "/api/paid").await, world.payment("GET", "/api/paid").await);
    let calls = world.shop.rpc.payment_calls();
    let mut cases = 0;
    let is_refused =
        |status: Option<u16>, what: &str| assert!(matches!(status, None | Some(400 | 402 | 431)), "{what}: {status:?}");
    // Elsewhere than in its field.
    for fields in [
        format!("Cookie: {name}={one}\r\n"),
        format!("Authorization: x402 {one}\r\n"),
        format!("Authorization: {one}\r\n"),
        format!("X-{name}: {one}\r\n"),
        format!("{}: {one}\r\n", name.replace('-', "_")),
        format!("X_PAYMENT: {one}\r\n"),
        format!("X-PAYMENT-SIGNATURE: {one}\r\n"),
        format!("PAYMENT: {one}\r\n"),
        format!("X: y\r\n {name}: {one}\r\n"),
        format!("{name} : {one}\r\n"),
        format!("{name}\t: {one}\r\n"),
        format!(" {name}: {one}\r\n"),
        format!("{name}\0: {one}\r\n"),
    ] {
        is_refused(world.ask("GET", "/api/paid", &fields).await.map(|reply| reply.status), &fields);
        cases += 1;
    }
    for query in [format!("{name}={one}"), format!("x-payment={one}"), format!("payment={one}")] {
        is_refused(world.ask("GET", &format!("/api/paid?{query}"), "").await.map(|reply| reply.status), "query");
        cases += 1;
    }
    let trailer = format!("Transfer-Encoding: chunked\r\nTrailer: {name}\r\n\r\n0\r\n{name}: {one}\r\n");
    is_refused(world.ask("POST", "/api/paid", &trailer).await.map(|reply| reply.status), "trailer");
    // Two of them, or one in pieces.
    let half = one.len() / 2;
    for fields in [
        format!("{name}: {one}\r\n{name}: {other}\r\n"),
        format!("{name}: {one}, {other}\r\n"),
        format!("{name}: {one},{one}\r\n"),
        format!("{name}: {one}\r\nX-PAYMENT: {other}\r\n"),
        format!("X-PAYMENT: {one}\r\n{name}: {other}\r\n"),
        format!("{name}: {}\r\n{name}: {}\r\n", &one[..half], &one[half..]),
        format!("{name}: {}\r\n {}\r\n", &one[..half], &one[half..]),
        format!("{name}: \r\n{name}: {one}\r\n"),
        format!("{name}: {one}\r\n{name}: \r\n"),
        format!("{name}: {one}\r\nX-PAYMENT: x\r\n"),
        format!("{name}: \"{one}\"\r\n"),
        format!("{name}: {one};q=1\r\n"),
    ] {
        is_refused(world.ask("GET", "/api/paid", &fields).await.map(|reply| reply.status), &fields);
        cases += 1;
    }
    assert_eq!(world.shop.rpc.payment_calls(), calls, "none of it is worth a question to the chain");
    world.shop.assert_untouched().await;
    // HTTP/2 has trailers of its own.
    let (name2, value2) = tls.payment("POST", "/api/paid").await;
    let lower = name2.to_lowercase();
    let mut h2 = tls.h2(RAW).await;
    let stream = h2.stream();
    use super::frames::{END_HEADERS, END_STREAM, HEADERS, block, frame};
    h2.send(frame(HEADERS, END_HEADERS, stream, &block(&request("POST", RAW, b"/api/paid")))).await;
    h2.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[(lower.as_bytes(), value2.as_bytes())]))).await;
    let outcome = h2.outcome(stream).await;
    is_refused(outcome.status, "a trailer in HTTP/2");
    tls.shop.assert_untouched().await;
    // It was good all the time.
    let reply = world.ask("GET", "/api/paid", &format!("{name}: {one}\r\n")).await.unwrap();
    assert!(reply.status == 200 && reply.text().contains(MARKER), "{}", reply.text());
    // Spent, it buys nothing, in any case of its name.
    for again in [name.to_lowercase(), name.to_uppercase(), "X-Payment".to_owned()] {
        let reply = world.ask("GET", "/api/paid", &format!("{again}: {one}\r\n")).await.unwrap();
        assert!(reply.status != 200, "{again}");
        assert_no_marker(&reply.text(), &again);
        cases += 1;
    }
    tokio::time::sleep(QUIET).await;
    assert_eq!(world.recorder.take().len(), 1);
    println!("A15: {}", cases + 2);
    world.shop.audit().await;
    tls.shop.audit().await;
}
