//! Which certificates a search finds: their ids, newest first, and then their rows.
//!
//! Intent ids are `UUIDv7`, so their order is the order of asking. The ids are asked of one table, by its
//! indexes; what another table has to say about a row is a sub-select, which no join method can turn into a walk
//! through both.

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use sqlx::Arguments;
use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::QueryBuilder;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::ca::KindFilter;
use crate::ca::SearchFilter;
use crate::ca::Status;
use crate::pki::tbs::LeafKind;

/// In one value: thousands of rows of one column take longer to send than to find.
const IDS: &str = "SELECT coalesce(array_agg(m.intent_id), '{}') FROM (";

/// By how many milliseconds the ids of certificates that were recorded before `$1` may be of after it; `NULL` where
/// nobody knows. Of what was recorded more than an hour before, none is: no clock that is believed differs by more
/// than a minute.
const LEAD: &str = "SELECT CASE WHEN $1 - interval '62 minutes' >= (SELECT min(k.minute) FROM recording_minute k) THEN
        greatest(coalesce(max(
            m.lead_ms - greatest(floor(extract(epoch FROM $1 - m.minute - interval '1 minute') * 1000), 0)), 0), 0)
        END::bigint
    FROM recording_minute m WHERE m.minute BETWEEN $1 - interval '61 minutes' AND $1";
/// By how many the ids of what was recorded then or later may be of before `$1`, but for those in `late_outcome`; the
/// same. Of what was recorded more than an hour later, all with such ids are in there.
const LAG: &str = "SELECT CASE WHEN $1 - interval '1 minute' >= (SELECT min(k.minute) FROM recording_minute k) THEN
        greatest(coalesce(max(m.lag_ms - greatest(floor(extract(epoch FROM m.minute - $1) * 1000), 0)), 0), 0)
        END::bigint
    FROM recording_minute m WHERE m.minute BETWEEN $1 - interval '1 minute' AND $1 + interval '1 hour'";
/// What is assumed where nobody knows: what is later by more than an hour, rounded, is in `late_outcome`.
const DISTANCE_MAX: TimeDelta = TimeDelta::milliseconds(3_600_001);

/// Between which ids all are that a search finds: from the first to below the second.
pub(super) struct Bounds {
    from: Option<(Uuid, DateTime<Utc>)>,
    below: Option<Uuid>,
}

impl Bounds {
    /// By the times of a search, and by the cursor.
    pub(super) async fn of(
        connection: &mut PgConnection,
        filter: &SearchFilter,
        cursor: Option<Uuid>,
    ) -> Result<Self, sqlx::Error> {
        let mut bounds = Self {
            from: None,
            below: cursor,
        };
        if let Some(issued_after) = filter.issued_after {
            let lag = distance(connection, LAG, issued_after).await?;
            bounds.from = Some((least_id(issued_after, -lag), issued_after));
        }
        if let Some(issued_before) = filter.issued_before {
            // A moment may be between two of an id's milliseconds: the one after it is the first that is too late.
            let lead =
                distance(connection, LEAD, issued_before).await? + TimeDelta::milliseconds(2);
            let last = least_id(issued_before, lead);
            bounds.below = Some(cursor.map_or(last, |cursor| cursor.min(last)));
        }
        Ok(bounds)
    }

    /// The same, below an id that was reached.
    pub(super) fn go_on(&mut self, reached: Option<Uuid>) {
        self.below = reached;
    }

    fn push(&self, sql: &mut QueryBuilder<Postgres>, table: &str) {
        // The first of that time, from its id, or one of long before that was recorded then.
        if let Some((from, issued_after)) = self.from {
            sql.push(format!(" AND {table}.intent_id >= least("))
                .push_bind(from)
                .push(", (SELECT l.intent_id FROM late_outcome l WHERE l.recorded_at >= ")
                .push_bind(issued_after)
                .push(" ORDER BY l.intent_id LIMIT 1))");
        }
        if let Some(below) = self.below {
            sql.push(format!(" AND {table}.intent_id < "))
                .push_bind(below);
        }
    }
}

/// As [`LEAD`] and [`LAG`] say.
async fn distance(
    connection: &mut PgConnection,
    question: &'static str,
    time: DateTime<Utc>,
) -> Result<TimeDelta, sqlx::Error> {
    let known: Option<i64> = sqlx::query_scalar(question)
        .bind(time)
        .fetch_one(connection)
        .await?;
    Ok(known.map_or(DISTANCE_MAX, TimeDelta::milliseconds))
}

/// Intents that match, an array, newest first, at most `limit`, within the bounds. Unless `certified`, some of
/// them may have no certificate; some may be of another kind: see [`rows`].
pub(super) fn ids(
    filter: &SearchFilter,
    limit: i64,
    bounds: &Bounds,
    certified: bool,
) -> QueryBuilder<Postgres> {
    let (mut sql, table) = match filter.status {
        Some(ended @ (Status::Superseded | Status::Revoked | Status::Scrapped))
            if !is_of_few(filter) =>
        {
            (among_ended(filter, ended), "e")
        }
        status => (among_all(filter, status, bounds), "i"),
    };
    bounds.push(&mut sql, table);
    if certified || filter.issued_after.is_some() || filter.issued_before.is_some() {
        sql.push(format!(
            " AND EXISTS (SELECT FROM outcome o WHERE o.intent_id = {table}.intent_id AND o.der IS NOT NULL"
        ));
        if let Some(issued_after) = filter.issued_after {
            sql.push(" AND o.recorded_at >= ").push_bind(issued_after);
        }
        if let Some(issued_before) = filter.issued_before {
            sql.push(" AND o.recorded_at < ").push_bind(issued_before);
        }
        // What has an offset is no join.
        sql.push(" OFFSET 0)");
    }
    sql.push(format!(" ORDER BY {table}.intent_id DESC LIMIT "))
        .push_bind(limit)
        .push(") m");
    sql
}

/// The rows of these intents, in any order: `select` ends with a condition. At head office an id may be of two
/// plants.
pub(super) fn rows(
    select: &'static str,
    filter: &SearchFilter,
    ids: &[Uuid],
) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(select);
    of_kind_and_site(&mut sql, filter);
    // Of both tables: a plan that sees the ids does not look at the months without any of them.
    for table in ["o", "i"] {
        sql.push(format!(" AND {table}.intent_id = ANY("))
            .push_bind(ids.to_vec())
            .push(")");
    }
    sql
}

/// The rows of all intents from `from` to `to`, both included, in any order: `select` ends with a condition and
/// names them `$1` and `$2`.
pub(super) fn rows_between(
    select: &'static str,
    filter: &SearchFilter,
    (from, to): (Uuid, Uuid),
) -> Result<QueryBuilder<Postgres>, BoxDynError> {
    let mut bounds = PgArguments::default();
    bounds.add(from)?;
    bounds.add(to)?;
    let mut sql = QueryBuilder::with_arguments(select, bounds);
    of_kind_and_site(&mut sql, filter);
    Ok(sql)
}

fn of_kind_and_site(sql: &mut QueryBuilder<Postgres>, filter: &SearchFilter) {
    if let KindFilter::Only(kind) = filter.kind {
        sql.push(" AND i.kind = ").push_bind(kind.as_str());
    }
    equal(sql, " AND i.site = ", filter.site.as_deref());
}

/// Whether no condition leaves out many of the certificates between two ids: nearly all are devices'. Times may, since
/// what was recorded late has an id of long before.
pub(super) fn is_of_nearly_all(filter: &SearchFilter) -> bool {
    let all = SearchFilter {
        kind: filter.kind,
        ..SearchFilter::default()
    };
    *filter == all
        && matches!(
            filter.kind,
            KindFilter::Any | KindFilter::Only(LeafKind::Device)
        )
}

/// Whether a condition leaves the certificates of one device, or one. A common name may be that of many, and a planner
/// has to see which it is.
pub(super) fn is_by_key(filter: &SearchFilter) -> bool {
    filter.device.is_some()
        || filter.serial_number.is_some()
        || filter.fingerprint.is_some()
        || filter.spki.is_some()
}

/// Whether an order's index and a time's bounds leave what is searched, and no list of few does.
pub(super) fn is_of_order_and_time(filter: &SearchFilter) -> bool {
    filter.order.is_some()
        && (filter.issued_after.is_some() || filter.issued_before.is_some())
        && filter.status.is_none()
        && !is_of_few(filter)
}

/// Whether a condition leaves a few certificates of a device, or those of a batch.
fn is_of_few(filter: &SearchFilter) -> bool {
    is_by_key(filter)
        || filter.cn.is_some()
        || filter.device_serial.is_some()
        || filter.batch.is_some()
}

/// Those that ended: the list has all that is asked of them.
fn among_ended(filter: &SearchFilter, ended: Status) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(IDS);
    sql.push("SELECT e.intent_id FROM ended e WHERE e.kind = ")
        .push_bind(ended.as_str());
    for (condition, value) in [
        (" AND e.work_order = ", &filter.order),
        (" AND e.profile = ", &filter.profile),
        (" AND e.issuer = ", &filter.issuer),
        (" AND e.principal = ", &filter.station),
    ] {
        equal(&mut sql, condition, value.as_deref());
    }
    if ended != Status::Scrapped {
        sql.push(
            " AND NOT EXISTS (SELECT FROM ended s
                WHERE s.kind = 'scrapped' AND s.intent_id = e.intent_id OFFSET 0)",
        );
    }
    if let Some(site) = &filter.site {
        sql.push(" AND EXISTS (SELECT FROM intent i WHERE i.intent_id = e.intent_id AND i.site = ")
            .push_bind(site.clone())
            .push(" OFFSET 0)");
    }
    // Nothing but a device's certificate ends.
    if matches!(filter.kind, KindFilter::Only(kind) if kind != LeafKind::Device) {
        sql.push(" AND false");
    }
    sql
}

fn among_all(
    filter: &SearchFilter,
    status: Option<Status>,
    bounds: &Bounds,
) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(IDS);
    sql.push("SELECT i.intent_id FROM intent i WHERE true");
    // Nearly all are devices': the others are left out when they are read. In the text and not bound: only then is
    // the index over the rare kinds one to choose.
    if let KindFilter::Only(kind) = filter.kind
        && kind != LeafKind::Device
    {
        sql.push(" AND i.kind = '").push(kind.as_str()).push("'");
    }
    attributes(&mut sql, filter);
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
        sql.push(" AND i.intent_id IN (SELECT unnest(k.intent_ids) FROM batch_chunk k WHERE k.batch_id = ")
            .push_bind(batch)
            .push(")");
    }
    match status {
        None => {}
        // Few among many: from their list.
        Some(Status::Issued) => {
            sql.push(" AND i.intent_id IN (SELECT u.intent_id FROM unconfirmed u WHERE true");
            bounds.push(&mut sql, "u");
            sql.push(")");
        }
        // Of the kinds of its events the last one in the alphabet. A condition of which the planner thinks that half
        // of the rows fulfil it.
        Some(status) => {
            if status == Status::Confirmed {
                // The newest may all be unconfirmed, and many: what a line has made since yesterday.
                sql.push(
                    " AND i.intent_id <= (SELECT e.intent_id FROM life_event e WHERE e.kind = 'confirmed'",
                );
                bounds.push(&mut sql, "e");
                sql.push(" ORDER BY e.intent_id DESC LIMIT 1)");
            }
            sql.push(
                " AND CASE (SELECT e.kind FROM life_event e WHERE e.intent_id = i.intent_id
                            ORDER BY e.kind DESC LIMIT 1) WHEN ",
            )
            .push_bind(status.as_str())
            .push(" THEN true ELSE false END");
        }
    }
    sql
}

/// What the intent itself says; and of two words that no intent has together, that there is nothing.
fn attributes(sql: &mut QueryBuilder<Postgres>, filter: &SearchFilter) {
    for (condition, value) in [
        (" AND i.subject ->> 'CN' = ", &filter.cn),
        (
            " AND i.subject ->> 'serialNumber' = ",
            &filter.device_serial,
        ),
        (" AND i.profile = ", &filter.profile),
        (" AND i.issuer = ", &filter.issuer),
        (" AND i.principal = ", &filter.station),
        (" AND i.work_order = ", &filter.order),
        (" AND i.site = ", &filter.site),
    ] {
        equal(sql, condition, value.as_deref());
    }
    // Where the two never met there is nothing, which a walk through either's would find out at its end.
    if let (Some(profile), Some(issuer)) = (&filter.profile, &filter.issuer) {
        sql.push(" AND have_met(").push_bind(profile.clone());
        sql.push(", ").push_bind(issuer.clone()).push(")");
    }
}

fn equal(sql: &mut QueryBuilder<Postgres>, condition: &str, value: Option<&str>) {
    if let Some(value) = value {
        sql.push(condition).push_bind(value.to_owned());
    }
}

/// The least id of an intent so long after a time: a `UUIDv7` begins with its milliseconds.
fn least_id(time: DateTime<Utc>, later: TimeDelta) -> Uuid {
    let milliseconds = time
        .timestamp_millis()
        .saturating_add(later.num_milliseconds());
    let milliseconds = u128::try_from(milliseconds).unwrap_or_default();
    Uuid::from_u128(milliseconds.min((1 << 48) - 1) << 80)
}
