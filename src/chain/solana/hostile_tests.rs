//! Transactions that somebody might build to be served for nothing, or to spend what is the gateway's (threats B19–B21,
//! C6–C9). Each is refused with its reason, and no node hears of it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_message::VersionedMessage;
use solana_message::v0::MessageAddressTableLookup;
use solana_pubkey::{Pubkey, pubkey};
use solana_sdk::instruction::{AccountMeta, Instruction};
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;

use super::programs::{LIGHTHOUSE, MEMO, TOKEN, TOKEN_2022};
use super::testing::*;
use crate::chain::Chain;
use crate::payment::scheme::{Scheme, VerifyError};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::UnixMillis;

const SYSTEM: Pubkey = pubkey!("11111111111111111111111111111111");
const ATA_PROGRAM: Pubkey = pubkey!("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");

/// A shop that knows its mint and does nothing by itself, so that every call counted is a payment's.
async fn quiet() -> Shop {
    let shop = shop_with(|_| {}).await;
    shop.scheme.verify_chain().await.unwrap();
    shop.change(|world| world.calls.clear());
    shop
}

async fn verdict(shop: &Shop, payload: &Value, terms: &PaymentRequirements) -> Reason {
    let refused = match shop.plan(payload, terms).await {
        Err(VerifyError::Invalid { reason }) => reason,
        Err(VerifyError::Unavailable { detail }) => panic!("unavailable: {detail}"),
        Ok(_) => panic!("accepted: {payload}"),
    };
    assert_eq!(shop.world.lock().unwrap().calls(), 0, "a node heard of a payment refused as {refused}");
    refused
}

async fn refused(instructions: &[Instruction]) -> Reason {
    refused_with(instructions, &[]).await
}

async fn refused_with(instructions: &[Instruction], signers: &[Keypair]) -> Reason {
    let shop = quiet().await;
    let by_v0 = verdict(&shop, &payload(&signed(message(instructions), signers)), &terms()).await;
    let by_legacy = verdict(&shop, &payload(&signed(legacy(instructions), signers)), &terms()).await;
    assert_eq!(by_v0, by_legacy);
    by_v0
}

fn with(position: usize, change: impl FnOnce(&mut Instruction)) -> Vec<Instruction> {
    let mut instructions = usual("n");
    change(&mut instructions[position]);
    instructions
}

fn and(extra: Instruction) -> Vec<Instruction> {
    let mut instructions = usual("n");
    instructions.push(extra);
    instructions
}

#[tokio::test]
async fn what_clients_build_is_accepted_in_both_versions_with_and_without_memo() {
    let shop = shop().await;
    for instructions in [usual("n"), usual("n")[..3].to_vec()] {
        for built in [message(&instructions), legacy(&instructions)] {
            shop.plan(&payload(&signed(built, &[])), &terms()).await.unwrap();
        }
    }
    let assertion = Instruction { program_id: LIGHTHOUSE, accounts: Vec::new(), data: vec![5, 1, 2] };
    let most = [usual("a"), vec![memo("b"), assertion.clone(), assertion]].concat();
    assert_eq!(most.len(), 7);
    shop.plan(&payload(&signed(message(&most), &[])), &terms()).await.unwrap();
}

#[tokio::test]
async fn one_transaction_is_one_payment_however_it_is_spelled() {
    let shop = quiet().await;
    let base = signed(message(&usual("n")), &[]);
    let (mut ids, mut digests, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for junk in 0..8_u8 {
        let mut copy = base.clone();
        copy.signatures[0] = Signature::from([junk; 64]);
        let wire = wincode::serialize(&copy).unwrap();
        let standard = STANDARD.encode(&wire);
        for spelled in [
            json!({"transaction": standard}),
            json!({"transaction": STANDARD_NO_PAD.encode(&wire)}),
            json!({"transaction": URL_SAFE.encode(&wire)}),
            json!({"transaction": URL_SAFE_NO_PAD.encode(&wire)}),
            json!({"transaction": format!(" {standard}\n")}),
            json!({"transaction": standard, "unsigned": junk}),
            json!({"transaction": format!("\t{}", STANDARD_NO_PAD.encode(&wire))}),
            json!({"transaction": format!("{}\r\n", URL_SAFE.encode(&wire))}),
        ] {
            let payment = shop.scheme.decode(&spelled, &terms()).unwrap();
            ids.push(payment.facts().id.clone());
            digests.push(payment.facts().digest);
            kept.push(payment.facts().payload.clone());
        }
    }
    assert_eq!(ids.len(), 64);
    ids.dedup();
    digests.dedup();
    kept.dedup();
    assert_eq!((ids.len(), digests.len(), kept.len()), (1, 1, 1));
    let other = shop.scheme.decode(&payment("m"), &terms()).unwrap();
    assert_ne!(other.facts().id, ids[0]);
}

#[tokio::test]
async fn what_is_no_canonical_transaction_is_refused() {
    let shop = quiet().await;
    let wire = wincode::serialize(&signed(message(&usual("n")), &[])).unwrap();
    let long = signed(message(&[usual("n"), vec![memo(&"x".repeat(1232))]].concat()), &[]);
    // A length in two bytes where one does.
    let padded_length = [&[wire[0] | 0x80, 0][..], &wire[1..]].concat();
    let mut version_1 = wire.clone();
    version_1[129] = 0x81;
    let mut version_2 = wire.clone();
    version_2[129] = 0x82;
    for bad in [
        [&wire[..], &[0]].concat(),
        wire[..wire.len() - 1].to_vec(),
        Vec::new(),
        vec![0x81],
        padded_length,
        version_1,
        version_2,
        wincode::serialize(&long).unwrap(),
    ] {
        let payload = json!({"transaction": STANDARD.encode(&bad)});
        assert_eq!(verdict(&shop, &payload, &terms()).await, Reason::SvmUndecodable, "{}", bad.len());
    }
    for bad in [json!({}), json!({"transaction": 1}), json!({"transaction": "%"})] {
        assert_eq!(verdict(&shop, &bad, &terms()).await, Reason::SvmUndecodable, "{bad}");
    }
    for bad in [json!([]), json!("e30="), json!(null)] {
        assert_eq!(verdict(&shop, &bad, &terms()).await, Reason::InvalidPayload, "{bad}");
    }
}

#[tokio::test]
async fn lookup_tables_and_accounts_named_twice_are_refused() {
    let shop = quiet().await;
    let mut built = message(&usual("n"));
    if let VersionedMessage::V0(message) = &mut built {
        message.address_table_lookups.push(MessageAddressTableLookup {
            account_key: Pubkey::from([8; 32]),
            writable_indexes: vec![0],
            readonly_indexes: Vec::new(),
        });
    }
    assert_eq!(verdict(&shop, &payload(&signed(built, &[])), &terms()).await, Reason::SvmUndecodable);
    let mut built = message(&usual("n"));
    if let VersionedMessage::V0(message) = &mut built {
        let last = message.account_keys.len() - 1;
        message.account_keys[last] = message.account_keys[0];
    }
    assert_eq!(verdict(&shop, &payload(&signed(built, &[])), &terms()).await, Reason::SvmUndecodable);
}

#[tokio::test]
async fn a_payment_that_its_payer_did_not_sign_reaches_no_node() {
    let shop = quiet().await;
    let good = signed(message(&usual("n")), &[]);
    let mut unsigned = good.clone();
    unsigned.signatures[1] = Signature::default();
    let mut foreign = good.clone();
    foreign.signatures[1] = Keypair::new_from_array([7; 32]).sign_message(&good.message.serialize());
    let mut of_other_message = good.clone();
    of_other_message.signatures[1] = signed(message(&usual("m")), &[]).signatures[1];
    for bad in [unsigned, foreign, of_other_message] {
        assert_eq!(verdict(&shop, &payload(&bad), &terms()).await, Reason::SvmSignatureInvalid);
    }
    for bit in 0..512 {
        let mut bytes: [u8; 64] = good.signatures[1].into();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut flipped = good.clone();
        flipped.signatures[1] = Signature::from(bytes);
        assert_eq!(verdict(&shop, &payload(&flipped), &terms()).await, Reason::SvmSignatureInvalid, "{bit}");
    }
}

#[tokio::test]
async fn an_authority_that_need_not_sign_is_refused() {
    let instructions = with(2, |transfer| transfer.accounts[3].is_signer = false);
    assert_eq!(refused(&instructions).await, Reason::SvmSignatureInvalid);
    let mut multisig = usual("n");
    multisig[2].accounts[3].is_signer = false;
    multisig[2].accounts.push(AccountMeta::new_readonly(payer().pubkey(), true));
    assert_eq!(refused(&multisig).await, Reason::SvmNoTransfer);
}

#[tokio::test]
async fn the_layout_is_the_one_that_is_allowed() {
    assert_eq!(refused(&usual("n")[..2]).await, Reason::SvmInstructionsLength);
    let eight = [usual("n"), vec![memo("a"), memo("b"), memo("c"), memo("d")]].concat();
    assert_eq!(refused(&eight).await, Reason::SvmInstructionsLength);
    let swapped = vec![unit_price(1), unit_limit(20_000), transfer()];
    assert_eq!(refused(&swapped).await, Reason::SvmComputeLimit);
    assert_eq!(refused(&with(1, |it| *it = unit_limit(1))).await, Reason::SvmComputePrice);
    assert_eq!(refused(&with(0, |it| it.data.push(0))).await, Reason::SvmComputeLimit);
    assert_eq!(refused(&with(1, |it| it.data.truncate(5))).await, Reason::SvmComputePrice);
    assert_eq!(refused(&with(0, |it| it.program_id = MEMO)).await, Reason::SvmComputeLimit);
    let late = vec![unit_limit(1), unit_price(1), memo("n"), transfer()];
    assert_eq!(refused(&late).await, Reason::SvmNoTransfer);
}

#[tokio::test]
async fn a_durable_nonce_can_not_stand_first() {
    let advance = Instruction {
        program_id: SYSTEM,
        accounts: vec![
            AccountMeta::new(Pubkey::from([8; 32]), false),
            AccountMeta::new_readonly(pubkey!("SysvarRecentB1ockHashes11111111111111111111"), false),
            AccountMeta::new_readonly(payer().pubkey(), true),
        ],
        data: vec![4, 0, 0, 0],
    };
    assert_eq!(refused(&[vec![advance.clone()], usual("n")].concat()).await, Reason::SvmComputeLimit);
    assert_eq!(refused(&and(advance)).await, Reason::SvmUnknownFifth);
}

#[tokio::test]
async fn a_second_price_transfer_or_foreign_program_after_the_transfer_is_refused() {
    let to_system = Instruction {
        program_id: SYSTEM,
        accounts: vec![AccountMeta::new(payer().pubkey(), true), AccountMeta::new(payee_key(), false)],
        data: vec![2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    };
    for extra in [unit_price(5_000_000), unit_limit(1_400_000), transfer(), to_system] {
        let directly = [usual("n")[..3].to_vec(), vec![extra.clone()]].concat();
        assert_eq!(refused(&directly).await, Reason::SvmUnknownFourth);
        assert_eq!(refused(&and(extra.clone())).await, Reason::SvmUnknownFifth);
        let sixth = [usual("n"), vec![memo("a"), extra.clone()]].concat();
        assert_eq!(refused(&sixth).await, Reason::SvmUnknownSixth);
        let seventh = [usual("n"), vec![memo("a"), memo("b"), extra]].concat();
        assert_eq!(refused(&seventh).await, Reason::SvmUnknownSeventh);
    }
}

#[tokio::test]
async fn accounts_are_never_made_at_our_cost() {
    for tag in [vec![], vec![0], vec![1]] {
        let create = Instruction {
            program_id: ATA_PROGRAM,
            accounts: vec![
                AccountMeta::new(fee_payer(), true),
                AccountMeta::new(payee_account(), false),
                AccountMeta::new_readonly(payee_key(), false),
                AccountMeta::new_readonly(mint(), false),
                AccountMeta::new_readonly(SYSTEM, false),
                AccountMeta::new_readonly(TOKEN, false),
            ],
            data: tag,
        };
        let before = vec![unit_limit(1), unit_price(1), create.clone(), transfer()];
        assert_eq!(refused(&before).await, Reason::SvmNoTransfer);
        assert_eq!(refused(&and(create)).await, Reason::SvmUnknownFifth);
    }
    for tag in [vec![], vec![0, 1, 2], vec![1]] {
        let writes = Instruction { program_id: LIGHTHOUSE, accounts: Vec::new(), data: tag };
        assert_eq!(refused(&and(writes)).await, Reason::SvmUnknownFifth);
    }
}

#[tokio::test]
async fn the_transfer_is_the_one_that_the_terms_ask_for() {
    let stranger = Keypair::new_from_array([7; 32]).pubkey();
    let account = |index: usize, key: Pubkey| with(2, |transfer| transfer.accounts[index].pubkey = key);
    assert_eq!(refused(&account(1, stranger)).await, Reason::SvmMintMismatch);
    assert_eq!(refused(&account(2, stranger)).await, Reason::SvmRecipientMismatch, "not the payee's");
    assert_eq!(refused(&account(2, payee_key())).await, Reason::SvmRecipientMismatch, "not its token account");
    let of_other_program = account_of(&payee_key(), &TOKEN_2022);
    assert_eq!(refused(&account(2, of_other_program)).await, Reason::SvmRecipientMismatch);
    assert_eq!(refused(&account(0, payee_account())).await, Reason::SvmRecipientMismatch, "moves nothing");
    for (amount, decimals) in [(9_999, 6), (10_001, 6), (0, 6), (u64::MAX, 6), (10_000, 5), (10_000, 0)] {
        let data = transfer_data(amount, decimals);
        assert_eq!(refused(&with(2, |it| it.data = data)).await, Reason::SvmAmountMismatch, "{amount} {decimals}");
    }
    assert_eq!(refused(&with(2, |it| it.data.push(0))).await, Reason::SvmNoTransfer);
    assert_eq!(refused(&with(2, |it| it.data = vec![3, 16, 39, 0, 0, 0, 0, 0, 0])).await, Reason::SvmNoTransfer);
    assert_eq!(refused(&with(2, |it| it.program_id = MEMO)).await, Reason::SvmNoTransfer);
    assert_eq!(refused(&with(2, |it| it.accounts.truncate(3))).await, Reason::SvmNoTransfer);
}

#[tokio::test]
async fn the_other_token_program_is_refused_even_with_its_own_account() {
    let instructions = with(2, |transfer| {
        transfer.program_id = TOKEN_2022;
        transfer.accounts[2].pubkey = account_of(&payee_key(), &TOKEN_2022);
    });
    assert_eq!(refused(&instructions).await, Reason::SvmNoTransfer);
}

#[tokio::test]
async fn what_a_settlement_costs_is_capped_offline() {
    let budget = |units: u32, price: u64| {
        let mut instructions = usual("n");
        instructions[0] = unit_limit(units);
        instructions[1] = unit_price(price);
        instructions
    };
    assert_eq!(refused(&budget(200_001, 1)).await, Reason::SvmComputeLimitTooHigh);
    assert_eq!(refused(&budget(u32::MAX, 1)).await, Reason::SvmComputeLimitTooHigh);
    assert_eq!(refused(&budget(1, 5_000_001)).await, Reason::SvmComputePriceTooHigh);
    assert_eq!(refused(&budget(1, u64::MAX)).await, Reason::SvmComputePriceTooHigh);
    // 10,000 for two signatures and 90,000 for the rest are 100,000 lamports, the most that is paid here.
    assert_eq!(refused(&budget(90_001, 1_000_000)).await, Reason::SvmComputePriceTooHigh);
    assert_eq!(refused(&budget(180_001, 500_000)).await, Reason::SvmComputePriceTooHigh, "half a lamport is one");
    let shop = quiet().await;
    let most = payload(&signed(message(&budget(90_000, 1_000_000)), &[]));
    assert!(shop.scheme.decode(&most, &terms()).unwrap().check(&terms(), UnixMillis(0)).is_ok());
}

#[tokio::test]
async fn signatures_beyond_three_are_refused_and_a_third_must_be_good() {
    let (third, fourth) = (Keypair::new_from_array([5; 32]), Keypair::new_from_array([6; 32]));
    let signing = |keys: &[Pubkey]| {
        let mut memo = memo("n");
        memo.accounts = keys.iter().map(|key| AccountMeta::new_readonly(*key, true)).collect();
        [usual("n")[..3].to_vec(), vec![memo]].concat()
    };
    let four = signing(&[third.pubkey(), fourth.pubkey()]);
    assert_eq!(refused_with(&four, &[third.insecure_clone(), fourth]).await, Reason::SvmExcessiveSigners);
    let three = signing(&[third.pubkey()]);
    assert_eq!(refused(&three).await, Reason::SvmSignatureInvalid);
    let shop = shop().await;
    shop.plan(&payload(&signed(message(&three), &[third])), &terms()).await.unwrap();
}

#[tokio::test]
async fn the_fee_payer_is_first_ours_and_the_one_that_was_offered() {
    let shop = quiet().await;
    let mut without = terms();
    without.extra.clear();
    assert_eq!(verdict(&shop, &payment("n"), &without).await, Reason::SvmMissingFeePayer);
    let mut other = terms();
    other.extra["feePayer"] = json!(payer().pubkey().to_string());
    assert_eq!(verdict(&shop, &payment("n"), &other).await, Reason::SvmFeePayerNotManaged);
    other.extra["feePayer"] = json!(second_fee_payer().pubkey().to_string());
    assert_eq!(verdict(&shop, &payment("n"), &other).await, Reason::SvmInvalidFeePayer);
}

#[tokio::test]
async fn a_key_of_ours_is_refused_in_every_place_of_every_instruction() {
    for key in [fee_payer(), second_fee_payer().pubkey()] {
        // As source, mint, destination, authority.
        let expected = [
            Reason::SvmFeePayerInInstruction,
            Reason::SvmMintMismatch,
            Reason::SvmRecipientMismatch,
            Reason::SvmFeePayerTransferring,
        ];
        for (index, expected) in expected.into_iter().enumerate() {
            let instructions = with(2, |transfer| transfer.accounts[index].pubkey = key);
            assert_eq!(refused(&instructions).await, expected, "{index}");
        }
        for (is_signer, is_writable) in [(false, false), (false, true), (true, false), (true, true)] {
            let meta = AccountMeta { pubkey: key, is_signer, is_writable };
            let in_memo = with(3, |memo| memo.accounts.push(meta.clone()));
            assert_eq!(refused(&in_memo).await, Reason::SvmFeePayerInInstruction);
            let asserts = Instruction { program_id: LIGHTHOUSE, accounts: vec![meta.clone()], data: vec![5] };
            assert_eq!(refused(&and(asserts)).await, Reason::SvmFeePayerInInstruction);
            let in_budget = with(0, |limit| limit.accounts.push(meta));
            assert_eq!(refused(&in_budget).await, Reason::SvmComputeLimit);
        }
        let as_program = Instruction { program_id: key, accounts: Vec::new(), data: Vec::new() };
        // Whoever pays the fee can't be a program at all.
        let expected = if key == fee_payer() { Reason::SvmUndecodable } else { Reason::SvmUnknownFifth };
        assert_eq!(refused(&and(as_program)).await, expected);
    }
}

#[tokio::test]
async fn the_memo_that_is_asked_for_stands_there_once() {
    let shop = shop().await;
    let mut asking = terms();
    asking.extra.insert("memo".to_owned(), json!("order-7"));
    let built = |memos: &[&str]| {
        let list = memos.iter().map(|text| memo(text));
        payload(&signed(message(&usual("n")[..3].iter().cloned().chain(list).collect::<Vec<_>>()), &[]))
    };
    shop.plan(&built(&["order-7"]), &asking).await.unwrap();
    let quiet = quiet().await;
    assert_eq!(verdict(&quiet, &built(&[]), &asking).await, Reason::SvmMemoCount);
    assert_eq!(verdict(&quiet, &built(&["order-7", "order-7"]), &asking).await, Reason::SvmMemoCount);
    assert_eq!(verdict(&quiet, &built(&["order-8"]), &asking).await, Reason::SvmMemoMismatch);
    assert_eq!(verdict(&quiet, &built(&["order-7 "]), &asking).await, Reason::SvmMemoMismatch);
}

#[tokio::test]
async fn terms_of_another_payee_price_or_network_are_not_met() {
    let shop = quiet().await;
    let mut dear = terms();
    dear.amount = crate::types::AtomicAmount::from(10_001);
    assert_eq!(verdict(&shop, &payment("n"), &dear).await, Reason::SvmAmountMismatch);
    let mut other = terms();
    other.pay_to = crate::types::AccountId::new(payer().pubkey().to_string()).unwrap();
    assert_eq!(verdict(&shop, &payment("n"), &other).await, Reason::SvmRecipientMismatch);
    let mut elsewhere = terms();
    elsewhere.network = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp".parse().unwrap();
    assert_eq!(verdict(&shop, &payment("n"), &elsewhere).await, Reason::InvalidPayload);
}

/// Whether a transaction that was accepted pays exactly what was asked, judged without the scheme's own reader of transfers.
fn pays(transaction: &VersionedTransaction) -> bool {
    let keys = transaction.message.static_account_keys();
    let transfers: Vec<_> = transaction
        .message
        .instructions()
        .iter()
        .filter(|it| [TOKEN, TOKEN_2022].contains(&keys[usize::from(it.program_id_index)]))
        .collect();
    let [only] = transfers.as_slice() else { return false };
    let account = |index: usize| keys[usize::from(only.accounts[index])];
    only.data == transfer_data(10_000, 6)
        && account(1) == mint()
        && account(2) == payee_account()
        && account(0) != account(2)
        && keys[0] == fee_payer()
        && !only.accounts.contains(&0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_mutated_transaction_is_accepted_unless_it_still_pays_exactly(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        is_resigned in any::<bool>(),
    ) {
        static SHOP: std::sync::OnceLock<(tokio::runtime::Runtime, Shop)> = std::sync::OnceLock::new();
        let (runtime, shop) = SHOP.get_or_init(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let shop = runtime.block_on(quiet());
            (runtime, shop)
        });
        let mut bytes = wincode::serialize(&signed(message(&usual("n")), &[])).unwrap();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        // With the payer's own help, or without.
        if is_resigned && let Ok(changed) = wincode::deserialize_exact::<VersionedTransaction>(&bytes)
            && changed.sanitize().is_ok()
            && !matches!(changed.message, VersionedMessage::V1(_))
        {
            bytes = wincode::serialize(&signed(changed.message, &[])).unwrap();
        }
        let payload = json!({"transaction": STANDARD.encode(&bytes)});
        let accepted = runtime.block_on(async {
            let payment = shop.scheme.decode(&payload, &terms()).ok()?;
            payment.check(&terms(), UnixMillis(0)).ok()?;
            payment.prove(&terms()).await.ok()
        });
        if accepted.is_some() {
            let transaction: VersionedTransaction = wincode::deserialize_exact(&bytes).unwrap();
            prop_assert!(pays(&transaction), "{transaction:?}");
        }
    }
}
