//! Room made ahead: partitions of ledger and log.

use std::sync::Arc;

use certfactory::ca::Ledger;
use certfactory::ca::LedgerFault;
use certfactory::ca::Reservation;
use certfactory::ca::Turn;
use certfactory::ca::log::LogBook;
use certfactory::db::log::PgLog;
use uuid::Uuid;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::soon;
use crate::postgres::Postgres;

/// How many partitions a table has, without that for what has none.
fn partitions(of: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_inherits
         WHERE inhparent = '{of}'::regclass AND inhrelid <> '{of}_default'::regclass"
    )
}

#[tokio::test]
async fn a_new_database_has_room_for_months_and_rows_go_where_they_belong() {
    let database = Postgres::shared().database().await;
    for table in ["intent", "outcome"] {
        assert_eq!(database.number(&partitions(table)).await, 4, "{table}");
    }
    assert_eq!(database.number(&partitions("log_entry")).await, 5);
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let mut later = intent();
    // A UUIDv7 of the next month.
    let milliseconds = database
        .number(
            "SELECT (extract(epoch FROM date_trunc('month', now()) + interval '40 days') * 1000)::bigint",
        )
        .await;
    let octets = (u128::from(milliseconds.unsigned_abs()) << 80) | (7 << 76) | (2 << 62) | 77;
    later.id = Uuid::from_u128(octets);
    issue(&ledger, &later).await;
    for table in ["intent", "outcome"] {
        let spread = format!(
            "SELECT count(DISTINCT tableoid) * 10 + count(*) FROM {table}
             WHERE tableoid <> '{table}_default'::regclass"
        );
        assert_eq!(database.number(&spread).await, 22, "{table}");
    }
}

#[tokio::test]
async fn what_came_before_its_partition_moves_into_it() {
    let database = Postgres::shared().database().await;
    // As after months in which no service ran: nothing was made ahead.
    database
        .execute(
            "DO $$
             DECLARE part regclass;
             BEGIN
                 FOR part IN SELECT inhrelid::regclass FROM pg_inherits
                     WHERE inhparent IN ('intent'::regclass, 'outcome'::regclass, 'log_entry'::regclass)
                       AND inhrelid::regclass::text NOT LIKE '%_default'
                 LOOP
                     EXECUTE format('DROP TABLE %s', part);
                 END LOOP;
             END
             $$",
        )
        .await;
    let ledger = ledger(&database).await;
    let before = issue(&ledger, &intent()).await;
    assert_eq!(
        database.number("SELECT count(*) FROM intent_default").await,
        1
    );

    // Two replicas at once.
    let log = Arc::new(PgLog::for_readers(&database.service(), None).unwrap());
    let calls = (0..4).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.make_partitions().await.unwrap() })
    });
    let made = futures_util::future::join_all(calls).await;
    let made: u32 = made.into_iter().map(Result::unwrap).sum();
    assert_eq!(made, 13);
    assert_eq!(log.make_partitions().await.unwrap(), 0);
    let left =
        "SELECT (SELECT count(*) FROM intent_default) + (SELECT count(*) FROM outcome_default)
                     + (SELECT count(*) FROM log_entry_default)";
    assert_eq!(database.number(left).await, 0);
    assert_eq!(log.leaves(0, 10).await.unwrap().len(), 1);
    let after = issue(&ledger, &intent()).await;
    assert_eq!(after.log_index, before.log_index + 1);
}

#[tokio::test]
async fn a_full_part_of_the_log_is_followed_by_the_next() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let log = PgLog::for_readers(&database.service(), None).unwrap();
    database.execute("UPDATE log_head SET size = 1048575").await;
    assert_eq!(log.make_partitions().await.unwrap(), 0);
    for expected in [1_048_575, 1_048_576, 1_048_577] {
        assert_eq!(issue(&ledger, &intent()).await.log_index, expected);
    }
    assert_eq!(database.number("SELECT count(*) FROM log_entry_1").await, 2);
    assert_eq!(log.make_partitions().await.unwrap(), 1);
}

#[tokio::test]
async fn a_certificate_is_of_one_intent_in_whatever_month() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let first = issue(&ledger, &intent()).await;
    let other = intent();
    let stored = ledger
        .reserve(other.clone(), Turn::Line, soon())
        .await
        .unwrap();
    assert!(matches!(stored, Reservation::Reserved));
    let again = format!(
        "SELECT record_certificates(ARRAY['{}'::uuid], ARRAY[der], ARRAY[fingerprint], ARRAY['{{}}'])
         FROM outcome WHERE intent_id = '{}'",
        other.id, first.intent.id
    );
    let mut service = database.connect("service").await;
    let error = sqlx::raw_sql(sqlx::AssertSqlSafe(again))
        .execute(&mut service)
        .await;
    let error = error.unwrap_err().into_database_error().unwrap();
    assert_eq!(error.constraint(), Some("certificate_id_pkey"));
    let missing: Result<_, LedgerFault> = ledger.outcome(other.id).await;
    assert!(missing.unwrap().is_none());
}
