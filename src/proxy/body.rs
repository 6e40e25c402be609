//! The request body, read for its digest before the money moves, without losing a byte of it.
//!
//! Pingora keeps what a filter reads in a buffer of 64 KiB and sends that to the origin first. A body that outgrows the
//! buffer is dropped from it, so what was read of such a body is held here and put back in front of the rest.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::protocols::http::ServerSession;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::ledger::Digest;

/// Longest body that is digested; a longer one can't be presented again (contract §3). Pingora's own buffer is as long.
pub(super) const DIGEST_BYTES_MAX: usize = 64 * 1024;

/// How long a client may take to send what is digested.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How a body stands in the fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyDigest {
    /// SHA-256 of all of it.
    Whole(Digest),
    /// It is longer than [`DIGEST_BYTES_MAX`]: this request can't be told from another.
    TooLong,
}

/// A body's digest, and what must be put back in front of what is still to come.
#[derive(Debug)]
pub(super) struct DigestedBody {
    pub digest: BodyDigest,
    pub held: Option<Bytes>,
}

/// Why a body can't be digested; nothing was paid yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The client was too slow.
    #[error("the body did not come in time")]
    Timeout,
    /// The client went away, or its framing is broken.
    #[error("the body can't be read")]
    Broken(#[source] Box<pingora::Error>),
    /// What was read can't be sent on.
    #[error("the body can't be sent on")]
    Unforwardable,
}

/// Reads the body's first 64 KiB. Sends `100 Continue` if the client waits for it, and then takes `Expect` out.
pub(super) async fn digest(session: &mut ServerSession) -> Result<DigestedBody, BodyError> {
    // An HTTP/2 request is whole when its stream ends (RFC 9113 §8.1), whatever length it said before.
    if session.is_body_empty() && session.as_http2().is_none() {
        return Ok(DigestedBody { digest: BodyDigest::Whole(Sha256::digest(b"").into()), held: None });
    }
    let declared = session.get_header(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.is_some_and(|length| length.trim().parse::<u64>().map_or(true, |n| n > DIGEST_BYTES_MAX as u64)) {
        return Ok(DigestedBody { digest: BodyDigest::TooLong, held: None });
    }
    if session.req_header_mut().remove_header(&header::EXPECT).is_some() {
        session.write_continue_response().await.map_err(BodyError::Broken)?;
    }
    session.enable_retry_buffering();
    let reading = tokio::time::timeout(READ_TIMEOUT, read(session)).await;
    let (hasher, held) = reading.map_err(|_elapsed| BodyError::Timeout)??;
    if held.len() > DIGEST_BYTES_MAX {
        // The end of a chunked body is a read of its own, so the rest passes the body filter, where these bytes are put
        // back. If it did not, they would be lost: refuse while nothing is paid.
        return if session.is_body_done() {
            Err(BodyError::Unforwardable)
        } else {
            Ok(DigestedBody { digest: BodyDigest::TooLong, held: Some(held.freeze()) })
        };
    }
    // Pingora must hold exactly what was read, since that is what the origin will get.
    if session.get_retry_buffer().unwrap_or_default() != held || !session.is_body_done() {
        return Err(BodyError::Unforwardable);
    }
    Ok(DigestedBody { digest: BodyDigest::Whole(hasher.finalize().into()), held: None })
}

async fn read(session: &mut ServerSession) -> Result<(Sha256, BytesMut), BodyError> {
    let mut hasher = Sha256::new();
    let mut held = BytesMut::new();
    while let Some(bytes) = session.read_request_body().await.map_err(BodyError::Broken)? {
        hasher.update(&bytes);
        held.extend_from_slice(&bytes);
        if held.len() > DIGEST_BYTES_MAX {
            break;
        }
    }
    Ok((hasher, held))
}

/// How long a client may stay below the least rate of a body.
const RATE_WINDOW: Duration = Duration::from_secs(20);

/// How fast the body of an HTTP/2 request comes on its way to the origin. Its connection carries many, so that the guard of
/// connections can't tell; a client that sends nothing at all is found out by the origin's silence.
#[derive(Debug, Default)]
pub(super) struct BodyPace {
    since: Option<Instant>,
    bytes: u64,
}

impl BodyPace {
    /// A piece has come; whether the client was too slow with it. The time in which the origin takes pieces in counts too, but
    /// then a client that has more to say says much at once.
    pub fn is_too_slow(&mut self, bytes: usize, bytes_per_second_min: u64) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if since.elapsed() < RATE_WINDOW {
            return false;
        }
        let is_slow = self.bytes < bytes_per_second_min.saturating_mul(RATE_WINDOW.as_secs());
        (self.since, self.bytes) = (Some(Instant::now()), 0);
        is_slow
    }
}

/// Puts what was held in front of the next piece on its way to the origin.
pub(super) fn put_back(held: &mut Option<Bytes>, piece: &mut Option<Bytes>) {
    if let Some(first) = held.take() {
        *piece = Some(match piece.take() {
            Some(rest) if !rest.is_empty() => [first, rest].concat().into(),
            _ => first,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_creeps_is_too_slow_and_one_that_keeps_its_pace_is_not() {
        for (bytes, millis, rate, expected) in [
            (1, 1000, 250, Some(20)),
            (300, 1000, 250, None),
            (5000, 19_000, 250, None),
            (1, 1000, 0, None),
            (1, 59_000, 250, Some(59)),
        ] {
            let (mut pace, started) = (BodyPace::default(), Instant::now());
            let mut too_slow_after = None;
            for _ in 0..100 {
                if pace.is_too_slow(bytes, rate) {
                    too_slow_after = Some(started.elapsed().as_secs());
                    break;
                }
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            assert_eq!(too_slow_after, expected, "{bytes} bytes every {millis} ms at {rate}");
        }
    }
}
