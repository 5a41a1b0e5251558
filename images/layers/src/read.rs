//! Reading the live disk.

use crate::disk::Disk;
use crate::succession::Succession;
use crate::view::{Layer, Locate, Place, Walk, read_place, stored_in, walk};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, Result, Stored, Visit, check_range};
use std::ops::ControlFlow;

impl BlockSource for Disk {
    /// The size now: [`Disk::resize`] changes it. Whoever must not see that, as an export that told its client a size,
    /// keeps what this returned.
    fn size(&self) -> ByteCount {
        self.view.load().size
    }

    /// Cost: one look-up in the active map and, for what it lacks, one in the owner index per run of blocks; one file
    /// read per run.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.check_held()?;
        let sealed = |layer: &Layer, at: u64, buf: &mut [u8], since| self.read_sealed(layer, at, buf, since);
        read_from(&self.view, |view| view.size, offset, buf, || self.seen.since(), sealed)?;
        if let Some(ground) = self.ground() {
            self.bring_missed(&ground);
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        extents_of(&self.view, |view| view.size, range, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        // `read_at` says why not
        self.check_held().ok()?;
        let view = self.view.load();
        check_range(range.offset(), range.count().get(), view.size).ok()?;
        stored_in(&view, range, |layer, start, end| self.is_verified(layer, start, end))
    }

    fn is_near(&self, range: ByteRange) -> bool {
        let view = self.view.load();
        view.below.ground.is_none() || near_in(&**view, range)
    }
}

/// Reads through the newest of the published values, and through the next where one proves too old. Bytes of sealed
/// layers are read by `sealed`, which is told what `before` said before the value was loaded.
pub(crate) fn read_from<T: Locate, S: Copy>(
    published: &Succession<T>,
    size: impl Fn(&T) -> ByteCount,
    offset: ByteOffset,
    buf: &mut [u8],
    before: impl Fn() -> S,
    sealed: impl Fn(&Layer, u64, &mut [u8], S) -> Result<()>,
) -> Result<()> {
    let (first, count) = (offset.get(), buf.len() as u64);
    let mut done = 0;
    loop {
        let moment = before();
        let view = published.load();
        check_range(offset, count, size(&view))?;
        let start = ByteOffset::new(first + done);
        let walked = walk(
            start,
            count - done,
            |block, limit| view.locate(block, limit),
            |at, end, place| {
                let buf = &mut buf[(at - first) as usize..(end - first) as usize];
                read_place(place, at, buf, |layer, buf| sealed(layer, at, buf, moment))?;
                Ok(true)
            },
        )?;
        match walked {
            Walk::Done => return Ok(()),
            Walk::OutdatedAt(at) => done = at - first,
        }
    }
}

/// Whether none of a range has to be read from a base that is far away.
pub(crate) fn near_in(view: &impl Locate, range: ByteRange) -> bool {
    let mut is_near = true;
    let locate = |block, limit| view.locate(block, limit);
    let walked = walk(range.offset(), range.count().get(), locate, |at, end, place| {
        if let Place::Ground(ground) = place {
            is_near = ground.is_near(ByteRange::between(at, end));
        }
        Ok(is_near)
    });
    // an outdated view only ends the walk early
    walked.is_ok() && is_near
}

/// Visits the extents of a range in the same way.
pub(crate) fn extents_of<T: Locate>(
    published: &Succession<T>,
    size: impl Fn(&T) -> ByteCount,
    range: ByteRange,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut at = range.start();
    loop {
        let view = published.load();
        check_range(range.offset(), range.count().get(), size(&view))?;
        let rest = ByteRange::between(at, range.end());
        match visit_extents(rest, |block, limit| view.locate(block, limit), visit)? {
            Walk::Done => return Ok(()),
            Walk::OutdatedAt(outdated) => at = outdated,
        }
    }
}

/// Visits extents, neighbours of one kind as one.
fn visit_extents<'a>(
    range: ByteRange,
    locate: impl Fn(u64, u64) -> (crate::view::Place<'a>, u64),
    visit: &mut Visit<'_>,
) -> Result<Walk> {
    let mut open: Option<Extent> = None;
    let mut stopped = false;
    let mut take = |next: Extent| {
        match &mut open {
            Some(extent) if extent.kind == next.kind => {
                extent.range = ByteRange::between(extent.range.start(), next.range.end())
            }
            _ => stopped = open.replace(next).is_some_and(|done| visit(done).is_break()),
        }
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let walked = walk(range.offset(), range.count().get(), locate, |at, end, place| {
        let range = ByteRange::between(at, end);
        match (place, place.kind()) {
            (Place::Ground(ground), _) => {
                let mut goes_on = true;
                ground.extents(range, &mut |extent| {
                    let flow = take(extent);
                    goes_on = flow.is_continue();
                    flow
                })?;
                Ok(goes_on)
            }
            (_, Some(kind)) => Ok(take(Extent { range, kind }).is_continue()),
            (_, None) => Ok(true),
        }
    })?;
    match open {
        Some(extent) if !stopped && visit(extent).is_break() => Ok(Walk::Done),
        _ => Ok(walked),
    }
}
