//! [`PgPlants`]: head office's own database, into which PostgreSQL's logical replication writes what the
//! plants publish. Reading is here; [`verify`] holds it against the logs, [`subscribe`] adds plants.

pub mod subscribe;
pub mod verify;

use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ca::KindFilter;
use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::PortFuture;
use crate::ca::SearchFilter;
use crate::ca::headquarters::Finding;
use crate::ca::headquarters::OrderAtPlant;
use crate::ca::headquarters::Placed;
use crate::ca::headquarters::PlantBook;
use crate::ca::headquarters::PlantState;
use crate::ca::headquarters::Story;
use crate::ca::headquarters::StoryEntry;
use crate::ca::headquarters::tickets::SignedTicket;
use crate::db::archive::Form;
use crate::db::archive::PgArchive;
use crate::db::archive::paging;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::row;
use crate::db::row::unreadable;
use crate::pki::entry::Entry;
use crate::pki::serial::SerialNumber;

/// Head office's migrations, oldest first.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/headquarters");

/// Name of the publication at every plant.
const PUBLICATION: &str = "certfactory";

/// Stories of one serial number at most: two plants would have to share it.
const STORIES_MAX: i64 = 16;

/// Certificates of all plants. A join is of one plant: ids are of that plant alone.
const PLACED: Form<Placed> = Form {
    select: "SELECT o.site, i.intent_id, i.kind, i.serial_number, i.issuer, i.profile, i.principal, i.work_order,
            i.device, i.subject, i.thing_name, i.spki_sha256, i.key_origin, i.not_before, i.not_after,
            CASE WHEN i.supersedes IS NOT NULL THEN
                (SELECT p.serial_number FROM intent p WHERE p.site = i.site AND p.intent_id = i.supersedes) END AS superseded,
            o.der, o.fingerprint, o.log_index, o.recorded_at,
            (SELECT e.kind FROM life_event e WHERE e.site = o.site AND e.intent_id = o.intent_id
             ORDER BY e.kind DESC LIMIT 1) AS status,
            (SELECT c.serial_number FROM claim c WHERE c.live AND c.site = o.site AND c.supersedes = o.intent_id
             LIMIT 1) AS successor
        FROM outcome o JOIN intent i ON i.intent_id = o.intent_id AND i.site = o.site WHERE o.der IS NOT NULL",
    between: None,
    read: |row| {
        Ok(Placed {
            site: row.try_get("site")?,
            certificate: row::exported(row, 1)?,
        })
    },
    id: |placed| placed.certificate.id,
};

/// A subscription's statistics and its tables are there for whoever may connect.
const PLANTS: &str = "
    SELECT p.site, p.late_after_seconds, p.log_key IS NOT NULL AS witnessed,
           s.pid IS NOT NULL AS feed_up,
           (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = s.subid AND r.srsubstate <> 'r') AS tables_copying,
           coalesce((SELECT t.apply_error_count + t.sync_error_count FROM pg_stat_subscription_stats t
                     WHERE t.subid = s.subid), 0)::bigint AS feed_errors,
           h.at AS heard_at, extract(epoch FROM clock_timestamp() - h.at)::float8 AS lag_seconds,
           g.certificates, g.events, g.checkpoint_size, g.checkpoint_at,
           coalesce((SELECT max(l.log_index) + 1 FROM log_entry l WHERE l.site = p.site), 0)::bigint AS log_entries,
           (SELECT count(*) FROM finding f WHERE f.site = p.site AND f.ended_at IS NULL) AS findings_open
    FROM plant p JOIN plant_progress g ON g.site = p.site
    LEFT JOIN heartbeat h ON h.site = p.site
    LEFT JOIN pg_stat_subscription s ON s.subname = 'certfactory_' || replace(p.site, '-', '_') AND s.relid IS NULL
    ORDER BY p.site";

const FINDINGS: &str =
    "SELECT site, table_name, row_key, difference, found_at, ended_at FROM finding
    WHERE $1::text IS NULL OR site = $1
    ORDER BY ended_at IS NOT NULL, found_at DESC LIMIT $2";

/// Of one certificate, by the keys of its rows.
const FINDINGS_ABOUT: &str = "SELECT site, table_name, row_key, difference, found_at, ended_at FROM finding
    WHERE site = $1 AND ((table_name IN ('intent', 'outcome') AND row_key = $2)
        OR (table_name = 'life_event' AND row_key LIKE $2 || ' %') OR (table_name = 'log_entry' AND row_key = ANY ($3)))
    ORDER BY found_at";

const ENTRIES_ABOUT: &str =
    "SELECT l.log_index, l.leaf, l.log_index < g.checkpoint_size AS witnessed
    FROM log_entry l JOIN plant_progress g ON g.site = l.site
    WHERE l.site = $1 AND (l.log_index = $2 OR (l.about = $3
        AND l.told IN ('confirmed', 'superseded', 'revoked', 'scrapped')))
    ORDER BY l.log_index";

const ORDERS: &str = "SELECT w.site, w.name, w.profile, w.quantity, w.reserved - w.abandoned AS reserved, w.reworked,
           w.confirmed, w.superseded, w.revoked, w.scrapped, w.closed_at IS NOT NULL AS closed,
           (SELECT t.jti FROM order_ticket t WHERE t.site = w.site AND t.work_order = w.name LIMIT 1) AS ticket
    FROM work_order w
    WHERE ($1::text IS NULL OR w.name = $1) AND ($2::text IS NULL OR w.name > $2)
    ORDER BY w.name, w.site LIMIT $3";

const KEEP_TICKET: &str = "INSERT INTO signed_ticket (jti, site, work_order, ticket, signed_by)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

const TICKET: &str = "SELECT jti, site, work_order, ticket, signed_by, signed_at FROM signed_ticket
    WHERE site = $1 AND work_order = $2";

const TICKETS: &str =
    "SELECT jti, site, work_order, ticket, signed_by, signed_at FROM signed_ticket
    ORDER BY signed_at DESC, jti LIMIT $1";

/// Head office's database.
#[derive(Clone)]
pub struct PgPlants {
    /// Searches, on connections that cannot write.
    archive: PgArchive,
    /// The job's.
    keeper: PgArchive,
}

impl PgPlants {
    /// Connects when first used, on the current Tokio runtime. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 2,
            ..config.clone()
        };
        Ok(Self {
            archive: PgArchive::new(config)?,
            keeper: PgArchive::for_purpose(&own, Purpose::Log)?,
        })
    }
}

impl PlantBook for PgPlants {
    fn plants(&self) -> PortFuture<'_, Result<Vec<PlantState>, LedgerFault>> {
        self.keeper.ask(|connection| {
            Box::pin(async move {
                let rows = sqlx::query(PLANTS).fetch_all(connection).await?;
                rows.iter().map(plant).collect()
            })
        })
    }

    fn findings(
        &self,
        site: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<Finding>, LedgerFault>> {
        self.archive.ask(move |connection| {
            let query = sqlx::query(FINDINGS).bind(site.clone()).bind(limit);
            Box::pin(async move {
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(finding).collect()
            })
        })
    }

    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
    ) -> PortFuture<'_, Result<Page<Placed>, LedgerFault>> {
        Box::pin(self.archive.read(paging(&PLACED, filter, limit, cursor)))
    }

    fn stories(
        &self,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<Vec<Story>, LedgerFault>> {
        let filter = SearchFilter {
            kind: KindFilter::Any,
            serial_number: Some(serial_number),
            ..SearchFilter::default()
        };
        Box::pin(async move {
            let found = self.search(filter, STORIES_MAX, None).await?;
            let mut stories = Vec::new();
            for placed in found.items {
                let about = placed.clone();
                let read = self.archive.ask(move |connection| {
                    let about = about.clone();
                    Box::pin(async move { story(connection, about).await })
                });
                stories.push(read.await?);
            }
            Ok(stories)
        })
    }

    fn orders(
        &self,
        name: Option<String>,
        after: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<OrderAtPlant>, LedgerFault>> {
        self.archive.ask(move |connection| {
            let query = sqlx::query(ORDERS).bind(name.clone()).bind(after.clone());
            let query = query.bind(limit);
            Box::pin(async move {
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(order).collect()
            })
        })
    }

    fn keep_ticket(
        &self,
        jti: String,
        site: String,
        order: String,
        signed: String,
        by: String,
    ) -> PortFuture<'_, Result<SignedTicket, LedgerFault>> {
        self.keeper.ask(move |connection| {
            let keep = sqlx::query(KEEP_TICKET).bind(jti.clone());
            let keep = keep.bind(site.clone()).bind(order.clone());
            let keep = keep.bind(signed.clone()).bind(by.clone());
            let kept = sqlx::query(TICKET).bind(site.clone()).bind(order.clone());
            Box::pin(async move {
                keep.execute(&mut *connection).await?;
                ticket(&kept.fetch_one(connection).await?)
            })
        })
    }

    fn tickets(&self, limit: i64) -> PortFuture<'_, Result<Vec<SignedTicket>, LedgerFault>> {
        self.archive.ask(move |connection| {
            let query = sqlx::query(TICKETS).bind(limit);
            Box::pin(async move {
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(ticket).collect()
            })
        })
    }
}

async fn story(connection: &mut PgConnection, placed: Placed) -> Result<Story, sqlx::Error> {
    let certificate = &placed.certificate;
    let rows = sqlx::query(ENTRIES_ABOUT)
        .bind(&placed.site)
        .bind(certificate.log_index)
        .bind(certificate.serial_number.to_hex())
        .fetch_all(&mut *connection)
        .await?;
    let entries: Result<Vec<StoryEntry>, sqlx::Error> = rows.iter().map(entry).collect();
    let entries = entries?;
    let entry_keys: Vec<String> = entries.iter().map(|it| it.log_index.to_string()).collect();
    let findings = sqlx::query(FINDINGS_ABOUT)
        .bind(&placed.site)
        .bind(certificate.id.to_string())
        .bind(entry_keys)
        .fetch_all(connection)
        .await?;
    let findings: Result<Vec<Finding>, sqlx::Error> = findings.iter().map(finding).collect();
    Ok(Story {
        findings: findings?,
        entries,
        placed,
    })
}

fn entry(row: &PgRow) -> Result<StoryEntry, sqlx::Error> {
    let leaf: &[u8] = row.try_get("leaf")?;
    let entry = Entry::parse(leaf).map_err(|fault| unreadable(&fault.to_string()))?;
    Ok(StoryEntry {
        log_index: row.try_get("log_index")?,
        at: entry.at,
        kind: entry.kind.to_owned(),
        event: entry.value(),
        witnessed: row.try_get("witnessed")?,
    })
}

fn plant(row: &PgRow) -> Result<PlantState, sqlx::Error> {
    let lag_seconds: Option<f64> = row.try_get("lag_seconds")?;
    let most: i32 = row.try_get("late_after_seconds")?;
    let heard_at: Option<DateTime<Utc>> = row.try_get("heard_at")?;
    Ok(PlantState {
        site: row.try_get("site")?,
        feed_up: row.try_get("feed_up")?,
        tables_copying: row.try_get("tables_copying")?,
        feed_errors: row.try_get("feed_errors")?,
        heard_at,
        lag_seconds,
        late_after_seconds: most,
        late: lag_seconds.is_none_or(|lag| lag > f64::from(most)),
        certificates: row.try_get("certificates")?,
        events: row.try_get("events")?,
        log_entries: row.try_get("log_entries")?,
        witnessed_entries: row.try_get("checkpoint_size")?,
        witnessed_at: row.try_get("checkpoint_at")?,
        witnessed: row.try_get("witnessed")?,
        findings_open: row.try_get("findings_open")?,
    })
}

fn finding(row: &PgRow) -> Result<Finding, sqlx::Error> {
    Ok(Finding {
        site: row.try_get("site")?,
        table: row.try_get("table_name")?,
        key: row.try_get("row_key")?,
        difference: row.try_get("difference")?,
        found_at: row.try_get("found_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

fn order(row: &PgRow) -> Result<OrderAtPlant, sqlx::Error> {
    Ok(OrderAtPlant {
        site: row.try_get("site")?,
        order: row.try_get("name")?,
        profile: row.try_get("profile")?,
        quantity: row.try_get("quantity")?,
        reserved: row.try_get("reserved")?,
        reworked: row.try_get("reworked")?,
        confirmed: row.try_get("confirmed")?,
        superseded: row.try_get("superseded")?,
        revoked: row.try_get("revoked")?,
        scrapped: row.try_get("scrapped")?,
        closed: row.try_get("closed")?,
        ticket: row.try_get("ticket")?,
    })
}

fn ticket(row: &PgRow) -> Result<SignedTicket, sqlx::Error> {
    Ok(SignedTicket {
        jti: row.try_get("jti")?,
        site: row.try_get("site")?,
        order: row.try_get("work_order")?,
        ticket: row.try_get("ticket")?,
        signed_by: row.try_get("signed_by")?,
        signed_at: row.try_get("signed_at")?,
    })
}
