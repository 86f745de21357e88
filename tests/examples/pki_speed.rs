//! How long the pure steps of one issuance take, on one thread: parse a request, build and lint,
//! verify and assemble.
//!
//! `cargo run --release --example pki_speed`

use anyhow::Context as _;
use anyhow::Result;
use certfactory::pki::certificate::Signature;
use certfactory::pki::certificate::SignedCertificate;
use certfactory::pki::csr::CertificationRequest;
use certfactory::pki::issuer::Issuer;
use certfactory::pki::key_policy::SubjectPublicKeyInfo;
use certfactory::pki::name::AttributeType;
use certfactory::pki::name::Subject;
use certfactory::pki::pem;
use certfactory::pki::serial::InstanceByte;
use certfactory::pki::serial::SerialNumber;
use certfactory::pki::tbs::TbsCaCertificate;
use certfactory::pki::tbs::TbsCertificate;
use certfactory::pki::tbs::ToBeSigned;
use certfactory::pki::validity::Validity;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use openssl::x509::X509Name;
use openssl::x509::X509ReqBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

const ROUNDS: u32 = 5000;

fn main() -> Result<()> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let ca_key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let issuer = Arc::new(issuer(&ca_key)?);
    for (name, key) in [
        ("P-256", PKey::from_ec_key(EcKey::generate(&group)?)?),
        ("RSA-2048", PKey::from_rsa(Rsa::generate(2048)?)?),
    ] {
        measure(name, &request(&key)?, &issuer, &ca_key)?;
    }
    Ok(())
}

fn measure(name: &str, csr: &[u8], issuer: &Arc<Issuer>, ca_key: &PKey<Private>) -> Result<()> {
    let mut spent = [Duration::ZERO; 3];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let request = CertificationRequest::parse(csr)?;
        spent[0] += start.elapsed();

        let subject = Subject::new(request.subject.clone())
            .map_err(|violations| anyhow::anyhow!("{violations:?}"))?;
        let start = Instant::now();
        let tbs = build(issuer, &subject, &request.public_key)?;
        spent[1] += start.elapsed();

        let signature = sign(ca_key, tbs.to_be_signed())?;
        let start = Instant::now();
        SignedCertificate::assemble(tbs, &signature)?;
        spent[2] += start.elapsed();
    }
    let [parse, build, assemble] = spent.map(|total| total / ROUNDS);
    println!("{name}: parse {parse:?}, build and lint {build:?}, verify and assemble {assemble:?}");
    Ok(())
}

fn build(
    issuer: &Arc<Issuer>,
    subject: &Subject,
    key: &SubjectPublicKeyInfo,
) -> Result<TbsCertificate> {
    Ok(TbsCertificate::build(
        issuer,
        serial()?,
        issuer.validity,
        subject,
        key,
        4096,
    )?)
}

fn issuer(key: &PKey<Private>) -> Result<Issuer> {
    let public = SubjectPublicKeyInfo::from_der(&key.public_key_to_der()?)?;
    let subject = Subject::new(BTreeMap::from([(
        AttributeType::CommonName,
        "CA".to_owned(),
    )]))
    .map_err(|violations| anyhow::anyhow!("{violations:?}"))?;
    let validity = Validity {
        not_before: "2020-01-01T00:00:00Z".parse()?,
        not_after: "9999-12-31T23:59:59Z".parse()?,
    };
    let tbs = TbsCaCertificate::build(&subject, &public, serial()?, validity)?;
    let signature = sign(key, tbs.to_be_signed())?;
    let certificate = pem::certificate(&tbs.assemble(&signature)?);
    Ok(Issuer::parse(
        "speed",
        &certificate,
        Some("http://pki.example/crl".to_owned()),
    )?)
}

fn request(key: &PKey<Private>) -> Result<Vec<u8>> {
    let mut name = X509Name::builder()?;
    name.append_entry_by_text("CN", "lamp-000001")?;
    name.append_entry_by_text("serialNumber", "SN000001")?;
    name.append_entry_by_text("C", "DE")?;
    let mut builder = X509ReqBuilder::new()?;
    builder.set_subject_name(&name.build())?;
    builder.set_pubkey(key)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build().to_pem()?)
}

fn serial() -> Result<SerialNumber> {
    let instance = InstanceByte::new(1).context("1 is an instance byte")?;
    Ok(SerialNumber::new(instance, [0x5a; 15]))
}

fn sign(key: &PKey<Private>, message: &[u8]) -> Result<Signature> {
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    Ok(Signature(signer.sign_oneshot_to_vec(message)?))
}
