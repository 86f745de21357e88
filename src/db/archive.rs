//! [`PgArchive`]: reading what must be as it is, on a small pool of its own, so that no search slows issuing.

use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use futures_util::TryStreamExt;
use prometheus::IntCounter;
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
use crate::ca::Status;
use crate::ca::export::Exported;
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

/// Certificates that were recorded longer than this after they were intended are in `late_outcome`.
const LATE_AFTER: TimeDelta = TimeDelta::hours(1);

/// The newest record's time is the end of an index: no row is read.
const TIME: &str = "SELECT clock_timestamp(), (SELECT max(recorded_at) FROM outcome)";

/// Issued certificates, joined with their intents. Filters and order follow.
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
    pub(super) read: fn(&PgRow) -> Result<T, sqlx::Error>,
    /// Where the page after it begins.
    pub(super) id: fn(&T) -> Uuid,
}

/// All of it.
pub(super) const RECORD: Form<CertificateRecord> = Form {
    select: issued!(intent_columns!()),
    read: |row| {
        let record = row::certificate(row::intent(row)?, row)?;
        record.ok_or_else(|| row::unreadable("certificate"))
    },
    id: |record| record.intent.id,
};

/// What an export shows.
pub(super) const EXPORTED: Form<Exported> = Form {
    select: issued!(exported_columns!()),
    read: row::exported,
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
        let mut query = query(form.select, &filter, limit, cursor);
        Box::pin(async move {
            let mut connection = reader.acquire().await?;
            let page = page(form, connection.get()?, &mut query, limit)
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

async fn page<T>(
    form: &Form<T>,
    connection: &mut PgConnection,
    query: &mut QueryBuilder<Postgres>,
    limit: i64,
) -> Result<Page<T>, sqlx::Error> {
    let mut items = Vec::new();
    let mut rows = query.build().fetch(connection);
    while let Some(row) = rows.try_next().await? {
        items.push((form.read)(&row)?);
    }
    // One more than asked for was fetched: it tells whether there is another page.
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > full;
    items.truncate(full);
    let next = items.last().filter(|_| more).map(form.id);
    Ok(Page { items, next })
}

/// Newest first: intent ids are UUIDv7, so their order is the order of asking, and a page starts
/// below the last id of the one before (keyset paging: complete and without repeats while new
/// certificates arrive).
fn query(
    select: &'static str,
    filter: &SearchFilter,
    limit: i64,
    cursor: Option<Uuid>,
) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(select);
    match filter.kind {
        // In the text and not bound: only then is the index over the rare kind one to choose.
        KindFilter::Only(kind) => {
            sql.push(" AND i.kind = '").push(kind.as_str()).push("'");
        }
        KindFilter::Any => {}
    }
    let mut equal = |condition: &str, value: &Option<String>| {
        if let Some(value) = value {
            sql.push(condition).push_bind(value.clone());
        }
    };
    equal(" AND i.subject ->> 'CN' = ", &filter.cn);
    equal(
        " AND i.subject ->> 'serialNumber' = ",
        &filter.device_serial,
    );
    equal(" AND i.profile = ", &filter.profile);
    equal(" AND i.issuer = ", &filter.issuer);
    equal(" AND i.principal = ", &filter.station);
    equal(" AND i.work_order = ", &filter.order);
    equal(" AND o.site = ", &filter.site);
    // By the claim's indexes. Only an abandoned intent's claims are not live, and it has no
    // certificate; a serial number is held for ever.
    if let Some(device) = &filter.device {
        sql.push(
            " AND i.intent_id IN (SELECT c.intent_id FROM claim c
                WHERE c.live AND c.supersedes IS NULL AND c.device = ",
        )
        .push_bind(device.clone())
        .push(
            " UNION ALL SELECT c.intent_id FROM claim c
                WHERE c.live AND c.supersedes IS NOT NULL AND c.device = ",
        )
        .push_bind(device.clone())
        .push(")");
    }
    if let Some(spki) = filter.spki {
        sql.push(" AND i.intent_id IN (SELECT c.intent_id FROM claim c WHERE c.live AND c.spki_sha256 = ")
            .push_bind(spki.to_vec())
            .push(")");
    }
    if let Some(serial_number) = filter.serial_number {
        sql.push(" AND i.intent_id IN (SELECT c.intent_id FROM claim c WHERE c.serial_number = ")
            .push_bind(serial_number.as_bytes().to_vec())
            .push(")");
    }
    if let Some(fingerprint) = filter.fingerprint {
        sql.push(
            " AND i.intent_id IN (SELECT c.intent_id FROM certificate_id c WHERE c.fingerprint = ",
        )
        .push_bind(fingerprint.to_vec())
        .push(")");
    }
    if let Some(batch) = filter.batch {
        sql.push(" AND o.intent_id IN (SELECT unnest(k.intent_ids) FROM batch_chunk k WHERE k.batch_id = ")
            .push_bind(batch)
            .push(")");
    }
    if let Some(issued_after) = filter.issued_after {
        sql.push(" AND o.recorded_at >= ").push_bind(issued_after);
    }
    if let Some(issued_before) = filter.issued_before {
        sql.push(" AND o.recorded_at < ").push_bind(issued_before);
    }
    // Bounds are of every table: a merge of two begins at the bound in either one, and not at the
    // end of the other.
    let bounds = Bounds { filter, cursor };
    bounds.push(&mut sql, "o");
    bounds.push(&mut sql, "i");
    if let Some(status) = filter.status {
        push_status(&mut sql, status, &bounds);
    }
    sql.push(" ORDER BY o.intent_id DESC LIMIT ")
        .push_bind(limit.saturating_add(1));
    sql
}

/// Where a certificate stands in its life.
fn push_status(sql: &mut QueryBuilder<Postgres>, status: Status, bounds: &Bounds<'_>) {
    match status {
        // Few among many: from their lists.
        Status::Issued => {
            sql.push(" AND o.intent_id IN (SELECT u.intent_id FROM unconfirmed u WHERE true");
            bounds.push(sql, "u");
            sql.push(")");
        }
        // Many: a sub-select, which no join method can turn into a scan of all events.
        Status::Confirmed => {
            sql.push(
                " AND (SELECT e.kind FROM life_event e WHERE e.intent_id = o.intent_id
                       ORDER BY e.kind DESC LIMIT 1) = 'confirmed'",
            );
        }
        ended => {
            sql.push(
                " AND o.intent_id IN (SELECT e.intent_id FROM life_event e
                      WHERE e.kind <> 'confirmed' AND e.kind = ",
            )
            .push_bind(ended.as_str());
            bounds.push(sql, "e");
            sql.push(")");
            if ended != Status::Scrapped {
                sql.push(
                    " AND (SELECT true FROM life_event e
                          WHERE e.intent_id = o.intent_id AND e.kind = 'scrapped') IS NULL",
                );
            }
        }
    }
}

/// From which id to which, by times and cursor.
struct Bounds<'a> {
    filter: &'a SearchFilter,
    cursor: Option<Uuid>,
}

impl Bounds<'_> {
    /// The same for one table.
    fn push(&self, sql: &mut QueryBuilder<Postgres>, table: &str) {
        // The first of that time, from its id, or one of before that was recorded late.
        if let Some(issued_after) = self.filter.issued_after {
            sql.push(format!(" AND {table}.intent_id >= least("))
                .push_bind(least_id(issued_after - LATE_AFTER))
                .push(", (SELECT l.intent_id FROM late_outcome l WHERE l.recorded_at >= ")
                .push_bind(issued_after)
                .push(" ORDER BY l.intent_id LIMIT 1))");
        }
        // Nothing is recorded before it is intended, but for what the clocks may differ.
        if let Some(issued_before) = self.filter.issued_before {
            sql.push(format!(" AND {table}.intent_id < "))
                .push_bind(least_id(issued_before + LATE_AFTER));
        }
        if let Some(cursor) = self.cursor {
            sql.push(format!(" AND {table}.intent_id < "))
                .push_bind(cursor);
        }
    }
}

/// The least id of an intent of this time or later: a UUIDv7 begins with its milliseconds.
fn least_id(time: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(time.timestamp_millis()).unwrap_or_default();
    Uuid::from_u128(milliseconds.min((1 << 48) - 1) << 80)
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
