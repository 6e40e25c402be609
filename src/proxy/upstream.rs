//! Origins: which server gets the next request, and whether one would answer at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use tokio::net::{TcpStream, lookup_host};

use crate::config::UpstreamConfig;
use crate::payment::OriginProbe;

/// How old a sign of life may be before a payment is looked at.
pub(super) const PROBE_AGE_MAX: Duration = Duration::from_secs(1);

/// How long a server that refused a connection is passed over.
const DOWN_FOR: Duration = Duration::from_secs(2);

/// How long names keep their addresses.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// Keeps the connection of a paid request out of the pool.
const PAID_IDLE: Duration = Duration::from_millis(1);

/// One address of one server.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    sni: String,
    /// When it last answered and last failed, in milliseconds since the upstream was made; 0 is never.
    up_at: AtomicU64,
    down_at: AtomicU64,
}

/// An upstream and what is known of its servers.
#[derive(Debug)]
pub struct Upstream {
    config: UpstreamConfig,
    started: Instant,
    targets: RwLock<Arc<[Arc<Target>]>>,
    /// When names are to be looked up next, as milliseconds like above; `u64::MAX` if all servers are addresses.
    resolve_at: AtomicU64,
    next: AtomicUsize,
    /// Tells paid requests apart, none of which may share a connection.
    paid: AtomicU64,
}

/// All upstreams by name.
pub(super) fn by_name(configs: &[UpstreamConfig]) -> HashMap<&str, Arc<Upstream>> {
    configs.iter().map(|config| (config.name.as_str(), Arc::new(Upstream::new(config.clone())))).collect()
}

impl Upstream {
    pub(super) fn new(config: UpstreamConfig) -> Self {
        let fixed: Option<Vec<SocketAddr>> = config.servers.iter().map(|server| server.parse().ok()).collect();
        let resolve_at = if fixed.is_some() { u64::MAX } else { 0 };
        let targets = fixed.unwrap_or_default().into_iter().map(|address| {
            Arc::new(Target::new(address, config.tls_server_name.clone().unwrap_or_else(|| address.ip().to_string())))
        });
        Self {
            targets: RwLock::new(targets.collect()),
            config,
            started: Instant::now(),
            resolve_at: AtomicU64::new(resolve_at),
            next: AtomicUsize::new(0),
            paid: AtomicU64::new(1),
        }
    }

    pub(super) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// How many addresses there are to try.
    pub(super) fn len(&self) -> usize {
        self.known().len()
    }

    /// The next server in turn that isn't known to be down. A paid request gets a connection of its own: on a used one a
    /// failure couldn't be told from an origin that had begun to work.
    pub(super) async fn peer(&self, is_paid: bool) -> Option<Box<HttpPeer>> {
        let targets = self.targets().await;
        let target = self.choose(&targets)?;
        let sni = if self.config.tls { target.sni.clone() } else { String::new() };
        let mut peer = Box::new(HttpPeer::new(target.address, self.config.tls, sni));
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer.options.read_timeout = Some(self.config.read_timeout);
        peer.options.write_timeout = Some(self.config.write_timeout);
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        if is_paid {
            peer.group_key = self.paid.fetch_add(1, Ordering::Relaxed).max(1);
            peer.options.idle_timeout = Some(PAID_IDLE);
        }
        Some(peer)
    }

    fn choose<'a>(&self, targets: &'a [Arc<Target>]) -> Option<&'a Arc<Target>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(targets.len())?;
        let now = self.now();
        let (before, from) = targets.split_at_checked(first)?;
        let mut in_turn = from.iter().chain(before);
        in_turn.find(|target| !target.is_down(now)).or_else(|| targets.get(first))
    }

    /// A connection to this address failed.
    pub(super) fn failed(&self, address: SocketAddr) {
        if let Some(target) = self.known().iter().find(|target| target.address == address) {
            target.down_at.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether a server answers, or did no longer than `age_max` ago.
    pub(super) async fn is_up(&self, age_max: Duration) -> bool {
        let age_max = millis(age_max);
        let targets = self.targets().await;
        let now = self.now();
        if age_max > 0 && targets.iter().any(|target| target.was_up(now, age_max)) {
            return true;
        }
        for target in targets.iter() {
            let connecting = tokio::time::timeout(self.config.connect_timeout, TcpStream::connect(target.address));
            let is_up = matches!(connecting.await, Ok(Ok(_)));
            let sign = if is_up { &target.up_at } else { &target.down_at };
            sign.store(self.now(), Ordering::Relaxed);
            if is_up {
                return true;
            }
        }
        false
    }

    fn known(&self) -> Arc<[Arc<Target>]> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The addresses, looked up again when they are old. One request looks up; the others go on with what is known.
    async fn targets(&self) -> Arc<[Arc<Target>]> {
        let due = self.resolve_at.load(Ordering::Relaxed);
        let now = self.now();
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

/// The gate asks anew, right before it settles.
#[async_trait]
impl OriginProbe for Upstream {
    async fn is_up(&self) -> bool {
        Self::is_up(self, Duration::ZERO).await
    }
}

impl Target {
    fn new(address: SocketAddr, sni: String) -> Self {
        Self { address, sni, up_at: AtomicU64::new(0), down_at: AtomicU64::new(0) }
    }

    fn is_down(&self, now: u64) -> bool {
        let down_at = self.down_at.load(Ordering::Relaxed);
        let is_recent = down_at > 0 && now.saturating_sub(down_at) < millis(DOWN_FOR);
        is_recent && down_at >= self.up_at.load(Ordering::Relaxed)
    }

    fn was_up(&self, now: u64, age_max: u64) -> bool {
        let up_at = self.up_at.load(Ordering::Relaxed);
        up_at > 0 && now.saturating_sub(up_at) <= age_max && self.down_at.load(Ordering::Relaxed) < up_at
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
        let upstream = Upstream::new(upstream(&["127.0.0.1:1", "127.0.0.1:2"]));
        let mut ports = Vec::new();
        for _ in 0..4 {
            ports.push(upstream.peer(false).await.unwrap()._address.as_inet().unwrap().port());
        }
        assert_eq!(ports, [1, 2, 1, 2]);
        upstream.failed("127.0.0.1:1".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(upstream.peer(false).await.unwrap()._address.as_inet().unwrap().port(), 2);
        }
        upstream.failed("127.0.0.1:2".parse().unwrap());
        assert!(upstream.peer(false).await.is_some(), "with all of them down one is tried all the same");
    }

    #[tokio::test]
    async fn a_sign_of_life_is_asked_for_and_then_believed_for_a_while() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Upstream::new(upstream(&[&address.to_string()]));
        assert!(upstream.is_up(PROBE_AGE_MAX).await);
        drop(listener);
        assert!(upstream.is_up(PROBE_AGE_MAX).await);
        assert!(!OriginProbe::is_up(&upstream).await, "the gate asks anew");
        assert!(!upstream.is_up(PROBE_AGE_MAX).await, "and what it learns counts");
    }

    #[tokio::test]
    async fn paid_requests_share_no_connection() {
        let upstream = Upstream::new(upstream(&["127.0.0.1:1"]));
        let keys = [upstream.peer(true).await.unwrap().group_key, upstream.peer(true).await.unwrap().group_key];
        assert_ne!(keys[0], keys[1]);
        assert!(!keys.contains(&upstream.peer(false).await.unwrap().group_key));
    }

    #[tokio::test]
    async fn names_are_looked_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = Upstream::new(upstream(&[&format!("localhost:{port}")]));
        assert!(upstream.is_up(Duration::ZERO).await);
    }
}
