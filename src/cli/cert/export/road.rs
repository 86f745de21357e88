//! One line a device, in each road's form. Pure: a certificate as REST shows it goes in, text
//! comes out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pki::jitp::names;

/// Longest line of a bulk registration, characters (AWS service quotas, IoT Core).
const BULK_LINE_CHARACTERS_MAX: usize = 256_000;

/// What an export needs of a certificate as REST shows it.
#[derive(Deserialize)]
pub(super) struct Item {
    pub(super) serial_number: String,
    certificate: String,
    ca_chain: Vec<String>,
    fingerprint_sha256: String,
    device: String,
    order: Option<String>,
    thing_name: Option<String>,
    status: String,
}

/// A road and its form.
#[derive(Clone, Copy)]
pub(super) enum Road {
    AllowListTable,
    AllowListLines,
    Bulk,
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
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::AllowListTable => "allow-list.csv",
            Self::AllowListLines => "allow-list.ndjson",
            Self::Bulk => "bulk.ndjson",
            Self::Certificates => "certificates.ndjson",
        }
    }

    /// What stands before the first line.
    pub(super) fn head(self) -> &'static str {
        match self {
            Self::AllowListTable => {
                "certificate_id,serial_number,device,thing_name,order,status\r\n"
            }
            _ => "",
        }
    }

    /// A device's line, or why AWS IoT would refuse it.
    pub(super) fn line(self, item: &Item) -> Result<String, String> {
        // A profile without a JITP template names no thing; then the device is its own name.
        let thing_name = item.thing_name.as_deref().unwrap_or(&item.device);
        if let Some(violation) = names::thing(thing_name).into_iter().next() {
            return Err(format!("thing name: {}", violation.detail));
        }
        let line = match self {
            Self::AllowListTable => return Ok(table_row(item, thing_name)),
            Self::AllowListLines => serde_json::to_string(&AllowListLine {
                certificate_id: &item.fingerprint_sha256,
                serial_number: &item.serial_number,
                device: &item.device,
                thing_name,
                order: item.order.as_deref(),
                status: &item.status,
            }),
            Self::Bulk => serde_json::to_string(&BulkLine {
                thing_name,
                serial_number: &item.serial_number,
                certificate_pem: &item.certificate,
                // AWS IoT wants the very CA that signed, not one above it.
                ca_certificate_pem: item.ca_chain.first().ok_or(
                    "the issuer is no longer configured, so its certificate is not at hand",
                )?,
            }),
            Self::Certificates => serde_json::to_string(&CertificateLine {
                certificate_id: &item.fingerprint_sha256,
                thing_name,
                certificate_pem: &item.certificate,
            }),
        }
        .map_err(|error| error.to_string())?;
        let length = line.chars().count();
        if length > BULK_LINE_CHARACTERS_MAX {
            return Err(format!(
                "its line has {length} characters; AWS IoT takes {BULK_LINE_CHARACTERS_MAX}"
            ));
        }
        Ok(line + "\n")
    }
}

/// RFC 4180. Read by programs, so a cell is never changed to keep a spreadsheet from running it.
fn table_row(item: &Item, thing_name: &str) -> String {
    let cells = [
        item.fingerprint_sha256.as_str(),
        &item.serial_number,
        &item.device,
        thing_name,
        item.order.as_deref().unwrap_or_default(),
        &item.status,
    ];
    cells.map(cell).join(",") + "\r\n"
}

fn cell(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// The provisioning template that fits the bulk lines, for `start-thing-registration-task` and
/// `register-thing` (AWS IoT developer guide, provisioning templates).
///
/// A certificate that AWS IoT knows already keeps its status: running a task again wakes nothing
/// that somebody has switched off.
pub(super) fn bulk_template(
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

    fn item(thing_name: Option<&str>, device: &str) -> Item {
        Item {
            serial_number: "01a384d5e041a736c02c6ee2cb81a172".into(),
            certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            ca_chain: vec!["CA\n".into(), "root\n".into()],
            fingerprint_sha256: "0b".repeat(32),
            device: device.into(),
            order: Some("WO,\"1\"".into()),
            thing_name: thing_name.map(str::to_owned),
            status: "issued".into(),
        }
    }

    #[test]
    fn each_device_is_one_line_and_a_pem_stays_within_it() {
        for road in ROADS {
            let line = road.line(&item(Some("lamp-1"), "SN1")).unwrap_or_default();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.ends_with('\n'));
        }
        let line = Road::Bulk
            .line(&item(Some("lamp-1"), "SN1"))
            .unwrap_or_default();
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
        let row = Road::AllowListTable
            .line(&item(Some("lamp-1"), "SN1"))
            .unwrap_or_default();
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
            let line = road.line(&item(None, "SN1")).unwrap_or_default();
            assert!(line.contains("SN1"), "{line}");
            let why = road.line(&item(None, "a lamp")).unwrap_err();
            assert!(why.contains("thing name"), "{why}");
        }
    }

    #[test]
    fn what_bulk_registration_cannot_take_is_refused() {
        let mut long = item(Some("lamp-1"), "SN1");
        long.certificate = "A".repeat(BULK_LINE_CHARACTERS_MAX);
        assert!(
            Road::Bulk
                .line(&long)
                .is_err_and(|why| why.contains("256000"))
        );
        let mut orphan = item(Some("lamp-1"), "SN1");
        orphan.ca_chain.clear();
        assert!(
            Road::Bulk
                .line(&orphan)
                .is_err_and(|why| why.contains("issuer"))
        );
        assert!(Road::Certificates.line(&orphan).is_ok());
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
