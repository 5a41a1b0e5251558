//! The hydrated layer: what was brought from the base so far. It lies between the oldest layer and the base, says what the
//! base says, and is never written by a guest.

use crate::active::{Active, Place, STRIPE_BLOCKS};
use crate::chain::{BaseRecord, Chain};
use crate::state::{BlockState, PAGE_BLOCKS, page_of};
use block::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{
    BLOCK_SIZE, BlockSource, ByteOffset, ByteRange, Extent, ExtentKind, Result, Stored, Visit, planted,
};
use std::collections::VecDeque;

/// Blocks that are hydrated together once one of them was missed: 256 KiB, a few chunks of a vault.
const WINDOW_BLOCKS: u64 = 64;
/// Windows remembered. More only means that a guest reads faster than it is followed; it finds the rest by itself.
const WANTED_LIMIT: usize = 256;
/// Blocks hydrated at once when nobody waits for any: 1 MiB.
const PIECE_BLOCKS: u64 = STRIPE_BLOCKS;

/// Pieces whose memory is kept.
const KEPT_PIECES: usize = 4;

/// The layer, and what is to come.
pub(crate) struct HydratedLayer {
    pub(crate) layer: Arc<Active>,
    blocks: u64,
    /// Blocks that have a state.
    present: AtomicU64,
    /// Windows that readers missed, the oldest first.
    wanted: Mutex<VecDeque<u64>>,
    /// Whether there are such, and whether readers bring them themselves.
    is_wanted: AtomicBool,
    is_eager: AtomicBool,
    /// From where on the rest is looked for.
    cursor: Mutex<u64>,
    /// Held while what was hydrated is made durable.
    pub(crate) settling: Mutex<()>,
    /// For pieces: fresh pages would cost more than what is copied into them.
    memory: Mutex<Vec<Vec<u8>>>,
}

/// The place of the hydrated layer's files: it is as long as the base shown.
fn place_of<'a>(place: &Place<'a>, record: &BaseRecord) -> Place<'a> {
    Place { size: record.size, ..*place }
}

impl HydratedLayer {
    /// Makes an empty one, with all its files durable but for their names.
    pub(crate) fn create(place: &Place<'_>, record: &BaseRecord, number: u64) -> Result<Arc<Self>> {
        Ok(Self::of(Active::create_unnamed(&place_of(place, record), number)?, record))
    }

    /// The one the chain names, with what is committed of it.
    pub(crate) fn open(place: &Place<'_>, chain: &Chain) -> Result<Option<Arc<Self>>> {
        let Some((record, number)) = chain.base.and_then(|record| Some((record, record.hydrated?))) else {
            return Ok(None);
        };
        Ok(Some(Self::of(Active::open_committed(&place_of(place, &record), number)?, &record)))
    }

    fn of(layer: Arc<Active>, record: &BaseRecord) -> Arc<Self> {
        let blocks = record.size.blocks();
        let present = layer.map.present();
        let (wanted, cursor) = (Mutex::default(), Mutex::new(0));
        let (is_wanted, is_eager) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self {
            layer,
            blocks,
            present: AtomicU64::new(present),
            wanted,
            is_wanted,
            is_eager,
            cursor,
            settling: Mutex::new(()),
            memory: Mutex::default(),
        })
    }

    /// Memory of this length, whatever is in it.
    pub(crate) fn take_memory(&self, len: usize) -> Vec<u8> {
        let mut bytes = lock(&self.memory).pop().unwrap_or_default();
        bytes.resize(len, 0);
        bytes
    }

    /// For the next piece.
    pub(crate) fn give_memory(&self, bytes: Vec<u8>) {
        let mut memory = lock(&self.memory);
        if memory.len() < KEPT_PIECES {
            memory.push(bytes);
        }
    }

    /// How many of its blocks have a state, and how many there are.
    pub(crate) fn present(&self) -> (u64, u64) {
        (self.present.load(Ordering::SeqCst), self.blocks)
    }

    /// Visits the runs of a byte range as (start, end, state) until the visitor has enough.
    fn runs(
        &self,
        range: ByteRange,
        mut visit: impl FnMut(ByteRange, BlockState) -> Result<bool>,
    ) -> Result<()> {
        let (mut at, end) = (range.start(), range.end());
        let past = end.div_ceil(BLOCK_SIZE);
        while at < end {
            let block = at / BLOCK_SIZE;
            let (state, count) = self.layer.map.run(block, past - block);
            let until = ((block + count) * BLOCK_SIZE).min(end);
            if !visit(ByteRange::between(at, until), state)? {
                break;
            }
            at = until;
        }
        Ok(())
    }

    /// Reads what the base reads, from here as far as it is here. What is not is wanted from now on.
    pub(crate) fn read_through(&self, at: u64, buf: &mut [u8], base: &dyn BlockSource) -> Result<()> {
        self.runs(ByteRange::between(at, at + buf.len() as u64), |range, state| {
            let part = &mut buf[(range.start() - at) as usize..(range.end() - at) as usize];
            match state {
                BlockState::Hydrated | BlockState::Data => self.layer.file.read_at(range.start(), part)?,
                BlockState::Zero => part.fill(0),
                BlockState::Absent => {
                    base.read_at(ByteOffset::new(range.start()), part)?;
                    self.want(range);
                }
            }
            Ok(true)
        })
    }

    /// Visits the extents of the base.
    pub(crate) fn extents(
        &self,
        range: ByteRange,
        base: &dyn BlockSource,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        self.runs(range, |range, state| {
            let mut goes_on = true;
            let mut tell = |extent| {
                let flow = visit(extent);
                goes_on = flow.is_continue();
                flow
            };
            let whole = |kind| Extent { range, kind };
            match state {
                BlockState::Hydrated | BlockState::Data => drop(tell(whole(ExtentKind::Data))),
                BlockState::Zero => drop(tell(whole(ExtentKind::Zero))),
                BlockState::Absent => base.extents(range, &mut tell)?,
            }
            Ok(goes_on)
        })
    }

    /// Where the bytes at the front of a range lie.
    pub(crate) fn stored(&self, range: ByteRange, base: &dyn BlockSource) -> Option<Stored> {
        let mut found = None;
        self.runs(range, |range, state| {
            found = match state {
                BlockState::Hydrated | BlockState::Data => Some(Stored {
                    file: self.layer.file.clone(),
                    offset: range.start(),
                    count: range.count().get(),
                    is_verified: true,
                    held: None,
                }),
                BlockState::Zero => None,
                BlockState::Absent => base.stored(range),
            };
            Ok(false)
        })
        .ok()?;
        found
    }

    /// Whether all of a range is here, or in a base that is near.
    pub(crate) fn is_near(&self, range: ByteRange, base: &dyn BlockSource) -> bool {
        let mut is_near = true;
        let seen = self.runs(range, |range, state| {
            is_near = state != BlockState::Absent || base.is_near(range);
            Ok(is_near)
        });
        seen.is_ok() && is_near
    }

    /// Remembers that a reader missed something here.
    fn want(&self, range: ByteRange) {
        let mut wanted = lock(&self.wanted);
        let windows =
            range.start() / BLOCK_SIZE / WINDOW_BLOCKS..=(range.end() - 1) / BLOCK_SIZE / WINDOW_BLOCKS;
        for window in windows {
            if wanted.len() < WANTED_LIMIT && !wanted.contains(&window) {
                wanted.push_back(window);
            }
        }
        self.is_wanted.store(!wanted.is_empty(), Ordering::Relaxed);
    }

    /// From now on readers bring themselves what they missed, or leave that to others.
    pub(crate) fn bring_on_read(&self, is_eager: bool) {
        self.is_eager.store(is_eager, Ordering::Relaxed);
    }

    /// Whether a reader is to bring something that it or another one missed.
    pub(crate) fn asks_readers(&self) -> bool {
        self.is_eager.load(Ordering::Relaxed) && self.is_wanted.load(Ordering::Relaxed)
    }

    /// The next blocks that readers missed, as (first, past).
    pub(crate) fn next_wanted(&self) -> Option<(u64, u64)> {
        let pop = || {
            let mut wanted = lock(&self.wanted);
            let window = wanted.pop_front();
            self.is_wanted.store(!wanted.is_empty(), Ordering::Relaxed);
            window
        };
        while let Some(window) = pop() {
            let start = window * WINDOW_BLOCKS;
            // whoever reads on finds the next window here
            for first in [start, start + WINDOW_BLOCKS] {
                let past = (first + WINDOW_BLOCKS).min(self.blocks);
                if first < past && self.lacks(first, past) {
                    return Some((first, past));
                }
            }
        }
        None
    }

    /// The next blocks to hydrate, as (first, past): what readers missed first. None if all are here or on their way.
    pub(crate) fn next_piece(&self) -> Option<(u64, u64)> {
        if let Some(wanted) = self.next_wanted() {
            return Some(wanted);
        }
        let mut cursor = lock(&self.cursor);
        let Some(first) = self.next_absent(*cursor) else {
            // what failed, or is on its way, is looked for anew
            *cursor = 0;
            return None;
        };
        let past = ((first / PIECE_BLOCKS + 1) * PIECE_BLOCKS).min(self.blocks);
        *cursor = past;
        Some((first, past))
    }

    fn lacks(&self, first: u64, past: u64) -> bool {
        self.next_absent(first).is_some_and(|absent| absent < past)
    }

    fn next_absent(&self, mut block: u64) -> Option<u64> {
        while block < self.blocks {
            match self.layer.map.run(block, self.blocks - block) {
                (BlockState::Absent, _) => return Some(block),
                (_, count) => block += count,
            }
        }
        None
    }

    /// Takes blocks that the base has, with their bytes. They lie within one stripe.
    pub(crate) fn put(&self, first: u64, bytes: &[u8]) -> Result<()> {
        let count = bytes.len() as u64 / BLOCK_SIZE;
        self.layer.map.prepare(first, count)?;
        if planted!("hydrated-before-its-data") {
            self.mark(first, first + count, BlockState::Hydrated)?;
        }
        self.layer.file.write_at(first * BLOCK_SIZE, bytes)?;
        self.mark(first, first + count, BlockState::Hydrated)
    }

    /// Notes that the base reads zeros here: whole map pages at once, the rest stripe by stripe.
    pub(crate) fn put_zeros(&self, mut first: u64, past: u64) -> Result<()> {
        while first < past {
            let page_past = (first / PAGE_BLOCKS + 1) * PAGE_BLOCKS;
            let is_page = first.is_multiple_of(PAGE_BLOCKS) && past >= page_past.min(self.blocks);
            let page = page_past.min(past) - first;
            let (state, count) = self.layer.map.run(first, page);
            if is_page && (state, count) == (BlockState::Absent, page) {
                self.fill_page(first, first + page);
                first += page;
            } else if state == BlockState::Absent {
                // others note blocks of this page too: each stripe under its own lock, or a block counts twice
                let until = ((first / STRIPE_BLOCKS + 1) * STRIPE_BLOCKS).min(past);
                self.mark(first, until, BlockState::Zero)?;
                first = until;
            } else {
                first += count;
            }
        }
        Ok(())
    }

    fn fill_page(&self, first: u64, past: u64) {
        let _all: Vec<_> = self.layer.stripes.iter().map(lock).collect();
        let absent = self.absent(first, past);
        self.layer.map.fill_page(page_of(first), BlockState::Zero);
        self.present.fetch_add(absent.iter().map(|(first, past)| past - first).sum(), Ordering::SeqCst);
    }

    /// Gives a state to those blocks of a stripe that have none.
    fn mark(&self, first: u64, past: u64, state: BlockState) -> Result<()> {
        let _stripe = lock(self.layer.stripe(first));
        for (first, past) in self.absent(first, past) {
            self.layer.map.set(first, past - first, state)?;
            self.present.fetch_add(past - first, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The runs of blocks without a state.
    pub(crate) fn absent(&self, first: u64, past: u64) -> Vec<(u64, u64)> {
        let (mut absent, mut block) = (Vec::new(), first);
        while block < past {
            let (state, count) = self.layer.map.run(block, past - block);
            if state == BlockState::Absent {
                absent.push((block, block + count));
            }
            block += count;
        }
        absent
    }
}
