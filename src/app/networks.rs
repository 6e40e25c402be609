//! The networks that a gateway does business on, and how a reload goes from some to others: those that stay as they are go on
//! undisturbed, those that are new must answer, and those that go, or are spoken to in another way, must first have nothing
//! under way (contract §4).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Blueprint, StartError, VERIFY_PATIENCE, count_on, open_payments};
use crate::admin::{ChainStatus, WatchedChain, WatchedSigner};
use crate::chain::Chain;
use crate::config::{Config, changed_networks};
use crate::ledger::{Ledger, PaymentRecord};
use crate::payment::scheme::Scheme;
use crate::payment::{Gate, Market, RetireError, Retiring};
use crate::telemetry::Metrics;
use crate::types::{AccountId, AssetId, ChainKind, Clock, Network};

/// How long a reload waits for settlements to end on networks that it takes away or changes.
const RETIRE_PATIENCE: Duration = Duration::from_secs(10);

/// A configuration and its networks, which run.
#[derive(Clone)]
pub(super) struct Business {
    pub config: Arc<Config>,
    pub chains: Vec<Arc<dyn Chain>>,
    pub markets: HashMap<Network, Arc<Market>>,
}

/// From one business to the next.
pub(super) struct Change {
    pub next: Business,
    /// Not started yet.
    fresh: Vec<Arc<dyn Chain>>,
    /// What is put in the place of something else, with what it replaces.
    replaced: Vec<(Arc<dyn Chain>, Arc<Market>)>,
    gone: Vec<(Network, Arc<Market>)>,
}

impl Business {
    fn chain(&self, network: &Network) -> Option<&Arc<dyn Chain>> {
        self.chains.iter().find(|chain| chain.network() == network)
    }

    /// As the operator's listener shows them.
    pub fn watched(&self) -> Vec<WatchedChain> {
        self.chains.iter().map(watched).collect()
    }

    /// The gas payers of each chain family.
    pub fn signers(&self) -> Vec<(ChainKind, AccountId)> {
        let signers = self.chains.iter().flat_map(|chain| {
            let kind = chain.network().kind();
            signers_of(chain.as_ref()).into_iter().map(move |signer| (kind, signer))
        });
        signers.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Change {
    /// What has to be done to get from a business that runs to a configuration that was read.
    pub fn new(old: &Business, read: &Blueprint) -> Self {
        let (changed, gone) = changed_networks(&old.config, &read.config);
        let mut next = Business { config: Arc::clone(&read.config), chains: Vec::new(), markets: read.markets.clone() };
        let (mut fresh, mut replaced) = (Vec::new(), Vec::new());
        for chain in &read.chains {
            let network = chain.network();
            let before = old.chain(network).zip(old.markets.get(network));
            match before {
                Some((same, market)) if !changed.contains(network) => {
                    next.chains.push(Arc::clone(same));
                    next.markets.insert(network.clone(), Arc::clone(market));
                }
                before => {
                    replaced.extend(before.map(|(_, market)| (Arc::clone(chain), Arc::clone(market))));
                    fresh.push(Arc::clone(chain));
                    next.chains.push(Arc::clone(chain));
                }
            }
        }
        let gone = gone
            .into_iter()
            .filter_map(|network| old.markets.get(&network).map(Arc::clone).map(|market| (network, market)));
        Self { next, fresh, replaced, gone: gone.collect() }
    }

    /// Asks every network that is new, or is spoken to in another way. At a start one that is silent is offered once it
    /// answers; here business goes on without it, so the operator is told instead.
    pub async fn verify(&self) -> Result<(), Vec<String>> {
        let checks = self.fresh.iter().map(|chain| async move {
            match tokio::time::timeout(VERIFY_PATIENCE, chain.verify_chain()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some(format!("the network {} does not answer", chain.network())),
            }
        });
        let reasons: Vec<String> = futures::future::join_all(checks).await.into_iter().flatten().collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Takes networks out of business, all or none.
    pub async fn retire(
        &self,
        old: &Business,
        gate: &Gate,
        ledger: &dyn Ledger,
        clock: &dyn Clock,
    ) -> Result<Vec<Retiring>, Vec<String>> {
        let told = |error: &dyn std::fmt::Display| vec![error.to_string()];
        // What a look at the books refuses need not be waited for.
        let read =
            || async { open_payments(ledger, &old.config.server, clock.now()).await.map_err(|error| told(&error)) };
        self.refuse_what_is_needed(old, &read().await?, true)?;
        let deadline = Instant::now() + RETIRE_PATIENCE;
        let mut retired = Vec::new();
        let replaced = self.replaced.iter().map(|(chain, market)| (chain.network(), market));
        for (network, market) in self.gone.iter().map(|(network, market)| (network, market)).chain(replaced) {
            let left = deadline.saturating_duration_since(Instant::now());
            retired.push(gate.retire(market, left).await.map_err(|error| match error {
                RetireError::InUse(count) => told(&StartError::NetworkStillNeeded { network: network.clone(), count }),
                RetireError::Ledger(error) => told(&error),
            })?);
        }
        if !retired.is_empty() {
            self.refuse_what_is_needed(old, &read().await?, false)?;
        }
        Ok(retired)
    }

    /// Paid and not yet answered: takes somebody who can read the payment. What is being settled may be waited for.
    fn refuse_what_is_needed(&self, old: &Business, open: &[PaymentRecord], may_wait: bool) -> Result<(), Vec<String>> {
        let open: Vec<PaymentRecord> =
            open.iter().filter(|row| !may_wait || row.settlement.is_some()).cloned().collect();
        let mut reasons = Vec::new();
        for (network, _) in &self.gone {
            let count = count_on(&open, network);
            if count > 0 {
                reasons.push(StartError::NetworkStillNeeded { network: network.clone(), count }.to_string());
            }
        }
        for (chain, _) in &self.replaced {
            let network = chain.network();
            let (assets, signers) = (assets_of(&self.next.config, network), signers_of(chain.as_ref()));
            let had = old.chain(network).map(|chain| signers_of(chain.as_ref())).unwrap_or_default();
            let own = || open.iter().filter(|row| row.claim.network == *network);
            let without_asset = own().filter(|row| !assets.contains(&row.claim.asset)).count();
            // On Solana a payment names its fee payer.
            let is_left = |row: &&PaymentRecord| {
                let named = row.attempts.iter().filter_map(|attempt| attempt.signed.signer.as_ref());
                network.kind() == ChainKind::Solana
                    && named.into_iter().any(|signer| had.contains(signer) && !signers.contains(signer))
            };
            let without_signer = own().filter(is_left).count();
            for (what, count) in [("asset", without_asset), ("signer", without_signer)] {
                if count > 0 {
                    reasons.push(format!(
                        "{count} unfinished payments on {network} need an {what} that is not in the configuration; keep it there \
                         until they have ended"
                    ));
                }
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Starts what is new. Must run inside the runtime of money.
    pub fn start(&self) {
        for chain in &self.fresh {
            Arc::clone(chain).start();
        }
    }

    /// Forgets what was measured of networks that are gone.
    pub fn forget(&self, old: &Business, metrics: &Metrics) {
        for (network, _) in &self.gone {
            let signers = old.chain(network).map_or(0, |chain| signers_of(chain.as_ref()).len());
            metrics.forget_network(network.as_str(), signers);
        }
    }
}

fn signers_of(chain: &dyn Chain) -> Vec<AccountId> {
    chain.signer_balances().into_iter().map(|balance| balance.signer).collect()
}

fn assets_of(config: &Config, network: &Network) -> Vec<AssetId> {
    let known = config.networks.iter().filter(|known| known.network == *network);
    known.flat_map(|known| &known.assets).map(|asset| asset.id.clone()).collect()
}

/// A chain as the operator's listener shows it.
fn watched(chain: &Arc<dyn Chain>) -> WatchedChain {
    let of_chain = Arc::clone(chain);
    let status = move || ChainStatus {
        head: of_chain.head().map(|head| (head.number, head.age)),
        clock_skew_secs: of_chain.clock_skew_secs(),
        native_decimals: of_chain.native_decimals(),
        signers: of_chain
            .signer_balances()
            .into_iter()
            .map(|signer| WatchedSigner { signer: signer.signer, balance: signer.balance, lasts: signer.lasts })
            .collect(),
    };
    WatchedChain { scheme: Arc::clone(chain) as Arc<dyn Scheme>, status: Arc::new(status) }
}
