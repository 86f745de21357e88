//! What the schema itself promises, to whoever connects as the service.

use std::fs;
use std::path::Path;

use certfactory::db::migrate::migrate;
use certfactory::db::migrate::schema_version;

use crate::fixture::intent;
use crate::fixture::issue;
use crate::fixture::ledger;
use crate::postgres::Postgres;

#[tokio::test]
async fn the_service_can_change_nothing_that_is_final() {
    let database = Postgres::shared().database().await;
    issue(&ledger(&database).await.clone(), &intent()).await;
    let mut service = database.connect("service").await;
    for forbidden in [
        "UPDATE intent SET tbs = 'x'",
        "UPDATE intent SET kind = 'verification'",
        "DELETE FROM intent",
        "UPDATE intent SET site = 'x'",
        "UPDATE log_entry SET site = 'x'",
        "INSERT INTO site (id) VALUES ('x')",
        "UPDATE heartbeat SET at = now()",
        "SELECT name_site('x')",
        "SELECT publish_site()",
        "TRUNCATE intent CASCADE",
        "UPDATE outcome SET der = 'x'",
        "DELETE FROM outcome",
        "TRUNCATE outcome",
        "UPDATE claim SET live = false",
        "UPDATE certificate_id SET intent_id = gen_random_uuid()",
        "DELETE FROM certificate_id",
        "INSERT INTO certificate_id (fingerprint, intent_id) VALUES (sha256('x'), gen_random_uuid())",
        "UPDATE profile_issuer SET issuer = 'x'",
        "DELETE FROM profile_issuer",
        "INSERT INTO profile_issuer (profile, issuer) VALUES ('x', 'x')",
        "DELETE FROM intent_default",
        "INSERT INTO intent_default SELECT * FROM intent",
        "SELECT make_partition('intent', 'intent_x', '', '')",
        "DELETE FROM claim",
        "DELETE FROM log_head",
        "INSERT INTO log_head (size) VALUES (7)",
        "UPDATE log_head SET size = 0",
        "UPDATE log_head SET halted = NULL",
        "INSERT INTO outcome (intent_id, der, fingerprint, log_index) SELECT intent_id, 'x', sha256('x'), 7 FROM intent",
        "INSERT INTO log_entry (log_index, leaf) VALUES (7, 'x')",
        "UPDATE log_entry SET leaf = 'x'",
        "DELETE FROM log_entry",
        "TRUNCATE log_entry",
        "SELECT log_append('issued', '{}'::json)",
        "SELECT log_append(ARRAY['issued'], ARRAY['{}'])",
        "SELECT log_note(ARRAY['issued'], ARRAY['{}'])",
        "SELECT log_note(ARRAY['refused', 'revoked'], ARRAY['{}', '{}'])",
        "ALTER TABLE life_event DISABLE TRIGGER z_log",
        "ALTER TABLE work_order DISABLE TRIGGER z_log",
        "INSERT INTO log_tile (level, tile_index, hashes) VALUES (0, 0, sha256('x'))",
        "UPDATE log_tile SET hashes = sha256('x')",
        "DELETE FROM log_tile",
        "INSERT INTO checkpoint (size, root, note) VALUES (1, sha256('x'), 'x')",
        "UPDATE checkpoint SET root = sha256('x')",
        "DELETE FROM checkpoint",
        "INSERT INTO cosignature (size, witness, line) VALUES (1, 'x', 'x')",
        "DELETE FROM cosignature",
        "INSERT INTO crl_floor (issuer, shard, crl_number) VALUES ('line-ec', -1, 1)",
        "UPDATE log_head SET only_row = false",
        "INSERT INTO outcome (intent_id, abandon_reason) SELECT intent_id, 'x' FROM intent",
        "INSERT INTO outcome (intent_id, recorded_at) SELECT intent_id, now() FROM intent",
        "UPDATE open_intent SET intent_id = gen_random_uuid()",
        "UPDATE principal SET role = 'administrator'",
        "UPDATE principal_key SET name = 'other'",
        "UPDATE principal_key SET spki_sha256 = sha256('x')",
        "DELETE FROM principal_key",
        "UPDATE enrolment SET name = 'other'",
        "UPDATE enrolment SET code_sha256 = sha256('x')",
        "DELETE FROM enrolment",
        "UPDATE proposal SET act = '{}'",
        "UPDATE proposal SET proposed_by = 'other'",
        "DELETE FROM proposal",
        "DELETE FROM principal",
        "UPDATE work_order SET quantity = 1000000",
        "UPDATE work_order SET reserved = 0",
        "UPDATE work_order SET abandoned = 0",
        "UPDATE work_order SET reworked = 0",
        "UPDATE work_order SET scrap_allowance = 1000",
        "UPDATE work_order SET scrapped = 1",
        "DELETE FROM work_order",
        "UPDATE work_order SET device_pattern = NULL",
        "UPDATE order_ticket SET jti = 'x'",
        "DELETE FROM order_ticket",
        "TRUNCATE order_ticket",
        "UPDATE order_report SET report = 'x'",
        "DELETE FROM order_report",
        "INSERT INTO order_report (work_order, report, created_at) VALUES ('a', 'b', now())",
        "UPDATE order_device SET device = 'x'",
        "DELETE FROM order_device",
        "TRUNCATE order_device",
        "ALTER TABLE order_device DISABLE TRIGGER ALL",
        "UPDATE claim SET supersedes = NULL",
        "UPDATE intent SET generation = 0",
        "INSERT INTO life_event (intent_id, kind, principal, issuer, at) SELECT intent_id, 'confirmed', 'x', 'x', now() FROM intent",
        "UPDATE life_event SET kind = 'confirmed'",
        "DELETE FROM life_event",
        "TRUNCATE life_event",
        "ALTER TABLE life_event DISABLE TRIGGER life_event_admit",
        "UPDATE challenge SET created_at = now()",
        "INSERT INTO work_order (name, profile, quantity, created_by, reserved) VALUES ('a', 'b', 1, 'c', -5)",
        "ALTER TABLE intent DISABLE TRIGGER work_order_reserve",
        "UPDATE crl SET der = 'x'",
        "UPDATE crl SET crl_number = 2",
        "DELETE FROM crl",
        "TRUNCATE crl",
        "INSERT INTO crl (issuer, shard, crl_number, this_update, next_update, entries, der, created_at) VALUES ('a', -1, 1, now(), now() + interval '1 hour', 0, 'x', now())",
        "ALTER TABLE crl DISABLE TRIGGER crl_succeed",
        "SELECT crl_succeed()",
        "DROP TABLE intent",
        "CREATE TABLE mine (x int)",
        "ALTER TABLE outcome DISABLE TRIGGER ALL",
        "DELETE FROM _sqlx_migrations",
    ] {
        let error = sqlx::raw_sql(forbidden)
            .execute(&mut service)
            .await
            .expect_err(forbidden);
        let error = error.into_database_error().unwrap();
        assert_eq!(
            error.code().as_deref(),
            Some("42501"),
            "{forbidden}: {error}"
        );
    }
}

#[tokio::test]
async fn rows_that_contradict_themselves_are_refused() {
    let database = Postgres::shared().database().await;
    let ledger = ledger(&database).await;
    issue(&ledger, &intent()).await;
    let mut owner = database.connect("postgres").await;
    for (contradiction, constraint) in [
        (
            "UPDATE outcome SET abandon_reason = 'x'",
            "outcome_certificate_or_reason",
        ),
        (
            "UPDATE outcome SET log_index = NULL",
            "outcome_certificate_or_reason",
        ),
        ("UPDATE outcome SET der = 'x'", "outcome_fingerprint_of_der"),
        (
            "UPDATE claim SET serial_number = set_byte(serial_number, 0, 0)",
            "claim_serial_number_check",
        ),
        (
            "UPDATE claim SET serial_number = set_byte(serial_number, 0, 128)",
            "claim_serial_number_check",
        ),
        (
            "UPDATE claim SET idempotency_key = ''",
            "claim_idempotency_key_check",
        ),
        ("UPDATE intent SET kind = 'claim'", "intent_kind"),
        (
            "UPDATE log_head SET only_row = false",
            "log_head_only_row_check",
        ),
    ] {
        let error = sqlx::raw_sql(contradiction)
            .execute(&mut owner)
            .await
            .expect_err(contradiction);
        let error = error.into_database_error().unwrap();
        assert_eq!(
            error.constraint(),
            Some(constraint),
            "{contradiction}: {error}"
        );
    }
}

#[tokio::test]
async fn every_table_and_column_says_what_it_is() {
    let database = Postgres::shared().database().await;
    let silent = "SELECT count(*) FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
          AND c.relname <> '_sqlx_migrations'
          AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)";
    assert_eq!(database.number(silent).await, 0);
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = Postgres::shared().database().await;
    migrate(&database.owner()).await.unwrap();
    let newest = database
        .number("SELECT max(version) FROM _sqlx_migrations")
        .await;
    assert_eq!(newest, schema_version());
}

#[test]
fn the_binary_holds_the_newest_migration_of_the_directory() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let version = |name: &str| name.split('_').next()?.parse::<i64>().ok();
    let newest = fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| version(entry.unwrap().file_name().to_str()?))
        .max();
    assert_eq!(
        newest,
        Some(schema_version()),
        "build again: src/db/migrate.rs embeds them"
    );
}
