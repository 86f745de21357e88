//! Two plants and a head office: the lines are cut for minutes under load, and mended.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use openssl::hash::MessageDigest;
use openssl::x509::X509;
use serde_json::Value;

use crate::load::Load;
use crate::support::device::Device;
use crate::support::plants::{HeadOffice, Plant};
use crate::support::world::issued;

/// How long the plants run before they are cut off.
const BEFORE: Duration = Duration::from_secs(15);
/// A feed that is less behind than this is up to date: a sign of life comes each second.
const UP_TO_DATE: f64 = 1.5;
/// Certificates of each plant that are looked for once the feeds are up to date.
const LOOKED_FOR: usize = 20;
/// Within this they are found.
const FOUND_MAX: Duration = Duration::from_secs(2);

pub fn plants(cut: Duration, stations: usize) {
    let mut office = HeadOffice::make();
    let plants = [("hamburg", 1), ("wroclaw", 2)]
        .map(|(site, number)| Plant::running(site, number, &office));
    let lines = [plants[0].line(), plants[1].line()];
    for (plant, line) in plants.iter().zip(&lines) {
        office.add(plant, line);
    }
    office.start_service();
    let loads = [0, 1].map(|n: usize| Load::start(&plants[n].own.world, stations));
    let issued_by = |n: usize| {
        let issued = &loads[n].history.issued;
        issued.load(std::sync::atomic::Ordering::Relaxed)
    };
    let all = || issued_by(0) + issued_by(1);
    std::thread::sleep(BEFORE);
    let before = all();
    for line in &lines {
        line.cut();
    }
    let start = Instant::now();
    let mut silent = Duration::ZERO;
    while start.elapsed() < cut {
        let had = all();
        std::thread::sleep(Duration::from_secs(1));
        if all() == had {
            silent += Duration::from_secs(1);
        }
    }
    let away = start.elapsed();
    let while_away = all() - before;
    let kept: Vec<String> = plants
        .iter()
        .map(|plant| {
            plant.own.world.sql(
                "SELECT pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) FROM pg_replication_slots WHERE slot_type = 'logical'",
            )
        })
        .collect();
    for plant in &plants {
        assert_eq!(office.plant(&plant.site)["late"], true);
    }
    println!(
        "plants cut off             {:.0} s, {stations} stations each",
        away.as_secs_f64()
    );
    println!(
        "certificates               {before} in {:.0} s before, {while_away} meanwhile ({:.0}/s before, {:.0}/s meanwhile)",
        BEFORE.as_secs_f64(),
        before as f64 / BEFORE.as_secs_f64(),
        while_away as f64 / away.as_secs_f64()
    );
    println!("seconds without any        {:.0}", silent.as_secs_f64());
    println!("WAL kept for head office   {}", kept.join(", "));
    assert_eq!(silent, Duration::ZERO, "a plant stood still");

    let mended = Instant::now();
    for line in &lines {
        line.mend();
    }
    for plant in &plants {
        office.wait_plant(&plant.site, Duration::from_secs(1800), |it| {
            it["lag_seconds"]
                .as_f64()
                .is_some_and(|lag| lag < UP_TO_DATE)
        });
    }
    println!(
        "up to date again           {:.1} s after the lines were mended, under load",
        mended.elapsed().as_secs_f64()
    );

    let mut times = Vec::new();
    for _ in 0..LOOKED_FOR {
        for plant in &plants {
            let request = Device::p256().request("lightbulb");
            let made = issued(&plant.own.world.client("station-01").issue(&request));
            times.push(found(&office, &made));
        }
    }
    times.sort_unstable();
    println!(
        "a certificate is found     {:?} in the median, {:?} at the longest of {}",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );

    let [one, two] = loads;
    let histories = [one.stop(), two.stop()];
    for (plant, history) in plants.iter().zip(&histories) {
        let entries: i64 = plant
            .own
            .world
            .sql("SELECT size FROM log_head")
            .parse()
            .unwrap();
        office.wait_plant(&plant.site, Duration::from_secs(600), |it| {
            it["log_entries"].as_i64() >= Some(entries)
                && it["witnessed_entries"].as_i64() >= Some(entries)
                && it["certificates"].as_i64()
                    == office
                        .sql(&format!(
                            "SELECT count(*) FROM outcome WHERE der IS NOT NULL AND site = '{}'",
                            plant.site
                        ))
                        .parse()
                        .ok()
        });
        let here: HashSet<String> = office
            .sql(&format!(
                "SELECT encode(fingerprint, 'hex') FROM outcome WHERE der IS NOT NULL AND fingerprint = sha256(der) AND site = '{}'",
                plant.site
            ))
            .lines()
            .map(str::to_owned)
            .collect();
        let received = history.certificates.lock().unwrap();
        let missing = received
            .values()
            .filter(|pem| {
                let certificate = X509::from_pem(pem.as_bytes()).unwrap();
                let digest = certificate.digest(MessageDigest::sha256()).unwrap();
                let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
                !here.contains(&digest)
            })
            .count();
        let state = office.plant(&plant.site);
        println!(
            "{:<26} {} certificates received by stations, {missing} of them not at head office; {} held against the log, {} of {entries} entries witnessed, {} findings",
            plant.site,
            received.len(),
            state["certificates"],
            state["witnessed_entries"],
            state["findings_open"]
        );
        assert_eq!(
            (missing, &state["findings_open"]),
            (0, &0.into()),
            "{state}"
        );
    }
    let longest = times[times.len() - 1];
    assert!(longest <= FOUND_MAX, "found after {longest:?}");

    for plant in &plants {
        let changed = Instant::now();
        let key = plant.own.world.sql(
            "UPDATE outcome SET der = der || 'x'::bytea, fingerprint = sha256(der || 'x'::bytea)
             WHERE intent_id = (SELECT intent_id FROM outcome WHERE der IS NOT NULL ORDER BY intent_id LIMIT 1)
             RETURNING intent_id",
        );
        office.wait_plant(&plant.site, Duration::from_secs(30), |it| {
            it["findings_open"] == 1
        });
        let after = changed.elapsed();
        let body = office
            .client("auditor")
            .get(&format!("/v1/plants/{}/findings", plant.site))
            .json();
        let named = &body["items"][0];
        println!(
            "changed by hand            {} {} {}: named after {:.1} s: {:.60}…",
            plant.site,
            named["table"].as_str().unwrap(),
            named["key"].as_str().unwrap(),
            after.as_secs_f64(),
            named["difference"].as_str().unwrap()
        );
        assert_eq!(
            (named["table"].as_str(), named["key"].as_str()),
            (Some("outcome"), Some(&*key))
        );
    }
}

fn found(office: &HeadOffice, certificate: &Value) -> Duration {
    let start = Instant::now();
    let serial = certificate["serial_number"].as_str().unwrap();
    let path = format!("/v1/certificates?serial_number={serial}");
    let auditor = office.client("auditor");
    while auditor.get(&path).json()["items"]
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not found: {serial}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}
