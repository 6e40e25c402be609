//! From a configuration file to a gateway: everything that can be known before a port is bound, then the parts wired.
//!
//! The only place that knows every part. Decides nothing itself.

mod gauges;
mod networks;
mod reload;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::admin::{AdminParts, InForce, Reload};
use crate::chain::{self, Chain, ChainError, ChainObserver, RpcOutcome};
use crate::config::{
    self, AccessLogTarget, BodyKind, Config, Diagnostics, LedgerUrl, Location, NetworkConfig, PaidRoute, RouteAction,
    RouteConfig, RouteOffer, Secret, ServerConfig,
};
use crate::facilitator::FacilitatorParts;
use crate::ledger::{
    AwaitedLedger, Ledger, LedgerError, PaymentFilter, PaymentRecord, PaymentState, PostgresLedger, SqliteLedger,
};
use crate::payment::scheme::Scheme;
use crate::payment::{Clearing, Gate, GateRules, Market, Payable, PricedOffer, PricedRoute, Queue};
use crate::protocol::{BodyType, EXACT, MEMO_KEY, Offer, PaymentRequirements, QuoteKey, ResourceInfo, Usage};
use crate::proxy::{Current, Parts, check_files};
use crate::route::RouteTable;
use crate::server::tls;
use crate::telemetry::{AccessLog, AccessTarget, ExporterError, Metrics, Observers, Tracer, TracerConfig};
use crate::types::{AccountId, AtomicAmount, Clock, Network, SystemClock, UnixMillis};
use networks::Business;
pub use reload::Reloader;

/// How long a start waits for its chains before it goes on without those that don't answer.
const VERIFY_PATIENCE: Duration = Duration::from_secs(5);

/// The ledger's name for the key that seals quotes.
const QUOTE_KEY_NAME: &str = "quote_key";

/// A configuration that could run: nothing in it is left to be found wrong but by the chains and the machine.
pub struct Blueprint {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its routes.
    pub routes: RouteTable,
    /// Its networks.
    pub chains: Vec<Arc<dyn Chain>>,
    priced: Vec<Option<Arc<PricedRoute>>>,
    markets: HashMap<Network, Arc<Market>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A chain is not what the configuration says.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// The books can't be opened or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The books hold payments that only a network which is not configured can finish (contract §4).
    #[error(
        "{count} unfinished payments are on {network}, which is not in the configuration; keep it there until they have ended"
    )]
    NetworkStillNeeded {
        /// The network.
        network: Network,
        /// How many.
        count: usize,
    },
    /// A key can't be used or made.
    #[error("the quote key can't be used: {0}")]
    QuoteKey(&'static str),
    /// The access log can't be opened.
    #[error("log.access: {0}")]
    AccessLog(std::io::Error),
    /// Traces can't be exported.
    #[error("telemetry: {0}")]
    Tracer(#[from] ExporterError),
}

/// A gateway's parts, ready to be served.
pub struct App {
    /// For the public listener.
    pub parts: Parts,
    /// For the operator's listener.
    pub admin: AdminParts,
    /// For the facilitator's listener, if there is one.
    pub facilitator: Option<FacilitatorParts>,
    /// The money path.
    pub gate: Arc<Gate>,
    /// The books.
    pub ledger: Arc<dyn Ledger>,
    /// Who takes up a changed configuration.
    pub reloader: Arc<Reloader>,
    /// Traces and the access log, which are to be flushed at the end.
    pub observers: Observers,
    /// Books that another gateway still has.
    awaited: Option<Arc<AwaitedLedger>>,
}

impl App {
    /// What is left to do once requests are served: takes over the books if another gateway still has them, and from then on
    /// looks after payments. To be run on the runtime of money.
    pub fn begin(&self) -> impl Future<Output = ()> + Send + 'static {
        let (awaited, gate, ledger) = (self.awaited.clone(), Arc::clone(&self.gate), Arc::clone(&self.ledger));
        let (server, clock) = (Arc::clone(&self.parts.config), Arc::clone(&self.parts.clock));
        async move {
            if let Some(awaited) = awaited {
                if awaited.take().await.is_err() {
                    // Whoever waits for the ledger to halt is told why.
                    return;
                }
                tracing::info!("The ledger is this gateway's.");
                while let Err(error) = gate.recover_deliveries().await {
                    tracing::error!(%error, "What the gateway before left over could not be put back; trying again.");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                awaited.set_in_order();
                let markets = gate.markets();
                if let Err(error) = refuse_orphans(ledger.as_ref(), &server.server, &markets, clock.now()).await {
                    tracing::error!(%error, "Payments were left over that nobody looks after.");
                }
            }
            gate.look_after().await;
        }
    }
}

struct Observer(Arc<Metrics>);

impl ChainObserver for Observer {
    fn rpc(&self, network: &Network, method: &str, outcome: RpcOutcome, took: Duration) {
        self.0.rpc(network.as_str(), method, outcome.as_str(), took);
    }
}

impl Blueprint {
    /// Reads and checks a configuration as far as that can be done without asking anybody.
    ///
    /// # Errors
    /// Every mistake, each with its place.
    pub fn read(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Diagnostics> {
        Self::read_with(file, env, None)
    }

    /// As [`Self::read`]; what its networks do is counted in the metrics of a gateway that runs.
    fn read_with(
        file: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, Diagnostics> {
        let mut parsed = config::read(file, env);
        let metrics = metrics.map_or_else(|| Metrics::new().map(Arc::new), Ok);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut built = None;
        if let (Some(config), Ok(metrics)) = (&parsed.config, &metrics) {
            let observer: Arc<dyn ChainObserver> = Arc::new(Observer(Arc::clone(metrics)));
            let routes = RouteTable::build(&config.routes);
            let chains = chain::build(config, &clock, &observer);
            let mut mistakes = Vec::new();
            for error in tls::load(&config.server.tls).err().into_iter().flatten() {
                let (location, message) = (error.location, format!("server.tls: {}", error.message));
                mistakes.push(config::Diagnostic { location, message, hint: None });
            }
            for upstream in &config.upstreams {
                if let Err(why) = check_files(upstream) {
                    let location = upstream.tls_client.as_ref().map_or(Location::default(), |client| client.location);
                    let message = format!("upstreams.{}: {why}", upstream.name);
                    mistakes.push(config::Diagnostic { location, message, hint: None });
                }
            }
            match (routes, chains) {
                (Ok(routes), Ok(chains)) => {
                    let markets = markets(config, &chains);
                    match price(config, &markets) {
                        Ok(priced) => built = Some((routes, chains, priced, markets)),
                        Err(list) => mistakes.extend(list),
                    }
                }
                (routes, chains) => {
                    mistakes.extend(routes.err().into_iter().flatten());
                    mistakes.extend(chains.err().into_iter().flatten());
                }
            }
            for mistake in mistakes {
                parsed.diagnostics.add(mistake.location, mistake.message, mistake.hint);
            }
        }
        if let Err(error) = &metrics {
            parsed.diagnostics.add(config::Location { line: 1, column: 1 }, format!("metrics: {error}"), None);
        }
        let diagnostics = parsed.diagnostics.clone();
        let config = Arc::new(parsed.into_result()?);
        match (built, metrics) {
            (Some((routes, chains, priced, markets)), Ok(metrics)) => {
                Ok(Self { config, routes, chains, priced, markets, metrics, clock })
            }
            _ => Err(diagnostics),
        }
    }

    /// The priced routes by their index in the configuration; nothing where a route isn't priced.
    #[must_use]
    pub fn priced(&self) -> &[Option<Arc<PricedRoute>>] {
        &self.priced
    }

    /// Compares every chain with the configuration, all at once, within a few seconds.
    ///
    /// # Errors
    /// The first chain that disagrees. One that does not answer is only told of in the log: it is offered once it does.
    pub async fn verify_chains(&self) -> Result<(), ChainError> {
        let checks = self.chains.iter().map(|chain| async move {
            match tokio::time::timeout(VERIFY_PATIENCE, chain.verify_chain()).await {
                Ok(Err(error @ ChainError::Mismatch { .. })) => Err(error),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "A network does not answer; it is offered once it does.");
                    Ok(())
                }
                Ok(Ok(())) => Ok(()),
                Err(_elapsed) => {
                    tracing::warn!(network = %chain.network(), "A network does not answer; it is offered once it does.");
                    Ok(())
                }
            }
        });
        futures::future::join_all(checks).await.into_iter().collect()
    }

    /// Opens the books, checks the chains and starts the money path on `runtime`.
    ///
    /// # Errors
    /// When the books can't be opened or a chain is not what the configuration says. Nothing listens then.
    ///
    /// With `awaits`, another gateway may still have the books: requests can be served meanwhile, and payments are taken once it
    /// has let go of them.
    pub async fn start(self, runtime: Handle, awaits: bool) -> Result<App, StartError> {
        let observers = self.observers(&runtime)?;
        let (ledger, awaited) = self.open_ledger(awaits).await?;
        let quote_key = self.quote_key(ledger.as_ref()).await?;
        refuse_orphans(ledger.as_ref(), &self.config.server, &self.markets, self.clock.now()).await?;
        self.verify_chains().await?;
        for chain in &self.chains {
            Arc::clone(chain).start();
        }
        let server = &self.config.server;
        let rules = GateRules {
            deliveries_max: server.max_deliveries,
            redeliver_for: server.redeliver_for,
            retention: self.config.ledger.retention,
        };
        let payables = payables(&self.config, &self.markets);
        let current = Arc::<Current>::default();
        let has_priced_routes = Arc::new(AtomicBool::new(self.priced.iter().any(Option::is_some)));
        let business =
            Business { config: Arc::clone(&self.config), chains: self.chains.clone(), markets: self.markets.clone() };
        let gate = Gate::new(
            ledger.clone(),
            self.markets,
            quote_key,
            rules,
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
            runtime.clone(),
        );
        let in_force = Arc::new(InForce::new(Arc::clone(&self.config), business.watched()));
        let clearing = Arc::new(Clearing::new(Arc::clone(&gate), payables, business.signers()));
        let (business, watched_business) = watch::channel(business);
        let reloader = Arc::new(Reloader {
            file: self.config.file.clone(),
            business: tokio::sync::Mutex::new(business),
            gate: Arc::clone(&gate),
            runtime: runtime.clone(),
            metrics: Arc::clone(&self.metrics),
            ledger: ledger.clone(),
            clock: Arc::clone(&self.clock),
            current: Arc::clone(&current),
            has_priced_routes: Arc::clone(&has_priced_routes),
            clearing: Arc::clone(&clearing),
            access: observers.access.clone(),
            in_force: Arc::clone(&in_force),
        });
        if awaited.is_none() {
            gate.recover_deliveries().await?;
        } else {
            for market in gate.markets().values() {
                market.is_offered_early.store(true, Ordering::Relaxed);
            }
        }
        runtime.spawn(gauges::keep(watched_business, Arc::clone(&self.metrics)));
        let admin = AdminParts {
            config: self.config.admin.clone(),
            in_force,
            has_priced_routes,
            reloader: Some(Arc::clone(&reloader) as Arc<dyn Reload>),
            ledger: ledger.clone(),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
        };
        let facilitator = self.config.facilitator.clone().map(|config| FacilitatorParts {
            config,
            clearing,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        });
        let parts = Parts {
            config: self.config,
            routes: self.routes,
            priced: self.priced,
            gate: Arc::clone(&gate),
            clock: self.clock,
            metrics: self.metrics,
            observers: observers.clone(),
            current,
        };
        Ok(App { parts, admin, facilitator, gate, ledger, reloader, observers, awaited })
    }

    fn observers(&self, runtime: &Handle) -> Result<Observers, StartError> {
        let target = self.config.log.access.as_ref().map(|target| match target {
            AccessLogTarget::Stdout => AccessTarget::Stdout,
            AccessLogTarget::File(path) => AccessTarget::File(path.clone()),
        });
        let access = target.map(|target| AccessLog::open(target, Arc::clone(&self.metrics))).transpose();
        let access = access.map_err(StartError::AccessLog)?.map(Arc::new);
        let tracer = self.config.telemetry.as_ref().map(|telemetry| {
            let headers = telemetry.headers.iter();
            let config = TracerConfig {
                endpoint: telemetry.otlp_endpoint.clone(),
                service_name: telemetry.service_name.clone(),
                sampled_ppm: telemetry.sampled_ppm,
                headers: headers.map(|(name, value)| (name.to_string(), value.expose().to_owned())).collect(),
            };
            Tracer::start(&config, Arc::clone(&self.metrics), runtime)
        });
        Ok(Observers { tracer: tracer.transpose()?, access })
    }

    async fn open_ledger(&self, awaits: bool) -> Result<(Arc<dyn Ledger>, Option<Arc<AwaitedLedger>>), LedgerError> {
        let metrics = Arc::clone(&self.metrics);
        let observer = Arc::new(move |operation: &'static str, took| metrics.ledger(operation, took));
        let clock = Arc::clone(&self.clock);
        Ok(match &self.config.ledger.url {
            LedgerUrl::Sqlite(path) if awaits => {
                let awaited = Arc::new(AwaitedLedger::new(path, clock, observer).await?);
                (Arc::clone(&awaited) as Arc<dyn Ledger>, Some(awaited))
            }
            LedgerUrl::Sqlite(path) => (Arc::new(SqliteLedger::open_observed(path, clock, observer).await?), None),
            LedgerUrl::Postgres(url) => {
                (Arc::new(PostgresLedger::open_observed(url.expose(), clock, observer).await?), None)
            }
        })
    }

    /// The configured key, or the one that this ledger made for all who share it (contract §1.3).
    async fn quote_key(&self, ledger: &dyn Ledger) -> Result<QuoteKey, StartError> {
        let text = match self.config.server.quote_key.as_ref().map(Secret::expose) {
            Some(key) => key.to_owned(),
            None => {
                let mut bytes = [0_u8; 32];
                getrandom::fill(&mut bytes).map_err(|_error| StartError::QuoteKey("no randomness"))?;
                let fresh = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                ledger.value_or_insert(QUOTE_KEY_NAME, fresh).await?
            }
        };
        QuoteKey::new(text.as_bytes()).ok_or(StartError::QuoteKey("not usable with HMAC"))
    }
}

/// Nobody would look after an unfinished payment whose network is gone from the configuration.
async fn refuse_orphans(
    ledger: &dyn Ledger,
    server: &ServerConfig,
    markets: &HashMap<Network, Arc<Market>>,
    now: UnixMillis,
) -> Result<(), StartError> {
    let open = open_payments(ledger, server, now).await?;
    let Some(orphan) = open.iter().find(|row| !markets.contains_key(&row.claim.network)) else {
        return Ok(());
    };
    let network = orphan.claim.network.clone();
    let count = count_on(&open, &network);
    Err(StartError::NetworkStillNeeded { network, count })
}

/// Payments that can't do without their network: those that it has yet to settle, and those that it settled and that may
/// still be presented for their answer, which takes somebody who can read them.
async fn open_payments(
    ledger: &dyn Ledger,
    server: &ServerConfig,
    now: UnixMillis,
) -> Result<Vec<PaymentRecord>, LedgerError> {
    use PaymentState::{Claimed, Delivering, Forwarded, Paid, Signed};
    let states = vec![Claimed, Forwarded, Signed, Paid, Delivering];
    let mut rows = ledger.list(&PaymentFilter { states, ..PaymentFilter::default() }).await?;
    let redeliver_for = i64::try_from(server.redeliver_for.as_millis()).unwrap_or(i64::MAX);
    let settled_after = UnixMillis(now.0.saturating_sub(redeliver_for));
    rows.retain(|row| row.state != Paid || row.paid_at.is_some_and(|paid_at| paid_at >= settled_after));
    Ok(rows)
}

fn count_on(open: &[PaymentRecord], network: &Network) -> usize {
    open.iter().filter(|row| row.claim.network == *network).count()
}

fn markets(config: &Config, chains: &[Arc<dyn Chain>]) -> HashMap<Network, Arc<Market>> {
    let find = |network: &NetworkConfig| chains.iter().find(|chain| *chain.network() == network.network).cloned();
    config
        .networks
        .iter()
        .filter_map(|network| {
            let market = Market {
                scheme: find(network)? as Arc<dyn Scheme>,
                wait_for: network.wait_for,
                confirmations: network.confirmations(),
                pay_to_exclusive: network.pay_to_exclusive,
                settle_timeout: network.settle_timeout,
                queue: Queue::new(network.settlements_max, network.queue_timeout),
                is_offered_early: AtomicBool::new(false),
            };
            Some((network.network.clone(), Arc::new(market)))
        })
        .collect()
}

fn price(
    config: &Config,
    markets: &HashMap<Network, Arc<Market>>,
) -> Result<Vec<Option<Arc<PricedRoute>>>, Vec<config::Diagnostic>> {
    let mut mistakes = Vec::new();
    let mut priced = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let mistake = |message: String, hint: &str| config::Diagnostic {
            location: route.location,
            message,
            hint: Some(hint.to_owned()),
        };
        match price_route(route, config.server.discovery, markets) {
            Ok(route) => priced.push(route),
            Err(error) => mistakes.push(mistake(
                format!("route `{}`: {error}", route.key),
                "offer fewer networks, or shorten description, output_schema and input",
            )),
        }
    }
    if mistakes.is_empty() { Ok(priced) } else { Err(mistakes) }
}

fn price_route(
    route: &RouteConfig,
    has_discovery: bool,
    markets: &HashMap<Network, Arc<Market>>,
) -> Result<Option<Arc<PricedRoute>>, crate::protocol::ChallengeError> {
    let RouteAction::Paid(paid) = &route.action else { return Ok(None) };
    let offers = paid
        .offers
        .iter()
        .filter_map(|offer| {
            let market = markets.get(&offer.network).map(Arc::clone)?;
            let terms = terms(offer, paid.max_timeout, market.scheme.as_ref());
            Some(PricedOffer { offer: Offer::new(&route.key, terms), market, wait_for: offer.wait_for })
        })
        .collect();
    let resource = ResourceInfo {
        description: paid.description.clone(),
        mime_type: paid.mime_type.clone(),
        output_schema: paid.output_schema.clone(),
        usage: ((has_discovery || paid.input.is_some()) && paid.discoverable).then(|| usage(route, paid)),
        identifier: paid.payment_identifier,
    };
    PricedRoute::new(route.key.clone(), offers, resource, paid.vitwit).map(Arc::new).map(Some)
}

/// How a route is called, in the protocol's words.
fn usage(route: &RouteConfig, paid: &PaidRoute) -> Usage {
    let input = paid.input.clone().unwrap_or_default();
    let kind = |kind| match kind {
        BodyKind::Json => BodyType::Json,
        BodyKind::FormData => BodyType::FormData,
        BodyKind::Text => BodyType::Text,
    };
    Usage {
        methods: route.methods.iter().map(ToString::to_string).collect(),
        path: route.path.clone(),
        query_params: input.query_params,
        body: input.body.map(|(typed, example)| (kind(typed), example)),
    }
}

fn terms(offer: &RouteOffer, max_timeout: Duration, scheme: &dyn Scheme) -> PaymentRequirements {
    let mut extra = scheme.terms_extra(&offer.asset.id);
    if let Some(memo) = &offer.memo {
        extra.insert(MEMO_KEY.to_owned(), Value::from(memo.as_str()));
    }
    PaymentRequirements {
        scheme: EXACT.to_owned(),
        network: offer.network.clone(),
        amount: offer.amount,
        asset: offer.asset.id.clone(),
        pay_to: offer.pay_to.clone(),
        max_timeout_seconds: max_timeout.as_secs(),
        extra,
    }
}

/// Whom the facilitator settles to: everybody whom the configuration names, in every asset of their network.
fn payables(config: &Config, markets: &HashMap<Network, Arc<Market>>) -> Vec<Payable> {
    let mut payables = Vec::new();
    for network in &config.networks {
        let Some(market) = markets.get(&network.network) else { continue };
        let of_routes = config.routes.iter().flat_map(|route| match &route.action {
            RouteAction::Paid(paid) => paid.offers.as_slice(),
            RouteAction::Free | RouteAction::Deny => &[],
        });
        let of_routes = of_routes.filter(|offer| offer.network == network.network).map(|offer| &offer.pay_to);
        let payees: BTreeSet<&AccountId> = of_routes.chain([&network.pay_to]).collect();
        for (pay_to, asset) in
            payees.into_iter().flat_map(|payee| network.assets.iter().map(move |asset| (payee, asset)))
        {
            let offer = RouteOffer {
                network: network.network.clone(),
                asset: asset.clone(),
                amount: AtomicAmount::from(0),
                pay_to: pay_to.clone(),
                memo: None,
                wait_for: network.wait_for,
            };
            payables.push(Payable {
                terms: terms(&offer, Duration::ZERO, market.scheme.as_ref()),
                wait_for: network.wait_for,
                decimals: asset.decimals,
                ceiling: asset.is_usd.then_some(config.server.max_price),
            });
        }
    }
    payables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{ClaimOutcome, Holder, NewAttempt, NewPayment, PaymentId, Settlement};
    use crate::types::{AccountId, AssetId, AtomicAmount, UnixMillis};

    const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

    fn payment(network: &Network, signer: &AccountId) -> NewPayment {
        NewPayment {
            id: PaymentId("left over".to_owned()),
            payload_digest: [1; 32],
            fingerprint: [2; 32],
            redeliverable: true,
            holder: Holder::Quote([3; 32]),
            route: "/a".to_owned(),
            request: "GET /a".to_owned(),
            terms: "{}".to_owned(),
            wait_for: "confirmed".to_owned(),
            confirmations: 1,
            pay_to_exclusive: false,
            network: network.clone(),
            asset: AssetId::new("0xToken").unwrap(),
            payer: AccountId::new("0xPayer").unwrap(),
            pay_to: AccountId::new(PAY_TO).unwrap(),
            amount: AtomicAmount::from(1),
            payload: "{}".to_owned(),
            valid_until: UnixMillis::from_secs(4_000_000_000),
            signer: Some(signer.clone()),
            claimed_at: SystemClock.now(),
            identifier: None,
        }
    }

    #[tokio::test]
    async fn a_gateway_does_not_start_without_a_network_whose_payers_have_yet_to_come_for_their_answers() {
        for (redeliver_for, is_needed) in [("24h", true), ("1ms", false)] {
            let started = start_without_network(redeliver_for, true).await;
            assert_eq!(started.is_err_and(|error| matches!(error, StartError::NetworkStillNeeded { .. })), is_needed);
        }
    }

    #[tokio::test]
    async fn a_gateway_does_not_start_without_a_network_that_open_payments_need() {
        match start_without_network("24h", false).await {
            Err(StartError::NetworkStillNeeded { network, count: 1 }) => assert_eq!(network, Network::evm(8453)),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
    }

    /// Starts on books that hold one payment on a network which the configuration doesn't name, signed or already paid.
    async fn start_without_network(redeliver_for: &str, is_paid: bool) -> Result<App, StartError> {
        // The binary does this first thing.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (gone, signer) = (Network::evm(8453), AccountId::new("0xGas").unwrap());
        let ledger = SqliteLedger::open(&folder.path().join("tollhouse.db"), Arc::new(SystemClock)).await.unwrap();
        ledger.lease_signer(&gone, &signer, 0).await.unwrap();
        let by = signer.clone();
        let sign = Box::new(move |account_nonce| {
            let (transaction, fee_max) = ("0xtx".to_owned(), "1".to_owned());
            Ok(NewAttempt { signer: Some(by), account_nonce, transaction, raw: vec![1], fee_max })
        });
        let ClaimOutcome::Claimed(row) = ledger.claim(payment(&gone, &signer), sign).await.unwrap() else {
            panic!("not claimed")
        };
        if is_paid {
            let settlement = Settlement {
                transaction: "0xtx".to_owned(),
                block: 1,
                block_hash: "0xblock".to_owned(),
                is_external: false,
                fee: None,
            };
            ledger.record_paid(&row.record, settlement, false).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.close().await;
        let file = folder.path().join("gateway.toml");
        let text = format!(
            "[upstreams.api]\nservers = [\"127.0.0.1:9\"]\n[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:9\"\n\
             signer = {{ env = \"KEY\" }}\npay_to = \"{PAY_TO}\"\n[server]\nredeliver_for = \"{redeliver_for}\"\n\
             [routes]\n\"/a\" = \"$0.01\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let blueprint = Blueprint::read(&file, &|_| Some("11".repeat(32))).unwrap();
        blueprint.start(Handle::current(), false).await
    }
}
