//! Chunks of the plan, made: keys, certificates, rows, entries.

use certfactory::ca::KeyOrigin;
use certfactory::pki::certificate::VerifiedCertificate;
use certfactory::pki::entry::ISSUED;
use certfactory::pki::entry::Issued;
use certfactory::pki::hex;
use certfactory::pki::merkle::Hash;
use certfactory::pki::merkle::leaf_hash;
use certfactory::pki::tbs::LeafKind;
use openssl::bn::BigNum;
use openssl::bn::BigNumContext;
use openssl::ec::EcGroup;
use openssl::ec::EcPoint;
use openssl::ec::PointConversionForm;
use openssl::nid::Nid;
use openssl::sha::Sha256;
use openssl::sha::sha256;

use crate::large::leaf::closed;
use crate::large::leaf::created;
use crate::large::leaf::json_time;
use crate::large::leaf::leaf_of;
use crate::large::plan;
use crate::large::plan::Chunk;
use crate::large::plan::End;
use crate::large::plan::Order;
use crate::large::plan::Plan;
use crate::large::plan::What;
use crate::large::sheet::Sheet;
use crate::large::signer::Signer;
use crate::large::tables::Tables;
use crate::large::template::Device;
use crate::large::template::Kind;
use crate::large::template::Template;
use crate::large::template::signed;

/// What stands before the point in the `SubjectPublicKeyInfo` of a P-256 key (RFC 5480, 2).
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// One certificate of so many is read again by the library, signature and rules.
const READ_EVERY: u64 = 1_000;

/// What all makers share.
pub struct Shop {
    pub plan: Plan,
    pub lamps: Kind,
    pub tools: Kind,
    pub tables: Tables,
}

/// A chunk, ready to be stored.
pub struct Made {
    pub number: u64,
    pub certificates: u64,
    /// Rows, by the order of [`Tables::ALL`].
    pub sheets: [Sheet; 6],
    /// Hashes of its entries, in their order.
    pub hashes: Vec<Hash>,
}

/// Makes chunks, on one thread.
pub struct Maker<'a> {
    shop: &'a Shop,
    signer: Signer<'a>,
    curve: EcGroup,
    generator: EcPoint,
    context: BigNumContext,
    lamp: Option<Template>,
    tool: Option<Template>,
}

impl<'a> Maker<'a> {
    pub fn new(shop: &'a Shop, signer: Signer<'a>) -> Self {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let mut generator = EcPoint::new(&curve).unwrap();
        let one = BigNum::from_u32(1).unwrap();
        generator
            .mul_generator2(&curve, &one, &mut context)
            .unwrap();
        Self {
            shop,
            signer,
            curve,
            generator,
            context,
            lamp: None,
            tool: None,
        }
    }

    pub fn make(&mut self, chunk: &Chunk) -> Made {
        let mut sheets = self.shop.tables.sheets();
        let mut hashes = Vec::with_capacity(chunk.entries.len());
        let mut key = self.first_key(chunk.certificates.start);
        for (index, (at, what)) in (chunk.first_index..).zip(&chunk.entries) {
            let leaf = match what {
                What::Issued(n) => {
                    let leaf = self.issue(&mut sheets, index, *at, *n, &key);
                    let mut next = EcPoint::new(&self.curve).unwrap();
                    let (curve, context) = (&self.curve, &mut self.context);
                    next.add(curve, &key, &self.generator, context).unwrap();
                    key = next;
                    leaf
                }
                What::Confirmed(n) => self.live(&mut sheets, index, *at, *n, None),
                What::Ended(n, end) => self.live(&mut sheets, index, *at, *n, Some(*end)),
                What::Created(order) => leaf_of(index, *at, "order-created", &created(*order)),
                What::Closed(order) => leaf_of(index, *at, "order-closed", &closed(*order)),
            };
            hashes.push(leaf_hash(&leaf));
            sheets[Tables::ENTRY]
                .row(index.into(), 2)
                .long(index)
                .bytes(&leaf);
        }
        Made {
            number: chunk.number,
            certificates: chunk.certificates.end - chunk.certificates.start,
            sheets,
            hashes,
        }
    }

    /// Keys are neighbours: the next one is the sum of the last and of the group's generator, which
    /// costs a fifth of a key of its own.
    fn first_key(&mut self, n: u64) -> EcPoint {
        let mut scalar = BigNum::from_slice(&self.shop.plan.key_base()).unwrap();
        let low = scalar.to_owned().unwrap();
        let n = BigNum::from_dec_str(&n.to_string()).unwrap();
        scalar.checked_add(&low, &n).unwrap();
        let mut point = EcPoint::new(&self.curve).unwrap();
        let (curve, context) = (&self.curve, &mut self.context);
        point.mul_generator2(curve, &scalar, context).unwrap();
        point
    }

    fn kind(&self, n: u64) -> (&'a Kind, &'static str) {
        if self.shop.plan.is_tool(n) {
            (&self.shop.tools, "tool")
        } else {
            (&self.shop.lamps, "lamp")
        }
    }

    /// One certificate, and the rows that tell of it but the entry, whose octets it returns.
    fn issue(
        &mut self,
        sheets: &mut [Sheet; 6],
        index: u64,
        at: i64,
        n: u64,
        key: &EcPoint,
    ) -> Vec<u8> {
        let plan = &self.shop.plan;
        let (kind, word) = self.kind(n);
        let form = PointConversionForm::UNCOMPRESSED;
        let point = key.to_bytes(&self.curve, form, &mut self.context).unwrap();
        let (serial, id) = plan.names(n);
        let device = Device {
            number: n,
            word,
            serial,
            spki: [&SPKI_HEAD[..], &point].concat().try_into().unwrap(),
        };
        let template = match word {
            "lamp" => &mut self.lamp,
            _ => &mut self.tool,
        };
        let asked = at - plan::ASKED_BEFORE;
        let tbs = kind.tbs(template, &device, asked);
        let signature = self.signer.sign(&kind.issuer.name, &tbs.octets);
        let algorithm = kind.issuer.signature_algorithm.as_der();
        let der = signed(&tbs.octets, algorithm, &signature);
        if n.is_multiple_of(READ_EVERY) {
            let read = VerifiedCertificate::read_linted(LeafKind::Device, &der, &kind.issuer);
            read.unwrap_or_else(|fault| panic!("certificate {n}: {fault}"));
        }
        let order = plan.order(n).map(Order::name);
        let spki_sha256 = sha256(&device.spki);
        let (profile, subject) = (&kind.profile, &tbs.octets[tbs.subject]);
        let name = order.as_deref().unwrap_or_default();
        let request = [
            profile.name.as_bytes(),
            &spki_sha256,
            subject,
            name.as_bytes(),
        ];
        let request_sha256 = request_hash(&request);
        let issued = Issued {
            intent: id,
            kind: LeafKind::Device.as_str().to_owned(),
            serial_number: serial.to_hex(),
            issuer: kind.issuer.name.clone(),
            profile: profile.name.clone(),
            profile_sha256: hex(&profile.sha256),
            device: device.cn(),
            slot: profile.slot.clone(),
            thing_name: Some(device.cn()),
            spki_sha256: hex(&spki_sha256),
            key_origin: KeyOrigin::Request.as_str().to_owned(),
            station: plan::station(plan.station(n)),
            request_sha256: hex(&request_sha256),
            idempotency_key_sha256: None,
            supersedes: None,
            generation: 0,
            rework_reason: None,
            order,
        };
        let key = id.as_u128();
        sheets[Tables::CLAIM]
            .row(key, 6)
            .bytes(id.as_bytes())
            .bytes(serial.as_bytes())
            .bytes(&spki_sha256)
            .text(&issued.slot)
            .text(&issued.device)
            .text(&issued.station);
        let json = format!(
            r#"{{"C":"DE","CN":"{}","serialNumber":"{}"}}"#,
            issued.device,
            device.device_serial()
        );
        sheets[Tables::INTENT]
            .row(key, 17)
            .bytes(id.as_bytes())
            .bytes(serial.as_bytes())
            .text(&issued.issuer)
            .text(&issued.profile)
            .bytes(&profile.sha256)
            .text(&issued.station)
            .bytes(&request_sha256)
            .maybe(issued.order.as_deref())
            .text(&issued.device)
            .text(&issued.slot)
            .jsonb(&json)
            .maybe(issued.thing_name.as_deref())
            .bytes(&spki_sha256)
            .time(tbs.validity.not_before.timestamp_micros())
            .time(tbs.validity.not_after.timestamp_micros())
            .bytes(&tbs.octets)
            .time(at - plan::STORED_BEFORE);
        let fingerprint = sha256(&der);
        sheets[Tables::OUTCOME]
            .row(key, 5)
            .bytes(id.as_bytes())
            .bytes(&der)
            .bytes(&fingerprint)
            .long(index)
            .time(at);
        sheets[Tables::ID]
            .row(0, 2)
            .bytes(&fingerprint)
            .bytes(id.as_bytes());
        let mut leaf = leaf_of(index, at, ISSUED, &serde_json::to_string(&issued).unwrap());
        leaf.push(b'\n');
        leaf.extend(der);
        leaf
    }

    /// What happens to a certificate; returns its entry's octets.
    fn live(
        &self,
        sheets: &mut [Sheet; 6],
        index: u64,
        at: i64,
        n: u64,
        end: Option<End>,
    ) -> Vec<u8> {
        let plan = &self.shop.plan;
        let (kind, word) = self.kind(n);
        let (serial, id) = plan.names(n);
        let station = plan::station(plan.station(n));
        let (what, by, reason, code) = match end {
            None => (
                "confirmed",
                station.as_str(),
                "compared: certificate, chain",
                None,
            ),
            Some(End::Revoked) => ("revoked", "operator", "returned from the field", Some(1)),
            Some(End::Scrapped) => (
                "scrapped",
                station.as_str(),
                "failed the leak test",
                Some(5),
            ),
        };
        let happened = at - plan::HAPPENED_BEFORE;
        let issuer = &kind.issuer.name;
        let row = sheets[Tables::LIFE]
            .row(id.as_u128(), 7)
            .bytes(id.as_bytes())
            .text(what)
            .text(by)
            .text(reason);
        match code {
            None => row.null(),
            Some(code) => row.short(code),
        }
        .text(issuer)
        .time(happened);
        let code = code.map_or("null".to_owned(), |code| code.to_string());
        let event = format!(
            r#"{{"serial_number" : "{}", "device" : "{word}-{n:09}", "issuer" : "{issuer}", "by" : "{by}", "reason" : "{reason}", "reason_code" : {code}, "crl_shard" : null, "at" : "{}"}}"#,
            serial.to_hex(),
            json_time(happened)
        );
        leaf_of(index, at, what, &event)
    }
}

/// SHA-256 over the request's meaning: each part by length.
fn request_hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish()
}
