//! `doctor`: looks at configuration, TLS files, database, HSM, certificates, templates, disks and backups,
//! and says what is wrong and what helps.

use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::app;
use crate::app::SystemClock;
use crate::ca::Clock;
use crate::ca::Signer;
use crate::ca::replica::Part;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::Config;
use crate::db;
use crate::db::check::StartupFault;
use crate::db::measures::PgMeasures;
use crate::hsm;
use crate::http::tls::Tls;
use crate::metrics::HsmMetrics;
use crate::metrics::TlsMetrics;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::issuer::Issuer;
use crate::pki::profile::Profile;
use crate::pki::report;

/// Time for a token to open and prove its keys.
const HSM_TIMEOUT: Duration = Duration::from_secs(10);

/// Days before an end at which it is said, and fails nothing yet.
const SOON_DAYS: i64 = 90;
/// The same for the service's own certificate, which is short-lived.
const TLS_SOON_DAYS: i64 = 14;
/// Free shares of a disk, in percent, at which it is said, and at which it fails.
const FREE_PERCENT: (u64, u64) = (15, 3);
/// How long a standby is waited for.
const STANDBY_MAX: Duration = Duration::from_secs(5);
/// Age of a backup at which it is said.
const BACKUP_HOURS: f64 = 26.0;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Nothing is refused yet.
    Warning,
    Failure,
}

#[derive(Serialize)]
struct Finding {
    check: String,
    ok: bool,
    level: Level,
    detail: String,
    /// What to do; null when nothing is to be done.
    cure: Option<&'static str>,
    /// The page that says more, on the service itself.
    page: Option<&'static str>,
}

impl Finding {
    fn new(check: impl Into<String>, result: Result<String, String>) -> Self {
        let (level, detail) = match result {
            Ok(detail) => (Level::Ok, detail),
            Err(detail) => (Level::Failure, detail),
        };
        Self {
            check: check.into(),
            ok: level != Level::Failure,
            level,
            detail,
            cure: None,
            page: None,
        }
    }

    fn warning(check: impl Into<String>, detail: String) -> Self {
        Self {
            level: Level::Warning,
            ..Self::new(check, Ok(detail))
        }
    }

    /// What helps, where something is to be done.
    fn cured(mut self, cure: &'static str, page: &'static str) -> Self {
        if self.level != Level::Ok {
            (self.cure, self.page) = (Some(cure), Some(page));
        }
        self
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
    let database = database(&config)?;
    let answers = database.ok;
    findings.push(database);
    findings.extend(hsm(&config)?);
    findings.extend(config.issuers.iter().map(|issuer| ends(issuer)));
    findings.extend(config.profiles.iter().map(|it| profile(it, &config)));
    for (name, path) in app::directories(&config) {
        findings.push(disk(name, &path));
    }
    if answers {
        findings.push(replicas(&config)?);
        findings.extend(site(&config)?);
        findings.push(backup(&config)?);
        findings.extend(standby(&config)?);
    }
    let sound = findings.iter().all(|finding| finding.ok);
    if global.json {
        crate::cli::print_json(&findings)?;
    } else {
        for finding in &findings {
            let word = match finding.level {
                Level::Ok => "ok  ",
                Level::Warning => "warn",
                Level::Failure => "FAIL",
            };
            println!("{word} {}: {}", finding.check, finding.detail);
            if let (Some(cure), Some(page)) = (finding.cure, finding.page) {
                println!("     {cure} ({page})");
            }
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
    let ends = metrics.not_after.clone();
    let now = SystemClock.now();
    let loaded = Tls::load(app::tls_files(config), now, metrics);
    let files = ["certificate", "client_ca"].map(|file| {
        let ends = ends.with_label_values(&[file]).get();
        (file, (ends - now.timestamp()) / 86_400)
    });
    let soon = files.iter().find(|(_, days)| *days < TLS_SOON_DAYS);
    let finding = match (loaded, soon) {
        (Ok(_), Some((file, days))) => {
            Finding::warning("tls", format!("http.{file}: it ends in {days} days"))
        }
        (loaded, _) => Finding::new(
            "tls",
            loaded
                .map(|_| "certificate, key and clients' trust anchors fit and are valid now".into())
                .map_err(|e| e.to_string()),
        ),
    };
    Ok(finding.cured(
        "put new files in their place; they are taken into use without a restart",
        "/runbooks/server-certificate-expires",
    ))
}

/// Whether the database is of the configured site, and head office may have its rows where it is to.
fn site(config: &Config) -> anyhow::Result<Option<Finding>> {
    let section = &config.raw.site;
    let Some(id) = &section.id else {
        return Ok(None);
    };
    let settings = app::database_config(config)?;
    let check = db::site::check(&settings, Some(id), section.published);
    let result = match crate::cli::runtime()?.block_on(check)? {
        Some(fault) => Err(fault.to_string()),
        None if section.published => Ok(format!("head office may subscribe to `{id}`")),
        None => return Ok(None),
    };
    let finding = Finding::new("site", result);
    Ok(Some(finding.cured(
        "what the line above says, as the database's owner",
        "/manual/head-office",
    )))
}

fn database(config: &Config) -> anyhow::Result<Finding> {
    let settings = app::database_config(config)?;
    let check = db::check::startup(&settings, &SystemClock, config.clock_difference_max);
    let result = crate::cli::runtime()?.block_on(check);
    let (cure, page) = match &result {
        Err(StartupFault::SchemaOld { .. }) => (
            "certfactory migrate, by whoever may act for the database's owner",
            "/manual/running",
        ),
        Err(
            StartupFault::Clock { .. }
            | StartupFault::ClockUnset(_)
            | StartupFault::ClockBehind { .. },
        ) => (
            "set both clocks by the same time server",
            "/runbooks/clock-untrusted",
        ),
        Err(StartupFault::SharedSessions | StartupFault::NotSynchronous) => (
            "put the proxy, or the server's replication, right",
            "/manual/high-availability",
        ),
        _ => (
            "look whether the server runs and lets the service's role in",
            "/runbooks/database-unreachable",
        ),
    };
    let result = result
        .map(|()| "schema, role, durability and clock are right".into())
        .map_err(|e| e.to_string());
    Ok(Finding::new("database", result).cured(cure, page))
}

/// How long an issuer lives.
fn ends(issuer: &Issuer) -> Finding {
    let check = format!("certificate of issuer `{}`", issuer.name);
    let left = issuer.validity.not_after - SystemClock.now();
    let detail = format!("it ends at {}", issuer.validity.not_after.to_rfc3339());
    let finding = if left < TimeDelta::zero() {
        Finding::new(check, Err(detail))
    } else if left < TimeDelta::days(SOON_DAYS) {
        Finding::warning(check, detail)
    } else {
        Finding::new(check, Ok(detail))
    };
    finding.cured(
        "make its next generation: certfactory issuer rotate",
        "/runbooks/issuer-expires",
    )
}

/// How long a profile issues.
fn profile(profile: &Profile, config: &Config) -> Finding {
    let check = format!("profile `{}`", profile.name);
    let last = profile.issuers().last();
    let issuer = config
        .issuers
        .iter()
        .find(|it| Some(it.name.as_str()) == last);
    let ends = issuer.map(|issuer| profile.validity.last_start(&issuer.validity));
    let left = |ends| ends - SystemClock.now();
    if let Some(ends) = ends.filter(|ends| left(*ends) < TimeDelta::days(SOON_DAYS)) {
        let detail = format!("it issues until {}", ends.to_rfc3339());
        let finding = if left(ends) < TimeDelta::zero() {
            Finding::new(check, Err(detail))
        } else {
            Finding::warning(check, detail)
        };
        return finding.cured(
            "name the next issuer in it, and when it begins",
            "/runbooks/profile-ends",
        );
    }
    // A fault of the template keeps the configuration from loading; what may be meant is not warned of again.
    let remarks = profile.jitp.as_ref().map_or(0, |it| it.warnings().len());
    let detail = format!("its issuer lives; `jitp lint` has {remarks} remarks on its template");
    Finding::new(check, Ok(detail))
}

/// Whether a directory can be written to for a while.
fn disk(name: &str, path: &Path) -> Finding {
    let check = format!("disk of the {name} directory");
    let finding = match statvfs(path) {
        Err(error) => Finding::new(check, Err(format!("{}: {error}", path.display()))),
        Ok(disk) => {
            let percent = disk.blocks_available() * 100 / disk.blocks().max(1);
            let detail = format!("{}: {percent} % free", path.display());
            let (soon, late) = FREE_PERCENT;
            if percent < late {
                Finding::new(check, Err(detail))
            } else if percent < soon {
                Finding::warning(check, detail)
            } else {
                Finding::new(check, Ok(detail))
            }
        }
    };
    finding.cured(
        "make room, or give it a disk of its own",
        "/runbooks/disk-nearly-full",
    )
}

/// Which replicas live, and what none of them does.
fn replicas(config: &Config) -> anyhow::Result<Finding> {
    let settings = app::database_config(config)?;
    let living = crate::cli::runtime()?.block_on(db::replicas::living(&settings));
    let finding = match living {
        Err(fault) => Finding::new("replicas", Err(fault.to_string())),
        Ok(living) if living.is_empty() => {
            Finding::new("replicas", Ok("none is running".to_owned()))
        }
        Ok(living) => {
            let each = living.iter().map(|it| {
                let since = it.since.format("%F %T UTC");
                format!(
                    "octet {}: {}, {}, since {since}",
                    it.octet,
                    it.part.as_str(),
                    it.place
                )
            });
            let detail = each.collect::<Vec<_>>().join("; ");
            let nobody = |does: fn(Part) -> bool| !living.iter().any(|it| does(it.part));
            if nobody(Part::works) {
                Finding::warning("replicas", format!("nobody works on jobs; {detail}"))
            } else if nobody(Part::serves) {
                Finding::warning("replicas", format!("nobody answers stations; {detail}"))
            } else {
                Finding::new("replicas", Ok(detail))
            }
        }
    };
    Ok(finding.cured(
        "start what is missing: certfactory serve --role jobs, or --role api",
        "/manual/replicas",
    ))
}

fn backup(config: &Config) -> anyhow::Result<Finding> {
    let settings = app::database_config(config)?;
    // Its connections belong to the runtime that asks.
    let measured = crate::cli::runtime()?.block_on(async {
        let measures = PgMeasures::new(&settings)?;
        Ok::<_, anyhow::Error>(measures.measure().await)
    })?;
    let finding = match measured.map(|measures| measures.backup_age) {
        Err(fault) => Finding::new("backup", Err(fault.to_string())),
        Ok(None) => Finding::warning("backup", "there was none".to_owned()),
        Ok(Some(age)) => {
            let hours = age / 3_600.0;
            let detail = format!("the last one was made {hours:.0} hours ago");
            if hours > BACKUP_HOURS {
                Finding::warning("backup", detail)
            } else {
                Finding::new("backup", Ok(detail))
            }
        }
    };
    Ok(finding.cured("certfactory backup DIRECTORY", "/runbooks/backup-old"))
}

/// Whether searches can be read where they are to be.
fn standby(config: &Config) -> anyhow::Result<Option<Finding>> {
    let section = config.raw.database.archive.as_ref();
    let Some((section, there)) = section.zip(app::standby_config(config)?) else {
        return Ok(None);
    };
    let primary = app::database_config(config)?;
    let at_most = Duration::from_secs(section.lag_max_seconds.into()).min(STANDBY_MAX);
    let examined = db::standby::examine(&primary, &there, at_most);
    let finding = match crate::cli::runtime()?.block_on(examined) {
        Ok(lag) => {
            let detail = format!("what is written is there after {} ms", lag.as_millis());
            Finding::new("standby", Ok(detail))
        }
        Err(reason) => {
            let detail = format!("searches are read on the primary: {reason}");
            Finding::warning("standby", detail)
        }
    };
    Ok(Some(finding.cured(
        "look whether the standby runs and replays",
        "/runbooks/standby-not-read",
    )))
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
    let cured = |finding: Finding| {
        finding.cured(
            "look at the token, its PIN and its key; a refused PIN is not tried again before a restart",
            "/runbooks/hsm-key-unusable",
        )
    };
    let findings = findings.chain(log_key).map(cured).collect();
    hsm.shutdown();
    Ok(findings)
}
