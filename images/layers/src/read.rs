//! Reading the live disk.

use crate::disk::Disk;
use crate::view::{Walk, read_place, walk};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, Result, Visit, check_range};

impl BlockSource for Disk {
    fn size(&self) -> ByteCount {
        self.size
    }

    /// Cost: one look-up in the active map and, for what it lacks, one in the owner index per run of blocks; one file
    /// read per run.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let (first, count) = (offset.get(), buf.len() as u64);
        let mut done = 0;
        loop {
            let view = self.view.load();
            let start = ByteOffset::new(first + done);
            let walked = walk(
                start,
                count - done,
                |block, limit| view.locate(block, limit),
                |at, end, place| {
                    read_place(place, at, &mut buf[(at - first) as usize..(end - first) as usize])?;
                    Ok(true)
                },
            )?;
            match walked {
                Walk::Done => return Ok(()),
                Walk::OutdatedAt(at) => done = at - first,
            }
        }
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut at = range.start();
        loop {
            let view = self.view.load();
            let rest = ByteRange::between(at, range.end());
            match visit_extents(rest, |block, limit| view.locate(block, limit), visit)? {
                Walk::Done => return Ok(()),
                Walk::OutdatedAt(outdated) => at = outdated,
            }
        }
    }
}

/// Visits extents, neighbours of one kind as one.
pub(crate) fn visit_extents<'a>(
    range: ByteRange,
    locate: impl Fn(u64, u64) -> (crate::view::Place<'a>, u64),
    visit: &mut Visit<'_>,
) -> Result<Walk> {
    let mut open: Option<Extent> = None;
    let mut stopped = false;
    let walked = walk(range.offset(), range.count().get(), locate, |at, end, place| {
        let Some(kind) = place.kind() else { return Ok(true) };
        match &mut open {
            Some(extent) if extent.kind == kind => {
                extent.range = ByteRange::between(extent.range.start(), end)
            }
            _ => {
                let next = Extent { range: ByteRange::between(at, end), kind };
                stopped = open.replace(next).is_some_and(|done| visit(done).is_break());
            }
        }
        Ok(!stopped)
    })?;
    match open {
        Some(extent) if !stopped && visit(extent).is_break() => Ok(Walk::Done),
        _ => Ok(walked),
    }
}
