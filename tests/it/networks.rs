//! Networks that a reload adds, changes and takes away (contract §4).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tollhouse::devnet::cosmos::{COSMOS_DENOM, CosmosChain, CosmosParams};
use tollhouse::ledger::PaymentState;

use crate::harness::{
    Answer, Call, Plan, Shop, Terms, Transfer, Wallet, cosmos_header, decode_header, eventually, paid,
};

const EVM_ROUTES: &str = "\"/health\" = \"free\"\n\
    \"GET /api/data\" = { price = \"$0.01\", networks = [\"base-sepolia\"] }\n";
const COSMOS_ROUTES: &str = "\"GET /cosmos/data\" = { price = \"$0.01\", networks = [\"grand-1\"] }\n";

async fn reload(shop: &Shop) -> Answer {
    let call = Call { host: "127.0.0.1", ..Call::post("/reload", "") };
    call.send(shop.admin_port).await.unwrap()
}

async fn readiness(shop: &Shop) -> serde_json::Value {
    Call::local("/readyz").send(shop.admin_port).await.unwrap().json()
}

/// Another way to a node: passes bytes on, and counts who came.
async fn way_to(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (own, came) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = came.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut node = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    (own, came)
}

struct Cosmos {
    chain: CosmosChain,
    payer: Wallet,
    pay_to: String,
}

impl Cosmos {
    async fn start() -> Self {
        let params = CosmosParams { block_time: Some(Duration::from_millis(200)), ..CosmosParams::default() };
        let chain = CosmosChain::start(params).await.unwrap();
        let (payer, pay_to) = (Wallet::new(7), Wallet::new(8).address());
        chain.fund(&Wallet::new(1).address(), "uatom", 1).unwrap();
        chain.fund(&payer.address(), COSMOS_DENOM, 10_000_000).unwrap();
        Self { chain, payer, pay_to }
    }

    fn table(&self, url: &str) -> String {
        format!("[networks.grand-1]\ngrpc_url = \"{url}\"\npay_to = \"{}\"\n", self.pay_to)
    }

    fn port(&self) -> u16 {
        let url = self.chain.grpc_url();
        url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
    }

    async fn buy(&self, shop: &Shop) {
        let terms = eventually("terms", Duration::from_secs(20), || async {
            let answer = shop.call(&Call::get("/cosmos/data")).await;
            (answer.status == 402).then(|| decode_header(answer.header("payment-required").unwrap()))
        })
        .await;
        let (number, sequence) = self.chain.account(&self.payer.address()).unwrap();
        let mut transfer = Transfer::new(&self.payer, &self.pay_to, number, sequence);
        transfer.amount = 10_000;
        transfer.timeout_height = self.chain.height() + 100;
        let header = cosmos_header(&terms["accepts"][0], &transfer.direct());
        let answer = shop.call(&Call::get("/cosmos/data").with(header.0, header.1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn earned(&self) -> u128 {
        self.chain.balance(&self.pay_to, COSMOS_DENOM)
    }
}

#[tokio::test]
async fn a_reload_adds_a_network_that_is_paid_on_changes_its_endpoint_and_takes_it_away() {
    let cosmos = Cosmos::start().await;
    let mut shop = Shop::open_with(Plan { routes: EVM_ROUTES.to_owned(), ..Plan::default() }).await;
    shop.buy().await;

    // An endpoint that doesn't answer: all stays as it was.
    shop.plan.network = cosmos.table("http://127.0.0.1:9");
    shop.plan.routes = format!("{EVM_ROUTES}{COSMOS_ROUTES}");
    shop.rewrite_config();
    let refused = reload(&shop).await;
    assert_eq!((refused.status, refused.error().as_str()), (409, "reload_refused"));
    assert!(refused.json()["reasons"].to_string().contains("grand-1"), "{refused:?}");
    assert_eq!(shop.call(&Call::get("/cosmos/data")).await.status, 404);

    shop.plan.network = cosmos.table(&cosmos.chain.grpc_url());
    shop.rewrite_config();
    assert_eq!(reload(&shop).await.status, 200);
    cosmos.buy(&shop).await;
    shop.buy().await;
    let networks = readiness(&shop).await["networks"].clone();
    assert_eq!(networks, json!({"cosmos:grand-1": {"ready": true}, "eip155:84532": {"ready": true}}));

    let (port, came) = way_to(cosmos.port()).await;
    shop.plan.network = cosmos.table(&format!("http://127.0.0.1:{port}"));
    shop.rewrite_config();
    assert_eq!(reload(&shop).await.status, 200);
    cosmos.buy(&shop).await;
    assert!(came.load(Ordering::SeqCst) > 0, "nobody asked the new endpoint");
    assert_eq!(cosmos.earned(), 20_000);

    // A dead endpoint in place of one that lives.
    shop.plan.network = cosmos.table("http://127.0.0.1:9");
    shop.rewrite_config();
    assert_eq!(reload(&shop).await.status, 409);
    cosmos.buy(&shop).await;

    eventually("all answers written down", Duration::from_secs(20), || async {
        shop.rows().await.iter().all(|row| row.state == PaymentState::Served).then_some(())
    })
    .await;
    shop.plan.network = String::new();
    shop.plan.routes = EVM_ROUTES.to_owned();
    shop.rewrite_config();
    let answer = reload(&shop).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(shop.call(&Call::get("/cosmos/data")).await.status, 404);
    assert_eq!(readiness(&shop).await["networks"], json!({"eip155:84532": {"ready": true}}));
    let metrics = Call::local("/metrics").send(shop.admin_port).await.unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(!metrics.contains("tollhouse_network_up{network=\"cosmos:grand-1\"}"));
    shop.buy().await;
    assert_eq!(shop.rows().await.len(), 6);
}

#[tokio::test]
async fn a_network_changes_under_load_and_every_payment_is_settled_once() {
    let mut shop = Shop::open().await;
    shop.node.mint(shop.payer.address, 1_000_000_000).await;
    let mut other = Plan { is_direct: true, ..Plan::default() };
    let stop = Arc::new(tokio::sync::Notify::new());
    let terms = shop.terms().await;
    let (port, payer) = (shop.port, shop.payer.clone());
    let ended = stop.clone();
    let buying = tokio::spawn(async move {
        let mut bought = 0;
        let ended = ended.notified();
        tokio::pin!(ended);
        loop {
            let payment = payer.pay(&terms);
            let served = eventually("an answer", Duration::from_secs(40), || async {
                let answer = paid(&payment.v2()).send(port).await.unwrap();
                match answer.status {
                    200 => Some(()),
                    // Closed for a moment, or being settled: the same payment again.
                    503 | 409 => None,
                    _ => panic!("{answer:?}"),
                }
            });
            served.await;
            bought += 1;
            if futures::poll!(&mut ended).is_ready() {
                return bought;
            }
        }
    });
    for _ in 0..5 {
        std::mem::swap(&mut shop.plan, &mut other);
        shop.rewrite_config();
        let answer = reload(&shop).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stop.notify_one();
    let bought = buying.await.unwrap();
    assert_eq!(shop.node.transfers().await.len(), bought);
    assert_eq!(shop.priced_hits(), bought);
    shop.audit().await;
}

#[tokio::test]
async fn a_change_waits_for_what_is_being_settled_and_is_refused_if_that_does_not_end() {
    let plan = Plan { network: "settle_timeout = \"1s\"".to_owned(), ..Plan::default() };
    let mut shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    assert_eq!(Answer::read(client).await.unwrap().error(), "settlement_pending");
    shop.plan.network = "max_fee = \"0.5\"".to_owned();
    shop.rewrite_config();
    let refused = reload(&shop).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let told = refused.json()["reasons"].to_string();
    assert!(told.contains("1 unfinished payments are on eip155:84532"), "{told}");
    // Business goes on as before.
    Terms::read(&shop.call(&Call::get("/api/data")).await);
    let (_, freed) = tokio::join!(reload(&shop), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        shop.rpc.clear();
    });
    let () = freed;
    assert_eq!(reload(&shop).await.status, 200);
    eventually("the same payment's answer", Duration::from_secs(20), || async {
        (shop.present(&payment.v2()).await.status == 200).then_some(())
    })
    .await;
    eventually("the network with its new rule", Duration::from_secs(20), || async {
        (shop.call(&Call::get("/api/data")).await.status == 402).then_some(())
    })
    .await;
    shop.buy().await;
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}
