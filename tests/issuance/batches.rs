//! Batches under fire: replicas die, the disk goes, and nobody's key is where it should not be.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::pause_up_to;
use crate::reload::{ACCEPTED, hang_up};
use crate::support::batch::order;
use crate::support::device::Device;
use crate::support::faults::{calls, control, use_fault_module};
use crate::support::recipient::Recipient;
use crate::support::replica::Second;
use crate::support::world::OwnWorld;

const LONG: Duration = Duration::from_secs(180);

#[test]
fn replicas_that_die_leave_every_device_one_key_and_one_certificate() {
    let mut own = OwnWorld::running();
    let mut second = Second::start(&own, &[]);
    let recipient = Recipient::new();
    let id = own.world.taken(&order(6_000, &recipient));
    for kill in 0..6 {
        pause_up_to(Duration::from_millis(700));
        if kill % 2 == 0 {
            own.kill_service();
            own.start_service();
            own.wait_ready(Duration::from_secs(20));
        } else {
            second.kill_and_start(&own);
        }
    }
    let done = own.world.wait_done(&id, LONG);
    assert_eq!(
        (&done["issued"], &done["failed"]),
        (&json!(6_000), &json!(0))
    );
    own.wait_no_open_intents(Duration::from_secs(10));
    let rows = own.world.sql(
        "SELECT count(*) || ' ' || count(DISTINCT device) || ' ' || count(DISTINCT spki_sha256)
         FROM intent JOIN outcome USING (intent_id) WHERE key_origin = 'made' AND kind = 'device' AND der IS NOT NULL",
    );
    assert_eq!(rows, "6000 6000 6000");
    let (tar, _) = own.world.unpack(&id, &recipient);
    assert_eq!(
        own.world.verify_package(&tar, &recipient)["devices"],
        json!(6_000)
    );
}

#[test]
fn a_disk_that_is_away_holds_a_batch_up_and_it_ends_when_it_is_back() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let id = world.taken(&order(20_000, &recipient));
    world.wait_batch(&id, LONG, |batch| batch["issued"].as_i64() >= Some(1_000));
    // Not a directory any more, whoever the service runs as.
    let (directory, away) = (world.dir.join("batches"), world.dir.join("batches-away"));
    std::fs::rename(&directory, &away).unwrap();
    std::fs::write(&directory, "").unwrap();
    own_restart_of_the_package(world, &id);
    let held = world.wait_batch(&id, LONG, |batch| batch["state"] == "paused");
    assert!(
        held["reason"]
            .as_str()
            .unwrap()
            .contains("cannot be written"),
        "{held}"
    );
    std::thread::sleep(Duration::from_secs(4));
    let so_far = world.show_batch(&id)["issued"].clone();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.show_batch(&id)["issued"], so_far, "it goes on");
    assert!(so_far.as_i64() < Some(20_000));
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&away, &directory).unwrap();
    world.wait_done(&id, LONG);
    let (tar, _) = world.unpack(&id, &recipient);
    assert_eq!(
        world.verify_package(&tar, &recipient)["devices"],
        json!(20_000)
    );
    let left: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(
        left,
        [format!("{id}.tar").as_str()],
        "nothing but the package"
    );
}

/// An open file is written on wherever its directory goes: the next package begins anew.
fn own_restart_of_the_package(world: &crate::support::world::World, id: &str) {
    assert_eq!(world.act(id, "pause").status, 200);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.act(id, "resume").status, 200);
}

#[test]
fn a_package_has_the_chain_of_each_issuer_that_the_profile_had_while_its_batch_ran() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let id = world.taken(&order(12_000, &recipient));
    world.wait_batch(&id, LONG, |batch| batch["issued"].as_i64() >= Some(500));
    assert_eq!(world.act(&id, "pause").status, 200);
    let profile = world.dir.join("profiles/lightbulb.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    let changed = text.replace("issuer = \"line-ec\"", "issuer = \"line-rsa\"");
    assert_ne!(changed, text);
    std::fs::write(&profile, changed).unwrap();
    hang_up(&own, ACCEPTED);
    assert_eq!(world.act(&id, "resume").status, 200);

    world.wait_done(&id, LONG);
    let (tar, unpacked) = world.unpack(&id, &recipient);
    let chains = std::fs::read_dir(unpacked.join("chain")).unwrap();
    let mut chains: Vec<_> = chains.map(|it| it.unwrap().file_name()).collect();
    chains.sort();
    assert_eq!(chains, ["line-ec.pem", "line-rsa.pem"]);
    assert_eq!(
        world.verify_package(&tar, &recipient)["devices"],
        json!(12_000)
    );
}

#[test]
fn a_database_that_goes_and_comes_back_costs_a_batch_nothing() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let id = world.taken(&order(5_000, &recipient));
    world.wait_batch(&id, LONG, |batch| batch["issued"].as_i64() >= Some(1_000));
    own.stop_postgres("immediate");
    std::thread::sleep(Duration::from_secs(3));
    own.start_postgres();
    let done = world.wait_done(&id, LONG);
    assert_eq!(done["issued"], json!(5_000));
    let (tar, _) = world.unpack(&id, &recipient);
    assert_eq!(
        world.verify_package(&tar, &recipient)["devices"],
        json!(5_000)
    );
}

/// A token that signs fifty times a second, with room for a second and a half of that; a batch's three chunks have
/// three times as much on their way, and no more.
#[test]
fn a_batch_fills_a_slow_hsms_queue_without_a_refusal_and_a_station_goes_before_all_of_it() {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    own.configure(|config| {
        let hsm = config["hsm"][0].as_table_mut().unwrap();
        hsm.insert("queue_depth_max".into(), toml::Value::Integer(80));
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let (world, recipient) = (&own.world, Recipient::new());
    control(&own, "delay_ms=40");
    let id = world.taken(&order(3_000, &recipient));
    let depth = || world.metric("certfactory_hsm_queue_depth");
    let start = Instant::now();
    while depth() < 200.0 {
        assert!(start.elapsed() < LONG, "{} wait", depth());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(depth() < 250.0, "{} wait", depth());
    let (station, request) = (
        world.client("station-01"),
        Device::p256().request("lightbulb"),
    );
    let before = calls(&own, "sign");
    let device = station.issue(&request);
    let signatures = calls(&own, "sign") - before;
    assert_eq!(device.status, 201, "{device:?}");
    assert!(
        signatures < 45,
        "{signatures} signatures were made before a station's"
    );
    control(&own, "");
    let done = world.wait_done(&id, LONG);
    assert_eq!(done["issued"], json!(3_000));
    assert!(!done["last_error"].to_string().contains("queue"), "{done}");
}

#[test]
fn keys_whose_time_is_up_are_destroyed_and_the_record_says_by_what() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let id = world.taken(&order(3, &recipient));
    world.wait_done(&id, LONG);
    world.sql(&format!(
        "UPDATE batch SET finished_at = finished_at - interval '31 days' WHERE batch_id = '{id}'"
    ));
    let over = world.wait_batch(&id, LONG, |batch| batch["keys_destroyed_at"].is_string());
    assert_eq!(over["state"], "done");
    let record = format!(
        "SELECT keys_destroyed_by || ' ' || (SELECT count(envelopes) FROM batch_chunk k WHERE k.batch_id = b.batch_id)
         FROM batch b WHERE batch_id = '{id}'"
    );
    assert_eq!(world.sql(&record), "retention 0");
    let gone = world
        .client("operator")
        .get(&format!("/v1/batches/{id}/package"));
    assert_eq!((gone.status, gone.slug().as_str()), (410, "gone"));
    // Nobody can bring them back, nor give a chunk other keys, nor undo its end.
    for sql in [
        "UPDATE batch SET keys_destroyed_at = NULL, keys_destroyed_by = NULL",
        "UPDATE batch SET state = 'running', finished_at = NULL",
        "UPDATE batch_chunk SET public_keys = '{}'",
        "UPDATE batch_chunk SET envelopes = '{00}'",
        "UPDATE batch_chunk SET done_at = NULL, intent_ids = NULL, failures = NULL, issued = NULL",
    ] {
        let refused = world.sql_fails(&format!("{sql} WHERE batch_id = '{id}'"));
        assert!(refused.contains("stay"), "{sql}: {refused}");
    }
}

#[test]
fn no_private_key_of_a_batch_is_in_memory_database_disk_or_log() {
    let own = OwnWorld::running();
    let (world, recipient) = (&own.world, Recipient::new());
    let id = world.taken(&order(1_000, &recipient));
    world.wait_done(&id, LONG);
    let (_, directory) = world.unpack(&id, &recipient);
    let opened = recipient.open(&directory.join("keys/0001.p7m"));
    assert_eq!(opened.len(), 1_000);
    let mut needles = HashSet::new();
    for (_, key) in &opened {
        let scalar = key
            .ec_key()
            .unwrap()
            .private_key()
            .to_vec_padded(32)
            .unwrap();
        let mut words: Vec<u8> = scalar.clone();
        words.reverse();
        for needle in [scalar, words] {
            needles.insert(<[u8; 32]>::try_from(needle).unwrap());
        }
    }
    let needles = Needles::new(needles);

    // The method finds what is there: a process that holds one of them.
    let held: Vec<u8> = needles.all.iter().next().unwrap().to_vec();
    assert!(
        memory_holds([std::process::id()], &needles) > 0,
        "{}",
        held.len()
    );

    let status = std::fs::read_to_string(format!("/proc/{}/limits", own.pid())).unwrap();
    let core = status
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(core.contains(" 0 "), "{core}");
    assert_eq!(
        memory_holds([own.pid()], &needles),
        0,
        "in the service's memory"
    );
    assert_eq!(
        memory_holds(own.postgres_processes(), &needles),
        0,
        "in the memory of PostgreSQL"
    );

    own.world.sql("CHECKPOINT");
    let mut files = 0;
    walk(&world.dir, &mut |path| {
        let mut octets = Vec::new();
        if File::open(path).is_ok_and(|mut file| file.read_to_end(&mut octets).is_ok()) {
            assert_eq!(needles.count(&octets), 0, "in {}", path.display());
            files += 1;
        }
    });
    assert!(files > 500, "the cluster, its WAL and the logs: {files}");
    let dump = world.postgres("pg_dump", &["certfactory"]);
    assert!(!dump.contains("PRIVATE KEY"));
    assert!(needles.in_hexadecimal(&dump) == 0);
}

/// The scalars, found by their first three octets.
struct Needles {
    all: HashSet<[u8; 32]>,
    beginnings: Vec<bool>,
}

impl Needles {
    fn new(all: HashSet<[u8; 32]>) -> Self {
        let mut beginnings = vec![false; 1 << 24];
        for needle in &all {
            beginnings[place(needle)] = true;
        }
        Self { all, beginnings }
    }

    fn count(&self, hay: &[u8]) -> usize {
        let found = hay
            .windows(32)
            .filter(|window| self.beginnings[place(window)] && self.all.contains(*window));
        found.count()
    }

    fn in_hexadecimal(&self, text: &str) -> usize {
        let hex = |needle: &[u8; 32]| -> String {
            needle.iter().map(|octet| format!("{octet:02x}")).collect()
        };
        let all: HashSet<String> = self.all.iter().map(hex).collect();
        let found = text.as_bytes().windows(64).filter(|window| {
            window.iter().all(u8::is_ascii_hexdigit)
                && all.contains(std::str::from_utf8(window).unwrap())
        });
        found.count()
    }
}

fn place(octets: &[u8]) -> usize {
    usize::from(octets[0]) << 16 | usize::from(octets[1]) << 8 | usize::from(octets[2])
}

/// How often the needles are in the memory of processes: in what several share, which is most of PostgreSQL's, once.
fn memory_holds(pids: impl IntoIterator<Item = u32>, needles: &Needles) -> usize {
    let (mut found, mut read) = (0, 0);
    let mut shared = HashSet::new();
    for pid in pids {
        // One of PostgreSQL's may have ended since they were listed.
        let memory = File::open(format!("/proc/{pid}/mem"));
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
        let (Ok(memory), Ok(maps)) = (memory, maps) else {
            continue;
        };
        for line in maps.lines() {
            // Addresses, permissions, offset, device, inode.
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !fields[1].starts_with('r')
                || fields[1].ends_with('s') && !shared.insert(fields[2..5].join(" "))
            {
                continue;
            }
            let (start, end) = fields[0].split_once('-').unwrap();
            let at = |text| u64::from_str_radix(text, 16).unwrap();
            let (found_here, read_here) = range_holds(&memory, at(start)..at(end), needles);
            (found, read) = (found + found_here, read + read_here);
        }
    }
    assert!(read > 10 << 20, "{read} octets are no process's memory");
    found
}

/// How often, and in how many octets. In pieces that overlap; a page that cannot be read is none of the heap's.
fn range_holds(memory: &File, mut range: Range<u64>, needles: &Needles) -> (usize, usize) {
    let (mut found, mut read) = (0, 0);
    let mut piece = vec![0; 1 << 20];
    while !range.is_empty() {
        let left = usize::try_from(range.end - range.start).unwrap();
        let length = left.min(piece.len());
        if memory
            .read_exact_at(&mut piece[..length], range.start)
            .is_ok()
        {
            found += needles.count(&piece[..length]);
            read += length;
        }
        if length < piece.len() {
            break;
        }
        range.start += u64::try_from(length - 31).unwrap();
    }
    (found, read)
}

fn walk(directory: &Path, see: &mut impl FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            walk(&path, see);
        } else if entry.file_type().is_ok_and(|it| it.is_file()) {
            see(&path);
        }
    }
}
