//! What the service says of itself.

use std::collections::BTreeSet;

use certfactory::http::problem::Slug;
use certfactory::manual::RUNBOOKS;

use crate::support::world::shared;

#[test]
fn every_problem_has_a_page_at_its_type() {
    let nobody = shared().nobody();
    for slug in Slug::ALL {
        let page = nobody.get(&format!("/problems/{}", slug.as_str()));
        assert_eq!(page.status, 200, "{}", slug.as_str());
        assert!(page.text().starts_with(slug.as_str()));
    }
    assert_eq!(nobody.get("/problems/nonesuch").slug(), "not-found");
}

#[test]
fn anybody_reads_every_runbook_on_both_listeners() {
    for listener in [shared().nobody(), shared().operations()] {
        let list = listener.get("/runbooks/");
        assert_eq!(list.status, 200);
        assert_eq!(
            listener.get("/runbooks").header("location"),
            Some("/runbooks/")
        );
        for (slug, text) in RUNBOOKS {
            let title = text.lines().next().unwrap().trim_start_matches("# ");
            let line = format!("- [{title}](/runbooks/{slug})");
            assert!(list.text().contains(&line), "{line}");
            let page = listener.get(&format!("/runbooks/{slug}"));
            assert_eq!((page.status, page.text().as_str()), (200, *text));
        }
        assert_eq!(listener.get("/runbooks/nonesuch").status, 404);
    }
}

#[test]
fn openapi_lists_the_routes_and_docs_show_it_offline() {
    let nobody = shared().nobody();
    let document = nobody.get("/openapi.json").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for path in [
        "/v1/certificates",
        "/v1/certificates/{serial_number}",
        "/v1/devices/{certificate_id}",
        "/v1/profiles",
        "/v1/issuers",
        "/v1/issuers/{name}/certificate.pem",
        "/v1/issuers/{name}/chain.pem",
        "/v1/issuers/{name}/crl",
        "/v1/issuers/{name}/verification-certificates",
        "/v1/jitp/lint",
        "/v1/jitp/evaluate",
    ] {
        assert!(paths.contains(path), "{path}");
    }
    assert_eq!(nobody.get("/docs").header("location"), Some("/docs/"));
    let page = nobody.get("/docs/").text();
    assert!(page.contains("swagger-ui"));
    assert!(
        !page.contains("https://") && !page.contains("//cdn"),
        "the page reaches outside: {page}"
    );
    assert_eq!(nobody.get("/docs/swagger-ui-bundle.js").status, 200);
}

#[test]
fn profiles_and_issuers_are_public() {
    let nobody = shared().nobody();
    let profiles = nobody.get("/v1/profiles").json();
    let names: Vec<_> = profiles
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["lightbulb", "workshop"]);
    let issuers = nobody.get("/v1/issuers").json();
    assert_eq!(issuers[0]["name"], "line-ec");
    assert_eq!(issuers[1]["key_algorithm"], "RSA-2048");
    let pem = nobody.get("/v1/issuers/line-ec/certificate.pem").text();
    assert_eq!(
        pem,
        std::fs::read_to_string(shared().dir.join("issuers/line-ec.pem")).unwrap()
    );
}

#[test]
fn operations_answer_and_name_every_metric_of_the_contract() {
    let world = shared();
    assert_eq!(world.operations().get("/livez").text(), "ok\n");
    assert_eq!(world.operations().get("/readyz").json()["ready"], true);
    assert_eq!(
        world.operations().get("/version").json()["name"],
        "certfactory"
    );
    world.client("station-01").post(b"{");
    let device = crate::support::device::Device::p256();
    for _ in 0..2 {
        world
            .client("station-01")
            .issue(&device.request("lightbulb"));
    }
    let text = world.operations().get("/metrics").text();
    for name in [
        "certfactory_certificates_issued_total{issuer=\"line-ec\",profile=\"lightbulb\"}",
        "certfactory_issuance_refused_total{problem=\"malformed-json\"}",
        "certfactory_issuance_replayed_total{profile=\"lightbulb\"}",
        "certfactory_issuance_seconds_count{stage=\"parse\"}",
        "certfactory_issuance_seconds_count{stage=\"policy\"}",
        "certfactory_issuance_seconds_count{stage=\"intent\"}",
        "certfactory_issuance_seconds_count{stage=\"sign\"}",
        "certfactory_issuance_seconds_count{stage=\"verify\"}",
        "certfactory_issuance_seconds_count{stage=\"record\"}",
        "certfactory_issuance_seconds_count{stage=\"total\"}",
        "certfactory_hsm_up{issuer=\"line-rsa\"} 1",
        "certfactory_hsm_sign_seconds_count{issuer=\"line-ec\"}",
        "certfactory_hsm_sessions{state=",
        "certfactory_hsm_queue_depth",
        "certfactory_ledger_batch_rows_count",
        "certfactory_ledger_commit_seconds_count",
        "certfactory_issuer_not_after_seconds{issuer=\"line-ec\"}",
        "certfactory_http_request_seconds_count{method=\"POST\",route=\"/v1/certificates\",status=\"201\"}",
        "certfactory_http_connections_refused_total",
        "certfactory_tls_not_after_seconds{file=\"certificate\"}",
        "certfactory_tls_not_after_seconds{file=\"client_ca\"}",
        "certfactory_tls_files_refused 0",
        "certfactory_configuration_refused 0",
        "certfactory_configuration_reloads_total{result=\"accepted\"} 0",
        "certfactory_configuration_at_seconds",
        "certfactory_backup_age_seconds",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name} is missing");
    }
}
