//! The chain over its JSON-RPC, as the gateway and wallets speak it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_message::{Message, VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::instruction::Instruction;
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address as token_account;
use spl_token_interface::instruction::transfer_checked;

use super::{SolanaChain, USDC};
use crate::devnet::Served;
use crate::types::SystemClock;

const MILLION: u64 = 1_000_000;

struct Rig {
    chain: SolanaChain,
    fee_payer: Keypair,
    payer: Keypair,
    payee: Pubkey,
}

impl Rig {
    fn new() -> Self {
        let mut chain = SolanaChain::new(Arc::new(SystemClock)).unwrap();
        let [fee_payer, payer] = [1, 2].map(|seed| Keypair::new_from_array([seed; 32]));
        let payee = Pubkey::new_from_array([3; 32]);
        chain.fund(fee_payer.pubkey(), 1_000 * MILLION).unwrap();
        chain.fund_usdc(payer.pubkey(), MILLION).unwrap();
        chain.fund_usdc(payee, 0).unwrap();
        Self { chain, fee_payer, payer, payee }
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        self.chain.answer(body.as_bytes()).unwrap()
    }

    fn result(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.ask(method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    fn pass(&mut self, slots: usize) {
        (0..slots).for_each(|_| self.chain.tick());
    }

    fn hash(&mut self) -> Hash {
        let answer = self.result("getLatestBlockhash", json!([{"commitment": "processed"}]));
        answer["value"]["blockhash"].as_str().unwrap().parse().unwrap()
    }

    fn transfer(&self, amount: u64) -> Instruction {
        let [from, to] = [self.payer.pubkey(), self.payee].map(|owner| token_account(&owner, &USDC));
        transfer_checked(&spl_token_interface::ID, &from, &USDC, &to, &self.payer.pubkey(), &[], amount, 6).unwrap()
    }

    /// Signed by whoever is among `signers`.
    fn signed(&mut self, instructions: &[Instruction], signers: &[&Keypair]) -> VersionedTransaction {
        let hash = self.hash();
        let message = v0::Message::try_compile(&self.fee_payer.pubkey(), instructions, &[], hash).unwrap();
        sign(VersionedMessage::V0(message), signers)
    }

    fn payment(&mut self, amount: u64) -> VersionedTransaction {
        let (fee_payer, payer) = (self.fee_payer.insecure_clone(), self.payer.insecure_clone());
        self.signed(&[self.transfer(amount)], &[&fee_payer, &payer])
    }

    fn send(&mut self, transaction: &VersionedTransaction, skip_preflight: bool) -> Value {
        self.ask("sendTransaction", json!([wire(transaction), {"encoding": "base64", "skipPreflight": skip_preflight}]))
    }

    fn simulate(&mut self, transaction: &VersionedTransaction, options: Value) -> Value {
        let mut all = json!({"encoding": "base64"});
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.ask("simulateTransaction", json!([wire(transaction), all]))
    }

    fn status(&mut self, transaction: &VersionedTransaction) -> Value {
        let params = json!([[transaction.signatures[0].to_string()], {"searchTransactionHistory": true}]);
        self.result("getSignatureStatuses", params)["value"][0].clone()
    }

    fn held(&mut self, owner: Pubkey) -> u64 {
        let params = json!([token_account(&owner, &USDC).to_string()]);
        self.result("getTokenAccountBalance", params)["value"]["amount"].as_str().unwrap().parse().unwrap()
    }
}

fn sign(message: VersionedMessage, signers: &[&Keypair]) -> VersionedTransaction {
    let bytes = message.serialize();
    let needed = usize::from(message.header().num_required_signatures);
    let signature = |key: &Pubkey| {
        let signer = signers.iter().find(|signer| signer.pubkey() == *key);
        signer.map_or_else(Signature::default, |signer| signer.sign_message(&bytes))
    };
    let signatures = message.static_account_keys()[..needed].iter().map(signature).collect();
    VersionedTransaction { signatures, message }
}

fn wire(transaction: &VersionedTransaction) -> String {
    STANDARD.encode(wincode::serialize(transaction).unwrap())
}

#[test]
fn a_payment_lands_is_confirmed_then_finalized_and_tells_what_it_moved() {
    let mut rig = Rig::new();
    let payment = rig.payment(250_000);
    let signature = payment.signatures[0].to_string();
    assert_eq!(rig.status(&payment), Value::Null);
    assert_eq!(rig.send(&payment, true)["result"], signature);
    let get =
        json!([signature, {"encoding": "base64", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}]);
    assert_eq!(rig.status(&payment)["confirmationStatus"], "processed");
    assert_eq!(rig.result("getTransaction", get.clone()), Value::Null);
    rig.pass(2);
    assert_eq!(rig.status(&payment)["confirmationStatus"], "confirmed");
    let landed = rig.result("getTransaction", get);
    assert_eq!(landed["transaction"], json!([wire(&payment), "base64"]));
    assert_eq!((&landed["slot"], &landed["version"]), (&json!(1), &json!(0)));
    let meta = &landed["meta"];
    assert_eq!((&meta["err"], &meta["fee"]), (&Value::Null, &json!(10_000)));
    let payee_at =
        payment.message.static_account_keys().iter().position(|key| *key == token_account(&rig.payee, &USDC));
    let of_payee = |side: &str| {
        let balances = meta[side].as_array().unwrap();
        balances.iter().find(|it| it["accountIndex"].as_u64() == payee_at.map(|at| at as u64)).unwrap().clone()
    };
    assert_eq!(of_payee("preTokenBalances")["uiTokenAmount"]["amount"], "0");
    let after = of_payee("postTokenBalances");
    assert_eq!((&after["mint"], &after["owner"]), (&json!(USDC.to_string()), &json!(rig.payee.to_string())));
    let shown = json!({"amount": "250000", "decimals": 6, "uiAmount": 0.25, "uiAmountString": "0.25"});
    assert_eq!(after["uiTokenAmount"], shown);
    rig.pass(30);
    assert_eq!(rig.status(&payment)["confirmationStatus"], "finalized");
    assert_eq!(rig.status(&payment)["confirmations"], Value::Null);
    let json = rig.result("getTransaction", json!([signature, {"maxSupportedTransactionVersion": 0}]));
    assert_eq!(json["transaction"]["signatures"][0], signature);
    assert_eq!(rig.ask("getTransaction", json!([signature]))["error"]["code"], -32015);
    assert_eq!((rig.held(rig.payer.pubkey()), rig.held(rig.payee)), (750_000, 250_000));
}

#[test]
fn what_is_badly_signed_sent_twice_or_too_old_moves_nothing() {
    let mut rig = Rig::new();
    let payer = rig.payer.insecure_clone();
    // The fee payer's signature is missing.
    let unsigned = rig.signed(&[rig.transfer(10)], &[&payer]);
    assert_eq!(rig.send(&unsigned, false)["error"]["code"], -32003);
    assert!(rig.send(&unsigned, true)["result"].is_string());
    let mut forged = rig.payment(10);
    forged.signatures[1] = forged.signatures[0];
    assert_eq!(rig.send(&forged, false)["error"]["code"], -32003);
    assert!(rig.send(&forged, true)["result"].is_string());
    assert_eq!((rig.status(&forged), rig.held(rig.payee)), (Value::Null, 0));

    let payment = rig.payment(10);
    rig.send(&payment, true);
    assert!(rig.send(&payment, true)["result"].is_string());
    assert_eq!(rig.held(rig.payee), 10);
    assert_eq!(rig.send(&payment, false)["error"]["data"]["err"], "AlreadyProcessed");

    let (last, late) = (rig.payment(20), rig.payment(30));
    let hash = last.message.recent_blockhash().to_string();
    rig.pass(150);
    assert_eq!(rig.result("isBlockhashValid", json!([hash]))["value"], true);
    assert!(rig.send(&last, false)["result"].is_string());
    assert_eq!(rig.held(rig.payee), 30);
    rig.pass(1);
    assert_eq!(rig.result("isBlockhashValid", json!([hash]))["value"], false);
    assert_eq!(rig.send(&late, false)["error"]["data"]["err"], "BlockhashNotFound");
    assert!(rig.send(&late, true)["result"].is_string());
    assert_eq!((rig.held(rig.payee), rig.status(&late)), (30, Value::Null));
}

#[test]
fn a_failed_transfer_costs_its_fee_and_moves_nothing() {
    let mut rig = Rig::new();
    let payment = rig.payment(2 * MILLION);
    let refused = rig.send(&payment, false);
    assert_eq!(refused["error"]["code"], -32002);
    assert_eq!(refused["error"]["data"]["err"], json!({"InstructionError": [0, {"Custom": 1}]}));
    let lamports = json!([rig.fee_payer.pubkey().to_string()]);
    assert_eq!(rig.result("getBalance", lamports.clone())["value"], 1_000 * MILLION);
    rig.send(&payment, true);
    assert_eq!(rig.status(&payment)["err"], json!({"InstructionError": [0, {"Custom": 1}]}));
    assert_eq!(rig.result("getBalance", lamports)["value"], 1_000 * MILLION - 10_000);
    assert_eq!((rig.held(rig.payer.pubkey()), rig.held(rig.payee)), (MILLION, 0));
}

#[test]
fn a_fee_payer_without_sol_lands_nothing() {
    let mut rig = Rig::new();
    rig.fee_payer = Keypair::new_from_array([9; 32]);
    let payment = rig.payment(10);
    let simulated = rig.simulate(&payment, json!({}));
    assert_eq!(simulated["result"]["value"]["err"], "AccountNotFound");
    rig.send(&payment, true);
    assert_eq!((rig.status(&payment), rig.held(rig.payee)), (Value::Null, 0));
}

#[test]
fn a_simulation_needs_no_signature_changes_nothing_and_shows_accounts() {
    let mut rig = Rig::new();
    let payer = rig.payer.insecure_clone();
    let open = rig.signed(&[rig.transfer(400_000)], &[&payer]);
    let source = token_account(&payer.pubkey(), &USDC).to_string();
    let accounts = json!({"accounts": {"encoding": "base64", "addresses": [source]}});
    let value = rig.simulate(&open, accounts)["result"]["value"].clone();
    assert_eq!(value["err"], Value::Null);
    let data = STANDARD.decode(value["accounts"][0]["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(data[64..72], 600_000_u64.to_le_bytes());
    assert_eq!(rig.held(payer.pubkey()), MILLION);
    assert_eq!(rig.simulate(&open, json!({"sigVerify": true}))["error"]["code"], -32003);
    rig.pass(151);
    assert_eq!(rig.simulate(&open, json!({}))["result"]["value"]["err"], "BlockhashNotFound");
    let replaced = rig.simulate(&open, json!({"replaceRecentBlockhash": true}))["result"]["value"].clone();
    assert_eq!((&replaced["err"], replaced["replacementBlockhash"].is_object()), (&Value::Null, true));
}

#[test]
fn mints_and_token_accounts_are_read_as_the_gateway_and_wallets_read_them() {
    let mut rig = Rig::new();
    let (mint, account) = (USDC.to_string(), token_account(&rig.payee, &USDC).to_string());
    let nobody = Pubkey::new_from_array([8; 32]).to_string();
    let params = json!([[mint, account, nobody], {"encoding": "jsonParsed", "commitment": "confirmed"}]);
    let value = rig.result("getMultipleAccounts", params)["value"].clone();
    let (parsed_mint, parsed_account) = (&value[0]["data"]["parsed"], &value[1]["data"]["parsed"]);
    assert_eq!(value[0]["owner"], spl_token_interface::ID.to_string());
    let supply = json!({"decimals": 6, "freezeAuthority": null, "isInitialized": true, "mintAuthority": null,
        "supply": "1000000"});
    assert_eq!((&parsed_mint["type"], &parsed_mint["info"]), (&json!("mint"), &supply));
    assert_eq!(parsed_account["type"], "account");
    assert_eq!(parsed_account["info"]["owner"], rig.payee.to_string());
    assert_eq!(
        (&parsed_account["info"]["mint"], &parsed_account["info"]["state"]),
        (&json!(mint), &json!("initialized"))
    );
    assert_eq!(value[2], Value::Null);
    let raw = rig.result("getAccountInfo", json!([mint, {"encoding": "base64"}]))["value"].clone();
    let data = STANDARD.decode(raw["data"][0].as_str().unwrap()).unwrap();
    assert_eq!((data.len(), data[44], data[45]), (82, 6, 1));
    assert_eq!(rig.result("getMinimumBalanceForRentExemption", json!([165])), 2_039_280);
}

#[test]
fn slots_heights_hashes_and_times_agree() {
    let mut rig = Rig::new();
    rig.pass(39);
    let at = |level: &str| json!([{"commitment": level}]);
    for (level, slot) in [("processed", 40), ("confirmed", 38), ("finalized", 8)] {
        assert_eq!(rig.result("getSlot", at(level)), slot);
        assert_eq!(rig.result("getBlockHeight", at(level)), slot);
        assert_eq!(rig.result("getLatestBlockhash", at(level))["value"]["lastValidBlockHeight"], slot + 150);
    }
    assert_eq!(rig.result("getSlot", json!([])), 8);
    assert_eq!(rig.result("getBlocks", json!([5, 100])), json!([5, 6, 7, 8]));
    assert_eq!(rig.result("getBlocks", json!([37, {"commitment": "confirmed"}])), json!([37, 38]));
    assert_eq!(rig.result("getFirstAvailableBlock", json!([])), 0);
    assert!(rig.result("getBlockTime", json!([40])).as_u64().unwrap() > 1_700_000_000);
    assert_eq!(rig.ask("getBlockTime", json!([41]))["error"]["code"], -32004);
    assert_eq!(rig.result("getHealth", json!([])), "ok");
    assert_eq!(rig.ask("getNothing", json!([]))["error"]["code"], -32601);
    let genesis = rig.result("getGenesisHash", json!([]));
    assert!(genesis.as_str().unwrap().parse::<Hash>().is_ok());
    assert_ne!(genesis, Rig::new().result("getGenesisHash", json!([])));
}

#[test]
fn a_fee_is_told_until_the_hash_is_too_old_and_legacy_messages_land_too() {
    let mut rig = Rig::new();
    let hash = rig.hash();
    let legacy = VersionedMessage::Legacy(Message::new_with_blockhash(
        &[rig.transfer(10)],
        Some(&rig.fee_payer.pubkey()),
        &hash,
    ));
    let params = json!([STANDARD.encode(legacy.serialize())]);
    assert_eq!(rig.result("getFeeForMessage", params.clone())["value"], 10_000);
    let payment = sign(legacy, &[&rig.fee_payer, &rig.payer]);
    rig.send(&payment, false);
    assert_eq!(rig.held(rig.payee), 10);
    rig.pass(151);
    assert_eq!(rig.result("getFeeForMessage", params)["value"], Value::Null);
    let landed = rig.result("getTransaction", json!([payment.signatures[0].to_string()]));
    assert_eq!((landed.get("version"), &landed["meta"]["err"]), (None, &Value::Null));
}
