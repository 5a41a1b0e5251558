//! Where a restore reads from: each block from the nearest place that is proven to hold it.
//!
//! A point of the instant tier is read there, and where its layers are damaged, from a vault that has it too. Of one that only a
//! vault holds, the blocks that its disk has not changed up to the newest point it still has are read from that; the change map
//! proves them equal. The rest comes from the vault.

use crate::bases::Spare;
use crate::error::Result;
use crate::jobs::Run;
use crate::points::{Held, Tiers};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Visit};
use control::Restored;
use layers::Until;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A recovery point, read from one tier or from both.
pub struct Whence {
    size: ByteCount,
    near: Option<Near>,
    /// The point in a vault.
    far: Spare,
    /// Bytes that damage of the instant tier made be read from the vault.
    saved: AtomicU64,
}

/// A point in the instant tier: the very one, or a newer one of the same disk.
struct Near {
    source: Arc<dyn BlockSource>,
    /// Where it may hold something else: ascending, without overlap.
    differs: Vec<ByteRange>,
}

impl Near {
    /// The newest point that the disk still has, and what changed up to it; none if history does not tell.
    fn of(tiers: &Tiers, point: &Held) -> Option<Self> {
        let named = tiers.disks.all().into_iter().find(|named| named.id == point.disk)?;
        let disk = named.disk().ok()?;
        let newest = disk.points().pop()?;
        let mut differs = disk.changes(Some(point.state), Until::State(newest.state)).ok()?.all();
        let source = disk.point_source(newest.state).ok()?;
        if source.size() < point.size {
            differs.insert(ByteRange::between(source.size().get(), point.size.get()));
        }
        Some(Self { source, differs: differs.clip(ByteRange::whole(point.size)).iter().collect() })
    }

    /// Visits the parts of a range as (part, whether it may differ).
    fn parts(
        &self,
        range: ByteRange,
        visit: &mut dyn FnMut(ByteRange, bool) -> block::Result<ControlFlow<()>>,
    ) -> block::Result<()> {
        let (mut at, mut next) =
            (range.start(), self.differs.partition_point(|differs| differs.end() <= range.start()));
        while at < range.end() {
            let differs = self.differs.get(next).map_or(ByteRange::between(range.end(), range.end()), |it| {
                ByteRange::between(it.start().max(at), it.end())
            });
            let is_same = at < differs.start();
            let end = if is_same { differs.start() } else { differs.end() }.min(range.end());
            if visit(ByteRange::between(at, end), !is_same)?.is_break() {
                return Ok(());
            }
            next += usize::from(!is_same);
            at = end;
        }
        Ok(())
    }
}

impl Whence {
    /// The point's content; the job says which vault it comes from, if from one.
    ///
    /// # Errors
    /// The last holder's failure.
    pub fn of(tiers: &Tiers, point: &Held, run: &Run) -> Result<Self> {
        let (near, far, vault) = match point.instant_source() {
            Ok(source) => (Some(Near { source, differs: Vec::new() }), point.clone().spare(), None),
            Err(_) => (Near::of(tiers, point), Spare::open(point.source()?), point.copies.first()),
        };
        run.update(|job| {
            job.vault = vault.map(|(vault, _)| vault.name.clone());
            job.restore = Some(Restored::default());
        });
        Ok(Self { size: point.size, near, far, saved: AtomicU64::new(0) })
    }

    /// Says in the job that these bytes were read, and where.
    pub fn was_read(&self, run: &Run, range: ByteRange) -> block::Result<()> {
        let (mut instant, mut vault) = (0, 0);
        self.parts(range, &mut |part, is_far| {
            *(if is_far { &mut vault } else { &mut instant }) += part.count().get();
            Ok(ControlFlow::Continue(()))
        })?;
        let noted = self.saved.swap(0, Ordering::Relaxed);
        let saved = noted.min(instant);
        // several pieces are under way: what is too much for this one is of another
        self.saved.fetch_add(noted - saved, Ordering::Relaxed);
        run.update(|job| {
            job.bytes_read += instant + vault;
            let restore = job.restore.get_or_insert_default();
            restore.bytes_instant += instant - saved;
            restore.bytes_vault += vault + saved;
            if saved > 0 {
                let note = "the instant tier is damaged: what it lacks was read from a vault";
                job.note = Some(note.to_owned());
            }
        });
        Ok(())
    }

    fn parts(
        &self,
        range: ByteRange,
        visit: &mut dyn FnMut(ByteRange, bool) -> block::Result<ControlFlow<()>>,
    ) -> block::Result<()> {
        match &self.near {
            Some(near) => near.parts(range, visit),
            None => visit(range, true).map(drop),
        }
    }

    fn read_far(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.far.source()?.read_at(offset, buf)
    }

    fn read_near(&self, near: &Near, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        let read = near.source.read_at(offset, buf);
        if self.far.save(read, offset, buf)? {
            self.saved.fetch_add(buf.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl BlockSource for Whence {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        let start = offset.get();
        self.parts(ByteRange::between(start, start + buf.len() as u64), &mut |part, is_far| {
            let buf = &mut buf[(part.start() - start) as usize..(part.end() - start) as usize];
            match &self.near {
                Some(near) if !is_far => self.read_near(near, part.offset(), buf)?,
                _ => self.read_far(part.offset(), buf)?,
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.parts(range, &mut |part, is_far| {
            let mut flow = ControlFlow::Continue(());
            let source = match &self.near {
                Some(near) if !is_far => &near.source,
                _ => self.far.source()?,
            };
            source.extents(part, &mut |extent| {
                flow = visit(extent);
                flow
            })?;
            Ok(flow)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, MemoryDisk};

    fn disk(byte: u8) -> Arc<MemoryDisk> {
        let disk = MemoryDisk::new(ByteCount::new(100));
        disk.write_at(ByteOffset::ZERO, &[byte; 100]).expect("written");
        Arc::new(disk)
    }

    #[test]
    fn what_may_differ_is_read_far_away_and_nothing_else() {
        let differs = [(10, 20), (20, 30), (99, 100)].map(|(start, end)| ByteRange::between(start, end));
        let near = Some(Near { source: disk(1), differs: differs.to_vec() });
        let far = Spare::open(disk(2));
        let whence = Whence { size: ByteCount::new(100), near, far, saved: AtomicU64::new(0) };
        for start in 0..100 {
            for end in start + 1..=100 {
                let mut found = vec![0; end - start];
                whence.read_at(ByteOffset::new(start as u64), &mut found).expect("read");
                let expected = |at: usize| if (10..30).contains(&at) || at == 99 { 2 } else { 1 };
                assert!((start..end).zip(&found).all(|(at, byte)| *byte == expected(at)), "{start} to {end}");
            }
        }
        let mut at = 0;
        whence
            .extents(ByteRange::between(0, 100), &mut |extent| {
                assert_eq!(extent.range.start(), at);
                at = extent.range.end();
                ControlFlow::Continue(())
            })
            .expect("visited");
        assert_eq!(at, 100);
    }
}
