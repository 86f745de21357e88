//! What watches over the ledger: orders, partitions, pools.

use std::time::Duration;

use certfactory::ca::Archive;
use certfactory::ca::SearchFilter;
use certfactory::db::archive::PgArchive;
use certfactory::db::config::DbConfig;
use certfactory::db::measures::PgMeasures;
use certfactory::metrics::LedgerMetrics;
use prometheus::Registry;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::order;
use crate::fixture::until;
use crate::postgres::Postgres;

#[tokio::test]
async fn orders_that_are_not_closed_are_measured_by_how_far_they_are_used() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let measures = PgMeasures::new(&database.service()).unwrap();
    let none = measures.measure().await.unwrap();
    assert_eq!((none.orders_open, none.orders_used_up), (0, 0));
    assert_eq!(none.order_used_max, 0.0);

    let profile = intent().profile;
    for (name, quantity, made) in [("full", 1, 1), ("half", 2, 1), ("quarter", 4, 1)] {
        order(&ledger, name, &profile, quantity).await;
        for _ in 0..made {
            let mut intent = intent();
            intent.order = Some(name.into());
            issue(&ledger, &intent).await;
        }
    }
    let found = measures.measure().await.unwrap();
    assert_eq!((found.orders_open, found.orders_used_up), (2, 1));
    assert_eq!(found.order_used_max, 0.5);
    let devices = [
        ("ordered", 7),
        ("issued", 3),
        ("confirmed", 0),
        ("scrapped", 0),
        ("remaining", 4),
    ];
    assert_eq!(found.order_devices, devices);

    database
        .execute("UPDATE work_order SET closed_by = 'a', closed_at = now() WHERE name = 'half'")
        .await;
    let found = measures.measure().await.unwrap();
    assert_eq!((found.orders_open, found.order_used_max), (1, 0.25));
}

#[tokio::test]
async fn a_month_without_a_partition_and_rows_without_a_month_are_seen() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let measures = PgMeasures::new(&database.service()).unwrap();
    issue(&ledger, &intent()).await;
    let well = measures.measure().await.unwrap();
    assert_eq!(well.months_ahead, [("intent", 3), ("outcome", 3)]);
    assert_eq!(well.log_entries_ahead, 5 * 1_048_576 - 1);
    assert!(well.default_octets.iter().all(|(_, octets)| *octets == 0));

    let drop_month = |ahead: u32| {
        format!(
            "DO $$ BEGIN
                 EXECUTE 'DROP TABLE outcome' || to_char(
                     date_trunc('month', now() AT TIME ZONE 'UTC') + interval '{ahead} months', '_YYYY_MM');
             END $$"
        )
    };
    database.execute(&drop_month(1)).await;
    let next_is_missing = measures.measure().await.unwrap();
    assert_eq!(
        next_is_missing.months_ahead,
        [("intent", 3), ("outcome", 0)]
    );
    database.execute(&drop_month(0)).await;
    issue(&ledger, &intent()).await;
    let this_is_missing = measures.measure().await.unwrap();
    assert_eq!(
        this_is_missing.months_ahead,
        [("intent", 3), ("outcome", -1)]
    );
    let [_, (table, octets), _] = this_is_missing.default_octets;
    assert!(table == "outcome" && octets > 0, "{this_is_missing:?}");
    database
        .execute("UPDATE log_head SET size = 5 * 1048576")
        .await;
    let log_is_full = measures.measure().await.unwrap();
    assert_eq!(log_is_full.log_entries_ahead, 0);
}

#[tokio::test]
async fn a_reader_that_gets_no_connection_in_time_is_counted() {
    let database = Postgres::shared().database().await;
    let metrics = LedgerMetrics::new(&Registry::new()).unwrap();
    let one = DbConfig {
        archive_connections_max: 1,
        ..database.service()
    };
    let archive = PgArchive::new(&one).unwrap().counted("archive", &metrics);
    let timeouts = metrics.pool_timeouts.with_label_values(&["archive"]);
    let search = || archive.search(SearchFilter::default(), 1, None);
    search().await.unwrap();
    // It goes back to the pool after the answer.
    let is_back = || archive.connections() == (1, 1, 1);
    until("the connection is back", Duration::from_secs(2), is_back).await;
    assert_eq!(timeouts.get(), 0);

    let lock = database.execute("BEGIN; LOCK TABLE intent; SELECT pg_sleep(2.7); COMMIT");
    let both = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let first = search();
        let second = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(archive.connections(), (1, 0, 1));
            search().await
        };
        tokio::join!(first, second)
    };
    let ((), (first, second)) = tokio::join!(lock, both);
    first.unwrap();
    second.unwrap_err();
    assert_eq!(timeouts.get(), 1);
}
