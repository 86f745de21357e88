//! The log under load: two replicas that die, and how soon a certificate is proved.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use certfactory::pki::merkle::verify_consistency;
use certfactory::pki::note::Checkpoint;
use certfactory::pki::note::Note;
use serde_json::Value;

use crate::STATIONS;
use crate::load::Load;
use crate::load::pause_up_to;
use crate::seconds;
use crate::support::device::Device;
use crate::support::replica::Second;
use crate::support::world::OwnWorld;

/// The newest checkpoint, as the first replica shows it.
fn checkpoint(own: &OwnWorld) -> Option<Checkpoint> {
    let answer = own.world.nobody().get("/v1/audit/checkpoint");
    let note = Note::parse(&answer.text()).ok()?;
    Checkpoint::parse(&note.text).ok()
}

/// Two replicas under load, each killed in turn; then one log, whole and right.
pub fn kills(count: u32) {
    let mut own = OwnWorld::running();
    let mut second = Second::start(&own, &[]);
    let load = Load::start(&own.world, STATIONS);
    let mut seen: BTreeMap<u64, Checkpoint> = BTreeMap::new();
    let mut look = |own: &OwnWorld| {
        if let Some(checkpoint) = checkpoint(own) {
            let before = seen.insert(checkpoint.size, checkpoint.clone());
            assert!(
                before.is_none_or(|before| before.root == checkpoint.root),
                "two roots"
            );
        }
    };
    for kill in 0..count {
        std::thread::sleep(Duration::from_millis(200));
        pause_up_to(Duration::from_millis(1_300));
        if kill % 2 == 0 {
            own.kill_service();
            own.start_service();
            own.wait_ready(seconds(20));
        } else {
            second.kill_and_start(&own);
        }
        look(&own);
    }
    let history = load.stop();
    own.wait_no_open_intents(seconds(10));
    std::thread::sleep(seconds(3));
    look(&own);
    history.holds_against(&own.world);
    let newest = seen.values().next_back().unwrap();
    let (mut pairs, all): (u32, Vec<&Checkpoint>) = (0, seen.values().collect());
    for pair in all.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let path = format!("/v1/audit/consistency?from={}&to={}", from.size, to.size);
        let body: Value = own.world.nobody().get(&path).json();
        use base64::Engine as _;
        let decode = |hash: &Value| {
            base64::engine::general_purpose::STANDARD
                .decode(hash.as_str().unwrap())
                .unwrap()
        };
        let proof: Vec<[u8; 32]> = body["proof"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hash| decode(hash).try_into().unwrap())
            .collect();
        assert!(
            verify_consistency(from.size, to.size, &proof, &from.root, &to.root),
            "a fork"
        );
        pairs += 1;
    }
    drop(second);
    own.kill_service();
    let dir = own.world.dir.display().to_string();
    let start = Instant::now();
    let mut arguments = vec![
        "--json".to_owned(),
        "audit".into(),
        "verify".into(),
        "--database".into(),
        "--log-key".into(),
        format!("{dir}/head-office/log.pem"),
    ];
    for issuer in ["line-ec", "line-rsa", "stations"] {
        arguments.extend(["--issuer".to_owned(), format!("{dir}/issuers/{issuer}.pem")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let verified = own.world.program(&arguments).output().unwrap();
    println!("kills                      {count}, two replicas in turn");
    println!(
        "certificates received      {}",
        history.certificates.lock().unwrap().len()
    );
    println!(
        "checkpoints seen           {}, {pairs} pairs consistent, the last of {} entries",
        all.len(),
        newest.size
    );
    println!(
        "audit verify --database    {:.1} s, {}",
        start.elapsed().as_secs_f64(),
        String::from_utf8_lossy(&verified.stdout)
            .lines()
            .filter(|line| line.contains("faults") || line.contains("entries\""))
            .collect::<String>()
    );
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}

/// How long after its certificate a proof is there, beside a full line.
pub fn latency(count: u32) {
    let own = OwnWorld::running();
    let load = Load::start(&own.world, STATIONS);
    std::thread::sleep(seconds(3));
    let station = own.world.client("station-01");
    let mut waits: Vec<Duration> = Vec::new();
    for _ in 0..count {
        let answer = station.issue(&Device::p256().request("lightbulb"));
        assert_eq!(answer.status, 201, "{answer:?}");
        let start = Instant::now();
        let serial = answer.json()["serial_number"].as_str().unwrap().to_owned();
        let proved = station.get(&format!("/v1/certificates/{serial}/inclusion"));
        assert_eq!(proved.status, 200, "{proved:?}");
        waits.push(start.elapsed());
    }
    let history = load.stop();
    waits.sort_unstable();
    println!(
        "certificates beside        {}",
        history.certificates.lock().unwrap().len()
    );
    println!(
        "proved after               median {:?}, longest {:?} of {count}",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
}
