//! Who holds which instance octet, on sessions that end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certfactory::ca::Ledger;
use certfactory::ca::LedgerFault;
use certfactory::ca::Turn;
use certfactory::ca::replica::Duty;
use certfactory::ca::replica::Part;
use certfactory::ca::replica::Replica;
use certfactory::db::ledger::PgLedger;
use certfactory::db::replicas::PgReplicas;
use certfactory::metrics::LedgerMetrics;
use certfactory::metrics::ReplicaMetrics;
use certfactory::pki::serial::InstanceByte;
use prometheus::Registry;

use crate::fixture::intent;
use crate::fixture::soon;
use crate::postgres::Database;
use crate::postgres::Postgres;

async fn claim(
    database: &Database<'_>,
    part: Part,
    wanted: Option<u8>,
) -> (Arc<Replica>, Result<PgReplicas, LedgerFault>) {
    let replica = Arc::new(Replica::new(part));
    let registry = Registry::new();
    let config = database.service();
    let ledger_metrics = Arc::new(LedgerMetrics::new(&registry).unwrap());
    let claimed = PgReplicas::claim(
        &config,
        Arc::clone(&replica),
        wanted.and_then(InstanceByte::new),
        &ledger_metrics,
        ReplicaMetrics::new(&registry).unwrap(),
    )
    .await;
    (replica, claimed)
}

fn octet(replica: &Replica) -> u8 {
    replica.octet().unwrap().get()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_gets_an_octet_that_no_other_holds_and_the_first_that_works_the_duties() {
    let database = Postgres::shared().database().await;
    let (api, kept) = claim(&database, Part::Api, None).await;
    let _api = kept.unwrap();
    let claims = (0..5).map(|_| claim(&database, Part::All, None));
    let mut octets = vec![octet(&api)];
    let mut held = Vec::new();
    let mut duties = Vec::new();
    for (replica, kept) in futures_util::future::join_all(claims).await {
        octets.push(octet(&replica));
        duties.extend(Duty::EACH.into_iter().filter(|duty| replica.has(*duty)));
        held.push((replica, kept.unwrap()));
    }
    octets.sort_unstable();
    assert_eq!(octets, [1, 2, 3, 4, 5, 6]);
    duties.sort_unstable();
    assert_eq!(duties, Duty::EACH);
    assert!(Duty::EACH.iter().all(|duty| !api.has(*duty)));

    let (named, kept) = claim(&database, Part::Jobs, Some(77)).await;
    let named_keeps = kept.unwrap();
    assert_eq!(octet(&named), 77);
    assert_eq!(named.standing().living[&Part::All], 5);
    // Who ends leaves his octet at once.
    drop(named_keeps);
    let start = Instant::now();
    let (again, kept) = claim(&database, Part::Jobs, Some(77)).await;
    kept.unwrap();
    assert_eq!(octet(&again), 77);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_an_octet_that_another_took_nothing_is_stored() {
    let database = Postgres::shared().database().await;
    let (replica, kept) = claim(&database, Part::All, None).await;
    let _kept = kept.unwrap();
    let ledger = |holder| {
        let metrics = Arc::new(LedgerMetrics::new(&Registry::new()).unwrap());
        PgLedger::start(&database.service(), &metrics, Arc::default(), holder).unwrap()
    };
    let ledger = ledger(Some(replica.id));
    let start = Instant::now();
    while ledger.ready().is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let with = |octet: u8| {
        let mut intent = intent();
        let mut serial = *intent.serial_number.as_bytes();
        serial[0] = octet;
        intent.serial_number = certfactory::pki::serial::SerialNumber::from_bytes(serial).unwrap();
        intent
    };
    let own = octet(&replica);
    ledger.reserve(with(own), Turn::Line, soon()).await.unwrap();
    let foreign = ledger.reserve(with(own + 1), Turn::Line, soon()).await;
    assert!(
        matches!(foreign, Err(LedgerFault::Unavailable(_))),
        "{foreign:?}"
    );

    // Somebody is just taking it: who stores waits for the end of that, and then does not.
    let mut owner = database.connect("postgres").await;
    sqlx::raw_sql("BEGIN; UPDATE replica SET holder = gen_random_uuid()")
        .execute(&mut owner)
        .await
        .unwrap();
    let storing = ledger.reserve(with(own), Turn::Line, soon());
    let (refused, ()) = tokio::join!(storing, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::raw_sql("COMMIT").execute(&mut owner).await.unwrap();
    });
    let Err(LedgerFault::Unavailable(reason)) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("instance octet"), "{reason}");
    let stored = "SELECT count(*) FROM intent";
    assert_eq!(database.number(stored).await, 1);
}
