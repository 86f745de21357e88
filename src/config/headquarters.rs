//! Head office's configuration: it has no issuers, profiles or log of its own, so a file of its own form.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::config::ConfigFaults;
use crate::config::DatabaseSection;
use crate::config::HsmSection;
use crate::config::HttpSection;
use crate::config::LogSection;
use crate::config::OperationsSection;
use crate::config::credential;
use crate::config::holds_password;
use crate::config::without_value;

/// The file, with paths made absolute.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HeadquartersConfig {
    /// The REST listener.
    pub http: HttpSection,
    /// The operations listener.
    #[serde(default)]
    pub operations: OperationsSection,
    /// Head office's own database. Its `owner_url` is of a superuser: PostgreSQL 15 lets nobody else
    /// subscribe.
    pub database: DatabaseSection,
    /// Tokens, one entry each; needed for tickets alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hsm: Vec<HsmSection>,
    /// How tickets are signed; absent: none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<TicketsSection>,
    /// Logging.
    #[serde(default)]
    pub log: LogSection,
}

/// `[tickets]`: a P-256 key that signs tickets and nothing else.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TicketsSection {
    /// The `[[hsm]]` that holds it.
    pub hsm: String,
    /// `CKA_LABEL` of its private key.
    pub key_label: String,
    /// Its public half, PEM: what plants have in `[[ticket_key]]`.
    pub public_key: PathBuf,
    /// Its name in tickets: `kid` of the plants' `[[ticket_key]]`.
    pub kid: String,
    /// Who orders, as tickets say it.
    pub iss: String,
}

impl HeadquartersConfig {
    /// Reads the file. The files it names are looked at when they are used.
    pub fn read(path: &Path) -> Result<Self, ConfigFaults> {
        let fault = |what: String| ConfigFaults(vec![format!("{}: {what}", path.display())]);
        let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|e| fault(without_value(&e, &text)))?;
        let database = &config.database;
        let urls = [Some(&database.url), database.owner_url.as_ref()];
        if urls.into_iter().flatten().any(|url| holds_password(url)) {
            return Err(fault(
                "database: a password does not belong here; name a password_file".to_owned(),
            ));
        }
        if let Err(what) = crate::telemetry::check(&config.log.level) {
            return Err(fault(format!("log.level: {what}")));
        }
        let base = std::path::absolute(path)
            .ok()
            .and_then(|path| path.parent().map(Path::to_path_buf))
            .unwrap_or_default();
        let http = &mut config.http;
        for path in [
            &mut http.certificate,
            &mut http.private_key,
            &mut http.client_ca,
        ] {
            *path = base.join(&*path);
        }
        let credentials = credential::directory();
        let database = &mut config.database;
        let passwords = database.password_file.as_mut().into_iter();
        let passwords = passwords.chain(database.owner_password_file.as_mut());
        for path in passwords.chain(config.hsm.iter_mut().map(|hsm| &mut hsm.pin_file)) {
            *path = credential::resolve(path, &base, credentials.as_deref());
        }
        if let Some(tickets) = &mut config.tickets {
            tickets.public_key = base.join(&tickets.public_key);
            if config.hsm.iter().all(|hsm| hsm.name != tickets.hsm) {
                return Err(fault(format!(
                    "tickets: no [[hsm]] is named `{}`",
                    tickets.hsm
                )));
            }
            if tickets.iss.is_empty() || tickets.iss.chars().count() > 128 {
                return Err(fault("tickets.iss: 1 to 128 characters".to_owned()));
            }
        }
        Ok(config)
    }

    /// The variables that all modules read, for the process's environment.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let tokens = self.hsm.iter();
        tokens.flat_map(|hsm| hsm.environment.clone()).collect()
    }
}
