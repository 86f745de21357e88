//! Requests a second that one principal may make, and how many of a station's are worked on at once: a
//! flood by one station stops before anything is made of it, and leaves the others their share.
//!
//! Each replica counts for itself, in memory: a rate is a matter of seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ca::Principal;
use crate::ca::Role;
use crate::http::places::Place;
use crate::http::places::Places;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

/// Seconds of its rate that somebody who was silent may use at once.
const BURST_SECONDS: f64 = 2.0;
/// Refusals of one principal leave so far apart: whoever does not heed `Retry-After` cannot spin, not
/// even over many connections.
const REFUSAL_GAP: Duration = Duration::from_millis(100);
/// Longest time that a refusal waits for those before it.
const REFUSAL_WAIT_MAX: Duration = Duration::from_secs(4);

/// The buckets of all principals that have a rate, and the places of stations.
pub struct Limits {
    /// Requests a second of a station whose rights name no rate; 0: as many as it can.
    rate: u32,
    /// Requests of one station that are worked on at once; 0: as many as come.
    at_once: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
    places: Arc<Places<String>>,
    /// When the last refusal of each leaves.
    refusals: Mutex<HashMap<String, Instant>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limits {
    /// `rate`: requests a second of a station whose rights name no rate. `at_once`: of any station.
    /// 0 is no limit, of either.
    #[must_use]
    pub fn new(rate: u32, at_once: usize) -> Self {
        Self {
            rate,
            at_once,
            buckets: Mutex::default(),
            places: Places::new(),
            refusals: Mutex::default(),
        }
    }

    /// Counts one request, or refuses it until there is a place. A station's request is to keep what
    /// comes back until it is answered.
    pub fn take(&self, principal: &Principal) -> Result<Option<Place<String>>, Problem> {
        let name = &principal.name;
        let refused = |what: String| {
            let mut problem = Problem::new(Slug::RateLimited, what);
            problem.leaves_at = Some(self.refusal(name, Instant::now()));
            Err(problem)
        };
        let is_station = principal.role == Role::Station;
        let mut place = None;
        if is_station && self.at_once > 0 {
            place = self.places.enter(name.clone(), self.at_once);
            if place.is_none() {
                let most = self.at_once;
                return refused(format!("`{name}` may have {most} requests at once"));
            }
        }
        let default = (is_station && self.rate > 0).then_some(self.rate);
        match principal.rights.requests_per_second.or(default) {
            Some(rate) if !self.fits(name, rate, Instant::now()) => {
                refused(format!("`{name}` may make {rate} requests a second"))
            }
            _ => Ok(place),
        }
    }

    /// When a refusal of `now` leaves: in its turn.
    fn refusal(&self, name: &str, now: Instant) -> Instant {
        let mut refusals = lock(&self.refusals);
        let last = refusals.entry(name.to_owned()).or_insert(now);
        *last = ((*last).max(now) + REFUSAL_GAP).min(now + REFUSAL_WAIT_MAX);
        *last
    }

    fn fits(&self, name: &str, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let most = (rate * BURST_SECONDS).max(1.0);
        let mut buckets = lock(&self.buckets);
        if !buckets.contains_key(name) {
            let full = Bucket {
                tokens: most,
                at: now,
            };
            buckets.insert(name.to_owned(), full);
        }
        let Some(bucket) = buckets.get_mut(name) else {
            return true;
        };
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(most);
        bucket.at = now;
        let fits = bucket.tokens >= 1.0;
        if fits {
            bucket.tokens -= 1.0;
        }
        fits
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_leave_one_after_the_other_and_none_waits_for_ever() {
        let limits = Limits::new(0, 0);
        let now = Instant::now();
        let waits: Vec<u128> = (0..60)
            .map(|_| (limits.refusal("a", now) - now).as_millis())
            .collect();
        assert_eq!(waits[..3], [100, 200, 300]);
        assert_eq!(waits[39..], [4_000; 21]);
        assert_eq!(limits.refusal("b", now) - now, REFUSAL_GAP);
        let later = now + Duration::from_secs(10);
        assert_eq!(limits.refusal("a", later) - later, REFUSAL_GAP);
    }

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_at_its_rate() {
        let limits = Limits::new(0, 0);
        let start = Instant::now();
        let took = |after: u64| {
            let at = start + Duration::from_millis(after);
            (0..100).filter(|_| limits.fits("a", 10, at)).count()
        };
        assert_eq!(took(0), 20);
        assert_eq!(took(0), 0);
        assert_eq!(took(100), 1);
        assert_eq!(took(10_000), 20);
        assert!(limits.fits("b", 1, start), "each has a bucket of its own");
    }
}
