//! Where one request ends and the next begins (threats A11, A12, A18): the origin sees the requests that the gateway judged,
//! and no others.

use std::time::Duration;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, request};
use super::recorder::Recorded;
use super::{MARKER, QUIET, RAW, World, assert_no_marker};

/// What must never be a request of its own at the origin.
const SMUGGLED: &str = "GET /api/paid HTTP/1.1\r\nHost: raw.wild.test\r\nX-Smuggled: yes\r\n\r\n";

/// Fields that frame a body in two ways, or in a way that not all servers know.
fn framings() -> Vec<String> {
    let mut all: Vec<String> = [
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 100\r\nTransfer-Encoding: identity",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 50",
        "Content-Length: 50\r\ncontent-length: 0",
        "Content-Length: 0, 0",
        "Content-Length: 0,50",
        "Content-Length: +0",
        "Content-Length: -0",
        "Content-Length: -1",
        "Content-Length: 0x0",
        "Content-Length: 0 0",
        "Content-Length: 1e1",
        "Content-Length: ",
        "Content-Length: 0;",
        "Content-Length: \"0\"",
        "Content-Length: 0.0",
        "Content-Length: 1_0",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551615",
        "Content-Length: \u{ff10}",
        "Content-Length: 0\0",
        "Content-Length: \x0b0",
        "Content-Length : 0",
        "Content-Length\t: 0",
        " Content-Length: 0",
        "Content-Length:\r\n 50",
        "X: y\r\n Content-Length: 50",
        "Content_Length: 0\r\nContent-Length: 0\r\nContent-Length: 1",
    ]
    .map(str::to_owned)
    .to_vec();
    for coding in [
        "Chunked, chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "chunkedx",
        "chunk",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked ;",
        ";chunked",
        ",chunked",
        "chunked,",
        "chunked\0",
        "\0chunked",
        "\x0bchunked",
        "chunked\x0b",
        "\x0cchunked",
        "chu nked",
        "chunked\u{a0}",
        "\u{212a}",
        "chun\u{212a}ed",
        "\u{ff43}hunked",
        "",
        "0",
        "x",
        "trailers",
        "chunked\r\n\tx",
        "\r\n chunked",
        "x\r\n chunked",
        "cow, chunked",
        "chunked-",
        "compress, chunked",
        "deflate",
        "\u{7f}chunked",
    ] {
        all.push(format!("Transfer-Encoding: {coding}"));
        all.push(format!("Transfer-Encoding: {coding}\r\nContent-Length: 5"));
        all.push(format!("Content-Length: 5\r\nTransfer-Encoding: {coding}"));
        all.push(format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: {coding}"));
        all.push(format!("Transfer-Encoding: {coding}\r\nTransfer-Encoding: chunked"));
    }
    for name in [
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        " Transfer-Encoding",
        "\tTransfer-Encoding",
        "Transfer Encoding",
        "Transfer-Encoding\0",
        "Transfer-Encoding\x0b",
        "Transfer-Encoding\r",
        "Transfer-Encoding:",
        "\u{7f}Transfer-Encoding",
        "Transfer-Encoding\u{a0}",
        "(Transfer-Encoding)",
        "\"Transfer-Encoding\"",
        "Content-Length ",
        "Content-Length\0",
        "Content-Length\r",
        "Content-Length\x0b",
    ] {
        all.push(format!("{name}: chunked\r\nContent-Length: 5"));
        all.push(format!("Content-Length: 5\r\n{name}: chunked"));
    }
    all
}

/// The same smuggled request behind each framing, where a body of either reading ends.
fn attacks() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for fields in framings() {
        for body in [format!("0\r\n\r\n{SMUGGLED}"), format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"), SMUGGLED.to_owned()]
        {
            all.push(format!("POST /free HTTP/1.1\r\nHost: {RAW}\r\n{fields}\r\n\r\n{body}").into_bytes());
        }
    }
    // Heads whose lines end otherwise.
    for head in [
        "POST /free HTTP/1.1\nHost: raw.wild.test\nContent-Length: 0\n\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\nContent-Length: 0\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nContent-Length: 0\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
        "POST /free HTTP/1.1\rHost: raw.wild.test\r\r",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX: a\0b\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\n: x\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX y: z\r\n\r\n",
        "POST /free HTTP/1.1\r\n\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.1\r\n X: y\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\nX: y\r\n z\r\n\r\n",
        "POST /free HTTP/1.1\r\nHost: raw.wild.test\r\n\r\r\n",
        "POST /free HTTP/2.0\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.2\r\nHost: raw.wild.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /free HTTP/0.9\r\n\r\n",
        "POST /free HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /free HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /free\r\n\r\n",
        "POST /free http/1.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.1 HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST  /free HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST\t/free HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free\tHTTP/1.1\r\nHost: raw.wild.test\r\n\r\n",
        " POST /free HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/01.1\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/11\r\nHost: raw.wild.test\r\n\r\n",
        "POST /free HTTP/1.1x\r\nHost: raw.wild.test\r\n\r\n",
    ] {
        all.push(format!("{head}{SMUGGLED}").into_bytes());
    }
    all
}

/// Bodies in chunks that aren't, or that servers take differently.
fn chunks() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for size in [
        "0x5",
        "+5",
        "-5",
        " 5",
        "\t5",
        "5 ",
        "5\t",
        "05",
        "5_0",
        "5;",
        "5;a",
        "5;a=b",
        "5;a=\"b\"",
        "5;\n",
        "5;a\nb",
        "5;\r",
        "5 ;a",
        "5\0",
        "5x",
        "x5",
        "5,",
        "5.0",
        "\"5\"",
        "FFFFFFFFFFFFFFFF5",
        "10000000000000005",
        "fffffffffffffffff",
        "8000000000000005",
        "",
        ";",
        "g",
        "5\x0b",
        "\u{ff15}",
        "5;a=\"\r\n\"",
        "5h",
        "5 5",
    ] {
        for end in ["\r\n", "\n", "\r", "\n\n", "\r\r\n"] {
            all.push(format!("{size}{end}hello\r\n0\r\n\r\n{SMUGGLED}").into_bytes());
        }
    }
    for tail in [
        "hello0\r\n\r\n",
        "hello\n0\r\n\r\n",
        "hello\r0\r\n\r\n",
        "helloXX0\r\n\r\n",
        "hello\r\n\r\n0\r\n\r\n",
        "hello\r\n0\n\n",
        "hello\r\n0\r\n\n",
        "hello\r\n00\r\n\r\n",
        "hello\r\n0;x\r\n\r\n",
        "hello\r\n0\r\nContent-Length: 50\r\n\r\n",
        "hello\r\n0\r\nHost: evil.test\r\n\r\n",
        "hello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "hello\r\n0\r\nX-Payment-Payer: me\r\n\r\n",
        "hello\r\n0\r\nX\r\n\r\n",
        "hello\r\n0\r\n X: y\r\n\r\n",
        "hello\r\n0\r\nX: y\n\r\n",
        "hello\r\n0\r\nGET /api/paid HTTP/1.1\r\n\r\n",
        "hell",
        "hello\r\n",
        "hello world\r\n0\r\n\r\n",
        "hello\r\n-1\r\n\r\n",
    ] {
        all.push(format!("5\r\n{tail}{SMUGGLED}").into_bytes());
    }
    all
}

/// Each request at the origin is one that the gateway was asked for, whole, in an unambiguous framing.
fn judge(recorded: &[Recorded], what: &str) {
    for request in recorded {
        let (line, head) = (request.line(), request.head());
        assert!(line.starts_with("POST /free HTTP/1.1") || line.starts_with("GET /free HTTP/1.1"), "{what}: {line}");
        // It may stand in a body and nowhere else.
        assert!(!head.contains("X-Smuggled"), "{what}: {head}");
        let framings = request.all("content-length").len() + request.all("transfer-encoding").len();
        assert!(framings <= 1, "{what}: {head}");
        assert_eq!(request.all("host").len(), 1, "{what}: {head}");
        for field in request.all("transfer-encoding") {
            assert_eq!(field.to_lowercase(), "chunked", "{what}");
        }
    }
    assert!(recorded.len() <= 1, "{what}: {} requests", recorded.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_framing_smuggles_a_request_past_the_gateway() {
    let world = World::plain().await;
    let mut cases = attacks();
    let head = format!("POST /free HTTP/1.1\r\nHost: {RAW}\r\nTransfer-Encoding: chunked\r\n\r\n");
    cases.extend(chunks().into_iter().map(|body| [head.as_bytes(), &body].concat()));
    let count = cases.len();
    let mut forwarded = 0;
    for case in cases {
        let what = case.escape_ascii().to_string();
        let mut wire = world.wire(RAW).await;
        wire.send(&case).await;
        let mut answers = Vec::new();
        // What waits for more of a body waits no longer when the client is gone.
        while !wire.is_over
            && let Ok(Some(reply)) = tokio::time::timeout(Duration::from_millis(150), wire.reply("POST")).await
        {
            assert_no_marker(&reply.text(), &what);
            answers.push(reply.status);
        }
        drop(wire);
        let first = answers.first().copied();
        let is_known = matches!(first, None | Some(200 | 400 | 402 | 408 | 411 | 414 | 431 | 500 | 501 | 502 | 505));
        assert!(is_known, "{what}: {answers:?}");
        // After an error there is nothing: the rest of the bytes is no request.
        if first.is_some_and(|status| status >= 500 || status == 400) {
            assert_eq!(answers.len(), 1, "{what}: {answers:?}");
        }
        let recorded = world.recorder.take_whole();
        forwarded += recorded.len();
        judge(&recorded, &what);
    }
    println!("A11: {count}, of which {forwarded} were forwarded");
    tokio::time::sleep(QUIET).await;
    judge(&world.recorder.take_whole(), "at the end");
    // The gateway is in its right mind.
    assert_eq!(world.ask("GET", "/free", "").await.unwrap().status, 200);
    assert_eq!(world.ask("GET", "/api/paid", "").await.unwrap().status, 402);
    world.close_unpaid().await;
}

/// Payment doesn't make a framing safe, nor does a refusal cost anything.
#[tokio::test]
async fn a_paid_request_smuggles_nothing_either() {
    let world = World::plain().await;
    let (name, value) = world.payment("POST", "/api/paid").await;
    let mut cases = 0;
    for framing in framings().iter().filter(|fields| fields.matches("\r\n").count() > 0) {
        let bytes = format!(
            "POST /api/paid HTTP/1.1\r\nHost: {RAW}\r\n{name}: {value}\r\n{framing}\r\n\r\n0\r\n\r\n{SMUGGLED}"
        );
        let mut wire = world.wire(RAW).await;
        wire.send(&bytes).await;
        let status =
            tokio::time::timeout(Duration::from_secs(5), wire.reply("POST")).await.unwrap().map(|reply| reply.status);
        assert!(matches!(status, None | Some(400)), "{framing:?}: {status:?}");
        assert!(world.recorder.take().is_empty(), "{framing:?}");
        cases += 1;
    }
    world.shop.assert_untouched().await;
    // A body that has a request in it is a body.
    let bytes = format!(
        "POST /api/paid HTTP/1.1\r\nHost: {RAW}\r\n{name}: {value}\r\nContent-Length: {}\r\n\r\n{SMUGGLED}{SMUGGLED}",
        SMUGGLED.len()
    );
    let mut wire = world.wire(RAW).await;
    wire.send(&bytes).await;
    let paid = wire.reply("POST").await.unwrap();
    assert!(paid.status == 200 && paid.text().contains(MARKER));
    let recorded = world.recorder.take();
    assert_eq!((recorded.len(), recorded[0].body.as_slice()), (1, SMUGGLED.as_bytes()));
    // And the one behind it is a request of its own, unpaid.
    if let Some(unpaid) = wire.reply("GET").await {
        assert_eq!(unpaid.status, 402);
        assert_no_marker(&unpaid.text(), "behind a paid one");
    }
    assert!(world.recorder.take().is_empty());
    println!("A11, paid: {cases}");
    world.shop.audit().await;
}

/// Paid, unpaid, free and refused ones in every order on one connection (threat A18).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_request_paid_buys_nothing_for_another_on_its_connection() {
    let world = World::plain().await;
    let tls = World::tls().await;
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Free,
        Unpaid,
        UnpaidBody,
        Ambiguous,
        Unknown,
    }
    let kinds = [Kind::Free, Kind::Unpaid, Kind::UnpaidBody, Kind::Ambiguous, Kind::Unknown];
    let text = |kind: Kind| match kind {
        Kind::Free => format!("GET /free HTTP/1.1\r\nHost: {RAW}\r\n\r\n"),
        Kind::Unpaid => format!("GET /api/paid HTTP/1.1\r\nHost: {RAW}\r\n\r\n"),
        // Answered unread: what follows is still its body.
        Kind::UnpaidBody => format!(
            "POST /api/paid HTTP/1.1\r\nHost: {RAW}\r\nContent-Length: {}\r\n\r\n{}",
            "GET /free HTTP/1.1\r\nHost: raw.wild.test\r\nX-Smuggled: y\r\n\r\n".len(),
            "GET /free HTTP/1.1\r\nHost: raw.wild.test\r\nX-Smuggled: y\r\n\r\n"
        ),
        Kind::Ambiguous => format!("GET /api%2fpaid HTTP/1.1\r\nHost: {RAW}\r\n\r\n"),
        Kind::Unknown => "GET /nowhere HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
    };
    let expected = |kind: Kind| match kind {
        Kind::Free => 200,
        Kind::Unpaid | Kind::UnpaidBody => 402,
        Kind::Ambiguous => 400,
        Kind::Unknown => 404,
    };
    let mut schedules = 0;
    let mut state = 7_usize;
    for round in 0..400 {
        let length = 2 + round % 4;
        let schedule: Vec<Kind> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                kinds[(state >> 33) % kinds.len()]
            })
            .collect();
        let mut wire = world.wire(RAW).await;
        wire.send(schedule.iter().map(|kind| text(*kind)).collect::<String>()).await;
        let mut free = 0;
        for kind in &schedule {
            // A connection may be closed early; then nothing more was heard.
            let Some(reply) = wire.reply("GET").await else { break };
            assert_eq!(reply.status, expected(*kind));
            assert_no_marker(&reply.text(), "in a pipeline");
            free += usize::from(*kind == Kind::Free);
            if wire.is_over {
                break;
            }
        }
        let recorded = world.recorder.take_whole();
        assert!(recorded.len() == free, "{} at the origin, {free} answered", recorded.len());
        assert!(
            recorded
                .iter()
                .all(|request| request.line() == "GET /free HTTP/1.1" && request.all("x-smuggled").is_empty())
        );
        schedules += 1;
    }
    // With one that is paid among them, in both protocols.
    for place in 0..6 {
        let (name, value) = world.payment("GET", "/api/paid").await;
        let mut wire = world.wire(RAW).await;
        let paid = format!("GET /api/paid HTTP/1.1\r\nHost: {RAW}\r\n{name}: {value}\r\n\r\n");
        let requests: Vec<String> =
            (0..6).map(|at| if at == place { paid.clone() } else { text(Kind::Unpaid) }).collect();
        wire.send(requests.concat()).await;
        let mut sold = 0;
        while let Some(reply) = wire.reply("GET").await {
            sold += usize::from(reply.status == 200);
            assert_eq!(reply.text().contains(MARKER), reply.status == 200);
            assert!(matches!(reply.status, 200 | 402));
        }
        let hits = world.recorder.take();
        assert!(sold <= 1 && hits.len() == sold, "{sold} sold, {} at the origin", hits.len());
        schedules += 1;

        let mut h2 = tls.h2(RAW).await;
        let (name, value) = tls.payment("GET", "/api/paid").await;
        let mut streams = Vec::new();
        let mut bytes = Vec::new();
        for at in 0..6 {
            let mut fields = request("GET", RAW, b"/api/paid");
            let name = name.to_lowercase();
            if at == place {
                fields.push((name.as_bytes(), value.as_bytes()));
            }
            let stream = h2.stream();
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields)));
            streams.push(stream);
        }
        h2.send(bytes).await;
        for (at, stream) in streams.into_iter().enumerate() {
            let outcome = h2.outcome(stream).await;
            assert_eq!(outcome.status, Some(if at == place { 200 } else { 402 }), "stream {at}, paid {place}");
            assert_eq!(outcome.text().contains(MARKER), at == place);
        }
        assert_eq!(tls.recorder.take().len(), 1);
        schedules += 1;
    }
    println!("A18: {schedules}");
    world.shop.audit().await;
    tls.shop.audit().await;
}

const HANDSHAKE: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Upgrades to anything and from anywhere (threat A12), to an origin that takes them up and to one that doesn't.
#[tokio::test]
async fn no_upgrade_becomes_a_tunnel_past_the_gateway() {
    let world = World::plain().await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    world.recorder.answer("/switches", switched);
    let mut cases = 0;
    for protocol in [
        "websocket",
        "WebSocket",
        "WEBSOCKET",
        "websocket, h2c",
        "h2c, websocket",
        "foo",
        "h2c",
        "H2C",
        "h2",
        "HTTP/2.0",
        "TLS/1.0",
        "tcp",
        "connect-udp",
        "",
        ",",
        "h2c,h2c",
        "websocket\0",
        "web socket",
    ] {
        for connection in ["Upgrade", "upgrade, HTTP2-Settings", "keep-alive, Upgrade", "close", "Upgrade, close"] {
            for path in ["/free", "/switches", "/api/paid"] {
                for more in [HANDSHAKE, "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", "Content-Length: 0\r\n"] {
                    let head = format!(
                        "GET {path} HTTP/1.1\r\nHost: {RAW}\r\nUpgrade: {protocol}\r\nConnection: {connection}\r\n{more}\r\n"
                    );
                    let mut wire = world.wire(RAW).await;
                    wire.send(format!("{head}{SMUGGLED}")).await;
                    let mut statuses = Vec::new();
                    while let Some(reply) = wire.reply("GET").await {
                        assert_no_marker(&reply.text(), &head);
                        statuses.push(reply.status);
                    }
                    assert!(!statuses.contains(&101), "{head}: {statuses:?}");
                    for request in world.recorder.take() {
                        assert!(
                            request.line().starts_with("GET /free ") || request.line().starts_with("GET /switches "),
                            "{head}"
                        );
                        assert!(
                            request.all("upgrade").is_empty() && request.all("http2-settings").is_empty(),
                            "{}",
                            request.head()
                        );
                        assert!(!request.head().contains("X-Smuggled"));
                    }
                    cases += 1;
                }
            }
        }
    }
    // Prior knowledge without TLS, and its preface behind a request.
    for before in ["", "GET /free HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n"] {
        let mut bytes = before.as_bytes().to_vec();
        bytes.extend_from_slice(super::frames::PREFACE);
        bytes.extend(super::frames::settings(&[]));
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&request("GET", RAW, b"/api/paid"))));
        bytes.extend(frame(DATA, END_STREAM, 3, b""));
        let answer = world.say(bytes).await;
        assert_no_marker(&answer, "a preface");
        assert!(world.recorder.take().len() <= usize::from(!before.is_empty()));
        cases += 1;
    }
    println!("A12: {cases}");
    world.close_unpaid().await;
}
