//! HTTP/2 by hand: frames as a client library would never send them, header blocks in literals.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::wire::{Place, Stream, connect};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 0x20;

/// Error codes (RFC 9113 §7).
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without indexing and without Huffman's code (RFC 7541 §6.2.2).
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            push_length(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
        return;
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// The pseudo-header fields of a request, in order.
pub fn request<'a>(method: &'a str, authority: &'a str, path: &'a [u8]) -> Vec<(&'a [u8], &'a [u8])> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", authority.as_bytes()),
        (b":path", path),
    ]
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        pairs.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn word(&self, at: usize) -> u32 {
        self.payload.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
    }

    /// The error code of a `RST_STREAM` or `GOAWAY`.
    pub fn code(&self) -> Option<u32> {
        match self.kind {
            RST_STREAM => Some(self.word(0)),
            GOAWAY => Some(self.word(4)),
            _ => None,
        }
    }
}

/// What became of a stream.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// None if there was no answer.
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub reset: Option<u32>,
    pub is_done: bool,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection in HTTP/2.
pub struct H2 {
    reader: BufReader<Box<dyn Stream>>,
    next: u32,
    outcomes: BTreeMap<u32, Outcome>,
    /// The code with which the connection was given up.
    pub goaway: Option<u32>,
    pub is_over: bool,
}

impl H2 {
    /// Connects and says nothing.
    pub async fn mute(place: Place<'_>) -> Self {
        let reader = BufReader::new(connect(place, b"h2").await);
        Self { reader, next: 1, outcomes: BTreeMap::new(), goaway: None, is_over: false }
    }

    /// Connects, and both ends have acknowledged the other's settings.
    pub async fn open(place: Place<'_>) -> Self {
        Self::open_with(place, &[]).await
    }

    /// As `open`, with more settings. Header blocks come without a dynamic table.
    pub async fn open_with(place: Place<'_>, more: &[(u16, u32)]) -> Self {
        let mut h2 = Self::mute(place).await;
        h2.send(PREFACE).await;
        h2.send(settings(&[&[(1, 0), (2, 0)], more].concat())).await;
        let (mut has_settings, mut has_ack) = (false, false);
        while !(has_settings && has_ack) {
            let frame = h2.frame().await.expect("settings");
            has_settings |= frame.kind == SETTINGS && frame.flags & ACK == 0;
            has_ack |= frame.kind == SETTINGS && frame.flags & ACK != 0;
        }
        h2.send(frame(SETTINGS, ACK, 0, &[])).await;
        // Room for many answers.
        h2.send(frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())).await;
        h2
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = async {
            self.reader.get_mut().write_all(bytes.as_ref()).await?;
            self.reader.get_mut().flush().await
        };
        if sent.await.is_err() {
            self.is_over = true;
        }
    }

    /// A new stream's id.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// The next frame; none at the end.
    pub async fn frame(&mut self) -> Option<Frame> {
        let frame = timeout(PATIENCE, self.read()).await.expect("a frame or an end");
        match frame {
            Ok(frame) => {
                self.note(&frame);
                Some(frame)
            }
            Err(_) => {
                self.is_over = true;
                None
            }
        }
    }

    async fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.reader.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.reader.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn note(&mut self, frame: &Frame) {
        if frame.kind == GOAWAY {
            self.goaway = frame.code();
        }
        if frame.stream == 0 {
            return;
        }
        let outcome = self.outcomes.entry(frame.stream).or_default();
        match frame.kind {
            HEADERS if outcome.status.is_none() => outcome.status = status(&frame.payload).filter(|it| *it >= 200),
            DATA => outcome.body.extend_from_slice(&frame.payload),
            RST_STREAM => outcome.reset = frame.code(),
            _ => {}
        }
        outcome.is_done |=
            frame.kind == RST_STREAM || matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
    }

    /// Reads until the stream is done or the connection over.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            if let Some(outcome) = self.outcomes.get(&stream)
                && outcome.is_done
            {
                return self.outcomes.remove(&stream).unwrap_or_default();
            }
            if self.frame().await.is_none() {
                return self.outcomes.remove(&stream).unwrap_or_default();
            }
        }
    }

    /// A request without a body.
    pub async fn ask(&mut self, fields: &[(&[u8], &[u8])]) -> Outcome {
        let stream = self.stream();
        self.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))).await;
        self.outcome(stream).await
    }

    /// A request with a body.
    pub async fn ask_with(&mut self, fields: &[(&[u8], &[u8])], body: &[u8]) -> Outcome {
        let stream = self.stream();
        self.send(frame(HEADERS, END_HEADERS, stream, &block(fields))).await;
        self.send(frame(DATA, END_STREAM, stream, body)).await;
        self.outcome(stream).await
    }

    /// Whether the connection still answers.
    pub async fn is_alive(&mut self) -> bool {
        self.send(frame(PING, 0, 0, b"tollhous")).await;
        while let Some(frame) = self.frame().await {
            if frame.kind == PING && frame.flags & ACK != 0 {
                return true;
            }
        }
        false
    }
}

/// The status at the start of a header block that was made without a dynamic table.
fn status(block: &[u8]) -> Option<u16> {
    let block = match block {
        // The table's new size.
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        block => block,
    };
    let fixed = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [indexed @ 0x88..=0x8e, ..] => fixed.get(usize::from(indexed - 0x88)).copied(),
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let value = rest.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(value).ok()?.parse().ok() } else { huffman_digits(value) }
        }
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): five bits up to `2`, six above.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let take =
            |count: usize| bits.get(at..at + count)?.iter().try_fold(0_u16, |sum, bit| Some(sum * 2 + u16::from(*bit)));
        let short = take(5)?;
        let digit = if short < 3 {
            at += 5;
            short
        } else {
            let long = take(6)?;
            at += 6;
            long.checked_sub(22)?
        };
        number = number * 10 + digit;
    }
    Some(number)
}

#[test]
fn statuses_are_read_in_every_spelling_of_a_header_block() {
    for (block, expected) in [
        (&[0x88][..], 200),
        (&[0x20, 0x8d], 404),
        (&[0x08, 3, b'4', b'0', b'5'], 405),
        // 4 = 011010, 0 = 00000, 2 = 00010
        (&[0x48, 0x82, 0b0110_1000, 0b0000_0010], 402),
        // 4 = 011010, 2 = 00010, 1 = 00001
        (&[0x48, 0x82, 0b0110_1000, 0b0100_0001], 421),
    ] {
        assert_eq!(status(block), Some(expected));
    }
}
