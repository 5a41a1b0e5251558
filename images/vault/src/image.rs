//! A recovery point as a [`BlockSource`].

use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit, check_range};

use crate::Result;
use crate::cache::Cache;
use crate::chunk::CHUNK_SIZE;
use crate::inner::Inner;
use crate::manifest::{Node, NodeReader, Point, Ref, Run, Shape, find, walk};
use crate::name::ContentId;

/// Decoded chunks an image keeps: 4 MiB, a few readers' worth of small sequential reads.
const KEPT_CHUNKS: usize = 64;
/// Decoded nodes an image keeps: at most 2.5 MiB, the leaves of 4 GiB.
const KEPT_NODES: usize = 256;

pub(crate) struct VaultImage {
    vault: Arc<Inner>,
    size: ByteCount,
    shape: Shape,
    root: Ref,
    chunks: Mutex<Cache<ContentId, Arc<Vec<u8>>>>,
    nodes: Mutex<Cache<ContentId, Arc<Node>>>,
}

impl VaultImage {
    pub(crate) fn new(vault: Arc<Inner>, point: &Point) -> Self {
        Self {
            vault,
            size: point.about.size,
            shape: Shape::new(point.about.size),
            root: point.root,
            chunks: Mutex::new(Cache::new(KEPT_CHUNKS)),
            nodes: Mutex::new(Cache::new(KEPT_NODES)),
        }
    }

    fn chunk(&self, id: &ContentId, len: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(known) = lock(&self.chunks).get(id) {
            return Ok(known);
        }
        let raw = self.vault.read_content(&self.vault.index.load(), id)?;
        if raw.len() != len {
            let why = format!("{} bytes long where the disk has {len}", raw.len());
            return Err(crate::Error::damaged(&format!("(chunk {id})"), "content", why));
        }
        let raw = Arc::new(raw);
        lock(&self.chunks).put(*id, raw.clone());
        Ok(raw)
    }

    fn read_part(&self, chunk: u64, within: usize, buf: &mut [u8]) -> Result<()> {
        match find(self, self.shape, self.root, chunk)? {
            Ref::Hole | Ref::Zero => buf.fill(0),
            Ref::Stored(id) => {
                let raw = self.chunk(&id, self.shape.chunk_len(chunk))?;
                buf.copy_from_slice(&raw[within..within + buf.len()]);
            }
        }
        Ok(())
    }
}

impl NodeReader for VaultImage {
    fn node(&self, id: &ContentId, level: u8, count: usize) -> Result<Arc<Node>> {
        let known = lock(&self.nodes).get(id);
        if let Some(node) = known.filter(|node| (node.level, node.refs.len()) == (level, count)) {
            return Ok(node);
        }
        let node = Arc::new(self.vault.read_node(&self.vault.index.load(), id, level, count)?);
        lock(&self.nodes).put(*id, node.clone());
        Ok(node)
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
        let mut at = offset.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let within = (at % CHUNK_SIZE) as usize;
            let step = (CHUNK_SIZE as usize - within).min(rest.len());
            let (part, more) = rest.split_at_mut(step);
            self.read_part(at / CHUNK_SIZE, within, part)?;
            at += step as u64;
            rest = more;
        }
        Ok(())
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
}
