//! `cert export`: streams, folders, and what is left out. What AWS makes of it: `tests/aws`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use serde_json::Value;
use tempfile::TempDir;

use crate::run;
use crate::support::device::Device;
use crate::support::world::{free_port, issued, shared};
use crate::text;

/// Devices of one work order, and the filter that finds them.
fn order(count: usize, client: &str) -> (Vec<Value>, String) {
    let name = format!("WO-{}", Device::p256().name);
    shared().order(&name, "lightbulb");
    let bodies = (0..count)
        .map(|_| {
            let mut request = Device::p256().request("lightbulb");
            request["order"] = name.clone().into();
            issued(&shared().client(client).issue(&request))
        })
        .collect();
    (bodies, format!("order={name}"))
}

#[test]
fn an_allow_list_is_a_table_or_lines_with_the_same_content() {
    let (bodies, filter) = order(3, "station-01");
    let export = [
        "cert",
        "export",
        "--format",
        "allow-list",
        "--filter",
        &filter,
    ];
    let table = run(shared(), &export)
        .ok()
        .says("3 certificates written, 0 left out")
        .text();
    let mut rows = table.split_terminator("\r\n");
    assert_eq!(
        rows.next(),
        Some("certificate_id,serial_number,device,thing_name,order,status")
    );
    let rows: Vec<&str> = rows.collect();
    let lines = run(shared(), &[&export[..], &["--json"]].concat())
        .ok()
        .text();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((rows.len(), lines.len()), (3, 3));
    // Newest first, as in a search.
    for ((row, line), body) in rows.iter().zip(&lines).zip(bodies.iter().rev()) {
        let columns = [
            "certificate_id",
            "serial_number",
            "device",
            "thing_name",
            "order",
            "status",
        ];
        let cells: Vec<&str> = columns
            .iter()
            .map(|name| line[name].as_str().unwrap())
            .collect();
        assert_eq!(row.split(',').collect::<Vec<_>>(), cells);
        assert_eq!(line["certificate_id"], body["fingerprint_sha256"]);
        assert_eq!(line["serial_number"], body["serial_number"]);
        assert_eq!(line["device"], body["subject"]["CN"]);
        assert_eq!(line["order"], body["order"]);
        assert_eq!(line["status"], "issued");
    }
}

#[test]
fn a_folder_gets_the_data_the_template_and_a_script_that_runs() {
    let (bodies, filter) = order(2, "station-01");
    let dir = TempDir::new().unwrap();
    let files = |format: &str| {
        let folder = dir.path().join(format);
        let folder_text = text(&folder);
        run(
            shared(),
            &[
                "cert",
                "export",
                "--format",
                format,
                "--filter",
                &filter,
                "--output",
                folder_text,
            ],
        )
        .ok()
        .silent();
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(files("allow-list"), ["allow-list.csv"]);
    assert_eq!(
        files("bulk"),
        ["bulk-template.json", "bulk.ndjson", "register-bulk.sh"]
    );
    assert_eq!(
        files("certificates"),
        ["certificates.ndjson", "register-certificates.py"]
    );
    for script in [
        "bulk/register-bulk.sh",
        "certificates/register-certificates.py",
    ] {
        let mode = std::fs::metadata(dir.path().join(script))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755, "{script}");
    }
    let lines =
        std::fs::read_to_string(dir.path().join("certificates/certificates.ndjson")).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["certificate_pem"], bodies[1]["certificate"]);
    assert_eq!(first["certificate_id"], bodies[1]["fingerprint_sha256"]);
}

#[test]
fn a_station_exports_its_own() {
    let (_, filter) = order(1, "operator");
    let done = run(
        shared(),
        &["cert", "export", "--format", "bulk", "--filter", &filter],
    );
    assert_eq!(done.ok().says("0 certificates written").text(), "");
}

#[test]
fn more_than_a_page_comes_whole_and_each_once() {
    let world = shared();
    let now = || {
        world.sql(r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
    };
    let from = now();
    let recorded = || {
        let count = format!("SELECT count(*) FROM outcome WHERE recorded_at >= '{from}'");
        world.sql(&count).parse::<u64>().unwrap()
    };
    while recorded() <= 1_100 {
        run(
            world,
            &["benchmark", "line", "--connections", "8", "--seconds", "1"],
        )
        .ok();
    }
    let to = now();
    // Others issue meanwhile; what is recorded within the window is the same for both.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let serials = world.sql(&format!(
        "SELECT encode(i.serial_number, 'hex') FROM outcome o JOIN intent i USING (intent_id) \
         WHERE o.der IS NOT NULL AND o.recorded_at >= '{from}' AND o.recorded_at < '{to}' ORDER BY intent_id DESC"
    ));
    let serials: Vec<&str> = serials.lines().collect();
    assert!(
        serials.len() > 1_000,
        "{} certificates are one page",
        serials.len()
    );
    let (after, before) = (
        format!("issued_after={from}"),
        format!("issued_before={to}"),
    );
    let auditor = world.dir.join("clients/auditor.pem");
    let filters = [
        "--filter",
        &after,
        "--filter",
        &before,
        "--client-certificate",
        text(&auditor),
    ];
    let export = [&["cert", "export", "--format", "bulk"], &filters[..]].concat();
    let lines = run(world, &export).ok().text();
    let exported: Vec<String> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["SerialNumber"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(exported, serials);
}

#[test]
fn what_goes_wrong_has_its_exit_code_and_leaves_no_file() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("out");
    let to = ["--output", text(&folder)];
    let export = |more: &[&str]| {
        let start = ["cert", "export", "--format", "bulk"];
        run(shared(), &[&start[..], more, &to].concat()).silent()
    };
    export(&["--filter", "colour=red"])
        .fails(4)
        .says("invalid-parameter");
    export(&["--filter", "station=operator"])
        .fails(4)
        .says("forbidden");
    export(&["--filter", "limit=5"]).fails(2).says("limit");
    // A verification certificate is no device, and has no place on any of these lists.
    export(&["--filter", "kind=any"]).fails(2).says("kind");
    export(&["--filter", "red"]).fails(2);
    export(&["--policy-name", "two words"])
        .fails(2)
        .says("PolicyName");
    export(&["--thing-group", "a/b"])
        .fails(2)
        .says("ThingGroupName");
    let nowhere = format!("https://127.0.0.1:{}", free_port());
    export(&["--url", &nowhere]).fails(5);
    assert!(!folder.join("bulk.ndjson").exists());
    run(shared(), &["cert", "export"]).fails(2).says("--format");
}

/// Answers one request with these octets over the world's own TLS, then hangs up.
pub fn answers_once(answer: String) -> String {
    let tls = shared().dir.join("tls");
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).unwrap();
    acceptor
        .set_certificate_chain_file(tls.join("server.pem"))
        .unwrap();
    acceptor
        .set_private_key_file(tls.join("server.key"), SslFiletype::PEM)
        .unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
        let mut request = Vec::new();
        let mut octet = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut octet).unwrap() > 0 {
            request.push(octet[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        stream.shutdown().ok();
    });
    url
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_the_whole() {
    let (bodies, _) = order(1, "station-01");
    let line = format!("{}\n", bodies[0]);
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let whole = format!("{head}{}0\r\n\r\n", chunk(&line));
    let broken = format!("{head}{}", chunk(&line));
    let cut = format!("{head}{}0\r\n\r\n", chunk(&line[..line.len() / 2]));
    for (answer, code) in [(whole, 0), (broken, 5), (cut, 5)] {
        let dir = TempDir::new().unwrap();
        let url = answers_once(answer);
        let export = ["cert", "export", "--format", "certificates", "--url", &url];
        let to = ["--output", text(dir.path())];
        run(shared(), &[&export[..], &to].concat()).fails(code);
        let named = dir.path().join("certificates.ndjson").exists();
        assert_eq!(named, code == 0, "a file has its name when it is whole");
    }
}
