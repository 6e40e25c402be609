//! Room for so many at one time, and a queue before it in which nobody waits for long: what is turned away has cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::{AccountNonce, NewAttempt};
use crate::types::AccountId;

use super::scheme::{SettlementPlan, SignError};

/// A bounded number of places, taken in the order of asking.
#[derive(Debug, Clone)]
pub struct Queue {
    room: Arc<Semaphore>,
    places: u32,
    timeout: Duration,
    /// How many gave their place back and will want another one.
    aside: Arc<AtomicUsize>,
}

/// A place; free for the next one when it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Queue {
    /// So many places, at least one, and how long one is waited for.
    #[must_use]
    pub fn new(places: usize, timeout: Duration) -> Self {
        let places = u32::try_from(places.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX).max(1);
        let room = Semaphore::new(usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS));
        Self { room: Arc::new(room), places, timeout, aside: Arc::default() }
    }

    /// A place, or nothing if none came free in time.
    pub async fn enter(&self) -> Option<Place> {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(Place(permit));
        }
        let waiting = tokio::time::timeout(self.timeout, Arc::clone(&self.room).acquire_owned());
        waiting.await.ok()?.ok().map(Place)
    }

    /// All places, once all are free; whoever asks later waits behind. Nothing if they weren't in time.
    pub(super) async fn enter_all(&self, within: Duration) -> Option<Place> {
        let waiting = tokio::time::timeout(within, Arc::clone(&self.room).acquire_many_owned(self.places));
        waiting.await.ok()?.ok().map(Place)
    }

    /// From now on there is no place for anybody.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// Counts one that is about to give its place back and will want another.
    pub(super) fn stand_aside(&self) -> Aside {
        self.aside.fetch_add(1, Ordering::AcqRel);
        Aside(Arc::clone(&self.aside))
    }

    /// How many stand aside.
    pub(super) fn aside(&self) -> usize {
        self.aside.load(Ordering::Acquire)
    }
}

/// Somebody who stands aside, until this is dropped.
#[derive(Debug)]
pub(super) struct Aside(Arc<AtomicUsize>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The plan of one that stands aside, for as long as the plan is kept.
pub(super) struct StandingAside {
    pub plan: Box<dyn SettlementPlan>,
    pub _aside: Aside,
}

impl SettlementPlan for StandingAside {
    fn signer(&self) -> Option<&AccountId> {
        self.plan.signer()
    }

    fn sign(&self, account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        self.plan.sign(account_nonce)
    }
}

/// A plan that has a place among its network's settlements, for as long as the plan is kept: to the settlement's end.
pub(super) struct Seated {
    pub plan: Box<dyn SettlementPlan>,
    pub _place: Place,
}

impl SettlementPlan for Seated {
    fn signer(&self) -> Option<&AccountId> {
        self.plan.signer()
    }

    fn sign(&self, account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        self.plan.sign(account_nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_one_and_not_for_long() {
        let queue = Queue::new(2, Duration::from_secs(1));
        let (one, _other) = (queue.enter().await.unwrap(), queue.enter().await.unwrap());
        let started = tokio::time::Instant::now();
        assert!(queue.enter().await.is_none());
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        let (third, ()) = tokio::join!(queue.enter(), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(one);
        });
        assert!(third.is_some());
        assert_eq!(started.elapsed(), Duration::from_millis(1500));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_all_places_waits_for_those_who_have_one_and_then_keeps_everybody_out() {
        let queue = Queue::new(2, Duration::from_secs(1));
        let one = queue.enter().await.unwrap();
        assert!(queue.enter_all(Duration::from_secs(1)).await.is_none());
        drop(one);
        let all = queue.enter_all(Duration::from_secs(1)).await.unwrap();
        assert!(queue.enter().await.is_none());
        drop(all);
        let one = queue.enter().await;
        assert!(one.is_some(), "given back");
        queue.close();
        drop(one);
        assert!(queue.enter().await.is_none());
    }

    #[test]
    fn who_stands_aside_is_counted_until_it_is_gone() {
        let queue = Queue::new(1, Duration::from_secs(1));
        let (one, other) = (queue.stand_aside(), queue.clone().stand_aside());
        assert_eq!(queue.aside(), 2);
        drop((one, other));
        assert_eq!(queue.aside(), 0);
    }
}
