//! `TBSCertificate`s of one profile that differ in serial number, device and key alone.
//!
//! The library's own builder makes the first; the others are the same octets with others in five
//! places. One of a hundred is built by the library as well and must be the same.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use certfactory::pki::csr::CertificationRequest;
use certfactory::pki::issuer::Issuer;
use certfactory::pki::key_policy::SubjectPublicKeyInfo;
use certfactory::pki::profile::Admission;
use certfactory::pki::profile::Profile;
use certfactory::pki::serial::SerialNumber;
use certfactory::pki::tbs::TbsCertificate;
use certfactory::pki::tbs::ToBeSigned;
use certfactory::pki::validity::Validity;
use chrono::DateTime;
use chrono::Utc;

/// Octets of an uncompressed point of P-256.
const POINT_LENGTH: usize = 65;
/// One of so many is built by the library.
const BUILT_EVERY: u64 = 100;

/// What a certificate is to be of.
pub struct Device {
    pub number: u64,
    /// What its name begins with; of one length for all.
    pub word: &'static str,
    pub serial: SerialNumber,
    /// DER of its `SubjectPublicKeyInfo`, P-256.
    pub spki: [u8; 26 + POINT_LENGTH],
}

impl Device {
    pub fn cn(&self) -> String {
        format!("{}-{:09}", self.word, self.number)
    }

    pub fn device_serial(&self) -> String {
        format!("SN{:09}", self.number)
    }
}

/// What is to be signed.
pub struct Tbs {
    pub validity: Validity,
    pub octets: Vec<u8>,
    /// Where its subject is, DER.
    pub subject: Range<usize>,
}

/// A profile and its issuer.
pub struct Kind {
    pub profile: Arc<Profile>,
    pub issuer: Arc<Issuer>,
}

/// Of one kind and one validity.
pub struct Template {
    validity: Validity,
    octets: Vec<u8>,
    subject: Range<usize>,
    serial: usize,
    cn: usize,
    device_serial: usize,
    point: usize,
    key_identifier: usize,
}

impl Kind {
    /// Validity of what is issued at this time. The development world's issuers are younger than
    /// what is seeded under them: a certificate is not valid before its issuer is.
    pub fn validity(&self, at: i64) -> Validity {
        let at = DateTime::<Utc>::from_timestamp_micros(at).unwrap();
        let at = at.max(self.issuer.validity.not_before);
        let (rule, backdate) = (self.profile.validity, self.profile.backdate_seconds);
        rule.at(at, backdate, &self.issuer).unwrap()
    }

    /// As a request of the device is admitted.
    pub fn admit(&self, device: &Device) -> (Admission, SubjectPublicKeyInfo) {
        let spki = SubjectPublicKeyInfo::from_der(&device.spki).unwrap();
        let subject = BTreeMap::from([
            ("C".to_owned(), "DE".to_owned()),
            ("CN".to_owned(), device.cn()),
            ("serialNumber".to_owned(), device.device_serial()),
        ]);
        let request = CertificationRequest::stand_in(spki.clone());
        (self.profile.admit(&request, Some(&subject)).unwrap(), spki)
    }

    /// The octets to sign, by the library.
    fn build(&self, device: &Device, validity: Validity) -> Vec<u8> {
        let (admission, spki) = self.admit(device);
        let longest = self.profile.certificate_length_max;
        let subject = &admission.subject;
        let built = TbsCertificate::build(
            &self.issuer,
            device.serial,
            validity,
            subject,
            &spki,
            longest,
        );
        built.unwrap().to_be_signed().to_vec()
    }

    /// The octets to sign. The template is made anew when the validity is another.
    pub fn tbs(&self, template: &mut Option<Template>, device: &Device, at: i64) -> Tbs {
        let validity = self.validity(at);
        let kept = template.take().filter(|it| it.validity == validity);
        let template = template.insert(kept.unwrap_or_else(|| self.template(device, validity)));
        let octets = template.fill(device);
        if device.number.is_multiple_of(BUILT_EVERY) {
            assert_eq!(
                octets,
                self.build(device, validity),
                "the template is wrong"
            );
        }
        Tbs {
            validity,
            octets,
            subject: template.subject.clone(),
        }
    }

    fn template(&self, device: &Device, validity: Validity) -> Template {
        let octets = self.build(device, validity);
        let place = |what: &[u8]| {
            let mut places = octets.windows(what.len()).enumerate();
            let (place, _) = places.find(|(_, found)| *found == what).unwrap();
            assert!(places.all(|(_, found)| found != what), "twice in it");
            place
        };
        let (admission, _) = self.admit(device);
        let cn = device.cn();
        assert_eq!(admission.device, cn, "the profile's identity is another");
        assert_eq!(admission.thing_name, Some(cn), "the thing has another name");
        let subject = admission.subject.to_der();
        let start = place(&subject);
        let point = &device.spki[26..];
        Template {
            validity,
            subject: start..start + subject.len(),
            serial: place(device.serial.as_bytes()),
            cn: place(device.cn().as_bytes()),
            device_serial: place(device.device_serial().as_bytes()),
            point: place(point),
            key_identifier: place(&openssl::sha::sha1(point)),
            octets,
        }
    }
}

impl Template {
    fn fill(&self, device: &Device) -> Vec<u8> {
        let point = &device.spki[26..];
        let mut octets = self.octets.clone();
        let mut put = |at: usize, what: &[u8]| octets[at..at + what.len()].copy_from_slice(what);
        put(self.serial, device.serial.as_bytes());
        put(self.cn, device.cn().as_bytes());
        put(self.device_serial, device.device_serial().as_bytes());
        put(self.point, point);
        put(self.key_identifier, &openssl::sha::sha1(point));
        octets
    }
}

/// A certificate of its parts (RFC 5280, 4.1).
pub fn signed(tbs: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    // A BIT STRING's first octet counts its unused bits: none.
    let mut bits = vec![0x03];
    length(&mut bits, signature.len() + 1);
    bits.push(0);
    bits.extend(signature);
    let mut der = vec![0x30];
    length(&mut der, tbs.len() + algorithm.len() + bits.len());
    for part in [tbs, algorithm, &bits] {
        der.extend(part);
    }
    der
}

/// The length of an element (X.690, 8.1.3), below 65536.
fn length(der: &mut Vec<u8>, length: usize) {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    match (high, low) {
        (0, 0..0x80) => der.push(low),
        (0, _) => der.extend([0x81, low]),
        _ => der.extend([0x82, high, low]),
    }
}
