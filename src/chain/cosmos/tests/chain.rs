//! What only the chain knows: the signature's account number, sequence, fee, balance; and chains that are not as configured.

use super::*;
use crate::devnet::cosmos::{CallFault, Dialect};

#[tokio::test]
async fn a_payment_that_the_chain_would_take_is_ready_to_be_sent_as_it_is() {
    for (dialect, mode) in [Dialect::Sdk043, Dialect::Sdk053].into_iter().flat_map(|d| [(d, DIRECT), (d, AMINO)]) {
        let world = World::with(|params| params.dialect = dialect).await;
        let draft = world.draft().with(|draft| {
            draft.mode = mode;
            draft.body.memo = "tea & <cake>".to_owned();
            draft.body.timeout_height = world.chain.height() + 50;
        });
        let attempt = world.shop.verify(&draft.payload()).await.unwrap();
        assert_eq!(attempt.raw, draft.raw());
        assert_eq!(attempt.transaction, decode::transaction_hash(&draft.raw()));
        assert_eq!((attempt.signer, attempt.account_nonce, attempt.fee_max.as_str()), (None, None, "0"));
        assert!(world.chain.broadcasts().is_empty(), "nothing is sent before the claim");
    }
}

#[tokio::test]
async fn b22_a_signature_for_another_chain_account_or_key_is_refused_before_anything_is_simulated() {
    let world = World::new().await;
    let good = world.draft();
    for wrong in [
        good.clone().with(|draft| draft.chain_id = "noble-1".to_owned()),
        good.clone().with(|draft| draft.account_number += 1),
        good.clone().with(|draft| draft.account_number = 0),
        good.clone().with(|draft| draft.seed = 2),
    ] {
        let before = world.shop.calls.count();
        let reason = invalid(world.shop.verify(&wrong.payload()).await);
        assert_eq!(reason, Reason::CosmosSignature);
        assert!(world.shop.calls.count() <= before + 1, "more than the account was asked for");
    }
    // A signature in the other mode's form.
    let raw = good.clone().with(|draft| draft.mode = AMINO).raw();
    let amino = TxRaw::decode(raw.as_slice()).unwrap();
    let mixed = TxRaw { signatures: amino.signatures, ..good.parts() }.encode_to_vec();
    assert_eq!(invalid(world.shop.verify(&canonical(&mixed)).await), Reason::CosmosSignature);
    assert!(world.shop.verify(&good.payload()).await.is_ok());
}

#[tokio::test]
async fn an_account_number_of_before_the_chain_began_anew_lets_no_forgery_through() {
    let world = World::new().await;
    let stale = world.draft().with(|draft| draft.account_number += 7);
    let payer = crate::types::AccountId::new(address_of(1)).unwrap();
    let holds = Duration::from_secs(600);
    world.shop.scheme.0.account_numbers.put(payer, stale.account_number, holds);
    assert_eq!(invalid(world.shop.verify(&stale.payload()).await), Reason::CosmosSignature);
    assert!(world.shop.verify(&world.draft().payload()).await.is_ok(), "the chain's own number is remembered now");
}

#[tokio::test]
async fn state_after_a_block_is_never_told_by_a_node_that_lacks_the_block() {
    let world = World::new().await;
    let payment = world.draft().payload();
    let network = NETWORK.parse().unwrap();
    let decoded = decode::decode(&network, "noble", &payment, |_| UnixMillis(0)).unwrap();
    let node = world.shop.scheme.0.rpc.nodes()[0];
    let head = world.chain.height();
    assert_eq!(account::sequence_at(node, &decoded, Some(head)).await.unwrap(), 0);
    assert!(account::sequence_at(node, &decoded, Some(head + 1)).await.is_err());
}

#[tokio::test]
async fn what_the_chain_would_refuse_is_refused_for_the_right_reason() {
    for dialect in [Dialect::Sdk043, Dialect::Sdk053] {
        let world = World::with(|params| params.dialect = dialect).await;
        let good = world.draft();
        let sequence = |delta: u64| good.clone().with(|draft| draft.auth.signer_infos[0].sequence += delta);
        assert_eq!(invalid(world.shop.verify(&sequence(5).payload()).await), Reason::CosmosSequenceMismatch);
        let unknown = Draft::new(33, 0, 0);
        assert_eq!(invalid(world.shop.verify(&unknown.payload()).await), Reason::CosmosAccountNotFound);
        let thirsty = good.clone().with(|draft| draft.fee().gas_limit = 60_000);
        assert_eq!(invalid(world.shop.verify(&thirsty.payload()).await), Reason::CosmosFee);
        let (payer, denom) = (address_of(1), COSMOS_DENOM);
        world.chain.take(&payer, denom, world.chain.balance(&payer, denom) - 10_000 - u128::from(FEE) + 1).unwrap();
        let reason = invalid(world.shop.verify(&good.payload()).await);
        assert_eq!(reason, Reason::CosmosInsufficientBalance, "enough for amount or fee, not for both");
        world.chain.fund(&payer, denom, 1).unwrap();
        let again = good.clone().with(|draft| draft.body.memo = "again".to_owned());
        assert!(world.shop.verify(&again.payload()).await.is_ok());
    }
}

#[tokio::test]
async fn a_fee_under_the_nodes_minimum_is_refused_where_the_node_tells_it() {
    let world = World::new().await;
    let cheap = world.draft().with(|draft| draft.fee().amount = vec![coin(COSMOS_DENOM, FEE - 1)]);
    assert_eq!(invalid(world.shop.verify(&cheap.payload()).await), Reason::CosmosFee);
    // An old node doesn't tell; it decides when it gets the transaction.
    let old = World::with(|params| params.dialect = Dialect::Sdk043).await;
    let cheap = old.draft().with(|draft| draft.fee().amount = vec![coin(COSMOS_DENOM, FEE - 1)]);
    assert!(old.shop.verify(&cheap.payload()).await.is_ok());
}

#[tokio::test]
async fn a_timeout_that_is_too_near_or_too_far_is_refused_and_none_is_taken() {
    let world = World::new().await;
    let head = world.chain.height();
    let until = |height: u64| world.draft().with(|draft| draft.body.timeout_height = height).payload();
    for (height, is_fine) in
        [(0, true), (1, false), (head, false), (head + 1, false), (head + 2, true), (head + 100_000, false)]
    {
        let outcome = world.shop.verify(&until(height)).await;
        if is_fine {
            assert!(outcome.is_ok(), "{height}: {outcome:?}");
        } else {
            assert_eq!(invalid(outcome), Reason::CosmosTimeoutHeight, "{height}");
        }
    }
}

#[tokio::test]
async fn a_payment_that_landed_can_be_proven_again_but_not_be_claimed_again() {
    let world = World::new().await;
    let payload = world.draft().payload();
    world.shop.verify(&payload).await.unwrap();
    let settling = world.settle(&payload);
    world.until("sent", |chain| chain.waiting() == 1).await;
    world.blocks(1).await;
    assert!(matches!(ended(settling).await, SettleOutcome::Paid(_)));
    let payment = world.shop.check(&payload, &terms()).unwrap();
    let before = world.shop.calls.count();
    payment.prove(&terms()).await.unwrap();
    assert_eq!(world.shop.calls.count(), before, "a redelivery asks nobody");
    let error = payment.simulate(&terms()).await.err().unwrap();
    assert!(matches!(error, VerifyError::Invalid { reason: Reason::CosmosAlreadyCommitted }), "{error:?}");
    let other = world.draft().with(|draft| draft.auth.signer_infos[0].sequence = 0);
    let other = other.with(|draft| draft.body.memo = "again".to_owned()).payload();
    assert_eq!(invalid(world.shop.verify(&other).await), Reason::CosmosSequenceMismatch);
    assert!(world.shop.verify(&world.draft().payload()).await.is_ok(), "the next one is welcome");
}

#[tokio::test]
async fn a_chain_that_can_not_be_asked_refuses_nobody_for_good() {
    for method in ["Account", "Simulate", "GetTx", "SpendableBalanceByDenom"] {
        let world = World::new().await;
        world.chain.faults().set(method, CallFault::Unavailable, 100);
        let error = world.shop.verify(&world.draft().payload()).await.err().unwrap();
        assert!(matches!(error, VerifyError::Unavailable { .. }), "{method}: {error:?}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn look_ups_of_unknown_payers_are_limited() {
    let world = World::new().await;
    let payloads: Vec<Value> = (100..=250).map(|seed| Draft::new(seed, 0, 0).payload()).collect();
    let before = world.shop.calls.count();
    let outcomes = futures::future::join_all(payloads.iter().map(|payload| world.shop.verify(payload))).await;
    let is_unavailable =
        |outcome: &&Result<NewAttempt, VerifyError>| matches!(outcome, Err(VerifyError::Unavailable { .. }));
    let put_off = outcomes.iter().filter(is_unavailable).count();
    assert!(put_off > 0 && outcomes.iter().all(Result::is_err));
    assert_eq!(world.shop.calls.count() - before, payloads.len() - put_off, "who is put off costs no call");
}

#[tokio::test]
async fn a_network_is_offered_once_its_chain_is_verified_and_reconciled() {
    let chain = CosmosChain::start(CosmosParams::default()).await.unwrap();
    let shop = Shop::at(&[chain.grpc_url()]);
    let is_ready = || shop.scheme.availability() == Availability::Ready;
    assert!(!is_ready());
    shop.scheme.open(&[]);
    assert!(!is_ready());
    shop.scheme.verify_chain().await.unwrap();
    assert!(is_ready());
    assert_eq!(shop.scheme.signer_nonces().await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_node_that_looks_up_no_transactions_is_not_used() {
    let chain = CosmosChain::start(CosmosParams::default()).await.unwrap();
    chain.faults().set("GetTx", CallFault::NoIndex, 1);
    let shop = Shop::at(&[chain.grpc_url()]);
    let error = shop.scheme.verify_chain().await.err().unwrap();
    assert!(
        matches!(&error, ChainError::Unreachable { detail, .. } if detail.contains("indexing is disabled")),
        "{error}"
    );
    shop.scheme.verify_chain().await.unwrap();
}

#[tokio::test]
async fn another_chain_than_the_configured_one_is_a_mismatch_and_a_dead_endpoint_is_passed_over() {
    let other = CosmosChain::start(CosmosParams { chain_id: "other-1".to_owned(), ..CosmosParams::default() });
    let other = other.await.unwrap();
    let error = Shop::at(&[other.grpc_url()]).scheme.verify_chain().await.err().unwrap();
    assert!(matches!(&error, ChainError::Mismatch { problems, .. } if problems[0].contains("other-1")), "{error}");
    let error = Shop::offline().scheme.verify_chain().await.err().unwrap();
    assert!(matches!(&error, ChainError::Unreachable { detail, .. } if !detail.contains("127.0.0.1")), "{error}");
    let good = CosmosChain::start(CosmosParams::default()).await.unwrap();
    let shop = Shop::at(&["http://127.0.0.1:9".to_owned(), other.grpc_url(), good.grpc_url()]);
    shop.scheme.verify_chain().await.unwrap();
}

#[test]
fn addresses_that_are_no_endpoints_are_mistakes_that_keep_the_address_to_themselves() {
    for url in ["ftp://secret.example/x", "secret", "unix:/secret"] {
        let observer = Arc::new(Calls::default());
        let mistakes =
            CosmosScheme::connect(&config(&[url.to_owned()]), Arc::new(SystemClock), observer).err().unwrap();
        assert_eq!(mistakes.len(), 1);
        assert!(!format!("{mistakes:?}").contains("secret"), "{mistakes:?}");
    }
}

#[tokio::test]
async fn f6_a_payment_that_was_refused_a_moment_ago_is_refused_again_without_a_call() {
    let world = World::new().await;
    let stale = world.draft().with(|draft| draft.auth.signer_infos[0].sequence += 5).payload();
    let stranger = Draft::new(33, 0, 0).payload();
    for payload in [&stale, &stranger] {
        let reason = invalid(world.shop.verify(payload).await);
        let before = world.shop.calls.count();
        for _ in 0..10 {
            assert_eq!(invalid(world.shop.verify(payload).await), reason);
        }
        assert_eq!(world.shop.calls.count(), before);
    }
    assert!(world.shop.verify(&world.draft().payload()).await.is_ok(), "only that payment");
}

#[tokio::test]
async fn b14_a_coin_that_refuses_three_payers_leaves_the_offers_and_no_other_does() {
    let world = World::new().await;
    let inner = &world.shop.scheme.0;
    let coin = AssetId::new(COSMOS_DENOM).unwrap();
    for payer in 1..=3 {
        assert_eq!(world.shop.scheme.availability_of(&coin), Availability::Ready);
        let payer = AccountId::new(address_of(payer)).unwrap();
        inner.breaker.failed(&coin, payer, Reason::CosmosSimulationFailed, Instant::now());
    }
    assert!(matches!(world.shop.scheme.availability_of(&coin), Availability::Unavailable(_)));
    assert!(matches!(world.shop.scheme.availability(), Availability::Unavailable(_)), "it has no other");
    let refusal = world.shop.verify(&world.draft().payload()).await;
    assert!(matches!(refusal, Err(VerifyError::Unavailable { .. })), "{refusal:?}");
    inner.breaker.reopen(&coin);
    let settling = world.settle(&world.draft().payload());
    world.until("sent", |chain| chain.waiting() == 1).await;
    world.blocks(1).await;
    assert!(matches!(ended(settling).await, SettleOutcome::Paid(_)));
    assert_eq!(world.shop.scheme.availability_of(&coin), Availability::Ready);
}

#[tokio::test]
async fn b23_a_timeout_height_is_demanded_where_the_operator_says_so() {
    let world = World::new().await;
    let mut config = config(&[world.chain.grpc_url()]);
    if let ChainConfig::Cosmos(cosmos) = &mut config.chain {
        cosmos.requires_timeout_height = true;
    }
    let calls = Arc::new(Calls::default());
    let scheme = CosmosScheme::connect(&config, Arc::new(SystemClock), Arc::clone(&calls) as Arc<dyn ChainObserver>);
    let shop = Shop { scheme: scheme.unwrap(), calls };
    assert_eq!(shop.check(&world.draft().payload(), &terms()).err(), Some(Reason::CosmosTimeoutHeight));
    assert_eq!(shop.calls.count(), 0);
    let height = world.chain.height() + 50;
    let timed = world.draft().with(|draft| draft.body.timeout_height = height).payload();
    assert!(shop.verify(&timed).await.is_ok());
}

#[tokio::test]
async fn e11_a_local_clock_that_is_wrong_closes_a_cosmos_network_and_not_one_that_is_right() {
    let chain = CosmosChain::start(CosmosParams::default()).await.unwrap();
    let clock = crate::types::ManualClock::new(SystemClock.now());
    let behind = UnixMillis(SystemClock.now().0 - 3_600_000);
    for (now, is_ready) in [(clock.now(), true), (behind, false)] {
        let clock = Arc::new(crate::types::ManualClock::new(now));
        let scheme = CosmosScheme::connect(&config(&[chain.grpc_url()]), clock, Arc::new(Calls::default())).unwrap();
        scheme.verify_chain().await.unwrap();
        scheme.open(&[]);
        assert_eq!(scheme.availability() == Availability::Ready, is_ready, "{:?}", scheme.availability());
        assert_eq!(scheme.clock_skew_secs().unwrap() > 3000, !is_ready);
    }
}
