//! Searches on a streaming standby: read there, dated, bounded, and on the primary when it is not fit.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;
use prometheus::Registry;

use certfactory::ca::Archive;
use certfactory::ca::SearchFilter;
use certfactory::ca::floor::FloorBook;
use certfactory::ca::log::LogBook;
use certfactory::ca::searches::Searches;
use certfactory::db::archive::PgArchive;
use certfactory::db::floor::PgFloor;
use certfactory::db::log::PgLog;
use certfactory::db::standby::Reading;
use certfactory::db::standby::Standby;
use certfactory::db::standby::examine;
use certfactory::metrics::StandbyMetrics;

use crate::archive::issued;
use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::until;
use crate::postgres::Database;
use crate::postgres::Postgres;

const SOON: Duration = Duration::from_secs(10);
const LAG_MAX: Duration = Duration::from_secs(3);

/// Certificates are to be seen on a standby alone.
const ONLY_THERE: &str = "ALTER TABLE outcome ENABLE ROW LEVEL SECURITY;
    CREATE POLICY only_there ON outcome FOR SELECT USING (pg_is_in_recovery())";

fn watched(primary: &Database<'_>, standby: &Database<'_>) -> (Reading, Arc<Standby>) {
    let metrics = StandbyMetrics::new(&Registry::new()).unwrap();
    let there = Standby::start(&primary.service(), standby.service(), LAG_MAX, metrics).unwrap();
    let reading = Reading::new(&primary.service(), Some(&there)).unwrap();
    (reading, there)
}

async fn fit(searches: &Reading) -> Duration {
    let fit = || searches.standby().unwrap().fault.is_none();
    until("the standby is read", SOON, fit).await
}

async fn unfit(searches: &Reading, word: &str) {
    let said = || {
        let fault = searches.standby().unwrap().fault;
        fault.is_some_and(|fault| fault.contains(word))
    };
    until(word, SOON, said).await;
}

/// How many there are, and as of when.
async fn count(searches: &Reading, since: Option<Instant>) -> (usize, Option<DateTime<Utc>>) {
    let page = searches.search(SearchFilter::default(), 1_000, None, since);
    let page = page.await.unwrap();
    (page.found.items.len(), page.moment.time)
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_exports_pages_and_entries_are_read_on_the_standby_and_the_rest_is_not() {
    let server = Postgres::start();
    let database = server.database().await;
    let ledger = ledger(&database).await;
    for _ in 0..3 {
        issue(&ledger, &intent()).await;
    }
    let there = server.standby();
    let (searches, standby) = watched(&database, &there.existing(database.name.clone()));
    fit(&searches).await;
    let before = Utc::now();
    database.execute(ONLY_THERE).await;
    until("it is replayed", SOON, || {
        // Asked after the change: what holds it is read.
        searches.standby().unwrap().lag < Duration::from_millis(400)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (found, as_of) = count(&searches, None).await;
    assert_eq!(found, 3, "the standby was not read");
    let as_of = as_of.expect("a standby's answer is dated");
    assert!(as_of > before && as_of <= Utc::now(), "{as_of}");
    let mut pages = searches.export(SearchFilter::default(), None, None);
    let page = pages.recv().await.unwrap().unwrap();
    assert_eq!((page.found.items.len(), page.found.next), (3, None));
    assert!(page.moment.time.is_some());

    // What asks for the present, and what certificates depend on, is read on the primary.
    assert_eq!(count(&searches, Some(Instant::now())).await, (0, None));
    let archive = PgArchive::new(&database.service()).unwrap();
    let page = archive.search(SearchFilter::default(), 10, None).await;
    assert!(page.unwrap().items.is_empty());

    // The pages' numbers and the auditors' entries: gone on the primary for this role.
    database
        .execute(
            "REVOKE SELECT ON outcome FROM certfactory_service; DROP POLICY only_there ON outcome",
        )
        .await;
    let floor = PgFloor::new(&database.service(), Some(&standby)).unwrap();
    let edge = floor.edge().await.unwrap();
    assert!(edge.size >= 3);
    let glances = floor.glances(0..edge.size, edge.at).await.unwrap();
    assert_eq!(u64::try_from(glances.len()).unwrap(), edge.size);
    let shelf = PgLog::for_readers(&database.service(), Some(&standby)).unwrap();
    assert_eq!(shelf.leaves(0, 3).await.unwrap().len(), 3);
    let used = there.existing(database.name.clone());
    for name in ["archive", "floor", "log", "watch"] {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'certfactory {name}'"
        );
        assert!(used.number(&sql).await > 0, "nothing connects as {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lags_is_dated_then_passed_over_and_comes_back_by_itself() {
    let server = Postgres::start();
    let database = server.database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let there = server.standby();
    let copy = there.existing(database.name.clone());
    let (searches, _) = watched(&database, &copy);
    fit(&searches).await;

    // Nothing is written: an idle standby is not old, however long ago the last commit was.
    tokio::time::sleep(LAG_MAX + Duration::from_secs(1)).await;
    let state = searches.standby().unwrap();
    assert!(
        state.fault.is_none() && state.lag < Duration::from_secs(2),
        "{state:?}"
    );

    copy.execute("SELECT pg_wal_replay_pause()").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Utc::now();
    let paused = Instant::now();
    issue(&ledger, &intent()).await;
    // Within the bound: without the newest, and it says so; with it for who has to have it.
    let (found, as_of) = count(&searches, None).await;
    assert_eq!(found, 1);
    assert!(
        as_of.unwrap() <= before + chrono::TimeDelta::milliseconds(50),
        "{as_of:?} {before}"
    );
    assert_eq!(count(&searches, Some(Instant::now())).await, (2, None));
    // An export that begins in the present never falls behind it.
    let mut pages = searches.export(SearchFilter::default(), None, Some(Instant::now()));
    assert_eq!(pages.recv().await.unwrap().unwrap().found.items.len(), 2);

    unfit(&searches, "behind").await;
    let after = paused.elapsed();
    assert!(
        after >= LAG_MAX - Duration::from_secs(1) && after < LAG_MAX + Duration::from_secs(2),
        "{after:?}"
    );
    assert_eq!(count(&searches, None).await, (2, None));
    let lag = searches.standby().unwrap().lag;
    assert!(lag >= LAG_MAX, "{lag:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(searches.standby().unwrap().lag > lag, "it does not grow");
    let fault = examine(&database.service(), &copy.service(), Duration::from_secs(1)).await;
    assert!(fault.unwrap_err().contains("behind"));

    copy.execute("SELECT pg_wal_replay_resume()").await;
    let back = fit(&searches).await;
    assert!(back < Duration::from_secs(3), "{back:?}");
    let (found, as_of) = count(&searches, None).await;
    assert!((found, as_of.is_some()) == (2, true), "{found} {as_of:?}");
    let lag = examine(&database.service(), &copy.service(), Duration::from_secs(1)).await;
    assert!(lag.is_ok(), "{lag:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_dies_or_freezes_costs_no_search_and_comes_back_by_itself() {
    let server = Postgres::start();
    let database = server.database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let mut there = server.standby();
    let (searches, _) = watched(&database, &there.existing(database.name.clone()));
    fit(&searches).await;

    there.stop();
    for _ in 0..20 {
        assert_eq!(count(&searches, None).await.0, 1);
    }
    let gone = searches.standby().unwrap().fault;
    assert!(gone.is_some());
    there.start_again();
    fit(&searches).await;
    assert!(count(&searches, None).await.1.is_some());

    there.freeze();
    let start = Instant::now();
    let found = count(&searches, None).await;
    let took = start.elapsed();
    let mut said = false;
    while !said && start.elapsed() < SOON {
        let fault = searches.standby().unwrap().fault;
        said = fault.is_some_and(|fault| fault.contains("does not answer"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // First: a frozen server would not even stop.
    there.thaw();
    assert_eq!(found, (1, None));
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(said, "nobody says that it is frozen");
    fit(&searches).await;
    assert!(count(&searches, None).await.1.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_stands_in_the_way_of_the_replay_is_read_again_on_the_primary() {
    let server = Postgres::start();
    let database = server.database().await;
    database.execute(&issued(400)).await;
    // Slow there alone.
    database
        .execute(
            "ALTER TABLE outcome ENABLE ROW LEVEL SECURITY;
             CREATE POLICY slow ON outcome FOR SELECT
                 USING (NOT pg_is_in_recovery() OR pg_sleep(0.02) IS NOT NULL)",
        )
        .await;
    let there = server.standby();
    let copy = there.existing(database.name.clone());
    copy.execute("ALTER SYSTEM SET max_standby_streaming_delay = '300ms'")
        .await;
    copy.execute("SELECT pg_reload_conf()").await;
    let (searches, _) = watched(&database, &copy);
    fit(&searches).await;
    let conflicts = "SELECT sum(confl_lock)::bigint FROM pg_stat_database_conflicts";
    let search = count(&searches, None);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        database
            .execute("BEGIN; LOCK TABLE outcome IN ACCESS EXCLUSIVE MODE; COMMIT")
            .await;
    };
    let (found, ()) = tokio::join!(search, meanwhile);
    assert_eq!(found, (400, None));
    let cancelled = || there.log().contains("conflict with recovery");
    until("it was cancelled", SOON, cancelled).await;
    assert!(copy.number(conflicts).await <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_standby_of_the_primary_is_not_read() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let (searches, _) = watched(&database, &database);
    unfit(&searches, "no standby").await;
    assert_eq!(count(&searches, None).await, (1, None));

    let other = Postgres::start();
    let stranger = other.empty_database().await.name;
    let there = other.standby();
    let copy = there.existing(stranger);
    let owner = copy.owner();
    let fault = examine(&database.owner(), &owner, Duration::from_secs(1)).await;
    assert!(fault.unwrap_err().contains("another database"));
    let metrics = StandbyMetrics::new(&Registry::new()).unwrap();
    let there = Standby::start(&database.service(), owner, LAG_MAX, metrics).unwrap();
    let searches = Reading::new(&database.service(), Some(&there)).unwrap();
    unfit(&searches, "another database").await;
    assert_eq!(count(&searches, None).await, (1, None));
}
