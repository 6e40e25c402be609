//! The clocks of a connection: a point in time by which something must have come, and a rate below which nothing may stay.
//! They are asked whenever nothing moves, and whatever is in time should cost next to nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may stay below a rate; only the time counts in which the gateway waits for it.
const RATE_WINDOW: Duration = Duration::from_secs(20);

/// How often, and for how long each time, an origin that is too late is waited for all the same. A runtime looks at its sockets
/// before its timers, but not when a signal woke it: the first wait is for that, the second for what came to be read, the third
/// for it to be passed on.
pub(super) const DELAYS: u8 = 3;
pub(super) const DELAY: Duration = Duration::from_millis(1);

/// What is waited for: a stage by its number, and a write of it where one waits from write to write.
type Awaited = (u64, u64);

/// One point in time for each thing that is waited for.
#[derive(Default)]
pub(super) struct Deadline {
    timer: Timer,
    due: Option<(Awaited, Instant)>,
    /// How often it was put off when it was due.
    delays: u8,
}

impl Deadline {
    /// Ready when `awaited` was waited for `after` long, from the first time that it was asked about.
    pub fn poll(&mut self, awaited: Awaited, after: Duration, context: &mut Context<'_>) -> Poll<()> {
        let due = match self.due {
            Some((known, due)) if known == awaited => due,
            _ => {
                let due = Instant::now() + after;
                (self.due, self.delays) = (Some((awaited, due)), 0);
                due
            }
        };
        self.timer.poll(due, context)
    }

    /// As [`Self::poll`]; but what has come by then is looked at first, however late it is: after a process stood still, timers
    /// and answers are there at once.
    pub fn poll_patiently(&mut self, awaited: Awaited, after: Duration, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.poll(awaited, after, context));
            if self.delays >= DELAYS {
                return Poll::Ready(());
            }
            self.delays += 1;
            self.due = Some((awaited, Instant::now() + DELAY));
        }
    }
}

/// How much moved in the time spent waiting for it.
pub(super) struct Pace {
    timer: Timer,
    /// What must move within [`RATE_WINDOW`]; nothing for no limit.
    bytes_min: Option<u64>,
    bytes: u64,
    spent: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// 0 bytes per second for no limit.
    pub fn new(bytes_per_second_min: u64) -> Self {
        let bytes_min = bytes_per_second_min.saturating_mul(RATE_WINDOW.as_secs());
        let bytes_min = (bytes_min > 0).then_some(bytes_min);
        Self { timer: Timer::default(), bytes_min, bytes: 0, spent: Duration::ZERO, waiting_since: None }
    }

    /// The wait is over, with so many bytes.
    pub fn moved(&mut self, bytes: usize) {
        let Some(bytes_min) = self.bytes_min else { return };
        if let Some(since) = self.waiting_since.take() {
            self.spent = self.spent.saturating_add(since.elapsed());
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes >= bytes_min {
            (self.bytes, self.spent) = (0, Duration::ZERO);
        }
    }

    /// Nothing moves, and has to: ready when that was so for too long.
    pub fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.bytes_min.is_none() {
            return Poll::Pending;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        self.timer.poll(since + RATE_WINDOW.saturating_sub(self.spent), context)
    }
}

/// Ends no later than is due, and is moved when it has ended: most points in time pass unnoticed, and a timer that isn't moved
/// costs nothing.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn poll(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}
