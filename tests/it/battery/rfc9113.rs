//! What RFC 9113 and RFC 7541 demand of a server and a client can see, over TLS, by section: h2spec's list, and what is not
//! on it. The frames are the h2 crate's affair; what it does otherwise is in [`KNOWN`], each with the reason.

use super::frames::{
    ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, GOAWAY, H2, HEADERS, PADDED, PING, PREFACE, PRIORITIZED, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
    REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, block, frame, request, settings,
};
use super::{RAW, World, assert_no_marker};

/// What is done otherwise, and why that is no danger.
const KNOWN: [(&str, &str); 1] = [(
    "8.1 a trailer with a pseudo-header field",
    "h2 drops pseudo-header fields of trailers (`recv_trailers`) and says nothing of them; no trailer goes to an origin",
)];

/// What a client says.
enum Step {
    Send(Vec<u8>),
    /// Waits until the stream is answered.
    Await(u32),
}

#[derive(Debug, Clone)]
enum Expect {
    /// `GOAWAY` with one of these codes, or the end of the connection: it may be ended at any time (§5.4.1), which h2 does
    /// with a less telling code than the RFC's here and there.
    Connection(&'static [u32]),
    /// The same, or `RST_STREAM` with one of these codes.
    Stream(&'static [u32]),
    /// A stream error, or 400 (§8.1.1).
    Malformed,
    /// The stream is answered with this status, and the connection goes on.
    Status(u16),
    /// The stream is answered with this status. The connection may end behind it, since the client has said that it leaves (§6.8).
    Answered(u16),
    /// The connection goes on.
    Alive,
}

struct Probe {
    name: String,
    steps: Vec<Step>,
    expect: Expect,
    /// Said in place of the preface and the settings.
    is_mute: bool,
}

fn fields(method: &'static str) -> Vec<(Vec<u8>, Vec<u8>)> {
    request(method, RAW, b"/free").into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// A request with further fields.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = fields("GET");
    all.extend(more.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
    block(&all)
}

fn raw_fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    block(fields)
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields("GET")))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&fields("POST")))
}

fn head(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    let mut add = |name: &str, steps: Vec<Step>, expect: Expect| {
        all.push(Probe { name: name.to_owned(), steps, expect, is_mute: false })
    };
    let send = |frames: &[Vec<u8>]| vec![Step::Send(frames.concat())];
    let word = |value: u32| value.to_be_bytes();
    use Expect::{Alive, Answered, Connection, Malformed, Status, Stream};
    const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
    const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
    const CLOSED: &[u32] = &[STREAM_CLOSED];
    const CLOSED_OR_PROTOCOL: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];
    const FLOW: &[u32] = &[FLOW_CONTROL_ERROR];
    const COMPRESSION: &[u32] = &[COMPRESSION_ERROR];

    // 4.1 Frame format
    add("4.1 an unknown frame type is ignored", send(&[frame(0x16, 0, 0, b"12345678"), get(1)]), Status(200));
    add("4.1 undefined flags are ignored", send(&[frame(PING, 0x16, 0, b"12345678"), get(1)]), Status(200));
    add("4.1 the reserved bit is ignored", send(&[frame(PING, 0, 0x8000_0000, b"12345678"), get(1)]), Status(200));
    // 4.2 Frame size
    add(
        "4.2 a DATA frame of 2^14 bytes is taken",
        send(&[post(1), frame(DATA, END_STREAM, 1, &[b'x'; 16_384])]),
        Status(200),
    );
    add(
        "4.2 a DATA frame beyond the maximum",
        send(&[post(1), frame(DATA, END_STREAM, 1, &[b'x'; 16_385])]),
        Stream(SIZE),
    );
    add(
        "4.2 a HEADERS frame beyond the maximum",
        send(&[head(1, &with(&[("x-long", &"x".repeat(17_000))]))]),
        Connection(SIZE),
    );
    add("4.2 a SETTINGS frame beyond the maximum", send(&[frame(SETTINGS, 0, 0, &[0; 16_386])]), Connection(SIZE));
    // 4.3 Field section compression
    add(
        "4.3 a field block that can't be decoded",
        send(&[head(1, &[0x40, 1, 1, b'a'].map(|byte| byte | 0xbf))]),
        Connection(COMPRESSION),
    );
    add(
        "4.3 a PRIORITY frame within a field block",
        send(&[frame(HEADERS, END_STREAM, 1, &block(&fields("GET"))), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255])]),
        Connection(PROTOCOL),
    );
    add(
        "4.3 another stream's HEADERS within a field block",
        send(&[frame(HEADERS, END_STREAM, 1, &block(&fields("GET"))), get(3)]),
        Connection(PROTOCOL),
    );
    add(
        "4.3 a field block cut off in a field",
        send(&[head(1, &{
            let mut block = block(&fields("GET"));
            block.pop();
            block
        })]),
        Connection(COMPRESSION),
    );
    // 5.1 Stream states
    add("5.1 idle: DATA", send(&[frame(DATA, END_STREAM, 1, b"x")]), Connection(PROTOCOL));
    add("5.1 idle: RST_STREAM", send(&[frame(RST_STREAM, 0, 1, &word(8))]), Connection(PROTOCOL));
    add("5.1 idle: WINDOW_UPDATE", send(&[frame(WINDOW_UPDATE, 0, 1, &word(100))]), Connection(PROTOCOL));
    add(
        "5.1 idle: CONTINUATION",
        send(&[frame(CONTINUATION, END_HEADERS, 1, &block(&fields("GET")))]),
        Connection(PROTOCOL),
    );
    add("5.1 half-closed: DATA", send(&[get(1), frame(DATA, END_STREAM, 1, b"x")]), Stream(CLOSED));
    add("5.1 half-closed: HEADERS", send(&[get(1), get(1)]), Stream(CLOSED));
    add(
        "5.1 half-closed: CONTINUATION",
        send(&[get(1), frame(CONTINUATION, END_HEADERS, 1, &block(&fields("GET")))]),
        Connection(CLOSED_OR_PROTOCOL),
    );
    add(
        "5.1 half-closed: WINDOW_UPDATE, PRIORITY and RST_STREAM are taken",
        send(&[
            get(1),
            frame(WINDOW_UPDATE, 0, 1, &word(1)),
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
            frame(RST_STREAM, 0, 1, &word(8)),
            get(3),
        ]),
        Alive,
    );
    add(
        "5.1 closed by RST_STREAM: DATA",
        send(&[post(1), frame(RST_STREAM, 0, 1, &word(8)), frame(DATA, END_STREAM, 1, b"x")]),
        Stream(CLOSED),
    );
    add(
        "5.1 closed by RST_STREAM: HEADERS",
        send(&[post(1), frame(RST_STREAM, 0, 1, &word(8)), get(1)]),
        Stream(CLOSED),
    );
    add(
        "5.1 closed by RST_STREAM: CONTINUATION",
        send(&[post(1), frame(RST_STREAM, 0, 1, &word(8)), frame(CONTINUATION, END_HEADERS, 1, &[])]),
        Connection(CLOSED_OR_PROTOCOL),
    );
    let after = |bytes: Vec<u8>| vec![Step::Send(get(1)), Step::Await(1), Step::Send(bytes)];
    add("5.1 closed: DATA", after(frame(DATA, END_STREAM, 1, b"x")), Stream(CLOSED));
    add("5.1 closed: HEADERS", after(get(1)), Stream(CLOSED_OR_PROTOCOL));
    add(
        "5.1 closed: CONTINUATION",
        after(frame(CONTINUATION, END_HEADERS, 1, &block(&fields("GET")))),
        Connection(CLOSED_OR_PROTOCOL),
    );
    add(
        "5.1 closed: PRIORITY, WINDOW_UPDATE and RST_STREAM are taken",
        after(
            [
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
                frame(WINDOW_UPDATE, 0, 1, &word(1)),
                frame(RST_STREAM, 0, 1, &word(8)),
            ]
            .concat(),
        ),
        Alive,
    );
    add("5.1.1 an even stream", send(&[get(2)]), Connection(PROTOCOL));
    add("5.1.1 a stream below an earlier one", send(&[get(5), get(3)]), Connection(CLOSED_OR_PROTOCOL));
    add(
        "5.1.2 more streams than allowed",
        send(&(0..600).map(|at| post(at * 2 + 1)).collect::<Vec<_>>()),
        Stream(&[PROTOCOL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM]),
    );
    add(
        "5.3.2 what PRIORITY says is of no matter",
        send(&[frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 255]), get(1)]),
        Status(200),
    );
    add(
        "5.5 an unknown frame within a field block",
        send(&[frame(HEADERS, END_STREAM, 1, &block(&fields("GET"))), frame(0x16, 0, 0, b"x")]),
        Connection(PROTOCOL),
    );
    // 6.1 DATA
    add("6.1 DATA on stream 0", send(&[frame(DATA, END_STREAM, 0, b"x")]), Connection(PROTOCOL));
    add(
        "6.1 DATA with padding longer than itself",
        send(&[post(1), frame(DATA, END_STREAM | PADDED, 1, &[6, b'x', b'y'])]),
        Connection(PROTOCOL),
    );
    add(
        "6.1 DATA with padding as long as itself",
        send(&[post(1), frame(DATA, END_STREAM | PADDED, 1, &[3, 0, 0])]),
        Connection(PROTOCOL),
    );
    add(
        "6.1 DATA with padding and without length",
        send(&[post(1), frame(DATA, END_STREAM | PADDED, 1, &[])]),
        Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
    );
    add(
        "6.1 DATA with padding is taken",
        send(&[post(1), frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0])]),
        Status(200),
    );
    // 6.2 HEADERS
    add("6.2 HEADERS on stream 0", send(&[get(0)]), Connection(PROTOCOL));
    add(
        "6.2 HEADERS with padding longer than itself",
        send(&[frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &[&[200][..], &block(&fields("GET"))].concat())]),
        Connection(PROTOCOL),
    );
    add(
        "6.2 HEADERS with padding is taken",
        send(&[frame(
            HEADERS,
            END_STREAM | END_HEADERS | PADDED,
            1,
            &[&[2][..], &block(&fields("GET")), &[0, 0]].concat(),
        )]),
        Status(200),
    );
    add(
        "6.2 HEADERS with priority is taken",
        send(&[frame(
            HEADERS,
            END_STREAM | END_HEADERS | PRIORITIZED,
            1,
            &[&[0, 0, 0, 0, 9][..], &block(&fields("GET"))].concat(),
        )]),
        Status(200),
    );
    add(
        "6.2 DATA within a field block",
        send(&[frame(HEADERS, 0, 1, &block(&fields("POST"))), frame(DATA, END_STREAM, 1, b"x")]),
        Connection(PROTOCOL),
    );
    // 6.3, 6.4
    add("6.3 PRIORITY on stream 0", send(&[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])]), Connection(PROTOCOL));
    add("6.3 PRIORITY of 4 bytes", send(&[get(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1])]), Stream(SIZE));
    add("6.4 RST_STREAM on stream 0", send(&[frame(RST_STREAM, 0, 0, &word(8))]), Connection(PROTOCOL));
    add("6.4 RST_STREAM of 3 bytes", send(&[post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])]), Connection(SIZE));
    // 6.5 SETTINGS
    add("6.5 an acknowledgement with content", send(&[frame(SETTINGS, ACK, 0, &[0; 6])]), Connection(SIZE));
    add("6.5 SETTINGS on a stream", send(&[frame(SETTINGS, 0, 1, &[])]), Connection(PROTOCOL));
    add("6.5 SETTINGS of 3 bytes", send(&[frame(SETTINGS, 0, 0, &[0; 3])]), Connection(SIZE));
    add("6.5.2 ENABLE_PUSH of 2", send(&[settings(&[(2, 2)])]), Connection(PROTOCOL));
    add("6.5.2 INITIAL_WINDOW_SIZE beyond 2^31-1", send(&[settings(&[(4, 0x8000_0000)])]), Connection(FLOW));
    add("6.5.2 MAX_FRAME_SIZE below 2^14", send(&[settings(&[(5, 16_383)])]), Connection(PROTOCOL));
    add("6.5.2 MAX_FRAME_SIZE beyond 2^24-1", send(&[settings(&[(5, 16_777_216)])]), Connection(PROTOCOL));
    add("6.5.2 an unknown setting is ignored", send(&[settings(&[(0xff, 1)]), get(1)]), Status(200));
    add("6.5.3 of two values the last counts", send(&[settings(&[(4, 0), (4, 100)]), get(1)]), Status(200));
    // 6.6, 6.7, 6.8
    add(
        "6.6 PUSH_PROMISE from a client",
        send(&[get(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[&word(2)[..], &block(&fields("GET"))].concat())]),
        Connection(PROTOCOL),
    );
    add("6.7 a PING is answered", send(&[frame(PING, 0, 0, b"12345678")]), Alive);
    add("6.7 an unasked answer to a PING is ignored", send(&[frame(PING, ACK, 0, b"12345678"), get(1)]), Status(200));
    add("6.7 PING on a stream", send(&[frame(PING, 0, 1, b"12345678")]), Connection(PROTOCOL));
    add("6.7 PING of 6 bytes", send(&[frame(PING, 0, 0, b"123456")]), Connection(SIZE));
    add("6.8 GOAWAY on a stream", send(&[frame(GOAWAY, 0, 1, &[0; 8])]), Connection(PROTOCOL));
    // 6.9 WINDOW_UPDATE
    add("6.9 nothing for the connection", send(&[frame(WINDOW_UPDATE, 0, 0, &word(0))]), Connection(PROTOCOL));
    add("6.9 nothing for a stream", send(&[post(1), frame(WINDOW_UPDATE, 0, 1, &word(0))]), Stream(PROTOCOL));
    add("6.9 WINDOW_UPDATE of 3 bytes", send(&[frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])]), Connection(SIZE));
    add(
        "6.9.1 the connection's window beyond 2^31-1",
        send(&[frame(WINDOW_UPDATE, 0, 0, &word(0x7fff_ffff)), frame(WINDOW_UPDATE, 0, 0, &word(0x7fff_ffff))]),
        Connection(FLOW),
    );
    add(
        "6.9.1 a stream's window beyond 2^31-1",
        send(&[
            post(1),
            frame(WINDOW_UPDATE, 0, 1, &word(0x7fff_ffff)),
            frame(WINDOW_UPDATE, 0, 1, &word(0x7fff_ffff)),
        ]),
        Stream(FLOW),
    );
    add(
        "6.9.2 a stream's window beyond 2^31-1 by SETTINGS",
        send(&[post(1), frame(WINDOW_UPDATE, 0, 1, &word(0x7fff_0000)), settings(&[(4, 0x7fff_ffff)])]),
        Connection(FLOW),
    );
    // 6.10 CONTINUATION
    let get_block = block(&fields("GET"));
    let (first, rest) = get_block.split_at(20);
    let (second, third) = rest.split_at(10);
    add(
        "6.10 a field block in three frames is taken",
        send(&[
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, 0, 1, second),
            frame(CONTINUATION, END_HEADERS, 1, third),
        ]),
        Status(200),
    );
    add(
        "6.10 another frame than CONTINUATION",
        send(&[
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, 0, 1, second),
            frame(DATA, END_STREAM, 1, b"x"),
        ]),
        Connection(PROTOCOL),
    );
    add(
        "6.10 CONTINUATION on stream 0",
        send(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 0, rest)]),
        Connection(PROTOCOL),
    );
    add(
        "6.10 CONTINUATION of another stream",
        send(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, rest)]),
        Connection(PROTOCOL),
    );
    add(
        "6.10 CONTINUATION behind a whole block",
        send(&[post(1), frame(CONTINUATION, END_HEADERS, 1, rest)]),
        Connection(PROTOCOL),
    );
    add(
        "6.10 CONTINUATION behind one that was the last",
        send(&[
            frame(HEADERS, 0, 1, first),
            frame(CONTINUATION, END_HEADERS, 1, rest),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ]),
        Connection(PROTOCOL),
    );
    add(
        "6.10 CONTINUATION behind DATA",
        send(&[post(1), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, rest)]),
        Connection(PROTOCOL),
    );
    add(
        "10.5.1 CONTINUATION without end",
        send(
            &[
                vec![frame(HEADERS, END_STREAM, 1, first)],
                vec![frame(CONTINUATION, 0, 1, &block(&[("x", "y")])); 20_000],
            ]
            .concat(),
        ),
        Connection(&[PROTOCOL_ERROR, ENHANCE_YOUR_CALM, COMPRESSION_ERROR]),
    );
    // 7 Error codes
    add(
        "7 a GOAWAY with an unknown code",
        send(&[get(1), frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])]),
        Answered(200),
    );
    add("7 a RST_STREAM with an unknown code", send(&[post(1), frame(RST_STREAM, 0, 1, &word(0xff)), get(3)]), Alive);
    // 8.1 Messages
    add(
        "8.1 a second HEADERS without END_STREAM",
        send(&[post(1), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))]),
        Malformed,
    );
    add(
        "8.1 a trailer is taken",
        send(&[post(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "y")]))]),
        Status(200),
    );
    add(
        "8.1 a trailer with a pseudo-header field",
        send(&[
            post(1),
            frame(DATA, 0, 1, b"x"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":method", "GET")])),
        ]),
        Malformed,
    );
    add(
        "8.1.1 content-length above the DATA",
        send(&[frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "5")])), frame(DATA, END_STREAM, 1, b"x")]),
        Malformed,
    );
    add(
        "8.1.1 content-length below the DATA",
        send(&[frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "1")])), frame(DATA, END_STREAM, 1, b"xyz")]),
        Malformed,
    );
    add(
        "8.1.1 content-length above several DATA",
        send(&[
            frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "5")])),
            frame(DATA, 0, 1, b"x"),
            frame(DATA, END_STREAM, 1, b"x"),
        ]),
        Malformed,
    );
    add("8.1.1 content-length without DATA", send(&[head(1, &with(&[("content-length", "5")]))]), Malformed);
    add(
        "8.1.1 content-length that is no number",
        send(&[frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "x")])), frame(DATA, END_STREAM, 1, b"x")]),
        Malformed,
    );
    add(
        "8.1.1 two content-lengths",
        send(&[
            frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "1"), ("content-length", "2")])),
            frame(DATA, END_STREAM, 1, b"x"),
        ]),
        Malformed,
    );
    // 8.2 Fields
    for name in [
        "X-Upper", "x y", "x\0y", "x\ry", "x\ny", "x:y", "x\x7fy", "x\u{80}", "", " x", "x ", "x\t", "(x)", "x/y",
        "x\u{ff}",
    ] {
        add(&format!("8.2.1 a field name {name:?}"), send(&[head(1, &with(&[(name, "y")]))]), Malformed);
    }
    for value in ["a\0b", "a\rb", "a\nb", "a\r\nb", "\0", "a\r\nGET /api/paid HTTP/1.1\r\n\r\n"] {
        add(&format!("8.2.1 a field value {value:?}"), send(&[head(1, &with(&[("x", value)]))]), Malformed);
    }
    for value in [" y", "y ", "\ty", "y\t"] {
        add(
            &format!("8.2.1 white space around a field value {value:?}"),
            send(&[head(1, &with(&[("x", value)]))]),
            Malformed,
        );
    }
    for (name, value) in [
        ("connection", "keep-alive"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        add(&format!("8.2.2 {name}: {value}"), send(&[head(1, &with(&[(name, value)]))]), Malformed);
    }
    add("8.2.2 te: trailers is taken", send(&[head(1, &with(&[("te", "trailers")]))]), Status(200));
    add(
        "8.2.3 cookies in pieces are taken",
        send(&[head(1, &with(&[("cookie", "a=b"), ("cookie", "c=d")]))]),
        Status(200),
    );
    // 8.3 Control data
    let m: (&[u8], &[u8]) = (b":method", b"GET");
    let s: (&[u8], &[u8]) = (b":scheme", b"https");
    let a: (&[u8], &[u8]) = (b":authority", RAW.as_bytes());
    let p: (&[u8], &[u8]) = (b":path", b"/free");
    let x: (&[u8], &[u8]) = (b"x", b"y");
    for (what, fields) in [
        ("an unknown pseudo-header field", vec![m, s, a, p, (b":test", b"ok")]),
        ("a pseudo-header field of an answer", vec![m, s, a, p, (b":status", b"200")]),
        ("a pseudo-header field behind others", vec![m, s, a, x, p]),
        ("the authority behind others", vec![m, s, p, x, a]),
        ("no :method", vec![s, a, p]),
        ("no :scheme", vec![m, a, p]),
        ("no :path", vec![m, s, a]),
        ("two :method", vec![m, m, s, a, p]),
        ("two :scheme", vec![m, s, s, a, p]),
        ("two :path", vec![m, s, a, p, p]),
        ("two :authority", vec![m, s, a, a, p]),
        ("two :path that differ", vec![m, s, a, p, (b":path", b"/api/paid")]),
        ("an empty :path", vec![m, s, a, (b":path", b"")]),
        ("a :path without slash", vec![m, s, a, (b":path", b"free")]),
        ("a :path of * for GET", vec![m, s, a, (b":path", b"*")]),
        ("a :path in absolute form", vec![m, s, a, (b":path", b"https://raw.wild.test/free")]),
        ("a :path with a space", vec![m, s, a, (b":path", b"/free HTTP/1.1")]),
        ("a :path with CR LF", vec![m, s, a, (b":path", b"/free HTTP/1.1\r\nX: y\r\n\r\nGET /api/paid")]),
        ("a :path with NUL", vec![m, s, a, (b":path", b"/free\0")]),
        ("a :method with a space", vec![(b":method", b"GET /api/paid"), s, a, p]),
        ("a :method with CR LF", vec![(b":method", b"GET /api/paid HTTP/1.1\r\n\r\nGET"), s, a, p]),
        ("an empty :method", vec![(b":method", b""), s, a, p]),
        ("a :scheme with CR LF", vec![m, (b":scheme", b"https\r\nx"), a, p]),
        ("a :scheme with a path", vec![m, (b":scheme", b"https://evil.test/api/paid?"), a, p]),
        ("an empty :scheme", vec![m, (b":scheme", b""), a, p]),
        ("an :authority with CR LF", vec![m, s, (b":authority", b"raw.wild.test\r\nX: y"), p]),
        ("an :authority with userinfo", vec![m, s, (b":authority", b"u@raw.wild.test"), p]),
        ("an :authority with a path", vec![m, s, (b":authority", b"raw.wild.test/api/paid?"), p]),
        ("an :authority and another host", vec![m, s, a, p, (b"host", b"evil.test")]),
        ("two hosts", vec![m, s, a, p, (b"host", RAW.as_bytes()), (b"host", b"evil.test")]),
        ("only fields", vec![x]),
        ("nothing", vec![]),
        ("CONNECT with :path", vec![(b":method", b"CONNECT"), s, a, p]),
        ("CONNECT without authority", vec![(b":method", b"CONNECT")]),
        (
            "an extended CONNECT that was not offered",
            vec![(b":method", b"CONNECT"), (b":protocol", b"websocket"), s, a, p],
        ),
        (":protocol without CONNECT", vec![m, (b":protocol", b"websocket"), s, a, p]),
    ] {
        add(&format!("8.3 {what}"), send(&[head(1, &raw_fields(&fields))]), Malformed);
    }
    add(
        "8.3 OPTIONS * is taken",
        send(&[head(1, &raw_fields(&[(b":method", b"OPTIONS"), s, a, (b":path", b"*")]))]),
        Alive,
    );
    // RFC 7541
    let indexed = |index: u8| [&[0x80 | index][..], &block(&fields("GET"))].concat();
    add("HPACK 2.3.3 an index beyond the tables", send(&[head(1, &indexed(70))]), Connection(COMPRESSION));
    add(
        "HPACK 2.3.3 a name's index beyond the tables",
        send(&[head(1, &[&[0x40 | 62, 1, b'y'][..], &get_block].concat())]),
        Connection(COMPRESSION),
    );
    add(
        "HPACK 4.2 a table's size behind fields",
        send(&[head(1, &[&get_block[..], &[0x21]].concat())]),
        Connection(COMPRESSION),
    );
    add(
        "HPACK 4.2 a table's size before fields is taken",
        send(&[head(1, &[&[0x20][..], &get_block].concat())]),
        Status(200),
    );
    add(
        "HPACK 5.1 an integer without end",
        send(&[head(1, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]),
        Connection(COMPRESSION),
    );
    let literal =
        |coded: &[u8]| [&get_block[..], &[0, 1, b'x', 0x80 | u8::try_from(coded.len()).unwrap()], coded].concat();
    // 'y' is 1111010 in Huffman's code, and the rest of the byte is padding.
    add("HPACK 5.2 a Huffman string is taken", send(&[head(1, &literal(&[0xf5]))]), Status(200));
    add("HPACK 5.2 padding of more than 7 bits", send(&[head(1, &literal(&[0xf5, 0xff]))]), Connection(COMPRESSION));
    add("HPACK 5.2 padding of zeros", send(&[head(1, &literal(&[0xf4]))]), Connection(COMPRESSION));
    add(
        "HPACK 5.2 the end's own symbol",
        send(&[head(1, &literal(&[0xff, 0xff, 0xff, 0xff]))]),
        Connection(COMPRESSION),
    );
    add("HPACK 6.1 index 0", send(&[head(1, &indexed(0))]), Connection(COMPRESSION));
    add(
        "HPACK 6.2 every kind of literal is taken",
        send(&[head(
            1,
            &[
                &[0x82, 0x87, 0x44, 5][..],
                b"/free",
                &[0x41, 13],
                RAW.as_bytes(),
                &[0x40, 1, b'x', 1, b'y', 0x10, 1, b'z', 1, b'y', 0xbe],
            ]
            .concat(),
        )]),
        Status(200),
    );
    add(
        "HPACK 6.3 a table larger than allowed",
        send(&[head(1, &[&[0x3f, 0xe1, 0xff, 0x03][..], &get_block].concat())]),
        Connection(COMPRESSION),
    );
    for (name, method) in [("HEAD", "HEAD"), ("POST", "POST"), ("OPTIONS", "OPTIONS")] {
        add(&format!("8.3.1 {name} is taken"), send(&[head(1, &block(&fields(method)))]), Status(200));
    }

    // 3.4 Connection preface
    for (name, bytes, expect) in [
        (
            "3.4 another preface",
            [&b"PRI * HTTP/1.0\r\n\r\nSM\r\n\r\n"[..], &settings(&[])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "3.4 HTTP/1 where HTTP/2 was agreed on",
            b"GET /api/paid HTTP/1.1\r\nHost: raw.wild.test\r\n\r\n".to_vec(),
            Connection(PROTOCOL),
        ),
        ("3.4 another frame than SETTINGS first", [PREFACE, &get(1)].concat(), Connection(PROTOCOL)),
        (
            "3.4 SETTINGS and a request at once are taken",
            [PREFACE, &settings(&[(1, 0)]), &get(1)].concat(),
            Status(200),
        ),
    ] {
        all.push(Probe { name: name.to_owned(), steps: vec![Step::Send(bytes)], expect, is_mute: true });
    }
    all
}

/// What came of a probe, in a few words; none if it is what was expected.
async fn run(world: &World, probe: &Probe) -> Option<String> {
    let mut h2 = if probe.is_mute { H2::mute(world.place(RAW)).await } else { world.h2(RAW).await };
    for step in &probe.steps {
        match step {
            Step::Send(bytes) => h2.send(bytes).await,
            Step::Await(stream) => drop(h2.outcome(*stream).await),
        }
    }
    if !probe.is_mute || matches!(probe.expect, Expect::Status(_)) {
        h2.send(frame(PING, 0, 0, b"tollhous")).await;
    }
    let (mut resets, mut statuses, mut is_answered, mut has_pong) = (Vec::new(), Vec::new(), false, false);
    let is_over = loop {
        let wants_more = match probe.expect {
            Expect::Alive => !has_pong,
            Expect::Status(_) => !(has_pong && is_answered),
            Expect::Answered(_) => !is_answered,
            Expect::Malformed => resets.is_empty() && !is_answered,
            Expect::Stream(_) => resets.is_empty(),
            Expect::Connection(_) => true,
        };
        let is_named = |code: u32| match &probe.expect {
            Expect::Connection(codes) | Expect::Stream(codes) => codes.contains(&code),
            _ => code != 0,
        };
        if !wants_more || h2.goaway.is_some_and(is_named) {
            break false;
        }
        let patience = std::time::Duration::from_millis(
            if matches!(probe.expect, Expect::Alive | Expect::Status(_) | Expect::Answered(_)) {
                10_000
            } else {
                2_500
            },
        );
        match tokio::time::timeout(patience, h2.frame()).await {
            Ok(Some(frame)) => {
                has_pong |= frame.kind == PING && frame.payload == b"tollhous";
                if frame.kind == RST_STREAM {
                    resets.extend(frame.code());
                }
                if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                    is_answered = true;
                    let outcome = h2.outcome(frame.stream).await;
                    assert_no_marker(&outcome.text(), &probe.name);
                    statuses.extend(outcome.status);
                }
            }
            Ok(None) => break true,
            Err(_elapsed) => break false,
        }
    };
    let is_fine = match &probe.expect {
        Expect::Connection(codes) => is_over || h2.goaway.is_some_and(|code| codes.contains(&code)),
        Expect::Stream(codes) => {
            let said = resets.iter().chain(h2.goaway.iter()).any(|code| codes.contains(code));
            said || is_over && statuses.is_empty()
        }
        Expect::Malformed => {
            statuses.iter().all(|status| *status == 400)
                && (is_over || !resets.is_empty() || h2.goaway.is_some_and(|code| code != 0) || !statuses.is_empty())
        }
        Expect::Status(status) => statuses.contains(status) && has_pong,
        Expect::Answered(status) => statuses.contains(status),
        Expect::Alive => has_pong,
    };
    (!is_fine).then(|| {
        format!(
            "{:?}, yet resets {resets:?}, goaway {:?}, statuses {statuses:?}, over {is_over}",
            probe.expect, h2.goaway
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rfc_9113_demands_is_held_over_tls() {
    use futures::StreamExt as _;
    let world = World::tls().await;
    let probes = probes();
    let world_ref = &world;
    let failed: Vec<(String, String)> = futures::stream::iter(&probes)
        .map(|probe| async move { run(world_ref, probe).await.map(|told| (probe.name.clone(), told)) })
        .buffer_unordered(16)
        .filter_map(|failed| async { failed })
        .collect()
        .await;
    println!("RFC 9113: {} of {} held", probes.len() - failed.len(), probes.len());
    let unexpected: Vec<_> = failed.iter().filter(|(name, _)| !KNOWN.iter().any(|(known, _)| known == name)).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let mended: Vec<_> = KNOWN.iter().filter(|(known, _)| !failed.iter().any(|(name, _)| name == known)).collect();
    assert!(mended.is_empty(), "these hold now: {mended:?}");
    for recorded in world.recorder.take_whole() {
        let line = recorded.line();
        assert!(line.ends_with(" /free HTTP/1.1"), "{line}");
        assert!(!recorded.head().contains("paid"), "{}", recorded.head());
    }
    // After all of that, somebody else is served.
    assert_eq!(world.h2(RAW).await.ask(&request("GET", RAW, b"/free")).await.status, Some(200));
    world.close_unpaid().await;
}
