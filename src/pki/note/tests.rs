//! The examples of the specifications, and everything that may be wrong with a note.

use super::*;
use proptest::prelude::*;

/// The example of tlog-cosignature.
const EXAMPLE: &str = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
";

/// The example of signed-note.
const POEM: &str = "Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
";

#[test]
fn the_examples_of_the_specifications_are_read_and_written_back() {
    let note = Note::parse(EXAMPLE).unwrap();
    assert_eq!(note.to_string(), EXAMPLE);
    assert_eq!(note.signatures.len(), 2);
    assert_eq!(note.signatures[0].key_id, [0x03, 0x3d, 0xe0, 0xae]);
    assert_eq!(note.signatures[1].name, "witness.example.com/w1");
    assert_eq!(note.signatures[1].key_id, [0x8d, 0x66, 0xcf, 0x3f]);
    // As the specification dissects it: `time 1679315147`.
    assert_eq!(
        note.signatures[1].signature[..8],
        1_679_315_147_u64.to_be_bytes()
    );
    let checkpoint = Checkpoint::parse(&note.text).unwrap();
    assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size, 20_852_163);
    assert_eq!(checkpoint.root[..2], [0x0a, 0xc5]);
    assert_eq!(checkpoint.text(), note.text);

    let poem = Note::parse(POEM).unwrap();
    assert!(poem.text.ends_with("sole:\n\ned è subito sera.\n"));
    assert_eq!(poem.to_string(), POEM);
}

#[test]
fn a_checkpoint_has_one_spelling() {
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    let parsed = Checkpoint::parse(&format!("log\n0\n{root}\none\n two\n")).unwrap();
    assert_eq!(parsed.extensions, ["one", " two"]);
    for good in [
        format!("log\n0\n{root}\n"),
        format!("a log\n18446744073709551615\n{root}\n"),
        format!("log\n1\n{root}\nextension\n"),
    ] {
        assert_eq!(Checkpoint::parse(&good).unwrap().text(), good);
    }
    for bad in [
        String::new(),
        "\n".to_owned(),
        "log\n1\n".to_owned(),
        format!("log\n1\n{root}"),
        format!("log\n1\n{root}\n\n"),
        format!("log\n1\n{root}\none\n\ntwo\n"),
        format!("\n1\n{root}\n"),
        format!("log\n01\n{root}\n"),
        format!("log\n00\n{root}\n"),
        format!("log\n+1\n{root}\n"),
        format!("log\n-1\n{root}\n"),
        format!("log\n 1\n{root}\n"),
        format!("log\n1 \n{root}\n"),
        format!("log\n\n{root}\n"),
        format!("log\n18446744073709551616\n{root}\n"),
        format!("log\n١\n{root}\n"),
        format!("log\r\n1\r\n{root}\r\n"),
        format!("lo\tg\n1\n{root}\n"),
        format!("log\n1\n{}\n", root.trim_end_matches('=')),
        format!("log\n1\n{root}=\n"),
        format!("log\n1\n{}\n", root.replace("q2I=", "q2J=")),
        format!("log\n1\n{}\n", root.replace('/', "_")),
        format!("log\n1\n{}\n", STANDARD.encode([0; 31])),
        format!("log\n1\n{}\n", STANDARD.encode([0; 33])),
        format!("log\n1\n\n{root}\n"),
    ] {
        let refused = Checkpoint::parse(&bad).unwrap_err();
        assert!(matches!(refused, NoteFault::Malformed(_)), "{bad:?}");
    }
}

#[test]
fn what_is_not_exactly_a_note_is_malformed() {
    let line = "— a AAAAAAA=\n";
    assert_eq!(
        Note::parse(&format!("text\n\n{line}")).unwrap().text,
        "text\n"
    );
    assert_eq!(Note::parse(&format!("\n\n{line}")).unwrap().text, "\n");
    assert_eq!(
        Note::parse(&format!("text\n\n\n{line}")).unwrap().text,
        "text\n\n"
    );
    assert!(Note::parse(&format!("text\n\n{}", line.repeat(64))).is_ok());
    let long = |octets| format!("{}\n\n{line}", "x".repeat(octets - line.len() - 2));
    assert!(Note::parse(&long(1_000_000)).is_ok());
    for bad in [
        String::new(),
        "text\n".to_owned(),
        "text\n\n".to_owned(),
        "text\n\n\n".to_owned(),
        line.to_owned(),
        format!("\n{line}"),
        format!("text\n{line}"),
        format!("text\n\n{}", line.trim_end()),
        format!("text\n\n{line}\n"),
        format!("text\n\n{line}more\n"),
        format!("text\n\n{line}\n{line}\n"),
        format!("text\r\n\r\n{line}"),
        format!("te\u{0}xt\n\n{line}"),
        format!("te\txt\n\n{line}"),
        format!("text\n\n{}", line.repeat(65)),
        "text\n\n- a AAAAAAA=\n".to_owned(),
        "text\n\n— a AAAAAA==\n".to_owned(),
        "text\n\n— a AAAAAAA\n".to_owned(),
        "text\n\n— a AAAAAAB=\n".to_owned(),
        "text\n\n— a  AAAAAAA=\n".to_owned(),
        "text\n\n— a AAAAAAA= \n".to_owned(),
        "text\n\n—  AAAAAAA=\n".to_owned(),
        "text\n\n— a+b AAAAAAA=\n".to_owned(),
        "text\n\n— a\u{a0}b AAAAAAA=\n".to_owned(),
        "text\n\n— a\n".to_owned(),
        "text\n\n— a \n".to_owned(),
        "text\n\n—a AAAAAAA=\n".to_owned(),
        " text\n\n — a AAAAAAA=\n".to_owned(),
        long(1_000_001),
    ] {
        let refused = Note::parse(&bad).unwrap_err();
        assert!(matches!(refused, NoteFault::Malformed(_)), "{bad:?}");
    }
}

/// Notes that are nearly good: pieces of one in any order.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "text",
        "\n",
        "\n\n",
        "— ",
        "a",
        " ",
        "AAAAAAA=",
        "— a AAAAAAA=\n",
        "+",
        "\t",
        "\u{a0}",
    ]);
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn an_independent_implementation_takes_the_same_notes(text in nearly(), good: bool) {
        let text = if good { format!("{text}\n\n— b AAAAAAA=\n") } else { text };
        let (ours, theirs) = (Note::parse(&text), signed_note::Note::from_bytes(text.as_bytes()));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.text.as_bytes(), theirs.text());
            let ours = ours.to_string();
            prop_assert_eq!(&ours, &text);
            prop_assert_eq!(ours.as_bytes(), theirs.to_bytes());
        }
    }

    #[test]
    fn a_checkpoint_is_read_as_what_wrote_it(
        origin in "[^\\x00-\\x1f]{1,20}",
        size in any::<u64>(),
        root in any::<[u8; 32]>(),
        extensions in prop::collection::vec("[^\\x00-\\x1f]{1,9}", 0..3),
    ) {
        let checkpoint = Checkpoint { origin, size, root, extensions };
        prop_assert_eq!(Checkpoint::parse(&checkpoint.text()), Ok(checkpoint));
    }
}
