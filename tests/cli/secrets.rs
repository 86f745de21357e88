//! Secrets stay where they are: in their files, which only their owner may read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::device::Device;
use crate::support::world::{OwnWorld, issued, shared};
use crate::{finish, run};

/// Places in which a secret was looked for and found, in any of its forms.
fn found_in(secret: &str, places: &[(&str, String)]) -> Vec<String> {
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    let base64 = openssl::base64::encode_block(secret.as_bytes());
    let forms = [secret, &hex, base64.trim_end_matches('=')];
    let holds = |text: &str| forms.iter().any(|form| text.contains(form));
    places
        .iter()
        .filter(|(_, text)| holds(text))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// Everything that others may see of a running world.
fn visible(own: &OwnWorld) -> Vec<(&'static str, String)> {
    let world = &own.world;
    let process = |file: &str| {
        let bytes = fs::read(format!("/proc/{}/{file}", own.pid())).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let output = |arguments: &[&str]| {
        let done = run(world, arguments);
        done.text() + &done.err
    };
    let mut dump = Command::new("pg_dumpall");
    dump.arg("-h")
        .arg(fs::canonicalize(world.dir.join("postgres")).unwrap())
        .args(["-U", "postgres"]);
    let all = vec![
        ("the service's log", own.log()),
        ("/metrics", world.operations().get("/metrics").text()),
        ("/readyz", own.readiness().1),
        ("config show", output(&["config", "show"])),
        ("config show --json", output(&["config", "show", "--json"])),
        ("doctor", output(&["doctor"])),
        ("doctor --json", output(&["doctor", "--json"])),
        ("the service's arguments", process("cmdline")),
        ("the service's environment", process("environ")),
        ("the database", finish(dump, b"").ok().text()),
        (
            "the database's log",
            fs::read_to_string(world.dir.join("log/postgres.log")).unwrap(),
        ),
    ];
    for (name, text) in &all {
        assert!(!text.is_empty(), "{name} was not read");
    }
    all
}

#[test]
fn no_pin_and_no_private_key_is_seen_outside_its_file() {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        let log: toml::Table = "level = \"trace\"".parse().unwrap();
        config.insert("log".into(), log.into());
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let device = Device::p256();
    issued(
        &own.world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    let pin_file = own.world.dir.join("softhsm/pin");
    let pin = fs::read_to_string(&pin_file).unwrap().trim().to_owned();
    assert!(pin.len() >= 16, "too short to be looked for");

    // The search finds what is there, in each of its forms.
    let control = [
        ("the file", fs::read_to_string(&pin_file).unwrap()),
        (
            "hexadecimal",
            format!(
                "\\\\x{}00",
                pin.bytes().map(|b| format!("{b:02x}")).collect::<String>()
            ),
        ),
        ("base64", openssl::base64::encode_block(pin.as_bytes())),
        ("nothing", "nothing".to_owned()),
    ];
    assert_eq!(
        found_in(&pin, &control),
        ["the file", "hexadecimal", "base64"]
    );

    let places = visible(&own);
    assert!(
        places
            .iter()
            .any(|(name, text)| *name == "the database" && text.contains(&device.name))
    );
    assert!(
        places
            .iter()
            .any(|(name, text)| *name == "the service's log" && text.contains("TRACE"))
    );
    assert_eq!(found_in(&pin, &places), [""; 0]);

    // A start with a wrong PIN complains, of neither the wrong nor the right one.
    own.kill_service();
    let wrong = "wrong-pin-7c1f0a5e9b";
    fs::write(&pin_file, wrong).unwrap();
    own.start_service();
    own.wait_not_ready("PIN", Duration::from_secs(30));
    let places = visible(&own);
    assert!(
        places
            .iter()
            .any(|(name, text)| *name == "doctor" && text.contains("FAIL"))
    );
    for pin in [pin.as_str(), wrong] {
        assert_eq!(found_in(pin, &places), [""; 0]);
    }

    let key = fs::read_to_string(own.world.dir.join("tls/server.key")).unwrap();
    let header = "PRIVATE KEY-----";
    assert!(key.contains(header));
    let keys: Vec<&str> = places
        .iter()
        .filter(|(_, text)| text.contains(header))
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(keys, [""; 0]);
}

#[test]
fn pins_and_private_keys_are_their_owners_alone() {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for room in ["softhsm", "tls", "clients", "issuers", "first"] {
        walk(&shared().dir.join(room), &mut files);
    }
    let secret = |path: &&PathBuf| {
        path.extension()
            .is_some_and(|x| x == "key" || x == "object")
            || path.ends_with("softhsm/pin")
    };
    let secrets: Vec<_> = files.iter().filter(secret).collect();
    // The PIN, the server's key, four clients', the first device's, and the token's objects.
    assert!(secrets.len() >= 11, "{secrets:?}");
    for path in secrets {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}
