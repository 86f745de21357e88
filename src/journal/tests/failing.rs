//! Disks that fail, and come back.

use super::*;

#[tokio::test]
async fn after_a_failed_fsync_the_batch_goes_into_a_new_segment() {
    // Whether or not the old one can still be cut, and whatever the reason was.
    for (failing_truncations, syncs_lack_space) in [(0, false), (1, false), (0, true)] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let (disk, journal) = faulty(directory, SEGMENT_LENGTH);
        journal.append(entries([1, 2])).await.unwrap();
        let old = segments(directory).pop().unwrap();
        let durable = fs::metadata(&old).unwrap().len();

        disk.plan().syncs_fail = [true].into();
        disk.plan().syncs_lack_space = syncs_lack_space;
        disk.plan().failing_truncations = failing_truncations;
        journal.append(entries([3, 4])).await.unwrap();
        assert_eq!(journal.health(), Ok(()));
        let left = fs::metadata(&old).unwrap().len();
        assert_eq!(left > durable, failing_truncations > 0);
        assert_eq!(segments(directory).len(), 2);

        journal.append(entries([5])).await.unwrap();
        journal.close().await;
        assert_eq!(all(directory).unwrap(), entries([1, 2, 3, 4, 5]));
        let later: Result<Vec<_>, _> = missing_after(directory, 3).unwrap().collect();
        assert_eq!(later.unwrap(), entries([3, 4, 5]));
        let opened = open(directory).unwrap();
        assert_eq!(
            (opened.cut_octets, opened.journal.highest_index()),
            (0, Some(5))
        );
    }
}

#[tokio::test]
async fn a_disk_that_fails_twice_fails_the_append_and_the_next_one_heals_it() {
    // First the batch's sync fails, then the one of the new segment's header, of its name, or of the
    // batch in it; the last ones fail in the next append, too.
    let cases: [(&[bool], usize, usize); 6] = [
        (&[true, true], 0, 1),
        (&[true], 1, 1),
        (&[true, false, true], 0, 1),
        (&[true, false, true, true], 0, 2),
        (&[true, false, true, false, true, false, true], 0, 2),
        (&[true; 7], 0, 6),
    ];
    for (syncs_fail, failing_directory_syncs, expected) in cases {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let (disk, journal) = faulty(directory, SEGMENT_LENGTH);
        journal.append(entries([1])).await.unwrap();
        disk.plan().syncs_fail = syncs_fail.iter().copied().collect();
        disk.plan().failing_directory_syncs = failing_directory_syncs;
        let mut failures = 0;
        while let Err(fault) = journal.append(entries([2, 3])).await {
            failures += 1;
            assert!(matches!(fault, JournalFault::Io { .. }), "{fault}");
            assert_eq!(journal.health(), Err(fault.to_string()));
            assert_eq!(journal.highest_index(), Some(1));
            assert_eq!(all(directory).unwrap()[..1], entries([1]));
        }
        assert_eq!(failures, expected, "{syncs_fail:?}");
        let (health, highest) = (journal.health(), journal.highest_index());
        assert_eq!((health, highest), (Ok(()), Some(3)));
        journal.append(entries([4])).await.unwrap();
        journal.close().await;
        assert_eq!(all(directory).unwrap(), entries([1, 2, 3, 4]));
        assert!(open(directory).is_ok());
    }
}

#[tokio::test]
async fn a_disk_that_fails_for_long_does_not_fill_with_segments() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let (disk, journal) = faulty(directory, SEGMENT_LENGTH);
    journal.append(entries([1])).await.unwrap();
    // Headers can be synced, batches cannot.
    disk.plan().syncs_fail = [true, false].repeat(50).into();
    disk.plan().failing_truncations = usize::MAX;
    for index in 2..20 {
        journal.append(entries([index])).await.unwrap_err();
    }
    assert_eq!(segments(directory).len(), 2);
    disk.plan().syncs_fail.clear();
    journal.append(entries([20])).await.unwrap();
    assert_eq!(all(directory).unwrap(), entries([1, 20]));
    assert_eq!(segments(directory).len(), 2);
}

#[tokio::test]
async fn a_full_disk_fails_appends_until_there_is_space() {
    // From nothing to one octet too few, with and without the cut that should follow, where the batch
    // belongs into the segment and where it belongs into a new one.
    let batch = 2 * 98;
    for (segment_length, needed) in [(SEGMENT_LENGTH, batch), (1, 180 + batch)] {
        let spaces = (0..needed).step_by(11).chain([needed - 1]);
        for (space, failing_truncations) in
            spaces.flat_map(|space| [(space, 0), (space, usize::MAX)])
        {
            let directory = TempDir::new().unwrap();
            let directory = directory.path();
            let (disk, journal) = faulty(directory, segment_length);
            journal.append(entries([1])).await.unwrap();
            disk.plan().space = Some(space);
            disk.plan().failing_truncations = failing_truncations;
            for _ in 0..2 {
                let fault = journal.append(entries([2, 3])).await.unwrap_err();
                assert_eq!(fault, JournalFault::Full);
                assert_eq!(journal.health(), Err(fault.to_string()));
            }
            assert_eq!(all(directory).unwrap()[..1], entries([1]));
            disk.plan().space = None;
            journal.append(entries([2, 3])).await.unwrap();
            assert_eq!(journal.health(), Ok(()));
            journal.append(entries([4])).await.unwrap();
            assert_eq!(all(directory).unwrap(), entries([1, 2, 3, 4]));
            // A segment that could be cut is used further.
            let count = match (segment_length, failing_truncations) {
                (1, _) => 3,
                (_, 0) => 1,
                _ => 2,
            };
            assert_eq!(segments(directory).len(), count);
        }
    }
}

#[tokio::test]
async fn a_process_that_ends_while_the_disk_fails_leaves_a_journal_that_opens() {
    let cases: [(&[bool], usize); 4] = [
        (&[true, true], 0),
        (&[true, true], 9),
        (&[true, false, true], 0),
        (&[true, false, true], 9),
    ];
    for (syncs_fail, failing_truncations) in cases {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let (disk, journal) = faulty(directory, SEGMENT_LENGTH);
        journal.append(entries([1])).await.unwrap();
        disk.plan().syncs_fail = syncs_fail.iter().copied().collect();
        disk.plan().failing_truncations = failing_truncations;
        journal.append(entries([2, 3])).await.unwrap_err();
        journal.close().await;
        write(directory, SEGMENT_LENGTH, &[entries([2, 3]), entries([4])]).await;
        assert_eq!(all(directory).unwrap(), entries([1, 2, 3, 4]));
    }
}

#[test]
fn a_first_segment_that_cannot_be_begun_is_a_fault_at_the_start() {
    let directory = TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    disk.plan().space = Some(100);
    let open = || Journal::open_on(disk.clone(), config(directory.path(), SEGMENT_LENGTH));
    assert_eq!(open().err(), Some(JournalFault::Full));
    disk.plan().space = None;
    assert!(open().is_ok());
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_of_while_it_does() {
    let directory = TempDir::new().unwrap();
    let (disk, journal) = faulty(directory.path(), SEGMENT_LENGTH);
    let told = |reason| panic!("{reason}");
    journal.append_telling(entries([1]), told).await.unwrap();

    let (opens, gate) = std::sync::mpsc::channel();
    disk.plan().gate = Some(gate);
    let mut opens = Some(opens);
    let mut reasons = Vec::new();
    let told = |reason| {
        reasons.push(reason);
        drop(opens.take());
    };
    journal.append_telling(entries([2]), told).await.unwrap();
    assert_eq!(reasons, ["its disk has not answered for 2 s"]);
    assert_eq!(journal.health(), Ok(()));
    journal.close().await;
    assert_eq!(all(directory.path()).unwrap(), entries([1, 2]));
}
