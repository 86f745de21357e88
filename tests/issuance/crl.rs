//! CRLs while the service dies, the HSM is away, time passes, and shards come and go.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use const_oid::AssociatedOid;
use der::Decode;
use openssl::sha::sha256;
use openssl::x509::{CrlStatus, X509, X509Crl};
use serde_json::Value;
use x509_cert::crl::CertificateList;
use x509_cert::ext::pkix::CrlNumber;

use crate::support::device::Device;
use crate::support::faults::token_away;
use crate::support::world::{OwnWorld, issued, leaf};
use crate::{RECOVERED, alone, seconds};

fn issue(own: &OwnWorld) -> Value {
    let station = own.world.client("station-01");
    issued(&station.issue(&Device::p256().request("lightbulb")))
}

fn look_every_second(own: &OwnWorld) {
    own.configure(|config| {
        config["crl"]["every_seconds"] = 1.into();
    });
}

fn started(prepare: impl FnOnce(&OwnWorld)) -> OwnWorld {
    let mut own = OwnWorld::make();
    look_every_second(&own);
    prepare(&own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    // Ready is who can issue; the first CRLs come a moment later.
    for issuer in ["line-ec", "line-rsa", "stations"] {
        let start = Instant::now();
        let path = format!("/pki/{issuer}.crl");
        while own.world.repository().get(&path).status != 200 {
            assert!(start.elapsed() < RECOVERED, "no {path}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    own
}

fn number(der: &[u8]) -> u64 {
    let crl: CertificateList = CertificateList::from_der(der).unwrap();
    let extensions = crl.tbs_cert_list.crl_extensions.unwrap();
    let found = extensions.iter().find(|e| e.extn_id == CrlNumber::OID);
    let CrlNumber(number) = CrlNumber::from_der(found.unwrap().extn_value.as_bytes()).unwrap();
    let digits = number.as_bytes().iter();
    digits.fold(0, |number, octet| number << 8 | u64::from(*octet))
}

#[test]
fn a_service_killed_while_it_makes_crls_never_gives_a_number_two_contents() {
    let mut own = started(|_| {});
    let _alone = alone();
    let bodies: Vec<Value> = (0..80).map(|_| issue(&own)).collect();
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let repository = own.world.repository();
    let operator = own.world.client("operator");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut newest = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = repository.try_send("GET", "/pki/line-ec.crl", &[], None);
                if let Ok(answer) = answer.as_ref()
                    && answer.status == 200
                {
                    let number = number(&answer.body);
                    assert!(number >= newest, "{number} after {newest}");
                    newest = number;
                    let content = sha256(&answer.body);
                    let known = *seen.lock().unwrap().entry(number).or_insert(content);
                    assert_eq!(known, content, "two contents under number {number}");
                }
            }
        });
        scope.spawn(|| {
            for body in &bodies {
                let serial = body["serial_number"].as_str().unwrap();
                let path = format!("/v1/certificates/{serial}/revocation");
                let headers = [("Content-Type", "application/json")];
                let request = Some(&br#"{"reason":"privilegeWithdrawn"}"#[..]);
                // Until it is answered: the service dies again and again.
                while !operator
                    .try_send("POST", &path, &headers, request)
                    .is_ok_and(|answer| answer.status == 200)
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        // A build takes some milliseconds, and each start makes one when there is something new.
        for kill in 0..8_u64 {
            std::thread::sleep(Duration::from_millis(250 + 97 * kill));
            own.kill_service();
            own.start_service();
        }
        own.wait_ready(seconds(15));
        stop.store(true, Ordering::Relaxed);
    });
    let all: Vec<X509> = bodies.iter().map(leaf).collect();
    let der = own
        .world
        .wait_revoked("/pki/line-ec.crl", &all[79], seconds(10));
    let crl = X509Crl::from_der(&der).unwrap();
    let listed = |leaf: &&X509| matches!(crl.get_by_cert(leaf), CrlStatus::Revoked(_));
    assert_eq!(all.iter().filter(listed).count(), 80);
    // What was served is what is stored, and no number was left out.
    let stored = "SELECT string_agg(crl_number || ':' || encode(sha256(der), 'hex'), ' ')
        FROM crl WHERE issuer = 'line-ec'";
    let mut compared = 0;
    let seen = seen.lock().unwrap();
    for row in own.world.sql(stored).split(' ') {
        let (number, content) = row.split_once(':').unwrap();
        if let Some(served) = seen.get(&number.parse().unwrap()) {
            let served: String = served.iter().map(|octet| format!("{octet:02x}")).collect();
            assert_eq!(served, content, "number {number}");
            compared += 1;
        }
    }
    assert!(compared >= 2, "{compared} CRLs were both served and kept");
    println!("{} CRLs seen over 8 kills, {compared} compared", seen.len());
}

#[test]
fn while_the_hsm_is_away_the_last_crl_keeps_its_true_dates_and_afterwards_misses_nothing() {
    let own = started(|_| {});
    let body = issue(&own);
    let path = "/pki/line-ec.crl";
    own.world.revoke(&issue(&own), "superseded");
    std::thread::sleep(seconds(2));
    token_away(&own, true);
    own.wait_not_ready("\"hsm\"", seconds(5));
    let before = own.world.repository().get(path);
    own.world.revoke(&body, "keyCompromise");
    let failed = "certfactory_crl_builds_total{issuer=\"line-ec\",outcome=\"failed\"}";
    let (start, count) = (Instant::now(), own.world.metric(failed));
    while own.world.metric(failed) == count {
        assert!(start.elapsed() < seconds(10), "no build was tried");
        std::thread::sleep(Duration::from_millis(50));
    }
    let meanwhile = own.world.repository().get(path);
    assert_eq!(meanwhile.body, before.body);
    assert_eq!(meanwhile.header("etag"), before.header("etag"));
    token_away(&own, false);
    own.world.wait_revoked(path, &leaf(&body), RECOVERED);
}

#[test]
fn at_half_of_its_life_a_crl_is_renewed_and_a_dead_database_takes_none_away() {
    let mut own = started(|_| {});
    let path = "/pki/line-rsa.crl";
    let before = own.world.repository().get(path);
    // Of 48 hours, 23 have gone: too early; then 25.
    let pass = |hours: u32| {
        own.world.sql(&format!(
            "UPDATE crl SET this_update = this_update - interval '{hours} hours',
                            next_update = next_update - interval '{hours} hours'"
        ));
    };
    pass(23);
    std::thread::sleep(seconds(2));
    assert_eq!(own.world.repository().get(path).body, before.body);
    pass(2);
    let start = Instant::now();
    while own.world.repository().get(path).body == before.body {
        assert!(start.elapsed() < seconds(5), "not renewed");
        std::thread::sleep(Duration::from_millis(50));
    }
    let renewed = own.world.repository().get(path);
    assert_eq!(number(&renewed.body), number(&before.body) + 1);
    own.stop_postgres("immediate");
    std::thread::sleep(seconds(2));
    assert_eq!(own.world.repository().get(path).body, renewed.body);
    own.start_postgres();
    own.wait_ready(seconds(10));
    own.kill_service();
    own.start_service();
    own.wait_ready(seconds(15));
    assert_eq!(own.world.repository().get(path).body, renewed.body);
}

#[test]
fn two_replicas_make_one_crl_a_number_and_publish_the_same() {
    let own = started(|_| {});
    let config = std::fs::read_to_string(own.world.dir.join("config.toml")).unwrap();
    let mut second: toml::Table = config.parse().unwrap();
    let mut address = String::new();
    for section in ["http", "operations", "repository"] {
        address = format!("127.0.0.1:{}", crate::support::world::free_port());
        second[section]["listen"] = address.clone().into();
    }
    let issuance = second["issuance"].as_table_mut().unwrap();
    issuance.insert("instance".into(), 2.into());
    let journal = own.world.dir.join("journal-2");
    std::fs::create_dir(&journal).unwrap();
    second["audit"]["journal"]["directory"] = journal.to_str().unwrap().into();
    let file = own.world.dir.join("second.toml");
    std::fs::write(&file, toml::to_string(&second).unwrap()).unwrap();
    let mut replica = own
        .world
        .program(&["serve", "--config", file.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut last = Vec::new();
    for _ in 0..4 {
        let body = issue(&own);
        own.world.revoke(&body, "cessationOfOperation");
        last = own
            .world
            .wait_revoked("/pki/line-ec.crl", &leaf(&body), seconds(10));
    }
    let other = crate::support::http::Curl::new(
        &format!("http://{address}"),
        &own.world.dir.join("tls/ca.pem"),
        None,
    );
    let start = Instant::now();
    while !other
        .try_send("GET", "/pki/line-ec.crl", &[], None)
        .is_ok_and(|answer| answer.body == last)
    {
        assert!(start.elapsed() < seconds(10), "the replicas differ");
        std::thread::sleep(Duration::from_millis(50));
    }
    replica.kill().unwrap();
    replica.wait().unwrap();
    let count = own
        .world
        .sql("SELECT count(*), max(crl_number) FROM crl WHERE issuer = 'line-ec'");
    // The first, and one for each revocation; none for having two replicas.
    let (rows, newest) = count.split_once('|').unwrap();
    assert_eq!(rows, newest);
    assert!(newest.parse::<u32>().unwrap() <= 5, "{newest}");
}

#[test]
fn a_certificate_stays_on_its_shards_crl_when_the_number_of_shards_changes() {
    let shards = |own: &OwnWorld, shards: i64| {
        let url = format!("{}/pki/line-ec-{{shard}}.crl", own.world.repository);
        own.configure(|config| {
            let issuer = &mut config["issuer"][0];
            assert_eq!(issuer["name"].as_str(), Some("line-ec"));
            let issuer = issuer.as_table_mut().unwrap();
            issuer.insert("crl_url".into(), url.into());
            issuer.insert("crl_shards".into(), shards.into());
        });
    };
    let mut own = started(|own| shards(own, 5));
    // Until two shards have a certificate.
    let mut leaves: BTreeMap<String, (Value, X509)> = BTreeMap::new();
    while leaves.len() < 2 {
        let body = issue(&own);
        let leaf = leaf(&body);
        let points = leaf.crl_distribution_points().unwrap();
        let name = points[0].distpoint().unwrap().fullname().unwrap();
        let url = name[0].uri().unwrap();
        let path = url.strip_prefix(&own.world.repository).unwrap().to_owned();
        // A shard that will no longer be given.
        if path != "/pki/line-ec-0.crl" {
            leaves.insert(path, (body, leaf));
        }
    }
    own.kill_service();
    shards(&own, 1);
    own.start_service();
    own.wait_ready(seconds(15));
    let issuer = own.world.dir.join("issuers/line-ec.pem");
    for (path, (body, leaf)) in &leaves {
        own.world.revoke(body, "keyCompromise");
        let crl = own.world.wait_revoked(path, leaf, seconds(10));
        let whole = own
            .world
            .wait_revoked("/pki/line-ec.crl", leaf, seconds(10));
        // A verifier takes a shard's CRL for the certificates that name it, and for no others.
        for (other, (_, leaf)) in &leaves {
            let verdict = verify(&own, &issuer, leaf, &crl);
            if other == path {
                assert!(verdict.contains("certificate revoked"), "{verdict}");
            } else {
                assert!(verdict.contains("different CRL scope"), "{verdict}");
            }
        }
        assert!(verify(&own, &issuer, leaf, &whole).contains("certificate revoked"));
    }
    let shard = own.world.nobody().get("/v1/issuers/line-ec/crl?shard=4");
    assert_eq!(shard.status, 200, "{shard:?}");
}

/// What `openssl verify -crl_check` says.
fn verify(own: &OwnWorld, issuer: &std::path::Path, leaf: &X509, crl: &[u8]) -> String {
    let file = |name: &str, octets: Vec<u8>| {
        let path = own.world.dir.join(name);
        std::fs::write(&path, octets).unwrap();
        path
    };
    let crl = X509Crl::from_der(crl).unwrap().to_pem().unwrap();
    let output = std::process::Command::new("openssl")
        .args(["verify", "-crl_check", "-CAfile"])
        .arg(issuer)
        .arg("-CRLfile")
        .arg(file("crl.pem", crl))
        .arg(file("leaf.pem", leaf.to_pem().unwrap()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
