//! A recovery point as a [`BlockSource`].

use std::ops::{ControlFlow, Range};

use block::sync::{Arc, Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit, check_range};

use crate::Result;
use crate::cache::Cache;
use crate::chunk::CHUNK_SIZE;
use crate::frames::{FRAMES_AT_ONCE, FrameFront};
use crate::inner::Inner;
use crate::manifest::{Node, NodeReader, Point, Ref, Run, Shape, walk};
use crate::name::{Shelf, Spot};
use crate::sweep::RootPin;

/// Decoded nodes an image keeps: the leaves of 4 GiB; a few KiB each, 16 MiB if every chunk of the disk is in a pack of its own.
const KEPT_NODES: usize = 256;

/// Whoever reads more than this at once reads on, or reads all: a restore, a copy, a guest that reads ahead.
const SMALL_READ: usize = 32 << 10;

pub(crate) struct VaultImage {
    vault: Arc<Inner>,
    size: ByteCount,
    shape: Shape,
    root: Ref,
    nodes: Mutex<Cache<Spot, Arc<Node>>>,
    // its packs stay while it is read, even if its point is deleted
    _pin: RootPin,
}

/// Part of a read: neighbouring chunks of one frame, and the bytes of the disk they are.
struct Piece {
    spot: Spot,
    disk: Range<u64>,
}

impl Piece {
    /// What of its frame it needs.
    fn wanted(&self) -> FrameFront {
        let before = u64::from(self.spot.chunk) * CHUNK_SIZE;
        let until = before + self.disk.end - self.disk.start;
        FrameFront { frame: (self.spot.pack, self.spot.entry), until: until as usize }
    }
}

impl VaultImage {
    pub(crate) fn new(vault: Arc<Inner>, point: &Point) -> Self {
        let pin = vault.pins.root(Shape::new(point.about.size), point.root);
        Self {
            vault,
            _pin: pin,
            size: point.about.size,
            shape: Shape::new(point.about.size),
            root: point.root,
            nodes: Mutex::new(Cache::new(KEPT_NODES)),
        }
    }

    /// What of `wanted` is stored where.
    fn pieces(&self, wanted: &Range<u64>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let chunks = wanted.start / CHUNK_SIZE..wanted.end.div_ceil(CHUNK_SIZE);
        let mut add = |run: Run| {
            if let Ref::Stored(spot) = run.what {
                pieces
                    .push(Piece { spot, disk: run.first * CHUNK_SIZE..(run.first + run.count) * CHUNK_SIZE });
            }
            Ok(ControlFlow::Continue(()))
        };
        let _whole = walk(self, self.shape, self.root, chunks, &mut add)?;
        Ok(pieces)
    }

    /// The same pieces in the places they are read from.
    fn placed(&self, pieces: Vec<Piece>) -> Vec<Piece> {
        let mut placed = Vec::with_capacity(pieces.len());
        for Piece { spot, disk } in pieces {
            let mut at = disk.start;
            for (spot, count) in self.vault.places(&spot, (disk.end - disk.start) / CHUNK_SIZE) {
                placed.push(Piece { spot, disk: at..at + count * CHUNK_SIZE });
                at += count * CHUNK_SIZE;
            }
        }
        placed
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let wanted = at..at + buf.len() as u64;
        let mut pieces = self.placed(self.pieces(&wanted)?);
        let mut done = 0;
        while let Some(rest) = pieces.get(done..).filter(|rest| !rest.is_empty()) {
            let (frames, taken) = next_frames(rest);
            let fronts = match self.vault.frames(&frames, buf.len() > SMALL_READ) {
                Err(error) if self.vault.learn_move(&error)? => {
                    let rest = pieces.split_off(done);
                    pieces = self.placed(rest);
                    done = 0;
                    continue;
                }
                fronts => fronts?,
            };
            done += taken;
            for piece in &rest[..taken] {
                let is_its = |wanted: &FrameFront| wanted.frame == piece.wanted().frame;
                let raw = frames.iter().position(is_its).and_then(|at| fronts.get(at));
                copy(piece, raw.map_or(&[], |raw| &raw[..]), &wanted, buf)?;
            }
        }
        Ok(())
    }
}

/// The frames of the first pieces, each once and not too many, and how many pieces that is.
fn next_frames(pieces: &[Piece]) -> (Vec<FrameFront>, usize) {
    let mut frames: Vec<FrameFront> = Vec::new();
    for (taken, piece) in pieces.iter().enumerate() {
        let wanted = piece.wanted();
        if let Some(known) = frames.iter_mut().find(|known| known.frame == wanted.frame) {
            known.until = known.until.max(wanted.until);
            continue;
        }
        if frames.len() == FRAMES_AT_ONCE {
            return (frames, taken);
        }
        frames.push(wanted);
    }
    (frames, pieces.len())
}

/// Copies what of a piece is wanted from its frame.
fn copy(piece: &Piece, raw: &[u8], wanted: &Range<u64>, buf: &mut [u8]) -> Result<()> {
    let (start, end) = (piece.disk.start.max(wanted.start), piece.disk.end.min(wanted.end));
    let from = u64::from(piece.spot.chunk) * CHUNK_SIZE + (start - piece.disk.start);
    let Some(bytes) = raw.get(from as usize..(from + end - start) as usize) else {
        let Spot { pack, entry, chunk } = piece.spot;
        let why = format!("chunk {chunk} of it is named, but it has {} bytes", raw.len());
        return Err(crate::Error::damaged(&pack.name(Shelf::Packs), format!("entry {entry}"), why));
    };
    buf[(start - wanted.start) as usize..(end - wanted.start) as usize].copy_from_slice(bytes);
    Ok(())
}

impl NodeReader for VaultImage {
    fn node(&self, spot: &Spot, level: u8, count: usize) -> Result<Arc<Node>> {
        let known = lock(&self.nodes).get(spot);
        if let Some(node) = known.filter(|node| (node.level, node.len()) == (level, count)) {
            return Ok(node);
        }
        let node = Arc::new(self.vault.read_node(spot, level, count)?);
        lock(&self.nodes).put(*spot, node.clone());
        Ok(node)
    }
}

/// The nodes that are in memory, and no others.
struct KeptNodes<'a>(&'a VaultImage);

impl NodeReader for KeptNodes<'_> {
    fn node(&self, spot: &Spot, level: u8, count: usize) -> Result<Arc<Node>> {
        let known = lock(&self.0.nodes).get(spot);
        known.filter(|node| (node.level, node.len()) == (level, count)).ok_or(crate::Error::Cancelled)
    }
}

/// The extents of neighbouring runs of one kind, melted.
struct Tiles<'a, 'b> {
    wanted: ByteRange,
    pending: Option<Extent>,
    visit: &'a mut Visit<'b>,
}

impl Tiles<'_, '_> {
    fn add(&mut self, run: Run) -> ControlFlow<()> {
        let kind = match run.what {
            Ref::Hole => ExtentKind::Hole,
            Ref::Zero => ExtentKind::Zero,
            Ref::Stored(_) => ExtentKind::Data,
        };
        let bytes = ByteRange::between(run.first * CHUNK_SIZE, (run.first + run.count) * CHUNK_SIZE);
        let range = self.wanted.intersect(bytes);
        match &mut self.pending {
            Some(extent) if extent.kind == kind => {
                extent.range = ByteRange::between(extent.range.start(), range.end());
                ControlFlow::Continue(())
            }
            pending => match pending.replace(Extent { range, kind }) {
                Some(done) => (self.visit)(done),
                None => ControlFlow::Continue(()),
            },
        }
    }
}

impl BlockSource for VaultImage {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        Ok(self.read(offset.get(), buf)?)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        if range.is_empty() {
            return Ok(());
        }
        let chunks = range.start() / CHUNK_SIZE..range.end().div_ceil(CHUNK_SIZE);
        let mut tiles = Tiles { wanted: range, pending: None, visit };
        let end = walk(self, self.shape, self.root, chunks, &mut |run| Ok(tiles.add(run)))?;
        if let (ControlFlow::Continue(()), Some(last)) = (end, tiles.pending) {
            // the last one: whether the visitor wants more makes no difference
            let _stop = (tiles.visit)(last);
        }
        Ok(())
    }
    /// Near is what is decoded already.
    fn is_near(&self, range: ByteRange) -> bool {
        let chunks = range.start() / CHUNK_SIZE..range.end().div_ceil(CHUNK_SIZE);
        let mut is_near = true;
        let walked = walk(&KeptNodes(self), self.shape, self.root, chunks, &mut |run| {
            if let Ref::Stored(spot) = run.what {
                let frames = &self.vault.options.frames;
                let places = self.vault.places(&spot, run.count).into_iter();
                is_near = places
                    .map(|(spot, count)| Piece { spot, disk: 0..count * CHUNK_SIZE })
                    .all(|piece| frames.has(&piece.wanted()));
            }
            Ok(if is_near { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        walked.is_ok() && is_near
    }
}
