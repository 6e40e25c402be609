//! From the claim to a proven end: each row of the table in threats §2.6.

use cosmrs::proto::cosmos::tx::v1beta1::{BroadcastMode, BroadcastTxRequest};

use super::*;
use crate::devnet::cosmos::{CallFault, Dialect, EventForm};

const PAUSE: Duration = Duration::from_millis(400);

fn failure(outcome: SettleOutcome) -> (Reason, bool) {
    match outcome {
        SettleOutcome::Failed { reason, transaction, fee: None, still_usable: false } => {
            (reason, transaction.is_some())
        }
        other => panic!("{other:?}"),
    }
}

impl World {
    /// Sends another transaction of the payer with the same sequence, and puts it in a block.
    async fn supersede(&self, draft: &Draft) {
        let other = draft.clone().with(|draft| {
            draft.body.memo = "to myself".to_owned();
            draft.send.to_address = address_of(1);
        });
        let query = BroadcastTxRequest { tx_bytes: other.raw(), mode: i32::from(BroadcastMode::Sync) };
        self.shop.scheme.0.rpc.call(query).await.unwrap();
        self.chain.produce_block();
        assert_eq!(self.chain.delivered().len(), 1);
    }

    /// Whether a settlement is still going on after some looks.
    async fn is_going_on(&self, settling: &tokio::task::JoinHandle<SettleOutcome>) -> bool {
        tokio::time::sleep(PAUSE).await;
        !settling.is_finished()
    }
}

#[tokio::test]
async fn found_with_code_0_and_the_banks_event_is_paid_in_every_dialect() {
    for (dialect, events) in [
        (Dialect::Sdk053, EventForm::Plain),
        (Dialect::Sdk053, EventForm::Base64),
        (Dialect::Sdk043, EventForm::Plain),
        (Dialect::Sdk043, EventForm::LogsOnly),
    ] {
        let world = World::with(|params| (params.dialect, params.events) = (dialect, events)).await;
        let draft = world.draft();
        let settling = world.settle(&draft.payload());
        world.until("sent", |chain| chain.waiting() == 1).await;
        assert!(world.is_going_on(&settling).await, "paid before it was in a block");
        let height = world.chain.produce_block();
        let SettleOutcome::Paid(settlement) = ended(settling).await else { panic!("{dialect:?} {events:?}") };
        assert_eq!(settlement.transaction, decode::transaction_hash(&draft.raw()));
        assert_eq!((settlement.block, settlement.is_external), (height, false));
        assert_eq!(world.chain.balance(&pay_to(), COSMOS_DENOM), 10_000);
    }
}

#[tokio::test]
async fn b23_what_check_tx_takes_and_a_block_fails_is_not_paid() {
    let world = World::new().await;
    let payload = world.draft().payload();
    let settling = world.settle(&payload);
    world.until("sent", |chain| chain.waiting() == 1).await;
    let left = world.chain.balance(&address_of(1), COSMOS_DENOM) - u128::from(FEE) - 5;
    world.chain.take(&address_of(1), COSMOS_DENOM, left).unwrap();
    world.chain.produce_block();
    assert_eq!(failure(ended(settling).await), (Reason::CosmosInsufficientBalance, true));
    assert_eq!(world.chain.balance(&pay_to(), COSMOS_DENOM), 0);
    let record = world.shop.record(&payload);
    assert_eq!(world.shop.scheme.late_settlement(&record).await.unwrap(), None);
}

#[tokio::test]
async fn what_failed_in_a_block_before_its_sequence_was_used_may_still_be_included_and_is_no_end() {
    let world = World::new().await;
    let draft = world.draft();
    let settling = world.settle(&draft.payload());
    world.until("sent", |chain| chain.waiting() == 1).await;
    let all = world.chain.balance(&address_of(1), COSMOS_DENOM);
    world.chain.take(&address_of(1), COSMOS_DENOM, all).unwrap();
    world.chain.produce_block();
    assert_eq!(world.chain.delivered()[0].code, 5);
    assert_eq!(world.chain.account(&address_of(1)), Some((draft.account_number, 0)));
    assert!(world.is_going_on(&settling).await, "its fee was not even paid");
    world.chain.fund(&address_of(1), COSMOS_DENOM, 1_000_000).unwrap();
    let other = draft.with(|draft| draft.send.to_address = address_of(1));
    let query = BroadcastTxRequest { tx_bytes: other.raw(), mode: i32::from(BroadcastMode::Sync) };
    world.shop.scheme.0.rpc.call(query).await.unwrap();
    world.chain.produce_block();
    assert_eq!(failure(ended(settling).await), (Reason::CosmosInsufficientBalance, true));
    assert_eq!(world.chain.balance(&pay_to(), COSMOS_DENOM), 0);
}

#[tokio::test]
async fn not_found_beyond_its_timeout_height_is_expired_and_the_next_with_its_sequence_is_welcome() {
    let world = World::new().await;
    world.chain.faults().set("BroadcastTx", CallFault::Unavailable, 1_000_000);
    let draft = world.draft().with(|draft| draft.body.timeout_height = world.chain.height() + 4);
    let settling = world.settle(&draft.payload());
    world.blocks(4).await;
    assert!(world.is_going_on(&settling).await, "its last block is just being made");
    world.blocks(2).await;
    assert!(world.is_going_on(&settling).await, "what answers may be behind");
    world.blocks(1).await;
    assert_eq!(failure(ended(settling).await), (Reason::PaymentExpired, false));
    world.chain.faults().clear();
    let next = world.draft().with(|draft| draft.body.memo = "second try".to_owned());
    let (one, other) = (world.shop.record(&draft.payload()), world.shop.record(&next.payload()));
    assert_eq!(one.claim.id, other.claim.id);
    // The endpoint rests after its failures; the next call finds it again.
    assert!(world.shop.verify(&next.payload()).await.is_ok());
}

#[tokio::test]
async fn not_found_and_its_sequence_used_by_another_is_superseded() {
    for timeout in [0, 500] {
        let world = World::new().await;
        let draft = world.draft().with(|draft| draft.body.timeout_height = timeout);
        world.supersede(&draft).await;
        let settling = world.settle(&draft.payload());
        assert_eq!(failure(ended(settling).await), (Reason::CosmosSequenceMismatch, false));
        assert_eq!(world.chain.balance(&pay_to(), COSMOS_DENOM), 0);
    }
}

#[tokio::test]
async fn a_reading_of_blocks_that_breaks_off_goes_on_where_it_was() {
    let world = World::new().await;
    let draft = world.draft();
    world.supersede(&draft).await;
    for _ in 0..40 {
        world.chain.produce_block();
    }
    let network = NETWORK.parse().unwrap();
    let decoded = decode::decode(&network, "noble", &draft.payload(), |_| UnixMillis(0)).unwrap();
    let node = world.shop.scheme.0.rpc.nodes()[0];
    let claimed_at = SystemClock.now();
    let mut scanned = evidence::Scanned::default();
    world.chain.faults().set("GetBlockByHeight", CallFault::Delay(Duration::from_millis(20)), 1_000);
    let cut = evidence::standing(node, &decoded, claimed_at, &mut scanned);
    assert!(tokio::time::timeout(Duration::from_millis(600), cut).await.is_err());
    world.chain.faults().clear();
    world.chain.produce_block();
    let before = world.shop.calls.count();
    let standing = evidence::standing(node, &decoded, claimed_at, &mut scanned).await.unwrap();
    assert_eq!(standing, evidence::Standing::Superseded);
    assert!(world.shop.calls.count() - before < 40, "began anew");
}

#[tokio::test]
async fn not_found_but_in_a_block_is_no_proof_of_anything() {
    let world = World::new().await;
    let draft = world.draft();
    // The index says no for as long as this holds, the blocks say otherwise.
    world.chain.faults().set("GetTx", CallFault::NotFound, 1_000_000);
    let settling = world.settle(&draft.payload());
    world.until("sent", |chain| chain.waiting() == 1).await;
    world.blocks(3).await;
    assert!(world.is_going_on(&settling).await, "failed a payment that landed");
    world.chain.faults().clear();
    assert!(matches!(ended(settling).await, SettleOutcome::Paid(_)));
}

#[tokio::test]
async fn not_found_with_its_sequence_free_is_sent_again_to_the_letter() {
    let world = World::new().await;
    let draft = world.draft().with(|draft| draft.body.timeout_height = 1_000);
    let settling = world.settle(&draft.payload());
    world.until("sent", |chain| chain.waiting() == 1).await;
    world.chain.forget_mempool();
    world.blocks(2).await;
    world.until("sent again", |chain| chain.waiting() == 1).await;
    world.blocks(1).await;
    assert!(matches!(ended(settling).await, SettleOutcome::Paid(_)));
    let sent = world.chain.broadcasts();
    assert!(sent.len() >= 2 && sent.iter().all(|raw| *raw == draft.raw()));
    assert_eq!(world.chain.delivered().len(), 1);
}

#[tokio::test]
async fn without_a_timeout_height_it_stays_open_until_it_is_found_or_superseded() {
    let world = World::new().await;
    let cheap = world.draft().with(|draft| draft.fee().amount = vec![coin(COSMOS_DENOM, 1)]);
    let settling = world.settle(&cheap.payload());
    world.blocks(20).await;
    assert!(world.is_going_on(&settling).await, "a refusal is no proof: another node may take it");
    world.supersede(&world.draft()).await;
    assert_eq!(failure(ended(settling).await), (Reason::CosmosSequenceMismatch, false));
}

#[tokio::test]
async fn an_answer_that_is_lost_changes_nothing() {
    for fault in [CallFault::DropAnswer, CallFault::Unavailable] {
        let world = World::new().await;
        world.chain.faults().set("BroadcastTx", fault, 1);
        let settling = world.settle(&world.draft().payload());
        world.until("sent", |chain| chain.waiting() == 1).await;
        world.blocks(1).await;
        assert!(matches!(ended(settling).await, SettleOutcome::Paid(_)));
        assert_eq!(world.chain.delivered().len(), 1);
    }
}

#[tokio::test]
async fn a_row_of_an_earlier_run_is_taken_up_wherever_it_stood() {
    let world = World::new().await;
    let payload = world.draft().payload();
    let first = world.settle(&payload);
    world.until("sent", |chain| chain.waiting() == 1).await;
    first.abort();
    world.blocks(5).await;
    assert!(matches!(ended(world.settle(&payload)).await, SettleOutcome::Paid(_)), "landed while nobody looked");
    assert_eq!(world.chain.delivered().len(), 1);
}

#[tokio::test]
async fn a_row_that_disagrees_with_its_payload_has_no_end() {
    let world = World::new().await;
    let payload = world.draft().payload();
    let spoil: [fn(&mut PaymentRecord); 4] = [
        |record| record.claim.amount = 1.into(),
        |record| record.claim.payload_digest = [0; 32],
        |record| record.attempts.clear(),
        |record| record.attempts[0].signed.raw.push(0),
    ];
    for spoil in spoil {
        let mut record = world.shop.record(&payload);
        spoil(&mut record);
        let scheme = Arc::clone(&world.shop.scheme);
        let settling = tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await });
        assert!(world.is_going_on(&settling).await);
        assert!(world.chain.broadcasts().is_empty());
        settling.abort();
    }
}

#[tokio::test]
async fn two_nodes_must_agree_that_a_payment_is_gone() {
    let world = World::new().await;
    // The second node knows no block beyond its own.
    let behind = CosmosChain::start(CosmosParams { block_time: None, ..CosmosParams::default() }).await.unwrap();
    behind.fund(&address_of(50), COSMOS_DENOM, 1).unwrap();
    behind.fund(&address_of(1), COSMOS_DENOM, 1_000_000).unwrap();
    let shop = Shop::at(&[world.chain.grpc_url(), behind.grpc_url()]);
    for node in [&world.chain, &behind] {
        node.faults().set("BroadcastTx", CallFault::Unavailable, 1_000_000);
    }
    let draft = world.draft().with(|draft| draft.body.timeout_height = world.chain.height() + 2);
    let record = shop.record(&draft.payload());
    let settling = tokio::spawn(async move { shop.scheme.settle(&record, &NoAttempts).await });
    world.blocks(10).await;
    assert!(world.is_going_on(&settling).await, "one node was enough");
    for _ in 0..10 {
        behind.produce_block();
    }
    assert_eq!(failure(ended(settling).await), (Reason::PaymentExpired, false));
}
