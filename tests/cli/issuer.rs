//! `issuer init|list|show`

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::x509::X509;
use tempfile::TempDir;

use crate::support::device::Device;
use crate::support::faults::faketime;
use crate::support::world::{OwnWorld, shared};
use crate::{finish, run, text, tool};

/// Adds an `[[issuer]]`; returns where its certificate will be.
fn configure(own: &OwnWorld, name: &str) -> PathBuf {
    own.configure(|config| {
        let section = format!(
            "name = \"{name}\"\nhsm = \"softhsm\"\nkey_label = \"{name}\"\ncertificate = \"issuers/{name}.pem\""
        );
        let section: toml::Table = section.parse().unwrap();
        config["issuer"].as_array_mut().unwrap().push(section.into());
    });
    own.world.dir.join(format!("issuers/{name}.pem"))
}

/// What `pkcs11-tool` shows of the objects with this label, one block each.
fn objects(own: &OwnWorld, label: &str) -> Vec<String> {
    let config = fs::read_to_string(own.world.dir.join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let module = config["hsm"][0]["module"].as_str().unwrap().to_owned();
    let pin = fs::read_to_string(own.world.dir.join("softhsm/pin")).unwrap();
    let mut command = std::process::Command::new("pkcs11-tool");
    command
        .args([
            "--module",
            &module,
            "--token-label",
            "certfactory-dev",
            "--login",
            "--pin",
            pin.trim(),
        ])
        .arg("--list-objects")
        .env("SOFTHSM2_CONF", own.world.dir.join("softhsm/softhsm2.conf"));
    let listed = finish(command, b"").ok().text();
    let mut blocks: Vec<String> = Vec::new();
    for line in listed.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(' ') => block.push_str(&format!("{line}\n")),
            _ => blocks.push(format!("{line}\n")),
        }
    }
    let label = format!("label:      {label}\n");
    blocks
        .into_iter()
        .filter(|block| block.contains(&label))
        .collect()
}

fn private(objects: &[String]) -> Vec<&String> {
    objects
        .iter()
        .filter(|block| block.starts_with("Private Key Object"))
        .collect()
}

#[test]
fn a_self_signed_issuer_of_every_key_algorithm_is_a_strict_ca_with_a_key_that_never_leaves() {
    let own = OwnWorld::make();
    let algorithms = [
        ("P-256", "ASN1 OID: prime256v1", "ecdsa-with-SHA256"),
        ("P-384", "ASN1 OID: secp384r1", "ecdsa-with-SHA256"),
        (
            "RSA-2048",
            "Public-Key: (2048 bit)",
            "sha256WithRSAEncryption",
        ),
        (
            "RSA-3072",
            "Public-Key: (3072 bit)",
            "sha256WithRSAEncryption",
        ),
        (
            "RSA-4096",
            "Public-Key: (4096 bit)",
            "sha256WithRSAEncryption",
        ),
    ];
    for (algorithm, key, signature) in algorithms {
        let name = format!("ca-{}", algorithm.to_lowercase());
        let certificate = configure(&own, &name);
        let init = [
            "issuer",
            "init",
            &name,
            "--key-algorithm",
            algorithm,
            "--subject",
            "O=Example",
        ];
        run(&own.world, &init)
            .ok()
            .silent()
            .says(&format!("{algorithm} key `{name}` made in its token"));
        tool(
            "openssl",
            &[
                "verify",
                "-x509_strict",
                "-check_ss_sig",
                "-CAfile",
                text(&certificate),
                text(&certificate),
            ],
        );
        let shown = tool(
            "openssl",
            &["x509", "-noout", "-text", "-in", text(&certificate)],
        );
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        let after = |extension: &str| {
            let at = lines.iter().position(|line| *line == extension);
            lines[at.unwrap_or_else(|| panic!("no `{extension}` in {shown}")) + 1]
        };
        assert_eq!(
            after("X509v3 Basic Constraints: critical"),
            "CA:TRUE, pathlen:0"
        );
        assert_eq!(
            after("X509v3 Key Usage: critical"),
            "Certificate Sign, CRL Sign"
        );
        assert_eq!(
            after("X509v3 Subject Key Identifier:").split(':').count(),
            20
        );
        assert!(lines.contains(&key), "{shown}");
        assert!(
            lines.contains(&format!("Signature Algorithm: {signature}").as_str()),
            "{shown}"
        );
        assert!(
            lines.contains(&"Not After : Dec 31 23:59:59 9999 GMT"),
            "{shown}"
        );
        assert!(
            shown.contains("O = Example") && shown.contains(&format!("CN = {name}")),
            "{shown}"
        );

        let objects = objects(&own, &name);
        let [key] = private(&objects)[..] else {
            panic!("{objects:?}")
        };
        let field = |name: &str| {
            let line = key.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no `{name}` in {key}"))
                .trim()
                .to_owned()
        };
        assert_eq!(field("Usage:"), "sign");
        assert_eq!(
            field("Access:"),
            "sensitive, always sensitive, never extractable, local"
        );
    }
    run(&own.world, &["config", "check"]).ok().says("8 issuers");
    let refused = run(
        &own.world,
        &["issuer", "init", "line-ec", "--key-algorithm", "RSA-1024"],
    );
    assert!(refused.code == 2 || refused.code == 4, "{refused:?}");
}

#[test]
fn an_issuer_is_made_once_and_its_next_generation_has_another_subject() {
    let own = OwnWorld::make();
    let first = configure(&own, "line-1");
    let second = configure(&own, "line-1-next");
    let subject = ["--subject", "CN=Line 1 CA", "--subject", "O=Example"];
    let init = |name: &str| {
        run(
            &own.world,
            &[&["issuer", "init", name][..], &subject].concat(),
        )
    };
    init("line-1").ok();
    let made = fs::read(&first).unwrap();
    init("line-1").fails(4).silent().says("is there already");
    assert_eq!(fs::read(&first).unwrap(), made);

    // Without the certificate the key is still there, and stays the only one of its name.
    fs::rename(&first, first.with_extension("away")).unwrap();
    assert_ne!(
        init("line-1")
            .silent()
            .says("already holds a key labelled line-1")
            .code,
        0
    );
    assert!(!first.exists());
    assert_eq!(private(&objects(&own, "line-1")).len(), 1);
    fs::rename(first.with_extension("away"), &first).unwrap();

    init("line-1-next").ok();
    let subject = |file: &Path| {
        tool(
            "openssl",
            &["x509", "-noout", "-subject", "-in", text(file)],
        )
    };
    let (one, two) = (subject(&first), subject(&second));
    assert!(
        one.contains("CN = Line 1 CA") && two.contains("CN = Line 1 CA"),
        "{one} {two}"
    );
    assert_ne!(one, two);
    run(&own.world, &["config", "check"]).ok();

    run(&own.world, &["issuer", "init", "nobody"])
        .fails(3)
        .silent()
        .says("no [[issuer]] is named `nobody`");
    configure(&own, "line-2");
    let wrong = run(
        &own.world,
        &["issuer", "init", "line-2", "--key-algorithm", "DSA"],
    );
    wrong.fails(2).silent().says("`DSA` is no key algorithm");
    let wrong = run(
        &own.world,
        &[
            "issuer",
            "init",
            "line-2",
            "--subject",
            "CN=Line 2",
            "--subject",
            "X=1",
        ],
    );
    wrong.fails(4).silent().says("`X` is no subject attribute");
    assert!(
        objects(&own, "line-2").is_empty(),
        "a refused init left a key behind"
    );
}

/// An offline root, made and used with openssl alone.
struct Root(TempDir);

impl Root {
    fn make() -> Self {
        let root = Self(TempDir::new().unwrap());
        let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
            subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
        fs::write(root.file("extensions"), extensions).unwrap();
        let (key, certificate) = (root.file("root.key"), root.file("root.pem"));
        tool(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                "/O=Example/CN=Offline Root",
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout",
                text(&key),
                "-out",
                text(&certificate),
            ],
        );
        root
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The CSR's certificate, then the root.
    fn certify(&self, csr: &Path, more: &[&str]) -> PathBuf {
        self.certify_at("+0", csr, more)
    }

    /// As much later or earlier than now.
    fn certify_at(&self, shift: &str, csr: &Path, more: &[&str]) -> PathBuf {
        let (certificate, chain) = (self.file("int.pem"), self.file("chain.pem"));
        let (root, key, extensions) = (
            self.file("root.pem"),
            self.file("root.key"),
            self.file("extensions"),
        );
        let sign = [
            "x509",
            "-req",
            "-in",
            text(csr),
            "-CA",
            text(&root),
            "-CAkey",
            text(&key),
            "-CAcreateserial",
            "-sha256",
            "-days",
            "1825",
            "-extfile",
            text(&extensions),
            "-out",
            text(&certificate),
        ];
        let mut openssl = std::process::Command::new("openssl");
        openssl
            .args(sign)
            .args(more)
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME", shift);
        finish(openssl, b"").ok();
        fs::write(
            &chain,
            [fs::read(&certificate).unwrap(), fs::read(&root).unwrap()].concat(),
        )
        .unwrap();
        chain
    }
}

#[test]
fn an_offline_root_certifies_an_issuer_that_then_serves() {
    let mut own = OwnWorld::make();
    let root = Root::make();
    let certificate = configure(&own, "imported");
    let csr = root.file("imported.csr");
    let init = [
        "issuer",
        "init",
        "imported",
        "--subject",
        "CN=Line 3 CA",
        "--csr",
        text(&csr),
    ];
    run(&own.world, &init).ok().silent().says("--import");
    assert!(!certificate.exists());
    tool("openssl", &["req", "-verify", "-noout", "-in", text(&csr)]);

    // The root's answer for another key, under the same subject.
    let stranger = root.file("stranger.pem");
    fs::write(&stranger, Device::p256().key.public_key_to_pem().unwrap()).unwrap();
    let wrong = root.certify(&csr, &["-force_pubkey", text(&stranger)]);
    let import = |chain: &Path| {
        run(
            &own.world,
            &["issuer", "init", "imported", "--import", text(chain)],
        )
    };
    import(&wrong)
        .fails(4)
        .silent()
        .says("certifies another key");
    // A leaf is no CA, the root not the issuer; neither is taken.
    assert_ne!(
        import(&own.world.dir.join("clients/operator.pem"))
            .silent()
            .code,
        0
    );
    assert_ne!(import(&root.file("root.pem")).silent().code, 0);
    assert!(!certificate.exists());

    import(&root.certify(&csr, &[]))
        .ok()
        .silent()
        .says("with 1 above it");
    import(&root.file("chain.pem"))
        .fails(4)
        .silent()
        .says("is there already");
    let shown = run(&own.world, &["issuer", "show", "imported"]).ok();
    assert_eq!(X509::stack_from_pem(&shown.out).unwrap().len(), 2);

    let profiles = own.world.dir.join("profiles");
    let profile = fs::read_to_string(profiles.join("workshop.toml"))
        .unwrap()
        .replace("line-rsa", "imported");
    // No device outlives a root of ten years.
    let profile = profile.replace("no_expiry = true", "days = 365");
    fs::write(profiles.join("third-line.toml"), profile).unwrap();
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let device = Device::p256();
    let common_name = format!("CN={}", device.name);
    let issue = [
        "cert",
        "issue",
        "--profile",
        "third-line",
        "--csr",
        "-",
        "--subject",
        &common_name,
        "--subject",
        "C=DE",
    ];
    let issued = finish(own.world.program(&issue), device.csr().as_bytes()).ok();
    assert_eq!(
        X509::stack_from_pem(&issued.out).unwrap().len(),
        3,
        "leaf, issuer, root"
    );
    let leaf = root.file("leaf.pem");
    fs::write(&leaf, &issued.out).unwrap();
    let (anchor, between) = (root.file("root.pem"), root.file("int.pem"));
    let verify = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        text(&anchor),
        "-untrusted",
        text(&between),
    ];
    tool("openssl", &[&verify[..], &[text(&leaf)]].concat());
    run(
        &own.world,
        &["cert", "verify", text(&leaf), "--ca", text(&anchor)],
    )
    .ok();
}

#[test]
fn issuers_are_listed_and_shown() {
    let world = shared();
    let table = run(world, &["issuer", "list"]).ok().text();
    for part in [
        "line-ec",
        "line-rsa",
        "softhsm",
        "certfactory development",
        "9999-12-31",
    ] {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    let list = run(world, &["issuer", "list", "--json"]).ok().json();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|issuer| issuer["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["line-ec", "line-rsa", "stations"]);
    let shown = run(world, &["issuer", "show", "line-ec"]).ok();
    assert_eq!(
        shown.out,
        fs::read(world.dir.join("issuers/line-ec.pem")).unwrap()
    );
    run(world, &["issuer", "show", "nobody"]).fails(3).silent();
}

#[test]
fn a_profile_whose_certificates_would_soon_outlive_its_issuer_is_told_of_in_time() {
    let mut own = OwnWorld::make();
    let root = Root::make();
    configure(&own, "short");
    let csr = root.file("short.csr");
    let init = ["issuer", "init", "short", "--csr", text(&csr)];
    run(&own.world, &init).ok();
    let chain = root.certify(&csr, &["-days", "33"]);
    run(
        &own.world,
        &["issuer", "init", "short", "--import", text(&chain)],
    )
    .ok();
    let profiles = own.world.dir.join("profiles");
    let profile = fs::read_to_string(profiles.join("workshop.toml"))
        .unwrap()
        .replace("line-rsa", "short");
    for (name, days) in [("soon", 10), ("late", 40)] {
        let profile = profile.replace("no_expiry = true", &format!("days = {days}"));
        fs::write(profiles.join(format!("{name}.toml")), profile).unwrap();
    }
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let answer = own.world.operations().get("/readyz").json();
    let warnings = answer["warnings"].as_array().unwrap();
    let told: Vec<_> = warnings
        .iter()
        .map(|w| {
            (
                w["profile"].as_str().unwrap(),
                w["within_days"].as_i64().unwrap(),
            )
        })
        .collect();
    // 33 days of the issuer, less 10 or 40 of the device: 23, and no more at all.
    assert_eq!(told, [("late", 7), ("soon", 30)], "{answer}");
    assert!(own.log().contains("would soon outlive its issuer"));
    let last = |name: &str| {
        let metric = format!("certfactory_profile_last_issue_seconds{{profile=\"{name}\"}}");
        own.world.metric(&metric)
    };
    assert!((last("soon") - last("late") - 30.0 * 86_400.0).abs() < 1.0);
    let issue = |profile: &str| {
        let device = Device::p256();
        own.world
            .client("station-01")
            .issue(&device.request(profile))
    };
    assert_eq!(issue("soon").status, 201);
    assert_eq!(issue("late").slug(), "validity");
}

#[test]
fn an_issuer_that_has_ended_or_whose_key_is_gone_is_a_warning_while_another_can_issue() {
    let mut own = OwnWorld::make();
    let root = Root::make();
    let certificate = configure(&own, "ended");
    let csr = root.file("ended.csr");
    let init = ["issuer", "init", "ended", "--csr", text(&csr)];
    run(&own.world, &init).ok();
    let chain = root.certify(&csr, &["-days", "33"]);
    run(
        &own.world,
        &["issuer", "init", "ended", "--import", text(&chain)],
    )
    .ok();
    fs::copy(
        root.certify_at("-34d", &csr, &["-days", "33"]),
        &certificate,
    )
    .unwrap();
    let keys = |own: &OwnWorld, ec: &str, rsa: &str| {
        own.configure(|config| {
            for issuer in config["issuer"].as_array_mut().unwrap() {
                let label = match issuer["name"].as_str().unwrap() {
                    "line-ec" => ec,
                    "line-rsa" => rsa,
                    _ => continue,
                };
                let issuer = issuer.as_table_mut().unwrap();
                issuer.insert("key_label".to_owned(), label.into());
            }
        });
    };
    keys(&own, "line-ec", "nowhere");
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let answer = own.world.operations().get("/readyz").json();
    let warnings = answer["warnings"].as_array().unwrap();
    let told: Vec<_> = warnings
        .iter()
        .map(|w| (w["component"].as_str(), w["issuer"].as_str()))
        .collect();
    let expected = [
        (Some("issuer"), Some("ended")),
        (Some("hsm"), Some("line-rsa")),
    ];
    assert_eq!(told, expected, "{answer}");
    let station = own.world.client("station-01");
    let issued = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(issued.status, 201, "{issued:?}");
    let refused = station.issue(&Device::p256().request("workshop"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "hsm-unavailable")
    );

    // The station's own issuer can still sign: that makes no device's certificate.
    own.kill_service();
    keys(&own, "nowhere", "nowhere");
    own.start_service();
    own.wait_not_ready("line-ec", Duration::from_secs(20));
    own.wait_not_ready("line-rsa", Duration::from_secs(1));
}
