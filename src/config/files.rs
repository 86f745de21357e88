//! What a configuration names: issuers, responders, profiles and the keys of others, each read and checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::RawConfig;
use crate::config::TicketKeySection;
use crate::pki::crl::shard_number;
use crate::pki::issuer::Issuer;
use crate::pki::jws::JwsKey;
use crate::pki::ocsp::Responder;
use crate::pki::profile::Profile;
use crate::pki::report::ReportKey;

pub(super) fn issuers(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<Arc<Issuer>> {
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for section in &raw.issuer {
        match section.load() {
            // AWS IoT and every verifier find the issuer by name: two keys behind one name break devices.
            Ok(issuer)
                if issuers.iter().any(|other| {
                    other.subject_der == issuer.subject_der
                        && other.public_key.as_der() != issuer.public_key.as_der()
                }) =>
            {
                faults.push(format!(
                    "issuer `{}`: another issuer has the same subject and another key",
                    section.name
                ));
            }
            Ok(issuer) if issuer.crl_url.is_some() && !issuer.signs_crls => {
                faults.push(format!(
                    "issuer `{}`: crl_url is set, but the CA's keyUsage lacks cRLSign",
                    section.name
                ));
            }
            Ok(issuer) => issuers.push(Arc::new(issuer)),
            Err(e) => faults.push(format!(
                "issuer `{}`: {}: {e}",
                section.name,
                section.certificate.display()
            )),
        }
    }
    for issuer in issuers.iter().filter(|issuer| issuer.crl_shards.is_some()) {
        let shard = |name: &str| {
            let number = name.strip_prefix(&issuer.name)?.strip_prefix('-')?;
            shard_number(number)
        };
        for other in &raw.issuer {
            if shard(&other.name).is_some() {
                faults.push(format!(
                    "issuer `{}`: its CRL would have the name of a shard of issuer `{}`",
                    other.name, issuer.name
                ));
            }
        }
    }
    issuers
}

pub(super) fn ticket_keys(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<JwsKey> {
    if raw.site.id.as_ref().is_some_and(|id| !is_word(id)) {
        faults.push("site.id: 1 to 64 printable ASCII characters without space".into());
    }
    let none = raw.ticket_key.is_empty();
    if raw.site.published && raw.site.id.is_none() {
        faults.push("site.published: site.id must be there: every row bears it".into());
    }
    if let (true, Some(id), Some(audit)) = (raw.site.published, &raw.site.id, &raw.audit)
        && !audit.origin.contains(id.as_str())
    {
        faults.push("audit.origin: must hold site.id where the site is published: head office has many logs".into());
    }
    if raw.site.tickets_required && none {
        faults.push("site.tickets_required: no [[ticket_key]] is configured".into());
    }
    if raw.site.id.is_none() && !none {
        faults.push("site.id: must be there with a [[ticket_key]]: tickets name it".into());
    }
    let mut keys: Vec<JwsKey> = Vec::new();
    for section in &raw.ticket_key {
        let TicketKeySection { kid, public_key } = section;
        if !is_word(kid) || keys.iter().any(|key| key.kid == *kid) {
            faults.push(format!(
                "ticket_key `{kid}`: a kid is 1 to 64 printable ASCII characters without space, each once"
            ));
        }
        let key = std::fs::read(public_key)
            .map_err(|e| e.to_string())
            .and_then(|pem| JwsKey::from_pem(kid, &pem));
        match key {
            Ok(key) => keys.push(key),
            Err(e) => faults.push(format!("ticket_key `{kid}`: {}: {e}", public_key.display())),
        }
    }
    keys
}

pub(super) fn report_key(raw: &RawConfig, faults: &mut Vec<String>) -> Option<ReportKey> {
    let section = raw.site.report_key.as_ref()?;
    let mut wrong = |what: String| faults.push(format!("site.report_key: {what}"));
    if raw.site.id.is_none() {
        wrong("site.id must be there: reports name it".into());
    }
    if !raw.hsm.iter().any(|hsm| hsm.name == section.hsm) {
        wrong(format!("no [[hsm]] is named `{}`", section.hsm));
    }
    let issuers = &raw.issuer;
    if issuers
        .iter()
        .any(|i| i.hsm == section.hsm && i.key_label == section.key_label)
    {
        wrong("an issuer's key signs no reports".into());
    }
    let key = std::fs::read_to_string(&section.public_key)
        .map_err(|e| e.to_string())
        .and_then(|text| ReportKey::from_pem(&text));
    key.map_err(|e| wrong(format!("{}: {e}", section.public_key.display())))
        .ok()
}

pub(super) fn responders(
    raw: &RawConfig,
    issuers: &[Arc<Issuer>],
    faults: &mut Vec<String>,
) -> Vec<Arc<Responder>> {
    let mut responders = Vec::new();
    for issuer in issuers {
        let section = raw.issuer.iter().find(|i| i.name == issuer.name);
        let Some(ocsp) = section.and_then(|section| section.ocsp.as_ref()) else {
            continue;
        };
        let parsed = std::fs::read_to_string(&ocsp.certificate)
            .map_err(|e| e.to_string())
            .and_then(|pem| Responder::parse(issuer, &pem).map_err(|e| e.to_string()));
        match parsed {
            Ok(responder) => responders.push(Arc::new(responder)),
            Err(e) => faults.push(format!(
                "issuer `{}`: ocsp: {}: {e}",
                issuer.name,
                ocsp.certificate.display()
            )),
        }
    }
    if !responders.is_empty() && raw.repository.is_none() {
        faults.push("repository: an issuer has an ocsp section, but nobody listens".into());
    }
    responders
}

pub(super) fn profiles(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<Arc<Profile>> {
    let directory = &raw.issuance.profiles;
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|x| x == "toml"))
            .collect(),
        Err(e) => {
            faults.push(format!("issuance.profiles: {}: {e}", directory.display()));
            return Vec::new();
        }
    };
    paths.sort();
    if paths.is_empty() {
        faults.push(format!(
            "issuance.profiles: {}: holds no profile",
            directory.display()
        ));
    }
    let mut profiles = Vec::new();
    for path in paths {
        match profile(directory, &path) {
            Ok(profile) => {
                for issuer in profile.issuers() {
                    if !raw.issuer.iter().any(|i| i.name == issuer) {
                        faults.push(format!(
                            "{}: no [[issuer]] is named `{issuer}`",
                            path.display()
                        ));
                    }
                }
                profiles.push(Arc::new(profile));
            }
            Err(lines) => faults.extend(
                lines
                    .into_iter()
                    .map(|line| format!("{}: {line}", path.display())),
            ),
        }
    }
    profiles
}

fn profile(directory: &Path, path: &Path) -> Result<Profile, Vec<String>> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| vec![format!("{}: {e}", path.display())])
    };
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    let text = read(path)?;
    let template = Profile::template_path(&text)
        .map(|file| read(&directory.join(file)))
        .transpose()?;
    Profile::parse(name, &text, template.as_deref())
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
