//! `issuer verification-certificate`

use std::time::Duration;

use openssl::x509::{X509, X509VerifyResult};

use crate::run;
use crate::support::world::{OwnWorld, World, free_port, shared};
use crate::{Done, text};

const CODE: &str = "0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789ABCDEF";

fn ask(world: &World, name: &str, code: &str, more: &[&str]) -> Done {
    let mut arguments = vec!["issuer", "verification-certificate", name];
    arguments.extend(["--registration-code", code]);
    arguments.extend(more);
    run(world, &arguments)
}

#[test]
fn the_file_that_aws_iot_takes_comes_on_standard_output() {
    let world = shared();
    for name in ["line-ec", "line-rsa"] {
        let done = ask(world, name, CODE, &[])
            .ok()
            .says(&format!("issuer `{name}` valid until "));
        let chain = X509::stack_from_pem(&done.out).unwrap();
        assert_eq!(chain.len(), 1, "the certificate alone");
        assert_eq!(done.out, chain[0].to_pem().unwrap());
        let cn = chain[0].subject_name().entries().next().unwrap();
        assert_eq!(cn.data().to_string().unwrap(), CODE);
        let issuer = std::fs::read(world.dir.join(format!("issuers/{name}.pem"))).unwrap();
        let issuer = X509::from_pem(&issuer).unwrap();
        assert_eq!(issuer.issued(&chain[0]), X509VerifyResult::OK);
        let key = issuer.public_key().unwrap();
        assert!(chain[0].verify(&key).unwrap());
    }
    // The code is as good the next time.
    let json = ask(world, "line-ec", CODE, &["--json"]).ok().json();
    assert_eq!(json["kind"], "verification");
    assert_eq!(json["registration_code"], CODE);
    let serial = json["serial_number"].as_str().unwrap();
    let auditor = world.dir.join("clients/auditor.pem");
    let show = [
        "cert",
        "show",
        serial,
        "--client-certificate",
        text(&auditor),
    ];
    let shown = run(world, &show).ok();
    let shown = X509::stack_from_pem(&shown.out).unwrap();
    assert_eq!(
        shown[0].to_pem().unwrap(),
        json["certificate"].as_str().unwrap().as_bytes()
    );
    // In no list.
    let list = run(
        world,
        &["cert", "list", "--filter", &format!("cn={CODE}"), "--json"],
    );
    assert_eq!(list.ok().json()["items"], serde_json::json!([]));
}

#[test]
fn what_is_no_code_is_a_usage_error_and_asks_nobody() {
    let url = format!("https://127.0.0.1:{}", free_port());
    for code in ["", &CODE[1..], &format!("{CODE}0"), &CODE.replace('a', "g")] {
        ask(shared(), "line-ec", code, &["--url", &url])
            .fails(2)
            .silent()
            .says("a registration code is 64 hexadecimal digits");
    }
    ask(shared(), "../line-ec", CODE, &["--url", &url])
        .fails(2)
        .silent()
        .says("no issuer's name");
    run(shared(), &["issuer", "verification-certificate", "line-ec"])
        .fails(2)
        .silent();
}

#[test]
fn each_failure_has_its_exit_code() {
    let world = shared();
    ask(world, "nonesuch", CODE, &[])
        .fails(3)
        .silent()
        .says("404 not-found: no issuer of this name");
    for who in ["station-01", "operator", "auditor"] {
        let certificate = world.dir.join(format!("clients/{who}.pem"));
        let more = ["--client-certificate", text(&certificate)];
        ask(world, "line-ec", CODE, &more)
            .fails(4)
            .silent()
            .says("403 forbidden");
    }
    let url = format!("https://127.0.0.1:{}", free_port());
    ask(world, "line-ec", CODE, &["--url", &url])
        .fails(5)
        .silent()
        .says("connecting to 127.0.0.1");
    let own = OwnWorld::running();
    own.stop_postgres("immediate");
    own.wait_not_ready("database", Duration::from_secs(15));
    ask(&own.world, "line-ec", CODE, &[])
        .fails(5)
        .silent()
        .says("503 database-unavailable");
}
