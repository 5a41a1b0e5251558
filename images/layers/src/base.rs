//! What a disk stands on: content below its oldest layer that is not the disk's own and that nobody changes. Blocks that
//! no layer has are read from it. Who supplies it, and what keeps it from changing, is the caller's business; see
//! `docs/base.md`.

use crate::chain::{BaseRecord, Chain};
use crate::hydrate::HydratedLayer;
use crate::{Error, Result};
use block::sync::Arc;
use block::{
    BLOCK_SIZE, BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, RangeSet, StateId, Stored, Visit,
};
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// What a disk is made on, or opened with.
#[derive(Clone)]
pub struct Base {
    /// Which content it is: the state of a seal, or an id drawn for an image. The disk remembers it and is opened on no
    /// other.
    pub state: StateId,
    /// The content. A base longer than the disk shows as much as the disk had when it was made.
    pub source: Arc<dyn BlockSource>,
}

impl Base {
    /// What a new disk of this size remembers of it.
    pub(crate) fn record(&self, size: ByteCount) -> BaseRecord {
        BaseRecord { state: self.state, size: self.source.size().min(size), hydrated: None }
    }
}

/// A base as readers use it: as much of it as the disk shows.
pub(crate) struct Ground {
    size: u64,
    source: Arc<dyn BlockSource>,
    /// What was brought of it, once that began.
    hydrated: OnceLock<Arc<HydratedLayer>>,
}

impl Ground {
    /// Holds what the disk is to be opened on against what it was made on.
    pub(crate) fn of(chain: &Chain, base: Option<&Base>) -> Result<Option<Arc<Self>>> {
        let wrong = |why: &str| Err(Error::WrongBase { disk: chain.disk, why: why.to_owned() });
        match (chain.base, base) {
            (None, None) => Ok(None),
            (None, Some(base)) if chain.has_released(base.state) => Ok(None),
            (None, Some(_)) => wrong("it stands on nothing"),
            (Some(_), None) => wrong("it stands on a base, and none is given"),
            (Some(record), Some(base)) if base.state != record.state => {
                wrong(&format!("it stands on state {}, not on {}", record.state, base.state))
            }
            (Some(record), Some(base)) if base.source.size() < record.size => {
                let (now, then) = (base.source.size().get(), record.size.get());
                wrong(&format!("its base has {now} bytes now, and had {then} that the disk shows"))
            }
            (Some(record), Some(base)) => {
                let (size, source) = (record.size.get(), base.source.clone());
                Ok(Some(Arc::new(Self { size, source, hydrated: OnceLock::new() })))
            }
        }
    }

    /// What was brought of it.
    pub(crate) fn hydrated(&self) -> Option<&Arc<HydratedLayer>> {
        self.hydrated.get()
    }

    /// From now on readers ask this layer first. It is set once.
    pub(crate) fn hydrate_into(&self, layer: Arc<HydratedLayer>) {
        self.hydrated.get_or_init(|| layer);
    }

    /// The content itself.
    pub(crate) fn source(&self) -> &dyn BlockSource {
        &*self.source
    }

    /// The bytes of blocks, as far as it has them.
    pub(crate) fn bytes_of(&self, first: u64, past: u64) -> ByteRange {
        ByteRange::between((first * BLOCK_SIZE).min(self.size), (past * BLOCK_SIZE).min(self.size))
    }

    /// Blocks of which it has at least a part.
    pub(crate) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE)
    }

    /// Reads bytes of its blocks. What lies past its end in its last block reads as zeros.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> block::Result<()> {
        let held = self.size.saturating_sub(at).min(buf.len() as u64) as usize;
        let (here, past) = buf.split_at_mut(held);
        past.fill(0);
        match self.hydrated() {
            _ if here.is_empty() => Ok(()),
            None => self.source.read_at(ByteOffset::new(at), here),
            Some(hydrated) => hydrated.read_through(at, here, self.source()),
        }
    }

    /// Visits extents of a range of its blocks.
    pub(crate) fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let held = range.intersect(ByteRange::between(0, self.size));
        let mut stopped = false;
        if !held.is_empty() {
            let mut tell = |extent| {
                let flow = visit(extent);
                stopped = flow.is_break();
                flow
            };
            match self.hydrated() {
                None => self.source.extents(held, &mut tell)?,
                Some(hydrated) => hydrated.extents(held, self.source(), &mut tell)?,
            }
        }
        let past = ByteRange::between(range.start().max(held.end()), range.end());
        if !stopped {
            block::visit_last(past, ExtentKind::Hole, visit);
        }
        Ok(())
    }

    /// Where the bytes at the front of a range lie.
    pub(crate) fn stored(&self, range: ByteRange) -> Option<Stored> {
        let held = range.intersect(ByteRange::between(0, self.size));
        match self.hydrated() {
            _ if held.is_empty() => None,
            None => self.source.stored(held),
            Some(hydrated) => hydrated.stored(held, self.source()),
        }
    }

    /// Whether a range of its blocks is here, or in a base that is near.
    pub(crate) fn is_near(&self, range: ByteRange) -> bool {
        let held = range.intersect(ByteRange::between(0, self.size));
        match self.hydrated() {
            _ if held.is_empty() => true,
            None => self.source.is_near(held),
            Some(hydrated) => hydrated.is_near(held, self.source()),
        }
    }

    /// The whole blocks that have bytes.
    pub(crate) fn data(&self) -> block::Result<RangeSet> {
        let mut data = RangeSet::new();
        self.source.extents(ByteRange::between(0, self.size), &mut |extent| {
            if extent.kind == ExtentKind::Data {
                let (start, end) =
                    (extent.range.start() / BLOCK_SIZE, extent.range.end().div_ceil(BLOCK_SIZE));
                data.insert(ByteRange::between(start * BLOCK_SIZE, end * BLOCK_SIZE));
            }
            ControlFlow::Continue(())
        })?;
        Ok(data)
    }
}
