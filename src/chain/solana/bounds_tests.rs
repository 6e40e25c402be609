//! What bounds a loss: breakers, balances in flight, clocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use solana_pubkey::Pubkey;
use solana_signer::Signer;
use spl_associated_token_account_interface::address::get_associated_token_address;

use super::decode::decode;
use super::fake::{self, Runs};
use super::startup;
use super::testing::*;
use super::tests::{failed, lost, paid};
use crate::chain::Chain;
use crate::payment::scheme::{Availability, Scheme, VerifyError};
use crate::protocol::Reason;
use crate::types::{AccountId, Asset, AssetId, AtomicAmount, Clock, UnixMillis};

#[tokio::test]
async fn b13_a_mint_that_cheats_closes_itself_and_no_other_and_is_tried_again_with_nobodys_money() {
    let other = AssetId::new(Pubkey::new_from_array([5; 32]).to_string()).unwrap();
    let shop = shop_with(|config| {
        let asset = config.assets[0].clone();
        config.assets.push(Asset { id: other.clone(), symbol: "EURC".to_owned(), ..asset });
    })
    .await;
    shop.change(|world| {
        let mint_account = world.accounts[&mint().to_string()].clone();
        let owned = get_associated_token_address(&payee_key(), &other.as_str().parse().unwrap());
        let account = fake::token_account_of(other.as_str(), &payee_key().to_string());
        world.accounts.insert(other.to_string(), mint_account);
        world.accounts.insert(owned.to_string(), account);
    });
    shop.open().await;
    let record = shop.claimed("n").await;
    shop.change(|world| world.runs = Runs::Short(1));
    assert_eq!(failed(shop.settle(&record).await), Reason::SvmTransferNotConfirmed);
    let asset = terms().asset;
    assert!(matches!(shop.scheme.availability_of(&asset), Availability::Unavailable(_)));
    assert_eq!(shop.scheme.availability_of(&other), Availability::Ready);
    assert_eq!(shop.scheme.availability(), Availability::Ready);
    let refusal = shop.plan(&payment("m"), &terms()).await.err().unwrap();
    assert!(matches!(refusal, VerifyError::Unavailable { .. }), "{refusal:?}");
    // Its time is over, and its payer's, which was not to blame.
    shop.scheme.0.losses.paid(payer().pubkey(), Instant::now());
    shop.scheme.0.breaker.reopen(&mint());
    assert_eq!(shop.scheme.availability_of(&asset), Availability::Ready);
    shop.change(|world| world.simulated_gain = 9_999);
    let refusal = shop.plan(&payment("o"), &terms()).await.err().unwrap();
    assert!(matches!(&refusal, VerifyError::Unavailable { detail } if detail.contains("arriving")), "{refusal:?}");
    assert_eq!(shop.world.lock().unwrap().landed.len(), 1, "nobody's money was risked");
    shop.change(|world| (world.simulated_gain, world.runs) = (10_000, Runs::Pays));
    let record = shop.claimed("o").await;
    paid(&shop.settle(&record).await);
    assert!(!shop.scheme.0.breaker.has_lied(&mint()));
}

#[tokio::test]
async fn b14_a_token_that_refuses_three_payers_who_have_the_money_leaves_the_offers() {
    let shop = shop().await;
    let token = spl_token_interface::ID.to_string();
    let frozen = json!({"InstructionError": [2, {"Custom": 17}]});
    shop.change(|world| world.simulate_error = Some(frozen.clone()));
    let decoded = |nonce: &str| {
        let payload = payment(nonce);
        decode(&NETWORK.parse().unwrap(), &payload, &terms(), UnixMillis(0)).unwrap()
    };
    // Whoever has no money, or a frozen account of its own, closes nothing.
    let refusal = shop.plan(&payment("0"), &terms()).await.err().unwrap();
    assert_eq!(reason(refusal), Reason::SvmSimulationFailed);
    for (state, amount, closes) in
        [("initialized", "9999", false), ("frozen", "10000", false), ("initialized", "10000", true)]
    {
        for payer in 1..=3_u8 {
            let mut decoded = decoded("1");
            decoded.transfer.authority = Pubkey::new_from_array([payer; 32]);
            let owner = decoded.transfer.authority.to_string();
            let mut account = fake::token_account(&token, &owner, state, json!([]));
            account["data"]["parsed"]["info"]["tokenAmount"]["amount"] = json!(amount);
            shop.change(|world| drop(world.accounts.insert(payer_account().to_string(), account)));
            shop.scheme.0.blame_token(&decoded, &frozen, Reason::SvmSimulationFailed).await;
        }
        let is_closed = shop.scheme.availability() != Availability::Ready;
        assert_eq!(is_closed, closes, "{state} {amount}");
    }
}

#[tokio::test]
async fn c2_a_payer_can_spend_its_last_unit_though_earlier_payments_have_landed_and_not_ended() {
    let shop = shop().await;
    shop.change(|world| (world.balance, world.level) = (20_000, "processed"));
    let first = shop.claimed("1").await;
    let settling = {
        let scheme = Arc::clone(&shop.scheme);
        let mut first = first.clone();
        first.claim.wait_for = "finalized".to_owned();
        tokio::spawn(async move { scheme.settle(&first, &NoAttempts).await })
    };
    while shop.world.lock().unwrap().landed.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It is in the balance now, and in flight until it is final.
    shop.change(|world| (world.balance, world.level) = (10_000, "confirmed"));
    let plan = shop.plan(&payment("2"), &terms()).await;
    assert!(plan.is_ok(), "{:?}", plan.err());
    assert!(!settling.is_finished());
    // What isn't there is refused all the same.
    assert_eq!(reason(shop.plan(&payment("3"), &terms()).await.err().unwrap()), Reason::InsufficientFunds);
    settling.abort();
}

#[tokio::test]
async fn e11_a_local_clock_that_is_wrong_closes_the_network_until_it_is_right() {
    let shop = shop().await;
    shop.change(|world| world.ahead_secs = 3600);
    startup::read_clock(&shop.scheme.0).await;
    let Availability::Unavailable(detail) = shop.scheme.availability() else { panic!("offered") };
    assert!(detail.contains("3600 s ahead"), "{detail}");
    assert_eq!(shop.scheme.clock_skew_secs(), Some(3600));
    shop.change(|world| (world.ahead_secs, world.height) = (0, world.height + 1));
    startup::read_clock(&shop.scheme.0).await;
    assert_eq!(shop.scheme.availability(), Availability::Ready);
}

#[tokio::test]
async fn a_payment_expires_though_its_provider_withholds_get_health() {
    let shop = shop().await;
    // Far behind the time, what it doesn't know proves nothing.
    let settling = lost(&shop, |world| (world.withholds_health, world.ahead_secs) = (true, -600)).await;
    assert!(!settling.is_finished());
    shop.change(|world| world.ahead_secs = 0);
    assert_eq!(failed(settling.await.unwrap()), Reason::PaymentExpired);
}

#[tokio::test]
async fn a_fee_payer_that_spent_its_day_leaves_the_offers_and_what_an_earlier_run_signed_counts() {
    // Ten payments' worth: two signatures and 1 micro-lamport for 20,000 units each.
    let shop = shop_with(|config| {
        let solana = solana(config);
        solana.max_fee = AtomicAmount::from(10_001);
        solana.fees.max_per_day = Some(AtomicAmount::from(100_010));
    })
    .await;
    assert!(shop.scheme.counts_spending());
    shop.open().await;
    let signer = AccountId::new(fee_payer().to_string()).unwrap();
    shop.scheme.spent(&signer, AtomicAmount::from(80_008), shop.clock.now());
    let balance = shop.scheme.signer_balances()[0].balance.unwrap();
    let record = shop.claimed("1").await;
    paid(&shop.settle(&record).await);
    assert_eq!(shop.scheme.signer_balances()[0].balance.unwrap(), balance.saturating_sub(AtomicAmount::from(10_001)));
    let plan = shop.plan(&payment("2"), &terms()).await.unwrap();
    let refusal = shop.plan(&payment("3"), &terms()).await.err().unwrap();
    assert!(matches!(&refusal, VerifyError::Unavailable { detail } if detail.contains("per_day")), "{refusal:?}");
    let Availability::Unavailable(detail) = shop.scheme.availability() else { panic!("offered") };
    assert!(detail.contains("max_fee_per_day"), "{detail}");
    drop(plan);
    assert_eq!(shop.scheme.availability(), Availability::Ready);
}

#[tokio::test]
async fn c11_an_offer_below_its_fee_is_left_out_and_a_balance_says_how_long_it_lasts() {
    let shop =
        shop_with(|config| solana(config).fees.native_usd_millionths = Some(AtomicAmount::from(150_000_000))).await;
    shop.open().await;
    // 10,000 lamports at $150 are $0.0015.
    let asset = terms().asset;
    assert!(shop.scheme.covers_fee(&asset, AtomicAmount::from(1500)));
    assert!(!shop.scheme.covers_fee(&asset, AtomicAmount::from(1499)));
    assert_eq!(shop.scheme.signer_balances()[0].lasts, Some((1_000_000_000 - 890_880) / 100_000));
}
