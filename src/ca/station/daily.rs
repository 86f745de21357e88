//! Daily caps: how many devices a station may have certified between midnight and midnight, UTC.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use chrono::NaiveDate;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::Principal;
use crate::ca::error::IssueError;

/// Devices that stations with a daily cap had certified today, as far as this replica knows: what the
/// ledger counted when it was last asked, and what was issued here since. So a cap may be passed by
/// what other replicas issue between two looks.
#[derive(Default)]
pub struct DailyCaps(Mutex<HashMap<String, Count>>);

#[derive(Clone, Copy)]
struct Count {
    day: NaiveDate,
    devices: u32,
}

impl DailyCaps {
    /// Counts one more; `false`: the cap is reached. `None`: the ledger has not been asked today.
    fn take(&self, name: &str, cap: u32, day: NaiveDate) -> Option<bool> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get_mut(name).filter(|count| count.day == day)?;
        let fits = count.devices < cap;
        count.devices += u32::from(fits);
        Some(fits)
    }

    fn give_back(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(name) {
            count.devices = count.devices.saturating_sub(1);
        }
    }

    fn put(&self, name: String, devices: u32, day: NaiveDate) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert(name, Count { day, devices });
    }

    fn names(&self) -> Vec<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.keys().cloned().collect()
    }
}

impl Ca {
    /// Takes one of the devices that the principal may have certified today; whoever took one and
    /// did not issue gives it back.
    pub(in crate::ca) async fn take_daily(&self, principal: &Principal) -> Result<(), IssueError> {
        let Some(cap) = principal.rights.devices_per_day else {
            return Ok(());
        };
        // Asks the ledger once, and once more where midnight lies between.
        loop {
            let day = self.clock.now().date_naive();
            match self.daily_caps.take(&principal.name, cap, day) {
                Some(true) => return Ok(()),
                Some(false) => return Err(IssueError::DailyCap(cap)),
                None => self.count_daily(vec![principal.name.clone()]).await?,
            }
        }
    }

    pub(in crate::ca) fn give_back_daily(&self, principal: &Principal) {
        if principal.rights.devices_per_day.is_some() {
            self.daily_caps.give_back(&principal.name);
        }
    }

    /// Asks the ledger again what stations with a daily cap had certified today.
    pub async fn recount_daily(&self) -> Result<(), LedgerFault> {
        let names = self.daily_caps.names();
        if names.is_empty() {
            return Ok(());
        }
        self.count_daily(names).await
    }

    async fn count_daily(&self, names: Vec<String>) -> Result<(), LedgerFault> {
        // Ids have the service's time, so it is its day that counts, whatever the database's clock says.
        let day = self.clock.now().date_naive();
        for (name, devices) in self.station_book.devices_since(names, day).await? {
            self.daily_caps.put(name, devices, day);
        }
        Ok(())
    }
}
