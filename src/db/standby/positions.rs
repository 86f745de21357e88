//! Where the primary was at which moment: what a standby's replay position is held against.
//!
//! `now() - pg_last_xact_replay_timestamp()` says how long ago something was committed, so it grows while
//! nothing is, and says nothing of what has not arrived yet. A position that the primary had passed at a
//! known moment, and that the standby has replayed, says that everything committed before that moment is
//! there. The moments are by this process's own clock: no two machines' clocks are compared.

use std::collections::VecDeque;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;

/// Positions kept: an hour's, two a second.
const KEPT_MAX: usize = 7_200;

/// The primary at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Before it was asked: what was committed by then is not beyond `flushed`.
    pub(super) at: Instant,
    /// The primary's clock.
    pub(super) time: DateTime<Utc>,
    /// Where its log was durable (`pg_current_wal_flush_lsn`).
    pub(super) flushed: i64,
}

/// Where the primary was, oldest first.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// The cluster's `system_identifier`.
    system: Option<i64>,
    passed: VecDeque<Position>,
}

impl Positions {
    /// The primary is there now. Another cluster, or one that is further back, is another history.
    pub(super) fn add(&mut self, system: i64, position: Position) {
        let newest = self.passed.back().map(|it| it.flushed);
        if self.system != Some(system) || newest.is_some_and(|it| it > position.flushed) {
            self.passed.clear();
            self.system = Some(system);
        }
        // The newest moment of a position says most.
        if newest == Some(position.flushed) {
            self.passed.pop_back();
        }
        if self.passed.len() == KEPT_MAX {
            self.passed.pop_front();
        }
        self.passed.push_back(position);
    }

    /// The cluster that was asked; `None`: none yet.
    pub(super) fn system(&self) -> Option<i64> {
        self.system
    }

    /// The newest moment whose position is replayed; `None`: none that is known.
    pub(super) fn newest(&self, replayed: i64) -> Option<Position> {
        let count = self.passed.partition_point(|it| it.flushed <= replayed);
        count
            .checked_sub(1)
            .and_then(|last| self.passed.get(last))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn position(start: Instant, second: u64, flushed: i64) -> Position {
        Position {
            at: start + Duration::from_secs(second),
            time: DateTime::from_timestamp_nanos(0),
            flushed,
        }
    }

    fn second(positions: &Positions, start: Instant, replayed: i64) -> Option<u64> {
        let newest = positions.newest(replayed);
        newest.map(|it| (it.at - start).as_secs())
    }

    #[test]
    fn a_standby_is_as_old_as_the_newest_position_that_it_has_replayed() {
        let (start, mut positions) = (Instant::now(), Positions::default());
        assert_eq!(second(&positions, start, 100), None);
        for (at, flushed) in [(1, 100), (2, 200), (3, 300)] {
            positions.add(7, position(start, at, flushed));
        }
        assert_eq!(second(&positions, start, 99), None);
        assert_eq!(second(&positions, start, 100), Some(1));
        assert_eq!(second(&positions, start, 299), Some(2));
        assert_eq!(second(&positions, start, 1_000), Some(3));
    }

    #[test]
    fn while_nothing_is_written_a_standby_does_not_grow_old() {
        let (start, mut positions) = (Instant::now(), Positions::default());
        for at in 1..20_000 {
            positions.add(7, position(start, at, 100));
        }
        assert_eq!(second(&positions, start, 100), Some(19_999));
        assert_eq!(positions.passed.len(), 1);
    }

    #[test]
    fn another_history_is_no_measure_and_memory_is_bounded() {
        let (start, mut positions) = (Instant::now(), Positions::default());
        positions.add(7, position(start, 1, 300));
        positions.add(7, position(start, 2, 200));
        assert_eq!(second(&positions, start, 300), Some(2));
        positions.add(8, position(start, 3, 500));
        assert_eq!((positions.system(), positions.passed.len()), (Some(8), 1));
        for at in 0..10_000 {
            positions.add(8, position(start, 4 + at, 501 + i64::try_from(at).unwrap()));
        }
        assert_eq!(positions.passed.len(), KEPT_MAX);
    }
}
