//! Payers that are contracts, that change their mind, and others who are quicker.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::sol;
use alloy::sol_types::SolCall;
use serde_json::json;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, OTHER_SIGNER, PRICE, Payer, Payment, Plan, Shop, Terms, eventually, paid};

sol! {
    interface Token {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
        function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature);
    }
}

/// A funded smart wallet that the shop's payer owns.
async fn wallet(shop: &Shop, contract: &str) -> Payer {
    let at = Address::repeat_byte(0x71);
    shop.node.place(contract, at).await;
    let owner = B256::left_padding_from(shop.payer.address.as_slice());
    shop.node.rpc("anvil_setStorageAt", json!([at, "0x0", owner])).await;
    shop.node.mint(at, 10 * PRICE).await;
    shop.payer.signing_for(at)
}

/// Makes the payer's account delegate to a wallet's code (EIP-7702).
async fn delegate(shop: &Shop) {
    let code = Address::repeat_byte(0x72);
    shop.node.place("Wallet1271", code).await;
    let designator = format!("0xef0100{}", alloy::hex::encode(code));
    shop.node.rpc("anvil_setCode", json!([shop.payer.address, designator])).await;
}

/// Somebody else submits the payment's authorization; its transaction.
async fn submit(shop: &Shop, payment: &Payment) -> String {
    let field = |name: &str| payment.payload["authorization"][name].as_str().unwrap();
    let number = |name: &str| field(name).parse::<U256>().unwrap();
    let call = Token::transferWithAuthorizationCall {
        from: field("from").parse().unwrap(),
        to: field("to").parse().unwrap(),
        value: number("value"),
        validAfter: number("validAfter"),
        validBefore: number("validBefore"),
        nonce: payment.nonce,
        signature: payment.signature().into(),
    };
    shop.node.transact(call.abi_encode(), None).await
}

pub async fn cancel(shop: &Shop, payment: &Payment) {
    let (authorizer, nonce) = (shop.payer.address, payment.nonce);
    let signature = shop.payer.sign_cancel(nonce).into();
    shop.node.transact(Token::cancelAuthorizationCall { authorizer, nonce, signature }.abi_encode(), None).await;
}

fn exclusive() -> Plan {
    Plan { network: "pay_to_exclusive = true".to_owned(), ..Plan::default() }
}

#[tokio::test]
async fn a_smart_wallet_pays() {
    let shop = Shop::open().await;
    let wallet = wallet(&shop, "Wallet1271").await;
    let payment = wallet.pay(&shop.terms().await);
    let answer = shop.present(&payment.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(shop.node.transfers().await[0].from, wallet.address);
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_smart_wallet_pays_only_with_its_owners_signature() {
    let shop = Shop::open().await;
    let wallet = wallet(&shop, "Wallet1271").await;
    let terms = shop.terms().await;
    let draft = wallet.draft(&terms);
    let forged = Payer::random().signing_for(wallet.address).sign(&terms, &draft);
    let answer = shop.present(&forged.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_evm_signature");
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_delegated_account_pays() {
    let shop = Shop::open().await;
    delegate(&shop).await;
    let answer = shop.present(&shop.payment().await.v2()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn contract_payers_are_refused_where_they_are_not_taken() {
    let plan = Plan { network: "payers = [\"eoa\"]".to_owned(), ..Plan::default() };
    let shop = Shop::open_with(plan).await;
    let terms = shop.terms().await;
    let wallet = wallet(&shop, "Wallet1271").await;
    let answer = shop.present(&wallet.pay(&terms).v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (402, "invalid_exact_evm_signature"));
    delegate(&shop).await;
    let answer = shop.present(&shop.payer.pay(&terms).v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (402, "invalid_exact_evm_contract_payer_not_accepted"));
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_wallet_that_says_yes_to_the_simulation_and_no_on_chain_gets_nothing() {
    let shop = Shop::open().await;
    let wallet = wallet(&shop, "FickleWallet").await;
    let answer = shop.present(&wallet.pay(&shop.terms().await).v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.outcome().map(|outcome| outcome["success"].clone()), Some(json!(false)));
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (0, 0));
    shop.wait_state(PaymentState::Failed).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_cancelled_authorization_is_refused() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    cancel(&shop, &payment).await;
    let answer = shop.present(&payment.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_evm_nonce_already_used");
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn an_authorization_that_is_cancelled_during_settlement_is_never_served() {
    // Even where foreign submissions count: a used nonce is no proof of payment.
    let shop = Shop::open_with(exclusive()).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    cancel(&shop, &payment).await;
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    Terms::read(&answer);
    assert_eq!(answer.outcome().unwrap()["errorReason"], "invalid_exact_evm_authorization_canceled");
    assert_eq!(shop.present(&payment.v2()).await.status, 402);
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (0, 0));
    shop.audit().await;
}

#[tokio::test]
async fn an_authorization_that_is_cancelled_while_the_gateway_is_dead_is_never_served() {
    let mut shop = Shop::open_with(Plan { failpoints: "post_w1_pre_send=return".to_owned(), ..exclusive() }).await;
    let payment = shop.payment().await;
    assert!(shop.try_present(&payment.v2()).await.is_err());
    cancel(&shop, &payment).await;
    shop.restart().await;
    let answer = shop.present_until_decided(&payment.v2()).await;
    assert_eq!(answer.status, 402, "{answer:?}");
    assert_eq!(answer.outcome().unwrap()["errorReason"], "invalid_exact_evm_authorization_canceled");
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (0, 0));
    shop.audit().await;
}

#[tokio::test]
async fn a_transfer_from_before_the_claim_buys_nothing() {
    for plan in [Plan::default(), exclusive()] {
        let shop = Shop::open_with(plan).await;
        let payment = shop.payment().await;
        let foreign = submit(&shop, &payment).await;
        let answer = shop.present(&payment.v2()).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), "invalid_exact_evm_nonce_already_used");
        assert_eq!((shop.priced_hits(), shop.rows().await.len()), (0, 0));
        shop.audit_but(&[foreign]).await;
    }
}

#[tokio::test]
async fn a_foreign_submission_during_settlement_is_not_credited_where_others_earn_too() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    let foreign = submit(&shop, &payment).await;
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    Terms::read(&answer);
    assert_eq!(answer.outcome().unwrap()["errorReason"], "invalid_exact_evm_nonce_already_used");
    assert_eq!(shop.present(&payment.v2()).await.status, 402);
    assert_eq!(shop.priced_hits(), 0);
    shop.audit_but(&[foreign]).await;
}

#[tokio::test]
async fn a_foreign_submission_during_settlement_is_served_once_where_nobody_else_earns() {
    let shop = Shop::open_with(exclusive()).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    let foreign = submit(&shop, &payment).await;
    shop.rpc.clear();
    let answer = Answer::read(client).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.outcome().unwrap()["transaction"], foreign.as_str());
    shop.assert_sold_once().await;
    assert_eq!(shop.present(&payment.v2()).await.error(), "payment_already_used");
    assert_eq!(shop.priced_hits(), 1);
    shop.audit().await;
}

#[tokio::test]
async fn a_failed_payment_that_lands_later_is_credited_to_its_payer() {
    let shop = Shop::open_with(exclusive()).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.node.empty(shop.payer.address).await;
    shop.rpc.clear();
    assert_eq!(Answer::read(client).await.unwrap().status, 402);
    shop.wait_state(PaymentState::Failed).await;
    shop.node.mint(shop.payer.address, PRICE).await;
    submit(&shop, &payment).await;
    let answer = eventually("the credit", Duration::from_secs(30), || async {
        let answer = shop.present(&payment.v2()).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.outcome().unwrap()["success"], true);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_payment_at_two_shops_that_share_a_till_is_served_by_one() {
    for _ in 0..5 {
        let one = Shop::open().await;
        let plan = Plan { signer: OTHER_SIGNER, ..Plan::default() };
        let mut other = Shop::build_on(Arc::clone(&one.node), plan).await;
        other.start().await;
        let header = one.payment().await.v2();
        let (first, second) = tokio::join!(one.present(&header), other.present(&header));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 402], "{first:?} {second:?}");
        assert_eq!(one.node.transfers().await.len(), 1);
        assert_eq!(one.priced_hits() + other.priced_hits(), 1);
    }
}
