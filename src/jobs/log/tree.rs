//! The tree as a replica has it: its right edge, the tiles that are not stored yet, and the leaves that it
//! knows beyond them.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::ca::log::StoredTile;
use crate::pki::merkle::Hash;
use crate::pki::merkle::RightEdge;
use crate::pki::merkle::root_of;

/// Hashes in a whole tile.
const WIDTH: usize = 256;

/// The tree, as far as it is needed to go on.
pub(crate) struct Tree {
    edge: RightEdge,
    /// The last tile of each level, which still grows; from level 0 up.
    rows: Vec<Row>,
    /// Whole tiles that are not stored.
    whole: BTreeMap<(u8, u64), Vec<Hash>>,
    /// Those of them that an attempt is just storing.
    under_way: Vec<(u8, u64)>,
    /// Leaves that are not in the tree yet, in their order.
    ahead: VecDeque<Hash>,
}

#[derive(Default)]
struct Row {
    index: u64,
    hashes: Vec<Hash>,
}

impl Tree {
    /// Of no entries.
    pub(crate) fn new() -> Self {
        Self {
            edge: RightEdge::new(),
            rows: Vec::new(),
            whole: BTreeMap::new(),
            under_way: Vec::new(),
            ahead: VecDeque::new(),
        }
    }

    /// Goes on from a stored tree: its right edge, and the tile of each level that still grows,
    /// from level 0 up; an empty one where the level's last tile is whole.
    pub(crate) fn resume(edge: RightEdge, growing: Vec<Vec<Hash>>) -> Self {
        let mut span = 1;
        let mut rows = Vec::with_capacity(growing.len());
        for hashes in growing {
            span *= 256;
            let index = edge.size() / span;
            rows.push(Row { index, hashes });
        }
        Self {
            edge,
            rows,
            whole: BTreeMap::new(),
            under_way: Vec::new(),
            ahead: VecDeque::new(),
        }
    }

    /// Entries that are known.
    pub(crate) fn known(&self) -> u64 {
        let ahead = u64::try_from(self.ahead.len()).unwrap_or_default();
        self.edge.size().saturating_add(ahead)
    }

    /// Entries in it.
    pub(crate) fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Its root.
    pub(crate) fn root(&self) -> Hash {
        self.edge.root()
    }

    /// One more leaf is known.
    pub(crate) fn push(&mut self, leaf: Hash) {
        self.ahead.push_back(leaf);
    }

    /// Grows to this size, or to what is known.
    pub(crate) fn grow_to(&mut self, size: u64) {
        while self.edge.size() < size {
            let Some(leaf) = self.ahead.pop_front() else {
                return;
            };
            self.grow(leaf);
        }
    }

    fn grow(&mut self, leaf: Hash) {
        self.edge.push(leaf);
        let mut hash = leaf;
        for level in 0..u8::MAX {
            let place = usize::from(level);
            if self.rows.len() == place {
                self.rows.push(Row::default());
            }
            let Some(row) = self.rows.get_mut(place) else {
                return;
            };
            row.hashes.push(hash);
            if row.hashes.len() < WIDTH {
                return;
            }
            let hashes = std::mem::take(&mut row.hashes);
            hash = root_of(&hashes);
            self.whole.insert((level, row.index), hashes);
            row.index += 1;
        }
    }

    /// The tiles that are not stored, and how many of them are whole. [`Self::stored`] says when
    /// they are.
    pub(crate) fn unstored(&mut self) -> (Vec<StoredTile>, usize) {
        self.under_way = self.whole.keys().copied().collect();
        let whole = self
            .whole
            .iter()
            .map(|((level, index), hashes)| (*level, *index, hashes));
        let growing = (0..).zip(&self.rows);
        let growing = growing.map(|(level, row)| (level, row.index, &row.hashes));
        let tiles = whole
            .chain(growing)
            .filter(|(_, _, hashes)| !hashes.is_empty());
        let tiles = tiles.map(|(level, index, hashes)| StoredTile {
            level,
            index,
            hashes: hashes.clone(),
        });
        (tiles.collect(), self.under_way.len())
    }

    /// The tiles of a tree of this size are stored, by whoever signed it.
    pub(crate) fn stored_to(&mut self, size: u64) {
        self.whole.retain(|(level, index), _| {
            let span = 1_u64.checked_shl(8 * (u32::from(*level) + 1));
            let end = span.and_then(|span| span.checked_mul(index + 1));
            end.is_none_or(|end| end > size)
        });
    }

    /// What [`Self::unstored`] gave is stored.
    pub(crate) fn stored(&mut self) {
        for id in self.under_way.drain(..) {
            self.whole.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::merkle::leaf_hash;
    use crate::pki::merkle::root;
    use crate::pki::tile::TileSet;

    fn leaf(index: u64) -> Hash {
        leaf_hash(&index.to_be_bytes())
    }

    #[test]
    fn the_tiles_make_the_tree_at_every_size_also_after_a_restart() {
        let mut tree = Tree::new();
        let mut stored = TileSet::default();
        for size in 1..=70_000 {
            tree.push(leaf(size - 1));
            tree.grow_to(size);
            if size % 1_021 == 0 || [1, 255, 256, 257, 65_535, 65_536, 65_537].contains(&size) {
                for tile in tree.unstored().0 {
                    stored.insert(tile.level, tile.index, tile.hashes);
                }
                tree.stored();
                assert_eq!(root(&stored, size).unwrap(), tree.root(), "{size}");
                let growing = tree.rows.iter().map(|row| row.hashes.clone()).collect();
                let resumed = Tree::resume(tree.edge.clone(), growing);
                let indexes = |tree: &Tree| tree.rows.iter().map(|r| r.index).collect::<Vec<_>>();
                assert_eq!(indexes(&resumed), indexes(&tree), "{size}");
                tree = resumed;
            }
        }
    }

    #[test]
    fn what_was_not_stored_is_given_again() {
        let mut tree = Tree::new();
        for index in 0..600 {
            tree.push(leaf(index));
        }
        tree.grow_to(600);
        assert_eq!(tree.unstored().1, 2);
        for index in 600..800 {
            tree.push(leaf(index));
        }
        tree.grow_to(800);
        // the attempt with two whole tiles failed
        assert_eq!(tree.unstored().1, 3);
        tree.stored();
        assert_eq!(tree.unstored().1, 0);
    }

    #[test]
    fn a_tree_grows_to_what_another_signed_and_keeps_the_tiles_that_nobody_stored() {
        let mut tree = Tree::new();
        let mut other = Tree::new();
        for index in 0..1_000 {
            tree.push(leaf(index));
            other.push(leaf(index));
        }
        other.grow_to(700);
        tree.grow_to(700);
        assert_eq!((tree.size(), tree.known()), (700, 1_000));
        assert_eq!(tree.root(), other.root());
        // Two tiles are whole; both are the other's to store.
        tree.stored_to(700);
        assert_eq!(tree.unstored().1, 0);
        tree.grow_to(u64::MAX);
        assert_eq!((tree.size(), tree.known()), (1_000, 1_000));
        tree.stored_to(700);
        assert_eq!(tree.unstored().1, 1);
    }
}
