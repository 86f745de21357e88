//! Everything that can go wrong with the journal.

use std::io;
use std::path::Path;
use std::path::PathBuf;

/// Why the journal cannot be opened, appended to or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalFault {
    /// Another process, or another part of this one, has the journal open.
    #[error("the journal is open elsewhere")]
    Locked,
    /// The file system, or the quota on it, has no space left. Nothing of what was to be appended
    /// counts; the next append tries again.
    #[error("no space is left for the journal")]
    Full,
    /// The operating system refused something.
    #[error("{what} {}: {reason}", path.display())]
    Io {
        /// What was tried: `write`, `sync`, ….
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The journal will not take such an entry: too long, or another leaf than the one it has under
    /// the same index. The journal itself is well.
    #[error("not appended: {0}")]
    Refused(String),
    /// What was once durable is no longer as it was written.
    #[error("{}, octet {offset}, {}: {what}", file.display(), place(*after_index))]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it the first record begins that cannot be believed; 0 for the header.
        offset: u64,
        /// Index of the record before that one; at the beginning of a segment, the highest in all
        /// segments before. `None` if there is none, or if the header that would tell is the damage.
        after_index: Option<u64>,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl JournalFault {
    pub(super) fn io(what: &'static str, path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io {
                what,
                path: path.to_owned(),
                reason: error.to_string(),
            },
        }
    }
}

fn place(after_index: Option<u64>) -> String {
    after_index.map_or("at the beginning".to_owned(), |index| {
        format!("after index {index}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let fault = |kind: io::ErrorKind| JournalFault::io("write", Path::new("a"), &kind.into());
        assert_eq!(fault(io::ErrorKind::StorageFull), JournalFault::Full);
        assert_eq!(fault(io::ErrorKind::QuotaExceeded), JournalFault::Full);
        let other = fault(io::ErrorKind::PermissionDenied).to_string();
        assert_eq!(other, "write a: permission denied");
    }

    #[test]
    fn damage_names_file_offset_and_the_index_before() {
        let fault = |after_index| JournalFault::Damaged {
            file: "a.cfj".into(),
            offset: 7,
            after_index,
            what: "is cut off",
        };
        assert_eq!(
            fault(Some(3)).to_string(),
            "a.cfj, octet 7, after index 3: is cut off"
        );
        assert_eq!(
            fault(None).to_string(),
            "a.cfj, octet 7, at the beginning: is cut off"
        );
    }
}
