//! Blocks of the filesystem, under what the journal holds newer.

use super::journal::{Newer, Overlay};
use crate::guest::lines::{Bytes, Lines};
use crate::{Error, Result};
use block::BlockSource;
use std::sync::Arc;

/// The bytes of one block, shared with the cache.
pub(super) type Block = Bytes;

/// The blocks of one filesystem.
pub(super) struct Blocks {
    lines: Lines,
    block_size: u32,
    count: u64,
    overlay: Overlay,
}

impl Blocks {
    /// `count` blocks from the start of the source, or as many as it holds whole.
    pub(super) fn new(source: Arc<dyn BlockSource>, block_size: u32, count: u64) -> Self {
        let count = count.min(source.size().get() / u64::from(block_size));
        Self { lines: Lines::new(source), block_size, count, overlay: Overlay::default() }
    }

    pub(super) fn set_overlay(&mut self, overlay: Overlay) {
        self.overlay = overlay;
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether the blocks `first..first + count` are all on this filesystem and its volume.
    pub(super) fn contains(&self, first: u64, count: u64) -> bool {
        first.checked_add(count).is_some_and(|end| end <= self.count)
    }

    /// One block as a mount would see it, journal included.
    pub(super) fn read(&self, number: u64) -> Result<Block> {
        match self.overlay.get(number) {
            None => self.read_below(number),
            Some(Newer::At(journal)) => self.read_below(journal),
            Some(Newer::Escaped(journal)) => Ok(unescape(&self.read_below(journal)?)),
            Some(Newer::Damaged) => Err(damaged_in_journal(number)),
        }
    }

    /// One block as it lies on the volume, whatever the journal holds.
    pub(super) fn read_below(&self, number: u64) -> Result<Block> {
        if !self.contains(number, 1) {
            return Err(Error::corrupt(
                "a block number",
                format!("{number} on a filesystem and volume of {} blocks", self.count),
            ));
        }
        self.lines.read(number * u64::from(self.block_size), self.block_size as usize)
    }
}

/// A block whose first four bytes were blanked in the journal because they looked like the journal's own.
fn unescape(block: &Block) -> Block {
    let mut bytes = block.to_vec();
    if let Some(start) = bytes.get_mut(..4) {
        start.copy_from_slice(&super::journal::MAGIC.to_be_bytes());
    }
    bytes.into()
}

pub(super) fn damaged_in_journal(number: u64) -> Error {
    Error::corrupt(
        format!("block {number}"),
        "its newest version, in the journal, does not match its checksum",
    )
}
