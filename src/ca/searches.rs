//! [`Searches`]: reading that may be a little old, for people who look through the ledger.
//!
//! It may be answered by a standby of the database, and then says as of when. What a certificate depends
//! on (replays, recovery, what was issued before, CRLs, orders) is read through
//! [`Archive`](crate::ca::Archive), which never is.

use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::PortFuture;
use crate::ca::SearchFilter;
use crate::ca::export::Exported;

/// What an export brings, page after page.
pub type ExportedPages = mpsc::Receiver<Result<AsOf<Page<Exported>>, LedgerFault>>;

/// Reads the ledger where its being a little old does no harm.
pub trait Searches: Send + Sync {
    /// One page, newest first. Holds everything that was committed before `since`: `Some` of the present is
    /// the ledger as it is.
    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
        since: Option<Instant>,
    ) -> PortFuture<'_, Result<AsOf<Page>, LedgerFault>>;

    /// All matches, newest first, `since` as in a search, from the cursor on: page after page, each read while the one
    /// before it is used, so that memory holds two, of some thousand certificates each. Complete for
    /// what was issued before the first page's time, and nothing comes twice: no later page is older than
    /// the first one.
    ///
    /// The last page has no `next`; a fault is the last that comes. When the pages end without
    /// either, they are not whole.
    fn export(
        &self,
        filter: SearchFilter,
        cursor: Option<Uuid>,
        since: Option<Instant>,
    ) -> ExportedPages;

    /// How the standby is; `None`: there is none. Never blocks.
    fn standby(&self) -> Option<StandbyState>;
}

/// What was read, and as of when.
#[derive(Clone, Debug)]
pub struct AsOf<T> {
    /// What was found.
    pub found: T,
    /// Everything committed until then is in it.
    pub moment: Moment,
}

/// A moment until which a reading holds everything.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By this process's clock that nobody turns.
    pub at: Instant,
    /// By the primary's clock, of what a standby answered; `None`: the primary answered itself.
    pub time: Option<DateTime<Utc>>,
}

impl Moment {
    /// Of a reading from the primary that begins now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            time: None,
        }
    }
}

/// How the standby is.
#[derive(Clone, Debug)]
pub struct StandbyState {
    /// How long ago it was as the primary is: everything committed before is known to be on it.
    pub lag: Duration,
    /// Beyond it nothing is read there.
    pub lag_max: Duration,
    /// Why nothing is read there now; `None`: it is.
    pub fault: Option<String>,
}
