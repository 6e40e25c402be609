//! Single flight: one request at a time works on a payment in this process.
//!
//! Holds nothing but "in flight here"; what a payment is and was, only the ledger says.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use crate::ledger::{Digest, PaymentId};

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
    map: DashMap<PaymentId, Seat>,
}

/// Who is in: for which request, and how far.
#[derive(Debug, Clone)]
struct Seat {
    fingerprint: Digest,
    phase: watch::Receiver<Phase>,
}

/// What became of a wish to enter.
#[derive(Debug)]
pub(super) enum Entered {
    /// In.
    Flight(Flight),
    /// The same request is being worked on.
    Occupied,
    /// The payment is being worked on for another request.
    OccupiedByOther,
}

/// The right to work on a payment; given back when dropped.
#[derive(Debug)]
pub(super) struct Flight {
    id: PaymentId,
    flights: Arc<Flights>,
    phase: watch::Sender<Phase>,
}

impl Flights {
    /// Enters for a request, unless somebody is in. Waits for one who is only writing down how it ended.
    pub async fn enter(self: &Arc<Self>, id: &PaymentId, fingerprint: Digest) -> Entered {
        let deadline = tokio::time::Instant::now() + ENDING_WAIT;
        loop {
            let mut other = match self.try_enter(id, fingerprint) {
                Ok(flight) => return Entered::Flight(flight),
                Err(other) => other,
            };
            let occupied = if other.fingerprint == fingerprint { Entered::Occupied } else { Entered::OccupiedByOther };
            if *other.phase.borrow() == Phase::Working {
                return occupied;
            }
            // Ends with an error when the flight is dropped, which is what we wait for.
            while let Ok(changed) = tokio::time::timeout_at(deadline, other.phase.changed()).await {
                if changed.is_err() {
                    break;
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return occupied;
            }
        }
    }

    fn try_enter(self: &Arc<Self>, id: &PaymentId, fingerprint: Digest) -> Result<Flight, Seat> {
        match self.map.entry(id.clone()) {
            Entry::Occupied(entry) => Err(entry.get().clone()),
            Entry::Vacant(entry) => {
                let (phase, receiver) = watch::channel(Phase::Working);
                entry.insert(Seat { fingerprint, phase: receiver });
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
    /// Which payment it is the right to.
    pub fn id(&self) -> &PaymentId {
        &self.id
    }

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

    const REQUEST: Digest = [1; 32];

    fn id() -> PaymentId {
        PaymentId("eip155:1/0xA/0xB/0xC".to_owned())
    }

    #[tokio::test]
    async fn of_a_thousand_at_once_one_enters() {
        let flights = Arc::new(Flights::default());
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let flights = Arc::clone(&flights);
                tokio::spawn(async move { flights.enter(&id(), REQUEST).await })
            })
            .collect();
        let mut entered = Vec::new();
        for task in tasks {
            if let Entered::Flight(flight) = task.await.unwrap() {
                entered.push(flight);
            }
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
        let Entered::Flight(mut first) = flights.enter(&id, REQUEST).await else { panic!("occupied") };
        assert!(matches!(flights.enter(&id, REQUEST).await, Entered::Occupied));
        assert!(matches!(flights.enter(&id, [2; 32]).await, Entered::OccupiedByOther));
        first.finishing();
        let (second, ()) = tokio::join!(flights.enter(&id, [2; 32]), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(first);
        });
        assert!(matches!(second, Entered::Flight(_)));
    }
}
