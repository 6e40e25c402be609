//! Ports on this machine's own address, and what listens there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as Probe};
use std::sync::Arc;

use anyhow::{Context, bail};
use pingora::apps::ServerApp;
use tokio::net::TcpListener;

use crate::server::{Listening, Running};

/// How many pairs of ports are tried.
const PAIRS_MAX: u16 = 100;

/// Where the gateway will listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct GatewayPorts {
    pub shop: u16,
    pub admin: u16,
    /// The port that was asked for, if somebody else has it.
    pub taken: Option<u16>,
}

impl GatewayPorts {
    /// The first pair of neighbours that nobody listens on.
    pub(super) fn find(asked: u16) -> anyhow::Result<Self> {
        let pairs = (0..PAIRS_MAX).filter_map(|step| {
            let shop = asked.checked_add(step.checked_mul(2)?)?;
            Some((shop, shop.checked_add(1)?))
        });
        for (shop, admin) in pairs {
            if is_free(shop) && is_free(admin) {
                return Ok(Self { shop, admin, taken: (shop != asked).then_some(asked) });
            }
        }
        bail!("no two free ports from {asked} on");
    }
}

fn is_free(port: u16) -> bool {
    port != 0 && Probe::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A service on a free port of this machine.
pub(super) struct Local<A> {
    address: SocketAddr,
    app: Arc<A>,
    _running: Running<A>,
}

impl<A: ServerApp + Send + Sync + 'static> Local<A> {
    pub(super) async fn start(name: &'static str, app: Arc<A>) -> anyhow::Result<Self> {
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(asked).await.context("no free port")?;
        let address = listener.local_addr().context("no address")?;
        let running = Listening::new(name, listener, address, Arc::clone(&app)).start(false);
        Ok(Self { address, app, _running: running })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn app(&self) -> &Arc<A> {
        &self.app
    }
}
