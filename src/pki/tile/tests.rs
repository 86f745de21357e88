//! The specification's examples, every spelling that is none, and proofs out of tiles.

use super::*;
use crate::pki::merkle;
use proptest::prelude::*;

fn hashes(level: u8, index: u64, width: u16) -> TileId {
    TileId {
        level: TileLevel::Hashes(level),
        index,
        width,
    }
}

fn entries(index: u64, width: u16) -> TileId {
    TileId {
        level: TileLevel::Entries,
        index,
        width,
    }
}

fn leaf(index: u64) -> Hash {
    merkle::leaf_hash(&index.to_be_bytes())
}

/// All tiles of the tree of these leaves, filled as the specification says.
fn filled(size: u64) -> TileSet {
    let mut set = TileSet::default();
    for tile in tiles_of(size) {
        let TileLevel::Hashes(level) = tile.level else {
            panic!("{tile:?}");
        };
        let first = tile.index * WIDTH;
        let hash = |at: u64| match level {
            0 => leaf(at),
            _ => root_of(&set.0[&(level - 1, at)]),
        };
        let hashes = (first..first + u64::from(tile.width)).map(hash).collect();
        set.insert(level, tile.index, hashes);
    }
    set
}

#[test]
fn the_paths_are_those_of_the_specification() {
    for (tile, path) in [
        (hashes(0, 1_234_067, 112), "tile/0/x001/x234/067.p/112"),
        (hashes(0, 1_234_067, 256), "tile/0/x001/x234/067"),
        (hashes(1, 0, 1), "tile/1/000.p/1"),
        (hashes(63, 999, 255), "tile/63/999.p/255"),
        (hashes(7, 1000, 256), "tile/7/x001/000"),
        (
            hashes(0, u64::MAX, 256),
            "tile/0/x018/x446/x744/x073/x709/x551/615",
        ),
        (entries(0, 256), "tile/entries/000"),
        (entries(0, 9), "tile/entries/000.p/9"),
    ] {
        assert_eq!(tile.path(), path);
        assert_eq!(TileId::parse(&path["tile/".len()..]), Some(tile));
    }
}

#[test]
fn another_spelling_of_a_path_is_none() {
    for path in [
        "",
        "/",
        "0",
        "0/",
        "0/0",
        "0/00",
        "0/0000",
        "0/1000",
        "0/x000/000",
        "0/x001/x002",
        "0/001/002",
        "0/x1/002",
        "0/X001/002",
        "0/x001//002",
        "0/x001/002/",
        "/0/001",
        "0//001",
        "00/001",
        "01/001",
        "+1/001",
        "64/001",
        "255/001",
        "256/001",
        "-1/001",
        "0/+01",
        "0/-01",
        "0/ 01",
        "0/001 ",
        "0/001\n",
        "0/001.p",
        "0/001.p/",
        "0/001.p/0",
        "0/001.p/01",
        "0/001.p/+1",
        "0/001.p/256",
        "0/001.p/257",
        "0/001.p/65537",
        "0/001.p/1/",
        "0/001.p/1.p/1",
        "0/001.P/1",
        "0/x018/x446/x744/x073/x709/x551/616",
        "0/x001/x018/x446/x744/x073/x709/x551/615",
        "Entries/000",
        "entries",
        "entries/0",
        "tile/0/001",
        "0/٠٠١",
    ] {
        assert_eq!(TileId::parse(path), None, "{path}");
    }
}

#[test]
fn a_tree_has_the_tiles_of_the_specifications_examples() {
    let tiles: Vec<_> = tiles_of(70_000).collect();
    let full = |level, count| (0..count).map(move |index| hashes(level, index, 256));
    let expected: Vec<_> = full(0, 273)
        .chain([hashes(0, 273, 112)])
        .chain(full(1, 1))
        .chain([hashes(1, 1, 17), hashes(2, 0, 1)])
        .collect();
    assert_eq!(tiles, expected);
    assert_eq!(
        tiles_of(256).collect::<Vec<_>>(),
        [hashes(0, 0, 256), hashes(1, 0, 1)]
    );
    assert_eq!(tiles_of(0).count(), 0);
    assert_eq!(tiles_of(1).collect::<Vec<_>>(), [hashes(0, 0, 1)]);
    assert_eq!(
        (0..4)
            .map(|level| partial_width(70_000, level))
            .collect::<Vec<_>>(),
        [112, 17, 1, 0]
    );
    assert_eq!(partial_width(u64::MAX, 7), 255);
    assert_eq!(partial_width(u64::MAX, 8), 0);
    assert_eq!(partial_width(u64::MAX, 255), 0);
    assert_eq!(right_edge_tiles(u64::MAX).count(), 8);
}

#[test]
fn a_tile_is_as_wide_as_the_tree_allows() {
    let at = |index| TileId::in_tree(TileLevel::Entries, index, 600).map(|tile| tile.width);
    assert_eq!(
        [at(0), at(1), at(2), at(3), at(u64::MAX)],
        [Some(256), Some(256), Some(88), None, None]
    );
    assert_eq!(TileId::in_tree(TileLevel::Entries, 1, 256), None);
    assert_eq!(
        TileId::in_tree(TileLevel::Hashes(1), 0, 600),
        Some(hashes(1, 0, 2))
    );
    assert_eq!(TileId::in_tree(TileLevel::Hashes(63), 0, u64::MAX), None);
}

#[test]
fn a_node_is_found_in_the_lowest_tile_that_has_its_leaves() {
    for (level, index, found) in [
        (0, 0, (0, 0, 0..1)),
        (0, 255, (0, 0, 255..256)),
        (0, 256, (0, 1, 0..1)),
        (1, 127, (0, 0, 254..256)),
        (7, 1, (0, 0, 128..256)),
        (7, 2, (0, 1, 0..128)),
        (8, 255, (1, 0, 255..256)),
        (9, 128, (1, 1, 0..2)),
        (63, 1, (7, 0, 128..256)),
        (255, u64::MAX, (31, u64::MAX / 2, 128..256)),
    ] {
        assert_eq!(tile_of_node(level, index), found);
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut set = filled(300);
    assert_eq!(
        set.node(3, 40),
        Err(MissingTile {
            level: 0,
            index: 1,
            width: 72
        })
    );
    set.0.remove(&(0, 0));
    let missing = merkle::inclusion_proof(&set, 3, 300).unwrap_err();
    assert_eq!((missing.level, missing.index), (0, 0));
    assert!(missing.to_string().contains("tile 0 of level 0 is missing"));
    // The root needs the partial ones alone.
    assert_eq!(merkle::root(&set, 300), merkle::root(&filled(300), 300));
}

#[test]
fn a_tile_is_whole_hashes_up_to_a_full_one() {
    let octets: Vec<u8> = (0..=255).cycle().take(257 * 32).collect();
    assert_eq!(decode_tile(&[]), None);
    assert_eq!(decode_tile(&octets[..31]), None);
    assert_eq!(decode_tile(&octets[..33]), None);
    assert_eq!(decode_tile(&octets), None);
    for width in [1, 2, 255, 256] {
        let tile = decode_tile(&octets[..width * 32]).unwrap();
        assert_eq!(tile.as_flattened(), &octets[..width * 32]);
    }
}

#[test]
fn a_bundle_is_lengths_and_leaves_and_nothing_after() {
    let leaves: [&[u8]; 3] = [b"ab", b"", b"c"];
    let bundle = encode_bundle(leaves.into_iter()).unwrap();
    assert_eq!(bundle, b"\0\x02ab\0\0\0\x01c");
    assert_eq!(decode_bundle(&bundle).unwrap(), leaves);
    for bad in [&b"\0"[..], b"\0\x01", b"\0\x01ab", b"\0\x02ab\0"] {
        assert_eq!(decode_bundle(bad), None, "{bad:?}");
    }
    let longest = vec![7; 65_535];
    let bundle = encode_bundle([&longest[..]].into_iter()).unwrap();
    assert_eq!(decode_bundle(&bundle).unwrap(), [&longest[..]]);
    let too_long = vec![7; 65_536];
    assert_eq!(encode_bundle([&too_long[..]].into_iter()), None);
    let count = |count| std::iter::repeat_n(&b"x"[..], count);
    assert!(encode_bundle(count(256)).is_some());
    assert_eq!(encode_bundle(count(257)), None);
    assert_eq!(decode_bundle(&b"\0\x01x".repeat(257)), None);
    assert_eq!(decode_bundle(&b"\0\x01x".repeat(256)).unwrap().len(), 256);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn proofs_out_of_tiles_are_those_out_of_leaves(size in 1..70_000_u64, picks in prop::collection::vec(any::<u64>(), 4)) {
        let (set, leaves): (_, Vec<_>) = (filled(size), (0..size).map(leaf).collect());
        let new_root = merkle::root(&set, size).unwrap();
        prop_assert_eq!(new_root, root_of(&leaves));
        for pick in picks {
            let index = pick % size;
            let at = usize::try_from(index).unwrap();

            // The tiles listed beforehand are enough.
            let mut some = TileSet::default();
            for tile in tiles_for(&merkle::inclusion_nodes(index, size)) {
                some.insert(tile.0, tile.1, set.0[&tile].clone());
            }
            let proof = merkle::inclusion_proof(&some, index, size).unwrap();
            prop_assert!(merkle::verify_inclusion(index, size, &leaves[at], &proof, &new_root));

            let mut some = TileSet::default();
            for tile in tiles_for(&merkle::consistency_nodes(index, size)) {
                some.insert(tile.0, tile.1, set.0[&tile].clone());
            }
            let proof = merkle::consistency_proof(&some, index, size).unwrap();
            let old_root = root_of(&leaves[..at]);
            prop_assert!(merkle::verify_consistency(index, size, &proof, &old_root, &new_root));
        }
    }
}

proptest! {
    #[test]
    fn a_path_is_read_as_what_wrote_it(level in 0..=63_u8, leaves: bool, index in any::<u64>(), shift in 0..64, width in 1..=256_u16) {
        let level = if leaves { TileLevel::Entries } else { TileLevel::Hashes(level) };
        let tile = TileId { level, index: index >> shift, width };
        prop_assert_eq!(TileId::parse(&tile.path()["tile/".len()..]), Some(tile));
    }

    #[test]
    fn what_is_read_as_a_path_is_written_so(path in "(entries|[0-9+]{1,3})/(x?[0-9]{1,3}/){0,3}[0-9x]{1,4}(\\.p/[0-9]{1,4})?") {
        if let Some(tile) = TileId::parse(&path) {
            prop_assert_eq!(tile.path(), format!("tile/{path}"));
        }
    }

    #[test]
    fn the_right_edge_is_what_the_root_needs(size in any::<u64>(), shift in 0..64) {
        let size = size >> shift;
        let edge: BTreeSet<_> = right_edge_tiles(size)
            .map(|tile| match tile.level {
                TileLevel::Hashes(level) => (level, tile.index),
                TileLevel::Entries => panic!("{tile:?}"),
            })
            .collect();
        prop_assert_eq!(edge, tiles_for(&merkle::root_nodes(size)));
        for tile in right_edge_tiles(size) {
            prop_assert_eq!(TileId::in_tree(tile.level, tile.index, size), Some(tile));
        }
    }

    #[test]
    fn a_bundle_gives_back_its_leaves(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..=256)) {
        let bundle = encode_bundle(leaves.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(decode_bundle(&bundle).unwrap(), leaves);
    }
}
