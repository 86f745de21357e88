//! The log's tree, as tiles: what the service would have stored.

use std::sync::Arc;

use certfactory::pki::merkle::Hash;
use certfactory::pki::merkle::RightEdge;
use certfactory::pki::merkle::root_of;
use certfactory::pki::tile::WIDTH;

use crate::large::sheet::Sheet;
use crate::large::tables::Leaves;

/// The tree while it grows.
pub struct Tiles {
    leaves: Arc<Leaves>,
    /// The tile of each level that is not whole: its place in the level, its hashes.
    growing: Vec<(u64, Vec<Hash>)>,
    edge: RightEdge,
    whole: Sheet,
}

impl Tiles {
    pub fn new(leaves: &Arc<Leaves>) -> Self {
        Self {
            leaves: Arc::clone(leaves),
            growing: Vec::new(),
            edge: RightEdge::new(),
            whole: Sheet::new(leaves),
        }
    }

    pub fn push(&mut self, leaf: Hash) {
        self.edge.push(leaf);
        let mut hash = leaf;
        for level in 0.. {
            if self.growing.len() == level {
                self.growing.push((0, Vec::new()));
            }
            let (index, hashes) = &mut self.growing[level];
            hashes.push(hash);
            if (hashes.len() as u64) < WIDTH {
                return;
            }
            hash = root_of(hashes);
            store(&mut self.whole, level, *index, hashes);
            hashes.clear();
            *index += 1;
        }
    }

    /// Whole tiles since the last time.
    pub fn take(&mut self) -> Sheet {
        std::mem::replace(&mut self.whole, Sheet::new(&self.leaves))
    }

    /// Size and root of the tree, and the tiles that are not whole.
    pub fn finish(mut self) -> (u64, Hash, Sheet) {
        for (level, (index, hashes)) in self.growing.iter().enumerate() {
            if !hashes.is_empty() {
                store(&mut self.whole, level, *index, hashes);
            }
        }
        (self.edge.size(), self.edge.root(), self.whole)
    }
}

fn store(sheet: &mut Sheet, level: usize, index: u64, hashes: &[Hash]) {
    sheet
        .row(0, 3)
        .short(i16::try_from(level).unwrap())
        .long(index)
        .bytes(hashes.as_flattened());
}
