//! Whether the clock can be trusted: a wrong one gives certificates wrong dates.
//!
//! The service's clock is held against the database's, again and again; between two comparisons it
//! is held against the machine's count of seconds since it started, which nobody can set. When any
//! two part, one of them is wrong, and nothing is issued until they agree. When both clocks are
//! wrong in the same way, the ledger's last record still tells that time went backwards.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;

use crate::ca::Archive;
use crate::ca::Ca;
use crate::ca::LedgerFault;

/// A comparison that took longer says too little.
const ROUND_TRIP_MAX: TimeDelta = TimeDelta::seconds(1);

/// How long a comparison holds.
const COMPARISON_AGE_MAX: Duration = Duration::from_secs(15);

/// The last comparison, and how far times may be apart.
pub struct ClockWatch {
    difference_max: TimeDelta,
    seen: Mutex<Seen>,
}

/// What a comparison found.
#[derive(Clone, Copy)]
struct Seen {
    /// When, by the count that nobody can set.
    at: Instant,
    /// When, by the service's clock.
    service: DateTime<Utc>,
    /// How far the service was ahead of the database.
    ahead: TimeDelta,
    /// When the ledger's newest record was made, by the database's clock of then.
    newest_record: Option<DateTime<Utc>>,
}

impl ClockWatch {
    /// For a start whose checks have just compared the clocks, at `now`.
    #[must_use]
    pub fn new(difference_max: TimeDelta, now: DateTime<Utc>) -> Self {
        let seen = Seen {
            at: Instant::now(),
            service: now,
            ahead: TimeDelta::zero(),
            newest_record: None,
        };
        Self {
            difference_max,
            seen: Mutex::new(seen),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err(reason)` when the service's clock, which says `now` at the instant `at`, is not to be
    /// believed.
    fn judge(&self, now: DateTime<Utc>, at: Instant) -> Result<(), String> {
        let seen = *self.seen();
        let age = at.saturating_duration_since(seen.at);
        if age > COMPARISON_AGE_MAX {
            let seconds = age.as_secs();
            return Err(format!(
                "the clock was last held against the database's {seconds} s ago"
            ));
        }
        if seen.ahead.abs() > self.difference_max {
            let seconds = seen.ahead.num_seconds();
            return Err(format!(
                "the clocks of this machine and of the database differ by {seconds} s"
            ));
        }
        let passed = TimeDelta::from_std(age).unwrap_or_default();
        let step = now - seen.service - passed;
        if step.abs() > self.difference_max {
            let seconds = step.num_seconds();
            return Err(format!(
                "this machine's clock has just moved by {seconds} s"
            ));
        }
        match seen.newest_record {
            Some(newest) if newest - now > self.difference_max => Err(format!(
                "the clocks are {} s before the ledger's last record",
                (newest - now).num_seconds()
            )),
            _ => Ok(()),
        }
    }
}

impl Ca {
    /// Compares the clocks once.
    pub async fn compare_clocks(&self, archive: &dyn Archive) -> Result<(), LedgerFault> {
        let before = self.clock.now();
        let database = archive.time().await?;
        let (after, at) = (self.clock.now(), Instant::now());
        let round_trip = after - before;
        if (TimeDelta::zero()..=ROUND_TRIP_MAX).contains(&round_trip) {
            let mut seen = self.clock_watch.seen();
            *seen = Seen {
                at,
                service: after,
                ahead: (before + round_trip / 2) - database.now,
                // What this process has seen is not forgotten, whichever server answers now.
                newest_record: seen.newest_record.max(database.newest_record),
            };
        }
        Ok(())
    }

    /// How far the service's clock was ahead of the database's when they were last compared.
    pub fn clock_ahead(&self) -> TimeDelta {
        self.clock_watch.seen().ahead
    }

    /// The time of day, or why there is none to be had.
    pub fn clock_trusted(&self) -> Result<DateTime<Utc>, String> {
        let now = self.clock.now();
        self.clock_watch.judge(now, Instant::now())?;
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: DateTime<Utc> = DateTime::UNIX_EPOCH;

    /// A watch whose last comparison was at `START`, and the instant of it.
    fn watch() -> (ClockWatch, Instant) {
        let watch = ClockWatch::new(TimeDelta::seconds(5), START);
        let at = watch.seen().at;
        (watch, at)
    }

    #[test]
    fn a_clock_that_runs_with_the_seconds_is_trusted_and_one_that_jumps_is_not() {
        let (watch, at) = watch();
        let later = at + Duration::from_secs(3);
        watch.judge(START + TimeDelta::seconds(3), later).unwrap();
        watch.judge(START + TimeDelta::seconds(8), later).unwrap();
        for seconds in [-86_400, -3, 9, 31_536_000] {
            let reason = watch
                .judge(START + TimeDelta::seconds(seconds), later)
                .unwrap_err();
            assert!(reason.contains("has just moved"), "{reason}");
        }
    }

    #[test]
    fn an_old_comparison_says_nothing() {
        let (watch, at) = watch();
        let later = at + Duration::from_secs(16);
        assert!(watch.judge(START + TimeDelta::seconds(16), later).is_err());
    }

    #[test]
    fn clocks_that_are_both_before_the_last_record_are_not_trusted() {
        let (watch, at) = watch();
        watch.seen().newest_record = Some(START + TimeDelta::seconds(4));
        watch.judge(START, at).unwrap();
        watch.seen().newest_record = Some(START + TimeDelta::days(1));
        let reason = watch.judge(START, at).unwrap_err();
        assert!(reason.contains("last record"), "{reason}");
    }
}
