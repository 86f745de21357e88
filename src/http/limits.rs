//! Requests a second that one principal may make: a flood by one station stops at the door, before its
//! body is looked at, and leaves the others their share.
//!
//! Each replica counts for itself, in memory: a rate is a matter of seconds.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use crate::ca::Principal;
use crate::ca::Role;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

/// Seconds of its rate that somebody who was silent may use at once.
const BURST_SECONDS: f64 = 2.0;

/// The buckets of all principals that have a rate.
pub struct Limits {
    /// Requests a second of a station whose rights name no rate; `None`: as many as it can.
    station: Option<u32>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limits {
    /// `station`: requests a second of a station whose rights name no rate.
    #[must_use]
    pub fn new(station: Option<u32>) -> Self {
        Self {
            station,
            buckets: Mutex::default(),
        }
    }

    /// Counts one request, or refuses it until there is a place.
    pub fn take(&self, principal: &Principal) -> Result<(), Problem> {
        let default = (principal.role == Role::Station)
            .then_some(self.station)
            .flatten();
        match principal.rights.requests_per_second.or(default) {
            Some(rate) if !self.fits(&principal.name, rate, Instant::now()) => Err(Problem::new(
                Slug::RateLimited,
                format!("`{}` may make {rate} requests a second", principal.name),
            )),
            _ => Ok(()),
        }
    }

    fn fits(&self, name: &str, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let most = (rate * BURST_SECONDS).max(1.0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_at_its_rate() {
        let limits = Limits::new(None);
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
