//! One address of one server of an upstream, and what is known of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::HealthCheck;

/// How long a server that failed once is passed over; doubled with every failure in a row.
const DOWN_FOR: Duration = Duration::from_secs(2);

/// Most times that is doubled: a minute.
const DOUBLED_MAX: u32 = 5;

/// One address of one server. Times are milliseconds since the upstream was made; 0 is never.
#[derive(Debug)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub sni: String,
    up_at: AtomicU64,
    down_at: AtomicU64,
    /// Failures since the last answer.
    failures: AtomicU32,
    /// Requests running.
    running: AtomicUsize,
    /// Whether health checks have found it unwell.
    is_unwell: AtomicBool,
    /// Checks in a row that said the other thing.
    doubts: AtomicU32,
}

impl Target {
    pub fn new(address: SocketAddr, sni: String) -> Self {
        Self {
            address,
            sni,
            up_at: AtomicU64::new(0),
            down_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            is_unwell: AtomicBool::new(false),
            doubts: AtomicU32::new(0),
        }
    }

    /// It answered.
    pub fn answered(&self, now: u64) {
        self.failures.store(0, Ordering::Relaxed);
        self.up_at.store(now, Ordering::Relaxed);
    }

    /// It could not be reached, or broke off.
    pub fn failed(&self, now: u64) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.down_at.store(now, Ordering::Relaxed);
    }

    /// Whether it failed a short while ago and hasn't answered since.
    pub fn is_down(&self, now: u64) -> bool {
        let down_at = self.down_at.load(Ordering::Relaxed);
        let doubled = self.failures.load(Ordering::Relaxed).saturating_sub(1).min(DOUBLED_MAX);
        let down_for = super::millis(DOWN_FOR).saturating_mul(1 << doubled);
        let is_recent = down_at > 0 && now.saturating_sub(down_at) < down_for;
        is_recent && down_at >= self.up_at.load(Ordering::Relaxed)
    }

    pub fn was_up(&self, now: u64, age_max: u64) -> bool {
        let up_at = self.up_at.load(Ordering::Relaxed);
        up_at > 0 && now.saturating_sub(up_at) <= age_max && self.down_at.load(Ordering::Relaxed) < up_at
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether health checks have found it unwell. Before the first one nothing is held against it.
    pub fn is_unwell(&self) -> bool {
        self.is_unwell.load(Ordering::Relaxed)
    }

    /// A health check came out; whether that changed what is thought of the server.
    pub fn checked(&self, is_well: bool, check: &HealthCheck) -> bool {
        if is_well != self.is_unwell() {
            self.doubts.store(0, Ordering::Relaxed);
            return false;
        }
        let doubts = self.doubts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let needed = if is_well { check.passes } else { check.failures };
        if doubts < needed {
            return false;
        }
        self.doubts.store(0, Ordering::Relaxed);
        self.is_unwell.store(!is_well, Ordering::Relaxed);
        true
    }
}

/// A request that runs on a server, until it is dropped.
#[derive(Debug)]
pub struct Running(Arc<Target>);

impl Running {
    pub(super) fn on(target: &Arc<Target>) -> Self {
        target.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(target))
    }

    pub(super) fn target(&self) -> &Target {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::new("127.0.0.1:1".parse().unwrap(), String::new())
    }

    #[test]
    fn a_server_that_fails_again_and_again_is_passed_over_for_longer_until_it_answers() {
        let target = target();
        for (failures, down_for) in [(1, 2000), (2, 4000), (3, 8000), (4, 16000), (5, 32000), (6, 64000), (7, 64000)] {
            target.failed(1000);
            assert!(target.is_down(1000 + down_for - 1), "{failures}");
            assert!(!target.is_down(1000 + down_for), "{failures}");
        }
        target.answered(1001);
        assert!(!target.is_down(1002));
        target.failed(2000);
        assert!(!target.is_down(4000), "an answer starts the count anew");
    }

    #[test]
    fn a_server_is_unwell_after_failures_in_a_row_and_well_after_passes_in_a_row() {
        let second = Duration::from_secs(1);
        let check = HealthCheck { path: "/".into(), interval: second, timeout: second, passes: 2, failures: 3 };
        let target = target();
        for (is_well, changes, unwell) in [
            (true, false, false),
            (false, false, false),
            (false, false, false),
            (true, false, false),
            (false, false, false),
            (false, false, false),
            (false, true, true),
            (false, false, true),
            (true, false, true),
            (false, false, true),
            (true, false, true),
            (true, true, false),
        ] {
            assert_eq!((target.checked(is_well, &check), target.is_unwell()), (changes, unwell));
        }
    }
}
