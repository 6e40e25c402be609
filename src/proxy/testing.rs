//! What the tests of this module and of the server build on.

use std::time::Duration;

use crate::config::{PaidRoute, Redeliver, RouteOffer, SettleMode, UpstreamConfig};
use crate::types::{AccountId, Asset, AssetId, Network, WaitFor};

pub(crate) fn upstream(servers: &[&str]) -> UpstreamConfig {
    UpstreamConfig {
        name: "api".into(),
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
        tls: false,
        tls_server_name: None,
        connect_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
        set_headers: Vec::new(),
    }
}

pub(crate) fn paid_route() -> PaidRoute {
    let asset = Asset {
        id: AssetId::new("0x036CbD53842c5426634e7929541eC2318f3dCF7e").unwrap(),
        symbol: "USDC".into(),
        decimals: 6,
        is_usd: true,
        eip712: None,
    };
    PaidRoute {
        offers: vec![RouteOffer {
            network: "eip155:84532".parse::<Network>().unwrap(),
            asset,
            amount: "10000".parse().unwrap(),
            pay_to: AccountId::new("0x209693Bc6afc0C5328bA36FaF03C514EF312287C").unwrap(),
            wait_for: WaitFor::Confirmed,
        }],
        description: "Weather".into(),
        mime_type: "application/json".into(),
        output_schema: None,
        max_timeout: Duration::from_secs(60),
        settle: SettleMode::Before,
        redeliver: Redeliver::Always,
    }
}
