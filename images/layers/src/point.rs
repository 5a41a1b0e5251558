//! Recovery points of the instant tier: listing them, reading them.

use crate::chain::{EpochRecord, LayerRecord};
use crate::disk::Disk;
use crate::fold::layer_map;
use crate::names::{Numbered, must_exist};
use crate::owner::OwnerIndex;
use crate::source::Source;
use crate::succession::Succession;
use crate::view::{Below, Layer};
use crate::{Error, FrozenMap, HurtBlock, HurtMap, Result};
use block::sync::{Arc, lock};
use block::{BlockSource, ByteCount, DiskId, Epoch, OpenHow, StateId, Time};

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its state.
    pub state: StateId,
    /// The state sealed before it, point or not.
    pub parent: Option<StateId>,
    /// Its number.
    pub epoch: Epoch,
    /// When it was made.
    pub time: Time,
    /// The disk's size then.
    pub size: ByteCount,
    /// How long writes were blocked, in nanoseconds.
    pub seal_ns: u64,
    /// All members of its group; empty for a point of its own. The point counts only if each of them exists.
    pub group: Vec<(DiskId, StateId)>,
}

impl Point {
    pub(crate) fn from_record(record: &EpochRecord) -> Self {
        Self {
            state: record.state,
            parent: record.parent,
            epoch: record.epoch,
            time: record.time,
            size: record.size,
            seal_ns: record.seal_ns,
            group: record.group.clone(),
        }
    }
}

impl Disk {
    /// The recovery points, oldest first.
    pub fn points(&self) -> Vec<Point> {
        let roots = lock(&self.roots);
        roots.chain.epochs.iter().filter(|epoch| epoch.is_point).map(Point::from_record).collect()
    }

    /// Every state the disk remembers, oldest first: points, and states of which only the change map is left.
    pub fn history(&self) -> Vec<StateId> {
        lock(&self.roots).chain.epochs.iter().map(|epoch| epoch.state).collect()
    }

    /// The content of a recovery point or of a pinned state. It stays readable while held, also when the point is
    /// deleted meanwhile. Every read is verified against the layers' sums, as far as they are made.
    ///
    /// Cost: O(blocks written up to the point), to build its owner index; then reads are as on the live disk.
    ///
    /// # Errors
    /// `NoSuchPoint`; `Corrupt` if a map is damaged; `NoSpace` if the host has no room for the index.
    pub fn point_source(self: &Arc<Self>, state: StateId) -> Result<Arc<dyn BlockSource>> {
        let roots = lock(&self.roots);
        let record = roots.chain.readable(state).ok_or(Error::NoSuchPoint { disk: self.id, state })?;
        let layers = || roots.chain.layers.iter().take_while(|layer| layer.top_epoch <= record.epoch);
        // the disk may have been larger before
        let largest = layers().map(|layer| layer.blocks).max().unwrap_or(0);
        let index = OwnerIndex::new(&*self.env.media, largest.max(record.size.blocks()))?;
        let mut slots: Vec<Option<Arc<Layer>>> = Vec::new();
        for (place, layer) in layers().enumerate() {
            index.lay(&layer_map(&self.place(), &roots.chain, place)?, place as u16)?;
            slots.push(Some(self.sealed_layer(layer)?));
        }
        let Below { files, ground, .. } = self.view.load().below.clone();
        let below = Below { pending: Vec::new(), index: Arc::new(index), slots, files, ground };
        let source = Arc::new(Source {
            disk: self.clone(),
            state,
            size: record.size,
            below: Succession::new(Arc::new(below)),
        });
        self.sources.add(&source);
        Ok(source)
    }

    /// A sealed layer, open.
    pub(crate) fn sealed_layer(&self, record: &LayerRecord) -> Result<Arc<Layer>> {
        let view = self.view.load();
        if let Some(layer) = view.below.slots.iter().flatten().find(|layer| layer.number == record.layer) {
            return Ok(layer.clone());
        }
        Ok(Layer::open(&self.place(), &view.below.files, record)?)
    }

    /// Damaged blocks that reads have met since the disk was opened, at most a thousand; a scrub finds all.
    pub fn damage_met(&self) -> Vec<HurtBlock> {
        self.damage.found()
    }

    /// Change maps found damaged since the disk was opened, by asking for changes or by a scrub.
    pub fn changes_damaged(&self) -> Vec<HurtMap> {
        self.damage.maps()
    }

    /// Reads a map file of this disk, which covers this many blocks.
    pub(crate) fn read_map(&self, number: u64, blocks: u64) -> Result<FrozenMap> {
        read_map(&self.place(), number, blocks)
    }
}

/// Reads a map file that covers this many blocks.
pub(crate) fn read_map(place: &crate::active::Place<'_>, number: u64, blocks: u64) -> Result<FrozenMap> {
    let path = place.path(Numbered::Map(number));
    let file = must_exist(&path, place.media.open(&path, OpenHow::Read))?;
    Ok(FrozenMap::read_from(&*file, place.media, place.disk, number, blocks, &path)?)
}
