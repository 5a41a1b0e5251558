//! What a disk consists of at one moment, as readers and writers see it. Replaced whole, never changed.

use crate::active::Active;
use crate::owner::{Owner, OwnerIndex};
use crate::state::BlockState;
use block::sync::Arc;
use block::{BLOCK_SIZE, ByteOffset, Error, ExtentKind, MediaFile, Result};

/// A sealed layer's bytes.
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn MediaFile>,
}

/// The layers under the active one.
#[derive(Clone)]
pub(crate) struct Below {
    /// Layers sealed but not yet in the index, newest first. They still have their live maps.
    pub(crate) pending: Vec<Arc<Active>>,
    pub(crate) index: Arc<OwnerIndex>,
    /// The layers the index names.
    pub(crate) slots: Vec<Option<Arc<Layer>>>,
}

/// A disk at one moment.
pub(crate) struct View {
    /// Equal to the disk's serial number as long as this view is the newest. Always even.
    pub(crate) serial: u64,
    pub(crate) active: Arc<Active>,
    pub(crate) below: Below,
    /// The newest pending layer's seal is not durable yet: no flush may succeed before it is.
    pub(crate) is_sealing: bool,
}

/// Where bytes are.
pub(crate) enum Place<'a> {
    /// In this file, at the same offset as on the disk.
    File(&'a dyn MediaFile),
    /// Nowhere: they are zeros, made or never written.
    Zeros(ExtentKind),
    /// The index names a layer this view is too old to know: look again with the newest view.
    Outdated,
}

impl Place<'_> {
    pub(crate) fn kind(&self) -> Option<ExtentKind> {
        match self {
            Self::File(_) => Some(ExtentKind::Data),
            Self::Zeros(kind) => Some(*kind),
            Self::Outdated => None,
        }
    }
}

fn in_layer(layer: &Active, state: BlockState) -> Option<Place<'_>> {
    match state {
        BlockState::Absent => None,
        BlockState::Zero => Some(Place::Zeros(ExtentKind::Zero)),
        BlockState::Hydrated | BlockState::Data => Some(Place::File(&*layer.file)),
    }
}

impl Below {
    /// Where a block's bytes are, and for how many blocks from it, at most `limit`, the answer is the same.
    pub(crate) fn locate(&self, block: u64, mut limit: u64) -> (Place<'_>, u64) {
        for layer in &self.pending {
            let (state, count) = layer.map.run(block, limit);
            limit = count;
            if let Some(place) = in_layer(layer, state) {
                return (place, limit);
            }
        }
        let (owner, count) = self.index.run(block, limit);
        let place = match owner {
            Owner::None => Place::Zeros(ExtentKind::Hole),
            Owner::Zero => Place::Zeros(ExtentKind::Zero),
            Owner::Slot(slot) => match self.slots.get(usize::from(slot)) {
                Some(Some(layer)) => Place::File(&*layer.file),
                _ => Place::Outdated,
            },
        };
        (place, count)
    }
}

impl View {
    /// As [`Below::locate`], the active layer first.
    pub(crate) fn locate(&self, block: u64, limit: u64) -> (Place<'_>, u64) {
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

/// Reads the bytes of one place.
pub(crate) fn read_place(place: &Place<'_>, at: u64, buf: &mut [u8]) -> Result<()> {
    match place {
        Place::File(file) => file.read_at(at, buf),
        Place::Zeros(_) => {
            buf.fill(0);
            Ok(())
        }
        Place::Outdated => {
            Err(Error::corrupt("the owner index", Some(at), "names a layer that does not exist"))
        }
    }
}
