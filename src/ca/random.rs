//! Whether random numbers can be trusted.
//!
//! A serial number has 120 random bits. One that repeats says that the generator repeats itself, as that of a
//! virtual machine put back to an earlier state may: then keys, too, may repeat.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is said of it.
pub(super) const REPEATED: &str =
    "a serial number repeated: find out why, then start the service anew";

/// Latched: once they are not trusted, they are not for as long as the process lives.
#[derive(Debug, Default)]
pub struct RandomWatch(AtomicBool);

impl RandomWatch {
    /// `Err(reason)` once a number has repeated.
    pub fn trusted(&self) -> Result<(), &'static str> {
        if self.0.load(Ordering::Relaxed) {
            Err(REPEATED)
        } else {
            Ok(())
        }
    }

    pub(super) fn distrust(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::error!(reason = REPEATED, "nothing is issued any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_distrusted_it_stays_so() {
        let watch = RandomWatch::default();
        assert_eq!(watch.trusted(), Ok(()));
        for _ in 0..2 {
            watch.distrust();
            assert_eq!(watch.trusted(), Err(REPEATED));
        }
    }
}
