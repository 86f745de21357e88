//! Head office's one job: holds what comes from each plant against the plant's log, and shows how it stands.

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;

use crate::ca::headquarters::PlantBook;
use crate::ca::headquarters::PlantState;
use crate::db::headquarters::PgPlants;
use crate::metrics::PlantMetrics;

/// How often what came is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often all work orders are.
const ORDERS_EVERY: Duration = Duration::from_secs(10);
/// Findings that are named in the log after a round.
const NAMED_MAX: i64 = 20;

/// Looks after all plants.
pub struct Checking {
    /// Head office's database.
    pub plants: PgPlants,
    /// Where it is shown.
    pub metrics: PlantMetrics,
}

/// What was said of a plant.
#[derive(Default)]
struct Said {
    /// Plants that could not be looked at in the last round.
    unseen: BTreeSet<String>,
    late: BTreeSet<String>,
    /// By when they were found: a difference that becomes another one is found anew.
    findings: BTreeSet<(DateTime<Utc>, String, String, String)>,
}

impl Checking {
    /// For ever.
    pub fn start(self) {
        tokio::spawn(async move {
            let mut shown = BTreeSet::new();
            let mut said = Said::default();
            let mut orders_at = Instant::now();
            let mut silent = false;
            loop {
                let orders = Instant::now() >= orders_at;
                let more = match self.look(orders, &mut shown, &mut said).await {
                    Ok(more) => {
                        silent = false;
                        more
                    }
                    // While the database is down, nothing comes, either.
                    Err(fault) => {
                        if !std::mem::replace(&mut silent, true) {
                            tracing::warn!(%fault, "plants are not looked at");
                        }
                        false
                    }
                };
                if orders {
                    orders_at = Instant::now() + ORDERS_EVERY;
                }
                if !more {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
    }

    /// Once through all plants. Whether there is more to do at once.
    async fn look(
        &self,
        orders: bool,
        shown: &mut BTreeSet<String>,
        said: &mut Said,
    ) -> Result<bool, crate::ca::LedgerFault> {
        let states = self.plants.plants().await?;
        let mut more = false;
        for state in &states {
            // One plant's fault keeps no other from being looked at.
            match self.plants.verify(&state.site, orders).await {
                Ok(round) => {
                    more |= round.more;
                    if said.unseen.remove(&state.site) {
                        tracing::info!(plant = state.site, "the plant is looked at again");
                    }
                }
                Err(fault) => {
                    if said.unseen.insert(state.site.clone()) {
                        tracing::warn!(plant = state.site, %fault, "the plant is not looked at");
                    }
                }
            }
        }
        for state in &states {
            self.show(state, said);
        }
        let here: BTreeSet<String> = states.into_iter().map(|state| state.site).collect();
        for gone in shown.difference(&here) {
            self.metrics.forget(gone);
            said.unseen.remove(gone);
            said.late.remove(gone);
        }
        *shown = here;
        self.name(said).await?;
        Ok(more)
    }

    fn show(&self, state: &PlantState, said: &mut Said) {
        let plant = &[state.site.as_str()];
        let metrics = &self.metrics;
        let lag = state.lag_seconds.unwrap_or(f64::INFINITY);
        metrics.lag.with_label_values(plant).set(lag);
        let late_after = i64::from(state.late_after_seconds);
        for (gauge, value) in [
            (&metrics.late_after, late_after),
            (&metrics.feed_up, i64::from(state.feed_up)),
            (&metrics.findings, state.findings_open),
            (&metrics.certificates, state.certificates),
            (&metrics.log_entries, state.log_entries),
            (&metrics.witnessed, state.witnessed_entries),
        ] {
            gauge.with_label_values(plant).set(value);
        }
        if !state.late {
            if said.late.remove(&state.site) {
                tracing::info!(plant = state.site, "the plant's feed is up to date again");
            }
        } else if said.late.insert(state.site.clone()) {
            tracing::warn!(plant = state.site, heard_at = ?state.heard_at, "the plant's feed is late");
        }
    }

    /// Says what was found, each difference once.
    async fn name(&self, said: &mut Said) -> Result<(), crate::ca::LedgerFault> {
        let open = self.plants.findings(None, NAMED_MAX).await?;
        for finding in open.into_iter().filter(|it| it.ended_at.is_none()) {
            let about = (
                finding.found_at,
                finding.site.clone(),
                finding.table.clone(),
                finding.key.clone(),
            );
            if said.findings.insert(about) {
                tracing::error!(
                    plant = finding.site,
                    table = finding.table,
                    key = finding.key,
                    difference = finding.difference,
                    "a row of a plant does not agree"
                );
            }
        }
        // The oldest are forgotten: what is asked for are the newest.
        while said.findings.len() > 10_000 {
            said.findings.pop_first();
        }
        Ok(())
    }
}
