//! Work orders: how many devices may be certified, of which profile, by whom and until when.
//!
//! The definition never changes; what changes is the count, which the ledger keeps in the
//! transaction of the intents it counts. [`WorkOrder::admits`] is the rule for one intent.

use chrono::{DateTime, Utc};

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::device_pattern::DevicePattern;
use crate::ca::report::Closing;
use crate::ca::ticket::Redeemed;
use crate::ca::ticket::Ticket;
use crate::ca::ticket::TicketMark;
use crate::pki::Violation;

/// Longest name, in octets.
pub const NAME_LENGTH_MAX: usize = 64;

/// Whether an order could have this name: 1 to 64 printable ASCII characters without space, none of
/// which would mean something else in an address.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_LENGTH_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#%".contains(&b))
        && text != "."
        && text != ".."
        && text != "tickets"
}

/// What an operator ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkOrder {
    /// Unique name; see [`is_name`].
    pub name: String,
    /// The one profile it is for.
    pub profile: String,
    /// Devices that may be certified under it, beside those that replace scrapped ones; 1 or more.
    pub quantity: i64,
    /// Scrapped devices whose places may be given to others.
    pub scrap_allowance: i64,
    /// Reworks it allows; `None`: those that the profile allows each device.
    pub reworks_max: Option<i64>,
    /// First and last device identity, of one length, compared octet by octet. `None`: any device.
    pub devices: Option<(String, String)>,
    /// What a device identity looks like. `None`: anything.
    pub device_pattern: Option<DevicePattern>,
    /// Principals who may book on it. Empty: every one who may issue.
    pub stations: Vec<String>,
    /// Database time from which it may be booked on.
    pub opens_at: Option<DateTime<Utc>>,
    /// Database time from which it may no longer.
    pub closes_at: Option<DateTime<Utc>>,
}

/// A work order and where it stands. All counts are of one moment.
#[derive(Clone, Debug)]
pub struct OrderState {
    /// What was ordered.
    pub order: WorkOrder,
    /// Who created it, and when (database time).
    pub created: (String, DateTime<Utc>),
    /// Who closed it, and when (database time); for ever.
    pub closed: Option<(String, DateTime<Utc>)>,
    /// The ticket it came by; `None`: an operator of the site created it.
    pub ticket: Option<TicketMark>,
    /// Identities on its device list; `None`: it has none.
    pub device_count: Option<i64>,
    /// Intents of first certificates stored under it.
    pub reserved: i64,
    /// Those of them that ended without a certificate and gave their place back.
    pub abandoned: i64,
    /// Those of them without an outcome yet.
    pub in_progress: i64,
    /// Certificates that reworks were issued under it, beside the first ones.
    pub reworked: i64,
    /// Its certificates of this status, first ones and reworks.
    pub confirmed: i64,
    /// Its certificates of this status.
    pub superseded: i64,
    /// Its certificates of this status.
    pub revoked: i64,
    /// Its certificates of this status: one a device.
    pub scrapped: i64,
}

impl OrderState {
    /// Devices certified under it.
    #[must_use]
    pub fn issued(&self) -> i64 {
        self.reserved - self.abandoned - self.in_progress
    }

    /// Devices that may still be certified.
    #[must_use]
    pub fn remaining(&self) -> i64 {
        let replaced = self.scrapped.min(self.order.scrap_allowance);
        self.order.quantity - self.reserved + self.abandoned + replaced
    }

    /// Certificates that have not ended.
    #[must_use]
    pub fn live(&self) -> i64 {
        self.issued() + self.reworked - self.superseded - self.revoked - self.scrapped
    }
}

/// Why a work order does not take a new device. What was issued under it before is still answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OrderRefusal {
    /// There is no such order.
    #[error("there is no work order `{0}`")]
    Unknown(String),
    /// Closed, past its end, or not yet open.
    #[error("work order `{0}` {1}")]
    Closed(String, &'static str),
    /// Its quantity is used up.
    #[error("work order `{0}` has no certificate left")]
    Exhausted(String),
    /// It allows no more reworks.
    #[error("work order `{0}` allows no more reworks")]
    ReworksExhausted(String),
    /// It names its stations, and this is none of them.
    #[error("work order `{0}` is for other stations")]
    Station(String),
    /// It is for something else.
    #[error("the request does not fit work order `{0}`")]
    Mismatch(String, Vec<Violation>),
}

impl WorkOrder {
    /// Whether it is for this principal, profile and device; time and quantity are the ledger's.
    pub fn admits(&self, who: &str, profile: &str, device: &str) -> Result<(), OrderRefusal> {
        if !self.stations.is_empty() && !self.stations.iter().any(|name| name == who) {
            return Err(OrderRefusal::Station(self.name.clone()));
        }
        let mut violations = Vec::new();
        if self.profile != profile {
            violations.push(Violation {
                rule: "order-profile",
                attribute: None,
                detail: format!("the order is for profile `{}`", self.profile),
            });
        }
        if let Some((first, last)) = &self.devices
            && (device.len() != first.len() || !(first.as_str()..=last.as_str()).contains(&device))
        {
            violations.push(Violation {
                rule: "order-device",
                attribute: None,
                detail: format!("the order is for devices `{first}` to `{last}`"),
            });
        }
        if let Some(pattern) = &self.device_pattern
            && !pattern.matches(device)
        {
            violations.push(Violation {
                rule: "order-device",
                attribute: None,
                detail: format!("the order is for devices like `{}`", pattern.as_str()),
            });
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(OrderRefusal::Mismatch(self.name.clone(), violations))
        }
    }
}

/// What came of creating an order.
#[derive(Debug)]
pub enum Created {
    /// It is new.
    New(OrderState),
    /// The same order was there before.
    Same(OrderState),
    /// Another order has this name.
    Other,
    /// More was issued under this name, before there was an order, than it orders.
    Overdrawn,
}

/// Device identities in the order of their octets, none twice.
#[derive(Clone, Debug)]
pub struct DeviceList {
    /// One or more.
    pub devices: Vec<String>,
    /// SHA-256 over the identities, a line feed after each.
    pub sha256: [u8; 32],
}

/// What came of giving an order its device list.
#[derive(Debug)]
pub enum Listed {
    /// It is in force, now or since it was given before.
    InForce(Box<OrderState>),
    /// There is no such order.
    Unknown,
    /// It has another list, or a device already, or is closed, or came by ticket.
    Late(&'static str),
}

/// The book of work orders.
pub trait OrderBook: Send + Sync {
    /// Creates an order. Safe to repeat.
    fn create(&self, order: WorkOrder, by: String) -> PortFuture<'_, Result<Created, LedgerFault>>;

    /// Creates the order that a ticket brings, unless its time or its use forbids. Safe to repeat.
    fn redeem(&self, ticket: Ticket, by: String) -> PortFuture<'_, Result<Redeemed, LedgerFault>>;

    /// Gives an order its device list: whole, once, before its first device. Safe to repeat.
    fn list_devices(
        &self,
        name: String,
        list: DeviceList,
    ) -> PortFuture<'_, Result<Listed, LedgerFault>>;

    /// Closes an order for ever; `None` when there is none. Safe to repeat: the first one counts.
    fn close(
        &self,
        name: String,
        by: String,
    ) -> PortFuture<'_, Result<Option<OrderState>, LedgerFault>>;

    /// Where an order is on its way to its report, and all that the report says.
    fn closing(&self, name: String) -> PortFuture<'_, Result<Closing, LedgerFault>>;

    /// Keeps a closed order's report unless it has one; returns the one that is kept.
    fn keep_report(
        &self,
        name: String,
        report: String,
    ) -> PortFuture<'_, Result<String, LedgerFault>>;

    /// One order.
    fn show(&self, name: String) -> PortFuture<'_, Result<Option<OrderState>, LedgerFault>>;

    /// At most `limit` orders by name, from the first one after `after`.
    fn list(
        &self,
        after: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<OrderState>, LedgerFault>>;
}
