//! The server is killed, frozen, turned read-only and locked; the ledger loses and repeats nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use certfactory::ca::Archive;
use certfactory::ca::CertificateRecord;
use certfactory::ca::Ledger;
use certfactory::ca::LedgerFault;
use certfactory::ca::Reservation;
use certfactory::ca::SearchFilter;
use certfactory::ca::Turn;
use certfactory::db::archive::PgArchive;
use certfactory::db::ledger::PgLedger;
use tokio::task::JoinHandle;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::sign;
use crate::fixture::until;
use crate::postgres::Database;
use crate::postgres::Postgres;

#[tokio::test(flavor = "multi_thread")]
async fn backends_terminated_in_a_loop_lose_nothing_and_repeat_nothing() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let load = Load::start(&ledger);
    let mut admin = database.connect("postgres").await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(75)).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'certfactory %'",
        )
        .execute(&mut admin)
        .await
        .unwrap();
    }
    let answered = load.stop().await;
    assert!(answered.len() > 20, "only {} certificates", answered.len());
    ready(&ledger).await;
    issue(&ledger, &intent()).await;
    nothing_lost_nothing_repeated(&database, &answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_means_unavailable_until_it_is_back_and_no_longer() {
    let mut server = Postgres::start();
    let (ledger, archive, load, url);
    {
        let database = server.database().await;
        ledger = crate::fixture::ledger(&database).await;
        archive = PgArchive::new(&database.service()).unwrap();
        archive
            .search(SearchFilter::default(), 1, None)
            .await
            .unwrap();
        url = database.name.clone();
        load = Load::start(&ledger);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop();

    until("it says that it is down", Duration::from_secs(3), || {
        ledger.ready().is_err()
    })
    .await;
    let start = Instant::now();
    let refused = ledger
        .reserve(intent(), Turn::Line, start + Duration::from_secs(5))
        .await;
    assert!(
        matches!(refused, Err(LedgerFault::Unavailable(_))),
        "{refused:?}"
    );
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "it fails fast"
    );
    // The lane of outcomes finds out for itself, within a second or two.
    while !matches!(record_now(&ledger).await, Err(LedgerFault::Unavailable(_))) {
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "it fails fast, too"
        );
    }
    let refused = archive.search(SearchFilter::default(), 1, None).await;
    assert!(
        matches!(refused, Err(LedgerFault::Unavailable(_))),
        "{refused:?}"
    );

    server.start_again();
    let took = until("it is ready again", Duration::from_secs(5), || {
        ledger.ready().is_ok()
    })
    .await;
    println!("ready {took:?} after the server");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answered = load.stop().await;
    let database = server.existing(url);
    archive
        .search(SearchFilter::default(), 1, None)
        .await
        .unwrap();
    issue(&ledger, &intent()).await;
    nothing_lost_nothing_repeated(&database, &answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_and_its_thaw_too() {
    let server = Postgres::start();
    let database = server.database().await;
    let ledger = ledger(&database).await;
    let wanted = intent();
    ledger
        .reserve(wanted.clone(), Turn::Line, crate::fixture::soon())
        .await
        .unwrap();

    server.freeze();
    let start = Instant::now();
    let certificate = sign(&wanted);
    let late = ledger
        .record(
            wanted.clone(),
            certificate,
            Turn::Line,
            start + Duration::from_secs(1),
        )
        .await;
    assert!(matches!(late, Err(LedgerFault::Deadline)), "{late:?}");
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "the deadline holds"
    );
    until("it says that it is down", Duration::from_secs(4), || {
        ledger.ready().is_err()
    })
    .await;
    // Long enough for the watchdog.
    tokio::time::sleep_until((start + Duration::from_secs(6)).into()).await;
    server.thaw();
    ready(&ledger).await;

    // Whether the late one was recorded or not: there is one certificate, and this is it.
    let record = ledger
        .record(
            wanted.clone(),
            sign(&wanted),
            Turn::Line,
            crate::fixture::soon(),
        )
        .await
        .unwrap();
    assert_eq!(record.log_index, 0);
    nothing_lost_nothing_repeated(&database, &[record]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_noticed_without_traffic_and_still_read() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    issue(&ledger, &intent()).await;
    let name = database.name.clone();
    database
        .execute(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on"
        ))
        .await;
    // As after a fail-over: new sessions land on a server that only reads.
    terminate(&database).await;
    until(
        "it says that it is down, and why",
        Duration::from_secs(3),
        || ledger.ready().is_err_and(|reason| reason.contains("25006")),
    )
    .await;
    assert_eq!(
        archive
            .search(SearchFilter::default(), 10, None)
            .await
            .unwrap()
            .items
            .len(),
        1
    );

    let mut owner = database.connect("postgres").await;
    sqlx::raw_sql("SET default_transaction_read_only = off")
        .execute(&mut owner)
        .await
        .unwrap();
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    sqlx::raw_sql(sqlx::AssertSqlSafe(reset))
        .execute(&mut owner)
        .await
        .unwrap();
    ready(&ledger).await;
    assert_eq!(issue(&ledger, &intent()).await.log_index, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_fails_fast_and_says_so() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let mut other = database.connect("postgres").await;
    sqlx::raw_sql("BEGIN; LOCK TABLE claim IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let start = Instant::now();
    let waited = ledger
        .reserve(intent(), Turn::Line, start + Duration::from_secs(1))
        .await;
    assert!(matches!(waited, Err(LedgerFault::Deadline)), "{waited:?}");
    assert!(start.elapsed() < Duration::from_millis(1500));
    until("it says that it is down", Duration::from_secs(10), || {
        ledger
            .ready()
            .is_err_and(|reason| reason.contains("lock timeout"))
    })
    .await;
    let start = Instant::now();
    let refused = ledger
        .reserve(intent(), Turn::Line, start + Duration::from_secs(5))
        .await;
    assert!(
        matches!(refused, Err(LedgerFault::Unavailable(_))),
        "{refused:?}"
    );
    assert!(start.elapsed() < Duration::from_millis(100));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    ready(&ledger).await;
    issue(&ledger, &intent()).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let mut other = database.connect("postgres").await;
    sqlx::raw_sql("BEGIN; LOCK TABLE claim IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let pattern = intent();
    let mut waiting = Vec::new();
    for _ in 0..1400 {
        let ledger = Arc::clone(&ledger);
        let intent = pattern.clone();
        let deadline = Instant::now() + Duration::from_secs(1);
        waiting.push(tokio::spawn(async move {
            ledger.reserve(intent, Turn::Line, deadline).await
        }));
    }
    let (mut overloaded, mut late) = (0, 0);
    for task in waiting {
        match task.await.unwrap() {
            Err(LedgerFault::Overloaded) => overloaded += 1,
            Err(LedgerFault::Deadline) => late += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        overloaded >= 120 && late >= 1024,
        "{overloaded} overloaded, {late} late"
    );
}

/// Sixteen stations that issue until told to stop, and note each certificate they were given.
struct Load {
    stop: Arc<AtomicBool>,
    stations: Vec<JoinHandle<Vec<CertificateRecord>>>,
}

impl Load {
    fn start(ledger: &Arc<PgLedger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stations = (0..16)
            .map(|_| tokio::spawn(station(Arc::clone(ledger), Arc::clone(&stop))))
            .collect();
        Self { stop, stations }
    }

    async fn stop(self) -> Vec<CertificateRecord> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = Vec::new();
        for station in self.stations {
            answered.extend(station.await.unwrap());
        }
        answered
    }
}

async fn station(ledger: Arc<PgLedger>, stop: Arc<AtomicBool>) -> Vec<CertificateRecord> {
    let mut answered = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let wanted = intent();
        let deadline = Instant::now() + Duration::from_secs(2);
        match ledger.reserve(wanted.clone(), Turn::Line, deadline).await {
            Ok(Reservation::Reserved) => {}
            Ok(other) => panic!("all devices are new: {other:?}"),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        if let Ok(record) = ledger
            .record(wanted.clone(), sign(&wanted), Turn::Line, deadline)
            .await
        {
            answered.push(record);
        }
    }
    answered
}

async fn nothing_lost_nothing_repeated(database: &Database<'_>, answered: &[CertificateRecord]) {
    let mut owner = database.connect("postgres").await;
    for record in answered {
        let kept: Option<(Vec<u8>, i64)> =
            sqlx::query_as("SELECT der, log_index FROM outcome WHERE intent_id = $1")
                .bind(record.intent.id)
                .fetch_optional(&mut owner)
                .await
                .unwrap();
        assert_eq!(kept, Some((record.der.clone(), record.log_index)));
    }
    let issued = database.number("SELECT count(*) FROM outcome").await;
    assert_eq!(database.number("SELECT size FROM log_head").await, issued);
    assert_eq!(
        database
            .number("SELECT coalesce(max(log_index) + 1, 0) FROM outcome")
            .await,
        issued
    );
    let devices =
        "SELECT count(*) FROM (SELECT FROM intent GROUP BY device HAVING count(*) > 1) AS twice";
    assert_eq!(database.number(devices).await, 0);
    let strays = "SELECT count(*) FROM intent i FULL JOIN claim c USING (intent_id)
                  WHERE i.intent_id IS NULL OR c.intent_id IS NULL";
    assert_eq!(database.number(strays).await, 0);
    let open = "SELECT count(*) FROM intent i LEFT JOIN outcome o USING (intent_id)
                FULL JOIN open_intent w USING (intent_id)
                WHERE (o.intent_id IS NULL) <> (w.intent_id IS NOT NULL)";
    assert_eq!(
        database.number(open).await,
        0,
        "open is what has no outcome"
    );
}

/// Records a certificate nobody reserved, with little patience.
async fn record_now(ledger: &PgLedger) -> Result<CertificateRecord, LedgerFault> {
    let wanted = intent();
    let certificate = sign(&wanted);
    let deadline = Instant::now() + Duration::from_millis(100);
    ledger
        .record(wanted, certificate, Turn::Line, deadline)
        .await
}

async fn terminate(database: &Database<'_>) {
    database
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
}

async fn ready(ledger: &PgLedger) {
    until("it is ready again", Duration::from_secs(5), || {
        ledger.ready().is_ok()
    })
    .await;
}
