//! AWS's provisioning roads: the Lambdas, scripts and exports, under plain Python against moto and
//! ministack, with a running factory behind them. What is checked is in the Python files beside this;
//! here is what they need, and that none of their tests is left out.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::world::{OwnWorld, World, shared};

/// Runs a file of Python tests in a world. All of its tests must run and pass.
fn passes(world: &World, module: &str) {
    let environment =
        std::env::var("CERTFACTORY_AWS_PYTHON").expect("tests/run sets CERTFACTORY_AWS_PYTHON");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws");
    let text = std::fs::read_to_string(folder.join(format!("{module}.py"))).unwrap();
    let written = text.matches("\n    def test_").count();
    let output = Command::new(Path::new(&environment).join("bin/python"))
        .args([
            "-B",
            "-W",
            "ignore::ResourceWarning",
            "-m",
            "unittest",
            module,
        ])
        .current_dir(folder)
        .env("CERTFACTORY_TEST_WORLD", &world.dir)
        .env("CERTFACTORY_URL", &world.url)
        .env("CERTFACTORY_PROGRAM", env!("CARGO_BIN_EXE_certfactory"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{module}: {said}");
    assert!(written > 0, "{module} has no tests");
    let plural = if written == 1 { "" } else { "s" };
    assert!(
        said.contains(&format!("Ran {written} test{plural} in "))
            && said.trim_end().ends_with("\nOK"),
        "{module} has {written} tests: {said}"
    );
}

#[test]
fn the_jitr_lambda_lets_in_what_the_factory_knows_and_nothing_else() {
    passes(shared(), "test_jitr");
}

#[test]
fn the_certificate_provider_has_the_factory_sign_what_aws_asks_for() {
    passes(shared(), "test_certificate_provider");
}

#[test]
fn the_fleet_hook_lets_a_claim_have_what_the_factory_knows() {
    passes(shared(), "test_fleet");
}

#[test]
fn a_bulk_export_fits_its_template_and_every_rule_of_aws() {
    passes(shared(), "test_bulk");
}

#[test]
fn certificates_are_registered_one_by_one_in_an_account_without_the_ca() {
    passes(shared(), "test_multi_account");
}

#[test]
fn the_readmes_install_what_they_say_and_devices_get_in() {
    passes(shared(), "test_install");
}

/// The README's own commands, in a world that has the profile and its issuer.
#[test]
fn a_claim_is_a_short_lived_certificate_of_an_issuer_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut own = OwnWorld::make();
    let dir = own.world.dir.clone();
    std::fs::copy(
        root.join("deploy/profiles/claim.toml"),
        dir.join("profiles/claim.toml"),
    )
    .unwrap();
    own.configure(|config| {
        let section = "name = \"claims\"\nhsm = \"softhsm\"\nkey_label = \"claims\"\ncertificate = \"issuers/claims.pem\"";
        let section: toml::Table = section.parse().unwrap();
        config["issuer"].as_array_mut().unwrap().push(section.into());
    });
    let made = own
        .world
        .program(&["issuer", "init", "claims"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));

    let readme = root.join("deploy/aws/fleet-provisioning/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let block = readme
        .split("```sh\n")
        .map(|rest| rest.split("```").next().unwrap())
        .find(|block| block.contains("cert issue"))
        .unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_certfactory"));
    let follow = |claim: &str| {
        let path = format!(
            "{}:{}",
            program.parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        Command::new("bash")
            .args(["-euc", block])
            .current_dir(&dir)
            .env("PATH", path)
            .env("CLAIM", claim)
            .env("CERTFACTORY_CONFIG", dir.join("config.toml"))
            .env("CERTFACTORY_URL", &own.world.url)
            .output()
            .unwrap()
    };
    let done = follow("claim-line-7-2026-w47");
    assert!(done.status.success(), "{done:?}");
    let pem = std::fs::read(dir.join("claim-line-7-2026-w47.pem")).unwrap();
    let claim = &openssl::x509::X509::stack_from_pem(&pem).unwrap()[0];
    let issuer = std::fs::read(dir.join("issuers/claims.pem")).unwrap();
    let issuer = openssl::x509::X509::from_pem(&issuer).unwrap();
    assert!(claim.verify(&issuer.public_key().unwrap()).unwrap());
    let life = claim.not_before().diff(claim.not_after()).unwrap();
    // Eight days, the last second included (RFC 5280, 4.1.2.5).
    assert_eq!((life.days, life.secs), (7, 86_399));
    // A name is used once: another key for it is another claim.
    let again = follow("claim-line-7-2026-w47");
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("device-already-certified"));

    // This profile has no template that would refuse a name AWS IoT does not take. The export does.
    let spaced = follow("claim line 8");
    assert!(spaced.status.success(), "{spaced:?}");
    for format in ["allow-list", "bulk", "certificates"] {
        let done = own
            .world
            .program(&[
                "cert",
                "export",
                "--format",
                format,
                "--filter",
                "profile=claim",
            ])
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8(done.stdout).unwrap(),
            String::from_utf8(done.stderr).unwrap(),
        );
        assert_eq!(done.status.code(), Some(4), "{err}");
        assert!(err.contains("left out: thing name: character 6"), "{err}");
        assert!(err.contains("1 certificates written, 1 left out"), "{err}");
        assert!(out.contains("claim-line-7-2026-w47") && !out.contains("claim line 8"));
    }
}
