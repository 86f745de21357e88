//! A closed work order's report: made once, when its last intent has an outcome; the same for ever.

use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::SignerFault;
use crate::ca::device_pattern::DevicePattern;
use crate::ca::order::OrderState;
use crate::pki::hex;
use crate::pki::report::ClosingReport;
use crate::pki::report::KEY_NAME;
use crate::pki::report::ReportToBeSigned;
use crate::pki::report::ReportedCounts;
use crate::pki::report::ReportedLog;
use crate::pki::report::ReportedOrder;
use crate::pki::report::ReportedTicket;

/// Where an order is on its way to its report.
#[derive(Debug)]
pub enum Closing {
    /// There is no such order.
    Unknown,
    /// Nobody has closed it.
    Open,
    /// So many of its intents have no outcome yet.
    InProgress(i64),
    /// This is its report.
    Reported(String),
    /// There is nothing left to wait for.
    Settled(Box<Settlement>),
}

/// All that a report says of an order, of one moment.
#[derive(Debug)]
pub struct Settlement {
    /// The order and its counts.
    pub state: OrderState,
    /// That moment, database time.
    pub at: DateTime<Utc>,
    /// Certificates in the whole log.
    pub log_size: i64,
    /// Certificates of the order.
    pub certificates: i64,
    /// Log index of the first and of the last of them.
    pub indices: Option<(i64, i64)>,
    /// SHA-256 over their fingerprints, in the order of the log.
    pub fingerprints_sha256: [u8; 32],
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no such order.
    #[error("no work order of this name")]
    NotFound,
    /// No key is configured for it.
    #[error("this site signs no reports: no [site.report_key] is configured")]
    NoKey,
    /// The order is open.
    #[error("the work order is not closed; its report comes after it")]
    Open,
    /// It has intents without an outcome.
    #[error("{0} of its certificates are still on their way; the report waits for them")]
    InProgress(i64),
    /// The HSM did not sign.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The HSM's signature is wrong.
    #[error("the report key made a signature that does not verify")]
    WrongSignature,
    /// Ours.
    #[error("the report cannot be written: {0}")]
    Encoding(#[from] serde_json::Error),
}

impl Ca {
    /// The order's report: the one that was kept, or a first one. Of two that are made at once one
    /// is kept, and both callers get it.
    pub async fn closing_report(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<String, ReportError> {
        let settlement = match self.orders.closing(name.to_owned()).await? {
            Closing::Unknown => return Err(ReportError::NotFound),
            Closing::Open => return Err(ReportError::Open),
            Closing::InProgress(intents) => return Err(ReportError::InProgress(intents)),
            Closing::Reported(report) => return Ok(report),
            Closing::Settled(settlement) => settlement,
        };
        let key = self.report_key.as_ref().ok_or(ReportError::NoKey)?;
        let site = self.tickets.site.clone().unwrap_or_default();
        let report = report(site, *settlement)?;
        let unsigned = ReportToBeSigned::build(&report, &key.kid)?;
        let signature = self.signer.sign_report(&unsigned, deadline).await?;
        let Some(sealed) = unsigned.seal(&signature, key) else {
            self.signer.distrust(KEY_NAME);
            return Err(ReportError::WrongSignature);
        };
        Ok(self.orders.keep_report(name.to_owned(), sealed).await?)
    }
}

fn report(site: String, settlement: Settlement) -> Result<ClosingReport, ReportError> {
    let state = settlement.state;
    let counts = ReportedCounts {
        issued: state.issued(),
        reworked: state.reworked,
        abandoned: state.abandoned,
        confirmed: state.confirmed,
        superseded: state.superseded,
        revoked: state.revoked,
        scrapped: state.scrapped,
        live: state.live(),
    };
    let (created_by, created_at) = state.created;
    let (closed_by, closed_at) = state.closed.ok_or(ReportError::Open)?;
    let order = state.order;
    let (device_first, device_last) = order.devices.unzip();
    let (first_index, last_index) = settlement.indices.unzip();
    Ok(ClosingReport {
        site,
        created_at: settlement.at,
        order: ReportedOrder {
            name: order.name,
            profile: order.profile,
            quantity: order.quantity,
            scrap_allowance: order.scrap_allowance,
            reworks_max: order.reworks_max,
            device_first,
            device_last,
            device_pattern: order
                .device_pattern
                .as_ref()
                .map(DevicePattern::as_str)
                .map(str::to_owned),
            device_count: state.device_count,
            stations: order.stations,
            opens_at: order.opens_at,
            closes_at: order.closes_at,
            created_by,
            created_at,
            closed_by,
            closed_at,
        },
        ticket: state.ticket.map(|mark| ReportedTicket {
            jti: mark.jti,
            kid: mark.kid,
            sha256: hex(&mark.sha256),
        }),
        counts,
        log: ReportedLog {
            size: settlement.log_size,
            certificates: settlement.certificates,
            first_index,
            last_index,
            fingerprints_sha256: hex(&settlement.fingerprints_sha256),
        },
    })
}
