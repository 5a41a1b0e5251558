//! Recovery points of the instant tier: listing them, reading them.

use crate::chain::EpochRecord;
use crate::data_file;
use crate::disk::Disk;
use crate::names::Numbered;
use crate::owner::OwnerIndex;
use crate::read::visit_extents;
use crate::view::{Below, Layer, read_place, walk};
use crate::{Error, FrozenMap, Result};
use block::sync::{Arc, lock};
use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Epoch, StateId, Time, Visit, check_range,
};

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

    /// The content of a recovery point. It stays readable while held, also when the point is deleted meanwhile.
    ///
    /// Cost: O(blocks written up to the point), to build its owner index; then reads are as on the live disk.
    ///
    /// # Errors
    /// `NoSuchPoint`; `Corrupt` if a map is damaged; `NoSpace` if the host has no room for the index.
    pub fn point_source(&self, state: StateId) -> Result<Arc<dyn BlockSource>> {
        let roots = lock(&self.roots);
        let record = roots.chain.epochs.iter().find(|epoch| epoch.state == state && epoch.is_point);
        let record = record.ok_or(Error::NoSuchPoint { disk: self.id, state })?;
        let blocks = record.size.blocks();
        let index = OwnerIndex::new(&*self.env.media, blocks)?;
        let mut slots: Vec<Option<Arc<Layer>>> = Vec::new();
        for layer in roots.chain.layers.iter().take_while(|layer| layer.top_epoch <= record.epoch) {
            index.lay(&self.read_map(layer.map)?, slots.len() as u16)?;
            slots.push(Some(self.sealed_layer(layer.layer)?));
        }
        let below = Below { pending: Vec::new(), index: Arc::new(index), slots };
        Ok(Arc::new(PointSource { size: record.size, below }))
    }

    /// The open file of a sealed layer.
    fn sealed_layer(&self, number: u64) -> Result<Arc<Layer>> {
        let view = self.view.load();
        if let Some(layer) = view.below.slots.iter().flatten().find(|layer| layer.number == number) {
            return Ok(layer.clone());
        }
        let file = data_file::open(&self.place(), number, block::OpenHow::Read)?;
        Ok(Arc::new(Layer { number, file }))
    }

    /// Reads a map file of this disk.
    pub(crate) fn read_map(&self, number: u64) -> Result<FrozenMap> {
        read_map(&self.place(), number)
    }
}

/// Reads a map file.
pub(crate) fn read_map(place: &crate::active::Place<'_>, number: u64) -> Result<FrozenMap> {
    let path = place.path(Numbered::Map(number));
    let bytes = place.media.read_whole(&path, FrozenMap::max_encoded_len(place.blocks()))?;
    Ok(FrozenMap::decode(&bytes, place.disk, number, place.blocks(), &path)?)
}

/// A sealed state.
struct PointSource {
    size: ByteCount,
    below: Below,
}

impl BlockSource for PointSource {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let (first, count) = (offset.get(), buf.len() as u64);
        walk(
            offset,
            count,
            |block, limit| self.below.locate(block, limit),
            |at, end, place| {
                read_place(place, at, &mut buf[(at - first) as usize..(end - first) as usize])?;
                Ok(true)
            },
        )?;
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        visit_extents(range, |block, limit| self.below.locate(block, limit), visit)?;
        Ok(())
    }
}
