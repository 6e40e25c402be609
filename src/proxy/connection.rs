//! What is known of the connection that a request came on: who is at its other end, how it was secured, and what it is
//! waiting for. The server makes it and bounds its times; the phases read it and say how far a request has come.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pingora::http::ResponseHeader;
use pingora::protocols::Digest;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::proxy::Session;

/// What a connection waits for from its client; each has its own time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The next request, of which nothing has come.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body.
    Body,
    /// Nothing: the request is complete, or there are several at a time.
    Open,
}

const STAGES: u64 = 4;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The address of who speaks HTTP here: the peer, or whom a trusted peer names in a PROXY protocol header.
    pub client: IpAddr,
    /// For TLS connections: the server that the client asked for by SNI, if it named one.
    pub tls: Option<ServerName>,
    /// [`Stage`] plus [`STAGES`] times the number of changes, so that two requests' stages differ.
    stage: AtomicU64,
    /// How long [`Stage::Open`] may last; 0 for as long as it likes.
    open_for_millis: AtomicU64,
    /// How long the client of the request may be left without a byte; 0 if somebody else sees to that.
    silence_millis: AtomicU64,
    /// Whether it was left so for longer.
    is_overdue: AtomicBool,
}

/// The server name of a TLS handshake.
pub type ServerName = Option<Box<str>>;

impl Connection {
    /// A connection that was just made; the first head is due.
    #[must_use]
    pub fn new(client: IpAddr, tls: Option<ServerName>) -> Self {
        Self {
            client: client.to_canonical(),
            tls,
            stage: AtomicU64::new(Stage::Head as u64),
            open_for_millis: AtomicU64::new(0),
            silence_millis: AtomicU64::new(0),
            is_overdue: AtomicBool::new(false),
        }
    }

    /// What the connection waits for, and a number that is another one after every change.
    #[must_use]
    pub fn stage(&self) -> (Stage, u64) {
        let value = self.stage.load(Ordering::Relaxed);
        let stage = match value % STAGES {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Body,
            _ => Stage::Open,
        };
        (stage, value)
    }

    /// From now on it waits for something else.
    pub fn enter(&self, stage: Stage) {
        // Only the connection's own task changes it, so nothing can come between.
        let changes = self.stage.load(Ordering::Relaxed) / STAGES;
        self.stage.store(changes.wrapping_add(1).wrapping_mul(STAGES).wrapping_add(stage as u64), Ordering::Relaxed);
    }

    /// It became something else than HTTP, and ends after this.
    pub(super) fn end_after(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
        self.open_for_millis.store(millis, Ordering::Relaxed);
        self.enter(Stage::Open);
    }

    /// A request without a body is with its origin, which must answer, and go on answering, within `limit`; nothing if somebody
    /// else sees to that. Pingora arms a timer for each read from an origin; a connection has one already.
    pub fn wait_for_origin(&self, limit: Option<Duration>) {
        let millis = limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
        self.silence_millis.store(millis, Ordering::Relaxed);
        self.is_overdue.store(false, Ordering::Relaxed);
        if limit.is_some() {
            // Another attempt has the whole time again.
            self.enter(Stage::Open);
        }
    }

    /// How long the client may be left without a byte of its answer, if the connection is to see to it.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        Some(self.silence_millis.load(Ordering::Relaxed)).filter(|millis| *millis > 0).map(Duration::from_millis)
    }

    /// The origin left its client without a byte for too long.
    pub fn give_up_on_origin(&self) {
        self.is_overdue.store(true, Ordering::Relaxed);
    }

    /// Whether it did.
    #[must_use]
    pub fn is_origin_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Relaxed)
    }

    /// How long the connection may go on as it is, if there is an end to it.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        Some(self.open_for_millis.load(Ordering::Relaxed)).filter(|millis| *millis > 0).map(Duration::from_millis)
    }

    /// Pingora's own place for what a listener knows of a connection.
    ///
    /// # Errors
    /// Never in practice: a status line that pingora doesn't take.
    pub fn into_digest(self: Arc<Self>) -> pingora::Result<Arc<ProxyDigest>> {
        let head = ResponseHeader::build(http::StatusCode::OK, Some(0))?;
        Ok(Arc::new(ProxyDigest::new(Box::new(head), Some(Box::new(self)))))
    }
}

/// The connection of a request; nothing if its listener keeps none.
pub(super) fn of(session: &Session) -> Option<&Arc<Connection>> {
    of_digest(session.digest())
}

/// The connection that pingora carries in a digest, if there is one.
#[must_use]
pub fn of_digest(digest: Option<&Digest>) -> Option<&Arc<Connection>> {
    digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_every_request_has_a_number_of_its_own() {
        let connection = Connection::new(IpAddr::from([127, 0, 0, 1]), None);
        let mut seen = vec![connection.stage()];
        for stage in [Stage::Body, Stage::Open, Stage::Idle, Stage::Head, Stage::Body] {
            connection.enter(stage);
            assert_eq!(connection.stage().0, stage);
            assert!(!seen.contains(&connection.stage()));
            seen.push(connection.stage());
        }
    }
}
