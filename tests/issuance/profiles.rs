//! A profile that changes while requests run: each certificate is what the profile says that its
//! row names.

use std::collections::BTreeMap;

use crate::load::Load;
use crate::seconds;
use crate::support::world::OwnWorld;

#[test]
fn every_certificate_is_of_the_profile_whose_hash_its_row_names() {
    let mut own = OwnWorld::running();
    let path = own.world.dir.join("profiles/lightbulb.toml");
    let first = std::fs::read_to_string(&path).unwrap();
    let second = first.replace("days = 7300", "days = 365");
    assert_ne!(first, second);
    let load = Load::start(&own.world, 16);
    // What the service says of itself: hash → days.
    let mut announced = BTreeMap::new();
    let mut announce = |own: &OwnWorld, days: &str| {
        let profiles = own.world.nobody().get("/v1/profiles").json();
        let profiles = profiles.as_array().unwrap().clone();
        let profile = profiles.iter().find(|p| p["name"] == "lightbulb").unwrap();
        announced.insert(
            profile["sha256"].as_str().unwrap().to_owned(),
            days.to_owned(),
        );
    };
    announce(&own, "7300");
    for (text, days) in [(&second, "365"), (&first, "7300"), (&second, "365")] {
        load.wait_issued(100, seconds(15));
        std::fs::write(&path, text).unwrap();
        // In the middle of its work: intents of the old profile are left to the new process.
        own.kill_service();
        own.start_service();
        own.wait_ready(seconds(15));
        announce(&own, days);
    }
    load.wait_issued(100, seconds(15));
    let history = load.stop();
    own.wait_no_open_intents(crate::RECOVERED);
    history.holds_against(&own.world);

    assert_eq!(announced.len(), 2, "a hash for each profile: {announced:?}");
    let rows = own.world.sql(
        "SELECT DISTINCT encode(profile_sha256, 'hex'), round(extract(epoch FROM not_after - not_before) / 86400) FROM intent",
    );
    let found: BTreeMap<String, String> = rows
        .lines()
        .map(|row| row.split_once('|').unwrap())
        .map(|(hash, days)| (hash.to_owned(), days.to_owned()))
        .collect();
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert_eq!(found, announced);
    // The rows say what the certificates say: holds_against compared the octets, this the dates.
    for pem in history.certificates.lock().unwrap().values() {
        let certificate = openssl::x509::X509::from_pem(pem.as_bytes()).unwrap();
        let span = certificate
            .not_before()
            .diff(certificate.not_after())
            .unwrap();
        assert!(
            [365, 7300].contains(&(span.days + i32::from(span.secs > 0))),
            "{span:?}"
        );
    }
}
