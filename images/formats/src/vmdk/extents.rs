//! Several extents, one behind the other, as one disk.

use crate::error::{Error, Result};
use crate::limits::check_size;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit, check_range};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Parts in the order of the disk; a part without a source reads as zeros.
#[derive(Default)]
pub(super) struct Extents {
    parts: Vec<(ByteRange, Option<Arc<dyn BlockSource>>)>,
}

impl Extents {
    fn end(&self) -> u64 {
        self.parts.last().map_or(0, |(range, _)| range.end())
    }

    /// Where a part of so many bytes would be.
    pub(super) fn next(&self, name: &str, bytes: u64) -> Result<ByteRange> {
        let start = self.end();
        let end =
            start.checked_add(bytes).ok_or_else(|| Error::damaged(name, None, "its extents have no end"))?;
        check_size(name, end)?;
        Ok(ByteRange::between(start, end))
    }

    pub(super) fn push(&mut self, range: ByteRange, source: Option<Arc<dyn BlockSource>>) {
        if !range.is_empty() {
            self.parts.push((range, source));
        }
    }

    /// The parts that a range touches: each with what of it, counted from the part's beginning.
    fn touched(
        &self,
        range: ByteRange,
    ) -> impl Iterator<Item = (ByteRange, ByteRange, Option<&dyn BlockSource>)> {
        let first = self.parts.partition_point(|(part, _)| part.end() <= range.start());
        let parts = self.parts[first..].iter().take_while(move |(part, _)| part.start() < range.end());
        let parts = parts.map(move |(part, source)| (part, part.intersect(range), source));
        parts.filter(|(_, both, _)| !both.is_empty()).map(|(part, both, source)| {
            let inner = ByteRange::between(both.start() - part.start(), both.end() - part.start());
            (both, inner, source.as_deref())
        })
    }
}

impl BlockSource for Extents {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.end())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let range = ByteRange::between(offset.get(), offset.get() + buf.len() as u64);
        for (both, inner, source) in self.touched(range) {
            let buf =
                &mut buf[(both.start() - range.start()) as usize..(both.end() - range.start()) as usize];
            match source {
                Some(source) => source.read_at(inner.offset(), buf)?,
                None => buf.fill(0),
            }
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let mut flow = ControlFlow::Continue(());
        for (both, inner, source) in self.touched(range) {
            let begin = both.start() - inner.start();
            match source {
                Some(source) => source.extents(inner, &mut |extent| {
                    let (start, end) = (begin + extent.range.start(), begin + extent.range.end());
                    flow = visit(Extent { range: ByteRange::between(start, end), kind: extent.kind });
                    flow
                })?,
                None => flow = visit(Extent { range: both, kind: ExtentKind::Zero }),
            }
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }
}
