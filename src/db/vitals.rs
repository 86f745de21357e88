//! Whether the ledger could record now, and if not, why.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::RwLock;

use prometheus::IntGauge;

/// What each lane last found. Shared by the lanes of one ledger; reading never waits for the
/// database.
pub(super) struct Vitals {
    down: RwLock<BTreeMap<&'static str, String>>,
    up: IntGauge,
}

impl Vitals {
    /// Nothing is known to work before it has worked once.
    pub(super) fn new(lanes: &[&'static str], up: IntGauge) -> Self {
        let not_yet = |lane: &&'static str| (*lane, "not connected yet".to_owned());
        up.set(0);
        Self {
            down: RwLock::new(lanes.iter().map(not_yet).collect()),
            up,
        }
    }

    /// Why a lane is down; `None` when it works.
    pub(super) fn lane(&self, lane: &str) -> Option<String> {
        let down = self.down.read().unwrap_or_else(PoisonError::into_inner);
        down.get(lane).cloned()
    }

    /// `Err(reason)` when any of these lanes is down.
    pub(super) fn of(&self, lanes: &[&str]) -> Result<(), String> {
        let down = self.down.read().unwrap_or_else(PoisonError::into_inner);
        match down.iter().find(|(lane, _)| lanes.contains(lane)) {
            None => Ok(()),
            Some((lane, reason)) => Err(format!("{lane}: {reason}")),
        }
    }

    /// A lane has just worked.
    pub(super) fn works(&self, lane: &'static str) {
        if self.lane(lane).is_none() {
            return;
        }
        let mut down = self.down.write().unwrap_or_else(PoisonError::into_inner);
        down.remove(lane);
        self.up.set(i64::from(down.is_empty()));
        tracing::info!(lane, "the database answers");
    }

    /// A lane has just failed.
    pub(super) fn fails(&self, lane: &'static str, reason: &str) {
        let mut down = self.down.write().unwrap_or_else(PoisonError::into_inner);
        if down.insert(lane, reason.to_owned()).as_deref() != Some(reason) {
            tracing::error!(lane, reason, "the database does not answer");
        }
        self.up.set(0);
    }
}
