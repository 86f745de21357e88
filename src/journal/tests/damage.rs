//! Octets that are not what was written.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Octets of a record with a leaf of 50.
const RECORD: usize = 98;

/// A journal's files, so that each case has its own copy.
#[derive(Clone, Debug)]
struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    fn of(segment_length: u64, appends: &[Vec<Entry>]) -> Self {
        let directory = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(write(directory.path(), segment_length, appends));
        let file = |path: PathBuf| {
            let octets = fs::read(&path).unwrap();
            (PathBuf::from(path.file_name().unwrap()), octets)
        };
        Self(segments(directory.path()).into_iter().map(file).collect())
    }

    fn newest(&mut self) -> &mut Vec<u8> {
        &mut self.0.last_mut().unwrap().1
    }

    fn copy(&self) -> TempDir {
        let directory = TempDir::new().unwrap();
        for (name, octets) in &self.0 {
            fs::write(directory.path().join(name), octets).unwrap();
        }
        directory
    }
}

/// Reader and writer agree that exactly these entries are there, and the writer goes on behind them.
fn is_cut_to(files: &Files, expected: &[Entry], cut: usize) {
    let directory = files.copy();
    assert_eq!(all(directory.path()).unwrap(), expected);
    let opened = open(directory.path()).unwrap();
    assert_eq!(opened.cut_octets, cut as u64);
    let highest = expected.iter().map(|entry| entry.index).max();
    assert_eq!(opened.journal.highest_index(), highest);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(opened.journal.append(entries([99])))
        .unwrap();
    let mut expected = expected.to_vec();
    expected.extend(entries([99]));
    assert_eq!(all(directory.path()).unwrap(), expected);
}

fn is_damaged(files: &Files, at: u64, after: Option<u64>) {
    let directory = files.copy();
    let found = all(directory.path()).unwrap_err();
    assert_eq!(open(directory.path()).err(), Some(found.clone()));
    assert!(
        matches!(&found, JournalFault::Damaged { offset, after_index, .. }
            if (*offset, *after_index) == (at, after)),
        "{found}"
    );
}

#[test]
fn a_last_record_torn_at_any_octet_is_cut_off_and_nothing_before_it() {
    let files = Files::of(
        SEGMENT_LENGTH,
        &[entries([1, 2]), entries([3]), entries([4])],
    );
    let end = files.clone().newest().len();
    for rest in 0..RECORD {
        let mut torn = files.clone();
        torn.newest().truncate(end - RECORD + rest);
        is_cut_to(&torn, &entries([1, 2, 3]), rest);
        // The file has its length already, the octets have not come.
        torn.newest().resize(end, 0);
        is_cut_to(&torn, &entries([1, 2, 3]), RECORD);
    }
}

#[test]
fn a_write_of_which_a_middle_part_is_missing_is_torn_and_one_that_was_followed_is_damaged() {
    let write = entries(10..60);
    let mut files = Files::of(SEGMENT_LENGTH, &[entries([1]), write.clone()]);
    let length = files.newest().len();
    files.newest()[1024..2048].fill(0);
    let whole = (1024 - 180) / RECORD;
    let mut expected = entries([1]);
    expected.extend_from_slice(&write[..whole - 1]);
    is_cut_to(&files, &expected, length - 180 - whole * RECORD);

    // Without a missing part it is no torn write, either.
    let after = expected.last().map(|entry| entry.index);
    let mut files = Files::of(SEGMENT_LENGTH, &[entries([1]), write.clone()]);
    files.newest()[1024] ^= 1;
    is_damaged(&files, (180 + whole * RECORD) as u64, after);

    let mut files = Files::of(SEGMENT_LENGTH, &[entries([1]), write, entries([60])]);
    files.newest()[1024..2048].fill(0);
    is_damaged(&files, (180 + whole * RECORD) as u64, after);
}

#[test]
fn a_first_part_that_is_missing_from_the_end_of_a_sector_on_is_torn_too() {
    // The write begins 24 octets before a sector's end, and only the next sectors were written.
    let begin = 180 + 24 + 48 + 8 + 40 + 188;
    let first = vec![entry(1, 24), entry(2, begin - 180 - 24 - 2 * 48)];
    let mut files = Files::of(SEGMENT_LENGTH, &[first.clone(), entries(10..30)]);
    let length = files.newest().len();
    assert_eq!(begin, 488);
    files.newest()[begin..512].fill(0);
    is_cut_to(&files, &first, length - begin);
}

#[test]
fn a_record_that_is_whole_but_out_of_the_chain_is_found() {
    let mut files = Files::of(SEGMENT_LENGTH, &[entries([1]), entries([2]), entries([3])]);
    files.newest().drain(180 + RECORD..180 + 2 * RECORD);
    // At the very end it is as torn as any other; with a record behind it, it is damage.
    is_cut_to(&files, &entries([1]), RECORD);
    let repeated = files.newest()[180..180 + RECORD].to_vec();
    files.newest().extend_from_slice(&repeated);
    is_damaged(&files, (180 + RECORD) as u64, Some(1));
}

#[test]
fn a_segment_that_is_missing_is_found() {
    let appends: Vec<_> = (0..20).map(|index| entries([index])).collect();
    let files = Files::of(400, &appends);
    let count = files.0.len();
    assert!(count > 3);
    for missing in 0..count - 1 {
        let mut files = files.clone();
        files.0.remove(missing);
        let directory = files.copy();
        let fault = all(directory.path()).unwrap_err().to_string();
        let follower = files.0[missing].0.to_str().unwrap();
        assert!(
            fault.contains(follower) && fault.contains("octet 0"),
            "{fault}"
        );
        // Opening looks one segment back.
        assert_eq!(open(directory.path()).is_err(), missing == count - 2);
    }
}

#[test]
fn a_segment_under_another_name_or_of_another_journal_is_found() {
    let journal = |index: u64| Files::of(1, &[entries([index]), entries([2])]);
    let mut renamed = journal(1);
    renamed.0[1].0 = "journal-00000000000000000002.cfj".into();
    is_damaged(&renamed, 0, None);

    let (mut files, other) = (journal(1), journal(3));
    files.0[0] = other.0[0].clone();
    let fault = all(files.copy().path()).unwrap_err().to_string();
    let expected = "journal-00000000000000000000.cfj, octet 278, after index 3: \
                    the next segment goes on from another chain value";
    assert!(fault.ends_with(expected), "{fault}");
}

/// Several segments; the last record of the last one is alone in its write.
static SOME: LazyLock<Files> = LazyLock::new(|| {
    let mut appends: Vec<_> = (0..12).map(|n| entries([3 * n, 3 * n + 1])).collect();
    appends.push(entries([40]));
    let files = Files::of(700, &appends);
    assert!(files.0.len() > 2);
    files
});

proptest! {
    #[test]
    fn one_changed_octet_anywhere_is_found_and_named_or_cut_with_the_last_record(
        at: prop::sample::Index, flip in 1..=255u8,
    ) {
        let (mut files, intact) = (SOME.clone(), all(SOME.copy().path()).unwrap());
        let newest = files.0.len() - 1;
        let lengths: Vec<_> = files.0.iter().map(|(_, octets)| octets.len()).collect();
        let mut at = at.index(lengths.iter().sum());
        let file = lengths
            .iter()
            .position(|length| at < *length || { at -= length; false })
            .unwrap();
        files.0[file].1[at] ^= flip;
        let directory = files.copy();
        let found = all(directory.path());
        if file == newest && at >= lengths[newest] - RECORD {
            prop_assert_eq!(found.unwrap(), &intact[..intact.len() - 1]);
            prop_assert_eq!(open(directory.path()).unwrap().cut_octets, RECORD as u64);
        } else {
            let record = if at < 180 { 0 } else { at - (at - 180) % RECORD };
            let name = directory.path().join(&files.0[file].0);
            let fault = found.unwrap_err();
            prop_assert!(
                matches!(&fault, JournalFault::Damaged { file, offset, .. }
                    if (file, *offset) == (&name, record as u64)),
                "{at} {fault}"
            );
            let opened = open(directory.path()).err();
            prop_assert_eq!(opened, (file == newest).then_some(fault));
        }
    }

    #[test]
    fn any_octets_in_place_of_a_tail_are_read_without_a_panic(
        keep: prop::sample::Index, octets in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut files = SOME.clone();
        let keep = keep.index(files.newest().len());
        files.newest().truncate(keep);
        files.newest().extend(octets);
        let directory = files.copy();
        let found = all(directory.path());
        let opened = open(directory.path());
        prop_assert_eq!(found.is_ok(), opened.is_ok());
    }
}
