//! Head office: what all plants published, read as one, and held against each plant's log.
//!
//! It issues nothing. What it knows came by replication; what it says of a plant is that the plant's rows
//! agree with the plant's own log, and the log with the checkpoints that the plant signed.

pub mod compare;
pub mod tickets;

use std::sync::Arc;

use chrono::DateTime;
use chrono::Utc;
use serde::Serialize;
use uuid::Uuid;

use crate::ca::Clock;
use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::PortFuture;
use crate::ca::SearchFilter;
use crate::ca::export::Exported;
use crate::ca::headquarters::tickets::SignedTicket;
use crate::ca::headquarters::tickets::TicketDesk;
use crate::pki::serial::SerialNumber;

/// A plant, as head office sees it. Counts are of one moment.
#[derive(Clone, Debug, Serialize)]
pub struct PlantState {
    /// The site's name.
    pub site: String,
    /// Whether its feed is connected now.
    pub feed_up: bool,
    /// Tables whose first copy is not complete.
    pub tables_copying: i64,
    /// How often its rows could not be stored, since it was added.
    pub feed_errors: i64,
    /// The plant's database time of the newest sign of life that came; null while none did.
    pub heard_at: Option<DateTime<Utc>>,
    /// Seconds from then to now, by head office's database; null while none came.
    pub lag_seconds: Option<f64>,
    /// Seconds after which it is late.
    pub late_after_seconds: i32,
    /// Whether it is.
    pub late: bool,
    /// Certificates that were held against the log.
    pub certificates: i64,
    /// Events of certificates that were held against the log.
    pub events: i64,
    /// Entries of its log that are here.
    pub log_entries: i64,
    /// Entries of the last checkpoint that its key signed and that has the root of the entries here.
    pub witnessed_entries: i64,
    /// When the plant made it.
    pub witnessed_at: Option<DateTime<Utc>>,
    /// Whether checkpoints are looked at: its log key is known.
    pub witnessed: bool,
    /// Rows that do not agree, and are not put right.
    pub findings_open: i64,
}

/// A row of a plant that does not agree with what the plant gave before, or with its log.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The plant.
    pub site: String,
    /// The table.
    pub table: String,
    /// The row's key.
    pub key: String,
    /// What differs, for people.
    pub difference: String,
    /// Head office's database time.
    pub found_at: DateTime<Utc>,
    /// When the plant had put it right; null while it has not.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A certificate and where it was made.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The plant.
    pub site: String,
    /// The certificate.
    pub certificate: Exported,
}

/// Something in a plant's log that is about one certificate.
#[derive(Clone, Debug, Serialize)]
pub struct StoryEntry {
    /// Place in the plant's log.
    pub log_index: i64,
    /// The plant's database time.
    pub at: DateTime<Utc>,
    /// `issued`, `confirmed`, `superseded`, `revoked` or `scrapped`.
    pub kind: String,
    /// The entry's event, as it stands.
    pub event: serde_json::Value,
    /// Whether a checkpoint that was witnessed here covers it.
    pub witnessed: bool,
}

/// A certificate's life, from its plant's log, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Story {
    /// The certificate.
    pub placed: Placed,
    /// Oldest first.
    pub entries: Vec<StoryEntry>,
    /// About its rows.
    pub findings: Vec<Finding>,
}

/// An order at one plant.
#[derive(Clone, Debug, Serialize)]
pub struct OrderAtPlant {
    /// The plant.
    pub site: String,
    /// The order's name.
    pub order: String,
    /// Profile's name.
    pub profile: String,
    /// Devices that may be certified under it.
    pub quantity: i64,
    /// Intents of first certificates, those without a certificate for ever not among them.
    pub reserved: i64,
    /// Certificates of reworks.
    pub reworked: i64,
    /// Certificates of this status.
    pub confirmed: i64,
    /// Certificates of this status.
    pub superseded: i64,
    /// Certificates of this status.
    pub revoked: i64,
    /// Certificates of this status.
    pub scrapped: i64,
    /// Whether it is closed.
    pub closed: bool,
    /// Number of the ticket it came by.
    pub ticket: Option<String>,
}

/// What head office keeps.
pub trait PlantBook: Send + Sync {
    /// All plants, by name.
    fn plants(&self) -> PortFuture<'_, Result<Vec<PlantState>, LedgerFault>>;

    /// Of one plant or of all: those that are not put right, then the others, the newest first; at most
    /// `limit`.
    fn findings(
        &self,
        site: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<Finding>, LedgerFault>>;

    /// One page of certificates of all plants, newest first.
    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
    ) -> PortFuture<'_, Result<Page<Placed>, LedgerFault>>;

    /// The lives of all certificates of this number: more than one only where two plants share a serial
    /// number, which is a fault.
    fn stories(
        &self,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<Vec<Story>, LedgerFault>>;

    /// Orders at all plants, by name and plant, after the order `after`; or those of one name.
    fn orders(
        &self,
        name: Option<String>,
        after: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<OrderAtPlant>, LedgerFault>>;

    /// Keeps a ticket, and answers with the one that is kept for this order and plant: this one, or an
    /// earlier.
    fn keep_ticket(
        &self,
        jti: String,
        site: String,
        order: String,
        ticket: String,
        by: String,
    ) -> PortFuture<'_, Result<SignedTicket, LedgerFault>>;

    /// Tickets that were signed, the newest first; at most `limit`.
    fn tickets(&self, limit: i64) -> PortFuture<'_, Result<Vec<SignedTicket>, LedgerFault>>;
}

/// Head office and its neighbours.
pub struct Headquarters {
    /// What it keeps.
    pub book: Arc<dyn PlantBook>,
    /// What signs tickets; `None`: none are signed here.
    pub tickets: Option<TicketDesk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
