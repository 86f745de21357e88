//! `/v1/batches`: from an order to a package whose keys only its recipient reads.

use std::collections::HashSet;
use std::time::Duration;

use openssl::x509::X509;
use serde_json::{Value, json};

use crate::support::batch::{order, pattern};
use crate::support::device::Device;
use crate::support::recipient::Recipient;
use crate::support::world::{OwnWorld, World, issued, shared};

const LONG: Duration = Duration::from_secs(120);

fn keys_in(world: &World) -> String {
    world.sql("SELECT count(*) FROM batch_chunk WHERE begun_at IS NOT NULL")
}

#[test]
fn a_batch_becomes_a_package_that_openssl_opens_and_that_verifies_offline() {
    let (world, recipient) = (shared(), Recipient::new());
    let mut body = order(1_003, &recipient);
    body["forms"] = json!(["pem", "der"]);
    body["columns"] = json!(["row", "CN", "certificate_file", "key_file"]);
    let made = world.batch(&body);
    assert_eq!(made.status, 202, "{made:?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        made.header("location").unwrap(),
        format!("/v1/batches/{id}")
    );
    let done = world.wait_done(&id, LONG);
    for (field, value) in [
        ("count", json!(1_003)),
        ("issued", json!(1_003)),
        ("failed", json!(0)),
        ("remaining", json!(0)),
        ("key_origin", json!("made")),
        ("key_type", json!("p256")),
        ("envelope", json!("chunk")),
        ("created_by", json!("operator")),
    ] {
        assert_eq!(done[field], value, "{field}");
    }

    let (tar, directory) = world.unpack(&id, &recipient);
    let length = std::fs::metadata(&tar).unwrap().len();
    assert_eq!(done["package"]["length"], json!(length));
    let sha256: String = openssl::sha::sha256(&std::fs::read(&tar).unwrap())
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    assert_eq!(done["package"]["sha256"], json!(sha256));
    let verified = world.verify_package(&tar, &recipient);
    assert_eq!(verified["devices"], json!(1_003), "{verified}");

    // By hand, as a flasher would: every key is its certificate's, and no two are the same.
    let mut seen = HashSet::new();
    let table = std::fs::read_to_string(directory.join("devices.csv")).unwrap();
    let mut lines = table.split("\r\n").filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("row,CN,certificate_file,key_file"));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 1_003);
    let mut opened = recipient.open(&directory.join("keys/0001.p7m"));
    opened.extend(recipient.open(&directory.join("keys/0002.p7m")));
    for ((device, key), line) in opened.iter().zip(&lines) {
        assert_eq!(device, line[1]);
        let pem = std::fs::read(directory.join(line[2])).unwrap();
        let certificate = X509::from_pem(&pem).unwrap();
        assert!(certificate.public_key().unwrap().public_eq(key), "{device}");
        assert!(seen.insert(key.private_key_to_der().unwrap()), "{device}");
    }
    assert_eq!(opened.len(), 1_003);

    // The log has them as any other, and says that their keys were made here.
    let search = format!("/v1/certificates?batch={id}&limit=1000");
    let page = world.client("auditor").get(&search).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1_000);
    assert!(page["next"].is_string());
    assert_eq!(page["items"][0]["key_origin"], "made");
    assert_eq!(page["items"][0]["station"], "operator");

    // A line cut in the middle goes on.
    let operator = world.client("operator");
    let path = format!("/v1/batches/{id}/package");
    let part = operator.send("GET", &path, &[("Range", "bytes=1000000-")], None);
    assert_eq!(part.status, 206);
    assert_eq!(part.body, std::fs::read(&tar).unwrap()[1_000_000..]);
    let events = operator.get(&format!("/v1/batches/{id}/events"));
    assert!(events.text().starts_with("data: {"), "{events:?}");
    assert_eq!(events.header("content-type"), Some("text/event-stream"));

    // It arrived: nobody gets the keys any more.
    let confirmed = world.act(&id, "confirmation");
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert!(confirmed.json()["keys_destroyed_at"].is_string());
    assert_eq!(world.act(&id, "confirmation").json(), confirmed.json());
    let gone = operator.get(&path);
    assert_eq!((gone.status, gone.slug().as_str()), (410, "gone"));
    let left = format!(
        "SELECT count(*) FROM batch_chunk WHERE batch_id = '{id}' AND envelopes IS NOT NULL"
    );
    assert_eq!(world.sql(&left), "0");
    assert!(!world.dir.join(format!("batches/{id}.tar")).exists());
}

#[test]
fn an_envelope_may_hold_one_device_and_keys_may_be_of_other_kinds() {
    let (world, recipient) = (
        shared(),
        Recipient::of(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    );
    let mut body = order(3, &recipient);
    body["keys"]["envelope"] = json!("device");
    let id = world.taken(&body);
    world.wait_done(&id, LONG);
    let (tar, directory) = world.unpack(&id, &recipient);
    assert_eq!(
        recipient
            .open(&directory.join("keys/0001/0000002.p7m"))
            .len(),
        1
    );
    world.verify_package(&tar, &recipient);

    let mut body = order(2, &recipient);
    body["profile"] = json!("workshop");
    body["keys"]["type"] = json!("rsa2048");
    let id = world.taken(&body);
    world.wait_done(&id, LONG);
    let (tar, directory) = world.unpack(&id, &recipient);
    for (_, key) in recipient.open(&directory.join("keys/0001.p7m")) {
        assert_eq!(key.rsa().unwrap().size(), 256);
    }
    world.verify_package(&tar, &recipient);

    let mut body = order(2, &recipient);
    body["keys"]["type"] = json!("rsa2048");
    let refused = world.batch(&body);
    assert_eq!((refused.status, refused.slug().as_str()), (422, "key-type"));
}

#[test]
fn a_recipient_who_should_not_have_keys_is_refused_before_the_first_is_made() {
    let world = shared();
    let good = Recipient::new();
    let rsa = Recipient::of(&["-newkey", "rsa:1024"]);
    let big_rsa = Recipient::of(&["-newkey", "rsa:3072"]);
    let signs_only = Recipient::of(&[
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-addext",
        "keyUsage=digitalSignature",
    ]);
    let expired = Recipient::expired();
    let edwards = Recipient::of(&["-newkey", "ed25519"]);
    let key = std::fs::read_to_string(good.path("r.key")).unwrap();
    let before = keys_in(world);
    for (what, pem) in [
        ("RSA-1024", rsa.pem()),
        ("RSA-3072", big_rsa.pem()),
        ("no key agreement", signs_only.pem()),
        ("expired", expired.pem()),
        ("Ed25519", edwards.pem()),
        ("a private key", key.clone()),
        ("both", good.pem() + &key),
        ("a passphrase", "1234".to_owned()),
        ("nothing", String::new()),
    ] {
        let mut body = order(10, &good);
        body["keys"]["recipient"] = json!(pem);
        let refused = world.batch(&body);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (422, "recipient-key"),
            "{what}: {refused:?}"
        );
        assert!(!refused.text().contains("PRIVATE"), "{what}");
    }
    assert_eq!(keys_in(world), before);
}

#[test]
fn a_batch_that_cannot_be_ordered_says_all_that_is_wrong() {
    let (world, recipient) = (shared(), Recipient::new());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = order(10, &recipient);
        change(&mut body);
        let answer = world.batch(&body);
        (answer.status, answer.slug(), answer.text())
    };
    for (what, slug, change) in [
        (
            "profile",
            "unknown-profile",
            &(|b: &mut Value| b["profile"] = json!("none")) as &dyn Fn(&mut Value),
        ),
        ("field", "unknown-field", &|b| b["colour"] = json!("red")),
        ("form", "invalid-field", &|b| b["forms"] = json!(["exe"])),
        ("no form", "invalid-field", &|b| b["forms"] = json!([])),
        ("column", "invalid-field", &|b| {
            b["columns"] = json!(["password"])
        }),
        ("column twice", "invalid-field", &|b| {
            b["columns"] = json!(["row", "row"])
        }),
        ("key type", "invalid-field", &|b| {
            b["keys"]["type"] = json!("dsa")
        }),
        ("envelope", "invalid-field", &|b| {
            b["keys"]["envelope"] = json!("zip")
        }),
        ("no keys", "invalid-field", &|b| b["keys"] = Value::Null),
        ("count 0", "invalid-field", &|b| {
            b["devices"]["count"] = json!(0)
        }),
        ("count", "invalid-field", &|b| {
            b["devices"]["count"] = json!(1_000_001)
        }),
        ("one device ten times", "invalid-field", &|b| {
            b["devices"]["subject"] = json!({ "CN": "a", "serialNumber": "b", "C": "DE" })
        }),
        ("template", "invalid-field", &|b| {
            b["devices"]["subject"]["CN"] = json!("{serial}")
        }),
        ("no C", "batch-refused", &|b| {
            b["devices"]["subject"].as_object_mut().unwrap().remove("C");
        }),
        ("thing name", "batch-refused", &|b| {
            b["devices"]["subject"]["serialNumber"] = json!("a b{seq}")
        }),
        ("device twice", "batch-refused", &|b| {
            b["devices"]["subject"]["CN"] = json!("always-the-same")
        }),
        ("order", "unknown-order", &|b| {
            b["order"] = json!("WO-nobody")
        }),
    ] {
        let (status, got, text) = with(change);
        assert_eq!(got, slug, "{what}: {status} {text}");
        assert!((400..500).contains(&status), "{what}");
    }
}

#[test]
fn what_is_certified_is_found_before_and_during_a_batch() {
    let (world, recipient) = (shared(), Recipient::new());
    let body = order(50, &recipient);
    world.wait_done(&world.taken(&body), LONG);
    let again = world.batch(&body);
    assert_eq!(
        (again.status, again.slug().as_str()),
        (409, "device-already-certified")
    );
    let violations = again.json()["violations"].as_array().unwrap().clone();
    assert_eq!(violations.len(), 50);
    assert!(
        violations[6]["detail"]
            .as_str()
            .unwrap()
            .starts_with("row 7: certificate ")
    );

    // Issued at the line while the batch is on its way: the row fails, the others do not.
    let own = OwnWorld::running();
    let world = &own.world;
    let body = order(2_500, &recipient);
    let paused = world.taken(&body);
    world.act(&paused, "pause");
    let taken = Device::p256();
    let subject = body["devices"]["subject"].as_object().unwrap();
    let named = |name: &str| {
        subject[name]
            .as_str()
            .unwrap()
            .replace("{seq:07}", "0002400")
    };
    let subject = json!({ "CN": named("CN"), "serialNumber": named("serialNumber"), "C": "DE" });
    let request = json!({ "profile": "lightbulb", "csr": taken.csr_with(&[]), "subject": subject });
    let serial = issued(&world.client("station-01").issue(&request))["serial_number"].clone();
    assert_eq!(world.act(&paused, "resume").status, 200);
    let done = world.wait_done(&paused, LONG);
    assert_eq!(
        (&done["issued"], &done["failed"]),
        (&json!(2_499), &json!(1))
    );
    let (tar, directory) = world.unpack(&paused, &recipient);
    let failures = std::fs::read_to_string(directory.join("failures.ndjson")).unwrap();
    let failure: Value = serde_json::from_str(failures.trim()).unwrap();
    assert_eq!(failure["row"], 2_400);
    assert_eq!(failure["problem"], "device-already-certified");
    assert_eq!(failure["serial_number"], serial);
    world.verify_package(&tar, &recipient);
}

#[test]
fn the_same_order_of_a_batch_is_the_same_batch() {
    let (world, recipient) = (shared(), Recipient::new());
    let body = order(5, &recipient);
    let key = [(
        "Idempotency-Key",
        &*format!("batch-{}", Device::p256().name),
    )]
    .map(|(a, b)| (a, b.to_owned()));
    let key: Vec<(&str, &str)> = key.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let first = world.batch_as("operator", &body, &key);
    assert_eq!(first.status, 202, "{first:?}");
    let id = first.json()["id"].clone();
    world.wait_done(id.as_str().unwrap(), LONG);
    let again = world.batch_as("operator", &body, &key);
    assert_eq!((again.status, &again.json()["id"]), (200, &id));
    let other = world.batch_as("operator", &order(5, &recipient), &key);
    assert_eq!(
        (other.status, other.slug().as_str()),
        (422, "idempotency-key-reused")
    );
}

#[test]
fn a_batch_pauses_goes_on_and_is_cancelled_and_its_order_gets_the_rest_back() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let mut body = order(20_000, &recipient);
    world.order("WO-batch", "lightbulb");
    body["order"] = json!("WO-batch");
    let id = world.taken(&body);
    world.wait_batch(&id, LONG, |batch| batch["issued"].as_i64() >= Some(1_000));
    assert_eq!(world.act(&id, "pause").json()["state"], "paused");
    // What was begun ends.
    std::thread::sleep(Duration::from_secs(4));
    let still = world.show_batch(&id);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.show_batch(&id), still);
    assert_eq!(still["reason"], "paused by operator");
    assert_eq!(world.act(&id, "resume").json()["state"], "running");
    let so_far = still["issued"].as_i64();
    world.wait_batch(&id, LONG, |batch| batch["issued"].as_i64() > so_far);
    let not_yet = world
        .client("operator")
        .get(&format!("/v1/batches/{id}/package"));
    assert_eq!(
        (not_yet.status, not_yet.slug().as_str()),
        (409, "batch-not-ready")
    );
    assert_eq!(world.act(&id, "cancellation").status, 200);
    let over = world.wait_batch(&id, LONG, |batch| batch["package"].is_object());
    assert_eq!(over["state"], "cancelled");
    for act in ["pause", "resume"] {
        let late = world.act(&id, act);
        assert_eq!((late.status, late.slug().as_str()), (409, "batch-state"));
    }
    let issued = over["issued"].as_i64().unwrap();
    assert!((1_000..20_000).contains(&issued), "{issued}");
    let order = world.client("auditor").get("/v1/orders/WO-batch").json();
    assert_eq!(order["issued"], issued);
    assert_eq!(order["in_progress"], 0);
    // All of them are listed, verify, and can be revoked.
    let found = world.sql(&format!(
        "SELECT count(DISTINCT i) FROM batch_chunk, unnest(intent_ids) i WHERE batch_id = '{id}'"
    ));
    assert_eq!(found, issued.to_string());
    let (tar, _) = world.unpack(&id, &recipient);
    assert_eq!(world.verify_package(&tar, &recipient)["devices"], issued);
    let one = world
        .client("operator")
        .get(&format!("/v1/certificates?batch={id}&limit=1"))
        .json();
    world.revoke(&one["items"][0], "cessationOfOperation");
}

#[test]
fn a_batch_takes_no_more_than_its_order_has_left() {
    let (world, recipient) = (shared(), Recipient::new());
    let name = format!("WO-{}", Device::p256().name);
    let order_body = json!({ "name": name, "profile": "lightbulb", "quantity": 30 }).to_string();
    let headers = [("Content-Type", "application/json")];
    let made =
        world
            .client("operator")
            .send("POST", "/v1/orders", &headers, Some(order_body.as_bytes()));
    assert_eq!(made.status, 201);
    let mut body = order(31, &recipient);
    body["order"] = json!(name);
    let refused = world.batch(&body);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "order-exhausted")
    );
    body["devices"] = pattern(30);
    world.wait_done(&world.taken(&body), LONG);
    let left = world
        .client("auditor")
        .get(&format!("/v1/orders/{name}"))
        .json();
    assert_eq!(left["remaining"], 0);
}
