//! Transaction "redeem": a ticket's row and the order it brings, both or neither.

use sqlx::PgConnection;
use sqlx::Row;

use crate::ca::ticket::Redeemed;
use crate::ca::ticket::Ticket;
use crate::db::orders;
use crate::db::orders::Inserted;

const USED: &str = "SELECT work_order, sha256 = $2 AS same FROM order_ticket WHERE jti = $1";

/// The database's time decides, as it does over the order itself.
const TIMELY: &str = "SELECT coalesce($1 > statement_timestamp(), false) AS early,
        $2 <= statement_timestamp() AS late";

const USE: &str = "INSERT INTO order_ticket (jti, work_order, kid, iss, issued_at, sha256, ticket)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

/// Creates the order that the ticket brings. A ticket that was used is answered whatever its time.
pub(super) async fn redeem(
    connection: &mut PgConnection,
    ticket: &Ticket,
    by: &str,
) -> Result<Redeemed, sqlx::Error> {
    if let Some(answer) = used(connection, ticket).await? {
        return Ok(answer);
    }
    let times = sqlx::query(TIMELY)
        .bind(ticket.not_before)
        .bind(ticket.expires_at)
        .fetch_one(&mut *connection)
        .await?;
    if times.try_get("late")? {
        return Ok(Redeemed::Expired);
    }
    if times.try_get("early")? {
        return Ok(Redeemed::Early);
    }
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let refused = match orders::insert(connection, &ticket.order, by).await? {
        Inserted::New if store(connection, ticket).await? => {
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
            let state = orders::show(connection, &ticket.order.name).await?;
            return Ok(Redeemed::New(state.ok_or(sqlx::Error::RowNotFound)?));
        }
        Inserted::New => Redeemed::Replayed,
        Inserted::Taken => Redeemed::Widened,
        Inserted::Overdrawn => Redeemed::Overdrawn,
    };
    sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
    // Another connection may have used this very ticket in between.
    Ok(used(connection, ticket).await?.unwrap_or(refused))
}

/// What became of the ticket's number, where it was used.
async fn used(
    connection: &mut PgConnection,
    ticket: &Ticket,
) -> Result<Option<Redeemed>, sqlx::Error> {
    let row = sqlx::query(USED)
        .bind(&ticket.jti)
        .bind(&ticket.sha256[..])
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if !row.try_get("same")? {
        return Ok(Some(Redeemed::Replayed));
    }
    let order: String = row.try_get("work_order")?;
    let state = orders::show(connection, &order).await?;
    state
        .map(|state| Some(Redeemed::Same(state)))
        .ok_or(sqlx::Error::RowNotFound)
}

/// Whether the ticket's number was free.
async fn store(connection: &mut PgConnection, ticket: &Ticket) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(USE)
        .bind(&ticket.jti)
        .bind(&ticket.order.name)
        .bind(&ticket.kid)
        .bind(&ticket.iss)
        .bind(ticket.issued_at)
        .bind(&ticket.sha256[..])
        .bind(ticket.compact.as_bytes())
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected() == 1)
}
