//! Puts the listeners up and takes them down: the proxy's, the operator's, the facilitator's and the one for fronts.
//!
//! Pingora's own server sleeps out its grace period on SIGTERM and can't report a port that is taken; here its services run
//! on listeners of our own, so that an idle gateway stops at once and a busy one as soon as its requests have ended.

mod clocks;
mod front;
mod guard;
mod handover;
mod proxy_protocol;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admin::{Admin, AdminParts};
use crate::config::{Location, ServerConfig};
use crate::facilitator::{Facilitator, FacilitatorParts};
use crate::proxy::{BuildError, ForwardAuth, Parts, Proxy};
use front::{Front, Stopping};
pub use handover::{Door, Sockets, Taken};
use tls::{Certificates, TlsError};

/// How long an accept loop rests when the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to send its first byte or to end after the drain.
const ADMIN_DRAIN: Duration = Duration::from_millis(500);

/// How long clients that are connected may still send a request to a gateway whose listeners another one has. After that
/// connections that are idle are closed.
const LINGER: Duration = Duration::from_millis(500);

/// Most bytes of an HTTP/2 request's fields (threat F2), as of an HTTP/1 request's head.
const H2_FIELDS_BYTES_MAX: u32 = 32 * 1024;

/// Most requests that one HTTP/2 connection may have open (threat F3).
const H2_STREAMS_MAX: u32 = 64;

/// What one HTTP/2 request may have in the gateway of an answer that its client doesn't take.
const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The services, as they are named in the log and to the next process.
const PROXY: &str = "proxy";
const ADMIN: &str = "admin";
const FACILITATOR: &str = "facilitator";
const FORWARD_AUTH: &str = "forward_auth";

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
    /// TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[source] tls::BackendError),
    /// A certificate can't be used.
    #[error(transparent)]
    Certificate(#[from] TlsError),
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
    forward_auth: Option<(Listening<HttpProxy<ForwardAuth>>, Front)>,
    front: Front,
    facilitator_front: Front,
    certificates: Option<Arc<Certificates>>,
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
        taken: Option<&mut Taken>,
    ) -> Result<Self, ServeError> {
        let config = Arc::clone(&parts.config);
        let mut ground = Ground(taken);
        let proxy_listener = ground.listen(PROXY, config.server.listen).await?;
        let admin_listener = ground.listen(ADMIN, config.admin.listen).await?;
        let facilitator = match facilitator {
            Some(parts) => {
                let asked = parts.config.listen;
                let listener = ground.listen(FACILITATOR, asked).await?;
                Some(Listening::new(FACILITATOR, listener, asked, Arc::new(Facilitator::new(parts))))
            }
            None => None,
        };
        tls::check_roots().map_err(ServeError::Certificates)?;
        let certificates = certificates(&config.server)?;
        let acceptor = certificates.clone().map(tls::acceptor).transpose().map_err(ServeError::Tls)?;
        let conf = ServerConf {
            threads: config.server.threads,
            upstream_keepalive_pool_size: ORIGIN_POOL_SIZE,
            ..ServerConf::default()
        };
        let (proxy, conf) = (Proxy::new(parts)?, Arc::new(conf));
        let forward_auth = match config.forward_auth.clone() {
            Some(its) => {
                let (asked, front) = (its.listen, Front::trusting(&config.server.limits, its.fronts.clone()));
                let listener = ground.listen(FORWARD_AUTH, asked).await?;
                let mut app = HttpProxy::new(ForwardAuth::new(&proxy, its), Arc::clone(&conf));
                app.handle_init_modules();
                Some((Listening::new(FORWARD_AUTH, listener, asked, Arc::new(app)), front))
            }
            None => None,
        };
        let mut proxy = HttpProxy::new(proxy, conf);
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(config.server.limits.idle_timeout);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options());
        Ok(Self {
            proxy: Listening::new(PROXY, proxy_listener, config.server.listen, Arc::new(proxy)),
            admin: Listening::new(ADMIN, admin_listener, config.admin.listen, Arc::new(Admin::new(admin))),
            facilitator,
            forward_auth,
            front: Front::new(&config.server, acceptor),
            facilitator_front: Front::plain(&config.server.limits),
            certificates,
            drain_timeout: config.server.drain_timeout,
        })
    }

    /// Where clients connect; tells which port was taken when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// Every listener once more, for the process that comes after this one.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn sockets(&self) -> std::io::Result<Sockets> {
        let mut sockets = vec![self.proxy.socket()?, self.admin.socket()?];
        sockets.extend(self.facilitator.as_ref().map(Listening::socket).transpose()?);
        sockets.extend(self.forward_auth.as_ref().map(|(listening, _)| listening.socket()).transpose()?);
        Ok(sockets)
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
        stop: impl Future<Output = Ending>,
        drain: impl FnOnce(Duration) -> D + Send,
    ) {
        let admin_app = Arc::clone(&self.admin.app);
        tracing::info!(listen = %self.proxy.address, admin = %self.admin.address, "Ready.");
        let proxy = self.proxy.start(Some(Arc::new(self.front)));
        if let Some(facilitator) = &self.facilitator {
            tracing::info!(listen = %facilitator.address, "The facilitator API is open.");
        }
        let facilitator_front = Arc::new(self.facilitator_front);
        let facilitator = self.facilitator.map(|facilitator| facilitator.start(Some(facilitator_front)));
        let forward_auth = self.forward_auth.map(|(forward_auth, front)| {
            tracing::info!(listen = %forward_auth.address, "The forward-auth listener is open.");
            forward_auth.start(Some(Arc::new(front)))
        });
        // Operators are trusted with their own listener.
        let admin = self.admin.start(None);
        let watching = self.certificates.map(|certificates| tokio::spawn(watch_files(certificates)));
        admin_app.set_serving(true);
        let linger = match stop.await {
            Ending::Stopped => Duration::ZERO,
            Ending::HandedOver => LINGER,
        };
        let deadline = Instant::now() + self.drain_timeout;
        tracing::info!(within = ?self.drain_timeout, "Stopping: no new connections; running requests end.");
        admin_app.set_serving(false);
        if linger > Duration::ZERO {
            // Who asks now is meant for the next gateway.
            admin.stop_accepting();
        }
        let clearing_ended = async {
            match facilitator {
                Some(facilitator) => facilitator.stop(linger, deadline).await,
                None => true,
            }
        };
        let checks_ended = async {
            match forward_auth {
                Some(forward_auth) => forward_auth.stop(linger, deadline).await,
                None => true,
            }
        };
        let (requests_ended, clearing_ended, checks_ended) =
            tokio::join!(proxy.stop(linger, deadline), clearing_ended, checks_ended);
        // Settlements outlive their requests' clients, so they are waited for by themselves.
        drain(deadline.saturating_duration_since(Instant::now())).await;
        if !(requests_ended && clearing_ended && checks_ended) {
            tracing::warn!("Requests were still running at the end of the drain time.");
        }
        admin.stop(Duration::ZERO, Instant::now() + ADMIN_DRAIN).await;
        if let Some(watching) = watching {
            watching.abort();
        }
        tracing::info!("Stopped.");
    }
}

/// How a gateway comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// Another process has its listeners.
    HandedOver,
}

/// Where listeners come from: another process, or the system.
struct Ground<'a>(Option<&'a mut Taken>);

impl Ground<'_> {
    async fn listen(&mut self, name: &str, address: SocketAddr) -> Result<TcpListener, ServeError> {
        let Some(taken) = self.0.as_mut().and_then(|taken| taken.listener(name, address)) else {
            return listen(address).await;
        };
        let failed = |source| ServeError::Listen { address, source };
        taken.set_nonblocking(true).map_err(failed)?;
        TcpListener::from_std(taken).map_err(failed)
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

/// SIGHUPs, each of which asks for the configuration to be read again; from now on none of them ends the process.
///
/// # Errors
/// When the process may not listen for signals.
pub fn hangups() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

fn certificates(config: &ServerConfig) -> Result<Option<Arc<Certificates>>, TlsError> {
    if config.tls.is_empty() {
        return Ok(None);
    }
    match Certificates::read(config.tls.clone()) {
        Ok(certificates) => Ok(Some(Arc::new(certificates))),
        Err(errors) => {
            let unknown = || TlsError { location: Location::default(), message: "no certificate".to_owned() };
            Err(errors.into_iter().next().unwrap_or_else(unknown))
        }
    }
}

async fn watch_files(certificates: Arc<Certificates>) {
    let mut ticks = tokio::time::interval(tls::LOOK_EVERY);
    loop {
        ticks.tick().await;
        let certificates = Arc::clone(&certificates);
        // Files may be far away; requests don't wait for them.
        let _ended = tokio::task::spawn_blocking(move || certificates.look_again()).await;
    }
}

fn h2_options() -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(H2_FIELDS_BYTES_MAX);
    options.max_concurrent_streams(H2_STREAMS_MAX);
    options.max_send_buffer_size(H2_SEND_BUFFER_BYTES);
    options
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// A service that accepts.
pub(crate) struct Running<A> {
    app: Arc<A>,
    /// No new connections, and no further request on those that are there.
    shutdown: watch::Sender<bool>,
    /// What has not sent a request yet is closed.
    closing: watch::Sender<bool>,
    /// Closes when the accept loop and every connection have ended.
    ended: mpsc::Receiver<()>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Listening<A> {
    fn new(name: &'static str, listener: TcpListener, asked: SocketAddr, app: Arc<A>) -> Self {
        let address = listener.local_addr().unwrap_or(asked);
        Self { name, listener, address, app }
    }

    fn socket(&self) -> std::io::Result<(&'static str, OwnedFd)> {
        Ok((self.name, self.listener.as_fd().try_clone_to_owned()?))
    }

    /// A service on a free port that only this machine reaches.
    #[cfg(feature = "dev")]
    pub(crate) async fn local(name: &'static str, app: Arc<A>) -> Result<Self, ServeError> {
        Self::at(name, SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)), app).await
    }

    /// A service at an address that somebody chose.
    #[cfg(feature = "dev")]
    pub(crate) async fn at(name: &'static str, asked: SocketAddr, app: Arc<A>) -> Result<Self, ServeError> {
        Ok(Self::new(name, listen(asked).await?, asked, app))
    }

    /// Where it listens.
    #[cfg(feature = "dev")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts from now on, until what is returned is dropped. Without a front everybody is taken in as they come.
    pub(crate) fn start(self, front: Option<Arc<Front>>) -> Running<A> {
        let ((shutdown, watcher), (closing, closes)) = (watch::channel(false), watch::channel(false));
        let stopping = Stopping { shutdown: watcher, closing: closes };
        let (alive, ended) = mpsc::channel(1);
        let app = Arc::clone(&self.app);
        tokio::spawn(accept(self.name, self.listener, self.app, stopping, alive, front));
        Running { app, shutdown, closing, ended }
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Running<A> {
    /// New connections stay in the system's queue.
    fn stop_accepting(&self) {
        self.shutdown.send_replace(true);
    }

    /// Stops accepting, closes idle connections after a while, and waits for the others. Whether all ended in time.
    async fn stop(mut self, linger: Duration, deadline: Instant) -> bool {
        self.stop_accepting();
        if linger > Duration::ZERO && tokio::time::timeout(linger, self.ended.recv()).await.is_ok() {
            return true;
        }
        self.closing.send_replace(true);
        self.app.http_cleanup().await;
        tokio::time::timeout_at(deadline, self.ended.recv()).await.is_ok()
    }
}

async fn accept<A: HttpServerApp + Send + Sync + 'static>(
    name: &'static str,
    listener: TcpListener,
    app: Arc<A>,
    mut stopping: Stopping,
    alive: mpsc::Sender<()>,
    front: Option<Arc<Front>>,
) {
    loop {
        let taking = async {
            // With no room left, clients wait in the system's queue.
            let room = match &front {
                Some(front) => Arc::clone(&front.room).acquire_owned().await.ok(),
                None => None,
            };
            (room, listener.accept().await)
        };
        let (room, accepted) = tokio::select! {
            taken = taking => taken,
            _ = stopping.shutdown.wait_for(|is_down| *is_down) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (app, stopping, alive, front) = (Arc::clone(&app), stopping.clone(), alive.clone(), front.clone());
                tokio::spawn(async move {
                    match front {
                        Some(front) => front.serve(socket, peer, &app, &stopping).await,
                        None => drop(app.process_new(Box::new(front::plain(socket, peer)), &stopping.shutdown).await),
                    }
                    drop((room, alive));
                });
            }
            Err(error) => {
                tracing::warn!(%error, listener = name, "Could not accept a connection.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
