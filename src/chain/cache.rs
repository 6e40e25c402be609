//! Small bounded memories: answers that hold for a while, and how often something may be asked.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Entries of one cache; a full cache forgets what is old and then takes nothing more (threat F7).
const ENTRIES_MAX: usize = 10_000;

/// A bounded map whose entries expire.
pub(super) struct Expiring<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock().ok()?;
        map.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    pub(super) fn put(&self, key: K, value: V, holds_for: Duration) {
        let Ok(mut map) = self.0.lock() else { return };
        let now = Instant::now();
        if map.len() >= ENTRIES_MAX {
            map.retain(|_, (_, until)| *until > now);
        }
        if map.len() < ENTRIES_MAX || map.contains_key(&key) {
            map.insert(key, (value, now + holds_for));
        }
    }
}

/// So many a second, with a burst of one second's worth.
pub(super) struct RateLimit {
    per_second: u32,
    window: Mutex<(Instant, u32)>,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, window: Mutex::new((Instant::now(), 0)) }
    }

    /// Whether one more is allowed now; counts it if so.
    pub(super) fn take(&self) -> bool {
        let Ok(mut window) = self.window.lock() else { return false };
        if window.0.elapsed() >= Duration::from_secs(1) {
            *window = (Instant::now(), 0);
        }
        if window.1 >= self.per_second {
            return false;
        }
        window.1 += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_takes_nothing_new_and_forgets_what_expired() {
        let cache = Expiring::default();
        for key in 0..ENTRIES_MAX {
            cache.put(key, (), Duration::from_secs(60));
        }
        cache.put(ENTRIES_MAX, (), Duration::from_secs(60));
        assert_eq!(cache.get(&ENTRIES_MAX), None);
        assert_eq!(cache.get(&0), Some(()));
        let cache = Expiring::default();
        cache.put(1, (), Duration::ZERO);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn a_rate_limit_allows_no_more_than_its_number_in_a_second() {
        let limit = RateLimit::new(3);
        assert_eq!((0..10).filter(|_| limit.take()).count(), 3);
    }
}
