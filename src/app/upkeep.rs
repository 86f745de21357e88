//! What the service looks at again and again while it runs.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;

use crate::ca::Archive;
use crate::ca::Ca;
use crate::ca::Clock;
use crate::hsm::Hsm;
use crate::http::principal::Principals;
use crate::http::tls::Tls;

/// How often the table of principals is read again.
const PRINCIPALS_EVERY: Duration = Duration::from_millis(500);
/// How often daily caps are held against the ledger.
const RECOUNT_EVERY: Duration = Duration::from_secs(10);
/// How often room is made ahead in the ledger and its log: a partition of the log is full after some
/// minutes at the highest rate, and four are ahead.
const MAKE_PARTITIONS_EVERY: Duration = Duration::from_mins(1);
/// How often open intents are looked for.
const RECOVER_EVERY: Duration = Duration::from_millis(500);
/// How often the service's clock is held against the database's.
const COMPARE_CLOCKS_EVERY: Duration = Duration::from_secs(1);
/// How often it is shown which tokens and keys can sign.
const SHOW_TOKENS_EVERY: Duration = Duration::from_secs(1);
/// How often the TLS files are looked at.
const TLS_FILES_EVERY: Duration = Duration::from_secs(10);
/// How often people are told of what comes to its end.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// Begins with all of it that is this replica's part; it goes on as long as the service does.
pub(super) fn begin(
    ca: &Arc<Ca>,
    hsm: Arc<Hsm>,
    watch: Arc<dyn Archive>,
    principals: &Data<Principals>,
    tls: &Arc<Tls>,
) {
    tokio::spawn(show_tokens(hsm));
    tokio::spawn(reread_tls_files(ca.clock.clone(), tls.clone()));
    if ca.replica.part.serves() {
        tokio::spawn(reread_principals(watch.clone(), principals.clone()));
        tokio::spawn(recount(ca.clone()));
    }
    if ca.replica.part.works() {
        tokio::spawn(recover(ca.clone()));
        tokio::spawn(make_partitions(ca.clone()));
    }
    tokio::spawn(warn(ca.clone()));
    tokio::spawn(compare_clocks(ca.clone(), watch));
}

/// The table of principals, which another replica may have changed.
pub(super) async fn reread_principals(watch: Arc<dyn Archive>, principals: Data<Principals>) {
    loop {
        tokio::time::sleep(PRINCIPALS_EVERY).await;
        // While the database is down the last table stands: nobody gains a right by it.
        if let Ok(table) = watch.principals().await {
            principals.replace(table);
        }
    }
}

async fn show_tokens(hsm: Arc<Hsm>) {
    loop {
        hsm.show();
        tokio::time::sleep(SHOW_TOKENS_EVERY).await;
    }
}

async fn compare_clocks(ca: Arc<Ca>, watch: Arc<dyn Archive>) {
    loop {
        // While the database is down there is nothing to compare with, and nothing is issued.
        ca.compare_clocks(watch.as_ref()).await.ok();
        tokio::time::sleep(COMPARE_CLOCKS_EVERY).await;
    }
}

async fn recount(ca: Arc<Ca>) {
    loop {
        tokio::time::sleep(RECOUNT_EVERY).await;
        // While the database is down nothing is issued, either.
        ca.recount_daily().await.ok();
    }
}

async fn make_partitions(ca: Arc<Ca>) {
    loop {
        match ca.log_book.make_partitions().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "made partitions ahead"),
            // What has no partition of its own goes to the default one: nothing is refused.
            Err(fault) => tracing::warn!(%fault, "made no partitions"),
        }
        tokio::time::sleep(MAKE_PARTITIONS_EVERY).await;
    }
}

/// The TLS files, which whoever renews certificates may have replaced.
pub(super) async fn reread_tls_files(clock: Arc<dyn Clock>, tls: Arc<Tls>) {
    loop {
        tokio::time::sleep(TLS_FILES_EVERY).await;
        tls.reload(clock.now());
    }
}

/// Shows the last second at which each profile issues.
pub(super) fn show_last_seconds(ca: &Ca) {
    let metric = &ca.metrics.profile_last_issue;
    metric.reset();
    for (profile, _, last) in ca.last_seconds() {
        metric.with_label_values(&[&profile]).set(last.timestamp());
    }
}

/// Says once a day which profiles come to their end: a new issuer takes its time.
async fn warn(ca: Arc<Ca>) {
    show_last_seconds(&ca);
    loop {
        for ending in ca.endings(ca.clock.now()) {
            tracing::warn!(
                profile = ending.profile,
                issuer = ending.issuer,
                last = %ending.last,
                within_days = ending.within_days,
                "the profile's certificates would soon outlive its issuer"
            );
        }
        tokio::time::sleep(WARN_EVERY).await;
    }
}

async fn recover(ca: Arc<Ca>) {
    loop {
        match ca.recover().await {
            Ok(count) if count > 0 => tracing::info!(count, "took over open intents"),
            _ => tokio::time::sleep(RECOVER_EVERY).await,
        }
    }
}
