//! A factory in software, and the packages it delivers, for tests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::cms::CMSOptions;
use openssl::cms::CmsContentInfo;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sign::Signer;
use openssl::stack::Stack;
use openssl::symm::Cipher;
use openssl::x509::X509;
use openssl::x509::X509Builder;
use openssl::x509::X509Name;

use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::Forms;
use crate::jobs::package::Package;
use crate::jobs::package::PackageChunk;
use crate::jobs::package::PackageDevice;
use crate::jobs::package::PackageFailure;
use crate::jobs::package::PackageHead;
use crate::jobs::package::PackageWriter;
use crate::pki::certificate::Signature;
use crate::pki::certificate::SignedCertificate;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::pem;
use crate::pki::report::ManifestSeal;
use crate::pki::report::ReportKey;
use crate::pki::report::ReportToBeSigned;
use crate::pki::serial::InstanceByte;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::TbsCaCertificate;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

pub(crate) const BATCH: &str = "019ab000-0000-7000-8000-000000000001";

pub(crate) struct Factory {
    issuer_key: PKey<Private>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) report_key: PKey<Private>,
    pub(crate) recipient_key: PKey<Private>,
    recipient: X509,
}

pub(crate) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn public(key: &PKey<Private>) -> SubjectPublicKeyInfo {
    SubjectPublicKeyInfo::from_der(&key.public_key_to_der().unwrap()).unwrap()
}

fn sign(key: &PKey<Private>, message: &[u8]) -> Signature {
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    Signature(signer.sign_oneshot_to_vec(message).unwrap())
}

fn subject(name: &str) -> Subject {
    let values = [
        (AttributeType::Organization, "Example"),
        (AttributeType::CommonName, name),
    ];
    Subject::new(values.map(|(kind, value)| (kind, value.to_owned())).into()).unwrap()
}

fn validity() -> Validity {
    Validity {
        not_before: "2020-01-01T00:00:00Z".parse().unwrap(),
        not_after: "2049-12-31T23:59:59Z".parse().unwrap(),
    }
}

fn serial(number: u32) -> SerialNumber {
    let mut random = [0; 15];
    random[..4].copy_from_slice(&number.to_be_bytes());
    SerialNumber::new(InstanceByte::new(1).unwrap(), random)
}

fn recipient(key: &PKey<Private>) -> X509 {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "Flasher").unwrap();
    let name = name.build();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    let time = |seconds| Asn1Time::from_unix(seconds).unwrap();
    builder.set_not_before(&time(1_600_000_000)).unwrap();
    builder.set_not_after(&time(2_400_000_000)).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

impl Factory {
    pub(crate) fn new() -> Self {
        let issuer_key = ec_key();
        let tbs = TbsCaCertificate::build(
            &subject("Line CA"),
            &public(&issuer_key),
            serial(0),
            validity(),
        )
        .unwrap();
        let signature = sign(&issuer_key, tbs.to_be_signed());
        let certificate = tbs.assemble(&signature).unwrap();
        let issuer = Issuer::parse("line", &pem::certificate(&certificate), None).unwrap();
        let recipient_key = ec_key();
        Self {
            issuer_key,
            issuer: Arc::new(issuer),
            report_key: ec_key(),
            recipient: recipient(&recipient_key),
            recipient_key,
        }
    }

    pub(crate) fn head(&self, count: u32, envelope_form: Option<EnvelopeFormWord>) -> PackageHead {
        PackageHead {
            batch: BATCH.to_owned(),
            created_at: "2026-11-29T10:00:00.123456Z".parse().unwrap(),
            site: "site-1".to_owned(),
            profile: "lamp".to_owned(),
            order: Some("WO-17".to_owned()),
            count,
            key_type: "p256".to_owned(),
            envelope_form,
            recipient_sha256: envelope_form.map(|_| "ab".repeat(32)),
            forms: Forms {
                pem: true,
                der: true,
            },
            columns: Vec::new(),
            chains: BTreeMap::from([("line".to_owned(), vec![self.issuer.certificate.clone()])]),
        }
    }

    /// A device with the certificate of this row for this key.
    pub(crate) fn device(&self, row: u32, key: &PKey<Private>) -> PackageDevice {
        let device = name(row);
        let spki = public(key);
        let subject = subject(&device);
        let tbs =
            TbsCertificate::build(&self.issuer, serial(row), validity(), &subject, &spki, 4096)
                .unwrap();
        let signature = sign(&self.issuer_key, tbs.to_be_signed());
        let certificate = SignedCertificate::assemble(tbs, &signature).unwrap();
        PackageDevice {
            row,
            subject: subject
                .iter()
                .map(|(kind, value)| (kind.short_name().to_owned(), value.to_owned()))
                .collect(),
            serial_number: serial(row).to_hex(),
            fingerprint_sha256: *certificate.sha256(),
            spki_sha256: spki.sha256(),
            thing_name: Some(device.clone()),
            device,
            issuer: "line".to_owned(),
            not_after: validity().not_after,
            der: certificate.as_der().to_vec(),
        }
    }

    /// Rows of a chunk, some of which got no certificate.
    pub(crate) fn chunk(
        &self,
        number: u32,
        rows: std::ops::RangeInclusive<u32>,
        failed: &[u32],
        envelope_form: Option<EnvelopeFormWord>,
    ) -> PackageChunk {
        let first_row = *rows.start();
        let keys: Vec<_> = rows.map(|row| (row, ec_key())).collect();
        let in_one = match envelope_form {
            None => None,
            Some(EnvelopeFormWord::Chunk) => Some(keys.len()),
            Some(EnvelopeFormWord::Device) => Some(1),
        };
        let certified = keys.iter().filter(|(row, _)| !failed.contains(row));
        PackageChunk {
            number,
            first_row,
            devices: certified.map(|(row, key)| self.device(*row, key)).collect(),
            failures: failed.iter().map(|row| failure(*row)).collect(),
            envelopes: in_one.map_or_else(Vec::new, |in_one| {
                keys.chunks(in_one)
                    .map(|keys| self.envelope(keys))
                    .collect()
            }),
        }
    }

    pub(crate) fn envelope(&self, keys: &[(u32, PKey<Private>)]) -> Vec<u8> {
        let mut content = String::new();
        for (n, (row, key)) in (1..).zip(keys) {
            writeln!(content, "# {n} {}", name(*row)).unwrap();
            content += &String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        }
        let mut recipients = Stack::new().unwrap();
        recipients.push(self.recipient.clone()).unwrap();
        // AuthEnvelopedData (RFC 5083), as the service makes it.
        CmsContentInfo::encrypt(
            &recipients,
            content.as_bytes(),
            Cipher::aes_256_gcm(),
            CMSOptions::BINARY,
        )
        .unwrap()
        .to_der()
        .unwrap()
    }

    pub(crate) fn seal(&self, seal: &ManifestSeal) -> String {
        let pem = String::from_utf8(self.report_key.public_key_to_pem().unwrap()).unwrap();
        let key = ReportKey::from_pem(&pem).unwrap();
        let unsigned = ReportToBeSigned::build_manifest_seal(seal, &key.kid).unwrap();
        let signature = sign(&self.report_key, unsigned.to_be_signed());
        unsigned.seal(&signature, &key).unwrap()
    }

    pub(crate) fn package(
        &self,
        directory: &Path,
        head: PackageHead,
        chunks: &[PackageChunk],
    ) -> Package {
        let mut writer = PackageWriter::begin(directory, uuid::Uuid::from_u128(1), head).unwrap();
        for chunk in chunks {
            writer.chunk(chunk).unwrap();
        }
        let seal = writer.seal_payload().unwrap();
        writer.finish(&self.seal(&seal)).unwrap()
    }
}

pub(crate) fn name(row: u32) -> String {
    format!("lamp-{row:06}")
}

fn failure(row: u32) -> PackageFailure {
    PackageFailure {
        row,
        device: name(row),
        problem: "device-taken".to_owned(),
        detail: "the device has a certificate".to_owned(),
        serial_number: Some(hex(&[1; 16])),
    }
}
