//! Which of a million identities are there twice, in bounded memory.

use std::collections::BinaryHeap;

use openssl::sha::sha256;

/// Octets of a digest that are kept. An identity that only seems to be another would take 2^64
/// trials to find, and would be refused, not certified.
const DIGEST_LENGTH: usize = 16;

/// Rows and the digests of their identities: 20 octets a row, whatever its length.
#[derive(Debug, Default)]
pub struct Twins {
    rows: Vec<([u8; DIGEST_LENGTH], u32)>,
}

impl Twins {
    /// No rows yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the identity of one row.
    pub fn add(&mut self, row: u32, octets: &[u8]) {
        let mut digest = [0; DIGEST_LENGTH];
        digest.copy_from_slice(&sha256(octets)[..DIGEST_LENGTH]);
        self.rows.push((digest, row));
    }

    /// Rows whose identity an earlier row has, too: the first row with it and the later one, the
    /// first `limit` of them in the order of the later.
    #[must_use]
    pub fn find(mut self, limit: usize) -> Vec<(u32, u32)> {
        self.rows.sort_unstable();
        // The later row first, so that the largest is on top and goes when there are too many.
        let mut found = BinaryHeap::new();
        for twins in self.rows.chunk_by(|one, other| one.0 == other.0) {
            let Some(((_, first), again)) = twins.split_first() else {
                continue;
            };
            for (_, again) in again {
                found.push((*again, *first));
                if found.len() > limit {
                    found.pop();
                }
            }
        }
        let found = found.into_sorted_vec().into_iter();
        found.map(|(again, first)| (first, again)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Twins;

    #[test]
    fn an_identity_that_comes_again_is_found_with_its_first_row() {
        let mut twins = Twins::new();
        for (row, identity) in (1..).zip(["a", "b", "c", "b", "a", "b", ""]) {
            twins.add(row, identity.as_bytes());
        }
        assert_eq!(twins.find(10), [(2, 4), (1, 5), (2, 6)]);
        assert_eq!(Twins::new().find(10), []);
    }

    #[test]
    fn among_200_000_rows_the_first_twins_come_in_order_up_to_the_limit() {
        let twins = || {
            let mut twins = Twins::new();
            for row in 1..=200_000_u32 {
                // Every thousandth row is the one a hundred before it.
                let number = if row % 1_000 == 0 { row - 100 } else { row };
                twins.add(row, format!("lamp-{number:08}").as_bytes());
            }
            twins
        };
        let all: Vec<_> = (1..=200).map(|n| (n * 1_000 - 100, n * 1_000)).collect();
        assert_eq!(twins().find(usize::MAX), all);
        assert_eq!(twins().find(3), all[..3]);
        assert_eq!(twins().find(0), []);
    }
}
