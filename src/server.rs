//! Puts the listeners up and takes them down: the proxy's, the operator's and the facilitator's.
//!
//! Pingora's own server sleeps out its grace period on SIGTERM and can't report a port that is taken; here its services run
//! on listeners of our own, so that an idle gateway stops at once and a busy one as soon as its requests have ended.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::ServerApp;

use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest, UniqueID};
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::tls::{RootCertStore, load_platform_certs_incl_env_into_store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admin::{Admin, AdminParts};
use crate::facilitator::{Facilitator, FacilitatorParts};
use crate::proxy::head_deadline::{self, HeadDeadline};
use crate::proxy::{BuildError, Parts, Proxy};

/// How long an accept loop rests when the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to send its first byte or to end after the drain.
const ADMIN_DRAIN: Duration = Duration::from_millis(500);

/// How long a client may take to send the head of a connection's first request.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The same for a later one, with the minute that pingora leaves a connection idle.
const NEXT_HEAD_TIMEOUT: Duration = Duration::from_secs(80);

/// Connections to origins that are kept for reuse.
const ORIGIN_POOL_SIZE: usize = 1024;

/// Why the gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The parts don't fit together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The certificates that origins are checked with can't be read.
    #[error("can't read this machine's certificates (SSL_CERT_FILE names others): {0}")]
    Certificates(String),
    /// A listener's address can't be had.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A gateway that listens and doesn't yet accept.
pub struct Server {
    proxy: Listening<HttpProxy<Proxy>>,
    admin: Listening<Admin>,
    facilitator: Option<Listening<Facilitator>>,
    drain_timeout: Duration,
}

/// A service that listens and doesn't yet accept.
pub(crate) struct Listening<A> {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<A>,
}

impl Server {
    /// Builds the services and binds their listeners. Must run inside the runtime that will serve.
    ///
    /// # Errors
    /// When the parts don't fit together or an address is taken.
    pub async fn bind(
        parts: Parts,
        admin: AdminParts,
        facilitator: Option<FacilitatorParts>,
    ) -> Result<Self, ServeError> {
        let config = Arc::clone(&parts.config);
        let proxy_listener = listen(config.server.listen).await?;
        let admin_listener = listen(config.admin.listen).await?;
        let facilitator = match facilitator {
            Some(parts) => {
                let asked = parts.config.listen;
                let listener = listen(asked).await?;
                Some(Listening::new("facilitator", listener, asked, Arc::new(Facilitator::new(parts))))
            }
            None => None,
        };
        check_certificates()?;
        let conf = ServerConf {
            threads: config.server.threads,
            upstream_keepalive_pool_size: ORIGIN_POOL_SIZE,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(Proxy::new(parts)?, Arc::new(conf));
        proxy.handle_init_modules();
        Ok(Self {
            proxy: Listening::new("proxy", proxy_listener, config.server.listen, Arc::new(proxy)),
            admin: Listening::new("admin", admin_listener, config.admin.listen, Arc::new(Admin::new(admin))),
            facilitator,
            drain_timeout: config.server.drain_timeout,
        })
    }

    /// Where clients connect; tells which port was taken when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Serves until `stop` is done, then lets running requests end and `drain` finish (it is told how long it has), all
    /// within the configured drain time. The operator's listener stays until the end and says that the gateway drains.
    pub async fn run<D: Future<Output = ()>>(
        self,
        stop: impl Future<Output = ()>,
        drain: impl FnOnce(Duration) -> D + Send,
    ) {
        let admin_app = Arc::clone(&self.admin.app);
        tracing::info!(listen = %self.proxy.address, admin = %self.admin.address, "Ready.");
        let proxy = self.proxy.start(true);
        if let Some(facilitator) = &self.facilitator {
            tracing::info!(listen = %facilitator.address, "The facilitator API is open.");
        }
        let facilitator = self.facilitator.map(|facilitator| facilitator.start(true));
        // Operators are trusted with their own listener.
        let admin = self.admin.start(false);
        admin_app.set_serving(true);
        stop.await;
        let deadline = Instant::now() + self.drain_timeout;
        tracing::info!(within = ?self.drain_timeout, "Stopping: no new connections; running requests end.");
        admin_app.set_serving(false);
        let clearing_ended = async {
            match facilitator {
                Some(facilitator) => facilitator.stop(deadline).await,
                None => true,
            }
        };
        let (requests_ended, clearing_ended) = tokio::join!(proxy.stop(deadline), clearing_ended);
        // Settlements outlive their requests' clients, so they are waited for by themselves.
        drain(deadline.saturating_duration_since(Instant::now())).await;
        if !(requests_ended && clearing_ended) {
            tracing::warn!("Requests were still running at the end of the drain time.");
        }
        admin.stop(Instant::now() + ADMIN_DRAIN).await;
        tracing::info!("Stopped.");
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the process may not listen for signals.
pub fn termination() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Pingora panics over a certificate store that it can't read, so it is read here first.
fn check_certificates() -> Result<(), ServeError> {
    let mut store = RootCertStore::empty();
    load_platform_certs_incl_env_into_store(&mut store).map_err(|error| ServeError::Certificates(error.to_string()))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// A service that accepts.
pub(crate) struct Running<A> {
    app: Arc<A>,
    shutdown: watch::Sender<bool>,
    /// Closes when the accept loop and every connection have ended.
    ended: mpsc::Receiver<()>,
}

impl<A: ServerApp + Send + Sync + 'static> Listening<A> {
    fn new(name: &'static str, listener: TcpListener, asked: SocketAddr, app: Arc<A>) -> Self {
        let address = listener.local_addr().unwrap_or(asked);
        Self { name, listener, address, app }
    }

    /// A service on a free port that only this machine reaches.
    #[cfg(feature = "dev")]
    pub(crate) async fn local(name: &'static str, app: Arc<A>) -> Result<Self, ServeError> {
        let asked = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        Ok(Self::new(name, listen(asked).await?, asked, app))
    }

    /// Where it listens.
    #[cfg(feature = "dev")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts from now on, until what is returned is dropped; with `bounds_heads`, clients that don't get their requests out
    /// are cut off.
    pub(crate) fn start(self, bounds_heads: bool) -> Running<A> {
        let (shutdown, watcher) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let app = Arc::clone(&self.app);
        tokio::spawn(accept(self.name, self.listener, self.app, watcher, alive, bounds_heads));
        Running { app, shutdown, ended }
    }
}

impl<A: ServerApp + Send + Sync + 'static> Running<A> {
    /// Stops accepting, closes idle connections, and waits for the others. Whether all ended in time.
    async fn stop(mut self, deadline: Instant) -> bool {
        self.shutdown.send_replace(true);
        self.app.cleanup().await;
        tokio::time::timeout_at(deadline, self.ended.recv()).await.is_ok()
    }
}

async fn accept<A: ServerApp + Send + Sync + 'static>(
    name: &'static str,
    listener: TcpListener,
    app: Arc<A>,
    mut shutdown: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
    bounds_heads: bool,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|is_down| *is_down) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (app, shutdown, alive) = (Arc::clone(&app), shutdown.clone(), alive.clone());
                tokio::spawn(async move {
                    serve(socket, peer, &app, &shutdown, bounds_heads).await;
                    drop(alive);
                });
            }
            Err(error) => {
                tracing::warn!(%error, listener = name, "Could not accept a connection.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<A: ServerApp + Send + Sync + 'static>(
    socket: TcpStream,
    peer: SocketAddr,
    app: &Arc<A>,
    shutdown: &watch::Receiver<bool>,
    bounds_heads: bool,
) {
    // Only a matter of speed; a socket that is gone already is found out by the first read.
    let _refused = socket.set_nodelay(true);
    let mut stream = Stream::from(socket);
    let digest = SocketDigest::from_raw_fd(stream.id().as_raw_fd());
    let _first = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    let heads = HeadDeadline::new();
    let serving = async {
        let mut reusable: Option<pingora::protocols::Stream> = Some(Box::new(stream));
        let mut limit = FIRST_HEAD_TIMEOUT;
        while let Some(stream) = reusable {
            heads.expect(limit);
            limit = NEXT_HEAD_TIMEOUT;
            reusable = app.process_new(stream, shutdown).await;
        }
    };
    if bounds_heads {
        head_deadline::watched(Arc::clone(&heads), NEXT_HEAD_TIMEOUT, serving).await;
    } else {
        serving.await;
    }
}
