//! What the rooms are told of the configuration: the database, the tokens, the TLS files.

use std::sync::Arc;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};

use crate::config::Config;
use crate::config::DatabaseSection;
use crate::config::HsmSection;
use crate::config::HttpSection;
use crate::config::IssuerSection;
use crate::config::decode_hex;
use crate::config::secret;
use crate::db;
use crate::hsm;
use crate::http::tls::TlsFiles;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::report;

/// The API's TLS files.
#[must_use]
pub fn tls_files(config: &Config) -> TlsFiles {
    files_of(&config.raw.http)
}

pub(super) fn files_of(section: &HttpSection) -> TlsFiles {
    TlsFiles {
        certificate: section.certificate.clone(),
        private_key: section.private_key.clone(),
        client_ca: section.client_ca.clone(),
    }
}

/// The ledger's connection settings.
pub fn database_config(config: &Config) -> anyhow::Result<db::config::DbConfig> {
    let database = &config.raw.database;
    service_config(database, config.database_password.as_ref())
}

pub(super) fn service_config(
    database: &DatabaseSection,
    password: Option<&SecretString>,
) -> anyhow::Result<db::config::DbConfig> {
    Ok(db::config::DbConfig {
        url: database_url(&database.url, password)?,
        archive_connections_max: database.archive_connections,
        require_synchronous: database.require_synchronous,
        seen: Arc::default(),
    })
}

/// The standby's connection settings, where there is one.
pub fn standby_config(config: &Config) -> anyhow::Result<Option<db::config::DbConfig>> {
    let database = &config.raw.database;
    let Some(section) = &database.archive else {
        return Ok(None);
    };
    Ok(Some(db::config::DbConfig {
        url: database_url(&section.url, config.archive_password.as_ref())?,
        archive_connections_max: database.archive_connections,
        require_synchronous: false,
        seen: Arc::default(),
    }))
}

/// The connection settings of the schema's owner, who is at `url`: for commands, never for the service.
pub fn owner_config(database: &DatabaseSection, url: &str) -> anyhow::Result<db::config::DbConfig> {
    let password = database.owner_password_file.as_deref();
    let password = password.map(secret).transpose()?;
    Ok(db::config::DbConfig {
        url: database_url(url, password.as_ref())?,
        archive_connections_max: 1,
        require_synchronous: false,
        seen: Arc::default(),
    })
}

/// A database's address; the password joins it only here.
fn database_url(url: &str, password: Option<&SecretString>) -> anyhow::Result<SecretString> {
    match password {
        None => Ok(SecretString::from(url.to_owned())),
        Some(password) => with_password(url, password)
            .context("a password_file needs an address of the form postgres://role@host/database"),
    }
}

/// `postgres://role@host/…` with the password, each octet of it percent-encoded.
fn with_password(url: &str, password: &SecretString) -> Option<SecretString> {
    let (scheme, rest) = url.split_once("://")?;
    let (role, place) = rest.split_once('@')?;
    let encoded: String = password
        .expose_secret()
        .bytes()
        .map(|b| format!("%{b:02X}"))
        .collect();
    Some(SecretString::from(format!(
        "{scheme}://{role}:{encoded}@{place}"
    )))
}

/// The tokens, each with the issuer keys it must hold.
#[must_use]
pub fn token_configs(config: &Config) -> Vec<hsm::TokenConfig> {
    let tokens = config.raw.hsm.iter().zip(&config.pins);
    tokens
        .map(|(section, pin)| {
            let issuers = config
                .raw
                .issuer
                .iter()
                .zip(&config.issuers)
                .filter(|(issuer, _)| issuer.hsm == section.name);
            let keys = issuers.flat_map(|(section, issuer)| {
                let own = hsm::KeyConfig {
                    issuer: issuer.name.clone(),
                    label: section.key_label.clone(),
                    id: section.key_id.as_deref().and_then(decode_hex),
                    spki_der: issuer.public_key.as_der().to_vec(),
                    algorithm: issuer.signature_algorithm,
                };
                std::iter::once(own).chain(responder_key(config, section))
            });
            let signs_reports = config.raw.site.report_key.as_ref();
            let report_key = signs_reports
                .zip(config.report_key.as_ref())
                .filter(|(key, _)| key.hsm == section.name)
                .map(|(section, key)| hsm::KeyConfig {
                    issuer: report::KEY_NAME.to_owned(),
                    label: section.key_label.clone(),
                    id: None,
                    spki_der: key.public_key.as_der().to_vec(),
                    algorithm: SignatureAlgorithm::EcdsaWithSha256,
                });
            let signs_checkpoints = config.raw.audit.as_ref().map(|audit| &audit.log_key);
            let log_key = signs_checkpoints
                .zip(config.log_key.as_ref())
                .filter(|(key, _)| key.hsm == section.name)
                .map(|(section, key)| hsm::KeyConfig {
                    issuer: LOG_KEY_NAME.to_owned(),
                    label: section.key_label.clone(),
                    id: None,
                    spki_der: key.public_key.as_der().to_vec(),
                    algorithm: SignatureAlgorithm::EcdsaWithSha256,
                });
            let keys = keys.chain(report_key).chain(log_key);
            token_config(section, pin.clone(), keys.collect())
        })
        .collect()
}

fn responder_key(config: &Config, section: &IssuerSection) -> Option<hsm::KeyConfig> {
    let ocsp = section.ocsp.as_ref()?;
    let mut responders = config.responders.iter();
    let responder = responders.find(|responder| responder.issuer == section.name)?;
    Some(hsm::KeyConfig {
        issuer: responder.key_name(),
        label: ocsp.key_label.clone(),
        id: None,
        spki_der: responder.public_key.as_der().to_vec(),
        algorithm: responder.public_key.algorithm().signature_algorithm(),
    })
}

/// One token.
#[must_use]
pub fn token_config(
    section: &HsmSection,
    pin: SecretString,
    keys: Vec<hsm::KeyConfig>,
) -> hsm::TokenConfig {
    hsm::TokenConfig {
        name: section.name.clone(),
        module: section.module.clone(),
        token_label: section.token_label.clone(),
        token_serial: section.token_serial.clone(),
        pin,
        sessions: section.sessions,
        queue_depth_max: section.queue_depth_max,
        hung_after_ms: section.hung_after_ms,
        recover_module: section.recover_module,
        keys,
    }
}
