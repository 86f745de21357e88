//! Validity periods (RFC 5280 4.1.2.5; IEEE 802.1AR for certificates that never expire).

use super::issuer::Issuer;
use chrono::{DateTime, TimeDelta, Utc};
use der::DateTime as DerDateTime;
use der::asn1::{GeneralizedTime, UtcTime};
use std::time::Duration;
use x509_cert::time::Time;

/// 99991231235959Z in seconds since 1970: "no well-defined expiration date" (RFC 5280 4.1.2.5).
const NO_EXPIRY_SECONDS: i64 = 253_402_300_799;

/// Longest back-dating that [`ValidityRule::at`] grants, in seconds.
pub const BACKDATE_SECONDS_MAX: u32 = 3600;

/// Inclusive at both ends, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First valid second.
    pub not_before: DateTime<Utc>,
    /// Last valid second.
    pub not_after: DateTime<Utc>,
}

impl Validity {
    /// Whether `now` lies inside, ends included.
    #[must_use]
    pub fn contains(&self, now: DateTime<Utc>) -> bool {
        self.not_before <= now && now.timestamp() <= self.not_after.timestamp()
    }

    /// So many days from `now`, or what is left of the issuer's validity when that is less.
    pub fn of_days(days: u32, now: DateTime<Utc>, issuer: &Issuer) -> Result<Self, ValidityFault> {
        let not_after = match ValidityRule::Days(days).at(now, 0, issuer) {
            Err(ValidityFault::BeyondIssuer(not_after)) => not_after,
            other => return other,
        };
        // A single second would be a validity (RFC 5280 4.1.2.5), but of no use to anybody.
        at_second(now.timestamp())
            .filter(|not_before| *not_before < not_after)
            .map(|not_before| Self {
                not_before,
                not_after,
            })
            .ok_or(ValidityFault::IssuerNotValid)
    }

    /// In X.509 form: `UTCTime` through 2049, `GeneralizedTime` from 2050 (RFC 5280 4.1.2.5).
    /// An error for a time before 1970 or after 9999.
    pub(super) fn to_x509(self) -> der::Result<x509_cert::time::Validity> {
        Ok(x509_cert::time::Validity::new(
            to_time(self.not_before)?,
            to_time(self.not_after)?,
        ))
    }

    /// From a parsed certificate; `None` when a time is outside what `chrono` can say.
    pub(super) fn from_x509(validity: &x509_cert::time::Validity) -> Option<Self> {
        Some(Self {
            not_before: from_time(&validity.not_before)?,
            not_after: from_time(&validity.not_after)?,
        })
    }
}

/// How a profile sets validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidityRule {
    /// A fixed number of days: `not_after = not_before + days - 1 s`.
    Days(u32),
    /// 99991231235959Z.
    NoExpiry,
}

/// Why no validity can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidityFault {
    /// The issuer is not valid at this time.
    #[error("the issuer's certificate is not valid now")]
    IssuerNotValid,
    /// The rule reaches past the issuer's own end.
    #[error("the certificate would outlive its issuer, which ends {0}")]
    BeyondIssuer(DateTime<Utc>),
}

impl ValidityRule {
    /// The validity of a certificate issued at `now`, back-dated by `backdate_seconds`, of which at
    /// most [`BACKDATE_SECONDS_MAX`] count. Never starts before the issuer does.
    pub fn at(
        self,
        now: DateTime<Utc>,
        backdate_seconds: u32,
        issuer: &Issuer,
    ) -> Result<Validity, ValidityFault> {
        let beyond = ValidityFault::BeyondIssuer(issuer.validity.not_after);
        let now = at_second(now.timestamp()).ok_or(ValidityFault::IssuerNotValid)?;
        if !issuer.validity.contains(now) {
            return Err(ValidityFault::IssuerNotValid);
        }
        let backdate = TimeDelta::seconds(backdate_seconds.min(BACKDATE_SECONDS_MAX).into());
        let not_before = (now - backdate).max(issuer.validity.not_before);
        let not_after = match self {
            // Both ends belong to the period, hence one second less (RFC 5280 4.1.2.5).
            Self::Days(days) => at_second(not_before.timestamp() + i64::from(days) * 86_400 - 1),
            Self::NoExpiry => at_second(NO_EXPIRY_SECONDS),
        }
        .ok_or(beyond)?;
        if not_after > issuer.validity.not_after {
            return Err(beyond);
        }
        Ok(Validity {
            not_before,
            not_after,
        })
    }

    /// The last second at which [`Self::at`] gives a validity within the issuer's; before the
    /// issuer's first when it never does.
    #[must_use]
    pub fn last_start(self, issuer: &Validity) -> DateTime<Utc> {
        match self {
            // Both ends belong to the period, hence one second more (RFC 5280 4.1.2.5).
            Self::Days(days) => issuer.not_after - TimeDelta::seconds(i64::from(days) * 86_400 - 1),
            Self::NoExpiry if issuer.not_after.timestamp() >= NO_EXPIRY_SECONDS => issuer.not_after,
            Self::NoExpiry => issuer.not_before - TimeDelta::seconds(1),
        }
    }
}

fn at_second(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

pub(super) fn to_time(time: DateTime<Utc>) -> der::Result<Time> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| der::ErrorKind::DateTime)?;
    let time = DerDateTime::from_unix_duration(Duration::from_secs(seconds))?;
    Ok(if time.year() <= UtcTime::MAX_YEAR {
        Time::UtcTime(UtcTime::from_date_time(time)?)
    } else {
        Time::GeneralTime(GeneralizedTime::from_date_time(time))
    })
}

pub(super) fn from_time(time: &Time) -> Option<DateTime<Utc>> {
    at_second(i64::try_from(time.to_unix_duration().as_secs()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tbs::fixture;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_fixed_span_is_inclusive_and_in_whole_seconds() {
        let issuer = fixture::ec_issuer();
        let given = ValidityRule::Days(10)
            .at(time("2026-11-21T06:00:00.987Z"), 0, &issuer)
            .unwrap();
        assert_eq!(given.not_before, time("2026-11-21T06:00:00Z"));
        assert_eq!(given.not_after, time("2026-12-01T05:59:59Z"));
    }

    #[test]
    fn back_dating_is_capped_and_never_precedes_the_issuer() {
        let issuer = fixture::ec_issuer();
        let now = time("2026-11-21T06:00:00Z");
        let given = ValidityRule::Days(1).at(now, 90_000, &issuer).unwrap();
        assert_eq!(given.not_before, time("2026-11-21T05:00:00Z"));
        let start = issuer.validity.not_before;
        let early = ValidityRule::Days(1)
            .at(start + TimeDelta::seconds(5), 3600, &issuer)
            .unwrap();
        assert_eq!(early.not_before, start);
    }

    #[test]
    fn no_certificate_outlives_its_issuer() {
        let mut issuer = fixture::ec_issuer();
        issuer.validity.not_after = time("2030-01-01T00:00:00Z");
        let now = time("2026-11-21T06:00:00Z");
        let beyond = ValidityFault::BeyondIssuer(issuer.validity.not_after);
        assert_eq!(ValidityRule::NoExpiry.at(now, 0, &issuer), Err(beyond));
        assert_eq!(ValidityRule::Days(7300).at(now, 0, &issuer), Err(beyond));
        assert_eq!(
            ValidityRule::Days(u32::MAX).at(now, 0, &issuer),
            Err(beyond)
        );
        assert!(ValidityRule::Days(365).at(now, 0, &issuer).is_ok());
        for outside in ["2030-01-01T00:00:01Z", "1999-01-01T00:00:00Z"] {
            assert_eq!(
                ValidityRule::Days(1).at(time(outside), 0, &issuer),
                Err(ValidityFault::IssuerNotValid)
            );
        }
        assert!(issuer.validity.contains(time("2030-01-01T00:00:00.9Z")));
    }

    #[test]
    fn the_last_start_is_the_last_that_is_granted() {
        let mut issuer = fixture::ec_issuer();
        for not_after in ["2030-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            issuer.validity.not_after = time(not_after);
            for rule in [ValidityRule::Days(10), ValidityRule::NoExpiry] {
                let last = rule.last_start(&issuer.validity);
                let next = last + TimeDelta::seconds(1);
                let never = last < issuer.validity.not_before;
                assert_eq!(rule.at(last, 0, &issuer).is_ok(), !never, "{rule:?}");
                assert!(rule.at(next, 0, &issuer).is_err(), "{rule:?}");
            }
        }
    }

    #[test]
    fn a_day_ends_with_the_issuer_where_that_is_sooner() {
        let mut issuer = fixture::ec_issuer();
        issuer.validity.not_after = time("2030-01-01T12:00:00Z");
        for (now, not_after) in [
            ("2029-12-31T12:00:00.5Z", "2030-01-01T11:59:59Z"),
            ("2029-12-31T12:00:01Z", "2030-01-01T12:00:00Z"),
            ("2029-12-31T12:00:02Z", "2030-01-01T12:00:00Z"),
            ("2030-01-01T11:59:59Z", "2030-01-01T12:00:00Z"),
        ] {
            let given = Validity::of_days(1, time(now), &issuer).unwrap();
            assert_eq!(given.not_before, time(&format!("{}Z", &now[..19])));
            assert_eq!(given.not_after, time(not_after), "{now}");
        }
        for outside in [
            "2030-01-01T12:00:00Z",
            "2030-01-01T12:00:01Z",
            "1999-01-01T00:00:00Z",
        ] {
            assert_eq!(
                Validity::of_days(1, time(outside), &issuer),
                Err(ValidityFault::IssuerNotValid),
                "{outside}"
            );
        }
    }

    #[test]
    fn utc_time_ends_with_2049() {
        let years = |validity: Validity| {
            let der = der::Encode::to_der(&validity.to_x509().unwrap()).unwrap();
            (der[2], der[4 + usize::from(der[3])])
        };
        let utc_then_general = Validity {
            not_before: time("2049-12-31T23:59:59Z"),
            not_after: time("2050-01-01T00:00:00Z"),
        };
        assert_eq!(years(utc_then_general), (0x17, 0x18));
    }
}
