//! `/v1/audit`: checkpoints, tiles and proofs, held against somebody else's Merkle tree.

use std::time::Duration;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certfactory::pki::entry::Entry;
use certfactory::pki::note::Checkpoint;
use certfactory::pki::note::Note;
use certfactory::pki::note::VerifierKey;
use ct_merkle::ConsistencyProof;
use ct_merkle::InclusionProof;
use ct_merkle::RootHash;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use openssl::x509::X509;
use serde_json::Value;
use sha2::Sha256;

use crate::support::device::Device;
use crate::support::world::World;
use crate::support::world::issued;
use crate::support::world::shared;

/// A checkpoint that the world's log key signed.
fn verified(world: &World, note: &str) -> Checkpoint {
    let note = Note::parse(note).unwrap();
    let checkpoint = Checkpoint::parse(&note.text).unwrap();
    let pem = std::fs::read(world.dir.join("head-office/log.pem")).unwrap();
    let key = VerifierKey::from_pem(&checkpoint.origin, &pem).unwrap();
    key.verify(&note).unwrap();
    checkpoint
}

fn newest(world: &World) -> Checkpoint {
    let ask = || world.nobody().get("/v1/audit/checkpoint");
    let mut answer = ask();
    // a world that has just started
    for _ in 0..100 {
        if answer.status != 404 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        answer = ask();
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    verified(world, &answer.text())
}

/// A checkpoint that holds the entry.
fn that_holds(world: &World, index: u64) -> Checkpoint {
    let start = Instant::now();
    loop {
        let checkpoint = newest(world);
        if checkpoint.size > index {
            return checkpoint;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn root(checkpoint: &Checkpoint) -> RootHash<Sha256> {
    RootHash::new(checkpoint.root.into(), checkpoint.size)
}

fn octets(proof: &Value) -> Vec<u8> {
    let hashes = proof.as_array().unwrap().iter();
    hashes
        .flat_map(|hash| STANDARD.decode(hash.as_str().unwrap()).unwrap())
        .collect()
}

/// Holds an inclusion against an implementation that is not ours; the entry's octets.
fn included(world: &World, inclusion: &Value) -> Vec<u8> {
    let checkpoint = verified(world, inclusion["checkpoint"].as_str().unwrap());
    let leaf = STANDARD
        .decode(inclusion["leaf"].as_str().unwrap())
        .unwrap();
    let proof = InclusionProof::<Sha256>::try_from_bytes(octets(&inclusion["proof"])).unwrap();
    let index = inclusion["log_index"].as_u64().unwrap();
    root(&checkpoint)
        .verify_inclusion(&leaf, index, &proof)
        .unwrap();
    leaf
}

/// All entries up to a checkpoint, as the bundles hold them.
fn entries(world: &World, size: u64) -> Vec<Vec<u8>> {
    let auditor = world.client("auditor");
    let mut leaves = Vec::new();
    for number in 0..size.div_ceil(256) {
        let width = (size - number * 256).min(256);
        let partial = if width < 256 {
            format!(".p/{width}")
        } else {
            String::new()
        };
        let answer = auditor.get(&format!("/v1/audit/tile/entries/{number:03}{partial}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut rest = &answer.body[..];
        while let [high, low, after @ ..] = rest {
            let (leaf, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            leaves.push(leaf.to_vec());
            rest = after;
        }
    }
    assert_eq!(leaves.len() as u64, size);
    leaves
}

#[test]
fn a_certificate_is_proved_to_whoever_has_the_logs_key_and_another_implementation() {
    let world = shared();
    let body = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    let serial = body["serial_number"].as_str().unwrap();
    let path = format!("/v1/certificates/{serial}/inclusion");
    let answer = world.client("station-01").get(&path);
    assert_eq!(answer.status, 200, "{answer:?}");
    let inclusion = answer.json();
    assert_eq!(inclusion["log_index"], body["log_index"]);
    let leaf = included(world, &inclusion);
    let entry = Entry::parse(&leaf).unwrap();
    let pem = body["certificate"].as_str().unwrap();
    let der = X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
    assert_eq!((entry.kind, entry.certificate), ("issued", Some(&der[..])));
    let told = entry.issued().unwrap();
    assert_eq!(told.serial_number, serial);
    assert_eq!(
        (told.station.as_str(), told.device.as_str()),
        ("station-01", body["device"].as_str().unwrap())
    );

    // one octet of it, and the proof is none
    let checkpoint = verified(world, inclusion["checkpoint"].as_str().unwrap());
    let mut other = leaf;
    other[20] ^= 1;
    let proof = InclusionProof::<Sha256>::try_from_bytes(octets(&inclusion["proof"])).unwrap();
    let index = inclusion["log_index"].as_u64().unwrap();
    root(&checkpoint)
        .verify_inclusion(&other, index, &proof)
        .unwrap_err();
}

#[test]
fn who_waits_for_the_checkpoint_gets_the_proof_with_the_certificate() {
    let world = shared();
    let station = world.client("station-01");
    let request = Device::p256().request("lightbulb");
    let send = |query: &str| {
        let headers = [("Content-Type", "application/json")];
        let body = request.to_string();
        station.send(
            "POST",
            &format!("/v1/certificates{query}"),
            &headers,
            Some(body.as_bytes()),
        )
    };
    let start = Instant::now();
    let answer = send("?wait=checkpoint");
    let waited = start.elapsed();
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    included(world, &body["inclusion"]);
    assert_eq!(body["inclusion"]["log_index"], body["log_index"]);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert!(send("").json().get("inclusion").is_none());
    for wrong in ["?wait=tree", "?wait=", "?other=1"] {
        let answer = send(wrong);
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (400, "invalid-parameter"),
            "{wrong}"
        );
    }
}

#[test]
fn the_entries_make_the_signed_tree_and_each_tree_begins_with_the_one_before() {
    let world = shared();
    let station = world.client("station-01");
    let first = newest(world);
    let indexes: Vec<u64> = (0..3)
        .map(|_| issued(&station.issue(&Device::p256().request("lightbulb"))))
        .map(|body| body["log_index"].as_u64().unwrap())
        .collect();
    let last = indexes[2];
    let second = that_holds(world, last);
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for leaf in entries(world, second.size) {
        tree.push(leaf);
        if tree.len() == first.size {
            assert_eq!(tree.root().as_bytes()[..], first.root);
        }
    }
    assert_eq!(tree.root().as_bytes()[..], second.root);

    let path = format!(
        "/v1/audit/consistency?from={}&to={}",
        first.size, second.size
    );
    let answer = world.nobody().get(&path);
    assert_eq!(answer.status, 200, "{answer:?}");
    let proof = octets(&answer.json()["proof"]);
    let proof = ConsistencyProof::<Sha256>::try_from_bytes(proof).unwrap();
    root(&second)
        .verify_consistency(&root(&first), &proof)
        .unwrap();
    for wrong in ["from=2&to=1", "from=0&to=99999999999"] {
        let answer = world
            .nobody()
            .get(&format!("/v1/audit/consistency?{wrong}"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (404, "not-found"),
            "{wrong}"
        );
    }
    for wrong in [
        "",
        "from=1",
        "from=1&to=x",
        "from=1&to=2&x=1",
        "from=-1&to=2",
    ] {
        let answer = world
            .nobody()
            .get(&format!("/v1/audit/consistency?{wrong}"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (400, "invalid-parameter"),
            "{wrong}"
        );
    }
}

#[test]
fn tiles_are_for_anyone_and_what_entries_say_is_not() {
    let world = shared();
    let size = newest(world).size;
    let width = size.min(256);
    let name = if width < 256 {
        format!("000.p/{width}")
    } else {
        "000".to_owned()
    };
    let tile = world.nobody().get(&format!("/v1/audit/tile/0/{name}"));
    assert_eq!(tile.status, 200, "{tile:?}");
    assert_eq!(tile.body.len() as u64, 32 * width);
    assert!(tile.header("cache-control").unwrap().contains("immutable"));

    let bundle = format!("/v1/audit/tile/entries/{name}");
    let nobody = world.nobody().get(&bundle);
    assert_eq!(
        (nobody.status, nobody.slug().as_str()),
        (401, "client-certificate-required")
    );
    let station = world.client("station-01").get(&bundle);
    assert_eq!(
        (station.status, station.slug().as_str()),
        (403, "forbidden")
    );
    for role in ["operator", "auditor", "administrator"] {
        assert_eq!(world.client(role).get(&bundle).status, 200, "{role}");
    }
    for wrong in [
        "0/0",
        "0/000/",
        "00/000",
        "9/000",
        "0/x001/000",
        "0/000.p/0",
        "0/000.p/256",
        "entries",
        "../checkpoint",
        "entries/x999/999",
        "63/000",
    ] {
        let answer = world
            .client("auditor")
            .get(&format!("/v1/audit/tile/{wrong}"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (404, "not-found"),
            "{wrong}"
        );
    }
}

#[test]
fn everything_that_happens_is_an_entry() {
    let world = shared();
    let station = world.client("station-01");
    let operator = world.client("operator");
    let administrator = world.client("administrator");
    let json = [("Content-Type", "application/json")];
    let name = Device::p256().name;
    let (order, somebody) = (format!("WO-{name}"), format!("st-{name}"));
    world.order(&order, "lightbulb");
    let mut request = Device::p256().request("lightbulb");
    request["order"] = order.as_str().into();
    let body = issued(&station.issue(&request));
    let serial = body["serial_number"].as_str().unwrap();
    let read_back = serde_json::json!({ "certificate": body["certificate"] }).to_string();
    let path = format!("/v1/certificates/{serial}/confirmation");
    assert_eq!(
        station
            .send("POST", &path, &json, Some(read_back.as_bytes()))
            .status,
        200
    );
    world.revoke(&body, "keyCompromise");
    let path = format!("/v1/orders/{order}/closure");
    assert_eq!(operator.send("POST", &path, &json, Some(b"{}")).status, 200);
    let registration = serde_json::json!({ "name": somebody, "role": "station" }).to_string();
    let made = administrator.send("POST", "/v1/stations", &json, Some(registration.as_bytes()));
    assert_eq!(made.status, 201, "{made:?}");
    let path = format!("/v1/stations/{somebody}/disable");
    assert_eq!(
        administrator.send("POST", &path, &json, Some(b"{}")).status,
        200
    );
    // somebody known who asks for what they do not get
    let refused = station.send("POST", &path, &json, Some(b"{}"));
    assert_eq!(refused.status, 403);
    let exported = world
        .client("auditor")
        .get_as("/v1/certificates?limit=1", "text/csv");
    assert_eq!(exported.status, 200);

    let start = Instant::now();
    let wanted = [
        ("order-created", "order", order.as_str()),
        ("issued", "serial_number", serial),
        ("confirmed", "serial_number", serial),
        ("revoked", "serial_number", serial),
        ("order-closed", "order", order.as_str()),
        ("principal-added", "principal", somebody.as_str()),
        ("enrolment-code", "principal", somebody.as_str()),
        ("principal-disabled", "principal", somebody.as_str()),
        ("refused", "path", path.as_str()),
        ("exported", "by", "auditor"),
        ("started", "version", env!("CARGO_PKG_VERSION")),
        ("crl", "issuer", "line-ec"),
    ];
    let missing = loop {
        let leaves = entries(world, newest(world).size);
        let told: Vec<(String, Value)> = leaves
            .iter()
            .map(|leaf| Entry::parse(leaf).unwrap())
            .map(|entry| (entry.kind.to_owned(), entry.value()))
            .collect();
        let is_there = |(kind, field, value): &(&str, &str, &str)| {
            told.iter()
                .any(|(told, event)| told == kind && event[*field] == *value)
        };
        let missing: Vec<_> = wanted.iter().filter(|it| !is_there(it)).collect();
        if missing.is_empty() {
            let by = |kind: &str| {
                told.iter()
                    .rev()
                    .find(|(told, event)| told == kind && event["principal"] == somebody.as_str())
                    .unwrap()
                    .1["by"]
                    .clone()
            };
            assert_eq!(by("principal-added"), "administrator");
            assert_eq!(by("principal-disabled"), "administrator");
            break missing;
        }
        if start.elapsed() > Duration::from_secs(20) {
            break missing;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(missing.is_empty(), "not in the log: {missing:?}");
}
