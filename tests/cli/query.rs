//! `audit query`: the whole ledger, or what of it matches, as a table, CSV, NDJSON or Parquet.

use std::process::Command;

use openssl::x509::X509;
use serde_json::Value;
use tempfile::TempDir;

use crate::export::answers_once;
use crate::finish;
use crate::run;
use crate::support::device::Device;
use crate::support::world::{free_port, issued, shared};
use crate::text;

/// Certificates of a new work order, oldest first, and the filter that finds them.
fn order(count: usize) -> (Vec<Value>, String) {
    let name = format!("WO-{}", Device::p256().name);
    shared().order(&name, "lightbulb");
    let bodies = (0..count).map(|_| {
        let mut request = Device::p256().request("lightbulb");
        request["order"] = name.clone().into();
        issued(&shared().client("station-01").issue(&request))
    });
    (bodies.collect(), format!("order={name}"))
}

#[test]
fn matches_come_in_three_forms_by_the_auditors_own_certificate() {
    let (mut bodies, filter) = order(3);
    bodies.reverse();
    let query = ["audit", "query", "--filter", &filter];
    // No terminal: lines, with or without `--json`.
    for more in [&[][..], &["--json"], &["--format", "ndjson"]] {
        let done = run(shared(), &[&query[..], more].concat());
        let lines = done.ok().says("3 certificates\n").text();
        for (line, body) in lines.lines().zip(&bodies) {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["certificate"], body["certificate"]);
            assert_eq!(line["log_index"], body["log_index"]);
        }
        assert_eq!(lines.lines().count(), 3);
    }
    let csv = run(shared(), &[&query[..], &["--format", "csv"]].concat());
    let path = format!("/v1/certificates?{filter}");
    let rest = shared().client("auditor").get_as(&path, "text/csv");
    assert_eq!(csv.ok().says("3 certificates\n").text(), rest.text());

    let table = run(shared(), &[&query[..], &["--format", "table"]].concat());
    let table = table.ok().says("3 certificates\n").text();
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = "SERIAL NUMBER DEVICE STATUS ISSUED AT PROFILE STATION ORDER";
    assert_eq!(lines.next().unwrap().join(" "), head);
    let cells = |body: &Value| {
        let names = [
            "serial_number",
            "device",
            "status",
            "issued_at",
            "profile",
            "station",
            "order",
        ];
        names
            .map(|name| body[name].as_str().unwrap().to_owned())
            .to_vec()
    };
    let expected: Vec<Vec<String>> = bodies.iter().map(cells).collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

#[test]
fn a_parquet_file_is_what_rest_sends_and_nothing_for_a_terminal() {
    let (_, filter) = order(3);
    let path = format!("/v1/certificates?{filter}");
    let auditor = shared().client("auditor");
    let rest = auditor.get_as(&path, "application/vnd.apache.parquet");
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ledger.parquet");
    let query = ["audit", "query", "--format", "parquet", "--filter", &filter];
    let piped = run(shared(), &query).ok().says("3 certificates\n");
    assert_eq!(piped.out, rest.body);
    let saved = run(shared(), &[&query[..], &["--output", text(&file)]].concat());
    saved.silent().ok().says("3 certificates\n");
    assert_eq!(std::fs::read(&file).unwrap(), rest.body);

    let program = shared().program(&query);
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]);
    terminal.envs(
        program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let seen = finish(terminal, b"").fails(2).text();
    assert!(
        seen.contains("--output") && !seen.contains("PAR1"),
        "{seen}"
    );
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let (bodies, filter) = order(2);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ledger.ndjson");
    let query = ["audit", "query", "--output", text(&file), "--filter"];
    let save = |filter: &str| run(shared(), &[&query[..], &[filter]].concat()).silent();
    save(&filter).ok().says("2 certificates\n");
    let saved = std::fs::read_to_string(&file).unwrap();
    let first: Value = serde_json::from_str(saved.lines().next().unwrap()).unwrap();
    assert_eq!(first["serial_number"], bodies[1]["serial_number"]);
    let pem = first["certificate"].as_str().unwrap();
    X509::from_pem(pem.as_bytes()).unwrap();

    save("colour=red").fails(4).says("invalid-parameter");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), saved);
    save("cn=nonesuch").ok().says("0 certificates\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a part was left"
    );
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_the_whole() {
    let (bodies, _) = order(1);
    let line = format!("{}\n", bodies[0]);
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let whole = format!("{head}{}{}0\r\n\r\n", chunk(&line[..9]), chunk(&line[9..]));
    let broken = format!("{head}{}", chunk(&line));
    let cut = format!("{head}{}0\r\n\r\n", chunk(&line[..line.len() / 2]));
    for (answer, code) in [(whole, 0), (broken, 5), (cut, 5)] {
        for format in ["table", "csv", "ndjson", "parquet"] {
            // Lines are no whole Parquet file, nor a part of one.
            let code = if format == "parquet" { 5 } else { code };
            let dir = TempDir::new().unwrap();
            let file = dir.path().join("ledger");
            let url = answers_once(answer.clone());
            let query = ["audit", "query", "--format", format, "--url", &url];
            let to = ["--output", text(&file)];
            run(shared(), &[&query[..], &to].concat())
                .silent()
                .fails(code);
            let left = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!((file.exists(), left), (code == 0, usize::from(code == 0)));
        }
    }
}

#[test]
fn what_goes_wrong_has_its_exit_code() {
    let query = |more: &[&str]| run(shared(), &[&["audit", "query"], more].concat()).silent();
    query(&["--filter", "limit=5"]).fails(2).says("`limit`");
    query(&["--filter", "cursor=x"]).fails(2).says("`cursor`");
    query(&["--filter", "red"]).fails(2).says("NAME=VALUE");
    query(&["--format", "xml"]).fails(2);
    query(&["--filter", "status=lost"]).fails(4).says("status");
    let nowhere = format!("https://127.0.0.1:{}", free_port());
    query(&["--url", &nowhere]).fails(5);
    let administrator = shared().dir.join("clients/administrator.pem");
    query(&["--client-certificate", text(&administrator)])
        .fails(4)
        .says("forbidden");
    let lost = [
        "--output",
        "/nonesuch/ledger.csv",
        "--filter",
        "cn=nonesuch",
    ];
    query(&lost).fails(1).says("/nonesuch/ledger.csv");
}
