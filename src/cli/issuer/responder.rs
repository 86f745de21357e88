//! `issuer ocsp-responder`: the key and the certificate that answer for an issuer.

use anyhow::{Context, anyhow};
use chrono::TimeDelta;
use clap::Args;

use crate::app::SystemClock;
use crate::ca::Clock;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::issuer;
use crate::config::IssuerSection;
use crate::config::RawConfig;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::ocsp::Responder;
use crate::pki::pem;
use crate::pki::serial::InstanceByte;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::TbsResponderCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

/// Longest life of a responder's certificate: nobody can revoke it (id-pkix-ocsp-nocheck).
const DAYS_MAX: i64 = 398;

/// `issuer ocsp-responder`
#[derive(Args)]
pub struct ResponderArguments {
    /// Name of the `[[issuer]]`, which must have an `ocsp` section in the configuration.
    name: String,
    /// Days of validity, 1 to 398.
    #[arg(long, default_value_t = 366, value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    days: i64,
}

/// Makes the key and the certificate.
pub(super) fn run(global: &Global, arguments: &ResponderArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    crate::cli::enter_environment(&raw)?;
    let section =
        issuer::section(&raw, &arguments.name).map_err(|e| Failure::new(Failure::NOT_FOUND, e))?;
    make(&raw, section, arguments.days)
}

/// A key in the issuer's token, and a certificate for it by the issuer's own key.
pub fn make(raw: &RawConfig, section: &IssuerSection, days: i64) -> Outcome {
    let name = &section.name;
    let ocsp = section.ocsp.as_ref().ok_or_else(|| {
        let missing = anyhow!("issuer `{name}` has no `ocsp` section in the configuration");
        Failure::new(Failure::NOT_FOUND, missing)
    })?;
    if ocsp.certificate.exists() {
        let there = anyhow!("{} is there already", ocsp.certificate.display());
        return Err(Failure::new(Failure::REFUSED, there));
    }
    let issuer = section.load().map_err(anyhow::Error::msg)?;
    let target = issuer::Target::open(&ocsp.certificate)?;
    let ceremony = issuer::open(raw, section)?;
    let id = ocsp.key_label.clone().into_bytes();
    let spki = ceremony.generate(&ocsp.key_label, &id, KeyAlgorithm::P256)?;
    let key = SubjectPublicKeyInfo::from_der(&spki)?;
    let common_name = format!("{name} OCSP responder");
    let subject = issuer::generation_subject(&[("CN", &common_name)], &key)?;
    let not_before = SystemClock.now();
    let not_after = not_before + TimeDelta::days(days) - TimeDelta::seconds(1);
    let validity = Validity {
        not_before,
        not_after: not_after.min(issuer.validity.not_after),
    };
    let mut random = [0; 15];
    openssl::rand::rand_bytes(&mut random)?;
    let serial = SerialNumber::new(InstanceByte::new(1).context("an instance byte")?, random);
    let tbs = TbsResponderCertificate::build(&issuer, &subject, &key, serial, validity)?;
    let signature = ceremony.sign(&section.key_label, &tbs as &dyn ToBeSigned)?;
    let certificate = pem::certificate(&tbs.assemble(&signature)?);
    Responder::parse(&issuer, &certificate)?;
    target.write(&certificate)?;
    eprintln!(
        "issuer `{name}`: key `{}` of its OCSP responder made in its token, certificate in {}",
        ocsp.key_label,
        ocsp.certificate.display()
    );
    Ok(())
}
