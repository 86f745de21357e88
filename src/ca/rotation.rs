//! One issuer after another: a profile switches at a moment, and says in time when it must.

use chrono::{DateTime, TimeDelta, Utc};

use crate::ca::Ca;

/// Days before the last certificate at which people should know, each louder than the one before.
const ALARM_DAYS: [i64; 3] = [90, 30, 7];

/// A profile that will soon issue nothing more, because its certificates would outlive its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Profile's name.
    pub profile: String,
    /// Name of the last issuer that it names.
    pub issuer: String,
    /// The last second at which it issues.
    pub last: DateTime<Utc>,
    /// The least of 90, 30 and 7 days that it is away at most.
    pub within_days: i64,
}

impl Ca {
    /// The last second at which each profile issues, by its last issuer; sorted by profile.
    pub fn last_seconds(&self) -> Vec<(String, String, DateTime<Utc>)> {
        let mut all: Vec<_> = self
            .profiles
            .all()
            .iter()
            .filter_map(|profile| {
                let issuer = self.issuers.get(profile.issuers().last()?)?;
                let last = profile.validity.last_start(&issuer.validity);
                Some((profile.name.clone(), issuer.name.clone(), last))
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// The profiles that issue for 90 days more at most.
    #[must_use]
    pub fn endings(&self, now: DateTime<Utc>) -> Vec<Ending> {
        let ending = |(profile, issuer, last): (String, String, DateTime<Utc>)| {
            let left = last - now;
            let within = ALARM_DAYS.iter().rev();
            let within_days = *within
                .into_iter()
                .find(|days| left <= TimeDelta::days(**days))?;
            Some(Ending {
                profile,
                issuer,
                last,
                within_days,
            })
        };
        self.last_seconds().into_iter().filter_map(ending).collect()
    }
}
