//! Debian's Chromium, driven over WebDriver: a profile of its own with a client certificate in it,
//! and a note of everything it says and asks for.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::Curl;
use crate::support::world::{World, shared};

/// Longest wait for what a page should become.
const PATIENCE: Duration = Duration::from_secs(10);
/// The key for capitals, and for the way back.
pub const SHIFT: char = '\u{e008}';
/// How WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser of somebody's.
pub struct Browser {
    driver: Child,
    asks: Curl,
    /// The session's address.
    session: String,
    /// The service's.
    service: String,
    home: TempDir,
}

impl Browser {
    /// A browser whose home holds the client certificate of this name in the shared world.
    pub fn of(name: &str) -> Self {
        Self::at(shared(), name)
    }

    /// The same in another world.
    pub fn at(world: &World, name: &str) -> Self {
        let home = TempDir::new().unwrap();
        keep_certificates(world, name, home.path());
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: Debian's packages chromium, chromium-driver and libnss3-tools");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.ok()?;
                let (_, port) = line.split_once("successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver does not say its port");
        std::thread::spawn(move || lines.count());
        let url = format!("http://127.0.0.1:{port}");
        let mut browser = Self {
            driver,
            asks: Curl::new(&url, &world.dir.join("tls/ca.pem"), None),
            session: String::new(),
            service: world.url.clone(),
            home,
        };
        let capabilities = capabilities(world, browser.home.path());
        let session = browser.ask("POST", "/session", &capabilities);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    /// Goes to an address of the world's service.
    pub fn open(&self, path: &str) {
        let url = format!("{}{path}", self.service);
        self.tell("POST", "/url", &json!({ "url": url }));
    }

    pub fn back(&self) {
        self.tell("POST", "/back", &json!({}));
    }

    pub fn title(&self) -> String {
        let title = self.tell("GET", "/title", &Value::Null);
        title.as_str().unwrap().to_owned()
    }

    /// The id of what has the focus.
    pub fn active(&self) -> String {
        let id = self.script("return document.activeElement.id");
        id.as_str().unwrap().to_owned()
    }

    /// What a person sees of the first element that the selector finds.
    pub fn text(&self, selector: &str) -> String {
        let path = format!("/element/{}/text", self.find(selector));
        let text = self.tell("GET", &path, &Value::Null);
        text.as_str().unwrap().to_owned()
    }

    /// The same of a page that may just replace the element.
    pub fn text_now(&self, selector: &str) -> String {
        let find = format!(
            "return document.querySelector({}).innerText",
            json!(selector)
        );
        self.script(&find).as_str().unwrap().to_owned()
    }

    /// How many elements a selector finds.
    pub fn count(&self, selector: &str) -> usize {
        let by = json!({ "using": "css selector", "value": selector });
        self.tell("POST", "/elements", &by)
            .as_array()
            .unwrap()
            .len()
    }

    /// Does as a hand scanner: types where the focus is, which is where the page put it.
    pub fn scan(&self, text: &str) {
        self.wait_until("ready for a scan", |browser| browser.active() == "q");
        self.press(&format!("{text}\n"));
    }

    /// Presses keys where the focus is; `\n` is Enter, `\t` is Tab, and [`SHIFT`] holds until the end.
    pub fn press(&self, text: &str) {
        let mut acts = Vec::new();
        let key = |kind, key: char| json!({ "type": kind, "value": key.to_string() });
        for character in text.chars() {
            let character = match character {
                '\n' => '\u{e007}',
                '\t' => '\u{e004}',
                other => other,
            };
            acts.push(key("keyDown", character));
            if character != SHIFT {
                acts.push(key("keyUp", character));
            }
        }
        if text.contains(SHIFT) {
            acts.push(key("keyUp", SHIFT));
        }
        self.act(&json!({ "type": "key", "id": "keyboard", "actions": acts }));
    }

    /// Clicks where an element is to be seen.
    pub fn click(&self, selector: &str) {
        let origin = json!({ ELEMENT: self.find(selector) });
        let acts = json!([
            { "type": "pointerMove", "origin": origin, "x": 0, "y": 0, "duration": 0 },
            { "type": "pointerDown", "button": 0 },
            { "type": "pointerUp", "button": 0 },
        ]);
        self.act(&json!({ "type": "pointer", "id": "mouse", "actions": acts }));
    }

    fn act(&self, source: &Value) {
        self.tell("POST", "/actions", &json!({ "actions": [source] }));
    }

    pub fn click_link(&self, text: &str) {
        let by = json!({ "using": "link text", "value": text });
        let found = self.tell("POST", "/element", &by);
        let path = format!("/element/{}/click", found[ELEMENT].as_str().unwrap());
        self.tell("POST", &path, &json!({}));
    }

    /// What the test's own script returns.
    pub fn script(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.tell("POST", "/execute/sync", &body)
    }

    /// Waits for an address of the service.
    pub fn wait_for(&self, path: &str) {
        let url = format!("{}{path}", self.service);
        self.wait_until(path, |browser| {
            let here = browser.tell("GET", "/url", &Value::Null);
            here == url.as_str() && browser.script("return document.readyState") == "complete"
        });
    }

    pub fn wait_until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is(self) {
            let here = self.tell("GET", "/url", &Value::Null);
            assert!(start.elapsed() < PATIENCE, "not {what}, but {here}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a file that the browser saves.
    pub fn download(&self, name: &str) -> String {
        let file = self.home.path().join("downloads").join(name);
        self.wait_until(name, |_| file.exists());
        std::fs::read_to_string(file).unwrap()
    }

    /// The reader's setting, `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.develop(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    pub fn resize(&self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.develop("Emulation.setDeviceMetricsOverride", size);
    }

    /// When the page was first painted, in milliseconds after it was asked for.
    pub fn first_paint(&self) -> f64 {
        let paint =
            "return (performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime";
        self.wait_until("painted", |browser| !browser.script(paint).is_null());
        self.script(paint).as_f64().unwrap()
    }

    /// The network is gone, or there again.
    pub fn offline(&self, gone: bool) {
        let network = json!({ "offline": gone, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.develop("Network.enable", json!({}));
        self.develop("Network.emulateNetworkConditions", network);
    }

    /// Whether the pages' scripts run; the test's own do.
    pub fn scripts(&self, run: bool) {
        let value = json!({ "value": !run });
        self.develop("Emulation.setScriptExecutionDisabled", value);
    }

    /// A picture of the whole page, PNG.
    pub fn picture(&self) -> Vec<u8> {
        let size = self.develop("Page.getLayoutMetrics", json!({}));
        let (width, height) = (
            &size["cssContentSize"]["width"],
            &size["cssContentSize"]["height"],
        );
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let what = json!({ "captureBeyondViewport": true, "clip": clip });
        let picture = self.develop("Page.captureScreenshot", what);
        STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// Nothing was said on the console, and nobody but the service was asked for anything.
    pub fn was_quiet(&self) {
        let said = self.tell("POST", "/se/log", &json!({ "type": "browser" }));
        assert_eq!(said, json!([]), "on the console");
        let events = self.tell("POST", "/se/log", &json!({ "type": "performance" }));
        let events = events.as_array().unwrap();
        let asked = events.iter().filter_map(|event| {
            let event: Value = serde_json::from_str(event["message"].as_str()?).ok()?;
            let sent = event["message"]["method"] == "Network.requestWillBeSent";
            let url = event["message"]["params"]["request"]["url"]
                .as_str()?
                .to_owned();
            sent.then_some(url)
        });
        let asked: Vec<String> = asked.collect();
        assert!(asked.len() > 3, "nothing was noted: {asked:?}");
        let service = format!("{}/", self.service);
        for url in asked {
            // The browser's own page, before the first of ours.
            let own = url.starts_with("chrome") || url.starts_with("data:");
            assert!(own || url.starts_with(&service), "asked for {url}");
        }
    }

    fn find(&self, selector: &str) -> String {
        let by = json!({ "using": "css selector", "value": selector });
        let found = self.tell("POST", "/element", &by);
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    fn develop(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.tell("POST", "/goog/cdp/execute", &body)
    }

    fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &format!("{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = [("Content-Type", "application/json")];
        let text = (!body.is_null()).then(|| body.to_string());
        let text = text.as_ref().map(String::as_bytes);
        let answer = self.asks.send(method, path, &headers, text);
        let body = answer.json()["value"].take();
        assert_eq!(answer.status, 200, "{method} {path}: {body}");
        body
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes the browser; the driver alone would leave it behind.
        self.asks.try_send("DELETE", &self.session, &[], None).ok();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// The client certificate with its key, and the world's own authority as one to trust, where Chromium
/// looks for both.
fn keep_certificates(world: &World, name: &str, home: &Path) {
    let database = home.join(".pki/nssdb");
    std::fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    let file = |extension| std::fs::read(world.dir.join(format!("clients/{name}.{extension}")));
    let bundle = Pkcs12::builder()
        .name(name)
        .pkey(&PKey::private_key_from_pem(&file("key").unwrap()).unwrap())
        .cert(&X509::from_pem(&file("pem").unwrap()).unwrap())
        .build2("")
        .unwrap();
    let bundle_file = home.join("client.p12");
    std::fs::write(&bundle_file, bundle.to_der().unwrap()).unwrap();
    let tool = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(["-d", &database])
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("{program}, of Debian's package libnss3-tools: {e}"));
        assert!(output.status.success(), "{program}: {output:?}");
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    tool("certutil", &["-N", "--empty-password"]);
    tool("pk12util", &["-i", &text(&bundle_file), "-W", ""]);
    let authority = text(&world.dir.join("tls/ca.pem"));
    tool(
        "certutil",
        &["-A", "-t", "C,,", "-n", "world", "-i", &authority],
    );
}

fn capabilities(world: &World, home: &Path) -> Value {
    let folder = |name: &str| home.join(name).display().to_string();
    // The certificate is chosen without asking, as a factory's policy has it.
    let site = format!("{},*", world.url);
    let chosen = json!({ site: { "setting": { "filters": [{}] } } });
    let preferences = json!({
        "profile": { "content_settings": { "exceptions": { "auto_select_certificate": chosen } } },
        "download": { "default_directory": folder("downloads"), "prompt_for_download": false },
    });
    let arguments = [
        "--headless=new".to_owned(),
        // Tests may run as root, where the sandbox cannot.
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--hide-scrollbars".to_owned(),
        "--window-size=1280,900".to_owned(),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
        format!("--user-data-dir={}", folder("profile")),
    ];
    json!({ "capabilities": { "alwaysMatch": {
        "acceptInsecureCerts": false,
        "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments, "prefs": preferences },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    } } })
}
