//! What others may know of the journal while its thread is at work.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::journal::fault::JournalFault;

/// A write that takes longer is reported, though it may yet succeed.
const SLOW: Duration = Duration::from_secs(2);

/// Shared between the thread and the callers.
pub(super) struct Vitals(Mutex<State>);

struct State {
    highest: Option<u64>,
    failure: Option<String>,
    busy_since: Option<Instant>,
}

impl Vitals {
    pub(super) fn new(highest: Option<u64>) -> Self {
        Self(Mutex::new(State {
            highest,
            failure: None,
            busy_since: None,
        }))
    }

    /// A write begins.
    pub(super) fn begin(&self) {
        self.state().busy_since = Some(Instant::now());
    }

    /// It has ended, one way or the other.
    pub(super) fn end(&self, highest: Option<u64>, fault: Option<&JournalFault>) {
        *self.state() = State {
            highest,
            failure: fault.map(ToString::to_string),
            busy_since: None,
        };
    }

    pub(super) fn highest(&self) -> Option<u64> {
        self.state().highest
    }

    pub(super) fn health(&self) -> Result<(), String> {
        let failure = self.state().failure.clone();
        failure.or_else(|| self.hangs()).map_or(Ok(()), Err)
    }

    /// How long the disk has not answered, if that is too long.
    pub(super) fn hangs(&self) -> Option<String> {
        let busy = self.state().busy_since?.elapsed();
        (busy > SLOW).then(|| format!("its disk has not answered for {} s", busy.as_secs()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
