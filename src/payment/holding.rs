//! What a gateway holds where several share the books: of each network's gas payers at most what others leave it, and only for as
//! long as its lease runs. Takes over what a dead gateway held, at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{AccountNonce, LedgerError, RecordId};
use crate::types::AccountId;

use super::gate::Gate;
use super::priced::Market;
use super::recover::{RecoverError, is_behind};
use super::reorgs::Vigil;

/// How often the lease is looked at. Well below what is left of it between two renewals.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a gateway without a gas payer of a network asks for one.
const FIRST_EVERY: Duration = Duration::from_secs(2);

/// How long one that has a gas payer leaves the others to those that have none.
const FURTHER_EVERY: Duration = Duration::from_secs(20);

/// What is held of one network.
#[derive(Default)]
struct Holding {
    /// Under which registration; with another, nothing is held any more.
    epoch: Option<i64>,
    /// Whether unfinished payments are in hand, and new ones are taken.
    is_open: bool,
    signers: Vec<AccountId>,
    /// Every gas payer of the configuration, once the chain was asked.
    known: Option<Vec<AccountId>>,
    asked_at: Option<Instant>,
    failure: Option<String>,
}

impl Holding {
    /// Whether to ask for a gas payer, another one, or for business at all.
    fn is_due(&self) -> bool {
        let has_all = self.known.as_ref().is_some_and(|known| known.len() == self.signers.len());
        let every = if self.signers.is_empty() { FIRST_EVERY } else { FURTHER_EVERY };
        let is_time = self.asked_at.is_none_or(|asked_at| asked_at.elapsed() >= every);
        is_time && !(self.is_open && has_all)
    }
}

impl Gate {
    /// Keeps a network in business for as long as the lease runs. Never ends.
    pub(super) async fn hold_market(self: Arc<Self>, market: Arc<Market>) {
        let mut holding = Holding::default();
        loop {
            let network = market.scheme.network();
            match self.hold(&market, &mut holding).await {
                Ok(()) => holding.failure = None,
                Err(error) => {
                    let failure = Some(error.to_string());
                    if holding.failure != failure {
                        tracing::warn!(%network, %error, "Network can't be opened yet.");
                        holding.failure = failure;
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn hold(self: &Arc<Self>, market: &Market, holding: &mut Holding) -> Result<(), RecoverError> {
        let Some(tenure) = self.ledger().tenure() else { return Ok(()) };
        if holding.epoch != Some(tenure.epoch) {
            let known = holding.known.take();
            *holding = Holding { epoch: Some(tenure.epoch), known, ..Holding::default() };
        }
        market.scheme.hold(&holding.signers, tenure.until);
        if !tenure.is_running() || !holding.is_due() {
            return Ok(());
        }
        holding.asked_at = Some(Instant::now());
        let network = market.scheme.network();
        let ahead = if holding.is_open { Vec::new() } else { self.signers_ahead(market).await? };
        let taken = self.take_signer(market, holding, &ahead).await?;
        if taken.is_none() && holding.is_open {
            return Ok(());
        }
        let noted = taken.as_ref().map(|(signer, _next)| signer);
        if let Some(signer) = ahead.into_iter().find(|signer| Some(signer) != noted) {
            return Err(RecoverError::Behind(signer));
        }
        // Where gas payers aren't leased, what they spent is told as on a ledger of one's own.
        if holding.known.as_ref().is_some_and(Vec::is_empty) && market.scheme.counts_spending() {
            self.tell_spending(market, None).await?;
        }
        let unfinished = self.ledger().unfinished(network).await?;
        let resumed = unfinished.len();
        for record in unfinished {
            self.settlements().start(record);
        }
        // Before lost account nonces are filled: one may belong to a settlement that the chain took back.
        if self.watches(market).await? {
            self.check_blocks(market, &mut Vigil::default()).await?;
        }
        crate::crash::point("mid_recovery");
        holding.signers.extend(taken.iter().map(|(signer, _next)| signer.clone()));
        market.scheme.hold(&holding.signers, tenure.until);
        self.set_compared(network, holding.epoch);
        market.scheme.open(taken.as_slice());
        holding.is_open = true;
        let signer = taken.as_ref().map(|(signer, _next)| signer.as_str());
        tracing::info!(%network, resumed, signer, "Network is open.");
        Ok(())
    }

    /// Gas payers, whoever holds them, that show the books to be an old copy. The chain is asked first: what is sent is in the
    /// books before.
    async fn signers_ahead(&self, market: &Market) -> Result<Vec<AccountId>, RecoverError> {
        let mut ahead = Vec::new();
        for (signer, expected) in market.scheme.signer_nonces().await? {
            let next = self.ledger().next_nonce(market.scheme.network(), &signer).await?;
            if next.is_some_and(|next| is_behind(next, expected)) {
                ahead.push(signer);
            }
        }
        Ok(ahead)
    }

    /// One more gas payer that no living gateway holds, with the account nonce that it hands out next: the ledger's or the
    /// chain's, whichever is higher. First those that the books are behind.
    async fn take_signer(
        &self,
        market: &Market,
        holding: &mut Holding,
        ahead: &[AccountId],
    ) -> Result<Option<(AccountId, AccountNonce)>, RecoverError> {
        let network = market.scheme.network();
        let known = match &mut holding.known {
            Some(known) => known,
            none => {
                let nonces = market.scheme.signer_nonces().await?;
                none.insert(nonces.into_iter().map(|(signer, _nonce)| signer).collect())
            }
        };
        let (first, then): (Vec<_>, Vec<_>) =
            known.iter().filter(|signer| !holding.signers.contains(signer)).partition(|signer| ahead.contains(signer));
        for signer in first.into_iter().chain(then) {
            match self.ledger().lease_signer(network, signer, 0).await {
                Ok(_unchecked) => {}
                Err(LedgerError::HeldElsewhere(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            // Only now: what its holder signed last may have reached the chain meanwhile.
            let nonces = market.scheme.signer_nonces().await?;
            let expected = nonces.into_iter().find(|(account, _nonce)| account == signer);
            let at_least = expected.map_or(0, |(_account, nonce)| nonce);
            self.withhold_if_restored(network, signer, at_least).await?;
            let next = self.ledger().lease_signer(network, signer, at_least).await?;
            if market.scheme.counts_spending() {
                self.tell_spending(market, Some(signer)).await?;
            }
            return Ok(Some((signer.clone(), next)));
        }
        Ok(None)
    }

    /// Whether this process settles a payment.
    pub(super) async fn is_ours(&self, record: &RecordId) -> Result<bool, LedgerError> {
        if self.settlements().is_running(record) {
            return Ok(true);
        }
        self.ledger().own(record).await
    }

    /// Whether this gateway is the one that looks after what all of them settled on a network.
    pub(super) async fn watches(&self, market: &Market) -> Result<bool, LedgerError> {
        self.ledger().lease_duty(&format!("watch {}", market.scheme.network())).await
    }
}
