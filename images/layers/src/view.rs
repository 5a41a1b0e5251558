//! What a disk consists of at one moment, as readers and writers see it. Replaced whole, never changed.

use crate::active::{Active, Place as Files};
use crate::base::Ground;
use crate::chain::LayerRecord;
use crate::data_file;
use crate::files::OpenFiles;
use crate::owner::{Owner, OwnerIndex};
use crate::source::Repoint;
use crate::state::BlockState;
use crate::sums::SumsFile;
use crate::verify::LayerSums;
use block::sync::Arc;
use block::sync::atomic::{AtomicU64, Ordering};
use block::{
    BLOCK_SIZE, ByteCount, ByteOffset, ByteRange, Error, ExtentKind, MediaFile, OpenHow, Result, Stored,
    planted,
};
use std::any::Any;
use std::sync::Weak;

/// A sealed layer's bytes.
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn MediaFile>,
    /// Bytes of its blocks that have bytes.
    pub(crate) bytes: AtomicU64,
    pub(crate) sums: LayerSums,
}

impl Layer {
    /// A sealed layer with what it has of sums. That its files are there and whole is checked now; they are opened when
    /// they are read.
    pub(crate) fn open(place: &Files<'_>, files: &Arc<OpenFiles>, record: &LayerRecord) -> Result<Arc<Self>> {
        let (blocks, how) = (record.file_blocks, OpenHow::Read);
        data_file::open(place, record.layer, blocks, how)?;
        let sums = match record.sums {
            Some(sums) => {
                LayerSums::new(SumsFile::open(place, sums.number, blocks, how)?.lazy(files), sums.is_whole)
            }
            None => LayerSums::default(),
        };
        Ok(Arc::new(Self { sums, ..Self::unsummed(place, files, record.layer, blocks) }))
    }

    /// A layer of this many blocks that was just sealed.
    pub(crate) fn unsummed(place: &Files<'_>, files: &Arc<OpenFiles>, number: u64, blocks: u64) -> Self {
        let file = data_file::lazy(place, files, number, blocks);
        Self { number, file, bytes: AtomicU64::new(0), sums: LayerSums::default() }
    }
}

/// A slot whose layer left the table; another may take it once nobody can still look the layer up.
pub(crate) struct Retired {
    pub(crate) slot: u16,
    pub(crate) layer: Weak<Layer>,
}

/// The layers under the active one.
#[derive(Clone)]
pub(crate) struct Below {
    /// Layers sealed but not yet in the index, newest first. They still have their live maps.
    pub(crate) pending: Vec<Arc<Active>>,
    pub(crate) index: Arc<OwnerIndex>,
    /// The layers the index names.
    pub(crate) slots: Vec<Option<Arc<Layer>>>,
    /// Where their files are open.
    pub(crate) files: Arc<OpenFiles>,
    /// What the disk stands on.
    pub(crate) ground: Option<Arc<Ground>>,
}

/// A disk at one moment.
pub(crate) struct View {
    /// Equal to the disk's serial number as long as this view is the newest. Always even.
    pub(crate) serial: u64,
    /// The disk's size; its active layer is as large.
    pub(crate) size: ByteCount,
    pub(crate) active: Arc<Active>,
    pub(crate) below: Below,
    /// The newest pending layer's seal is not durable yet: no flush may succeed before it is.
    pub(crate) is_sealing: bool,
}

/// Where bytes are.
pub(crate) enum Place<'a> {
    /// In the file of a layer with a live map, at the same offset as on the disk.
    File(&'a Arc<dyn MediaFile>),
    /// In a sealed layer, at the same offset.
    Sealed(&'a Layer),
    /// In what the disk stands on, at the same offset.
    Ground(&'a Ground),
    /// Nowhere: they are zeros, made or never written.
    Zeros(ExtentKind),
    /// The index names a layer this view is too old to know: look again with the newest view.
    Outdated,
}

impl Place<'_> {
    /// What kind all of it is; a base has kinds of its own.
    pub(crate) fn kind(&self) -> Option<ExtentKind> {
        match self {
            Self::File(_) | Self::Sealed(_) => Some(ExtentKind::Data),
            Self::Zeros(kind) => Some(*kind),
            Self::Ground(_) | Self::Outdated => None,
        }
    }
}

fn in_layer(layer: &Active, state: BlockState) -> Option<Place<'_>> {
    match state {
        BlockState::Absent => None,
        BlockState::Zero => Some(Place::Zeros(ExtentKind::Zero)),
        BlockState::Hydrated | BlockState::Data => Some(Place::File(&layer.file)),
    }
}

/// What readers look blocks up in.
pub(crate) trait Locate {
    /// Where a block's bytes are, and for how many blocks from it, at most `limit`, the answer is the same.
    fn locate(&self, block: u64, limit: u64) -> (Place<'_>, u64);
}

impl Below {
    /// The slot of the layer with this number.
    pub(crate) fn slot_of(&self, number: u64) -> Option<u16> {
        let is_it = |layer: &Option<Arc<Layer>>| layer.as_ref().is_some_and(|layer| layer.number == number);
        self.slots.iter().position(is_it).map(|slot| slot as u16)
    }

    /// Where a block is that no layer has, and for how many blocks from it, at most `limit`.
    fn unowned(&self, block: u64, limit: u64) -> (Place<'_>, u64) {
        match &self.ground {
            Some(ground) if block < ground.blocks() => {
                (Place::Ground(ground), limit.min(ground.blocks() - block))
            }
            _ => (Place::Zeros(ExtentKind::Hole), limit),
        }
    }

    /// Takes the room that [`repointed`](Self::repointed) needs.
    pub(crate) fn prepare(&self, repoint: &Repoint) -> crate::Result<()> {
        match self.slot_of(repoint.from) {
            Some(from) => Ok(self.index.prepare(&repoint.blocks, from)?),
            None => Ok(()),
        }
    }

    /// Finds the blocks in their new layer, at once also for those who use this value; the second value is the slot that
    /// is free once its layer is used no more.
    pub(crate) fn repointed(mut self, repoint: &Repoint) -> crate::Result<(Self, Option<Retired>)> {
        let (Some(from), Some(to)) = (self.slot_of(repoint.from), self.slot_of(repoint.to)) else {
            return Ok((self, None));
        };
        self.index.repoint(&repoint.blocks, from, to)?;
        let left = match repoint.united_bytes {
            Some(bytes) => {
                if let Some(target) = &self.slots[usize::from(to)] {
                    target.bytes.store(bytes, Ordering::Relaxed);
                }
                self.slots[usize::from(from)].take()
            }
            None => None,
        };
        Ok((self, left.map(|layer| Retired { slot: from, layer: Arc::downgrade(&layer) })))
    }
}

impl Locate for Below {
    fn locate(&self, block: u64, mut limit: u64) -> (Place<'_>, u64) {
        for layer in &self.pending {
            let (state, count) = layer.map.run(block, limit);
            limit = count;
            if let Some(place) = in_layer(layer, state) {
                return (place, limit);
            }
        }
        let (owner, count) = self.index.run(block, limit);
        let place = match owner {
            Owner::None => return self.unowned(block, count),
            Owner::Zero if planted!("zeros-show-the-base") => return self.unowned(block, count),
            Owner::Zero => Place::Zeros(ExtentKind::Zero),
            Owner::Slot(slot) => match self.slots.get(usize::from(slot)) {
                Some(Some(layer)) => Place::Sealed(layer),
                _ => Place::Outdated,
            },
        };
        (place, count)
    }
}

impl Locate for View {
    fn locate(&self, block: u64, limit: u64) -> (Place<'_>, u64) {
        let (state, count) = self.active.map.run(block, limit);
        match in_layer(&self.active, state) {
            Some(place) => (place, count),
            None => self.below.locate(block, count),
        }
    }
}

/// Whether a walk came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// All of it was visited, or the visitor had enough.
    Done,
    /// From this byte on the view was too old.
    OutdatedAt(u64),
}

/// Visits the places of `count` bytes at `offset` in order, as (start, end, place); the visitor returns whether to go
/// on.
pub(crate) fn walk<'a>(
    offset: ByteOffset,
    count: u64,
    locate: impl Fn(u64, u64) -> (Place<'a>, u64),
    mut visit: impl FnMut(u64, u64, &Place<'a>) -> Result<bool>,
) -> Result<Walk> {
    let (mut at, end) = (offset.get(), offset.get() + count);
    let past = end.div_ceil(BLOCK_SIZE);
    while at < end {
        let block = at / BLOCK_SIZE;
        let (place, blocks) = locate(block, past - block);
        let until = ((block + blocks) * BLOCK_SIZE).min(end);
        if matches!(place, Place::Outdated) {
            return Ok(Walk::OutdatedAt(at));
        }
        if !visit(at, until, &place)? {
            break;
        }
        at = until;
    }
    Ok(Walk::Done)
}

/// Where the bytes at the front of a range lie, as far as they lie in one file and are alike in whether they may be
/// believed as they are; `verified` says that of blocks of a sealed layer, as (layer, start, end). What is returned keeps
/// `view` in use.
pub(crate) fn stored_in<T: Locate + Send + Sync + 'static>(
    view: &Arc<T>,
    range: ByteRange,
    verified: impl Fn(&Layer, u64, u64) -> bool,
) -> Option<Stored> {
    let mut found: Option<Stored> = None;
    let locate = |block, limit| view.locate(block, limit);
    let walked = walk(range.offset(), range.count().get(), locate, |at, end, place| {
        let (file, is_verified) = match place {
            Place::File(file) => (*file, true),
            Place::Sealed(layer) => (&layer.file, verified(layer, at, end)),
            Place::Ground(ground) if found.is_none() => {
                // bytes of a hydrated layer stay where they are as long as somebody uses this view
                found = ground.stored(ByteRange::between(at, end)).map(|stored| {
                    let held: Arc<dyn Any + Send + Sync> = Arc::new((view.clone(), stored.held));
                    Stored { held: Some(held), ..stored }
                });
                return Ok(false);
            }
            Place::Ground(_) | Place::Zeros(_) | Place::Outdated => return Ok(false),
        };
        match &mut found {
            None => {
                let held: Arc<dyn Any + Send + Sync> = view.clone();
                let file = Arc::clone(file);
                found = Some(Stored { file, offset: at, count: end - at, is_verified, held: Some(held) });
            }
            Some(run) if Arc::ptr_eq(file, &run.file) && run.is_verified == is_verified => {
                run.count += end - at;
            }
            Some(_) => return Ok(false),
        }
        Ok(true)
    });
    // an outdated view only ends the run early
    let mut found = walked.ok().and(found)?;
    if let Some(open) = found.file.opened(found.count).ok()? {
        found.file = open;
    }
    Some(found)
}

/// Reads the bytes of one place, those of a sealed layer by `sealed`.
pub(crate) fn read_place(
    place: &Place<'_>,
    at: u64,
    buf: &mut [u8],
    sealed: impl FnOnce(&Layer, &mut [u8]) -> Result<()>,
) -> Result<()> {
    match place {
        Place::File(file) => file.read_at(at, buf),
        Place::Sealed(layer) => sealed(layer, buf),
        Place::Ground(ground) => ground.read_at(at, buf),
        Place::Zeros(_) => {
            buf.fill(0);
            Ok(())
        }
        Place::Outdated => {
            Err(Error::corrupt("the owner index", Some(at), "names a layer that does not exist"))
        }
    }
}
