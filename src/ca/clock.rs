//! Whether the clock can be trusted: a wrong one gives certificates wrong dates.
//!
//! The service's clock is held against the database's, again and again. When the two part, one of
//! them is wrong, and nothing is issued until they agree.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::ca::Archive;
use crate::ca::Ca;
use crate::ca::LedgerFault;

/// How far the two clocks may be apart, in milliseconds.
const DIFFERENCE_MAX_MS: i64 = 5_000;
/// A comparison that took longer says too little.
const ROUND_TRIP_MAX: TimeDelta = TimeDelta::seconds(1);

/// How long a comparison holds.
const COMPARISON_AGE_MAX: Duration = Duration::from_secs(15);

/// The last comparison: when, and by how many milliseconds the service was ahead.
pub struct ClockWatch(Mutex<(Instant, i64)>);

impl Default for ClockWatch {
    /// For a start whose checks have just compared the clocks.
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }
}

impl ClockWatch {
    fn lock(&self) -> MutexGuard<'_, (Instant, i64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ca {
    /// Compares the clocks once.
    pub async fn compare_clocks(&self, archive: &dyn Archive) -> Result<(), LedgerFault> {
        let before = self.clock.now();
        let database = archive.now().await?;
        let after = self.clock.now();
        let round_trip = after - before;
        if (TimeDelta::zero()..=ROUND_TRIP_MAX).contains(&round_trip) {
            let difference = (before + round_trip / 2) - database;
            *self.clock_watch.lock() = (Instant::now(), difference.num_milliseconds());
        }
        Ok(())
    }

    /// `Err(reason)` while the clocks disagree.
    pub fn clock_trusted(&self) -> Result<(), String> {
        let (at, difference_ms) = *self.clock_watch.lock();
        if at.elapsed() > COMPARISON_AGE_MAX {
            let seconds = at.elapsed().as_secs();
            return Err(format!(
                "the clock was last held against the database's {seconds} s ago"
            ));
        }
        if difference_ms.abs() <= DIFFERENCE_MAX_MS {
            return Ok(());
        }
        let seconds = difference_ms / 1_000;
        Err(format!(
            "the clocks of this machine and of the database differ by {seconds} s"
        ))
    }
}
