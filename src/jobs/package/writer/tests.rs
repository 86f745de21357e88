//! What is written, and what is left when it cannot be.

use super::*;
use crate::jobs::package::fixture::BATCH;
use crate::jobs::package::fixture::Factory;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

const MAKER: Uuid = Uuid::from_u128(1);

const CHUNK: Option<EnvelopeFormWord> = Some(EnvelopeFormWord::Chunk);
const DEVICE: Option<EnvelopeFormWord> = Some(EnvelopeFormWord::Device);

fn members(package: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(File::open(package).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.mode().unwrap(), 0o644);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap(), 1_795_946_400);
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut octets = Vec::new();
        entry.read_to_end(&mut octets).unwrap();
        (name, String::from_utf8_lossy(&octets).into_owned())
    });
    entries.collect()
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn members_stand_in_their_order_and_the_manifest_names_each() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let chunks = [
        factory.chunk(1, 1..=2, &[], CHUNK),
        factory.chunk(2, 3..=4, &[3], CHUNK),
    ];
    let mut head = factory.head(4, CHUNK);
    head.columns = ["device", "certificate_file", "key_file", "O"]
        .map(str::to_owned)
        .into();
    let package = factory.package(directory.path(), head, &chunks);
    let members = members(&package.path);
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "README.txt",
            "chain/line.pem",
            "certificates/0001/0000001.pem",
            "certificates/0001/0000001.der",
            "certificates/0001/0000002.pem",
            "certificates/0001/0000002.der",
            "keys/0001.p7m",
            "certificates/0002/0000004.pem",
            "certificates/0002/0000004.der",
            "keys/0002.p7m",
            "devices.csv",
            "aws-bulk-registration.ndjson",
            "aws-allow-list.csv",
            "failures.ndjson",
            "manifest.ndjson",
            "manifest.jws",
        ]
    );
    let content = |wanted: &str| {
        let found = members.iter().find(|(name, _)| name == wanted);
        found.unwrap().1.as_str()
    };
    for name in &names[..14] {
        assert_eq!(
            content("manifest.ndjson")
                .matches(&format!("{{\"file\":\"{name}\",\"sha256\":"))
                .count(),
            1,
            "{name}"
        );
    }
    assert_eq!(
        content("devices.csv"),
        "device,certificate_file,key_file,O\r\n\
         lamp-000001,certificates/0001/0000001.pem,keys/0001.p7m,Example\r\n\
         lamp-000002,certificates/0001/0000002.pem,keys/0001.p7m,Example\r\n\
         lamp-000004,certificates/0002/0000004.pem,keys/0002.p7m,Example\r\n"
    );
    assert_eq!(content("aws-bulk-registration.ndjson").lines().count(), 3);
    assert_eq!(content("aws-allow-list.csv").lines().count(), 4);
    assert!(content("failures.ndjson").starts_with(
        "{\"row\":3,\"device\":\"lamp-000003\",\"problem\":\"device-taken\",\"detail\":"
    ));
    assert!(content("README.txt").contains("-in keys/0001.p7m"));

    assert_eq!(files_in(directory.path()), [format!("{BATCH}.tar")]);
    let octets = fs::read(&package.path).unwrap();
    assert_eq!(package.length, octets.len() as u64);
    assert_eq!(package.sha256, sha256(&octets));
    let mode = fs::metadata(&package.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_same_chunks_make_the_same_octets() {
    let factory = Factory::new();
    for form in [None, CHUNK, DEVICE] {
        let chunks = [factory.chunk(1, 1..=3, &[2], form)];
        // The signature is not part of it: ECDSA takes a random number each time.
        let sealed = |maker: u128| {
            let directory = tempfile::tempdir().unwrap();
            let head = factory.head(3, form);
            let mut writer =
                PackageWriter::begin(directory.path(), Uuid::from_u128(maker), head).unwrap();
            writer.chunk(&chunks[0]).unwrap();
            let seal = writer.seal_payload().unwrap();
            (writer.finish("one.and.only").unwrap().sha256, seal)
        };
        assert_eq!(sealed(1), sealed(2), "{form:?}");
    }
}

#[test]
fn keys_of_rows_without_a_certificate_are_not_delivered() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let chunks = [
        factory.chunk(1, 1..=3, &[2], DEVICE),
        factory.chunk(2, 4..=4, &[4], DEVICE),
    ];
    let package = factory.package(directory.path(), factory.head(4, DEVICE), &chunks);
    let members = members(&package.path);
    let keys = members.iter().filter(|(name, _)| name.starts_with("keys/"));
    let keys: Vec<_> = keys.map(|(name, _)| name.as_str()).collect();
    assert_eq!(keys, ["keys/0001/0000001.p7m", "keys/0001/0000003.p7m"]);
}

#[test]
fn a_device_that_aws_would_refuse_is_left_out_of_its_files_and_counted() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let mut chunk = factory.chunk(1, 1..=2, &[], None);
    chunk.devices[0].thing_name = Some("no thing".to_owned());
    let package = factory.package(directory.path(), factory.head(2, None), &[chunk]);
    let members = members(&package.path);
    let lines = |wanted: &str| {
        let (_, text) = members.iter().find(|(name, _)| name == wanted).unwrap();
        text.lines().count()
    };
    assert_eq!(lines("aws-bulk-registration.ndjson"), 1);
    assert_eq!(lines("devices.csv"), 3);
    let (_, manifest) = &members[members.len() - 2];
    assert_eq!(manifest.matches("\"left_out\":1}").count(), 2);
}

#[test]
fn what_others_began_of_a_batch_is_removed_and_nothing_else() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let part = |batch: &str, maker: Uuid| directory.path().join(format!("{batch}.{maker}.part"));
    let (crashed, other) = (part(BATCH, Uuid::from_u128(7)), part("other", MAKER));
    for left in [&crashed, &other] {
        fs::create_dir(left).unwrap();
        fs::write(left.join("package.tar"), "half").unwrap();
    }
    let package = directory.path().join(format!("{BATCH}.tar"));
    fs::write(&package, "whole").unwrap();
    let mut first = PackageWriter::begin(directory.path(), MAKER, factory.head(0, None)).unwrap();
    assert!(!crashed.exists() && part(BATCH, MAKER).exists());

    // Another replica has the lease: the first has lost, and takes nothing of the second's away.
    let heir = Uuid::from_u128(8);
    let second = PackageWriter::begin(directory.path(), heir, factory.head(0, None)).unwrap();
    let lost = match first.seal_payload() {
        Ok(_) => first.finish("seal").map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(lost.is_err());
    drop(first);
    assert_eq!(fs::read(&package).unwrap(), b"whole");
    assert!(part(BATCH, heir).join("package.tar").exists());
    drop(second);
    assert!(!part(BATCH, heir).exists());
    assert_eq!(fs::read(other.join("package.tar")).unwrap(), b"half");
}

#[test]
fn a_full_disk_leaves_nothing() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let chunk = factory.chunk(1, 1..=2, &[], CHUNK);
    for repeated in [1, 200] {
        let head = factory.head(2 * repeated, CHUNK);
        let mut writer = PackageWriter::begin(directory.path(), MAKER, head).unwrap();
        if let Stage::Open(work) = &mut writer.stage {
            work.tar = Tarball::new(full(), 0);
        }
        let mut chunk = chunk.clone();
        let mut write = || -> io::Result<()> {
            for number in 1..=repeated {
                (chunk.number, chunk.first_row) = (number, 2 * number - 1);
                for (row, device) in (chunk.first_row..).zip(&mut chunk.devices) {
                    device.row = row;
                }
                writer.chunk(&chunk)?;
            }
            writer.seal_payload().map(|_| ())
        };
        let written = write();
        // Few octets are still in the buffer; that they cannot be written comes out at the end.
        let error = match written {
            Ok(()) => writer.finish("seal").unwrap_err(),
            Err(error) => {
                assert!(writer.chunk(&chunk).is_err() && writer.seal_payload().is_err());
                assert!(writer.finish("seal").is_err());
                error
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        drop(writer);
        assert!(files_in(directory.path()).is_empty());
    }
}

#[test]
fn it_tells_what_it_takes_of_the_disk() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let mut writer = PackageWriter::begin(directory.path(), MAKER, factory.head(2, CHUNK)).unwrap();
    let mut chunk = factory.chunk(1, 1..=2, &[], CHUNK);
    chunk.envelopes[0] = vec![7; 1 << 20];
    writer.chunk(&chunk).unwrap();
    // Some file systems count a block only once it is on the disk.
    let tar = File::open(writer.part.join("package.tar")).unwrap();
    tar.sync_all().unwrap();
    let length = tar.metadata().unwrap().len();
    let taken = writer.disk_use();
    assert!(length >= 1 << 19 && taken >= length, "{taken} of {length}");
    drop(writer);
    assert!(files_in(directory.path()).is_empty());
}

#[test]
fn what_is_no_package_is_refused_and_leaves_nothing() {
    let factory = Factory::new();
    let directory = tempfile::tempdir().unwrap();
    let begin = |change: fn(&mut PackageHead)| {
        let mut head = factory.head(2, CHUNK);
        change(&mut head);
        PackageWriter::begin(directory.path(), MAKER, head)
    };
    for change in [
        (|head| head.columns = vec!["colour".to_owned()]) as fn(&mut PackageHead),
        |head| {
            head.chains.insert("../line".to_owned(), vec![vec![0]]);
        },
        |head| {
            head.chains.insert("line-2".to_owned(), Vec::new());
        },
        |head| (head.forms.pem, head.forms.der) = (false, false),
    ] {
        assert!(begin(change).is_err());
    }
    for change in [
        (|chunk| chunk.number = 0) as fn(&mut PackageChunk),
        |chunk| chunk.devices.reverse(),
        |chunk| chunk.devices[1].issuer = "other".to_owned(),
        |chunk| chunk.envelopes.clear(),
        |chunk| chunk.envelopes.push(vec![0]),
    ] {
        let mut chunk = factory.chunk(1, 1..=2, &[], CHUNK);
        change(&mut chunk);
        assert!(begin(|_| {}).unwrap().chunk(&chunk).is_err());
    }
    let mut writer = begin(|_| {}).unwrap();
    assert!(writer.seal_payload().is_err(), "two rows are missing");
    assert!(writer.finish("seal").is_err());
    drop(writer);
    assert!(begin(|_| {}).unwrap().finish("seal").is_err());
    assert!(files_in(directory.path()).is_empty());
}
