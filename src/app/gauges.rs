//! Gas payers' balances, prices against fees, and networks' health: for the metrics, and in the log when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::networks::Business;
use crate::chain::{Chain, SignerBalance};
use crate::config::{Config, RouteAction};
use crate::payment::scheme::Availability;
use crate::telemetry::Metrics;
use crate::types::{AccountId, DecimalAmount, Network};

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// A balance that lasts for fewer settlements is low; it is well again from twice as many on.
const LOW_AT: u64 = 100;

/// What was said in the log, so that it is said once.
#[derive(Default)]
struct Said {
    low: BTreeSet<(Network, AccountId)>,
    below_fee: BTreeMap<Network, usize>,
}

/// Keeps the gauges, for ever.
pub(super) async fn keep(business: watch::Receiver<Business>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut said = Said::default();
    loop {
        ticks.tick().await;
        let Business { config, chains, .. } = business.borrow().clone();
        for chain in &chains {
            let network = chain.network();
            metrics.network_up(network.as_str(), chain.availability() == Availability::Ready);
            if let Some(secs) = chain.clock_skew_secs().and_then(|secs| i32::try_from(secs).ok()) {
                metrics.clock_skew(network.as_str(), f64::from(secs));
            }
            for (index, signer) in chain.signer_balances().into_iter().enumerate() {
                show_balance(chain.as_ref(), &index.to_string(), &signer, &metrics);
                said.tell_balance(network, &signer);
            }
            let below = below_fee(chain.as_ref(), &config);
            metrics.offers_below_fee(network.as_str(), u32::try_from(below).map_or(f64::NAN, f64::from));
            said.tell_prices(network, below);
        }
    }
}

fn show_balance(chain: &dyn Chain, index: &str, signer: &SignerBalance, metrics: &Metrics) {
    let network = chain.network().as_str();
    if let Some(balance) = signer.balance {
        // Labels stay free of addresses (threat G2).
        let units = DecimalAmount::from_atomic(balance, chain.native_decimals()).to_string();
        metrics.signer_balance(network, index, units.parse().unwrap_or(f64::NAN));
    }
    if let Some(lasts) = signer.lasts {
        metrics.signer_payments_left(network, index, u32::try_from(lasts).map_or(f64::from(u32::MAX), f64::from));
    }
}

/// How many of the routes' offers don't cover their fee now.
fn below_fee(chain: &dyn Chain, config: &Config) -> usize {
    let paid = config.routes.iter().filter_map(|route| match &route.action {
        RouteAction::Paid(paid) => Some(&paid.offers),
        _ => None,
    });
    let own = paid.flatten().filter(|offer| offer.network == *chain.network());
    own.filter(|offer| !chain.covers_fee(&offer.asset.id, offer.amount)).count()
}

impl Said {
    fn tell_balance(&mut self, network: &Network, signer: &SignerBalance) {
        let Some(lasts) = signer.lasts else { return };
        let key = (network.clone(), signer.signer.clone());
        if lasts < LOW_AT && self.low.insert(key.clone()) {
            tracing::warn!(%network, signer = %signer.signer, lasts, "A gas payer's balance is low: it lasts for few settlements.");
        } else if lasts >= LOW_AT.saturating_mul(2) && self.low.remove(&key) {
            tracing::info!(%network, signer = %signer.signer, lasts, "A gas payer's balance is well again.");
        }
    }

    fn tell_prices(&mut self, network: &Network, below: usize) {
        let before = self.below_fee.insert(network.clone(), below).unwrap_or(0);
        if below != before {
            tracing::warn!(%network, below, before, "Offers whose price doesn't cover their settlement's fee, and are left out.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AtomicAmount;

    #[test]
    fn a_low_balance_is_told_once_and_again_only_after_it_was_well() {
        let network = Network::evm(1);
        let mut said = Said::default();
        let mut is_low_after = |lasts: u64| {
            let signer = AccountId::new("0xsigner").unwrap();
            let balance = Some(AtomicAmount::from(lasts));
            said.tell_balance(&network, &SignerBalance { signer, balance, lasts: Some(lasts) });
            !said.low.is_empty()
        };
        let steps = [(500, false), (99, true), (0, true), (199, true), (200, false), (100, false), (99, true)];
        for (lasts, is_low) in steps {
            assert_eq!(is_low_after(lasts), is_low, "{lasts}");
        }
    }
}
