//! Entries on their way to this replica's follower: those that it appended, and those that others had
//! appended before them.
//!
//! They are durable in the database, and the follower could read them there. It is told them because
//! each certificate waits for it: reading again what was just written costs the line more than the
//! journal does. Whatever is not here is read from the database.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Bytes;

/// Entries that may wait: a follower that is far behind reads from the database anyway.
const WAITING_MAX: usize = 4_096;

/// Leaves by their place in the log.
#[derive(Default)]
pub struct FreshEntries(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    leaves: BTreeMap<u64, Bytes>,
    /// The first place that was neither taken out nor is here; `None`: nobody takes any.
    unknown_from: Option<u64>,
}

impl FreshEntries {
    /// The first entry that the follower neither has nor finds here; `None`: nobody follows.
    #[must_use]
    pub fn unknown_from(&self) -> Option<u64> {
        self.waiting().unknown_from
    }

    /// Takes entries whose transaction was committed. Those for which there is no room are left out.
    pub fn hand_over(&self, entries: impl IntoIterator<Item = (u64, Bytes)>) {
        let mut waiting = self.waiting();
        let room = WAITING_MAX.saturating_sub(waiting.leaves.len());
        waiting.leaves.extend(entries.into_iter().take(room));
        waiting.advance();
    }

    /// Takes out the leaves from the index `from` on, in order and without gaps, at most `limit`;
    /// none when the entry `from` is not here. Forgets what is before it.
    pub fn take(&self, from: u64, limit: u32) -> Vec<Bytes> {
        let mut waiting = self.waiting();
        waiting.leaves = waiting.leaves.split_off(&from);
        let taken: Vec<Bytes> = (from..)
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map_while(|index| waiting.leaves.remove(&index))
            .collect();
        waiting.unknown_from = (from..).nth(taken.len());
        waiting.advance();
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn advance(&mut self) {
        while let Some(index) = self.unknown_from
            && self.leaves.contains_key(&index)
        {
            self.unknown_from = Some(index + 1);
        }
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
    fn what_is_not_known_yet_begins_where_neither_side_has_it() {
        let fresh = FreshEntries::default();
        fresh.hand_over([leaf(3)]);
        assert_eq!(fresh.unknown_from(), None, "nobody follows");

        assert_eq!(fresh.take(3, 10), ["3"]);
        assert_eq!(fresh.unknown_from(), Some(4));
        fresh.hand_over([6, 4].map(leaf));
        assert_eq!(fresh.unknown_from(), Some(5));
        fresh.hand_over([leaf(5)]);
        assert_eq!(fresh.unknown_from(), Some(7));
        assert_eq!(fresh.take(4, 2), ["4", "5"]);
        assert_eq!(fresh.unknown_from(), Some(7), "6 waits here");
        assert!(
            fresh.take(5, 10).is_empty(),
            "5 was not kept, once it was taken"
        );
        assert_eq!(fresh.unknown_from(), Some(5));
    }

    #[test]
    fn without_a_follower_it_is_bounded() {
        let fresh = FreshEntries::default();
        fresh.hand_over((0..10_000).map(leaf));
        fresh.hand_over((10_000..20_000).map(leaf));

        assert_eq!(fresh.take(0, u32::MAX).len(), WAITING_MAX);
    }
}
