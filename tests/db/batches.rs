//! The book of batches: a chunk's keys are fixed once, and only while its batch runs.

use std::sync::Arc;
use std::time::Duration;

use certfactory::ca::KeyOrigin;
use certfactory::ca::batch::Batch;
use certfactory::ca::batch::BatchAct;
use certfactory::ca::batch::BatchBook;
use certfactory::ca::batch::ChunkOutcome;
use certfactory::ca::batch::Created;
use certfactory::ca::batch::Definition;
use certfactory::ca::batch::Forms;
use certfactory::ca::batch::Intake;
use certfactory::ca::batch::NewBatch;
use certfactory::ca::batch::Part;
use certfactory::ca::batch::State;
use certfactory::ca::batch::pattern::Pattern;
use certfactory::db::batches::PgBatches;
use certfactory::metrics::LedgerMetrics;
use prometheus::Registry;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::postgres::{Database, Postgres};

/// Two chunks of one row each: their size is the intake's business.
async fn running(database: &Database<'_>) -> (PgBatches, Batch) {
    let metrics = Arc::new(LedgerMetrics::new(&Registry::new()).unwrap());
    let book = PgBatches::start(&database.service(), &metrics).unwrap();
    while book.list(None, 1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pattern = br#"{"count": 2, "start": 1, "subject": {"CN": "lamp-{seq}"}}"#;
    let new = NewBatch {
        id: Uuid::now_v7(),
        definition: Definition {
            profile: "lightbulb".into(),
            order: None,
            devices: Some(Pattern::from_json(pattern).unwrap()),
            keys: None,
            forms: Forms {
                pem: true,
                der: false,
            },
            columns: Vec::new(),
        },
        by: "operator".into(),
        idempotency_key: None,
    };
    let (sender, parts) = mpsc::channel(3);
    for row in 1..=2 {
        let part = Part::Chunk {
            first_row: row,
            devices: vec![format!("lamp-{row}")],
            subjects: None,
            public_keys: None,
        };
        sender.send(part).await.unwrap();
    }
    let key_origin = KeyOrigin::Made;
    sender.send(Part::End { key_origin }).await.unwrap();
    drop(sender);
    let intake = Intake::Create(Box::new(new));
    match book
        .take_in(intake, "identity".into(), parts)
        .await
        .unwrap()
    {
        Created::New(batch) => (book, *batch),
        other => panic!("{other:?}"),
    }
}

fn keys(text: &str) -> Vec<Vec<u8>> {
    vec![text.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_keys_of_a_chunk_are_its_keys_and_two_replicas_lease_different_chunks() {
    let database = Postgres::shared().database().await;
    let (book, batch) = running(&database).await;
    let (_, first) = book.lease(1).await.unwrap().unwrap();
    let (_, second) = book.lease(2).await.unwrap().unwrap();
    assert_eq!((first.number, second.number), (1, 2));
    assert!(book.lease(2).await.unwrap().is_none());
    let one = book.begin(batch.id, 1, keys("one"), keys("envelope"));
    assert_eq!(one.await.unwrap(), Some(keys("one")));
    let other = book.begin(batch.id, 1, keys("other"), keys("envelope"));
    assert_eq!(other.await.unwrap(), Some(keys("one")));
    // Whoever comes after a dead replica finds the chunk with its keys.
    book.give_up(1).await.unwrap();
    let (_, again) = book.lease(2).await.unwrap().unwrap();
    assert_eq!((again.number, again.begun), (1, true));
    assert_eq!(again.public_keys, keys("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_released_is_not_kept_by_who_had_it() {
    let database = Postgres::shared().database().await;
    let (book, batch) = running(&database).await;
    for _ in 0..2 {
        book.lease(1).await.unwrap().unwrap();
    }
    book.release(2, batch.id, 1, 0).await.unwrap();
    assert!(book.lease(2).await.unwrap().is_none(), "another's lease");
    book.release(1, batch.id, 1, 0).await.unwrap();
    // What it kept was asked before the release.
    let kept = vec![(batch.id, 1), (batch.id, 2)];
    book.keep(1, kept, None).await.unwrap();
    let (_, again) = book.lease(2).await.unwrap().unwrap();
    assert_eq!(again.number, 1);
    assert!(book.lease(2).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_of_a_batch_that_does_not_run_and_its_package_waits_for_what_was() {
    let database = Postgres::shared().database().await;
    let (book, batch) = running(&database).await;
    book.lease(1).await.unwrap().unwrap();
    book.lease(1).await.unwrap().unwrap();
    let one = book.begin(batch.id, 1, keys("one"), keys("envelope"));
    assert!(one.await.unwrap().is_some());
    let act = BatchAct::Cancel("test".into());
    let cancelled = book.act(batch.id, act).await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.begun), (State::Cancelled, 1));
    // Its replica had leased it before, and makes its keys only now.
    let two = book.begin(batch.id, 2, keys("two"), keys("envelope"));
    assert_eq!(two.await.unwrap(), None);
    assert!(book.lease_package(1, Vec::new()).await.unwrap().is_none());
    let outcome = ChunkOutcome {
        intents: vec![None],
        failures: Vec::new(),
    };
    book.complete(batch.id, 1, outcome).await.unwrap();
    assert!(book.lease_package(1, Vec::new()).await.unwrap().is_some());
    book.give_up(1).await.unwrap();
    assert!(book.lease(1).await.unwrap().is_none());
    for act in [BatchAct::Resume, BatchAct::Pause("late".into())] {
        let still = book.act(batch.id, act).await.unwrap().unwrap();
        assert_eq!(still.state, State::Cancelled);
    }
}

#[tokio::test]
async fn a_package_without_room_waits_while_its_batch_is_held_up_and_other_packages_do_not() {
    let database = Postgres::shared().database().await;
    let (book, batch) = running(&database).await;
    let package = async |lacking: &[Uuid]| {
        let leased = book.lease_package(1, lacking.to_vec()).await.unwrap();
        leased.map(|batch| batch.id)
    };
    let hinder = async |reason: Option<&str>| {
        let act = BatchAct::Hinder(reason.map(str::to_owned));
        book.act(batch.id, act).await.unwrap().unwrap();
    };
    hinder(Some("the disk is full")).await;
    assert_eq!(package(&[batch.id]).await, None);
    assert_eq!(package(&[Uuid::from_u128(1)]).await, Some(batch.id));
    // Somebody paused and resumed it: it is tried.
    hinder(None).await;
    assert_eq!(package(&[batch.id]).await, Some(batch.id));
}
