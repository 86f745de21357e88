//! `doctor`: looks at configuration, TLS files, database and HSM, and says what is wrong and where.

use std::time::Duration;

use serde::Serialize;

use crate::app;
use crate::app::SystemClock;
use crate::ca::Clock;
use crate::ca::Signer;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::Config;
use crate::db;
use crate::hsm;
use crate::http::tls::Tls;
use crate::metrics::HsmMetrics;
use crate::metrics::TlsMetrics;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::report;

/// Time for a token to open and prove its keys.
const HSM_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Finding {
    check: String,
    ok: bool,
    detail: String,
}

impl Finding {
    fn new(check: impl Into<String>, result: Result<String, String>) -> Self {
        let (ok, detail) = match result {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Self {
            check: check.into(),
            ok,
            detail,
        }
    }
}

/// Runs every check; fails when one does.
pub fn run(global: &Global) -> Outcome {
    let config = crate::cli::load_with_environment(&global.config)?;
    let mut findings = vec![Finding::new(
        "configuration",
        Ok(format!(
            "{} issuers, {} profiles",
            config.issuers.len(),
            config.profiles.len()
        )),
    )];
    findings.push(tls(&config)?);
    findings.push(database(&config)?);
    findings.extend(hsm(&config)?);
    let sound = findings.iter().all(|finding| finding.ok);
    if global.json {
        crate::cli::print_json(&findings)?;
    } else {
        for Finding { check, ok, detail } in &findings {
            println!("{} {check}: {detail}", if *ok { "ok  " } else { "FAIL" });
        }
    }
    if sound {
        Ok(())
    } else {
        Err(Failure::new(
            Failure::DEPENDENCY,
            anyhow::anyhow!("something is wrong; see above"),
        ))
    }
}

fn tls(config: &Config) -> anyhow::Result<Finding> {
    let metrics = TlsMetrics::new(&prometheus::Registry::new())?;
    let loaded = Tls::load(app::tls_files(config), SystemClock.now(), metrics);
    Ok(Finding::new(
        "tls",
        loaded
            .map(|_| "certificate, key and clients' trust anchors fit and are valid now".into())
            .map_err(|e| e.to_string()),
    ))
}

fn database(config: &Config) -> anyhow::Result<Finding> {
    let settings = app::database_config(config)?;
    let check = db::check::startup(&settings, &SystemClock, config.clock_difference_max);
    let result = crate::cli::runtime()?.block_on(check);
    Ok(Finding::new(
        "database",
        result
            .map(|()| "schema, role, durability and clock are right".into())
            .map_err(|e| e.to_string()),
    ))
}

/// Opens every token; each key signs a challenge that must verify under its issuer's certificate.
fn hsm(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let metrics = HsmMetrics::new(&prometheus::Registry::new())?;
    let hsm = hsm::Hsm::start(app::token_configs(config), &std::sync::Arc::new(metrics));
    // What is not ready says so below, each key for itself.
    crate::cli::runtime()?
        .block_on(hsm.wait_ready(HSM_TIMEOUT))
        .ok();
    let responders = config.responders.iter().map(|responder| {
        Finding::new(
            format!(
                "hsm key of the OCSP responder of issuer `{}`",
                responder.issuer
            ),
            hsm.ready(&responder.key_name())
                .map(|()| "signs, and verifies under the certificate".into()),
        )
    });
    let findings = config.issuers.iter().map(|issuer| {
        Finding::new(
            format!("hsm key of issuer `{}`", issuer.name),
            hsm.ready(&issuer.name)
                .map(|()| "signs, and verifies under the certificate".into()),
        )
    });
    let report_key = config.report_key.iter().map(|_| {
        Finding::new(
            "hsm key of closing reports",
            hsm.ready(report::KEY_NAME)
                .map(|()| "signs, and verifies under the configured public key".into()),
        )
    });
    let log_key = config.log_key.iter().map(|_| {
        Finding::new(
            "hsm key of the log's checkpoints",
            hsm.ready(LOG_KEY_NAME)
                .map(|()| "signs, and verifies under the configured public key".into()),
        )
    });
    let findings = findings.chain(responders).chain(report_key);
    let findings = findings.chain(log_key).collect();
    hsm.shutdown();
    Ok(findings)
}
