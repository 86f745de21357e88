//! `issuer rotate`: the next generation of an issuer beside the one there is.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::issuer;
use crate::config::Config;
use crate::config::IssuerSection;
use crate::config::RawConfig;
use crate::pki::certificate::subject_of;
use crate::pki::name::AttributeType;

/// `issuer rotate`
///
/// Makes a key and a certificate like those of the issuer there is, and prints what to write into
/// the configuration and into the profiles. Changes no file that is there. The old issuer stays
/// configured: its CRL is kept up as long as it is valid.
#[derive(Args)]
pub struct RotateArguments {
    /// Name of the `[[issuer]]` to be followed.
    name: String,
    /// Name of the new one.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// When profiles switch, RFC 3339 to the second.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: DateTime<Utc>,
    /// Write a CSR for an offline root here, instead of a self-signed certificate; then
    /// `issuer init NAME --import CHAIN`.
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse()
        .ok()
        .filter(|at: &DateTime<Utc>| at.timestamp_subsec_nanos() == 0)
        .ok_or_else(|| "not RFC 3339 to the second, like 2027-01-01T06:00:00Z".to_owned())
}

/// Makes the generation, prints the edits.
pub(super) fn run(global: &Global, arguments: &RotateArguments) -> Outcome {
    let (name, next) = (&arguments.name, &arguments.to);
    issuer::plain(next)?;
    let Config {
        mut raw, profiles, ..
    } = crate::cli::load_with_environment(&global.config)?;
    let old = issuer::section(&raw, name).map_err(|e| Failure::new(Failure::NOT_FOUND, e))?;
    if raw.issuer.iter().any(|issuer| issuer.name == *next) {
        let taken = anyhow!("there is an [[issuer]] `{next}` already");
        return Err(Failure::new(Failure::REFUSED, taken));
    }
    let section = IssuerSection {
        name: next.clone(),
        key_label: next.clone(),
        key_id: None,
        ocsp: None,
        certificate: old.certificate.with_file_name(format!("{next}.pem")),
        crl_url: old.crl_url.as_ref().map(|url| url.replace(name, next)),
        ..old.clone()
    };
    issuer::refuse_to_overwrite(&section).map_err(|e| Failure::new(Failure::REFUSED, e))?;
    let certificate = old.load().map_err(anyhow::Error::msg)?;
    let algorithm = certificate.public_key.algorithm();
    let mut subject = subject_of(&certificate.certificate)?;
    subject.remove(&AttributeType::SerialNumber);
    let subject: Vec<(&str, &str)> = subject
        .iter()
        .map(|(kind, value)| (kind.short_name(), value.as_str()))
        .collect();
    raw.issuer.push(section);
    match &arguments.csr {
        None => issuer::init_self_signed(&raw, next, algorithm, &subject)?,
        Some(file) => issuer::init_request(&raw, next, algorithm, &subject, file)?,
    }
    let switched = profiles.iter().filter(|profile| profile.issuer == *name);
    let switched: Vec<&str> = switched.map(|profile| profile.name.as_str()).collect();
    tell(global, &raw, &arguments.at, &switched)
}

fn tell(global: &Global, raw: &RawConfig, at: &DateTime<Utc>, profiles: &[&str]) -> Outcome {
    let section = raw.issuer.last().context("an issuer was added")?;
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    if global.json {
        return crate::cli::print_json(&json!({
            "issuer": section, "next_issuer": section.name, "switch_at": at, "profiles": profiles,
        }));
    }
    println!("# {}, at its end:\n\n[[issuer]]", global.config.display());
    print!("{}", toml::to_string(section)?);
    for profile in profiles {
        let file = raw.issuance.profiles.join(format!("{profile}.toml"));
        println!("\n# {}, at its beginning:\n", file.display());
        println!("next_issuer = \"{}\"\nswitch_at = \"{at}\"", section.name);
    }
    Ok(())
}
