//! HTTP/2 in front of an origin that speaks HTTP/1 (threat A13): what is malformed in the one never becomes a request in the
//! other, whether it is paid for or not.

use std::time::Duration;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, request};
use super::{MARKER, RAW, World, assert_no_marker};

type Field = (&'static [u8], &'static [u8]);

/// Fields that HTTP/2 has no room for, or that would be more than a field in HTTP/1.
const FIELDS: [Field; 40] = [
    (b"connection", b"close"),
    (b"connection", b"keep-alive, x-payment-payer"),
    (b"connection", b"upgrade"),
    (b"proxy-connection", b"keep-alive"),
    (b"keep-alive", b"timeout=5"),
    (b"upgrade", b"websocket"),
    (b"upgrade", b"h2c"),
    (b"transfer-encoding", b"chunked"),
    (b"transfer-encoding", b"identity"),
    (b"Transfer-Encoding", b"chunked"),
    (b"transfer-encoding", b" chunked"),
    (b"te", b"chunked"),
    (b"te", b"trailers, chunked"),
    (b"proxy-connection", b"close"),
    (b"content-length", b"x"),
    (b"content-length", b"-1"),
    (b"content-length", b"+1"),
    (b"content-length", b"1, 1"),
    (b"content-length", b"99999999999999999999"),
    (b"content-length", b"0x1"),
    (b"content-length", b""),
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\r\n\r\nGET /api/paid HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n"),
    (b"x", b"a\nb: c"),
    (b"x", b"a\rb: c"),
    (b"x", b"a\0b"),
    (b"x\r\ny", b"z"),
    (b"x: y\r\nz", b"a"),
    (b"x\0", b"y"),
    (b"x y", b"z"),
    (b"x:", b"y"),
    (b"X-Upper", b"y"),
    (b"", b"y"),
    (b"host", b"evil.test"),
    (b"host", b"raw.wild.test, evil.test"),
    (b":path", b"/free"),
    (b":status", b"200"),
    (b":protocol", b"websocket"),
    (b"x\xff", b"y"),
    (b"transfer-encoding", b""),
];

#[tokio::test]
async fn what_is_malformed_in_http_2_becomes_no_request_in_http_1_even_if_it_is_paid() {
    let world = World::tls().await;
    let (name, value) = world.payment("POST", "/api/paid").await;
    let name = name.to_lowercase();
    let mut cases = 0;
    for (field, text) in FIELDS {
        for (method, path) in [("POST", "/api/paid"), ("POST", "/free"), ("GET", "/free")] {
            // Before the payment and behind it; with a body and without.
            for (is_first, body) in [
                (true, None),
                (false, None),
                (true, Some(&b"x"[..])),
                (false, Some(b"0\r\n\r\nGET /api/paid HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n")),
            ] {
                let mut fields = request(method, RAW, path.as_bytes());
                let payment = (name.as_bytes(), value.as_bytes());
                fields.extend(if is_first { [(field, text), payment] } else { [payment, (field, text)] });
                let mut h2 = world.h2(RAW).await;
                let stream = h2.stream();
                let flags = if body.is_none() { END_STREAM | END_HEADERS } else { END_HEADERS };
                h2.send(frame(HEADERS, flags, stream, &block(&fields))).await;
                if let Some(body) = body {
                    h2.send(frame(DATA, END_STREAM, stream, body)).await;
                }
                let outcome = h2.outcome(stream).await;
                let what = format!("{}: {} of {method} {path}", field.escape_ascii(), text.escape_ascii());
                assert!(matches!(outcome.status, None | Some(400)), "{what}: {outcome:?}");
                assert_no_marker(&outcome.text(), &what);
                assert!(world.recorder.take().is_empty(), "{what}");
                cases += 1;
            }
        }
    }
    world.shop.assert_untouched().await;
    // A body that ends too early or too late is never a whole one at the origin.
    for (length, body) in [("5", &b"x"[..]), ("1", b"xyz"), ("0", b"x"), ("5", b"")] {
        let mut fields = request("POST", RAW, b"/api/paid");
        fields.extend([(&b"content-length"[..], length.as_bytes()), (name.as_bytes(), value.as_bytes())]);
        let outcome = world.h2(RAW).await.ask_with(&fields, body).await;
        assert!(matches!(outcome.status, None | Some(400)), "{length} {body:?}: {outcome:?}");
        assert!(world.recorder.take().is_empty());
        cases += 1;
    }
    world.shop.assert_untouched().await;
    // Nothing is begun for a request that isn't whole yet, though it said that nothing would come.
    let mut fields = request("POST", RAW, b"/api/paid");
    fields.extend([(&b"content-length"[..], &b"0"[..]), (name.as_bytes(), value.as_bytes())]);
    let mut h2 = world.h2(RAW).await;
    let stream = h2.stream();
    h2.send(frame(HEADERS, END_HEADERS, stream, &block(&fields))).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.shop.assert_untouched().await;
    h2.send(frame(DATA, END_STREAM, stream, b"x")).await;
    let outcome = h2.outcome(stream).await;
    assert!(matches!(outcome.status, None | Some(400)), "{outcome:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.recorder.take().is_empty());
    world.shop.assert_untouched().await;
    // Bytes that would be framing in HTTP/1 are a body, framed anew.
    let body = b"0\r\n\r\nGET /api/paid HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n";
    let mut fields = request("POST", RAW, b"/api/paid");
    fields.push((name.as_bytes(), value.as_bytes()));
    let mut h2 = world.h2(RAW).await;
    let outcome = h2.ask_with(&fields, body).await;
    assert!(outcome.status == Some(200) && outcome.text().contains(MARKER), "{outcome:?}");
    let recorded = world.recorder.take();
    assert_eq!(recorded.len(), 1);
    assert!(recorded[0].body.windows(body.len()).any(|window| window == body) && recorded[0].is_whole);
    assert_eq!(h2.ask(&request("GET", RAW, b"/api/paid")).await.status, Some(402));
    assert!(h2.is_alive().await);
    println!("A13: {cases}");
    world.shop.audit().await;
}
