//! Searching, and the table of principals.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;

use certfactory::ca::Archive;
use certfactory::ca::Intent;
use certfactory::ca::Ledger;
use certfactory::ca::Principal;
use certfactory::ca::Role;
use certfactory::ca::SearchFilter;
use certfactory::ca::Status;
use certfactory::ca::Turn;
use certfactory::ca::export::Exported;
use certfactory::ca::searches::Searches;
use certfactory::ca::station::Rights;
use certfactory::db::archive::PgArchive;
use certfactory::db::error::DbFault;
use certfactory::db::principals;
use certfactory::db::standby::Reading;
use uuid::Uuid;

use crate::fixture::intent;
use crate::fixture::intent_for;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::order;
use crate::fixture::serial_number;
use crate::fixture::soon;
use crate::fixture::verification;
use crate::postgres::Postgres;

#[tokio::test]
async fn each_filter_finds_its_certificates_and_no_others() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let wanted = Intent {
        profile: "workshop".into(),
        issuer: "line-rsa".into(),
        principal: "station-02".into(),
        order: Some("WO-17".into()),
        device: "identity-of-its-own".into(),
        ..intent_for("lamp-x")
    };
    order(&ledger, "WO-17", "workshop", 1).await;
    issue(&ledger, &intent()).await;
    let record = issue(&ledger, &wanted).await;
    issue(&ledger, &intent()).await;
    let open = intent();
    ledger
        .reserve(open.clone(), Turn::Line, soon())
        .await
        .unwrap();

    let moment = TimeDelta::microseconds(1);
    let none = SearchFilter::default;
    for filter in [
        SearchFilter {
            cn: Some("lamp-x".into()),
            ..none()
        },
        SearchFilter {
            device: Some("identity-of-its-own".into()),
            ..none()
        },
        SearchFilter {
            device_serial: Some("SN-lamp-x".into()),
            ..none()
        },
        SearchFilter {
            serial_number: Some(wanted.serial_number),
            ..none()
        },
        SearchFilter {
            fingerprint: Some(record.fingerprint),
            ..none()
        },
        SearchFilter {
            spki: Some(wanted.spki_sha256),
            ..none()
        },
        SearchFilter {
            profile: Some("workshop".into()),
            ..none()
        },
        SearchFilter {
            issuer: Some("line-rsa".into()),
            ..none()
        },
        SearchFilter {
            station: Some("station-02".into()),
            ..none()
        },
        SearchFilter {
            order: Some("WO-17".into()),
            status: Some(Status::Issued),
            ..none()
        },
        SearchFilter {
            issued_after: Some(record.issued_at),
            issued_before: Some(record.issued_at + moment),
            ..none()
        },
    ] {
        let page = archive.search(filter.clone(), 10, None).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|item| format!("{item:?}")).collect();
        assert_eq!(found, [format!("{record:?}")], "{filter:?}");
        assert_eq!(page.next, None);
    }
    for filter in [
        SearchFilter {
            cn: Some("lamp-x".into()),
            profile: Some("lightbulb".into()),
            ..none()
        },
        SearchFilter {
            cn: Some(open.device),
            ..none()
        },
        SearchFilter {
            cn: Some("' OR true --".into()),
            ..none()
        },
        SearchFilter {
            issued_before: Some(record.issued_at),
            cn: Some("lamp-x".into()),
            ..none()
        },
    ] {
        let page = archive.search(filter.clone(), 10, None).await.unwrap();
        assert!(page.items.is_empty(), "{filter:?}: {page:?}");
    }

    let one = archive
        .certificate(wanted.serial_number)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(format!("{one:?}"), format!("{record:?}"));
    assert!(
        archive
            .certificate(open.serial_number)
            .await
            .unwrap()
            .is_none(),
        "it is open"
    );
    assert!(
        archive
            .certificate(serial_number())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn paging_is_complete_and_repeats_nothing_while_certificates_arrive() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let mut before = BTreeSet::new();
    for _ in 0..57 {
        before.insert(issue(&ledger, &intent()).await.intent.id);
    }
    let line = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move {
            for _ in 0..50 {
                issue(&ledger, &intent()).await;
            }
        }
    });

    let mut seen: Vec<Uuid> = Vec::new();
    let mut cursor = None;
    loop {
        let page = archive
            .search(SearchFilter::default(), 10, cursor)
            .await
            .unwrap();
        assert!(page.items.len() <= 10);
        seen.extend(page.items.iter().map(|item| item.intent.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        assert_eq!(cursor, seen.last().copied());
    }
    line.await.unwrap();
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, each once");
    assert!(before.iter().all(|id| seen.contains(id)), "none is missing");

    let exact = archive
        .search(SearchFilter::default(), 107, None)
        .await
        .unwrap();
    assert_eq!((exact.items.len(), exact.next), (107, None));
}

/// Intents that are open or were given up, and certificates that no device has.
#[tokio::test]
async fn a_page_is_full_whatever_lies_between_its_certificates() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let mut issued = Vec::new();
    for n in 0..7 {
        issued.push(issue(&ledger, &intent()).await.intent.id);
        for _ in 0..n {
            let given_up = intent();
            ledger
                .reserve(given_up.clone(), Turn::Line, soon())
                .await
                .unwrap();
            ledger
                .abandon(given_up.id, "a test".to_owned())
                .await
                .unwrap();
        }
        issue(&ledger, &verification()).await;
        ledger.reserve(intent(), Turn::Line, soon()).await.unwrap();
    }
    issued.reverse();
    let mut seen = Vec::new();
    let mut cursor = None;
    for length in [3, 3, 1] {
        let filter = SearchFilter::default();
        let page = archive.search(filter, 3, cursor).await.unwrap();
        assert_eq!(page.items.len(), length);
        seen.extend(page.items.iter().map(|item| item.intent.id));
        cursor = page.next;
    }
    assert_eq!((seen, cursor), (issued, None));
}

/// More than three pages, the first of which is short.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_complete_and_repeats_nothing_while_certificates_arrive() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let searches = Reading::new(&database.service(), None).unwrap();
    database.execute(&issued(9_000)).await;
    let filter = SearchFilter::default();
    let newest = archive.search(filter.clone(), 1, None).await.unwrap();
    let newest = newest.items[0].intent.id;

    let mut pages = searches.export(filter.clone(), None, None);
    let (mut seen, mut lengths, mut next) = (Vec::new(), Vec::new(), Some(newest));
    while let Some(page) = pages.recv().await {
        let page = page.unwrap().found;
        issue(&ledger, &intent()).await;
        lengths.push(page.items.len());
        seen.extend(page.items.into_iter().map(|item| item.id));
        next = page.next;
    }
    assert_eq!(next, None, "the last page says that it is the last");
    assert_eq!(lengths, [1_000, 2_000, 4_000, 2_000]);
    assert_eq!(seen.first(), Some(&newest));
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first, each once");

    // From the middle on, and as a search finds them.
    let mut pages = searches.export(filter.clone(), Some(seen[7_990]), None);
    let rest = pages.recv().await.unwrap().unwrap().found;
    let found = archive.search(filter, 1_000, Some(seen[7_990])).await;
    let found = found.unwrap();
    let items: Vec<Exported> = found.items.iter().map(Exported::from).collect();
    assert_eq!(format!("{:?}", rest.items), format!("{items:?}"));
    assert_eq!(rest.next, found.next);
}

/// Nobody who takes a part takes it for the whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_database_stops_ends_with_a_fault() {
    let mut server = Postgres::start();
    let database = server.database().await;
    let searches = Reading::new(&database.service(), None).unwrap();
    database.execute(&issued(9_000)).await;
    let mut pages = searches.export(SearchFilter::default(), None, None);
    let first = pages.recv().await.unwrap().unwrap();
    assert!(first.found.next.is_some());
    server.stop();
    let mut last = None;
    while let Some(page) = pages.recv().await {
        last = Some(page);
    }
    assert!(matches!(last, Some(Err(_))), "{last:?}");
}

/// Certificates, made by the database.
pub fn issued(count: u32) -> String {
    format!(
        "SET session_replication_role = replica;
         INSERT INTO intent (intent_id, serial_number, issuer, profile, profile_sha256, principal,
             request_sha256, device, slot, subject, thing_name, spki_sha256, not_before, not_after,
             tbs, key_origin)
         SELECT (lpad(to_hex(n), 12, '0') || '70008000000000000000')::uuid,
             '\\x01'::bytea || substr(sha256(n::text::bytea), 1, 15), 'line-ec', 'lightbulb',
             sha256('profile'), 'station-01', sha256('request'), 'unit-' || n, 'identity',
             jsonb_build_object('CN', 'unit-' || n), 'unit-' || n, sha256(n::text::bytea),
             now(), now() + interval '10 years', 'tbs', 'csr'
         FROM generate_series(1, {count}) n;
         INSERT INTO outcome (intent_id, der, fingerprint, log_index)
         SELECT intent_id, serial_number, sha256(serial_number), 1000000 + row_number() OVER ()
         FROM intent"
    )
}

#[tokio::test]
async fn principals_are_added_once_and_disabled_at_will() {
    let database = Postgres::shared().database().await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let service = database.service();
    let roles = [
        Role::Station,
        Role::Operator,
        Role::Auditor,
        Role::Administrator,
    ];
    let all: Vec<_> = (0..4)
        .map(|n: u8| Principal {
            name: format!("p-{n}"),
            role: roles[usize::from(n)],
            disabled: false,
            spki_sha256: [n; 32],
            rights: Rights::default(),
        })
        .collect();
    for principal in &all {
        assert!(principals::add(&service, principal).await.unwrap());
        assert!(!principals::add(&service, principal).await.unwrap());
    }
    assert_eq!(archive.principals().await.unwrap(), all);

    principals::set_disabled(&service, "p-0", true)
        .await
        .unwrap();
    assert!(archive.principals().await.unwrap()[0].disabled);
    assert!(!principals::add(&service, &all[0]).await.unwrap());
    assert!(
        archive.principals().await.unwrap()[0].disabled,
        "adding again enables nobody"
    );

    for taken in [
        Principal {
            spki_sha256: [9; 32],
            ..all[0].clone()
        },
        Principal {
            role: Role::Auditor,
            ..all[0].clone()
        },
        Principal {
            name: "other".into(),
            ..all[0].clone()
        },
    ] {
        let fault = principals::add(&service, &taken).await.unwrap_err();
        assert!(matches!(fault, DbFault::PrincipalTaken(_)), "{fault}");
    }
    let unknown = principals::set_disabled(&service, "nobody", true)
        .await
        .unwrap_err();
    assert!(matches!(unknown, DbFault::PrincipalUnknown(_)), "{unknown}");
}

/// A UUIDv7 of so many seconds ago.
fn id_of(seconds: i64) -> Uuid {
    let milliseconds = (chrono::Utc::now().timestamp() - seconds) * 1_000;
    let random = Uuid::now_v7().as_u128() & ((1 << 62) - 1);
    Uuid::from_u128(
        (u128::from(milliseconds.unsigned_abs()) << 80) | (7 << 76) | (2 << 62) | random,
    )
}

#[tokio::test]
async fn a_search_for_a_time_finds_what_was_recorded_then_however_late() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    // Intended three days, two hours and a moment ago, and recorded now.
    let mut ids = Vec::new();
    for seconds in [3 * 86_400, 2 * 3_600, 5] {
        let mut late = intent();
        late.id = id_of(seconds);
        ids.push(issue(&ledger, &late).await.intent.id);
    }
    assert_eq!(
        database.number("SELECT count(*) FROM late_outcome").await,
        2
    );
    let now = chrono::Utc::now();
    let minutes = |count| Some(now + chrono::TimeDelta::minutes(count));
    for (after, before, found) in [
        (minutes(-5), None, 3),
        (None, minutes(5), 3),
        (minutes(-5), minutes(5), 3),
        (minutes(5), None, 0),
        (None, minutes(-5), 0),
    ] {
        let filter = SearchFilter {
            issued_after: after,
            issued_before: before,
            ..SearchFilter::default()
        };
        let page = archive.search(filter, 10, None).await.unwrap();
        assert_eq!(page.items.len(), found, "{after:?} {before:?}");
        if found == 3 {
            assert!(
                page.items
                    .iter()
                    .rev()
                    .map(|item| item.intent.id)
                    .eq(ids.clone())
            );
        }
    }
}

#[tokio::test]
async fn a_search_for_a_time_reads_no_further_than_ids_are_from_recordings() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    // Intended by a clock that was ahead, a while ago, and longer ago than the minute notes.
    let mut records = Vec::new();
    for seconds in [-20, 50, 7_200] {
        let mut intent = intent();
        intent.id = id_of(seconds);
        records.push(issue(&ledger, &intent).await);
    }
    for (column, expected) in [("lead_ms", 10_000..=20_000), ("lag_ms", 50_000..=60_000)] {
        let noted = format!("SELECT max({column}) FROM recording_minute");
        let noted = database.number(&noted).await;
        assert!(expected.contains(&noted), "{column}: {noted}");
    }
    let moment = TimeDelta::microseconds(1);
    let before = SearchFilter {
        issued_before: Some(records[2].issued_at + moment),
        ..SearchFilter::default()
    };
    let after = SearchFilter {
        issued_after: Some(records[0].issued_at),
        ..SearchFilter::default()
    };
    let first = SearchFilter {
        issued_before: Some(records[0].issued_at + moment),
        ..SearchFilter::default()
    };
    // As noted; no further than is noted, but for what is listed as late; an hour where nothing is known.
    for (note, expected) in [
        ("SELECT", [3, 3, 1]),
        ("UPDATE recording_minute SET lead_ms = 0", [2, 3, 0]),
        (
            "UPDATE recording_minute SET lag_ms = 0; DELETE FROM late_outcome",
            [2, 1, 0],
        ),
        ("DELETE FROM recording_minute", [3, 2, 1]),
        (
            "INSERT INTO recording_minute SELECT date_trunc('minute', now(), 'UTC'), 3600000, 3600000",
            [3, 2, 1],
        ),
        (
            "UPDATE recording_minute SET minute = minute - interval '2 hours'",
            [2, 1, 0],
        ),
    ] {
        database.execute(note).await;
        for (filter, expected) in [&before, &after, &first].into_iter().zip(expected) {
            let page = archive.search(filter.clone(), 10, None).await.unwrap();
            assert_eq!(page.items.len(), expected, "{note}: {filter:?}");
        }
    }
}

#[tokio::test]
async fn a_search_after_a_moment_finds_what_comes_long_after_it_and_was_asked_for_long_before_that()
{
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let mut late = intent();
    late.id = id_of(20 * 60);
    let late = issue(&ledger, &late).await;
    // A quiet hour with one minute near its end, when hardly anything was late.
    database
        .execute("INSERT INTO recording_minute SELECT date_trunc('minute', now() - interval '15 minutes', 'UTC'), 0, 1000")
        .await;
    let filter = SearchFilter {
        issued_after: Some(late.issued_at - TimeDelta::minutes(65)),
        ..SearchFilter::default()
    };
    let page = archive.search(filter, 10, None).await.unwrap();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn what_was_recorded_before_minutes_were_noted_their_migrations_note() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    for seconds in [-20, 50, 7_200] {
        let mut intent = intent();
        intent.id = id_of(seconds);
        issue(&ledger, &intent).await;
    }
    // The last of them an hour after its id, and a bit: no later than what the list of late ones leaves out.
    database
        .execute(
            "WITH late AS (DELETE FROM late_outcome RETURNING intent_id)
             UPDATE outcome o SET recorded_at = interval '1 hour 300 microseconds'
                 + to_timestamp(('x' || left(replace(o.intent_id::text, '-', ''), 12))::bit(48)::bigint / 1000)
             FROM late WHERE late.intent_id = o.intent_id",
        )
        .await;
    database
        .execute(
            "DROP TRIGGER recording_minute ON outcome; DROP FUNCTION recording_minute();
             DROP TABLE recording_minute",
        )
        .await;
    database
        .execute(include_str!(
            "../../migrations/20261130100000_recording_minute.sql"
        ))
        .await;
    let minutes = "SELECT count(*) FROM recording_minute";
    assert_eq!(database.number(minutes).await, 1);
    database
        .execute(include_str!(
            "../../migrations/20261130100100_recording_minute_before.sql"
        ))
        .await;
    let noted = "SELECT count(*) FROM recording_minute WHERE
        CASE minute WHEN '-infinity' THEN lead_ms = 0 AND lag_ms = 0
        WHEN (SELECT date_trunc('minute', min(recorded_at), 'UTC') FROM outcome) THEN lead_ms = 0 AND lag_ms = 3600001
        ELSE lead_ms > 0 OR lag_ms > 0 END";
    let noted = database.number(noted).await;
    assert!((3..=4).contains(&noted), "{noted}");
    assert_eq!(database.number(minutes).await, noted);

    let first = "SELECT extract(epoch FROM min(recorded_at))::bigint FROM outcome";
    let first = chrono::DateTime::from_timestamp(database.number(first).await, 0);
    for (after, before, found) in [
        (first, None, 3),
        (first, first.map(|at| at + TimeDelta::seconds(1)), 1),
    ] {
        let filter = SearchFilter {
            issued_after: after,
            issued_before: before,
            ..SearchFilter::default()
        };
        let page = archive.search(filter, 10, None).await.unwrap();
        assert_eq!(page.items.len(), found, "{after:?} {before:?}");
    }
}

#[tokio::test]
async fn a_profile_and_an_issuer_that_never_met_are_known_to_have_nothing() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let pairs = [("lightbulb", "line-ec"), ("workshop", "line-rsa")];
    for (profile, issuer) in pairs {
        let mut intent = intent();
        (intent.profile, intent.issuer) = (profile.to_owned(), issuer.to_owned());
        issue(&ledger, &intent).await;
    }
    let found = async |(profile, issuer): (&str, &str)| {
        let filter = SearchFilter {
            profile: Some(profile.to_owned()),
            issuer: Some(issuer.to_owned()),
            ..SearchFilter::default()
        };
        archive.search(filter, 10, None).await.unwrap().items.len()
    };
    let listed = "SELECT count(*) FROM profile_issuer";
    for _ in 0..2 {
        assert_eq!(database.number(listed).await, 2);
        for (profile, issuer) in pairs {
            assert_eq!(found((profile, issuer)).await, 1, "{profile} {issuer}");
        }
        assert_eq!(found(("lightbulb", "line-rsa")).await, 0);
        assert_eq!(found(("none", "line-rsa")).await, 0);
        // What was there before the list, its migrations list.
        database
            .execute(
                "DROP TRIGGER profile_issuer ON intent; DROP FUNCTION profile_issuer(), have_met(text, text);
                 DROP TABLE profile_issuer",
            )
            .await;
        for migration in [
            include_str!("../../migrations/20261201000000_profile_issuer.sql"),
            include_str!("../../migrations/20261201000100_profile_issuer_before.sql"),
        ] {
            database.execute(migration).await;
        }
    }
    // It is the list that is asked.
    database
        .execute("DELETE FROM profile_issuer WHERE profile = 'workshop'")
        .await;
    assert_eq!(found(pairs[1]).await, 0);
    assert_eq!(found(pairs[0]).await, 1);
}
