//! A plant's rows, held against the entries of its log.

use chrono::DateTime;
use chrono::Utc;
use openssl::sha::sha256;
use openssl::x509::X509;
use serde_json::Map;
use serde_json::Value;

use crate::pki::entry::Entry;
use crate::pki::hex;

/// Characters of a value that are shown.
const SHOWN: usize = 80;

/// A certificate's row and what the log has at its place.
#[derive(Clone, Debug)]
pub struct CertificateRow {
    /// The fields of its intent, by the names that they have in the log; `None`: the plant gave none.
    pub fields: Option<Map<String, Value>>,
    /// DER.
    pub der: Vec<u8>,
    /// The row's own hash of it.
    pub fingerprint: Vec<u8>,
    /// Place in the log.
    pub log_index: i64,
    /// Database time of recording.
    pub recorded_at: DateTime<Utc>,
    /// The entry's octets at that place; `None`: the plant gave none.
    pub leaf: Option<Vec<u8>>,
}

/// What of a certificate's row its entry does not say; empty when they agree.
#[must_use]
pub fn certificate(row: &CertificateRow) -> Vec<String> {
    let place = row.log_index;
    let Some(leaf) = &row.leaf else {
        return vec![format!("the log has no entry {place}")];
    };
    let entry = match Entry::parse(leaf) {
        Ok(entry) => entry,
        Err(fault) => return vec![format!("entry {place}: {fault}")],
    };
    let mut wrong = Vec::new();
    if i64::try_from(entry.index) != Ok(place) {
        wrong.push(format!("entry {place} says that it is {}", entry.index));
    }
    if entry.certificate != Some(&row.der[..]) {
        let told = entry.certificate.map_or_else(
            || format!("no certificate, but `{}`", entry.kind),
            |der| format!("the certificate {}", hex(&sha256(der))),
        );
        wrong.push(format!(
            "der: the row has the certificate {}, entry {place} {told}",
            hex(&sha256(&row.der))
        ));
    }
    if row.fingerprint != sha256(&row.der) {
        wrong.push("fingerprint: is not the SHA-256 of der".to_owned());
    }
    if entry.at != row.recorded_at {
        wrong.push(format!(
            "recorded_at: the row says {}, entry {place} {}",
            row.recorded_at, entry.at
        ));
    }
    let Some(fields) = &row.fields else {
        wrong.push("there is no row of its intent".to_owned());
        return wrong;
    };
    wrong.extend(against(fields, &entry.value(), place));
    wrong.extend(of_certificate(fields, &row.der));
    wrong
}

/// What a row's fields say otherwise than the event of an entry.
#[must_use]
pub fn against(fields: &Map<String, Value>, event: &Value, place: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, value) in fields {
        let told = &event[name.as_str()];
        if !same(value, told) {
            wrong.push(format!(
                "{name}: the row says {}, entry {place} {}",
                shown(value),
                shown(told)
            ));
        }
    }
    wrong
}

/// Times are written in more than one way.
fn same(one: &Value, other: &Value) -> bool {
    let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str()?).ok();
    one == other || time(one).is_some_and(|at| time(other) == Some(at))
}

/// What the certificate itself says otherwise than its row.
fn of_certificate(fields: &Map<String, Value>, der: &[u8]) -> Vec<String> {
    let read = || {
        let certificate = X509::from_der(der)?;
        let serial_number = certificate.serial_number().to_bn()?.to_vec_padded(16)?;
        let key = certificate.public_key()?.public_key_to_der()?;
        Ok::<_, openssl::error::ErrorStack>([
            ("serial_number", hex(&serial_number)),
            ("spki_sha256", hex(&sha256(&key))),
        ])
    };
    let Ok(found) = read() else {
        return vec!["der: is no certificate".to_owned()];
    };
    let wrong = found
        .iter()
        .filter(|(name, value)| fields.get(*name).and_then(Value::as_str) != Some(value));
    wrong
        .map(|(name, value)| format!("{name}: the certificate has {value}"))
        .collect()
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: &str = r#"{"index":7,"at":"2026-11-29T06:00:00.000001Z","kind":"issued","event":{"device":"lamp-1","order":null}}"#;

    fn row() -> CertificateRow {
        let der = b"not one".to_vec();
        CertificateRow {
            fields: json!({ "device": "lamp-1", "order": null })
                .as_object()
                .cloned(),
            fingerprint: sha256(&der).to_vec(),
            log_index: 7,
            recorded_at: "2026-11-29T06:00:00.000001Z".parse().unwrap(),
            leaf: Some([HEAD.as_bytes(), b"\n", &der[..]].concat()),
            der,
        }
    }

    #[test]
    fn a_row_that_differs_from_its_entry_is_told_by_the_field() {
        // The certificate is none, and that is all.
        assert_eq!(certificate(&row()), ["der: is no certificate"]);
        let mut changed = row();
        let fields = changed.fields.as_mut().unwrap();
        fields.insert("device".to_owned(), "lamp-2".into());
        let told = certificate(&changed).join("; ");
        assert!(
            told.contains("device: the row says lamp-2, entry 7 lamp-1"),
            "{told}"
        );
        let mut changed = row();
        changed.der.push(0);
        let told = certificate(&changed).join("; ");
        assert!(
            told.contains("der: the row has the certificate") && told.contains("fingerprint"),
            "{told}"
        );
        let mut changed = row();
        changed.recorded_at += chrono::TimeDelta::microseconds(1);
        assert!(certificate(&changed).join("").contains("recorded_at"));
    }

    #[test]
    fn a_row_without_entry_or_intent_is_told_so() {
        let bare = CertificateRow {
            leaf: None,
            ..row()
        };
        assert_eq!(certificate(&bare), ["the log has no entry 7"]);
        let moved = CertificateRow {
            log_index: 8,
            ..row()
        };
        assert_eq!(certificate(&moved)[0], "entry 8 says that it is 7");
        let alone = CertificateRow {
            fields: None,
            ..row()
        };
        assert_eq!(certificate(&alone), ["there is no row of its intent"]);
    }

    #[test]
    fn a_time_is_the_same_however_it_is_written() {
        let fields = json!({ "at": "2026-11-29T07:00:00+01:00", "by": "anna" });
        let event = json!({ "at": "2026-11-29T06:00:00Z", "by": "anna", "more": 1 });
        let told = against(fields.as_object().unwrap(), &event, 3);
        assert!(told.is_empty(), "{told:?}");
    }
}
