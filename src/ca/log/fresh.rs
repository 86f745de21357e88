//! Entries that this replica appended, on their way to its own follower.
//!
//! They are durable in the database, and the follower could read them there. It is told them because
//! each certificate waits for it: reading again what was just written costs the line more than the
//! journal does. Whatever is not here is read from the database.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;

/// Entries that may wait: a follower that is far behind reads from the database anyway.
const WAITING_MAX: usize = 4_096;

/// Leaves by their place in the log.
#[derive(Default)]
pub struct FreshEntries {
    waiting: Mutex<BTreeMap<u64, Bytes>>,
}

impl FreshEntries {
    /// Takes entries whose transaction was committed. Those for which there is no room are left out.
    pub fn hand_over(&self, entries: impl IntoIterator<Item = (u64, Bytes)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = WAITING_MAX.saturating_sub(waiting.len());
        waiting.extend(entries.into_iter().take(room));
    }

    /// Takes out the leaves from the index `from` on, in order and without gaps, at most `limit`;
    /// none when the entry `from` is not here. Forgets what is before it.
    pub fn take(&self, from: u64, limit: u32) -> Vec<Bytes> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = waiting.split_off(&from);
        (from..)
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map_while(|index| waiting.remove(&index))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(index: u64) -> (u64, Bytes) {
        (index, Bytes::from(index.to_string()))
    }

    #[test]
    fn what_comes_out_has_no_gaps_and_comes_once() {
        let fresh = FreshEntries::default();
        fresh.hand_over([7, 5, 6, 9, 3].map(leaf));

        assert!(fresh.take(4, 10).is_empty(), "the entry 4 is elsewhere");
        assert_eq!(fresh.take(5, 2), ["5", "6"]);
        assert_eq!(fresh.take(7, 10), ["7"]);
        assert!(fresh.take(7, 10).is_empty());
        assert_eq!(fresh.take(9, 10), ["9"]);
    }

    #[test]
    fn without_a_follower_it_is_bounded() {
        let fresh = FreshEntries::default();
        fresh.hand_over((0..10_000).map(leaf));
        fresh.hand_over((10_000..20_000).map(leaf));

        assert_eq!(fresh.take(0, u32::MAX).len(), WAITING_MAX);
    }
}
