//! The long proofs: the faults of `tests/issuance`, at full size, with figures. Run by hand, by the
//! commands beside this file; what they print is written down in the manual.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

mod audit;
mod batches;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../pages/browser.rs"]
mod browser;
mod failover;
mod flood;
mod handshakes;
mod idle;
mod large;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../issuance/load.rs"]
mod load;
mod orders;
mod pages;
mod plants;
mod quiet;
mod replicas;
mod revocations;
mod sizing;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use load::{History, Load, pause_up_to};
use support::faults::{NetworkHsm, token_away};
use support::world::OwnWorld;

const STATIONS: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, otherwise: u32| {
        arguments
            .get(n)
            .map_or(otherwise, |text| text.parse().expect("a number"))
    };
    match arguments.first().map(String::as_str) {
        Some("kills") => kills(number(1, 50)),
        Some("database-outage") => database_outage(seconds(number(1, 10))),
        Some("hsm-outage") => hsm_outage(seconds(number(1, 10)), seconds(number(2, 20))),
        Some("crl") => revocations::crl(number(1, 100_000), seconds(number(2, 60))),
        Some("ocsp") => revocations::ocsp(seconds(number(1, 10))),
        Some("batches-kills") => batches::kills(number(1, 100_000), number(2, 20)),
        Some("batches-line") => batches::line(number(1, 3), seconds(number(2, 15))),
        Some("batches-list") => batches::list(number(1, 100_000)),
        Some("batches-full-disk") => batches::full_disk(number(1, 30_000)),
        Some("log-kills") => audit::kills(number(1, 20)),
        Some("log-latency") => audit::latency(number(1, 20)),
        Some("ledger-seed") => {
            let count = arguments.get(1).expect("how many certificates");
            large::seed(
                count.replace('_', "").parse().expect("a number"),
                number(2, 12),
            );
        }
        Some("ledger-search") => {
            large::search(number(1, 50), arguments.get(2).map_or("", String::as_str));
        }
        Some("ledger-export") => large::export(),
        Some("pages-paint") => pages::paint(number(1, 9)),
        Some("pages-viewers") => pages::viewers(number(1, 5), number(2, 20)),
        Some("plants") => plants::plants(
            seconds(number(1, 600)),
            number(2, 2).try_into().expect("a number"),
        ),
        Some("orders") => orders::orders(number(1, 1_000), number(2, 10)),
        Some("replicas-rolling") => replicas::rolling(number(1, 5)),
        Some("replicas-scale") => replicas::scale(number(1, 3), number(2, 10)),
        Some("upgrade") => {
            upgrade::upgrade(arguments.get(1).expect("the earlier program").as_ref())
        }
        Some("handshakes") => {
            let most = arguments.get(2).map(|_| number(2, 0));
            handshakes::handshakes(seconds(number(1, 10)), most);
        }
        Some("failover") => failover::failover(
            arguments.get(1).expect("the nodes' directory").as_ref(),
            number(2, 5),
            seconds(number(3, 60)),
        ),
        Some("flood") => {
            let rate = arguments.get(3).map(|_| number(3, 0));
            flood::flood(number(1, 3), seconds(number(2, 8)), rate);
        }
        Some("sizing") => sizing::foretell(number(1, 5), seconds(number(2, 8))),
        Some("sizing-measure") => {
            let file = arguments.get(1).expect("a file");
            sizing::measure(file.as_ref(), seconds(number(2, 30)));
        }
        Some("idle-connections") => idle::idle(number(1, 10_000)),
        _ => {
            eprintln!(
                "usage: proofs failover DIRECTORY [KILLS [PAUSE]] | batches-kills [DEVICES [KILLS]] | batches-line [PAIRS [SECONDS]] | batches-list [DEVICES] | batches-full-disk [DEVICES] | handshakes [SECONDS [PER_SECOND_MAX]] | flood [PAIRS [SECONDS [PER_SECOND]]] | idle-connections [COUNT] | kills [COUNT] | ledger-seed COUNT [MONTHS] | ledger-search [COUNT [KIND]] | ledger-export | log-kills [COUNT] | log-latency [COUNT] | database-outage [SECONDS] | hsm-outage [AWAY_SECONDS FROZEN_SECONDS] | orders [QUANTITY KILLS] | pages-paint [TIMES] | pages-viewers [PAIRS [SECONDS]] | plants [SECONDS [STATIONS]] | replicas-rolling [TIMES] | replicas-scale [ROUNDS [SECONDS]] | crl [ENTRIES SECONDS] | ocsp [SECONDS] | sizing [ROUNDS [SECONDS]] | sizing-measure FILE [SECONDS]"
            );
            std::process::exit(2);
        }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// kill -9 at a random moment, again and again, under full load.
fn kills(count: u32) {
    let mut own = OwnWorld::running();
    let load = Load::start(&own.world, STATIONS);
    let mut ready = Vec::new();
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(200));
        pause_up_to(Duration::from_millis(1_300));
        own.kill_service();
        own.start_service();
        ready.push(own.wait_ready(seconds(20)));
    }
    let last = Instant::now();
    let history = load.stop();
    while own.open_intents() > 0 && last.elapsed() < seconds(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let drained = last.elapsed();
    ready.sort_unstable();
    println!("kills                      {count}");
    print_ledger(&own, &history);
    println!(
        "connections broken         {}",
        history.broken.load(Ordering::Relaxed)
    );
    println!(
        "open intents               {}, {:.1} s after the last restart was ready",
        own.open_intents(),
        drained.as_secs_f64()
    );
    println!(
        "time to ready              median {:?}, longest {:?}",
        ready[ready.len() / 2],
        ready[ready.len() - 1]
    );
    println!(
        "refusals                   {:?}",
        history.refusals.lock().unwrap()
    );
    assert_eq!(own.open_intents(), 0);
}

/// The database stopped without notice, and started again.
fn database_outage(away: Duration) {
    let mut own = OwnWorld::running();
    let load = Load::start(&own.world, STATIONS);
    outage(
        "database stopped",
        &mut own,
        &load,
        away,
        |own| own.stop_postgres("immediate"),
        |own, ()| own.start_postgres(),
    );
    finish(&own, load);
}

/// The token away; then, as a network HSM, killed and frozen.
fn hsm_outage(away: Duration, frozen: Duration) {
    let mut own = OwnWorld::running();
    let load = Load::start(&own.world, STATIONS);
    outage(
        "token away",
        &mut own,
        &load,
        away,
        |own| token_away(own, true),
        |own, ()| token_away(own, false),
    );
    finish(&own, load);
    drop(own);

    let mut own = OwnWorld::make();
    let mut hsm = NetworkHsm::in_front_of(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(20));
    let load = Load::start(&own.world, STATIONS);
    let threads = own.threads();
    let kill = |_: &OwnWorld| {
        hsm.kill();
        hsm
    };
    let restart = |_: &OwnWorld, mut hsm: NetworkHsm| {
        hsm.start();
        hsm
    };
    let hsm = outage("network HSM killed", &mut own, &load, away, kill, restart);
    outage(
        "network HSM frozen",
        &mut own,
        &load,
        frozen,
        |_| hsm.freeze(),
        |_, frozen| drop(frozen),
    );
    println!(
        "threads                    {threads} before, {} after",
        own.threads()
    );
    finish(&own, load);
}

/// One outage, from full rate to full rate. `begin` makes the fault, `end` takes it back.
fn outage<F, R>(
    name: &str,
    own: &mut OwnWorld,
    load: &Load,
    away: Duration,
    begin: impl FnOnce(&OwnWorld) -> F,
    end: impl FnOnce(&OwnWorld, F) -> R,
) -> R {
    const BEFORE: Duration = Duration::from_secs(5);
    // the first second after a start is slower than those that follow
    std::thread::sleep(BEFORE + seconds(2));
    let begun = Instant::now();
    let fault = begin(own);
    let gone = Instant::now();
    std::thread::sleep(away);
    let result = end(own, fault);
    let back = Instant::now();
    let ready = own.wait_ready(seconds(30));
    std::thread::sleep(seconds(10));
    own.assert_alive();

    let answers = load.history.answers.lock().unwrap().clone();
    let rate = |from: Instant, over: Duration| {
        let issued = answers
            .iter()
            .filter(|(at, status)| (from..from + over).contains(at) && matches!(status, 200 | 201));
        u32::try_from(issued.count()).map(f64::from).unwrap() / over.as_secs_f64()
    };
    let full = rate(begun.checked_sub(BEFORE).unwrap(), BEFORE);
    let first_refusal = answers
        .iter()
        .find(|(at, status)| *at >= begun && *status >= 500);
    let first_issued = answers
        .iter()
        .find(|(at, status)| *at >= back && matches!(status, 200 | 201));
    let again = (0..90)
        .map(|tenth| Duration::from_millis(100) * tenth)
        .find(|after| rate(back + *after, seconds(1)) >= 0.8 * full);
    let mut statuses = std::collections::BTreeMap::new();
    for (_, status) in answers.iter().filter(|(at, _)| (begun..back).contains(at)) {
        *statuses.entry(*status).or_insert(0_u32) += 1;
    }
    println!("{name} for {away:?}");
    println!("  rate before              {full:.0} certificates/s");
    println!("  making the fault took    {:?}", gone - begun);
    println!(
        "  first 503 after          {:?}",
        first_refusal.map(|(at, _)| *at - begun)
    );
    println!("  statuses meanwhile       {statuses:?} (0: connection broke)");
    println!("  ready after return       {ready:?}");
    println!(
        "  first certificate after  {:?}",
        first_issued.map(|(at, _)| *at - back)
    );
    println!("  a second of 80 % begins  {again:?}");
    result
}

fn finish(own: &OwnWorld, load: Load) {
    let history = load.stop();
    let drained = own.wait_no_open_intents(seconds(10));
    print_ledger(own, &history);
    println!("no open intent after       {:.1} s", drained.as_secs_f64());
    println!(
        "slowest answer             {} ms",
        history.slowest_ms.load(Ordering::Relaxed)
    );
    println!(
        "connections broken         {}",
        history.broken.load(Ordering::Relaxed)
    );
    println!(
        "refusals                   {:?}",
        history.refusals.lock().unwrap()
    );
}

fn print_ledger(own: &OwnWorld, history: &History) {
    // it stops here unless every certificate received is in the ledger, once, byte for byte
    history.holds_against(&own.world);
    println!(
        "certificates received      {}",
        history.certificates.lock().unwrap().len()
    );
    println!(
        "certificates in the ledger {}",
        own.world
            .sql("SELECT count(*) FROM outcome WHERE der IS NOT NULL")
    );
    let twice = "SELECT count(*) FROM (SELECT FROM intent i JOIN outcome o USING (intent_id) WHERE o.der IS NOT NULL GROUP BY i.device HAVING count(*) > 1) t";
    println!("devices with two           {}", own.world.sql(twice));
    println!("received, not recorded     0");
}
