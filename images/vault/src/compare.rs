//! Comparing a source with a recovery point by the fingerprints of its chunks: reads nodes and the fingerprints of packs, and none of their
//! data. So a disk of which nothing is thought to have changed is held against the vault for the price of reading the disk.

use std::ops::{ControlFlow, Range};

use block::sync::Arc;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, RangeSet};

use crate::cache::Cache;
use crate::chunk::{CHUNK_SIZE, fingerprint, is_zero};
use crate::image::VaultImage;
use crate::inner::Inner;
use crate::manifest::{Point, Ref, Run, Shape, walk};
use crate::name::{Address, Fingerprint, Shelf, Spot};
use crate::pack::PackHead;
use crate::progress::Progress;
use crate::{Error, Result};

/// Bytes read and compared at a time.
const STEP: u64 = 1 << 20;
/// Extents are asked for in parts of this size.
const WINDOW: u64 = 1 << 30;
/// Packs whose fingerprints are kept: half a MiB each at most.
const KEPT_PACKS: usize = 32;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    /// What was looked at.
    pub bytes: ByteCount,
    /// Whole chunks of it that the point has otherwise.
    pub differing: RangeSet,
}

struct Comparison<'a> {
    vault: &'a Inner,
    image: VaultImage,
    root: Ref,
    shape: Shape,
    source: &'a dyn BlockSource,
    packs: Cache<Address, Arc<(PackHead, Vec<Fingerprint>)>>,
    found: Compared,
}

/// Compares a range, widened to whole chunks.
pub(crate) fn run(
    vault: &Arc<Inner>,
    point: &Point,
    source: &dyn BlockSource,
    range: ByteRange,
    progress: &dyn Progress,
) -> Result<Compared> {
    let size = point.about.size;
    if source.size() != size {
        let why = format!("has {} bytes, and the point {size}", source.size());
        return Err(Error::invalid("the source", why));
    }
    let mut comparison = Comparison {
        vault,
        image: VaultImage::new(vault.clone(), point),
        root: point.root,
        shape: Shape::new(size),
        source,
        packs: Cache::new(KEPT_PACKS),
        found: Compared::default(),
    };
    let start = range.start() / CHUNK_SIZE * CHUNK_SIZE;
    let end = range.end().next_multiple_of(CHUNK_SIZE).min(size.get());
    let mut at = start;
    while at < end {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let window = ByteRange::between(at, end.min(at.saturating_add(WINDOW)));
        comparison.window(window)?;
        at = window.end();
        progress.at(ByteCount::new(at - start), ByteCount::new(end - start));
    }
    comparison.found.bytes = ByteCount::new(end.saturating_sub(start));
    Ok(comparison.found)
}

impl Comparison<'_> {
    /// What the source calls empty must be so in the point; all else is read.
    fn window(&mut self, window: ByteRange) -> Result<()> {
        let mut data = RangeSet::new();
        let mut visit = |extent: block::Extent| {
            if extent.kind == ExtentKind::Data {
                let chunks = extent.range.start() / CHUNK_SIZE..extent.range.end().div_ceil(CHUNK_SIZE);
                data.insert(ByteRange::between(chunks.start * CHUNK_SIZE, chunks.end * CHUNK_SIZE));
            }
            ControlFlow::Continue(())
        };
        self.source.extents(window, &mut visit).map_err(Error::Source)?;
        let data = data.clip(window);
        let mut empty = RangeSet::new();
        empty.insert(window);
        empty.subtract(&data);
        for range in empty.iter() {
            self.runs(chunks_of(range), &mut |this, run| {
                if matches!(run.what, Ref::Stored(_)) {
                    this.differs(run.first, run.count);
                }
                Ok(())
            })?;
        }
        for range in data.iter() {
            let mut at = range.start();
            while at < range.end() {
                let end = range.end().min((at / STEP + 1) * STEP);
                self.read(ByteRange::between(at, end))?;
                at = end;
            }
        }
        Ok(())
    }

    fn read(&mut self, range: ByteRange) -> Result<()> {
        let count = range.count().get() as usize;
        // a chunk at the end of the disk is filled up with zeros
        let mut bytes = vec![0; count.next_multiple_of(CHUNK_SIZE as usize)];
        self.source.read_at(ByteOffset::new(range.start()), &mut bytes[..count]).map_err(Error::Source)?;
        let first = range.start() / CHUNK_SIZE;
        self.runs(chunks_of(range), &mut |this, run| {
            for step in 0..run.count {
                let at = ((run.first + step - first) * CHUNK_SIZE) as usize;
                let chunk = bytes.get(at..at + CHUNK_SIZE as usize).unwrap_or_default();
                let same = match run.what.further(step) {
                    Ref::Stored(spot) => this.print(&spot)? == fingerprint(&this.vault.keys, chunk),
                    Ref::Hole | Ref::Zero => is_zero(chunk),
                };
                if !same {
                    this.differs(run.first + step, 1);
                }
            }
            Ok(())
        })
    }

    /// Calls `visit` with what the point says of these chunks.
    fn runs(
        &mut self,
        chunks: Range<u64>,
        visit: &mut dyn FnMut(&mut Self, Run) -> Result<()>,
    ) -> Result<()> {
        let mut runs = Vec::new();
        let _whole = walk(&self.image, self.shape, self.root, chunks, &mut |run| {
            runs.push(run);
            Ok(ControlFlow::Continue(()))
        })?;
        runs.into_iter().try_for_each(|run| visit(self, run))
    }

    fn differs(&mut self, first: u64, count: u64) {
        let end = ((first + count) * CHUNK_SIZE).min(self.source.size().get());
        self.found.differing.insert(ByteRange::between(first * CHUNK_SIZE, end));
    }

    fn print(&mut self, spot: &Spot) -> Result<Fingerprint> {
        loop {
            match self.print_in(&self.vault.place(spot)) {
                Err(error) if self.vault.learn_move(&error)? => {}
                done => return done,
            }
        }
    }

    fn print_in(&mut self, spot: &Spot) -> Result<Fingerprint> {
        let known = match self.packs.get(&spot.pack) {
            Some(known) => known,
            None => {
                let read =
                    self.vault.pack_len(spot.pack).and_then(|len| self.vault.pack_prints(spot.pack, len));
                let read = Arc::new(read.inspect_err(|error| self.vault.distrust.witness(error))?);
                self.packs.put(spot.pack, read.clone());
                read
            }
        };
        let (head, prints) = &*known;
        let first = head.table.get(spot.entry).map(|entry| entry.first + u32::from(spot.chunk));
        first.and_then(|at| prints.get(at as usize)).copied().ok_or_else(|| {
            let place = format!("entry {}", spot.entry);
            Error::damaged(&spot.pack.name(Shelf::Packs), place, format!("it has no chunk {}", spot.chunk))
        })
    }
}

fn chunks_of(range: ByteRange) -> Range<u64> {
    range.start() / CHUNK_SIZE..range.end().div_ceil(CHUNK_SIZE)
}
