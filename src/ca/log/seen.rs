//! How far this process has seen the log: what it holds against each database server that it comes to.
//!
//! A database that fails over may come back as an earlier state of itself. Entries that this process has in
//! its journal and its tree are then missing, or others stand in their places; to append there would fork
//! the log.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::pki::merkle::Hash;
use crate::pki::merkle::leaf_hash;

/// The newest entry that was followed.
#[derive(Debug, Default)]
pub struct SeenLog(Mutex<Option<(u64, Hash)>>);

impl SeenLog {
    /// The entry at `index` is in the journal or in the tree.
    pub fn follow(&self, index: u64, leaf: &[u8]) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_none_or(|(seen, _)| seen < index) {
            *newest = Some((index, leaf_hash(leaf)));
        }
    }

    /// Its place; `None`: nothing was followed yet.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.map(|(index, _)| index)
    }

    /// What is wrong with a log of `size` entries that has `leaf` at the place `index`, which
    /// [`Self::newest`] gave. Entries that are archived are not compared.
    #[must_use]
    pub fn contradiction(&self, index: u64, size: u64, leaf: Option<&[u8]>) -> Option<String> {
        let newest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, hash) = newest?;
        if size <= index {
            return Some(format!(
                "the database's log ends with {size} entries, but this replica has seen entry {index}"
            ));
        }
        let other = seen == index && leaf.is_some_and(|leaf| leaf_hash(leaf) != hash);
        other.then(|| {
            format!("entry {index} of the database's log is another one than this replica has seen")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_shorter_or_another_one_is_found_and_the_same_one_is_not() {
        let seen = SeenLog::default();
        assert_eq!(seen.newest(), None);
        assert_eq!(seen.contradiction(0, 0, None), None);
        seen.follow(6, b"six");
        seen.follow(7, b"seven");
        seen.follow(5, b"five");
        assert_eq!(seen.newest(), Some(7));
        assert_eq!(seen.contradiction(7, 8, Some(b"seven")), None);
        assert_eq!(seen.contradiction(7, 9, None), None, "archived");
        let shorter = seen.contradiction(7, 7, None).unwrap();
        assert!(shorter.contains("ends with 7 entries"), "{shorter}");
        let other = seen.contradiction(7, 8, Some(b"another")).unwrap();
        assert!(other.contains("entry 7"), "{other}");
        seen.follow(8, b"eight");
        assert_eq!(seen.contradiction(7, 8, Some(b"seven")), None, "meanwhile");
    }
}
