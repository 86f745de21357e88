//! The few things the journal asks of a disk, so that a test can have one that fails.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::rename;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What changes files. Reading needs no such door: it may fail at any time without harm.
pub(super) trait Disk: Send + 'static {
    /// A new, empty file for reading and writing, in place of any other of this name.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// All octets at this offset; after a failure any part of them may be there.
    fn write(&self, file: &File, octets: &[u8], offset: u64) -> io::Result<()>;
    /// Makes a file's contents and its length durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts a file to this length, in octets.
    fn truncate(&self, file: &File, length: u64) -> io::Result<()>;
    /// Gives a file its final name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The operating system's.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    fn write(&self, file: &File, octets: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(octets, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// A disk that fails on demand, for tests.
#[cfg(test)]
pub(super) mod faulty {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::MutexGuard;
    use std::sync::mpsc::Receiver;

    /// What the next operations do. Counts of failures go down with each.
    #[derive(Default)]
    pub(in crate::journal) struct Plan {
        /// Which of the next syncs of files fail; none after these.
        pub(in crate::journal) syncs_fail: VecDeque<bool>,
        /// They fail for want of space, as on a disk that allots it late.
        pub(in crate::journal) syncs_lack_space: bool,
        pub(in crate::journal) failing_truncations: usize,
        pub(in crate::journal) failing_directory_syncs: usize,
        /// Octets until the disk is full; `None`: no limit.
        pub(in crate::journal) space: Option<usize>,
        /// The next sync waits until the other end is dropped.
        pub(in crate::journal) gate: Option<Receiver<()>>,
        /// Syncs of files so far.
        pub(in crate::journal) syncs: usize,
    }

    #[derive(Clone, Default)]
    pub(in crate::journal) struct FaultyDisk(Arc<Mutex<Plan>>);

    impl FaultyDisk {
        pub(in crate::journal) fn plan(&self) -> MutexGuard<'_, Plan> {
            self.0.lock().unwrap()
        }
    }

    fn fails(count: &mut usize) -> io::Result<()> {
        if *count == 0 {
            return Ok(());
        }
        *count -= 1;
        Err(io::Error::from_raw_os_error(5)) // EIO
    }

    impl Disk for FaultyDisk {
        fn create(&self, path: &Path) -> io::Result<File> {
            if self.plan().space == Some(0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            RealDisk.create(path)
        }

        fn write(&self, file: &File, octets: &[u8], offset: u64) -> io::Result<()> {
            let mut plan = self.plan();
            let Some(space) = plan.space else {
                return RealDisk.write(file, octets, offset);
            };
            let fitting = space.min(octets.len());
            plan.space = Some(space - fitting);
            RealDisk.write(file, &octets[..fitting], offset)?;
            if fitting < octets.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn sync(&self, file: &File) -> io::Result<()> {
            let gate = self.plan().gate.take();
            if let Some(gate) = gate {
                let _ = gate.recv();
            }
            let mut plan = self.plan();
            plan.syncs += 1;
            if plan.syncs_fail.pop_front() == Some(true) {
                return Err(if plan.syncs_lack_space {
                    io::ErrorKind::StorageFull.into()
                } else {
                    io::Error::from_raw_os_error(5)
                });
            }
            RealDisk.sync(file)
        }

        fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
            fails(&mut self.plan().failing_truncations)?;
            RealDisk.truncate(file, length)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealDisk.rename(from, to)
        }

        fn sync_directory(&self, directory: &Path) -> io::Result<()> {
            fails(&mut self.plan().failing_directory_syncs)?;
            RealDisk.sync_directory(directory)
        }
    }
}
