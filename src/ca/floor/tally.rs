//! The last hour, minute by minute, counted from entries of the log: forward as they come, and back
//! from where the counting began until the hour is whole. Each entry is counted once, by its place.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;

use crate::pki::entry::Glance;
use crate::pki::entry::Told;

/// Minutes that are kept.
pub const MINUTES: usize = 60;
/// Minutes over which the present pace is taken, the one that runs among them.
const PACE_MINUTES: i64 = 5;

/// What was counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Places that are counted; `None`: counting has not begun.
    counted: Option<Range<u64>>,
    /// The first of them, by its time; `None`: all before it is older than an hour.
    oldest: Option<DateTime<Utc>>,
    /// Nothing before what is counted is within the hour.
    whole: bool,
    /// By the minute, since 1970.
    minutes: BTreeMap<i64, Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    counts: Counts,
    stations: BTreeMap<String, Station>,
    problems: BTreeMap<String, u64>,
}

/// What the entries of a time told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Devices' certificates.
    pub issued: u64,
    /// Confirmations.
    pub confirmed: u64,
    /// Devices scrapped.
    pub scrapped: u64,
    /// Certificates revoked.
    pub revoked: u64,
    /// Requests refused.
    pub refused: u64,
}

/// What one of them did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Station {
    /// Certificates it got.
    pub issued: u64,
    /// Its requests that were refused.
    pub refused: u64,
    /// Certificates it got at the present pace, an hour.
    pub per_hour: u64,
    /// The newest entry that names it.
    pub seen: Option<DateTime<Utc>>,
}

/// The last hour: its last minute is the one that runs.
#[derive(Clone, Debug, Default)]
pub struct Hour {
    /// The first second of the first minute.
    pub from: DateTime<Utc>,
    /// From when on everything is counted; `None`: from the beginning.
    pub whole_from: Option<DateTime<Utc>>,
    /// Of each minute, oldest first.
    pub minutes: Vec<Counts>,
    /// All minutes together.
    pub total: Counts,
    /// Certificates at the pace of the last minutes, an hour.
    pub per_hour: u64,
    /// By name.
    pub stations: BTreeMap<String, Station>,
    /// Refusals by problem.
    pub problems: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts from the log's end on, in both directions, unless it counts already.
    pub fn begin(&mut self, size: u64) {
        self.counted.get_or_insert(size..size);
    }

    /// Entries between what is counted and the log's end.
    #[must_use]
    pub fn gap(&self, size: u64) -> u64 {
        let counted = self.counted.as_ref();
        counted.map_or(0, |counted| size.saturating_sub(counted.end))
    }

    /// The next places to count towards the log's end, at most `most`.
    #[must_use]
    pub fn ahead(&self, size: u64, most: u64) -> Option<Range<u64>> {
        let end = self.counted.as_ref()?.end;
        (end < size).then(|| end..size.min(end + most))
    }

    /// The next places to count towards an hour ago, at most `most`.
    #[must_use]
    pub fn behind(&self, most: u64) -> Option<Range<u64>> {
        let start = self.counted.as_ref()?.start;
        (!self.whole && start > 0).then(|| start.saturating_sub(most)..start)
    }

    /// Counts what is in these places, which border on those that are counted.
    pub fn add(&mut self, places: Range<u64>, glances: &[Glance], now: DateTime<Utc>) {
        let Some(counted) = &mut self.counted else {
            return;
        };
        let first = first_minute(now);
        let back = places.end == counted.start && places.start < counted.start;
        if back {
            counted.start = places.start;
            self.oldest = glances.iter().map(|it| it.at).min();
            // What is before entries that are gone is gone, too.
            let old = |at: DateTime<Utc>| minute(at) < first;
            self.whole = counted.start == 0 || self.oldest.is_none_or(old);
        } else {
            counted.end = places.end;
        }
        for glance in glances.iter().filter(|it| minute(it.at) >= first) {
            self.minutes
                .entry(minute(glance.at))
                .or_default()
                .count(glance);
        }
        self.minutes = self.minutes.split_off(&first);
    }

    /// What the last hour was.
    #[must_use]
    pub fn hour(&self, now: DateTime<Utc>) -> Hour {
        let first = first_minute(now);
        let last = minute(now);
        let mut hour = Hour {
            from: start(first),
            whole_from: (!self.whole && self.counted.as_ref().is_some_and(|it| it.start > 0))
                .then(|| self.oldest.unwrap_or(now)),
            ..Hour::default()
        };
        let mut pace = 0;
        let paced = |number: i64| number > last - PACE_MINUTES;
        for number in first..=last {
            let Some(minute) = self.minutes.get(&number) else {
                hour.minutes.push(Counts::default());
                continue;
            };
            hour.minutes.push(minute.counts);
            hour.total.add(minute.counts);
            if paced(number) {
                pace += minute.counts.issued;
            }
            for (name, one) in &minute.stations {
                let station = hour.stations.entry(name.clone()).or_default();
                station.issued += one.issued;
                station.refused += one.refused;
                station.seen = station.seen.max(one.seen);
                if paced(number) {
                    station.per_hour += one.issued;
                }
            }
            for (problem, count) in &minute.problems {
                *hour.problems.entry(problem.clone()).or_default() += count;
            }
        }
        let seconds = now - start(last - PACE_MINUTES + 1);
        let seconds = u64::try_from(seconds.num_seconds()).unwrap_or(1).max(1);
        hour.per_hour = pace * 3600 / seconds;
        for station in hour.stations.values_mut() {
            station.per_hour = station.per_hour * 3600 / seconds;
        }
        hour
    }
}

impl Minute {
    fn count(&mut self, glance: &Glance) {
        let who = match &glance.told {
            Told::Issued(who) | Told::Confirmed(who) | Told::Refused(who, _) => Some(who),
            Told::Scrapped | Told::Revoked | Told::Other => None,
        };
        if let Some(who) = who {
            // A name is copied once a minute and not for each of its entries.
            if !self.stations.contains_key(who) {
                self.stations.insert(who.clone(), Station::default());
            }
            if let Some(station) = self.stations.get_mut(who) {
                station.seen = station.seen.max(Some(glance.at));
                station.issued += u64::from(matches!(glance.told, Told::Issued(_)));
                station.refused += u64::from(matches!(glance.told, Told::Refused(..)));
            }
        }
        match &glance.told {
            Told::Issued(_) => self.counts.issued += 1,
            Told::Confirmed(_) => self.counts.confirmed += 1,
            Told::Scrapped => self.counts.scrapped += 1,
            Told::Revoked => self.counts.revoked += 1,
            Told::Refused(_, problem) => {
                self.counts.refused += 1;
                *self.problems.entry(problem.clone()).or_default() += 1;
            }
            Told::Other => {}
        }
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.confirmed += other.confirmed;
        self.scrapped += other.scrapped;
        self.revoked += other.revoked;
        self.refused += other.refused;
    }
}

fn minute(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

fn first_minute(now: DateTime<Utc>) -> i64 {
    let back = i64::try_from(MINUTES).unwrap_or(i64::MAX);
    minute(now) + 1 - back
}

fn start(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half past the minute.
    fn now() -> DateTime<Utc> {
        "2026-11-29T12:30:30Z".parse().unwrap()
    }

    fn entry(index: u64, minutes_ago: i64, told: Told) -> Glance {
        let at = now() - TimeDelta::minutes(minutes_ago);
        Glance { index, at, told }
    }

    fn issued() -> Told {
        Told::Issued("line-1".to_owned())
    }

    /// A log: entry n is `ages[n]` minutes old.
    fn log(ages: &[i64]) -> Vec<Glance> {
        let entries = (0..).zip(ages);
        entries
            .map(|(index, ago)| entry(index, *ago, issued()))
            .collect()
    }

    fn read(tally: &mut Tally, log: &[Glance], places: Range<u64>) {
        let within = |it: &&Glance| places.contains(&it.index);
        let found: Vec<_> = log.iter().filter(within).cloned().collect();
        tally.add(places.clone(), &found, now());
    }

    #[test]
    fn each_entry_of_the_hour_counts_once_whichever_way_it_was_read() {
        let log = log(&[90, 61, 60, 59, 59, 30, 10, 4, 0, 0]);
        for most in 1..=11 {
            let mut tally = Tally::default();
            tally.begin(6);
            while let Some(places) = tally.ahead(10, most) {
                read(&mut tally, &log, places);
            }
            while let Some(places) = tally.behind(most) {
                read(&mut tally, &log, places);
            }
            let hour = tally.hour(now());
            assert_eq!(hour.total.issued, 7, "{most} at a time");
            assert_eq!(hour.minutes.len(), MINUTES);
            assert_eq!((hour.minutes[0].issued, hour.minutes[59].issued), (2, 2));
            assert_eq!(hour.whole_from, None);
            assert_eq!(
                hour.from,
                "2026-11-29T11:31:00Z".parse::<DateTime<Utc>>().unwrap()
            );
            // Three within four minutes and a half.
            assert_eq!(hour.per_hour, 3 * 3600 / 270);
            assert_eq!(hour.stations["line-1"].issued, 7);
            assert_eq!(hour.stations["line-1"].per_hour, hour.per_hour);
        }
    }

    #[test]
    fn while_it_counts_back_it_says_how_far_it_is() {
        let log = log(&[70, 40, 20, 0]);
        let mut tally = Tally::default();
        tally.begin(4);
        assert!(tally.hour(now()).whole_from.is_some());
        let places = tally.behind(2).unwrap();
        read(&mut tally, &log, places);
        let hour = tally.hour(now());
        assert_eq!(hour.whole_from, Some(now() - TimeDelta::minutes(20)));
        assert_eq!(hour.total.issued, 2);
        let places = tally.behind(2).unwrap();
        read(&mut tally, &log, places);
        assert_eq!(tally.behind(2), None);
        assert_eq!(tally.hour(now()).whole_from, None);
    }

    #[test]
    fn an_empty_log_and_archived_entries_are_no_fault() {
        let mut tally = Tally::default();
        tally.begin(0);
        assert_eq!((tally.behind(5), tally.ahead(0, 5)), (None, None));
        assert_eq!(tally.hour(now()).whole_from, None);
        let mut tally = Tally::default();
        tally.begin(100);
        tally.add(90..100, &[], now());
        assert_eq!(tally.behind(5), None, "nothing is there any more");
    }

    #[test]
    fn what_is_older_than_an_hour_is_let_go() {
        let mut tally = Tally::default();
        tally.begin(0);
        tally.add(0..1, &[entry(0, 0, issued())], now());
        let later = now() + TimeDelta::minutes(60);
        tally.add(1..2, &[], later);
        assert_eq!(tally.hour(later).total, Counts::default());
        assert!(tally.minutes.is_empty());
    }

    #[test]
    fn what_is_told_is_told_apart() {
        let mut tally = Tally::default();
        tally.begin(0);
        let name = || "line-1".to_owned();
        let told = [
            issued(),
            Told::Confirmed(name()),
            Told::Scrapped,
            Told::Revoked,
            Told::Refused(name(), "order-closed".to_owned()),
            Told::Other,
        ];
        let entries: Vec<_> = (0..)
            .zip(told)
            .map(|(index, told)| entry(index, 0, told))
            .collect();
        tally.add(0..6, &entries, now());
        let hour = tally.hour(now());
        let Counts {
            issued,
            confirmed,
            scrapped,
            revoked,
            refused,
        } = hour.total;
        assert_eq!([issued, confirmed, scrapped, revoked, refused], [1; 5]);
        assert_eq!(hour.problems["order-closed"], 1);
        assert_eq!(hour.stations["line-1"].refused, 1);
        assert_eq!(hour.stations["line-1"].seen, Some(now()));
    }
}
