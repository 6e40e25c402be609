//! The gateway's ports on this machine's own address.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;

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
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
