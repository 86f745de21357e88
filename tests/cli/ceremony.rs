//! The shipped plans: a root, an issuing CA below it in another token, the log key, the station CA; and
//! the first device's certificate.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::device::Device;
use crate::support::world::OwnWorld;
use crate::support::world::PROGRAM;
use crate::support::world::issued;

const PLANS: [&str; 4] = ["root", "issuing", "log-key", "stations"];

/// Exit code, and all that was said.
fn ceremony(softhsm: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(PROGRAM)
        .arg("ceremony")
        .args(arguments)
        .env("SOFTHSM2_CONF", softhsm)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// A copy of the plans with PINs and two people's keys.
fn prepare(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config/ceremonies");
    for plan in PLANS {
        let name = format!("{plan}.toml");
        std::fs::copy(plans.join(&name), directory.join(&name)).unwrap();
    }
    for (name, pin) in [
        ("root.pin", "11111"),
        ("root.so-pin", "22222"),
        ("line.pin", "33333"),
        ("line.so-pin", "44444"),
    ] {
        std::fs::write(directory.join(name), pin).unwrap();
    }
    for person in ["alice", "bob"] {
        let key = directory.join(person);
        let key = key.to_str().unwrap();
        let made = openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            key,
        ]);
        assert!(made.0, "{}", made.1);
        let public = openssl(&["pkey", "-in", key, "-pubout", "-out", &format!("{key}.pub")]);
        assert!(public.0, "{}", public.1);
    }
}

/// Runs all plans with both people, and gives the transcripts.
fn carry_out(softhsm: &Path, directory: &Path) -> Vec<Value> {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let signers = ["alice", "bob"].map(|person| format!("{person}={}", path(person)));
    let run = |plan: &str| {
        let (file, transcript) = (path(&format!("{plan}.toml")), path(&format!("{plan}.json")));
        let arguments = [
            "run",
            &file,
            "--transcript",
            &transcript,
            "--yes",
            "--signer",
            &signers[0],
            "--signer",
            &signers[1],
        ];
        let (code, said) = ceremony(softhsm, &arguments);
        assert_eq!(code, 0, "{said}");
        for pin in ["11111", "22222", "33333", "44444"] {
            assert!(!said.contains(pin), "{said}");
        }
        let text = std::fs::read(&transcript).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    PLANS.map(run).to_vec()
}

/// What may differ between two ceremonies of one plan: keys, what follows from them, and times.
fn but_for_keys_and_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let varies = [
                    "at",
                    "began_at",
                    "ended_at",
                    "not_before",
                    "not_after",
                    "serial_number",
                    "spki_sha256",
                    "sha256",
                    "fingerprint_sha256",
                ];
                if varies.contains(&name.as_str()) {
                    *value = Value::from("varies");
                } else if name == "subject" {
                    let subject = value.as_str().unwrap();
                    let parts = subject
                        .split(',')
                        .filter(|part| !part.starts_with("SERIALNUMBER="));
                    *value = Value::from(parts.collect::<Vec<_>>().join(","));
                } else {
                    but_for_keys_and_times(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(but_for_keys_and_times),
        _ => {}
    }
}

#[test]
fn two_tokens_make_root_issuing_ca_and_the_first_device_and_two_ceremonies_differ_in_keys_and_times_only()
 {
    let mut own = OwnWorld::make();
    let softhsm = own.world.dir.join("softhsm/softhsm2.conf");
    let first = own.world.dir.join("ceremony");
    prepare(&first);
    let path = |name: &str| first.join(name).to_str().unwrap().to_owned();
    let tokens = || {
        let listed = Command::new("softhsm2-util")
            .arg("--show-slots")
            .env("SOFTHSM2_CONF", &softhsm)
            .output()
            .unwrap();
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    let before = tokens();

    // Showing, and what is refused, makes nothing.
    let (code, said) = ceremony(&softhsm, &["show", &path("issuing.toml")]);
    assert_eq!(code, 0, "{said}");
    for words in [
        "C_InitToken label `line`",
        "C_GenerateKeyPair P-256",
        "C_Sign by the key of certificate `root`",
        "pathLen 0",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let alice = format!("alice={}", path("alice"));
    let alone = [
        "run",
        &path("root.toml"),
        "--transcript",
        &path("root.json"),
        "--yes",
        "--signer",
        &alice,
    ];
    assert_eq!(ceremony(&softhsm, &alone).0, 4);
    let bob = format!("bob={}", path("bob"));
    let unasked = [
        "run",
        &path("root.toml"),
        "--transcript",
        &path("root.json"),
        "--signer",
        &alice,
        "--signer",
        &bob,
    ];
    let (code, said) = ceremony(&softhsm, &unasked);
    assert!(code == 4 && said.contains("--yes"), "{said}");
    let text = std::fs::read_to_string(path("root.toml")).unwrap();
    std::fs::write(
        path("wrong.toml"),
        text.replace("P-384", "P-521")
            .replace("C = \"DE\"", "C = \"Germany\""),
    )
    .unwrap();
    let (code, said) = ceremony(&softhsm, &["show", &path("wrong.toml")]);
    assert!(
        code == 4 && said.contains("P-521") && said.contains("certificate `root`"),
        "{said}"
    );
    assert_eq!(tokens(), before);
    assert!(!first.join("root.json").exists() && !first.join("root.pem").exists());

    let mut transcripts = carry_out(&softhsm, &first);
    for person in ["alice", "bob"] {
        let public = path(&format!("{person}.pub"));
        let signature = path(&format!("issuing.json.{person}.sig"));
        let verify = |file: &str| {
            openssl(&[
                "dgst",
                "-sha256",
                "-verify",
                &public,
                "-signature",
                &signature,
                file,
            ])
            .0
        };
        assert!(verify(&path("issuing.json")));
        assert!(!verify(&path("root.json")));
    }
    let chain = [
        "verify",
        "-x509_strict",
        "-CAfile",
        &path("root.pem"),
        &path("line.pem"),
    ];
    let (verified, said) = openssl(&chain);
    assert!(verified, "{said}");
    let keys = Command::new("pkcs11-tool")
        .args([
            "--module",
            "/usr/lib/softhsm/libsofthsm2.so",
            "--token-label",
            "line",
            "--pin",
            "33333",
            "--list-objects",
            "--type",
            "privkey",
        ])
        .env("SOFTHSM2_CONF", &softhsm)
        .output()
        .unwrap();
    let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
    assert_eq!(
        keys.matches("sensitive, always sensitive, never extractable, local")
            .count(),
        3,
        "{keys}"
    );
    // Over what is there nothing is made again.
    let again = [
        "run",
        &path("root.toml"),
        "--transcript",
        &path("again.json"),
        "--yes",
        "--signer",
        &alice,
        "--signer",
        &bob,
    ];
    assert_eq!(ceremony(&softhsm, &again).0, 4);

    let other = tempfile::tempdir().unwrap();
    let conf = other.path().join("softhsm2.conf");
    let tokens = other.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(
        &conf,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\n",
            tokens.display()
        ),
    )
    .unwrap();
    prepare(&other.path().join("ceremony"));
    let mut others = carry_out(&conf, &other.path().join("ceremony"));
    assert_ne!(transcripts, others);
    transcripts
        .iter_mut()
        .chain(&mut others)
        .for_each(but_for_keys_and_times);
    assert_eq!(transcripts, others);

    // Below the line's CA there is no room for another one: nothing is signed, and the transcript says why.
    let text = std::fs::read_to_string(path("stations.toml")).unwrap();
    let beyond = text
        .replace("stations-1", "stations-2")
        .replace("stations.pem", "beyond.pem")
        .replace(
            "key = \"stations\"\n",
            "key = \"stations\"\nsigned_by = \"line\"\n",
        )
        + "[[authority]]\nname = \"line\"\ntoken = \"line\"\nlabel = \"line-1\"\ncertificate = \"line.pem\"\n";
    std::fs::write(path("beyond.toml"), beyond).unwrap();
    let (beyond, transcript) = (path("beyond.toml"), path("beyond.json"));
    let arguments = [
        "run",
        &beyond,
        "--transcript",
        &transcript,
        "--yes",
        "--signer",
        &alice,
        "--signer",
        &bob,
    ];
    let (code, said) = ceremony(&softhsm, &arguments);
    assert!(code == 1 && said.contains("path length"), "{said}");
    let told: Value = serde_json::from_slice(&std::fs::read(&transcript).unwrap()).unwrap();
    assert!(
        told["failed"].as_str().unwrap().contains("path length"),
        "{told}"
    );
    assert_eq!(told["steps"].as_array().unwrap().len(), 3, "{told}");
    assert!(!first.join("beyond.pem").exists());

    // The line issues with it.
    own.configure(|config| {
        let section = |text: &str| toml::Value::Table(text.parse().unwrap());
        let token = format!(
            "name = 'line'\nmodule = '/usr/lib/softhsm/libsofthsm2.so'\ntoken_label = 'line'\npin_file = '{}'",
            path("line.pin")
        );
        let issuer = format!("name = 'line-1'\nhsm = 'line'\nkey_label = 'line-1'\ncertificate = '{}'", path("line.pem"));
        config["hsm"].as_array_mut().unwrap().push(section(&token));
        config["issuer"].as_array_mut().unwrap().push(section(&issuer));
    });
    let profile = own.world.dir.join("profiles/lightbulb.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, text.replace("\"line-ec\"", "\"line-1\"")).unwrap();
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let body = issued(
        &own.world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    assert_eq!(body["issuer"], "line-1");
    std::fs::write(path("device.pem"), body["certificate"].as_str().unwrap()).unwrap();
    let whole = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        &path("root.pem"),
        "-untrusted",
        &path("line.pem"),
        &path("device.pem"),
    ];
    let (verified, said) = openssl(&whole);
    assert!(verified, "{said}");
}
