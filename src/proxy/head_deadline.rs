//! How long a client may take to send a request's head. Pingora bounds every single read and never the head as a whole, so
//! that a byte now and then would hold a connection for ever (threat F1).
//!
//! One timer a connection, looked at seldom: setting one for every request would cost more than routing it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Stands for "no head is waited for".
const NEVER: u64 = u64::MAX;

tokio::task_local! {
    static CONNECTION: Arc<HeadDeadline>;
}

/// When the head that a connection waits for has to be there.
#[derive(Debug)]
pub struct HeadDeadline {
    opened: Instant,
    /// Milliseconds since the connection was opened, or [`NEVER`].
    due_millis: AtomicU64,
}

impl HeadDeadline {
    /// For a connection that is opened now and waits for nothing yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { opened: Instant::now(), due_millis: AtomicU64::new(NEVER) })
    }

    /// From now on a head is waited for, for no longer than `limit`.
    pub fn expect(&self, limit: Duration) {
        let due = self.opened.elapsed().saturating_add(limit).as_millis();
        self.due_millis.store(u64::try_from(due).unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Is done when a head that was waited for did not come in time. Limits may be no shorter than `limit_min`, except
    /// for one that holds when this is called.
    async fn passed(&self, limit_min: Duration) {
        loop {
            let pause = match self.due_millis.load(Ordering::Relaxed) {
                // Whatever is waited for while this sleeps is due no sooner than it wakes.
                NEVER => limit_min,
                due => Duration::from_millis(due).saturating_sub(self.opened.elapsed()),
            };
            if pause.is_zero() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Runs what serves a connection; gives it up, and with it the connection, if a head that `heads` waits for isn't there in
/// time. Nothing of that request has happened by then that would have to be undone. No limit but the first may be shorter
/// than `limit_min`.
pub async fn watched(heads: Arc<HeadDeadline>, limit_min: Duration, serving: impl Future<Output = ()>) {
    let serving = CONNECTION.scope(Arc::clone(&heads), serving);
    tokio::select! {
        biased;
        () = serving => {}
        () = heads.passed(limit_min) => {}
    }
}

/// The head is complete: from here on other limits hold.
pub fn head_is_read() {
    // Outside of `watched`, as in tests of single phases, nobody waits for it.
    let _unbounded = CONNECTION.try_with(|heads| heads.due_millis.store(NEVER, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const NEXT: Duration = Duration::from_secs(40);

    /// Serves requests whose heads and rests take so many seconds; how many, and after how many seconds that ended.
    async fn served(requests: &[(u64, u64)]) -> (usize, u64) {
        let started = Instant::now();
        let done = AtomicU64::new(0);
        let heads = HeadDeadline::new();
        let serving = async {
            let mut limit = FIRST;
            for (head, rest) in requests {
                heads.expect(limit);
                limit = NEXT;
                tokio::time::sleep(Duration::from_secs(*head)).await;
                head_is_read();
                tokio::time::sleep(Duration::from_secs(*rest)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        watched(Arc::clone(&heads), NEXT, serving).await;
        (usize::try_from(done.into_inner()).unwrap(), started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn only_heads_are_bounded() {
        assert_eq!(served(&[(11, 0)]).await, (0, 10));
        assert_eq!(served(&[(9, 1000)]).await, (1, 1009));
    }

    #[tokio::test(start_paused = true)]
    async fn every_head_of_a_connection_is_bounded_to_the_second() {
        assert_eq!(served(&[(9, 100), (39, 1), (39, 77), (39, 0)]).await, (4, 304));
        for rest in [0, 1, 29, 30, 31, 39, 40, 41, 1000] {
            assert_eq!(served(&[(9, rest), (41, 0)]).await, (1, 9 + rest + 40), "{rest}");
            assert_eq!(served(&[(0, 0), (39, rest), (10_000, 0)]).await, (2, 39 + rest + 40), "{rest}");
        }
    }
}
