//! A whole shop, on whatever chain, and the audit at its end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tollhouse::ledger::{BooksReader, PaymentFilter, PaymentRecord, PaymentState, PostgresReader, SqliteReader};

use super::chain::Chain;
use super::chaos::{Chaos, Fault};
use super::gateway::Gateway;
use super::http::{Answer, Call};
use super::node::{Node, SIGNER};
use super::origin::{Hit, Origin};
use super::payer::{Header, Terms};
use super::solana::SolanaNode;
use super::{eventually, free_port};

/// The shop's name, whatever port it has.
pub const HOST: &str = "shop.test";
/// What `/api/data` costs: a cent.
pub const PRICE: u64 = 10_000;
/// Times a paid request may reach the origin (contract §3).
const DELIVERIES_MAX: usize = 2;
/// What the payer has at first.
pub const FUNDS: u64 = 100 * PRICE;

/// What a test wants to be different.
pub struct Plan {
    /// More lines of the network's table.
    pub network: String,
    /// More lines of `[server]`.
    pub server: String,
    /// More lines of `[admin]`.
    pub admin: String,
    /// What the node's URL ends with, as where access tokens stand (EVM).
    pub rpc_path: &'static str,
    /// More lines of `[upstreams.api]`.
    pub upstream: String,
    pub routes: String,
    /// Whether the facilitator API listens.
    pub is_facilitator: bool,
    /// More lines of `[forward_auth]`, if that listens.
    pub forward_auth: Option<&'static str>,
    /// The gas payer's key (EVM).
    pub signer: &'static str,
    /// The key of a second gas payer, if there is one (EVM).
    pub second_signer: Option<&'static str>,
    /// `[log] level`.
    pub log: &'static str,
    /// Whether the gateway talks to the node itself, past the proxy that counts and misbehaves.
    pub is_direct: bool,
    /// Whether priced routes settle after their requests, so that the origin hears of no transaction.
    pub settles_after: bool,
    /// `FAILPOINTS`.
    pub failpoints: String,
    /// A shell command that the gateway's process starts with.
    pub limit: Option<&'static str>,
    /// The URL of the PostgreSQL that holds the books, if they aren't in a file.
    pub ledger: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        let routes = "\"/health\" = \"free\"\n\"GET,POST /api/data\" = \"$0.01\"\n\"GET /api/other\" = \"$0.01\"\n";
        Self {
            network: String::new(),
            server: String::new(),
            admin: String::new(),
            rpc_path: "",
            upstream: String::new(),
            routes: routes.to_owned(),
            is_facilitator: false,
            forward_auth: None,
            signer: SIGNER,
            second_signer: None,
            log: "info,tollhouse=debug",
            is_direct: false,
            settles_after: false,
            failpoints: String::new(),
            limit: None,
            ledger: None,
        }
    }
}

pub struct Shop<N: Chain = Node> {
    pub plan: Plan,
    gateway: Option<Gateway>,
    pub node: Arc<N>,
    pub rpc: Chaos,
    pub origin: Arc<Origin>,
    pub payer: N::Payer,
    pub port: u16,
    pub admin_port: u16,
    pub facilitator_port: u16,
    pub forward_auth_port: u16,
    directory: TempDir,
}

impl Shop {
    pub async fn open() -> Self {
        Self::open_with(Plan::default()).await
    }

    /// Opens for business: the network is open when this returns.
    pub async fn open_with(plan: Plan) -> Self {
        let mut shop = Self::build(plan).await;
        shop.start().await;
        shop
    }

    /// Everything but the gateway runs.
    pub async fn build(plan: Plan) -> Self {
        Self::build_on(Arc::new(Node::start().await), plan).await
    }

    /// A shop on a chain where there may be others.
    pub async fn build_on(node: Arc<Node>, plan: Plan) -> Self {
        Self::on(node, plan).await
    }
}

impl Shop<SolanaNode> {
    /// As `open`, on Solana.
    pub async fn open_on_solana(plan: Plan) -> Self {
        let mut shop = Self::on(Arc::new(SolanaNode::start().await), plan).await;
        shop.start().await;
        shop
    }

    /// Opens on a chain whose blocks come this fast.
    pub async fn open_on_fast_solana(slot_millis: u64, plan: Plan) -> Self {
        let mut shop = Self::on(Arc::new(SolanaNode::start_with(slot_millis).await), plan).await;
        shop.start().await;
        shop
    }
}

impl<N: Chain> Shop<N> {
    async fn on(node: Arc<N>, plan: Plan) -> Self {
        let payer = node.fund_payer(FUNDS).await;
        let rpc = Chaos::start(node.port()).await;
        Self::with(node, Arc::new(Origin::start().await), payer, rpc, plan)
    }

    /// Another gateway of the same shop, not started yet: same chain, same origin, its own way to the node.
    pub async fn beside(&self, plan: Plan) -> Self {
        let payer = self.node.fund_payer(FUNDS).await;
        let rpc = Chaos::start(self.node.port()).await;
        Self::with(Arc::clone(&self.node), Arc::clone(&self.origin), payer, rpc, plan)
    }

    fn with(node: Arc<N>, origin: Arc<Origin>, payer: N::Payer, rpc: Chaos, plan: Plan) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            plan,
            gateway: None,
            node,
            rpc,
            origin,
            payer,
            port: 0,
            admin_port: 0,
            facilitator_port: 0,
            forward_auth_port: 0,
            directory,
        }
    }

    /// The routes that the gateway runs with.
    pub fn route_table(&self) -> tollhouse::route::RouteTable {
        let environment = self.node.environment(&self.plan);
        let lookup = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let config = tollhouse::config::load(&self.config(), &lookup).unwrap();
        tollhouse::route::RouteTable::build(&config.routes).unwrap()
    }

    /// What `tollhouse explain` says of a request.
    pub fn explain(&self, method: &str, url: &str) -> serde_json::Value {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollhouse"));
        command.args(["explain", method, url, "--json", "--config"]).arg(self.config());
        command.envs(self.node.environment(&self.plan));
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_error| panic!("{output:?}"))
    }

    /// What the gateway has written since it was started.
    pub fn log(&self) -> String {
        self.gateway.as_ref().map(Gateway::log).unwrap_or_default()
    }

    /// The running gateway.
    pub fn gateway(&mut self) -> &mut Gateway {
        self.gateway.as_mut().expect("the gateway was started")
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.gateway.as_ref().is_some_and(Gateway::is_alive)
    }

    /// The gateway's configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    pub fn ledger_file(&self) -> PathBuf {
        self.directory.path().join("tollhouse.db")
    }

    /// Writes the plan's configuration for the gateway that runs.
    pub fn rewrite_config(&self) {
        self.write_config();
    }

    /// The same without any network.
    pub fn rewrite_config_without_network(&self) {
        self.write_config();
        let text = std::fs::read_to_string(self.config()).unwrap();
        let (before, rest) = text.split_once("[networks.base-sepolia]").unwrap();
        let (_, routes) = rest.split_once("[routes]").unwrap();
        std::fs::write(self.config(), format!("{before}[routes]{routes}")).unwrap();
    }

    fn write_config(&self) {
        let Plan { server, admin, upstream, routes, log, .. } = &self.plan;
        let rpc_port = if self.plan.is_direct { self.node.port() } else { self.rpc.port };
        let facilitator = match self.plan.is_facilitator {
            true => format!("[facilitator]\nlisten = \"127.0.0.1:{}\"\n", self.facilitator_port),
            false => String::new(),
        };
        let forward_auth = match self.plan.forward_auth {
            Some(lines) => format!("[forward_auth]\nlisten = \"127.0.0.1:{}\"\n{lines}\n", self.forward_auth_port),
            None => String::new(),
        };
        let ledger = match self.plan.ledger {
            Some(_) => "[ledger]\nurl = { env = \"LEDGER_URL\" }\n",
            None => "",
        };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{}\"\n{server}\n\
             [admin]\nlisten = \"127.0.0.1:{}\"\n{admin}\n\
             {facilitator}{forward_auth}{ledger}\
             [log]\nlevel = \"{log}\"\n\
             [upstreams.api]\nservers = [\"127.0.0.1:{}\"]\n{upstream}\n\
             {}\n\
             [routes]\n{routes}",
            self.port,
            self.admin_port,
            self.origin.port,
            self.node.network(rpc_port, &self.plan),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Runs the gateway with a configuration of the plan, whatever comes of it.
    pub fn launch(&mut self) -> Gateway {
        (self.port, self.admin_port) = (free_port(), free_port());
        (self.facilitator_port, self.forward_auth_port) = (free_port(), free_port());
        self.write_config();
        let mut environment = self.node.environment(&self.plan);
        if let Some(url) = &self.plan.ledger {
            environment.push(("LEDGER_URL", url.clone()));
        }
        if !self.plan.failpoints.is_empty() {
            environment.push(("FAILPOINTS", self.plan.failpoints.clone()));
        }
        Gateway::spawn(&self.config(), &environment, self.plan.limit)
    }

    /// Runs a gateway that takes over from the one that runs, whatever comes of it.
    pub fn spawn_upgrade(&self) -> Gateway {
        let environment = self.node.environment(&self.plan);
        Gateway::spawn(&self.config(), &environment, Some("set -- \"$@\" --upgrade"))
    }

    /// Has another gateway take over; gives the one before, which is about to end.
    pub fn upgrade(&mut self) -> Gateway {
        let next = self.spawn_upgrade();
        self.gateway.replace(next).expect("the gateway was started")
    }

    /// Starts the gateway and waits until it takes payments.
    pub async fn start(&mut self) {
        self.start_until("/readyz").await;
    }

    /// Starts the gateway; false if it died of its fail points before it took payments.
    pub async fn try_start(&mut self) -> bool {
        let mut gateway = self.launch();
        let is_up = gateway.wait_ok(self.admin_port, "/readyz").await;
        self.gateway = Some(gateway);
        is_up
    }

    /// Starts the gateway and waits until the path on the operator's listener is 200.
    pub async fn start_until(&mut self, path: &str) {
        for _ in 0..5 {
            let mut gateway = self.launch();
            let is_up = gateway.wait_ok(self.admin_port, path).await;
            let log = gateway.log();
            self.gateway = Some(gateway);
            if is_up {
                return;
            }
            // Somebody else took the port meanwhile.
            assert!(log.contains("can't listen on"), "the gateway ended:\n{log}");
        }
        panic!("the gateway found no ports");
    }

    /// Kills and starts the gateway, now without fail points.
    pub async fn restart(&mut self) {
        self.gateway().kill();
        self.plan.failpoints.clear();
        self.plan.limit = None;
        self.start().await;
    }

    pub async fn try_call(&self, call: &Call) -> std::io::Result<Answer> {
        call.send(self.port).await
    }

    pub async fn call(&self, call: &Call) -> Answer {
        self.try_call(call).await.unwrap_or_else(|error| panic!("{} {}: {error}", call.method, call.target))
    }

    pub async fn terms(&self) -> Terms {
        Terms::read(&self.call(&Call::get("/api/data")).await)
    }

    /// An honest payment for `/api/data`, not presented yet.
    pub async fn payment(&self) -> N::Payment {
        self.node.pay(&self.payer, &self.terms().await).await
    }

    /// `GET /api/data` with a payment header.
    pub async fn present(&self, header: &Header) -> Answer {
        self.call(&paid(header)).await
    }

    /// As `present`, where the gateway may be gone before it answers.
    pub async fn try_present(&self, header: &Header) -> std::io::Result<Answer> {
        self.try_call(&paid(header)).await
    }

    /// Pays and gets the answer.
    pub async fn buy(&self) -> N::Payment {
        let payment = self.payment().await;
        let answer = self.present(&N::header(&payment)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        payment
    }

    /// Presents a payment until it is neither in progress nor pending.
    pub async fn present_until_decided(&self, header: &Header) -> Answer {
        eventually("a decision", Duration::from_secs(40), || async {
            let answer = self.present(header).await;
            let is_undecided = matches!(answer.status, 409 | 503)
                && matches!(
                    answer.error().as_str(),
                    "payment_in_progress" | "settlement_pending" | "payments_unavailable"
                );
            assert!(!(is_undecided && answer.has_terms()), "terms while undecided: {answer:?}");
            (!is_undecided).then_some(answer)
        })
        .await
    }

    /// All rows of the books, newest first.
    pub async fn rows(&self) -> Vec<PaymentRecord> {
        let reader = match &self.plan.ledger {
            Some(url) => BooksReader::Postgres(PostgresReader::open(url).await.unwrap()),
            None => BooksReader::Sqlite(SqliteReader::open(&self.ledger_file()).await.unwrap()),
        };
        let rows = reader.list(&PaymentFilter::default()).await.unwrap();
        reader.close().await;
        rows
    }

    pub async fn wait_state(&self, state: PaymentState) -> PaymentRecord {
        eventually(&format!("a row that is {state}"), Duration::from_secs(20), || async {
            self.rows().await.into_iter().find(|row| row.state == state)
        })
        .await
    }

    /// Until it is written down that every answer arrived.
    pub async fn wait_booked(&self) {
        eventually("served rows only", Duration::from_secs(20), || async {
            self.rows().await.iter().all(|row| row.state == PaymentState::Served).then_some(())
        })
        .await;
    }

    /// Starts to present a payment and comes back when the gateway is about to send its settlement, which is held.
    /// What is returned is the client's connection.
    pub async fn present_and_hold(&self, call: &Call) -> TcpStream {
        let sent = self.rpc.count(N::SEND);
        self.rpc.set(N::SEND, Fault::Hold);
        let client = call.open(self.port).await.unwrap();
        self.rpc.wait_for(N::SEND, sent).await;
        client
    }

    /// Nobody was charged, nothing was written, nothing reached the origin.
    pub async fn assert_untouched(&self) {
        assert_eq!(self.node.moved().await, []);
        assert_eq!(self.rows().await.len(), 0);
        assert_eq!(self.priced_hits(), 0);
        assert_eq!(self.rpc.count(N::SEND), 0);
    }

    pub fn priced_hits(&self) -> usize {
        self.origin.hits().iter().filter(|hit| hit.target.starts_with("/api/")).count()
    }

    /// One transfer, one hit, one row that is served.
    pub async fn assert_sold_once(&self) {
        assert_eq!(self.node.moved().await.len(), 1);
        assert_eq!(self.priced_hits(), 1);
        self.wait_state(PaymentState::Served).await;
        assert_eq!(self.rows().await.iter().filter(|row| row.state == PaymentState::Served).count(), 1);
    }

    /// Chain, books, origin and log must tell one story (threats §0.4).
    pub async fn audit(self) {
        self.audit_but(&[]).await;
    }

    /// As `audit`, for a chain on which others moved money past the gateway in these transactions.
    pub async fn audit_but(mut self, foreign: &[String]) {
        // In the order of causes, last first: where the gateway goes on meanwhile, whatever is seen here is in what is read next.
        let (hits, sent) = (self.origin.hits(), self.rpc.calls(N::SEND));
        let transfers = self.node.moved().await;
        let rows = self.rows().await;
        let mut keys: Vec<_> = transfers.iter().map(|transfer| &transfer.authorization).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), transfers.len(), "I2: an authorization moved money twice: {transfers:?}");
        for transfer in transfers.iter().filter(|transfer| !foreign.contains(&transfer.transaction)) {
            let settled_by = |row: &&PaymentRecord| {
                row.settlement.as_ref().is_some_and(|settlement| settlement.transaction == transfer.transaction)
            };
            let own: Vec<_> = rows.iter().filter(settled_by).collect();
            assert_eq!(own.len(), 1, "I3: rows of {transfer:?}");
            let has_recourse = matches!(
                own[0].state,
                PaymentState::Paid | PaymentState::Delivering | PaymentState::Served | PaymentState::Owed
            );
            assert!(has_recourse, "I3: {:?}", own[0]);
            assert_eq!(own[0].claim.amount.value(), transfer.value, "I4");
        }
        let transactions: Vec<_> = transfers.iter().map(|transfer| transfer.transaction.as_str()).collect();
        self.audit_hits(hits, &transactions, &rows);
        Self::audit_sent(&sent, &rows);
        self.audit_log(&rows);
        self.gateway().kill();
    }

    /// I1 and I2: what reached the origin was paid, and not delivered too often.
    fn audit_hits(&self, hits: Vec<Hit>, transactions: &[&str], rows: &[PaymentRecord]) {
        let mut delivered: HashMap<String, Vec<String>> = HashMap::new();
        for hit in hits.into_iter().filter(|hit| hit.target.starts_with("/api/")) {
            let payment = match hit.header("x-payment-transaction") {
                Some(transaction) => {
                    assert!(transactions.contains(&transaction), "I1: {transaction} moved nothing");
                    let is_settled_by = |row: &&PaymentRecord| {
                        row.settlement.as_ref().is_some_and(|settlement| settlement.transaction == transaction)
                    };
                    rows.iter().find(is_settled_by)
                }
                None => {
                    assert!(self.plan.settles_after, "I1: a priced hit without payment");
                    rows.iter().find(|row| hit.header("idempotency-key") == Some(row.record.0.as_str()))
                }
            };
            let id = payment.expect("I1: a hit that no row accounts for").claim.id.0.clone();
            delivered.entry(id).or_default().push(format!("{} {}", hit.method, hit.target));
        }
        for (transaction, mut requests) in delivered {
            assert!(requests.len() <= DELIVERIES_MAX, "I2: {transaction} was delivered {} times", requests.len());
            requests.dedup();
            assert_eq!(requests.len(), 1, "I2: {transaction} bought several requests");
        }
    }

    /// I5: what the node was sent is in the books, but for what moves nothing.
    fn audit_sent(sent: &[serde_json::Value], rows: &[PaymentRecord]) {
        let known: Vec<_> =
            rows.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.signed.transaction.as_str()).collect();
        for params in sent {
            if let Some(transaction) = N::sent(params) {
                assert!(known.contains(&transaction.as_str()), "I5: sent but not written: {transaction}");
            }
        }
    }

    /// I8: neither keys nor signatures are in the log.
    fn audit_log(&self, rows: &[PaymentRecord]) {
        let log = std::fs::read_to_string(self.directory.path().join("gateway.log")).unwrap().to_lowercase();
        for (_, secret) in self.node.environment(&self.plan) {
            assert!(secret.is_empty() || !log.contains(&secret.to_lowercase()), "I8: the key is in the log");
        }
        assert!(!log.contains(super::PASSWORD), "I8: the database's password is in the log");
        for row in rows {
            let payload: serde_json::Value = serde_json::from_str(&row.claim.payload).unwrap();
            let secret = N::payment_secret(&payload).to_lowercase();
            assert!(!secret.is_empty() && !log.contains(&secret), "I8: a payment is in the log");
        }
    }
}

/// `GET /api/data` with a payment header.
pub fn paid(header: &Header) -> Call {
    Call::get("/api/data").with(header.0, header.1.clone())
}
