//! Batches at full size: kills, a full disk, the line beside them, a million rows.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use certfactory::pki::hex;
use openssl::base64::encode_block;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509NameBuilder, X509ReqBuilder};
use serde_json::{Value, json};

use crate::load::pause_up_to;
use crate::support::batch::order;
use crate::support::recipient::Recipient;
use crate::support::replica::Second;
use crate::support::world::OwnWorld;

const LONG: Duration = Duration::from_secs(1_800);

/// `kill -9` of two replicas in turn, at random moments of a batch.
pub fn kills(devices: u32, kills: u32) {
    let mut own = OwnWorld::running();
    let mut second = Second::start(&own, &[]);
    let recipient = Recipient::new();
    let id = own.world.taken(&order(devices, &recipient));
    let start = Instant::now();
    let mut during = 0;
    for kill in 0..kills {
        pause_up_to(Duration::from_millis(2_500));
        during += u32::from(own.world.show_batch(&id)["state"] == "running");
        if kill % 2 == 0 {
            own.kill_service();
            own.start_service();
            own.wait_ready(Duration::from_secs(20));
        } else {
            second.kill_and_start(&own);
        }
    }
    let done = own.world.wait_done(&id, LONG);
    let rows = own.world.sql(
        "SELECT count(*) || ' certificates, ' || count(DISTINCT device) || ' devices, ' || count(DISTINCT spki_sha256) || ' keys'
         FROM intent JOIN outcome USING (intent_id) WHERE key_origin = 'made' AND kind = 'device' AND der IS NOT NULL",
    );
    println!(
        "kills                      {kills} of two replicas in turn, {during} while the batch ran"
    );
    println!(
        "the batch says             {} issued, {} failed, after {:.0} s",
        done["issued"],
        done["failed"],
        start.elapsed().as_secs_f64()
    );
    println!(
        "the ledger says            {rows}, {} open intents",
        own.open_intents()
    );
    let (tar, _) = own.world.unpack(&id, &recipient);
    let verified = own.world.verify_package(&tar, &recipient);
    println!("batch verify               {verified}");
    assert_eq!(done["issued"], json!(devices));
    assert_eq!(
        rows,
        format!("{devices} certificates, {devices} devices, {devices} keys")
    );
    assert_eq!(verified["devices"], json!(devices));
}

/// Eight stations alone, and beside a batch.
pub fn line(pairs: u32, duration: Duration) {
    let own = OwnWorld::running();
    let recipient = Recipient::new();
    let bench = || -> Value {
        let seconds = duration.as_secs().to_string();
        let output = own
            .world
            .program(&[
                "--json",
                "benchmark",
                "line",
                "--connections",
                "8",
                "--seconds",
                &seconds,
            ])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let alone = bench();
        let id = own.world.taken(&order(1_000_000, &recipient));
        own.world
            .wait_batch(&id, LONG, |batch| batch["issued"].as_i64() > Some(2_000));
        let before = own.world.show_batch(&id)["issued"].as_i64().unwrap();
        let beside = bench();
        let after = own.world.show_batch(&id)["issued"].as_i64().unwrap();
        own.world.act(&id, "cancellation");
        own.world
            .wait_batch(&id, LONG, |batch| batch["package"].is_object());
        let p99 = |report: &Value| report["p99_ms"].as_f64().unwrap();
        let ratio = p99(&beside) / p99(&alone);
        println!(
            "p99 alone {:.1} ms at {:.0}/s, beside a batch {:.1} ms at {:.0}/s, ratio {ratio:.2}; the batch made {} meanwhile",
            p99(&alone),
            alone["certificates_per_second"].as_f64().unwrap(),
            p99(&beside),
            beside["certificates_per_second"].as_f64().unwrap(),
            after - before
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio               {:.2}", ratios[ratios.len() / 2]);
}

/// A list of certification requests.
pub fn list(devices: u32) {
    let own = OwnWorld::running();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let mut list = "CN,serialNumber,C,csr\n".to_owned();
    for n in 0..devices {
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut request = X509ReqBuilder::new().unwrap();
        request.set_pubkey(&key).unwrap();
        request
            .set_subject_name(&X509NameBuilder::new().unwrap().build())
            .unwrap();
        request.sign(&key, MessageDigest::sha256()).unwrap();
        let csr = encode_block(&request.build().to_der().unwrap());
        writeln!(list, "own-{n:07},SN{n:07},DE,{csr}").unwrap();
    }
    let file = own.world.dir.join("list.csv");
    std::fs::write(&file, &list).unwrap();
    let start = Instant::now();
    let made = own
        .world
        .program(&[
            "--json",
            "batch",
            "create",
            "--profile",
            "lightbulb",
            "--list",
        ])
        .arg(&file)
        .output()
        .unwrap();
    let batch: Value = serde_json::from_slice(&made.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&made.stderr)));
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "list                       {devices} rows, {} octets",
        list.len()
    );
    println!(
        "devices/s                  {:.0}, from the first octet sent to the closed package ({seconds:.1} s)",
        f64::from(devices) / seconds
    );
    println!(
        "the batch says             {} issued, {} failed",
        batch["issued"], batch["failed"]
    );
    assert_eq!(batch["issued"], json!(devices));

    // One bad row among a million.
    let bad = 765_432;
    let rows: String = (1..=1_000_000)
        .map(|n| {
            if n == bad {
                format!("one-{n},SN {n},DE\n")
            } else {
                format!("one-{n},SN{n},DE\n")
            }
        })
        .collect();
    let recipient = Recipient::new();
    let id = own
        .world
        .taken(&json!({ "profile": "lightbulb", "keys": { "recipient": recipient.pem() } }));
    let start = Instant::now();
    let refused = own.world.client("operator").send(
        "POST",
        &format!("/v1/batches/{id}/devices"),
        &[("Content-Type", "text/csv")],
        Some(format!("CN,serialNumber,C\n{rows}").as_bytes()),
    );
    println!(
        "a bad row in a million     {} {} after {:.1} s: {}",
        refused.status,
        refused.slug(),
        start.elapsed().as_secs_f64(),
        refused.json()["violations"]
    );
    assert_eq!(refused.slug(), "batch-refused");
    assert!(
        refused.json()["violations"][0]["detail"]
            .as_str()
            .unwrap()
            .contains(&bad.to_string())
    );
    let kept = own.world.sql(&format!(
        "SELECT count(*) FROM batch_chunk WHERE batch_id = '{id}'"
    ));
    assert_eq!(kept, "0");
}

/// Octets that the service has written so far, wherever to.
fn written(own: &OwnWorld) -> u64 {
    let service = own.service.as_ref().unwrap().id();
    let io = std::fs::read_to_string(format!("/proc/{service}/io")).unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    written.unwrap().parse().unwrap()
}

/// A disk that fills up in the middle, and gets room again. As root: it mounts one of its own.
pub fn full_disk(devices: u32) {
    let own = OwnWorld::running();
    let recipient = Recipient::new();
    let directory = own.world.dir.join("batches");
    let mount = |arguments: &[&str]| {
        let done = Command::new("mount")
            .args(arguments)
            .arg(&directory)
            .status()
            .unwrap();
        assert!(done.success(), "mount {arguments:?}");
    };
    // A third of what the package needs.
    let small = format!("size={}k", devices * 4 / 3);
    mount(&["-t", "tmpfs", "-o", &small, "tmpfs"]);
    let id = own.world.taken(&order(devices, &recipient));
    let held = own
        .world
        .wait_batch(&id, LONG, |batch| batch["state"] == "paused");
    println!(
        "full at                    {} of {devices}: {}",
        held["issued"], held["reason"]
    );
    let before = written(&own);
    std::thread::sleep(Duration::from_secs(30));
    let written = written(&own) - before;
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(&directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert!(
        names()
            .iter()
            .all(|name| !name.to_str().unwrap().ends_with(".tar")),
        "{:?}",
        names()
    );
    let still = own.world.show_batch(&id);
    println!(
        "thirty seconds later       {} issued, {}; {written} octets written meanwhile",
        still["issued"], still["state"]
    );
    // A package that is begun again and again would write all that fits, every few seconds.
    assert!(written < u64::from(devices) * 100, "{written}");
    mount(&["-o", "remount,size=2g"]);
    let start = Instant::now();
    let done = own.world.wait_done(&id, LONG);
    println!(
        "room again                 done {:.1} s later, {} issued",
        start.elapsed().as_secs_f64(),
        done["issued"]
    );
    let (tar, _) = own.world.unpack(&id, &recipient);
    let sha256 = hex(&openssl::sha::sha256(&std::fs::read(&tar).unwrap()));
    assert_eq!(done["package"]["sha256"], json!(sha256));
    println!(
        "batch verify               {}",
        own.world.verify_package(&tar, &recipient)
    );
    println!("files                      {:?}", names());
    assert!(
        Command::new("umount")
            .arg("-l")
            .arg(&directory)
            .status()
            .unwrap()
            .success()
    );
}
