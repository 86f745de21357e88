//! What happens to certificates: each event once, the first end counts, and no order of things
//! leaves a device with two certificates for good or with none by accident.

use std::sync::Arc;

use uuid::Uuid;

use certfactory::ca::Archive;
use certfactory::ca::CertificateRecord;
use certfactory::ca::Claim;
use certfactory::ca::Intent;
use certfactory::ca::KindFilter;
use certfactory::ca::Ledger;
use certfactory::ca::Reservation;
use certfactory::ca::Rework;
use certfactory::ca::SearchFilter;
use certfactory::ca::Status;
use certfactory::ca::Turn;
use certfactory::ca::export::Exported;
use certfactory::ca::life::LifeAct;
use certfactory::ca::life::LifeBook;
use certfactory::ca::life::LifeEvent;
use certfactory::ca::life::NewEvent;
use certfactory::ca::order::OrderBook;
use certfactory::ca::order::OrderRefusal;
use certfactory::ca::order::WorkOrder;
use certfactory::ca::searches::Searches;
use certfactory::db::archive::PgArchive;
use certfactory::db::ledger::PgLedger;
use certfactory::db::standby::Reading;
use certfactory::pki::revocation::RevocationReason;

use crate::fixture::intent;
use crate::fixture::intent_for;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::fixture::order;
use crate::fixture::soon;
use crate::fixture::verification;
use crate::postgres::Postgres;

fn event(record: &CertificateRecord, kind: Status) -> NewEvent {
    NewEvent {
        intent: record.intent.id,
        issuer: "line-ec".into(),
        kind,
        reason: Some("test".into()),
        reason_code: kind.has_ended().then_some(RevocationReason::Superseded),
        crl_shard: None,
    }
}

async fn act(
    ledger: &PgLedger,
    about: &CertificateRecord,
    events: Vec<NewEvent>,
) -> Vec<LifeEvent> {
    let act = LifeAct {
        intent: about.intent.id,
        principal: "station-01".into(),
        orders: about.intent.order.iter().cloned().collect(),
        events,
    };
    ledger.act(act).await.unwrap()
}

async fn one(ledger: &PgLedger, record: &CertificateRecord, kind: Status) -> Vec<Status> {
    let events = act(ledger, record, vec![event(record, kind)]).await;
    events.iter().map(|event| event.kind).collect()
}

/// An intent that is to replace the certificate.
fn rework(old: &CertificateRecord) -> Intent {
    Intent {
        order: old.intent.order.clone(),
        rework: Some(Rework {
            supersedes: old.intent.id,
            superseded: old.intent.serial_number,
            generation: old.generation() + 1,
            reason: "broken flash".into(),
        }),
        ..intent_for(&old.intent.device)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_ends_at_two_replicas_one_counts() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    for _ in 0..10 {
        let record = issue(&ledgers[0], &intent()).await;
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let (ledger, record) = (Arc::clone(&ledgers[number % 2]), record.clone());
                let kind = [Status::Revoked, Status::Scrapped][number / 2 % 2];
                tokio::spawn(async move { one(&ledger, &record, kind).await })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        // Scrapped they all are, and whatever came first is how the certificate ended.
        let settled = ledgers[0].events(record.intent.id).await.unwrap();
        assert!(settled.iter().any(|event| event.kind == Status::Scrapped));
        let ends: Vec<_> = settled
            .iter()
            .filter_map(|event| event.reason_code)
            .collect();
        assert_eq!(ends.len(), 1, "{settled:?}");
        assert_eq!(settled[0].reason_code, Some(ends[0]));
        assert!(answers.iter().all(|answer| answer[0] == settled[0].kind));
    }
    let ends = "SELECT count(*) FROM life_event WHERE reason_code IS NOT NULL";
    assert_eq!(database.number(ends).await, 10);
}

#[tokio::test]
async fn what_has_ended_is_confirmed_no_more_and_a_confirmed_one_ends() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let record = issue(&ledger, &intent()).await;
    assert_eq!(
        one(&ledger, &record, Status::Confirmed).await,
        [Status::Confirmed]
    );
    assert_eq!(
        one(&ledger, &record, Status::Confirmed).await,
        [Status::Confirmed]
    );
    assert_eq!(
        one(&ledger, &record, Status::Revoked).await,
        [Status::Confirmed, Status::Revoked]
    );
    let other = issue(&ledger, &intent()).await;
    one(&ledger, &other, Status::Revoked).await;
    assert_eq!(
        one(&ledger, &other, Status::Confirmed).await,
        [Status::Revoked]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_reworks_of_one_certificate_at_two_replicas_one_is_stored() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    let old = issue(&ledgers[0], &intent()).await;
    let tasks: Vec<_> = (0..32)
        .map(|number| {
            let (ledger, intent) = (Arc::clone(&ledgers[number % 2]), rework(&old));
            tokio::spawn(async move { ledger.reserve(intent, Turn::Line, soon()).await.unwrap() })
        })
        .collect();
    let mut stored = 0;
    for task in tasks {
        match task.await.unwrap() {
            Reservation::Reserved => stored += 1,
            Reservation::Taken(priors) => {
                assert_eq!(priors.len(), 1);
                assert_eq!(priors[0].claim, Claim::Successor);
            }
            other @ Reservation::Barred(_) => panic!("{other:?}"),
        }
    }
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn nothing_is_superseded_before_a_later_certificate_is_confirmed_or_scrapped() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let first = issue(&ledger, &intent()).await;
    let second = issue(&ledger, &rework(&first)).await;
    let third = issue(&ledger, &rework(&second)).await;
    assert_eq!(third.generation(), 2);
    assert!(one(&ledger, &first, Status::Superseded).await.is_empty());
    // Scrapped by any but the newest: left out.
    assert!(one(&ledger, &second, Status::Scrapped).await.is_empty());

    let events = vec![
        event(&third, Status::Confirmed),
        event(&second, Status::Superseded),
        event(&first, Status::Superseded),
    ];
    let events = act(&ledger, &third, events).await;
    assert_eq!(events.len(), 1);
    for earlier in [&first, &second] {
        let events = ledger.events(earlier.intent.id).await.unwrap();
        assert_eq!(events[0].kind, Status::Superseded);
        assert_eq!(events[0].reason_code, Some(RevocationReason::Superseded));
    }
}

/// An export of all looks up nothing for a single certificate: it walks through events and reworks beside them.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_says_of_every_certificate_what_a_search_says() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let first = issue(&ledger, &intent()).await;
    let second = issue(&ledger, &rework(&first)).await;
    let third = issue(&ledger, &rework(&second)).await;
    one(&ledger, &third, Status::Confirmed).await;
    one(&ledger, &second, Status::Superseded).await;
    ledger.reserve(intent(), Turn::Line, soon()).await.unwrap();
    issue(&ledger, &verification()).await;
    let revoked = issue(&ledger, &intent()).await;
    one(&ledger, &revoked, Status::Confirmed).await;
    one(&ledger, &revoked, Status::Revoked).await;
    one(&ledger, &revoked, Status::Scrapped).await;
    let abandoned = rework(&issue(&ledger, &intent()).await);
    ledger
        .reserve(abandoned.clone(), Turn::Line, soon())
        .await
        .unwrap();
    ledger.abandon(abandoned.id, "test".into()).await.unwrap();
    let late = Some(chrono::Utc::now());
    issue(&ledger, &intent()).await;

    let archive = PgArchive::new(&database.service()).unwrap();
    let searches = Reading::new(&database.service(), None).unwrap();
    let all = || SearchFilter {
        kind: KindFilter::Any,
        ..SearchFilter::default()
    };
    for (filter, count) in [
        (all(), 8),
        (SearchFilter::default(), 7),
        (
            SearchFilter {
                issued_before: late,
                ..all()
            },
            7,
        ),
        (
            SearchFilter {
                issued_after: late,
                ..all()
            },
            1,
        ),
    ] {
        let found = archive.search(filter.clone(), 100, None).await.unwrap();
        let found: Vec<Exported> = found.items.iter().map(Exported::from).collect();
        let mut pages = searches.export(filter, None, None);
        let page = pages.recv().await.unwrap().unwrap().found;
        assert_eq!(format!("{:?}", page.items), format!("{found:?}"));
        assert_eq!((found.len(), page.next), (count, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_certificates_are_found_below_those_that_are_not() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    let confirmed = SearchFilter {
        status: Some(Status::Confirmed),
        ..SearchFilter::default()
    };
    let found = async |filter: &SearchFilter, cursor| {
        let page = archive.search(filter.clone(), 1, cursor).await.unwrap();
        let ids: Vec<_> = page.items.iter().map(|it| it.intent.id).collect();
        (ids, page.next)
    };
    assert_eq!(found(&confirmed, None).await, (vec![], None));

    let mut records = Vec::new();
    for _ in 0..5 {
        records.push(issue(&ledger, &intent()).await);
    }
    for record in &records[1..4] {
        one(&ledger, record, Status::Confirmed).await;
    }
    one(&ledger, &records[2], Status::Revoked).await;
    let [oldest, newest] = [records[1].intent.id, records[3].intent.id];
    let of_issuer = SearchFilter {
        issuer: Some(records[0].intent.issuer.clone()),
        ..confirmed.clone()
    };
    for filter in [&confirmed, &of_issuer] {
        assert_eq!(found(filter, None).await, (vec![newest], Some(newest)));
        assert_eq!(found(filter, Some(newest)).await, (vec![oldest], None));
        assert_eq!(found(filter, Some(oldest)).await, (vec![], None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_scrapped_or_reworked_but_never_both() {
    let database = Postgres::shared().database().await;
    let ledgers = [ledger(&database).await, ledger(&database).await];
    for _ in 0..20 {
        let record = issue(&ledgers[0], &intent()).await;
        let (scrapping, reworking) = (
            {
                let (ledger, record) = (Arc::clone(&ledgers[0]), record.clone());
                tokio::spawn(async move { one(&ledger, &record, Status::Scrapped).await })
            },
            {
                let (ledger, intent) = (Arc::clone(&ledgers[1]), rework(&record));
                tokio::spawn(async move { ledger.reserve(intent, Turn::Line, soon()).await })
            },
        );
        let scrapped = !scrapping.await.unwrap().is_empty();
        let reworked = matches!(reworking.await.unwrap(), Ok(Reservation::Reserved));
        assert!(
            scrapped != reworked,
            "scrapped {scrapped}, reworked {reworked}"
        );
    }
}

#[tokio::test]
async fn a_rework_is_for_a_certificate_of_its_own_device_and_its_place_comes_back() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let (one, other) = (
        issue(&ledger, &intent()).await,
        issue(&ledger, &intent()).await,
    );
    let crossed = Intent {
        rework: rework(&other).rework,
        ..intent_for(&one.intent.device)
    };
    assert!(ledger.reserve(crossed, Turn::Line, soon()).await.is_err());

    let lost = rework(&one);
    ledger
        .reserve(lost.clone(), Turn::Line, soon())
        .await
        .unwrap();
    ledger.abandon(lost.id, "test".into()).await.unwrap();
    let again = rework(&one);
    let answer = ledger.reserve(again, Turn::Line, soon()).await.unwrap();
    assert!(matches!(answer, Reservation::Reserved), "{answer:?}");
}

#[tokio::test]
async fn an_order_counts_each_status_and_its_scrap_allowance_gives_places_back() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let order = WorkOrder {
        name: "WO-1".into(),
        profile: "lightbulb".into(),
        quantity: 2,
        scrap_allowance: 1,
        reworks_max: Some(1),
        devices: None,
        device_pattern: None,
        stations: Vec::new(),
        opens_at: None,
        closes_at: None,
    };
    ledger.create(order, "operator".into()).await.unwrap();
    let ordered = || Intent {
        order: Some("WO-1".into()),
        ..intent()
    };
    let full = async |intent: Intent| {
        let answer = ledger.reserve(intent, Turn::Line, soon()).await.unwrap();
        assert!(matches!(answer, Reservation::Barred(_)), "{answer:?}");
        answer
    };
    let (a, b) = (
        issue(&ledger, &ordered()).await,
        issue(&ledger, &ordered()).await,
    );
    full(ordered()).await;

    one(&ledger, &a, Status::Confirmed).await;
    let a2 = issue(&ledger, &rework(&a)).await;
    let barred = full(rework(&a2)).await;
    assert!(
        matches!(
            barred,
            Reservation::Barred(OrderRefusal::ReworksExhausted(_))
        ),
        "{barred:?}"
    );
    act(
        &ledger,
        &a2,
        vec![event(&a2, Status::Confirmed), event(&a, Status::Superseded)],
    )
    .await;
    for _ in 0..2 {
        one(&ledger, &b, Status::Scrapped).await;
    }
    let c = issue(&ledger, &ordered()).await;
    // The allowance is one.
    one(&ledger, &c, Status::Scrapped).await;
    full(ordered()).await;

    let state = ledger.show("WO-1".into()).await.unwrap().unwrap();
    assert_eq!(
        (
            state.issued(),
            state.reworked,
            state.confirmed,
            state.superseded
        ),
        (3, 1, 1, 1)
    );
    assert_eq!(
        (
            state.revoked,
            state.scrapped,
            state.live(),
            state.remaining()
        ),
        (0, 2, 1, 0)
    );
    let live = "SELECT count(*) FROM outcome o WHERE NOT EXISTS (
        SELECT FROM life_event e WHERE e.intent_id = o.intent_id AND e.kind <> 'confirmed')";
    assert_eq!(database.number(live).await, 1);
}

#[tokio::test]
async fn a_nonce_is_good_for_its_certificate_and_ten_minutes() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let record = issue(&ledger, &intent()).await;
    ledger.challenge(record.intent.id, [7; 32]).await.unwrap();
    assert!(ledger.challenged(record.intent.id, [7; 32]).await.unwrap());
    assert!(!ledger.challenged(record.intent.id, [8; 32]).await.unwrap());
    assert!(!ledger.challenged(Uuid::now_v7(), [7; 32]).await.unwrap());
    let mut owner = database.connect("postgres").await;
    sqlx::raw_sql("UPDATE challenge SET created_at = created_at - interval '10 minutes'")
        .execute(&mut owner)
        .await
        .unwrap();
    assert!(!ledger.challenged(record.intent.id, [7; 32]).await.unwrap());
}

/// Whatever else is asked of it, and not when anything of that is another's.
#[tokio::test]
async fn what_ended_is_found_by_what_it_was() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let archive = PgArchive::new(&database.service()).unwrap();
    order(&ledger, "WO-17", "workshop", 9).await;
    let tool = |device: &str| Intent {
        profile: "workshop".into(),
        issuer: "line-rsa".into(),
        principal: "station-02".into(),
        order: Some("WO-17".into()),
        ..intent_for(device)
    };
    let (ended, other, lives) = (
        issue(&ledger, &tool("tool-1")).await,
        issue(&ledger, &intent()).await,
        issue(&ledger, &tool("tool-2")).await,
    );
    let filters = |ended: Status| {
        let by = || SearchFilter {
            status: Some(ended),
            ..SearchFilter::default()
        };
        let (mut filters, record) = (vec![by(); 9], &lives);
        filters[0].profile = Some("workshop".into());
        filters[1].issuer = Some("line-rsa".into());
        filters[2].station = Some("station-02".into());
        filters[3].order = Some("WO-17".into());
        filters[4].order = Some("WO-17".into());
        filters[4].profile = Some("workshop".into());
        filters[5].order = Some("WO-17".into());
        filters[5].issued_before = Some(record.issued_at);
        filters[6].cn = Some("tool-1".into());
        filters[7].device = Some("tool-1".into());
        filters[8].station = Some("station-02".into());
        filters[8].site = Some(String::new());
        filters
    };
    let found = async |filter: &SearchFilter| {
        let page = archive.search(filter.clone(), 10, None).await.unwrap();
        let ids = page.items.iter().map(|item| item.intent.id);
        ids.collect::<Vec<_>>()
    };

    one(&ledger, &ended, Status::Revoked).await;
    one(&ledger, &other, Status::Revoked).await;
    for filter in filters(Status::Revoked) {
        assert_eq!(found(&filter).await, [ended.intent.id], "{filter:?}");
    }
    for filter in filters(Status::Scrapped) {
        assert!(found(&filter).await.is_empty(), "{filter:?}");
    }
    let mut all = SearchFilter {
        status: Some(Status::Revoked),
        ..SearchFilter::default()
    };
    assert_eq!(found(&all).await, [other.intent.id, ended.intent.id]);
    all.issued_after = Some(lives.issued_at);
    assert!(found(&all).await.is_empty());

    // Of what was revoked and then scrapped, the status is the latter.
    one(&ledger, &ended, Status::Scrapped).await;
    for filter in filters(Status::Scrapped) {
        assert_eq!(found(&filter).await, [ended.intent.id], "{filter:?}");
    }
    for filter in filters(Status::Revoked) {
        assert!(found(&filter).await.is_empty(), "{filter:?}");
    }
}
