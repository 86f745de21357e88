//! The last hour as a picture: a bar a minute, drawn here. Its words are HTML beside it, which a narrow
//! page does not shrink, and a table has the same numbers.

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Timelike;
use chrono::Utc;

use crate::ca::floor::tally::Counts;
use crate::ca::floor::tally::Hour;
use crate::http::pages::floor::grouped;

/// Height of the picture, in its own units; a minute is ten wide.
const HEIGHT: u64 = 100;
/// Minutes between two words below it.
const WORD_EVERY: usize = 10;

/// What of a minute is counted.
type Count = fn(&Counts) -> u64;

/// The picture.
pub(super) struct Chart {
    pub(super) bars: Vec<Rect>,
    pub(super) refusals: Vec<Rect>,
    /// Minutes that are not counted yet, as one.
    pub(super) uncounted: Option<Rect>,
    /// Words at the left, from the top: the most of a minute, half of it.
    pub(super) most: String,
    pub(super) half: String,
    /// Words below: where, of sixty, and what.
    pub(super) times: Vec<String>,
    /// The same in a sentence.
    pub(super) sentence: String,
    /// And as rows, newest first.
    pub(super) rows: Vec<Row>,
}

/// A bar.
pub(super) struct Rect {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) width: u64,
    pub(super) height: u64,
    /// The minute that runs.
    pub(super) runs: bool,
}

/// A minute.
pub(super) struct Row {
    pub(super) time: String,
    pub(super) issued: String,
    pub(super) confirmed: String,
    pub(super) refused: String,
}

impl Chart {
    pub(super) fn new(hour: &Hour) -> Self {
        let last = hour.minutes.len().saturating_sub(1);
        let highest = |count: Count| hour.minutes.iter().map(count).max();
        let issued: Count = |it| it.issued;
        let refused: Count = |it| it.refused;
        let most = rounded(highest(issued).unwrap_or_default());
        let bars = |count: Count, most: u64| {
            let minutes = hour.minutes.iter().enumerate();
            let shown = minutes.filter(move |(_, it)| count(it) > 0);
            let bar = move |(place, it): (usize, &Counts)| {
                // What there is is seen, be it ever so little.
                let height = (count(it) * HEIGHT / most.max(1)).clamp(2, HEIGHT);
                Rect {
                    x: as_u64(place) * 10 + 1,
                    y: HEIGHT - height,
                    width: 8,
                    height,
                    runs: place == last,
                }
            };
            shown.map(bar).collect::<Vec<_>>()
        };
        let minute =
            |place: usize| hour.from + TimeDelta::minutes(i64::try_from(place).unwrap_or_default());
        let uncounted = hour.whole_from.map(|from| {
            let minutes = (from - hour.from).num_minutes().clamp(0, 60);
            Rect {
                x: 0,
                y: 0,
                width: u64::try_from(minutes).unwrap_or_default() * 10,
                height: HEIGHT,
                runs: false,
            }
        });
        let words = (0..=last).step_by(WORD_EVERY);
        let rows = hour.minutes.iter().enumerate().rev();
        Self {
            refusals: bars(refused, highest(refused).unwrap_or_default()),
            bars: bars(issued, most),
            uncounted: uncounted.filter(|rect| rect.width > 0),
            half: grouped(most / 2),
            most: grouped(most),
            times: words.map(|place| clock(minute(place))).collect(),
            sentence: sentence(hour, minute),
            rows: rows
                .map(|(place, it)| Row {
                    time: clock(minute(place)),
                    issued: grouped(it.issued),
                    confirmed: grouped(it.confirmed),
                    refused: grouped(it.refused),
                })
                .collect(),
        }
    }
}

fn sentence(hour: &Hour, minute: impl Fn(usize) -> DateTime<Utc>) -> String {
    let total = hour.total.issued;
    let minutes = hour.minutes.iter().enumerate();
    let Some((place, best)) = minutes
        .max_by_key(|(_, it)| it.issued)
        .filter(|_| total > 0)
    else {
        return "Nothing was issued in the last hour.".to_owned();
    };
    let certificates = match total {
        1 => "One certificate".to_owned(),
        _ => format!("{} certificates", grouped(total)),
    };
    let since = hour.whole_from.map_or_else(
        || "in the last hour".to_owned(),
        |from| format!("since {}", clock(from)),
    );
    let refused = match hour.total.refused {
        0 => "Nothing was refused.".to_owned(),
        1 => "One request was refused.".to_owned(),
        count => format!("{} requests were refused.", grouped(count)),
    };
    format!(
        "{certificates} {since}; most, {} in a minute, at {}. {refused}",
        grouped(best.issued),
        clock(minute(place)),
    )
}

fn clock(time: DateTime<Utc>) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

/// The next number that is easy to halve and to read: 2, 4, 10, 20, 40, 100 …
fn rounded(most: u64) -> u64 {
    let mut ten = 1_u64;
    loop {
        for digit in [2, 4, 6, 10] {
            if let Some(round) = ten.checked_mul(digit).filter(|round| *round >= most) {
                return round;
            }
        }
        let Some(next) = ten.checked_mul(10) else {
            return most;
        };
        ten = next;
    }
}

fn as_u64(place: usize) -> u64 {
    u64::try_from(place).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_round_and_holds_the_highest_bar() {
        let scales = [
            (0, 2),
            (1, 2),
            (3, 4),
            (7, 10),
            (41, 60),
            (61, 100),
            (1_234, 2_000),
        ];
        for (most, round) in scales {
            assert_eq!(rounded(most), round);
        }
        assert_eq!(rounded(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_bar_is_as_high_as_its_minute_and_one_alone_is_still_seen() {
        let mut minutes = vec![Counts::default(); 60];
        minutes[0].issued = 1;
        minutes[30].issued = 2_000;
        minutes[59].issued = 1_000;
        let hour = Hour {
            from: "2026-11-29T11:31:00Z".parse().unwrap(),
            whole_from: Some("2026-11-29T11:33:20Z".parse().unwrap()),
            total: Counts {
                issued: 3_001,
                ..Counts::default()
            },
            minutes,
            ..Hour::default()
        };
        let chart = Chart::new(&hour);
        let bars = chart.bars.iter().map(|it| (it.x, it.y, it.height, it.runs));
        let bars: Vec<_> = bars.collect();
        assert_eq!(
            bars,
            [(1, 98, 2, false), (301, 0, 100, false), (591, 50, 50, true)]
        );
        assert_eq!((&*chart.most, &*chart.half), ("2,000", "1,000"));
        assert_eq!(
            chart.times,
            ["11:31", "11:41", "11:51", "12:01", "12:11", "12:21"]
        );
        assert_eq!(chart.uncounted.unwrap().width, 20);
        assert_eq!(chart.rows.len(), 60);
        assert_eq!(chart.rows[0].time, "12:30");
        assert_eq!(
            chart.sentence,
            "3,001 certificates since 11:33; most, 2,000 in a minute, at 12:01. Nothing was refused."
        );
        let empty = Chart::new(&Hour::default());
        assert!(empty.bars.is_empty() && empty.sentence.starts_with("Nothing"));
    }
}
