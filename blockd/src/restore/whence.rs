//! Where a restore reads from: each block from the nearest place that is proven to hold it.
//!
//! A point of the instant tier is read there. Of one that only a vault holds, the blocks that its disk has not changed up to the
//! newest point it still has are read from that; the change map proves them equal. The rest comes from the vault.

use crate::error::Result;
use crate::jobs::Run;
use crate::points::{Held, Tiers};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Visit};
use control::Restored;
use layers::Until;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A recovery point, read from one tier or from both.
pub struct Whence {
    far: Arc<dyn BlockSource>,
    near: Option<Near>,
    is_instant: bool,
}

/// A newer point of the same disk in the instant tier.
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
        let far = point.source()?;
        let is_instant = point.instant.is_some();
        let near = if is_instant { None } else { Near::of(tiers, point) };
        let vault = if is_instant { None } else { point.copies.first() };
        run.update(|job| {
            job.vault = vault.map(|(vault, _)| vault.name.clone());
            job.restore = Some(Restored::default());
        });
        Ok(Self { far, near, is_instant })
    }

    /// Says in the job that these bytes were read, and where.
    pub fn was_read(&self, run: &Run, range: ByteRange) -> block::Result<()> {
        let (mut instant, mut vault) = (0, 0);
        self.parts(range, &mut |part, is_far| {
            let count = part.count().get();
            if is_far && !self.is_instant {
                vault += count
            } else {
                instant += count
            }
            Ok(ControlFlow::Continue(()))
        })?;
        run.update(|job| {
            job.bytes_read += instant + vault;
            let restore = job.restore.get_or_insert_default();
            restore.bytes_instant += instant;
            restore.bytes_vault += vault;
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

    fn place(&self, is_far: bool) -> &dyn BlockSource {
        match &self.near {
            Some(near) if !is_far => &*near.source,
            _ => &*self.far,
        }
    }
}

impl BlockSource for Whence {
    fn size(&self) -> ByteCount {
        self.far.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        let start = offset.get();
        self.parts(ByteRange::between(start, start + buf.len() as u64), &mut |part, is_far| {
            let within = (part.start() - start) as usize..(part.end() - start) as usize;
            self.place(is_far).read_at(part.offset(), &mut buf[within])?;
            Ok(ControlFlow::Continue(()))
        })
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.parts(range, &mut |part, is_far| {
            let mut flow = ControlFlow::Continue(());
            self.place(is_far).extents(part, &mut |extent| {
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
        let whence = Whence { far: disk(2), near, is_instant: false };
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
