//! Certificates that are no device's: stored beside the devices, and kept out of their lists.

use std::path::Path;
use std::time::Duration;

use certfactory::ca::Archive;
use certfactory::ca::Intent;
use certfactory::ca::KindFilter;
use certfactory::ca::Ledger;
use certfactory::ca::SearchFilter;
use certfactory::ca::Turn;
use certfactory::db::archive::PgArchive;
use certfactory::db::migrate::migrate;
use certfactory::pki::tbs::LeafKind;
use sqlx::migrate::Migrator;
use uuid::Uuid;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::issuers;
use crate::fixture::ledger;
use crate::fixture::soon;
use crate::fixture::verification;
use crate::postgres::Postgres;

const VERIFICATIONS: KindFilter = KindFilter::Only(LeafKind::Verification);

fn only(kind: KindFilter) -> SearchFilter {
    SearchFilter {
        kind,
        ..SearchFilter::default()
    }
}

/// `count` issued devices, made by the database.
fn devices(count: u32) -> String {
    format!(
        "INSERT INTO intent (intent_id, serial_number, issuer, profile, profile_sha256, principal,
             request_sha256, device, slot, subject, thing_name, spki_sha256, not_before, not_after, tbs)
         SELECT (lpad(to_hex(n), 12, '0') || '70008000000000000000')::uuid,
             '\\x01'::bytea || substr(sha256(n::text::bytea), 1, 15), 'line-ec', 'lightbulb',
             sha256('profile'), 'station-01', sha256('request'), 'unit-' || n, 'identity',
             jsonb_build_object('CN', 'unit-' || n), 'unit-' || n, sha256(n::text::bytea),
             now(), now() + interval '10 years', 'tbs'
         FROM generate_series(1, {count}) n;
         INSERT INTO claim (intent_id, serial_number, spki_sha256, slot, device, principal)
         SELECT intent_id, serial_number, spki_sha256, slot, device, principal FROM intent;
         INSERT INTO outcome (intent_id, der, fingerprint, log_index)
         SELECT intent_id, serial_number, sha256(serial_number), row_number() OVER () - 1 FROM intent;
         UPDATE log_head SET size = {count};"
    )
}

#[tokio::test]
async fn what_was_there_before_the_kinds_is_a_device() {
    let database = Postgres::shared().empty_database().await;
    let before = tempfile::tempdir().unwrap();
    let first = "20261121060000_ledger.sql";
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    std::fs::copy(migrations.join(first), before.path().join(first)).unwrap();
    let mut owner = database.connect("postgres").await;
    let migrator = Migrator::new(before.path()).await.unwrap();
    migrator.run(&mut owner).await.unwrap();
    database.execute(&devices(10)).await;

    migrate(&database.owner()).await.unwrap();
    let archive = PgArchive::new(&database.owner()).unwrap();
    let page = archive.search(SearchFilter::default(), 100, None).await;
    let items = page.unwrap().items;
    assert_eq!(items.len(), 10);
    assert!(items.iter().all(|i| i.intent.kind == LeafKind::Device));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_go_through_one_ledger_and_number_one_log() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    // At once, so that they meet in batches.
    let wanted: Vec<Intent> = (0..60)
        .map(|n| if n % 3 == 0 { verification() } else { intent() })
        .collect();
    let issued = wanted.iter().map(|intent| issue(&ledger, intent));
    let records = futures_util::future::join_all(issued).await;
    let mut indexes: Vec<i64> = records.iter().map(|r| r.log_index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, (0..60).collect::<Vec<_>>());
    for (kind, count) in [("device", 40), ("verification", 20)] {
        let stored = format!("SELECT count(*) FROM intent WHERE kind = '{kind}'");
        assert_eq!(database.number(&stored).await, count);
    }

    let archive = PgArchive::new(&database.service()).unwrap();
    for (kind, count) in [
        (KindFilter::default(), 40),
        (VERIFICATIONS, 20),
        (KindFilter::Any, 60),
    ] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = archive.search(only(kind), 7, cursor).await.unwrap();
            found.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), count, "{kind:?}");
        assert!(found.is_sorted_by(|a, b| a.intent.id > b.intent.id));
        let right = |k| kind == KindFilter::Any || kind == KindFilter::Only(k);
        assert!(found.iter().all(|item| right(item.intent.kind)), "{kind:?}");
    }
    let one = records
        .iter()
        .find(|r| r.intent.kind == LeafKind::Verification)
        .unwrap();
    let shown = archive.certificate(one.intent.serial_number).await.unwrap();
    assert_eq!(format!("{:?}", shown.unwrap()), format!("{one:?}"));
}

#[tokio::test]
async fn one_left_behind_is_taken_over_as_what_it_is() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    let mut left = [verification(), intent()];
    for intent in &left {
        ledger
            .reserve(intent.clone(), Turn::Line, soon())
            .await
            .unwrap();
        // Storing it twice is storing it once, whatever its kind.
        ledger
            .reserve(intent.clone(), Turn::Line, soon())
            .await
            .unwrap();
    }
    database
        .execute("UPDATE open_intent SET lease_until = now() - interval '1 s'")
        .await;
    let mut taken = ledger.take_over(10, 0, issuers()).await.unwrap();
    taken.sort_by_key(|intent| intent.id);
    left.sort_by_key(|intent| intent.id);
    assert_eq!(format!("{taken:?}"), format!("{left:?}"));
}

#[tokio::test]
async fn no_list_reads_the_whole_table_for_the_sake_of_the_kind() {
    let database = Postgres::shared().database().await;
    let fill = devices(50_000);
    // One of them a verification certificate, among the oldest. What this reads is in the
    // statistics before anything else is.
    database
        .execute(&format!(
            "{fill}
             UPDATE intent SET kind = 'verification' WHERE device = 'unit-77';
             ANALYZE intent, outcome;
             SELECT pg_stat_force_next_flush()"
        ))
        .await;
    let scanned =
        "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'intent%'";
    let fetched = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
                   WHERE relname LIKE 'intent%' OR relname LIKE 'outcome%'";
    let before = (
        database.number(scanned).await,
        database.number(fetched).await,
    );

    let archive = PgArchive::new(&database.service()).unwrap();
    let cn = Some("unit-77".to_owned());
    let newest = Uuid::parse_str("00000000-c350-7000-8000-000000000000").unwrap();
    for (filter, found) in [
        (SearchFilter::default(), 100),
        (
            SearchFilter {
                cn: cn.clone(),
                ..SearchFilter::default()
            },
            0,
        ),
        (
            SearchFilter {
                cn,
                ..only(VERIFICATIONS)
            },
            1,
        ),
        (only(VERIFICATIONS), 1),
    ] {
        let page = archive.search(filter.clone(), 100, None).await.unwrap();
        assert_eq!(page.items.len(), found, "{filter:?}");
        if found == 100 {
            assert_eq!(page.items[0].intent.id, newest);
        }
    }
    // A connection that ends has told the server's statistics all it did.
    drop(archive);
    let used = "SELECT sum(idx_scan)::bigint FROM pg_stat_user_indexes
                WHERE indexrelname LIKE '%intent_no_device'";
    for _ in 0..100 {
        if database.number(used).await > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(database.number(used).await > 0, "the index was not used");
    let after = (
        database.number(scanned).await,
        database.number(fetched).await,
    );
    assert_eq!(after.0, before.0, "a list read the whole table");
    assert!(after.1 - before.1 < 1_000, "{before:?} {after:?}");
}
