//! The money path without sockets: a scripted chain, a real ledger.

pub(crate) mod chain;
mod clearing;
mod redelivery;
mod settling;
mod verifying;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::chain::FakeChain;
use super::*;
use crate::ledger::{Ledger, PaymentState, SqliteLedger};
use crate::protocol::{Offer, PaymentRequirements, QuoteKey, QuoteNonce, ResourceInfo};
use crate::telemetry::Metrics;
use crate::types::{AccountId, Clock, ManualClock, Network, UnixMillis, WaitFor};

/// Room for settlements.
const SETTLEMENTS_MAX: usize = 30;
const ROUTE: &str = "GET /a";
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Whether it is up, and whether it has room.
struct Origin(AtomicBool, AtomicBool);

#[async_trait]
impl OriginProbe for Origin {
    async fn is_up(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    async fn reserve(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

/// A gate over a scripted chain and an SQLite ledger.
struct Shop {
    gate: Arc<Gate>,
    chain: Arc<FakeChain>,
    ledger: Arc<dyn Ledger>,
    route: PricedRoute,
    clock: ManualClock,
    origin: Origin,
    _folder: tempfile::TempDir,
}

fn terms(amount: u64) -> PaymentRequirements {
    serde_json::from_value(
        json!({"scheme":"exact","network":"eip155:84532","amount":amount.to_string(),"asset":"0xToken",
        "payTo":"0xShop","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}}),
    )
    .unwrap()
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(UnixMillis::from_secs(1_000_000));
        let ledger: Arc<dyn Ledger> =
            Arc::new(SqliteLedger::open(&folder.path().join("t.db"), Arc::new(clock.clone())).await.unwrap());
        ledger.lease_signer(&Network::evm(84532), &AccountId::new("0xGas").unwrap(), 0).await.unwrap();
        let chain = Arc::new(FakeChain::new(Network::evm(84532)));
        let market = Arc::new(Market {
            scheme: chain.clone(),
            wait_for: WaitFor::Confirmed,
            confirmations: 1,
            pay_to_exclusive: false,
            settle_timeout: Duration::from_millis(300),
            queue: Queue::new(SETTLEMENTS_MAX, Duration::from_millis(50)),
            is_offered_early: false.into(),
        });
        let offer = PricedOffer {
            offer: Offer::new(ROUTE, terms(10_000)),
            market: market.clone(),
            wait_for: WaitFor::Confirmed,
        };
        let gate = Gate::new(
            ledger.clone(),
            HashMap::from([(Network::evm(84532), market)]),
            QuoteKey::new(&[3; 32]).unwrap(),
            GateRules {
                deliveries_max: 2,
                redeliver_for: Duration::from_secs(3600),
                retention: Duration::from_secs(86_400),
            },
            Arc::new(clock.clone()),
            Arc::new(Metrics::new().unwrap()),
            tokio::runtime::Handle::current(),
        );
        let route = PricedRoute::new(ROUTE.to_owned(), vec![offer], ResourceInfo::default(), false).unwrap();
        Self {
            gate,
            chain,
            ledger,
            route,
            clock,
            origin: Origin(AtomicBool::new(true), AtomicBool::new(true)),
            _folder: folder,
        }
    }

    /// As a reload does: the same offers under another key of the price table.
    fn rename_route(&mut self, name: &str) {
        let offers = self
            .route
            .offers()
            .iter()
            .map(|priced| PricedOffer { offer: Offer::new(name, priced.offer.terms.clone()), ..priced.clone() });
        self.route = PricedRoute::new(name.to_owned(), offers.collect(), ResourceInfo::default(), false).unwrap();
    }

    /// As a reload does that takes the network from the route.
    fn offer_nothing(&mut self) {
        self.route = PricedRoute::new(ROUTE.to_owned(), Vec::new(), ResourceInfo::default(), false).unwrap();
    }

    /// A quote for a price on this route that holds for `secs` from now.
    fn quote(&self, amount: u64, secs: u64) -> String {
        let expires = self.clock.now().plus(Duration::from_secs(secs));
        let digest = Offer::new(ROUTE, terms(amount)).digest;
        self.gate.quote_key().seal(&digest, QuoteNonce::random().unwrap(), expires)
    }

    async fn present(&self, header: &str) -> Decision {
        self.present_as(header, 1, HOME).await
    }

    async fn present_as(&self, header: &str, request: u8, client: IpAddr) -> Decision {
        let headers = PaymentHeaders { v2: vec![header.as_bytes()], v1: Vec::new() };
        let payment = match self.gate.verify(&self.route, &headers).await {
            Ok(payment) => payment,
            Err(decision) => return decision,
        };
        let request = PaidRequest {
            fingerprint: [request; 32],
            redeliverable: true,
            settles_after: false,
            client,
            route: ROUTE,
            summary: "GET /a".to_owned(),
            origin: &self.origin,
            trace: crate::telemetry::Trace::default(),
        };
        self.gate.admit(payment, request).await
    }

    async fn states(&self) -> Vec<PaymentState> {
        self.ledger.list(&crate::ledger::PaymentFilter::default()).await.unwrap().iter().map(|row| row.state).collect()
    }

    /// Waits until the ledger holds exactly these states, newest first.
    async fn reaches(&self, states: &[PaymentState]) {
        for _ in 0..500 {
            if self.states().await == states {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("expected {states:?}, got {:?}", self.states().await);
    }
}

/// A payment of the scripted chain.
fn payment(nonce: &str, amount: u64) -> Value {
    json!({"nonce": nonce, "payer": "0xPayer", "payTo": "0xShop", "value": amount.to_string(), "until": 1_000_060,
        "signature": "good"})
}

/// A v2 payment header that accepts `amount` and pays with `payload`.
fn v2_header(payload: &Value, amount: u64, quote: Option<&str>) -> String {
    let mut accepted = serde_json::to_value(terms(amount)).unwrap();
    if let Some(quote) = quote {
        accepted["extra"]["quote"] = quote.into();
    }
    json!({"x402Version":2,"accepted":accepted,"payload":payload}).to_string()
}

fn receipt(decision: Decision) -> Receipt {
    match decision {
        Decision::Deliver(receipt) => *receipt,
        other => panic!("expected a delivery, got {other:?}"),
    }
}
