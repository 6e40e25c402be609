//! Many at once.

use std::collections::BTreeMap;

use alloy::primitives::U256;
use futures::future::join_all;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Header, PRICE, Payer, Plan, Shop};

/// Presents all at once; how often each status and word came back.
async fn all_at_once(shop: &Shop, headers: &[Header]) -> (Vec<Answer>, BTreeMap<(u16, String), usize>) {
    let answers = join_all(headers.iter().map(|header| shop.present(header))).await;
    let mut tally = BTreeMap::new();
    for answer in &answers {
        let word = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        *tally.entry((answer.status, word)).or_default() += 1;
        let may_ask_again = answer.status == 402;
        assert_eq!(answer.has_terms(), may_ask_again, "{answer:?}");
    }
    (answers, tally)
}

#[tokio::test]
async fn the_same_payment_200_times_at_once_is_one_hit_and_one_transfer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let headers: Vec<_> = (0..200).map(|_| payment.v2()).collect();
    let (_, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally.get(&(200, String::new())), Some(&1), "{tally:?}");
    let refused = tally.get(&(409, "payment_in_progress".to_owned())).copied().unwrap_or_default()
        + tally.get(&(402, "payment_already_used".to_owned())).copied().unwrap_or_default();
    assert_eq!(refused, 199, "{tally:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_payment_in_both_dialects_at_once_is_one_hit_and_one_transfer() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let headers: Vec<_> = (0..50).flat_map(|_| [payment.v1(), payment.v2()]).collect();
    let (_, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally.get(&(200, String::new())), Some(&1), "{tally:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn two_authorizations_with_one_nonce_at_once_are_one_hit_and_one_transfer() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    let mut draft = shop.payer.draft(&terms);
    let one = shop.payer.sign(&terms, &draft);
    draft.authorization.validBefore += U256::from(60);
    let other = shop.payer.sign(&terms, &draft);
    let headers: Vec<_> = (0..20).flat_map(|_| [one.v2(), other.v2()]).collect();
    let (_, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally.get(&(200, String::new())), Some(&1), "{tally:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn many_payments_at_once_are_each_settled_once() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    let headers: Vec<_> = (0..40).map(|_| shop.payer.pay(&terms).v2()).collect();
    let (_, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally, BTreeMap::from([((200, String::new()), 40)]));
    assert_eq!(shop.node.transfers().await.len(), 40);
    shop.audit().await;
}

#[tokio::test]
async fn a_payer_can_not_overdraw_with_payments_at_once() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    let poor = Payer::random();
    shop.node.mint(poor.address, PRICE).await;
    let headers: Vec<_> = (0..20).map(|_| poor.pay(&terms).v2()).collect();
    let (answers, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally.get(&(200, String::new())), Some(&1), "{tally:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 402)), "{tally:?}");
    assert_eq!(shop.node.transfers().await.len(), 1);
    let failed = shop.rows().await.iter().filter(|row| row.state == PaymentState::Failed).count();
    assert!(failed <= 1, "gas was burnt on {failed} of them");
    shop.audit().await;
}

#[tokio::test]
async fn two_gas_payers_share_the_work_and_each_keeps_its_nonces_in_a_row() {
    // Account 2 of anvil's published development mnemonic, funded there.
    let second = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
    let shop = Shop::open_with(Plan { second_signer: Some(second), ..Plan::default() }).await;
    let terms = shop.terms().await;
    let headers: Vec<_> = (0..40).map(|_| shop.payer.pay(&terms).v2()).collect();
    let (_, tally) = all_at_once(&shop, &headers).await;
    assert_eq!(tally, BTreeMap::from([((200, String::new()), 40)]));
    let mut nonces = BTreeMap::<String, Vec<u64>>::new();
    for row in shop.rows().await {
        let [attempt] = &row.attempts[..] else { panic!("{row:?}") };
        let signer = attempt.signed.signer.as_ref().unwrap().to_string();
        nonces.entry(signer).or_default().push(attempt.signed.account_nonce.unwrap());
    }
    assert_eq!(nonces.len(), 2, "{nonces:?}");
    for (signer, mut used) in nonces {
        used.sort_unstable();
        let first = used[0];
        assert_eq!(used, (first..first + used.len() as u64).collect::<Vec<_>>(), "{signer} left a gap");
    }
    shop.audit().await;
}
