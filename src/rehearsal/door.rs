//! Who stands at the door: connections that nobody has accepted yet, counted by address, so that
//! one machine cannot take every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Connections of one address whose CONNECT was not accepted yet.
pub(super) const WAITING_MAX: usize = 64;

/// Counts of those who wait.
#[derive(Default)]
pub(super) struct Door(Mutex<HashMap<IpAddr, usize>>);

/// A place at the door; given up when dropped.
pub(super) struct Waiting {
    door: Arc<Door>,
    address: IpAddr,
}

impl Door {
    /// `None` when too many of that address wait already.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Waiting> {
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= WAITING_MAX {
            return None;
        }
        *count += 1;
        Some(Waiting {
            door: Arc::clone(self),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.door.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_leaves_nothing_behind() {
        let door = Arc::new(Door::default());
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| door.enter(one).unwrap()).collect();
        assert!(door.enter(one).is_none());
        assert!(door.enter(other).is_some());
        waiting.pop();
        assert!(door.enter(one).is_some());
        drop(waiting);
        assert!(door.lock().is_empty());
    }
}
