//! The configuration as validated: everything downstream reads these and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::diagnostic::Location;
use super::secret::Secret;
use crate::types::{
    AccountId, AddressRange, Asset, AtomicAmount, DecimalAmount, IdentifierRule, Network, Rate, WaitFor,
};

/// A whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// The public listener and the rules of business.
    pub server: ServerConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// The facilitator API's listener, if there is one.
    pub facilitator: Option<FacilitatorConfig>,
    /// The forward-auth listener, if there is one.
    pub forward_auth: Option<ForwardAuthConfig>,
    /// Where payments are remembered.
    pub ledger: LedgerConfig,
    /// Logging.
    pub log: LogConfig,
    /// Traces, if there is a collector.
    pub telemetry: Option<TelemetryConfig>,
    /// Origins, in file order; names are unique.
    pub upstreams: Vec<UpstreamConfig>,
    /// Networks, in file order; each network at most once.
    pub networks: Vec<NetworkConfig>,
    /// Routes, in file order, which means nothing.
    pub routes: Vec<RouteConfig>,
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Certificates; the first is for clients that name no server, or one that none is for. Without any the listener speaks
    /// no TLS.
    pub tls: Vec<TlsCertificate>,
    /// Proxies in front, which are believed about their clients.
    pub trusted_proxies: Vec<AddressRange>,
    /// Whether connections start with a PROXY protocol header, and come from trusted proxies only.
    pub proxy_protocol: bool,
    /// What clients may take up.
    pub limits: LimitsConfig,
    /// The origin of resource URLs shown to payers, without a trailing slash; without it the request's `Host` and the
    /// listener's scheme.
    pub public_url: Option<Url>,
    /// Whether `/.well-known/x402` lists the priced routes.
    pub discovery: bool,
    /// Worker threads of the proxy, at least 1.
    pub threads: usize,
    /// The key that seals quotes; 32 bytes or more. Without it one is made and kept in the ledger.
    pub quote_key: Option<Secret>,
    /// How long a quoted price holds.
    pub offer_ttl: Duration,
    /// The highest price a route may ask, in dollars.
    pub max_price: DecimalAmount,
    /// How often a paid request may be sent to its origin in all, at least 1.
    pub max_deliveries: u32,
    /// How long after settlement a payment may be presented again for an answer.
    pub redeliver_for: Duration,
    /// How long SIGTERM lets running requests and settlements end.
    pub drain_timeout: Duration,
    /// Where the next process asks for the listeners.
    pub upgrade_socket: Option<PathBuf>,
    /// Who is let through to priced routes without a payment.
    pub free_for: FreeFor,
}

/// A certificate and its key: files that were there when the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCertificate {
    /// The chain in PEM, the server's own first.
    pub cert: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
    /// Where it was named, for errors found later.
    pub location: Location,
}

/// Who is let through to a priced route without a payment; nobody by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreeFor {
    /// Whoever shows one of these keys.
    pub keys: Vec<Secret>,
    /// The header that a key is shown in; always there where there are keys.
    pub header: Option<http::HeaderName>,
    /// Whoever asks from one of these addresses; none of them is a trusted proxy's.
    pub addresses: Vec<AddressRange>,
}

impl FreeFor {
    /// Whether nobody is let through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.addresses.is_empty()
    }
}

/// How often requests may come; without a rate there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// From one address, without a payment.
    pub unpaid: Option<Rate>,
    /// From one address, with a payment, good or not.
    pub paid: Option<Rate>,
    /// From everybody.
    pub total: Option<Rate>,
}

/// `[server.limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections at one time, at least 1.
    pub connections: usize,
    /// Connections from one address at one time, at least 1.
    pub connections_per_address: usize,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Fewest bytes a second of a request's body; 0 is no limit.
    pub min_body_rate: u64,
    /// Fewest bytes a second that a client must take; 0 is no limit.
    pub min_response_rate: u64,
    /// How often requests may come to all routes together.
    pub rates: Rates,
    /// Payments of one address that are worked on at one time, at least 1.
    pub payments_per_address: usize,
    /// Payments that are verified at one time, at least 1.
    pub verifications: usize,
}

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where operators connect.
    pub listen: SocketAddr,
    /// The bearer token; required unless `listen` is loopback.
    pub token: Option<Secret>,
}

/// `[facilitator]`.
#[derive(Debug, Clone)]
pub struct FacilitatorConfig {
    /// Where resource servers connect.
    pub listen: SocketAddr,
    /// The bearer token; required unless `listen` is loopback.
    pub token: Option<Secret>,
}

/// `[forward_auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuthConfig {
    /// Where the front asks.
    pub listen: SocketAddr,
    /// How it asks.
    pub dialect: FrontDialect,
    /// The front's addresses; never empty.
    pub fronts: Vec<AddressRange>,
    /// What the front shows besides.
    pub token: Option<Secret>,
}

/// How a front says what it asks about, and which answers it understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontDialect {
    /// `auth_request`: `X-Original-Method`, `-URI` and `-Host`, which its configuration sets.
    Nginx,
    /// `forwardAuth`: `X-Forwarded-Method`, `-Uri` and `-Host`.
    Traefik,
    /// `forward_auth`: the same headers.
    Caddy,
    /// `ext_authz` over HTTP: the request itself, without its body.
    Envoy,
}

/// `[ledger]`.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// The store.
    pub url: LedgerUrl,
    /// How long finished payments are kept in full after they can no longer be presented.
    pub retention: Duration,
}

/// A ledger's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerUrl {
    /// An SQLite file; absolute, or relative to the working directory once resolved against the configuration file.
    Sqlite(PathBuf),
    /// A PostgreSQL database's URL, which holds a password as a rule.
    Postgres(Secret),
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A `tracing` filter directive, for example `info` or `tollhouse=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Where a line for each request goes, if anywhere.
    pub access: Option<AccessLogTarget>,
}

/// `[log] access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file; resolved against the configuration file.
    File(PathBuf),
}

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// The collector's base URL, without a slash at its end.
    pub otlp_endpoint: String,
    /// `service.name`.
    pub service_name: String,
    /// Of a million requests, how many are traced.
    pub sampled_ppm: u32,
    /// For the collector.
    pub headers: Vec<(http::HeaderName, Secret)>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// `[upstreams.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The name routes use.
    pub name: String,
    /// `host:port` each; at least one.
    pub servers: Vec<String>,
    /// Whether to speak TLS to the origin.
    pub tls: bool,
    /// The name for SNI and certificate check; the host of the server if absent.
    pub tls_server_name: Option<String>,
    /// Certificates in PEM that the origin's must come from.
    pub tls_ca: Option<PathBuf>,
    /// What the gateway shows to the origin.
    pub tls_client: Option<TlsCertificate>,
    /// Whether to speak HTTP/2.
    pub http2: bool,
    /// Which server gets the next request.
    pub balance: Balance,
    /// How servers are asked how they are.
    pub health: Option<HealthCheck>,
    /// How long the whole answer may take.
    pub total_timeout: Option<Duration>,
    /// Requests at one time, of free and of paid ones each; none is no limit.
    pub max_concurrent: Option<usize>,
    /// How long a request waits for its turn.
    pub queue_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the origin may be silent between two reads.
    pub read_timeout: Duration,
    /// How long a write to the origin may take.
    pub write_timeout: Duration,
    /// Headers set on every request to this origin, for example its own credentials.
    pub set_headers: Vec<(http::HeaderName, Secret)>,
}

/// Which of an upstream's servers gets the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests running.
    LeastConnections,
    /// The same one for the same client address, as long as it is well.
    ConsistentHash,
}

/// How servers are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path, canonical.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Answers in a row that make a server well, at least 1.
    pub passes: u32,
    /// Failures in a row that make it unwell, at least 1.
    pub failures: u32,
}

/// Which EVM payers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payers {
    /// Accounts that sign with ECDSA.
    pub eoa: bool,
    /// Contracts and delegated accounts (EIP-1271, EIP-7702).
    pub contract: bool,
}

/// Where a gas payer's key comes from; already read from its environment variable or file.
#[derive(Debug, Clone)]
pub enum SignerSource {
    /// The key itself: 32 bytes in hex with or without `0x` (EVM), or a key pair of 64 bytes in base58 or as the JSON array
    /// that solana-keygen writes (Solana).
    Key {
        /// The key.
        key: Secret,
        /// Where it was named, for errors found later.
        location: Location,
    },
    /// An encrypted keystore file (EVM, Web3 Secret Storage).
    Keystore {
        /// The file.
        path: PathBuf,
        /// Its password.
        password: Secret,
        /// Where it was named, for errors found later.
        location: Location,
    },
}

/// `[networks.NAME]`.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The chain.
    pub network: Network,
    /// The name as typed.
    pub name: String,
    /// What only its family of chains has.
    pub chain: ChainConfig,
    /// Where the money goes, in the chain's canonical text.
    pub pay_to: AccountId,
    /// Whether only this ledger earns at `pay_to`.
    pub pay_to_exclusive: bool,
    /// Longest validity of a payment that is accepted.
    pub max_window: Duration,
    /// Assets that may be paid in; the first is the default.
    pub assets: Vec<Asset>,
    /// When a settlement counts as done, unless the route says otherwise.
    pub wait_for: WaitFor,
    /// How long a request waits for its settlement.
    pub settle_timeout: Duration,
    /// Settlements under way at one time, of all signers together; at least 1.
    pub settlements_max: usize,
    /// How long a payment waits for its turn to be settled.
    pub queue_timeout: Duration,
    /// Where the table starts, for errors found later.
    pub location: Location,
}

impl NetworkConfig {
    /// Blocks that count as confirmed, at least 1: 1 is the block that holds the transaction.
    #[must_use]
    pub fn confirmations(&self) -> u64 {
        match &self.chain {
            ChainConfig::Evm(evm) => evm.confirmations,
            ChainConfig::Solana(_) | ChainConfig::Cosmos(_) => 1,
        }
    }
}

/// What only one family of chains has in its configuration.
#[derive(Debug, Clone)]
pub enum ChainConfig {
    /// `eip155`.
    Evm(EvmConfig),
    /// `solana`.
    Solana(SolanaConfig),
    /// `cosmos`.
    Cosmos(CosmosConfig),
}

/// An EVM network.
#[derive(Debug, Clone)]
pub struct EvmConfig {
    /// JSON-RPC endpoints, best first; secret, since they often hold an access token.
    pub rpc_urls: Vec<Secret>,
    /// Gas payers, one lane each; at least one.
    pub signers: Vec<SignerSource>,
    /// Which payers are taken.
    pub payers: Payers,
    /// Blocks that count as confirmed, at least 1.
    pub confirmations: u64,
    /// Most the gateway pays for one settlement, in wei.
    pub max_fee: AtomicAmount,
    /// What else bounds and judges fees, in wei.
    pub fees: FeeRules,
}

/// Fees beyond those of a single settlement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeeRules {
    /// Most that one signer spends within 24 hours, in the chain's smallest unit.
    pub max_per_day: Option<AtomicAmount>,
    /// What one whole native unit is worth, in millionths of a dollar.
    pub native_usd_millionths: Option<AtomicAmount>,
}

/// A Solana network.
#[derive(Debug, Clone)]
pub struct SolanaConfig {
    /// JSON-RPC endpoints, best first; secret, since they often hold an access token.
    pub rpc_urls: Vec<Secret>,
    /// Fee payers; at least one.
    pub signers: Vec<SignerSource>,
    /// Most the gateway pays for one settlement, in lamports.
    pub max_fee: AtomicAmount,
    /// What else bounds and judges fees, in lamports.
    pub fees: FeeRules,
    /// The hash of the chain's first block in base58, where it isn't the one that the network's name stands for: a local
    /// chain in its place.
    pub genesis_hash: Option<String>,
}

/// A Cosmos network. Its chain id is the network's reference.
#[derive(Debug, Clone)]
pub struct CosmosConfig {
    /// gRPC endpoints as URLs, best first; secret, since they often hold an access token.
    pub grpc_urls: Vec<Secret>,
    /// What addresses start with, before the 1.
    pub bech32_prefix: String,
    /// Whether payments must carry a timeout height.
    pub requires_timeout_height: bool,
}

/// What a route does with a request.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Forwards it.
    Free,
    /// Answers 404.
    Deny,
    /// Charges for it.
    Paid(PaidRoute),
}

/// One entry of `[routes]`.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// The key as typed, for example `GET /api/data`; also the route's name in metrics and books.
    pub key: String,
    /// Where the key stands.
    pub location: Location,
    /// Methods; none means all. `GET` covers `HEAD`, which is not listed beside it unless typed.
    pub methods: Vec<http::Method>,
    /// Host in lower case, without port; none means any.
    pub host: Option<String>,
    /// Path in matchit syntax, starting with `/`, as typed.
    pub path: String,
    /// What to do.
    pub action: RouteAction,
    /// The upstream's name; none only for [`RouteAction::Deny`].
    pub upstream: Option<String>,
    /// What becomes of the path on its way to the origin.
    pub forward: ForwardPath,
    /// How long a WebSocket may last; none if there may be none.
    pub websocket: Option<Duration>,
    /// How often requests may come.
    pub rates: Rates,
    /// Requests that each address has free; only for [`RouteAction::Paid`].
    pub free_quota: Option<Rate>,
    /// Who needs no payment besides those of `[server]`; only for [`RouteAction::Paid`].
    pub free_for: FreeFor,
}

/// What path the origin gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ForwardPath {
    /// The request's own.
    #[default]
    Same,
    /// Without this at its start, which ends at a `/` and doesn't hold it.
    Without(String),
    /// Another one, in which `{name}` stands for what the route's parameter of that name took.
    Instead(String),
}

/// When the money moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleMode {
    /// Before the request goes to the origin.
    Before,
    /// Once the origin has answered below 400; its answer is held until then.
    After,
}

/// Which requests may be presented again after an origin failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeliver {
    /// All.
    Always,
    /// Those whose method is idempotent (RFC 9110 §9.2.2).
    Idempotent,
    /// None: the payment is owed.
    Never,
}

/// The terms of a priced route.
#[derive(Debug, Clone)]
pub struct PaidRoute {
    /// What is asked on each network, in the order offered; at least one.
    pub offers: Vec<RouteOffer>,
    /// Shown to payers.
    pub description: String,
    /// Shown to payers, for example `application/json`.
    pub mime_type: String,
    /// Shown to payers: a JSON object in x402 v1's `outputSchema` form.
    pub output_schema: Option<serde_json::Value>,
    /// How it is called, by example.
    pub input: Option<RouteInput>,
    /// Whether it may be listed; only listed where [`ServerConfig::discovery`] says so too.
    pub discoverable: bool,
    /// How long a payer may take.
    pub max_timeout: Duration,
    /// When the money moves.
    pub settle: SettleMode,
    /// Which requests may be presented again.
    pub redeliver: Redeliver,
    /// Whether the 402 also carries the vitwit dialect's `X-Payment-Requirements`.
    pub vitwit: bool,
    /// Whether purchases may or must be named.
    pub payment_identifier: IdentifierRule,
}

/// How a route is called, by example.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteInput {
    /// Query parameters: a JSON object.
    pub query_params: Option<serde_json::Value>,
    /// The body: its kind, and its fields as a JSON object.
    pub body: Option<(BodyKind, serde_json::Value)>,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// A form.
    FormData,
    /// Plain text.
    Text,
}

/// What a route asks on one network in one asset.
#[derive(Debug, Clone)]
pub struct RouteOffer {
    /// The chain.
    pub network: Network,
    /// The token.
    pub asset: Asset,
    /// How much, in atomic units.
    pub amount: AtomicAmount,
    /// Who gets it.
    pub pay_to: AccountId,
    /// When it counts as paid.
    pub wait_for: WaitFor,
    /// What the payer must write into the payment's memo, if anything; never on EVM, which has none.
    pub memo: Option<String>,
}
