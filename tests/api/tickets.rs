//! `/v1/orders/tickets`: orders that were signed at head office.

use std::time::Duration;

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::ticket::{b64, claims, head_office, header, sign, ticket};
use crate::support::world::{OwnWorld, World, issued, shared};

fn redeem(world: &World, client: &str, ticket: &str) -> Response {
    let headers = [("Content-Type", "application/jose")];
    let body = Some(ticket.as_bytes());
    world
        .client(client)
        .send("POST", "/v1/orders/tickets", &headers, body)
}

fn order(quantity: i64) -> Value {
    json!({ "name": format!("WO-{}", Device::p256().name), "profile": "lightbulb", "quantity": quantity })
}

fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn issue(world: &World, order: &Value) -> Response {
    let mut request = Device::p256().request("lightbulb");
    request["order"] = order["name"].clone();
    world.client("station-01").issue(&request)
}

#[test]
fn a_ticket_brings_one_order_once_and_nothing_makes_it_larger() {
    let world = shared();
    let mut ordered = order(2);
    ordered["scrap_allowance"] = 1.into();
    ordered["reworks_max"] = 0.into();
    ordered["stations"] = json!(["station-01"]);
    ordered["closes_at"] = "2126-01-01T06:00:00Z".into();
    let jti = ordered["name"].as_str().unwrap().to_owned();
    let first = ticket(&world.dir, &claims(&jti, ordered.clone()));
    let made = redeem(world, "operator", &format!("{first}\n"));
    assert_eq!(made.status, 201, "{made:?}");
    let body = made.json();
    for (field, value) in ordered.as_object().unwrap() {
        assert_eq!(body[field], *value, "{field}");
    }
    let digest: String = sha256(first.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let mark = json!({ "jti": jti, "kid": "head-office", "sha256": digest });
    assert_eq!(body["ticket"], mark);
    let address = made.header("location").unwrap();
    assert_eq!(world.client("auditor").get(address).json(), body);
    let kept = format!("SELECT encode(ticket, 'escape') FROM order_ticket WHERE jti = '{jti}'");
    assert_eq!(world.sql(&kept), first);

    let again = redeem(world, "operator", &first);
    assert_eq!((again.status, again.json()), (200, body.clone()));

    let mut wider = ordered.clone();
    wider["quantity"] = 3.into();
    for (second, slug) in [
        (claims(&jti, order(3)), "ticket-replayed"),
        (claims(&jti, wider.clone()), "ticket-replayed"),
        (claims(&format!("{jti}-2"), wider.clone()), "ticket-widened"),
        (
            claims(&format!("{jti}-3"), ordered.clone()),
            "ticket-widened",
        ),
    ] {
        let refused = redeem(world, "operator", &ticket(&world.dir, &second));
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (409, slug),
            "{second}"
        );
    }
    let json = [("Content-Type", "application/json")];
    let by_hand = world.client("operator").send(
        "POST",
        "/v1/orders",
        &json,
        Some(wider.to_string().as_bytes()),
    );
    assert_eq!(by_hand.slug(), "order-exists");
    let list = world.client("operator").send(
        "POST",
        &format!("{address}/devices"),
        &json,
        Some(br#"["x"]"#),
    );
    assert_eq!(list.slug(), "device-list-late");
    assert_eq!(world.client("auditor").get(address).json(), body);

    for _ in 0..2 {
        issued(&issue(world, &ordered));
    }
    assert_eq!(issue(world, &ordered).slug(), "order-exhausted");
}

#[test]
fn one_ticket_sixteen_times_at_once_is_one_order_and_one_number_is_good_for_one_of_two() {
    let world = shared();
    let at_once = |tickets: Vec<String>| -> Vec<Response> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = tickets
                .iter()
                .map(|ticket| scope.spawn(move || redeem(world, "operator", ticket)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    };
    let ordered = order(1);
    let jti = ordered["name"].as_str().unwrap().to_owned();
    let one = ticket(&world.dir, &claims(&jti, ordered));
    let mut answers: Vec<u16> = at_once(vec![one; 16]).iter().map(|a| a.status).collect();
    answers.sort_unstable();
    assert_eq!(answers, [vec![200; 15], vec![201]].concat());

    let jti = format!("{jti}-b");
    let rivals: Vec<String> = (0..8)
        .map(|_| ticket(&world.dir, &claims(&jti, order(1))))
        .collect();
    let answers = at_once(rivals);
    let made = answers.iter().filter(|a| a.status == 201).count();
    let replayed = answers
        .iter()
        .filter(|a| a.status == 409 && a.slug() == "ticket-replayed")
        .count();
    assert_eq!((made, replayed), (1, 7), "{answers:?}");
}

#[test]
fn what_is_no_good_ticket_is_refused_under_its_name_and_leaves_nothing() {
    let mut own = OwnWorld::make();
    let ec = p256();
    std::fs::write(
        own.world.dir.join("ec.pem"),
        ec.public_key_to_pem().unwrap(),
    )
    .unwrap();
    own.configure(|config| {
        config["site"]
            .as_table_mut()
            .unwrap()
            .insert("tickets_required".into(), true.into());
        let key: toml::Table = "kid = \"ec\"\npublic_key = \"ec.pem\"".parse().unwrap();
        config["ticket_key"]
            .as_array_mut()
            .unwrap()
            .push(key.into());
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let world = &own.world;
    let ed = head_office(&world.dir);
    let stranger = PKey::generate_ed25519().unwrap();
    let good = || claims("T-1", order(5));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = good();
        change(&mut claims);
        claims.to_string()
    };
    let ed_header = header("EdDSA", "head-office");
    let ed_ticket = |payload: &str| sign(&ed_header, payload, &ed);
    let payload = good().to_string();
    // The public key's text as the secret of an HMAC: the classical confusion.
    let hmac = {
        let secret = ed.public_key_to_pem().unwrap();
        let key = PKey::hmac(&secret).unwrap();
        let text = format!("{}.{}", b64(header("HS256", "head-office")), b64(&payload));
        let mut signer = Signer::new(openssl::hash::MessageDigest::sha256(), &key).unwrap();
        signer.update(text.as_bytes()).unwrap();
        format!("{text}.{}", b64(signer.sign_to_vec().unwrap()))
    };
    let unsigned = format!("{}.{}.", b64(header("none", "head-office")), b64(&payload));
    let tampered = {
        let ticket = ed_ticket(&payload);
        let parts: Vec<&str> = ticket.split('.').collect();
        let more = payload.replace("\"quantity\":5", "\"quantity\":5000");
        assert_ne!(more, payload);
        format!("{}.{}.{}", parts[0], b64(more), parts[2])
    };
    let short = {
        let ticket = ed_ticket(&payload);
        ticket[..ticket.len() - 2].to_owned()
    };
    let now = chrono::Utc::now().timestamp();
    let cases: Vec<(&str, String, u16, &str)> = vec![
        (
            "another key",
            sign(&ed_header, &payload, &stranger),
            422,
            "ticket-signature-invalid",
        ),
        ("alg none", unsigned, 422, "ticket-signature-invalid"),
        (
            "alg none, signed",
            sign(&header("none", "head-office"), &payload, &ed),
            422,
            "ticket-signature-invalid",
        ),
        (
            "HS256 with the public key",
            hmac,
            422,
            "ticket-signature-invalid",
        ),
        (
            "ES256 said, Ed25519 signed",
            sign(&header("ES256", "head-office"), &payload, &ed),
            422,
            "ticket-signature-invalid",
        ),
        (
            "the other key's kid",
            sign(&header("EdDSA", "ec"), &payload, &ed),
            422,
            "ticket-signature-invalid",
        ),
        (
            "EdDSA said, P-256 signed",
            sign(&header("EdDSA", "ec"), &payload, &ec),
            422,
            "ticket-signature-invalid",
        ),
        (
            "a stranger's P-256",
            sign(&header("ES256", "ec"), &payload, &p256()),
            422,
            "ticket-signature-invalid",
        ),
        (
            "an unknown kid",
            sign(&header("EdDSA", "x"), &payload, &ed),
            422,
            "ticket-signature-invalid",
        ),
        ("tampered", tampered, 422, "ticket-signature-invalid"),
        ("a short signature", short, 422, "ticket-signature-invalid"),
        (
            "other site",
            ed_ticket(&with(&|c| c["aud"] = "elsewhere".into())),
            422,
            "ticket-audience",
        ),
        (
            "expired",
            ed_ticket(&with(&|c| {
                c["iat"] = (now - 20).into();
                c["exp"] = (now - 10).into();
            })),
            422,
            "ticket-expired",
        ),
        (
            "not yet",
            ed_ticket(&with(&|c| c["nbf"] = (now + 600).into())),
            422,
            "ticket-expired",
        ),
        (
            "ends before it begins",
            ed_ticket(&with(&|c| c["exp"] = c["iat"].clone())),
            400,
            "ticket-malformed",
        ),
        (
            "unknown claim",
            ed_ticket(&with(&|c| c["sub"] = "x".into())),
            400,
            "ticket-malformed",
        ),
        (
            "unknown field of the order",
            ed_ticket(&with(&|c| c["order"]["price"] = 1.into())),
            400,
            "ticket-malformed",
        ),
        (
            "no jti",
            ed_ticket(&with(&|c| {
                c.as_object_mut().unwrap().remove("jti");
            })),
            400,
            "ticket-malformed",
        ),
        (
            "no exp",
            ed_ticket(&with(&|c| {
                c.as_object_mut().unwrap().remove("exp");
            })),
            400,
            "ticket-malformed",
        ),
        (
            "a jti with a space",
            ed_ticket(&with(&|c| c["jti"] = "a b".into())),
            400,
            "ticket-malformed",
        ),
        (
            "two sites",
            ed_ticket(&with(&|c| c["aud"] = json!(["dev", "x"]))),
            400,
            "ticket-malformed",
        ),
        (
            "half a second",
            ed_ticket(&with(&|c| c["exp"] = json!(now as f64 + 60.5))),
            400,
            "ticket-malformed",
        ),
        (
            "duplicate claim",
            ed_ticket(&payload.replacen('{', r#"{"jti":"T-0","#, 1)),
            400,
            "ticket-malformed",
        ),
        (
            "duplicate quantity",
            ed_ticket(&payload.replace("\"quantity\":5", "\"quantity\":5,\"quantity\":50")),
            400,
            "ticket-malformed",
        ),
        (
            "claims as an array",
            ed_ticket("[1]"),
            400,
            "ticket-malformed",
        ),
        ("no JSON", ed_ticket("quantity=5"), 400, "ticket-malformed"),
        (
            "crit",
            sign(
                r#"{"alg":"EdDSA","kid":"head-office","typ":"certfactory-order+jws","crit":["exp"]}"#,
                &payload,
                &ed,
            ),
            400,
            "ticket-malformed",
        ),
        (
            "an embedded key",
            sign(
                r#"{"alg":"EdDSA","kid":"head-office","typ":"certfactory-order+jws","jwk":{}}"#,
                &payload,
                &ed,
            ),
            400,
            "ticket-malformed",
        ),
        (
            "other typ",
            sign(
                r#"{"alg":"EdDSA","kid":"head-office","typ":"JWT"}"#,
                &payload,
                &ed,
            ),
            400,
            "ticket-malformed",
        ),
        (
            "padding",
            format!("{}=", ed_ticket(&payload)),
            400,
            "ticket-malformed",
        ),
        (
            "a line break within",
            ed_ticket(&payload).replacen('.', "\n.", 1),
            400,
            "ticket-malformed",
        ),
        ("two parts", "a.b".to_owned(), 400, "ticket-malformed"),
        ("nothing", String::new(), 400, "ticket-malformed"),
        (
            "oversized",
            ed_ticket(&with(&|c| c["iss"] = "x".repeat(70_000).into())),
            413,
            "payload-too-large",
        ),
        (
            "a long iss",
            ed_ticket(&with(&|c| c["iss"] = "x".repeat(129).into())),
            400,
            "ticket-malformed",
        ),
        (
            "no quantity",
            ed_ticket(&with(&|c| c["order"]["quantity"] = 0.into())),
            400,
            "invalid-field",
        ),
        (
            "unknown profile",
            ed_ticket(&with(&|c| c["order"]["profile"] = "x".into())),
            422,
            "unknown-profile",
        ),
    ];
    // Without the looks at whether the key still works.
    let without_order = Device::p256().request("lightbulb");
    issued(&world.client("station-01").issue(&without_order));
    let asked = || {
        ["certificate", "report"].map(|purpose| {
            world.metric(&format!(
                "certfactory_hsm_calls_total{{purpose=\"{purpose}\"}}"
            ))
        })
    };
    let before = asked();
    assert_eq!(before[0], 1.0, "the metric has another name");
    for (what, ticket, status, slug) in &cases {
        let refused = redeem(world, "operator", ticket);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (*status, *slug),
            "{what}: {refused:?}"
        );
    }
    assert_eq!(asked(), before, "the HSM was asked");
    for client in ["station-01", "auditor", "administrator"] {
        assert_eq!(
            redeem(world, client, &ed_ticket(&payload)).slug(),
            "forbidden",
            "{client}"
        );
    }
    let headers = [("Content-Type", "application/json")];
    let typed = world
        .client("operator")
        .send("POST", "/v1/orders/tickets", &headers, Some(b"{}"));
    assert_eq!(typed.slug(), "unsupported-media-type");
    // Orders come by ticket only here.
    let by_hand = world.client("operator").send(
        "POST",
        "/v1/orders",
        &headers,
        Some(order(1).to_string().as_bytes()),
    );
    assert_eq!(
        (by_hand.status, by_hand.slug().as_str()),
        (403, "ticket-required")
    );
    assert_eq!(world.sql("SELECT count(*) FROM work_order"), "0");
    assert_eq!(world.sql("SELECT count(*) FROM order_ticket"), "0");

    // Both kinds of keys are honoured, by their own kid.
    let second = claims("T-2", order(5)).to_string();
    for good in [
        ed_ticket(&payload),
        sign(&header("ES256", "ec"), &second, &ec),
    ] {
        let made = redeem(world, "operator", &good);
        assert_eq!(made.status, 201, "{made:?}");
    }
    assert_eq!(
        world.sql("SELECT count(*) FROM order_ticket JOIN work_order ON name = work_order"),
        "2"
    );
}

#[test]
fn a_ticket_that_was_used_in_time_is_answered_after_its_time() {
    let world = shared();
    let ordered = order(1);
    let mut claims = claims(ordered["name"].as_str().unwrap(), ordered.clone());
    claims["exp"] = (chrono::Utc::now().timestamp() + 3).into();
    let ticket = ticket(&world.dir, &claims);
    assert_eq!(redeem(world, "operator", &ticket).status, 201);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(redeem(world, "operator", &ticket).status, 200);
}
