//! The shape of a tree, which follows from the disk's size alone.

use std::ops::Range;

use block::ByteCount;

use crate::chunk::CHUNK_SIZE;
use crate::manifest::{FANOUT, LEAF_CHUNKS, MAX_LEVEL};

/// How many chunks, and how high a tree, a disk of some size has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    size: u64,
}

impl Shape {
    pub(crate) fn new(size: ByteCount) -> Self {
        Self { size: size.get() }
    }

    pub(crate) fn chunks(self) -> u64 {
        self.size.div_ceil(CHUNK_SIZE)
    }

    /// Bytes of the disk that lie in these chunks.
    pub(crate) fn bytes(self, chunks: &Range<u64>) -> u64 {
        let at = |chunk: u64| chunk.saturating_mul(CHUNK_SIZE).min(self.size);
        at(chunks.end).saturating_sub(at(chunks.start))
    }

    /// Chunks below one reference of a node at this level.
    pub(crate) fn span(level: u8) -> u64 {
        match level {
            0 => 1,
            _ => LEAF_CHUNKS * FANOUT.pow(u32::from(level - 1)),
        }
    }

    /// References of a full node of this level.
    pub(crate) fn width(level: u8) -> u64 {
        if level == 0 { LEAF_CHUNKS } else { FANOUT }
    }

    /// The level of the root.
    pub(crate) fn root_level(self) -> u8 {
        (0..MAX_LEVEL).find(|&level| self.chunks() <= Self::span(level + 1)).unwrap_or(MAX_LEVEL)
    }

    /// References in node `index` of this level.
    pub(crate) fn refs(self, level: u8, index: u64) -> usize {
        let all = self.chunks().div_ceil(Self::span(level));
        all.saturating_sub(index.saturating_mul(Self::width(level))).min(Self::width(level)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_as_high_and_wide_as_the_disk_needs() {
        let of = |chunks: u64| Shape::new(ByteCount::new(chunks * CHUNK_SIZE));
        let heights = [(0, 0), (1, 0), (4096, 0), (4097, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (1 << 34, 3)];
        for (chunks, level) in heights {
            assert_eq!(of(chunks).root_level(), level, "{chunks}");
            let refs = of(chunks).refs(level, 0);
            assert!(refs as u64 * Shape::span(level) >= chunks);
        }
        assert_eq!(of(4097).refs(0, 1), 1);
        assert_eq!(of(4097).refs(0, 2), 0);
        let odd = Shape::new(ByteCount::new(CHUNK_SIZE + 5));
        assert_eq!((odd.chunks(), odd.bytes(&(0..2)), odd.bytes(&(1..9))), (2, CHUNK_SIZE + 5, 5));
        assert!(block::MAX_DISK_SIZE / CHUNK_SIZE <= Shape::span(MAX_LEVEL) * FANOUT);
    }
}
