//! The configuration as typed: every section with its keys, types, defaults and explanations. The parser, the JSON Schema
//! and the hints all read this one declaration.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use toml::de::DeValue;

use super::leaf::{JsonObject, Lenient, List, Named, OneOrMany, Ratio, Word};
use super::model::{Balance, BodyKind, FrontDialect, LogFormat, Redeliver, SettleMode};
use super::reader::{FromToml, Node, Reader};
use super::secret_source::{SecretSource, Signer, TextOrSecret};
use super::section::section;
use crate::types::{IdentifierRule, Rate, WaitFor};

section! {
    /// The configuration of a Tollhouse gateway.
    struct Root {
        /// The public listener and the rules of business.
        server: Server = {},
        /// The listener for operators: health, metrics, payments.
        admin: Admin = {},
        /// The listener for resource servers of your own that have their payments verified and settled here; off without listen.
        facilitator: Facilitator = {},
        /// The listener for a front of your own that asks here whether a request may pass; off without listen.
        forward_auth: ForwardAuth = {},
        /// Where payments are remembered.
        ledger: Ledger = {},
        /// Logging.
        log: Log = {},
        /// Traces, for a collector; off without otlp_endpoint.
        telemetry: Telemetry = {},
        /// The origins that answer paid and free requests, by a name of your choice.
        upstreams: Named<Upstream> = {},
        /// The networks that payments are taken on: by a known name such as base-sepolia, by quoted CAIP-2 id, or by a name
        /// of your choice with kind, chain_id and assets.
        networks: Named<Network> = {},
        /// The price table: "[METHOD[,METHOD…] ][host]/path" to a price or a table. A path that no route matches is 404.
        routes: Named<RouteValue> => required,
    }
}

section! {
    /// The public listener and the rules of business.
    struct Server {
        /// The address and port that clients connect to.
        listen: SocketAddr = "0.0.0.0:8402",
        /// Certificate and key, or a list of them of which the client's server name chooses; with it the listener speaks TLS
        /// (HTTP/2 and HTTP/1.1) and nothing else.
        tls: OneOrMany<Tls>,
        /// The addresses of proxies in front of this one, or ranges of them ("10.0.0.0/8"), which are believed about who the client
        /// is.
        trusted_proxies: List<String>,
        /// Whether connections from trusted proxies start with a PROXY protocol header (version 1 or 2); others are refused.
        proxy_protocol: bool = false,
        /// What one client, and all together, may take up.
        limits: Limits = {},
        /// The scheme and host that payers see in the terms, such as "https://shop.example"; without it the request's own Host and
        /// the listener's scheme.
        public_url: String,
        /// Whether GET /.well-known/x402 lists the priced routes with their terms, and the 402 says how they are called. A route
        /// of your own that matches that path wins.
        discovery: bool = false,
        /// Worker threads of the proxy, 1 to 1024; without it one for each processor.
        threads: u64,
        /// The key that seals quotes, 32 bytes or more; without it one is made and kept in the ledger.
        quote_key: SecretSource,
        /// How long a quoted price holds.
        offer_ttl: Duration = "5min",
        /// The highest price a route may ask, in dollars; guards against a slip of the decimal point.
        max_price: String = "$100",
        /// How often a paid request may be sent to its origin in all, 1 to 100.
        max_deliveries: u64 = 2,
        /// How long after settlement a payment may be presented again for an answer that failed.
        redeliver_for: Duration = "24h",
        /// Whose words the 402 speaks: x402 always, vitwit for that dialect's X-Payment-Requirements as well.
        dialects: List<Dialect> = ["x402"],
        /// How long SIGTERM lets running requests and settlements end.
        drain_timeout: Duration = "8s",
        /// The socket at which a gateway that is started with --upgrade asks this one for its listeners, relative to this file;
        /// without it none can.
        upgrade_socket: String,
        /// Callers that pay in some other way, and are let through to every priced route.
        free_for: FreeFor,
    }
}

section! {
    /// A certificate and its key, both in PEM; read again when the files change.
    struct Tls {
        /// The file with the certificate and those between it and its root, relative to this file.
        cert: String => required,
        /// The file with the private key, relative to this file; readable by its owner only (0600), or root's and its group's
        /// (0640).
        key: String => required,
    }
}

section! {
    /// Callers that pay in some other way, and are let through without a payment: by a key that they show, or by their
    /// address.
    struct FreeFor {
        /// The keys, each from env or file; 16 characters or more.
        keys: OneOrMany<SecretSource>,
        /// The header that a key is shown in; in Authorization it stands after "Bearer". A key that lets its caller through is
        /// not sent to the origin.
        header: String = "X-Api-Key",
        /// Client addresses or ranges of them; not those of trusted proxies.
        addresses: List<String>,
    }
}

section! {
    /// What one client, and all together, may take up.
    struct Limits {
        /// Connections from clients at one time, 1 to 10,000,000; more wait in the system's queue.
        connections: u64 = 10000,
        /// Connections from one client address at one time; more are closed. Trusted proxies are not counted.
        connections_per_address: u64 = 256,
        /// How long a client may take to send the whole head of a request.
        head_timeout: Duration = "10s",
        /// How long a connection may be idle between two requests.
        idle_timeout: Duration = "75s",
        /// The fewest bytes a second that a request's body must come with; 0 for no limit.
        min_body_rate: u64 = 250,
        /// The fewest bytes a second that a client must take of an answer that waits for it; 0 for no limit.
        min_response_rate: u64 = 250,
        /// Requests without a payment that one client address may make, on all routes together: so many at once, and then
        /// as fast as the rate. Without it there is no limit.
        unpaid_rate: Rate,
        /// The same for requests that present a payment, good or not.
        paid_rate: Rate,
        /// Payments of one client address that are worked on at one time; more get 429. Trusted proxies are not counted.
        payments_per_address: u64 = 256,
        /// Payments whose signatures are checked at one time, all addresses together; more wait a second, and then get 503.
        verifications: u64 = 1024,
    }
}

section! {
    /// The listener for operators.
    struct Admin {
        /// The address and port that operators connect to.
        listen: SocketAddr = "127.0.0.1:8403",
        /// The bearer token that operators show; required unless the listener is loopback.
        token: SecretSource,
    }
}

section! {
    /// The listener for resource servers of your own that have their payments verified and settled here; off without listen.
    struct Facilitator {
        /// The address and port that resource servers connect to.
        listen: SocketAddr,
        /// The bearer token that resource servers show; required unless the listener is loopback.
        token: SecretSource,
    }
}

section! {
    /// The listener for a front of your own that asks here whether a request may pass; off without listen.
    struct ForwardAuth {
        /// The address and port that the front asks at.
        listen: SocketAddr,
        /// What the front is: nginx (auth_request), traefik (forwardAuth), caddy (forward_auth) or envoy (ext_authz over HTTP).
        /// Nothing that is said in another one's headers is heard.
        dialect: FrontDialect,
        /// The addresses of the front, which alone are answered and believed; without it those of this machine's loopback.
        /// Required unless the listener is loopback.
        fronts: List<String>,
        /// What the front shows in X-Tollhouse-Token; without it its address is enough.
        token: SecretSource,
    }
}

section! {
    /// Where payments are remembered.
    struct Ledger {
        /// The store: sqlite: and a path relative to this file, or postgres://… for several gateways that share one.
        url: TextOrSecret = "sqlite:tollhouse.db",
        /// How long finished payments are kept in full after they can no longer be presented.
        retention: Duration = "90days",
    }
}

section! {
    /// Logging: to stderr, and requests besides to where access says.
    struct Log {
        /// How much is logged: error, warn, info, debug or trace, also for single parts, as in "info,tollhouse=debug".
        level: String = "info",
        /// How a line looks: text for people, or a JSON object for programs.
        format: LogFormat = "text",
        /// Where a JSON object for each request goes: "off", "stdout", or a file's path, relative to this file; opened again on
        /// SIGHUP.
        access: String = "off",
    }
}

section! {
    /// Traces, for a collector; off without otlp_endpoint.
    struct Telemetry {
        /// The collector's URL for OTLP over HTTP (protobuf); /v1/traces is added.
        otlp_endpoint: String,
        /// What the gateway is called there.
        service_name: String = "tollhouse",
        /// The share of requests that are traced, 0 to 1; what a trusted proxy's traceparent says goes before it.
        sample_ratio: Ratio = 1,
        /// Headers for the collector; secret values from env or file.
        headers: Named<TextOrSecret> = {},
    }
}

section! {
    /// An origin.
    struct Upstream {
        /// Its servers, each host:port.
        servers: List<String> => required,
        /// Whether to speak TLS to the origin; its certificate is always checked.
        tls: bool = false,
        /// The name that the origin's certificate must bear; without it the host of the server.
        tls_server_name: String,
        /// The file with the certificates, in PEM, that the origin's must come from; without it those of this machine.
        tls_ca: String,
        /// The file with the certificate, in PEM, that the gateway shows to the origin.
        tls_cert: String,
        /// The file with that certificate's private key; readable by its owner only (0600), or root's and its group's (0640).
        tls_key: String,
        /// Whether to speak HTTP/2 to the origin: over TLS if it offers it, without TLS in any case.
        http2: bool = false,
        /// Which server gets the next request: the next in turn, the one with the fewest requests running, or always the same one
        /// for a client's address.
        balance: Balance = "round-robin",
        /// The path that every server is asked for now and then; one that doesn't answer with 200 to 399 gets no requests.
        /// Without it a server is as well as its connections.
        health_check: String,
        /// How often a server is asked.
        health_interval: Duration = "5s",
        /// How long a server may take to answer.
        health_timeout: Duration = "2s",
        /// Answers in a row that make a server well again, 1 to 1000.
        health_passes: u64 = 2,
        /// Failures in a row that make a server unwell, 1 to 1000.
        health_failures: u64 = 3,
        /// How long a connection may take.
        connect_timeout: Duration = "5s",
        /// How long the origin may be silent; a paid answer that is cut off so may be asked for again.
        read_timeout: Duration = "60s",
        /// How long a write to the origin may take.
        write_timeout: Duration = "60s",
        /// How long the whole answer may take; without it as long as it goes on.
        total_timeout: Duration,
        /// Requests that may be at this origin at one time, 1 to 1,000,000: free ones and paid ones are counted apart, so that neither keeps the
        /// other out. Without it there is no limit.
        max_concurrent: u64,
        /// How long a request over that limit waits for its turn, before it is answered 503; a payment is not claimed before.
        queue_timeout: Duration = "1s",
        /// Headers set on every request to this origin; secret values from env or file.
        set_headers: Named<TextOrSecret> = {},
    }
}

section! {
    /// A network that payments are taken on.
    struct Network {
        /// The chain's family; only for a network that isn't known by name.
        kind: Lenient<Kind>,
        /// The chain id: a number (EVM) or a text such as "mychain-1" (Cosmos); only for a network that isn't known by name.
        chain_id: Lenient<ChainId>,
        /// The hash of the chain's first block (Solana): for a network of your own, or a local chain in a known one's place.
        genesis_hash: Lenient<String>,
        /// What addresses start with, before the 1 (Cosmos); only for a network that isn't known by name.
        bech32_prefix: Lenient<String>,
        /// EVM and Solana: the JSON-RPC endpoint, or a list of which the first healthy one wins.
        rpc_url: Lenient<OneOrMany<TextOrSecret>>,
        /// Cosmos: the gRPC endpoint as an http or https URL, or a list of which the first healthy one wins.
        grpc_url: Lenient<OneOrMany<TextOrSecret>>,
        /// EVM and Solana: the account that pays fees and holds no revenue; a list gives parallel lanes.
        signer: Lenient<OneOrMany<Signer>>,
        /// The address where the money goes; never a signer's.
        pay_to: String => required,
        /// Whether only this ledger earns at pay_to; only then is a payment credited that somebody else submitted.
        pay_to_exclusive: bool = false,
        /// EVM: which payers are taken: eoa (plain accounts) and contract (EIP-1271 wallets and EIP-7702 accounts). Without it
        /// both.
        payers: List<PayerKind>,
        /// The longest validity of a payment that is accepted.
        max_window: Duration = "24h",
        /// EVM: blocks that count as confirmed, 1 to 10,000. Without it 1, the block that holds the transaction.
        confirmations: u64,
        /// The symbol of the asset that prices in dollars are asked in; without it USDC, or the only one.
        asset: String,
        /// Assets of your own, by symbol; a known network brings its USDC.
        assets: Named<Asset> = {},
        /// When a settlement counts as done: in a block (EVM: of so many confirmations), or when the chain itself says that it can't
        /// be taken back.
        wait_for: WaitFor = "confirmed",
        /// The most the gateway pays for one settlement, in the chain's native unit. Without it 0.001 ether (EVM) or 0.0001
        /// SOL (Solana). EVM: above it the network is not offered.
        max_fee: String,
        /// The most that each signer may spend on fees within 24 hours, in the chain's native unit (EVM, Solana); beyond it the
        /// network is not offered. Without it there is no such limit.
        max_fee_per_day: String,
        /// What one native unit is worth in dollars, such as "2500" (EVM, Solana): with it an offer in dollars is made only while
        /// its price covers the settlement's expected fee. Without it prices and fees are not compared.
        native_usd: String,
        /// Cosmos: whether payments must carry a timeout height. Without it they need not: one that has none and that no node
        /// takes stays unfinished until its sequence is used.
        require_timeout_height: bool,
        /// How long a request waits for its settlement before it is answered "pending".
        settle_timeout: Duration = "30s",
        /// Settlements that may be under way at one time, for each signer; on Cosmos in all. 1 to 64, which is what holds
        /// without it (EVM), or 1 to 100,000, without it 256.
        max_settlements: u64,
        /// How long a payment over that limit waits for its turn, before it is answered 503 with nothing claimed.
        queue_timeout: Duration = "1s",
    }
}

section! {
    /// A token.
    struct Asset {
        /// The contract (EVM), mint (Solana) or denom (Cosmos).
        address: String => required,
        /// Digits after the point of one whole token, 0 to 36.
        decimals: u64 => required,
        /// EVM: the token's EIP-712 domain name.
        name: Lenient<String>,
        /// EVM: the token's EIP-712 domain version.
        version: Lenient<String>,
        /// Solana: Token-2022 extensions of the mint that are allowed although they could cheat, for example
        /// "transferFeeConfig".
        allow_extensions: List<String>,
        /// Whether it is a USD stablecoin, so that prices in dollars may be asked in it.
        usd: bool = false,
    }
}

section! {
    /// A route with more to say than its price.
    struct Route {
        /// "$0.01", "10000 USDC" (atomic units of one asset), "free" or "deny" (404).
        price: String => required,
        /// The upstream's name; without it the only one.
        upstream: String,
        /// The networks that are offered, in that order; without it all of them.
        networks: List<String>,
        /// What is sold, shown to payers; at most 500 characters.
        description: String = "",
        /// The answer's media type, shown to payers.
        mime_type: String = "",
        /// The answer's shape as a JSON Schema, shown to payers.
        output_schema: JsonObject,
        /// How the route is called, by example; catalogues of paid resources are told (x402's bazaar extension).
        input: Input,
        /// Whether [server] discovery lists the route; without discovery nothing is listed.
        discoverable: bool = true,
        /// How long a payer may take, in whole seconds.
        max_timeout: Duration = "60s",
        /// When the money moves: "before" the request goes to the origin, or "after" the origin has answered below 400, before
        /// its answer is let out; not on Cosmos, where a payer can spend the money elsewhere meanwhile.
        settle: SettleMode = "before",
        /// When a settlement counts as done; without it as the network says.
        wait_for: WaitFor,
        /// What a payer must write into the payment's memo (Solana, Cosmos), 1 to 256 bytes, so that it names this route on the chain.
        memo: String,
        /// For routes that earn for somebody else: an address for each network's name.
        pay_to: Named<String> = {},
        /// Whose words the 402 speaks, as in [server]; without it as there.
        dialects: List<Dialect>,
        /// Which requests a payer may present again after an origin failure: all, those that HTTP calls idempotent (GET, HEAD,
        /// PUT, DELETE and the like), or none, so that the payment is owed at once.
        redeliver: Redeliver = "always",
        /// The start of the path that the origin doesn't get.
        strip_prefix: String,
        /// The path that the origin gets instead; {name} stands for what a segment of the route's own path took.
        rewrite: String,
        /// Whether a request may become a WebSocket; the price then buys the connection.
        websocket: bool = false,
        /// How long a WebSocket may last.
        max_duration: Duration = "1h",
        /// Requests without a payment that one client address may make here, besides what [server.limits] says.
        unpaid_rate: Rate,
        /// The same for requests that present a payment, good or not.
        paid_rate: Rate,
        /// Requests that all clients together may make here.
        total_rate: Rate,
        /// Requests that each client address has free here, as "10/day"; beyond them it pays. Counted in memory: a restart
        /// begins anew.
        free_quota: Rate,
        /// Callers that pay in some other way, and are let through here without a payment.
        free_for: FreeFor,
        /// Whether v2 clients may ("optional") or must ("required") name a purchase, so that paying twice for one name is
        /// refused: x402's payment-identifier extension. v1 clients can't.
        payment_identifier: IdentifierRule = "off",
    }
}

section! {
    /// How a route is called, by example.
    struct Input {
        /// Query parameters, each with an example.
        query_params: JsonObject,
        /// What the body is: json, form-data or text; needed with body.
        body_type: Lenient<BodyKind>,
        /// An example of the body, field by field.
        body: JsonObject,
    }
}

impl Route {
    /// A route that says nothing but its price.
    pub fn with_defaults() -> Option<Self> {
        let empty = DeValue::parse("{ price = \"\" }").ok()?;
        Self::from_toml(&empty, &mut Reader::new(""))
    }
}

/// A route's value: a price or a table.
#[derive(Debug, Clone)]
pub(super) enum RouteValue {
    /// `"$0.01"`.
    Price(String),
    /// A table.
    Table(Box<Route>),
}

impl FromToml for RouteValue {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) => Some(Self::Price(text.to_string())),
            DeValue::Table(_) => Route::from_toml(node, reader).map(|route| Self::Table(Box::new(route))),
            other => {
                let message =
                    format!("expected a price such as \"$0.01\", or a table, got {}", super::reader::type_name(other));
                let hint = match other {
                    DeValue::Integer(_) | DeValue::Float(_) => {
                        "a price is a string with its currency: \"$0.01\" in dollars, \"10000 USDC\" in atomic units"
                    }
                    _ => "\"free\" forwards without payment, \"deny\" answers 404",
                };
                reader.wrong(node, &message, Some(hint.to_owned()));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "type": "string", "description": "A price." }, Route::schema()] })
    }
}

/// A chain id as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChainId {
    /// EVM.
    Number(u64),
    /// Cosmos.
    Text(String),
}

impl FromToml for ChainId {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) => Some(Self::Text(text.to_string())),
            _ => u64::from_toml(node, reader).map(Self::Number),
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [u64::schema(), { "type": "string" }] })
    }
}

/// A chain family as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `"evm"`.
    Evm,
    /// `"solana"`.
    Solana,
    /// `"cosmos"`.
    Cosmos,
}

/// A dialect as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `"x402"`.
    X402,
    /// `"vitwit"`.
    Vitwit,
}

/// A kind of payer as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayerKind {
    /// `"eoa"`.
    Eoa,
    /// `"contract"`.
    Contract,
}

impl Word for Kind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("evm", Self::Evm), ("solana", Self::Solana), ("cosmos", Self::Cosmos)];
}

impl Word for Dialect {
    const WORDS: &'static [(&'static str, Self)] = &[("x402", Self::X402), ("vitwit", Self::Vitwit)];
}

impl Word for PayerKind {
    const WORDS: &'static [(&'static str, Self)] = &[("eoa", Self::Eoa), ("contract", Self::Contract)];
}

impl Word for BodyKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("form-data", Self::FormData), ("text", Self::Text)];
}

impl Word for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("consistent-hash", Self::ConsistentHash),
    ];
}

impl Word for FrontDialect {
    const WORDS: &'static [(&'static str, Self)] =
        &[("nginx", Self::Nginx), ("traefik", Self::Traefik), ("caddy", Self::Caddy), ("envoy", Self::Envoy)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Word for WaitFor {
    const WORDS: &'static [(&'static str, Self)] = &[("confirmed", Self::Confirmed), ("finalized", Self::Finalized)];
}

impl Word for SettleMode {
    const WORDS: &'static [(&'static str, Self)] = &[("before", Self::Before), ("after", Self::After)];
}

impl Word for IdentifierRule {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

impl Word for Redeliver {
    const WORDS: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("idempotent", Self::Idempotent), ("never", Self::Never)];
}
