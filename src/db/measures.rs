//! How work orders, partitions and backups stand, for those who watch over the service.

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::LedgerFault;
use crate::db::archive::PgArchive;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::Failure;

/// Orders that are not closed are few. As [`crate::ca::order::OrderState`] counts.
const ORDERS: &str = "
    WITH o AS (
        SELECT quantity, reserved - abandoned AS used, confirmed, scrapped,
               quantity + least(scrapped, scrap_allowance) AS places
        FROM work_order
        WHERE closed_at IS NULL AND (closes_at IS NULL OR closes_at > statement_timestamp()))
    SELECT count(*) FILTER (WHERE used < places) AS open, count(*) FILTER (WHERE used >= places) AS used_up,
           coalesce(max(used / places::float8) FILTER (WHERE used < places), 0) AS used_max,
           coalesce(sum(quantity), 0)::bigint AS ordered, coalesce(sum(used), 0)::bigint AS issued,
           coalesce(sum(confirmed), 0)::bigint AS confirmed, coalesce(sum(scrapped), 0)::bigint AS scrapped,
           coalesce(sum(places - used), 0)::bigint AS remaining
    FROM o";

/// As `make_partitions` names them. What is in a default partition may not be read, but its length.
const PARTITIONS: &str = "
    WITH now AS (SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') AS month),
    size AS (SELECT size, 1048576 AS width FROM log_head)
    SELECT (SELECT coalesce(min(n), 13) - 1 FROM now, generate_series(0, 12) n
            WHERE to_regclass('intent' || to_char(month + n * interval '1 month', '_YYYY_MM')) IS NULL) AS intent_months,
           (SELECT coalesce(min(n), 13) - 1 FROM now, generate_series(0, 12) n
            WHERE to_regclass('outcome' || to_char(month + n * interval '1 month', '_YYYY_MM')) IS NULL) AS outcome_months,
           (SELECT (size / width + coalesce(min(n), 13)) * width - size FROM size, generate_series(0, 12) n
            WHERE to_regclass('log_entry_' || size / width + n) IS NULL GROUP BY size, width) AS log_entries,
           (SELECT extract(epoch FROM clock_timestamp() - max(made_at))::float8 FROM backup) AS backup_age,
           pg_relation_size('intent_default') AS intent_default,
           pg_relation_size('outcome_default') AS outcome_default,
           pg_relation_size('log_entry_default') AS log_entry_default";

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Measures {
    /// Work orders that are not closed and have room.
    pub orders_open: i64,
    /// Work orders that are not closed and have none.
    pub orders_used_up: i64,
    /// Share that is used of the order that is used most and has room.
    pub order_used_max: f64,
    /// Devices of the orders that are not closed, by what is said of them.
    pub order_devices: [(&'static str, i64); 5],
    /// Months after this one that have their partition, by table; -1: not even this one has.
    pub months_ahead: [(&'static str, i32); 2],
    /// Entries of the log for which there are partitions.
    pub log_entries_ahead: i64,
    /// Octets of the default partitions, by table.
    pub default_octets: [(&'static str, i64); 3],
    /// Seconds since the last backup; `None`: there was none.
    pub backup_age: Option<f64>,
}

/// Asks for it, on a connection of its own.
pub struct PgMeasures(PgArchive);

impl PgMeasures {
    /// Connects when first used. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 1,
            ..config.clone()
        };
        PgArchive::for_purpose(&own, Purpose::Archive).map(Self)
    }

    /// How they stand now.
    pub async fn measure(&self) -> Result<Measures, LedgerFault> {
        self.0
            .read(|reader| async move {
                let mut connection = reader.acquire().await?;
                let orders = sqlx::query(ORDERS).fetch_one(connection.get()?).await;
                let orders = orders.map_err(|e| Failure::from(&e))?;
                let partitions = sqlx::query(PARTITIONS).fetch_one(connection.get()?).await;
                let partitions = partitions.map_err(|e| Failure::from(&e))?;
                let measures = measures(&orders, &partitions).map_err(|e| Failure::from(&e))?;
                connection.release();
                Ok(measures)
            })
            .await
    }
}

fn measures(orders: &PgRow, partitions: &PgRow) -> Result<Measures, sqlx::Error> {
    let devices = |state| Ok::<_, sqlx::Error>((state, orders.try_get(state)?));
    Ok(Measures {
        orders_open: orders.try_get("open")?,
        orders_used_up: orders.try_get("used_up")?,
        order_used_max: orders.try_get("used_max")?,
        order_devices: [
            devices("ordered")?,
            devices("issued")?,
            devices("confirmed")?,
            devices("scrapped")?,
            devices("remaining")?,
        ],
        months_ahead: [
            ("intent", partitions.try_get("intent_months")?),
            ("outcome", partitions.try_get("outcome_months")?),
        ],
        log_entries_ahead: partitions.try_get("log_entries")?,
        backup_age: partitions.try_get("backup_age")?,
        default_octets: [
            ("intent", partitions.try_get("intent_default")?),
            ("outcome", partitions.try_get("outcome_default")?),
            ("log_entry", partitions.try_get("log_entry_default")?),
        ],
    })
}
