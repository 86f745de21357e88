//! Work orders: the book ([`OrderBook`]), and their part in the transaction "reserve" ([`Locked`]).
//!
//! [`OrderBook`]: crate::ca::order::OrderBook

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::device_pattern::DevicePattern;
use crate::ca::floor::CLOSED_MAX;
use crate::ca::floor::ORDERS_MAX;
use crate::ca::floor::Orders;
use crate::ca::order::Created;
use crate::ca::order::OrderRefusal;
use crate::ca::order::OrderState;
use crate::ca::order::WorkOrder;
use crate::ca::ticket::Redeemed;
use crate::ca::ticket::Ticket;
use crate::ca::ticket::TicketMark;
use crate::db::lane::Job;
use crate::db::row::unreadable;
use crate::db::tickets;
use crate::pki::Violation;

/// The columns [`order`] reads, of a table named `w`. By their names: a statement that is prepared outlives
/// a migration that adds one.
macro_rules! order_columns {
    () => {
        "w.name, w.profile, w.quantity, w.scrap_allowance, w.reworks_max, w.device_first, w.device_last, \
         w.device_pattern, w.stations, w.opens_at, w.closes_at"
    };
}

/// An order, its counts, and how many of its intents are open: the work list is short at any size
/// of the ledger, and one statement sees one moment.
macro_rules! states {
    () => {
        concat!(
            "SELECT ",
            order_columns!(),
            ", w.created_by, w.created_at, w.closed_by, w.closed_at, w.device_count, w.reserved, w.abandoned,
                w.reworked, w.confirmed, w.superseded, w.revoked, w.scrapped,
                coalesce(p.firsts, 0) AS in_progress, coalesce(p.reworks, 0) AS reworks_in_progress,
                t.jti, t.kid, t.sha256
         FROM work_order w
         LEFT JOIN LATERAL (SELECT jti, kid, sha256 FROM order_ticket t
                            WHERE t.work_order = w.name LIMIT 1) t ON true
         LEFT JOIN (SELECT i.work_order, count(*) FILTER (WHERE i.supersedes IS NULL) AS firsts,
                           count(*) FILTER (WHERE i.supersedes IS NOT NULL) AS reworks
                    FROM open_intent o CROSS JOIN LATERAL (
                        SELECT * FROM intent i WHERE i.intent_id = o.intent_id LIMIT 1) i
                    WHERE i.work_order IS NOT NULL GROUP BY i.work_order) p
             ON p.work_order = w.name"
        )
    };
}
const STATE: &str = concat!(states!(), " WHERE w.name = $1");
const LIST: &str = concat!(
    states!(),
    " WHERE w.name > $1 COLLATE \"C\" ORDER BY w.name COLLATE \"C\" LIMIT $2"
);

const OPEN: &str = concat!(
    states!(),
    " WHERE w.closed_at IS NULL ORDER BY w.created_at DESC LIMIT $1"
);
const OPEN_COUNT: &str = "SELECT count(*) FROM work_order WHERE closed_at IS NULL";
const CLOSED: &str = concat!(
    states!(),
    " WHERE w.closed_at IS NOT NULL ORDER BY w.closed_at DESC LIMIT $1"
);

const CREATE: &str = "INSERT INTO work_order
        (name, profile, quantity, device_first, device_last, stations, opens_at, closes_at, created_by,
         scrap_allowance, reworks_max, device_pattern)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT DO NOTHING";

const CLOSE: &str = "UPDATE work_order SET closed_by = $2, closed_at = statement_timestamp()
    WHERE name = $1 AND closed_at IS NULL";

/// In the order of the names: two batches never wait for each other crosswise.
const LOCK: &str = concat!(
    "SELECT ",
    order_columns!(),
    ", w.closed_by, w.device_count,
        quantity - reserved + abandoned + least(scrapped, scrap_allowance) AS room,
        reworks_max - reworked AS reworks_room,
        coalesce(opens_at > statement_timestamp(), false) AS early,
        coalesce(closes_at <= statement_timestamp(), false) AS late
    FROM work_order w WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE"
);

/// Which of these devices are on the lists of their orders. A sub-select, which no join method can
/// turn into a scan of the list.
const ON_LIST: &str = "SELECT b.work_order, b.device
    FROM UNNEST($1::text[], $2::text[]) AS b (work_order, device)
    WHERE (SELECT true FROM order_device d
           WHERE d.work_order = b.work_order AND d.device = b.device)";

/// One question to the book.
pub(super) enum OrderJob {
    Create(WorkOrder, String),
    Redeem(Ticket, String),
    Close(String, String),
    Show(String),
    List(Option<String>, i64),
}

/// The answer to the variant of the same name.
pub(super) enum OrderAnswer {
    Create(Box<Created>),
    Redeem(Box<Redeemed>),
    /// Of `Close`, too.
    Show(Box<Option<OrderState>>),
    List(Vec<OrderState>),
}

impl Job for OrderJob {
    type Answer = OrderAnswer;
    const LANE: &'static str = "orders";
    /// Each is a transaction of its own.
    const BATCH_MAX: usize = 1;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<OrderAnswer, LedgerFault>>, sqlx::Error> {
        if jobs.is_empty() {
            // Asks for the right to close; no order has this name.
            close(connection, "", "").await?;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(Ok(match &**job {
                Self::Create(order, by) => {
                    OrderAnswer::Create(Box::new(create(connection, order, by).await?))
                }
                Self::Redeem(ticket, by) => {
                    OrderAnswer::Redeem(Box::new(tickets::redeem(connection, ticket, by).await?))
                }
                Self::Close(name, by) => {
                    close(connection, name, by).await?;
                    OrderAnswer::Show(Box::new(show(connection, name).await?))
                }
                Self::Show(name) => OrderAnswer::Show(Box::new(show(connection, name).await?)),
                Self::List(after, limit) => {
                    let rows = sqlx::query(LIST)
                        .bind(after.as_deref().unwrap_or_default())
                        .bind(limit)
                        .fetch_all(&mut *connection)
                        .await?;
                    OrderAnswer::List(rows.iter().map(state).collect::<Result<_, _>>()?)
                }
            }));
        }
        Ok(answers)
    }
}

async fn create(
    connection: &mut PgConnection,
    order: &WorkOrder,
    by: &str,
) -> Result<Created, sqlx::Error> {
    let inserted = insert(connection, order, by).await?;
    if let Inserted::Overdrawn = inserted {
        return Ok(Created::Overdrawn);
    }
    let state = show(connection, &order.name)
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    Ok(match inserted {
        Inserted::New => Created::New(state),
        _ if state.order == *order => Created::Same(state),
        _ => Created::Other,
    })
}

/// What came of the row of a new order.
pub(super) enum Inserted {
    New,
    /// There is an order of this name.
    Taken,
    /// What was issued under this name is more than it orders.
    Overdrawn,
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    order: &WorkOrder,
    by: &str,
) -> Result<Inserted, sqlx::Error> {
    let (first, last) = order.devices.clone().unzip();
    let inserted = sqlx::query(CREATE)
        .bind(&order.name)
        .bind(&order.profile)
        .bind(order.quantity)
        .bind(first)
        .bind(last)
        .bind(&order.stations)
        .bind(order.opens_at)
        .bind(order.closes_at)
        .bind(by)
        .bind(order.scrap_allowance)
        .bind(order.reworks_max)
        .bind(order.device_pattern.as_ref().map(DevicePattern::as_str))
        .execute(connection)
        .await;
    match inserted {
        Ok(done) if done.rows_affected() == 1 => Ok(Inserted::New),
        Ok(_) => Ok(Inserted::Taken),
        Err(sqlx::Error::Database(error))
            if matches!(
                error.constraint(),
                Some("work_order_quantity" | "work_order_reworks")
            ) =>
        {
            Ok(Inserted::Overdrawn)
        }
        Err(error) => Err(error),
    }
}

async fn close(connection: &mut PgConnection, name: &str, by: &str) -> Result<(), sqlx::Error> {
    sqlx::query(CLOSE)
        .bind(name)
        .bind(by)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn show(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<OrderState>, sqlx::Error> {
    let row = sqlx::query(STATE)
        .bind(name)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(state).transpose()
}

/// The orders that people look at: open ones, newest first, and those closed last.
pub(super) async fn floor(connection: &mut PgConnection) -> Result<Orders, sqlx::Error> {
    let open = sqlx::query(OPEN)
        .bind(ORDERS_MAX)
        .fetch_all(&mut *connection)
        .await?;
    let open_count = sqlx::query_scalar(OPEN_COUNT)
        .fetch_one(&mut *connection)
        .await?;
    let closed = sqlx::query(CLOSED)
        .bind(CLOSED_MAX)
        .fetch_all(connection)
        .await?;
    Ok(Orders {
        open: open.iter().map(state).collect::<Result<_, _>>()?,
        open_count,
        closed: closed.iter().map(state).collect::<Result<_, _>>()?,
    })
}

fn state(row: &PgRow) -> Result<OrderState, sqlx::Error> {
    let closed_by: Option<String> = row.try_get("closed_by")?;
    let closed_at: Option<_> = row.try_get("closed_at")?;
    let reworked: i64 = row.try_get("reworked")?;
    let reworks_in_progress: i64 = row.try_get("reworks_in_progress")?;
    Ok(OrderState {
        order: order(row)?,
        created: (row.try_get("created_by")?, row.try_get("created_at")?),
        closed: closed_by.zip(closed_at),
        ticket: ticket(row)?,
        device_count: row.try_get("device_count")?,
        reserved: row.try_get("reserved")?,
        abandoned: row.try_get("abandoned")?,
        in_progress: row.try_get("in_progress")?,
        reworked: reworked - reworks_in_progress,
        confirmed: row.try_get("confirmed")?,
        superseded: row.try_get("superseded")?,
        revoked: row.try_get("revoked")?,
        scrapped: row.try_get("scrapped")?,
    })
}

fn ticket(row: &PgRow) -> Result<Option<TicketMark>, sqlx::Error> {
    let Some(jti) = row.try_get("jti")? else {
        return Ok(None);
    };
    let sha256: Vec<u8> = row.try_get("sha256")?;
    let sha256 = sha256
        .try_into()
        .map_err(|_| unreadable("digest of a ticket"))?;
    let kid = row.try_get("kid")?;
    Ok(Some(TicketMark { jti, kid, sha256 }))
}

fn order(row: &PgRow) -> Result<WorkOrder, sqlx::Error> {
    let pattern: Option<&str> = row.try_get("device_pattern")?;
    let device_pattern = pattern
        .map(|text| DevicePattern::parse(text).ok_or_else(|| unreadable("device pattern")))
        .transpose()?;
    let first: Option<String> = row.try_get("device_first")?;
    let last: Option<String> = row.try_get("device_last")?;
    Ok(WorkOrder {
        name: row.try_get("name")?,
        profile: row.try_get("profile")?,
        quantity: row.try_get("quantity")?,
        scrap_allowance: row.try_get("scrap_allowance")?,
        reworks_max: row.try_get("reworks_max")?,
        devices: first.zip(last),
        device_pattern,
        stations: row.try_get("stations")?,
        opens_at: row.try_get("opens_at")?,
        closes_at: row.try_get("closes_at")?,
    })
}

/// The orders that a batch of intents names. Their rows are locked until the transaction ends, so
/// what they have room for stays true.
pub(super) struct Locked {
    rooms: HashMap<String, Room>,
    /// Whether there is a transaction: only when an order was named.
    began: bool,
}

struct Room {
    order: WorkOrder,
    shut: Option<&'static str>,
    left: i64,
    /// `None`: as many as the profile allows.
    reworks_left: Option<i64>,
    /// The batch's devices that are on the order's list. `None`: it has no list.
    listed: Option<HashSet<String>>,
}

impl Room {
    /// What is left for first certificates or for reworks; `None`: without end.
    fn left(&self, rework: bool) -> Option<i64> {
        if rework {
            self.reworks_left
        } else {
            Some(self.left)
        }
    }
}

impl Locked {
    /// Begins a transaction and locks, when any intent names an order.
    pub(super) async fn begin(
        connection: &mut PgConnection,
        intents: &[&Intent],
    ) -> Result<Self, sqlx::Error> {
        let mut names: Vec<&str> = intents.iter().filter_map(|i| i.order.as_deref()).collect();
        let mut rooms: HashMap<String, Room> = HashMap::with_capacity(names.len());
        if names.is_empty() {
            let began = false;
            return Ok(Self { rooms, began });
        }
        names.sort_unstable();
        names.dedup();
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        let rows = sqlx::query(LOCK)
            .bind(names)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let closed: Option<String> = row.try_get("closed_by")?;
            let shut = match (closed, row.try_get("early")?, row.try_get("late")?) {
                (Some(_), _, _) => Some("is closed"),
                (None, true, _) => Some("is not yet open"),
                (None, false, true) => Some("is past its end"),
                (None, false, false) => None,
            };
            let devices: Option<i64> = row.try_get("device_count")?;
            let room = Room {
                order: order(row)?,
                shut,
                left: row.try_get("room")?,
                reworks_left: row.try_get("reworks_room")?,
                listed: devices.map(|_| HashSet::new()),
            };
            rooms.insert(room.order.name.clone(), room);
        }
        let mut locked = Self { rooms, began: true };
        locked.look_up(connection, intents).await?;
        Ok(locked)
    }

    /// Which devices are on the lists; asks nothing where no order has one.
    async fn look_up(
        &mut self,
        connection: &mut PgConnection,
        intents: &[&Intent],
    ) -> Result<(), sqlx::Error> {
        let has_list = |name: &&str| self.rooms.get(*name).is_some_and(|r| r.listed.is_some());
        let (orders, devices): (Vec<&str>, Vec<&str>) = intents
            .iter()
            .filter_map(|i| Some((i.order.as_deref().filter(has_list)?, i.device.as_str())))
            .unzip();
        if orders.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(ON_LIST)
            .bind(orders)
            .bind(devices)
            .fetch_all(connection)
            .await?;
        for row in &rows {
            let room = self.rooms.get_mut(row.try_get::<&str, _>("work_order")?);
            if let Some(listed) = room.and_then(|room| room.listed.as_mut()) {
                listed.insert(row.try_get("device")?);
            }
        }
        Ok(())
    }

    /// Ends the transaction, where there is one.
    pub(super) async fn commit(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.began {
            sqlx::raw_sql("COMMIT").execute(connection).await?;
        }
        Ok(())
    }

    /// Those that may be stored now, and why not the others. An intent beyond what is left waits
    /// for the outcome of those before it.
    pub(super) fn part<'a>(
        &self,
        intents: &[&'a Intent],
    ) -> (Vec<&'a Intent>, Vec<(&'a Intent, OrderRefusal)>) {
        let mut taken: HashMap<(&str, bool), i64> = HashMap::new();
        let (mut fit, mut barred) = (Vec::with_capacity(intents.len()), Vec::new());
        for intent in intents {
            match self.judge(intent, &mut taken) {
                Ok(()) => fit.push(*intent),
                Err(refusal) => barred.push((*intent, refusal)),
            }
        }
        (fit, barred)
    }

    fn judge<'a>(
        &self,
        intent: &'a Intent,
        taken: &mut HashMap<(&'a str, bool), i64>,
    ) -> Result<(), OrderRefusal> {
        let Some(name) = &intent.order else {
            return Ok(());
        };
        let room = self
            .rooms
            .get(name)
            .ok_or_else(|| OrderRefusal::Unknown(name.clone()))?;
        room.order
            .admits(&intent.principal, &intent.profile, &intent.device)?;
        if let Some(listed) = &room.listed
            && !listed.contains(&intent.device)
        {
            let violation = Violation {
                rule: "order-device",
                attribute: None,
                detail: "the device is not on the order's list".to_owned(),
            };
            return Err(OrderRefusal::Mismatch(name.clone(), vec![violation]));
        }
        if let Some(why) = room.shut {
            return Err(OrderRefusal::Closed(name.clone(), why));
        }
        let rework = intent.rework.is_some();
        let taken = taken.entry((name, rework)).or_default();
        if room.left(rework).is_some_and(|left| *taken >= left) {
            let name = name.clone();
            return Err(if rework {
                OrderRefusal::ReworksExhausted(name)
            } else {
                OrderRefusal::Exhausted(name)
            });
        }
        *taken += 1;
        Ok(())
    }

    /// An intent was stored.
    pub(super) fn count(&mut self, intent: &Intent) {
        if let Some(room) = intent
            .order
            .as_ref()
            .and_then(|name| self.rooms.get_mut(name))
        {
            match (&intent.rework, &mut room.reworks_left) {
                (None, _) => room.left -= 1,
                (Some(_), Some(left)) => *left -= 1,
                (Some(_), None) => {}
            }
        }
    }

    fn has_left(&self, name: &str, rework: bool) -> bool {
        let room = self.rooms.get(name);
        room.is_some_and(|room| room.left(rework).is_none_or(|left| left > 0))
    }

    /// Whether a refusal could still change within this batch: there is room again.
    pub(super) fn may_change(&self, refusal: &OrderRefusal) -> bool {
        match refusal {
            OrderRefusal::Exhausted(name) => self.has_left(name, false),
            OrderRefusal::ReworksExhausted(name) => self.has_left(name, true),
            _ => false,
        }
    }
}
