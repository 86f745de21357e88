//! Head office's configuration: it has no issuers, profiles or log of its own, so a file of its own form.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::config::ConfigFaults;
use crate::config::DatabaseSection;
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
    /// Logging.
    #[serde(default)]
    pub log: LogSection,
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
        for path in passwords.chain(database.owner_password_file.as_mut()) {
            *path = credential::resolve(path, &base, credentials.as_deref());
        }
        Ok(config)
    }
}
