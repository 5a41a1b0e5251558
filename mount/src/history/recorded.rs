//! Remembers what a parser read.

use block::sync::{Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, RangeSet, Result, Visit};
use std::sync::Arc;

/// A source that remembers which of its bytes were read.
pub(crate) struct Recorded {
    source: Arc<dyn BlockSource>,
    read: Mutex<RangeSet>,
}

impl Recorded {
    pub(crate) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self { source, read: Mutex::default() }
    }

    /// The bytes read so far.
    pub(crate) fn so_far(&self) -> RangeSet {
        lock(&self.read).clone()
    }
}

impl BlockSource for Recorded {
    fn size(&self) -> ByteCount {
        self.source.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        if let Some(range) = ByteRange::new(offset, ByteCount::new(buf.len() as u64)) {
            lock(&self.read).insert(range);
        }
        self.source.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        lock(&self.read).insert(range);
        self.source.extents(range, visit)
    }
}
