//! Verifies and settles payments for other resource servers, through the same gate and into the same books as the proxy's own.
//!
//! Such a payment's request is the clearing itself: it has a fingerprint that no proxied request has, so it buys nothing at
//! the proxy, and what was claimed by the proxy is not cleared. That the money moved is told once, as a proxied answer is
//! delivered once: a resource server that serves whenever it is told so would otherwise serve twice for one payment.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use crate::ledger::{Digest, PaymentId, PaymentRecord};
use crate::protocol::{
    Accepted, EXACT, FacilitatorRequest, MEMO_KEY, PaymentRequirements, Reason, SettlementResponse, terms_digest,
};
use crate::telemetry::Trace;
use crate::types::{AccountId, ChainKind, DecimalAmount, Network, WaitFor};

use super::decision::Decision;
use super::gate::Gate;
use super::request::{OriginProbe, PaidRequest};
use super::verify::{Candidate, VerifiedPayment, refused};

/// The route's name in the books; no route of a configuration is called so, since each holds a path.
const ROUTE: &str = "facilitator";

/// Most characters of a memo that a resource server may demand.
const MEMO_CHARACTERS_MAX: usize = 256;

/// Whoever has the payment and the operator's trust may ask for its outcome; the token stands where the proxy has a quote.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Somebody whom payments may be settled to, in one asset of one network.
pub struct Payable {
    /// The terms as a route would offer them: of these only amount and time are the resource server's to set.
    pub terms: PaymentRequirements,
    /// When a settlement counts as done.
    pub wait_for: WaitFor,
    /// The asset's decimals.
    pub decimals: u8,
    /// The highest amount in whole tokens, where the asset is worth dollars.
    pub ceiling: Option<DecimalAmount>,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The payment would settle now, or is being settled for this.
    Valid {
        /// Who pays.
        payer: AccountId,
    },
    /// It would not.
    Invalid {
        /// Why.
        reason: Reason,
        /// Who pays, if that is proven.
        payer: Option<AccountId>,
    },
    /// Our affair: no network, ledger or fee budget.
    Unavailable,
}

/// What settlement came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For the resource server, in its own version.
    pub response: SettlementResponse,
    /// The block that holds the transaction.
    pub block: Option<u64>,
    /// Whether it is our affair that nothing was settled.
    pub is_unavailable: bool,
}

/// Clears payments for resource servers.
pub struct Clearing {
    gate: Arc<Gate>,
    payables: RwLock<Arc<Payables>>,
}

/// Whom payments are settled to.
#[derive(Default)]
struct Payables {
    /// The gas payers of each chain family.
    signers: Vec<(ChainKind, AccountId)>,
    today: Vec<Arc<Payable>>,
    /// Nothing new is settled to them; what was may still be asked for.
    retired: Vec<Arc<Payable>>,
}

/// There is no origin to ask.
struct NoOrigin;

#[async_trait]
impl OriginProbe for NoOrigin {
    async fn is_up(&self) -> bool {
        true
    }

    async fn reserve(&self) -> bool {
        true
    }
}

impl Clearing {
    /// Clears to these and to nobody else (contract §3, threat C11).
    #[must_use]
    pub fn new(gate: Arc<Gate>, payables: Vec<Payable>, signers: Vec<(ChainKind, AccountId)>) -> Self {
        let clearing = Self { gate, payables: RwLock::default() };
        clearing.replace(payables, signers);
        clearing
    }

    /// From now on clears to these, with these gas payers.
    pub fn replace(&self, payables: Vec<Payable>, signers: Vec<(ChainKind, AccountId)>) {
        let today: Vec<_> = payables.into_iter().map(Arc::new).collect();
        let mut known = self.payables.write().unwrap_or_else(PoisonError::into_inner);
        let is_gone = |old: &&Arc<Payable>| !today.iter().any(|new| is_same_payee(&old.terms, &new.terms));
        let retired = known.today.iter().chain(&known.retired).filter(is_gone).map(Arc::clone).collect();
        *known = Arc::new(Payables { signers, today, retired });
    }

    fn payables(&self) -> Arc<Payables> {
        Arc::clone(&self.payables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a payment would settle now. Claims nothing, and asks the chain no more than a simulation.
    pub async fn verify(&self, request: &FacilitatorRequest) -> Verdict {
        let payment = match self.proven(request).await {
            Ok(payment) => payment,
            Err(decision) => return verdict(decision, None),
        };
        let payer = payment.payer().clone();
        match self.gate.preview(&payment, &asked(&payment)).await {
            Ok(()) => Verdict::Valid { payer },
            Err(decision) => verdict(decision, Some(payer)),
        }
    }

    /// Settles a payment, or finds how an earlier settlement of it ended.
    pub async fn settle(&self, request: &FacilitatorRequest) -> Outcome {
        let payment = match self.proven(request).await {
            Ok(payment) => payment,
            Err(decision) => return self.unsettled(request, decision, None).await,
        };
        let (id, payer) = (payment.facts().id.clone(), payment.payer().clone());
        let asked = asked(&payment);
        let decision = self.gate.admit(payment, asked).await;
        let Decision::Deliver(receipt) = decision else {
            return self.unsettled(request, decision, Some((id, payer))).await;
        };
        let response = receipt.response();
        let block = receipt.record().settlement.as_ref().map(|settlement| settlement.block);
        // Before it is told: told and not written, it could be told twice.
        if receipt.served_for_good().await {
            Outcome { response, block, is_unavailable: false }
        } else {
            self.unsettled(request, Decision::Unavailable, Some((id, payer))).await
        }
    }

    async fn proven(&self, request: &FacilitatorRequest) -> Result<VerifiedPayment, Decision> {
        let candidate = self.terms(request).map_err(refused)?;
        self.gate.verify_under(&request.payment, vec![candidate]).await
    }

    /// The resource server's terms in our own words: who is paid, in what and under which domain is ours to say.
    fn terms(&self, request: &FacilitatorRequest) -> Result<Candidate, Reason> {
        let FacilitatorRequest { payment, terms: asked } = request;
        if asked.scheme != EXACT || payment.scheme != asked.scheme {
            return Err(Reason::UnsupportedScheme);
        }
        let payables = self.payables();
        let is_ours = |known: &&Arc<Payable>| known.terms.network == asked.network;
        if payment.network != asked.network
            || !payables.today.iter().chain(&payables.retired).any(|known| is_ours(&known))
        {
            return Err(Reason::InvalidNetwork);
        }
        let is_asked = |known: &&Arc<Payable>| asked.matches_payee(&known.terms);
        let (known, stale) = match payables.today.iter().find(is_asked) {
            Some(known) => (known, None),
            // Only for what was settled while it was one: its outcome is still the payer's.
            None => (
                payables.retired.iter().find(is_asked).ok_or(Reason::InvalidRequirements)?,
                Some(Reason::InvalidRequirements),
            ),
        };
        let price = DecimalAmount::from_atomic(asked.amount, known.decimals);
        if asked.amount.is_zero() || known.ceiling.is_some_and(|ceiling| price > ceiling) {
            return Err(Reason::InvalidRequirements);
        }
        let mut terms = known.terms.clone();
        terms.amount = asked.amount;
        terms.max_timeout_seconds = asked.max_timeout_seconds;
        demand_memo(&mut terms, asked)?;
        // A network that a reload has taken away settles nothing, and has nothing unfinished.
        let market = self.gate.market(&terms.network).ok_or(Reason::InvalidNetwork)?;
        Ok(Candidate { terms, market, wait_for: known.wait_for, quote: None, stale })
    }

    /// What a decision that isn't a delivery says.
    async fn unsettled(
        &self,
        request: &FacilitatorRequest,
        decision: Decision,
        known: Option<(PaymentId, AccountId)>,
    ) -> Outcome {
        let (id, payer) = known.unzip();
        let (reason, transaction, is_unavailable) = match decision {
            Decision::Refused { outcome: Some(response), .. } | Decision::Pending(response) => {
                return Outcome { response: *response, block: None, is_unavailable: false };
            }
            Decision::Refused { reason: Reason::PaymentAlreadyUsed, .. } => self.used(id).await,
            Decision::Refused { reason, outcome: None } | Decision::Contradiction(reason) => {
                (reason, String::new(), false)
            }
            Decision::InProgress => (Reason::SettlementPending, self.transaction(id).await, false),
            Decision::BoundToOtherRequest => (Reason::BoundToOtherRequest, String::new(), false),
            Decision::Owed(response) => (Reason::Owed, response.transaction, false),
            // A delivery that gets here is dropped, and with it recorded as undelivered.
            Decision::Unavailable
            | Decision::OriginDown
            | Decision::OriginBusy
            | Decision::SettlementsBusy
            | Decision::Deliver(_)
            | Decision::Forward(_) => (Reason::UnexpectedSettleError, String::new(), true),
        };
        let version = request.payment.version;
        let response = SettlementResponse {
            success: false,
            error_reason: Some(reason.as_str()),
            payer: payer.map(|payer| payer.to_string()),
            transaction,
            network: SettlementResponse::network_for(version, &request.payment.network),
            amount: None,
            vitwit: None,
        };
        Outcome { response: response.told_to(version), block: None, is_unavailable }
    }

    /// A payment that is spent: here, which is told with its transaction, or at the proxy.
    async fn used(&self, id: Option<PaymentId>) -> (Reason, String, bool) {
        match self.record(id).await {
            Some(record) if record.claim.route == ROUTE => {
                let transaction = record.settlement.map(|settlement| settlement.transaction);
                (Reason::DuplicateSettlement, transaction.unwrap_or_default(), false)
            }
            _ => (Reason::PaymentAlreadyUsed, String::new(), false),
        }
    }

    /// The transaction of a payment that somebody else is working on.
    async fn transaction(&self, id: Option<PaymentId>) -> String {
        let record = self.record(id).await;
        let last = record.and_then(|record| record.attempts.into_iter().next_back());
        last.map(|attempt| attempt.signed.transaction).unwrap_or_default()
    }

    async fn record(&self, id: Option<PaymentId>) -> Option<PaymentRecord> {
        match self.gate.ledger().find(&id?).await {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%error, "The ledger did not answer.");
                None
            }
        }
    }

    /// The gas payers of each chain family.
    #[must_use]
    pub fn signers(&self) -> Vec<(ChainKind, AccountId)> {
        self.payables().signers.clone()
    }

    /// The networks that payments are cleared on, each with what payers need to know of it besides the asset.
    #[must_use]
    pub fn networks(&self) -> Vec<(Network, PaymentRequirements)> {
        let mut networks: Vec<(Network, PaymentRequirements)> = Vec::new();
        for known in &self.payables().today {
            if !networks.iter().any(|(network, _)| *network == known.terms.network) {
                networks.push((known.terms.network.clone(), known.terms.clone()));
            }
        }
        networks
    }
}

fn is_same_payee(one: &PaymentRequirements, other: &PaymentRequirements) -> bool {
    (&one.network, &one.asset, &one.pay_to) == (&other.network, &other.asset, &other.pay_to)
}

/// A memo ties a transfer to what it pays for; that is the resource server's to say (protocol §7).
fn demand_memo(terms: &mut PaymentRequirements, asked: &Accepted) -> Result<(), Reason> {
    use serde_json::Value;
    match asked.extra.get(MEMO_KEY) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(memo)) if memo.chars().count() <= MEMO_CHARACTERS_MAX => {
            terms.extra.insert(MEMO_KEY.to_owned(), memo.as_str().into());
            Ok(())
        }
        Some(_) => Err(Reason::InvalidRequirements),
    }
}

/// The clearing as the gate sees it: never the same request as one at the proxy, and another one for another price or payee.
fn asked(payment: &VerifiedPayment) -> PaidRequest<'static> {
    let terms = &payment.terms;
    let sold = PaymentRequirements { max_timeout_seconds: 0, extra: serde_json::Map::new(), ..terms.clone() };
    let fingerprint: Digest = terms_digest(ROUTE, &sold);
    PaidRequest {
        fingerprint,
        redeliverable: true,
        settles_after: false,
        client: ANYWHERE,
        route: ROUTE,
        summary: "POST /settle".to_owned(),
        origin: &NoOrigin,
        trace: Trace::default(),
    }
}

fn verdict(decision: Decision, payer: Option<AccountId>) -> Verdict {
    let reason = match decision {
        Decision::Refused { reason, .. } | Decision::Contradiction(reason) => reason,
        Decision::InProgress | Decision::Pending(_) => Reason::SettlementPending,
        Decision::BoundToOtherRequest => Reason::BoundToOtherRequest,
        Decision::Owed(_) => Reason::Owed,
        Decision::Unavailable
        | Decision::OriginDown
        | Decision::OriginBusy
        | Decision::SettlementsBusy
        | Decision::Deliver(_)
        | Decision::Forward(_) => {
            return Verdict::Unavailable;
        }
    };
    Verdict::Invalid { reason, payer }
}
