//! `benchmark hsm|line`: the form of the reports, never their speed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run;
use crate::support::world::shared;

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
