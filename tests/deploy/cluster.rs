//! Kubernetes' manifests: what they say of the product is so.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::world::shared;
use crate::{ok, source};

fn manifests() -> Vec<Value> {
    let python = std::env::var("CERTFACTORY_PYTHON").expect("tests/run sets CERTFACTORY_PYTHON");
    let printed = ok(Command::new(format!("{python}/bin/python"))
        .arg(source("tests/deploy/manifests.py"))
        .arg(source("deploy/kubernetes/certfactory.yaml")));
    serde_json::from_str(&printed).unwrap()
}

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let mut found = manifests.iter().filter(|it| it["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn kubernetes_takes_the_manifests_and_they_name_what_the_product_has() {
    let manifests = manifests();
    let pod = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];

    // Probes and scrapes ask what the operations listener answers.
    let operations = shared().operations();
    let monitor = of_kind(&manifests, "ServiceMonitor")["spec"]["endpoints"][0]["path"].clone();
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
    let mut asked = vec![monitor];
    for probe in probes {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], "operations");
        asked.push(get["path"].clone());
    }
    for path in &asked {
        assert_eq!(operations.get(path.as_str().unwrap()).status, 200, "{path}");
    }
    assert_eq!(asked, ["/metrics", "/livez", "/livez", "/readyz"]);

    // The configuration is one that the product reads, and listens where the ports are.
    let template = manifests
        .iter()
        .find(|it| it["kind"] == "ConfigMap" && it["metadata"]["name"] == "certfactory")
        .unwrap();
    let text = template["data"]["config.toml"].as_str().unwrap();
    assert!(text.contains("instance = @INSTANCE@"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, text.replace("@INSTANCE@", "2")).unwrap();
    let mut show = Command::new(env!("CARGO_BIN_EXE_certfactory"));
    show.args(["config", "show", "--json", "--config"])
        .arg(&file)
        .env("CREDENTIALS_DIRECTORY", "/run/credentials");
    let shown: Value = serde_json::from_str(&ok(&mut show)).unwrap();
    let port = |name: &str| {
        let ports = container["ports"].as_array().unwrap();
        let port = ports.iter().find(|it| it["name"] == name).unwrap();
        format!("0.0.0.0:{}", port["containerPort"])
    };
    assert_eq!(shown["http"]["listen"], port("api").as_str());
    assert_eq!(shown["operations"]["listen"], port("operations").as_str());

    // Every file that it names is in a volume, and all but the journal's are read-only.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted: BTreeSet<&str> = mounts
        .iter()
        .map(|it| it["mountPath"].as_str().unwrap())
        .collect();
    let named = [
        &shown["http"]["certificate"],
        &shown["http"]["client_ca"],
        &shown["database"]["password_file"],
        &shown["hsm"][0]["pin_file"],
        &shown["issuer"][0]["certificate"],
        &shown["audit"]["log_key"]["public_key"],
        &shown["issuance"]["profiles"],
        &shown["audit"]["journal"]["directory"],
    ];
    for path in named {
        let path = path.as_str().unwrap();
        let inside = mounted.iter().any(|mount| path.starts_with(mount));
        assert!(inside, "{path} is in no volume");
    }
    assert!(mounted.contains("/opt/hsm") && mounted.contains("/var/lib/certfactory/journal"));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["args"], serde_json::json!(["serve"]));

    // The service's own selectors find the pods.
    let labels = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["metadata"]["labels"];
    for (kind, selector) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("StatefulSet", "/spec/selector/matchLabels"),
    ] {
        let selector = of_kind(&manifests, kind).pointer(selector).unwrap();
        assert_eq!(selector, labels, "{kind}");
    }
}
