//! Room for so many at one time, and a queue before it in which nobody waits for long: what is turned away has cost nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::{AccountNonce, NewAttempt};
use crate::types::AccountId;

use super::scheme::{SettlementPlan, SignError};

/// A bounded number of places, taken in the order of asking.
#[derive(Debug, Clone)]
pub struct Queue {
    room: Arc<Semaphore>,
    timeout: Duration,
}

/// A place; free for the next one when it is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Queue {
    /// So many places, at least one, and how long one is waited for.
    #[must_use]
    pub fn new(places: usize, timeout: Duration) -> Self {
        Self { room: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))), timeout }
    }

    /// A place, or nothing if none came free in time.
    pub async fn enter(&self) -> Option<Place> {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(Place(permit));
        }
        let waiting = tokio::time::timeout(self.timeout, Arc::clone(&self.room).acquire_owned());
        waiting.await.ok()?.ok().map(Place)
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
}
