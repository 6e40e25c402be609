//! What single steps of a request cost: `cargo bench --bench micro`.
//!
//! `secp256k1_recover` is the floor under `eip3009_verify`: recovering a signer from a digest that is already there.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark that fails should stop and say where"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolStruct, eip712_domain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_message::{VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::instruction::{AccountMeta, Instruction};
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address;
use spl_token_interface::instruction::TokenInstruction;
use tollhouse::chain::{Chain, NoObserver, cosmos::CosmosScheme, evm::EvmScheme, solana::SolanaScheme};
use tollhouse::config::{self, Config};
use tollhouse::devnet::cosmos::{COSMOS_CHAIN_ID, COSMOS_DENOM, CosmosChain, CosmosParams};
use tollhouse::ledger::{ClaimOutcome, Holder, Ledger, NewAttempt, NewPayment, PaymentId, SqliteLedger};
use tollhouse::payment::scheme::Scheme;
use tollhouse::protocol::{
    ChallengeTemplate, Offer, PaymentRequirements, QuoteKey, QuoteNonce, ResourceInfo, Version, decode_payment,
    encode_json,
};
use tollhouse::route::{RouteTable, canonicalize};
use tollhouse::types::{AccountId, AssetId, AtomicAmount, Clock, Network, SystemClock, UnixMillis};

const ROUTE: &str = "GET /api/data";
const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

alloy::sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

fn configuration() -> Config {
    let mut text = format!(
        r#"[upstreams.api]
servers = ["127.0.0.1:9"]
[networks.base-sepolia]
rpc_url = "http://127.0.0.1:9"
signer = {{ env = "KEY" }}
pay_to = "{PAY_TO}"
[routes]
"{ROUTE}" = "$0.01"
"/health" = "free"
"/users/{{id}}/posts/{{post}}" = "$0.02"
"#
    );
    for index in 0..100 {
        text.push_str(&format!("\"/service{index}/{{*rest}}\" = \"free\"\n"));
    }
    let parsed = config::parse(&text, Path::new("bench.toml"), &|_| Some("11".repeat(32)));
    parsed.into_result().unwrap()
}

fn terms() -> PaymentRequirements {
    serde_json::from_value(json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": USDC,
        "payTo": PAY_TO, "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}}))
    .unwrap()
}

fn now_secs() -> u64 {
    SystemClock.now().as_secs()
}

struct SignedPayment {
    payload: Value,
    digest: B256,
    signature: alloy::primitives::Signature,
}

fn sign() -> SignedPayment {
    let signer: PrivateKeySigner = "22".repeat(32).parse().unwrap();
    let valid_before = now_secs() + 3600;
    let message = TransferWithAuthorization {
        from: signer.address(),
        to: PAY_TO.parse().unwrap(),
        value: U256::from(10_000),
        validAfter: U256::ZERO,
        validBefore: U256::from(valid_before),
        nonce: keccak256("bench"),
    };
    let token: Address = USDC.parse().unwrap();
    let domain = eip712_domain! {name: "USDC", version: "2", chain_id: 84532, verifying_contract: token,};
    let digest = message.eip712_signing_hash(&domain);
    let signature = signer.sign_hash_sync(&digest).unwrap();
    let payload = json!({"signature": format!("0x{}", alloy::hex::encode(signature.as_bytes())), "authorization": {
        "from": message.from, "to": message.to, "value": "10000", "validAfter": "0",
        "validBefore": valid_before.to_string(), "nonce": message.nonce}});
    SignedPayment { payload, digest, signature }
}

fn routing(criterion: &mut Criterion) {
    let config = configuration();
    let table = RouteTable::build(&config.routes).unwrap();
    criterion.bench_function("canonicalize_plain", |bencher| {
        bencher.iter(|| canonicalize(black_box(b"/service42/some/file.json?x=1")));
    });
    criterion.bench_function("canonicalize_escaped", |bencher| {
        bencher.iter(|| canonicalize(black_box(b"/service42//a/../%73ome/file%2ejson")));
    });
    let target = canonicalize(b"/service42/some/file.json").unwrap();
    criterion.bench_function("match_free_of_103", |bencher| {
        bencher.iter(|| table.find(Some("h"), black_box(&target), &http::Method::GET));
    });
    let target = canonicalize(b"/API/Data/").unwrap();
    criterion.bench_function("match_priced_of_103", |bencher| {
        bencher.iter(|| table.find(Some("h"), black_box(&target), &http::Method::GET));
    });
}

fn challenge(criterion: &mut Criterion) {
    let key = QuoteKey::new(&[7; 32]).unwrap();
    let offer = Offer::new(ROUTE, terms());
    let template = ChallengeTemplate::new(std::slice::from_ref(&offer), &ResourceInfo::default(), false).unwrap();
    let expires = UnixMillis::from_secs(now_secs() + 300);
    criterion.bench_function("quote_seal", |bencher| {
        let nonce = QuoteNonce::random().unwrap();
        bencher.iter(|| key.seal(black_box(&offer.digest), nonce, expires));
    });
    let quote = key.seal(&offer.digest, QuoteNonce::random().unwrap(), expires);
    criterion.bench_function("quote_open", |bencher| {
        bencher.iter(|| key.open(black_box(&quote), &offer.digest, UnixMillis::from_secs(1)));
    });
    criterion.bench_function("challenge_render", |bencher| {
        bencher.iter(|| {
            let nonce = QuoteNonce::random().unwrap();
            template.render("payment_required", black_box("http://h/api/data"), &key, nonce, expires)
        });
    });
}

fn verification(criterion: &mut Criterion) {
    let signed = sign();
    let header = encode_json(&json!({"x402Version": 2, "accepted": terms(), "payload": signed.payload}));
    criterion.bench_function("header_decode", |bencher| {
        bencher.iter(|| decode_payment(black_box(header.as_bytes()), Version::V2).unwrap());
    });
    criterion.bench_function("secp256k1_recover", |bencher| {
        bencher.iter(|| signed.signature.recover_address_from_prehash(black_box(&signed.digest)).unwrap());
    });
    let config = configuration();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let scheme = EvmScheme::connect(config.networks.first().unwrap(), &[], clock, Arc::new(NoObserver)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let terms = terms();
    criterion.bench_function("eip3009_verify", |bencher| {
        bencher.iter(|| {
            let payment = scheme.decode(black_box(&signed.payload), &terms).unwrap();
            payment.check(&terms, SystemClock.now()).unwrap();
            runtime.block_on(payment.prove(&terms)).unwrap();
        });
    });
}

/// A payment on Cosmos, signed by cosmrs.
fn sign_cosmos(key: &cosmrs::crypto::secp256k1::SigningKey, account_number: u64, pay_to: &str) -> Value {
    use cosmrs::tx::{Body, Fee, Msg, SignDoc, SignerInfo};
    let coin = |amount| cosmrs::Coin { denom: COSMOS_DENOM.parse().unwrap(), amount };
    let public = key.public_key();
    let from_address = public.account_id("noble").unwrap();
    let send = cosmrs::bank::MsgSend { from_address, to_address: pay_to.parse().unwrap(), amount: vec![coin(10_000)] };
    let body_bytes = Body::new(vec![send.to_any().unwrap()], "", 0_u32).into_bytes().unwrap();
    let auth =
        SignerInfo::single_direct(Some(public), 0).auth_info(Fee::from_amount_and_gas(coin(10_000), 100_000_u64));
    let auth_info_bytes = auth.into_bytes().unwrap();
    let chain_id = COSMOS_CHAIN_ID.to_owned();
    let raw = SignDoc { body_bytes, auth_info_bytes, chain_id, account_number }.sign(key).unwrap().to_bytes().unwrap();
    json!({"transaction": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, raw)})
}

/// From a payload to the proven signature of a payer whose account number is known, which it is after its first payment.
fn cosmos(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let chain = runtime.block_on(CosmosChain::start(CosmosParams::default())).unwrap();
    let key = cosmrs::crypto::secp256k1::SigningKey::from_slice(&[0x22; 32]).unwrap();
    let payer = key.public_key().account_id("noble").unwrap().to_string();
    chain.fund(&payer, COSMOS_DENOM, 1_000_000).unwrap();
    let (account_number, _) = chain.account(&payer).unwrap();
    let pay_to = cosmrs::AccountId::new("noble", &[7; 20]).unwrap().to_string();
    let text = format!(
        "[upstreams.api]\nservers = [\"127.0.0.1:9\"]\n[networks.noble-testnet]\ngrpc_url = \"{}\"\npay_to = \"{pay_to}\"\n[routes]\n\"{ROUTE}\" = \"$0.01\"\n",
        chain.grpc_url()
    );
    let config = config::parse(&text, Path::new("bench.toml"), &|_| None).into_result().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let scheme = CosmosScheme::connect(config.networks.first().unwrap(), clock, Arc::new(NoObserver)).unwrap();
    runtime.block_on(scheme.verify_chain()).unwrap();
    let terms: PaymentRequirements = serde_json::from_value(json!({"scheme": "exact", "network": "cosmos:grand-1",
        "amount": "10000", "asset": COSMOS_DENOM, "payTo": pay_to, "maxTimeoutSeconds": 60, "extra": {}}))
    .unwrap();
    let payload = sign_cosmos(&key, account_number, &pay_to);
    criterion.bench_function("cosmos_decode", |bencher| {
        bencher.iter(|| scheme.decode(black_box(&payload), &terms).unwrap());
    });
    criterion.bench_function("cosmos_verify", |bencher| {
        bencher.iter(|| {
            let payment = scheme.decode(black_box(&payload), &terms).unwrap();
            payment.check(&terms, SystemClock.now()).unwrap();
            runtime.block_on(payment.prove(&terms)).unwrap();
        });
    });
}

const SVM_MINT: &str = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU";

/// What today's clients send: two budget instructions, the transfer and a memo, signed by the payer alone.
fn svm_transaction(fee_payer: &Keypair, payer: &Keypair, payee: &Pubkey) -> VersionedTransaction {
    let mint: Pubkey = SVM_MINT.parse().unwrap();
    let ask = |program_id: Pubkey, accounts, data| Instruction { program_id, accounts, data };
    let budget: Pubkey = "ComputeBudget111111111111111111111111111111".parse().unwrap();
    let memo: Pubkey = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr".parse().unwrap();
    let accounts = vec![
        AccountMeta::new(get_associated_token_address(&payer.pubkey(), &mint), false),
        AccountMeta::new_readonly(mint, false),
        AccountMeta::new(get_associated_token_address(payee, &mint), false),
        AccountMeta::new_readonly(payer.pubkey(), true),
    ];
    let transfer = TokenInstruction::TransferChecked { amount: 10_000, decimals: 6 }.pack();
    let instructions = [
        ask(budget, Vec::new(), [&[2][..], &20_000_u32.to_le_bytes()].concat()),
        ask(budget, Vec::new(), [&[3][..], &1_u64.to_le_bytes()].concat()),
        ask(spl_token_interface::ID, accounts, transfer),
        ask(memo, Vec::new(), b"0123456789abcdef0123456789abcdef".to_vec()),
    ];
    let message = v0::Message::try_compile(&fee_payer.pubkey(), &instructions, &[], Hash::default()).unwrap();
    let message = VersionedMessage::V0(message);
    let signature = payer.sign_message(&message.serialize());
    VersionedTransaction { signatures: vec![Signature::default(), signature], message }
}

/// From payload to verdict, all that is done before a node is asked. `ed25519_verify` is the floor under it.
fn svm_verification(criterion: &mut Criterion) {
    let key = |byte| Keypair::new_from_array([byte; 32]);
    let (fee_payer, payer, payee) = (key(1), key(2), key(3).pubkey());
    let text = format!(
        r#"[networks.solana-devnet]
rpc_url = "http://127.0.0.1:9"
signer = {{ env = "KEY" }}
pay_to = "{payee}"
[upstreams.api]
servers = ["127.0.0.1:9"]
[routes]
"{ROUTE}" = "$0.01"
"#
    );
    let secret = fee_payer.to_base58_string();
    let parsed = config::parse(&text, Path::new("bench.toml"), &|_| Some(secret.clone()));
    let config = parsed.into_result().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let network = config.networks.first().unwrap();
    let scheme = SolanaScheme::connect(network, &[], clock, Arc::new(NoObserver)).unwrap();
    let transaction = svm_transaction(&fee_payer, &payer, &payee);
    let wire = STANDARD.encode(wincode::serialize(&transaction).unwrap());
    let payload = json!({"transaction": wire});
    let terms: PaymentRequirements =
        serde_json::from_value(json!({"scheme": "exact", "network": "solana-devnet", "amount": "10000",
        "asset": SVM_MINT, "payTo": payee.to_string(), "maxTimeoutSeconds": 60,
        "extra": {"feePayer": fee_payer.pubkey().to_string()}}))
        .unwrap();
    let message = transaction.message.serialize();
    let signature = transaction.signatures.last().copied().unwrap();
    criterion.bench_function("ed25519_verify", |bencher| {
        bencher.iter(|| assert!(signature.verify(payer.pubkey().as_ref(), black_box(&message))));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    criterion.bench_function("svm_verify", |bencher| {
        bencher.iter(|| {
            let payment = scheme.decode(black_box(&payload), &terms).unwrap();
            payment.check(&terms, SystemClock.now()).unwrap();
            runtime.block_on(payment.prove(&terms)).unwrap();
        });
    });
}

fn new_payment(index: u64) -> NewPayment {
    let account = |text: &str| AccountId::new(text).unwrap();
    NewPayment {
        id: PaymentId(format!("eip155:84532/{USDC}/{PAY_TO}/{index:064x}")),
        payload_digest: [1; 32],
        fingerprint: [2; 32],
        redeliverable: true,
        holder: Holder::Quote([3; 32]),
        route: ROUTE.to_owned(),
        request: ROUTE.to_owned(),
        terms: serde_json::to_string(&terms()).unwrap(),
        wait_for: "confirmed".to_owned(),
        confirmations: 1,
        pay_to_exclusive: false,
        network: Network::evm(84532),
        asset: AssetId::new(USDC).unwrap(),
        payer: account(PAY_TO),
        pay_to: account(PAY_TO),
        amount: AtomicAmount::from(10_000),
        payload: "{}".to_owned(),
        valid_until: UnixMillis::from_secs(now_secs() + 60),
        signer: Some(account(PAY_TO)),
        claimed_at: SystemClock.now(),
        identifier: None,
    }
}

/// Durable claims, alone and sixty-four at once: what the second saves is the shared fsync.
fn claiming(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ledger: Arc<dyn Ledger> = runtime.block_on(async {
        let ledger = SqliteLedger::open(&folder.path().join("bench.db"), Arc::new(SystemClock)).await.unwrap();
        ledger.lease_signer(&Network::evm(84532), &AccountId::new(PAY_TO).unwrap(), 0).await.unwrap();
        Arc::new(ledger) as Arc<dyn Ledger>
    });
    let counter = Arc::new(AtomicU64::new(0));
    for at_once in [1_u64, 64] {
        let (ledger, counter) = (Arc::clone(&ledger), Arc::clone(&counter));
        criterion.bench_function(&format!("claim_durably_{at_once}_at_once"), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                for _ in 0..rounds {
                    let claims = (0..at_once).map(|_| {
                        let (ledger, index) = (Arc::clone(&ledger), counter.fetch_add(1, Ordering::Relaxed));
                        async move {
                            let sign = Box::new(move |account_nonce| {
                                Ok(NewAttempt {
                                    signer: Some(AccountId::new(PAY_TO).unwrap()),
                                    account_nonce,
                                    transaction: format!("0x{index:064x}"),
                                    raw: vec![0; 300],
                                    fee_max: "1".to_owned(),
                                })
                            });
                            let outcome = ledger.claim(new_payment(index), sign).await.unwrap();
                            assert!(matches!(outcome, ClaimOutcome::Claimed(_)));
                        }
                    });
                    runtime.block_on(futures::future::join_all(claims));
                }
                // Per claim, so that the two lines compare.
                started.elapsed() / u32::try_from(at_once).unwrap()
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = routing, challenge, verification, cosmos, svm_verification, claiming
}
criterion_main!(benches);
