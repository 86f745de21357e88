//! What a certificate costs, and whether `benchmark plan` foretells what another load does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::replicas::Quota;
use crate::support::world::OwnWorld;

/// What is measured: stations, and their pace.
const LOADS: [(u32, Option<u32>); 4] =
    [(16, Some(25)), (16, Some(100)), (16, Some(400)), (64, None)];
/// What is foretold: a pace between them.
const PACE: u32 = 200;
/// How many stations ask so.
const STATIONS: u32 = 32;
/// And a service that is held to so much of a core.
const PERCENT: u32 = 50;
/// How far off a figure may be.
const OFF_MAX: f64 = 0.2;
/// What a run counts from its start to its end.
const TOTALS: [&str; 9] = [
    "certificates",
    "seconds",
    "service_cpu_seconds",
    "database_cpu_seconds",
    "wal_bytes",
    "fsyncs",
    "table_bytes",
    "index_bytes",
    "signatures",
];
/// What is used in a second while nobody asks.
const IDLE: [&str; 4] = [
    "idle_service_cores",
    "idle_database_cores",
    "idle_wal_bytes_per_second",
    "idle_fsyncs_per_second",
];

/// Measures into a file.
pub fn measure(file: &Path, seconds: Duration) {
    let own = OwnWorld::running();
    for (connections, pace) in LOADS {
        let run = line(&own, file, connections, pace, seconds);
        println!("{}", described(&run));
    }
}

/// Measures, foretells, runs, compares. In each round every load is measured once: the machine's pace changes
/// within minutes, and what is compared should have had the same of it.
pub fn foretell(rounds: u32, seconds: Duration) {
    let mut own = OwnWorld::running();
    let file = |name: &str| own.world.dir.join(name);
    let (costs, paced, held, most) = (
        file("costs.json"),
        file("paced.json"),
        file("held.json"),
        file("most.json"),
    );
    let group = Quota::new("sizing", PERCENT);
    for round in 1..=rounds {
        println!("round {round}");
        let measure = |file: &Path, connections, pace, what: &str| {
            let run = line(&own, file, connections, pace, seconds);
            println!("  {what}{}", described(&run));
        };
        let (slower, faster) = LOADS.split_at(LOADS.len() / 2);
        for (connections, pace) in slower {
            measure(&costs, *connections, *pace, "");
        }
        measure(&paced, STATIONS, Some(PACE), "foretold: ");
        group.hold(own.pid());
        measure(&held, STATIONS, Some(PACE), "foretold, held: ");
        measure(&most, 64, None, "all that it gives, held: ");
        group.release(own.pid());
        for (connections, pace) in faster {
            measure(&costs, *connections, *pace, "");
        }
    }

    let quota = f64::from(PERCENT) / 100.0;
    let plan = plan(&own, &costs, f64::from(PACE), quota);
    let mut off = Vec::new();
    println!("{PACE} a second");
    compare(&plan, &together(&paced), &mut off);
    println!("the same, the service held to {PERCENT} % of a core");
    compare(&plan, &together(&held), &mut off);
    let foretold = plan["plant"]["service"]["replica_certificates_per_second"]
        .as_f64()
        .unwrap();
    let is = per_second(&together(&most));
    println!("all that it gives so");
    println!("  certificates/s             foretold at most {foretold:.0}   are {is:.0}");
    if is > foretold * (1.0 + OFF_MAX) {
        off.push("more certificates than foretold".to_owned());
    }
    own.kill_service();
    assert!(
        off.is_empty(),
        "more than {} % off: {off:?}",
        OFF_MAX * 100.0
    );
}

/// All runs of a file as one.
fn together(file: &Path) -> Value {
    let kept: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let runs = kept["runs"].as_array().unwrap();
    let of = |run: &Value, name: &str| run[name].as_f64().unwrap();
    let mut all = runs[0].clone();
    for name in TOTALS {
        all[name] = runs.iter().map(|run| of(run, name)).sum::<f64>().into();
    }
    for name in IDLE {
        let used: f64 = runs
            .iter()
            .map(|run| of(run, name) * of(run, "seconds"))
            .sum();
        all[name] = (used / of(&all, "seconds")).into();
    }
    all
}

/// Plays stations and adds to the file what that cost; the last run of it.
fn line(own: &OwnWorld, file: &Path, connections: u32, pace: Option<u32>, time: Duration) -> Value {
    let mut command = own.world.program(&["benchmark", "line", "--json"]);
    command
        .args(["--connections", &connections.to_string()])
        .args(["--seconds", &time.as_secs().to_string()])
        .arg("--costs")
        .arg(file);
    if let Some(pace) = pace {
        command.args(["--per-second", &pace.to_string()]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let kept: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    kept["runs"].as_array().unwrap().last().unwrap().clone()
}

/// What is foretold of a replica that gives so many a second, and has so many cores.
fn plan(own: &OwnWorld, measured: &Path, per_second: f64, cores: f64) -> Value {
    let output = own
        .world
        .program(&[
            "benchmark",
            "plan",
            "--json",
            "--peak",
            "1",
            "--load-max",
            "1",
        ])
        .args(["--units-per-hour", &(per_second * 3_600.0).to_string()])
        .args(["--service-cores", &cores.to_string()])
        .arg("--measured")
        .arg(measured)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn per_second(run: &Value) -> f64 {
    run["certificates"].as_f64().unwrap() / run["seconds"].as_f64().unwrap()
}

/// What a run cost a certificate, with its share of what is done when nobody asks.
fn each(run: &Value, total: &str, idle: Option<&str>) -> f64 {
    let number = |name: &str| run[name].as_f64().unwrap();
    let idle = idle.map_or(0.0, |name| number(name) * number("seconds"));
    (number(total) + idle) / number("certificates")
}

fn costs(run: &Value) -> [(&'static str, f64); 7] {
    let cpu = |total, idle| each(run, total, Some(idle)) * 1e6;
    let wal = each(run, "wal_bytes", Some("idle_wal_bytes_per_second"));
    let fsyncs = each(run, "fsyncs", Some("idle_fsyncs_per_second"));
    [
        (
            "service, us of processor",
            cpu("service_cpu_seconds", "idle_service_cores"),
        ),
        (
            "database, us of processor",
            cpu("database_cpu_seconds", "idle_database_cores"),
        ),
        ("WAL, bytes", wal),
        ("fsyncs", fsyncs),
        ("tables, bytes", each(run, "table_bytes", None)),
        ("indexes, bytes", each(run, "index_bytes", None)),
        ("signatures", each(run, "signatures", None)),
    ]
}

fn described(run: &Value) -> String {
    let costs = costs(run).map(|(name, cost)| format!("{name} {cost:.2}"));
    format!(
        "{} stations, {:.0} certificates/s: {}",
        run["connections"],
        per_second(run),
        costs.join(", ")
    )
}

fn compare(plan: &Value, run: &Value, off: &mut Vec<String>) {
    let plant = &plan["plant"];
    let foretold = [
        &plant["service"]["cpu_us_per_certificate"],
        &plant["database"]["cpu_us_per_certificate"],
        &plant["database"]["wal_bytes_per_certificate"],
        &plant["database"]["fsyncs_per_certificate"],
        &plant["disk"]["table_bytes_per_certificate"],
        &plant["disk"]["index_bytes_per_certificate"],
        &plant["hsm"]["signatures_per_certificate"],
    ];
    for ((name, is), foretold) in costs(run).into_iter().zip(foretold) {
        one(name, foretold.as_f64().unwrap(), is, off);
    }
}

fn one(name: &str, foretold: f64, is: f64, off: &mut Vec<String>) {
    let ratio = is / foretold;
    println!("  {name:<26} foretold {foretold:>9.2}   is {is:>9.2}   ratio {ratio:.2}");
    if (ratio - 1.0).abs() > OFF_MAX {
        off.push(format!("{name} {ratio:.2}"));
    }
}
