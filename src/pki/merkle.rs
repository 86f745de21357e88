//! The Merkle tree of a log (RFC 6962, 2.1; RFC 9162, 2.1), with SHA-256.
//!
//! A tree is told by its leaves' hashes alone; what a leaf is, is the log's business. A tree of any
//! size falls into complete subtrees, one for each one bit of its size, the largest on the left.
//! Everything here is told in those: [`RightEdge`] holds them, and whoever stores hashes answers
//! for one of them at a time ([`Nodes`]).

use openssl::sha::Sha256;
use std::ops::Range;

/// Hash of a leaf, of a node, of a whole tree.
pub type Hash = [u8; 32];

/// The largest tree that [`RightEdge`] takes up, in leaves: what is pushed to it then is countable.
const SIZE_MAX: u64 = u64::MAX / 2;

/// Hash of a leaf (RFC 6962, 2.1): no node's can be taken for it.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    sha.update(&[0]);
    sha.update(leaf);
    sha.finish()
}

/// Hash of the node above two (RFC 6962, 2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut sha = Sha256::new();
    sha.update(&[1]);
    sha.update(left);
    sha.update(right);
    sha.finish()
}

/// Hash of the tree without leaves: of no octets at all (RFC 6962, 2.1).
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::new().finish()
}

/// Hash of the tree over these leaf hashes (RFC 6962, 2.1).
#[must_use]
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut edge = RightEdge::new();
    for hash in hashes {
        edge.push(*hash);
    }
    edge.root()
}

/// The complete subtrees that the first leaves of a log fall into: all that appending to it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RightEdge {
    size: u64,
    peaks: Vec<Hash>,
}

impl RightEdge {
    /// The one of no leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The one of `size` leaves, from the hashes that [`root_nodes`] names, in that order: the
    /// largest subtree first. `None` when their number does not fit the size, or the size is above
    /// 2^63 - 1.
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        let fits = u32::try_from(peaks.len()) == Ok(size.count_ones()) && size <= SIZE_MAX;
        fits.then_some(Self { size, peaks })
    }

    /// How many leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hashes of the subtrees, the largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// One leaf more, by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.add(0, leaf);
    }

    /// A complete subtree of 2^`level` leaves more, by its hash. `false`, and nothing done, when the
    /// leaves before it do not end where such a subtree begins.
    #[must_use]
    pub fn push_subtree(&mut self, level: u8, subtree: Hash) -> bool {
        let leaves = 1_u64.checked_shl(level.into()).unwrap_or_default();
        if leaves == 0 || !self.size.is_multiple_of(leaves) {
            return false;
        }
        self.add(level, subtree);
        true
    }

    /// As one is added to a binary number: each one bit at its end carries, and the subtree it
    /// stands for is the left half of a larger one.
    fn add(&mut self, level: u8, subtree: Hash) {
        let (mut hash, mut rest) = (subtree, self.size >> level);
        while rest & 1 == 1
            && let Some(left) = self.peaks.pop()
        {
            hash = node_hash(&left, &hash);
            rest >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1 << level;
    }

    /// Hash of the whole tree (RFC 6962, 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        join(&self.peaks)
    }
}

/// Where a log keeps its hashes.
pub trait Nodes {
    /// Why a hash is not to be had.
    type Error;

    /// The Merkle tree hash of the complete subtree of 2^`level` leaves that begins at leaf
    /// `index` * 2^`level` (RFC 6962, 2.1). Nobody asks for one that is not complete.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// Hash of the tree of the first `size` leaves (RFC 6962, 2.1).
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    hash_of(nodes, &(0..size))
}

/// Proof that leaf `index` is in the tree of `size` leaves: its Merkle audit path (RFC 6962,
/// 2.1.1). Empty, which proves nothing, when the tree has no such leaf.
pub fn inclusion_proof<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let path = inclusion_path(index, size);
    path.iter().map(|leaves| hash_of(nodes, leaves)).collect()
}

/// Proof that the tree of `new` leaves goes on from the one of `old` leaves (RFC 6962, 2.1.2).
/// Empty when `old` is 0 or `new`; empty, which proves nothing, when `old` is above `new`.
pub fn consistency_proof<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Error> {
    let path = consistency_path(old, new);
    path.iter().map(|leaves| hash_of(nodes, leaves)).collect()
}

/// Level and index of all that [`root`] asks for, in that order. None for the empty tree.
#[must_use]
pub fn root_nodes(size: u64) -> Vec<(u8, u64)> {
    subtrees(&(0..size))
}

/// Level and index of all that [`inclusion_proof`] asks for, in that order. None when the tree has
/// no such leaf.
#[must_use]
pub fn inclusion_nodes(index: u64, size: u64) -> Vec<(u8, u64)> {
    let path = inclusion_path(index, size);
    path.iter().flat_map(subtrees).collect()
}

/// Level and index of all that [`consistency_proof`] asks for, in that order. None when `old` is
/// above `new`.
#[must_use]
pub fn consistency_nodes(old: u64, new: u64) -> Vec<(u8, u64)> {
    let path = consistency_path(old, new);
    path.iter().flat_map(subtrees).collect()
}

/// Whether `proof` shows that the leaf of this hash is number `index` of the tree of `size` leaves
/// with this root (RFC 9162, 2.1.3.2). Never for an index that the size does not allow.
#[must_use]
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let mut ascent = Ascent {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match ascent.step() {
            Some(Side::Left) => node_hash(sibling, &hash),
            Some(Side::Right) => node_hash(&hash, sibling),
            None => return false,
        };
    }
    ascent.at_root() && hash == *root
}

/// Whether `proof` shows that the first `old` leaves of the tree of `new` leaves are the tree with
/// the old root (RFC 9162, 2.1.4.2). The empty tree, and a tree and itself, need no proof, and take
/// none. Never when `old` is above `new`.
#[must_use]
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> bool {
    let empty_fits = old > 0 || *old_root == empty_root();
    if old > new || !empty_fits {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty();
    }
    // The subtree that ends the old tree. Where it is the old tree, its hash is known and not sent.
    let (seed, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else if let Some(parts) = proof.split_first() {
        parts
    } else {
        return false;
    };
    let level = old.trailing_zeros();
    let mut ascent = Ascent {
        node: (old - 1) >> level,
        last: (new - 1) >> level,
    };
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    for sibling in rest {
        match ascent.step() {
            Some(Side::Left) => {
                old_hash = node_hash(sibling, &old_hash);
                new_hash = node_hash(sibling, &new_hash);
            }
            Some(Side::Right) => new_hash = node_hash(&new_hash, sibling),
            None => return false,
        }
    }
    ascent.at_root() && old_hash == *old_root && new_hash == *new_root
}

/// The way up from a node: its number among those of its level, and the last one's (`fn` and `sn`
/// of RFC 9162, 2.1.3.2).
struct Ascent {
    node: u64,
    last: u64,
}

/// Where the sibling of a node is.
enum Side {
    Left,
    Right,
}

impl Ascent {
    fn at_root(&self) -> bool {
        self.last == 0
    }

    /// Goes to the next node above that has two below it, and says on which side the one is that
    /// it did not come from. `None` at the root.
    fn step(&mut self) -> Option<Side> {
        if self.at_root() {
            return None;
        }
        // The last node of an odd number has no sibling and goes up as it is.
        while self.node == self.last && self.node & 1 == 0 {
            self.up();
        }
        let side = if self.node & 1 == 1 {
            Side::Left
        } else {
            Side::Right
        };
        self.up();
        Some(side)
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

/// PATH of RFC 6962, 2.1.1: the leaves that each hash of the proof stands for.
fn inclusion_path(index: u64, size: u64) -> Vec<Range<u64>> {
    let mut path = Vec::new();
    let mut tree = 0..if index < size { size } else { 0 };
    while tree.end - tree.start > 1 {
        let middle = middle(&tree);
        if index < middle {
            path.push(middle..tree.end);
            tree.end = middle;
        } else {
            path.push(tree.start..middle);
            tree.start = middle;
        }
    }
    // It was gone down from the root, and a proof goes up.
    path.reverse();
    path
}

/// PROOF of RFC 6962, 2.1.2: the leaves that each hash of the proof stands for.
fn consistency_path(old: u64, new: u64) -> Vec<Range<u64>> {
    let mut path = Vec::new();
    if old == 0 || old > new {
        return path;
    }
    let mut tree = 0..new;
    while old < tree.end {
        let middle = middle(&tree);
        if old <= middle {
            path.push(middle..tree.end);
            tree.end = middle;
        } else {
            path.push(tree.start..middle);
            tree.start = middle;
        }
    }
    // What is left is the right end of the old tree. If all of it, the verifier has its hash.
    if tree.start > 0 {
        path.push(tree);
    }
    path.reverse();
    path
}

/// Where a tree of two leaves or more is split: after the largest power of two that is smaller
/// than it (`k` of RFC 6962, 2.1).
fn middle(tree: &Range<u64>) -> u64 {
    let last = tree.end - tree.start - 1;
    tree.start + (1 << last.ilog2())
}

/// The complete subtrees that a tree falls into, from left to right, which is the largest first.
fn subtrees(tree: &Range<u64>) -> Vec<(u8, u64)> {
    let size = tree.end - tree.start;
    let mut begin = tree.start;
    let mut found = Vec::new();
    for level in (0..64_u8).rev().filter(|level| (size >> level) & 1 == 1) {
        found.push((level, begin >> level));
        begin += 1 << level;
    }
    found
}

fn hash_of<N: Nodes>(nodes: &N, tree: &Range<u64>) -> Result<Hash, N::Error> {
    let peaks = subtrees(tree)
        .into_iter()
        .map(|(level, index)| nodes.node(level, index))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(join(&peaks))
}

/// Hash of the tree that falls into these complete subtrees: the smallest two are joined first.
fn join(peaks: &[Hash]) -> Hash {
    let from_right = peaks.iter().rev().copied();
    from_right
        .reduce(|right, left| node_hash(&left, &right))
        .unwrap_or_else(empty_root)
}

#[cfg(test)]
mod tests;
