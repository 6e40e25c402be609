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
pub(super) struct Flights<S = DashMap<PaymentId, Seat>> {
    seats: S,
}

/// Where seats are taken and given back, each in one atomic step: what the rest of this module relies on, and all that it
/// does. The tests schedule other flights between the steps.
pub(super) trait Seats {
    /// Takes the seat of a payment, or shows who has it.
    fn take(&self, id: &PaymentId, seat: Seat) -> Result<(), Seat>;
    /// Gives it back.
    fn give_back(&self, id: &PaymentId);
}

impl Seats for DashMap<PaymentId, Seat> {
    fn take(&self, id: &PaymentId, seat: Seat) -> Result<(), Seat> {
        match self.entry(id.clone()) {
            Entry::Occupied(entry) => Err(entry.get().clone()),
            Entry::Vacant(entry) => {
                entry.insert(seat);
                Ok(())
            }
        }
    }

    fn give_back(&self, id: &PaymentId) {
        self.remove(id);
    }
}

/// Who is in: for which request, and how far.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    fingerprint: Digest,
    phase: watch::Receiver<Phase>,
}

/// What became of a wish to enter.
#[derive(Debug)]
pub(super) enum Entered<F = Flight> {
    /// In.
    Flight(F),
    /// The same request is being worked on.
    Occupied,
    /// The payment is being worked on for another request.
    OccupiedByOther,
}

/// The right to work on a payment; given back when dropped.
#[derive(Debug)]
pub(super) struct Flight<S: Seats = DashMap<PaymentId, Seat>> {
    id: PaymentId,
    flights: Arc<Flights<S>>,
    phase: watch::Sender<Phase>,
}

impl<S: Seats> Flights<S> {
    /// Enters for a request, unless somebody is in. Waits for one who is only writing down how it ended.
    pub async fn enter(self: &Arc<Self>, id: &PaymentId, fingerprint: Digest) -> Entered<Flight<S>> {
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

    fn try_enter(self: &Arc<Self>, id: &PaymentId, fingerprint: Digest) -> Result<Flight<S>, Seat> {
        let (phase, receiver) = watch::channel(Phase::Working);
        self.seats.take(id, Seat { fingerprint, phase: receiver })?;
        Ok(Flight { id: id.clone(), flights: Arc::clone(self), phase })
    }
}

impl Flights {
    /// How many are in flight.
    pub fn len(&self) -> usize {
        self.seats.len()
    }
}

impl<S: Seats> Flight<S> {
    /// Which payment it is the right to.
    pub fn id(&self) -> &PaymentId {
        &self.id
    }

    /// The work is done but for writing it down.
    pub fn finishing(&mut self) {
        self.phase.send_replace(Phase::Finishing);
    }
}

impl<S: Seats> Drop for Flight<S> {
    fn drop(&mut self) {
        self.flights.seats.give_back(&self.id);
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
        let flights = Arc::new(<Flights>::default());
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

    /// Seats between whose steps anybody else may run.
    #[derive(Debug, Default)]
    struct Interleaved(DashMap<PaymentId, Seat>);

    impl Seats for Interleaved {
        fn take(&self, id: &PaymentId, seat: Seat) -> Result<(), Seat> {
            shuttle::thread::yield_now();
            let taken = self.0.take(id, seat);
            shuttle::thread::yield_now();
            taken
        }

        fn give_back(&self, id: &PaymentId) {
            shuttle::thread::yield_now();
            self.0.give_back(id);
            shuttle::thread::yield_now();
        }
    }

    /// How many schedules are tried.
    const SCHEDULES: usize = 3_000;
    const REQUESTS: usize = 4;

    /// Several come at once with one payment: each works, writes down how it ended, and leaves.
    fn several_at_once() {
        use shuttle::sync::atomic::{AtomicUsize, Ordering::SeqCst};

        let flights = Arc::new(Flights::<Interleaved>::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let worked = Arc::new(AtomicUsize::new(0));
        let requests: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let (flights, inside, worked) = (Arc::clone(&flights), Arc::clone(&inside), Arc::clone(&worked));
                shuttle::future::spawn(async move {
                    let Entered::Flight(mut flight) = flights.enter(&id(), REQUEST).await else { return };
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two work on one payment");
                    shuttle::future::yield_now().await;
                    flight.finishing();
                    shuttle::future::yield_now().await;
                    assert_eq!(inside.fetch_sub(1, SeqCst), 1);
                    worked.fetch_add(1, SeqCst);
                })
            })
            .collect();
        shuttle::future::block_on(async {
            for request in requests {
                request.await.unwrap();
            }
        });
        assert!(worked.load(SeqCst) >= 1, "everybody was turned away");
        assert_eq!(flights.seats.0.len(), 0, "a seat was never given back");
    }

    /// Timers want a runtime to belong to; none of them ever fires, since a waiter who is forgotten is a deadlock that shows.
    #[test]
    fn in_any_schedule_one_at_a_time_enters_and_nobody_who_waits_is_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _context = runtime.enter();
        shuttle::check_random(several_at_once, SCHEDULES);
        shuttle::check_pct(several_at_once, SCHEDULES, 3);
    }
}
