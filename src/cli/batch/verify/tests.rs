//! A package is what the site sealed, or a line says what is not.

use super::*;
use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::PackageChunk;
use crate::jobs::package::fixture;
use crate::jobs::package::fixture::Factory;
use crate::pki::hex;
use crate::pki::jws;
use crate::pki::report::MANIFEST_SEAL_TYP;
use crate::pki::report::ManifestSeal;
use openssl::sha::sha256;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const CHUNK: Option<EnvelopeFormWord> = Some(EnvelopeFormWord::Chunk);
const DEVICE: Option<EnvelopeFormWord> = Some(EnvelopeFormWord::Device);

type Members = Vec<(String, Vec<u8>)>;
type Change = fn(&mut Members);
type ChangeOfChunk = fn(&Factory, &mut PackageChunk);

fn trust(factory: &Factory, is_opened: bool) -> Trust {
    let pem = factory.report_key.public_key_to_pem().unwrap();
    let kid = ReportKey::from_pem(std::str::from_utf8(&pem).unwrap())
        .unwrap()
        .kid;
    Trust {
        report_key: JwsKey::from_pem(&kid, &pem).unwrap(),
        issuers: vec![factory.issuer.certificate.clone()],
        recipient_key: is_opened.then(|| factory.recipient_key.clone()),
    }
}

/// The summary and the lines of faults.
fn verified(path: &Path, trust: &Trust) -> (Option<Summary>, String) {
    let mut lines = Vec::new();
    let mut faults = Faults::new(&mut lines);
    let package = PackageFile::open(path).unwrap();
    let summary = check(&package, trust, &mut faults).unwrap();
    let count = faults.finish();
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.lines().count() as u64, count, "{lines}");
    (summary, lines)
}

fn read(path: &Path) -> Members {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut octets = Vec::new();
        entry.read_to_end(&mut octets).unwrap();
        (name, octets)
    });
    entries.collect()
}

fn write(path: &Path, members: &Members) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, octets) in members {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(octets.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, &octets[..]).unwrap();
    }
    builder.finish().unwrap();
}

fn position(members: &Members, name: &str) -> usize {
    let found = members.iter().position(|(member, _)| member == name);
    found.unwrap()
}

fn content<'a>(members: &'a mut Members, name: &str) -> &'a mut Vec<u8> {
    let at = position(members, name);
    &mut members[at].1
}

/// Says of the manifest as it is now that it is good.
fn reseal(factory: &Factory, members: &mut Members, change: fn(&mut ManifestSeal)) {
    let seal = content(members, "manifest.jws").clone();
    let keys = [trust(factory, false).report_key];
    let seal = jws::verify(
        std::str::from_utf8(&seal).unwrap(),
        MANIFEST_SEAL_TYP,
        &keys,
    )
    .unwrap();
    let mut seal: ManifestSeal = serde_json::from_slice(&seal.payload).unwrap();
    seal.manifest_sha256 = hex(&sha256(content(members, "manifest.ndjson")));
    change(&mut seal);
    *content(members, "manifest.jws") = factory.seal(&seal).into_bytes();
}

fn replace(members: &mut Members, name: &str, from: &str, to: &str) {
    let text = String::from_utf8(content(members, name).clone()).unwrap();
    assert!(text.contains(from), "{text}");
    *content(members, name) = text.replacen(from, to, 1).into_bytes();
}

#[test]
fn a_package_as_it_was_written_has_no_fault() {
    let factory = Factory::new();
    for form in [None, CHUNK, DEVICE] {
        let directory = tempfile::tempdir().unwrap();
        let chunks = [
            factory.chunk(1, 1..=3, &[2], form),
            factory.chunk(2, 4..=5, &[4, 5], form),
            factory.chunk(3, 6..=7, &[6], form),
        ];
        let package = factory.package(directory.path(), factory.head(7, form), &chunks);
        let (summary, lines) = verified(&package.path, &trust(&factory, true));
        assert_eq!(lines, "", "{form:?}");
        let summary = summary.unwrap();
        assert_eq!(
            (summary.count, summary.devices, summary.failures),
            (7, 3, 4)
        );
        assert_eq!(summary.certificates, 3);
        assert_eq!(summary.keys, Some(if form.is_none() { 0 } else { 3 }));
        let (summary, lines) = verified(&package.path, &trust(&factory, false));
        assert_eq!((lines.as_str(), summary.unwrap().keys), ("", None));
    }
}

#[test]
fn whatever_is_changed_is_named() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let chunks = [
        factory.chunk(1, 1..=3, &[], CHUNK),
        factory.chunk(2, 4..=5, &[5], CHUNK),
    ];
    let package = factory.package(directory.path(), factory.head(5, CHUNK), &chunks);
    let whole = read(&package.path);
    let changes: [(&str, Change); 14] = [
        ("certificates/0001/0000002.pem: its SHA-256", |members| {
            let other = content(members, "certificates/0001/0000003.pem").clone();
            *content(members, "certificates/0001/0000002.pem") = other;
        }),
        ("certificates/0001/0000002.der: its SHA-256", |members| {
            content(members, "certificates/0001/0000002.der")[60] ^= 1;
        }),
        (
            "certificates/0001/0000001.pem: stands twice, or not in its place",
            |members| {
                let first = position(members, "certificates/0001/0000001.pem");
                let last = position(members, "certificates/0001/0000003.pem");
                members.swap(first, last);
            },
        ),
        ("certificates/0001/0000002.pem: is missing", |members| {
            members.remove(position(members, "certificates/0001/0000002.pem"));
        }),
        ("keys/0001.p7m: is missing", |members| {
            members.remove(position(members, "keys/0001.p7m"));
        }),
        ("failures.ndjson: is missing", |members| {
            members.remove(position(members, "failures.ndjson"));
        }),
        ("manifest.jws: is missing", |members| {
            members.remove(position(members, "manifest.jws"));
        }),
        ("certificates/0001/0000009.pem: is not named", |members| {
            let at = position(members, "keys/0001.p7m");
            members.insert(at, ("certificates/0001/0000009.pem".to_owned(), Vec::new()));
        }),
        ("setup.exe: no package has such a member", |members| {
            members.push(("setup.exe".to_owned(), Vec::new()));
        }),
        ("README.txt: stands twice", |members| {
            let first = members[0].clone();
            members.insert(1, first);
        }),
        ("manifest.ndjson: stands twice", |members| {
            let at = position(members, "manifest.ndjson");
            members.insert(at, members[at].clone());
        }),
        (
            "manifest.ndjson: it is not the manifest that was sealed",
            |members| {
                replace(members, "manifest.ndjson", "lamp-000001", "lamp-000009");
            },
        ),
        ("devices.csv: its SHA-256", |members| {
            replace(members, "devices.csv", "lamp-000001", "lamp-000002");
        }),
        ("manifest.jws: its signature does not verify", |members| {
            let seal = content(members, "manifest.jws");
            let last = seal.len() - 10;
            seal[last] = if seal[last] == b'A' { b'B' } else { b'A' };
        }),
    ];
    let path = directory.path().join("changed.tar");
    for (expected, change) in changes {
        let mut members = whole.clone();
        change(&mut members);
        write(&path, &members);
        let (_, lines) = verified(&path, &trust(&factory, true));
        assert!(lines.contains(expected), "{expected}: {lines}");
    }
    write(&path, &whole);
    assert_eq!(verified(&path, &trust(&factory, true)).1, "");

    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"more").unwrap();
    let (_, lines) = verified(&path, &trust(&factory, false));
    assert_eq!(lines, "the tar: it does not end after its last member\n");
    let length = file.metadata().unwrap().len();
    for cut in [1024 + 4, 4096, 9000] {
        file.set_len(length - cut).unwrap();
        assert_ne!(verified(&path, &trust(&factory, true)).1, "", "{cut}");
    }
}

#[test]
fn other_keys_and_other_issuers_are_refused() {
    let (factory, other) = (Factory::new(), Factory::new());
    let directory = tempfile::tempdir().unwrap();
    let chunks = [factory.chunk(1, 1..=1, &[], DEVICE)];
    let package = factory.package(directory.path(), factory.head(1, DEVICE), &chunks);
    let lines = |change: &dyn Fn(&mut Trust)| {
        let mut trust = trust(&factory, true);
        change(&mut trust);
        verified(&package.path, &trust).1
    };
    let foreign = |own: fn(Trust) -> JwsKey| own(trust(&other, false));
    let stranger = lines(&|trust| trust.report_key = foreign(|other| other.report_key));
    assert_eq!(
        stranger,
        "manifest.jws: the key it names is not trusted here\n"
    );
    let impostor = lines(&|trust| {
        trust.report_key = JwsKey::from_pem(
            &trust.report_key.kid,
            &other.report_key.public_key_to_pem().unwrap(),
        )
        .unwrap();
    });
    assert_eq!(impostor, "manifest.jws: its signature does not verify\n");
    let issuer = lines(&|trust| trust.issuers = vec![other.issuer.certificate.clone()]);
    assert!(issuer.contains("chain/line.pem: "), "{issuer}");
    assert!(
        issuer.contains("certificates/0001/0000001.pem: its issuer"),
        "{issuer}"
    );
    let recipient = lines(&|trust| trust.recipient_key = Some(fixture::ec_key()));
    assert_eq!(
        recipient,
        "keys/0001/0000001.p7m: the recipient's key does not open it\n"
    );
}

/// What only the site itself could get wrong, since it holds under its seal.
#[test]
fn a_seal_makes_nothing_right() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let changes: [(&str, ChangeOfChunk); 11] = [
        (
            "0000001.pem: its serial number is not that of row 1",
            |_, chunk| {
                chunk.devices[0].serial_number = "01".repeat(16);
            },
        ),
        (
            "0000001.pem: its public key is not that of row 1",
            |_, chunk| {
                chunk.devices[0].spki_sha256 = [7; 32];
            },
        ),
        (
            "0000001.pem: its subject is not that of row 1",
            |_, chunk| {
                let subject = &mut chunk.devices[0].subject;
                subject.insert("OU".to_owned(), "Lamps".to_owned());
            },
        ),
        ("0000001.pem: its fingerprint is not", |_, chunk| {
            chunk.devices[0].fingerprint_sha256 = [7; 32];
        }),
        ("0000002.pem: its signature does not verify", |_, chunk| {
            let last = chunk.devices[1].der.len() - 1;
            chunk.devices[1].der[last] ^= 1;
            chunk.devices[1].fingerprint_sha256 = sha256(&chunk.devices[1].der);
        }),
        ("0000002.pem: its signature does not verify", |_, chunk| {
            // Another CA of the same name.
            let impostor = Factory::new();
            chunk.devices[1] = impostor.device(2, &fixture::ec_key());
        }),
        ("row 2: its device is that of row 1, too", |_, chunk| {
            chunk.devices[1].device = fixture::name(1);
        }),
        (
            "row 2: its serial number is that of row 1, too",
            |factory, chunk| {
                let mut twin = factory.device(1, &fixture::ec_key());
                twin.row = 2;
                chunk.devices[1] = twin;
            },
        ),
        (
            "row 2: its public key is that of row 1, too",
            |factory, chunk| {
                let key = fixture::ec_key();
                chunk.devices = vec![factory.device(1, &key), factory.device(2, &key)];
            },
        ),
        (
            "keys/0001.p7m: key of row 2, lamp-000002: it is not the key",
            |factory, chunk| {
                chunk.devices[1] = factory.device(2, &fixture::ec_key());
            },
        ),
        (
            "keys/0001.p7m: the key of row 2, lamp-000002, is missing",
            |factory, chunk| {
                let key = fixture::ec_key();
                chunk.devices[0] = factory.device(1, &key);
                chunk.envelopes = vec![factory.envelope(&[(1, key)])];
            },
        ),
    ];
    for (expected, change) in changes {
        let mut chunk = factory.chunk(1, 1..=2, &[], CHUNK);
        change(&factory, &mut chunk);
        let package = factory.package(directory.path(), factory.head(2, CHUNK), &[chunk]);
        let (summary, lines) = verified(&package.path, &trust(&factory, true));
        assert!(lines.contains(expected), "{expected}: {lines}");
        assert!(summary.is_some());
    }
}

/// As when a batch is cancelled while its second chunk was taken and not begun.
#[test]
fn a_package_without_a_chunk_in_its_middle_is_whole() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let chunks = [
        factory.chunk(1, 1..=2, &[2], CHUNK),
        factory.chunk(3, 5..=6, &[], CHUNK),
    ];
    let package = factory.package(directory.path(), factory.head(4, CHUNK), &chunks);
    let (summary, lines) = verified(&package.path, &trust(&factory, true));
    assert_eq!(lines, "");
    let summary = summary.unwrap();
    assert_eq!(
        (summary.count, summary.devices, summary.failures),
        (4, 3, 1)
    );
}

#[test]
fn a_sealed_manifest_is_read_strictly() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let chunks = [factory.chunk(1, 1..=3, &[3], CHUNK)];
    let package = factory.package(directory.path(), factory.head(3, CHUNK), &chunks);
    let whole = read(&package.path);
    let path = directory.path().join("changed.tar");
    let lines = |from: &str, to: &str, change: fn(&mut ManifestSeal)| {
        let mut members = whole.clone();
        replace(&mut members, "manifest.ndjson", from, to);
        reseal(&factory, &mut members, change);
        write(&path, &members);
        verified(&path, &trust(&factory, true)).1
    };
    assert_eq!(lines("", "", |_| {}), "");
    for (from, to, expected) in [
        (
            "\"count\":3",
            "\"count\":4",
            "2 devices and 1 failures are not 4 rows",
        ),
        (
            "\"count\":3",
            "\"count\":2",
            "2 devices and 1 failures are not 2 rows",
        ),
        ("\"site-1\"", "\"site-2\"", "of another batch"),
        (
            "\"der\":true",
            "\"der\":false",
            "row 1: its certificate's forms",
        ),
        (
            "{\"row\":2,",
            "{\"row\":3,",
            "certificates/0001/0000002.pem is no name",
        ),
        (
            "\"chunk\"",
            "\"device\"",
            "row 1: its key's envelope is not the one",
        ),
        ("{\"row\":2,", "{\"rows\":2,", "1 of its lines are neither"),
        (
            "certificates/0001/0000002.pem",
            "certificates/0002/0000002.pem",
            "manifest.ndjson: ",
        ),
        (
            "{\"file\":\"keys/0001.p7m\"",
            "{\"file\":\"keys/0002.p7m\"",
            "row 1: its key's envelope is not among",
        ),
        (
            "{\"file\":\"README.txt\"",
            "{\"file\":\"/etc/passwd\"",
            "/etc/passwd is no name",
        ),
    ] {
        let lines = lines(from, to, |_| {});
        assert!(lines.contains(expected), "{from} {to}: {lines}");
    }
    let changes: [fn(&mut ManifestSeal); 2] = [|seal| seal.devices = 3, |seal| seal.files = 3];
    for change in changes {
        let lines = lines("", "", change);
        assert!(lines.contains("manifest.jws: it counts other"), "{lines}");
    }
}
