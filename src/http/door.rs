//! The way in: how many connections one address may hold, and how many handshakes a second are
//! worked on.
//!
//! A handshake costs the processor as much as a certificate does. Those over the rate wait their
//! turn, so that stations that are connected keep theirs; connections over an address's number are
//! closed before any work is done for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::http::places::Place;
use crate::http::places::Places;

/// Handshakes that may come at once before the rate holds.
const HANDSHAKE_BURST: u32 = 32;
/// Longest wait for a turn; a connection that would wait longer is closed, so that a crowd of silent
/// ones does not keep a station out until the last of them had its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(4);

/// The door of one listener; all its workers share it.
pub struct Door {
    per_address_max: usize,
    /// Between two handshakes.
    gap: Duration,
    places: Arc<Places<IpAddr>>,
    /// When the next handshake has its turn.
    next: Mutex<Instant>,
    refused: IntCounter,
}

impl Door {
    /// A door for `per_address_max` connections an address and `handshakes_per_second_max`
    /// handshakes in all; `refused` counts the connections closed at once.
    #[must_use]
    pub fn new(
        per_address_max: usize,
        handshakes_per_second_max: u32,
        refused: IntCounter,
    ) -> Arc<Self> {
        Arc::new(Self {
            per_address_max,
            gap: Duration::from_secs(1) / handshakes_per_second_max.max(1),
            places: Places::new(),
            next: Mutex::new(Instant::now()),
            refused,
        })
    }

    /// A place for a connection from this address, until it is dropped; `None` when it holds its
    /// number.
    pub fn enter(&self, address: IpAddr) -> Option<Place<IpAddr>> {
        let place = self
            .places
            .enter(address.to_canonical(), self.per_address_max);
        if place.is_none() {
            self.refused.inc();
        }
        place
    }

    /// When a handshake that comes `now` has its turn: in the past when at once; `None` when it
    /// would wait for over four seconds, and it takes no turn then.
    pub fn turn(&self, now: Instant) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let burst = now.checked_sub(self.gap * HANDSHAKE_BURST).unwrap_or(now);
        let turn = (*next).max(burst);
        if turn > now + TURN_WAIT_MAX {
            self.refused.inc();
            return None;
        }
        *next = turn + self.gap;
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Arc<Door> {
        Door::new(2, 100, IntCounter::new("refused", "refused").unwrap())
    }

    #[test]
    fn an_address_has_its_number_of_places_and_gets_one_back_when_a_connection_ends() {
        let door = door();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let first = door.enter(one).unwrap();
        let _second = door.enter(one).unwrap();
        assert!(door.enter(one).is_none());
        let _others = door.enter(other).unwrap();
        drop(first);
        assert!(door.enter(one).is_some());
        assert_eq!(door.refused.get(), 1);
    }

    #[test]
    fn handshakes_over_the_burst_come_at_the_rate() {
        let door = door();
        // After a quiet while.
        let now = Instant::now() + Duration::from_secs(1);
        let turns: Vec<Instant> = (0..132).filter_map(|_| door.turn(now)).collect();
        assert_eq!(turns.len(), 132);
        let waiting = turns.iter().filter(|turn| **turn > now).count();
        assert!((98..=100).contains(&waiting), "{waiting}");
        let longest = turns[131] - now;
        assert!((0.97..=1.0).contains(&longest.as_secs_f64()), "{longest:?}");
        let more = (0..1_000).filter_map(|_| door.turn(now)).count();
        assert!((300..=302).contains(&more), "{more} within four seconds");
        assert!(door.turn(now + Duration::from_secs(1)).is_some());
    }
}
