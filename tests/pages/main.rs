//! The pages in a real browser, with a client certificate: what a person does, with a scanner, a mouse or the keyboard alone, on a desk and on a telephone, by day and by night.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod ui;

use std::path::Path;

use serde_json::{Value, json};

use browser::Browser;
use browser::SHIFT;
use support::device::Device;
use support::world::{issued, shared};

/// Widths in pixels: the narrowest, a usual telephone, the border between cards and a table, a desk.
const WIDTHS: [u32; 5] = [360, 390, 959, 960, 1280];

fn certificate(device: &Device, order: &str) -> Value {
    shared().order(order, "lightbulb");
    let mut request = device.request("lightbulb");
    request["order"] = order.into();
    issued(&shared().client("station-01").issue(&request))
}

fn post(path: &str, who: &str, body: &Value) -> Value {
    let headers = [("Content-Type", "application/json")];
    let client = shared().client(who);
    let done = client.send("POST", path, &headers, Some(body.to_string().as_bytes()));
    assert!(matches!(done.status, 200 | 201), "{done:?}");
    done.json()
}

fn serial(certificate: &Value) -> &str {
    certificate["serial_number"].as_str().unwrap()
}

/// A device whose certificate was confirmed, reworked, and whose second one was revoked with words
/// that a browser must not take for its own.
fn eventful(order: &str) -> (Device, [Value; 2]) {
    let device = Device::p256();
    let first = certificate(&device, order);
    let act =
        |certificate: &Value, act: &str| format!("/v1/certificates/{}/{act}", serial(certificate));
    let body = json!({ "certificate": first["certificate"] });
    post(&act(&first, "confirmation"), "station-01", &body);
    let body = json!({ "csr": device.rekeyed().csr(), "reason": "flash replaced" });
    let second = post(&act(&first, "supersession"), "station-01", &body);
    let comment = "</p><script>document.title = 'stolen'</script><img src=//elsewhere.example/x>";
    let body = json!({ "reason": "keyCompromise", "comment": comment });
    post(&act(&second, "revocation"), "operator", &body);
    (device, [first, second])
}

#[test]
fn an_auditor_scans_a_number_reads_the_story_and_exports_an_order() {
    let order = format!("WO-{}", Device::p256().name);
    let (device, [_, second]) = eventful(&order);
    let others = [0, 1].map(|_| certificate(&Device::p256(), &order));
    let browser = Browser::of("auditor");

    // A hand scanner types, and presses Enter; nobody has touched mouse or keyboard.
    browser.open("/audit");
    browser.scan(serial(&others[1]));
    browser.wait_for(&format!("/audit/certificates/{}", serial(&others[1])));
    // And again: the page that one scan found waits for the next.
    browser.scan(serial(&second));
    browser.wait_for(&format!("/audit/certificates/{}", serial(&second)));
    let story = browser.text("main");
    for part in [
        &device.name,
        "revoked",
        "Rework requested, to replace",
        "flash replaced",
        "keyCompromise",
        "<script>document.title = 'stolen'</script>",
    ] {
        assert!(story.contains(part), "{part} in {story}");
    }
    assert_eq!(browser.title(), format!("{} · certfactory", device.name));

    browser.back();
    browser.wait_for(&format!("/audit/certificates/{}", serial(&others[1])));
    browser.back();
    browser.wait_for("/audit");
    browser.click("#f-order");
    browser.press(&format!("{order}\n"));
    browser.wait_until("the order's rows", |browser| browser.count("tbody tr") == 4);
    let newest = browser.text("tbody tr:nth-child(1)");
    assert!(newest.contains(serial(&others[1])), "{newest}");

    browser.click_link("Export CSV");
    let table = browser.download("certificates.csv");
    let mut lines = table
        .split("\r\n")
        .map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let place = |name| head.iter().position(|column| *column == name).unwrap();
    let (number, cn, status) = (place("serial_number"), place("CN"), place("status"));
    let (named, entry) = (place("order"), place("log_index"));
    let lines: Vec<_> = lines.filter(|line| line.len() > 1).collect();
    assert_eq!(lines.len(), 4);
    for (row, line) in (1..).zip(lines) {
        let cell =
            |column| browser.text(&format!("tbody tr:nth-child({row}) > :nth-child({column})"));
        let shown = [1, 2, 3, 7, 8].map(cell);
        assert_eq!(
            shown,
            [number, cn, status, named, entry].map(|column| line[column])
        );
    }

    // Without the filter, the newest of all; and the second certificate of the device by its name.
    browser.click(".chips a");
    browser.wait_for("/audit");
    browser.scan(&device.name);
    browser.wait_until("both certificates", |browser| {
        browser.count("tbody tr") == 2
    });
    // Whoever scans again finds an empty box.
    browser.scan(serial(&others[0]));
    browser.wait_for(&format!("/audit/certificates/{}", serial(&others[0])));
    browser.was_quiet();
}

#[test]
fn the_keyboard_alone_goes_everywhere_and_the_focus_is_seen() {
    let order = format!("WO-{}", Device::p256().name);
    let made = certificate(&Device::p256(), &order);
    let browser = Browser::of("auditor");
    browser.open(&format!("/audit?order={order}"));
    browser.wait_until("ready for a scan", |browser| browser.active() == "q");
    // Back over the pages' names and the product's to the very first: past all that is above the content.
    browser.press(&format!("{SHIFT}{}", "\t".repeat(8)));
    assert_eq!(
        browser.script("return document.activeElement.className"),
        "skip"
    );
    let seen = "return document.activeElement.getBoundingClientRect().top >= 0";
    assert_eq!(browser.script(seen), true, "the skip link is out of sight");
    browser.press("\n");
    browser.wait_until("the content", |browser| browser.active() == "main");

    let ring = "const style = getComputedStyle(document.activeElement); \
        return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";
    let wanted = format!("/audit/certificates/{}", serial(&made));
    let (mut stops, here) = (
        0,
        "return document.activeElement.getAttribute('href') || ''",
    );
    while browser.script(here) != wanted.as_str() {
        browser.press("\t");
        let at = browser.script("return document.activeElement.outerHTML");
        assert_eq!(browser.script(ring), true, "the focus is not seen at {at}");
        stops += 1;
        assert!(stops < 60, "the certificate is out of reach");
    }
    // The box, its button, nine fields (times have parts), the rare ones, apply, clear, exports, a chip.
    assert!(stops > 12, "something was passed over: {stops}");
    browser.press("\n");
    browser.wait_for(&wanted);
    browser.was_quiet();
}

#[test]
fn every_page_is_readable_on_any_width_by_day_and_by_night() {
    let order = format!("WO-{}", Device::p256().name);
    let (device, [first, second]) = eventful(&order);
    for _ in 0..3 {
        certificate(&Device::p256(), &order);
    }
    let long = format!("WO-{}-{}", Device::p256().name, "x".repeat(40));
    let long = certificate(&Device::p256(), &long);
    let pages = [
        ("search", "/audit".to_owned()),
        ("order", format!("/audit?order={order}&status=issued")),
        ("device", format!("/audit?q={}", device.name)),
        ("nothing", "/audit?q=nonesuch".to_owned()),
        (
            "superseded",
            format!("/audit/certificates/{}", serial(&first)),
        ),
        (
            "revoked",
            format!("/audit/certificates/{}", serial(&second)),
        ),
        ("long", format!("/audit/certificates/{}", serial(&long))),
    ];
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&pictures).unwrap();
    let browser = Browser::of("auditor");
    for (name, path) in &pages {
        browser.open(path);
        assert_eq!(
            browser.script(OUTLINE),
            Value::from(Vec::<String>::new()),
            "{path}"
        );
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            assert_eq!(
                browser.script(PALE),
                Value::from(Vec::<String>::new()),
                "{path} {scheme}"
            );
            for width in WIDTHS {
                browser.resize(width);
                let needed = browser.script("return document.documentElement.scrollWidth");
                assert!(
                    needed.as_u64().unwrap() <= width.into(),
                    "{path} at {width}: {needed}"
                );
                if width == 390 || width == 1280 {
                    let file = pictures.join(format!("{name}-{width}-{scheme}.png"));
                    std::fs::write(file, browser.picture()).unwrap();
                }
            }
        }
    }
    browser.was_quiet();
}

/// What is wrong with a page's outline, for those who do not see it.
const OUTLINE: &str = r#"
const faults = [];
const expect = (so, what) => so || faults.push(what);
expect(document.documentElement.lang === 'en', 'no language');
expect(document.title.length > 'certfactory'.length, 'no title');
for (const one of ['h1', 'main', 'header', 'footer', '.skip'])
  expect(document.querySelectorAll(one).length === 1, one);
const ids = [...document.querySelectorAll('[id]')].map(it => it.id);
expect(new Set(ids).size === ids.length, 'an id twice');
for (const it of document.querySelectorAll('[aria-labelledby], [aria-describedby]'))
  expect(ids.includes(it.getAttribute('aria-labelledby') || it.getAttribute('aria-describedby')), it.outerHTML);
for (const it of document.querySelectorAll('input, select')) expect(it.labels.length === 1, it.outerHTML);
for (const it of document.querySelectorAll('a, button'))
  expect((it.getAttribute('aria-label') || it.textContent).trim(), it.outerHTML);
for (const it of document.querySelectorAll('img')) expect(it.hasAttribute('alt') && it.naturalWidth, it.outerHTML);
let level = 0;
for (const it of document.querySelectorAll('h1, h2, h3')) {
  expect(it.tagName[1] <= level + 1, 'a heading too deep: ' + it.textContent);
  level = Number(it.tagName[1]);
}
const live = location.pathname.startsWith('/ui') && location.pathname !== '/ui/problems';
for (const it of document.querySelectorAll('script')) expect(live && it.src && !it.textContent, 'a script');
return faults;
"#;

/// Texts whose contrast is below 4.5 (WCAG 2.2, 1.4.3).
const PALE: &str = r#"
const light = color => {
  const parts = color.match(/[\d.]+/g).slice(0, 3).map(part => {
    const it = part / 255;
    return it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const ground = it => {
  for (; it; it = it.parentElement) {
    const color = getComputedStyle(it).backgroundColor;
    if (!/, 0\)$/.test(color)) return color;
  }
  return 'rgb(255, 255, 255)';
};
const pale = [];
for (const it of document.querySelectorAll('body *')) {
  const text = [...it.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
  if (!text.length || !it.getClientRects().length) continue;
  const pair = [light(getComputedStyle(it).color), light(ground(it))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < 4.5) pale.push(it.outerHTML.slice(0, 120) + ' ' + contrast.toFixed(2));
}
return pale;
"#;
