//! What the tests share: a shop, its people, and transactions built piece by piece.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use solana_keypair::Keypair;
use solana_message::{Message, VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::instruction::{AccountMeta, Instruction};
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address_with_program_id;
use spl_token_interface::instruction::TokenInstruction;

use super::SolanaScheme;
use super::fake::{self, Shared, World};
use super::programs::{COMPUTE_BUDGET, MEMO, TOKEN};
use crate::chain::{Chain, NoObserver};
use crate::config::{ChainConfig, FeeRules, Location, NetworkConfig, Secret, SignerSource, SolanaConfig, WaitFor};
use crate::ledger::{Attempt, Holder, NewAttempt, NewPayment, PaymentRecord, PaymentState, RecordId};
use crate::payment::scheme::{
    AttemptError, Attempts, Availability, IncomingPayment, Scheme, SettleOutcome, SettlementPlan, VerifyError,
};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, Asset, AssetId, AtomicAmount, ManualClock, UnixMillis};

pub(super) const NETWORK: &str = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
const NOW: u64 = 1_800_000_000;

pub(super) fn fee_payer_keypair() -> Keypair {
    Keypair::new_from_array([1; 32])
}

/// Another key of ours.
pub(super) fn second_fee_payer() -> Keypair {
    Keypair::new_from_array([2; 32])
}

pub(super) fn payer() -> Keypair {
    Keypair::new_from_array([3; 32])
}

pub(super) fn fee_payer() -> Pubkey {
    fee_payer_keypair().pubkey()
}

pub(super) fn payee_key() -> Pubkey {
    Keypair::new_from_array([4; 32]).pubkey()
}

pub(super) fn mint() -> Pubkey {
    "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU".parse().unwrap()
}

pub(super) fn account_of(owner: &Pubkey, program: &Pubkey) -> Pubkey {
    get_associated_token_address_with_program_id(owner, &mint(), program)
}

pub(super) fn payee_account() -> Pubkey {
    account_of(&payee_key(), &TOKEN)
}

pub(super) fn payer_account() -> Pubkey {
    account_of(&payer().pubkey(), &TOKEN)
}

pub(super) fn signer_of(transaction: &VersionedTransaction) -> Pubkey {
    transaction.message.static_account_keys()[0]
}

pub(super) fn unit_limit(units: u32) -> Instruction {
    let data = [&[2][..], &units.to_le_bytes()].concat();
    Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data }
}

pub(super) fn unit_price(micro_lamports: u64) -> Instruction {
    let data = [&[3][..], &micro_lamports.to_le_bytes()].concat();
    Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data }
}

pub(super) fn memo(text: &str) -> Instruction {
    Instruction { program_id: MEMO, accounts: Vec::new(), data: text.as_bytes().to_vec() }
}

/// The transfer that the terms ask for.
pub(super) fn transfer() -> Instruction {
    Instruction {
        program_id: TOKEN,
        accounts: vec![
            AccountMeta::new(payer_account(), false),
            AccountMeta::new_readonly(mint(), false),
            AccountMeta::new(payee_account(), false),
            AccountMeta::new_readonly(payer().pubkey(), true),
        ],
        data: transfer_data(10_000, 6),
    }
}

pub(super) fn transfer_data(amount: u64, decimals: u8) -> Vec<u8> {
    TokenInstruction::TransferChecked { amount, decimals }.pack()
}

/// What today's clients send.
pub(super) fn usual(nonce: &str) -> Vec<Instruction> {
    vec![unit_limit(20_000), unit_price(1), transfer(), memo(nonce)]
}

pub(super) fn message(instructions: &[Instruction]) -> VersionedMessage {
    let hash = Hash::new_from_array([9; 32]);
    VersionedMessage::V0(v0::Message::try_compile(&fee_payer(), instructions, &[], hash).unwrap())
}

pub(super) fn legacy(instructions: &[Instruction]) -> VersionedMessage {
    let hash = Hash::new_from_array([9; 32]);
    VersionedMessage::Legacy(Message::new_with_blockhash(instructions, Some(&fee_payer()), &hash))
}

/// Signs by everybody who has to but the fee payer; whoever has no key here stays unsigned.
pub(super) fn signed(message: VersionedMessage, others: &[Keypair]) -> VersionedTransaction {
    let bytes = message.serialize();
    let count = usize::from(message.header().num_required_signatures);
    let sign = |key: &Pubkey| {
        let known = others.iter().find(|it| it.pubkey() == *key);
        let own = (payer().pubkey() == *key).then(|| payer().sign_message(&bytes));
        known.map(|it| it.sign_message(&bytes)).or(own).unwrap_or_default()
    };
    let mut signatures: Vec<Signature> = message.static_account_keys().iter().take(count).map(sign).collect();
    if let Some(first) = signatures.first_mut() {
        *first = Signature::default();
    }
    VersionedTransaction { signatures, message }
}

pub(super) fn payload(transaction: &VersionedTransaction) -> Value {
    json!({"transaction": STANDARD.encode(wincode::serialize(transaction).unwrap())})
}

pub(super) fn payment(nonce: &str) -> Value {
    payload(&signed(message(&usual(nonce)), &[]))
}

pub(super) fn terms() -> PaymentRequirements {
    PaymentRequirements {
        scheme: "exact".to_owned(),
        network: NETWORK.parse().unwrap(),
        amount: AtomicAmount::from(10_000),
        asset: AssetId::new(mint().to_string()).unwrap(),
        pay_to: AccountId::new(payee_key().to_string()).unwrap(),
        max_timeout_seconds: 60,
        extra: Map::from_iter([("feePayer".to_owned(), json!(fee_payer().to_string()))]),
    }
}

pub(super) fn config(urls: Vec<String>) -> NetworkConfig {
    let key = |keypair: Keypair| SignerSource::Key {
        key: Secret::new(keypair.to_base58_string()),
        location: Location::default(),
    };
    NetworkConfig {
        network: NETWORK.parse().unwrap(),
        name: "solana-devnet".to_owned(),
        chain: ChainConfig::Solana(SolanaConfig {
            rpc_urls: urls.into_iter().map(Secret::new).collect(),
            signers: vec![key(fee_payer_keypair()), key(second_fee_payer())],
            max_fee: AtomicAmount::from(100_000),
            fees: FeeRules::default(),
            genesis_hash: None,
        }),
        pay_to: AccountId::new(payee_key().to_string()).unwrap(),
        pay_to_exclusive: false,
        max_window: Duration::from_secs(86_400),
        assets: vec![Asset {
            id: AssetId::new(mint().to_string()).unwrap(),
            symbol: "USDC".to_owned(),
            decimals: 6,
            is_usd: true,
            eip712: None,
            allowed_extensions: Vec::new(),
        }],
        wait_for: WaitFor::Confirmed,
        settle_timeout: Duration::from_secs(30),
        settlements_max: 64,
        queue_timeout: Duration::from_secs(1),
        location: Location::default(),
    }
}

pub(super) fn solana(config: &mut NetworkConfig) -> &mut SolanaConfig {
    match &mut config.chain {
        ChainConfig::Solana(solana) => solana,
        other => panic!("{other:?}"),
    }
}

/// No other bytes are ever signed for a payment on Solana.
pub(super) struct NoAttempts;

#[async_trait]
impl Attempts for NoAttempts {
    async fn record(&self, _record: &RecordId, _attempt: NewAttempt) -> Result<(), AttemptError> {
        panic!("a second attempt")
    }
}

pub(super) struct Shop {
    pub world: Shared,
    pub scheme: Arc<SolanaScheme>,
    pub clock: ManualClock,
}

pub(super) async fn shop_with(change: impl FnOnce(&mut NetworkConfig)) -> Shop {
    let world = World::new();
    let mut config = config(vec![fake::serve(&world).await]);
    change(&mut config);
    let clock = ManualClock::new(UnixMillis::from_secs(NOW));
    let scheme = SolanaScheme::connect(&config, &[], Arc::new(clock.clone()), Arc::new(NoObserver)).unwrap();
    Shop { world, scheme, clock }
}

/// A shop that is open.
pub(super) async fn shop() -> Shop {
    let shop = shop_with(|_| {}).await;
    shop.open().await;
    shop
}

pub(super) fn reason(error: VerifyError) -> Reason {
    match error {
        VerifyError::Invalid { reason } => reason,
        VerifyError::Unavailable { detail } => panic!("unavailable: {detail}"),
    }
}

impl Shop {
    pub(super) async fn open(&self) {
        Arc::clone(&self.scheme).start();
        self.scheme.verify_chain().await.unwrap();
        self.scheme.open(&[]);
        assert_eq!(self.scheme.availability(), Availability::Ready);
        self.change(|world| world.calls.clear());
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    /// Everything that a request does with a payment until it is claimed.
    pub(super) async fn plan(
        &self,
        payload: &Value,
        terms: &PaymentRequirements,
    ) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        let payment: Box<dyn IncomingPayment> = self.scheme.decode(payload, terms)?;
        payment.check(terms, UnixMillis::from_secs(NOW))?;
        payment.prove(terms).await?;
        payment.simulate(terms).await
    }

    pub(super) fn record(&self, payload: &Value, attempt: NewAttempt) -> PaymentRecord {
        use crate::types::Clock;
        let facts = self.scheme.decode(payload, &terms()).unwrap().facts().clone();
        let signed_at = self.clock.now();
        PaymentRecord {
            record: RecordId(format!("pay_{}", facts.id)),
            claim: NewPayment {
                id: facts.id,
                payload_digest: facts.digest,
                fingerprint: [0; 32],
                redeliverable: true,
                holder: Holder::Quote([0; 32]),
                route: "GET /".to_owned(),
                request: "GET /".to_owned(),
                terms: serde_json::to_string(&terms()).unwrap(),
                wait_for: "confirmed".to_owned(),
                confirmations: 1,
                pay_to_exclusive: false,
                network: NETWORK.parse().unwrap(),
                asset: facts.asset,
                payer: facts.payer,
                pay_to: facts.pay_to,
                amount: facts.amount,
                payload: facts.payload.to_string(),
                valid_until: facts.valid_until,
                signer: None,
                identifier: None,
                claimed_at: signed_at,
            },
            state: PaymentState::Signed,
            attempts: vec![Attempt { number: 1, signed: attempt, signed_at }],
            settlement: None,
            paid_at: None,
            deliveries: 0,
            failure: None,
            failed_transaction: None,
            fee: None,
            resolution: None,
            updated_at: signed_at,
        }
    }

    /// A payment that was claimed just now.
    pub(super) async fn claimed(&self, nonce: &str) -> PaymentRecord {
        let payload = payment(nonce);
        let attempt = self.plan(&payload, &terms()).await.unwrap().sign(None).unwrap();
        self.record(&payload, attempt)
    }

    pub(super) async fn settle(&self, record: &PaymentRecord) -> SettleOutcome {
        let settled = tokio::time::timeout(Duration::from_secs(20), self.scheme.settle(record, &NoAttempts)).await;
        settled.expect("settlement did not end")
    }

    /// Asserts that a settlement has not ended after a while.
    pub(super) async fn stays_open(&self, record: &PaymentRecord, wait: Duration) {
        let settled = tokio::time::timeout(wait, self.scheme.settle(record, &NoAttempts)).await;
        assert!(settled.is_err(), "ended as {settled:?}");
    }
}
