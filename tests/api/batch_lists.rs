//! Lists of a batch: CSV and NDJSON as tools really write them, and as they should not.

use std::time::Duration;

use openssl::base64::encode_block;
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::recipient::Recipient;
use crate::support::world::{OwnWorld, World, shared};

const LONG: Duration = Duration::from_secs(120);

/// A batch that awaits its list; its devices have their keys.
fn awaiting(world: &World) -> String {
    world.taken(&json!({ "profile": "lightbulb" }))
}

/// The same, where keys are made.
fn awaiting_keys(world: &World, recipient: &Recipient) -> String {
    world.taken(&json!({ "profile": "lightbulb", "keys": { "recipient": recipient.pem() } }))
}

fn give(world: &World, id: &str, media_type: &str, list: &[u8]) -> Response {
    world.client("operator").send(
        "POST",
        &format!("/v1/batches/{id}/devices"),
        &[("Content-Type", media_type)],
        Some(list),
    )
}

fn serial(device: &Device) -> String {
    device.subject()["serialNumber"].to_owned()
}

#[test]
fn a_list_of_requests_becomes_certificates_for_the_devices_own_keys() {
    let (world, recipient) = (shared(), Recipient::new());
    let devices: Vec<Device> = (0..6).map(|_| Device::p256()).collect();
    // A byte-order mark, both line ends, quotes, a request as PEM over several lines and as base64.
    let mut list = "\u{feff}CN,serialNumber,C,O,csr\r\n".to_owned();
    for (n, device) in devices.iter().enumerate() {
        let pem = device.csr_with(&[]);
        let csr = if n % 2 == 0 {
            format!("\"{pem}\"")
        } else {
            let request = openssl::x509::X509Req::from_pem(pem.as_bytes()).unwrap();
            encode_block(&request.to_der().unwrap())
        };
        let organisation = ["\"Lamp, \"\"Works\"\"\"", "Works", ""][n % 3];
        let end = ["\r\n", "\n"][n % 2];
        list += &format!(
            "{},{},DE,{organisation},{csr}{end}",
            device.name,
            serial(device)
        );
    }
    let id = awaiting(world);
    let given = give(world, &id, "text/csv", list.as_bytes());
    assert_eq!(
        (given.status, &given.json()["count"]),
        (202, &json!(6)),
        "{given:?}"
    );
    let done = world.wait_done(&id, LONG);
    assert_eq!(
        (&done["key_origin"], &done["issued"]),
        (&json!("csr"), &json!(6))
    );
    let (_, directory) = world.unpack(&id, &recipient);
    assert!(!directory.join("keys").exists());
    for (n, device) in devices.iter().enumerate() {
        let pem =
            std::fs::read(directory.join(format!("certificates/0001/{:07}.pem", n + 1))).unwrap();
        let certificate = openssl::x509::X509::from_pem(&pem).unwrap();
        assert!(certificate.public_key().unwrap().public_eq(&device.key));
    }
    let late = give(world, &id, "text/csv", list.as_bytes());
    assert_eq!(
        (late.status, late.slug().as_str()),
        (409, "device-list-late")
    );

    // The same as NDJSON: all are certified now.
    let list: String = devices
        .iter()
        .map(|device| {
            format!(
                "{}\n",
                json!({ "subject": device.subject(), "csr": device.csr_with(&[]) })
            )
        })
        .collect();
    let id = awaiting(world);
    let taken = give(world, &id, "application/x-ndjson", list.as_bytes());
    assert_eq!(
        (taken.status, taken.slug().as_str()),
        (409, "device-already-certified"),
        "{taken:?}"
    );
    assert_eq!(world.show_batch(&id)["state"], "awaiting-devices");
}

#[test]
fn a_list_with_anything_wrong_is_refused_whole_and_the_rows_are_named() {
    let (world, recipient) = (shared(), Recipient::new());
    let id = awaiting_keys(world, &recipient);
    let header = "CN,serialNumber,C\n";
    let row = |n: u32| format!("bad-{id}-{n},SN{n},DE\n", id = &id[..8]);
    let good: String = (1..=3).map(row).collect();
    let long = format!("{header}{},SN,DE\n", "x".repeat(10 * 1024 * 1024));
    let many: String = std::iter::once(header.to_owned())
        .chain((0..1_000_001).map(|n| format!("m-{n},SN{n},DE\n")))
        .collect();
    let wide: Vec<u8> = std::iter::once(0xfeff)
        .chain(format!("{header}{good}").encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let key = std::fs::read_to_string(recipient.path("r.key")).unwrap();
    let formula = format!("{header}\"=cmd|' /C calc'!A0\",SN1,DE\n");
    for (what, list, status, slug, names) in [
        (
            "nothing",
            String::new().into_bytes(),
            422,
            "batch-refused",
            "",
        ),
        ("no rows", header.into(), 422, "batch-refused", ""),
        ("UTF-16", wide, 422, "batch-refused", ""),
        (
            "unknown column",
            format!("CN,colour\n{good}").into(),
            422,
            "batch-refused",
            "colour",
        ),
        (
            "doubled column",
            format!("CN,CN,C\n{good}").into(),
            422,
            "batch-refused",
            "CN",
        ),
        (
            "ragged",
            format!("{header}{good}a,b\n").into(),
            422,
            "batch-refused",
            "row 4",
        ),
        (
            "twice",
            format!("{header}{good}{}", row(2)).into(),
            422,
            "batch-refused",
            "row 4",
        ),
        (
            "no C",
            format!("{header}{good}a,b,\n").into(),
            422,
            "batch-refused",
            "row 4",
        ),
        (
            "newline in a CN",
            format!("{header}{good}\"a\nb\",SN9,DE\n").into(),
            422,
            "batch-refused",
            "row 4",
        ),
        (
            "formula as a thing's name",
            formula.into(),
            422,
            "batch-refused",
            "row 1",
        ),
        (
            "10 MB in a field",
            long.into(),
            413,
            "payload-too-large",
            "",
        ),
        ("a row too many", many.into(), 413, "payload-too-large", ""),
        (
            "a private key",
            format!("CN,serialNumber,C,csr\na,b,DE,\"{key}\"\n").into(),
            422,
            "private-key-submitted",
            "",
        ),
        (
            "a key where keys are made",
            format!(
                "CN,serialNumber,C,csr\na,b,DE,\"{}\"\n",
                Device::p256().csr_with(&[])
            )
            .into(),
            422,
            "batch-refused",
            "row 1",
        ),
    ] {
        let refused = give(world, &id, "text/csv", &list);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (status, slug),
            "{what}: {refused:?}"
        );
        assert!(refused.text().contains(names), "{what}: {}", refused.text());
        assert!(!refused.text().contains("PRIVATE KEY"), "{what}");
        assert_eq!(world.show_batch(&id)["state"], "awaiting-devices", "{what}");
    }
    let chunks = format!("SELECT count(*) FROM batch_chunk WHERE batch_id = '{id}'");
    assert_eq!(world.sql(&chunks), "0");

    // The first hundred, not a word of each of a thousand.
    let bad: String = (0..1_000).map(|n| format!("x{n},SN{n},\n")).collect();
    let refused = give(world, &id, "text/csv", format!("{header}{bad}").as_bytes());
    assert_eq!(refused.json()["violations"].as_array().unwrap().len(), 100);
    let other = give(world, &id, "application/json", b"[]");
    assert_eq!(
        (other.status, other.slug().as_str()),
        (415, "unsupported-media-type")
    );

    // And then it takes a good one.
    let given = give(world, &id, "text/csv", format!("{header}{good}").as_bytes());
    assert_eq!(given.status, 202, "{given:?}");
    world.wait_done(&id, LONG);
}

#[test]
fn hostile_requests_on_a_list_are_refused_by_row_and_reach_no_hsm() {
    let world = shared();
    let slugs: Value = serde_json::from_str(
        &std::fs::read_to_string(crate::support::world::data("csr-slugs.json")).unwrap(),
    )
    .unwrap();
    let id = awaiting(world);
    let directory = crate::support::world::data("csr");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // An empty subject is none of a request on a list: the row has one.
        if name == "good"
            || name == "empty_subject"
            || path.extension().is_none_or(|it| it != "der")
        {
            continue;
        }
        let csr = encode_block(&std::fs::read(&path).unwrap());
        let list = json!({ "subject": Device::p256().subject(), "csr": csr });
        let refused = give(
            world,
            &id,
            "application/x-ndjson",
            format!("{list}\n").as_bytes(),
        );
        assert!(matches!(refused.status, 413 | 422), "{name}: {refused:?}");
        count += 1;
    }
    assert!(
        count > 20,
        "{count}; {}",
        slugs.as_object().map_or(0, serde_json::Map::len)
    );
    assert_eq!(world.show_batch(&id)["state"], "awaiting-devices");
}

#[test]
fn a_bare_public_key_is_certified_where_the_profile_allows_it_and_the_record_says_so() {
    let mut own = OwnWorld::make();
    let path = own.world.dir.join("profiles/bare.toml");
    let profile = std::fs::read_to_string(own.world.dir.join("profiles/lightbulb.toml")).unwrap();
    std::fs::write(path, format!("bare_public_keys = true\n{profile}")).unwrap();
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let world = &own.world;
    let device = Device::p256();
    let pem = String::from_utf8(device.key.public_key_to_pem().unwrap()).unwrap();
    let list = format!(
        "CN,serialNumber,C,public_key\n{},{},DE,\"{pem}\"\n",
        device.name,
        serial(&device)
    );
    let id = awaiting(world);
    let refused = give(world, &id, "text/csv", list.as_bytes());
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "batch-refused")
    );
    assert_eq!(refused.json()["violations"][0]["rule"], "bare-public-key");
    let id = world.taken(&json!({ "profile": "bare" }));
    assert_eq!(give(world, &id, "text/csv", list.as_bytes()).status, 202);
    world.wait_done(&id, LONG);
    let found = world
        .client("auditor")
        .get(&format!("/v1/certificates?batch={id}"))
        .json();
    assert_eq!(found["items"][0]["key_origin"], "public-key");
    let weak = openssl::rsa::Rsa::generate(1024)
        .unwrap()
        .public_key_to_pem()
        .unwrap();
    let list = format!(
        "CN,serialNumber,C,public_key\nw,w,DE,\"{}\"\n",
        String::from_utf8(weak).unwrap()
    );
    let id = world.taken(&json!({ "profile": "bare" }));
    let refused = give(world, &id, "text/csv", list.as_bytes());
    assert_eq!(
        refused.json()["violations"][0]["rule"],
        "key-size",
        "{refused:?}"
    );
}
