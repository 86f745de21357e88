//! Entries of the log: the octets of a Merkle tree's leaf, and what they say.
//!
//! A leaf is one JSON object, `{"index":…,"at":"…","kind":"…","event":{…}}`; that of an issued
//! certificate goes on with a line feed and the certificate's DER. The database writes it, once, and
//! everybody else only reads: nobody needs to make the same octets again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Longest leaf, in octets: an entry bundle gives its length in two (C2SP tlog-tiles).
pub const LEAF_LENGTH_MAX: usize = 65_535;

/// What the log key is called where issuers have their names.
pub const LOG_KEY_NAME: &str = "log";

/// The kind of an entry that holds a certificate.
pub const ISSUED: &str = "issued";

/// An entry as it stands in the log.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its place in the log, from 0.
    pub index: u64,
    /// Database time of the transaction that wrote it; never before that of the entry before.
    pub at: DateTime<Utc>,
    /// What it tells: `issued`, `revoked`, `order-created` …
    pub kind: &'a str,
    /// The rest of what it tells, a JSON object whose fields depend on the kind.
    pub event: &'a RawValue,
    /// The certificate, DER, where it tells of one.
    pub certificate: Option<&'a [u8]>,
}

/// Why octets are no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no entry of the log: {0}")]
pub struct EntryFault(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<'a> {
    index: u64,
    at: DateTime<Utc>,
    kind: &'a str,
    #[serde(borrow)]
    event: &'a RawValue,
}

impl<'a> Entry<'a> {
    /// Reads a leaf. Whether its event makes sense is for who knows the kind: [`Self::issued`].
    pub fn parse(leaf: &'a [u8]) -> Result<Self, EntryFault> {
        let fault = |what: String| EntryFault(what);
        let line_feed = leaf.iter().position(|octet| *octet == b'\n');
        let (head, certificate) = match line_feed {
            Some(at) => {
                let (head, rest) = leaf.split_at(at);
                (head, rest.get(1..))
            }
            None => (leaf, None),
        };
        let Head {
            index,
            at,
            kind,
            event,
        } = serde_json::from_slice(head).map_err(|e| fault(e.to_string()))?;
        if !event.get().starts_with('{') {
            return Err(fault("its event is no object".to_owned()));
        }
        match (kind == ISSUED, certificate) {
            (true, Some([_, ..])) | (false, None) => Ok(Self {
                index,
                at,
                kind,
                event,
                certificate,
            }),
            (true, _) => Err(fault("it tells of a certificate and holds none".to_owned())),
            (false, Some(_)) => Err(fault("something follows its event".to_owned())),
        }
    }

    /// What an `issued` entry tells beside the certificate.
    pub fn issued(&self) -> Result<Issued, EntryFault> {
        serde_json::from_str(self.event.get()).map_err(|e| EntryFault(e.to_string()))
    }

    /// The event as a JSON value.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(self.event.get()).unwrap_or_default()
    }
}

/// What of an entry counts for who counts entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Its place in the log, from 0.
    pub index: u64,
    /// Its time.
    pub at: DateTime<Utc>,
    /// What it tells.
    pub told: Told,
}

/// What a [`Glance`] tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A device's certificate was issued; who asked for it.
    Issued(String),
    /// A certificate was confirmed, by whom.
    Confirmed(String),
    /// A device was scrapped.
    Scrapped,
    /// A certificate was revoked.
    Revoked,
    /// Somebody known asked for what they did not get: who, and the problem.
    Refused(String, String),
    /// Anything else.
    Other,
}

impl Glance {
    /// Reads the beginning of an `issued` entry, some hundred octets, and who asked for it; where
    /// there is none, a whole entry of another kind.
    pub fn parse(head: &[u8], station: Option<&[u8]>) -> Result<Self, EntryFault> {
        if let Some(station) = station {
            return Self::issued(head, station);
        }
        let entry = Entry::parse(head)?;
        let word = |name: &str| entry.value()[name].as_str().unwrap_or_default().to_owned();
        let told = match entry.kind {
            "confirmed" => Told::Confirmed(word("by")),
            "scrapped" => Told::Scrapped,
            "revoked" => Told::Revoked,
            "refused" => Told::Refused(word("by"), word("problem")),
            _ => Told::Other,
        };
        Ok(Self {
            index: entry.index,
            at: entry.at,
            told,
        })
    }

    /// By the order of the fields, which the database keeps, and without the octets of the rest: there
    /// are thousands a second. No value can hold what is looked for: its quotes would be escaped.
    fn issued(head: &[u8], station: &[u8]) -> Result<Self, EntryFault> {
        let fault = |what: &str| EntryFault(what.to_owned());
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let head = text(head);
        let value = |after: &str, end: char| {
            let (_, rest) = head.split_once(after)?;
            rest.split_once(end).map(|(value, _)| value)
        };
        let index = value("{\"index\":", ',').and_then(|digits| digits.parse().ok());
        let at = value(",\"at\":\"", '"').and_then(|time| time.parse().ok());
        let (_, event) = head
            .split_once(",\"event\":{")
            .ok_or_else(|| fault("no event"))?;
        let device = event.contains(",\"kind\":\"device\",");
        let station = text(station);
        let station = station.split('"').next().unwrap_or_default();
        Ok(Self {
            index: index.ok_or_else(|| fault("no index"))?,
            at: at.ok_or_else(|| fault("no time"))?,
            told: if device {
                Told::Issued(station.to_owned())
            } else {
                Told::Other
            },
        })
    }
}

/// What an `issued` entry tells beside the certificate. Digests are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Its intent, a UUIDv7.
    pub intent: Uuid,
    /// What it is for: `device`, `verification`, `station`.
    pub kind: String,
    /// Serial number, 32 digits.
    pub serial_number: String,
    /// Issuer's name.
    pub issuer: String,
    /// Profile's name.
    pub profile: String,
    /// SHA-256 over profile and template as they were.
    pub profile_sha256: String,
    /// Device identity.
    pub device: String,
    /// What the certificate is for, of the device's several.
    pub slot: String,
    /// The thing that AWS IoT will make of it.
    pub thing_name: Option<String>,
    /// SHA-256 over its `SubjectPublicKeyInfo`.
    pub spki_sha256: String,
    /// How the key came here: `csr`, `public-key`, `made`.
    pub key_origin: String,
    /// Who asked.
    pub station: String,
    /// Work order.
    pub order: Option<String>,
    /// SHA-256 over the canonical request.
    pub request_sha256: String,
    /// SHA-256 over the request's Idempotency-Key.
    pub idempotency_key_sha256: Option<String>,
    /// Serial number of the certificate it replaces, or is to replace.
    pub supersedes: Option<String>,
    /// How many certificates of the device came before it.
    pub generation: i16,
    /// Why the device was to have another one.
    pub rework_reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = r#"{"index":7,"at":"2026-11-29T06:00:00.000001Z","kind":"#;

    #[test]
    fn an_entry_is_a_json_object_and_of_a_certificate_its_der_after_a_line_feed() {
        let leaf = format!(r#"{HEAD}"revoked","event":{{"by":"anna"}}}}"#);
        let entry = Entry::parse(leaf.as_bytes()).unwrap();
        assert_eq!(
            (entry.index, entry.kind, entry.certificate),
            (7, "revoked", None)
        );
        assert_eq!(entry.at.to_rfc3339(), "2026-11-29T06:00:00.000001+00:00");
        assert_eq!(entry.value()["by"], "anna");

        let leaf = format!("{HEAD}\"issued\",\"event\":{{}}}}\n\x30\x0a\n");
        let entry = Entry::parse(leaf.as_bytes()).unwrap();
        assert_eq!(entry.certificate, Some(&b"\x30\x0a\n"[..]));
        assert!(entry.issued().is_err());
    }

    #[test]
    fn what_is_not_exactly_that_is_no_entry() {
        for bad in [
            String::new(),
            "{}".to_owned(),
            format!(r#"{HEAD}"issued","event":{{}}}}"#),
            format!("{HEAD}\"issued\",\"event\":{{}}}}\n"),
            format!("{HEAD}\"revoked\",\"event\":{{}}}}\nx"),
            format!(r#"{HEAD}"revoked","event":[]}}"#),
            format!(r#"{HEAD}"revoked","event":{{}},"more":1}}"#),
            format!(r#"{HEAD}"revoked","event":{{}}}}{{}}"#),
            format!(r#"{HEAD}"revoked","event":{{}},"kind":"issued"}}"#),
        ] {
            assert!(Entry::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_glance_sees_who_asked_and_no_more() {
        let told = |leaf: &str, station: Option<&str>| {
            let glance = Glance::parse(leaf.as_bytes(), station.map(str::as_bytes)).unwrap();
            assert_eq!(
                (glance.index, glance.at.to_rfc3339()),
                (7, "2026-11-29T06:00:00.000001+00:00".to_owned())
            );
            glance.told
        };
        let issued = |kind: &str| {
            let leaf = format!(r#"{HEAD}"issued","event":{{"intent":"0","kind":"{kind}","ser"#);
            told(&leaf, Some(r#"line-3","order":"WO"#))
        };
        assert_eq!(issued("device"), Told::Issued("line-3".to_owned()));
        assert_eq!(issued("station"), Told::Other);
        let other = |kind: &str, event: &str| {
            told(&format!(r#"{HEAD}"{kind}","event":{{{event}}}}}"#), None)
        };
        let name = || "line-3".to_owned();
        assert_eq!(
            other("confirmed", r#""by" : "line-3""#),
            Told::Confirmed(name())
        );
        assert_eq!(
            other("refused", r#""by":"line-3","problem":"order-closed""#),
            Told::Refused(name(), "order-closed".to_owned())
        );
        assert_eq!(other("scrapped", ""), Told::Scrapped);
        assert_eq!(other("revoked", ""), Told::Revoked);
        assert_eq!(other("crl", ""), Told::Other);
        assert!(Glance::parse(b"{", None).is_err());
        assert!(Glance::parse(b"{", Some(b"x")).is_err());
    }

    proptest! {
        #[test]
        fn no_octets_make_the_reader_stumble(leaf: Vec<u8>) {
            let _ = Entry::parse(&leaf);
            let _ = Glance::parse(&leaf, Some(&leaf));
        }
    }
}
