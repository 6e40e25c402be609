//! Origins: which server gets the next request, and whether one would answer at all.

mod balance;
mod health;
mod single;
mod target;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::protocols::ALPN;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use tokio::net::{TcpStream, lookup_host};

use crate::config::UpstreamConfig;
use crate::payment::{OriginProbe, Place, Queue};
use single::Bounded;
pub(super) use single::End;
pub use target::Running;
use target::Target;
use tls::OriginTls;
#[cfg(feature = "openssl")]
pub(super) use tls::is_checked;

/// How old a sign of life may be before a payment is looked at.
pub(super) const PROBE_AGE_MAX: Duration = Duration::from_secs(1);

/// How long names keep their addresses.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// Keeps the connection of a paid request out of the pool.
const PAID_IDLE: Duration = Duration::from_millis(1);

/// An upstream and what is known of its servers.
pub struct Upstream {
    config: UpstreamConfig,
    tls: OriginTls,
    started: Instant,
    targets: RwLock<Arc<[Arc<Target>]>>,
    /// When names are to be looked up next, as milliseconds like above; `u64::MAX` if all servers are addresses.
    resolve_at: AtomicU64,
    next: AtomicUsize,
    /// Room for free requests and for paid ones, where there is a limit: neither keeps the other out, however long the one
    /// waits for its origin or the other for its chain.
    room: Option<Room>,
    /// Tells paid requests apart, none of which may share a connection.
    paid: AtomicU64,
}

struct Room {
    free: Queue,
    paid: Queue,
}

/// The upstream as the gate sees it for one paid request: its place is kept here until the gate has decided.
pub(super) struct Reserving<'a> {
    upstream: &'a Upstream,
    place: Mutex<Option<Place>>,
}

/// Who asks, and for what: all that the choice of a server and of a connection to it depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub client: Option<IpAddr>,
    /// A paid request gets a connection of its own: on a used one a failure couldn't be told from an origin that had begun
    /// to work.
    pub is_paid: bool,
    pub is_websocket: bool,
    /// The client's connection sees to it that its origin is not silent for too long.
    pub is_watched: bool,
}

/// All upstreams. One that is configured as before goes on as it is; files may have changed, so one that reads any is built
/// anew.
///
/// # Errors
/// The first whose files can't be used, and what is wrong with them.
pub(super) fn all(
    configs: &[UpstreamConfig],
    before: &[Arc<Upstream>],
) -> Result<Vec<Arc<Upstream>>, (String, String)> {
    let mut upstreams = Vec::with_capacity(configs.len());
    for config in configs {
        let reads_files = config.tls_ca.is_some() || config.tls_client.is_some();
        let same = before.iter().find(|known| !reads_files && known.config == *config);
        upstreams.push(match same {
            Some(same) => Arc::clone(same),
            None => {
                let new = Upstream::new(config.clone()).map_err(|error| (config.name.clone(), error))?;
                let new = Arc::new(new);
                new.look_after();
                new
            }
        });
    }
    Ok(upstreams)
}

/// What is wrong with the files that an upstream's TLS needs.
///
/// # Errors
/// That, for people.
pub fn check_files(config: &UpstreamConfig) -> Result<(), String> {
    OriginTls::read(config).map(drop)
}

impl Upstream {
    pub(super) fn new(config: UpstreamConfig) -> Result<Self, String> {
        let fixed: Option<Vec<SocketAddr>> = config.servers.iter().map(|server| server.parse().ok()).collect();
        let resolve_at = if fixed.is_some() { u64::MAX } else { 0 };
        let targets = fixed.unwrap_or_default().into_iter().map(|address| {
            Arc::new(Target::new(address, config.tls_server_name.clone().unwrap_or_else(|| address.ip().to_string())))
        });
        let queue = |places| Queue::new(places, config.queue_timeout);
        let room = config.max_concurrent.map(|places| Room { free: queue(places), paid: queue(places) });
        Ok(Self {
            room,
            targets: RwLock::new(targets.collect()),
            tls: OriginTls::read(&config)?,
            config,
            started: Instant::now(),
            resolve_at: AtomicU64::new(resolve_at),
            next: AtomicUsize::new(0),
            paid: AtomicU64::new(1),
        })
    }

    /// Has the servers asked how they are, if the configuration says so, until the upstream is dropped.
    pub(super) fn look_after(self: &Arc<Self>) {
        if let (Some(check), Ok(runtime)) = (&self.config.health, tokio::runtime::Handle::try_current()) {
            runtime.spawn(health::look_after(Arc::downgrade(self), check.clone()));
        }
    }

    pub(super) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// A place for a request that isn't paid for; nothing within is no limit.
    ///
    /// # Errors
    /// When none came free in time.
    pub(super) async fn enter(&self) -> Result<Option<Place>, Full> {
        match &self.room {
            Some(room) => room.free.enter().await.map(Some).ok_or(Full),
            None => Ok(None),
        }
    }

    /// How many addresses there are to try.
    pub(super) fn len(&self) -> usize {
        self.known().len()
    }

    /// A server for a request, and its share of that server; nothing if all are unwell.
    ///
    /// With an `end` the connection is the request's own, and is over then. Requests over HTTP/2 share theirs.
    pub(super) async fn peer(&self, wanted: Wanted, end: Option<End>) -> Option<(Box<HttpPeer>, Running)> {
        let now = self.now();
        let targets = self.targets(now).await;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let target = balance::choose(self.config.balance, &targets, wanted.client, turn, now)?;
        let mut peer = self.peer_to(target, wanted.is_websocket);
        if wanted.is_watched {
            // Not `write_timeout`: nobody looks at the connection until the head is written.
            peer.options.read_timeout = None;
        }
        let is_alone = end.is_some();
        if let Some(end) = end {
            let connect = if wanted.is_websocket { Bounded::patiently(end) } else { Bounded::until(end) };
            peer.options.custom_l4 = Some(Arc::new(connect));
        }
        if wanted.is_paid || is_alone {
            peer.group_key = self.paid.fetch_add(1, Ordering::Relaxed).max(1);
            peer.options.idle_timeout = Some(PAID_IDLE);
        }
        Some((peer, Running::on(target)))
    }

    fn peer_to(&self, target: &Target, is_websocket: bool) -> Box<HttpPeer> {
        let config = &self.config;
        let sni = if config.tls { target.sni.clone() } else { String::new() };
        let mut peer = Box::new(HttpPeer::new(target.address, config.tls, sni));
        peer.options.connection_timeout = Some(self.in_all(config.connect_timeout));
        peer.options.total_connection_timeout = Some(self.in_all(config.connect_timeout));
        peer.options.read_timeout = Some(self.read_timeout());
        peer.options.write_timeout = Some(self.in_all(config.write_timeout));
        peer.options.ca.clone_from(&self.tls.ca);
        peer.client_cert_key.clone_from(&self.tls.client);
        #[cfg(feature = "openssl")]
        tls::check_address(&mut peer);
        // A WebSocket begins as HTTP/1.1 (RFC 6455).
        if config.http2 && !is_websocket {
            peer.options.alpn = if config.tls { ALPN::H2H1 } else { ALPN::H2 };
        }
        peer.options.http_upstream_request_policy = if is_websocket {
            HttpUpstreamRequestPolicy::standard()
        } else {
            HttpUpstreamRequestPolicy::deny_upgrades()
        };
        peer
    }

    /// How long a server may be silent while it is waited for.
    pub(super) fn read_timeout(&self) -> Duration {
        self.in_all(self.config.read_timeout)
    }

    fn in_all(&self, timeout: Duration) -> Duration {
        self.config.total_timeout.map_or(timeout, |total| total.min(timeout))
    }

    /// A connection to this address failed.
    pub(super) fn failed(&self, address: SocketAddr) {
        if let Some(target) = self.known().iter().find(|target| target.address == address) {
            target.failed(self.now());
        }
    }

    /// The server of a running request answered, or broke off before it did.
    pub(super) fn ended(&self, running: &Running, has_answered: bool) {
        if has_answered {
            running.target().answered(self.now());
        } else {
            running.target().failed(self.now());
        }
    }

    /// Whether a server answers, or did no longer than `age_max` ago.
    pub(super) async fn is_up(&self, age_max: Duration) -> bool {
        let age_max = millis(age_max);
        let now = self.now();
        let targets = self.targets(now).await;
        let well = || targets.iter().filter(|target| !target.is_unwell());
        if age_max > 0 && well().any(|target| target.was_up(now, age_max)) {
            return true;
        }
        for target in well() {
            let connecting = tokio::time::timeout(self.config.connect_timeout, TcpStream::connect(target.address));
            if matches!(connecting.await, Ok(Ok(_))) {
                target.answered(self.now());
                return true;
            }
            target.failed(self.now());
        }
        false
    }

    fn known(&self) -> Arc<[Arc<Target>]> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The addresses, looked up again when they are old. One request looks up; the others go on with what is known.
    async fn targets(&self, now: u64) -> Arc<[Arc<Target>]> {
        let due = self.resolve_at.load(Ordering::Relaxed);
        let known = self.known();
        if now < due {
            return known;
        }
        let next = now.saturating_add(millis(RESOLVED_FOR));
        let is_ours = self.resolve_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !is_ours && !known.is_empty() {
            return known;
        }
        let found: Arc<[Arc<Target>]> = Box::pin(self.look_up(&known)).await.into();
        if found.is_empty() {
            // Names that can't be looked up now keep their addresses, and are asked again soon.
            self.resolve_at.store(self.now().saturating_add(1000), Ordering::Relaxed);
            return known;
        }
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&found);
        found
    }

    async fn look_up(&self, known: &[Arc<Target>]) -> Vec<Arc<Target>> {
        let mut found: Vec<Arc<Target>> = Vec::new();
        for server in &self.config.servers {
            let asking = tokio::time::timeout(self.config.connect_timeout, lookup_host(server.as_str())).await;
            let Ok(Ok(addresses)) = asking else {
                tracing::warn!(upstream = %self.config.name, %server, "Could not look up an origin's address.");
                continue;
            };
            let name = server.rsplit_once(':').map_or(server.as_str(), |(host, _port)| host);
            let sni = self.config.tls_server_name.as_deref().unwrap_or(name);
            for address in addresses {
                if found.iter().any(|target| target.address == address) {
                    continue;
                }
                let kept = known.iter().find(|target| target.address == address);
                found.push(kept.map_or_else(|| Arc::new(Target::new(address, sni.to_owned())), Arc::clone));
            }
        }
        found
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed()).saturating_add(1)
    }
}

/// As many requests are at the origin as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl<'a> Reserving<'a> {
    pub fn at(upstream: &'a Upstream) -> Self {
        Self { upstream, place: Mutex::new(None) }
    }

    /// The place, if the gate had one kept.
    pub fn into_place(self) -> Option<Place> {
        self.place.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OriginProbe for Reserving<'_> {
    /// The gate asks anew, right before it settles.
    async fn is_up(&self) -> bool {
        self.upstream.is_up(Duration::ZERO).await
    }

    async fn reserve(&self) -> bool {
        let Some(room) = &self.upstream.room else { return true };
        let kept = || self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if kept().is_some() {
            return true;
        }
        let place = room.paid.enter().await;
        let is_kept = place.is_some();
        *kept() = place;
        is_kept
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upstream").field("name", &self.config.name).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::upstream;

    #[tokio::test]
    async fn servers_take_turns_and_the_dead_are_passed_over() {
        let upstream = Upstream::new(upstream(&["127.0.0.1:1", "127.0.0.1:2"])).unwrap();
        let mut ports = Vec::new();
        for _ in 0..4 {
            ports.push(upstream.peer(Wanted::default(), None).await.unwrap().0._address.as_inet().unwrap().port());
        }
        assert_eq!(ports, [1, 2, 1, 2]);
        upstream.failed("127.0.0.1:1".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(upstream.peer(Wanted::default(), None).await.unwrap().0._address.as_inet().unwrap().port(), 2);
        }
        upstream.failed("127.0.0.1:2".parse().unwrap());
        assert!(
            upstream.peer(Wanted::default(), None).await.is_some(),
            "with all of them down one is tried all the same"
        );
    }

    #[tokio::test]
    async fn a_sign_of_life_is_asked_for_and_then_believed_for_a_while() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Upstream::new(upstream(&[&address.to_string()])).unwrap();
        assert!(upstream.is_up(PROBE_AGE_MAX).await);
        drop(listener);
        assert!(upstream.is_up(PROBE_AGE_MAX).await);
        assert!(!Reserving::at(&upstream).is_up().await, "the gate asks anew");
        assert!(!upstream.is_up(PROBE_AGE_MAX).await, "and what it learns counts");
    }

    #[tokio::test]
    async fn paid_requests_share_no_connection() {
        let upstream = Upstream::new(upstream(&["127.0.0.1:1"])).unwrap();
        let paid = Wanted { is_paid: true, ..Wanted::default() };
        let keys = [
            upstream.peer(paid, None).await.unwrap().0.group_key,
            upstream.peer(paid, None).await.unwrap().0.group_key,
        ];
        assert_ne!(keys[0], keys[1]);
        assert!(!keys.contains(&upstream.peer(Wanted::default(), None).await.unwrap().0.group_key));
    }

    #[tokio::test]
    async fn names_are_looked_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = Upstream::new(upstream(&[&format!("localhost:{port}")])).unwrap();
        assert!(upstream.is_up(Duration::ZERO).await);
    }
}
