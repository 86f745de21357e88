//! The pages at `/ui`: who may look, who may act, that a button works from our own pages only, and
//! that nothing in them runs but what is ours.

use regex::Regex;
use serde_json::json;

use crate::support::batch::order;
use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::recipient::Recipient;
use crate::support::world::{issued, shared};

const PAGES: [&str; 5] = [
    "/ui",
    "/ui/stations",
    "/ui/orders",
    "/ui/batches",
    "/ui/problems",
];

fn read(path: &str, who: &str) -> String {
    let page = shared().client(who).get(path);
    assert_eq!(page.status, 200, "{path} as {who}: {page:?}");
    page.text()
}

/// A press on a button, as a browser sends it.
fn press(path: &str, who: &str, headers: &[(&str, &str)]) -> Response {
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let headers = [&[form], headers].concat();
    shared().client(who).send("POST", path, &headers, Some(b""))
}

/// From a page of ours.
fn ours() -> [(&'static str, &'static str); 2] {
    [("Origin", &shared().url), ("Sec-Fetch-Site", "same-origin")]
}

/// A station that nobody else has.
fn station() -> String {
    let name = Device::p256().name;
    let body = json!({ "name": name }).to_string();
    let headers = [("Content-Type", "application/json")];
    let client = shared().client("administrator");
    let made = client.send("POST", "/v1/stations", &headers, Some(body.as_bytes()));
    assert_eq!(made.status, 201, "{made:?}");
    name
}

fn is_disabled(name: &str) -> bool {
    let path = format!("/v1/stations/{name}");
    let found = shared().client("administrator").get(&path).json();
    found["disabled"].as_bool().unwrap()
}

#[test]
fn auditors_operators_and_administrators_look_and_nobody_else_does() {
    let world = shared();
    let policy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    for path in PAGES {
        for who in ["auditor", "operator", "administrator"] {
            let page = world.client(who).get(path);
            assert_eq!(page.status, 200, "{path} as {who}: {page:?}");
            let expected = [
                ("content-type", "text/html; charset=utf-8"),
                ("cache-control", "no-store"),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
            ];
            for (name, value) in expected {
                assert_eq!(page.header(name), Some(value), "{path}: {page:?}");
            }
            let live = path != "/ui/problems";
            let said = page.header("content-security-policy");
            assert_eq!(said == Some(policy), live, "{path}: {said:?}");
            // Else a browser would call the origin of its buttons `null`.
            let referrer = if live { "same-origin" } else { "no-referrer" };
            assert_eq!(page.header("referrer-policy"), Some(referrer));
        }
        let page = world.client("station-01").get(path);
        assert_eq!(page.status, 403, "{path}: {page:?}");
        assert!(
            page.text()
                .contains("auditors, operators and administrators")
        );
        let page = world.nobody().get(path);
        assert_eq!(page.status, 401, "{path}: {page:?}");
        assert!(page.text().contains("Your client certificate is the login"));
    }
}

#[test]
fn pages_hold_no_script_and_no_style_of_their_own_and_reach_nowhere_else() {
    let tag = Regex::new("<[^>]*>").unwrap();
    let value = Regex::new("\"[^\"]*\"|'[^']*'").unwrap();
    for path in PAGES {
        let html = read(path, "administrator");
        for tag in tag.find_iter(&html).map(|tag| tag.as_str()) {
            let bare = value.replace_all(tag, "").to_lowercase();
            for runs in [" on", " style=", "<style", "<base", "<iframe", "<object"] {
                assert!(!bare.contains(runs), "{tag} in {path}");
            }
            let script = bare.starts_with("<script");
            assert!(!script || tag.contains(" src=\"/ui/"), "{tag} in {path}");
            let address = ["src=", "href=", "action=", "hx-get="];
            let reaches = address.iter().any(|name| tag.contains(name));
            assert!(
                !reaches || tag.contains("=\"/") || tag.contains("=\"#"),
                "{tag} in {path}"
            );
        }
    }
    let nobody = shared().nobody();
    for (path, word) in [
        ("/ui/htmx.js", "version:\"2.0.11\""),
        ("/ui/live.js", "htmx:"),
    ] {
        let file = nobody.get(path);
        let kind = Some("text/javascript; charset=utf-8");
        assert_eq!((file.status, file.header("content-type")), (200, kind));
        assert!(file.text().contains(word), "{path}");
        let known = [("If-None-Match", file.header("etag").unwrap())];
        assert_eq!(nobody.send("GET", path, &known, None).status, 304);
    }
}

#[test]
fn a_button_works_from_a_page_of_ours_alone_and_no_other_site_presses_it() {
    let (name, url) = (station(), &shared().url);
    let path = format!("/ui/stations/{name}/disable");
    let port = url.rsplit(':').next().unwrap();
    let plain = url.replace("https:", "http:");
    let other_port = format!("https://127.0.0.1:1{}", &port[1..]);
    let other_host = format!("https://localhost:{port}");
    let cases: [&[(&str, &str)]; 9] = [
        &[],
        &[("Origin", "null")],
        &[("Origin", "https://elsewhere.example")],
        &[("Origin", &plain)],
        &[("Origin", &other_port)],
        &[("Origin", &other_host)],
        &[("Origin", "")],
        &[("Origin", url), ("Sec-Fetch-Site", "cross-site")],
        &[
            ("Origin", "https://elsewhere.example"),
            ("X-Forwarded-Host", "elsewhere.example"),
            ("Forwarded", "host=elsewhere.example"),
        ],
    ];
    for headers in cases {
        let refused = press(&path, "administrator", headers);
        assert_eq!(refused.status, 403, "{headers:?}: {refused:?}");
        assert!(refused.text().contains("only a page of this service"));
        assert!(!is_disabled(&name), "{headers:?}");
    }
    // Nor does an address that is only read.
    assert_eq!(shared().client("administrator").get(&path).status, 405);
    // A browser that is too old for the second header.
    let done = press(&path, "administrator", &ours()[..1]);
    assert_eq!(done.status, 303, "{done:?}");
    assert!(is_disabled(&name));
}

#[test]
fn administrators_shut_stations_out_and_let_them_in_and_nobody_else_does() {
    let name = station();
    let disable = format!("/ui/stations/{name}/disable");
    let enable = format!("/ui/stations/{name}/enable");
    for who in ["operator", "auditor", "station-01"] {
        for path in [&disable, &enable] {
            let refused = press(path, who, &ours());
            assert_eq!(refused.status, 403, "{path} as {who}: {refused:?}");
        }
        assert!(!is_disabled(&name), "{who}");
    }
    for who in ["operator", "auditor"] {
        let page = read("/ui/stations", who);
        assert!(page.contains(&name), "{who} sees no {name}");
        assert!(!page.contains("<form"), "{who} sees a button");
    }
    assert!(read("/ui/stations", "administrator").contains(&disable));

    let done = press(&disable, "administrator", &ours());
    let back = format!("/ui/stations?disabled={name}");
    assert_eq!((done.status, done.header("location")), (303, Some(&*back)));
    assert!(is_disabled(&name));
    let page = read(&back, "administrator");
    assert!(page.contains(&format!("{name} is disabled")), "{page}");
    assert!(page.contains(&enable) && !page.contains(&disable));

    let done = press(&enable, "administrator", &ours());
    let back = format!("/ui/stations?enabled={name}");
    assert_eq!((done.status, done.header("location")), (303, Some(&*back)));
    assert!(!is_disabled(&name));

    let unknown = press("/ui/stations/nonesuch/disable", "administrator", &ours());
    assert_eq!(unknown.status, 404, "{unknown:?}");
    assert!(
        unknown
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    // An address tells what was done, and nothing that somebody else put into it.
    for query in ["disabled=%3Cb%3E", "paid=me", "disabled=send+money"] {
        let page = read(&format!("/ui/stations?{query}"), "administrator");
        assert!(!page.contains("class=\"told\""), "{query}");
    }
}

#[test]
fn operators_pause_resume_and_cancel_batches_and_nobody_else_does() {
    let world = shared();
    let id = world.taken(&order(100_000, &Recipient::new()));
    let act = |act: &str| format!("/ui/batches/{id}/{act}");
    let state = || world.show_batch(&id)["state"].as_str().unwrap().to_owned();
    for who in ["administrator", "auditor", "station-01"] {
        for word in ["pause", "resume", "cancellation"] {
            let refused = press(&act(word), who, &ours());
            assert_eq!(refused.status, 403, "{word} as {who}: {refused:?}");
        }
    }
    assert_eq!(press(&act("pause"), "operator", &[]).status, 403);
    assert_eq!(state(), "running");

    let back = format!("/ui/batches#b-{id}");
    for (word, then, button) in [
        ("pause", "paused", "resume"),
        ("resume", "running", "pause"),
        ("cancellation", "cancelled", ""),
    ] {
        let done = press(&act(word), "operator", &ours());
        assert_eq!((done.status, done.header("location")), (303, Some(&*back)));
        assert_eq!(state(), then);
        let page = read("/ui/batches", "operator");
        for other in ["pause", "resume", "cancellation"] {
            let shown = page.contains(&format!("action=\"{}\"", act(other)));
            let wanted = other == button || (other == "cancellation" && then != "cancelled");
            assert_eq!(shown, wanted, "{other} of one that is {then}");
        }
        assert!(!read("/ui/batches", "auditor").contains("<form"));
    }
    assert!(read("/ui/batches", "operator").contains("cancelled by operator"));
    // What cannot be is said on a page.
    let late = press(&act("resume"), "operator", &ours());
    assert_eq!(late.status, 409, "{late:?}");
    assert!(late.text().contains("the batch is cancelled"));
    assert_eq!(
        press("/ui/batches/nonesuch/pause", "operator", &ours()).status,
        404
    );
}

#[test]
fn an_order_is_shown_as_far_as_it_is_and_its_name_as_it_is_written() {
    let world = shared();
    let name = format!("\"><script>alert('{}')", Device::p256().name);
    let body = json!({ "name": name, "profile": "lightbulb", "quantity": 8 }).to_string();
    let headers = [("Content-Type", "application/json")];
    let operator = world.client("operator");
    let made = operator.send("POST", "/v1/orders", &headers, Some(body.as_bytes()));
    assert_eq!(made.status, 201, "{made:?}");
    let certificates = [0; 3].map(|_| {
        let mut request = Device::p256().request("lightbulb");
        request["order"] = name.as_str().into();
        issued(&world.client("station-01").issue(&request))
    });
    let path = |n: usize, act: &str| {
        let serial = certificates[n]["serial_number"].as_str().unwrap();
        format!("/v1/certificates/{serial}/{act}")
    };
    let station = world.client("station-01");
    let body = json!({ "certificate": certificates[0]["certificate"] }).to_string();
    let done = station.send(
        "POST",
        &path(0, "confirmation"),
        &headers,
        Some(body.as_bytes()),
    );
    assert_eq!(done.status, 200, "{done:?}");
    let body = json!({ "reason": "dropped" }).to_string();
    let done = operator.send("POST", &path(1, "scrap"), &headers, Some(body.as_bytes()));
    assert_eq!(done.status, 200, "{done:?}");

    let escaped = name
        .replace('"', "&#34;")
        .replace('<', "&#60;")
        .replace('>', "&#62;")
        .replace('\'', "&#39;");
    // What was read may be some seconds old.
    let start = std::time::Instant::now();
    let card = loop {
        let page = read("/ui/orders", "auditor");
        assert!(!page.contains("<script>"), "{page}");
        let cards = page.split("<li class=\"card\">");
        let card = cards.skip(1).find(|card| card.contains(&escaped));
        if let Some(card) = card.filter(|card| card.contains("3 of 8 issued, 1 confirmed")) {
            break card.to_owned();
        }
        assert!(start.elapsed().as_secs() < 15, "{escaped} in {page}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    let counts = Regex::new("<dt>([A-Za-z]+)</dt><dd>(?:<a [^>]*>)?([0-9,]+)").unwrap();
    let counts: Vec<_> = counts
        .captures_iter(&card)
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect();
    let expected = [
        ("Issued", "3"),
        ("Remaining", "5"),
        ("Unconfirmed", "1"),
        ("Confirmed", "1"),
        ("Reworked", "0"),
        ("Scrapped", "1"),
    ];
    let expected = expected.map(|(name, count)| (name.to_owned(), count.to_owned()));
    assert_eq!(counts, expected);
    // Its link finds them.
    let link = Regex::new("href=\"(/audit[^\"]*)\"").unwrap();
    let link = link.captures(&card).unwrap()[1].replace("&#38;", "&");
    assert_eq!(
        read(&link, "auditor")
            .matches("<th role=\"rowheader\"")
            .count(),
        3
    );
}

#[test]
fn every_problem_is_explained_and_every_reason_leads_there() {
    let page = read("/ui/problems", "operator");
    for slug in ["order-exhausted", "hsm-unavailable", "forbidden"] {
        assert!(page.contains(&format!("<section id=\"{slug}\"")), "{slug}");
        let text = shared().nobody().get(&format!("/problems/{slug}")).text();
        // The first line of what happened, as far as it is plain.
        let line = text.lines().nth(2).unwrap().split('`').next().unwrap();
        assert!(page.contains(line.split('\'').next().unwrap()), "{line}");
    }
    let mut request = Device::p256().request("lightbulb");
    request["order"] = "WO-nonesuch".into();
    let refused = shared().client("station-01").issue(&request);
    let link = format!("href=\"/ui/problems#{}\">", refused.slug());
    let start = std::time::Instant::now();
    while !read("/ui", "operator").contains(&link) {
        assert!(start.elapsed().as_secs() < 15, "no {link}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
