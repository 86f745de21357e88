//! One issuer follows another, by the command and its two edits.

use chrono::{SecondsFormat, TimeDelta, Utc};
use openssl::x509::X509;
use serde_json::Value;

use crate::seconds;
use crate::support::device::Device;
use crate::support::world::{OwnWorld, issued, leaf};

#[test]
fn a_profile_switches_at_its_moment_and_the_crls_of_both_issuers_are_kept_up() {
    let mut own = OwnWorld::make();
    let at = (Utc::now() + TimeDelta::seconds(12)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let made = own
        .world
        .program(&[
            "issuer",
            "rotate",
            "line-ec",
            "--to",
            "line-ec-g2",
            "--at",
            &at,
        ])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let edits = String::from_utf8(made.stdout).unwrap();
    assert_eq!(edits.matches(&format!("switch_at = \"{at}\"")).count(), 1);
    let (config, profile) = edits.rsplit_once("\n# ").unwrap();
    let path = own.world.dir.join("config.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}\n{config}\n")).unwrap();
    let (file, lines) = profile.split_once(", at its beginning:\n").unwrap();
    let before = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, format!("{lines}\n{before}")).unwrap();

    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(10));
    let station = own.world.client("station-01");
    let device = Device::p256();
    let old = issued(&station.issue(&device.request("lightbulb")));
    assert_eq!(old["issuer"], "line-ec", "the start took long");
    let profiles = own.world.nobody().get("/v1/profiles").json();
    let shown = profiles.as_array().unwrap().iter();
    let shown = shown
        .filter(|p| p["name"] == "lightbulb")
        .collect::<Vec<_>>()[0];
    assert_eq!(
        (&shown["issuer"], &shown["next_issuer"], &shown["switch_at"]),
        (
            &"line-ec".into(),
            &"line-ec-g2".into(),
            &Value::from(at.clone())
        )
    );
    while Utc::now() < at.parse::<chrono::DateTime<Utc>>().unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let new = issued(&station.issue(&Device::p256().request("lightbulb")));
    assert_eq!(new["issuer"], "line-ec-g2");
    // The same request gets the same certificate, of the old issuer.
    let again = station.issue(&device.request("lightbulb"));
    assert_eq!(
        (again.status, again.json()["certificate"].clone()),
        (200, old["certificate"].clone())
    );
    for body in [&old, &new] {
        let name = body["issuer"].as_str().unwrap();
        let pem = std::fs::read(own.world.dir.join(format!("issuers/{name}.pem"))).unwrap();
        let issuer = X509::from_pem(&pem).unwrap();
        let certificate = leaf(body);
        assert!(certificate.verify(&issuer.public_key().unwrap()).unwrap());
        assert_eq!(
            certificate.authority_key_id().unwrap().as_slice(),
            issuer.subject_key_id().unwrap().as_slice()
        );
        own.world.revoke(body, "superseded");
        own.world
            .wait_revoked(&format!("/pki/{name}.crl"), &certificate, seconds(10));
    }
}
