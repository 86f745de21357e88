//! A log that a witness sees grow, and others that it does not co-sign.

use super::*;
use crate::pki::merkle::Nodes;
use crate::pki::merkle::consistency_proof;
use crate::pki::merkle::leaf_hash;
use crate::pki::merkle::root_of;
use crate::pki::note::CheckpointToBeSigned;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sign::Signer;
use std::convert::Infallible;

const ORIGIN: &str = "dev.example/log";

/// A log with a software key; `salt` makes another history.
struct Log {
    key: PKey<Private>,
    salt: u8,
}

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        let width = 1_usize << level;
        let first = usize::try_from(index).unwrap() * width;
        Ok(root_of(&self.0[first..first + width]))
    }
}

impl Log {
    fn verifier(&self) -> VerifierKey {
        VerifierKey::from_pem(ORIGIN, &self.key.public_key_to_pem().unwrap()).unwrap()
    }

    /// Leaves from the tenth on depend on the history.
    fn leaves(&self, size: u64) -> Leaves {
        let salt = |index: u64| if index < 10 { 0 } else { self.salt };
        let leaf = |index: u64| leaf_hash(&[&index.to_be_bytes()[..], &[salt(index)]].concat());
        Leaves((0..size).map(leaf).collect())
    }

    fn note(&self, size: u64) -> String {
        let unsigned = CheckpointToBeSigned::build(&Checkpoint {
            origin: ORIGIN.to_owned(),
            size,
            root: root_of(&self.leaves(size).0),
            extensions: Vec::new(),
        });
        let mut signer = Signer::new_without_digest(&self.key).unwrap();
        let signature = signer.sign_oneshot_to_vec(unsigned.to_be_signed()).unwrap();
        unsigned
            .seal(signature, &self.verifier())
            .unwrap()
            .to_string()
    }

    fn request(&self, old: u64, size: u64) -> String {
        let proof = consistency_proof(&self.leaves(size), old, size).unwrap();
        let lines: String = proof
            .iter()
            .map(|hash| STANDARD.encode(hash) + "\n")
            .collect();
        format!("old {old}\n{lines}\n{}", self.note(size))
    }
}

fn world() -> (Log, Witness, tempfile::TempDir) {
    let log = Log {
        key: PKey::generate_ed25519().unwrap(),
        salt: 0,
    };
    let directory = tempfile::tempdir().unwrap();
    let witness = witness(&log, &directory, &PKey::generate_ed25519().unwrap());
    (log, witness, directory)
}

fn witness(log: &Log, directory: &tempfile::TempDir, key: &PKey<Private>) -> Witness {
    let cosigner =
        Cosigner::from_pem("w.example", &key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    Witness::new(cosigner, vec![log.verifier()], directory.path().to_owned())
}

#[test]
fn a_log_that_grows_is_co_signed_each_time_with_the_time() {
    let (log, witness, _directory) = world();
    let mut old = 0;
    for (seconds, size) in (1_000..).zip([1, 2, 9, 10, 11, 255, 256, 600, 600]) {
        let line = witness
            .add_checkpoint(&log.request(old, size), seconds)
            .unwrap();
        let note = Note::parse(&format!("{}{line}", log.note(size))).unwrap();
        let verified = witness.cosigner.verifier_key().verify(&note).unwrap();
        assert_eq!(verified.timestamp, Some(seconds));
        old = size;
    }
}

#[test]
fn another_history_is_never_co_signed_also_after_a_restart() {
    let (log, first, directory) = world();
    first.add_checkpoint(&log.request(0, 20), 1).unwrap();
    let fork = Log {
        key: log.key.clone(),
        salt: 1,
    };
    let restarted = witness(&log, &directory, &PKey::generate_ed25519().unwrap());
    for witness in [&first, &restarted] {
        let refused = |body: String| witness.add_checkpoint(&body, 2).unwrap_err();
        assert!(matches!(
            refused(fork.request(20, 30)),
            Refusal::Inconsistent(20)
        ));
        assert!(matches!(
            refused(fork.request(20, 20)),
            Refusal::AnotherRoot(20)
        ));
        assert!(matches!(
            refused(fork.request(10, 30)),
            Refusal::Conflict(20)
        ));
        assert!(matches!(
            refused(fork.request(0, 30)),
            Refusal::Conflict(20)
        ));
        assert!(matches!(refused(log.request(0, 10)), Refusal::Conflict(20)));
    }
    first.add_checkpoint(&log.request(20, 30), 3).unwrap();
}

#[test]
fn what_is_not_exactly_a_request_of_a_known_log_is_refused() {
    let (log, witness, _directory) = world();
    let refused = |body: &str| witness.add_checkpoint(body, 1).unwrap_err();
    let good = log.request(0, 20);
    for bad in [
        String::new(),
        "old 0\n\n".to_owned(),
        good.replace("old 0", "old 00"),
        good.replace("old 0", "old +0"),
        good.replace("old 0", "old x"),
        good.replace("old 0", "new 0"),
        good.replace("old 0\n", "old 0\nAAAA\n"),
        good.replace("old 0", "old 21"),
        good.replace("\n20\n", "\n020\n"),
    ] {
        assert!(matches!(refused(&bad), Refusal::Malformed(_)), "{bad}");
    }
    let other = Log {
        key: PKey::generate_ed25519().unwrap(),
        salt: 0,
    };
    assert!(matches!(
        refused(&other.request(0, 20)),
        Refusal::Unsigned(_)
    ));
    assert!(matches!(
        refused(&good.replace("\n20\n", "\n21\n")),
        Refusal::Unsigned(_)
    ));
    assert!(matches!(
        refused(&good.replace(ORIGIN, "other.example")),
        Refusal::UnknownLog
    ));
    let proof = STANDARD.encode([7; 32]) + "\n";
    let longer = good.replace("old 0\n", &format!("old 0\n{proof}"));
    assert!(matches!(refused(&longer), Refusal::Inconsistent(0)));
    assert!(matches!(
        refused(&good.replace("old 0\n", &format!("old 0\n{}", proof.repeat(64)))),
        Refusal::Malformed(_)
    ));
    witness.add_checkpoint(&good, 1).unwrap();
}
