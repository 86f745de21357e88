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

/// Leaves by their place in the log. There is one for a process, which its one ledger tells.
#[derive(Default)]
pub struct FreshEntries(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    leaves: BTreeMap<u64, Bytes>,
    /// Those whose commit is not confirmed yet.
    unsure: Vec<(u64, Bytes)>,
    /// The first place that the follower neither has nor finds here; `None`: nobody follows.
    unknown_from: Option<u64>,
}

impl FreshEntries {
    /// The first entry that the follower neither has nor finds here; `None`: nobody follows, or
    /// there is no room.
    #[must_use]
    pub fn unknown_from(&self) -> Option<u64> {
        let waiting = self.waiting();
        let room = waiting.leaves.len() < WAITING_MAX;
        waiting.unknown_from.filter(|_| room)
    }

    /// Keeps entries whose commit is still to be confirmed, and forgets those that never were.
    pub fn hand_over(&self, entries: Vec<(u64, Bytes)>) {
        self.waiting().unsure = entries;
    }

    /// The commit of what was handed over last is where commits have to be: from now on it can be
    /// taken, but for those for which there is no room.
    pub fn confirm(&self) {
        let mut waiting = self.waiting();
        let room = WAITING_MAX.saturating_sub(waiting.leaves.len());
        let sure = std::mem::take(&mut waiting.unsure);
        waiting.leaves.extend(sure.into_iter().take(room));
        waiting.advance();
    }

    /// Takes out the leaves from the index `from` on, in order and without gaps, at most `limit`;
    /// none when the entry `from` is not here. Forgets what is before it.
    pub fn take(&self, from: u64, limit: u32) -> Vec<Bytes> {
        let mut waiting = self.waiting();
        waiting.known_before(from);
        let taken: Vec<Bytes> = (from..)
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map_while(|index| waiting.leaves.remove(&index))
            .collect();
        waiting.unknown_from = (from..).nth(taken.len());
        waiting.advance();
        taken
    }

    /// The follower has what is before `next` from elsewhere.
    pub fn known_before(&self, next: u64) {
        self.waiting().known_before(next);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn known_before(&mut self, next: u64) {
        self.leaves = self.leaves.split_off(&next);
        self.unknown_from = Some(next);
        self.advance();
    }

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

    fn told(fresh: &FreshEntries, indexes: impl IntoIterator<Item = u64>) {
        fresh.hand_over(indexes.into_iter().map(leaf).collect());
        fresh.confirm();
    }

    #[test]
    fn what_comes_out_has_no_gaps_and_comes_once() {
        let fresh = FreshEntries::default();
        told(&fresh, [7, 5, 6, 9, 3]);

        assert!(fresh.take(4, 10).is_empty(), "the entry 4 is elsewhere");
        assert_eq!(fresh.take(5, 2), ["5", "6"]);
        assert_eq!(fresh.take(7, 10), ["7"]);
        assert!(fresh.take(7, 10).is_empty());
        assert_eq!(fresh.take(9, 10), ["9"]);
    }

    #[test]
    fn what_is_never_confirmed_never_comes_out() {
        let fresh = FreshEntries::default();
        assert!(fresh.take(1, 10).is_empty());
        fresh.hand_over(vec![leaf(1)]);
        assert!(fresh.take(1, 10).is_empty());
        assert_eq!(fresh.unknown_from(), Some(1));
        fresh.hand_over(vec![leaf(2)]);
        fresh.confirm();
        fresh.confirm();
        assert!(fresh.take(1, 10).is_empty());
        assert_eq!(fresh.take(2, 10), ["2"]);
    }

    #[test]
    fn what_is_not_known_yet_begins_where_neither_side_has_it() {
        let fresh = FreshEntries::default();
        told(&fresh, [3]);
        assert_eq!(fresh.unknown_from(), None, "nobody follows");

        assert_eq!(fresh.take(3, 10), ["3"]);
        assert_eq!(fresh.unknown_from(), Some(4));
        told(&fresh, [6, 4]);
        assert_eq!(fresh.unknown_from(), Some(5));
        told(&fresh, [5]);
        assert_eq!(fresh.unknown_from(), Some(7));
        assert_eq!(fresh.take(4, 2), ["4", "5"]);
        assert_eq!(fresh.unknown_from(), Some(7), "6 waits here");
        assert!(fresh.take(5, 10).is_empty(), "its keeper lost 5");
        assert_eq!(fresh.unknown_from(), Some(5));
        fresh.known_before(6);
        assert_eq!(fresh.unknown_from(), Some(7));
        fresh.known_before(9);
        assert_eq!(fresh.unknown_from(), Some(9));
    }

    #[test]
    fn without_a_follower_it_is_bounded() {
        let fresh = FreshEntries::default();
        told(&fresh, 0..10_000);
        told(&fresh, 10_000..20_000);

        fresh.known_before(0);
        assert_eq!(fresh.unknown_from(), None, "no room");
        assert_eq!(fresh.take(0, u32::MAX).len(), WAITING_MAX);
    }
}
