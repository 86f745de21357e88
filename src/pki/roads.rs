//! One line a device, in each road's form. Pure: what is known of a certificate goes in, text comes
//! out.

pub mod table;

use super::jitp::names;
use serde::Serialize;
use serde_json::{Value, json};

/// Longest line of a bulk registration, characters (AWS service quotas, IoT Core).
const BULK_LINE_CHARACTERS_MAX: usize = 256_000;

/// What a line says of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct RoadDevice<'a> {
    /// Hexadecimal.
    pub serial_number: &'a str,
    /// The certificate, PEM.
    pub certificate: &'a str,
    /// The CA certificate that signed it, PEM; `None`: it is not at hand.
    pub issuer: Option<&'a str>,
    /// SHA-256 over the certificate, hexadecimal: AWS IoT's `certificateId`.
    pub fingerprint_sha256: &'a str,
    /// Device identity.
    pub device: &'a str,
    /// Work order.
    pub order: Option<&'a str>,
    /// The thing; `None`: the profile names none, and the device is its own name.
    pub thing_name: Option<&'a str>,
    /// The certificate's status.
    pub status: &'a str,
}

/// A road and its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// Just-in-time registration: CSV.
    AllowListTable,
    /// The same as NDJSON.
    AllowListLines,
    /// Bulk registration: the parameters of [`bulk_template`], NDJSON.
    Bulk,
    /// Accounts that do not know the CA: NDJSON.
    Certificates,
}

#[derive(Serialize)]
struct AllowListLine<'a> {
    certificate_id: &'a str,
    serial_number: &'a str,
    device: &'a str,
    thing_name: &'a str,
    order: Option<&'a str>,
    status: &'a str,
}

/// The parameters that [`bulk_template`] declares, all of them and no other.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BulkLine<'a> {
    thing_name: &'a str,
    serial_number: &'a str,
    certificate_pem: &'a str,
    #[serde(rename = "CACertificatePem")]
    ca_certificate_pem: &'a str,
}

#[derive(Serialize)]
struct CertificateLine<'a> {
    certificate_id: &'a str,
    thing_name: &'a str,
    certificate_pem: &'a str,
}

impl Road {
    /// The data's name in a folder.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::AllowListTable => "allow-list.csv",
            Self::AllowListLines => "allow-list.ndjson",
            Self::Bulk => "bulk.ndjson",
            Self::Certificates => "certificates.ndjson",
        }
    }

    /// What stands before the first line.
    #[must_use]
    pub fn head(self) -> &'static str {
        match self {
            Self::AllowListTable => {
                "certificate_id,serial_number,device,thing_name,order,status\r\n"
            }
            _ => "",
        }
    }

    /// Appends a device's line, or nothing and says why AWS IoT would refuse it.
    pub fn append(self, item: &RoadDevice<'_>, text: &mut Vec<u8>) -> Result<(), String> {
        let thing_name = item.thing_name.unwrap_or(item.device);
        if let Some(violation) = names::thing(thing_name).into_iter().next() {
            return Err(format!("thing name: {}", violation.detail));
        }
        let start = text.len();
        let json = &mut *text;
        match self {
            Self::AllowListTable => {
                table_row(item, thing_name, json);
                return Ok(());
            }
            Self::AllowListLines => serde_json::to_writer(
                json,
                &AllowListLine {
                    certificate_id: item.fingerprint_sha256,
                    serial_number: item.serial_number,
                    device: item.device,
                    thing_name,
                    order: item.order,
                    status: item.status,
                },
            ),
            Self::Bulk => serde_json::to_writer(
                json,
                &BulkLine {
                    thing_name,
                    serial_number: item.serial_number,
                    certificate_pem: item.certificate,
                    // AWS IoT wants the very CA that signed, not one above it.
                    ca_certificate_pem: item.issuer.ok_or(
                        "the issuer is no longer configured, so its certificate is not at hand",
                    )?,
                },
            ),
            Self::Certificates => serde_json::to_writer(
                json,
                &CertificateLine {
                    certificate_id: item.fingerprint_sha256,
                    thing_name,
                    certificate_pem: item.certificate,
                },
            ),
        }
        .map_err(|error| error.to_string())?;
        let length = characters(&text[start..]);
        if length > BULK_LINE_CHARACTERS_MAX {
            text.truncate(start);
            return Err(format!(
                "its line has {length} characters; AWS IoT takes {BULK_LINE_CHARACTERS_MAX}"
            ));
        }
        text.push(b'\n');
        Ok(())
    }
}

/// Of UTF-8: octets that do not go on with a character that was begun.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|octet| **octet & 0xc0 != 0x80).count()
}

/// RFC 4180. Read by programs, so a cell is never changed to keep a spreadsheet from running it.
fn table_row(item: &RoadDevice<'_>, thing_name: &str, text: &mut Vec<u8>) {
    let cells = [
        item.fingerprint_sha256,
        item.serial_number,
        item.device,
        thing_name,
        item.order.unwrap_or_default(),
        item.status,
    ];
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        table::append_cell(cell, text);
    }
    text.extend_from_slice(b"\r\n");
}

/// The provisioning template that fits the bulk lines, for `start-thing-registration-task` and
/// `register-thing` (AWS IoT developer guide, provisioning templates).
///
/// A certificate that AWS IoT knows already keeps its status: running a task again wakes nothing
/// that somebody has switched off.
#[must_use]
pub fn bulk_template(
    policy_name: &str,
    thing_type: Option<&str>,
    thing_groups: &[String],
) -> Value {
    let reference = |name: &str| json!({ "Ref": name });
    let mut thing = json!({
        "ThingName": reference("ThingName"),
        "AttributePayload": { "serialNumber": reference("SerialNumber") },
    });
    let mut settings = json!({ "AttributePayload": "MERGE" });
    if let Some(thing_type) = thing_type {
        thing["ThingTypeName"] = json!(thing_type);
        settings["ThingTypeName"] = json!("REPLACE");
    }
    if !thing_groups.is_empty() {
        thing["ThingGroups"] = json!(thing_groups);
        settings["ThingGroups"] = json!("MERGE");
    }
    let text = || json!({ "Type": "String" });
    json!({
        "Parameters": {
            "ThingName": text(),
            "SerialNumber": text(),
            "CertificatePem": text(),
            "CACertificatePem": text(),
        },
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": thing,
                "OverrideSettings": settings,
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {
                    "CertificatePem": reference("CertificatePem"),
                    "CACertificatePem": reference("CACertificatePem"),
                    "Status": "ACTIVE",
                },
                "OverrideSettings": { "Status": "DO_NOTHING" },
            },
            "policy": {
                "Type": "AWS::IoT::Policy",
                "Properties": { "PolicyName": policy_name },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROADS: [Road; 4] = [
        Road::AllowListTable,
        Road::AllowListLines,
        Road::Bulk,
        Road::Certificates,
    ];

    fn item<'a>(thing_name: Option<&'a str>, device: &'a str) -> RoadDevice<'a> {
        RoadDevice {
            serial_number: "01a384d5e041a736c02c6ee2cb81a172",
            certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            issuer: Some("CA\n"),
            fingerprint_sha256: "0b",
            device,
            order: Some("WO,\"1\""),
            thing_name,
            status: "issued",
        }
    }

    fn written(road: Road, item: &RoadDevice<'_>) -> Result<String, String> {
        let mut text = b"before".to_vec();
        let appended = road.append(item, &mut text);
        let text = String::from_utf8(text).unwrap();
        let line = text.strip_prefix("before").unwrap();
        assert_eq!(appended.is_err(), line.is_empty());
        appended.map(|()| line.to_owned())
    }

    #[test]
    fn each_device_is_one_line_and_a_pem_stays_within_it() {
        for road in ROADS {
            let line = written(road, &item(Some("lamp-1"), "SN1")).unwrap_or_default();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.ends_with('\n'));
        }
        let line = written(Road::Bulk, &item(Some("lamp-1"), "SN1")).unwrap_or_default();
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        assert_eq!(
            value["CACertificatePem"], "CA\n",
            "the issuer, not the root"
        );
        let template = bulk_template("P", None, &[]);
        let declared: Vec<_> = template["Parameters"]
            .as_object()
            .map(|m| m.keys().cloned().collect())
            .unwrap_or_default();
        let given: Vec<_> = value
            .as_object()
            .map(|m| m.keys().cloned().collect())
            .unwrap_or_default();
        assert_eq!(declared, given);
    }

    #[test]
    fn a_table_row_quotes_what_it_must() {
        let row = written(Road::AllowListTable, &item(Some("lamp-1"), "SN1")).unwrap_or_default();
        assert!(
            row.ends_with(",SN1,lamp-1,\"WO,\"\"1\"\"\",issued\r\n"),
            "{row}"
        );
        assert_eq!(
            row.matches(',').count() - 1,
            Road::AllowListTable.head().matches(',').count()
        );
    }

    #[test]
    fn a_device_without_a_thing_is_named_by_itself_or_left_out() {
        for road in ROADS {
            let line = written(road, &item(None, "SN1")).unwrap_or_default();
            assert!(line.contains("SN1"), "{line}");
            let why = written(road, &item(None, "a lamp")).unwrap_err();
            assert!(why.contains("thing name"), "{why}");
        }
    }

    #[test]
    fn what_bulk_registration_cannot_take_is_refused() {
        let mut long = item(Some("lamp-1"), "SN1");
        let certificate = "A".repeat(BULK_LINE_CHARACTERS_MAX);
        long.certificate = &certificate;
        assert!(written(Road::Bulk, &long).is_err_and(|why| why.contains("256000")));
        let mut orphan = item(Some("lamp-1"), "SN1");
        orphan.issuer = None;
        assert!(written(Road::Bulk, &orphan).is_err_and(|why| why.contains("issuer")));
        assert!(written(Road::Certificates, &orphan).is_ok());
    }

    #[test]
    fn the_template_asks_for_what_it_was_told() {
        let template = bulk_template("P", Some("lamp"), &["hall".into()]);
        let thing = &template["Resources"]["thing"];
        assert_eq!(thing["Properties"]["ThingTypeName"], "lamp");
        assert_eq!(thing["Properties"]["ThingGroups"], json!(["hall"]));
        assert!(template.to_string().len() < 10_240);
    }
}
