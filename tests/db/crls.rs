//! CRLs: one content a number, numbers without gaps, nothing that was on the list leaves it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use certfactory::ca::crl::CrlId;
use certfactory::ca::crl::CrlStore;
use certfactory::ca::crl::StoredCrl;
use certfactory::db::crls::PgCrlStore;
use certfactory::pki::crl::Edition;
use certfactory::pki::revocation::RevocationReason;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::postgres::Database;
use crate::postgres::Postgres;

fn id(shard: Option<u16>) -> CrlId {
    CrlId {
        issuer: "line-ec".into(),
        shard,
    }
}

fn crl(crl_number: u64, entries: u64, content: &str) -> StoredCrl {
    let this_update: DateTime<Utc> = Utc::now().trunc_subsecs(0);
    StoredCrl {
        id: id(None),
        edition: Edition {
            crl_number,
            this_update,
            next_update: this_update + TimeDelta::hours(1),
        },
        entries,
        der: Bytes::from(content.to_owned()),
    }
}

fn store(database: &Database<'_>) -> Arc<PgCrlStore> {
    Arc::new(PgCrlStore::new(&database.service()).unwrap())
}

/// Ends the certificate of an intent.
async fn revoke(database: &Database<'_>, intent: uuid::Uuid, shard: &str, code: u8) {
    database
        .execute(&format!(
            "INSERT INTO life_event (intent_id, kind, principal, reason_code, issuer, crl_shard)
             VALUES ('{intent}', 'revoked', 'operator', {code}, 'line-ec', {shard})"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_builders_at_once_one_stores_a_number_and_all_find_its_content() {
    let database = Postgres::shared().database().await;
    let stores: Vec<_> = (0..4).map(|_| store(&database)).collect();
    for number in 1..=5 {
        let builders: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(builder, store)| {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    let crl = crl(number, 0, &format!("{number} by {builder}"));
                    (store.store(crl.clone()).await.unwrap(), crl.der)
                })
            })
            .collect();
        let mut stored = Vec::new();
        for builder in builders {
            let (won, der) = builder.await.unwrap();
            stored.extend(won.then_some(der));
        }
        assert_eq!(stored.len(), 1, "number {number}");
        for store in &stores {
            let newest = store.newest(id(None)).await.unwrap().unwrap();
            assert_eq!(newest.edition.crl_number, number);
            assert_eq!(newest.der, stored[0]);
        }
    }
}

#[tokio::test]
async fn a_crl_that_would_go_back_is_not_stored_and_the_newest_ten_are_kept() {
    let database = Postgres::shared().database().await;
    let store = store(&database);
    assert!(store.store(crl(1, 3, "first")).await.unwrap());
    // A number that is taken or past is left out, without a fault: another was first.
    assert!(!store.store(crl(1, 3, "other")).await.unwrap());
    for (wrong, why) in [
        (crl(3, 3, "a gap"), "left out"),
        (crl(2, 2, "fewer entries"), "older"),
    ] {
        let fault = store.store(wrong).await.unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
    let mut early = crl(2, 3, "earlier");
    early.edition.this_update -= TimeDelta::minutes(1);
    let fault = store.store(early).await.unwrap_err().to_string();
    assert!(fault.contains("older"), "{fault}");
    for number in 2..=25 {
        assert!(store.store(crl(number, 3, "next")).await.unwrap());
    }
    let kept = "SELECT count(*) FROM crl WHERE crl_number BETWEEN 16 AND 25";
    assert_eq!(database.number(kept).await, 10);
    assert_eq!(database.number("SELECT count(*) FROM crl").await, 10);
    assert!(!store.store(crl(1, 3, "again")).await.unwrap());
}

#[tokio::test]
async fn the_complete_crl_lists_every_end_and_a_shard_its_own() {
    let database = Postgres::shared().database().await;
    let (store, ledger) = (store(&database), ledger(&database).await);
    let mut intents = Vec::new();
    for _ in 0..4 {
        let intent = intent();
        issue(&ledger, &intent).await;
        intents.push(intent);
    }
    database
        .execute(&format!(
            "INSERT INTO life_event (intent_id, kind, principal, issuer) VALUES ('{}', 'confirmed', 'x', 'line-ec')",
            intents[3].id
        ))
        .await;
    revoke(&database, intents[0].id, "NULL", 1).await;
    revoke(&database, intents[1].id, "2", 0).await;
    // A reason that we do not give, from elsewhere.
    revoke(&database, intents[2].id, "2", 10).await;
    for (shard, listed) in [(None, &[0, 1, 2][..]), (Some(2), &[1, 2]), (Some(0), &[])] {
        let found = store.revocations(id(shard)).await.unwrap();
        assert_eq!(found.newest, 0);
        let mut serials: Vec<_> = found
            .revoked
            .iter()
            .map(|entry| *entry.serial_number.as_bytes())
            .collect();
        let mut expected: Vec<_> = listed
            .iter()
            .map(|n| *intents[*n].serial_number.as_bytes())
            .collect();
        serials.sort_unstable();
        expected.sort_unstable();
        assert_eq!(serials, expected, "{shard:?}");
        for entry in &found.revoked {
            assert!(entry.revoked_at <= found.at);
            let first = entry.serial_number == intents[0].serial_number;
            let reason = if first {
                RevocationReason::KeyCompromise
            } else {
                RevocationReason::Unspecified
            };
            assert_eq!(entry.reason, reason);
        }
    }
    let survey = store.survey().await.unwrap();
    let mut counts: Vec<_> = survey.iter().map(|s| (s.id.shard, s.revoked)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(None, 1), (Some(2), 2)]);
    assert!(store.store(crl(1, 3, "first")).await.unwrap());
    let survey = store.survey().await.unwrap();
    let whole = survey.iter().find(|s| s.id.shard.is_none()).unwrap();
    assert_eq!(whole.newest.unwrap().1, 3);
    assert_eq!(store.revocations(id(None)).await.unwrap().newest, 1);
}
