//! Tickets: work orders signed at head office, so that nobody at the site can order more.
//!
//! A ticket is good for one order at one site, once, and for a time. The order it brings is never
//! changed; the ledger keeps the ticket beside it.

use chrono::{DateTime, Utc};

use crate::ca::order::OrderState;
use crate::ca::order::WorkOrder;
use crate::pki::jws::JwsKey;
use crate::pki::report::TICKET_TYP;

/// Header parameter `typ` of a ticket.
pub const TYP: &str = TICKET_TYP;

/// Which tickets are honoured here.
#[derive(Default)]
pub struct TicketTrust {
    /// The site's name, which a ticket names as its audience; `None`: no ticket is for us.
    pub site: Option<String>,
    /// Keys of those who may order.
    pub keys: Vec<JwsKey>,
    /// Whether orders come by ticket only.
    pub required: bool,
}

/// A ticket whose signature, site and form are good; its time and its use are the ledger's to judge.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Its own number, unique for ever: 1 to 64 printable ASCII characters without space.
    pub jti: String,
    /// Who made it.
    pub iss: String,
    /// Name of the key that verified it.
    pub kid: String,
    /// When it was made, by the time of who made it.
    pub issued_at: DateTime<Utc>,
    /// Database time from which it may be used; `None`: at once.
    pub not_before: Option<DateTime<Utc>>,
    /// Database time from which it may no longer be used.
    pub expires_at: DateTime<Utc>,
    /// What it orders.
    pub order: WorkOrder,
    /// SHA-256 over the whole ticket.
    pub sha256: [u8; 32],
    /// The whole ticket.
    pub compact: String,
}

/// Which ticket an order came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketMark {
    /// See [`Ticket::jti`].
    pub jti: String,
    /// See [`Ticket::kid`].
    pub kid: String,
    /// See [`Ticket::sha256`].
    pub sha256: [u8; 32],
}

/// What came of using a ticket.
#[derive(Debug)]
pub enum Redeemed {
    /// Its order is new.
    New(OrderState),
    /// The same ticket was used before; this is its order.
    Same(OrderState),
    /// Another ticket of this number was used before.
    Replayed,
    /// There is an order of this name, which did not come by this ticket.
    Widened,
    /// It is not good yet.
    Early,
    /// It is not good any more.
    Expired,
    /// More was issued under the order's name, before there was an order, than it orders.
    Overdrawn,
}
