//! `jitp …`: AWS IoT's provisioning templates, before a device meets them.

pub mod devices;
pub mod evaluate;
pub mod kit;
pub mod lint;
pub mod rehearse;

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::Subcommand;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::RawConfig;
use crate::pki::issuer::Issuer;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::TemplateFault;
use crate::pki::profile::Profile;

/// AWS IoT provisioning templates.
#[derive(Subcommand)]
pub enum JitpCommand {
    /// Check a template, alone or with a profile: what AWS IoT refuses, and what is doubtful.
    Lint(lint::LintArguments),
    /// Say what AWS IoT would make of a device, or of a whole list, or why it would refuse it.
    Evaluate(Box<evaluate::EvaluateArguments>),
    /// Write a folder with everything needed to register an issuer in an AWS account.
    Kit(kit::KitArguments),
    /// Be AWS IoT Core to a finished device: a local endpoint for its first connections.
    Rehearse(rehearse::RehearseArguments),
}

/// Runs one of them.
pub fn run(global: &Global, command: &JitpCommand) -> Outcome {
    match command {
        JitpCommand::Lint(arguments) => lint::run(global, arguments),
        JitpCommand::Evaluate(arguments) => evaluate::run(global, arguments),
        JitpCommand::Kit(arguments) => kit::run(global, arguments),
        JitpCommand::Rehearse(arguments) => rehearse::run(global, arguments),
    }
}

/// Which template and profile are meant.
#[derive(Args)]
pub struct Source {
    /// Provisioning template: the plain body or a registration config, JSON.
    #[arg(required_unless_present = "profile")]
    template: Option<PathBuf>,
    /// A profile's TOML file, or the name of a profile of the configuration.
    #[arg(long, value_name = "FILE|NAME")]
    profile: Option<PathBuf>,
}

/// A profile as it is written.
struct ProfileText {
    name: String,
    path: PathBuf,
    toml: String,
}

impl ProfileText {
    /// A file, or a name of the configuration.
    fn read(global: &Global, given: &Path) -> Result<Self, Failure> {
        let is_file =
            given.extension().is_some_and(|x| x == "toml") || given.components().count() > 1;
        let path = if is_file {
            given.to_owned()
        } else {
            let mut file = given.as_os_str().to_owned();
            file.push(".toml");
            RawConfig::read(&global.config)?
                .issuance
                .profiles
                .join(file)
        };
        let toml = read_text(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: name.into_owned(),
            path,
            toml,
        })
    }

    /// The template that it names, where there is one.
    fn template_path(&self) -> Option<PathBuf> {
        let template = Profile::template_path(&self.toml)?;
        Some(self.path.parent().unwrap_or(Path::new(".")).join(template))
    }

    fn parse(&self) -> Result<Profile, Failure> {
        let template = self
            .template_path()
            .map(|path| read_text(&path))
            .transpose()?;
        let profile = Profile::parse(&self.name, &self.toml, template.as_deref());
        profile.map_err(|faults| self.refused(&faults))
    }

    fn refused(&self, faults: &[String]) -> Failure {
        let shown = self.path.display();
        Failure::new(Failure::REFUSED, anyhow!("{shown}:\n{}", faults.join("\n")))
    }
}

/// An `[[issuer]]` of the configuration, from its certificate's file.
fn configured_issuer(raw: &RawConfig, name: &str) -> Result<Issuer, Failure> {
    let section = raw.issuer.iter().find(|section| section.name == name);
    let missing = || {
        Failure::new(
            Failure::NOT_FOUND,
            anyhow!("no [[issuer]] is named `{name}`"),
        )
    };
    let section = section.ok_or_else(missing)?;
    let pem = read_text(&section.certificate)?;
    Issuer::parse(name, &pem, section.crl_url.clone())
        .and_then(|issuer| issuer.with_crl_shards(section.crl_shards))
        .map_err(|fault| Failure::new(Failure::REFUSED, fault))
}

/// A file's text; exit code 3 when it is not there.
fn read_text(path: &Path) -> Result<String, Failure> {
    if path != Path::new("-") && !path.exists() {
        let missing = anyhow!("{}: no such file", path.display());
        return Err(Failure::new(Failure::NOT_FOUND, missing));
    }
    let octets = crate::cli::cert::read(path)?;
    let text = String::from_utf8(octets);
    Ok(text.with_context(|| format!("{}: not UTF-8", path.display()))?)
}

fn parse_template(path: &Path) -> Result<JitpTemplate, Failure> {
    parse_template_text(path, &read_text(path)?)
}

/// `path` is for the message only: standard input and pipes can be read but once.
fn parse_template_text(path: &Path, text: &str) -> Result<JitpTemplate, Failure> {
    JitpTemplate::parse(text).map_err(|TemplateFault(errors)| {
        let lines: Vec<String> = errors.iter().map(Finding::to_string).collect();
        let shown = path.display();
        Failure::new(Failure::REFUSED, anyhow!("{shown}:\n{}", lines.join("\n")))
    })
}
