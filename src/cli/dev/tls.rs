//! TLS material of a development world: a server certificate, and one client of each role.
//!
//! The two authorities live only in memory: once their certificates are made, their keys are gone.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name};

/// Days everything here is valid.
const DAYS: u32 = 1825;

/// A certification authority for play.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// A fresh one.
    pub fn make(name: &str) -> anyhow::Result<Self> {
        let key = key()?;
        let mut builder = certificate(name, &key)?;
        let issuer = common_name(name)?;
        builder.set_issuer_name(&issuer)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(
            KeyUsage::new()
                .critical()
                .key_cert_sign()
                .crl_sign()
                .build()?,
        )?;
        let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(identifier)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self {
            certificate: builder.build(),
            key,
        })
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> anyhow::Result<Vec<u8>> {
        Ok(self.certificate.to_pem()?)
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn client(&self, directory: &Path, name: &str) -> anyhow::Result<()> {
        let key = key()?;
        let leaf = self.leaf(name, &key, &[], &[])?;
        std::fs::write(directory.join(format!("{name}.pem")), leaf.to_pem()?)?;
        write_private(
            &directory.join(format!("{name}.key")),
            &key.private_key_to_pem_pkcs8()?,
        )
    }

    /// Writes `server.pem` and `server.key` for this machine's loopback names.
    pub fn server(&self, directory: &Path) -> anyhow::Result<()> {
        let key = key()?;
        let leaf = self.leaf(
            "certfactory development server",
            &key,
            &["localhost"],
            &["127.0.0.1", "::1"],
        )?;
        std::fs::write(directory.join("server.pem"), leaf.to_pem()?)?;
        write_private(
            &directory.join("server.key"),
            &key.private_key_to_pem_pkcs8()?,
        )
    }

    /// A certificate and key for a server of that host name.
    pub fn server_for(&self, host: &str) -> anyhow::Result<(X509, PKey<Private>)> {
        let key = key()?;
        let leaf = self.leaf("certfactory rehearsal endpoint", &key, &[host], &[])?;
        Ok((leaf, key))
    }

    /// A server's when it has host names or addresses, else a client's.
    fn leaf(
        &self,
        name: &str,
        key: &PKey<Private>,
        hosts: &[&str],
        addresses: &[&str],
    ) -> anyhow::Result<X509> {
        let mut builder = certificate(name, key)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        let mut usage = ExtendedKeyUsage::new();
        let serves = !hosts.is_empty() || !addresses.is_empty();
        let usage = if serves {
            usage.server_auth()
        } else {
            usage.client_auth()
        };
        builder.append_extension(usage.build()?)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let subject = SubjectKeyIdentifier::new().build(&context)?;
        let authority = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        let names = serves.then(|| {
            let mut names = SubjectAlternativeName::new();
            for host in hosts {
                names.dns(host);
            }
            for address in addresses {
                names.ip(address);
            }
            names.build(&context)
        });
        builder.append_extension(subject)?;
        builder.append_extension(authority)?;
        if let Some(names) = names {
            builder.append_extension(names?)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(builder.build())
    }
}

fn certificate(name: &str, key: &PKey<Private>) -> anyhow::Result<X509Builder> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::ONE, false)?;
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*Asn1Integer::from_bn(&serial)?)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(DAYS)?)?;
    let subject = common_name(name)?;
    builder.set_subject_name(&subject)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

fn common_name(name: &str) -> anyhow::Result<X509Name> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, name)?;
    Ok(builder.build())
}

fn key() -> anyhow::Result<PKey<Private>> {
    Ok(PKey::from_ec_key(EcKey::generate(
        &*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?,
    )?)?)
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(content)?)
}
