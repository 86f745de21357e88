//! [`PgArchive`]: reading what must be as it is, on a small pool of its own, so that no search slows issuing.

mod matches;

use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use futures_util::TryStreamExt;
use prometheus::IntCounter;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::QueryBuilder;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx::postgres::PgRow;
use tokio::runtime::Handle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::ca::Archive;
use crate::ca::CertificateRecord;
use crate::ca::DatabaseTime;
use crate::ca::KindFilter;
use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::PortFuture;
use crate::ca::Principal;
use crate::ca::SearchFilter;
use crate::ca::export::Exported;
use crate::db::archive::matches::Bounds;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::Failure;
use crate::db::error::describe;
use crate::db::principals;
use crate::db::row;
use crate::db::row::exported_columns;
use crate::db::row::intent_columns;
use crate::db::row::outcome_columns;
use crate::db::standby::Gate;
use crate::metrics::LedgerMetrics;
use crate::pki::serial::SerialNumber;

/// Longest wait for a free connection.
const ACQUIRE_MAX: Duration = Duration::from_secs(2);
/// A reading that takes longer loses its connection. Above the session's `statement_timeout`.
pub(super) const READING_MAX: Duration = Duration::from_secs(15);
/// An idle connection is closed after this long.
const IDLE_MAX: Duration = Duration::from_mins(5);
/// A dead connection fails at once; what fails later (a statement's time-out) would again.
const RETRY_WITHIN: Duration = Duration::from_secs(1);
/// Largest page (contract: search).
pub(super) const PAGE_MAX: i64 = 1000;

/// Ids asked for at a time by a page that is not full yet.
const ASKED_MAX: i64 = 5_000;
/// All statements of a page see the same rows. An index that has the rows in their order ends with the page; a bitmap
/// is of all matches.
const ONE_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL enable_bitmapscan = off";
/// The same for what a unique key finds, whichever it is: to plan over all months takes longer than to look in each.
const ONE_MOMENT_BY_KEY: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL plan_cache_mode = 'force_generic_plan';
    SET LOCAL enable_seqscan = off";
/// The same for all from one id to another. Nobody knows how many of a month lie between them: a planner that took
/// them for one would compare each with each other one.
const ONE_MOMENT_BETWEEN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL plan_cache_mode = 'force_generic_plan';
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_nestloop = off";

/// The same for an order's certificates of a time. Its index has them in their order, so that a page's are enough; a
/// planner that takes them for few would look at all of them and sort them.
const ONE_MOMENT_OF_ORDER: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL enable_bitmapscan = off;
    SET LOCAL enable_sort = off";

/// The newest record's time is the end of an index: no row is read. The log's newest entry may be no record's, and
/// nothing is recorded before its time.
const TIME: &str = "SELECT clock_timestamp(),
    greatest((SELECT max(recorded_at) FROM outcome), (SELECT at FROM log_head WHERE size > 0))";

/// Issued certificates, joined with their intents. Which of them follows.
macro_rules! issued {
    ($columns:expr) => {
        concat!(
            "SELECT ",
            $columns,
            ", ",
            outcome_columns!(),
            " FROM outcome o JOIN intent i ON i.intent_id = o.intent_id WHERE o.der IS NOT NULL"
        )
    };
}

/// What a search reads of its matches, and as what.
pub(super) struct Form<T> {
    pub(super) select: &'static str,
    /// The same of all from an id, `$1`, to another, `$2`: each table is walked through once, where `select` looks
    /// a row up in each.
    pub(super) between: Option<&'static str>,
    pub(super) read: fn(&PgRow) -> Result<T, sqlx::Error>,
    /// Where the page after it begins.
    pub(super) id: fn(&T) -> Uuid,
}

/// All of it.
pub(super) const RECORD: Form<CertificateRecord> = Form {
    select: issued!(intent_columns!()),
    between: None,
    read: |row| {
        let record = row::certificate(row::intent(row)?, row)?;
        record.ok_or_else(|| row::unreadable("certificate"))
    },
    id: |record| record.intent.id,
};

/// What an export shows.
pub(super) const EXPORTED: Form<Exported> = Form {
    select: issued!(exported_columns!()),
    between: Some(concat!(
        "SELECT ",
        exported_columns!(),
        ", o.der, o.fingerprint, o.log_index, o.recorded_at, e.kind AS status, s.serial_number AS successor
         FROM outcome o JOIN intent i ON i.intent_id = o.intent_id
         LEFT JOIN (SELECT DISTINCT ON (intent_id) intent_id, kind FROM life_event
                    WHERE intent_id BETWEEN $1 AND $2 ORDER BY intent_id DESC, kind DESC) e
             ON e.intent_id = o.intent_id
         LEFT JOIN claim s ON s.live AND s.supersedes = o.intent_id AND s.supersedes BETWEEN $1 AND $2
         WHERE o.der IS NOT NULL AND o.intent_id BETWEEN $1 AND $2 AND i.intent_id BETWEEN $1 AND $2"
    )),
    read: |row| row::exported(row, 0),
    id: |exported| exported.id,
};

/// The archive in PostgreSQL.
#[derive(Clone)]
pub struct PgArchive {
    pool: PgPool,
    /// Where it reads: a large page must not keep whoever asked for it from answering others.
    runtime: Handle,
    /// Counts waits for a connection that were too long.
    timeouts: Option<IntCounter>,
}

impl PgArchive {
    /// Connects when first used; reads on the current Tokio runtime. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        Self::for_purpose(config, Purpose::Archive)
    }

    /// The same for somebody else's connections.
    pub(super) fn for_purpose(config: &DbConfig, purpose: Purpose) -> Result<Self, DbFault> {
        let pool = PgPoolOptions::new()
            .max_connections(config.archive_connections_max)
            .acquire_timeout(ACQUIRE_MAX)
            .idle_timeout(IDLE_MAX)
            // A frozen server is found out within this time, and before the reading begins.
            .test_before_acquire(true);
        Ok(Self {
            pool: config.session(purpose)?.pool(pool),
            runtime: Handle::current(),
            timeouts: None,
        })
    }

    /// The same, counted as `pool` when no connection becomes free in time.
    #[must_use]
    pub fn counted(self, pool: &str, metrics: &LedgerMetrics) -> Self {
        let timeouts = metrics.pool_timeouts.with_label_values(&[pool]);
        Self {
            timeouts: Some(timeouts),
            ..self
        }
    }

    /// Connections there are, those of them that are idle, and how many there may be.
    #[must_use]
    pub fn connections(&self) -> (u32, u32, u32) {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let max = self.pool.options().get_max_connections();
        (self.pool.size(), idle, max)
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            pool: self.pool.clone(),
            timeouts: self.timeouts.clone(),
            gate: None,
        }
    }

    /// Runs a reading in a task of its own. After a restart of the server each idle connection
    /// fails once: reading is harmless, so it is tried on all of them and on a new one.
    pub(super) async fn read<T, F>(&self, reading: impl Fn(Reader) -> F) -> Result<T, LedgerFault>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let start = Instant::now();
        let mut tries_left = self.pool.options().get_max_connections();
        loop {
            let mut task = self.runtime.spawn(reading(self.reader()));
            let reason = match timeout(READING_MAX, &mut task).await {
                Ok(Ok(Ok(found))) => return Ok(found),
                Ok(Ok(Err(Failure::Unavailable(_))))
                    if tries_left > 0 && start.elapsed() < RETRY_WITHIN =>
                {
                    tries_left -= 1;
                    continue;
                }
                Ok(Ok(Err(failure))) => failure.reason(),
                Ok(Err(panicked)) => panicked.to_string(),
                Err(_) => {
                    task.abort();
                    return Err(LedgerFault::Deadline);
                }
            };
            return Err(LedgerFault::Unavailable(reason));
        }
    }

    /// Runs `work` on a connection, and keeps that for the next one; again, when the server has just come
    /// back.
    pub(super) fn ask<'a, T: Send + 'static>(
        &'a self,
        work: impl for<'c> Fn(&'c mut PgConnection) -> PortFuture<'c, Result<T, sqlx::Error>>
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> PortFuture<'a, Result<T, LedgerFault>> {
        Box::pin(self.read(asking(work)))
    }
}

impl Archive for PgArchive {
    fn certificate(
        &self,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<Option<CertificateRecord>, LedgerFault>> {
        let filter = SearchFilter {
            kind: KindFilter::Any,
            serial_number: Some(serial_number),
            ..SearchFilter::default()
        };
        Box::pin(async move { Ok(self.search(filter, 1, None).await?.items.pop()) })
    }

    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
    ) -> PortFuture<'_, Result<Page, LedgerFault>> {
        Box::pin(self.read(paging(&RECORD, filter, limit.clamp(1, PAGE_MAX), cursor)))
    }

    fn time(&self) -> PortFuture<'_, Result<DatabaseTime, LedgerFault>> {
        Box::pin(self.read(|reader| async move {
            let mut connection = reader.acquire().await?;
            let (now, newest_record) = sqlx::query_as(TIME)
                .fetch_one(connection.get()?)
                .await
                .map_err(|e| Failure::from(&e))?;
            connection.release();
            Ok(DatabaseTime { now, newest_record })
        }))
    }

    fn principals(&self) -> PortFuture<'_, Result<Vec<Principal>, LedgerFault>> {
        Box::pin(self.read(|reader| async move {
            let mut connection = reader.acquire().await?;
            let all = principals::all(connection.get()?)
                .await
                .map_err(|e| Failure::from(&e))?;
            connection.release();
            Ok(all)
        }))
    }
}

/// Reads one page of a search, of whatever length.
pub(super) fn paging<T: Send + 'static>(
    form: &'static Form<T>,
    filter: SearchFilter,
    limit: i64,
    cursor: Option<Uuid>,
) -> impl Fn(Reader) -> PortFuture<'static, Result<Page<T>, Failure>> {
    move |reader| {
        let filter = filter.clone();
        Box::pin(async move {
            let mut connection = reader.acquire().await?;
            let page = page(form, connection.get()?, &filter, limit, cursor)
                .await
                .map_err(|e| Failure::from(&e))?;
            connection.release();
            Ok(page)
        })
    }
}

/// Does some work on a connection.
pub(super) fn asking<T: Send + 'static>(
    work: impl for<'c> Fn(&'c mut PgConnection) -> PortFuture<'c, Result<T, sqlx::Error>>
    + Clone
    + Send
    + Sync
    + 'static,
) -> impl Fn(Reader) -> PortFuture<'static, Result<T, Failure>> {
    move |reader| {
        let work = work.clone();
        Box::pin(async move {
            let mut connection = reader.acquire().await?;
            let found = work(connection.get()?).await;
            let found = found.map_err(|e| Failure::from(&e))?;
            connection.release();
            Ok(found)
        })
    }
}

/// The ids first, newest first, by a query of few columns and no join; then what belongs to them, by their ids: both
/// of one moment. A page starts below the last id of the one before (keyset paging: complete and without repeats
/// while new certificates arrive).
async fn page<T>(
    form: &Form<T>,
    connection: &mut PgConnection,
    filter: &SearchFilter,
    limit: i64,
    cursor: Option<Uuid>,
) -> Result<Page<T>, sqlx::Error> {
    let between = form.between.filter(|_| matches::is_of_nearly_all(filter));
    let begin = match between {
        Some(_) => ONE_MOMENT_BETWEEN,
        None if matches::is_by_key(filter) => ONE_MOMENT_BY_KEY,
        None if matches::is_of_order_and_time(filter) => ONE_MOMENT_OF_ORDER,
        None => ONE_MOMENT,
    };
    let mut moment = connection.begin_with(begin).await?;
    // One more than asked for: it tells whether there is another page.
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut items, mut asked) = (Vec::new(), limit.saturating_add(1));
    let mut bounds = Bounds::of(&mut moment, filter, cursor).await?;
    let mut again = false;
    loop {
        let mut ids = matches::ids(filter, asked, &bounds, again);
        let ids: Vec<Uuid> = ids.build_query_scalar().fetch_one(&mut *moment).await?;
        if ids.is_empty() {
            break;
        }
        let rows = match (between, &ids[..]) {
            (Some(between), [newest, .., oldest]) => {
                let rows = matches::rows_between(between, filter, (*oldest, *newest));
                rows.map_err(sqlx::Error::Encode)?
            }
            _ => matches::rows(form.select, filter, &ids),
        };
        read(form, &mut moment, rows, &ids, &mut items).await?;
        if items.len() > full || length(&ids) < asked {
            break;
        }
        // Some had no certificate, or were of another kind. Of such there may be many, one after the other.
        bounds.go_on(ids.last().copied());
        again = true;
        asked = asked.saturating_mul(2).min(ASKED_MAX.max(limit));
    }
    moment.commit().await?;
    let more = items.len() > full;
    items.truncate(full);
    let next = items.last().filter(|_| more).map(form.id);
    Ok(Page { items, next })
}

fn length<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

/// The certificates of these intents, in the order of the ids, which is the newest first; of those without one, and
/// of those of another kind, nothing. There may be others among the rows.
async fn read<T>(
    form: &Form<T>,
    connection: &mut PgConnection,
    mut rows: QueryBuilder<Postgres>,
    ids: &[Uuid],
    items: &mut Vec<T>,
) -> Result<(), sqlx::Error> {
    let before = items.len();
    items.reserve(ids.len());
    let mut rows = rows.build().fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let item = (form.read)(&row)?;
        let id = (form.id)(&item);
        // The newest first.
        if ids.binary_search_by(|it| id.cmp(it)).is_ok() {
            items.push(item);
        }
    }
    // Here and not there, where so many octets are sorted on disk.
    items[before..].sort_unstable_by_key(|item| std::cmp::Reverse((form.id)(item)));
    Ok(())
}

/// Hands out connections that are closed unless they are released.
pub(super) struct Reader {
    pool: PgPool,
    timeouts: Option<IntCounter>,
    gate: Option<Gate>,
}

impl Reader {
    /// The same, whose connections have to pass it.
    pub(super) fn through(self, gate: Gate) -> Self {
        Self {
            gate: Some(gate),
            ..self
        }
    }

    pub(super) async fn acquire(self) -> Result<Borrowed, Failure> {
        let mut borrowed = match self.pool.acquire().await {
            Ok(connection) => Borrowed(Some(connection)),
            // Not `Unavailable`, which would be tried again: the wait was long enough.
            Err(error @ sqlx::Error::PoolTimedOut) => {
                if let Some(timeouts) = &self.timeouts {
                    timeouts.inc();
                }
                return Err(Failure::Conflict(describe(&error)));
            }
            Err(error) => return Err(Failure::from(&error)),
        };
        if let Some(gate) = &self.gate
            && let Err(unfit) = gate.pass(borrowed.get()?).await?
        {
            // There is nothing wrong with the connection.
            borrowed.release();
            return Err(unfit);
        }
        Ok(borrowed)
    }
}

/// A connection that goes back to the pool only after its work has ended well.
pub(super) struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    pub(super) fn get(&mut self) -> Result<&mut PgConnection, Failure> {
        match &mut self.0 {
            Some(connection) => Ok(connection),
            None => Err(Failure::Unavailable(
                "the connection was given back".to_owned(),
            )),
        }
    }

    pub(super) fn release(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
