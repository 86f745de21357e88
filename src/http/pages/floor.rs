//! What the pages at `/ui` have in common: what stands against issuing, numbers as people read them,
//! bars.

use std::time::Duration;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;

use crate::ca::Ca;
use crate::ca::floor::shared::Seen;
use crate::http::pages::Moment;

/// Something that people have to know at once.
pub(super) struct Alert {
    pub(super) title: String,
    pub(super) detail: String,
}

/// What stands against issuing, and whether what the page shows is old.
pub(super) fn alerts<T>(ca: &Ca, seen: &Seen<T>) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut tell = |title: &str, detail: String| {
        let title = title.to_owned();
        alerts.push(Alert { title, detail });
    };
    let down = ca.ledger.ready().err().or_else(|| seen.fault.clone());
    if let Some(reason) = down {
        let shown = match seen.age() {
            Some(age) if seen.fault.is_some() => {
                let at = ca.clock.now() - TimeDelta::from_std(age).unwrap_or_default();
                format!(" What is shown here is of {} UTC.", Moment::from(at).text)
            }
            Some(_) => String::new(),
            None => " Nothing was read of it yet.".to_owned(),
        };
        let detail = format!("nothing is issued until it does: {reason}.{shown}");
        tell("The database does not answer.", detail);
    }
    if let Err(reason) = ca.clock_trusted() {
        tell(
            "The clock is not trusted.",
            format!("nothing is issued: {reason}"),
        );
    }
    if let Err(reason) = ca.log.ready() {
        tell("The log stands against issuing.", reason);
    }
    let mut silent: Vec<_> = ca
        .issuers
        .keys()
        .filter_map(|name| Some((name, ca.signer.ready(name).err()?)))
        .collect();
    silent.sort();
    for (name, reason) in silent {
        tell(&format!("The HSM does not sign for {name}."), reason);
    }
    alerts
}

/// With a comma after each thousand.
pub(super) fn grouped(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or_default().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long it was, to one unit.
pub(super) fn span(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    let (count, unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => return format!("{} min", seconds / 60),
        3600..172_800 => return format!("{} h", seconds / 3600),
        _ => (seconds / 86_400, "days"),
    };
    format!("{} {unit}", grouped(count))
}

/// When somebody was last seen.
pub(super) struct Since {
    pub(super) at: Moment,
    pub(super) ago: String,
}

impl Since {
    pub(super) fn new(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            at: at.into(),
            ago: match now - at {
                age if age < TimeDelta::seconds(1) => "now".to_owned(),
                age => format!("{} ago", span(age)),
            },
        }
    }
}

/// How long, as people say it before it is over.
pub(super) fn left(time: Duration) -> String {
    TimeDelta::from_std(time).map_or_else(|_| "long".to_owned(), span)
}

/// How far something is, in parts of a hundred.
pub(super) struct Bar {
    /// The same in words.
    pub(super) label: String,
    pub(super) parts: Vec<Part>,
}

/// A part of a [`Bar`].
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) x: String,
    pub(super) width: String,
}

impl Bar {
    /// Parts of a whole, one after the other.
    pub(super) fn new(label: String, whole: i64, parts: &[(&'static str, i64)]) -> Self {
        let mut from = 0;
        let parts = parts.iter().map(|(class, count)| {
            let (count, before) = ((*count).clamp(0, (whole - from).max(0)), from);
            from += count;
            Part {
                class,
                x: percent(before, whole),
                width: percent(count, whole),
            }
        });
        Self {
            parts: parts.collect(),
            label,
        }
    }
}

/// With one decimal.
#[expect(clippy::cast_precision_loss, reason = "of a hundred, to one decimal")]
pub(super) fn percent(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "0.0".to_owned();
    }
    format!("{:.1}", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_read_them() {
        let numbers = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ];
        for (number, text) in numbers {
            assert_eq!(grouped(number), text);
        }
        let spans = [
            (-3, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_600, "1 h"),
            (100_000, "27 h"),
            (172_800, "2 days"),
            (86_400 * 3_650, "3,650 days"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(percent(1, 0), "0.0");
    }

    #[test]
    fn a_bar_never_goes_beyond_its_whole() {
        let bar = Bar::new(String::new(), 10, &[("a", 4), ("b", 9), ("c", -1)]);
        let parts = bar.parts.iter().map(|it| (&*it.x, &*it.width));
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts, [("0.0", "40.0"), ("40.0", "60.0"), ("100.0", "0.0")]);
    }
}
