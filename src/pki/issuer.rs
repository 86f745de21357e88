//! An issuer: a CA certificate, its chain, and what its leaves take from it.

use super::extension;
use super::key_policy::SignatureAlgorithm;
use super::key_policy::SubjectPublicKeyInfo;
use super::pem;
use super::serial::SerialNumber;
use super::validity::Validity;
use const_oid::AssociatedOid;
use der::Decode;
use der::Encode;
use openssl::pkey::PKey;
use openssl::x509::X509;
use serde_json::value::RawValue;
use x509_cert::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::ext::pkix::SubjectKeyIdentifier;

/// An issuing CA, checked: CA:TRUE, keyCertSign, subject key identifier, key within policy.
pub struct Issuer {
    /// Name in configuration, URLs and labels.
    pub name: String,
    /// DER of the CA certificate.
    pub certificate: Vec<u8>,
    /// DER of the certificates above it, nearest first; empty for a self-signed issuer.
    pub chain: Vec<Vec<u8>>,
    /// The certificate and those above it as PEM: part of every answer, so encoded once.
    pub pem: Vec<String>,
    /// The same as a JSON array of strings: part of every row of an export.
    pub pem_json: Box<RawValue>,
    /// DER of the subject `Name`; a leaf's issuer field is exactly these bytes.
    pub subject_der: Vec<u8>,
    /// RFC 4514 text of the subject.
    pub subject: String,
    /// The CA's public key.
    pub public_key: SubjectPublicKeyInfo,
    /// How its signatures are made.
    pub signature_algorithm: SignatureAlgorithm,
    /// The CA certificate's subjectKeyIdentifier.
    pub key_identifier: Vec<u8>,
    /// The CA certificate's validity.
    pub validity: Validity,
    /// Whether its keyUsage lets it sign CRLs.
    pub signs_crls: bool,
    /// How many CAs may be between it and a leaf (RFC 5280 4.2.1.9); `None`: any number.
    pub path_length: Option<u8>,
    /// CRL distribution point for its leaves; with [`SHARD`] in it where there are shards.
    pub crl_url: Option<String>,
    /// Over how many CRLs its leaves are spread; `None`: one lists them all, and nothing else does.
    pub crl_shards: Option<u16>,
}

/// Stands for a shard's number in [`Issuer::crl_url`].
pub const SHARD: &str = "{shard}";

/// Most shards of an issuer. Each is a document that is signed anew twice in its life.
pub const SHARDS_MAX: u16 = 256;

/// Why a CA certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IssuerFault(pub String);

impl Issuer {
    /// `pem`: the CA certificate, then its chain, each signing the one before it. The chain may
    /// stop below the root. Whether the CA is valid now is not asked here; see
    /// [`super::validity::ValidityRule::at`].
    pub fn parse(name: &str, pem: &str, crl_url: Option<String>) -> Result<Self, IssuerFault> {
        let fault = |detail: &str| IssuerFault(format!("issuer {name}: {detail}"));
        let blocks = pem::blocks(pem).map_err(|error| fault(&error.to_string()))?;
        let mut certificates = Vec::new();
        for block in blocks {
            if block.label != "CERTIFICATE" {
                return Err(fault("the file holds a PEM block other than CERTIFICATE"));
            }
            certificates.push(CaCertificate::parse(block.der).map_err(|detail| fault(&detail))?);
        }
        check_chain(&certificates).map_err(|detail| fault(&detail))?;
        let mut certificates = certificates.into_iter();
        let ca = certificates
            .next()
            .ok_or_else(|| fault("the file holds no certificate"))?;
        let tbs = ca.parsed.tbs_certificate();
        let subject_der = tbs
            .subject()
            .to_der()
            .map_err(|error| fault(&error.to_string()))?;
        if tbs.subject().is_empty() {
            return Err(fault("the CA's subject is empty (RFC 5280 4.1.2.6)"));
        }
        let public_key = tbs
            .subject_public_key_info()
            .to_der()
            .map_err(|error| fault(&error.to_string()))
            .and_then(|spki| {
                SubjectPublicKeyInfo::from_der(&spki).map_err(|error| fault(&error.to_string()))
            })?;
        let key_identifier: SubjectKeyIdentifier = ca
            .extension(SubjectKeyIdentifier::OID)
            .ok_or_else(|| fault("the CA has no subjectKeyIdentifier (RFC 5280 4.2.1.2)"))
            .and_then(|found| extension::strict(found).map_err(|detail| fault(&detail)))?;
        let validity = Validity::from_x509(tbs.validity())
            .ok_or_else(|| fault("the CA's validity cannot be read"))?;
        let signs_crls = ca
            .extension(KeyUsage::OID)
            .and_then(|found| extension::strict::<KeyUsage>(found).ok())
            .is_some_and(|usage| usage.crl_sign());
        let path_length = ca
            .extension(BasicConstraints::OID)
            .and_then(|found| extension::strict::<BasicConstraints>(found).ok())
            .and_then(|value| value.path_len_constraint);
        if crl_url.as_deref().is_some_and(|url| !is_http_url(url)) {
            return Err(fault(
                "the CRL's URL is not http:// or https:// and printable ASCII",
            ));
        }
        let chain: Vec<Vec<u8>> = certificates.map(|above| above.der).collect();
        let all = std::iter::once(&ca.der).chain(&chain);
        let pem: Vec<String> = all.map(|der| pem::certificate(der)).collect();
        let pem_json = serde_json::value::to_raw_value(&pem);
        Ok(Self {
            name: name.to_owned(),
            pem_json: pem_json.map_err(|error| fault(&error.to_string()))?,
            pem,
            subject: tbs.subject().to_string(),
            subject_der,
            signature_algorithm: public_key.algorithm().signature_algorithm(),
            public_key,
            key_identifier: key_identifier.0.as_bytes().to_vec(),
            validity,
            signs_crls,
            path_length,
            crl_url,
            crl_shards: None,
            certificate: ca.der,
            chain,
        })
    }

    /// The issuer, its leaves spread over as many CRLs from now on: 1 to [`SHARDS_MAX`], and the
    /// URL has a place for the number exactly when there are any.
    pub fn with_crl_shards(mut self, crl_shards: Option<u16>) -> Result<Self, IssuerFault> {
        let fault = |detail: &str| Err(IssuerFault(format!("issuer {}: {detail}", self.name)));
        let placed = self
            .crl_url
            .as_deref()
            .map_or(0, |url| url.matches(SHARD).count());
        match (crl_shards, placed) {
            (None, 0) => {}
            (None, _) => return fault("crl_url holds {shard}, but crl_shards is not set"),
            (Some(shards), _) if !(1..=SHARDS_MAX).contains(&shards) => {
                return fault("crl_shards must be 1 to 256");
            }
            (Some(_), 1) => {}
            (Some(_), _) => return fault("crl_shards is set, so crl_url must hold {shard} once"),
        }
        self.crl_shards = crl_shards;
        Ok(self)
    }

    /// The CRL distribution point of a leaf. Its serial number decides the shard, and the leaf
    /// itself says it for ever.
    #[must_use]
    pub fn crl_url_of(&self, serial_number: &SerialNumber) -> Option<String> {
        let Some(shards) = self.crl_shards else {
            return self.crl_url.clone();
        };
        let [.., high, low] = *serial_number.as_bytes();
        self.crl_url_of_shard(u16::from_be_bytes([high, low]) % shards)
    }

    /// Where a shard's CRL is; `None` while the issuer has no shards.
    #[must_use]
    pub fn crl_url_of_shard(&self, shard: u16) -> Option<String> {
        let url = self.crl_url.as_deref().filter(|url| url.contains(SHARD))?;
        Some(url.replace(SHARD, &shard.to_string()))
    }
}

/// Whether a text can stand in a `uniformResourceIdentifier`, an `IA5String`.
pub(super) fn is_http_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|octet| octet.is_ascii_graphic()))
}

/// A certificate that may sign certificates.
struct CaCertificate {
    der: Vec<u8>,
    parsed: Certificate,
    openssl: X509,
}

impl CaCertificate {
    fn parse(der: Vec<u8>) -> Result<Self, String> {
        let parsed = Certificate::from_der(&der)
            .map_err(|error| format!("a certificate is not DER: {error}"))?;
        if parsed.to_der().ok().as_deref() != Some(&der) {
            return Err("a certificate is not in DER: its own encoding differs".to_owned());
        }
        let openssl =
            X509::from_der(&der).map_err(|error| format!("OpenSSL refuses it: {error}"))?;
        let ca = Self {
            der,
            parsed,
            openssl,
        };
        let subject = ca.parsed.tbs_certificate().subject().to_string();
        let fault = |detail: &str| format!("{subject}: {detail}");
        if ca.parsed.signature_algorithm() != ca.parsed.tbs_certificate().signature() {
            return Err(fault(
                "its two signature algorithms differ (RFC 5280 4.1.1.2)",
            ));
        }
        let basic_constraints = ca
            .extension(BasicConstraints::OID)
            .filter(|found| found.critical)
            .ok_or_else(|| fault("it has no critical basicConstraints (RFC 5280 4.2.1.9)"))?;
        if !extension::strict::<BasicConstraints>(basic_constraints)?.ca {
            return Err(fault("it is no CA (RFC 5280 4.2.1.9)"));
        }
        let key_usage = ca
            .extension(KeyUsage::OID)
            .ok_or_else(|| fault("it has no keyUsage (RFC 5280 4.2.1.3)"))?;
        if !extension::strict::<KeyUsage>(key_usage)?.key_cert_sign() {
            return Err(fault("its keyUsage lacks keyCertSign (RFC 5280 4.2.1.3)"));
        }
        Ok(ca)
    }

    fn extension(&self, oid: const_oid::ObjectIdentifier) -> Option<&Extension> {
        self.parsed
            .tbs_certificate()
            .extensions()?
            .iter()
            .find(|extension| extension.extn_id == oid)
    }

    fn is_self_issued(&self) -> bool {
        let tbs = self.parsed.tbs_certificate();
        tbs.subject() == tbs.issuer()
    }

    /// Name and signature: whether `issuer` made this certificate.
    fn is_signed_by(&self, issuer: &Self) -> bool {
        let names_match =
            self.parsed.tbs_certificate().issuer() == issuer.parsed.tbs_certificate().subject();
        let signature_verifies = || {
            let key: PKey<_> = issuer.openssl.public_key()?;
            self.openssl.verify(&key)
        };
        names_match && signature_verifies().unwrap_or(false)
    }
}

/// Each certificate is signed by the next; one that names itself as issuer verifies under its own
/// key and ends the chain.
fn check_chain(certificates: &[CaCertificate]) -> Result<(), String> {
    for (index, certificate) in certificates.iter().enumerate() {
        let subject = certificate.parsed.tbs_certificate().subject();
        let above = certificates.get(index + 1);
        if certificate.is_self_issued() {
            if above.is_some() {
                return Err(format!(
                    "{subject} is self-signed, but a certificate follows it"
                ));
            }
            if !certificate.is_signed_by(certificate) {
                return Err(format!("{subject} does not verify under its own key"));
            }
        }
        if above.is_some_and(|above| !certificate.is_signed_by(above)) {
            return Err(format!(
                "{subject} was not signed by the certificate that follows it"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tbs::fixture;
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::hash::MessageDigest;
    use openssl::pkey::Private;
    use openssl::x509::X509Builder;
    use openssl::x509::X509Name;
    use openssl::x509::X509NameRef;
    use openssl::x509::extension as openssl_extension;

    fn named(name: &str) -> X509Name {
        let mut builder = X509Name::builder().unwrap();
        builder.append_entry_by_text("CN", name).unwrap();
        builder.build()
    }

    /// A CA certificate as somebody else's software would make it, less what `without` names.
    fn foreign(
        subject: &str,
        key: &PKey<Private>,
        issuer: &X509NameRef,
        issuer_key: &PKey<Private>,
        without: &str,
    ) -> String {
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&named(subject)).unwrap();
        builder.set_issuer_name(issuer).unwrap();
        builder
            .set_not_before(&Asn1Time::from_unix(1_600_000_000).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(2_000_000_000).unwrap())
            .unwrap();
        builder.set_pubkey(key).unwrap();
        let mut constraints = openssl_extension::BasicConstraints::new();
        constraints.critical();
        if without != "ca" {
            constraints.ca();
        }
        builder
            .append_extension(constraints.build().unwrap())
            .unwrap();
        let mut usage = openssl_extension::KeyUsage::new();
        usage.critical().crl_sign();
        if without != "keyCertSign" {
            usage.key_cert_sign();
        }
        builder.append_extension(usage.build().unwrap()).unwrap();
        if without != "ski" {
            let context = builder.x509v3_context(None, None);
            let identifier = openssl_extension::SubjectKeyIdentifier::new().build(&context);
            builder.append_extension(identifier.unwrap()).unwrap();
        }
        builder.sign(issuer_key, MessageDigest::sha384()).unwrap();
        String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
    }

    fn fault(pem: &str) -> String {
        Issuer::parse("line", pem, None)
            .err()
            .expect("a fault")
            .to_string()
    }

    #[test]
    fn a_chain_is_taken_when_each_signs_the_one_before() {
        let (root_key, key) = (fixture::ec_key(), fixture::rsa_key());
        let root = foreign("Root", &root_key, &named("Root"), &root_key, "");
        let line = foreign("Line", &key, &named("Root"), &root_key, "");
        let issuer = Issuer::parse("line", &format!("{line}{root}"), None).unwrap();
        assert_eq!(issuer.subject, "CN=Line");
        assert_eq!(
            issuer.signature_algorithm,
            SignatureAlgorithm::Sha256WithRsa
        );
        assert_eq!(issuer.key_identifier, issuer.public_key.key_identifier());
        assert_eq!(issuer.chain.len(), 1);
        assert_eq!(issuer.pem, [line.clone(), root.clone()]);
        assert_eq!(issuer.validity.not_after.timestamp(), 2_000_000_000);
        // The root may be left out.
        assert!(Issuer::parse("line", &line, None).is_ok());

        assert!(fault(&format!("{root}{line}")).contains("a certificate follows"));
        let impostor_key = fixture::ec_key();
        let impostor = foreign("Root", &impostor_key, &named("Root"), &impostor_key, "");
        assert!(fault(&format!("{line}{impostor}")).contains("was not signed by"));
        let stranger = foreign("Other", &root_key, &named("Other"), &root_key, "");
        assert!(fault(&format!("{line}{stranger}")).contains("was not signed by"));
        let forged = foreign("Root", &root_key, &named("Root"), &impostor_key, "");
        assert!(fault(&forged).contains("own key"));
    }

    #[test]
    fn what_a_ca_needs_is_looked_for() {
        let key = fixture::ec_key();
        for (without, expected) in [
            ("ca", "no CA"),
            ("keyCertSign", "keyCertSign"),
            ("ski", "subjectKeyIdentifier"),
        ] {
            let pem = foreign("Line", &key, &named("Line"), &key, without);
            assert!(fault(&pem).contains(expected), "{without}: {}", fault(&pem));
        }
        assert!(fault("").contains("no certificate"));
        assert!(fault(&pem::certification_request(&[0x30, 0])).contains("other than CERTIFICATE"));
        let mut trailing = fixture::ca_certificate(&key);
        trailing.push(0);
        assert!(fault(&pem::certificate(&trailing)).contains("DER"));
    }

    #[test]
    fn a_crl_url_is_http_and_ascii() {
        let pem = pem::certificate(&fixture::ca_certificate(&fixture::ec_key()));
        let parse = |url: &str| Issuer::parse("line", &pem, Some(url.to_owned()));
        assert!(parse("http://pki.example/line.crl").is_ok());
        for wrong in ["", "http://", "ldap://x", "http://p ki/", "http://\u{e4}/"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
