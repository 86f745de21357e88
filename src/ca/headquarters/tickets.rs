//! Tickets: work orders that head office signs for one plant each, by a key in its HSM. What a plant does
//! with one is in [`crate::ca::ticket`].

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Signer;
use crate::ca::SignerFault;
use crate::ca::headquarters::Headquarters;
use crate::ca::ticket;
use crate::pki::jws;
use crate::pki::jws::JwsKey;
use crate::pki::report;
use crate::pki::report::ReportKey;
use crate::pki::report::ReportToBeSigned;

/// Time for the HSM to sign.
const SIGN_MAX: Duration = Duration::from_secs(5);

/// What signs tickets.
pub struct TicketDesk {
    /// The HSM: the ticket key is the one that it signs reports with.
    pub signer: Arc<dyn Signer>,
    /// Its public half.
    pub key: ReportKey,
    /// The same, to read what it signed; its `kid` is the name that plants know it by.
    pub reader: JwsKey,
    /// Who orders: claim `iss`.
    pub iss: String,
}

/// What is to be ordered.
#[derive(Clone, Debug)]
pub struct TicketWish {
    /// The plant.
    pub site: String,
    /// The order's name.
    pub name: String,
    /// The order, as plants take it.
    pub order: Value,
    /// From when the ticket may be used; `None`: at once.
    pub not_before: Option<DateTime<Utc>>,
    /// From when it may no longer be used.
    pub expires_at: DateTime<Utc>,
    /// Who wants it.
    pub by: String,
}

/// A ticket that was signed here.
#[derive(Clone, Debug, Serialize)]
pub struct SignedTicket {
    /// Its number, claim `jti`.
    pub jti: String,
    /// The plant it is for.
    pub site: String,
    /// The order it brings.
    pub order: String,
    /// The whole of it, a JWS in compact serialization.
    pub ticket: String,
    /// Who had it signed.
    pub signed_by: String,
    /// Head office's database time.
    pub signed_at: DateTime<Utc>,
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum TicketFault {
    /// No key is configured.
    #[error("no tickets are signed here: no [tickets] is configured")]
    NoKey,
    /// No such plant.
    #[error("there is no plant of this name")]
    UnknownPlant,
    /// This order was signed for this plant, and said something else.
    #[error(
        "another ticket was signed for this order and plant, with other claims; one is never changed"
    )]
    Differs,
    /// It would never be good.
    #[error("expires_at must be later than now and not_before")]
    Expired,
    /// The HSM did not sign.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// The database did not keep it.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// Ours.
    #[error("{0}")]
    Internal(String),
}

impl Headquarters {
    /// Signs a ticket for one order at one plant, once: the same wish again gets the same ticket. `true`:
    /// it is new. It is kept before it is given away.
    pub async fn sign_ticket(&self, wish: TicketWish) -> Result<(SignedTicket, bool), TicketFault> {
        let desk = self.tickets.as_ref().ok_or(TicketFault::NoKey)?;
        let plants = self.book.plants().await?;
        if plants.iter().all(|plant| plant.site != wish.site) {
            return Err(TicketFault::UnknownPlant);
        }
        let now = self.clock.now();
        let begins = wish.not_before.map_or(now, |time| time.max(now));
        if wish.expires_at <= begins {
            return Err(TicketFault::Expired);
        }
        let jti = Uuid::now_v7().to_string();
        let mut claims = json!({
            "iss": desk.iss, "aud": wish.site, "jti": jti, "iat": now.timestamp(),
            "exp": wish.expires_at.timestamp(), "order": wish.order,
        });
        if let Some(time) = wish.not_before {
            claims["nbf"] = time.timestamp().into();
        }
        let wanted = says(&claims);
        let internal = |fault: String| TicketFault::Internal(fault);
        let unsigned = ReportToBeSigned::build_ticket(&claims, &desk.reader.kid)
            .map_err(|fault| internal(fault.to_string()))?;
        let deadline = Instant::now() + SIGN_MAX;
        let signature = desk.signer.sign_report(&unsigned, deadline).await?;
        let Some(ticket) = unsigned.seal(&signature, &desk.key) else {
            desk.signer.distrust(report::KEY_NAME);
            return Err(internal("the HSM's signature does not verify".to_owned()));
        };
        let kept = self
            .book
            .keep_ticket(jti.clone(), wish.site, wish.name, ticket, wish.by)
            .await?;
        let is_new = kept.jti == jti;
        if !is_new && desk.says(&kept.ticket) != Some(wanted) {
            return Err(TicketFault::Differs);
        }
        Ok((kept, is_new))
    }
}

impl TicketDesk {
    /// What a ticket of ours says.
    fn says(&self, compact: &str) -> Option<[Value; 3]> {
        let keys = std::slice::from_ref(&self.reader);
        let verified = jws::verify(compact, ticket::TYP, keys).ok()?;
        let claims: Value = serde_json::from_slice(&verified.payload).ok()?;
        Some(says(&claims))
    }
}

/// What a planner asked for: the order, and from when until when the ticket is good.
fn says(claims: &Value) -> [Value; 3] {
    ["order", "nbf", "exp"].map(|claim| claims[claim].clone())
}
