//! Lists as they come, and as they should not.

use std::cell::Cell;
use std::io;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::FIELD_OCTETS_MAX;
use super::ListMedia;
use super::ListMedia::Csv;
use super::ListMedia::Ndjson;
use super::RECORD_OCTETS_MAX;
use super::ROWS_MAX;
use super::Row;
use super::RowFault;
use super::RowKey;
use super::read;
use crate::pki::pem;

fn all(media: ListMedia, input: &[u8]) -> Vec<Result<Row, RowFault>> {
    let rows: Vec<_> = read(media, input).collect();
    // However the octets arrive.
    assert_eq!(
        rows,
        read(media, OneByOne(input, false)).collect::<Vec<_>>()
    );
    rows
}

/// Hands out an octet at a time, and is interrupted before each.
struct OneByOne<'a>(&'a [u8], bool);

impl Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// Row and rule of every fault, and whether it ended the reading.
fn faults(media: ListMedia, input: impl AsRef<[u8]>) -> Vec<(u32, &'static str, bool)> {
    all(media, input.as_ref())
        .into_iter()
        .filter_map(Result::err)
        .map(|fault| (fault.row, fault.rule, fault.fatal))
        .collect()
}

/// The common names of a list without faults.
fn common_names(media: ListMedia, input: impl AsRef<[u8]>) -> Vec<String> {
    let rows = all(media, input.as_ref()).into_iter();
    rows.map(|row| row.unwrap().subject["CN"].clone()).collect()
}

fn first(media: ListMedia, input: impl AsRef<[u8]>) -> Row {
    all(media, input.as_ref()).remove(0).unwrap()
}

#[test]
fn a_byte_order_mark_is_taken_off_and_lines_end_as_they_like() {
    for end in ["\n", "\r\n"] {
        for mark in ["", "\u{feff}"] {
            for last in ["", end] {
                let table = format!("{mark}CN,O{end}a,x{end}b,y{last}");
                assert_eq!(common_names(Csv, table), ["a", "b"]);
                let lines = format!(
                    r#"{mark}{{"subject":{{"CN":"a"}}}}{end}{{"subject":{{"CN":"b"}}}}{last}"#
                );
                assert_eq!(common_names(Ndjson, lines), ["a", "b"]);
            }
        }
    }
    let mixed = "CN,O\r\na,x\nb,y\r\n\r\n\nc,z\n";
    assert_eq!(common_names(Csv, mixed), ["a", "b", "c"]);
    let mixed = "\r\n{\"subject\":{\"CN\":\"a\"}}\r\n\n \t\n{\"subject\":{\"CN\":\"b\"}}\n\r\n";
    assert_eq!(common_names(Ndjson, mixed), ["a", "b"]);
    let numbers: Vec<_> = read(Ndjson, mixed.as_bytes())
        .map(|row| row.unwrap().number)
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn quoted_cells_hold_quotes_commas_and_line_ends() {
    let table = "\"CN\",O,OU\r\n\"a \"\"b\"\", c\",\"x\r\ny\nz\",\"\"\r\nd,,\"e\"\n";
    let rows = all(Csv, table.as_bytes());
    let row = rows[0].as_ref().unwrap();
    assert_eq!(row.subject["CN"], "a \"b\", c");
    assert_eq!(row.subject["O"], "x\r\ny\nz");
    // An empty cell is an absent attribute, quoted or not.
    assert_eq!(row.subject.len(), 2);
    let row = rows[1].as_ref().unwrap();
    assert_eq!((row.number, row.subject.len()), (2, 2));
}

#[test]
fn spaces_and_formulas_are_data_and_stay_as_they_are() {
    for value in [
        " a",
        "a ",
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "=HYPERLINK(1)",
        "'a",
    ] {
        assert_eq!(common_names(Csv, format!("CN\n{value}\n")), [value]);
        let line = format!(r#"{{"subject":{{"CN":"{value}"}}}}"#);
        assert_eq!(common_names(Ndjson, line), [value]);
    }
    assert_eq!(common_names(Csv, "CN\n\t=1\n\"\r=1\"\n"), ["\t=1", "\r=1"]);
}

#[test]
fn any_other_encoding_is_refused_and_says_how_to_save_it() {
    let units: Vec<u16> = "\u{feff}CN\na\n".encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for media in [Csv, Ndjson] {
        for input in [&little[..], &big, &little[2..], &big[2..]] {
            let rows = all(media, input);
            let [Err(fault)] = &rows[..] else {
                panic!("{rows:?}");
            };
            assert_eq!((fault.row, fault.rule, fault.fatal), (0, "not-utf8", true));
            assert!(fault.detail.contains("UTF-16") && fault.detail.contains("UTF-8"));
        }
    }
    // Latin-1, in the second row.
    assert_eq!(
        faults(Csv, b"CN\na\nl\xe4mp\nb\n"),
        [(2, "not-utf8", false)]
    );
    let lines = b"{\"subject\":{\"CN\":\"a\"}}\n{\"subject\":{\"CN\":\"l\xe4mp\"}}\n";
    assert_eq!(faults(Ndjson, lines), [(2, "not-utf8", false)]);
}

#[test]
fn a_list_without_rows_is_one_fault() {
    for (media, input) in [
        (Csv, ""),
        (Csv, "\u{feff}"),
        (Csv, "CN\n"),
        (Csv, "CN"),
        (Csv, "\r\n\nCN\n\n\n"),
        (Ndjson, ""),
        (Ndjson, "\u{feff}\r\n \n"),
    ] {
        assert_eq!(faults(media, input), [(0, "no-rows", true)], "{input:?}");
    }
}

#[test]
fn a_row_more_than_a_million_ends_the_reading() {
    for (media, header, row) in [
        (Csv, "CN\n", "a\n"),
        (Ndjson, "", "{\"subject\":{\"CN\":\"a\"}}\n"),
    ] {
        let rows = row.repeat(ROWS_MAX as usize);
        let list = format!("{header}{rows}\n\n");
        let read_all = |list: &str| {
            let mut rows = read(media, list.as_bytes());
            let good = rows.by_ref().take(ROWS_MAX as usize).all(|row| row.is_ok());
            assert!(good);
            let rest: Vec<_> = rows.collect();
            rest
        };
        assert_eq!(read_all(&list), []);
        let rest = read_all(&format!("{list}{row}{row}"));
        let [Err(fault)] = &rest[..] else {
            panic!("{rest:?}");
        };
        assert_eq!((fault.rule, fault.fatal), ("too-many-rows", true));
    }
}

#[test]
fn a_ragged_row_is_named_and_the_reading_goes_on() {
    let table = "CN,O\na,x\nb\nc,z,\nd,y\n";
    assert_eq!(
        faults(Csv, table),
        [(2, "ragged-row", false), (3, "ragged-row", false)]
    );
    let rows = all(Csv, table.as_bytes());
    assert_eq!(rows[3].as_ref().unwrap().number, 4);
    let Err(fault) = &rows[1] else {
        panic!("{rows:?}");
    };
    assert_eq!(
        fault.to_string(),
        "row 2: the row has 1 cells, the header 2"
    );
}

#[test]
fn an_unknown_or_doubled_column_is_named_and_ends_the_reading() {
    for (header, rule, named) in [
        ("CN,device,Name", "column-unknown", "`device`, `Name`"),
        ("cn", "column-unknown", "`cn`"),
        ("CN;O", "column-unknown", "`CN;O`;"),
        ("CN,", "column-unknown", "``"),
        ("CN, O", "column-unknown", "` O`"),
        ("CN,O,CN,O", "column-doubled", "`CN`, `O`"),
        ("csr,CN,csr", "column-doubled", "`csr`"),
        ("csr,public_key", "key-doubled", "not both"),
    ] {
        let rows = all(Csv, format!("{header}\na\nb\n").as_bytes());
        let [Err(fault)] = &rows[..] else {
            panic!("{rows:?}");
        };
        assert_eq!((fault.row, fault.rule, fault.fatal), (0, rule, true));
        assert!(fault.detail.contains(named), "{fault}");
    }
    let many = vec!["x"; 1_000].join(",");
    let rows = all(Csv, many.as_bytes());
    let detail = &rows[0].as_ref().unwrap_err().detail;
    assert!(detail.len() < 1_000 && detail.contains("990 more"));
}

#[test]
fn a_line_with_anything_unknown_or_said_twice_is_no_row() {
    for (line, rule) in [
        (r#"{"subject":{"CN":"a"},"device":"a"}"#, "malformed-row"),
        (r#"{"subject":{"CN":"a","CN":"b"}}"#, "malformed-row"),
        (r#"{"subject":{"CN":"a"},"subject":{}}"#, "malformed-row"),
        (r#"{"subject":{"CN":7}}"#, "malformed-row"),
        (r#"{"subject":{"CN":null}}"#, "malformed-row"),
        (r#"{"subject":["a"]}"#, "malformed-row"),
        (r#"{"subject":{"CN":"a"}} {}"#, "malformed-row"),
        (r#"{"subject":{"CN":"a"}"#, "malformed-row"),
        (r#""a""#, "malformed-row"),
        ("CN,O", "malformed-row"),
        (r#"{"subject":{"cn":"a"}}"#, "attribute-unknown"),
        (
            r#"{"subject":{"CN":"a"},"csr":"MAA=","public_key":"MAA="}"#,
            "key-doubled",
        ),
    ] {
        let good = r#"{"subject":{"CN":"a"}}"#;
        let list = format!("{good}\n{line}\n{good}\n");
        assert_eq!(faults(Ndjson, &list), [(2, rule, false)], "{line}");
        assert_eq!(all(Ndjson, list.as_bytes()).len(), 3);
    }
    let row = first(Ndjson, r#"{"subject":{"CN":"a","O":""}}"#);
    assert_eq!(row.subject.len(), 1);
}

/// Counts what is read of it.
struct Counted<'a, R>(R, &'a Cell<usize>);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.set(self.1.get() + length);
        Ok(length)
    }
}

#[test]
fn a_field_of_10_megabytes_is_refused_before_it_is_read() {
    const LENGTH: u64 = 10_000_000;
    let field = || io::repeat(b'x').take(LENGTH);
    for (media, start, rule) in [
        (Csv, "CN\na\n", "field-too-long"),
        (Csv, "CN\na\n\"", "field-too-long"),
        (Csv, "CN\na\n\"\n\n", "field-too-long"),
        (
            Ndjson,
            "{\"subject\":{\"CN\":\"a\"}}\n{\"subject\":{\"CN\":\"",
            "record-too-long",
        ),
    ] {
        let octets = Cell::new(0);
        let input = Counted(start.as_bytes().chain(field()), &octets);
        let rows: Vec<_> = read(media, input).collect();
        let [Ok(_), Err(fault)] = &rows[..] else {
            panic!("{rows:?}");
        };
        assert_eq!((fault.row, fault.rule, fault.fatal), (2, rule, true));
        assert!(octets.get() < 100_000, "{} octets were read", octets.get());
    }
    let rows: Vec<_> = read(Csv, field()).collect();
    assert_eq!(rows[0].as_ref().unwrap_err().rule, "field-too-long");
}

#[test]
fn the_limits_are_exact() {
    for (more, expected) in [(0, None), (1, Some((1, "field-too-long", true)))] {
        let expected: Vec<_> = expected.into_iter().collect();
        let value = "x".repeat(FIELD_OCTETS_MAX + more);
        assert_eq!(faults(Csv, format!("CN\n{value}\n")), expected);
        assert_eq!(faults(Csv, format!("CN\n\"{value}\"\n")), expected);
        let quotes = value.replacen('x', "\"\"", 3);
        assert_eq!(faults(Csv, format!("CN\n\"{quotes}\"\n")), expected);
        let line = format!(r#"{{"subject":{{"CN":"{value}"}}}}"#);
        assert_eq!(faults(Ndjson, line), expected);
    }
    for (more, expected) in [(0, None), (1, Some((1, "record-too-long", true)))] {
        let expected: Vec<_> = expected.into_iter().collect();
        let cell = "x".repeat(RECORD_OCTETS_MAX / 5);
        let last = "x".repeat(RECORD_OCTETS_MAX - 4 * (cell.len() + 1) + more);
        for end in ["", "\n", "\r\n"] {
            let row = format!("{cell},{cell},{cell},{cell},{last}{end}");
            assert_eq!(faults(Csv, format!("CN,O,OU,L,ST\n{row}")), expected);
            let start = r#"{"subject":{"CN":"a"}}"#;
            let blanks = " ".repeat(RECORD_OCTETS_MAX - start.len() + more);
            let line = format!("{start}{blanks}{end}");
            assert_eq!(faults(Ndjson, line), expected);
        }
    }
}

#[test]
fn quotes_that_are_not_rfc_4180_end_the_reading() {
    for (table, row, rule) in [
        ("CN\na\nb\"c\n", 2, "quote-misplaced"),
        ("CN\n\"a\"b\n", 1, "quote-misplaced"),
        ("CN\n \"a\"\n", 1, "quote-misplaced"),
        ("CN\n\"a\" \n", 1, "quote-misplaced"),
        ("C\"N\na\n", 0, "quote-misplaced"),
        ("CN\na\n\"b\nc\nd\n", 2, "quote-open"),
        ("\"CN\na\n", 0, "quote-open"),
    ] {
        assert_eq!(faults(Csv, table), [(row, rule, true)], "{table:?}");
    }
}

#[test]
fn a_key_is_pem_or_base64_and_comes_out_as_der() {
    // An outline is enough: nobody looks into it here.
    let der = [&[0x30, 0x81, 0x80][..], &[0; 0x80]].concat();
    let base64 = STANDARD.encode(&der);
    for (name, pem, key) in [
        (
            "csr",
            pem::certification_request(&der),
            RowKey::Csr(der.clone()),
        ),
        (
            "public_key",
            pem::public_key(&der),
            RowKey::PublicKey(der.clone()),
        ),
    ] {
        for text in [pem.clone(), pem.replace('\n', "\r\n"), base64.clone()] {
            let row = first(Csv, format!("CN,{name}\na,\"{text}\"\n"));
            assert_eq!(row.key, key);
            let line = serde_json::json!({ "subject": { "CN": "a" }, name: text });
            assert_eq!(first(Ndjson, line.to_string()).key, key);
        }
        let row = first(Csv, format!("{name}\n{base64}\n"));
        assert_eq!((row.key, row.subject.len()), (key, 0));
    }
    assert_eq!(first(Csv, "CN\na\n").key, RowKey::None);
}

#[test]
fn a_key_that_is_missing_or_unreadable_is_a_fault_of_its_row() {
    let certificate = pem::certificate(&[0x30, 0]);
    let certificate = certificate.as_str();
    let two = pem::public_key(&[0x30, 0]).repeat(2);
    for (name, text, rule) in [
        ("csr", "", "key-missing"),
        ("public_key", " ", "key-missing"),
        ("csr", "MA A=", "malformed-csr"),
        ("csr", "MAA", "malformed-csr"),
        ("csr", certificate, "malformed-csr"),
        ("public_key", "MAA=\nMAA=", "malformed-public-key"),
        ("public_key", certificate, "malformed-public-key"),
        ("public_key", &two, "malformed-public-key"),
        ("public_key", "-----BEGIN", "malformed-public-key"),
    ] {
        let table = format!("{name},CN\nMAA=,a\n\"{text}\",b\nMAA=,c\n");
        assert_eq!(faults(Csv, &table), [(2, rule, false)], "{text}");
        let rows = all(Csv, table.as_bytes());
        let fault = rows[1].as_ref().unwrap_err();
        assert_eq!(fault.attribute.as_deref(), Some(name));
        let line = serde_json::json!({ name: text });
        assert_eq!(faults(Ndjson, line.to_string()), [(1, rule, false)]);
    }
}

#[test]
fn all_lines_bring_the_same_kind_of_key() {
    let (none, csr, public_key) = (r"{}", r#"{"csr":"MAA="}"#, r#"{"public_key":"MAA="}"#);
    for (start, other, rule) in [
        (csr, none, "key-missing"),
        (public_key, none, "key-missing"),
        (none, csr, "key-mixed"),
        (csr, public_key, "key-mixed"),
    ] {
        let list = format!("{start}\n{other}\n{start}\n");
        assert_eq!(faults(Ndjson, list), [(2, rule, false)]);
    }
}

#[test]
fn a_private_key_ends_the_reading_and_is_not_repeated() {
    let pkcs8 = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1)
        .and_then(|group| openssl::ec::EcKey::generate(&group))
        .and_then(openssl::pkey::PKey::from_ec_key)
        .unwrap();
    let der = pkcs8.private_key_to_pkcs8().unwrap();
    let pem = String::from_utf8(pkcs8.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    let good = STANDARD.encode(pkcs8.public_key_to_der().unwrap());
    let private = [
        pem.clone(),
        pem.to_ascii_lowercase(),
        STANDARD.encode(&der),
        pem::public_key(&der),
    ];
    let mut lists = Vec::new();
    for text in &private {
        for name in ["csr", "public_key"] {
            lists.push((
                Csv,
                format!("CN,{name}\na,{good}\nb,\"{text}\"\nc,{good}\n"),
            ));
            let row = serde_json::json!({ name: text });
            lists.push((Ndjson, format!("{{\"{name}\":\"{good}\"}}\n{row}\n{{}}\n")));
        }
    }
    // In places that no key has: rows of one cell, a name of its own, two keys.
    lists.push((Csv, format!("CN,csr\na,{good}\n{pem}\n")));
    let row = serde_json::json!({ "private_key": pem });
    lists.push((Ndjson, format!("{{}}\n{row}\n{{}}\n")));
    let row = serde_json::json!({ "csr": good, "public_key": pem });
    lists.push((Ndjson, format!("{{}}\n{row}\n{{}}\n")));
    for (media, list) in lists {
        assert_eq!(
            faults(media, &list),
            [(2, "private-key-submitted", true)],
            "{list}"
        );
        for fault in all(media, list.as_bytes())
            .into_iter()
            .filter_map(Result::err)
        {
            assert!(!format!("{fault:?}").contains(secret));
        }
    }
}

#[test]
fn an_input_that_breaks_off_is_told_from_one_that_ends() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is cut"))
        }
    }
    for (media, start) in [(Csv, "CN\na\nb\n"), (Ndjson, "{}\n{}\n"), (Csv, "")] {
        let rows: Vec<_> = read(media, start.as_bytes().chain(Broken)).collect();
        let fault = rows.last().unwrap().as_ref().unwrap_err();
        assert_eq!((fault.rule, fault.fatal), ("unreadable", true));
        assert!(fault.detail.contains("the line is cut"));
    }
}

proptest! {
    #[test]
    fn what_a_csv_writer_writes_is_read(
        rows in proptest::collection::vec(("[ -~\n\r\té]{1,20}", "[ -~\n\r\té]{0,20}"), 1..20),
        crlf: bool,
    ) {
        let mut settings = csv::WriterBuilder::new();
        if crlf {
            settings.terminator(csv::Terminator::CRLF);
        }
        let mut writer = settings.from_writer(Vec::new());
        writer.write_record(["CN", "O"]).unwrap();
        for (common_name, organization) in &rows {
            writer.write_record([common_name, organization]).unwrap();
        }
        let table = writer.into_inner().unwrap();
        let found = all(Csv, &table);
        prop_assert_eq!(found.len(), rows.len());
        for (found, (common_name, organization)) in found.into_iter().zip(rows) {
            let subject = found.unwrap().subject;
            prop_assert_eq!(&subject["CN"], &common_name);
            prop_assert_eq!(subject.get("O").cloned().unwrap_or_default(), organization);
        }
    }

    #[test]
    fn no_list_is_a_panic(input in "\u{feff}?(CN|csr|O|a|\"|,|\r|\n|\\{|\\}|:){0,40}") {
        for media in [Csv, Ndjson] {
            let rows = all(media, input.as_bytes());
            prop_assert!(!rows.is_empty());
        }
    }
}
