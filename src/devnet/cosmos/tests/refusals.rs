//! What a real node (SDK 0.43) said to each of these transactions, and what newer releases say otherwise.

use super::*;

/// A row: a payment that is spoilt, what simulation says (`None` lets it pass), and code and words of CheckTx.
struct Row {
    name: &'static str,
    spoil: fn(&mut Payment),
    simulate: Option<&'static str>,
    check: (u32, &'static str),
}

const SIGNATURE: &str = "signature verification failed; please verify account number (1)";

const ROWS: &[Row] = &[
    Row {
        name: "wrong chain id",
        spoil: |payment| payment.chain_id = "noble-1".to_owned(),
        simulate: None,
        check: (4, SIGNATURE),
    },
    Row {
        name: "wrong account number",
        spoil: |payment| payment.account_number += 1,
        simulate: None,
        check: (4, SIGNATURE),
    },
    Row { name: "foreign key", spoil: |payment| payment.signing_seed = 9, simulate: None, check: (4, SIGNATURE) },
    Row {
        name: "public key of somebody else",
        spoil: |payment| payment.public_key = Payment::new(&Signer::new(9), "", 0, 0).public_key,
        simulate: None,
        check: (8, "pubKey does not match signer address"),
    },
    Row {
        name: "sequence too high",
        spoil: |payment| payment.sequence += 5,
        simulate: Some("account sequence mismatch, expected 1, got 6"),
        check: (32, "account sequence mismatch, expected 1, got 6"),
    },
    Row {
        name: "stale sequence",
        spoil: |payment| {
            // Or else it would be the first payment again.
            payment.memo = "again".to_owned();
            payment.sequence = 0;
        },
        simulate: Some("account sequence mismatch, expected 1, got 0"),
        check: (32, "account sequence mismatch, expected 1, got 0"),
    },
    Row {
        name: "fee under the minimum",
        spoil: |payment| payment.fee = 9_999,
        simulate: None,
        check: (13, "insufficient fees; got: 9999uusdc required: 10000uusdc"),
    },
    Row {
        name: "gas limit too low",
        spoil: |payment| payment.gas_limit = 20_000,
        simulate: None,
        check: (11, "out of gas in location: ReadFlat;"),
    },
    Row {
        name: "memo too long",
        spoil: |payment| payment.memo = "m".repeat(257),
        simulate: Some("memo too large"),
        check: (12, "maximum number of characters is 256 but received 257 characters"),
    },
    Row {
        name: "timeout height passed",
        spoil: |payment| payment.timeout_height = 1,
        simulate: Some("tx timeout height"),
        check: (30, "block height: "),
    },
    Row {
        name: "zero amount",
        spoil: |payment| payment.amount = 0,
        simulate: Some("invalid coins"),
        check: (10, "0uusdc: invalid coins"),
    },
    Row {
        name: "more than there is for the fee",
        spoil: |payment| payment.fee = FUND,
        simulate: Some("insufficient funds"),
        check: (5, "is smaller than 1000000uusdc: insufficient funds"),
    },
    Row {
        name: "another message",
        spoil: |payment| payment.type_url = "/cosmos.bank.v1beta1.MsgMultiSend".to_owned(),
        simulate: Some("unable to resolve type URL"),
        check: (2, "unable to resolve type URL /cosmos.bank.v1beta1.MsgMultiSend: tx parse error"),
    },
    Row {
        name: "recipient of another chain",
        spoil: |payment| payment.to = "cosmos1zcjduepqvxg72ccnl9r65fv0wn3amlk4sfzqfe2k36l073".to_owned(),
        simulate: Some("invalid address"),
        check: (7, "invalid address"),
    },
];

#[tokio::test]
async fn every_wrong_transaction_is_refused_as_a_real_node_refuses_it() {
    for dialect in [Dialect::Sdk043, Dialect::Sdk053] {
        for amino in [false, true] {
            let world = World::new(dialect).await;
            // The first payment makes the key known and the sequence 1.
            world.broadcast(world.payment().direct()).await;
            world.chain.produce_block();
            let held = world.held(&world.payer.address());
            for row in ROWS {
                let mut payment = world.payment();
                (row.spoil)(&mut payment);
                let bytes = if amino { payment.amino() } else { payment.direct() };
                let said = format!("{} in {dialect:?}, amino: {amino}", row.name);
                match (world.simulate(bytes.clone()).await, row.simulate) {
                    (Ok(_), None) => {}
                    (Err(status), Some(words)) => {
                        let older = dialect == Dialect::Sdk043;
                        let code = if older { Code::InvalidArgument } else { Code::Unknown };
                        assert_eq!(status.code(), code, "{said}");
                        assert!(status.message().contains(words), "{said}: {status}");
                    }
                    (got, _) => panic!("{said}: simulation gave {got:?}"),
                }
                let (code, log) = world.broadcast(bytes).await;
                assert_eq!(code, row.check.0, "{said}: {log}");
                assert!(log.contains(row.check.1), "{said}: {log}");
            }
            assert_eq!(world.chain.waiting(), 0);
            world.chain.produce_block();
            assert_eq!(world.held(&world.payer.address()), held);
            assert_eq!(world.chain.account(&world.payer.address()), Some((1, 1)));
        }
    }
}

#[tokio::test]
async fn overspending_gets_into_a_block_costs_its_fee_and_uses_up_its_sequence() {
    for dialect in [Dialect::Sdk043, Dialect::Sdk053] {
        let world = World::new(dialect).await;
        let mut payment = world.payment();
        payment.amount = FUND + 1;
        let bytes = payment.direct();
        let simulated = world.simulate(bytes.clone()).await.unwrap_err();
        assert!(simulated.message().contains("is smaller than 1000001uusdc: insufficient funds"), "{simulated}");
        assert_eq!(world.broadcast(bytes.clone()).await, (0, String::new()));
        world.chain.produce_block();
        let (code, log) = world.delivered(&bytes).await;
        assert_eq!(code, 5, "{log}");
        assert!(log.starts_with("failed to execute message; message index: 0:"), "{log}");
        assert_eq!((world.held(&world.shop), world.held(&world.payer.address())), (0, FUND - payment.fee));
        assert_eq!(world.chain.account(&world.payer.address()), Some((1, 1)));
        assert_eq!(world.chain.delivered()[0].code, 5);
    }
}

#[tokio::test]
async fn money_that_goes_between_the_mempool_and_the_block_is_missed_in_the_block() {
    let world = World::new(Dialect::Sdk053).await;
    let payment = world.payment();
    let bytes = payment.direct();
    assert_eq!(world.broadcast(bytes.clone()).await.0, 0);
    world.chain.take(&world.payer.address(), COSMOS_DENOM, FUND - payment.fee - 1).unwrap();
    world.chain.produce_block();
    assert_eq!(world.delivered(&bytes).await.0, 5);
    assert!(world.chain.take(&world.payer.address(), COSMOS_DENOM, FUND).is_err());
}

#[tokio::test]
async fn gas_that_lasts_for_the_checks_alone_fails_in_the_block() {
    let world = World::new(Dialect::Sdk053).await;
    let mut payment = world.payment();
    payment.gas_limit = 60_000;
    let bytes = payment.direct();
    assert_eq!(world.broadcast(bytes.clone()).await.0, 0);
    world.chain.produce_block();
    let (code, log) = world.delivered(&bytes).await;
    assert_eq!((code, world.held(&world.shop)), (11, 0), "{log}");
    assert_eq!(world.chain.account(&world.payer.address()).unwrap().1, 1);
}

#[tokio::test]
async fn a_timeout_that_passes_in_the_mempool_leaves_the_sequence_free() {
    let world = World::new(Dialect::Sdk053).await;
    let mut payment = world.payment();
    payment.timeout_height = world.chain.height() + 1;
    let bytes = payment.direct();
    assert_eq!(world.broadcast(bytes.clone()).await.0, 0);
    world.chain.forget_mempool();
    world.chain.produce_block();
    assert_eq!(world.broadcast(bytes).await.0, 30);
    let next = world.payment();
    assert_eq!(next.sequence, 0);
    assert_eq!(world.broadcast(next.direct()).await.0, 0);
}

#[tokio::test]
async fn an_account_that_was_never_sent_anything_is_unknown() {
    for (dialect, words) in [(Dialect::Sdk043, "not found: key not found"), (Dialect::Sdk053, "not found")] {
        let world = World::new(dialect).await;
        let stranger = Signer::new(33);
        let error = world.account(&stranger.address()).await.unwrap_err();
        assert!(error.code() == Code::NotFound && error.message().ends_with(words), "{error}");
        let (code, log) = world.broadcast(Payment::new(&stranger, &world.shop, 0, 0).direct()).await;
        assert_eq!(code, 9, "{log}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_transaction_of_this_release_cant_be_parsed() {
    let world = World::new(Dialect::Sdk053).await;
    assert_eq!(world.broadcast(b"garbage".to_vec()).await, (2, "tx parse error".to_owned()));
    // Field 4 is `unordered`, which this chain doesn't know.
    let payment = world.payment();
    let mut body = payment.body().encode_to_vec();
    body.extend([0x20, 0x01]);
    assert_eq!(world.broadcast(payment.direct_with(body)).await.0, 2);
    assert_eq!(world.chain.waiting(), 0);
}

#[tokio::test]
async fn the_second_of_two_payments_with_one_sequence_is_refused() {
    let world = World::new(Dialect::Sdk053).await;
    let (first, mut second) = (world.payment(), world.payment());
    second.amount = 999;
    assert_eq!(world.broadcast(first.direct()).await.0, 0);
    // The mempool is ahead of the last block.
    assert_eq!(world.account(&world.payer.address()).await.unwrap().sequence, 0);
    assert_eq!(world.broadcast(second.direct()).await.0, 32);
    second.sequence = 1;
    assert_eq!(world.broadcast(second.direct()).await.0, 0);
    world.chain.produce_block();
    assert_eq!(world.held(&world.shop), 1999);
}
