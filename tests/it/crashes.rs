//! `kill -9` between any two write points; after the next start the same payment is presented again (threats E1–E6).

use std::time::Duration;

use tollhouse::ledger::PaymentState;

use futures::future::join_all;

use crate::harness::{Call, Chain, Fault, Node, Plan, Serve, Shop, Terms, eventually, paid};

pub fn killed_at(failpoints: &str) -> Plan {
    let network = "settle_timeout = \"3s\"".to_owned();
    Plan { failpoints: failpoints.to_owned(), network, ..Plan::default() }
}

/// What the next start finds.
pub struct Wreck<N: Chain = Node> {
    pub shop: Shop<N>,
    pub payment: N::Payment,
}

/// Presents a payment to a gateway that dies at this point.
async fn wreck(point: &str) -> Wreck {
    Wreck::of(Shop::open_with(killed_at(&format!("{point}=return"))).await).await
}

impl<N: Chain> Wreck<N> {
    /// Presents a payment to a gateway that dies of it.
    pub async fn of(mut shop: Shop<N>) -> Self {
        let payment = shop.payment().await;
        // The client may have its answer already when the gateway dies.
        let _lost = shop.try_present(&N::header(&payment)).await;
        assert!(!shop.gateway().wait_end().await.success());
        Self { shop, payment }
    }

    pub async fn state(&self) -> Option<PaymentState> {
        let rows = self.shop.rows().await;
        assert!(rows.len() <= 1);
        rows.first().map(|row| row.state)
    }

    /// Starts again and presents the payment: it is served without a second charge, and then spent.
    pub async fn recover(mut self, hits: usize) {
        self.shop.restart().await;
        let header = N::header(&self.payment);
        let answer = self.shop.present_until_decided(&header).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.outcome().unwrap()["success"], true);
        assert_eq!(self.shop.node.moved().await.len(), 1);
        assert_eq!(self.shop.priced_hits(), hits);
        self.shop.wait_state(PaymentState::Served).await;
        Terms::read(&self.shop.present(&header).await);
        assert_eq!(self.shop.priced_hits(), hits);
        // The account nonces go on where they should.
        self.shop.buy().await;
        self.shop.audit().await;
    }
}

#[tokio::test]
async fn killed_before_single_flight_nothing_happened() {
    let wreck = wreck("pre_m0").await;
    wreck.shop.assert_untouched().await;
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_in_single_flight_nothing_happened() {
    let wreck = wreck("post_m0").await;
    wreck.shop.assert_untouched().await;
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_before_the_simulation_nothing_happened() {
    let wreck = wreck("post_verify").await;
    wreck.shop.assert_untouched().await;
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_after_the_claim_the_payment_is_settled_by_the_next_run() {
    let wreck = wreck("post_w1_pre_send").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Signed));
    assert_eq!(wreck.shop.node.transfers().await, []);
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_before_the_send_the_payment_is_settled_by_the_next_run() {
    let wreck = wreck("mid_send").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Signed));
    assert_eq!(wreck.shop.rpc.count("eth_sendRawTransaction"), 0);
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_after_the_send_the_transfer_is_found_by_the_next_run() {
    let wreck = wreck("post_send").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Signed));
    assert_eq!(wreck.shop.node.transfers().await.len(), 1);
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_between_confirmation_and_record_the_transfer_is_found_by_the_next_run() {
    let wreck = wreck("post_confirm_pre_w2").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Signed));
    assert_eq!(wreck.shop.node.transfers().await.len(), 1);
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_after_the_record_the_answer_is_still_owed() {
    let wreck = wreck("post_w2").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Delivering));
    assert_eq!(wreck.shop.priced_hits(), 0);
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_after_the_last_byte_costs_one_delivery_and_no_charge() {
    let wreck = wreck("post_deliver").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Delivering));
    assert_eq!(wreck.shop.priced_hits(), 1);
    wreck.recover(2).await;
}

#[tokio::test]
async fn killed_before_served_is_written_costs_one_delivery_and_no_charge() {
    let wreck = wreck("pre_w3").await;
    assert_eq!(wreck.state().await, Some(PaymentState::Delivering));
    assert_eq!(wreck.shop.priced_hits(), 1);
    wreck.recover(2).await;
}

#[tokio::test]
async fn killed_in_the_middle_of_recovery_the_payment_is_settled_by_the_run_after() {
    let mut wreck = wreck("post_w1_pre_send").await;
    wreck.shop.plan.failpoints = "mid_recovery=return".to_owned();
    for _ in 0..3 {
        assert!(!wreck.shop.launch().wait_end().await.success());
    }
    wreck.recover(1).await;
}

#[tokio::test]
async fn killed_again_and_again_on_the_way_a_payment_is_charged_once() {
    let mut wreck = wreck("post_w1_pre_send").await;
    for point in ["mid_send", "post_send", "post_confirm_pre_w2"] {
        wreck.shop.plan.failpoints = format!("{point}=return");
        assert!(!wreck.shop.launch().wait_end().await.success(), "{point} was not passed");
    }
    wreck.recover(1).await;
}

#[tokio::test]
async fn what_a_killed_run_left_is_settled_by_the_next_though_nobody_asks_for_it() {
    let mut wreck = wreck("post_w1_pre_send").await;
    wreck.shop.restart().await;
    wreck.shop.wait_state(PaymentState::Paid).await;
    assert_eq!((wreck.shop.node.transfers().await.len(), wreck.shop.priced_hits()), (1, 0));
    assert_eq!(wreck.shop.present(&wreck.payment.v2()).await.status, 200);
    wreck.shop.assert_sold_once().await;
    wreck.shop.audit().await;
}

#[tokio::test]
async fn a_killed_runs_payment_whose_node_is_down_stays_pending_and_no_new_one_is_taken_before_it() {
    let mut wreck = wreck("post_w1_pre_send").await;
    wreck.shop.plan.failpoints.clear();
    wreck.shop.rpc.set_all(Fault::Drop);
    wreck.shop.start_until("/healthz").await;
    let answer = wreck.shop.present(&wreck.payment.v2()).await;
    assert!(answer.status == 503 && !answer.has_terms(), "{answer:?}");
    let unpaid = wreck.shop.call(&Call::get("/api/data")).await;
    assert!(unpaid.status == 503 && !unpaid.has_terms(), "{unpaid:?}");
    wreck.shop.rpc.clear();
    wreck.recover(1).await;
}

/// Kills the gateway at its first commit, its second, and so on until a payment gets through, whatever each of them was
/// for; presents the payment again after each.
pub async fn killed_at_every_commit<N: Chain>(mut shop: Shop<N>, point: &str) {
    let mut sold = 0;
    for commits in 0..40 {
        let payment = shop.payment().await;
        shop.gateway().kill();
        shop.plan.failpoints = format!("{point}={commits}*off->return");
        let is_up = shop.try_start().await;
        let first = if is_up { shop.try_present(&N::header(&payment)).await.ok() } else { None };
        let is_sold = first.as_ref().is_some_and(|answer| answer.status == 200 && answer.is_complete);
        sold += 1;
        // With the answer given, one more commit says so.
        let is_written = is_sold
            && eventually("served, or killed", Duration::from_secs(10), || async {
                let state = shop.rows().await.first().map(|row| row.state);
                (state == Some(PaymentState::Served)).then_some(true).or_else(|| (!shop.is_alive()).then_some(false))
            })
            .await;
        if is_written && shop.is_alive() {
            assert!(commits > 3, "commits were not counted");
            return finish(shop, sold).await;
        }
        shop.restart().await;
        let answer = shop.present_until_decided(&N::header(&payment)).await;
        let is_fair = answer.status == 200 || (is_sold && answer.error() == "payment_already_used");
        assert!(is_fair, "after {commits} commits: first {first:?}, then {answer:?}");
        assert_eq!(shop.node.moved().await.len(), sold, "after {commits} commits");
    }
    panic!("never came to an end");
}

async fn finish<N: Chain>(shop: Shop<N>, sold: usize) {
    assert_eq!(shop.node.moved().await.len(), sold);
    shop.audit().await;
}

#[tokio::test]
async fn killed_before_any_commit_a_payment_is_charged_once_and_answered() {
    killed_at_every_commit(Shop::open().await, "before_commit").await;
}

#[tokio::test]
async fn killed_after_any_commit_a_payment_is_charged_once_and_answered() {
    killed_at_every_commit(Shop::open().await, "after_commit").await;
}

/// Kills the gateway while the node holds its transaction back.
pub async fn killed_in_the_send<N: Chain>(mut shop: Shop<N>) {
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&N::header(&payment))).await;
    shop.gateway().kill();
    drop(client);
    shop.rpc.clear();
    Wreck { shop, payment }.recover(1).await;
}

#[tokio::test]
async fn killed_while_the_node_is_asked_to_send_the_payment_is_settled_by_the_next_run() {
    killed_in_the_send(Shop::open().await).await;
}

#[tokio::test]
async fn killed_while_the_origin_works_the_request_may_be_delivered_once_more() {
    let mut shop = Shop::open().await;
    shop.origin.then([Serve::Stall]);
    let payment = shop.payment().await;
    let client = paid(&payment.v2()).open(shop.port).await.unwrap();
    eventually("the request to reach the origin", Duration::from_secs(10), || async {
        (shop.priced_hits() == 1).then_some(())
    })
    .await;
    shop.gateway().kill();
    drop(client);
    Wreck { shop, payment }.recover(2).await;
}

#[tokio::test]
async fn killed_while_the_origin_works_a_request_that_may_not_be_repeated_is_owed() {
    let routes = "\"GET,POST /api/data\" = { price = \"$0.01\", redeliver = \"idempotent\" }\n".to_owned();
    let mut shop = Shop::open_with(Plan { routes, ..Plan::default() }).await;
    shop.origin.then([Serve::Stall]);
    let (name, value) = shop.payment().await.v2();
    let post = Call::post("/api/data", "order").with(name, value);
    let client = post.open(shop.port).await.unwrap();
    eventually("the request to reach the origin", Duration::from_secs(10), || async {
        (shop.priced_hits() == 1).then_some(())
    })
    .await;
    shop.gateway().kill();
    drop(client);
    shop.restart().await;
    let answer = shop.call(&post).await;
    assert_eq!((answer.status, answer.error().as_str()), (409, "payment_owed"));
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 1));
    shop.audit().await;
}

/// Kills the gateway in the middle of 16 payments, earlier and later, and presents them all again.
pub async fn killed_under_load<N: Chain>(mut shop: Shop<N>, kill_after_millis: &[u64]) {
    let mut sold = 0;
    for millis in kill_after_millis {
        let mut headers = Vec::new();
        for _ in 0..16 {
            headers.push(N::header(&shop.payment().await));
        }
        let port = shop.port;
        let clients =
            headers.iter().map(|header| paid(header).clone()).map(|call| async move { call.send(port).await });
        let clients = tokio::spawn(join_all(clients.collect::<Vec<_>>()));
        tokio::time::sleep(Duration::from_millis(*millis)).await;
        shop.gateway().kill();
        let first = clients.await.unwrap();
        shop.restart().await;
        for (header, first) in headers.iter().zip(first) {
            let is_answered = first.is_ok_and(|answer| answer.status == 200);
            let answer = shop.present_until_decided(header).await;
            let is_fair = answer.status == 200 || (is_answered && answer.error() == "payment_already_used");
            assert!(is_fair, "killed after {millis} ms: {answer:?}");
        }
        sold += headers.len();
        assert_eq!(shop.node.moved().await.len(), sold);
    }
    shop.audit().await;
}

#[tokio::test]
async fn killed_under_load_every_payment_is_charged_once_and_answered() {
    let shop = Shop::open().await;
    shop.node.mint(shop.payer.address, 1000 * crate::harness::PRICE).await;
    killed_under_load(shop, &[5, 15, 25, 40, 60, 90]).await;
}
