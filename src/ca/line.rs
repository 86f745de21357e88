//! Whether the line is at work: a batch then takes little, so that stations do not wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ca::issue::DeviceKey;

/// How long after its last request the line still counts as at work.
const LINGERS: Duration = Duration::from_secs(1);

/// The requests of stations and people that are worked on, and when the last one was.
pub struct Line {
    passing: AtomicUsize,
    began: Instant,
    /// Microseconds from `began` to the last request; 0: there was none.
    last: AtomicU64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            passing: AtomicUsize::new(0),
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

/// A request on its way; it ends when this is dropped.
pub(super) struct Passing<'a>(&'a Line);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    /// A request comes by; `None` for one of a batch.
    pub(super) fn pass(&self, key: &DeviceKey) -> Option<Passing<'_>> {
        let DeviceKey::Request(_) = key else {
            return None;
        };
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(since.max(1), Ordering::Relaxed);
        self.passing.fetch_add(1, Ordering::Relaxed);
        Some(Passing(self))
    }

    /// Whether somebody at the line waits, or did just now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        self.passing.load(Ordering::Relaxed) > 0
            || (last > 0 && self.began.elapsed() < Duration::from_micros(last) + LINGERS)
    }
}
