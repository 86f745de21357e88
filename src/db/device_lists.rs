//! Transaction "list": an order's device list, whole or not at all.
//!
//! On a connection of its own, so that a million rows hold up nothing: neither the lane of the
//! orders nor, since the order's row is locked only at the end, those who book on it.

use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;

use crate::ca::order::DeviceList;
use crate::ca::order::Listed;
use crate::db::orders;

/// Rows of one statement: each stays far below the server's time limit.
const CHUNK: usize = 20_000;

const STATE: &str = "SELECT o.device_list_sha256 = $2 AS same, o.reserved > 0 AS begun,
        o.closed_by IS NOT NULL AS closed,
        (SELECT true FROM order_ticket t WHERE t.work_order = o.name) IS NOT NULL AS ticketed
    FROM work_order o WHERE o.name = $1";

const ADD: &str = "INSERT INTO order_device (work_order, device)
    SELECT $1, d.device FROM UNNEST($2::text[]) AS d (device)";

/// The compare-and-swap that puts the list in force.
const COMPLETE: &str = "UPDATE work_order SET device_count = $2, device_list_sha256 = $3
    WHERE name = $1 AND device_count IS NULL AND reserved = 0 AND closed_by IS NULL";

/// Stores the list, or says why not.
pub(super) async fn store(
    connection: &mut PgConnection,
    name: &str,
    list: &DeviceList,
) -> Result<Listed, sqlx::Error> {
    if let Some(answer) = settled(connection, name, list).await? {
        return Ok(answer);
    }
    let count = i64::try_from(list.devices.len()).unwrap_or(i64::MAX);
    let mut transaction = connection.begin().await?;
    for devices in list.devices.chunks(CHUNK) {
        sqlx::query(ADD)
            .bind(name)
            .bind(devices)
            .execute(&mut *transaction)
            .await?;
    }
    let swapped = sqlx::query(COMPLETE)
        .bind(name)
        .bind(count)
        .bind(&list.sha256[..])
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    if swapped == 1 {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    settled(connection, name, list)
        .await?
        .ok_or(sqlx::Error::RowNotFound)
}

/// The answer, where it does not depend on storing the list.
async fn settled(
    connection: &mut PgConnection,
    name: &str,
    list: &DeviceList,
) -> Result<Option<Listed>, sqlx::Error> {
    let row = sqlx::query(STATE)
        .bind(name)
        .bind(&list.sha256[..])
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else {
        return Ok(Some(Listed::Unknown));
    };
    Ok(match row.try_get("same")? {
        Some(true) => {
            let state = orders::show(connection, name).await?;
            let state = state.ok_or(sqlx::Error::RowNotFound)?;
            Some(Listed::InForce(Box::new(state)))
        }
        Some(false) => Some(Listed::Late("it has another list")),
        None if row.try_get("ticketed")? => Some(Listed::Late(
            "it came by ticket, and nothing is added to such an order",
        )),
        None if row.try_get("closed")? => Some(Listed::Late("it is closed")),
        None if row.try_get("begun")? => Some(Listed::Late("it has its first device already")),
        None => None,
    })
}
