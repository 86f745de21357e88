//! Finishes what a crash, a lost HSM or a lost database left open.
//!
//! An intent whose maker has gone is signed again from its stored bytes, or, when it can never be
//! signed, abandoned. Two replicas may do it at once: the first certificate recorded wins.

use std::time::{Duration, Instant};

use crate::ca::Ca;
use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::Turn;
use crate::ca::error::IssueError;
use crate::ca::replica::Duty;

/// Open intents taken over at a time: so many signatures a station may have to wait for.
const TAKE_OVER_MAX: i64 = 16;
/// Seconds after which a replica that has not the duty takes over what is still open.
const LATE_SECONDS: i32 = 5;
/// Seconds after which it is taken over whoever would have to sign it, to be told of or given up. Later than
/// all others: who cannot sign it leases it all the same, and must not keep it from who can.
pub const VERY_LATE_SECONDS: i32 = 15;
/// Time for one of them.
const DEADLINE: Duration = Duration::from_secs(5);

impl Ca {
    /// Takes over orphaned intents and brings each to its end; returns how many were taken over.
    /// What cannot be finished now stays open and is taken over again later.
    pub async fn recover(&self) -> Result<usize, LedgerFault> {
        self.ledger.ready().map_err(LedgerFault::Unavailable)?;
        let late_seconds = if self.replica.has(Duty::OpenIntents) {
            0
        } else {
            LATE_SECONDS
        };
        let issuers = self.issuers.keys();
        let sign = issuers.filter(|name| self.signer.ready(name).is_ok());
        let orphans = self
            .ledger
            .take_over(TAKE_OVER_MAX, late_seconds, sign.cloned().collect())
            .await?;
        let count = orphans.len();
        futures_util::future::join_all(orphans.into_iter().map(|intent| self.finish(intent))).await;
        Ok(count)
    }

    async fn finish(&self, intent: Intent) {
        let id = intent.id;
        let serial = intent.serial_number.to_hex();
        if !self.issuers.contains_key(&intent.issuer) {
            tracing::warn!(%id, serial, issuer = intent.issuer, "an open intent waits for a replica that has its issuer");
            return;
        }
        let outcome = match self.may_still_sign(&intent) {
            Ok(tbs) => {
                let deadline = Instant::now() + DEADLINE;
                self.complete(intent, tbs, Turn::Line, deadline).await
            }
            Err(reason) => {
                tracing::error!(%id, serial, reason, "an intent can never be signed and is abandoned");
                if let Err(fault) = self.ledger.abandon(id, reason).await {
                    tracing::warn!(%id, serial, cause = %fault, "abandoning did not succeed; it will be tried again");
                }
                return;
            }
        };
        match outcome {
            Ok(record) => {
                self.metrics
                    .issued
                    .with_label_values(&[&record.intent.profile, &record.intent.issuer])
                    .inc();
                tracing::info!(%id, serial, "finished an intent that was left open");
            }
            Err(fault) => {
                tracing::warn!(%id, serial, cause = %fault, "an open intent could not be finished now");
            }
        }
    }

    /// The bytes to sign, or why they can never be: the rules or the issuer changed since.
    fn may_still_sign(&self, intent: &Intent) -> Result<crate::pki::tbs::TbsCertificate, String> {
        // A clock that is not believed ends nothing.
        if self
            .clock_trusted()
            .is_ok_and(|now| intent.validity.not_after <= now)
        {
            return Err("its validity has passed".into());
        }
        self.reopen(intent).map_err(|fault| match fault {
            IssueError::Lint(fault) => fault.to_string(),
            other => other.to_string(),
        })
    }
}
