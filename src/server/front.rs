//! From a socket to a connection that requests may come on: who is at its other end, whether there is room for it, TLS.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{ALPN, GetSocketDigest, IO, SocketDigest, Ssl, UniqueID};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::guard::Guarded;
use super::proxy_protocol;
use super::tls::{self, Acceptor, Secured, Socket};
use crate::config::{LimitsConfig, ServerConfig};
use crate::proxy::connection::Connection;
use crate::types::{AddressRange, neighbourhood};

/// How long a TLS handshake, or a PROXY header, may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections by address; never one of none.
type Counts = Mutex<HashMap<IpAddr, usize>>;

/// When what ends.
#[derive(Clone)]
pub(crate) struct Stopping {
    /// No new connections, and no further request on those that are there.
    pub shutdown: watch::Receiver<bool>,
    /// What has not sent a request yet is closed.
    pub closing: watch::Receiver<bool>,
}

/// How connections from clients are taken in.
pub(crate) struct Front {
    tls: Option<Acceptor>,
    limits: Arc<LimitsConfig>,
    trusted: Vec<AddressRange>,
    has_proxy_header: bool,
    /// Room for connections in all.
    pub(super) room: Arc<Semaphore>,
    by_address: Arc<Counts>,
}

impl Front {
    pub fn new(config: &ServerConfig, tls: Option<Acceptor>) -> Self {
        Self {
            tls,
            limits: Arc::new(config.limits.clone()),
            trusted: config.trusted_proxies.clone(),
            has_proxy_header: config.proxy_protocol,
            room: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
            by_address: Arc::default(),
        }
    }

    /// For a listener beside the public one: nobody speaks for others there.
    pub fn plain(limits: &LimitsConfig) -> Self {
        Self {
            tls: None,
            limits: Arc::new(limits.clone()),
            trusted: Vec::new(),
            has_proxy_header: false,
            room: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            by_address: Arc::default(),
        }
    }

    /// For a listener that a few fronts of the operator's ask at, for all of their clients.
    pub fn trusting(limits: &LimitsConfig, trusted: Vec<AddressRange>) -> Self {
        Self { trusted, ..Self::plain(limits) }
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(address))
    }

    /// Serves a connection to its end.
    pub async fn serve<A>(&self, mut socket: TcpStream, peer: SocketAddr, app: &Arc<A>, stopping: &Stopping)
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let Some(client) =
            in_time(self.client(&mut socket, peer.ip().to_canonical()), &stopping.closing).await.flatten()
        else {
            return;
        };
        let Some(_place) = self.place(client) else {
            tracing::debug!(%client, "Closed a connection: its address has too many.");
            return;
        };
        let stream = plain(socket, peer);
        let Some(acceptor) = &self.tls else {
            return self.run(self.guard(stream, Connection::new(client, None)), app, stopping).await;
        };
        // A handshake takes much room, and is over soon.
        let secured = Box::pin(self.secure(acceptor, stream, client, &stopping.closing)).await;
        self.run(secured, app, stopping).await;
    }

    /// A connection after its TLS handshake, if there was one in time.
    async fn secure(
        &self,
        acceptor: &Acceptor,
        stream: Stream,
        client: IpAddr,
        closing: &watch::Receiver<bool>,
    ) -> Option<Box<Guarded<Secured<Socket>>>> {
        match in_time(acceptor.tls_handshake(Socket(stream)), closing).await {
            Some(Ok(stream)) => {
                let name = stream.get_ssl().and_then(tls::server_name).map(Box::from);
                self.guard(stream, Connection::new(client, Some(name)))
            }
            Some(Err(error)) => {
                tracing::debug!(%client, %error, "A TLS handshake failed.");
                None
            }
            None => {
                tracing::debug!(%client, "A TLS handshake was not finished in time.");
                None
            }
        }
    }

    fn guard<S: IO>(&self, stream: S, connection: Connection) -> Option<Box<Guarded<S>>> {
        Some(Box::new(Guarded::new(stream, Arc::new(connection), Arc::clone(&self.limits))?))
    }

    /// Who speaks here: the peer, or whom a trusted peer announces. Nobody, if the header that must be there is not.
    async fn client(&self, socket: &mut TcpStream, peer: IpAddr) -> Option<IpAddr> {
        if !self.has_proxy_header {
            return Some(peer);
        }
        if !self.is_trusted(peer) {
            tracing::debug!(%peer, "Closed a connection: it comes from no trusted proxy.");
            return None;
        }
        match proxy_protocol::read(socket).await {
            Ok(announced) => Some(announced.unwrap_or(peer)),
            Err(error) => {
                tracing::debug!(%peer, %error, "Closed a connection without a PROXY header.");
                None
            }
        }
    }

    /// A place for one more connection from an address, if it has one left. Trusted proxies speak for many.
    fn place(&self, client: IpAddr) -> Option<Place> {
        if self.is_trusted(client) {
            return Some(Place { held: None });
        }
        let client = neighbourhood(client);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(client).or_default();
        if *count >= self.limits.connections_per_address {
            return None;
        }
        *count += 1;
        Some(Place { held: Some((client, Arc::clone(&self.by_address))) })
    }

    /// Request after request. An app's future is large: none is made before it has something to do.
    async fn run<S, A>(&self, guarded: Option<Box<Guarded<S>>>, app: &Arc<A>, stopping: &Stopping)
    where
        S: IO + 'static,
        A: HttpServerApp + Send + Sync + 'static,
    {
        let Some(mut guarded) = guarded else { return };
        let shutdown = &stopping.shutdown;
        if matches!(guarded.selected_alpn_proto(), Some(ALPN::H2)) {
            // Many requests at a time: after its preface HTTP/2 has limits of its own.
            drop(app.process_new(guarded, shutdown).await);
            return;
        }
        let mut closing = stopping.closing.clone();
        let keepalive = (!*shutdown.borrow()).then_some(self.limits.idle_timeout.as_secs().max(1));
        let mut settings = None;
        loop {
            let has_request = tokio::select! {
                biased;
                has_request = guarded.gather() => has_request,
                _ = closing.wait_for(|is_closing| *is_closing) => false,
            };
            if !has_request {
                return;
            }
            let mut session = ServerSession::new_http1(guarded);
            match settings.take() {
                None => session.set_keepalive(keepalive),
                Some(settings) => HttpPersistentSettings::apply_to_session(settings, &mut session),
            }
            let Some(reused) = app.process_new_http(session, shutdown).await else { return };
            let (stream, kept) = reused.consume();
            let Ok(stream) = stream.into_any().downcast::<Guarded<S>>() else { return };
            (guarded, settings) = (stream, kept);
            guarded.wait_for_next();
        }
    }
}

/// A connection's share of its address; given back when it is dropped.
struct Place {
    held: Option<(IpAddr, Arc<Counts>)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((client, by_address)) = self.held.take() else { return };
        let mut by_address = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_address.remove(&client);
            }
        }
    }
}

/// What comes before the first request ends in time, or when the gateway stops.
async fn in_time<T>(step: impl Future<Output = T>, shutdown: &watch::Receiver<bool>) -> Option<T> {
    let mut shutdown = shutdown.clone();
    tokio::select! {
        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, step) => done.ok(),
        _ = shutdown.wait_for(|is_down| *is_down) => None,
    }
}

/// A socket as pingora's stream that knows its peer.
pub(super) fn plain(socket: TcpStream, peer: SocketAddr) -> Stream {
    // Only a matter of speed; a socket that is gone already is found out by the first read.
    let _refused = socket.set_nodelay(true);
    let mut stream = Stream::from(socket);
    let digest = SocketDigest::from_raw_fd(stream.id().as_raw_fd());
    let _first = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    stream
}
