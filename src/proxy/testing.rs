//! What the tests of this module and of the server build on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Parts, PaymentGate};
use crate::config::{
    AdminConfig, Config, LedgerConfig, LedgerUrl, Location, LogConfig, LogFormat, PaidRoute, Redeliver, RouteAction,
    RouteConfig, RouteOffer, ServerConfig, SettleMode, UpstreamConfig,
};
use crate::ledger::{
    AccountNonce, ClaimOutcome, DeliveryBegun, Ledger, LedgerError, NewAttempt, NewPayment, PaymentFilter, PaymentId,
    PaymentRecord, RecordId, Settlement, SignInClaim, Total,
};
use crate::payment::scheme::{Availability, IncomingPayment, Scheme, SettleOutcome, VerifyError};
use crate::payment::{Decision, Market, PaidRequest, PaymentHeaders, PricedOffer, PricedRoute, VerifiedPayment};
use crate::protocol::{Offer, PaymentRequirements, QuoteKey, Reason, ResourceInfo};
use crate::route::RouteTable;
use crate::telemetry::Metrics;
use crate::types::{AccountId, Asset, AssetId, Network, SystemClock, UnixMillis, WaitFor};

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

/// A network that is or isn't open for business, and does none.
pub(crate) struct FakeScheme {
    network: Network,
    availability: Availability,
}

impl FakeScheme {
    pub(crate) fn network_that(is_ready: bool) -> Arc<dyn Scheme> {
        let availability = if is_ready { Availability::Ready } else { Availability::Unavailable("down".into()) };
        Arc::new(Self { network: "eip155:84532".parse().unwrap(), availability })
    }
}

#[async_trait]
impl Scheme for FakeScheme {
    fn network(&self) -> &Network {
        &self.network
    }

    fn availability(&self) -> Availability {
        self.availability.clone()
    }

    fn decode(&self, _payload: &Value, _terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason> {
        Err(Reason::InvalidPayload)
    }

    async fn settle(&self, _record: &PaymentRecord) -> SettleOutcome {
        std::future::pending().await
    }

    async fn late_settlement(&self, _record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError> {
        Ok(None)
    }

    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError> {
        Ok(Vec::new())
    }

    fn open(&self, _next: &[(AccountId, AccountNonce)]) {}
}

/// What a gate says to every payment; each call is counted.
pub(crate) struct FakeGate {
    pub decide: fn() -> Decision,
    pub asked: AtomicUsize,
}

#[async_trait]
impl PaymentGate for FakeGate {
    async fn verify(&self, _route: &PricedRoute, _headers: &PaymentHeaders<'_>) -> Result<VerifiedPayment, Decision> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Err((self.decide)())
    }

    async fn admit(&self, _payment: VerifiedPayment, _request: PaidRequest<'_>) -> Decision {
        unreachable!("nothing is ever verified")
    }
}

/// A route of a test shop.
pub(crate) fn route(key: &str, action: RouteAction) -> RouteConfig {
    let (methods, path) = key.split_once(' ').unwrap_or(("", key));
    RouteConfig {
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
            listen: any_port,
            public_url: None,
            threads: 1,
            quote_key: None,
            offer_ttl: Duration::from_secs(300),
            max_price: "100".parse().unwrap(),
            max_deliveries: 2,
            redeliver_for: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(3),
        },
        admin: AdminConfig { listen: any_port, token: None },
        ledger: LedgerConfig { url: LedgerUrl::Sqlite("unused".into()), retention: Duration::from_secs(60) },
        log: LogConfig { level: "info".into(), format: LogFormat::Text },
        upstreams: vec![upstream],
        networks: Vec::new(),
        routes,
    }
}

/// The proxy's parts for a configuration, its networks open or not.
pub(crate) fn parts(config: Config, gate: Arc<dyn PaymentGate>, is_open: bool) -> Parts {
    let priced = config.routes.iter().map(|route| match &route.action {
        RouteAction::Paid(_) => {
            let terms = serde_json::json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000",
                "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
                "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "maxTimeoutSeconds": 60,
                "extra": {"name": "USDC", "version": "2"}});
            let offer = PricedOffer {
                offer: Offer::new(&route.key, serde_json::from_value(terms).unwrap()),
                market: Arc::new(Market {
                    scheme: FakeScheme::network_that(is_open),
                    wait_for: WaitFor::Confirmed,
                    confirmations: 1,
                    pay_to_exclusive: false,
                    settle_timeout: Duration::from_secs(1),
                }),
                wait_for: WaitFor::Confirmed,
            };
            Some(Arc::new(PricedRoute::new(route.key.clone(), vec![offer], ResourceInfo::default()).unwrap()))
        }
        _ => None,
    });
    Parts {
        priced: priced.collect(),
        routes: RouteTable::build(&config.routes).unwrap(),
        config: Arc::new(config),
        gate,
        quote_key: QuoteKey::new(&[7; 32]).unwrap(),
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::new().unwrap()),
    }
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

/// A ledger that is there and holds nothing.
pub(crate) struct EmptyLedger {
    pub is_there: bool,
}

fn no_row<T>() -> Result<T, LedgerError> {
    Err(LedgerError::NotRead("empty".into()))
}

#[async_trait]
impl Ledger for EmptyLedger {
    async fn find(&self, _: &PaymentId) -> Result<Option<PaymentRecord>, LedgerError> {
        Ok(None)
    }
    async fn get(&self, _: &RecordId) -> Result<Option<PaymentRecord>, LedgerError> {
        Ok(None)
    }
    async fn claim(&self, _: NewPayment, _: SignInClaim) -> Result<ClaimOutcome, LedgerError> {
        no_row()
    }
    async fn record_attempt(&self, _: &RecordId, _: NewAttempt) -> Result<PaymentRecord, LedgerError> {
        no_row()
    }
    async fn record_paid(&self, _: &RecordId, _: Settlement, _: bool) -> Result<PaymentRecord, LedgerError> {
        no_row()
    }
    async fn record_failed(&self, _: &RecordId, _: &str, _: Option<&str>) -> Result<PaymentRecord, LedgerError> {
        no_row()
    }
    async fn record_delivering(&self, _: &RecordId, _: u32, _: UnixMillis) -> Result<DeliveryBegun, LedgerError> {
        no_row()
    }
    async fn record_undelivered(&self, _: &RecordId, _: u32, _: bool) -> Result<PaymentRecord, LedgerError> {
        no_row()
    }
    async fn record_served(&self, _: &RecordId) -> Result<PaymentRecord, LedgerError> {
        no_row()
    }
    async fn recover_deliveries(&self, _: u32, _: UnixMillis, _: bool) -> Result<u64, LedgerError> {
        Ok(0)
    }
    async fn unfinished(&self, _: &Network) -> Result<Vec<PaymentRecord>, LedgerError> {
        Ok(Vec::new())
    }
    async fn failed_but_usable(&self, _: &Network, _: UnixMillis) -> Result<Vec<PaymentRecord>, LedgerError> {
        Ok(Vec::new())
    }
    async fn lease_signer(&self, _: &Network, _: &AccountId, _: u64) -> Result<u64, LedgerError> {
        no_row()
    }
    async fn list(&self, _: &PaymentFilter) -> Result<Vec<PaymentRecord>, LedgerError> {
        Ok(Vec::new())
    }
    async fn totals(&self) -> Result<Vec<Total>, LedgerError> {
        Ok(Vec::new())
    }
    async fn value_or_insert(&self, _: &str, make: String) -> Result<String, LedgerError> {
        Ok(make)
    }
    async fn prune(&self, _: UnixMillis) -> Result<u64, LedgerError> {
        Ok(0)
    }
    async fn probe(&self) -> Result<(), LedgerError> {
        if self.is_there { Ok(()) } else { no_row() }
    }
}
