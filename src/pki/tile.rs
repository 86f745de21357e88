//! A log as tiles (C2SP tlog-tiles): names and widths of the files that hold its hashes and leaves.
//!
//! A tile holds up to 256 hashes of one level; a full one stands for a subtree of height 8, whose
//! root is one hash of the tile above. The right end of each level may be a partial tile. What a
//! tile once said never changes.

use super::merkle::Hash;
use super::merkle::Nodes;
use super::merkle::root_of;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

/// Hashes of a full tile, leaves of a full bundle (tlog-tiles, "Merkle Tree").
pub const WIDTH: u64 = 256;

/// Levels of the tree from a tile's hashes to the hash of the tile: 2^8 is [`WIDTH`].
pub const TILE_HEIGHT: u8 = 8;

/// The width of a full tile, as a tile has it.
const FULL: u16 = 256;

/// The highest level that a path may name (tlog-tiles, "Merkle Tree").
const LEVEL_MAX: u8 = 63;

/// The highest level that a tree of fewer than 2^64 leaves has a hash of.
const LEVEL_OF_LARGEST_TREE: u8 = 7;

/// Which files a tile is of (tlog-tiles, "Merkle Tree" and "Log entries").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileLevel {
    /// Bundles of the leaves themselves.
    Entries,
    /// Hashes, at this level from 0 to 63: 0 are the leaves', each one above is a full tile's of
    /// the level below.
    Hashes(u8),
}

/// One tile or bundle: what its path says (tlog-tiles, "Merkle Tree").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// Hashes of which level, or leaves.
    pub level: TileLevel,
    /// Its number within the level.
    pub index: u64,
    /// How many hashes or leaves: 1 to 255, partial, or 256, full.
    pub width: u16,
}

impl TileId {
    /// The tile with this number, as wide as it is in a tree of `size` leaves; `None` where that
    /// tree has none.
    #[must_use]
    pub fn in_tree(level: TileLevel, index: u64, size: u64) -> Option<Self> {
        let hashes = match level {
            TileLevel::Entries => size,
            TileLevel::Hashes(level) => hashes_at(size, level),
        };
        let before = index.checked_mul(WIDTH)?;
        let width = hashes.checked_sub(before)?.min(WIDTH);
        let width = u16::try_from(width).ok().filter(|width| *width > 0)?;
        Some(Self {
            level,
            index,
            width,
        })
    }

    /// Its path below the log's prefix: `tile/0/x001/x234/067.p/112`, `tile/entries/000`.
    #[must_use]
    pub fn path(&self) -> String {
        let level = match self.level {
            TileLevel::Entries => "entries".to_owned(),
            TileLevel::Hashes(level) => level.to_string(),
        };
        let mut index = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1000);
            rest /= 1000;
        }
        if self.width < FULL {
            format!("tile/{level}/{index}.p/{}", self.width)
        } else {
            format!("tile/{level}/{index}")
        }
    }

    /// The tile whose [`path`](Self::path) is `tile/` and this. Each has one spelling only: no
    /// leading zeroes, and no group of them, beyond what the specification asks for.
    #[must_use]
    pub fn parse(path_after_tile: &str) -> Option<Self> {
        let (level, rest) = path_after_tile.split_once('/')?;
        let level = match level {
            "entries" => TileLevel::Entries,
            digits => TileLevel::Hashes(digits.parse().ok().filter(|level| *level <= LEVEL_MAX)?),
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => {
                let partial = 1..FULL;
                let width = width.parse().ok().filter(|width| partial.contains(width))?;
                (groups, width)
            }
            None => (rest, FULL),
        };
        let index = groups.split('/').try_fold(0_u64, |index, group| {
            let digits = group.strip_prefix('x').unwrap_or(group);
            index.checked_mul(1000)?.checked_add(digits.parse().ok()?)
        })?;
        let tile = Self {
            level,
            index,
            width,
        };
        // What was read loosely above must be what would have been written.
        let written = tile.path();
        (written.strip_prefix("tile/") == Some(path_after_tile)).then_some(tile)
    }
}

/// All tiles of hashes that a tree of `size` leaves has, full and partial, level by level and each
/// from the left (tlog-tiles, "Partial Tiles"). Its bundles are as many, and as wide, as those of
/// level 0.
pub fn tiles_of(size: u64) -> impl Iterator<Item = TileId> {
    (0..=LEVEL_OF_LARGEST_TREE).flat_map(move |level| {
        let tiles = hashes_at(size, level).div_ceil(WIDTH);
        (0..tiles).filter_map(move |index| TileId::in_tree(TileLevel::Hashes(level), index, size))
    })
}

/// The partial ones among [`tiles_of`], at most one a level. They hold all that a tree's root needs.
pub fn right_edge_tiles(size: u64) -> impl Iterator<Item = TileId> {
    (0..=LEVEL_OF_LARGEST_TREE).filter_map(move |level| {
        let width = partial_width(size, level);
        (width > 0).then_some(TileId {
            level: TileLevel::Hashes(level),
            index: hashes_at(size, level) / WIDTH,
            width,
        })
    })
}

/// Width of the partial tile at a level of a tree of `size` leaves, which is floor(`size` /
/// 256^`level`) mod 256 (tlog-tiles, "Partial Tiles"); 0: it has none.
#[must_use]
pub fn partial_width(size: u64, level: u8) -> u16 {
    // The lowest octet: the rest by 256.
    let [width, ..] = hashes_at(size, level).to_le_bytes();
    u16::from(width)
}

/// Where the hash of a node is found, with level and index as in [`Nodes`]: level and index of the
/// tile, and which of the tile's hashes are the leaves of its subtree. It is one hash where the
/// node's level is a multiple of 8.
#[must_use]
pub fn tile_of_node(level: u8, index: u64) -> (u8, u64, Range<usize>) {
    let above = level % TILE_HEIGHT;
    let nodes_of_tile = WIDTH >> above;
    // Less than 256: the remainder of a division by 256 or less.
    let place = usize::try_from(index % nodes_of_tile).unwrap_or_default();
    let hashes = place << above..(place + 1) << above;
    (level / TILE_HEIGHT, index / nodes_of_tile, hashes)
}

/// Level and index of the tiles that hold these nodes, each once.
#[must_use]
pub fn tiles_for(nodes: &[(u8, u64)]) -> BTreeSet<(u8, u64)> {
    let tile = |(level, index): &(u8, u64)| {
        let (level, index, _) = tile_of_node(*level, *index);
        (level, index)
    };
    nodes.iter().map(tile).collect()
}

/// Tiles in memory, full or partial, to make proofs from.
#[derive(Clone, Debug, Default)]
pub struct TileSet(BTreeMap<(u8, u64), Vec<Hash>>);

/// A tile that a proof needs and the set has not, or not as wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tile {index} of level {level} is missing, or has fewer than {width} hashes")]
pub struct MissingTile {
    /// Its level.
    pub level: u8,
    /// Its number within the level.
    pub index: u64,
    /// How many of its hashes are needed, from the left.
    pub width: usize,
}

impl TileSet {
    /// Adds a tile, or puts it in the place of an earlier one. Nothing is verified: a proof made
    /// from wrong hashes does not verify.
    pub fn insert(&mut self, level: u8, index: u64, hashes: Vec<Hash>) {
        self.0.insert((level, index), hashes);
    }
}

impl Nodes for TileSet {
    type Error = MissingTile;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingTile> {
        let (level, index, hashes) = tile_of_node(level, index);
        let width = hashes.end;
        let tile = self.0.get(&(level, index));
        tile.and_then(|tile| tile.get(hashes))
            .map(root_of)
            .ok_or(MissingTile {
                level,
                index,
                width,
            })
    }
}

/// The hashes of a tile from its octets (tlog-tiles, "Merkle Tree"), which are one after the other;
/// `None` when they are no 1 to 256 whole ones.
#[must_use]
pub fn decode_tile(tile: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = tile.as_chunks();
    let fits = rest.is_empty() && (1..=usize::from(FULL)).contains(&hashes.len());
    fits.then(|| hashes.to_vec())
}

/// A bundle: each leaf after its length in two octets (tlog-tiles, "Log entries"). `None` when one
/// is longer than 65535 octets, or there are more than 256.
pub fn encode_bundle<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut bundle = Vec::new();
    for (before, leaf) in leaves.enumerate() {
        if before == usize::from(FULL) {
            return None;
        }
        let length = u16::try_from(leaf.len()).ok()?;
        bundle.extend(length.to_be_bytes());
        bundle.extend(leaf);
    }
    Some(bundle)
}

/// The leaves of a bundle (tlog-tiles, "Log entries"); `None` when it ends within one, or has more
/// than 256.
#[must_use]
pub fn decode_bundle(bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut leaves, mut rest) = (Vec::new(), bundle);
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (leaf, after) = after.split_at_checked(length)?;
        leaves.push(leaf);
        rest = after;
    }
    (leaves.len() <= usize::from(FULL)).then_some(leaves)
}

/// How many hashes a level has in a tree of `size` leaves: those of full tiles of the level below.
fn hashes_at(size: u64, level: u8) -> u64 {
    let bits = u32::from(level) * u32::from(TILE_HEIGHT);
    size.checked_shr(bits).unwrap_or(0)
}

#[cfg(test)]
mod tests;
