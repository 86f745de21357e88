//! Signatures that wait for one of the HSM's sessions, played through: they come by chance, and each takes
//! a session for the same time (M/D/c).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Signatures that are played.
const PLAYED: usize = 1_000_000;
/// The first ones, which find an empty queue, do not count.
const WARMING_UP: usize = 50_000;
/// Nanoseconds.
const SECOND: f64 = 1e9;

/// How long they wait, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Waits {
    pub(super) mean_ms: f64,
    pub(super) p99_ms: f64,
}

/// `per_second` signatures, which come by chance, at `sessions` that make `signer_per_second` of them
/// together. `None`: they cannot be made in time, and the queue grows without end. The same numbers have the
/// same answer.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "nanoseconds of a played hour are far below 2^52"
)]
pub(super) fn play(per_second: f64, sessions: usize, signer_per_second: f64) -> Option<Waits> {
    let sessions = sessions.max(1);
    let takes = sessions as f64 / signer_per_second * SECOND;
    if !takes.is_finite() || per_second >= signer_per_second {
        return None;
    }
    if per_second <= 0.0 {
        let (mean_ms, p99_ms) = (0.0, 0.0);
        return Some(Waits { mean_ms, p99_ms });
    }
    let mut free: BinaryHeap<Reverse<u64>> = (0..sessions).map(|_| Reverse(0)).collect();
    let mut waits = Vec::with_capacity(PLAYED);
    let (mut now, mut chance) = (0.0, Chance(1));
    for _ in 0..PLAYED + WARMING_UP {
        // The time to the next one of those that come by chance.
        now += -chance.next().ln() / per_second * SECOND;
        let asked = now as u64;
        let Reverse(ready) = free.pop()?;
        let begins = ready.max(asked);
        free.push(Reverse(begins + takes as u64));
        waits.push(begins - asked);
    }
    waits.drain(..WARMING_UP);
    waits.sort_unstable();
    let sum: u64 = waits.iter().sum();
    let ms = |nanoseconds: f64| nanoseconds / 1e6;
    Some(Waits {
        mean_ms: ms(sum as f64 / waits.len() as f64),
        p99_ms: ms(*waits.get(waits.len() * 99 / 100)? as f64),
    })
}

/// Numbers as if by chance (`SplitMix64`, Steele, Lea and Flood 2014), the same each time.
struct Chance(u64);

impl Chance {
    /// Above 0, and at most 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pollaczek and Khinchine: one session at a load of r waits r / (2 (1 - r)) of a signature's time.
    #[test]
    fn one_session_waits_as_long_as_the_formula_says() {
        for load in [0.3, 0.5, 0.8, 0.9] {
            let waits = play(load * 100.0, 1, 100.0).unwrap();
            let formula = load / (2.0 * (1.0 - load)) * 10.0;
            let ratio = waits.mean_ms / formula;
            assert!((0.93..1.07).contains(&ratio), "{load}: {waits:?} {formula}");
            assert!(waits.p99_ms > waits.mean_ms);
        }
    }

    #[test]
    fn more_sessions_wait_less_and_a_full_signer_for_ever() {
        let one = play(90.0, 1, 100.0).unwrap();
        let four = play(90.0, 4, 100.0).unwrap();
        assert!(four.mean_ms < one.mean_ms, "{four:?} {one:?}");
        assert_eq!(play(100.0, 4, 100.0), None);
        assert_eq!(play(1.0, 4, 0.0), None);
        assert!(play(0.0, 4, 100.0).unwrap().p99_ms < 1e-9);
        assert_eq!(play(90.0, 4, 100.0), play(90.0, 4, 100.0));
    }
}
