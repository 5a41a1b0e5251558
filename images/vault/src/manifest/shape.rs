//! The shape of a tree, which follows from the disk's size alone.

use std::ops::Range;

use block::ByteCount;

use crate::chunk::CHUNK_SIZE;
use crate::manifest::{FANOUT, MAX_LEVEL};

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

    /// Bytes of a chunk of the disk.
    pub(crate) fn chunk_len(self, chunk: u64) -> usize {
        self.size.saturating_sub(chunk.saturating_mul(CHUNK_SIZE)).min(CHUNK_SIZE) as usize
    }

    /// Bytes of the disk that lie in these chunks.
    pub(crate) fn bytes(self, chunks: &Range<u64>) -> u64 {
        let at = |chunk: u64| chunk.saturating_mul(CHUNK_SIZE).min(self.size);
        at(chunks.end).saturating_sub(at(chunks.start))
    }

    /// Chunks below one reference of a node at this level.
    pub(crate) fn span(level: u8) -> u64 {
        FANOUT.pow(u32::from(level))
    }

    /// The level of the root.
    pub(crate) fn root_level(self) -> u8 {
        (0..MAX_LEVEL).find(|&level| self.chunks() <= Self::span(level + 1)).unwrap_or(MAX_LEVEL)
    }

    /// References in node `index` of this level.
    pub(crate) fn refs(self, level: u8, index: u64) -> usize {
        let all = self.chunks().div_ceil(Self::span(level));
        all.saturating_sub(index.saturating_mul(FANOUT)).min(FANOUT) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_as_high_and_wide_as_the_disk_needs() {
        let of = |chunks: u64| Shape::new(ByteCount::new(chunks * CHUNK_SIZE));
        for (chunks, level) in [(0, 0), (1, 0), (256, 0), (257, 1), (65536, 1), (65537, 2), (1 << 30, 3)] {
            assert_eq!(of(chunks).root_level(), level, "{chunks}");
            let refs = of(chunks).refs(level, 0);
            assert!(refs as u64 * Shape::span(level) >= chunks);
        }
        assert_eq!(of(257).refs(0, 1), 1);
        assert_eq!(of(257).refs(0, 2), 0);
        let odd = Shape::new(ByteCount::new(CHUNK_SIZE + 5));
        assert_eq!((odd.chunks(), odd.chunk_len(0), odd.chunk_len(1), odd.chunk_len(2)), (2, 65536, 5, 0));
    }
}
