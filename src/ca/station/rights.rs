//! What somebody may do of what their role may: of what, from where, when and how much.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Timelike, Utc, Weekday};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::error::IssueError;

/// Most entries of each list in [`Rights`].
const LIST_LENGTH_MAX: usize = 100;

/// Something that a role may let a station do, and its rights may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Issue to a device that has no certificate.
    Issue,
    /// Confirm at the end of the line.
    Confirm,
    /// Issue another certificate to a device that has one.
    Rework,
    /// Scrap a device.
    Scrap,
}

impl Act {
    /// What a station may do whose rights name no act.
    const OF_A_STATION: [Self; 2] = [Self::Issue, Self::Confirm];
}

/// What somebody may do of what their role may. An empty list and an absent number limit nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rights {
    /// Of a station: what it may do; without it, issue and confirm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
    /// Profiles it may use. Named, they also let a station confirm, rework and scrap every device
    /// of theirs, and not only those it asked for itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Work orders it may book on; it must then name one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// Networks it may come from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Times at which it may ask, UTC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Hours>,
    /// Requests a second, on average; see the configuration's `[limits]` for who has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Devices it may have certified between midnight and midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_per_day: Option<u32>,
}

impl Rights {
    /// Everything that is wrong with them.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let lengths = [
            ("acts", self.acts.len()),
            ("profiles", self.profiles.len()),
            ("orders", self.orders.len()),
            ("networks", self.networks.len()),
            ("hours", self.hours.len()),
        ];
        for (name, length) in lengths {
            if length > LIST_LENGTH_MAX {
                faults.push(format!("{name}: at most {LIST_LENGTH_MAX}"));
            }
        }
        let names = self.profiles.iter().chain(&self.orders);
        if names.clone().any(|name| !crate::ca::order::is_name(name)) {
            faults.push("profiles, orders: not a name".to_owned());
        }
        if self.requests_per_second == Some(0) || self.devices_per_day == Some(0) {
            faults.push("requests_per_second, devices_per_day: 1 or more".to_owned());
        }
        faults
    }

    /// Whether these allow nothing that the others do not.
    #[must_use]
    pub fn within(&self, others: &Self) -> bool {
        fn subset<T: PartialEq>(these: &[T], others: &[T]) -> bool {
            others.is_empty() || (!these.is_empty() && these.iter().all(|it| others.contains(it)))
        }
        fn below(this: Option<u32>, other: Option<u32>) -> bool {
            other.is_none_or(|other| this.is_some_and(|this| this <= other))
        }
        // Named profiles reach other stations' devices, so naming some where none were named widens.
        let reach = !others.profiles.is_empty() || self.profiles.is_empty();
        reach
            && self.acts().iter().all(|act| others.acts().contains(act))
            && subset(&self.profiles, &others.profiles)
            && subset(&self.orders, &others.orders)
            && subset(&self.networks, &others.networks)
            && subset(&self.hours, &others.hours)
            && below(self.requests_per_second, others.requests_per_second)
            && below(self.devices_per_day, others.devices_per_day)
    }

    fn acts(&self) -> &[Act] {
        if self.acts.is_empty() {
            &Act::OF_A_STATION
        } else {
            &self.acts
        }
    }
}

/// Hours of some days of the week, UTC: `mon-fri 06:00-22:00`, `sat 06:00-14:00`. The second time is
/// not among them; `24:00` is the day's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    days: (Weekday, Weekday),
    minutes: (u32, u32),
}

impl Hours {
    fn contain(&self, now: DateTime<Utc>) -> bool {
        let (first, last) = self.days;
        let day = now.weekday().days_since(first) <= last.days_since(first);
        let minute = now.hour() * 60 + now.minute();
        day && (self.minutes.0..self.minutes.1).contains(&minute)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (days, times) = text.split_once(' ')?;
            let (first, last) = days.split_once('-').unwrap_or((days, days));
            let (from, to) = times.split_once('-')?;
            let minutes = (minute(from)?, minute(to)?);
            (minutes.0 < minutes.1).then_some(Self {
                days: (day(first)?, day(last)?),
                minutes,
            })
        };
        parse().ok_or_else(|| "hours look like `mon-fri 06:00-22:00`".to_owned())
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |day: Weekday| day.to_string().to_lowercase();
        let (first, last) = self.days;
        f.write_str(&day(first))?;
        if first != last {
            write!(f, "-{}", day(last))?;
        }
        let (from, to) = self.minutes;
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

fn day(text: &str) -> Option<Weekday> {
    (text.len() == 3).then(|| text.parse().ok()).flatten()
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2)
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    let minutes = number(hour)? * 60 + number(minute).filter(|minute| *minute < 60)?;
    (minutes <= 24 * 60).then_some(minutes)
}

impl Principal {
    /// Whether they may ask anything at all, from there and now; `Err` says why not.
    pub fn may_ask(&self, from: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), &'static str> {
        let Rights {
            networks, hours, ..
        } = &self.rights;
        if !networks.is_empty()
            && !from.is_some_and(|from| networks.iter().any(|network| network.contains(&from)))
        {
            return Err("not from this network");
        }
        if !hours.is_empty() && !hours.iter().any(|hours| hours.contain(now)) {
            return Err("not at this hour");
        }
        Ok(())
    }

    /// Whether their rights allow the act. Whether their role does is asked before.
    #[must_use]
    pub fn may(&self, act: Act) -> bool {
        self.role != Role::Station || self.rights.acts().contains(&act)
    }

    /// Whether they may see a device of the profile whose certificate `asked_by` asked for.
    #[must_use]
    pub fn may_see(&self, profile: &str, asked_by: &str) -> bool {
        self.role != Role::Station
            || self.name == asked_by
            || self.rights.profiles.iter().any(|named| named == profile)
    }

    /// Whether they may issue by the profile and on the order.
    pub fn may_issue(&self, profile: &str, order: Option<&str>) -> Result<(), IssueError> {
        let Rights {
            profiles, orders, ..
        } = &self.rights;
        if !self.may(Act::Issue) {
            return Err(IssueError::NotAllowed("issue"));
        }
        if !profiles.is_empty() && !profiles.iter().any(|named| named == profile) {
            return Err(IssueError::ProfileNotAllowed(profile.to_owned()));
        }
        if !orders.is_empty() && !orders.iter().any(|named| Some(named.as_str()) == order) {
            return Err(IssueError::NotAllowed("book on this order, or on none"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn hours_hold_their_days_and_minutes_and_say_so_again() {
        let shift: Hours = "mon-fri 06:00-22:00".parse().unwrap();
        assert_eq!(shift.to_string(), "mon-fri 06:00-22:00");
        // 2026-11-27 is a Friday.
        for (time, inside) in [
            ("2026-11-27T06:00:00Z", true),
            ("2026-11-27T21:59:59Z", true),
            ("2026-11-27T22:00:00Z", false),
            ("2026-11-27T05:59:59Z", false),
            ("2026-11-28T12:00:00Z", false),
        ] {
            assert_eq!(shift.contain(at(time)), inside, "{time}");
        }
        let weekend: Hours = "sat-mon 00:00-24:00".parse().unwrap();
        assert!(weekend.contain(at("2026-11-29T23:59:59Z")));
        assert!(!weekend.contain(at("2026-12-01T00:00:00Z")));
        for wrong in [
            "",
            "mon",
            "mon 6:00-22:00",
            "mon 22:00-06:00",
            "mon 06:00-24:01",
            "mon 06:60-07:00",
            "xyz 06:00-07:00",
            "monday 06:00-07:00",
        ] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rights_that_allow_more_are_told_from_those_that_allow_less() {
        let rights = |json: &str| serde_json::from_str::<Rights>(json).unwrap();
        let all = rights("{}");
        let some =
            rights(r#"{"orders":["WO-1"],"networks":["10.0.0.0/8"],"requests_per_second":5}"#);
        assert!(some.within(&all) && !all.within(&some));
        assert!(all.within(&all) && some.within(&some));
        assert!(!rights(r#"{"acts":["issue","scrap"]}"#).within(&all));
        assert!(rights(r#"{"acts":["confirm"]}"#).within(&all));
        // Other stations' devices come into reach.
        assert!(!rights(r#"{"profiles":["lightbulb"]}"#).within(&all));
        assert!(serde_json::from_str::<Rights>(r#"{"admin":true}"#).is_err());
    }
}
