//! The floor: how the line does now, for people who look, however many they are.
//!
//! What the last hour was is counted from the log, which tells of every certificate, confirmation and
//! refusal of all replicas, in one order: each entry is read once by each replica that somebody looks
//! at ([`tally`]). All who look share one reading ([`shared`]), so that it is the same work for the database
//! whether one looks or fifty, and none while nobody does.

pub mod shared;
pub mod tally;

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Role;
use crate::ca::batch::Batch;
use crate::ca::floor::shared::Seen;
use crate::ca::floor::shared::Shared;
use crate::ca::floor::tally::Hour;
use crate::ca::floor::tally::Tally;
use crate::ca::order::OrderState;
use crate::pki::entry::Glance;

/// How often the log is read again, at most.
const HOUR_EVERY: Duration = Duration::from_secs(2);
/// The same of what changes more slowly, or costs more.
const LISTS_EVERY: Duration = Duration::from_secs(4);
/// Entries that are counted at a time.
const ENTRIES: u64 = 10_000;
/// The same of those before now while somebody waits.
const ENTRIES_AT_ONCE: u64 = 1_000;
/// After a pause with more entries than this, the last hour is counted anew.
const GAP_MAX: u64 = 100_000;
/// An hour is counted back with so many parts of rest to one of work.
const REST: u32 = 30;
/// It is counted back while somebody has looked within this time.
const LOOKED_WITHIN: Duration = Duration::from_mins(1);
/// Open work orders that are shown, and closed ones, at most.
pub const ORDERS_MAX: i64 = 100;
/// Closed work orders that are shown, at most.
pub const CLOSED_MAX: i64 = 20;
/// Batches that are shown, at most.
pub const BATCHES_MAX: i64 = 30;

/// Reads for the floor, on connections of its own; maybe on a standby.
pub trait FloorBook: Send + Sync {
    /// Where the log ends, and what time it is there.
    fn edge(&self) -> PortFuture<'_, Result<Edge, LedgerFault>>;

    /// What counts of these entries, in no order. Those that are archived are left out. Everything is
    /// there that was committed before `since`.
    fn glances(
        &self,
        places: Range<u64>,
        since: Instant,
    ) -> PortFuture<'_, Result<Vec<Glance>, LedgerFault>>;

    /// Open work orders, newest first, [`ORDERS_MAX`] at most; then those closed last. With all that was
    /// committed before `since`, as the following.
    fn orders(&self, since: Option<Instant>) -> PortFuture<'_, Result<Orders, LedgerFault>>;

    /// The newest batches, [`BATCHES_MAX`] at most.
    fn batches(&self, since: Option<Instant>) -> PortFuture<'_, Result<Vec<Batch>, LedgerFault>>;

    /// All who are registered, by name.
    fn people(&self, since: Option<Instant>) -> PortFuture<'_, Result<Vec<Person>, LedgerFault>>;
}

/// Where the log ends.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Database time: everything committed before is counted.
    pub now: DateTime<Utc>,
    /// The same moment, by this process's clock that nobody turns.
    pub at: Instant,
    /// Entries in it.
    pub size: u64,
    /// Why nothing is appended; `None`: entries are.
    pub halted: Option<String>,
    /// Entries of the newest signed tree, and when it was stored; `None` before the first.
    pub checkpoint: Option<(u64, DateTime<Utc>)>,
}

/// Work orders, as far as they are shown.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Newest first.
    pub open: Vec<OrderState>,
    /// How many are open.
    pub open_count: i64,
    /// Those closed last, first.
    pub closed: Vec<OrderState>,
}

/// Somebody who is registered.
#[derive(Clone, Debug)]
pub struct Person {
    /// Unique name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// True: may do nothing.
    pub disabled: bool,
    /// Whether they have a key to connect with.
    pub enrolled: bool,
    /// When they last asked for a certificate that was intended, by the service's clock.
    pub last_intent: Option<DateTime<Utc>>,
}

/// The log's last hour, as it was read.
#[derive(Clone, Debug)]
pub struct Now {
    /// Where the log ended.
    pub edge: Edge,
    /// What it told.
    pub hour: Hour,
}

/// The floor, as this replica shows it.
pub struct Floor {
    book: Arc<dyn FloorBook>,
    tally: tokio::sync::Mutex<Tally>,
    counting_back: AtomicBool,
    looked: Mutex<Option<Instant>>,
    /// When somebody last changed what is seen.
    changed: Mutex<Option<Instant>>,
    now: Shared<Now>,
    orders: Shared<Orders>,
    batches: Shared<Vec<Batch>>,
    people: Shared<Vec<Person>>,
}

impl Floor {
    /// Nothing is read before somebody looks.
    #[must_use]
    pub fn new(book: Arc<dyn FloorBook>) -> Arc<Self> {
        Arc::new(Self {
            book,
            tally: tokio::sync::Mutex::default(),
            counting_back: AtomicBool::new(false),
            looked: Mutex::default(),
            changed: Mutex::default(),
            now: Shared::new(HOUR_EVERY),
            orders: Shared::new(LISTS_EVERY),
            batches: Shared::new(LISTS_EVERY),
            people: Shared::new(LISTS_EVERY),
        })
    }

    /// The last hour.
    pub async fn now(self: &Arc<Self>) -> Seen<Now> {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let floor = Arc::clone(self);
        self.now
            .look(Box::pin(async move { floor.read_now().await }))
            .await
    }

    /// The work orders.
    pub async fn orders(self: &Arc<Self>) -> Seen<Orders> {
        let (book, since) = (Arc::clone(&self.book), self.last_change());
        self.orders
            .look(Box::pin(async move { book.orders(since).await }))
            .await
    }

    /// The newest batches.
    pub async fn batches(self: &Arc<Self>) -> Seen<Vec<Batch>> {
        let (book, since) = (Arc::clone(&self.book), self.last_change());
        self.batches
            .look(Box::pin(async move { book.batches(since).await }))
            .await
    }

    /// All who are registered.
    pub async fn people(self: &Arc<Self>) -> Seen<Vec<Person>> {
        let (book, since) = (Arc::clone(&self.book), self.last_change());
        self.people
            .look(Box::pin(async move { book.people(since).await }))
            .await
    }

    /// Somebody has just changed what is seen: whoever looks next sees it.
    pub fn changed(&self) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.orders.forget();
        self.batches.forget();
        self.people.forget();
    }

    /// Counts what is new, and something of what was before it.
    async fn read_now(self: &Arc<Self>) -> Result<Now, LedgerFault> {
        let edge = self.book.edge().await?;
        let mut tally = self.tally.lock().await;
        if tally.gap(edge.size) > GAP_MAX {
            *tally = Tally::default();
        }
        tally.begin(edge.size);
        while let Some(places) = tally.ahead(edge.size, ENTRIES) {
            let glances = self.book.glances(places.clone(), edge.at).await?;
            tally.add(places, &glances, edge.now);
        }
        if let Some(places) = tally.behind(ENTRIES_AT_ONCE) {
            let glances = self.book.glances(places.clone(), edge.at).await?;
            tally.add(places, &glances, edge.now);
        }
        let hour = tally.hour(edge.now);
        if hour.whole_from.is_some() && !self.counting_back.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).count_back());
        }
        Ok(Now { edge, hour })
    }

    /// Counts back to an hour ago, with rests: the line comes first.
    async fn count_back(self: Arc<Self>) {
        while self.is_looked_at() {
            let start = Instant::now();
            let mut tally = self.tally.lock().await;
            let Some(places) = tally.behind(ENTRIES) else {
                break;
            };
            let Ok(edge) = self.book.edge().await else {
                break;
            };
            let Ok(glances) = self.book.glances(places.clone(), edge.at).await else {
                break;
            };
            tally.add(places, &glances, edge.now);
            drop(tally);
            tokio::time::sleep(start.elapsed() * REST).await;
        }
        self.counting_back.store(false, Ordering::Relaxed);
    }

    fn last_change(&self) -> Option<Instant> {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_looked_at(&self) -> bool {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.is_some_and(|at| at.elapsed() < LOOKED_WITHIN)
    }
}
