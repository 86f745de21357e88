//! [`PgFloor`]: what the floor shows, on two connections of its own: whoever looks waits for no search,
//! and keeps nothing else from working.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Role;
use crate::ca::batch::Batch;
use crate::ca::floor::BATCHES_MAX;
use crate::ca::floor::Edge;
use crate::ca::floor::FloorBook;
use crate::ca::floor::Orders;
use crate::ca::floor::Person;
use crate::ca::searches::AsOf;
use crate::db::batches;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::orders;
use crate::db::row::signed;
use crate::db::row::unreadable;
use crate::db::row::unsigned;
use crate::db::standby::Reading;
use crate::db::standby::Standby;
use crate::pki::entry::Glance;

const EDGE: &str =
    "SELECT clock_timestamp() AS now, h.size, h.halted, c.size AS proved, c.created_at
    FROM log_head h LEFT JOIN LATERAL (
        SELECT * FROM checkpoint k ORDER BY k.size DESC LIMIT 1) c ON true";

/// Of a certificate's entry the beginning and who asked for it, and of any other all: a certificate's is
/// over a thousand octets, and there are thousands a second.
const GLANCES: &str = r#"SELECT CASE WHEN i.place > 0 THEN substring(e.leaf FROM 1 FOR 200) ELSE e.leaf END AS head,
        CASE WHEN i.place > 0 THEN substring(e.leaf FROM i.place + 11 FOR 66) END AS station
    FROM log_entry e CROSS JOIN LATERAL (
        SELECT CASE WHEN substring(e.leaf FROM 1 FOR 100) LIKE '%","kind":"issued","event":%'::bytea
                    THEN position('"station":"'::bytea IN e.leaf) END AS place) i
    WHERE e.log_index >= $1 AND e.log_index < $2"#;

/// Of each the newest intent: the last of an index.
const PEOPLE: &str = "SELECT p.name, p.role, p.disabled,
        EXISTS (SELECT FROM principal_key k WHERE k.name = p.name
                AND (k.dies_at IS NULL OR k.dies_at > statement_timestamp())) AS enrolled,
        (SELECT i.intent_id FROM intent i WHERE i.principal = p.name
         ORDER BY i.intent_id DESC LIMIT 1) AS newest
    FROM principal p ORDER BY p.name";

/// The floor in PostgreSQL.
pub struct PgFloor(Reading);

impl PgFloor {
    /// Connects when first used, on the current Tokio runtime. Fails only when a URL is none.
    pub fn new(config: &DbConfig, standby: Option<&Arc<Standby>>) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 2,
            ..config.clone()
        };
        Reading::for_purpose(&own, standby, Purpose::Floor).map(Self)
    }
}

impl FloorBook for PgFloor {
    fn edge(&self) -> PortFuture<'_, Result<Edge, LedgerFault>> {
        let asked = self.0.ask(None, |connection| {
            Box::pin(async move {
                let row = sqlx::query(EDGE).fetch_one(connection).await?;
                let proved: Option<i64> = row.try_get("proved")?;
                let proved = proved.map(unsigned).transpose()?;
                let checkpoint = proved.zip(row.try_get("created_at")?);
                let size = unsigned(row.try_get("size")?)?;
                Ok((
                    row.try_get("now")?,
                    size,
                    row.try_get("halted")?,
                    checkpoint,
                ))
            })
        });
        Box::pin(async move {
            let AsOf { found, moment } = asked.await?;
            let (now, size, halted, checkpoint) = found;
            Ok(Edge {
                // A standby's hour ends where what it has does.
                now: moment.time.unwrap_or(now),
                at: moment.at,
                size,
                halted,
                checkpoint,
            })
        })
    }

    fn glances(
        &self,
        places: Range<u64>,
        since: Instant,
    ) -> PortFuture<'_, Result<Vec<Glance>, LedgerFault>> {
        let asked = self.0.ask(Some(since), move |connection| {
            Box::pin(glances(connection, places.clone()))
        });
        found(asked)
    }

    fn orders(&self, since: Option<Instant>) -> PortFuture<'_, Result<Orders, LedgerFault>> {
        found(
            self.0
                .ask(since, |connection| Box::pin(orders::floor(connection))),
        )
    }

    fn batches(&self, since: Option<Instant>) -> PortFuture<'_, Result<Vec<Batch>, LedgerFault>> {
        found(self.0.ask(since, |connection| {
            Box::pin(batches::list(connection, None, BATCHES_MAX))
        }))
    }

    fn people(&self, since: Option<Instant>) -> PortFuture<'_, Result<Vec<Person>, LedgerFault>> {
        found(self.0.ask(since, |connection| Box::pin(people(connection))))
    }
}

/// What was found alone.
fn found<'a, T: Send + 'a>(
    asked: PortFuture<'a, Result<AsOf<T>, LedgerFault>>,
) -> PortFuture<'a, Result<T, LedgerFault>> {
    Box::pin(async move { Ok(asked.await?.found) })
}

async fn glances(
    connection: &mut PgConnection,
    places: Range<u64>,
) -> Result<Vec<Glance>, sqlx::Error> {
    let rows = sqlx::query(GLANCES)
        .bind(signed(places.start)?)
        .bind(signed(places.end)?)
        .fetch_all(connection)
        .await?;
    let glance = |row: &sqlx::postgres::PgRow| {
        let (head, station): (&[u8], Option<&[u8]>) =
            (row.try_get("head")?, row.try_get("station")?);
        Glance::parse(head, station).map_err(|_| unreadable("entry of the log"))
    };
    rows.iter().map(glance).collect()
}

async fn people(connection: &mut PgConnection) -> Result<Vec<Person>, sqlx::Error> {
    let rows = sqlx::query(PEOPLE).fetch_all(connection).await?;
    let person = |row: &sqlx::postgres::PgRow| {
        let role: &str = row.try_get("role")?;
        let newest: Option<Uuid> = row.try_get("newest")?;
        Ok(Person {
            name: row.try_get("name")?,
            role: Role::from_word(role).ok_or_else(|| unreadable("role"))?,
            disabled: row.try_get("disabled")?,
            enrolled: row.try_get("enrolled")?,
            last_intent: newest.and_then(intended_at),
        })
    };
    rows.iter().map(person).collect()
}

/// An intent's id holds the service's time of the request.
fn intended_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}
