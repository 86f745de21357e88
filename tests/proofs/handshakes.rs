//! Strangers that do nothing but shake hands, from one address and as fast as they can: stations
//! that are connected keep their share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::support::tls::{address, connector, tcp_from};
use crate::support::world::OwnWorld;

const STATIONS: usize = 32;
/// Threads of the strangers.
const STRANGERS: usize = 32;

/// `per_second_max`: what the service allows, where it is not its default.
pub fn handshakes(span: Duration, per_second_max: Option<u32>) {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        if let Some(most) = per_second_max {
            let http = config["http"].as_table_mut().unwrap();
            http.insert("handshakes_per_second_max".into(), most.into());
        }
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let load = Load::start(&own.world, STATIONS);
    let rate = || {
        let (before, start) = (load.history.issued.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(span);
        let made = load.history.issued.load(Ordering::Relaxed) - before;
        made as f64 / start.elapsed().as_secs_f64()
    };
    std::thread::sleep(Duration::from_secs(2));
    let alone = rate();

    let (stop, done, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    // Made once: what strangers spend on it is not the service's.
    let connector = connector(None).build();
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|_| {
            let (stop, done, failed) = (stop.clone(), done.clone(), failed.clone());
            let (connector, to) = (connector.clone(), address(&own.world));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let ended = connector.connect("localhost", tcp_from([127, 0, 0, 2], to));
                    if ended.is_ok() { &done } else { &failed }.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (start, during) = (Instant::now(), rate());
    let shaken = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for stranger in strangers {
        stranger.join().unwrap();
    }
    let after = rate();
    let history = load.stop();
    history.saw_only(&[]);
    history.holds_against(&own.world);
    own.assert_alive();
    println!(
        "certificates a second      alone {alone:.0}, under handshakes {during:.0}, after {after:.0}"
    );
    println!("share kept                 {:.0} %", 100.0 * during / alone);
    println!(
        "handshakes a second        {shaken:.0}, {} failed",
        failed.load(Ordering::Relaxed)
    );
    assert!(during >= 0.7 * alone, "stations lost more than 30 %");
}
