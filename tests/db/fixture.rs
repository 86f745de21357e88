//! Intents and signed certificates to put into a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sha::sha256;
use openssl::sign::Signer;
use openssl::x509::X509;
use openssl::x509::X509Name;
use openssl::x509::extension::BasicConstraints;
use openssl::x509::extension::KeyUsage;
use openssl::x509::extension::SubjectKeyIdentifier;
use prometheus::Registry;
use uuid::Uuid;

use certfactory::ca::Intent;
use certfactory::ca::KeyOrigin;
use certfactory::ca::Ledger;
use certfactory::ca::Reservation;
use certfactory::ca::Turn;
use certfactory::ca::life::LifeBook;
use certfactory::ca::log::fresh::FreshEntries;
use certfactory::ca::order::Created;
use certfactory::ca::order::OrderBook;
use certfactory::ca::order::WorkOrder;
use certfactory::ca::station::StationBook;
use certfactory::db::ledger::PgLedger;
use certfactory::metrics::LedgerMetrics;
use certfactory::pki::certificate::Signature;
use certfactory::pki::certificate::SignedCertificate;
use certfactory::pki::issuer::Issuer;
use certfactory::pki::key_policy::SubjectPublicKeyInfo;
use certfactory::pki::name::AttributeType;
use certfactory::pki::name::Subject;
use certfactory::pki::serial::InstanceByte;
use certfactory::pki::serial::SerialNumber;
use certfactory::pki::tbs::LeafKind;
use certfactory::pki::tbs::TbsCertificate;
use certfactory::pki::tbs::ToBeSigned;
use certfactory::pki::validity::Validity;
use certfactory::pki::verification::RegistrationCode;

use crate::postgres::Database;

/// A deadline that a healthy server keeps easily.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Those whose intents these tests make.
pub fn issuers() -> Vec<String> {
    vec!["line-ec".to_owned()]
}

/// An intent for a new device with a new key.
pub fn intent() -> Intent {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    intent_for(&format!(
        "lamp-{:06}",
        NUMBER.fetch_add(1, Ordering::Relaxed)
    ))
}

/// An intent for a device, with a new key.
pub fn intent_for(device: &str) -> Intent {
    let id = Uuid::now_v7();
    let subject = subject(device);
    let serial_number = serial_number();
    let validity = validity();
    Intent {
        id,
        kind: LeafKind::Device,
        serial_number,
        issuer: "line-ec".into(),
        profile: "lightbulb".into(),
        profile_sha256: sha256(b"profile"),
        principal: "station-01".into(),
        idempotency_key: None,
        request_sha256: sha256(device.as_bytes()),
        order: None,
        device: device.into(),
        slot: "identity".into(),
        thing_name: Some(device.into()),
        spki_sha256: sha256(id.as_bytes()),
        key_origin: KeyOrigin::Request,
        validity,
        tbs: tbs(serial_number, validity, &subject)
            .to_be_signed()
            .to_vec(),
        subject,
        rework: None,
    }
}

/// An intent for a verification certificate.
pub fn verification() -> Intent {
    let code = RegistrationCode::parse(&"0123456789abcdef".repeat(4)).unwrap();
    let serial_number = serial_number();
    let Validity { not_before, .. } = validity();
    let validity = Validity {
        not_before,
        not_after: not_before + TimeDelta::seconds(86_399),
    };
    let Authority {
        issuer, device_key, ..
    } = authority();
    let tbs =
        TbsCertificate::verification(issuer, serial_number, validity, &code, device_key).unwrap();
    Intent {
        kind: LeafKind::Verification,
        key_origin: KeyOrigin::Made,
        serial_number,
        profile: certfactory::ca::verification::PROFILE.into(),
        principal: "administrator".into(),
        device: serial_number.to_hex(),
        slot: certfactory::ca::verification::PROFILE.into(),
        subject: code.subject().clone(),
        thing_name: None,
        validity,
        tbs: tbs.to_be_signed().to_vec(),
        ..intent()
    }
}

/// A certificate for the intent; each call makes another signature, so other bytes.
pub fn sign(intent: &Intent) -> SignedCertificate {
    let tbs = match intent.kind {
        LeafKind::Device => tbs(intent.serial_number, intent.validity, &intent.subject),
        LeafKind::Verification | LeafKind::Station => {
            TbsCertificate::reopen(intent.kind, intent.tbs.clone(), &authority().issuer).unwrap()
        }
    };
    assert_eq!(tbs.to_be_signed(), intent.tbs);
    let mut signer = Signer::new(MessageDigest::sha256(), &authority().key).unwrap();
    let signature = signer.sign_oneshot_to_vec(tbs.to_be_signed()).unwrap();
    SignedCertificate::assemble(tbs, &Signature(signature)).unwrap()
}

/// A new serial number.
pub fn serial_number() -> SerialNumber {
    let mut random = [0; 15];
    openssl::rand::rand_bytes(&mut random).unwrap();
    SerialNumber::new(InstanceByte::new(1).unwrap(), random)
}

/// A started ledger that is ready.
pub async fn ledger(database: &Database<'_>) -> Arc<PgLedger> {
    ledger_and_metrics(database).await.0
}

/// A started ledger that is ready, and what it counts.
pub async fn ledger_and_metrics(database: &Database<'_>) -> (Arc<PgLedger>, Arc<LedgerMetrics>) {
    let metrics = Arc::new(LedgerMetrics::new(&Registry::new()).unwrap());
    let ledger = started(database, &metrics, Arc::default()).await;
    (ledger, metrics)
}

/// A started ledger that is ready and tells `fresh` what is appended.
pub async fn ledger_that_tells(database: &Database<'_>, fresh: Arc<FreshEntries>) -> Arc<PgLedger> {
    let metrics = Arc::new(LedgerMetrics::new(&Registry::new()).unwrap());
    started(database, &metrics, fresh).await
}

async fn started(
    database: &Database<'_>,
    metrics: &Arc<LedgerMetrics>,
    fresh: Arc<FreshEntries>,
) -> Arc<PgLedger> {
    let ledger = PgLedger::start(&database.service(), metrics, fresh, None).unwrap();
    until("the ledger is ready", Duration::from_secs(5), || {
        ledger.ready().is_ok()
    })
    .await;
    // Readiness asks the lanes of issuing alone; the tests use them all.
    let start = Instant::now();
    while ledger.show(String::new()).await.is_err()
        || LifeBook::events(&*ledger, Uuid::nil()).await.is_err()
        || ledger.registrations(None).await.is_err()
    {
        assert!(start.elapsed() < Duration::from_secs(5), "a lane is not up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ledger
}

/// Reserves and records.
pub async fn issue(ledger: &PgLedger, intent: &Intent) -> certfactory::ca::CertificateRecord {
    let reserved = ledger
        .reserve(intent.clone(), Turn::Line, soon())
        .await
        .unwrap();
    assert!(matches!(reserved, Reservation::Reserved), "{reserved:?}");
    ledger
        .record(intent.clone(), sign(intent), Turn::Line, soon())
        .await
        .unwrap()
}

/// Creates a work order that any station may book on.
pub async fn order(ledger: &PgLedger, name: &str, profile: &str, quantity: i64) {
    let order = WorkOrder {
        name: name.into(),
        profile: profile.into(),
        quantity,
        scrap_allowance: 0,
        reworks_max: None,
        devices: None,
        device_pattern: None,
        stations: Vec::new(),
        opens_at: None,
        closes_at: None,
    };
    let created = ledger.create(order, "operator".into()).await.unwrap();
    assert!(matches!(created, Created::New(_)), "{created:?}");
}

/// Polls until it holds; returns how long that took.
pub async fn until(what: &str, longest: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < longest, "not within {longest:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

struct Authority {
    key: PKey<Private>,
    issuer: Arc<Issuer>,
    device_key: SubjectPublicKeyInfo,
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let key = p256();
        let device_key = p256().public_key_to_der().unwrap();
        Authority {
            issuer: Arc::new(Issuer::parse("line-ec", &self_signed(&key), None).unwrap()),
            device_key: SubjectPublicKeyInfo::from_der(&device_key).unwrap(),
            key,
        }
    })
}

fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn self_signed(key: &PKey<Private>) -> String {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "Test line CA").unwrap();
    let name = name.build();
    let mut ca = X509::builder().unwrap();
    ca.set_version(2).unwrap();
    let serial = BigNum::from_slice(serial_number().as_bytes())
        .unwrap()
        .to_asn1_integer()
        .unwrap();
    ca.set_serial_number(&serial).unwrap();
    ca.set_subject_name(&name).unwrap();
    ca.set_issuer_name(&name).unwrap();
    ca.set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    ca.set_not_after(&Asn1Time::days_from_now(7300).unwrap())
        .unwrap();
    ca.set_pubkey(key).unwrap();
    ca.append_extension(BasicConstraints::new().critical().ca().build().unwrap())
        .unwrap();
    let usage = KeyUsage::new()
        .critical()
        .key_cert_sign()
        .crl_sign()
        .build()
        .unwrap();
    ca.append_extension(usage).unwrap();
    let identifier = SubjectKeyIdentifier::new()
        .build(&ca.x509v3_context(None, None))
        .unwrap();
    ca.append_extension(identifier).unwrap();
    ca.sign(key, MessageDigest::sha256()).unwrap();
    String::from_utf8(ca.build().to_pem().unwrap()).unwrap()
}

fn subject(device: &str) -> Subject {
    let values = BTreeMap::from([
        (AttributeType::Country, "DE".to_owned()),
        (AttributeType::SerialNumber, format!("SN-{device}")),
        (AttributeType::CommonName, device.to_owned()),
    ]);
    Subject::new(values).unwrap()
}

fn validity() -> Validity {
    let not_before = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let not_after = not_before + TimeDelta::days(3650) - TimeDelta::seconds(1);
    Validity {
        not_before,
        not_after,
    }
}

fn tbs(serial_number: SerialNumber, validity: Validity, subject: &Subject) -> TbsCertificate {
    let Authority {
        issuer, device_key, ..
    } = authority();
    TbsCertificate::build(issuer, serial_number, validity, subject, device_key, 4096).unwrap()
}
