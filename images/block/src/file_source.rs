//! A file as a source of blocks: a raw image.

use crate::sync::Arc;
use crate::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, MediaFile, Result, Stored, Visit,
    check_range,
};

/// The bytes of a file; its holes are holes. The file's length is taken once and must not shrink meanwhile.
pub struct FileSource {
    file: Arc<dyn MediaFile>,
    size: ByteCount,
}

impl FileSource {
    /// The bytes of this file.
    ///
    /// # Errors
    /// What the host reports.
    pub fn new(file: Arc<dyn MediaFile>) -> Result<Self> {
        let size = ByteCount::new(file.size()?);
        Ok(Self { file, size })
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        self.file.read_at(offset.get(), buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut at = range.start();
        for data in self.file.data_ranges(range)? {
            for (end, kind) in [(data.start(), ExtentKind::Hole), (data.end(), ExtentKind::Data)] {
                if end > at && visit(Extent { range: ByteRange::between(at, end), kind }).is_break() {
                    return Ok(());
                }
                at = at.max(end);
            }
        }
        if at < range.end() {
            // the last extent: there is no walk left to stop
            let _stop = visit(Extent { range: ByteRange::between(at, range.end()), kind: ExtentKind::Hole });
        }
        Ok(())
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        check_range(range.offset(), range.count().get(), self.size).ok()?;
        let (offset, count) = (range.start(), range.count().get());
        Some(Stored { file: self.file.clone(), offset, count, is_verified: true, held: None })
    }
}
