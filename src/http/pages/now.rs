//! `GET /ui`: how the line does now.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::Data;
use askama::Template;
use chrono::DateTime;
use chrono::Datelike;
use chrono::TimeDelta;
use chrono::Utc;
use prometheus::core::Collector;
use prometheus::proto::LabelPair;
use prometheus::proto::MetricFamily;

use crate::ca::Ca;
use crate::ca::floor::Edge;
use crate::ca::floor::Now;
use crate::ca::floor::tally::Hour;
use crate::http::certificates::note;
use crate::http::pages::Frame;
use crate::http::pages::Moment;
use crate::http::pages::chart::Chart;
use crate::http::pages::floor::Alert;
use crate::http::pages::floor::Bar;
use crate::http::pages::floor::alerts;
use crate::http::pages::floor::grouped;
use crate::http::pages::floor::percent;
use crate::http::pages::floor::span;
use crate::http::pages::reader;
use crate::http::pages::write_live;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

/// An issuer that ends within so many days is told of; within so many, it is urgent.
const SOON_DAYS: i64 = 90;
const URGENT_DAYS: i64 = 30;
/// The year that stands for none (RFC 5280, 4.1.2.5: 99991231235959Z).
pub(super) const NO_END: i32 = 9999;

/// The page.
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let reader = reader(who)?;
    let seen = ca.floor.now().await;
    let now = seen.last.as_deref();
    let hour = now.map(|now| &now.hour);
    write_live(&NowPage {
        frame: Frame::new(&request, &reader),
        alerts: alerts(&ca, &seen),
        states: states(&ca, now.map(|now| &now.edge), seen.fault.as_deref()),
        pace: hour.map(Pace::from),
        chart: hour.map(Chart::new),
        refusals: hour.map(refusals).unwrap_or_default(),
        here: refused_here(&ca),
        issuers: issuers(&ca, ca.clock.now()),
        read: now.map(|Now { edge, .. }| edge.now.into()),
    })
}

#[derive(Template)]
#[template(path = "now.html", config = "src/http/pages/askama.toml")]
struct NowPage {
    frame: Frame,
    alerts: Vec<Alert>,
    states: Vec<State>,
    /// `None`: nothing could be read yet.
    pace: Option<Pace>,
    chart: Option<Chart>,
    refusals: Vec<Refusal>,
    /// Refusals that this replica alone knows of.
    here: Vec<(String, String)>,
    issuers: Vec<Issuer>,
    read: Option<Moment>,
}

/// Whether a part of the line works.
struct State {
    name: &'static str,
    /// `good`, `warn` or `bad`.
    class: &'static str,
    word: String,
    detail: String,
}

/// What the last hour came to.
struct Pace {
    per_hour: String,
    /// How large it can be written.
    size: &'static str,
    issued: String,
    confirmed: String,
    /// Of a hundred that were issued.
    share: Option<String>,
    scrapped: String,
    revoked: String,
    refused: String,
    /// The hour is not counted to its beginning yet.
    since: Option<Moment>,
}

/// A reason, and how often.
struct Refusal {
    problem: String,
    title: &'static str,
    count: String,
    bar: Bar,
}

struct Issuer {
    name: String,
    subject: String,
    ends: Moment,
    /// Days; none where it has no end.
    left: String,
    /// The badge's, and what it says; `None`: it is long.
    soon: Option<(&'static str, &'static str)>,
    /// Profiles that end before it does: their certificates would outlive it.
    profiles: Vec<(String, String)>,
    /// Why its key does not sign.
    silent: Option<String>,
}

impl From<&Hour> for Pace {
    fn from(hour: &Hour) -> Self {
        let total = hour.total;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let per_hour = grouped(hour.per_hour);
        let share = percent(signed(total.confirmed), signed(total.issued));
        Self {
            size: match per_hour.len() {
                ..=6 => "short",
                7..=9 => "long",
                _ => "longer",
            },
            per_hour,
            issued: grouped(total.issued),
            confirmed: grouped(total.confirmed),
            share: (total.issued > 0).then_some(share),
            scrapped: grouped(total.scrapped),
            revoked: grouped(total.revoked),
            refused: grouped(total.refused),
            since: hour.whole_from.map(Moment::from),
        }
    }
}

fn states(ca: &Ca, edge: Option<&Edge>, fault: Option<&str>) -> Vec<State> {
    let state = |name, class, word: &str, detail: String| State {
        name,
        class,
        word: word.to_owned(),
        detail,
    };
    let database = ca.ledger.ready().and_then(|()| match fault {
        Some(fault) => Err(fault.to_owned()),
        None => Ok(()),
    });
    let database = match database {
        Ok(()) => state(
            "Database",
            "good",
            "answers",
            "records are durable".to_owned(),
        ),
        Err(reason) => state("Database", "bad", "does not answer", reason),
    };
    let silent = |name: &&String| ca.signer.ready(name).is_err();
    let (keys, silent) = (ca.issuers.len(), ca.issuers.keys().filter(silent).count());
    let of = |count: usize| format!("{count} of {keys} issuers’ keys");
    let hsm = match silent {
        0 => state("HSM", "good", "signs", of(keys)),
        all if all == keys => state("HSM", "bad", "does not sign", of(all)),
        some => state("HSM", "bad", "does not sign", of(some)),
    };
    let log = log(ca, edge);
    let clock = match ca.clock_trusted() {
        Ok(_) => state(
            "Clock",
            "good",
            "is trusted",
            "agrees with the database".to_owned(),
        ),
        Err(reason) => state("Clock", "bad", "is not trusted", reason),
    };
    let mut states = vec![hsm, database, log, clock];
    states.extend(ca.searches.standby().map(|standby| {
        let lag = span(TimeDelta::from_std(standby.lag).unwrap_or_default());
        match standby.fault {
            None => state(
                "Standby",
                "good",
                "is read",
                format!("{lag} behind at most"),
            ),
            Some(reason) => {
                let detail = format!("the database is read instead: {reason}");
                state("Standby", "warn", "is passed over", detail)
            }
        }
    }));
    states
}

fn log(ca: &Ca, edge: Option<&Edge>) -> State {
    let state = |class, word: &str, detail: String| State {
        name: "Log",
        class,
        word: word.to_owned(),
        detail,
    };
    if let Err(reason) = ca.log.ready() {
        return state("bad", "stands against issuing", reason);
    }
    if let Some((witness, reason)) = ca.log.refusing_witnesses().into_iter().next() {
        return state(
            "warn",
            "is refused by a witness",
            format!("{witness}: {reason}"),
        );
    }
    let Some(edge) = edge else {
        return state("warn", "is being read", String::new());
    };
    if let Some(reason) = &edge.halted {
        return state("bad", "is halted", reason.clone());
    }
    let entries = format!("{} entries", grouped(edge.size));
    match edge.checkpoint {
        None => state("good", "is written", entries),
        Some((size, at)) => {
            let behind = edge.size.saturating_sub(size);
            let signed = match behind {
                0 => format!("{entries}, all signed"),
                _ => format!("{entries}, {} not signed yet", grouped(behind)),
            };
            let old = edge.now - at > TimeDelta::minutes(1) && behind > 0;
            if !old {
                return state("good", "is proved", signed);
            }
            let ago = span(edge.now - at);
            state("warn", "is proved late", format!("{signed} for {ago}"))
        }
    }
}

/// Most first.
fn refusals(hour: &Hour) -> Vec<Refusal> {
    let mut found: Vec<_> = hour.problems.iter().collect();
    found.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    let most = found.first().map_or(1, |(_, count)| **count);
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let refusal = |(name, count): (&String, &u64)| Refusal {
        problem: name.clone(),
        title: title(name),
        count: grouped(*count),
        bar: Bar::new(
            format!("{} of {}", grouped(*count), grouped(hour.total.refused)),
            signed(most),
            &[("bad", signed(*count))],
        ),
    };
    found.into_iter().map(refusal).collect()
}

/// What no log tells: that a neighbour was down, or somebody too fast.
fn refused_here(ca: &Ca) -> Vec<(String, String)> {
    let families = ca.metrics.refused.collect();
    let samples = families.iter().flat_map(MetricFamily::get_metric);
    let mut found = BTreeMap::new();
    for sample in samples {
        let labels = sample.get_label().iter();
        let Some(name) = labels.map(LabelPair::value).next() else {
            continue;
        };
        let told = |slug: &Slug| slug.status().is_client_error() && *slug != Slug::RateLimited;
        if !Slug::ALL
            .iter()
            .any(|slug| slug.as_str() == name && told(slug))
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count, as the registry gives it"
            )]
            let count = sample.get_counter().get_value() as u64;
            found.insert(name.to_owned(), grouped(count));
        }
    }
    found.into_iter().collect()
}

fn title(slug: &str) -> &'static str {
    let known = Slug::ALL.iter().find(|known| known.as_str() == slug);
    known.map_or("", |known| known.title())
}

/// Those that end first, first.
fn issuers(ca: &Ca, now: DateTime<Utc>) -> Vec<Issuer> {
    let mut all: Vec<_> = ca.issuers.values().collect();
    all.sort_by(|a, b| (a.validity.not_after, &a.name).cmp(&(b.validity.not_after, &b.name)));
    let lasts = ca.last_seconds();
    let issuer = |it: &std::sync::Arc<crate::pki::issuer::Issuer>| {
        let end = it.validity.not_after;
        let days = (end - now).num_days();
        let mine = lasts
            .iter()
            .filter(|(_, issuer, last)| *issuer == it.name && (*last - now).num_days() < SOON_DAYS);
        Issuer {
            name: it.name.clone(),
            subject: it.subject.clone(),
            ends: end.into(),
            left: match end.year() {
                NO_END => "no end".to_owned(),
                _ if end < now => "ended".to_owned(),
                _ => grouped(days),
            },
            soon: match days {
                _ if end < now => Some(("revoked", "ended")),
                _ if days < URGENT_DAYS => Some(("revoked", "ends within 30 days")),
                _ if days < SOON_DAYS => Some(("superseded", "ends within 90 days")),
                _ => None,
            },
            profiles: mine
                .map(|(profile, _, last)| (profile.clone(), Moment::from(*last).text))
                .collect(),
            silent: ca.signer.ready(&it.name).err(),
        }
    };
    all.into_iter().map(issuer).collect()
}
