//! What may go wrong between a node and its client, on request: tests say which call, how, and how often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// The node is away: nothing is done.
    Unavailable,
    /// It does what it's asked, and the connection breaks before the answer.
    DropAnswer,
    /// It does what it's asked and never answers.
    Silent,
    /// It says that there is no such thing, as one whose index is behind does.
    NotFound,
    /// It takes its time first.
    Delay(Duration),
}

/// The calls that go wrong, by the method's name as the SDK spells it, for example `BroadcastTx`.
#[derive(Debug, Default)]
pub struct Faults {
    waiting: Mutex<HashMap<String, (CallFault, u32)>>,
}

impl Faults {
    /// Lets the next `times` calls of a method go wrong, instead of what was said before.
    pub fn set(&self, method: &str, fault: CallFault, times: u32) {
        self.with(|waiting| waiting.insert(method.to_owned(), (fault, times)));
    }

    /// Lets everything go well again.
    pub fn clear(&self) {
        self.with(HashMap::clear);
    }

    /// What happens to this call.
    pub(super) fn next(&self, method: &str) -> Option<CallFault> {
        self.with(|waiting| {
            let (fault, times) = waiting.get_mut(method)?;
            *times = times.checked_sub(1)?;
            Some(*fault)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, (CallFault, u32)>) -> T) -> T {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
