//! The auditor's pages: who may read them, what they find, that nothing in them runs, and that what
//! they export is what REST exports.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};

use crate::support::batch::order;
use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::recipient::Recipient;
use crate::support::world::{World, issued, shared};

fn read(path: &str) -> String {
    let page = shared().client("auditor").get(path);
    assert_eq!(page.status, 200, "{path}: {page:?}");
    guarded(&page);
    page.text()
}

/// The headers of every page: a browser keeps nothing, runs nothing and asks nobody else.
fn guarded(page: &Response) {
    let expected = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ];
    for (name, value) in expected {
        assert_eq!(page.header(name), Some(value), "{page:?}");
    }
    let (html, id) = (page.text(), page.header("x-request-id").unwrap());
    assert!(html.contains(id), "no request id in {html}");
    assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
    // Tags as a browser sees them: what a quoted value holds is no part of one.
    let (tag, value) = (
        Regex::new("<[^>]*>").unwrap(),
        Regex::new("\"[^\"]*\"").unwrap(),
    );
    for tag in tag.find_iter(&html).map(|tag| tag.as_str()) {
        let bare = value.replace_all(tag, "").to_lowercase();
        for runs in ["<script", " on", " style="] {
            assert!(!bare.contains(runs), "{tag} in {html}");
        }
        let address = tag.contains("src=") || tag.contains("href=") || tag.contains("action=");
        assert!(
            !address || tag.contains("=\"/") || tag.contains("=\"#"),
            "{tag} in {html}"
        );
    }
}

fn post(path: &str, who: &str, body: &Value) -> Response {
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let client = shared().client(who);
    let done = client.send("POST", path, &headers, Some(body.as_bytes()));
    assert!(matches!(done.status, 200 | 201), "{done:?}");
    done
}

fn certificate(device: &Device, order: Option<&str>) -> Value {
    let mut request = device.request("lightbulb");
    if let Some(order) = order {
        shared().order(order, "lightbulb");
        request["order"] = order.into();
    }
    issued(&shared().client("station-01").issue(&request))
}

fn serial(certificate: &Value) -> String {
    certificate["serial_number"].as_str().unwrap().to_owned()
}

fn story(serial: &str) -> String {
    read(&format!("/audit/certificates/{serial}"))
}

/// The serial numbers in a table, from above.
fn rows(html: &str) -> Vec<String> {
    let row = Regex::new(
        r#"<th role="rowheader" scope="row"><a href="/audit/certificates/([0-9a-f]{32})">"#,
    );
    let found = row.unwrap();
    let found = found.captures_iter(html);
    found.map(|captures| captures[1].to_owned()).collect()
}

/// A link's address, unescaped as a browser does.
fn link(html: &str, text: &str) -> Option<String> {
    let link = Regex::new(&format!(
        r#"href="([^"]+)"[^>]*>{}</a>"#,
        regex::escape(text)
    ));
    let address = link.unwrap().captures(html)?[1].to_owned();
    Some(address.replace("&#38;", "&"))
}

fn encoded(text: &str) -> String {
    text.bytes().map(|octet| format!("%{octet:02x}")).collect()
}

/// What is seen, and where it comes from: the names of what happened.
fn steps(html: &str) -> Vec<String> {
    let step = Regex::new(r#"<p class="what"><strong>([^<]+)</strong>"#).unwrap();
    let found = step.captures_iter(html);
    found.map(|captures| captures[1].to_owned()).collect()
}

#[test]
fn auditors_operators_and_administrators_read_and_nobody_else_does() {
    let world = shared();
    let serial = serial(&certificate(&Device::p256(), None));
    let page = format!("/audit/certificates/{serial}");
    let files = ["pem", "der"].map(|form| format!("{page}/certificate.{form}"));
    let mut paths = vec!["/audit", "/audit?q=nonesuch", &page];
    paths.extend([
        "/audit/export.csv",
        "/audit/export.ndjson",
        "/audit/export.parquet",
    ]);
    paths.extend(files.iter().map(String::as_str));
    for path in paths {
        for who in ["auditor", "operator", "administrator"] {
            let answer = world.client(who).get(path);
            assert_eq!(answer.status, 200, "{path} as {who}: {answer:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        let answer = world.client("station-01").get(path);
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        guarded(&answer);
        assert!(
            answer
                .text()
                .contains("auditors, operators and administrators")
        );
        let answer = world.nobody().get(path);
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        guarded(&answer);
        assert!(
            answer
                .text()
                .contains("Your client certificate is the login")
        );
    }
}

#[test]
fn the_style_is_anybodys_and_asked_for_again_only_when_it_is_new() {
    let nobody = shared().nobody();
    for (path, kind) in [
        ("/audit/style.css", "text/css; charset=utf-8"),
        ("/audit/icon.svg", "image/svg+xml"),
    ] {
        let file = nobody.get(path);
        assert_eq!(
            (file.status, file.header("content-type")),
            (200, Some(kind))
        );
        assert!(!file.text().contains("url("), "{path} reaches elsewhere");
        let known = [("If-None-Match", file.header("etag").unwrap())];
        let again = nobody.send("GET", path, &known, None);
        assert_eq!((again.status, again.body.len()), (304, 0), "{again:?}");
    }
}

#[test]
fn the_box_goes_straight_to_the_only_certificate_of_that_name() {
    let device = Device::p256();
    let made = certificate(&device, None);
    let serial = serial(&made);
    let fingerprint = made["fingerprint_sha256"].as_str().unwrap();
    let spki = openssl::sha::sha256(&device.key.public_key_to_der().unwrap());
    let spki: String = spki.iter().map(|octet| format!("{octet:02x}")).collect();
    let octets: Vec<&str> = (0..16).map(|n| &serial[2 * n..2 * n + 2]).collect();
    for text in [
        serial.clone(),
        serial.to_uppercase(),
        octets.join(":").to_uppercase(),
        fingerprint.to_owned(),
        spki,
        device.name.clone(),
        device.subject()["serialNumber"].clone(),
        format!("  {}\t", device.name),
    ] {
        let path = format!("/audit?q={}", encoded(&text));
        let answer = shared().client("auditor").get(&path);
        let address = format!("/audit/certificates/{serial}");
        let seen = (answer.status, answer.header("location"));
        assert_eq!(seen, (303, Some(&*address)), "{text}");
    }
    // An empty box is no search, and a name that nobody has is none either.
    assert!(rows(&read("/audit?q=")).contains(&serial));
    let nothing = read(&format!("/audit?q={}", encoded("<b>\"nonesuch'&")));
    assert!(
        nothing.contains("<q>&#60;b&#62;&#34;nonesuch&#39;&#38;</q>"),
        "{nothing}"
    );
}

#[test]
fn a_reworked_device_has_its_whole_story_and_the_box_shows_all_its_certificates() {
    let (world, device) = (shared(), Device::p256());
    let name = format!("WO-{}", device.name);
    let first = certificate(&device, Some(&name));
    let confirm = |certificate: &Value| {
        let path = format!("/v1/certificates/{}/confirmation", serial(certificate));
        post(
            &path,
            "station-01",
            &json!({ "certificate": certificate["certificate"] }),
        )
    };
    confirm(&first);
    let path = format!("/v1/certificates/{}/supersession", serial(&first));
    let body = json!({ "csr": device.rekeyed().csr(), "reason": "flash <i>replaced</i>" });
    let second = post(&path, "station-01", &body).json();
    let (old, new) = (serial(&first), serial(&second));
    let before = story(&old);
    let known = [
        "Requested",
        "Issued",
        "Confirmed at the end of the line",
        "Rework issued:",
    ];
    assert_eq!(steps(&before), [&known[..], &["Valid until"]].concat());
    confirm(&second);
    let path = format!("/v1/certificates/{new}/scrap");
    post(&path, "operator", &json!({ "reason": "case cracked" }));

    let after = story(&old);
    let end = ["Superseded", "Would have been valid until"];
    assert_eq!(steps(&after), [&known[..], &end].concat());
    for part in [
        "<span>compared:</span> certificate",
        "flash &#60;i&#62;replaced&#60;/i&#62;",
        "<span>CRL reason</span> superseded",
    ] {
        // The colon is the style's.
        let part = part.replace(":</span>", "</span>");
        assert!(after.contains(&part), "{part} in {after}");
    }
    let replacement = story(&new);
    let known = ["Rework requested, to replace", "Issued"];
    let later = ["Confirmed at the end of the line", "Scrapped"];
    let end = ["Would have been valid until"];
    assert_eq!(steps(&replacement), [&known[..], &later, &end].concat());
    assert!(replacement.contains("case cracked"));
    for (page, other) in [(&after, &new), (&replacement, &old)] {
        let address = format!("/audit/certificates/{other}");
        assert!(page.matches(&address).count() >= 2, "no way to {other}");
        assert_eq!(link(page, &name), Some(format!("/audit?order={name}")));
    }

    let found = world
        .client("auditor")
        .get(&format!("/audit?q={}", device.name));
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(rows(&found.text()), [new, old]);
}

#[test]
fn what_people_wrote_is_shown_and_never_run() {
    let (world, device) = (shared(), Device::p256());
    let order = format!("\"><script>alert('{}')</script>", std::process::id()).replace('/', "|");
    let made = certificate(&device, Some(&order));
    let serial = serial(&made);
    let path = format!("/v1/certificates/{serial}/revocation");
    let comment = "</p><script>alert(1)</script><img src=x onload=alert(2)>";
    let body = json!({ "reason": "keyCompromise", "comment": comment });
    post(&path, "operator", &body);
    let page = story(&serial);
    assert!(
        page.contains("&#60;/p&#62;&#60;script&#62;alert(1)&#60;/script&#62;"),
        "{page}"
    );
    let address = format!("/audit?order={}", encoded(&order));
    let table = read(&address);
    assert_eq!(rows(&table), std::slice::from_ref(&serial));
    // In the form, among the filters in use, and in the table.
    assert!(
        table.matches("&#34;&#62;&#60;script&#62;alert(").count() >= 3,
        "{table}"
    );
    // And the link that the page makes of it finds the same.
    let link = Regex::new(r#"href="(/audit\?order=[^"]+)""#).unwrap();
    let link = link.captures(&page).expect("no way to the order")[1].replace("&#38;", "&");
    assert_eq!(rows(&read(&link)), [serial]);
    // What is wrong with a parameter is told without repeating it as it is.
    let wrong = format!("/audit?{}=1", encoded("<script>alert(3)</script>"));
    let wrong = world.client("auditor").get(&wrong);
    assert_eq!(wrong.status, 400);
    guarded(&wrong);
}

#[test]
fn pages_hold_everything_once_newest_first_and_an_export_is_what_rest_exports() {
    let order = format!("WO-audit-{}", std::process::id());
    let mut made: Vec<String> = (0..7)
        .map(|_| serial(&certificate(&Device::p256(), Some(&order))))
        .collect();
    made.reverse();
    let auditor = shared().client("auditor");
    let mut path = format!("/audit?order={order}&profile=&status=issued&limit=3");
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let html = read(&path);
        found.extend(rows(&html));
        pages += 1;
        assert_eq!(link(&html, "Newest").is_some(), pages > 1, "{html}");
        let Some(next) = link(&html, "Older") else {
            break;
        };
        path = next;
    }
    assert_eq!((found.iter().collect::<BTreeSet<_>>().len(), pages), (7, 3));
    assert_eq!(found, made);

    let html = read(&path);
    // How long a certificate has waited depends on when one asks.
    let age = Regex::new(r#""unconfirmed_seconds":\d+"#).unwrap();
    for (name, form) in [("CSV", "text/csv"), ("NDJSON", "application/x-ndjson")] {
        let address = link(&html, &format!("Export {name}")).unwrap();
        let (bare, filter) = address.split_once('?').unwrap();
        let export = auditor.get(&address);
        assert_eq!(export.status, 200, "{address}: {export:?}");
        let file = format!(
            "attachment; filename=\"{}\"",
            bare.replace("/audit/export", "certificates")
        );
        assert_eq!(export.header("content-disposition"), Some(&*file));
        assert_eq!(filter, format!("order={order}&status=issued"));
        let rest = auditor.get_as(&format!("/v1/certificates?{filter}"), form);
        assert_eq!(export.header("content-type"), rest.header("content-type"));
        let timeless = |answer: Response| age.replace_all(&answer.text(), "").into_owned();
        let lines = timeless(export);
        assert_eq!(lines, timeless(rest));
        assert_eq!(lines.lines().count(), 7 + usize::from(name == "CSV"));
    }
    let address = link(&html, "Export Parquet").unwrap();
    let (bare, filter) = address.split_once('?').unwrap();
    assert_eq!(bare, "/audit/export.parquet");
    let export = auditor.get(&address);
    let path = format!("/v1/certificates?{filter}");
    let rest = auditor.get_as(&path, "application/vnd.apache.parquet");
    assert_eq!(export.header("content-type"), rest.header("content-type"));
    assert!(export.body.starts_with(b"PAR1") && export.body == rest.body);
    let wrong = auditor.get("/audit/export.csv?status=lost");
    assert_eq!(wrong.status, 400);
    guarded(&wrong);
}

#[test]
fn a_times_field_without_a_zone_is_utc() {
    let device = Device::p256();
    let made = serial(&certificate(&device, None));
    let find = |query: &str| rows(&read(&format!("/audit?device={}&{query}", device.name)));
    assert_eq!(
        find("issued_after=2020-01-01T00:00&issued_before=2120-01-01T00:00"),
        [made]
    );
    assert_eq!(find("issued_before=2020-01-01T00:00"), [""; 0]);
    let html = read("/audit?issued_after=2020-01-02T03:04");
    assert!(
        html.contains(r#"type="datetime-local" step="any" value="2020-01-02T03:04""#),
        "{html}"
    );
    assert!(html.contains("2020-01-02 03:04 UTC"), "{html}");
}

#[test]
fn what_is_not_there_or_not_right_is_told_on_a_page() {
    let auditor = shared().client("auditor");
    let none = "0".repeat(31) + "1";
    for path in [
        format!("/audit/certificates/{none}"),
        format!("/audit/certificates/{none}/certificate.pem"),
        "/audit/certificates/nonesuch".to_owned(),
        "/audit/nonesuch".to_owned(),
    ] {
        let page = auditor.get(&path);
        assert_eq!(page.status, 404, "{path}: {page:?}");
        guarded(&page);
        assert!(page.text().contains("<code>not-found</code>"));
    }
    let page = auditor.send("POST", "/audit", &[], Some(b"x"));
    assert_eq!((page.status, page.header("allow")), (405, Some("GET")));
    guarded(&page);
    for query in [
        "batch=nonesuch",
        "status=lost",
        "limit=0",
        "cursor=x",
        "nonesuch=1",
        "issued_after=yesterday",
        "q=x&order=WO-1",
        &format!("q={}", "x".repeat(257)),
        "q=%00",
    ] {
        let page = auditor.get(&format!("/audit?{query}"));
        assert_eq!(page.status, 400, "{query}: {page:?}");
        guarded(&page);
        let html = page.text();
        assert!(html.contains(r#"role="alert""#), "{query}: {html}");
    }
    // The form keeps what was typed, so that it can be corrected.
    let page = auditor.get("/audit?batch=nonesuch&order=WO-1").text();
    assert!(page.contains(r#"name="batch" value="nonesuch""#), "{page}");
    assert!(page.contains(r#"name="order" value="WO-1""#), "{page}");
    // Elsewhere, problems are for programs.
    assert_eq!(auditor.get("/v1/nonesuch").slug(), "not-found");
    assert_eq!(auditor.get("/auditor").slug(), "not-found");
}

#[test]
fn the_files_are_those_of_rest() {
    let serial = serial(&certificate(&Device::p256(), None));
    let auditor = shared().client("auditor");
    for (form, kind) in [
        ("pem", "application/x-pem-file"),
        ("der", "application/pkix-cert"),
    ] {
        let file = auditor.get(&format!("/audit/certificates/{serial}/certificate.{form}"));
        let rest = auditor.get_as(&format!("/v1/certificates/{serial}"), kind);
        assert_eq!((file.status, &file.body), (200, &rest.body), "{form}");
        let name = format!("attachment; filename=\"{serial}.{form}\"");
        assert_eq!(file.header("content-disposition"), Some(&*name));
        assert_eq!(file.header("content-type"), Some(kind));
    }
}

#[test]
fn a_certificate_is_proved_by_the_newest_checkpoint() {
    let world: &World = shared();
    let made = certificate(&Device::p256(), None);
    let index = made["log_index"].as_u64().unwrap();
    let start = Instant::now();
    let proved = format!("Entry {index} is proved by the checkpoint of ");
    let html = loop {
        let html = story(&serial(&made));
        if html.contains(&proved) {
            break html;
        }
        assert!(
            html.contains(&format!("Entry {index} is not yet in a signed tree.")),
            "{html}"
        );
        assert!(start.elapsed() < Duration::from_secs(20), "not proved");
        std::thread::sleep(Duration::from_millis(100));
    };
    let evidence = link(&html, "The evidence, for your own check (JSON)").unwrap();
    assert_eq!(
        world.client("auditor").get(&evidence).json()["log_index"],
        index
    );
    // The search page shows the same log, with that checkpoint or a later one.
    let html = read("/audit");
    let note = world.nobody().get("/v1/audit/checkpoint").text();
    let origin = note.lines().next().unwrap();
    assert!(
        html.contains(&format!("<dt>Origin</dt><dd>{origin}</dd>")),
        "{html}"
    );
    let size = Regex::new(r"<dt>Last checkpoint</dt><dd>(\d+) entries").unwrap();
    let size: u64 = size.captures(&html).unwrap()[1].parse().unwrap();
    assert!(size > index);
}

#[test]
fn a_certificate_of_a_batch_names_it() {
    let (world, recipient) = (shared(), Recipient::new());
    let id = world.taken(&order(3, &recipient));
    world.wait_done(&id, Duration::from_secs(120));
    let table = read(&format!("/audit?batch={id}"));
    let made = rows(&table);
    assert_eq!(made.len(), 3);
    let address = Regex::new(r#"href="(/audit\?batch=[^"]+)""#).unwrap();
    for serial in made {
        let html = story(&serial);
        assert!(
            html.contains("made here, encrypted to the batch’s recipient"),
            "{html}"
        );
        let address = address.captures(&html).expect("no batch")[1].to_owned();
        assert_eq!(
            address.replace('-', ""),
            format!("/audit?batch={}", id.replace('-', ""))
        );
    }
}

#[test]
fn verification_and_station_certificates_are_found_when_they_are_asked_for() {
    let world = shared();
    let all = read("/audit?kind=station");
    let device = certificate(&Device::p256(), None);
    assert!(!rows(&read("/audit?kind=verification")).contains(&serial(&device)));
    assert!(rows(&read("/audit?kind=any")).contains(&serial(&device)));
    for serial in rows(&all) {
        assert!(story(&serial).contains("station"));
    }
    assert_eq!(
        world.client("auditor").get("/audit?kind=nonesuch").status,
        400
    );
}
