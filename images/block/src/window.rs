//! A part of a source, as a source of its own: a partition of a disk, say.

use crate::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, Result, Stored, Visit, check_range};
use std::sync::Arc;

/// The bytes of `range` of another source, addressed from zero.
pub struct Window {
    source: Arc<dyn BlockSource>,
    range: ByteRange,
}

impl Window {
    /// The window.
    ///
    /// # Errors
    /// `OutOfRange` if the range passes the end of the source.
    pub fn new(source: Arc<dyn BlockSource>, range: ByteRange) -> Result<Self> {
        check_range(range.offset(), range.count().get(), source.size())?;
        Ok(Self { source, range })
    }
}

impl BlockSource for Window {
    fn size(&self) -> ByteCount {
        self.range.count()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        self.source.read_at(ByteOffset::new(self.range.start() + offset.get()), buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let base = self.range.start();
        let outer = ByteRange::between(base + range.start(), base + range.end());
        self.source.extents(outer, &mut |extent| {
            let range = ByteRange::between(extent.range.start() - base, extent.range.end() - base);
            visit(Extent { range, kind: extent.kind })
        })
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        check_range(range.offset(), range.count().get(), self.size()).ok()?;
        let base = self.range.start();
        self.source.stored(ByteRange::between(base + range.start(), base + range.end()))
    }

    fn is_near(&self, range: ByteRange) -> bool {
        let base = self.range.start();
        self.source.is_near(ByteRange::between(base + range.start(), base + range.end()))
    }
}
