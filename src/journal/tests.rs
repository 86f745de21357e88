//! The journal through its front door, on disks that work.

mod damage;
mod failing;

use super::*;
use crate::journal::disk::faulty::FaultyDisk;
use std::fs;
use tempfile::TempDir;

fn entry(index: u64, length: usize) -> Entry {
    let leaf: Vec<u8> = (0..length)
        .map(|place| u8::try_from((index + place as u64) % 251).unwrap() | 1)
        .collect();
    Entry {
        index,
        leaf: leaf.into(),
    }
}

fn entries(indexes: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    indexes.into_iter().map(|index| entry(index, 50)).collect()
}

fn config(directory: &Path, segment_length: u64) -> JournalConfig {
    JournalConfig {
        directory: directory.to_owned(),
        segment_length,
    }
}

fn open(directory: &Path) -> Result<Opened, JournalFault> {
    Journal::open(config(directory, SEGMENT_LENGTH))
}

fn faulty(directory: &Path, segment_length: u64) -> (FaultyDisk, Journal) {
    let disk = FaultyDisk::default();
    let opened = Journal::open_on(disk.clone(), config(directory, segment_length)).unwrap();
    (disk, opened.journal)
}

fn all(directory: &Path) -> Result<Vec<Entry>, JournalFault> {
    read(directory)?.collect()
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let numbers = segment::list(directory).unwrap();
    let path = |number| segment::path(directory, number);
    numbers.into_iter().map(path).collect()
}

/// Writes each of these as one append, and closes the journal.
async fn write(directory: &Path, segment_length: u64, appends: &[Vec<Entry>]) {
    let opened = Journal::open(config(directory, segment_length)).unwrap();
    for entries in appends {
        opened.journal.append(entries.clone()).await.unwrap();
    }
    opened.journal.close().await;
}

#[tokio::test]
async fn what_was_appended_is_read_back_and_the_next_process_goes_on_behind_it() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let Opened { journal, .. } = open(directory).unwrap();
    assert_eq!(
        (journal.highest_index(), all(directory)),
        (None, Ok(vec![]))
    );
    journal.append(entries([3, 4, 9])).await.unwrap();
    journal.append(vec![]).await.unwrap();
    journal.append(vec![entry(2, 0)]).await.unwrap();
    assert_eq!(journal.highest_index(), Some(9));
    journal.close().await;

    let Opened {
        journal,
        cut_octets,
    } = open(directory).unwrap();
    assert_eq!((journal.highest_index(), cut_octets), (Some(9), 0));
    journal
        .append(vec![entry(10, LEAF_LENGTH_MAX)])
        .await
        .unwrap();
    let mut expected = entries([3, 4, 9]);
    expected.extend([entry(2, 0), entry(10, LEAF_LENGTH_MAX)]);
    assert_eq!(all(directory).unwrap(), expected);
    assert_eq!(journal.health(), Ok(()));
    let space = journal.space().unwrap();
    assert!(space.free_octets <= space.total_octets && space.total_octets > 0);
}

#[tokio::test]
async fn a_full_segment_is_followed_by_another_and_low_ones_are_not_read_again() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let appends: Vec<_> = (0..40).map(|index| entries([2 * index])).collect();
    write(directory, 700, &appends[..25]).await;
    write(directory, 700, &appends[25..]).await;
    let expected = appends.concat();
    assert_eq!(all(directory).unwrap(), expected);
    let files = segments(directory);
    let numbers: Vec<_> = (0..40).step_by(6).collect();
    assert_eq!(segment::list(directory).unwrap(), numbers);
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() < 700 + 100, "{file:?}");
    }
    for from_index in [0, 1, 33, 34, 78, 79, u64::MAX] {
        let later: Result<Vec<_>, _> = missing_after(directory, from_index).unwrap().collect();
        let expected = expected.iter().filter(|entry| entry.index >= from_index);
        assert_eq!(later.unwrap(), expected.cloned().collect::<Vec<_>>());
    }
    // The first segment is neither opened nor read for what comes late; all segments are for all.
    fs::write(&files[0], "gone").unwrap();
    assert_eq!(missing_after(directory, 70).unwrap().count(), 5);
    assert!(read(directory).is_err());
    let opened = open(directory).unwrap();
    assert_eq!(opened.journal.highest_index(), Some(78));
}

#[tokio::test]
async fn a_journal_is_open_once() {
    let directory = TempDir::new().unwrap();
    let Opened { journal, .. } = open(directory.path()).unwrap();
    assert_eq!(open(directory.path()).err(), Some(JournalFault::Locked));
    journal.close().await;
    assert!(open(directory.path()).is_ok());
}

#[test]
fn a_volume_that_was_not_mounted_is_no_empty_journal() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("journal");
    for fault in [open(&missing).err(), read(&missing).err()] {
        assert!(matches!(fault, Some(JournalFault::Io { .. })), "{fault:?}");
    }
}

#[tokio::test]
async fn a_repeat_of_the_last_write_is_left_out_and_an_older_one_is_written_again() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    write(directory, SEGMENT_LENGTH, &[entries([1]), entries([2, 3])]).await;
    // The same after a restart, where the last write is known from the segment.
    let repeats = [entries([3, 3, 2]), entries([1, 4, 4, 3])];
    write(directory, SEGMENT_LENGTH, &repeats).await;
    assert_eq!(all(directory).unwrap(), entries([1, 2, 3, 1, 4]));
}

#[tokio::test]
async fn another_leaf_under_a_known_index_is_refused_and_alone() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let Opened { journal, .. } = open(directory).unwrap();
    journal.append(entries([1])).await.unwrap();
    for refused in [
        vec![entry(2, 50), entry(1, 51)],
        vec![entry(2, 50), entry(2, 51)],
        vec![entry(2, 50), entry(3, LEAF_LENGTH_MAX + 1)],
        (0..=256)
            .map(|index| entry(index, LEAF_LENGTH_MAX))
            .collect(),
    ] {
        let fault = journal.append(refused).await.unwrap_err();
        assert!(matches!(fault, JournalFault::Refused(_)), "{fault}");
    }
    assert_eq!(journal.health(), Ok(()));
    journal.append(entries([2])).await.unwrap();
    assert_eq!(all(directory).unwrap(), entries([1, 2]));
    // Further back it is the reader that finds it.
    journal.append(vec![entry(1, 51)]).await.unwrap();
    let found: Vec<_> = read(directory).unwrap().collect();
    assert_eq!(found.len(), 3);
    let fault = found[2].clone().unwrap_err();
    assert!(
        matches!(&fault, JournalFault::Damaged { after_index: Some(2), offset, what, .. }
            if *offset == 180 + 2 * 98 && what.contains("another leaf")),
        "{fault}"
    );
}

#[tokio::test]
async fn appends_that_wait_together_share_one_fsync() {
    let directory = TempDir::new().unwrap();
    let (disk, journal) = faulty(directory.path(), SEGMENT_LENGTH);
    let journal = Arc::new(journal);
    let (gate, closed) = std::sync::mpsc::channel();
    disk.plan().gate = Some(closed);
    let before = disk.plan().syncs;
    let tasks: Vec<_> = (0..300)
        .map(|index| {
            let journal = Arc::clone(&journal);
            // Each has an entry in common with the next.
            tokio::spawn(async move { journal.append(entries(2 * index..=2 * index + 2)).await })
        })
        .collect();
    // On this runtime's one thread, they all stand in the queue when it is our turn again.
    tokio::task::yield_now().await;
    drop(gate);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(disk.plan().syncs - before <= 2, "the first and the rest");
    let mut found = all(directory.path()).unwrap();
    found.sort_by_key(|entry| entry.index);
    assert_eq!(found, entries(0..=600));
}

#[test]
fn appends_from_many_threads_are_all_there() {
    let directory = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    let (disk, journal) = faulty(directory.path(), SEGMENT_LENGTH);
    let journal = Arc::new(journal);
    runtime.block_on(async {
        let tasks = (0..200).map(|index| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.append(entries([index])).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
    });
    assert!(disk.plan().syncs <= 201);
    let mut found = all(directory.path()).unwrap();
    found.sort_by_key(|entry| entry.index);
    assert_eq!(found, entries(0..200));
}
