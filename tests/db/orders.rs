//! Work orders: the count equals the rows, whoever counts, and never passes the quantity.

use std::sync::Arc;

use certfactory::ca::Intent;
use certfactory::ca::Ledger;
use certfactory::ca::Reservation;
use certfactory::ca::Turn;
use certfactory::ca::order::Created;
use certfactory::ca::order::DeviceList;
use certfactory::ca::order::Listed;
use certfactory::ca::order::OrderBook;
use certfactory::ca::order::OrderRefusal;
use certfactory::ca::order::OrderState;
use certfactory::ca::order::WorkOrder;
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
            tokio::spawn(
                async move { ledger.reserve(ordered(), Turn::Line, soon()).await.unwrap() },
            )
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
        let answer = ledger
            .reserve(lost.clone(), Turn::Line, soon())
            .await
            .unwrap();
        assert!(matches!(answer, Reservation::Reserved), "{answer:?}");
    }
    let full = ledger.reserve(ordered(), Turn::Line, soon()).await.unwrap();
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
    let full = ledger.reserve(ordered(), Turn::Line, soon()).await.unwrap();
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

#[tokio::test]
async fn a_device_list_is_a_wall_of_the_schema_and_never_grows() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    order(&ledger, "WO-1", "lightbulb", 10).await;
    let listed = ordered();
    let list = DeviceList {
        devices: vec![listed.device.clone()],
        sha256: [7; 32],
    };
    for _ in 0..2 {
        let answer = ledger
            .list_devices("WO-1".into(), list.clone())
            .await
            .unwrap();
        let Listed::InForce(state) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(state.device_count, Some(1));
    }
    let off = ledger.reserve(ordered(), Turn::Line, soon()).await.unwrap();
    assert!(
        matches!(off, Reservation::Barred(OrderRefusal::Mismatch(..))),
        "{off:?}"
    );
    issue(&ledger, &listed).await;
    let mut service = database.connect("service").await;
    for (statement, says) in [
        ("INSERT INTO order_device VALUES ('WO-1', 'another')", "no device list any more"),
        ("INSERT INTO order_report (work_order, report) VALUES ('WO-1', 'x')", "only a closed"),
        ("INSERT INTO order_device VALUES ('WO-none', 'another')", "no device list any more"),
        ("UPDATE work_order SET device_count = 2", "given once"),
        (
            "UPDATE work_order SET device_count = NULL, device_list_sha256 = NULL",
            "given once",
        ),
        (
            "INSERT INTO intent (intent_id, serial_number, issuer, profile, profile_sha256, principal,
                 request_sha256, work_order, device, slot, subject, spki_sha256, not_before, not_after, tbs)
             SELECT gen_random_uuid(), serial_number, issuer, profile, profile_sha256, principal,
                 request_sha256, work_order, 'another', slot, subject, spki_sha256, not_before, not_after, tbs
             FROM intent",
            "not on the list",
        ),
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut service).await.unwrap_err();
        assert!(error.to_string().contains(says), "{statement}: {error}");
    }
    assert_eq!(
        database.number("SELECT count(*) FROM order_device").await,
        1
    );
}

#[tokio::test]
async fn an_order_begins_with_what_was_issued_under_its_name_before_there_were_orders() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    // As the service of that time did, whose ledger had no trigger.
    let mut owner = database.connect("postgres").await;
    let trigger = |on: bool| {
        let switch = if on { "ENABLE" } else { "DISABLE" };
        sqlx::AssertSqlSafe(format!(
            "ALTER TABLE intent {switch} TRIGGER work_order_reserve"
        ))
    };
    sqlx::raw_sql(trigger(false))
        .execute(&mut owner)
        .await
        .unwrap();
    order(&ledger, "WO-1", "lightbulb", 1000).await;
    issue(&ledger, &ordered()).await;
    issue(&ledger, &ordered()).await;
    let lost = ordered();
    ledger
        .reserve(lost.clone(), Turn::Line, soon())
        .await
        .unwrap();
    sqlx::raw_sql("DELETE FROM work_order")
        .execute(&mut owner)
        .await
        .unwrap();
    ledger.abandon(lost.id, "test".into()).await.unwrap();
    sqlx::raw_sql(trigger(true))
        .execute(&mut owner)
        .await
        .unwrap();

    let again = WorkOrder {
        name: "WO-1".into(),
        profile: "lightbulb".into(),
        quantity: 1,
        scrap_allowance: 0,
        reworks_max: None,
        devices: None,
        device_pattern: None,
        stations: Vec::new(),
        opens_at: None,
        closes_at: None,
    };
    let less = ledger
        .create(again.clone(), "operator".into())
        .await
        .unwrap();
    assert!(matches!(less, Created::Overdrawn), "{less:?}");
    let enough = WorkOrder {
        quantity: 3,
        ..again
    };
    let Created::New(state) = ledger.create(enough, "operator".into()).await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!((state.reserved, state.abandoned), (3, 1));
    assert_eq!((state.issued(), state.remaining()), (2, 1));
    issue(&ledger, &ordered()).await;
    let full = ledger.reserve(ordered(), Turn::Line, soon()).await.unwrap();
    assert!(
        matches!(full, Reservation::Barred(OrderRefusal::Exhausted(_))),
        "{full:?}"
    );
}
