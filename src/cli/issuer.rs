//! `issuer init|list|show`: makes an issuing CA's key inside the token, and its certificate;
//! the others are in files of their own.

mod crl;
pub mod responder;
mod rotate;
mod verification;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

use crate::app::SystemClock;
use crate::ca::Clock;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::IssuerSection;
use crate::config::RawConfig;
use crate::hsm::ceremony::KeyCeremony;
use crate::http::issuers::IssuerBody;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::pem;
use crate::pki::serial::InstanceByte;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::CertificationRequestInfo;
use crate::pki::tbs::TbsCaCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

/// What a generation's serialNumber looks like: eight octets of its SHA-256.
pub(super) const GENERATION_EXAMPLE: &str = "0123456789abcdef";

/// Issuing CAs.
#[derive(Subcommand)]
pub enum IssuerCommand {
    /// Make a configured issuer's key inside its token, and a self-signed certificate or a CSR.
    Init(InitArguments),
    /// List the configured issuers.
    List,
    /// Print an issuer's certificate and chain.
    Show {
        /// Name of the `[[issuer]]`.
        name: String,
    },
    /// Print an issuer's newest CRL, from a running service.
    Crl(crl::CrlArguments),
    /// Make the key and the certificate of an issuer's OCSP responder.
    OcspResponder(responder::ResponderArguments),
    /// Make the next generation of an issuer, and say what to write where.
    Rotate(rotate::RotateArguments),
    /// Prove to AWS IoT that an issuer's key is ours: a certificate for a registration code, through
    /// a running service.
    VerificationCertificate(verification::VerificationArguments),
}

/// `issuer init`
#[derive(Args)]
pub struct InitArguments {
    /// Name of the `[[issuer]]`, which must be in the configuration.
    name: String,
    /// Subject attributes, `CN=Line 1 CA`, `O=Example`; a serialNumber taken from the key is added,
    /// so that no two generations of a CA share a subject.
    #[arg(long = "subject", value_name = "NAME=VALUE")]
    subject: Vec<String>,
    /// P-256, P-384, RSA-2048, RSA-3072 or RSA-4096.
    #[arg(long, default_value = "P-256")]
    key_algorithm: String,
    /// Write a CSR for an offline root here, instead of a self-signed certificate.
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Take the certificate that an offline root issued for that CSR, with its chain, PEM.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["csr", "subject"])]
    import: Option<PathBuf>,
}

/// Runs one of them.
pub fn run(global: &Global, command: &IssuerCommand) -> Outcome {
    match command {
        IssuerCommand::Init(arguments) => init(global, arguments),
        IssuerCommand::List => list(global),
        IssuerCommand::Show { name } => show(global, name),
        IssuerCommand::Crl(arguments) => crl::run(global, arguments),
        IssuerCommand::OcspResponder(arguments) => responder::run(global, arguments),
        IssuerCommand::Rotate(arguments) => rotate::run(global, arguments),
        IssuerCommand::VerificationCertificate(arguments) => verification::run(global, arguments),
    }
}

fn init(global: &Global, arguments: &InitArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    crate::cli::enter_environment(&raw)?;
    let name = &arguments.name;
    let section = section(&raw, name).map_err(|e| Failure::new(Failure::NOT_FOUND, e))?;
    refuse_to_overwrite(section).map_err(|e| Failure::new(Failure::REFUSED, e))?;
    if let Some(file) = &arguments.import {
        return import(&raw, section, file);
    }
    let algorithm = KeyAlgorithm::from_name(&arguments.key_algorithm).ok_or_else(|| {
        Failure::new(
            2,
            anyhow!("`{}` is no key algorithm", arguments.key_algorithm),
        )
    })?;
    let mut subject = Vec::new();
    for pair in &arguments.subject {
        subject.push(
            pair.split_once('=')
                .ok_or_else(|| Failure::new(2, anyhow!("`{pair}` is not NAME=VALUE")))?,
        );
    }
    if !subject.iter().any(|(kind, _)| *kind == "CN") {
        subject.push(("CN", name));
    }
    // Before the key is made: a refused subject must not leave one behind.
    issuer_subject(&subject, GENERATION_EXAMPLE).map_err(|e| Failure::new(Failure::REFUSED, e))?;
    match &arguments.csr {
        None => init_self_signed(&raw, name, algorithm, &subject)?,
        Some(file) => init_request(&raw, name, algorithm, &subject, file)?,
    }
    Ok(())
}

/// Makes the key and a self-signed certificate that never expires (IEEE 802.1AR: what certifies a
/// device for life must live as long), and writes it where the configuration says.
pub fn init_self_signed(
    raw: &RawConfig,
    name: &str,
    algorithm: KeyAlgorithm,
    subject: &[(&str, &str)],
) -> anyhow::Result<()> {
    let section = section(raw, name)?;
    let target = Target::open(&section.certificate)?;
    let (ceremony, key) = make_key(raw, section, algorithm)?;
    let subject = generation_subject(subject, &key)?;
    let not_before = SystemClock.now();
    let not_after = chrono::NaiveDate::from_ymd_opt(9999, 12, 31)
        .and_then(|day| day.and_hms_opt(23, 59, 59))
        .context("a date")?
        .and_utc();
    let mut random = [0; 15];
    openssl::rand::rand_bytes(&mut random)?;
    let serial = SerialNumber::new(InstanceByte::new(1).context("an instance byte")?, random);
    let tbs = TbsCaCertificate::build(
        &subject,
        &key,
        serial,
        Validity {
            not_before,
            not_after,
        },
    )?;
    let signature = ceremony.sign(&section.key_label, &tbs as &dyn ToBeSigned)?;
    let certificate = pem::certificate(&tbs.assemble(&signature)?);
    Issuer::parse(name, &certificate, None)?;
    target.write(&certificate)?;
    eprintln!(
        "issuer `{name}`: {} key `{}` made in its token, certificate in {}",
        algorithm.name(),
        section.key_label,
        section.certificate.display()
    );
    Ok(())
}

fn init_request(
    raw: &RawConfig,
    name: &str,
    algorithm: KeyAlgorithm,
    subject: &[(&str, &str)],
    file: &Path,
) -> anyhow::Result<()> {
    let section = section(raw, name)?;
    let target = Target::open(file)?;
    let (ceremony, key) = make_key(raw, section, algorithm)?;
    let request = CertificationRequestInfo::build(&generation_subject(subject, &key)?, &key)?;
    let signature = ceremony.sign(&section.key_label, &request as &dyn ToBeSigned)?;
    target.write(&pem::certification_request(&request.assemble(&signature)?))?;
    eprintln!(
        "issuer `{name}`: {} key `{}` made in its token; let the root certify {}, then `issuer init {name} --import CHAIN`",
        algorithm.name(),
        section.key_label,
        file.display()
    );
    Ok(())
}

/// Takes a root's answer, if it certifies the key that is in the token.
fn import(raw: &RawConfig, section: &IssuerSection, file: &Path) -> Outcome {
    let name = &section.name;
    let pem = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let issuer = Issuer::parse(name, &pem, None)?;
    let ceremony = open(raw, section)?;
    // Proof that the token holds the key: a request under the certificate's key, signed by the token.
    let request = CertificationRequestInfo::build(
        &generation_subject(&[], &issuer.public_key)?,
        &issuer.public_key,
    )?;
    let signature = ceremony.sign(&section.key_label, &request as &dyn ToBeSigned)?;
    if request.assemble(&signature).is_err() {
        return Err(Failure::new(
            Failure::REFUSED,
            anyhow!(
                "{}: certifies another key than `{}` in the token",
                file.display(),
                section.key_label
            ),
        ));
    }
    std::fs::write(&section.certificate, &pem)
        .with_context(|| section.certificate.display().to_string())?;
    eprintln!(
        "issuer `{name}`: certificate of {} with {} above it in {}",
        issuer.subject,
        issuer.chain.len(),
        section.certificate.display()
    );
    Ok(())
}

fn list(global: &Global) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    if global.json {
        let bodies = raw.issuer.iter().map(|section| {
            let issuer = section.load().map_err(anyhow::Error::msg)?;
            Ok(IssuerBody::new(&issuer))
        });
        return crate::cli::print_json(&bodies.collect::<anyhow::Result<Vec<_>>>()?);
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["NAME", "HSM", "KEY", "SUBJECT", "NOT AFTER"]);
    for section in &raw.issuer {
        let issuer = section.load();
        let (subject, not_after) = match issuer {
            Ok(issuer) => (issuer.subject, issuer.validity.not_after.to_rfc3339()),
            Err(error) => (format!("({error})"), String::new()),
        };
        table.add_row([
            &section.name,
            &section.hsm,
            &section.key_label,
            &subject,
            &not_after,
        ]);
    }
    println!("{table}");
    Ok(())
}

fn show(global: &Global, name: &str) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let section = section(&raw, name).map_err(|e| Failure::new(Failure::NOT_FOUND, e))?;
    print!(
        "{}",
        std::fs::read_to_string(&section.certificate)
            .with_context(|| section.certificate.display().to_string())?
    );
    Ok(())
}

/// The subject as given, and a serialNumber from the key: unique for each generation of the CA,
/// because AWS IoT and every verifier look for an issuer by its name.
pub(super) fn generation_subject(
    given: &[(&str, &str)],
    key: &SubjectPublicKeyInfo,
) -> anyhow::Result<Subject> {
    let mut generation = hex(&key.sha256());
    generation.truncate(16);
    issuer_subject(given, &generation)
}

pub(super) fn issuer_subject(given: &[(&str, &str)], generation: &str) -> anyhow::Result<Subject> {
    let mut values = BTreeMap::new();
    for (kind, value) in given {
        let kind = AttributeType::from_short_name(kind)
            .with_context(|| format!("`{kind}` is no subject attribute"))?;
        values.insert(kind, (*value).to_owned());
    }
    values.insert(AttributeType::SerialNumber, generation.to_owned());
    Subject::new(values).map_err(|violations| {
        anyhow!(
            "{}",
            violations
                .iter()
                .map(|v| v.detail.as_str())
                .collect::<Vec<_>>()
                .join("; ")
        )
    })
}

/// A file that can be written, found out before a key is made for what goes into it.
struct Target<'a> {
    path: &'a Path,
    temporary: PathBuf,
}

impl<'a> Target<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        std::fs::write(&temporary, "").with_context(|| temporary.display().to_string())?;
        Ok(Self { path, temporary })
    }

    fn write(self, text: &str) -> anyhow::Result<()> {
        std::fs::write(&self.temporary, text)
            .and_then(|()| std::fs::rename(&self.temporary, self.path))
            .with_context(|| self.path.display().to_string())
    }
}

fn make_key(
    raw: &RawConfig,
    section: &IssuerSection,
    algorithm: KeyAlgorithm,
) -> anyhow::Result<(KeyCeremony, SubjectPublicKeyInfo)> {
    let ceremony = open(raw, section)?;
    let spki = ceremony.generate(&section.key_label, &key_id(section)?, algorithm)?;
    Ok((ceremony, SubjectPublicKeyInfo::from_der(&spki)?))
}

fn open(raw: &RawConfig, section: &IssuerSection) -> anyhow::Result<KeyCeremony> {
    let hsm = raw
        .hsm
        .iter()
        .find(|hsm| hsm.name == section.hsm)
        .with_context(|| format!("no [[hsm]] is named `{}`", section.hsm))?;
    Ok(KeyCeremony::open(&crate::app::token_config(
        hsm,
        crate::config::secret(&hsm.pin_file)?,
        Vec::new(),
    ))?)
}

/// `CKA_ID`: as configured, else the label's own octets.
fn key_id(section: &IssuerSection) -> anyhow::Result<Vec<u8>> {
    match &section.key_id {
        Some(text) => crate::config::decode_hex(text).context("key_id is not hexadecimal"),
        None => Ok(section.key_label.clone().into_bytes()),
    }
}

fn section<'a>(raw: &'a RawConfig, name: &str) -> anyhow::Result<&'a IssuerSection> {
    raw.issuer
        .iter()
        .find(|issuer| issuer.name == name)
        .with_context(|| format!("no [[issuer]] is named `{name}`"))
}

/// A name that becomes a part of an address.
fn plain(name: &str) -> Outcome {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(Failure::new(2, anyhow!("`{name}` is no issuer's name")));
    }
    Ok(())
}

fn refuse_to_overwrite(section: &IssuerSection) -> anyhow::Result<()> {
    if section.certificate.exists() {
        bail!(
            "{} is there already; a new generation is a new [[issuer]]",
            section.certificate.display()
        );
    }
    Ok(())
}
