//! How long a client may take to send a request's head. Pingora bounds every single read and never the head as a whole, so
//! that a byte now and then would hold a connection for ever (threat F1).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

tokio::task_local! {
    static HEAD_IS_READ: Arc<Notify>;
}

/// Runs what serves one request of a connection; gives it up, and with it the connection, if the head isn't there within
/// `limit`. Nothing has happened by then that would have to be undone.
pub async fn within<T>(limit: Duration, serving: impl Future<Output = T>) -> Option<T> {
    let is_read = Arc::new(Notify::new());
    let serving = HEAD_IS_READ.scope(Arc::clone(&is_read), serving);
    tokio::pin!(serving);
    tokio::select! {
        biased;
        done = &mut serving => return Some(done),
        () = is_read.notified() => {}
        () = tokio::time::sleep(limit) => return None,
    }
    Some(serving.await)
}

/// The head is complete: from here on other limits hold.
pub fn head_is_read() {
    // Outside of `within`, as in tests of single phases, nobody waits for it.
    let _unbounded = HEAD_IS_READ.try_with(|is_read| is_read.notify_one());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_head_is_bounded() {
        let slow = async |head: u64, rest: u64| {
            tokio::time::sleep(Duration::from_secs(head)).await;
            head_is_read();
            tokio::time::sleep(Duration::from_secs(rest)).await;
        };
        assert_eq!(within(Duration::from_secs(10), slow(11, 0)).await, None);
        assert_eq!(within(Duration::from_secs(10), slow(9, 100)).await, Some(()));
    }
}
