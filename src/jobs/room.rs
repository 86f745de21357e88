//! Packages that met a full disk, and whether there is room for them now.
//!
//! A package is begun anew from its first octet. Where it met a full disk before, it does so again
//! while there is no more room than it had taken: for as long it waits, and the disk does not work.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use uuid::Uuid;

/// Free octets that are no more room than before: on a full disk, too, a few come and go.
const MORE: u64 = 8 << 20;

/// What this replica's packages had taken when the disk was full.
#[derive(Debug, Default)]
pub(super) struct Room(BTreeMap<Uuid, u64>);

impl Room {
    /// The batch's package had taken so many octets of the disk when there were no more.
    pub(super) fn used_up(&mut self, batch: Uuid, octets: u64) {
        self.0.insert(batch, octets);
    }

    /// Batches that would meet the full disk again, with `free` octets left. The others are
    /// forgotten.
    pub(super) fn lacking(&mut self, free: impl FnOnce() -> u64) -> Vec<Uuid> {
        if !self.0.is_empty() {
            let free = free();
            self.0.retain(|_, taken| free < taken.saturating_add(MORE));
        }
        self.0.keys().copied().collect()
    }
}

/// Octets that this process may still write there. Of a directory that is not there as many as one
/// likes: whoever writes to it says what is the matter.
pub(super) fn free(directory: &Path) -> u64 {
    statvfs(directory).map_or(u64::MAX, |disk| {
        let blocks = if geteuid().is_root() {
            disk.blocks_free()
        } else {
            disk.blocks_available()
        };
        blocks.saturating_mul(disk.fragment_size())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_package_waits_until_there_is_more_room_than_it_had() {
        let mut room = Room::default();
        assert!(room.lacking(|| unreachable!()).is_empty());
        room.used_up(BATCH, 100 << 20);
        room.used_up(OTHER, 10 << 20);
        // What it had taken is free again, and a little more.
        assert_eq!(room.lacking(|| (108 << 20) - 1), [BATCH]);
        assert!(room.lacking(|| 108 << 20).is_empty());
        assert!(room.lacking(|| 0).is_empty(), "it is tried, whatever then");
        room.used_up(BATCH, u64::MAX);
        assert_eq!(room.lacking(|| u64::MAX - 1), [BATCH]);
    }

    #[test]
    fn a_directory_that_is_gone_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        assert_ne!(free(directory.path()), 0);
        assert_eq!(free(&directory.path().join("gone")), u64::MAX);
    }
}
