//! This gateway's registration: that it lives, for how long others must believe so, and that nobody else's registration that
//! has ended stays in the way.
//!
//! Leases go by the database's clock. What this process believes of its own lease is shorter, and goes by its own monotonic
//! clock: a process that was paused finds it over as soon as it runs again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool};

use crate::ledger::{LedgerError, Tenure};

use super::marks;
use super::writer::not_written;

/// How long others wait for a gateway that says nothing.
const LEASE: Duration = Duration::from_secs(10);

/// By how much this process's own idea of its lease is shorter.
const MARGIN: Duration = Duration::from_secs(2);

/// How often the lease is renewed.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(2);

/// The registration in force.
pub(super) struct Registration {
    /// The name of this process. A database that was set back gives out epochs again: they are this one's only with its name.
    instance: String,
    tenure: Mutex<Tenure>,
    has_ended: AtomicBool,
}

/// How a renewal ended.
pub(super) enum Renewal {
    /// The lease goes on.
    Renewed,
    /// It had ended: this is another registration, and what the old one held is whoever's takes it over.
    Anew,
}

impl Registration {
    /// Registers this process under a name of its own.
    pub(super) async fn new(pool: &PgPool, instance: String) -> Result<Self, LedgerError> {
        let mut connection = pool.acquire().await.map_err(|error| not_written(&error))?;
        let tenure = register(&mut connection, &instance, None).await.map_err(|error| not_written(&error))?;
        Ok(Self { instance, tenure: Mutex::new(tenure), has_ended: AtomicBool::new(false) })
    }

    pub(super) fn tenure(&self) -> Tenure {
        *self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, tenure: Tenure) {
        *self.tenure.lock().unwrap_or_else(PoisonError::into_inner) = tenure;
    }

    /// Renews the lease, or registers anew if it has ended; removes registrations that have ended.
    pub(super) async fn renew(&self, connection: &mut PgConnection) -> Result<Renewal, sqlx::Error> {
        let epoch = self.tenure().epoch;
        let asked_at = Instant::now();
        let renewed = sqlx::query(
            "UPDATE instances SET heartbeat = tollhouse_now(), lease_until = tollhouse_now() + $2 \
             WHERE epoch = $1 AND lease_until > tollhouse_now() AND instance = $3 \
             AND EXISTS (SELECT 1 FROM marks WHERE marks.epoch = instances.epoch AND marks.instance = $3)",
        )
        .bind(epoch)
        .bind(lease_millis())
        .bind(&self.instance)
        .execute(&mut *connection)
        .await?;
        if renewed.rows_affected() == 1 {
            self.set(Tenure { epoch, until: asked_at + (LEASE - MARGIN) });
            bury(connection).await?;
            return Ok(Renewal::Renewed);
        }
        let tenure = register(connection, &self.instance, Some(epoch)).await?;
        self.set(tenure);
        Ok(Renewal::Anew)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Gives up everything at once.
    pub(super) async fn end(&self, pool: &PgPool) {
        self.has_ended.store(true, Ordering::Release);
        let ended = sqlx::query("DELETE FROM instances WHERE epoch = $1 AND instance = $2")
            .bind(self.tenure().epoch)
            .bind(&self.instance)
            .execute(pool)
            .await;
        if let Err(error) = ended {
            tracing::warn!(%error, "The registration could not be removed; it ends by itself.");
        }
    }
}

/// A new registration, in place of one that has ended.
async fn register(connection: &mut PgConnection, instance: &str, old: Option<i64>) -> Result<Tenure, sqlx::Error> {
    let asked_at = Instant::now();
    let mut transaction = connection.begin().await?;
    if let Some(old) = old {
        sqlx::query("DELETE FROM instances WHERE epoch = $1 AND instance = $2")
            .bind(old)
            .bind(instance)
            .execute(&mut *transaction)
            .await?;
    }
    let epoch = sqlx::query_scalar(
        "INSERT INTO instances (instance, started_at, heartbeat, lease_until) \
         VALUES ($1, tollhouse_now(), tollhouse_now(), tollhouse_now() + $2) RETURNING epoch",
    )
    .bind(instance)
    .bind(lease_millis())
    .fetch_one(&mut *transaction)
    .await?;
    marks::make(&mut transaction, epoch, instance).await?;
    transaction.commit().await?;
    bury(connection).await?;
    if let Err(error) = marks::remove_old(connection).await {
        tracing::warn!(%error, "Old marks in the ledger could not be removed; the next registration tries again.");
    }
    Ok(Tenure { epoch, until: asked_at + (LEASE - MARGIN) })
}

/// Removes registrations whose lease is over. One in the middle of a write is left for the next time.
async fn bury(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let buried: Vec<(i64, String)> = sqlx::query_as(
        "DELETE FROM instances WHERE epoch IN (SELECT epoch FROM instances WHERE lease_until <= tollhouse_now() \
         FOR UPDATE SKIP LOCKED) RETURNING epoch, instance",
    )
    .fetch_all(connection)
    .await?;
    for (epoch, instance) in buried {
        tracing::warn!(
            epoch,
            instance,
            "A gateway's lease on the ledger has ended; what it worked on can be taken over."
        );
    }
    Ok(())
}

fn lease_millis() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}
