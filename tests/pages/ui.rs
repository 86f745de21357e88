//! The line's pages: they keep themselves up to date, their buttons work with the keyboard alone, and
//! they are readable on a desk and on a telephone, by day and by night.

use std::path::Path;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::support::batch::order;
use crate::support::device::Device;
use crate::support::recipient::Recipient;
use crate::support::world::shared;
use crate::{OUTLINE, PALE, WIDTHS, certificate, eventful, post};

const PAGES: [&str; 5] = [
    "/ui",
    "/ui/stations",
    "/ui/orders",
    "/ui/batches",
    "/ui/problems",
];

/// Whether the focus is seen where it is.
const RING: &str = "const style = getComputedStyle(document.activeElement); \
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap()
}

/// Goes with the tabulator to the element of this id; sees the focus at each stop.
fn walk_to(browser: &Browser, id: &str) {
    for _ in 0..200 {
        if browser.active() == id {
            return;
        }
        browser.press("\t");
        let at = browser.script("return document.activeElement.outerHTML.slice(0, 200)");
        assert_eq!(browser.script(RING), true, "the focus is not seen at {at}");
    }
    panic!("{id} is out of reach");
}

/// The page was loaded once and not again: what a script leaves in it is still there.
fn mark(browser: &Browser) {
    browser.script("window.marked = true");
}

fn is_marked(browser: &Browser) -> bool {
    browser.script("return window.marked === true") == true
}

#[test]
fn the_page_of_the_line_keeps_itself_up_to_date_and_says_when_it_cannot() {
    let order = format!("WO-{}", Device::p256().name);
    let browser = Browser::of("operator");
    browser.open("/ui");
    assert_eq!(browser.title(), "Now · certfactory");
    let paint = browser.first_paint();
    println!("first paint of /ui {paint:.0} ms");
    assert!(paint < 5_000.0, "{paint} ms");
    let issued = |browser: &Browser| number(&browser.text_now("#pace dl > div:nth-child(2) dd"));
    let before = issued(&browser);
    mark(&browser);
    // The table stays open while its numbers change.
    browser.click(".numbers > summary");
    certificate(&Device::p256(), &order);
    certificate(&Device::p256(), &order);
    browser.wait_until("two more", |browser| issued(browser) >= before + 2);
    assert!(is_marked(&browser), "the page was loaded again");
    assert_eq!(browser.count(".numbers[open] #minutes tbody tr"), 60);
    assert!(browser.count(".chart .runs, .chart .minute") > 0);
    let shown = browser.text_now("#minutes");
    assert!(shown.contains("Confirmed"), "{shown}");
    // What a screen reader has instead of the picture is the same.
    let said = browser.script("return document.getElementById('chart-text').textContent");
    let said = said.as_str().unwrap();
    assert!(said.contains("in the last hour; most,"), "{said}");

    assert_eq!(
        browser.script("return document.getElementById('lost').hidden"),
        true
    );
    browser.was_quiet();
    browser.offline(true);
    browser.wait_until("said to be out of date", |browser| {
        browser.script("return !document.getElementById('lost').hidden") == true
    });
    browser.offline(false);
    browser.wait_until("up to date again", |browser| {
        browser.script("return document.getElementById('lost').hidden") == true
    });
    assert!(is_marked(&browser));
}

#[test]
fn an_administrator_shuts_a_station_out_and_lets_it_in_with_the_keyboard_alone() {
    let name = Device::p256().name;
    post("/v1/stations", "administrator", &json!({ "name": name }));
    let path = format!("/v1/stations/{name}");
    let disabled = || shared().client("administrator").get(&path).json()["disabled"].clone();
    let browser = Browser::of("administrator");
    browser.open("/ui/stations");
    let summary = format!("disable-{name}");
    browser.wait_until("the station", |browser| {
        browser.count(&format!("#{summary}")) == 1
    });
    walk_to(&browser, &summary);
    mark(&browser);
    browser.press("\n");
    // While the question is open nothing moves under the hand.
    let asked = "details.act[open] form button";
    assert_eq!(browser.count(asked), 1);
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!(browser.count(asked), 1, "the question went away");
    assert_eq!(browser.active(), summary);
    browser.press("\t\n");
    browser.wait_for(&format!("/ui/stations?disabled={name}"));
    assert_eq!(disabled(), true);
    let told = browser.text_now(".told");
    assert!(told.contains(&name), "{told}");
    walk_to(&browser, &format!("enable-{name}"));
    browser.press("\n");
    browser.wait_for(&format!("/ui/stations?enabled={name}"));
    assert_eq!(disabled(), false);
    browser.was_quiet();
}

#[test]
fn an_operator_pauses_a_batch_and_cancels_it_and_an_auditor_only_sees_how_far_it_is() {
    let id = shared().taken(&order(100_000, &Recipient::new()));
    let state = || {
        shared().show_batch(&id)["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let card = format!("#b-{id}");
    let browser = Browser::of("operator");
    browser.open("/ui/batches");
    browser.wait_until("the batch", |browser| browser.count(&card) == 1);
    let back = format!("/ui/batches#b-{id}");
    browser.click(&format!("#pause-{id}"));
    browser.wait_for(&back);
    assert_eq!(state(), "paused");
    let shown = browser.text_now(&card);
    assert!(shown.contains("paused by operator"), "{shown}");
    browser.click(&format!("#cancel-{id}"));
    browser.click(&format!("{card} .danger"));
    browser.wait_until("cancelled", |browser| {
        browser.count(&card) == 1 && browser.text_now(&card).contains("cancelled by operator")
    });
    assert_eq!(state(), "cancelled");
    browser.was_quiet();

    let browser = Browser::of("auditor");
    browser.open("/ui/batches");
    let shown = browser.text_now(&card);
    assert!(shown.contains("of 100,000"), "{shown}");
    assert_eq!(browser.count("main form, main button"), 0);
    browser.was_quiet();
}

#[test]
fn without_scripts_the_pages_are_whole_and_load_themselves_again() {
    let browser = Browser::of("auditor");
    // Away from the browser's own page, whose scripts run.
    browser.open("/ui/problems");
    browser.scripts(false);
    for path in PAGES {
        browser.open(path);
        assert!(browser.text_now("main").len() > 40, "{path}");
        let refresh = browser.count("noscript meta[http-equiv=refresh]");
        assert_eq!(refresh, usize::from(path != "/ui/problems"), "{path}");
    }
    browser.was_quiet();
}

#[test]
fn every_page_of_the_line_is_readable_on_any_width_by_day_and_by_night() {
    let name = format!("WO-{}", Device::p256().name);
    eventful(&name);
    let long = format!("WO-{}-{}", Device::p256().name, "x".repeat(40));
    certificate(&Device::p256(), &long);
    shared().taken(&order(20, &Recipient::new()));
    let refused = shared().client("station-01");
    refused.issue(&Device::p256().request("nonesuch"));
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&pictures).unwrap();
    let browser = Browser::of("administrator");
    for path in PAGES {
        browser.open(path);
        println!("first paint of {path} {:.0} ms", browser.first_paint());
        let none = Value::from(Vec::<String>::new());
        assert_eq!(browser.script(OUTLINE), none, "{path}");
        assert_eq!(browser.script(NAMES), none, "{path}");
        browser.script("for (const it of document.querySelectorAll('details')) it.open = true");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            assert_eq!(browser.script(PALE), none, "{path} {scheme}");
            for width in WIDTHS {
                browser.resize(width);
                let needed = browser.script("return document.documentElement.scrollWidth");
                let needed = needed.as_u64().unwrap();
                assert!(needed <= width.into(), "{path} at {width}: {needed}");
                if width == 390 || width == 1280 {
                    let name = path.trim_start_matches('/').replace('/', "-");
                    let file = pictures.join(format!("{name}-{width}-{scheme}.png"));
                    std::fs::write(file, browser.picture()).unwrap();
                }
            }
        }
    }
    browser.was_quiet();
}

/// Pictures without a name, tables without a caption, and marks that only their colour tells apart.
const NAMES: &str = r#"
const faults = [];
const expect = (so, what) => so || faults.push(what);
for (const it of document.querySelectorAll('svg')) {
  const hidden = it.getAttribute('aria-hidden') === 'true';
  const named = it.getAttribute('role') === 'img'
    && (it.getAttribute('aria-label') || it.querySelector('title'));
  expect(hidden || named, it.outerHTML.slice(0, 120));
}
for (const it of document.querySelectorAll('table')) expect(it.caption, 'a table without a caption');
for (const it of document.querySelectorAll('.states strong, .yes, .no'))
  expect(/[✓✕!]/.test(getComputedStyle(it, '::before').content), 'no mark: ' + it.textContent);
// What has the focus keeps it when the page brings itself up to date: it is found again by its id.
for (const it of document.querySelectorAll('main [hx-get] :is(a, summary, button, [tabindex])'))
  expect(it.id || it.closest('details.act'), 'no id: ' + it.outerHTML.slice(0, 120));
for (const it of document.querySelectorAll('.badge')) expect(it.textContent.trim(), 'an empty badge');
for (const it of document.querySelectorAll('nav [aria-current]'))
  expect(new URL(it.href).pathname === location.pathname, it.href);
expect(document.querySelectorAll('nav [aria-current]').length === 1, 'the page is not in the navigation');
return faults;
"#;
