//! What proves that a change was committed, when its COMMIT was not answered: a mark that it left in its own transaction.
//!
//! `pg_xact_status` doesn't: after a crash, PostgreSQL gives the number of a transaction of which nothing had reached the disk to
//! another one, which commits.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use super::store::CONNECTIONS_MAX;
use crate::ledger::{LedgerError, hex};

/// Places of one registration: for the changes of all connections, and for as many whose outcome is being asked for.
const PLACES: u32 = 2 * CONNECTIONS_MAX;

/// How long a transaction that was abandoned may hold its place's row: a little longer than the server lets it
/// (`idle_in_transaction_session_timeout`).
const ABANDONED: Duration = Duration::from_secs(6);

/// How long the marks of a registration that has ended can be asked for.
const KEPT_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// Old marks that are removed in one go.
const REMOVED_MAX: i64 = 1000;

/// Places that no change of this process has to itself, and since when no transaction holds them either.
pub(super) struct Places(Mutex<VecDeque<(u32, Instant)>>);

/// A place, and what is put there.
pub(super) struct Mark<'a> {
    places: &'a Places,
    pub(super) place: u32,
    /// Hexadecimal, and never the same twice.
    pub(super) text: String,
    is_abandoned: bool,
}

impl Places {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new((0..PLACES).map(|place| (place, now)).collect()))
    }

    /// Takes a place until the mark is dropped: keep it until the change's outcome is known.
    pub(super) fn take(&self) -> Result<Mark<'_>, LedgerError> {
        let not_written = |detail: &str| LedgerError::NotWritten(detail.to_owned());
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|error| not_written(&format!("no randomness: {error}")))?;
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let free = places.iter().position(|(_, free_at)| *free_at <= now);
        let (place, _) = free
            .and_then(|at| places.remove(at))
            .ok_or_else(|| not_written("the outcome of too many changes is unknown"))?;
        Ok(Mark { places: self, place, text: hex::encode(&random), is_abandoned: false })
    }
}

impl Mark<'_> {
    /// A transaction that nobody ends holds the place until the server ends it.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let free_at = if self.is_abandoned { now + ABANDONED } else { now };
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((self.place, free_at));
    }
}

/// Makes the places of a new registration.
pub(super) async fn make(connection: &mut PgConnection, epoch: i64, instance: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO marks (epoch, place, instance, mark, marked_at) \
         SELECT $1, place, $2, '', tollhouse_now() FROM generate_series(0, $3 - 1) AS place",
    )
    .bind(epoch)
    .bind(instance)
    .bind(i64::from(PLACES))
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes some marks of registrations that ended long ago.
pub(super) async fn remove_old(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM marks WHERE (epoch, place) IN (SELECT epoch, place FROM marks \
         WHERE marked_at < tollhouse_now() - $1 AND NOT tollhouse_lives(epoch) LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .bind(KEPT_MILLIS)
    .bind(REMOVED_MAX)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_ones_alone_and_taken_again_as_late_as_can_be() {
        let places = Places::new();
        let first = places.take().unwrap();
        let (place, text) = (first.place, first.text.clone());
        drop(first);
        let mut taken: Vec<_> = (1..PLACES).map(|_| places.take().unwrap()).collect();
        assert!(taken.iter().all(|mark| mark.place != place));
        taken.push(places.take().unwrap());
        assert!(taken.last().is_some_and(|mark| mark.place == place && mark.text != text));
        assert!(matches!(places.take(), Err(LedgerError::NotWritten(_))));
        taken.truncate(2);
        assert!(places.take().is_ok());
        taken.iter_mut().for_each(Mark::abandon);
        taken.clear();
        let free: Vec<_> = std::iter::from_fn(|| places.take().ok()).collect();
        assert_eq!(free.len(), usize::try_from(PLACES).unwrap() - 2);
    }
}
