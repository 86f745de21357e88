//! Published vectors, an independent implementation, and trees of every shape.

use super::*;
use ct_merkle::ConsistencyProof;
use ct_merkle::InclusionProof;
use ct_merkle::RootHash;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256 as OracleSha256;
use std::cell::RefCell;
use std::convert::Infallible;

fn hash(hexadecimal: &str) -> Hash {
    let octet = |at| u8::from_str_radix(&hexadecimal[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(octet)
}

/// The eight leaves that the tests of Certificate Transparency's implementations share.
fn published_leaves() -> Vec<Hash> {
    let leaves: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    leaves.map(leaf_hash).to_vec()
}

/// Roots of the first one to eight of them.
fn published_roots() -> [Hash; 8] {
    [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    .map(hash)
}

/// Leaf number `index` of the trees below.
fn leaf(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// Leaf hashes in memory.
struct Leaves(Vec<Hash>);

impl Leaves {
    fn first(size: u64) -> Self {
        Self((0..size).map(|index| leaf_hash(&leaf(index))).collect())
    }
}

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        let begin = usize::try_from(index << level).unwrap();
        Ok(root_of(&self.0[begin..begin + (1 << level)]))
    }
}

/// A tree of any size whose leaves are all the same: a subtree's hash depends on its level alone.
struct Uniform;

impl Nodes for Uniform {
    type Error = Infallible;

    fn node(&self, level: u8, _: u64) -> Result<Hash, Infallible> {
        let up = |hash: Hash, _| node_hash(&hash, &hash);
        Ok((0..level).fold(leaf_hash(b""), up))
    }
}

/// Writes down what it is asked for.
struct Asked(RefCell<Vec<(u8, u64)>>);

impl Nodes for Asked {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        self.0.borrow_mut().push((level, index));
        Ok([0; 32])
    }
}

#[test]
fn the_published_roots_are_met_by_every_way_to_compute_them() {
    let (leaves, mut edge) = (published_leaves(), RightEdge::new());
    assert_eq!(
        edge.root(),
        hash("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    );
    for (index, root) in published_roots().iter().enumerate() {
        edge.push(leaves[index]);
        let (size, nodes) = (edge.size(), Leaves(leaves.clone()));
        assert_eq!(edge.root(), *root, "{size}");
        assert_eq!(root_of(&leaves[..=index]), *root, "{size}");
        assert_eq!(super::root(&nodes, size), Ok(*root), "{size}");
    }
}

#[test]
fn the_published_proofs_are_made_and_verified() {
    let (leaves, roots) = (published_leaves(), published_roots());
    let nodes = Leaves(leaves.clone());
    for (index, size, path) in [
        (0, 1, &[][..]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            3,
            &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
        ),
    ] {
        let proof: Vec<Hash> = path.iter().map(|text| hash(text)).collect();
        let (at, root) = (
            usize::try_from(index).unwrap(),
            roots[usize::try_from(size).unwrap() - 1],
        );
        assert_eq!(inclusion_proof(&nodes, index, size), Ok(proof.clone()));
        assert!(verify_inclusion(index, size, &leaves[at], &proof, &root));
    }
    for (old, new, path) in [
        (1, 1, &[][..]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ] {
        let proof: Vec<Hash> = path.iter().map(|text| hash(text)).collect();
        let root = |size: u64| roots[usize::try_from(size).unwrap() - 1];
        assert_eq!(consistency_proof(&nodes, old, new), Ok(proof.clone()));
        assert!(verify_consistency(old, new, &proof, &root(old), &root(new)));
    }
}

type Oracle = MemoryBackedTree<OracleSha256, [u8; 8]>;

/// What we prove, the oracle believes, and makes itself, about the tree of all these leaves.
fn agrees(nodes: &Leaves, oracle: &Oracle, index: u64, old: u64) {
    let size = oracle.len();
    let at = |size: u64| RootHash::<OracleSha256>::new(root(nodes, size).unwrap().into(), size);
    let (old_root, new_root) = (root(nodes, old).unwrap(), root(nodes, size).unwrap());
    assert_eq!(at(size), oracle.root());

    let proof = inclusion_proof(nodes, index, size).unwrap();
    let theirs = oracle.prove_inclusion(usize::try_from(index).unwrap());
    assert_eq!(proof.as_flattened(), theirs.as_bytes());
    let ours = InclusionProof::from_bytes(proof.concat());
    at(size)
        .verify_inclusion(&leaf(index), index, &ours)
        .unwrap();
    let leaf = leaf_hash(&leaf(index));
    assert!(verify_inclusion(index, size, &leaf, &proof, &new_root));

    let proof = consistency_proof(nodes, old, size).unwrap();
    let theirs = oracle.prove_consistency(usize::try_from(size - old).unwrap());
    assert_eq!(proof.as_flattened(), theirs.as_bytes());
    let ours = ConsistencyProof::try_from_bytes(proof.concat()).unwrap();
    at(size).verify_consistency(&at(old), &ours).unwrap();
    assert!(verify_consistency(old, size, &proof, &old_root, &new_root));
}

#[test]
fn trees_of_one_to_three_hundred_leaves_agree_with_an_independent_implementation() {
    let (mut nodes, mut oracle) = (Leaves(Vec::new()), Oracle::new());
    for size in 1..=300_u64 {
        nodes.0.push(leaf_hash(&leaf(size - 1)));
        oracle.push(leaf(size - 1));
        // All of a small tree, a selection that differs from size to size of a larger one.
        let step = 1 + size / 12;
        for index in (0..size).filter(|index| (index + size) % step == 0) {
            agrees(&nodes, &oracle, index, index + 1);
        }
        agrees(&nodes, &oracle, size - 1, size);
    }
}

#[test]
fn an_edge_taken_up_anywhere_goes_on_to_the_same_tree() {
    let leaves = Leaves::first(140);
    for begun in 0..=140_u64 {
        let peaks = root_nodes(begun)
            .into_iter()
            .map(|(level, index)| leaves.node(level, index).unwrap())
            .collect();
        let mut edge = RightEdge::from_peaks(begun, peaks).unwrap();
        for hash in &leaves.0[usize::try_from(begun).unwrap()..] {
            edge.push(*hash);
        }
        assert_eq!(edge.size(), 140);
        assert_eq!(edge.root(), root_of(&leaves.0));
    }
}

#[test]
fn whole_subtrees_are_pushed_like_their_leaves() {
    let leaf = |index: u64| leaf_hash(&index.to_be_bytes());
    let mut by_leaves = RightEdge::new();
    let mut by_subtrees = RightEdge::new();
    for subtree in 0..9 {
        let mut own = RightEdge::new();
        for index in subtree * 256..(subtree + 1) * 256 {
            own.push(leaf(index));
            by_leaves.push(leaf(index));
        }
        assert!(by_subtrees.push_subtree(8, own.root()));
        assert_eq!(by_subtrees.size(), by_leaves.size());
        assert_eq!(by_subtrees.peaks(), by_leaves.peaks());
    }
    by_subtrees.push(leaf(9 * 256));
    by_leaves.push(leaf(9 * 256));
    assert_eq!(by_subtrees.root(), by_leaves.root());
    // In the middle of one, or larger than any tree: refused, and nothing is changed.
    for level in [8, 64, 255] {
        assert!(!by_subtrees.push_subtree(level, [7; 32]));
    }
    assert_eq!(by_subtrees.root(), by_leaves.root());
}

#[test]
fn an_edge_has_one_peak_for_each_one_bit_of_its_size() {
    for (size, peaks, fits) in [
        (0, 0, true),
        (0, 1, false),
        (5, 2, true),
        (5, 1, false),
        (5, 3, false),
        (u64::MAX / 2, 63, true),
        (u64::MAX / 2 + 1, 1, false),
        (u64::MAX, 64, false),
    ] {
        let edge = RightEdge::from_peaks(size, vec![[7; 32]; peaks]);
        assert_eq!(edge.is_some(), fits, "{size} {peaks}");
        if let Some(mut edge) = edge {
            edge.push([7; 32]);
            assert_eq!(edge.size(), size + 1);
            assert_eq!(edge.peaks().len(), (size + 1).count_ones() as usize);
        }
    }
}

#[test]
fn ranges_that_are_none_prove_nothing() {
    let (root, leaf) = (root(&Uniform, 5).unwrap(), leaf_hash(b""));
    for (index, size) in [(0, 0), (5, 5), (6, 5), (u64::MAX, u64::MAX), (u64::MAX, 0)] {
        assert!(inclusion_nodes(index, size).is_empty());
        assert_eq!(inclusion_proof(&Uniform, index, size), Ok(Vec::new()));
        assert!(!verify_inclusion(index, size, &leaf, &[], &root));
        assert!(!verify_inclusion(index, size, &leaf, &[leaf], &root));
        assert!(!verify_inclusion(index, size, &leaf, &[], &leaf));
    }
    for (old, new) in [(6, 5), (1, 0), (u64::MAX, u64::MAX - 1)] {
        assert!(consistency_nodes(old, new).is_empty());
        assert_eq!(consistency_proof(&Uniform, old, new), Ok(Vec::new()));
        assert!(!verify_consistency(old, new, &[], &root, &root));
        assert!(!verify_consistency(old, new, &[leaf], &root, &root));
    }
}

#[test]
fn the_empty_tree_and_the_same_tree_need_no_proof_and_take_none() {
    let (empty, five) = (empty_root(), root(&Uniform, 5).unwrap());
    for (old, new, old_root, new_root, good) in [
        (0, 0, &empty, &empty, true),
        (0, 0, &five, &five, false),
        (0, 0, &empty, &five, false),
        (0, 5, &empty, &five, true),
        (0, 5, &five, &five, false),
        (5, 5, &five, &five, true),
        (5, 5, &five, &empty, false),
    ] {
        assert_eq!(verify_consistency(old, new, &[], old_root, new_root), good);
        assert!(!verify_consistency(old, new, &[five], old_root, new_root));
    }
    assert!(!verify_consistency(4, 5, &[], &five, &five));
    assert!(!verify_consistency(3, 5, &[], &five, &five));
}

/// One element of a proof changed, left out or put in anywhere.
fn spoilt(proof: &[Hash], at: prop::sample::Index, bit: u8) -> Vec<Vec<Hash>> {
    let place = at.index(proof.len() + 1);
    let mut longer = proof.to_vec();
    longer.insert(place, [bit; 32]);
    let mut found = vec![longer];
    if place < proof.len() {
        let mut changed = proof.to_vec();
        changed[place][usize::from(bit >> 3)] ^= 1 << (bit & 7);
        let mut shorter = proof.to_vec();
        shorter.remove(place);
        found.extend([changed, shorter]);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn larger_trees_agree_with_the_independent_implementation(
        size in 301..3000_u64,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let (nodes, mut oracle) = (Leaves::first(size), Oracle::new());
        for index in 0..size {
            oracle.push(leaf(index));
        }
        for pick in picks {
            let index = u64::try_from(pick.index(nodes.0.len())).unwrap();
            agrees(&nodes, &oracle, index, index + 1);
        }
    }
}

proptest! {
    /// Up to the largest tree that a u64 can count, without an overflow on the way.
    #[test]
    fn proofs_of_trees_of_any_size_verify(size in any::<u64>(), low: bool, pick in any::<u64>()) {
        let size = if low { size % 70_000 } else { size }.max(1);
        let index = pick % size;
        let (leaf, new_root) = (leaf_hash(b""), root(&Uniform, size).unwrap());
        let proof = inclusion_proof(&Uniform, index, size).unwrap();
        prop_assert!(verify_inclusion(index, size, &leaf, &proof, &new_root));
        let old = index + 1;
        let old_root = root(&Uniform, old).unwrap();
        let proof = consistency_proof(&Uniform, old, size).unwrap();
        prop_assert!(verify_consistency(old, size, &proof, &old_root, &new_root));
    }

    #[test]
    fn a_proof_with_anything_changed_never_verifies(
        size in 1..200_u64,
        pick in any::<u64>(),
        at in any::<prop::sample::Index>(),
        bit in any::<u8>(),
    ) {
        let (nodes, index) = (Leaves::first(size), pick % size);
        let (leaf, new_root) = (leaf_hash(&leaf(index)), root(&nodes, size).unwrap());
        let proof = inclusion_proof(&nodes, index, size).unwrap();
        for bad in spoilt(&proof, at, bit) {
            prop_assert!(!verify_inclusion(index, size, &leaf, &bad, &new_root));
        }
        prop_assert!(!verify_inclusion(index, size, &[bit; 32], &proof, &new_root));
        prop_assert!(!verify_inclusion(index, size, &leaf, &proof, &[bit; 32]));
        for other in (0..size).filter(|other| *other != index) {
            prop_assert!(!verify_inclusion(other, size, &leaf, &proof, &new_root));
        }

        let old = index + 1;
        let old_root = root(&nodes, old).unwrap();
        let proof = consistency_proof(&nodes, old, size).unwrap();
        for bad in spoilt(&proof, at, bit) {
            prop_assert!(!verify_consistency(old, size, &bad, &old_root, &new_root));
        }
        prop_assert!(!verify_consistency(old, size, &proof, &[bit; 32], &new_root));
        prop_assert!(!verify_consistency(old, size, &proof, &old_root, &[bit; 32]));
    }

    #[test]
    fn the_nodes_listed_beforehand_are_the_ones_a_proof_asks_for(size in any::<u64>(), pick in any::<u64>()) {
        let (size, asked) = (size.max(1), Asked(RefCell::default()));
        let index = pick % size;
        inclusion_proof(&asked, index, size).unwrap();
        prop_assert_eq!(asked.0.take(), inclusion_nodes(index, size));
        consistency_proof(&asked, index, size).unwrap();
        prop_assert_eq!(asked.0.take(), consistency_nodes(index, size));
        root(&asked, size).unwrap();
        prop_assert_eq!(asked.0.take(), root_nodes(size));
        // Each is complete in that tree.
        for (level, index) in inclusion_nodes(index, size) {
            prop_assert!((index + 1).checked_mul(1 << level).is_some_and(|end| end <= size));
        }
    }
}
