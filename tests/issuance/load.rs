//! Stations that never stop: a load that writes down every answer, to be held against the ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certfactory::cli::client::{Client, Connect, Connection};
use hyper::Method;
use openssl::x509::X509;
use serde_json::Value;

use crate::support::device::Device;
use crate::support::world::World;

/// What the stations saw.
#[derive(Default)]
pub struct History {
    /// Device → certificate, PEM.
    pub certificates: Mutex<HashMap<String, String>>,
    /// (status, slug) → how often.
    pub refusals: Mutex<BTreeMap<(u16, String), u64>>,
    /// When each answer came, its status; 0 where the connection broke instead.
    pub answers: Mutex<Vec<(Instant, u16)>>,
    /// Refusals that do not say when to come again.
    surprises: Mutex<Vec<String>>,
    /// Connections that broke while an answer was awaited.
    pub broken: AtomicU64,
    /// Connections that were not made.
    pub unconnected: AtomicU64,
    /// Certificates.
    pub issued: AtomicU64,
    /// Longest time an answer took, in milliseconds.
    pub slowest_ms: AtomicU64,
}

/// A running load.
pub struct Load {
    pub history: Arc<History>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How the stations connect.
pub fn connect(world: &World) -> Connect {
    Connect {
        url: world.url.parse().unwrap(),
        client_certificate: None,
        client_key: None,
        anonymous: false,
        ca: None,
    }
}

/// A pause of random length: so that faults hit at any point.
pub fn pause_up_to(longest: Duration) {
    let mut random = [0; 1];
    openssl::rand::rand_bytes(&mut random).unwrap();
    std::thread::sleep(longest * u32::from(random[0]) / 255);
}

impl Load {
    /// `stations` connections, each with a fresh device as soon as the last has its certificate.
    /// A device that got no certificate is asked for again, as a station would.
    pub fn start(world: &World, stations: usize) -> Self {
        let history = Arc::new(History::default());
        let stop = Arc::new(AtomicBool::new(false));
        let client = Client::new(&connect(world), &world.dir.join("config.toml")).unwrap();
        let (shared, flag) = (history.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let stations = (0..stations)
                    .map(|_| tokio::spawn(station(client.clone(), shared.clone(), flag.clone())));
                for station in stations.collect::<Vec<_>>() {
                    station.await.unwrap();
                }
            });
        });
        Self {
            history,
            stop,
            thread: Some(thread),
        }
    }

    /// Waits for that many more certificates.
    pub fn wait_issued(&self, more: u64, at_most: Duration) {
        let issued = || self.history.issued.load(Ordering::Relaxed);
        let (before, start) = (issued(), Instant::now());
        while issued() < before + more {
            assert!(
                start.elapsed() < at_most,
                "{} of {more} certificates within {at_most:?}; {:?}",
                issued() - before,
                self.history.refusals.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops, and waits for the last answers.
    pub fn stop(mut self) -> Arc<History> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.history.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn station(client: Client, history: Arc<History>, stop: Arc<AtomicBool>) {
    let mut connection: Option<Connection> = None;
    let mut device = Device::p256();
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection = client.connect().await.ok();
            if connection.is_none() {
                history.unconnected.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        let body = device.request("lightbulb").to_string();
        let start = Instant::now();
        let answer = open
            .send(
                Method::POST,
                "/v1/certificates",
                &[("content-type", "application/json")],
                body.into(),
            )
            .await;
        let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        history.slowest_ms.fetch_max(
            u64::try_from(start.elapsed().as_millis()).unwrap(),
            Ordering::Relaxed,
        );
        history
            .answers
            .lock()
            .unwrap()
            .push((Instant::now(), status));
        let Ok(answer) = answer else {
            history.broken.fetch_add(1, Ordering::Relaxed);
            connection = None;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if answer
            .headers
            .get("connection")
            .is_some_and(|c| c == "close")
        {
            connection = None;
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if matches!(status, 200 | 201) {
            let certificate = body["certificate"].as_str().unwrap_or_default();
            history
                .certificates
                .lock()
                .unwrap()
                .insert(device.name.clone(), certificate.to_owned());
            history.issued.fetch_add(1, Ordering::Relaxed);
            device = Device::p256();
        } else {
            let slug = body["type"]
                .as_str()
                .unwrap_or("?")
                .trim_start_matches("/problems/")
                .to_owned();
            *history
                .refusals
                .lock()
                .unwrap()
                .entry((status, slug))
                .or_default() += 1;
            if !answer.headers.contains_key("retry-after") {
                history
                    .surprises
                    .lock()
                    .unwrap()
                    .push(format!("{status} {body}"));
            }
            // A station waits a little, not the whole second: the test wants pressure.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl History {
    /// Every refusal said when to come again, and was one of these.
    pub fn saw_only(&self, slugs: &[&str]) {
        let surprises = self.surprises.lock().unwrap();
        assert!(
            surprises.is_empty(),
            "{} unclean answers, first: {}",
            surprises.len(),
            surprises[0]
        );
        let refusals = self.refusals.lock().unwrap();
        assert!(
            refusals
                .keys()
                .all(|(_, slug)| slugs.contains(&slug.as_str())),
            "{refusals:?}"
        );
    }

    /// Every request got its certificate, and every connection was made.
    pub fn saw_no_failure(&self) {
        let refusals = self.refusals.lock().unwrap();
        let (broken, unconnected) = (&self.broken, &self.unconnected);
        let lost = [broken, unconnected].map(|count| count.load(Ordering::Relaxed));
        assert!(
            refusals.is_empty() && lost == [0, 0],
            "refusals {refusals:?}, connections that broke and that were not made {lost:?}"
        );
    }

    /// No answer took longer, and none stayed away.
    pub fn answered_within(&self, at_most: Duration) {
        let slowest = Duration::from_millis(self.slowest_ms.load(Ordering::Relaxed));
        assert!(slowest <= at_most, "an answer took {slowest:?}");
        assert_eq!(self.broken.load(Ordering::Relaxed), 0, "connections broke");
    }

    /// Every certificate any station got is in the ledger byte for byte; no device has two; all of
    /// them verify; the log has no gap.
    pub fn holds_against(&self, world: &World) {
        let seen = self.certificates.lock().unwrap();
        assert!(!seen.is_empty(), "no station got a certificate");
        let rows = world.sql("SELECT i.device, encode(o.der, 'hex') FROM intent i JOIN outcome o USING (intent_id) WHERE o.der IS NOT NULL");
        let issuer = X509::from_pem(&std::fs::read(world.dir.join("issuers/line-ec.pem")).unwrap())
            .unwrap()
            .public_key()
            .unwrap();
        let mut recorded = HashMap::new();
        for row in rows.lines() {
            let (device, hex) = row.split_once('|').unwrap();
            let der: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect();
            assert!(
                X509::from_der(&der).unwrap().verify(&issuer).unwrap(),
                "{device}'s certificate does not verify"
            );
            assert!(
                recorded.insert(device, der).is_none(),
                "{device} has two certificates"
            );
        }
        for (device, pem) in seen.iter() {
            let der = X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
            assert_eq!(
                recorded.get(device.as_str()),
                Some(&der),
                "{device}'s certificate is not the one in the ledger"
            );
        }
        let gapless = "SELECT count(*) = coalesce(max(log_index) + 1, 0) AND count(*) = (SELECT size FROM log_head) FROM log_entry";
        assert_eq!(world.sql(gapless), "t", "the log has a gap");
        let told = "SELECT count(*) FROM outcome o FULL JOIN (SELECT log_index FROM log_entry WHERE leaf LIKE '%\"kind\":\"issued\"%') e
            USING (log_index) WHERE (o.der IS NOT NULL AND e.log_index IS NULL) OR o.intent_id IS NULL";
        assert_eq!(
            world.sql(told),
            "0",
            "a certificate without its entry, or an entry without its certificate"
        );
    }
}
