//! `jitp kit`: writes the folder with which a cloud engineer registers a factory's CA.
//!
//! The text itself is made in [`files`], without reading or writing anything: the same issuer,
//! template and place give the same bytes.

pub mod files;
pub mod needs;
pub mod place;
mod policies;
mod preflight;
mod text;
mod throttle;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::jitp::ProfileText;
use crate::cli::jitp::configured_issuer;
use crate::cli::jitp::parse_template_text;
use crate::cli::jitp::read_text;
use crate::config::RawConfig;
use crate::pki::name::AttributeType;
use crate::pki::profile::Profile;
use files::Kit;
use files::MANIFEST;
use place::Account;
use place::Region;
use place::RoleName;
use place::TemplateName;

/// `jitp kit`
#[derive(Args)]
pub struct KitArguments {
    /// Take issuer and template of this profile: a TOML file, or a name of the configuration.
    #[arg(long, value_name = "FILE|NAME", conflicts_with = "issuer")]
    profile: Option<PathBuf>,
    /// Name of the `[[issuer]]` to register.
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "profile",
        requires = "template"
    )]
    issuer: Option<String>,
    /// The provisioning template: its plain body, or a registration config that holds it. With
    /// `--profile`, instead of the profile's own.
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// The AWS account, twelve digits.
    #[arg(long, value_name = "ID")]
    account: Account,
    /// The AWS Region, such as eu-central-1.
    #[arg(long)]
    region: Region,
    /// Folder to write; an earlier kit in it is replaced, anything else is not.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How the CA is registered: `default` proves with a verification certificate that the factory
    /// holds its key; `sni-only` needs no proof and lets several accounts of a Region have the CA.
    #[arg(long, default_value = "default")]
    mode: Mode,
    /// The IAM role with which AWS IoT provisions; `certfactory-jitp-REGION` unless given.
    #[arg(long, value_name = "NAME")]
    role_name: Option<RoleName>,
    /// Name of the provisioning template in AWS IoT; `certfactory-` and the profile (or issuer)
    /// unless given.
    #[arg(long, value_name = "NAME")]
    template_name: Option<TemplateName>,
}

/// `certificateMode` of a CA in AWS IoT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// `DEFAULT`: one account per Region, verification certificate.
    Default,
    /// `SNI_ONLY`: several accounts, no verification certificate.
    SniOnly,
}

impl Mode {
    /// As AWS spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::SniOnly => "SNI_ONLY",
        }
    }
}

/// Reads issuer and template, makes the kit, writes it.
pub fn run(global: &Global, arguments: &KitArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let profile = arguments.profile.as_deref();
    let profile = profile
        .map(|given| ProfileText::read(global, given))
        .transpose()?;
    let source = Source::read(profile.as_ref(), arguments)?;
    let profile = profile.map(|profile| profile.name);
    let issuer = configured_issuer(&raw, &source.issuer)?;
    let role_name = match &arguments.role_name {
        Some(name) => name.clone(),
        None => format!("certfactory-jitp-{}", arguments.region)
            .parse()
            .map_err(usage)?,
    };
    let template_name = match &arguments.template_name {
        Some(name) => name.clone(),
        None => format!("certfactory-{}", profile.as_ref().unwrap_or(&source.issuer))
            .parse()
            .map_err(|error| usage(format!("{error}; give one with --template-name")))?,
    };
    let kit = Kit {
        issuer: &issuer,
        profile: profile.as_deref(),
        body: &source.body,
        fixed: &source.fixed,
        account: &arguments.account,
        region: &arguments.region,
        mode: arguments.mode,
        role_name: &role_name,
        template_name: &template_name,
    };
    write(&arguments.out, &kit.files())?;
    for warning in kit.warnings() {
        eprintln!("certfactory: warning: {warning}");
    }
    if global.json {
        return crate::cli::print_json(&kit.manifest());
    }
    println!("caCertificateId {}", kit.ca_certificate_id());
    println!("CA ARN          {}", kit.ca_arn());
    println!("role ARN        {}", kit.role_arn());
    println!("template ARN    {}", kit.template_arn());
    eprintln!(
        "kit for issuer `{}` in {}; read README.md, then run register.sh --dry-run",
        issuer.name,
        arguments.out.display()
    );
    Ok(())
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(2, anyhow!("{error}"))
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::new(Failure::REFUSED, anyhow!("{error}"))
}

/// What the kit is made of, besides the place.
struct Source {
    issuer: String,
    /// The plain template body.
    body: String,
    /// Subject attributes that are the same in every certificate.
    fixed: BTreeMap<AttributeType, String>,
}

impl Source {
    fn read(profile: Option<&ProfileText>, arguments: &KitArguments) -> Result<Self, Failure> {
        let given = arguments.template.as_deref();
        let Some(profile) = profile else {
            let path = given.ok_or_else(|| usage("--issuer needs --template"))?;
            let text = read_text(path)?;
            parse_template_text(path, &text)?;
            return Ok(Self {
                issuer: arguments.issuer.clone().unwrap_or_default(),
                body: plain_body(&text),
                fixed: BTreeMap::new(),
            });
        };
        let name = &profile.name;
        let text = match given.map(Path::to_owned).or(profile.template_path()) {
            Some(path) => read_text(&path)?,
            None => {
                return Err(usage(format!(
                    "profile `{name}` names no template; give one with --template"
                )));
            }
        };
        // The whole check: whether what the profile certifies will be provisioned by it, too.
        let profile = Profile::parse(name, &profile.toml, Some(&text))
            .map_err(|faults| refused(format!("profile `{name}`: {}", faults.join("; "))))?;
        Ok(Self {
            issuer: profile.issuer,
            body: plain_body(&text),
            fixed: profile.fixed,
        })
    }
}

/// The body of a text that parsed: itself, or the `templateBody` of a registration config.
fn plain_body(text: &str) -> String {
    let config: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let inner = config
        .as_ref()
        .and_then(|config| config.get("templateBody"))
        .and_then(serde_json::Value::as_str);
    inner.unwrap_or(text).trim().to_owned()
}

/// Writes the files; into a folder that is not there, is empty, or holds an earlier kit.
fn write(folder: &Path, files: &[(&'static str, String)]) -> Outcome {
    let context = || folder.display().to_string();
    fs::create_dir_all(folder).with_context(context)?;
    let is_empty = fs::read_dir(folder).with_context(context)?.next().is_none();
    if !is_empty && !holds_a_kit(folder) {
        return Err(refused(format!(
            "{}: holds files and no earlier kit; choose another folder",
            folder.display()
        )));
    }
    for (name, text) in files {
        let path = folder.join(name);
        let new = folder.join(format!("{name}.new"));
        let put = || -> std::io::Result<()> {
            fs::write(&new, text)?;
            let mode = if *name == files::SCRIPT { 0o755 } else { 0o644 };
            fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
            fs::rename(&new, &path)
        };
        put().with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn holds_a_kit(folder: &Path) -> bool {
    let manifest = fs::read(folder.join(MANIFEST)).ok();
    let manifest: Option<serde_json::Value> =
        manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    manifest.is_some_and(|manifest| manifest["kind"] == files::KIND)
}
