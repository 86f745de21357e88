//! The page of the line: its numbers are those of the log, whichever replica shows them and since
//! whenever it runs; and it answers when nothing else does.

use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::json;

use crate::support::device::Device;
use crate::support::http::Curl;
use crate::support::replica::Second;
use crate::support::world::{OwnWorld, issued};

/// What the page says of the last hour: issued, confirmed, refused.
fn hour(client: &Curl) -> [u64; 3] {
    let page = client.get("/ui");
    assert_eq!(page.status, 200, "{page:?}");
    let html = page.text();
    ["Issued", "Confirmed", "Refused"].map(|name| {
        let number = Regex::new(&format!("<dt>{name}</dt><dd>([0-9,]+)</dd>")).unwrap();
        let found = number.captures(&html);
        let found = found.unwrap_or_else(|| panic!("no {name} in {html}"));
        found[1].replace(',', "").parse().unwrap()
    })
}

fn wait_for(client: &Curl, wanted: [u64; 3]) {
    let start = Instant::now();
    loop {
        let is = hour(client);
        if is == wanted {
            return;
        }
        assert!(start.elapsed().as_secs() < 20, "{is:?}, not {wanted:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn the_last_hour_is_the_same_on_every_replica_after_a_restart_and_while_the_database_is_down() {
    let mut own = OwnWorld::running();
    let dir = own.world.dir.clone();
    let auditor = |url: &str| {
        let file = |extension| dir.join(format!("clients/auditor.{extension}"));
        Curl::new(
            url,
            &dir.join("tls/ca.pem"),
            Some((file("pem"), file("key"))),
        )
    };
    let first = auditor(&own.world.url);
    // Whoever looks before anything happened is not kept from seeing what does.
    wait_for(&first, [0, 0, 0]);
    let station = own.world.client("station-01");
    for number in 0..7 {
        let certificate = issued(&station.issue(&Device::p256().request("lightbulb")));
        if number < 3 {
            let serial = certificate["serial_number"].as_str().unwrap();
            let path = format!("/v1/certificates/{serial}/confirmation");
            let body = json!({ "certificate": certificate["certificate"] }).to_string();
            let headers = [("Content-Type", "application/json")];
            let done = station.send("POST", &path, &headers, Some(body.as_bytes()));
            assert_eq!(done.status, 200, "{done:?}");
        }
    }
    for _ in 0..2 {
        let refused = station.issue(&Device::p256().request("nonesuch"));
        assert_eq!(refused.status, 422, "{refused:?}");
    }
    let wanted = [7, 3, 2];
    wait_for(&first, wanted);
    let second = Second::start(&own, &[]);
    let other = auditor(&second.url);
    let start = Instant::now();
    while other.try_send("GET", "/ui", &[], None).is_err() {
        assert!(
            start.elapsed().as_secs() < 20,
            "the second replica is silent"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for(&other, wanted);
    own.kill_service();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    wait_for(&first, wanted);
    // Issued by the other, seen here.
    let file = |extension| {
        own.world
            .dir
            .join(format!("clients/station-01.{extension}"))
    };
    let identity = Some((file("pem"), file("key")));
    let there = Curl::new(&second.url, &own.world.dir.join("tls/ca.pem"), identity);
    issued(&there.issue(&Device::p256().request("lightbulb")));
    wait_for(&first, [8, 3, 2]);

    for path in ["/ui/stations", "/ui/orders", "/ui/batches"] {
        let page = first.get(path);
        assert!(!page.text().contains("does not answer"), "{page:?}");
    }
    own.stop_postgres("immediate");
    for path in ["/ui", "/ui/stations", "/ui/orders", "/ui/batches"] {
        let asked = Instant::now();
        let (page, took) = loop {
            let start = Instant::now();
            let page = first.get(path);
            assert_eq!(page.status, 200, "{path}: {page:?}");
            if page.text().contains("What is shown here is of") {
                break (page.text(), start.elapsed());
            }
            assert!(
                asked.elapsed().as_secs() < 15,
                "{path} does not say so: {page:?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        };
        assert!(page.contains("The database does not answer."), "{page}");
        assert!(took < Duration::from_secs(3), "{path} took {took:?}");
    }
    // The last numbers are still there.
    assert_eq!(hour(&first), [8, 3, 2]);
    own.start_postgres();
    own.wait_ready(Duration::from_secs(20));
    wait_for(&first, [8, 3, 2]);
    let start = Instant::now();
    while first.get("/ui").text().contains("does not answer") {
        assert!(start.elapsed().as_secs() < 20, "it does not get over it");
        std::thread::sleep(Duration::from_millis(200));
    }
}
