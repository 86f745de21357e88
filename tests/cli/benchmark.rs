//! `benchmark hsm|line|plan`: the form of the reports, never their speed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run;
use crate::support::world::{OwnWorld, shared};

fn fields(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_signer_is_measured_for_each_issuer() {
    let report = run(shared(), &["benchmark", "hsm", "--seconds", "1", "--json"])
        .ok()
        .json();
    let rates = report.as_array().unwrap();
    let issuers: Vec<_> = rates
        .iter()
        .map(|rate| rate["issuer"].as_str().unwrap())
        .collect();
    assert_eq!(
        issuers,
        [
            "line-ec",
            "line-ec/ocsp",
            "line-rsa",
            "line-rsa/ocsp",
            "stations",
            "stations/ocsp",
            "report",
            "log"
        ]
    );
    for rate in rates {
        assert_eq!(
            fields(rate),
            BTreeSet::from(["issuer", "sessions", "seconds", "signer_per_second"])
        );
        assert!(rate["signer_per_second"].as_f64().unwrap() > 0.0, "{rate}");
        assert_eq!(rate["seconds"], 1);
    }
    run(shared(), &["benchmark", "hsm", "--issuer", "nobody"])
        .fails(3)
        .silent();
}

#[test]
fn a_command_finds_its_token_while_others_log_in() {
    // each login makes SoftHSM write the token anew, under the eyes of whoever opens it
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    run(
                        shared(),
                        &["benchmark", "hsm", "--issuer", "line-ec", "--seconds", "0"],
                    )
                    .ok();
                }
            });
        }
    });
}

#[test]
fn a_line_of_four_stations_reports_what_it_made() {
    let world = shared();
    let before = world.metric("certfactory_certificates_issued_total");
    let report = run(
        world,
        &[
            "benchmark",
            "line",
            "--connections",
            "4",
            "--seconds",
            "1",
            "--json",
        ],
    )
    .ok()
    .json();
    let made = world.metric("certfactory_certificates_issued_total") - before;
    let expected = [
        "certificates",
        "seconds",
        "certificates_per_second",
        "units_per_hour",
        "p50_ms",
        "p99_ms",
        "errors",
        "signer_per_second",
        "share_of_signer",
    ];
    assert_eq!(fields(&report), BTreeSet::from(expected));
    let number = |name: &str| {
        report[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {report}"))
    };
    assert_eq!(report["errors"], 0);
    assert!(number("certificates") > 0.0);
    // Other tests may issue meanwhile: at least these.
    assert!(made >= number("certificates"), "{made} issued: {report}");
    assert!((0.9..30.0).contains(&number("seconds")), "{report}");
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
    assert!(
        close(
            number("certificates_per_second"),
            number("certificates") / number("seconds")
        ),
        "{report}"
    );
    assert!(
        close(
            number("units_per_hour"),
            number("certificates_per_second") * 3600.0
        ),
        "{report}"
    );
    assert!(
        close(
            number("share_of_signer"),
            number("certificates_per_second") / number("signer_per_second")
        ),
        "{report}"
    );
    assert!(
        number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"),
        "{report}"
    );
}

#[test]
fn what_a_line_cost_is_kept_and_planned_with() {
    // what others make while the database idles would be taken off what this line cost
    let own = OwnWorld::running();
    let world = &own.world;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("costs.json");
    let file = file.to_str().unwrap();
    let line = |more: &[&str]| {
        let given = [
            "benchmark",
            "line",
            "--connections",
            "2",
            "--json",
            "--costs",
            file,
        ];
        run(world, &[&given[..], more].concat()).ok().json()
    };
    let paced = line(&["--seconds", "2", "--per-second", "20"]);
    let made = paced["certificates"].as_u64().unwrap();
    assert!((30..=40).contains(&made), "{paced}");
    line(&["--seconds", "1"]);
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let runs = kept["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["certificates"], made);
    for run in runs {
        for cost in [
            "service_cpu_seconds",
            "database_cpu_seconds",
            "wal_bytes",
            "fsyncs",
            "signatures",
            "leaf_bytes",
        ] {
            assert!(run[cost].as_f64().unwrap() > 0.0, "{cost}: {run}");
        }
    }

    let plan = |arguments: &[&str]| {
        let arguments = [&["benchmark", "plan", "--units-per-hour"], arguments].concat();
        run(world, &arguments)
    };
    let small = plan(&["3600", "--years", "2", "--measured", file, "--json"])
        .ok()
        .json();
    assert_eq!(small["measured"]["machine"], kept["machine"]);
    assert_eq!(small["plant"]["certificates_per_second"], 1.0);
    assert_eq!(small["plant"]["peak_certificates_per_second"], 2.0);
    assert_eq!(small["plant"]["partitions"]["months"], 24);
    assert_eq!(small["plant"]["service"]["basis"], "between-measured");
    assert_eq!(small["plant"]["service"]["replicas"], 2);
    // Far more than was measured is said to be no more than computed, and asks for more of everything.
    let large = plan(&["100000000", "--plants", "3", "--measured", file, "--json"]);
    let large = large.ok().json();
    assert_eq!(large["plant"]["database"]["basis"], "only-computed");
    assert_eq!(large["plant"]["database"]["fits"], false);
    let replicas = |plan: &Value| plan["plant"]["service"]["replicas"].as_u64().unwrap();
    assert!(replicas(&large) > replicas(&small), "{large}");
    let yearly = |plan: &Value, of: &str| plan[of]["certificates_per_year"].as_f64().unwrap();
    assert_eq!(yearly(&large, "all_plants"), 3.0 * yearly(&large, "plant"));

    let text = plan(&["50000", "--plants", "10"]).ok().text();
    for words in [
        "(measured)",
        "(between measured loads)",
        "(only computed)",
        "AMD EPYC",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    plan(&["0"]).fails(2).silent();
    plan(&["1", "--measured", "/nowhere"]).fails(1).silent();
}
