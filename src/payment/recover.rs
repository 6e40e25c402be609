//! What earlier runs left over, and what nobody waits for any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::ledger::{AccountNonce, Ledger, LedgerError, PaymentRecord};
use crate::types::{AccountId, AtomicAmount, Clock, Network, UnixMillis};

use super::gate::Gate;
use super::priced::Market;
use super::reorgs::Vigil;
use super::scheme::{Signatures, VerifyError};

/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before a network that did not answer is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How many failed payments are looked at per network and sweep.
const WATCHED_MAX: usize = 200;

/// After so many questions that a chain did not answer, a sweep leaves the rest to the next one.
const UNANSWERED_MAX: usize = 3;

/// How long after its authorization's end a failed payment is still looked at: what landed in the last moment is seen by us
/// only when its block counts as settled, and clocks differ. Ethereum's finality takes up to a quarter of an hour.
const WATCHED_BEYOND_END: Duration = Duration::from_secs(20 * 60);

/// The time over which spending is limited.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whatever was signed within the last day is for a payment that was claimed within this: nothing is signed for one any more a day
/// after its claim.
const SIGNED_WITHIN_DAYS: i64 = 2;

#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// Another gateway's gas payer shows that the books are an old copy: it is for that one to withhold what they call due.
    #[error("the ledger is behind gas payer {0} on its chain, and nobody who holds it has noted that yet")]
    Behind(AccountId),
}

/// The books, for a network's questions.
struct Books {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    network: Network,
}

#[async_trait]
impl Signatures for Books {
    async fn signed_with(&self, signer: &AccountId, nonce: AccountNonce) -> Result<Vec<Vec<u8>>, LedgerError> {
        let claimed_since = days_before(self.clock.now(), SIGNED_WITHIN_DAYS);
        self.ledger.signed_with(&self.network, signer, nonce, claimed_since).await
    }
}

fn days_before(now: UnixMillis, days: i64) -> UnixMillis {
    let day = i64::try_from(DAY.as_millis()).unwrap_or(i64::MAX);
    UnixMillis(now.0.saturating_sub(day.saturating_mul(days)))
}

impl Gate {
    /// Puts deliveries that died with an earlier process right, before any request is taken.
    ///
    /// # Errors
    /// When the ledger can't be written.
    pub async fn recover_deliveries(&self) -> Result<(), LedgerError> {
        let changed =
            self.ledger().recover_deliveries(self.rules().deliveries_max, self.presentable_since(), true).await?;
        if changed > 0 {
            tracing::info!(changed, "Deliveries of an earlier run were put back.");
        }
        Ok(())
    }

    /// Brings every market into business, and keeps looking after what is left over, for ever.
    pub async fn look_after(self: Arc<Self>) {
        self.begin_to_look_after();
        self.look_after_markets();
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.sweep().await;
        }
    }

    /// Reconciles a network's unfinished payments with its chain before it takes new ones (contract §4).
    pub(super) async fn open_market(self: &Arc<Self>, market: &Market) -> Vigil {
        loop {
            let mut vigil = Vigil::default();
            match self.try_open_market(market, &mut vigil).await {
                Ok(resumed) => {
                    tracing::info!(network = %market.scheme.network(), resumed, "Network is open.");
                    return vigil;
                }
                Err(error) => {
                    tracing::warn!(network = %market.scheme.network(), %error, "Network can't be opened yet.");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn try_open_market(self: &Arc<Self>, market: &Market, vigil: &mut Vigil) -> Result<usize, RecoverError> {
        let network = market.scheme.network();
        let mut next_nonces = Vec::new();
        for (signer, expected) in market.scheme.signer_nonces().await? {
            self.withhold_if_restored(network, &signer, expected).await?;
            let next = self.ledger().lease_signer(network, &signer, expected).await?;
            next_nonces.push((signer, next));
        }
        if market.scheme.counts_spending() {
            self.tell_spending(market, None).await?;
        }
        let unfinished = self.ledger().unfinished(network).await?;
        let resumed = unfinished.len();
        for record in unfinished {
            self.settlements().start(record);
        }
        // Before lost account nonces are filled: one may belong to a settlement that the chain took back.
        self.check_blocks(market, vigil).await?;
        crate::crash::point("mid_recovery");
        self.set_compared(network, None);
        market.scheme.open(&next_nonces);
        Ok(resumed)
    }

    /// Tells a network whom to ask what was signed, before it sends anything: what is sent shows which account nonces are lost.
    pub(super) fn show_books(&self, market: &Market) {
        market.scheme.consult(Arc::new(Books {
            ledger: Arc::clone(self.ledger()),
            clock: Arc::clone(self.clock()),
            network: market.scheme.network().clone(),
        }));
    }

    /// Tells a network what its gas payers may have spent within the last day: what was signed, at its highest. Of
    /// transactions with one account nonce only one can ever cost anything. Of one gas payer, or all.
    pub(super) async fn tell_spending(&self, market: &Market, only: Option<&AccountId>) -> Result<(), RecoverError> {
        let (claimed_since, since) = (days_before(self.now(), SIGNED_WITHIN_DAYS), days_before(self.now(), 1));
        let outlays = self.ledger().outlays(market.scheme.network(), claimed_since, since).await?;
        // However often it is told, it counts once.
        market.scheme.forget_spending(only);
        let mut costs = HashMap::new();
        for outlay in outlays.into_iter().filter(|outlay| only.is_none_or(|only| *only == outlay.signer)) {
            let Ok(most) = outlay.fee_max.parse::<AtomicAmount>() else { continue };
            let signed = (most, outlay.signed_at);
            let cost = costs.entry((outlay.record, outlay.signer, outlay.account_nonce)).or_insert(signed);
            *cost = (*cost).max(signed);
        }
        for ((_, signer, _), (most, at)) in costs {
            market.scheme.spent(&signer, most, at);
        }
        Ok(())
    }

    /// A chain that is ahead of what the books handed out has seen payments that they don't know: they are an old copy (threat
    /// E13). What they call unanswered may have been answered after the copy was made, so none of it is answered now, and an
    /// operator decides. Written before the nonce is raised, since afterwards nothing shows it any more.
    pub(super) async fn withhold_if_restored(
        &self,
        network: &Network,
        signer: &AccountId,
        expected: AccountNonce,
    ) -> Result<(), LedgerError> {
        let next = self.ledger().lease_signer(network, signer, 0).await?;
        if !is_behind(next, expected) {
            return Ok(());
        }
        let withheld = self.ledger().withhold(network, self.rules().deliveries_max).await?;
        crate::crash::point("post_withhold");
        self.metrics().invariant_violated("ledger_older_than_chain");
        tracing::error!(%network, %signer, chain_nonce = expected, ledger_nonce = next, withheld,
            "The ledger is older than the chain, or the signer's key is used elsewhere: answers that it calls due are withheld \
             as owed. Run `tollhouse payments reconcile`.");
        Ok(())
    }

    pub(super) async fn sweep(self: &Arc<Self>) {
        for market in self.markets().values() {
            if let Err(error) = self.sweep_market(market).await {
                tracing::warn!(network = %market.scheme.network(), %error, "Leftovers could not be looked at.");
            }
        }
        let swept =
            self.ledger().recover_deliveries(self.rules().deliveries_max, self.presentable_since(), false).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "Owed payments could not be listed.");
        }
        let retention = i64::try_from(self.rules().retention.as_millis()).unwrap_or(i64::MAX);
        if let Err(error) = self.ledger().prune(UnixMillis(self.now().0.saturating_sub(retention))).await {
            tracing::warn!(%error, "Old payments could not be removed.");
        }
    }

    async fn sweep_market(self: &Arc<Self>, market: &Market) -> Result<(), RecoverError> {
        let network = market.scheme.network();
        // What an old copy of the books calls unfinished is withheld first.
        if !self.is_compared(market) {
            return Ok(());
        }
        // Rows that nobody drives: their task died, or their claim's answer was lost.
        for record in self.ledger().unfinished(network).await? {
            self.settlements().start(record);
        }
        if !self.watches(market).await? {
            return Ok(());
        }
        let beyond = i64::try_from(WATCHED_BEYOND_END.as_millis()).unwrap_or(i64::MAX);
        let failed = self.ledger().failed_but_usable(network, UnixMillis(self.now().0.saturating_sub(beyond))).await?;
        let mut unanswered = 0;
        for record in failed.into_iter().take(WATCHED_MAX) {
            // One that can't be judged or credited must not keep the others from it.
            let Err(error) = self.credit_if_landed(market, &record).await else { continue };
            tracing::warn!(%error, payment = %record.record, "A failed payment could not be looked at, or not be credited.");
            unanswered += usize::from(matches!(error, RecoverError::Chain(_)));
            if unanswered >= UNANSWERED_MAX {
                break;
            }
        }
        Ok(())
    }

    /// A failed authorization that landed after all is its payer's money: it may present it (contract §3, last row).
    async fn credit_if_landed(&self, market: &Market, record: &PaymentRecord) -> Result<(), RecoverError> {
        if let Some(settlement) = market.scheme.late_settlement(record).await? {
            let credited = self.ledger().record_paid(&record.record, settlement, false).await?;
            self.metrics().payment(credited.claim.network.as_str(), "paid");
            tracing::warn!(payment = %credited.record, "A failed payment landed after all; it is credited to its payer.");
        }
        Ok(())
    }

    fn presentable_since(&self) -> UnixMillis {
        let redeliver_for = i64::try_from(self.rules().redeliver_for.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(self.now().0.saturating_sub(redeliver_for))
    }
}

/// Whether the books, which hand this account nonce out next, don't know all that the chain saw. Books that never took a nonce
/// of a gas payer hold none of its payments: they are new.
pub(super) fn is_behind(next: AccountNonce, expected: AccountNonce) -> bool {
    next != 0 && next < expected
}
