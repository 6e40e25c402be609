//! The networks of business: a reload may add some, replace some and take some away while payments run on the others.
//!
//! What takes a network away first takes every place among its settlements, so that nothing is claimed or signed there from
//! then on, and lets go of them again if a payment turns out to need the network after all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::gate::Gate;
use super::priced::Market;
use super::queue::Place;
use super::reorgs::Vigil;
use crate::ledger::LedgerError;
use crate::types::Network;

/// How often a network that is about to be taken away is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// For how long new payments are kept out in one go, for the last ones to be written down.
const PLACES_HELD_MAX: Duration = Duration::from_millis(500);

/// Networks by name; what is read stays as it was read.
pub(super) type MarketMap = HashMap<Network, Arc<Market>>;

/// The networks of business, and the tasks that look after them.
#[derive(Default)]
pub(super) struct Markets {
    open: RwLock<Arc<MarketMap>>,
    /// None before they are looked after.
    tasks: Mutex<Option<HashMap<Network, Vec<JoinHandle<()>>>>>,
}

impl Markets {
    pub fn new(markets: MarketMap) -> Arc<Self> {
        Arc::new(Self { open: RwLock::new(Arc::new(markets)), tasks: Mutex::default() })
    }

    pub fn get(&self, network: &Network) -> Option<Arc<Market>> {
        self.all().get(network).map(Arc::clone)
    }

    pub fn all(&self) -> Arc<MarketMap> {
        Arc::clone(&self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, markets: MarketMap) -> Arc<MarketMap> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *open, Arc::new(markets))
    }
}

/// A network on which nothing is under way, nor can be while this is kept. Dropped, business goes on.
pub struct Retiring {
    market: Arc<Market>,
    _places: Place,
}

/// Why a network can't be taken away.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// So many payments on it are not settled, nor let go.
    #[error("{0} payments are being settled")]
    InUse(usize),
    /// The books don't say.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Gate {
    /// Waits until nothing is under way on a network, and keeps it so. New payments wait meanwhile as they do when its
    /// settlements are many: no longer than its queue allows.
    ///
    /// # Errors
    /// When something still is after `patience`, or the books can't be read. Business goes on then.
    pub async fn retire(&self, market: &Arc<Market>, patience: Duration) -> Result<Retiring, RetireError> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // One that waits for its origin needs a place at its end, which would be refused to it.
            let places = match market.queue.aside() {
                0 => market.queue.enter_all(left).await,
                _ => None,
            };
            let mut unfinished = self.under_way(market).await?;
            let let_go = Instant::now() + PLACES_HELD_MAX;
            while places.is_some() && unfinished > 0 && market.queue.aside() == 0 && Instant::now() < let_go {
                // Its place is free once its money has moved; that is yet to be written down.
                tokio::time::sleep(LOOK_EVERY).await;
                unfinished = self.under_way(market).await?;
            }
            match places {
                Some(places) if unfinished == 0 => return Ok(Retiring { market: Arc::clone(market), _places: places }),
                _ if Instant::now() >= deadline => return Err(RetireError::InUse(unfinished.max(1))),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// How many payments on a network are being settled, or have yet to be.
    async fn under_way(&self, market: &Market) -> Result<usize, LedgerError> {
        let network = market.scheme.network();
        let running = market.queue.aside().max(self.settlements().running_on(network));
        Ok(running.max(self.ledger().unfinished(network).await?.len()))
    }

    /// From now on these are the networks of business. Those that were retired for it never take a payment again; every one
    /// that is new is looked after as at a start. Waits for nothing, so that nobody who goes away leaves it half done.
    pub fn replace_markets(self: &Arc<Self>, markets: HashMap<Network, Arc<Market>>, retired: Vec<Retiring>) {
        let before = self.open_markets().replace(markets);
        let now = self.markets();
        let is_same = |(network, market): &(&Network, &Arc<Market>)| {
            now.get(*network).is_some_and(|other| Arc::ptr_eq(other, market))
        };
        let ended: Vec<Network> =
            before.iter().filter(|one| !is_same(one)).map(|(network, _)| network.clone()).collect();
        for Retiring { market, .. } in &retired {
            market.queue.close();
        }
        let gate = Arc::clone(self);
        self.runtime().spawn(async move {
            for network in &ended {
                gate.stop_looking_after(network).await;
                gate.forget_compared(network);
            }
            for Retiring { market, .. } in &retired {
                // Whoever still has it in hand finds it over, and it signs nothing by itself.
                market.scheme.hold(&[], Instant::now());
            }
            gate.look_after_markets();
        });
    }

    /// Looks after every network that nobody looks after yet; none before [`Self::look_after`] began.
    pub(super) fn look_after_markets(self: &Arc<Self>) {
        let mut tasks = self.open_markets().tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tasks) = tasks.as_mut() else { return };
        for (network, market) in self.markets().iter() {
            if !tasks.contains_key(network) {
                tasks.insert(network.clone(), self.look_after_market(market));
            }
        }
    }

    /// From now on networks are looked after as they come.
    pub(super) fn begin_to_look_after(&self) {
        let mut tasks = self.open_markets().tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get_or_insert_default();
    }

    fn look_after_market(self: &Arc<Self>, market: &Arc<Market>) -> Vec<JoinHandle<()>> {
        self.show_books(market);
        let (gate, market, runtime) = (Arc::clone(self), Arc::clone(market), self.runtime());
        if self.ledger().tenure().is_some() {
            let holding = runtime.spawn(Arc::clone(self).hold_market(Arc::clone(&market)));
            return vec![holding, runtime.spawn(gate.watch_blocks(market, Vigil::default()))];
        }
        vec![runtime.spawn(async move {
            let vigil = gate.open_market(&market).await;
            gate.watch_blocks(market, vigil).await;
        })]
    }

    /// Ends a network's tasks, wherever they are: as with a crash, whatever they wrote down holds.
    async fn stop_looking_after(&self, network: &Network) {
        let tasks = {
            let mut tasks = self.open_markets().tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.as_mut().and_then(|tasks| tasks.remove(network)).unwrap_or_default()
        };
        for task in tasks {
            task.abort();
            let _aborted = task.await;
        }
    }
}
