//! Searches, one after the other on one connection: every filter, every pair of them, first and last page.

use std::time::Duration;
use std::time::Instant;

use certfactory::cli::client::Connection;
use hyper::Method;
use hyper::body::Bytes;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::large::Dev;
use crate::large::filters::FILTERS;
use crate::large::filters::Filter;
use crate::large::filters::Sample;
use crate::large::filters::excludes;
use crate::large::filters::samples;
use crate::large::runtime;
use crate::large::tables::run;

/// No kind of search takes longer than this altogether, however few were asked then.
const EACH_MAX: Duration = Duration::from_secs(20);
/// Last pages looked for, of each kind: finding one may take a walk through the whole ledger.
const LAST_PAGES: usize = 5;
/// How often it is said how far it has come.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Certificates looked for by one key, at the least: of fewer than a hundred, the slowest would be their 99th percentile.
const BY_ONE: usize = 200;
/// Where the last page begins: so many matches are on it.
const LAST_ROWS: i64 = 50;

/// What a kind of search took.
struct Taken {
    name: String,
    latencies: Vec<Duration>,
    rows: Vec<usize>,
    refused: usize,
}

/// Asks `count` times for each kind of search, more often for what is found by one key. `named`: a part of the names of
/// the kinds that are asked; of none, all.
pub fn search(count: u32, named: &str) {
    let dev = Dev::open();
    let taken = runtime().block_on(ask_all(&dev, usize::try_from(count).unwrap(), named));
    print(taken);
}

async fn ask_all(dev: &Dev, count: usize, named: &str) -> Vec<Taken> {
    let mut database = dev.connect().await;
    let samples = samples(&mut database, count.max(BY_ONE)).await;
    // Whoever looks for a last page looks no longer than a search may.
    run(
        &mut database,
        "SET statement_timeout = '10s'; SET jit = off",
    )
    .await;
    let mut service = dev.auditor().connect().await.unwrap();
    let mut kinds: Vec<Vec<&Filter>> = Vec::new();
    for (n, filter) in FILTERS.iter().enumerate() {
        kinds.push(vec![filter]);
        let others = FILTERS[n + 1..].iter();
        let others = others.filter(|other| !excludes(filter.name, other.name));
        kinds.extend(others.map(|other| vec![filter, other]));
    }
    kinds.retain(|filters| name(filters).contains(named));
    let (mut taken, mut said) = (Vec::new(), Instant::now());
    for (n, filters) in kinds.iter().enumerate() {
        let asked = match &filters[..] {
            [alone] if alone.sql.is_none() => &samples[..],
            _ => &samples[..count.min(samples.len())],
        };
        taken.extend(ask(&mut service, &mut database, asked, filters).await);
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            eprintln!("{n} of {} kinds", kinds.len());
        }
    }
    taken
}

/// One kind of search: its first page, and its last.
async fn ask(
    service: &mut Connection,
    database: &mut PgConnection,
    samples: &[Sample],
    filters: &[&Filter],
) -> Vec<Taken> {
    let name = name(filters);
    let query = |sample: &Sample| {
        let parts: Option<Vec<String>> = filters.iter().map(|it| (it.query)(sample)).collect();
        parts.map(|parts| parts.join("&"))
    };
    let applying: Vec<&Sample> = samples.iter().filter(|it| query(it).is_some()).collect();
    let mut first = Taken::new(format!("{name}, first page"));
    let start = Instant::now();
    for sample in applying.iter().take_while(|_| start.elapsed() < EACH_MAX) {
        first.ask(service, &query(sample).unwrap()).await;
    }
    let mut last = Taken::new(format!("{name}, last page"));
    let conditions: Option<Vec<_>> = filters.iter().map(|it| it.sql).collect();
    let start = Instant::now();
    for sample in applying.iter().take(LAST_PAGES) {
        let Some(conditions) = &conditions else { break };
        if start.elapsed() > EACH_MAX {
            break;
        }
        let conditions: Vec<String> = conditions.iter().map(|it| it(sample)).collect();
        // Where there are fewer matches, the first page was the last.
        if let Some(cursor) = cursor(database, &conditions.join(" AND ")).await {
            let query = format!("{}&cursor={}", query(sample).unwrap(), cursor.as_simple());
            last.ask(service, &query).await;
            last.ask(service, &query).await;
        }
    }
    [first, last]
        .into_iter()
        .filter(|it| !it.latencies.is_empty())
        .collect()
}

fn name(filters: &[&Filter]) -> String {
    let names: Vec<&str> = filters.iter().map(|it| it.name).collect();
    names.join(" + ")
}

/// The match of rank [`LAST_ROWS`], the oldest first. None where it is not found in time, either.
async fn cursor(database: &mut PgConnection, conditions: &str) -> Option<Uuid> {
    let query = format!(
        "SELECT o.intent_id FROM outcome o JOIN intent i ON i.intent_id = o.intent_id
         WHERE o.der IS NOT NULL AND i.kind = 'device' AND {conditions}
         ORDER BY o.intent_id LIMIT 1 OFFSET {}",
        LAST_ROWS - 1
    );
    let found = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
    found.fetch_optional(database).await.unwrap_or_default()
}

impl Taken {
    fn new(name: String) -> Self {
        Self {
            name,
            latencies: Vec::new(),
            rows: Vec::new(),
            refused: 0,
        }
    }

    async fn ask(&mut self, service: &mut Connection, query: &str) {
        let path = format!("/v1/certificates?{query}&limit=100");
        let start = Instant::now();
        let answer = service.send(Method::GET, &path, &[], Bytes::new()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        self.latencies.push(start.elapsed());
        if answer.status == 200 {
            let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            self.rows.push(page["items"].as_array().unwrap().len());
        } else {
            assert!(answer.status.is_server_error(), "{path}: {}", answer.status);
            self.refused += 1;
        }
    }

    fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * share).round() as usize]
    }
}

fn print(mut taken: Vec<Taken>) {
    for kind in &mut taken {
        kind.latencies.sort_unstable();
        kind.rows.sort_unstable();
    }
    taken.sort_by_key(|kind| std::cmp::Reverse((kind.quantile(0.99), kind.quantile(0.5))));
    println!("    p50 ms     p99 ms     max ms  asked  refused  rows");
    for kind in &taken {
        let [p50, p99, most] =
            [0.5, 0.99, 1.0].map(|share| kind.quantile(share).as_secs_f64() * 1e3);
        let rows = kind
            .rows
            .get(kind.rows.len() / 2)
            .copied()
            .unwrap_or_default();
        let (asked, refused, name) = (kind.latencies.len(), kind.refused, &kind.name);
        println!("{p50:>10.1} {p99:>10.1} {most:>10.1} {asked:>6} {refused:>8} {rows:>5}  {name}");
    }
    let mut all: Vec<Duration> = taken.iter().flat_map(|it| it.latencies.clone()).collect();
    all.sort_unstable();
    println!(
        "{} searches of {} kinds, half of them within {:.1} ms",
        all.len(),
        taken.len(),
        all[all.len() / 2].as_secs_f64() * 1e3
    );
}
