//! Single flight: one request at a time works on a payment in this process.
//!
//! Holds nothing but "in flight here"; what a payment is and was, only the ledger says.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use crate::ledger::PaymentId;

/// How long a newcomer waits for an ending that is being written.
const ENDING_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    Finishing,
}

/// The payments in flight in this process.
#[derive(Debug, Default)]
pub(super) struct Flights {
    map: DashMap<PaymentId, watch::Receiver<Phase>>,
}

/// The right to work on a payment; given back when dropped.
#[derive(Debug)]
pub(super) struct Flight {
    id: PaymentId,
    flights: Arc<Flights>,
    phase: watch::Sender<Phase>,
}

impl Flights {
    /// Enters, or gives nothing if somebody is in. Waits for one who is only writing down how it ended.
    pub async fn enter(self: &Arc<Self>, id: &PaymentId) -> Option<Flight> {
        let deadline = tokio::time::Instant::now() + ENDING_WAIT;
        loop {
            let mut other = match self.try_enter(id) {
                Ok(flight) => return Some(flight),
                Err(other) => other,
            };
            if *other.borrow() == Phase::Working {
                return None;
            }
            // Ends with an error when the flight is dropped, which is what we wait for.
            while let Ok(changed) = tokio::time::timeout_at(deadline, other.changed()).await {
                if changed.is_err() {
                    break;
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return None;
            }
        }
    }

    fn try_enter(self: &Arc<Self>, id: &PaymentId) -> Result<Flight, watch::Receiver<Phase>> {
        match self.map.entry(id.clone()) {
            Entry::Occupied(entry) => Err(entry.get().clone()),
            Entry::Vacant(entry) => {
                let (phase, receiver) = watch::channel(Phase::Working);
                entry.insert(receiver);
                Ok(Flight { id: id.clone(), flights: Arc::clone(self), phase })
            }
        }
    }

    /// How many are in flight.
    pub fn len(&self) -> usize {
        self.map.len()
    }
}

impl Flight {
    /// The work is done but for writing it down.
    pub fn finishing(&mut self) {
        self.phase.send_replace(Phase::Finishing);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.map.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> PaymentId {
        PaymentId("eip155:1/0xA/0xB/0xC".to_owned())
    }

    #[tokio::test]
    async fn of_a_thousand_at_once_one_enters() {
        let flights = Arc::new(Flights::default());
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let flights = Arc::clone(&flights);
                tokio::spawn(async move { flights.enter(&id()).await })
            })
            .collect();
        let mut entered = Vec::new();
        for task in tasks {
            entered.extend(task.await.unwrap());
        }
        assert_eq!(entered.len(), 1);
        assert_eq!(flights.len(), 1);
        drop(entered);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_newcomer_waits_for_one_who_is_finishing() {
        let flights = Arc::new(Flights::default());
        let id = id();
        let mut first = flights.enter(&id).await.unwrap();
        assert!(flights.enter(&id).await.is_none());
        first.finishing();
        let (second, ()) = tokio::join!(flights.enter(&id), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(first);
        });
        assert!(second.is_some());
    }
}
