//! `jitp kit`: its `register.sh`, run as a cloud engineer runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::emulator::{Account, REGION};
use crate::support::world::{World, shared};

/// A kit in a folder, for an account.
struct Kit {
    dir: TempDir,
    account: Account,
}

/// What a script said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Kit {
    /// For the lightbulb, whose issuer is line-ec.
    fn make(account: Account, mode: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let kit = Self { dir, account };
        kit.again(&["--profile", "lightbulb", "--mode", mode]);
        kit
    }

    /// Makes the kit anew in the same folder.
    fn again(&self, arguments: &[&str]) {
        let output = shared()
            .program(&["jitp", "kit"])
            .args(arguments)
            .args(["--account", &self.account.id])
            .args(["--region", &self.account.region])
            .arg("--out")
            .arg(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.file(name)).unwrap()).unwrap()
    }

    fn ca(&self) -> String {
        let id = self.json("kit.json")["ca_certificate_id"].clone();
        id.as_str().unwrap().to_owned()
    }

    /// What the template needs, made by the calls that the kit itself proposes.
    fn prepare(&self) {
        let list = self.json("preflight.json");
        for need in list["must_exist"].as_array().unwrap() {
            let words = need["create"].as_str().unwrap().replace('\'', "");
            let words: Vec<&str> = words.split(' ').skip(1).collect();
            self.account.must(&words);
        }
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let world: &World = shared();
        let mut command = Command::new(self.file("register.sh"));
        command.args(arguments);
        self.account.environment(&mut command);
        command
            .env("CERTFACTORY", env!("CARGO_BIN_EXE_certfactory"))
            .env("CERTFACTORY_CONFIG", world.dir.join("config.toml"))
            .env("CERTFACTORY_URL", &world.url)
            // What is another account's or Region's must not matter.
            .env("AWS_DEFAULT_REGION", "us-east-2");
        command
    }

    fn register(&self, arguments: &[&str]) -> Said {
        run(self.script(arguments))
    }

    /// The CA as the account has it; `None` when it is not registered.
    fn registered(&self) -> Option<Value> {
        let ca = json!({ "certificateId": self.ca() });
        let answers = self
            .account
            .answers(&[("ca", "iot", "describe_ca_certificate", ca)]);
        Some(answers["ca"].clone()).filter(|ca| !ca.is_null())
    }

    /// CA, template and role, everything that `register.sh` makes or changes.
    fn state(&self) -> Value {
        let names = self.json("kit.json");
        let text = |name: &str| names[name].as_str().unwrap().to_owned();
        let (ca, template, role) = (
            text("ca_certificate_id"),
            text("template_name"),
            text("role_arn"),
        );
        let role = role.rsplit('/').next().unwrap();
        let template = json!({ "templateName": template });
        let role = json!({ "RoleName": role });
        self.account.answers(&[
            (
                "ca",
                "iot",
                "describe_ca_certificate",
                json!({ "certificateId": ca }),
            ),
            (
                "template",
                "iot",
                "describe_provisioning_template",
                template.clone(),
            ),
            (
                "versions",
                "iot",
                "list_provisioning_template_versions",
                template,
            ),
            ("role", "iam", "get_role", role.clone()),
            (
                "policies",
                "iam",
                "list_attached_role_policies",
                role.clone(),
            ),
            ("inline", "iam", "list_role_policies", role),
        ])
    }
}

impl Said {
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    fn says(self, part: &str) -> Self {
        assert!(self.out.contains(part), "`{part}` is not in {self:#?}");
        self
    }

    fn warns(self, part: &str) -> Self {
        // The script breaks its lines where a terminal does.
        let flowed = self.err.replace('\n', " ");
        assert!(flowed.contains(part), "`{part}` is not in {self:#?}");
        self
    }
}

fn run(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn template_body(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

/// The factory signs a certificate over a registration code.
fn verification_certificate(code: &str, file: &Path) {
    let output = shared()
        .program(&["issuer", "verification-certificate", "line-ec"])
        .args(["--registration-code", code])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::write(file, output.stdout).unwrap();
}

#[test]
fn a_default_ca_ends_active_with_its_template_and_a_second_run_changes_nothing() {
    let kit = Kit::make(Account::of_ministack(), "default");
    kit.prepare();
    kit.register(&[]).exits(0).says("Changes made: 4.");
    let state = kit.state();
    let ca = &state["ca"];
    assert_eq!(ca["certificateDescription"]["status"], "ACTIVE");
    assert_eq!(
        ca["certificateDescription"]["autoRegistrationStatus"],
        "ENABLE"
    );
    assert_eq!(ca["certificateDescription"]["certificateMode"], "DEFAULT");
    let manifest = kit.json("kit.json");
    assert_eq!(
        ca["certificateDescription"]["certificateArn"],
        manifest["ca_certificate_arn"]
    );
    assert_eq!(
        ca["registrationConfig"],
        json!({ "templateName": "certfactory-lightbulb" })
    );
    let template = &state["template"];
    assert_eq!(template["type"], "JITP");
    assert_eq!(template["enabled"], true);
    assert_eq!(template["templateArn"], manifest["template_arn"]);
    assert_eq!(template["provisioningRoleArn"], manifest["role_arn"]);
    assert_eq!(
        template_body(&template["templateBody"]),
        kit.json("template-body.json")
    );
    assert_eq!(
        state["role"]["Role"]["AssumeRolePolicyDocument"],
        kit.json("role-trust-policy.json")
    );
    assert_eq!(
        state["policies"]["AttachedPolicies"][0]["PolicyArn"],
        "arn:aws:iam::aws:policy/service-role/AWSIoTThingsRegistration"
    );

    kit.register(&[]).exits(0).says("Nothing to change");
    assert_eq!(kit.state(), state);
}

#[test]
fn an_sni_only_ca_is_registered_repaired_and_given_a_new_template_version() {
    let kit = Kit::make(Account::of_ministack(), "sni-only");
    kit.prepare();
    kit.register(&["--narrow-role"]).exits(0);
    let state = kit.state();
    let description = &state["ca"]["certificateDescription"];
    assert_eq!(description["status"], "ACTIVE");
    assert_eq!(description["autoRegistrationStatus"], "ENABLE");
    assert_eq!(description["certificateMode"], "SNI_ONLY");
    assert_eq!(state["policies"]["AttachedPolicies"], json!([]));
    assert_eq!(
        state["inline"]["PolicyNames"],
        json!(["certfactory-lightbulb"])
    );
    kit.register(&["--narrow-role"])
        .exits(0)
        .says("Nothing to change");

    // Somebody switched it off.
    let ca = kit.ca();
    let off = [
        "--new-status",
        "INACTIVE",
        "--new-auto-registration-status",
        "DISABLE",
    ];
    let update = ["iot", "update-ca-certificate", "--certificate-id", &ca];
    kit.account.must(&[&update[..], &off].concat());
    kit.register(&["--narrow-role"])
        .exits(0)
        .says("Changes made: 1.");
    assert_eq!(kit.state()["ca"], state["ca"]);

    // The template changes: a new default version, no new template.
    let body = std::fs::read_to_string(kit.file("template-body.json")).unwrap();
    let changed = kit.file("changed.json");
    std::fs::write(&changed, body.replace("\"v1\"", "\"v2\"")).unwrap();
    kit.again(&[
        "--profile",
        "lightbulb",
        "--mode",
        "sni-only",
        "--template",
        changed.to_str().unwrap(),
    ]);
    kit.register(&["--narrow-role"])
        .exits(0)
        .says("create-provisioning-template-version");
    let template = kit.state()["template"].clone();
    assert_eq!(template["defaultVersionId"], 2);
    assert_eq!(
        template_body(&template["templateBody"])["Resources"]["thing"]["Properties"]["AttributePayload"]
            ["version"],
        "v2"
    );
    kit.register(&["--narrow-role"])
        .exits(0)
        .says("Nothing to change");
}

#[test]
fn a_dry_run_prints_every_call_and_makes_none_that_changes_anything() {
    let kit = Kit::make(Account::of_ministack(), "default");
    kit.prepare();
    let before = kit.state();
    let mut script = kit.script(&["--dry-run"]);
    // A dry run that asked the factory for a signature would fail.
    script.env("CERTFACTORY", "/bin/false");
    let said = run(script)
        .exits(0)
        .says("would run: aws iot get-registration-code")
        .says("issuer verification-certificate line-ec --registration-code")
        .says("would run: aws iam create-role --role-name certfactory-jitp-eu-central-1")
        .says("would run: aws iam attach-role-policy")
        .says("would run: aws iot create-provisioning-template --template-name certfactory-lightbulb --type JITP")
        .says("would run: aws iot register-ca-certificate --ca-certificate")
        .says("--set-as-active --allow-auto-registration")
        .says("none was");
    assert_eq!(kit.state(), before);
    assert_eq!(before["ca"], Value::Null);

    // The operator's policy allows each of these calls.
    let allowed: Vec<String> = kit.json("operator-policy.json")["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|statement| match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            one => vec![one.clone()],
        })
        .map(|action| action.as_str().unwrap().to_lowercase())
        .collect();
    let calls = said
        .out
        .lines()
        .filter_map(|line| line.split_once(": aws "));
    let mut count = 0;
    for (_, call) in calls {
        let mut words = call.split(' ');
        let service = words.next().unwrap();
        let action = format!("{service}:{}", words.next().unwrap().replace('-', ""));
        assert!(allowed.contains(&action), "{action} is not in {allowed:?}");
        count += 1;
    }
    assert!(count >= 10, "{said:#?}");
    assert!(allowed.contains(&"iam:passrole".to_owned()));
}

#[test]
fn a_wrong_registration_code_is_refused_by_aws_and_explained_by_us() {
    let kit = Kit::make(Account::of_ministack(), "default");
    kit.prepare();
    let other = Account::of_ministack();
    let code = other.must(&["iot", "get-registration-code"]);
    let file = kit.file("verification.pem");
    verification_certificate(code["registrationCode"].as_str().unwrap(), &file);
    let with = ["--verification-certificate", file.to_str().unwrap()];
    kit.register(&with)
        .exits(1)
        .warns("RegistrationCodeValidationException")
        .warns("was not made for this account and Region")
        .warns("certfactory issuer verification-certificate line-ec --registration-code CODE");
    assert_eq!(kit.registered(), None);

    // One by another issuer.
    let output = shared()
        .program(&["issuer", "verification-certificate", "line-rsa"])
        .args(["--registration-code", &"a".repeat(64)])
        .output()
        .unwrap();
    std::fs::write(&file, output.stdout).unwrap();
    kit.register(&with)
        .exits(1)
        .warns("was not signed by this CA");

    // The right one, carried over by hand.
    let code = kit.account.must(&["iot", "get-registration-code"]);
    verification_certificate(code["registrationCode"].as_str().unwrap(), &file);
    kit.register(&with).exits(0).says("Changes made: 1.");
    assert_eq!(
        kit.registered().unwrap()["certificateDescription"]["status"],
        "ACTIVE"
    );
}

#[test]
fn without_a_factory_at_hand_it_says_what_to_run_there() {
    let kit = Kit::make(Account::of_ministack(), "default");
    kit.prepare();
    let mut script = kit.script(&[]);
    script.env("CERTFACTORY", "certfactory-is-elsewhere");
    let code = kit.account.must(&["iot", "get-registration-code"]);
    let code = code["registrationCode"].as_str().unwrap();
    run(script).exits(4).warns(&format!(
        "certfactory issuer verification-certificate line-ec --registration-code {code}"
    ));
    // A factory that knows the operator as a station only.
    let mut script = kit.script(&[]);
    let station = shared().dir.join("clients/station-01.pem");
    script.env("CERTFACTORY_CLIENT_CERTIFICATE", station);
    run(script)
        .exits(1)
        .warns("an administrator's client certificate");
    assert_eq!(kit.state()["role"], Value::Null);
}

#[test]
fn what_is_missing_stops_it_before_anything_is_registered() {
    let kit = Kit::make(Account::of_ministack(), "sni-only");
    let before = kit.state();
    kit.register(&["--group", "DE"])
        .exits(3)
        .warns("thing type lightBulb-versionA; make it with: aws iot create-thing-type")
        .warns("thing group v1-lightbulbs; make it with")
        .warns("thing group DE; make it with")
        .says("one thing group for each value of C");
    assert_eq!(kit.state(), before);
    assert_eq!(before["role"], Value::Null);

    kit.prepare();
    kit.register(&["--preflight"])
        .exits(0)
        .says("Nothing is missing");
    assert_eq!(kit.state(), before);

    // A thing type that no new thing may have.
    kit.account.must(&[
        "iot",
        "deprecate-thing-type",
        "--thing-type-name",
        "lightBulb-versionA",
    ]);
    kit.register(&[]).exits(3).warns("is deprecated");
    assert_eq!(kit.state(), before);
}

#[test]
fn what_is_used_for_something_else_is_reported_and_never_changed() {
    let kit = Kit::make(Account::of_ministack(), "sni-only");
    kit.prepare();
    let account = &kit.account;
    // A role of that name that is somebody else's, and a fleet template of that name.
    account.must(&[
        "iam",
        "create-role",
        "--role-name",
        "certfactory-jitp-eu-central-1",
        "--assume-role-policy-document",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#,
    ]);
    let body = format!("file://{}", kit.file("template-body.json").display());
    let role = kit.json("kit.json")["role_arn"].clone();
    account.must(&[
        "iot",
        "create-provisioning-template",
        "--template-name",
        "certfactory-lightbulb",
        "--template-body",
        &body,
        "--provisioning-role-arn",
        role.as_str().unwrap(),
    ]);
    // The CA, registered in the other mode and with another template.
    let code = account.must(&["iot", "get-registration-code"]);
    let proof = kit.file("verification.pem");
    verification_certificate(code["registrationCode"].as_str().unwrap(), &proof);
    let file = |path: &Path| format!("file://{}", path.display());
    account.must(&[
        "iot",
        "register-ca-certificate",
        "--ca-certificate",
        &file(&kit.file("ca.pem")),
        "--verification-certificate",
        &file(&proof),
        "--registration-config",
        "templateName=another",
    ]);
    let before = kit.state();
    kit.register(&[])
        .exits(3)
        .warns("AWS IoT may not take it")
        .warns("of type FLEET_PROVISIONING")
        .warns("registered in mode DEFAULT, the kit is for SNI_ONLY")
        .warns("registered with the template another");
    assert_eq!(kit.state(), before);

    // In the right mode, without the role, under another name, and told to replace.
    kit.again(&["--profile", "lightbulb", "--template-name", "lamps"]);
    kit.register(&["--no-role"]).exits(3).warns("--replace");
    kit.register(&["--no-role", "--replace"]).exits(0);
    let ca = kit.registered().unwrap();
    assert_eq!(ca["registrationConfig"]["templateName"], "lamps");
    assert_eq!(ca["certificateDescription"]["status"], "ACTIVE");
    assert_eq!(kit.state()["role"], before["role"]);
}

#[test]
fn an_inline_template_with_another_role_is_replaced_only_when_told() {
    let kit = Kit::make(Account::of_ministack(), "sni-only");
    kit.prepare();
    let other = kit.file("other.json");
    let body = std::fs::read_to_string(kit.file("template-body.json")).unwrap();
    let config = serde_json::json!({
        "templateBody": body,
        "roleArn": "arn:aws:iam::123456789012:role/another-team",
    });
    std::fs::write(&other, config.to_string()).unwrap();
    let file = |path: &Path| format!("file://{}", path.display());
    kit.account.must(&[
        "iot",
        "register-ca-certificate",
        "--ca-certificate",
        &file(&kit.file("ca.pem")),
        "--certificate-mode",
        "SNI_ONLY",
        "--registration-config",
        &file(&other),
    ]);
    let before = kit.state();
    kit.register(&[])
        .exits(3)
        .warns("role/another-team")
        .warns("--replace");
    assert_eq!(kit.state(), before);
    kit.register(&["--replace"]).exits(0);
    let ca = kit.registered().unwrap();
    assert_eq!(
        ca["registrationConfig"]["templateName"],
        "certfactory-lightbulb"
    );
}

#[test]
fn a_role_that_was_narrowed_is_not_widened_by_the_next_run() {
    let kit = Kit::make(Account::of_ministack(), "sni-only");
    kit.prepare();
    kit.register(&["--narrow-role"]).exits(0);
    let before = kit.state();
    kit.register(&[]).exits(0);
    assert_eq!(kit.state(), before);
}

#[test]
fn credentials_of_another_account_and_a_useless_option_are_refused() {
    let mut kit = Kit::make(Account::of_ministack(), "sni-only");
    let file = kit.file("ca.pem");
    kit.register(&["--verification-certificate", file.to_str().unwrap()])
        .exits(2)
        .warns("without a verification certificate");
    kit.register(&["--now"]).exits(2).warns("unknown option");
    kit.register(&["--group"]).exits(2).warns("usage");
    kit.account = Account::of_ministack();
    kit.register(&[])
        .exits(3)
        .warns("credentials are of account");
}

/// moto lacks provisioning templates, so the body goes into the registration config.
#[test]
fn moto_registers_both_modes_with_the_template_in_the_registration_config() {
    for (mode, region) in [("default", "eu-west-1"), ("sni-only", "us-west-2")] {
        let kit = Kit::make(Account::of_moto(region), mode);
        // A billing group and a named policy: what ministack lacks, and the template names.
        let body = kit.file("billed.json");
        let mut template = kit.json("template-body.json");
        template["Resources"]["thing"]["Properties"]["BillingGroup"] = json!("lamps");
        template["Resources"]["policy"]["Properties"] = json!({ "PolicyName": "lamp" });
        std::fs::write(&body, template.to_string()).unwrap();
        let body = body.to_str().unwrap();
        kit.again(&["--profile", "lightbulb", "--template", body, "--mode", mode]);
        let proof = kit.file("verification.pem");
        verification_certificate(&"0".repeat(64), &proof);
        let mut arguments = vec!["--inline-template"];
        if mode == "default" {
            arguments.extend(["--verification-certificate", proof.to_str().unwrap()]);
        }
        kit.register(&arguments)
            .exits(3)
            .warns("billing group lamps; make it with")
            .warns("policy lamp; make it with");
        assert_eq!(kit.registered(), None);

        // `create-policy … file://device-policy.json`, as the kit says, beside the kit.
        let document = format!("file://{}", kit.file("device-policy.json").display());
        let make: [&[&str]; 4] = [
            &[
                "create-thing-type",
                "--thing-type-name",
                "lightBulb-versionA",
            ],
            &["create-thing-group", "--thing-group-name", "v1-lightbulbs"],
            &["create-billing-group", "--billing-group-name", "lamps"],
            &[
                "create-policy",
                "--policy-name",
                "lamp",
                "--policy-document",
                &document,
            ],
        ];
        for arguments in make {
            kit.account.must(&[&["iot"], arguments].concat());
        }
        kit.register(&arguments).exits(0);
        let state = kit.state();
        assert_eq!(state["ca"]["certificateDescription"]["status"], "ACTIVE");
        let config = &state["ca"]["registrationConfig"];
        assert_eq!(config["roleArn"], kit.json("kit.json")["role_arn"]);
        assert_eq!(template_body(&config["templateBody"]), template);
        assert_eq!(
            state["policies"]["AttachedPolicies"][0]["PolicyName"],
            "AWSIoTThingsRegistration"
        );
        kit.register(&arguments).exits(0);
        assert_eq!(kit.state(), state);
    }
}

/// Errors that no emulator makes, in the words that AWS is known to use.
#[test]
fn every_error_of_aws_is_explained() {
    let kit = Kit::make(
        Account {
            id: "123456789012".to_owned(),
            region: REGION.to_owned(),
            url: "http://127.0.0.1:9".to_owned(),
        },
        "default",
    );
    let aws = TempDir::new().unwrap();
    let program = aws.path().join("aws");
    std::fs::write(
        &program,
        "#!/bin/sh\nprintf '\\n%s\\n' \"$REFUSAL\" >&2\nexit 254\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let refused = |code: &str, text: &str| {
        format!(
            "An error occurred ({code}) when calling the RegisterCACertificate operation: {text}"
        )
    };
    for (refusal, explanation) in [
        (refused("RegistrationCodeValidationException", "Registration code provided in the CN field of verification certificate is invalid."), "was not made for this account and Region"),
        (refused("CertificateValidationException", "CA certificate is not valid. The CA certificate does not have the basicConstraints extension as true"), "CA:TRUE"),
        (refused("InvalidRequestException", "Cannot provide verification certificate for registering CA Certificates in SNI_ONLY mode"), "registered without a verification certificate"),
        (refused("InvalidRequestException", "Need to provide verification certificate for registering CA Certificates in DEFAULT mode"), "proof that the factory holds the CA key"),
        (refused("CertificateValidationException", "The issuer of the certificate did not match the subject of the provided CA certificate."), "was not signed by this CA"),
        (refused("CertificateValidationException", "The key in the certificate is not valid"), "RSA keys of 2048 bits"),
        (refused("CertificateConflictException", "conflict"), "the same subject and the same key"),
        (refused("CertificateStateException", "The CA certificate is not active"), "in a state that does not allow this"),
        (refused("ThrottlingException", "Rate exceeded"), "run this again in a minute"),
        (refused("LimitExceededException", "limit"), "ten CAs with one subject"),
        (refused("VersionsLimitExceededException", "versions"), "keeps five versions"),
        (refused("AccessDeniedException", "User: arn:aws:iam::123456789012:user/x is not authorized to perform: iam:PassRole"), "operator-policy.json"),
        (refused("InvalidRequestException", "The template body is invalid: CertificateId must contain a reference to AWS::IoT::Certificate::Id"), "certfactory jitp lint"),
        (refused("UnrecognizedClientException", "The security token included in the request is invalid."), "does not know these credentials"),
        ("Unable to locate credentials. You can configure credentials by running \"aws configure\".".to_owned(), "does not know these credentials"),
        (format!("aws: [ERROR]: {}", refused("ServiceUnavailableException", "x")), "AWS itself failed"),
        (refused("SomethingNewException", "x"), "not one that the kit knows"),
    ] {
        let mut script = kit.script(&[]);
        let path = format!("{}:{}", aws.path().display(), std::env::var("PATH").unwrap());
        script.env("PATH", path).env("REFUSAL", &refusal);
        run(script).exits(1).warns(&refusal).warns(explanation);
    }
}

#[test]
fn the_script_is_clean_before_shellcheck() {
    for mode in ["default", "sni-only"] {
        let kit = Kit::make(Account::of_ministack(), mode);
        let output = Command::new("shellcheck")
            .arg(kit.file("register.sh"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
