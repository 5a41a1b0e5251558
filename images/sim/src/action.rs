//! Requests to a disk as values, so that tests can draw them, run them and tell the model.

use crate::Rng;
use block::{BLOCK_SIZE, BlockDevice, ByteCount, ByteOffset, ByteRange, Provision, Result};
use std::fmt;

/// One request to a disk.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Write these bytes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Zero this range.
    Zero(ByteRange, Provision),
    /// Discard this range.
    Discard(ByteRange),
    /// Flush.
    Flush,
}

impl fmt::Debug for Action {
    // without the bytes: they are random, and histories are long
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { offset, bytes } => write!(f, "write {offset}..{}", offset + bytes.len() as u64),
            Self::Zero(range, how) => write!(f, "zero {}..{} {how:?}", range.start(), range.end()),
            Self::Discard(range) => write!(f, "discard {}..{}", range.start(), range.end()),
            Self::Flush => f.write_str("flush"),
        }
    }
}

impl Action {
    /// A random request within a disk of this size: sizes and alignments of every sort, whole blocks most often, and
    /// a few hot blocks that are touched again and again.
    pub fn random(rng: &mut Rng, size: ByteCount) -> Self {
        let range = random_range(rng, size);
        match rng.below(16) {
            0..=8 => {
                let bytes = rng.bytes(range.count().get() as usize);
                Self::Write { offset: range.start(), bytes }
            }
            9..=11 => {
                let how = if rng.chance(1, 2) { Provision::Sparse } else { Provision::Allocated };
                Self::Zero(range, how)
            }
            12..=13 => Self::Discard(range),
            _ => Self::Flush,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// What the device reports.
    pub fn run(&self, device: &dyn BlockDevice) -> Result<()> {
        match self {
            Self::Write { offset, bytes } => device.write_at(ByteOffset::new(*offset), bytes),
            Self::Zero(range, how) => device.zero(*range, *how),
            Self::Discard(range) => device.discard(*range),
            Self::Flush => device.flush(),
        }
    }

    /// The bytes it changes on a disk of this size: for a discard those of whole blocks.
    fn range(&self, size: ByteCount) -> ByteRange {
        match self {
            Self::Write { offset, bytes } => ByteRange::between(*offset, offset + bytes.len() as u64),
            Self::Zero(range, _) => *range,
            Self::Discard(range) => {
                let end = range.end();
                // the end of the disk ends its last block
                let end = if end == size.get() { end } else { end / BLOCK_SIZE * BLOCK_SIZE };
                ByteRange::between(range.start().next_multiple_of(BLOCK_SIZE), end)
            }
            Self::Flush => ByteRange::default(),
        }
    }

    /// The blocks it changes on a disk of this size.
    pub(crate) fn blocks(&self, size: ByteCount) -> std::ops::Range<u64> {
        let range = self.range(size);
        if range.is_empty() {
            return 0..0;
        }
        range.start() / BLOCK_SIZE..range.end().div_ceil(BLOCK_SIZE)
    }

    /// Changes the content of one of its [`blocks`](Self::blocks).
    pub(crate) fn apply_to_block(&self, block: u64, content: &mut [u8]) {
        let base = block * BLOCK_SIZE;
        let whole = ByteRange::between(base, base + content.len() as u64);
        match self {
            Self::Write { offset, bytes } => {
                let part = ByteRange::between(*offset, offset + bytes.len() as u64).intersect(whole);
                let from = &bytes[(part.start() - offset) as usize..(part.end() - offset) as usize];
                content[(part.start() - base) as usize..(part.end() - base) as usize].copy_from_slice(from);
            }
            Self::Zero(range, _) => {
                let part = range.intersect(whole);
                content[(part.start() - base) as usize..(part.end() - base) as usize].fill(0);
            }
            // only whole blocks are discarded
            Self::Discard(_) => content.fill(0),
            Self::Flush => {}
        }
    }
}

/// The longest random request, in blocks.
const MAX_BLOCKS: u64 = 12;
/// Blocks that half of all requests go to.
const HOT_BLOCKS: u64 = 6;

fn random_range(rng: &mut Rng, size: ByteCount) -> ByteRange {
    let size = size.get();
    if size == 0 {
        return ByteRange::default();
    }
    let blocks = size.div_ceil(BLOCK_SIZE);
    let near = if rng.chance(1, 2) { blocks.min(HOT_BLOCKS) } else { blocks };
    let (block, count) = (rng.below(near), 1 + rng.below(MAX_BLOCKS));
    let (mut start, mut end) = (block * BLOCK_SIZE, (block + count) * BLOCK_SIZE);
    match rng.below(4) {
        // within one or two blocks
        0 => {
            start += rng.below(BLOCK_SIZE);
            end = start + 1 + rng.below(BLOCK_SIZE);
        }
        // many blocks, whole only in the middle
        1 => {
            start += rng.below(BLOCK_SIZE);
            end = end.saturating_sub(rng.below(BLOCK_SIZE)).max(start + 1);
        }
        _ => {}
    }
    let start = start.min(size - 1);
    ByteRange::between(start, end.clamp(start + 1, size.max(start + 1)))
}
