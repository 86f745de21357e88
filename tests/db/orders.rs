//! Work orders: the count equals the rows, whoever counts, and never passes the quantity.

use std::sync::Arc;

use certfactory::ca::Intent;
use certfactory::ca::Ledger;
use certfactory::ca::Reservation;
use certfactory::ca::order::OrderBook;
use certfactory::ca::order::OrderRefusal;
use certfactory::ca::order::OrderState;
use certfactory::db::ledger::PgLedger;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::order;
use crate::fixture::soon;
use crate::postgres::Postgres;

fn ordered() -> Intent {
    Intent {
        order: Some("WO-1".into()),
        ..intent()
    }
}

async fn state(ledger: &PgLedger) -> OrderState {
    ledger.show("WO-1".into()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_at_once_never_pass_the_quantity() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    order(&ledgers[0], "WO-1", "lightbulb", 100).await;
    let tasks: Vec<_> = (0..400)
        .map(|number| {
            let ledger = Arc::clone(&ledgers[number % 2]);
            tokio::spawn(async move { ledger.reserve(ordered(), soon()).await.unwrap() })
        })
        .collect();
    let mut reserved = 0;
    for task in tasks {
        match task.await.unwrap() {
            Reservation::Reserved => reserved += 1,
            Reservation::Barred(OrderRefusal::Exhausted(name)) => assert_eq!(name, "WO-1"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reserved, 100);
    let rows = "SELECT count(*) FROM intent WHERE work_order = 'WO-1'";
    assert_eq!(database.number(rows).await, 100);
    let state = state(&ledgers[1]).await;
    assert_eq!((state.reserved, state.in_progress), (100, 100));
    assert_eq!((state.issued(), state.remaining()), (0, 0));
}

#[tokio::test]
async fn an_abandoned_intent_gives_its_place_back_and_a_repeated_one_takes_none() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    order(&ledger, "WO-1", "lightbulb", 2).await;
    issue(&ledger, &ordered()).await;
    let lost = ordered();
    for _ in 0..2 {
        let answer = ledger.reserve(lost.clone(), soon()).await.unwrap();
        assert!(matches!(answer, Reservation::Reserved), "{answer:?}");
    }
    let full = ledger.reserve(ordered(), soon()).await.unwrap();
    assert!(
        matches!(full, Reservation::Barred(OrderRefusal::Exhausted(_))),
        "{full:?}"
    );

    for _ in 0..2 {
        ledger.abandon(lost.id, "test".into()).await.unwrap();
    }
    let counts = state(&ledger).await;
    assert_eq!(
        (counts.reserved, counts.abandoned, counts.remaining()),
        (2, 1, 1)
    );
    issue(&ledger, &ordered()).await;
    let full = ledger.reserve(ordered(), soon()).await.unwrap();
    assert!(
        matches!(full, Reservation::Barred(OrderRefusal::Exhausted(_))),
        "{full:?}"
    );
    assert_eq!(state(&ledger).await.issued(), 2);
}

#[tokio::test]
async fn the_schema_itself_keeps_count_and_refuses_what_was_not_ordered() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    order(&ledger, "WO-1", "lightbulb", 1).await;
    issue(&ledger, &ordered()).await;
    let mut service = database.connect("service").await;
    let copy = |order: &str| {
        format!(
            "INSERT INTO intent (intent_id, serial_number, issuer, profile, profile_sha256, principal,
                 request_sha256, work_order, device, slot, subject, spki_sha256, not_before, not_after, tbs)
             SELECT gen_random_uuid(), serial_number, issuer, profile, profile_sha256, principal,
                 request_sha256, '{order}', device, slot, subject, spki_sha256, not_before, not_after, tbs
             FROM intent"
        )
    };
    for (statement, code) in [(copy("WO-1"), "23514"), (copy("WO-none"), "23503")] {
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut service)
            .await
            .unwrap_err();
        assert_eq!(
            error.as_database_error().unwrap().code().as_deref(),
            Some(code),
            "{error}"
        );
    }
    ledger
        .close("WO-1".into(), "operator".into())
        .await
        .unwrap();
    let error = sqlx::raw_sql("UPDATE work_order SET closed_by = NULL, closed_at = NULL")
        .execute(&mut service)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("stays closed"), "{error}");
}
