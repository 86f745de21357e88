//! The site's name in every row that head office is given, and what it is given.

use certfactory::db::site;
use certfactory::db::site::SiteFault;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::postgres::Postgres;

#[tokio::test]
async fn a_database_is_named_once_and_rows_from_before_bear_the_name_without_being_written_again() {
    let database = Postgres::shared().database().await;
    let writer = ledger(&database).await;
    issue(&writer, &intent()).await;
    let files = "SELECT sum(relfilenode::bigint)::bigint FROM pg_class WHERE relname ~ '^(intent|outcome|log_entry)'";
    let before = database.number(files).await;
    site::name(&database.owner(), "hamburg", true)
        .await
        .unwrap();
    assert_eq!(database.number(files).await, before);
    issue(&writer, &intent()).await;
    for table in ["intent", "outcome"] {
        let named = format!("SELECT count(*) FROM {table} WHERE site = 'hamburg'");
        assert_eq!(database.number(&named).await, 2, "{table}");
    }
    // A partition that is made later, too.
    database
        .execute("SELECT make_partition('log_entry', 'log_entry_9', '9437184', '10485760'); INSERT INTO log_entry (log_index, leaf) VALUES (9437184, 'x')")
        .await;
    let elsewhere = "SELECT count(*) FROM log_entry WHERE site <> 'hamburg'";
    assert_eq!(database.number(elsewhere).await, 0);
    let silent = "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE a.attname = 'site' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
          AND col_description(c.oid, a.attnum) IS NULL";
    assert_eq!(database.number(silent).await, 0);

    // The same again does nothing; another name is refused, by every way.
    site::name(&database.owner(), "hamburg", true)
        .await
        .unwrap();
    let other = site::name(&database.owner(), "bremen", true).await;
    let why = other.unwrap_err().to_string();
    assert!(why.contains("of site hamburg, for ever"), "{why}");
    let mut owner = database.connect("postgres").await;
    for change in [
        "UPDATE site SET id = 'bremen'",
        "DELETE FROM site",
        "TRUNCATE site",
    ] {
        let refused = sqlx::raw_sql(change).execute(&mut owner).await;
        assert!(refused.is_err(), "{change}");
    }
    let check = site::check(&database.service(), Some("bremen"), false).await;
    let fault = SiteFault::OtherSite {
        found: "hamburg".into(),
        configured: "bremen".into(),
    };
    assert_eq!(check.unwrap(), Some(fault));
}

#[tokio::test]
async fn what_is_published_is_final_and_holds_no_secret() {
    let database = Postgres::shared().database().await;
    let unpublished = site::check(&database.service(), Some("hamburg"), true).await;
    assert_eq!(unpublished.unwrap(), Some(SiteFault::NotPublished));
    site::name(&database.owner(), "hamburg", true)
        .await
        .unwrap();
    // The tests' server writes what a replica needs, and no more.
    let check = site::check(&database.service(), Some("hamburg"), true).await;
    let little = SiteFault::WalLevel("replica".into());
    assert_eq!(check.unwrap(), Some(little));
    let listed = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'certfactory'";
    assert_eq!(database.number(listed).await, 9);
    for secret in [
        "tablename IN ('batch', 'batch_chunk', 'order_device', 'principal', 'principal_key', 'enrolment', 'claim')",
        "attnames && ARRAY['tbs', 'idempotency_key', 'envelopes']::name[]",
        "NOT 'site' = ANY (attnames)",
    ] {
        let found = format!("{listed} AND {secret}");
        assert_eq!(database.number(&found).await, 0, "{secret}");
    }
    // Head office's role reads that and nothing else.
    let more = "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
          AND has_column_privilege('certfactory_replication', c.oid, a.attnum, 'SELECT') AND c.relname <> 'site'
          AND NOT EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = 'certfactory'
                          AND t.tablename = c.relname AND a.attname = ANY (t.attnames))";
    assert_eq!(database.number(more).await, 0);
}
