//! Open sources of sealed states, and how a fold reaches everyone who looks blocks up.
//!
//! A state stays readable while a source of it is open: no fold takes it apart. What lies under it may be folded; the
//! source's own owner index then follows, as that of the live disk does.

use crate::Result;
use crate::disk::{Disk, Roots};
use crate::frozen::FrozenMap;
use crate::read::{extents_of, near_in, read_from};
use crate::succession::Succession;
use crate::verify::read_verified;
use crate::view::{Below, Layer, stored_in};
use block::sync::{Arc, Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, StateId, Stored, Visit, check_range};
use std::sync::Weak;

/// A sealed state, open for reading.
pub(crate) struct Source {
    /// Its files are this disk's.
    pub(crate) disk: Arc<Disk>,
    pub(crate) state: StateId,
    pub(crate) size: ByteCount,
    pub(crate) below: Succession<Below>,
}

/// All open sources of a disk.
#[derive(Default)]
pub(crate) struct Sources(Mutex<Vec<Weak<Source>>>);

impl Sources {
    /// Adds a source. The caller holds the roots, so that no fold commits between its making and this.
    pub(crate) fn add(&self, source: &Arc<Source>) {
        let mut all = lock(&self.0);
        all.retain(|source| source.strong_count() > 0);
        all.push(Arc::downgrade(source));
    }

    fn open(&self) -> Vec<Arc<Source>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }

    /// Memory of their owner indexes.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.open().iter().map(|source| source.below.load().index.memory_bytes()).sum()
    }

    /// Replaces what each reads through. The caller holds the roots.
    pub(crate) fn each_below(&self, change: impl Fn(Below) -> Below) {
        for source in self.open() {
            let below = Below::clone(&source.below.load());
            source.below.replace(Arc::new(change(below)));
        }
    }

    /// Does something with what each reads through.
    pub(crate) fn try_each(&self, act: impl Fn(&Below) -> Result<()>) -> Result<()> {
        self.open().iter().try_for_each(|source| act(&source.below.load()))
    }

    /// The states that must stay readable for them.
    pub(crate) fn states(&self) -> Vec<StateId> {
        self.open().iter().map(|source| source.state).collect()
    }
}

impl BlockSource for Source {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.disk.check_held()?;
        let verified = |layer: &Layer, at: u64, buf: &mut [u8], ()| {
            read_verified(layer, at, buf).map_err(|unread| self.disk.damage.name(layer.number, unread))
        };
        read_from(&self.below, |_| self.size, offset, buf, || (), verified)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        extents_of(&self.below, |_| self.size, range, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        check_range(range.offset(), range.count().get(), self.size).ok()?;
        // every read of a point is verified
        stored_in(&self.below.load(), range, |_, _, _| false)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        let below = self.below.load();
        below.ground.is_none() || near_in(&**below, range)
    }
}

/// Blocks that change hands.
pub(crate) struct Repoint {
    pub(crate) blocks: FrozenMap,
    /// Number of the layer that has them.
    pub(crate) from: u64,
    /// Number of the layer that has them too, from now on alone.
    pub(crate) to: u64,
    /// If nothing is left in `from`: bytes that `to` has now.
    pub(crate) united_bytes: Option<u64>,
}

impl Disk {
    /// Makes sure that [`repoint_readers`](Self::repoint_readers) needs no room.
    pub(crate) fn prepare_readers(&self, repoint: &Repoint) -> Result<()> {
        self.view.load().below.prepare(repoint)?;
        self.sources.try_each(|below| below.prepare(repoint))
    }

    /// Makes the live disk and every open source find the blocks in their new layer.
    pub(crate) fn repoint_readers(&self, roots: &mut Roots, repoint: &Repoint) -> Result<()> {
        let (below, is_sealing) = {
            let view = self.view.load();
            (view.below.clone(), view.is_sealing)
        };
        // before the index leads to the target for blocks whose sums came with them, or did not
        let target = below.slot_of(repoint.to).and_then(|slot| below.slots[usize::from(slot)].clone());
        if let Some(layer) = target {
            self.learn_sums(&roots.chain, &layer)?;
        }
        let (below, left) = below.repointed(repoint)?;
        self.seen.forget(&repoint.blocks);
        roots.retired.extend(left);
        self.publish_below(below, is_sealing);
        for source in self.sources.open() {
            let below = Below::clone(&source.below.load());
            source.below.replace(Arc::new(below.repointed(repoint)?.0));
        }
        Ok(())
    }

    /// Returns once nobody reads as of before the last [`repoint_readers`](Self::repoint_readers), or before the last
    /// seal.
    pub(crate) fn wait_for_readers(&self) {
        self.view.wait_for_former();
        self.sources.open().iter().for_each(|source| source.below.wait_for_former());
    }
}
