//! What the tests of this module and of the server build on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Parts;
use crate::admin::{AdminParts, ChainStatus, InForce, WatchedChain, WatchedSigner};
use crate::config::{
    AdminConfig, Config, LedgerConfig, LedgerUrl, LimitsConfig, Location, LogConfig, LogFormat, PaidRoute, Redeliver,
    RouteAction, RouteConfig, RouteOffer, ServerConfig, SettleMode, UpstreamConfig,
};
use crate::ledger::{Ledger, PaymentFilter, PaymentState, SqliteLedger};
use crate::payment::tests::chain::FakeChain;
use crate::payment::{Gate, GateRules, Market, PricedOffer, PricedRoute};
use crate::protocol::{Offer, QuoteKey, ResourceInfo};
use crate::route::RouteTable;
use crate::telemetry::Metrics;
use crate::types::{AccountId, Asset, AssetId, Network, SystemClock, WaitFor};

pub(crate) fn upstream(servers: &[&str]) -> UpstreamConfig {
    UpstreamConfig {
        name: "api".into(),
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
        tls: false,
        tls_server_name: None,
        tls_ca: None,
        tls_client: None,
        http2: false,
        balance: crate::config::Balance::RoundRobin,
        health: None,
        total_timeout: None,
        max_concurrent: None,
        queue_timeout: Duration::from_secs(1),
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
        allowed_extensions: Vec::new(),
    };
    PaidRoute {
        offers: vec![RouteOffer {
            network: "eip155:84532".parse::<Network>().unwrap(),
            asset,
            amount: "10000".parse().unwrap(),
            pay_to: AccountId::new("0x209693Bc6afc0C5328bA36FaF03C514EF312287C").unwrap(),
            wait_for: WaitFor::Confirmed,
            memo: None,
        }],
        description: "Weather".into(),
        mime_type: "application/json".into(),
        output_schema: None,
        input: None,
        discoverable: true,
        max_timeout: Duration::from_secs(60),
        settle: SettleMode::Before,
        redeliver: Redeliver::Always,
        vitwit: false,
        payment_identifier: crate::types::IdentifierRule::Off,
    }
}

/// A route of a test shop.
pub(crate) fn route(key: &str, action: RouteAction) -> RouteConfig {
    let (methods, path) = key.split_once(' ').unwrap_or(("", key));
    RouteConfig {
        forward: crate::config::ForwardPath::Same,
        websocket: None,
        rates: crate::config::Rates::default(),
        free_quota: None,
        free_for: crate::config::FreeFor::default(),
        key: key.to_owned(),
        location: Location::default(),
        methods: methods.split(',').filter(|method| !method.is_empty()).map(|method| method.parse().unwrap()).collect(),
        host: None,
        path: path.to_owned(),
        upstream: (!matches!(action, RouteAction::Deny)).then(|| "api".to_owned()),
        action,
    }
}

/// The configuration of a test shop on free ports.
pub(crate) fn config(upstream: UpstreamConfig, routes: Vec<RouteConfig>) -> Config {
    let any_port = "127.0.0.1:0".parse().unwrap();
    Config {
        file: "gateway.toml".into(),
        server: ServerConfig {
            tls: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            limits: LimitsConfig {
                connections: 1000,
                connections_per_address: 1000,
                head_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(75),
                min_body_rate: 250,
                min_response_rate: 250,
                rates: crate::config::Rates::default(),
                payments_per_address: 100,
                verifications: 100,
            },
            listen: any_port,
            public_url: None,
            discovery: false,
            threads: 1,
            quote_key: None,
            offer_ttl: Duration::from_secs(300),
            max_price: "100".parse().unwrap(),
            max_deliveries: 2,
            redeliver_for: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(3),
            upgrade_socket: None,
            free_for: crate::config::FreeFor::default(),
        },
        admin: AdminConfig { listen: any_port, token: None },
        facilitator: None,
        forward_auth: None,
        ledger: LedgerConfig { url: LedgerUrl::Sqlite("unused".into()), retention: Duration::from_secs(60) },
        log: LogConfig { level: "info".into(), format: LogFormat::Text, access: None },
        telemetry: None,
        upstreams: vec![upstream],
        networks: Vec::new(),
        routes,
    }
}

/// A gate over a scripted chain and an SQLite ledger.
pub(crate) struct TestGate {
    pub gate: Arc<Gate>,
    pub chain: Arc<FakeChain>,
    pub ledger: Arc<dyn Ledger>,
    market: Arc<Market>,
    metrics: Arc<Metrics>,
    _folder: tempfile::TempDir,
}

impl TestGate {
    pub(crate) async fn open(settle_timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let path = folder.path().join("t.db");
        let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(&path, clock.clone()).await.unwrap());
        ledger.lease_signer(&Network::evm(84532), &AccountId::new("0xGas").unwrap(), 0).await.unwrap();
        let chain = Arc::new(FakeChain::new(Network::evm(84532)));
        let market = Arc::new(Market {
            scheme: chain.clone(),
            wait_for: WaitFor::Confirmed,
            confirmations: 1,
            pay_to_exclusive: false,
            settle_timeout,
            queue: crate::payment::Queue::new(64, Duration::from_secs(1)),
            is_offered_early: false.into(),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let rules = GateRules {
            deliveries_max: 2,
            redeliver_for: Duration::from_secs(3600),
            retention: Duration::from_secs(86_400),
        };
        let gate = Gate::new(
            ledger.clone(),
            HashMap::from([(Network::evm(84532), market.clone())]),
            QuoteKey::new(&[3; 32]).unwrap(),
            rules,
            clock,
            metrics.clone(),
            tokio::runtime::Handle::current(),
        );
        Self { gate, chain, ledger, market, metrics, _folder: folder }
    }

    /// The proxy's parts for a configuration.
    pub(crate) fn parts(&self, config: &Config) -> Parts {
        let priced = config.routes.iter().map(|route| match &route.action {
            RouteAction::Paid(paid) => {
                let offer = Offer::new(&route.key, serde_json::from_value(terms()).unwrap());
                let offer = PricedOffer { offer, market: self.market.clone(), wait_for: WaitFor::Confirmed };
                Some(Arc::new(
                    PricedRoute::new(route.key.clone(), vec![offer], ResourceInfo::default(), paid.vitwit).unwrap(),
                ))
            }
            _ => None,
        });
        Parts {
            priced: priced.collect(),
            routes: RouteTable::build(&config.routes).unwrap(),
            config: Arc::new(config.clone()),
            gate: self.gate.clone(),
            clock: Arc::new(SystemClock),
            metrics: self.metrics.clone(),
            observers: crate::telemetry::Observers::default(),
            current: Arc::default(),
        }
    }

    pub(crate) fn admin_parts(&self, config: &Config) -> AdminParts {
        AdminParts {
            config: config.admin.clone(),
            in_force: Arc::new(InForce::new(
                Arc::new(config.clone()),
                vec![WatchedChain { scheme: self.chain.clone(), status: Arc::new(chain_status) }],
            )),
            has_priced_routes: Arc::new(true.into()),
            reloader: None,
            ledger: self.ledger.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::new(SystemClock),
        }
    }

    /// What the gate measures.
    pub(crate) fn admin_metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until the ledger holds exactly these states, newest first.
    pub(crate) async fn reaches(&self, states: &[PaymentState]) {
        let mut seen = Vec::new();
        for _ in 0..500 {
            seen = self.ledger.list(&PaymentFilter::default()).await.unwrap().iter().map(|row| row.state).collect();
            if seen == states {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("expected {states:?}, got {seen:?}");
    }
}

/// How the scripted chain stands.
fn chain_status() -> ChainStatus {
    ChainStatus {
        head: Some((7, Duration::from_secs(1))),
        clock_skew_secs: Some(0),
        native_decimals: 18,
        signers: vec![
            WatchedSigner { signer: AccountId::new("0xGas").unwrap(), balance: Some(10.into()), lasts: Some(3) },
            WatchedSigner { signer: AccountId::new("0xNew").unwrap(), balance: None, lasts: None },
        ],
    }
}

/// The terms of every priced route of a test shop.
pub(crate) fn terms() -> Value {
    json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": "0xToken", "payTo": "0xShop",
        "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}})
}

/// A v2 payment header of the scripted chain.
pub(crate) fn payment_header(nonce: &str) -> String {
    let payload = json!({"nonce": nonce, "payer": "0xPayer", "payTo": "0xShop", "value": "10000",
        "until": 4_000_000_000_u64, "signature": "good"});
    json!({"x402Version": 2, "accepted": terms(), "payload": payload}).to_string()
}

/// An origin that records every request, byte for byte, and answers each with the same bytes.
pub(crate) struct RawOrigin {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RawOrigin {
    /// Answers once the whole request has come, and closes the connection if it is told to.
    pub(crate) async fn start(answer: &'static [u8], closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let recorded = Arc::clone(&recorded);
                tokio::spawn(async move {
                    while let Some(request) = read_message(&mut socket).await {
                        recorded.lock().unwrap().push(request);
                        if socket.write_all(answer).await.is_err() || closes {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let head =
            |request: &Vec<u8>| String::from_utf8_lossy(request).split("\r\n\r\n").next().unwrap().to_lowercase();
        requests.iter().map(head).collect()
    }

    /// The decoded body of the newest request.
    pub(crate) fn last_body(&self) -> Vec<u8> {
        let requests = self.requests.lock().unwrap();
        let request = requests.last().unwrap();
        let at = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let is_chunked = String::from_utf8_lossy(&request[..at]).to_lowercase().contains("transfer-encoding: chunked");
        let body = &request[at + 4..];
        if is_chunked { unchunked(body).unwrap() } else { body.to_vec() }
    }
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        if size == 0 {
            return body.starts_with(b"\r\n").then_some(whole);
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

/// One HTTP/1 message as it came, or nothing at the end of the connection.
pub(crate) async fn read_message(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if let Some(at) = message.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&message[..at]).to_lowercase();
            let body = &message[at + 4..];
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse::<usize>());
            let is_whole = match length {
                Some(length) => body.len() >= length.unwrap(),
                None if head.contains("transfer-encoding: chunked") => unchunked(body).is_some(),
                None => true,
            };
            if is_whole {
                return Some(message);
            }
        }
        if socket.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends bytes as they are and reads until the other side closes.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    assert!(reading.is_ok(), "the connection stayed open after {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}
