//! What the ledger promises while the server is well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use certfactory::ca::Claim;
use certfactory::ca::Intent;
use certfactory::ca::Ledger;
use certfactory::ca::LedgerFault;
use certfactory::ca::Outcome;
use certfactory::ca::Prior;
use certfactory::ca::Reservation;
use certfactory::ca::Turn;
use certfactory::ca::batch::ROW_MAX;
use certfactory::db::ledger::PgLedger;
use openssl::sha::sha256;
use tokio::task::JoinHandle;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::issuers;
use crate::fixture::ledger;
use crate::fixture::order;
use crate::fixture::sign;
use crate::fixture::soon;
use crate::postgres::Database;
use crate::postgres::Postgres;

#[tokio::test]
async fn what_was_recorded_is_what_is_read_back() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let mut wanted = intent();
    wanted.idempotency_key = Some("key-1".into());
    order(&ledger, "WO-17", "lightbulb", 1).await;
    wanted.order = Some("WO-17".into());
    ledger
        .reserve(wanted.clone(), Turn::Line, soon())
        .await
        .unwrap();
    assert!(
        ledger.outcome(wanted.id).await.unwrap().is_none(),
        "it is open"
    );

    let certificate = sign(&wanted);
    let (der, fingerprint) = (certificate.as_der().to_vec(), *certificate.sha256());
    let record = ledger
        .record(wanted.clone(), certificate, Turn::Line, soon())
        .await
        .unwrap();
    assert_eq!(
        (&record.der, record.fingerprint, record.log_index),
        (&der, fingerprint, 1),
        "after the entry of its order"
    );

    let Some(Outcome::Issued(read)) = ledger.outcome(wanted.id).await.unwrap() else {
        panic!("no certificate");
    };
    assert_eq!(format!("{read:?}"), format!("{record:?}"));
    assert_eq!(format!("{:?}", read.intent), format!("{wanted:?}"));
    assert_eq!(database.number("SELECT count(*) FROM open_intent").await, 0);
}

#[tokio::test]
async fn storing_an_intent_twice_is_storing_it_once() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let wanted = intent();
    for _ in 0..2 {
        let answer = ledger
            .reserve(wanted.clone(), Turn::Line, soon())
            .await
            .unwrap();
        assert!(matches!(answer, Reservation::Reserved), "{answer:?}");
    }
    let twice = tokio::join!(
        ledger.reserve(wanted.clone(), Turn::Line, soon()),
        ledger.reserve(wanted, Turn::Line, soon())
    );
    assert!(
        matches!(
            twice,
            (Ok(Reservation::Reserved), Ok(Reservation::Reserved))
        ),
        "{twice:?}"
    );
    assert_eq!(database.number("SELECT count(*) FROM intent").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixty_four_equal_claims_at_once_exactly_one_is_reserved() {
    let database = Postgres::shared().database().await;
    // Two replicas.
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let pattern = intent();
    let mut tasks = Vec::new();
    for number in 0..64 {
        let ledger = Arc::clone(&ledgers[number % 2]);
        let rival = Intent {
            idempotency_key: Some("the same".into()),
            device: pattern.device.clone(),
            ..intent()
        };
        tasks.push(tokio::spawn(async move {
            ledger.reserve(rival, Turn::Line, soon()).await.unwrap()
        }));
    }
    let mut reserved = 0;
    for task in tasks {
        match task.await.unwrap() {
            Reservation::Reserved => reserved += 1,
            Reservation::Taken(priors) => assert_eq!(claims(&priors), ["Device", "Idempotency"]),
            Reservation::Barred(refusal) => panic!("{refusal}"),
        }
    }
    assert_eq!(reserved, 1);
    assert_eq!(database.number("SELECT count(*) FROM intent").await, 1);
    assert_eq!(database.number("SELECT count(*) FROM open_intent").await, 1);
}

#[tokio::test]
async fn a_refused_intent_is_told_each_claim_and_who_holds_it() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let first = Intent {
        idempotency_key: Some("k".into()),
        ..intent()
    };
    let issued = issue(&ledger, &first).await;
    let second = intent();
    ledger
        .reserve(second.clone(), Turn::Line, soon())
        .await
        .unwrap();

    let same_device = Intent {
        device: first.device.clone(),
        ..intent()
    };
    let same_key = Intent {
        spki_sha256: first.spki_sha256,
        ..intent()
    };
    let same_serial = Intent {
        serial_number: first.serial_number,
        ..intent()
    };
    let same_idempotency = Intent {
        idempotency_key: Some("k".into()),
        ..intent()
    };
    for (rival, claim) in [
        (same_device, Claim::Device),
        (same_key, Claim::PublicKey),
        (same_serial, Claim::SerialNumber),
        (same_idempotency, Claim::Idempotency),
    ] {
        let priors = taken(&ledger, rival).await;
        assert_eq!(priors.len(), 1, "{priors:?}");
        assert_eq!((priors[0].claim, priors[0].intent.id), (claim, first.id));
        assert_eq!(priors[0].certificate.as_ref().unwrap().der, issued.der);
    }

    // Another slot, another principal: other claims.
    for other in [
        Intent {
            device: first.device.clone(),
            slot: "tls".into(),
            ..intent()
        },
        Intent {
            idempotency_key: Some("k".into()),
            principal: "station-02".into(),
            ..intent()
        },
    ] {
        let answer = ledger.reserve(other, Turn::Line, soon()).await.unwrap();
        assert!(matches!(answer, Reservation::Reserved), "{answer:?}");
    }

    // One rival, two holders; the second is still open.
    let rival = Intent {
        device: first.device.clone(),
        spki_sha256: second.spki_sha256,
        ..intent()
    };
    let priors = taken(&ledger, rival).await;
    assert_eq!(claims(&priors), ["Device", "PublicKey"]);
    let open = priors
        .iter()
        .find(|prior| prior.claim == Claim::PublicKey)
        .unwrap();
    assert!(open.intent.id == second.id && open.certificate.is_none());
}

#[tokio::test]
async fn the_first_certificate_recorded_for_an_intent_wins() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let wanted = intent();
    let first = issue(&ledgers[0], &wanted).await;
    let second = ledgers[1]
        .record(wanted.clone(), sign(&wanted), Turn::Line, soon())
        .await
        .unwrap();
    assert_eq!(format!("{second:?}"), format!("{first:?}"));

    // At the same instant, from both replicas and twice in one batch.
    let wanted = intent();
    ledgers[0]
        .reserve(wanted.clone(), Turn::Line, soon())
        .await
        .unwrap();
    let record = |n: usize| ledgers[n].record(wanted.clone(), sign(&wanted), Turn::Line, soon());
    let (a, b, c) = tokio::join!(record(0), record(1), record(0));
    let all: BTreeSet<_> = [a, b, c].into_iter().map(|r| r.unwrap().der).collect();
    assert_eq!(all.len(), 1);
    assert_eq!(database.number("SELECT size FROM log_head").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_no_gap_whatever_fails_meanwhile() {
    let database = Postgres::shared().database().await;
    database.execute(POISON).await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let mut tasks = Vec::new();
    for number in 0..200 {
        let ledger = Arc::clone(&ledgers[number % 2]);
        tasks.push(tokio::spawn(async move {
            let wanted = Intent {
                thing_name: Some(if number % 40 == 7 { "poison" } else { "good" }.into()),
                ..intent()
            };
            ledger
                .reserve(wanted.clone(), Turn::Line, soon())
                .await
                .unwrap();
            ledger
                .record(wanted.clone(), sign(&wanted), Turn::Line, soon())
                .await
                .is_ok()
        }));
    }
    let mut recorded = 0;
    for task in tasks {
        recorded += i64::from(task.await.unwrap());
    }
    assert_eq!(
        recorded, 195,
        "neighbours of the five bad rows do not suffer"
    );
    let log = "SELECT count(*) FILTER (WHERE log_index = place)
               FROM (SELECT log_index, row_number() OVER (ORDER BY log_index) - 1 AS place
                     FROM outcome WHERE der IS NOT NULL) AS log";
    assert_eq!(database.number(log).await, 195);
    assert_eq!(database.number("SELECT size FROM log_head").await, 195);
    assert_eq!(
        database
            .number(
                "SELECT count(*) FROM outcome a JOIN outcome b ON a.log_index = b.log_index + 1
                     WHERE a.recorded_at < b.recorded_at"
            )
            .await,
        0,
        "time runs with the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_always_fails_is_refused_alone() {
    let database = Postgres::shared().database().await;
    database
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'this device is marked'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON intent FOR EACH ROW
                 WHEN (NEW.device = 'marked') EXECUTE FUNCTION refuse()",
        )
        .await;
    let ledger = ledger(&database).await;
    let mut tasks = Vec::new();
    for number in 0..256 {
        let ledger = Arc::clone(&ledger);
        tasks.push(tokio::spawn(async move {
            let mut wanted = intent();
            if number == 100 {
                wanted.device = "marked".into();
            }
            ledger.reserve(wanted, Turn::Line, soon()).await
        }));
    }
    let mut refused = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(Reservation::Reserved) => {}
            Ok(other) => panic!("{other:?}"),
            Err(fault) => refused.push(fault),
        }
    }
    assert_eq!(refused.len(), 1, "{refused:?}");
    let LedgerFault::Unavailable(reason) = &refused[0] else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("this device is marked"), "{reason}");
    assert_eq!(database.number("SELECT count(*) FROM intent").await, 255);
    assert!(ledger.ready().is_ok(), "one bad row is no outage");
}

#[tokio::test]
async fn a_certificate_without_an_intent_is_not_recorded() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let never_reserved = intent();
    let certificate = sign(&never_reserved);
    let refused = ledger
        .record(never_reserved, certificate, Turn::Line, soon())
        .await;
    assert!(
        matches!(refused, Err(LedgerFault::Unavailable(_))),
        "{refused:?}"
    );
    assert_eq!(issue(&ledger, &intent()).await.log_index, 0);
}

#[tokio::test]
async fn an_intent_left_behind_is_taken_over_once_its_lease_has_run_out() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let mut left: Vec<_> = (0..30).map(|_| intent()).collect();
    for intent in &left {
        ledgers[0]
            .reserve(intent.clone(), Turn::Line, soon())
            .await
            .unwrap();
    }
    let of_a_batch = intent();
    let waits = ledgers[0].reserve(of_a_batch.clone(), Turn::Batch, soon());
    assert!(matches!(waits.await.unwrap(), Reservation::Reserved));
    assert!(
        ledgers[1]
            .take_over(100, 0, issuers())
            .await
            .unwrap()
            .is_empty(),
        "the lease still runs"
    );

    database
        .execute("UPDATE open_intent SET lease_until = lease_until - interval '10 s'")
        .await;
    let (a, b) = tokio::join!(
        ledgers[0].take_over(20, 0, issuers()),
        ledgers[1].take_over(20, 0, issuers())
    );
    let mut taken: Vec<_> = a.unwrap().into_iter().chain(b.unwrap()).collect();
    taken.extend(ledgers[1].take_over(100, 0, issuers()).await.unwrap());
    taken.sort_by_key(|intent| intent.id);
    left.sort_by_key(|intent| intent.id);
    assert_eq!(
        format!("{taken:?}"),
        format!("{left:?}"),
        "each once, with all it needs"
    );

    // A batch's waits for its turn as long as the row itself may.
    let later = async |seconds: u64| {
        let sql =
            format!("UPDATE open_intent SET lease_until = lease_until - interval '{seconds} s'");
        database.execute(&sql).await;
        let taken = ledgers[1].take_over(100, 0, issuers()).await.unwrap();
        taken
            .iter()
            .any(|intent| intent.device == of_a_batch.device)
    };
    assert!(!later(ROW_MAX.as_secs() - 60).await);
    assert!(later(60).await);
}

#[tokio::test]
async fn who_cannot_sign_an_open_intent_does_not_keep_it_from_who_can() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    ledger.reserve(intent(), Turn::Line, soon()).await.unwrap();
    let take = async |late: i32, issuers: Vec<String>| {
        let taken = ledger.take_over(100, late, issuers).await.unwrap();
        taken.len()
    };
    let ran_out = async |seconds: u32| {
        let sql = format!("UPDATE open_intent SET lease_until = now() - interval '{seconds} s'");
        database.execute(&sql).await;
    };
    // The duty is a replica's whose HSM is down: again and again it does not get it, and leases nothing.
    ran_out(6).await;
    for none in [Vec::new(), vec!["line-rsa".to_owned()]] {
        assert_eq!(take(0, none).await, 0);
    }
    assert_eq!(take(5, issuers()).await, 1);
    // It is long overdue: somebody has to say so, or give it up.
    ran_out(16).await;
    assert_eq!(take(0, Vec::new()).await, 1);
    assert_eq!(take(0, issuers()).await, 0, "the lease runs");
}

/// Reserves for a new device, which it gives.
fn reserve(ledger: &Arc<PgLedger>, turn: Turn) -> impl Future<Output = String> + Send + 'static {
    let (ledger, intent) = (Arc::clone(ledger), intent());
    async move {
        let device = intent.device.clone();
        let reserved = ledger.reserve(intent, turn, soon()).await;
        assert!(
            matches!(reserved, Ok(Reservation::Reserved)),
            "{reserved:?}"
        );
        device
    }
}

/// Holds the lane up with a row of a batch, has 300 more of them wait, then a station's row, and lets the lane go.
/// Each row is stored by `store`, which gives its device. The station's.
async fn a_station_after_a_batch<F>(
    database: &Database<'_>,
    (lane, table): (&str, &str),
    store: impl Fn(Turn) -> F,
) -> String
where
    F: Future<Output = String> + Send + 'static,
{
    let mut other = database.connect("postgres").await;
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock))
        .execute(&mut other)
        .await
        .unwrap();
    let mut waiting = vec![tokio::spawn(store(Turn::Batch))];
    let stands = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
         AND wait_event_type = 'Lock' AND application_name LIKE '%{lane}%'"
    );
    while database.number(&stands).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Until all of those are in their queue, and so is this one.
    waiting.extend((0..300).map(|_| tokio::spawn(store(Turn::Batch))));
    tokio::time::sleep(Duration::from_millis(50)).await;
    waiting.push(tokio::spawn(store(Turn::Line)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let mut station = String::new();
    for task in waiting {
        station = task.await.unwrap();
    }
    station
}

/// How many rows were stored in the transactions before the station's, in that one, and at most in one after it.
async fn before_with_after(database: &Database<'_>, table: &str, station: &str) -> [i64; 3] {
    let number = async |what: &str| {
        let sql = format!(
            "SELECT {what} FROM (SELECT xmin::text::bigint AS x, count(*) AS n FROM {table} GROUP BY 1) all_of_them
             CROSS JOIN (SELECT t.xmin::text::bigint AS x FROM {table} t JOIN claim c USING (intent_id)
                         WHERE c.device = '{station}') station"
        );
        database.number(&sql).await
    };
    [
        number("coalesce(sum(n) FILTER (WHERE all_of_them.x < station.x), 0)::bigint").await,
        number("coalesce(sum(n) FILTER (WHERE all_of_them.x = station.x), 0)::bigint").await,
        number("coalesce(max(n) FILTER (WHERE all_of_them.x > station.x), 0)::bigint").await,
    ]
}

#[tokio::test]
async fn a_stations_intent_goes_before_those_of_a_batch_and_takes_a_few_along() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let store = |turn| reserve(&ledger, turn);
    let station = a_station_after_a_batch(&database, ("reservations", "claim"), store).await;
    let [before, with, after] = before_with_after(&database, "claim", &station).await;
    assert!(before <= 1, "{before}");
    assert_eq!((with, after), (1 + 16, 128));
}

/// It arrives while rows of a batch are gathered; those that make room for it are stored after it.
#[tokio::test]
async fn a_station_ends_the_gathering_of_a_batchs_rows_and_none_of_them_is_lost() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let send = |count: usize, turn: Turn| -> Vec<JoinHandle<String>> {
        let each = (0..count).map(|_| tokio::spawn(reserve(&ledger, turn)));
        each.collect()
    };
    for _ in 0..5 {
        // Many in one transaction: the next one gathers.
        for task in send(60, Turn::Batch) {
            task.await.unwrap();
        }
        let waiting = send(60, Turn::Batch);
        tokio::time::sleep(Duration::from_millis(3)).await;
        let station = send(1, Turn::Line).remove(0).await.unwrap();
        for task in waiting {
            task.await.unwrap();
        }
        let [_, with, _] = before_with_after(&database, "claim", &station).await;
        assert!(with <= 1 + 16, "{with} with it");
    }
    assert_eq!(database.number("SELECT count(*) FROM claim").await, 5 * 121);
}

#[tokio::test]
async fn a_stations_certificate_goes_before_those_of_a_batch_and_takes_a_few_along() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let mut reserved = Vec::new();
    for _ in 0..302 {
        let intent = intent();
        let stored = ledger.reserve(intent.clone(), Turn::Line, soon()).await;
        assert!(matches!(stored, Ok(Reservation::Reserved)), "{stored:?}");
        reserved.push((sign(&intent), intent));
    }
    let reserved = Mutex::new(reserved);
    let store = |turn| {
        let (certificate, intent) = reserved.lock().unwrap().pop().unwrap();
        let ledger = Arc::clone(&ledger);
        async move {
            let recorded = ledger.record(intent, certificate, turn, soon()).await;
            recorded.unwrap().intent.device
        }
    };
    let station = a_station_after_a_batch(&database, ("outcomes", "outcome"), store).await;
    let [before, with, after] = before_with_after(&database, "outcome", &station).await;
    assert!(before <= 1, "{before}");
    assert_eq!((with, after), (1 + 16, 128));
}

#[tokio::test]
async fn an_abandoned_intent_frees_its_claims_and_burns_its_serial() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let given_up = Intent {
        idempotency_key: Some("k".into()),
        ..intent()
    };
    ledger
        .reserve(given_up.clone(), Turn::Line, soon())
        .await
        .unwrap();
    ledger
        .abandon(given_up.id, "the issuer is gone".into())
        .await
        .unwrap();
    ledger.abandon(given_up.id, "again".into()).await.unwrap();
    let outcome = ledger.outcome(given_up.id).await.unwrap();
    assert!(matches!(outcome, Some(Outcome::Abandoned)), "{outcome:?}");
    let late = ledger
        .record(given_up.clone(), sign(&given_up), Turn::Line, soon())
        .await;
    assert!(matches!(late, Err(LedgerFault::Unavailable(_))), "{late:?}");

    let burned = Intent {
        serial_number: given_up.serial_number,
        ..intent()
    };
    assert_eq!(claims(&taken(&ledger, burned).await), ["SerialNumber"]);
    let next = Intent {
        device: given_up.device.clone(),
        spki_sha256: given_up.spki_sha256,
        idempotency_key: given_up.idempotency_key.clone(),
        ..intent()
    };
    let record = issue(&ledger, &next).await;
    assert_eq!(record.log_index, 1, "an abandoned intent has an entry, too");

    ledger.abandon(next.id, "too late".into()).await.unwrap();
    let outcome = ledger.outcome(next.id).await.unwrap();
    assert!(matches!(outcome, Some(Outcome::Issued(_))), "{outcome:?}");
    let live = "SELECT count(*) FROM claim WHERE live";
    assert_eq!(database.number(live).await, 1);
}

#[tokio::test]
async fn a_fingerprint_is_that_of_the_bytes() {
    let database = Postgres::shared().database().await;
    let record = issue(&ledger(&database).await.clone(), &intent()).await;
    assert_eq!(record.fingerprint, sha256(&record.der));
}

/// Refuses to record certificates of one kind of thing.
const POISON: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            IF (SELECT thing_name = 'poison' FROM public.intent WHERE intent_id = NEW.intent_id) THEN
                RAISE EXCEPTION 'poison';
            END IF;
            RETURN NEW;
        END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON outcome FOR EACH ROW EXECUTE FUNCTION refuse();
    GRANT EXECUTE ON FUNCTION refuse() TO certfactory_service";

async fn taken(ledger: &certfactory::db::ledger::PgLedger, intent: Intent) -> Vec<Prior> {
    match ledger.reserve(intent, Turn::Line, soon()).await.unwrap() {
        Reservation::Taken(priors) => priors,
        other => panic!("{other:?}"),
    }
}

fn claims(priors: &[Prior]) -> Vec<String> {
    let mut claims: Vec<_> = priors
        .iter()
        .map(|prior| format!("{:?}", prior.claim))
        .collect();
    claims.sort();
    claims
}
