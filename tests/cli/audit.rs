//! `audit`: the log copied, verified offline, and every kind of change to the copy found and named;
//! `witness`: what co-signs it.

use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::Done;
use crate::run;
use crate::support::device::Device;
use crate::support::world::OwnWorld;
use crate::support::world::World;
use crate::support::world::issued;
use crate::support::world::shared;
use crate::text;

/// A world's own trust: its log key and its issuers.
pub fn trust(world: &World) -> Vec<String> {
    let dir = world.dir.display();
    let mut arguments = vec!["--log-key".to_owned(), format!("{dir}/head-office/log.pem")];
    for issuer in ["line-ec", "line-rsa", "stations"] {
        arguments.extend(["--issuer".to_owned(), format!("{dir}/issuers/{issuer}.pem")]);
    }
    arguments
}

pub fn verify(world: &World, more: &[&str]) -> Done {
    let trust = trust(world);
    let mut arguments = vec!["audit", "verify", "--json"];
    arguments.extend(trust.iter().map(String::as_str));
    arguments.extend(more);
    run(world, &arguments)
}

/// Issues some certificates, and waits until a signed tree holds them; the first and the last index.
pub fn some(world: &World, count: usize) -> (u64, u64) {
    let station = world.client("station-01");
    let indexes: Vec<u64> = (0..count)
        .map(|_| issued(&station.issue(&Device::p256().request("lightbulb"))))
        .map(|body| body["log_index"].as_u64().unwrap())
        .collect();
    let (first, last) = (indexes[0], *indexes.last().unwrap());
    let start = Instant::now();
    let size = || {
        let text = world.nobody().get("/v1/audit/checkpoint").text();
        text.lines()
            .nth(1)
            .and_then(|line| line.parse::<u64>().ok())
    };
    while size().is_none_or(|size| size <= last) {
        assert!(start.elapsed() < Duration::from_secs(20), "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
    (first, last)
}

pub fn export(world: &World, directory: &Path) -> Value {
    run(world, &["audit", "export", "--json", text(directory)])
        .ok()
        .json()
}

/// The one file of the entries' last, partial bundle, or of the tiles' at a level.
fn partial(copy: &Path, below: &str) -> PathBuf {
    let directory = std::fs::read_dir(copy.join("tile").join(below)).unwrap();
    let partials = directory
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir());
    let mut files: Vec<PathBuf> = std::fs::read_dir(partials.unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_by_key(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    });
    files.pop().unwrap()
}

/// Entries of a bundle, and the octets of others.
fn leaves(bundle: &[u8]) -> Vec<Vec<u8>> {
    let mut leaves = Vec::new();
    let mut rest = bundle;
    while let [high, low, after @ ..] = rest {
        let (leaf, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        leaves.push(leaf.to_vec());
        rest = after;
    }
    leaves
}

fn bundle(leaves: &[Vec<u8>]) -> Vec<u8> {
    let leaf =
        |leaf: &Vec<u8>| [&u16::try_from(leaf.len()).unwrap().to_be_bytes()[..], leaf].concat();
    leaves.iter().flat_map(leaf).collect()
}

#[test]
fn a_copy_of_the_log_is_verified_offline_and_every_change_to_it_is_named() {
    let own = OwnWorld::running();
    let world = &own.world;
    let home = TempDir::new().unwrap();
    let copy = home.path().join("copy");
    let (first, _) = some(world, 4);
    export(world, &copy);
    let earlier = home.path().join("earlier");
    std::fs::copy(copy.join("checkpoint"), &earlier).unwrap();
    let (_, last) = some(world, 4);
    let exported = export(world, &copy);
    assert!(exported["entries"].as_u64().unwrap() > last);

    let profiles = world.dir.join("profiles");
    let good = verify(
        world,
        &[
            text(&copy),
            "--previous",
            text(&earlier),
            "--profiles",
            text(&profiles),
        ],
    );
    let summary = good.ok().json();
    assert_eq!(summary["faults"], 0, "{summary}");
    assert!(summary["certificates"].as_u64().unwrap() >= 8, "{summary}");
    // the service's address in place of a copy
    assert_eq!(verify(world, &[]).ok().json()["faults"], 0);

    let entries = partial(&copy, "entries");
    let tile = partial(&copy, "0");
    let note = copy.join("checkpoint");
    let original = [&entries, &tile, &note].map(|path| std::fs::read(path).unwrap());
    let at = usize::try_from(first).unwrap();
    let base = usize::try_from(last / 256 * 256).unwrap();
    assert_eq!(base, 0, "a world of its own is small");
    let change = |path: &Path, changed: Vec<u8>, said: &str| {
        let [entries_were, tile_was, note_was] = &original;
        std::fs::write(path, changed).unwrap();
        let done = verify(world, &[text(&copy)]);
        assert_eq!(done.code, 1, "not found: {said}");
        assert!(done.err.contains(said), "{said}: {}", done.err);
        std::fs::write(&entries, entries_were).unwrap();
        std::fs::write(&tile, tile_was).unwrap();
        std::fs::write(&note, note_was).unwrap();
    };
    let with = |work: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut all = leaves(&original[0]);
        work(&mut all);
        bundle(&all)
    };
    let named = format!("entry {first}: ");
    change(&entries, with(&|all| all[at][30] ^= 1), &named);
    change(
        &entries,
        with(&|all| {
            let end = all[at].len() - 1;
            all[at][end] ^= 1;
        }),
        &named,
    );
    change(&entries, with(&|all| all.swap(at, at + 1)), &named);
    change(
        &entries,
        with(&|all| {
            all.remove(at);
        }),
        "cut short",
    );
    change(
        &entries,
        with(&|all| {
            let one = all[at].clone();
            all.insert(at, one);
        }),
        &format!("entry {}: ", first + 1),
    );
    change(
        &entries,
        with(&|all| {
            all.pop();
        }),
        "cut short",
    );
    change(
        &tile,
        {
            let mut octets = original[1].clone();
            octets[32 * at] ^= 1;
            octets
        },
        &named,
    );
    change(&tile, original[1][32..].to_vec(), "cut short");
    let text_of =
        |work: fn(&str) -> String| work(std::str::from_utf8(&original[2]).unwrap()).into_bytes();
    change(
        &note,
        text_of(|note| note.replacen("dev.example", "bad.example", 1)),
        "checkpoint: ",
    );
    change(
        &note,
        text_of(|note| note.replacen('\n', "\n1", 1)),
        "checkpoint: ",
    );

    // trust that does not fit
    let stranger = world.dir.join("head-office/report.pem");
    let log_key = world.dir.join("head-office/log.pem");
    let issuer = world.dir.join("issuers/line-rsa.pem");
    let untrusted = run(
        world,
        &[
            "audit",
            "verify",
            text(&copy),
            "--log-key",
            text(&stranger),
            "--issuer",
            text(&issuer),
        ],
    );
    assert_eq!(untrusted.code, 1);
    let unissued = run(
        world,
        &[
            "audit",
            "verify",
            text(&copy),
            "--log-key",
            text(&log_key),
            "--issuer",
            text(&issuer),
        ],
    );
    assert!(
        unissued.code == 1 && unissued.err.contains("its issuer line-ec was not given"),
        "{unissued:?}"
    );
    let none = home.path().join("none");
    std::fs::create_dir(&none).unwrap();
    let unapproved = verify(world, &[text(&copy), "--profiles", text(&none)]);
    assert!(
        unapproved.code == 1 && unapproved.err.contains("was not approved"),
        "{unapproved:?}"
    );
}

#[test]
fn a_checkpoint_is_held_against_the_one_before() {
    let world = shared();
    let home = TempDir::new().unwrap();
    some(world, 1);
    let key = world.dir.join("head-office/log.pem");
    let ask = |more: &[&str]| {
        let mut arguments = vec!["audit", "checkpoint", "--log-key", text(&key)];
        arguments.extend(more);
        run(world, &arguments)
    };
    let kept = home.path().join("kept");
    std::fs::write(&kept, ask(&[]).ok().out).unwrap();
    some(world, 1);
    ask(&["--previous", text(&kept)]).ok();
    let note = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, note.replacen("dev.example", "bad.example", 1)).unwrap();
    assert_eq!(ask(&["--previous", text(&kept)]).code, 1);
    let report = world.dir.join("head-office/report.pem");
    let foreign = run(world, &["audit", "checkpoint", "--log-key", text(&report)]);
    assert_eq!(foreign.code, 1, "{foreign:?}");
}

/// A witness of this program; ends with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a witness; its address.
fn witness(world: &World, home: &Path, state: &str, listen: &str) -> (Running, String) {
    let key = world.dir.join("head-office/log.pem");
    let log = format!("dev.example/certfactory={}", text(&key));
    let mut child = world
        .program(&[
            "witness",
            "serve",
            "--name",
            "witness.example/w1",
            "--key",
            text(&home.join("w.key")),
        ])
        .args([
            "--state",
            text(&home.join(state)),
            "--log",
            &log,
            "--listen",
            listen,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().unwrap().unwrap();
        if let Ok(address) = line.parse::<std::net::SocketAddr>() {
            break address.to_string();
        }
    };
    std::thread::spawn(move || lines.count());
    (Running(child), address)
}

fn cosigned(own: &OwnWorld) -> String {
    own.world.nobody().get("/v1/audit/checkpoint").text()
}

#[test]
fn a_witness_cosigns_what_it_saw_grow_and_says_so_when_it_saw_another_history() {
    let mut own = OwnWorld::make();
    let home = TempDir::new().unwrap();
    let (key, public) = (home.path().join("w.key"), home.path().join("w.pem"));
    run(
        &own.world,
        &[
            "witness",
            "init",
            "--key",
            text(&key),
            "--public-key",
            text(&public),
        ],
    )
    .ok();
    let (first, address) = witness(&own.world, home.path(), "seen", "127.0.0.1:0");
    own.configure(|config| {
        let mut witness = toml::Table::new();
        witness.insert("name".into(), "witness.example/w1".into());
        witness.insert("url".into(), format!("http://{address}").into());
        witness.insert("public_key".into(), text(&public).into());
        let audit = config["audit"].as_table_mut().unwrap();
        audit.insert("witness".into(), toml::Value::Array(vec![witness.into()]));
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let (_, last) = some(&own.world, 2);
    let start = Instant::now();
    loop {
        let note = cosigned(&own);
        let size = note.lines().nth(1).unwrap().parse::<u64>().unwrap();
        if size > last && note.contains("\u{2014} witness.example/w1 ") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{note}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let at = own
        .world
        .metric("certfactory_log_witness_timestamp_seconds");
    assert!(at > 1_700_000_000.0);
    let by = format!("witness.example/w1={}", text(&public));
    let copy = home.path().join("copy");
    export(&own.world, &copy);
    let summary = verify(&own.world, &[text(&copy), "--witness", &by])
        .ok()
        .json();
    assert_eq!(summary["witnesses"], 1, "{summary}");

    // It has seen a longer log than this one, of the same name and key: a database of before.
    drop(first);
    own.kill_service();
    let lie = "SET session_replication_role = replica; DELETE FROM checkpoint; DELETE FROM log_tile; DELETE FROM cosignature;
               UPDATE log_entry SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE log_index = 1";
    own.world.sql(lie);
    std::fs::remove_dir_all(own.world.dir.join("journal")).unwrap();
    std::fs::create_dir(own.world.dir.join("journal")).unwrap();
    let (_second, _) = witness(&own.world, home.path(), "seen", &address);
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    some(&own.world, 1);
    let start = Instant::now();
    loop {
        let answer = own.world.operations().get("/readyz").json();
        let warned = answer["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|warning| warning["component"] == "witness");
        if warned {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(own.world.metric("certfactory_log_witness_refused_total") >= 1.0);
    assert!(!cosigned(&own).contains("witness.example/w1"));
}
