//! CRLs as OpenSSL reads them, and lists that are refused.

use super::*;
use crate::pki::serial::InstanceByte;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::fixture;
use crate::pki::validity::ValidityRule;
use openssl::x509::X509Crl;
use proptest::prelude::*;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn edition(crl_number: u64) -> Edition {
    Edition {
        crl_number,
        this_update: time("2026-11-27T08:00:00.7Z"),
        next_update: time("2026-11-29T08:00:00.7Z"),
    }
}

fn revoked(random: u8, reason: RevocationReason) -> RevokedCertificate {
    RevokedCertificate {
        serial_number: SerialNumber::new(InstanceByte::new(1).unwrap(), [random; 15]),
        revoked_at: time("2026-11-27T07:59:59.9Z"),
        reason,
    }
}

fn sharded(shards: u16) -> Arc<Issuer> {
    let issuer = fixture::issuer(
        &fixture::ec_key(),
        Some("http://pki.example/line-{shard}.crl"),
    );
    Arc::new(issuer.with_crl_shards(Some(shards)).unwrap())
}

fn rules(issuer: &Arc<Issuer>, edition: Edition, revoked: Vec<RevokedCertificate>) -> String {
    TbsCertList::build(issuer, None, edition, revoked)
        .err()
        .expect("a fault")
        .to_string()
}

#[test]
fn openssl_reads_what_was_built_and_verifies_it() {
    for key in [fixture::ec_key(), fixture::rsa_key()] {
        let issuer = Arc::new(fixture::issuer(&key, None));
        let entries = vec![
            revoked(9, RevocationReason::KeyCompromise),
            revoked(3, RevocationReason::Unspecified),
        ];
        let tbs = TbsCertList::build(&issuer, None, edition(7), entries).unwrap();
        let signature = fixture::sign(&key, tbs.to_be_signed());
        let der = tbs.assemble(&signature).unwrap();
        let crl = X509Crl::from_der(&der).unwrap();
        assert!(crl.verify(&key).unwrap());
        let serials: Vec<_> = crl
            .get_revoked()
            .unwrap()
            .iter()
            .map(|entry| entry.serial_number().to_bn().unwrap().to_vec())
            .collect();
        let serial = |random| [&[1][..], &[random; 15]].concat();
        assert_eq!(serials, [serial(3), serial(9)]);

        let empty = TbsCertList::build(&issuer, None, edition(8), Vec::new()).unwrap();
        let stranger = fixture::sign(&fixture::ec_key(), empty.to_be_signed());
        assert!(empty.assemble(&stranger).is_err());
    }
}

#[test]
fn a_list_that_breaks_a_rule_is_not_built() {
    let issuer = Arc::new(fixture::ec_issuer());
    let one = revoked(3, RevocationReason::Superseded);
    assert!(rules(&issuer, edition(1), vec![one, one]).contains("once"));
    assert!(rules(&issuer, edition(0), Vec::new()).contains("cRLNumber"));
    let backwards = Edition {
        next_update: time("2026-11-27T08:00:00Z"),
        ..edition(1)
    };
    assert!(rules(&issuer, backwards, Vec::new()).contains("nextUpdate"));
    let tomorrow = RevokedCertificate {
        revoked_at: time("2026-11-27T08:00:01Z"),
        ..one
    };
    assert!(rules(&issuer, edition(1), vec![tomorrow]).contains("revocationDate"));
    let mut silent = fixture::ec_issuer();
    silent.signs_crls = false;
    assert!(rules(&Arc::new(silent), edition(1), Vec::new()).contains("cRLSign"));
    let unsharded = TbsCertList::build(&issuer, Some(0), edition(1), Vec::new());
    assert!(unsharded.err().unwrap().to_string().contains("shard 0"));
}

#[test]
fn a_certificate_says_which_shard_lists_it_whatever_the_number_of_shards_becomes() {
    let issuer = sharded(7);
    let serial = SerialNumber::new(InstanceByte::new(1).unwrap(), [0xab; 15]);
    let validity = ValidityRule::Days(1)
        .at(time("2026-11-27T08:00:00Z"), 0, &issuer)
        .unwrap();
    let key = fixture::public(&fixture::ec_key());
    let subject = fixture::ca_subject();
    let tbs = TbsCertificate::build(&issuer, serial, validity, &subject, &key, 4096).unwrap();
    let der = assemble(
        tbs.to_be_signed(),
        &issuer.public_key,
        &Signature(Vec::new()),
    );
    // Of any issuer's signature: only the distribution point is read.
    assert!(der.is_err());
    let bits = tlv::element(tlv::BIT_STRING, &[0, 0x30, 0]);
    let algorithm = issuer.signature_algorithm.as_der();
    let der = tlv::element(
        tlv::SEQUENCE,
        &[tbs.to_be_signed(), algorithm, &bits].concat(),
    );
    let shard = 0xabab % 7;
    assert_eq!(shard_of(&der, &issuer), Some(shard));
    assert_eq!(shard_of(&der, &sharded(3)), Some(shard));
    assert_eq!(shard_of(&der, &fixture::ec_issuer()), None);
    assert_eq!(shard_of(&issuer.certificate, &issuer), None);
    assert_eq!(shard_of(b"", &issuer), None);
    let list = TbsCertList::build(&issuer, Some(shard), edition(1), Vec::new()).unwrap();
    // id-ce-issuingDistributionPoint, critical.
    let point = [0x06, 3, 0x55, 0x1d, 0x1c, 0x01, 1, 0xff];
    let octets = list.to_be_signed();
    assert!(octets.windows(point.len()).any(|window| window == point));
}

#[test]
fn shards_and_their_url_belong_together() {
    let with = |url: Option<&str>, shards| {
        fixture::issuer(&fixture::ec_key(), url)
            .with_crl_shards(shards)
            .is_ok()
    };
    let (plain, placed) = (
        "http://pki.example/a.crl",
        "http://pki.example/a-{shard}.crl",
    );
    assert!(with(None, None) && with(Some(plain), None) && with(Some(placed), Some(256)));
    assert!(!with(Some(placed), None));
    for shards in [0, 257] {
        assert!(!with(Some(placed), Some(shards)), "{shards}");
    }
    for url in [None, Some(plain), Some("http://a/{shard}/{shard}")] {
        assert!(!with(url, Some(4)), "{url:?}");
    }
}

proptest! {
    #[test]
    fn any_set_of_certificates_makes_a_list_in_order(randoms in proptest::collection::btree_set(any::<[u8; 15]>(), 0..40), order: u64) {
        let issuer = Arc::new(fixture::ec_issuer());
        let mut entries: Vec<_> = randoms.iter().enumerate().map(|(n, random)| RevokedCertificate {
            serial_number: SerialNumber::new(InstanceByte::new(0x7f).unwrap(), *random),
            revoked_at: time("2051-01-01T00:00:00Z"),
            reason: RevocationReason::ALL[n % RevocationReason::ALL.len()],
        }).collect();
        let turn = usize::try_from(order % 41).unwrap() % entries.len().max(1);
        entries.rotate_left(turn);
        let later = Edition { crl_number: order.max(1), this_update: time("2051-01-01T00:00:00Z"), next_update: time("2051-01-02T00:00:00Z") };
        prop_assert!(TbsCertList::build(&issuer, None, later, entries).is_ok());
    }
}
