//! The log in the database: an entry for every row, in one order; a tree that only grows.

use std::sync::Arc;

use certfactory::ca::Archive as _;
use certfactory::ca::Ledger as _;
use certfactory::ca::Turn;
use certfactory::ca::log::LogBook as _;
use certfactory::ca::log::NewCheckpoint;
use certfactory::ca::log::Note;
use certfactory::ca::log::NoteKind;
use certfactory::ca::log::StoredTile;
use certfactory::ca::log::fresh::FreshEntries;
use certfactory::db::archive::PgArchive;
use certfactory::db::log::PgLog;
use certfactory::metrics::LedgerMetrics;
use certfactory::pki::entry::Entry;
use prometheus::Registry;
use serde_json::json;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::ledger_that_tells;
use crate::fixture::sign;
use crate::fixture::soon;
use crate::postgres::Database;
use crate::postgres::Postgres;

fn log(database: &Database) -> PgLog {
    let metrics = Arc::new(LedgerMetrics::new(&Registry::new()).unwrap());
    PgLog::start(&database.service(), &metrics).unwrap()
}

fn tile(level: u8, hashes: &[u8]) -> StoredTile {
    StoredTile {
        level,
        index: 0,
        hashes: hashes.iter().map(|octet| [*octet; 32]).collect(),
    }
}

fn checkpoint(size: u64, root: u8) -> Option<NewCheckpoint> {
    Some(NewCheckpoint {
        size,
        root: [root; 32],
        note: format!("note {size}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_notes_of_two_replicas_are_one_gapless_log_in_the_order_of_time() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let logs = [Arc::new(log(&database)), Arc::new(log(&database))];
    let mut tasks = Vec::new();
    for number in 0..100 {
        let (ledger, log) = (
            Arc::clone(&ledgers[number % 2]),
            Arc::clone(&logs[number % 2]),
        );
        tasks.push(tokio::spawn(async move {
            let wanted = intent();
            ledger
                .reserve(wanted.clone(), Turn::Line, soon())
                .await
                .unwrap();
            let record = ledger
                .record(wanted.clone(), sign(&wanted), Turn::Line, soon())
                .await
                .unwrap();
            let kind = NoteKind::Refused;
            let event = json!({ "request": wanted.id });
            let note = Note { kind, event };
            // its lane may not be connected yet
            while log.note(note.clone()).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            record
        }));
    }
    let mut records = Vec::new();
    for task in tasks {
        records.push(task.await.unwrap());
    }
    let head = logs[0].head().await.unwrap();
    assert_eq!((head.size, head.halted), (200, None));
    let leaves = logs[0].leaves(0, 1_000).await.unwrap();
    let entries: Vec<Entry<'_>> = leaves
        .iter()
        .map(|leaf| Entry::parse(leaf).unwrap())
        .collect();
    assert_eq!(entries.len(), 200);
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry.index, place as u64);
        assert!(
            place == 0 || entries[place - 1].at <= entry.at,
            "time runs with the log"
        );
    }
    for record in records {
        let entry = &entries[usize::try_from(record.log_index).unwrap()];
        let told = entry.issued().unwrap();
        assert_eq!(entry.certificate, Some(&record.der[..]));
        assert_eq!(entry.at, record.issued_at);
        assert_eq!(told, certfactory::ca::log::issued(&record.intent));
    }
    assert_eq!(logs[1].leaves(198, 10).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_what_others_appended_before_its_own_entries() {
    let database = Postgres::shared().database().await;
    let fresh = Arc::new(FreshEntries::default());
    let other = ledger(&database).await;
    let own = ledger_that_tells(&database, Arc::clone(&fresh)).await;
    let log = log(&database);

    issue(&other, &intent()).await;
    issue(&own, &intent()).await;
    assert!(fresh.take(0, 10).is_empty(), "nobody had asked from there");

    issue(&other, &intent()).await;
    append_notes(&database, 1).await;
    issue(&own, &intent()).await;
    assert_eq!(fresh.take(0, 10), log.leaves(0, 10).await.unwrap());
    assert_eq!(fresh.unknown_from(), Some(5));

    // One that the other has recorded before, as in a commit whose reply was lost.
    let wanted = intent();
    own.reserve(wanted.clone(), Turn::Line, soon())
        .await
        .unwrap();
    for ledger in [&other, &own] {
        let certificate = sign(&wanted);
        let record = ledger
            .record(wanted.clone(), certificate, Turn::Line, soon())
            .await;
        assert_eq!(record.unwrap().log_index, 5);
    }
    assert_eq!(fresh.take(5, 10), log.leaves(5, 10).await.unwrap());

    // As much as is told at once, and more, which is not.
    for (notes, told) in [(64, 65), (65, 0)] {
        let from = fresh.unknown_from().unwrap();
        append_notes(&database, notes).await;
        issue(&own, &intent()).await;
        assert_eq!(fresh.take(from, 100).len(), told);
        fresh.known_before(from + notes + 1);
    }
    // Nor is what is large.
    let from = fresh.unknown_from().unwrap();
    let large = "SELECT log_append('refused', json_build_object('a', repeat('b', 2048)))";
    database.execute(large).await;
    issue(&own, &intent()).await;
    assert!(fresh.take(from, 100).is_empty());
}

async fn append_notes(database: &Database<'_>, count: u64) {
    let notes = format!(
        "SELECT log_append(array_fill('refused'::text, ARRAY[{count}]), array_fill('{{}}'::text, ARRAY[{count}]))"
    );
    database.execute(&notes).await;
}

#[tokio::test]
async fn a_program_that_was_there_before_records_as_it_did() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let wanted = intent();
    ledger
        .reserve(wanted.clone(), Turn::Line, soon())
        .await
        .unwrap();
    let certificate = sign(&wanted);
    let mut service = database.connect("service").await;
    let told: Vec<u8> = sqlx::query_scalar(
        "SELECT told FROM record_certificates(ARRAY[$1], ARRAY[$2], ARRAY[sha256($2)], ARRAY['{}'])",
    )
    .bind(wanted.id)
    .bind(certificate.as_der())
    .fetch_one(&mut service)
    .await
    .unwrap();
    let leaves = log(&database).leaves(0, 10).await.unwrap();
    assert_eq!(leaves, [[&told, &b"\n"[..], certificate.as_der()].concat()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_recorded_twice_has_one_entry() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let wanted = intent();
    ledger
        .reserve(wanted.clone(), Turn::Line, soon())
        .await
        .unwrap();
    let first = ledger
        .record(wanted.clone(), sign(&wanted), Turn::Line, soon())
        .await
        .unwrap();
    let second = ledger
        .record(wanted.clone(), sign(&wanted), Turn::Line, soon())
        .await
        .unwrap();
    assert_eq!((first.log_index, first.der), (second.log_index, second.der));
    assert_eq!(database.number("SELECT count(*) FROM log_entry").await, 1);
}

#[tokio::test]
async fn an_entry_that_cannot_be_written_takes_its_row_with_it() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    database
        .execute("UPDATE log_head SET at = now() + interval '1 hour'")
        .await;
    let mut owner = database.connect("postgres").await;
    let order =
        "INSERT INTO work_order (name, profile, quantity, created_by) VALUES ('WO', 'p', 1, 'x')";
    let error = sqlx::raw_sql(order).execute(&mut owner).await.unwrap_err();
    assert!(
        error.to_string().contains("before the log's last entry"),
        "{error}"
    );
    assert_eq!(database.number("SELECT count(*) FROM work_order").await, 0);
    database
        .execute("UPDATE log_head SET at = now() - interval '1 second', halted = 'a test'")
        .await;
    let error = sqlx::raw_sql(order).execute(&mut owner).await.unwrap_err();
    assert!(
        error.to_string().contains("the log is halted: a test"),
        "{error}"
    );
    database.execute("UPDATE log_head SET halted = NULL").await;
    sqlx::raw_sql(order).execute(&mut owner).await.unwrap();
    assert_eq!(database.number("SELECT size FROM log_head").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_only_grows_and_a_size_has_one_root() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    for _ in 0..4 {
        issue(&ledger, &intent()).await;
    }
    let log = log(&database);
    assert!(
        log.store(vec![tile(0, &[1, 2])], checkpoint(2, 7))
            .await
            .unwrap()
    );
    // slower: of an earlier size, or the same again
    assert!(
        !log.store(vec![tile(0, &[1])], checkpoint(1, 6))
            .await
            .unwrap()
    );
    assert!(
        !log.store(vec![tile(0, &[1, 2])], checkpoint(2, 7))
            .await
            .unwrap()
    );
    assert_eq!(
        log.tiles(vec![(0, 0), (1, 0)]).await.unwrap(),
        vec![tile(0, &[1, 2])]
    );
    // a second history
    for (tiles, wrong) in [
        (vec![tile(0, &[1, 2])], checkpoint(2, 8)),
        (vec![tile(0, &[1, 3, 4])], checkpoint(3, 9)),
        (vec![tile(0, &[1, 2, 3, 4, 5])], checkpoint(5, 9)),
    ] {
        log.store(tiles, wrong).await.unwrap_err();
    }
    assert!(
        log.store(vec![tile(0, &[1, 2, 3, 4])], checkpoint(4, 9))
            .await
            .unwrap()
    );
    let newest = log.checkpoint().await.unwrap().unwrap();
    assert_eq!(
        (newest.size, newest.root, newest.cosigned()),
        (4, [9; 32], "note 4".to_owned())
    );
    log.store_cosignature(4, "w".to_owned(), "\u{2014} w AAAA".to_owned())
        .await
        .unwrap();
    let newest = log.checkpoint().await.unwrap().unwrap();
    assert_eq!(newest.cosigned(), "note 4\u{2014} w AAAA\n");
}

#[tokio::test]
async fn of_checkpoints_the_last_hundred_are_kept_and_the_last_of_each_hour() {
    let database = Postgres::shared().database().await;
    database.execute("UPDATE log_head SET size = 1000").await;
    let log = log(&database);
    for size in 1..=150 {
        assert!(log.store(Vec::new(), checkpoint(size, 1)).await.unwrap());
        if size == 30 {
            database
                .execute("UPDATE checkpoint SET created_at = created_at - interval '1 hour'")
                .await;
        }
    }
    assert_eq!(
        database.number("SELECT count(*) FROM checkpoint").await,
        101
    );
    assert_eq!(
        database.number("SELECT min(size) FROM checkpoint").await,
        30
    );
}

/// A note or an act may be the newest, of a moment at which the clock was ahead.
#[tokio::test]
async fn the_newest_entry_counts_as_the_newest_record() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    assert_eq!(archive.time().await.unwrap().newest_record, None);
    issue(&ledger, &intent()).await;
    let newest = archive.time().await.unwrap();
    assert!(newest.newest_record.unwrap() <= newest.now);
    database
        .execute("UPDATE log_head SET at = at + interval '1 hour'")
        .await;
    let later = archive.time().await.unwrap();
    let ahead = later.newest_record.unwrap() - later.now;
    assert!(ahead > chrono::TimeDelta::minutes(59), "{ahead}");
}
