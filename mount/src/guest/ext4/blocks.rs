//! Blocks of the filesystem: a small cache over the source, under what the journal holds newer.

use super::journal::{Newer, Overlay};
use crate::{Error, Result};
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteOffset};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes fetched and kept at once. Metadata lies close together (inode tables, directory blocks), and whoever serves
/// the blocks prefers few large requests; a block larger than this is its own line.
const LINE: u64 = 32 << 10;
/// Bytes of lines kept for one filesystem; several of them must fit the parser's memory limit.
const CACHE_LIMIT: u64 = 12 << 20;

/// The bytes of one block, shared with the cache.
pub(super) struct Block {
    line: Arc<[u8]>,
    start: usize,
    len: usize,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // made only by `Blocks`, which checked the range
        self.line.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[derive(Default)]
struct Cache {
    lines: HashMap<u64, (Arc<[u8]>, u64)>,
    tick: u64,
}

/// The blocks of one filesystem.
pub(super) struct Blocks {
    source: Arc<dyn BlockSource>,
    block_size: u32,
    count: u64,
    overlay: Overlay,
    cache: Mutex<Cache>,
}

impl Blocks {
    /// `count` blocks from the start of the source, or as many as it holds whole.
    pub(super) fn new(source: Arc<dyn BlockSource>, block_size: u32, count: u64) -> Self {
        let count = count.min(source.size().get() / u64::from(block_size));
        Self { source, block_size, count, overlay: Overlay::default(), cache: Mutex::default() }
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
        let size = u64::from(self.block_size);
        let line_size = LINE.max(size);
        let at = number * size;
        let line = self.line(at / line_size, line_size)?;
        let start = (at % line_size) as usize;
        let len = self.block_size as usize;
        if start + len > line.len() {
            return Err(Error::corrupt(
                "the volume",
                format!("it ends before block {number} of its filesystem"),
            ));
        }
        Ok(Block { line, start, len })
    }

    fn line(&self, index: u64, line_size: u64) -> Result<Arc<[u8]>> {
        let mut cache = lock(&self.cache);
        cache.tick += 1;
        let tick = cache.tick;
        if let Some((line, used)) = cache.lines.get_mut(&index) {
            *used = tick;
            return Ok(Arc::clone(line));
        }
        drop(cache);
        let start = index * line_size;
        let len = line_size.min(self.source.size().get().saturating_sub(start));
        let mut bytes = vec![0; len as usize];
        self.source.read_at(ByteOffset::new(start), &mut bytes)?;
        let line: Arc<[u8]> = bytes.into();
        let mut cache = lock(&self.cache);
        if cache.lines.len() as u64 >= CACHE_LIMIT / line_size {
            let oldest = cache.lines.iter().min_by_key(|(_, (_, used))| *used).map(|(index, _)| *index);
            oldest.and_then(|index| cache.lines.remove(&index));
        }
        cache.lines.insert(index, (Arc::clone(&line), tick));
        Ok(line)
    }
}

/// A block whose first four bytes were blanked in the journal because they looked like the journal's own.
fn unescape(block: &Block) -> Block {
    let mut bytes = block.to_vec();
    if let Some(start) = bytes.get_mut(..4) {
        start.copy_from_slice(&super::journal::MAGIC.to_be_bytes());
    }
    Block { len: bytes.len(), line: bytes.into(), start: 0 }
}

pub(super) fn damaged_in_journal(number: u64) -> Error {
    Error::corrupt(
        format!("block {number}"),
        "its newest version, in the journal, does not match its checksum",
    )
}
