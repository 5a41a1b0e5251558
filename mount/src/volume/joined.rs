//! Several disks as one source, end to end.

use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Error, Extent, Result, Visit, check_range};
use std::sync::Arc;

/// Disks, each behind the one before it.
pub struct Joined {
    disks: Vec<(ByteRange, Arc<dyn BlockSource>)>,
    size: u64,
}

impl Joined {
    /// Puts them in this order.
    ///
    /// # Errors
    /// `OutOfRange` if they are larger together than any address.
    pub fn new(sources: Vec<Arc<dyn BlockSource>>) -> Result<Self> {
        let mut joined = Self { disks: Vec::with_capacity(sources.len()), size: 0 };
        for source in sources {
            let (offset, count) = (joined.size, source.size().get());
            let end = offset.checked_add(count).filter(|end| i64::try_from(*end).is_ok());
            let end = end.ok_or(Error::OutOfRange { offset, count, size: i64::MAX as u64 })?;
            joined.disks.push((ByteRange::between(offset, end), source));
            joined.size = end;
        }
        Ok(joined)
    }

    /// The addresses of each.
    pub fn ranges(&self) -> impl Iterator<Item = ByteRange> {
        self.disks.iter().map(|(range, _)| *range)
    }

    /// The disks that have a part in a range, with that part.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, ByteRange, &dyn BlockSource)> {
        let parts = self.disks.iter().map(move |(disk, source)| (*disk, disk.intersect(range), &**source));
        parts.filter(|(_, part, _)| !part.is_empty())
    }
}

impl BlockSource for Joined {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.size)
    }

    fn read_at(&self, offset: ByteOffset, mut buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let range = ByteRange::between(offset.get(), offset.get() + buf.len() as u64);
        for (disk, part, source) in self.parts(range) {
            let (now, rest) = buf.split_at_mut(part.count().get() as usize);
            source.read_at(ByteOffset::new(part.start() - disk.start()), now)?;
            buf = rest;
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        for (disk, part, source) in self.parts(range) {
            let base = disk.start();
            let mut stopped = false;
            source.extents(ByteRange::between(part.start() - base, part.end() - base), &mut |extent| {
                let range = ByteRange::between(base + extent.range.start(), base + extent.range.end());
                let flow = visit(Extent { range, kind: extent.kind });
                stopped = flow.is_break();
                flow
            })?;
            if stopped {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, MemoryDisk};
    use std::ops::ControlFlow;

    #[test]
    fn reads_cross_from_disk_to_disk() {
        let disk = |fill: u8, len: u64| -> Arc<dyn BlockSource> {
            let disk = MemoryDisk::new(ByteCount::new(len));
            disk.write_at(ByteOffset::ZERO, &vec![fill; len as usize]).unwrap();
            Arc::new(disk)
        };
        let joined = Joined::new(vec![disk(1, 10), disk(2, 0), disk(3, 7)]).unwrap();
        assert_eq!(joined.ranges().map(|range| range.end()).collect::<Vec<_>>(), [10, 10, 17]);
        let mut bytes = [0; 9];
        joined.read_at(ByteOffset::new(5), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 1, 1, 1, 1, 3, 3, 3, 3]);
        let mut ranges = Vec::new();
        let visit = &mut |extent: Extent| {
            ranges.push((extent.range.start(), extent.range.end()));
            ControlFlow::Continue(())
        };
        joined.extents(ByteRange::between(2, 12), visit).unwrap();
        assert_eq!(ranges, [(2, 10), (10, 12)]);
    }
}
