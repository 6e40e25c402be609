//! A chain that does as the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::ledger::{AccountNonce, NewAttempt, PaymentId, PaymentRecord, Settlement};
use crate::payment::scheme::{
    Attempts, Availability, IncomingPayment, PaymentFacts, Scheme, SettleOutcome, SettlementPlan, SignError,
    VerifyError,
};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

pub struct FakeChain {
    network: Network,
    pub is_open: AtomicBool,
    /// Simulations get no answer.
    pub is_silent: AtomicBool,
    pub simulates: AtomicUsize,
    pub settles: AtomicUsize,
    /// What simulation says, if not yes.
    pub refusal: std::sync::Mutex<Option<Reason>>,
    /// How every settlement ends, once it is set.
    pub outcome: watch::Sender<Option<SettleOutcome>>,
    pub late: std::sync::Mutex<Option<Settlement>>,
    plans: Arc<()>,
}

impl FakeChain {
    pub fn new(network: Network) -> Self {
        Self {
            network,
            is_open: AtomicBool::new(true),
            is_silent: AtomicBool::new(false),
            simulates: AtomicUsize::new(0),
            settles: AtomicUsize::new(0),
            refusal: std::sync::Mutex::new(None),
            outcome: watch::channel(None).0,
            late: std::sync::Mutex::new(None),
            plans: Arc::default(),
        }
    }

    /// Payments and plans that are held now.
    pub fn plans_held(&self) -> usize {
        Arc::strong_count(&self.plans) - 1
    }

    pub fn pays(&self) {
        self.outcome.send_replace(Some(SettleOutcome::Paid(settlement())));
    }

    pub fn fails(&self) {
        self.outcome.send_replace(Some(SettleOutcome::Failed {
            reason: Reason::EvmTransactionFailed,
            transaction: Some("0xtx".to_owned()),
            fee: Some(burnt()),
            still_usable: true,
        }));
    }
}

/// What a settlement that fails costs.
pub fn burnt() -> AtomicAmount {
    AtomicAmount::from(77)
}

pub fn settlement() -> Settlement {
    Settlement {
        transaction: "0xtx".to_owned(),
        block: 7,
        block_hash: "0xblock".to_owned(),
        is_external: false,
        fee: None,
    }
}

struct FakePayment {
    facts: PaymentFacts,
    is_signed: bool,
    refusal: Option<Reason>,
    is_silent: bool,
    plans: Arc<()>,
}

struct FakePlan {
    signer: AccountId,
    _held: Arc<()>,
}

#[async_trait]
impl IncomingPayment for FakePayment {
    fn facts(&self) -> &PaymentFacts {
        &self.facts
    }

    fn check(&self, terms: &PaymentRequirements, now: UnixMillis) -> Result<(), Reason> {
        if self.facts.pay_to != terms.pay_to {
            return Err(Reason::EvmRecipientMismatch);
        }
        if self.facts.valid_until <= now {
            return Err(Reason::EvmValidBefore);
        }
        if self.facts.amount == terms.amount { Ok(()) } else { Err(Reason::EvmValueMismatch) }
    }

    async fn prove(&self, _terms: &PaymentRequirements) -> Result<(), VerifyError> {
        if self.is_signed { Ok(()) } else { Err(Reason::EvmSignature.into()) }
    }

    async fn simulate(&self, _terms: &PaymentRequirements) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        match self.refusal {
            Some(reason) => Err(reason.into()),
            None => Ok(Box::new(FakePlan { signer: AccountId::new("0xGas").unwrap(), _held: Arc::clone(&self.plans) })),
        }
    }
}

impl SettlementPlan for FakePlan {
    fn signer(&self) -> Option<&AccountId> {
        Some(&self.signer)
    }

    fn sign(&self, account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        Ok(NewAttempt {
            signer: Some(self.signer.clone()),
            account_nonce,
            transaction: "0xtx".to_owned(),
            raw: vec![1, 2, 3],
            fee_max: "1".to_owned(),
        })
    }
}

#[async_trait]
impl Scheme for FakeChain {
    fn terms_extra(&self, _asset: &AssetId) -> serde_json::Map<String, Value> {
        serde_json::Map::new()
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn availability(&self) -> Availability {
        if self.is_open.load(Ordering::SeqCst) {
            Availability::Ready
        } else {
            Availability::Unavailable("closed by the test".to_owned())
        }
    }

    fn decode(&self, payload: &Value, terms: &PaymentRequirements) -> Result<Box<dyn IncomingPayment>, Reason> {
        let text = |key: &str| payload.get(key).and_then(Value::as_str).ok_or(Reason::InvalidPayload);
        let nonce = text("nonce")?;
        let facts = PaymentFacts {
            id: PaymentId(format!("{}/{}/{nonce}", terms.network, terms.asset)),
            payer: AccountId::new(text("payer")?).map_err(|_error| Reason::InvalidPayload)?,
            pay_to: AccountId::new(text("payTo")?).map_err(|_error| Reason::InvalidPayload)?,
            asset: AssetId::new(terms.asset.as_str()).map_err(|_error| Reason::InvalidPayload)?,
            amount: text("value")?.parse().map_err(|_error| Reason::InvalidPayload)?,
            valid_until: UnixMillis::from_secs(payload["until"].as_u64().ok_or(Reason::InvalidPayload)?),
            digest: Sha256::digest(payload.to_string().as_bytes()).into(),
            payload: payload.clone(),
        };
        self.simulates.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakePayment {
            facts,
            is_signed: text("signature")? == "good",
            refusal: *self.refusal.lock().unwrap(),
            is_silent: self.is_silent.load(Ordering::SeqCst),
            plans: Arc::clone(&self.plans),
        }))
    }

    async fn settle(&self, _record: &PaymentRecord, _attempts: &dyn Attempts) -> SettleOutcome {
        self.settles.fetch_add(1, Ordering::SeqCst);
        let mut outcome = self.outcome.subscribe();
        outcome.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    async fn late_settlement(&self, _record: &PaymentRecord) -> Result<Option<Settlement>, VerifyError> {
        Ok(self.late.lock().unwrap().clone())
    }

    async fn signer_nonces(&self) -> Result<Vec<(AccountId, AccountNonce)>, VerifyError> {
        Ok(Vec::new())
    }

    fn open(&self, _next: &[(AccountId, AccountNonce)]) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}
