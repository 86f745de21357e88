//! The service does not start on a database that could lose, or let it change, what is final.

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;

use certfactory::ca::Clock;
use certfactory::db::check::StartupFault;
use certfactory::db::check::startup;

use crate::postgres::Database;
use crate::postgres::Postgres;

/// The time of day, put forward by so much.
struct Turned(TimeDelta);

impl Clock for Turned {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.0
    }
}

const RIGHT: Turned = Turned(TimeDelta::zero());

/// How far times may be apart.
const MOST: TimeDelta = TimeDelta::seconds(5);

async fn refusal(database: &Database<'_>) -> String {
    startup(&database.service(), &RIGHT, MOST)
        .await
        .unwrap_err()
        .to_string()
}

#[tokio::test]
async fn a_good_database_is_accepted() {
    let database = Postgres::shared().database().await;
    startup(&database.service(), &RIGHT, MOST).await.unwrap();
}

#[tokio::test]
async fn each_wrong_schema_is_refused() {
    let empty = Postgres::shared().empty_database().await;
    Postgres::shared().database().await;
    let line = refusal(&empty).await;
    assert!(line.contains("run `certfactory migrate`"), "{line}");

    let database = Postgres::shared().database().await;
    database
        .execute("UPDATE _sqlx_migrations SET success = false")
        .await;
    assert!(refusal(&database).await.contains("not this binary's"));
    database
        .execute("UPDATE _sqlx_migrations SET success = true, checksum = 'x'")
        .await;
    assert!(refusal(&database).await.contains("not this binary's"));
    let database = Postgres::shared().database().await;
    database
        .execute(
            "UPDATE _sqlx_migrations SET version = 99991231235959
             WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
        )
        .await;
    assert!(
        refusal(&database)
            .await
            .contains("newer than this binary's")
    );
}

#[tokio::test]
async fn a_role_that_could_change_final_rows_is_refused() {
    let database = Postgres::shared().database().await;
    let fault = startup(&database.owner(), &RIGHT, MOST).await.unwrap_err();
    assert!(matches!(fault, StartupFault::Superuser(_)), "{fault}");

    for (given, taken) in [
        (
            "GRANT DELETE ON outcome TO service",
            "REVOKE DELETE ON outcome FROM service",
        ),
        (
            "GRANT UPDATE (tbs) ON intent TO service",
            "REVOKE UPDATE (tbs) ON intent FROM service",
        ),
        (
            "GRANT UPDATE (live) ON claim TO service",
            "REVOKE UPDATE (live) ON claim FROM service",
        ),
    ] {
        database.execute(given).await;
        assert!(
            refusal(&database).await.contains("may change final rows"),
            "{given}"
        );
        database.execute(taken).await;
    }
    startup(&database.service(), &RIGHT, MOST).await.unwrap();
}

#[tokio::test]
async fn clocks_that_differ_by_more_than_five_seconds_are_refused() {
    let database = Postgres::shared().database().await;
    for seconds in [-8, 8] {
        let clock = Turned(TimeDelta::seconds(seconds));
        let fault = startup(&database.service(), &clock, MOST)
            .await
            .unwrap_err();
        assert!(
            matches!(
                fault,
                StartupFault::Clock {
                    difference: 7 | 8,
                    ..
                }
            ),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_read_only_database_is_refused() {
    let database = Postgres::shared().database().await;
    let name = &database.name;
    database
        .execute(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on"
        ))
        .await;
    assert!(refusal(&database).await.contains("read-only"));
}

#[tokio::test]
async fn a_server_that_could_lose_a_commit_is_refused() {
    let server = Postgres::start();
    let database = server.database().await;
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        database
            .execute(&format!("ALTER SYSTEM SET {setting} = off"))
            .await;
        database.execute("SELECT pg_reload_conf()").await;
        let expected = format!("PostgreSQL runs with {setting}=off");
        let mut line = String::new();
        for _ in 0..50 {
            line = startup(&database.service(), &RIGHT, MOST)
                .await
                .err()
                .map_or_else(String::new, |f| f.to_string());
            if line.starts_with(&expected) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!(line.starts_with(&expected), "{line}");
        database
            .execute(&format!("ALTER SYSTEM RESET {setting}"))
            .await;
        database.execute("SELECT pg_reload_conf()").await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_as_unavailable() {
    let mut server = Postgres::start();
    let service = {
        let database = server.database().await;
        database.service()
    };
    server.stop();
    let line = startup(&service, &RIGHT, MOST)
        .await
        .unwrap_err()
        .to_string();
    assert!(line.starts_with("the database is unavailable"), "{line}");
}
