//! The scheme against a scripted node: what each answer of a chain leads to.

use std::time::Duration;

use alloy::primitives::{B256, Bytes, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent;
use serde_json::Map;

use super::abi::Token;
use super::decode::{Authorization, domain_separator};
use super::fake::{self, Answer, CHAIN, Mined, Send, Shared, TOKEN, World};
use super::rpc::Rpc;
use super::watch::Watch;
use super::*;
use crate::chain::NoObserver;
use crate::config::{EvmConfig, FeeRules, Location, Secret, SignerSource, WaitFor};
use crate::ledger::{Attempt, Holder, LedgerError, NewAttempt, NewPayment, PaymentState, RecordId, Settlement};
use crate::payment::scheme::{AttemptError, SettlementPlan, VerifyError};
use crate::types::{AssetId, Eip712Domain, ManualClock, UnixMillis};

pub(super) const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const GAS_KEY: &str = "0x3333333333333333333333333333333333333333333333333333333333333333";
const NOW: u64 = 1_800_000_000;

pub(super) struct Shop {
    pub world: Shared,
    pub scheme: Arc<EvmScheme>,
    pub clock: ManualClock,
}

fn config(url: &str) -> NetworkConfig {
    NetworkConfig {
        network: Network::evm(CHAIN),
        name: "base-sepolia".to_owned(),
        chain: ChainConfig::Evm(EvmConfig {
            rpc_urls: vec![Secret::new(url.to_owned())],
            signers: vec![SignerSource::Key { key: Secret::new(GAS_KEY.to_owned()), location: Location::default() }],
            payers: Payers { eoa: true, contract: true },
            confirmations: 1,
            max_fee: AtomicAmount::from(10_000_000_000_000_000),
            fees: FeeRules::default(),
        }),
        pay_to: AccountId::new(PAY_TO).unwrap(),
        pay_to_exclusive: false,
        max_window: Duration::from_secs(86_400),
        assets: vec![Asset {
            id: AssetId::new(TOKEN).unwrap(),
            symbol: "USDC".to_owned(),
            decimals: 6,
            is_usd: true,
            eip712: Some(Eip712Domain { name: "USDC".to_owned(), version: "2".to_owned() }),
            allowed_extensions: Vec::new(),
        }],
        wait_for: WaitFor::Confirmed,
        settle_timeout: Duration::from_secs(30),
        settlements_max: 64,
        queue_timeout: Duration::from_secs(1),
        location: Location::default(),
    }
}

pub(super) fn evm(config: &mut NetworkConfig) -> &mut EvmConfig {
    match &mut config.chain {
        ChainConfig::Evm(evm) => evm,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn shop_with(change: impl FnOnce(&mut NetworkConfig)) -> Shop {
    let world = World::new();
    let mut config = config(&fake::serve(&world).await);
    change(&mut config);
    let clock = ManualClock::new(UnixMillis::from_secs(NOW));
    let scheme = EvmScheme::connect(&config, &[], Arc::new(clock.clone()), Arc::new(NoObserver)).unwrap();
    Shop { world, scheme, clock }
}

/// A shop that is open.
async fn shop() -> Shop {
    shop_with_books().await.0
}

/// A shop that is open, and the books that it asks; there is nothing in them.
async fn shop_with_books() -> (Shop, Arc<Booked>) {
    let (shop, books) = (shop_with(|_| {}).await, Arc::new(Booked(Mutex::new(Some(Vec::new())))));
    shop.scheme.consult(Arc::clone(&books) as Arc<dyn Signatures>);
    shop.open().await;
    (shop, books)
}

fn terms() -> PaymentRequirements {
    PaymentRequirements {
        scheme: "exact".to_owned(),
        network: Network::evm(CHAIN),
        amount: AtomicAmount::from(10_000),
        asset: AssetId::new(TOKEN).unwrap(),
        pay_to: AccountId::new(PAY_TO).unwrap(),
        max_timeout_seconds: 60,
        extra: Map::from_iter([("name".to_owned(), json!("USDC")), ("version".to_owned(), json!("2"))]),
    }
}

fn payer() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[0x11; 32]).unwrap()
}

fn authorization(nonce: u8) -> Authorization {
    Authorization {
        from: payer().address(),
        to: PAY_TO.parse().unwrap(),
        value: U256::from(10_000),
        valid_after: U256::ZERO,
        valid_before: U256::from(NOW + 60),
        nonce: B256::repeat_byte(nonce),
    }
}

fn payload(authorization: &Authorization, signature: &[u8]) -> Value {
    json!({
        "signature": Bytes::from(signature.to_vec()),
        "authorization": {
            "from": authorization.from,
            "to": authorization.to,
            "value": authorization.value.to_string(),
            "validAfter": authorization.valid_after.to_string(),
            "validBefore": authorization.valid_before.to_string(),
            "nonce": authorization.nonce,
        },
    })
}

fn signed(authorization: &Authorization) -> Value {
    let domain = Eip712Domain { name: "USDC".to_owned(), version: "2".to_owned() };
    let hash = authorization.hash(domain_separator(&domain, CHAIN, TOKEN.parse().unwrap()));
    payload(authorization, &payer().sign_hash_sync(&hash).unwrap().as_bytes())
}

/// Writes nothing down: further attempts are refused.
struct NoAttempts;

#[async_trait]
impl Attempts for NoAttempts {
    async fn record(&self, _record: &RecordId, _attempt: NewAttempt) -> Result<(), AttemptError> {
        Err(AttemptError::from(LedgerError::NotWritten("no ledger".to_owned())))
    }
}

/// Keeps what it is given, which must not have been sent by then.
struct Kept {
    world: Shared,
    attempts: Mutex<Vec<NewAttempt>>,
}

#[async_trait]
impl Attempts for Kept {
    async fn record(&self, _record: &RecordId, attempt: NewAttempt) -> Result<(), AttemptError> {
        assert!(!self.world.lock().unwrap().sent.iter().any(|raw| **raw == attempt.raw), "sent before it was recorded");
        self.attempts.lock().unwrap().push(attempt);
        Ok(())
    }
}

fn reason(error: VerifyError) -> Reason {
    match error {
        VerifyError::Invalid { reason } => reason,
        VerifyError::Unavailable { detail } => panic!("unavailable: {detail}"),
    }
}

impl Shop {
    async fn open(&self) {
        Arc::clone(&self.scheme).start();
        self.scheme.verify_chain().await.unwrap();
        self.scheme.open(&[]);
        assert_eq!(self.scheme.availability(), Availability::Ready);
        self.world.lock().unwrap().calls.clear();
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    fn fee(&self) -> AtomicAmount {
        AtomicAmount::from(self.world.lock().unwrap().fee())
    }

    fn decode(&self, payload: &Value) -> Box<dyn IncomingPayment> {
        self.scheme.decode(payload, &terms()).unwrap()
    }

    async fn plan(&self, payload: &Value) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        let payment = self.decode(payload);
        payment.check(&terms(), self.clock.now())?;
        payment.simulate(&terms()).await
    }

    fn record(&self, payload: &Value, attempts: Vec<NewAttempt>) -> PaymentRecord {
        let facts = self.decode(payload).facts().clone();
        let signed_at = self.clock.now();
        let attempts = (1..).zip(attempts).map(|(number, signed)| Attempt { number, signed, signed_at }).collect();
        PaymentRecord {
            record: RecordId("pay_1".to_owned()),
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
                network: Network::evm(CHAIN),
                asset: facts.asset,
                payer: facts.payer,
                pay_to: facts.pay_to,
                amount: facts.amount,
                payload: facts.payload.to_string(),
                valid_until: facts.valid_until,
                signer: None,
                claimed_at: signed_at,
                identifier: None,
            },
            state: PaymentState::Signed,
            attempts,
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

    /// Verifies and signs a payment at the given account nonce.
    async fn claimed(&self, nonce: u8, account_nonce: u64) -> PaymentRecord {
        let payload = signed(&authorization(nonce));
        let attempt = self.plan(&payload).await.unwrap().sign(Some(account_nonce)).unwrap();
        self.record(&payload, vec![attempt])
    }

    async fn settle(&self, record: &PaymentRecord) -> SettleOutcome {
        let settled = tokio::time::timeout(Duration::from_secs(40), self.scheme.settle(record, &NoAttempts)).await;
        settled.expect("settlement did not end")
    }

    /// Asserts that a settlement has not ended after a while.
    async fn stays_open(&self, record: &PaymentRecord, wait: Duration) {
        let settled = tokio::time::timeout(wait, self.scheme.settle(record, &NoAttempts)).await;
        assert!(settled.is_err(), "ended as {settled:?}");
    }
}

fn paid_by(record: &PaymentRecord, outcome: &SettleOutcome) -> Settlement {
    let SettleOutcome::Paid(settlement) = outcome else { panic!("not paid: {outcome:?}") };
    assert_eq!(settlement.transaction, record.attempts[0].signed.transaction);
    assert!(!settlement.is_external);
    settlement.clone()
}

fn failed(outcome: SettleOutcome) -> (Reason, bool) {
    match outcome {
        SettleOutcome::Failed { reason, still_usable, .. } => (reason, still_usable),
        SettleOutcome::Paid(settlement) => panic!("paid: {settlement:?}"),
    }
}

/// What it cost the gas payer.
fn fee(outcome: &SettleOutcome) -> Option<AtomicAmount> {
    match outcome {
        SettleOutcome::Paid(settlement) => settlement.fee,
        SettleOutcome::Failed { fee, .. } => *fee,
    }
}

// ── before the claim ────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn terms_that_the_authorization_does_not_meet_are_named_without_a_call() {
    let shop = shop().await;
    let check = |change: &dyn Fn(&mut Authorization)| {
        let mut changed = authorization(1);
        change(&mut changed);
        shop.decode(&signed(&changed)).check(&terms(), shop.clock.now())
    };
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|it| it.to = it.from), Err(Reason::EvmRecipientMismatch));
    assert_eq!(check(&|it| it.valid_before = U256::from(NOW + 5)), Err(Reason::EvmValidBefore));
    assert_eq!(check(&|it| it.valid_before = U256::from(NOW + 6)), Ok(()));
    assert_eq!(check(&|it| it.valid_before = U256::from(NOW + 86_400)), Ok(()));
    assert_eq!(check(&|it| it.valid_before = U256::from(NOW + 86_401)), Err(Reason::EvmWindowTooLong));
    assert_eq!(check(&|it| it.valid_before = U256::MAX), Err(Reason::EvmWindowTooLong));
    assert_eq!(check(&|it| it.valid_after = U256::from(NOW)), Ok(()));
    assert_eq!(check(&|it| it.valid_after = U256::from(NOW + 1)), Err(Reason::EvmValidAfter));
    assert_eq!(check(&|it| it.value = U256::from(9_999)), Err(Reason::EvmValueMismatch));
    assert_eq!(check(&|it| it.value = U256::from(10_001)), Err(Reason::EvmValueMismatch));
    let mut bare = terms();
    bare.extra.clear();
    let payment = shop.decode(&signed(&authorization(1)));
    assert_eq!(payment.check(&bare, shop.clock.now()), Err(Reason::EvmMissingEip712Domain));
    assert_eq!(shop.world.lock().unwrap().calls(), 0);
}

#[tokio::test]
async fn an_ecdsa_signature_is_proven_without_a_call() {
    let shop = shop().await;
    shop.decode(&signed(&authorization(1))).prove(&terms()).await.unwrap();
    assert_eq!(shop.world.lock().unwrap().calls(), 0);
}

#[tokio::test]
async fn a_signature_of_nobody_costs_one_look_up_for_all_its_repetitions() {
    let shop = shop().await;
    let forged = payload(&authorization(1), &{
        let mut bytes = [0x21; 65];
        bytes[64] = 27;
        bytes
    });
    for _ in 0..5 {
        let error = shop.decode(&forged).simulate(&terms()).await.err().unwrap();
        assert_eq!(reason(error), Reason::EvmSignature);
    }
    let world = shop.world.lock().unwrap();
    assert_eq!((world.count("eth_getCode"), world.calls()), (1, 1));
}

#[tokio::test]
async fn a_payer_without_money_is_told_so_whatever_words_the_token_has() {
    let shop = shop().await;
    shop.change(|world| {
        world.estimate_error = Some(json!({"code": 3, "message": "execution reverted", "data": "0x12345678"}));
        world.token_balance = U256::from(9_999);
    });
    let error = shop.plan(&signed(&authorization(1))).await.err().unwrap();
    assert_eq!(reason(error), Reason::EvmInsufficientBalance);
    assert_eq!(shop.world.lock().unwrap().calls(), 2);
    assert_eq!(shop.scheme.availability(), Availability::Ready);
}

#[tokio::test]
async fn look_ups_of_unknown_accounts_are_limited() {
    let shop = shop().await;
    let mut refused = 0;
    for account in 0..60u8 {
        let stranger = Authorization { from: Address::repeat_byte(account + 1), ..authorization(1) };
        let forged = payload(&stranger, &[7; 70]);
        match shop.decode(&forged).prove(&terms()).await.err().unwrap() {
            VerifyError::Unavailable { .. } => refused += 1,
            VerifyError::Invalid { reason } => assert_eq!(reason, Reason::EvmUndeployedSmartWallet),
        }
    }
    assert!(refused > 0);
    assert!(shop.world.lock().unwrap().count("eth_getCode") <= 40);
}

#[tokio::test]
async fn contract_payers_are_asked_and_only_their_yes_counts() {
    let shop = shop().await;
    let wallet = Authorization { from: Address::repeat_byte(9), ..authorization(1) };
    shop.change(|world| {
        world.code.insert(wallet.from);
    });
    let error = shop.decode(&payload(&wallet, &[7; 70])).prove(&terms()).await.err().unwrap();
    assert_eq!(reason(error), Reason::EvmSignature);
    shop.change(|world| world.wallet_says_yes = true);
    shop.decode(&payload(&wallet, &[8; 70])).prove(&terms()).await.unwrap();
    let plan = shop.plan(&payload(&wallet, &[8; 70])).await.unwrap();
    plan.sign(Some(0)).unwrap();
}

#[tokio::test]
async fn payers_that_are_not_taken_are_refused() {
    let no_contracts = shop_with(|config| evm(config).payers.contract = false).await;
    no_contracts.open().await;
    let long = payload(&authorization(1), &[7; 70]);
    let error = no_contracts.decode(&long).prove(&terms()).await.err().unwrap();
    assert_eq!(reason(error), Reason::EvmContractPayer);
    no_contracts.decode(&signed(&authorization(1))).prove(&terms()).await.unwrap();
    let delegated = shop_with(|config| evm(config).payers.contract = false).await;
    delegated.open().await;
    delegated.change(|world| {
        world.code.insert(payer().address());
    });
    let error = delegated.decode(&signed(&authorization(1))).prove(&terms()).await.err().unwrap();
    assert_eq!(reason(error), Reason::EvmContractPayer);
}

#[tokio::test]
async fn reverts_become_reasons_and_node_troubles_never_do() {
    let text = |words: &str| {
        use alloy::sol_types::SolError;
        let data = Bytes::from(alloy::sol_types::Revert { reason: words.to_owned() }.abi_encode());
        json!({"code": 3, "message": format!("execution reverted: {words}"), "data": data})
    };
    for (error, expected) in [
        (text("FiatTokenV2: authorization is expired"), Some(Reason::EvmValidBefore)),
        (text("FiatTokenV2: authorization is not yet valid"), Some(Reason::EvmValidAfter)),
        (text("FiatTokenV2: authorization is used or canceled"), Some(Reason::EvmNonceAlreadyUsed)),
        (text("ERC20: transfer amount exceeds balance"), Some(Reason::EvmInsufficientBalance)),
        (text("FiatTokenV2: invalid signature"), Some(Reason::EvmSignature)),
        (text("Pausable: paused"), Some(Reason::EvmSimulationFailed)),
        (
            json!({"code": 3, "message": "execution reverted", "data": "0xe450d38c"}),
            Some(Reason::EvmInsufficientBalance),
        ),
        (
            json!({"code": -32000, "message": "gas required exceeds allowance (300000)"}),
            Some(Reason::EvmSimulationFailed),
        ),
        (json!({"code": -32000, "message": "header not found"}), None),
        (json!({"code": -32603, "message": "internal error"}), None),
        (json!({"code": -32000, "message": "insufficient funds for transfer"}), None),
        (json!({"code": -32005, "message": "rate limit: https://node.example/secret used"}), None),
    ] {
        let shop = shop().await;
        shop.change(|world| world.estimate_error = Some(error.clone()));
        match (shop.plan(&signed(&authorization(1))).await.err().unwrap(), expected) {
            (VerifyError::Invalid { reason }, expected) => assert_eq!(Some(reason), expected, "{error}"),
            (VerifyError::Unavailable { detail }, expected) => {
                assert_eq!(expected, None, "{error}: {detail}");
                assert!(!detail.contains("secret"), "{detail}");
            }
        }
        let calls = shop.world.lock().unwrap().calls();
        // What the token doesn't explain costs one question more: whose fault it is.
        let calls_max = 2 + usize::from(expected == Some(Reason::EvmSimulationFailed));
        assert!(calls <= calls_max, "{calls} calls for {error}");
        assert_eq!(shop.world.lock().unwrap().sent.len(), 0);
    }
}

#[tokio::test]
async fn a_dead_node_is_our_affair_and_no_address_of_it_is_told() {
    let shop = shop().await;
    shop.change(|world| world.is_down = true);
    for _ in 0..3 {
        match shop.plan(&signed(&authorization(1))).await.err().unwrap() {
            VerifyError::Unavailable { detail } => {
                assert!(!detail.contains("secret") && !detail.contains("127.0.0.1"), "{detail}");
            }
            VerifyError::Invalid { reason } => panic!("{reason}"),
        }
    }
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
    shop.change(|world| world.is_down = false);
    assert!(shop.plan(&signed(&authorization(1))).await.is_ok());
    assert_eq!(shop.scheme.availability(), Availability::Ready);
}

#[tokio::test]
async fn a_silent_node_is_waited_for_once_by_all_who_ask_for_the_head() {
    // Connections are taken by the kernel, and nobody reads them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", silent.local_addr().unwrap())).unwrap();
    let deadline = Duration::from_millis(300);
    let rpc = Rpc::new(Network::evm(CHAIN), rpc::identity(CHAIN), vec![url], deadline, Arc::new(NoObserver)).unwrap();
    let watch = Watch::default();
    let started = std::time::Instant::now();
    let asked = futures::future::join_all((0..20).map(|_| watch.refresh_head(&rpc, Duration::ZERO))).await;
    assert!(asked.iter().all(Result::is_err));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_settlement_over_max_fee_is_not_signed() {
    let shop = shop_with(|config| evm(config).max_fee = AtomicAmount::from(1_000_000_000_000)).await;
    shop.open().await;
    assert!(shop.plan(&signed(&authorization(1))).await.is_ok());
    let dear = shop_with(|config| evm(config).max_fee = AtomicAmount::from(1_000_000_000)).await;
    Arc::clone(&dear.scheme).start();
    dear.scheme.verify_chain().await.unwrap();
    dear.scheme.open(&[]);
    assert!(matches!(dear.scheme.availability(), Availability::Unavailable(_)), "not even offered");
    assert!(matches!(dear.plan(&signed(&authorization(1))).await, Err(VerifyError::Unavailable { .. })));
}

#[tokio::test]
async fn a_payer_whose_settlement_is_too_dear_is_refused_alone() {
    let shop = shop_with(|config| evm(config).max_fee = AtomicAmount::from(400_000_000_000)).await;
    shop.open().await;
    shop.change(|world| world.estimate = 290_000);
    assert!(matches!(shop.plan(&signed(&authorization(1))).await, Err(VerifyError::Unavailable { .. })));
    assert_eq!(shop.scheme.availability(), Availability::Ready);
    shop.change(|world| world.estimate = 80_000);
    assert!(shop.plan(&signed(&authorization(2))).await.is_ok());
}

#[tokio::test]
async fn many_small_payments_cannot_share_one_balance() {
    let shop = shop().await;
    shop.change(|world| world.token_balance = U256::from(25_000));
    let first = shop.plan(&signed(&authorization(1))).await.unwrap();
    let _second = shop.plan(&signed(&authorization(2))).await.unwrap();
    let third = shop.plan(&signed(&authorization(3))).await.err().unwrap();
    assert_eq!(reason(third), Reason::EvmInsufficientBalance);
    drop(first);
    assert!(shop.plan(&signed(&authorization(3))).await.is_ok(), "there is room again");
}

// ── settling ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_payment_is_signed_locally_settled_once_and_costs_few_calls() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    let attempt = &record.attempts[0].signed;
    assert_eq!(keccak256(&attempt.raw).to_string(), attempt.transaction);
    let started = std::time::Instant::now();
    let settlement = paid_by(&record, &shop.settle(&record).await);
    assert_eq!((settlement.block, settlement.block_hash), (101, fake::block_hash(101).to_string()));
    // Asked for, and not come upon when all that waits is looked at.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let world = shop.world.lock().unwrap();
    assert_eq!(world.sent.len(), 1);
    assert!(world.calls() <= 5, "{:?}", world.calls);
}

#[tokio::test]
async fn sixty_payments_at_once_share_their_calls() {
    let shop = shop().await;
    shop.change(|world| world.is_automine = false);
    let mut records = Vec::new();
    for number in 0..60u8 {
        records.push(shop.claimed(number + 1, u64::from(number)).await);
    }
    shop.change(|world| world.calls.clear());
    let miner = {
        let world = Arc::clone(&shop.world);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                world.lock().unwrap().mine();
            }
        })
    };
    let outcomes = futures::future::join_all(records.iter().map(|record| shop.settle(record))).await;
    miner.abort();
    for (record, outcome) in records.iter().zip(&outcomes) {
        paid_by(record, outcome);
    }
    let world = shop.world.lock().unwrap();
    assert_eq!(world.sent.len(), 60);
    assert!(world.calls() <= 60 * 2, "{:?}", world.calls);
}

#[tokio::test]
async fn receipts_are_found_one_by_one_when_a_node_has_none_by_block() {
    let shop = shop().await;
    shop.change(|world| world.has_block_receipts = false);
    let mut records = Vec::new();
    for number in 0..10u8 {
        records.push(shop.claimed(number + 1, u64::from(number)).await);
    }
    let outcomes = futures::future::join_all(records.iter().map(|record| shop.settle(record))).await;
    for (record, outcome) in records.iter().zip(&outcomes) {
        paid_by(record, outcome);
    }
}

#[tokio::test]
async fn no_answer_to_a_send_decides_anything() {
    for (answer, takes) in [
        (Answer::Status(502), true),
        (Answer::Status(502), false),
        (Answer::Error("already known"), true),
        (Answer::Error("replacement transaction underpriced"), true),
        (Answer::Error("nonce too low"), true),
        (Answer::Error("internal error"), false),
        (Answer::Error("insufficient funds for gas * price + value"), false),
    ] {
        let shop = shop().await;
        let record = shop.claimed(1, 0).await;
        shop.change(|world| world.sends = vec![Send { takes, answer: answer.clone() }]);
        paid_by(&record, &shop.settle(&record).await);
        let world = shop.world.lock().unwrap();
        assert!(world.sent.iter().all(|raw| *raw == world.sent[0]), "the same bytes, whatever the node said");
        assert_eq!(world.nonce, 1, "{answer:?} {takes}");
    }
}

#[tokio::test]
async fn an_earlier_runs_payment_is_found_whether_it_landed_or_not() {
    let shop = shop().await;
    let landed = shop.claimed(1, 0).await;
    let never_sent = shop.claimed(2, 1).await;
    let raw = Bytes::from(landed.attempts[0].signed.raw.clone());
    shop.change(|world| {
        world.mine_first(raw);
    });
    shop.clock.advance(Duration::from_secs(20));
    paid_by(&landed, &shop.settle(&landed).await);
    paid_by(&never_sent, &shop.settle(&never_sent).await);
}

#[tokio::test]
async fn a_receipt_without_the_tokens_word_is_no_payment_and_closes_the_token() {
    let shop = shop().await;
    shop.change(|world| world.mined = Mined::SaysNothing);
    let record = shop.claimed(1, 0).await;
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(shop.fee()));
    assert_eq!(failed(outcome), (Reason::EvmTransferEventMismatch, false));
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
    assert!(matches!(shop.plan(&signed(&authorization(2))).await, Err(VerifyError::Unavailable { .. })));
}

#[tokio::test]
async fn a_reverted_settlement_of_an_unused_authorization_failed_but_stays_usable() {
    let shop = shop().await;
    shop.change(|world| world.mined = Mined::Reverts);
    let record = shop.claimed(1, 0).await;
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(shop.fee()));
    assert_eq!(failed(outcome), (Reason::EvmTransactionFailed, true));
}

#[tokio::test]
async fn of_transactions_with_one_account_nonce_only_the_mined_one_cost_its_fee() {
    let shop = shop().await;
    let mut record = shop.claimed(1, 0).await;
    // Other bytes for the same nonce, as a higher fee makes them.
    record.attempts.extend(shop.claimed(2, 0).await.attempts);
    shop.change(|world| world.mined = Mined::Reverts);
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(shop.fee()));
    assert_eq!(failed(outcome), (Reason::EvmTransactionFailed, true));
}

#[tokio::test]
async fn a_receipt_that_names_no_fee_leaves_it_unknown() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    let raw = Bytes::from(record.attempts[0].signed.raw.clone());
    shop.change(|world| {
        world.mined = Mined::Reverts;
        world.mine_first(raw);
        world.receipts.values_mut().for_each(|receipt| receipt["effectiveGasPrice"] = Value::Null);
    });
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), None);
    assert_eq!(failed(outcome), (Reason::EvmTransactionFailed, true));
}

#[tokio::test]
async fn what_reverted_in_an_earlier_run_is_found_with_its_fee_though_its_authorization_has_ended() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    let raw = Bytes::from(record.attempts[0].signed.raw.clone());
    shop.change(|world| {
        world.mined = Mined::Reverts;
        world.mine_first(raw);
        world.timestamp = NOW + 61;
        world.number += 1;
    });
    shop.clock.advance(Duration::from_secs(61));
    // That time is over is known before anything is of the transaction.
    let inner = &shop.scheme.0;
    inner.watch.refresh_head(&inner.rpc, Duration::ZERO).await.unwrap();
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(shop.fee()));
    assert_eq!(failed(outcome), (Reason::EvmTransactionFailed, false));
}

#[tokio::test]
async fn a_payer_whose_settlement_failed_on_chain_burns_no_more_gas_for_a_while() {
    let shop = shop().await;
    shop.change(|world| world.mined = Mined::Reverts);
    let record = shop.claimed(1, 0).await;
    failed(shop.settle(&record).await);
    let calls = shop.world.lock().unwrap().calls();
    assert!(matches!(shop.plan(&signed(&authorization(2))).await, Err(VerifyError::Unavailable { .. })));
    assert_eq!(shop.world.lock().unwrap().calls(), calls, "and no call either");
    assert_eq!(shop.scheme.availability(), Availability::Ready, "others still pay");
}

#[tokio::test]
async fn an_authorization_that_its_payer_cancelled_is_not_taken_for_paid() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    shop.change(|world| {
        let nonce = B256::repeat_byte(1);
        world.state_used.insert(nonce);
        let topics = [Token::AuthorizationCanceled::SIGNATURE_HASH, payer().address().into_word(), nonce];
        let log = world.log(B256::repeat_byte(0xaa), &topics, &Bytes::new());
        world.logs.push(log);
    });
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), Some(shop.fee()), "ours came too late");
    assert_eq!(failed(outcome), (Reason::EvmAuthorizationCanceled, false));
}

/// Somebody else submits the authorization first.
fn preempt(world: &mut World, nonce: u8) {
    let authorization = authorization(nonce);
    world.number += 1;
    world.timestamp += 1;
    world.state_used.insert(authorization.nonce);
    let hash = B256::repeat_byte(0xbb);
    let from = authorization.from.into_word();
    let used = world.log(hash, &[Token::AuthorizationUsed::SIGNATURE_HASH, from, authorization.nonce], &Bytes::new());
    let amount = Bytes::from(authorization.value.to_be_bytes::<32>());
    let topics = [Token::Transfer::SIGNATURE_HASH, from, authorization.to.into_word()];
    let transfer = world.log(hash, &topics, &amount);
    world.logs.extend([used.clone(), transfer.clone()]);
    world.put_receipt(hash, 1, &[used, transfer]);
    // What it cost is somebody else's affair.
    world.receipts.get_mut(&hash).unwrap()["gasUsed"] = json!("0x1");
}

#[tokio::test]
async fn a_foreign_submission_counts_only_where_pay_to_is_exclusive_and_the_claim_came_first() {
    for (is_exclusive, claimed_late, is_paid) in [(true, false, true), (false, false, false), (true, true, false)] {
        let shop = shop().await;
        let mut record = shop.claimed(1, 0).await;
        record.claim.pay_to_exclusive = is_exclusive;
        shop.change(|world| preempt(world, 1));
        if claimed_late {
            record.claim.claimed_at = UnixMillis::from_secs(NOW + 30);
        }
        let outcome = shop.settle(&record).await;
        assert_eq!(fee(&outcome), Some(shop.fee()), "ours came too late");
        match outcome {
            SettleOutcome::Paid(settlement) => {
                assert!(is_paid && settlement.is_external);
                assert_eq!(settlement.transaction, B256::repeat_byte(0xbb).to_string());
            }
            outcome => assert!(!is_paid && failed(outcome) == (Reason::EvmNonceAlreadyUsed, false)),
        }
    }
}

#[tokio::test]
async fn an_authorization_ends_by_the_chains_clock_and_not_by_ours() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    shop.change(|world| {
        world.is_automine = false;
        world.sends = vec![Send { takes: false, answer: Answer::Right }; 100];
    });
    shop.clock.advance(Duration::from_secs(3600));
    shop.stays_open(&record, Duration::from_secs(2)).await;
    shop.change(|world| {
        world.timestamp = NOW + 61;
        world.number += 1;
    });
    let outcome = shop.settle(&record).await;
    assert_eq!(fee(&outcome), None, "nothing was mined");
    assert_eq!(failed(outcome), (Reason::PaymentExpired, false));
}

#[tokio::test]
async fn an_expired_settlement_that_is_still_unmined_is_sent_on_so_that_its_lane_does_not_stall() {
    let shop = shop().await;
    let expired = shop.claimed(1, 0).await;
    shop.change(|world| {
        world.is_automine = false;
        world.sends = vec![Send { takes: false, answer: Answer::Error("internal error") }];
        world.timestamp = NOW + 61;
        world.number += 1;
        world.mined = Mined::Reverts;
    });
    assert_eq!(failed(shop.settle(&expired).await), (Reason::PaymentExpired, false));
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !shop.world.lock().unwrap().pool.is_empty() {
            break;
        }
    }
    assert_eq!(shop.world.lock().unwrap().pool.len(), 1, "its account nonce must be passed");
}

#[tokio::test]
async fn a_settlement_that_the_base_fee_has_outgrown_is_signed_again_recorded_and_then_sent() {
    let shop = shop().await;
    shop.change(|world| world.is_automine = false);
    let record = shop.claimed(1, 0).await;
    let kept = Arc::new(Kept { world: Arc::clone(&shop.world), attempts: Mutex::default() });
    let settling = {
        let (scheme, record, kept) = (Arc::clone(&shop.scheme), record.clone(), Arc::clone(&kept));
        tokio::spawn(async move { scheme.settle(&record, &*kept).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.change(|world| {
        assert_eq!(world.sent.len(), 1);
        world.base_fee *= 10;
    });
    for _ in 0..6 {
        shop.change(World::mine);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let outcome = tokio::time::timeout(Duration::from_secs(20), settling).await.unwrap().unwrap();
    let SettleOutcome::Paid(settlement) = outcome else { panic!("{outcome:?}") };
    let attempts = kept.attempts.lock().unwrap().clone();
    assert_eq!((attempts.len(), &settlement.transaction), (1, &attempts[0].transaction));
    assert_eq!(attempts[0].account_nonce, record.attempts[0].signed.account_nonce);
    let fee = |raw: &[u8]| lanes::unsigned(raw).unwrap().max_fee_per_gas;
    assert!(fee(&attempts[0].raw) >= fee(&record.attempts[0].signed.raw) * 9 / 8);
    assert_eq!(shop.world.lock().unwrap().state_used.len(), 1);
}

#[tokio::test]
async fn a_settlement_that_the_chain_passes_over_is_replaced_and_those_behind_it_are_not() {
    let shop = shop().await;
    let (first, second) = (shop.claimed(1, 0).await, shop.claimed(2, 1).await);
    let hash: B256 = first.attempts[0].signed.transaction.parse().unwrap();
    shop.change(|world| {
        world.passed_over.insert(hash);
    });
    let kept = Arc::new(Kept { world: Arc::clone(&shop.world), attempts: Mutex::default() });
    let of_second = Kept { world: Arc::clone(&shop.world), attempts: Mutex::default() };
    let both = futures::future::join(shop.scheme.settle(&first, &*kept), shop.scheme.settle(&second, &of_second));
    let (outcome, behind) = tokio::time::timeout(Duration::from_secs(40), both).await.unwrap();
    assert!(of_second.attempts.lock().unwrap().is_empty());
    let SettleOutcome::Paid(settlement) = outcome else { panic!("{outcome:?}") };
    let attempts = kept.attempts.lock().unwrap().clone();
    assert_eq!((attempts.len(), &settlement.transaction), (1, &attempts[0].transaction));
    let (old, new) = (&first.attempts[0].signed, lanes::unsigned(&attempts[0].raw).unwrap());
    let old = lanes::unsigned(&old.raw).unwrap();
    assert_eq!(new.nonce, old.nonce);
    assert!(new.max_priority_fee_per_gas >= old.max_priority_fee_per_gas * 9 / 8);
    paid_by(&second, &behind);
    assert_eq!(shop.world.lock().unwrap().state_used.len(), 2);
}

#[tokio::test]
async fn a_settlement_that_nodes_find_too_cheap_is_signed_again() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    let old = &record.attempts[0].signed;
    let hash: B256 = old.transaction.parse().unwrap();
    shop.change(|world| {
        world.underpriced.insert(hash);
    });
    let kept = Kept { world: Arc::clone(&shop.world), attempts: Mutex::default() };
    let outcome = tokio::time::timeout(Duration::from_secs(40), shop.scheme.settle(&record, &kept)).await.unwrap();
    let SettleOutcome::Paid(settlement) = outcome else { panic!("{outcome:?}") };
    let attempts = kept.attempts.lock().unwrap().clone();
    assert_eq!((attempts.len(), &settlement.transaction), (1, &attempts[0].transaction));
    let tip = |raw: &[u8]| lanes::unsigned(raw).unwrap().max_priority_fee_per_gas;
    assert!(tip(&attempts[0].raw) >= tip(&old.raw) * 9 / 8);
}

#[tokio::test]
async fn what_an_earlier_run_left_in_the_pool_and_no_block_takes_is_replaced() {
    let shop = shop().await;
    let signer = shop.scheme.signer_nonces().await.unwrap().remove(0).0;
    let left = Bytes::from(shop.claimed(9, 0).await.attempts[0].signed.raw.clone());
    shop.change(|world| {
        world.passed_over.insert(keccak256(&left));
        world.pool.insert(0, (keccak256(&left), left.clone()));
    });
    shop.scheme.open(&[(signer, 1)]);
    let record = shop.claimed(1, 1).await;
    let settling = shop.scheme.settle(&record, &NoAttempts);
    paid_by(&record, &tokio::time::timeout(Duration::from_secs(90), settling).await.unwrap());
}

#[tokio::test]
async fn a_filler_that_the_chain_passes_over_is_replaced() {
    let shop = shop().await;
    let signer = shop.scheme.signer_nonces().await.unwrap().remove(0).0;
    shop.scheme.open(&[(signer, 1)]);
    let record = shop.claimed(1, 1).await;
    let settling = shop.scheme.settle(&record, &NoAttempts);
    let watching = async {
        // The first transaction with the lost account nonce.
        let own = Bytes::from(record.attempts[0].signed.raw.clone());
        loop {
            let sent = shop.world.lock().unwrap().sent.iter().find(|sent| **sent != own).map(keccak256);
            if let Some(filler) = sent {
                return filler;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // As soon as it is there.
    shop.change(|world| world.is_automine = false);
    let filler_passed_over = async {
        let filler = watching.await;
        shop.change(|world| {
            world.passed_over.insert(filler);
            world.is_automine = true;
        });
    };
    let both = futures::future::join(settling, filler_passed_over);
    let (outcome, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    paid_by(&record, &outcome);
}

#[tokio::test]
async fn a_higher_fee_that_is_not_written_down_is_never_sent() {
    let shop = shop().await;
    shop.change(|world| world.is_automine = false);
    let record = shop.claimed(1, 0).await;
    let settling = {
        let (scheme, record) = (Arc::clone(&shop.scheme), record.clone());
        tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.change(|world| world.base_fee *= 10);
    for _ in 0..6 {
        shop.change(World::mine);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let raw = record.attempts[0].signed.raw.clone();
    shop.change(|world| assert!(world.sent.iter().all(|sent| **sent == raw)));
    assert!(!settling.is_finished());
    // The fee falls again: what was signed first is mined.
    shop.change(|world| {
        world.base_fee /= 10;
        world.mine();
    });
    paid_by(&record, &tokio::time::timeout(Duration::from_secs(20), settling).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_receipt_counts_only_at_its_depth_and_only_if_the_chain_keeps_it() {
    let shop = shop().await;
    let mut record = shop.claimed(1, 0).await;
    record.claim.confirmations = 3;
    shop.stays_open(&record, Duration::from_millis(500)).await;
    // The block goes, and with it the receipt; the pool has lost the transaction too.
    let hash: B256 = record.attempts[0].signed.transaction.parse().unwrap();
    let settling = {
        let (scheme, record) = (Arc::clone(&shop.scheme), record.clone());
        tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.change(|world| {
        world.receipts.remove(&hash);
        world.state_used.clear();
        world.logs.clear();
        world.nonce = 0;
        world.mine();
        world.mine();
    });
    for _ in 0..300 {
        if shop.world.lock().unwrap().receipts.contains_key(&hash) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Time enough to believe what is gone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!settling.is_finished(), "nothing is paid by a block that is gone");
    shop.change(|world| {
        assert!(world.receipts.contains_key(&hash), "the same bytes were sent again");
        world.mine();
        world.mine();
    });
    let outcome = tokio::time::timeout(Duration::from_secs(20), settling).await.unwrap().unwrap();
    paid_by(&record, &outcome);
}

#[tokio::test]
async fn finalized_terms_wait_for_the_chains_own_finality() {
    let shop = shop().await;
    let mut record = shop.claimed(1, 0).await;
    record.claim.wait_for = "finalized".to_owned();
    shop.stays_open(&record, Duration::from_millis(1500)).await;
    shop.change(|world| (0..5).for_each(|_| world.mine()));
    paid_by(&record, &shop.settle(&record).await);
}

#[tokio::test]
async fn an_account_nonce_that_went_to_another_frees_the_payment() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    shop.change(|world| {
        world.nonce = 1;
        world.sends = vec![Send { takes: false, answer: Answer::Right }; 100];
    });
    assert_eq!(failed(shop.settle(&record).await), (Reason::UnexpectedSettleError, true));
}

#[tokio::test]
async fn a_node_whose_indexes_are_behind_its_state_never_proves_a_payment_failed() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    let raw = Bytes::from(record.attempts[0].signed.raw.clone());
    // The money moved: the account nonce is passed, the authorization used, and no index knows of it.
    shop.change(|world| {
        world.mine_first(raw);
        world.has_no_index = true;
    });
    shop.clock.advance(Duration::from_secs(20));
    let settling = {
        let (scheme, record) = (Arc::clone(&shop.scheme), record.clone());
        tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await })
    };
    tokio::time::sleep(Duration::from_secs(24)).await;
    assert!(!settling.is_finished(), "ended as {:?}", settling.await);
    shop.change(|world| world.has_no_index = false);
    let outcome = tokio::time::timeout(Duration::from_secs(20), settling).await.unwrap().unwrap();
    paid_by(&record, &outcome);
}

#[tokio::test]
async fn an_account_nonce_whose_transaction_is_lost_is_filled() {
    let shop = shop().await;
    let signer = shop.scheme.signer_nonces().await.unwrap().remove(0).0;
    // An earlier run handed out 0 and its bytes are gone; the next payment has 1 and can't be mined before it.
    shop.scheme.open(&[(signer, 1)]);
    let record = shop.claimed(1, 1).await;
    paid_by(&record, &shop.settle(&record).await);
    assert_eq!(shop.world.lock().unwrap().nonce, 2);
}

/// Books that hold this for account nonce 0, if anything, or can't be asked.
struct Booked(Mutex<Option<Vec<u8>>>);

#[async_trait]
impl Signatures for Booked {
    async fn signed_with(&self, _signer: &AccountId, nonce: AccountNonce) -> Result<Vec<Vec<u8>>, LedgerError> {
        match &*self.0.lock().unwrap() {
            Some(raw) if nonce == 0 && !raw.is_empty() => Ok(vec![raw.clone()]),
            Some(_) => Ok(Vec::new()),
            None => Err(LedgerError::NotRead("gone".to_owned())),
        }
    }
}

#[tokio::test]
async fn a_lost_account_nonce_of_a_payment_gets_that_payments_own_bytes_again() {
    let (shop, books) = shop_with_books().await;
    let signer = shop.scheme.signer_nonces().await.unwrap().remove(0).0;
    // Its block was taken back, and nobody has looked yet.
    let undone = shop.claimed(1, 0).await;
    let raw = undone.attempts[0].signed.raw.clone();
    *books.0.lock().unwrap() = Some(raw.clone());
    shop.scheme.open(&[(signer, 1)]);
    let record = shop.claimed(2, 1).await;
    paid_by(&record, &shop.settle(&record).await);
    let world = shop.world.lock().unwrap();
    assert_eq!(world.nonce, 2);
    let own = [Bytes::from(raw), Bytes::from(record.attempts[0].signed.raw.clone())];
    assert!(world.sent.iter().all(|sent| own.contains(sent)), "something else was sent: {:?}", world.sent);
    assert!(world.sent.contains(&own[0]));
}

#[tokio::test]
async fn a_lost_account_nonce_is_not_filled_while_the_books_cannot_be_asked() {
    let (shop, books) = shop_with_books().await;
    let signer = shop.scheme.signer_nonces().await.unwrap().remove(0).0;
    *books.0.lock().unwrap() = None;
    shop.scheme.open(&[(signer, 1)]);
    let record = shop.claimed(1, 1).await;
    shop.stays_open(&record, Duration::from_secs(25)).await;
    let own = Bytes::from(record.attempts[0].signed.raw.clone());
    assert!(shop.world.lock().unwrap().sent.iter().all(|sent| *sent == own));
}

#[tokio::test]
async fn a_row_that_contradicts_itself_has_no_end() {
    let shop = shop().await;
    let mut record = shop.claimed(1, 0).await;
    record.attempts[0].signed.raw.push(0);
    shop.stays_open(&record, Duration::from_millis(300)).await;
    let mut record = shop.claimed(2, 1).await;
    record.claim.pay_to = AccountId::new(TOKEN).unwrap();
    shop.stays_open(&record, Duration::from_millis(300)).await;
    assert!(shop.world.lock().unwrap().sent.is_empty());
}

// ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_chain_that_is_not_as_configured_is_a_mismatch_and_a_dead_one_is_unreachable() {
    type Change = fn(&mut World);
    let changes: [(Change, &str); 5] = [
        (|world| world.chain_id = 1, "serves chain 1"),
        (|world| world.decimals = 18, "decimals"),
        (|world| world.domain.name = "USD Coin".to_owned(), "USD Coin"),
        (|world| world.domain.version = "1".to_owned(), "DOMAIN_SEPARATOR"),
        (|world| world.code.clear(), "no code"),
    ];
    for (change, words) in changes {
        let shop = shop_with(|_| {}).await;
        shop.change(change);
        match shop.scheme.verify_chain().await {
            Err(ChainError::Mismatch { problems, .. }) => assert!(problems.join(";").contains(words), "{problems:?}"),
            result => panic!("{words}: {result:?}"),
        }
        assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
    }
    let shop = shop_with(|_| {}).await;
    shop.change(|world| world.is_down = true);
    assert!(matches!(shop.scheme.verify_chain().await, Err(ChainError::Unreachable { .. })));
    shop.scheme.open(&[]);
    assert!(matches!(shop.scheme.availability(), Availability::Unavailable(_)));
    shop.change(|world| world.is_down = false);
    Arc::clone(&shop.scheme).start();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if shop.scheme.availability() == Availability::Ready {
            return;
        }
    }
    panic!("never verified in the background: {:?}", shop.scheme.availability());
}

#[tokio::test]
async fn an_endpoint_of_another_chain_or_a_dead_one_is_passed_over() {
    let other = World::new();
    other.lock().unwrap().chain_id = 1;
    let dead = World::new();
    dead.lock().unwrap().is_down = true;
    let urls = [fake::serve(&other).await, fake::serve(&dead).await];
    let shop = shop_with(|config| {
        let good = evm(config).rpc_urls.clone();
        evm(config).rpc_urls = urls.into_iter().map(Secret::new).chain(good).collect();
    })
    .await;
    shop.open().await;
    let record = shop.claimed(1, 0).await;
    paid_by(&record, &shop.settle(&record).await);
    assert!(other.lock().unwrap().sent.is_empty(), "a wrong chain sees no transaction");
}

#[tokio::test]
async fn a_node_that_takes_no_batches_gets_single_calls() {
    let shop = shop_with(|_| {}).await;
    shop.change(|world| world.batch_max = 1);
    shop.open().await;
    let mut records = Vec::new();
    for number in 0..5u8 {
        records.push(shop.claimed(number + 1, u64::from(number)).await);
    }
    let outcomes = futures::future::join_all(records.iter().map(|record| shop.settle(record))).await;
    for (record, outcome) in records.iter().zip(&outcomes) {
        paid_by(record, outcome);
    }
}

#[tokio::test]
async fn keys_that_are_bad_or_also_paid_are_mistakes_with_a_place() {
    let place = Location { line: 7, column: 3 };
    let mistakes = |key: &str, pay_to: &str| {
        let mut config = config("http://127.0.0.1:1/");
        evm(&mut config).signers = vec![SignerSource::Key { key: Secret::new(key.to_owned()), location: place }];
        config.pay_to = AccountId::new(pay_to).unwrap();
        EvmScheme::connect(&config, &[], Arc::new(ManualClock::new(UnixMillis(0))), Arc::new(NoObserver)).err()
    };
    assert!(mistakes(GAS_KEY, PAY_TO).is_none());
    let own = PrivateKeySigner::from_slice(&[0x33; 32]).unwrap().address().to_checksum(None);
    let also_paid = mistakes(GAS_KEY, &own.to_lowercase().replacen("0X", "0x", 1)).unwrap();
    assert!(also_paid[0].message.contains("pay_to") && also_paid[0].location == place);
    for bad in ["0x12", "", "zz", &"0".repeat(64)] {
        let mistakes = mistakes(bad, PAY_TO).unwrap();
        assert_eq!(mistakes[0].location, place);
        assert!(bad.is_empty() || !mistakes[0].message.contains(bad));
    }
}

#[tokio::test]
async fn an_idle_network_is_hardly_asked() {
    let shop = shop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let world = shop.world.lock().unwrap();
    assert!(world.calls() <= 3, "{:?}", world.calls);
}

#[tokio::test]
async fn what_an_authorization_that_is_gone_was_worth_is_not_asked_at_every_sweep() {
    let shop = shop().await;
    let record = shop.claimed(1, 0).await;
    assert_eq!(shop.scheme.late_settlement(&record).await.unwrap(), None);
    shop.change(|world| preempt(world, 1));
    for _ in 0..3 {
        assert_eq!(shop.scheme.late_settlement(&record).await.unwrap(), None);
    }
    assert_eq!(shop.world.lock().unwrap().count("eth_getLogs"), 1);
}
