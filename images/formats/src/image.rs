//! What every format that maps a disk to places in a file has in common: reading, extents, a base below.

use crate::codec::{Codec, unpack};
use crate::error::Result;
use crate::pages::Pages;
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit, check_range};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Unpacked units kept for one image, so that small reads do not unpack a unit again and again.
const UNPACKED: usize = 4;

/// Where the bytes of a piece of a disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the file from this offset on.
    Stored(u64),
    /// In a compressed unit, from this byte of it on.
    Packed(Packed, u64),
    /// Nowhere: they are zeros, whatever the base holds.
    Zero,
    /// In the base, or zeros without one.
    Absent,
}

impl Place {
    /// Whether the place `distance` bytes after this one is the same kind of place, and the next bytes of the file if
    /// it is in the file.
    fn goes_on(self, distance: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Stored(here), Self::Stored(there)) => here.checked_add(distance) == Some(there),
            (Self::Packed(..), Self::Packed(..))
            | (Self::Zero, Self::Zero)
            | (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

/// A compressed unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Where in the file.
    pub at: u64,
    /// Bytes there, padding included.
    pub count: u64,
    /// Bytes once unpacked; bounded by the format.
    pub unit: u64,
    pub codec: Codec,
}

/// A piece of a disk whose bytes are in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub place: Place,
    /// Bytes of the piece, at least one; may pass the end of the disk.
    pub count: u64,
}

/// What a format is here: a map from a disk to places.
pub(crate) trait Layout: Send + Sync {
    /// The piece that begins at a byte of the disk, which is below its size.
    fn piece(&self, at: u64) -> Result<Piece>;
}

/// An image: a layout, the file it lies in, and what is below.
pub(crate) struct Image<L> {
    layout: L,
    pages: Arc<Pages>,
    size: ByteCount,
    base: Option<Arc<dyn BlockSource>>,
    // newest last
    unpacked: Mutex<Vec<(Packed, Arc<[u8]>)>>,
}

impl<L: Layout> Image<L> {
    pub(crate) fn new(
        layout: L,
        pages: Arc<Pages>,
        size: ByteCount,
        base: Option<Arc<dyn BlockSource>>,
    ) -> Self {
        Self { layout, pages, size, base, unpacked: Mutex::default() }
    }

    /// The piece at a byte, clipped to `end`.
    fn piece(&self, at: u64, end: u64) -> Result<Piece> {
        let piece = self.layout.piece(at)?;
        Ok(Piece { count: piece.count.clamp(1, end - at), ..piece })
    }

    fn read_piece(&self, at: u64, place: Place, buf: &mut [u8]) -> Result<()> {
        match place {
            Place::Stored(host) => {
                self.pages.holds(host, buf.len() as u64, "the disk's data")?;
                self.pages.file().read_at(ByteOffset::new(host), buf)?;
            }
            Place::Packed(packed, within) => {
                let unit = self.unpack(packed)?;
                let within = within as usize;
                buf.copy_from_slice(&unit[within..within + buf.len()]);
            }
            Place::Zero => buf.fill(0),
            Place::Absent => {
                let below = self.in_base(at, buf.len() as u64) as usize;
                if let Some(base) = self.base.as_ref().filter(|_| below > 0) {
                    base.read_at(ByteOffset::new(at), &mut buf[..below])?;
                }
                buf[below..].fill(0);
            }
        }
        Ok(())
    }

    /// How many of `count` bytes at `at` the base has.
    fn in_base(&self, at: u64, count: u64) -> u64 {
        self.base.as_ref().map_or(0, |base| base.size().get().saturating_sub(at).min(count))
    }

    fn unpack(&self, packed: Packed) -> Result<Arc<[u8]>> {
        if let Some((_, unit)) = lock(&self.unpacked).iter().find(|(known, _)| *known == packed) {
            return Ok(unit.clone());
        }
        let bytes = self.pages.bytes(packed.at, packed.count)?;
        let mut unit = vec![0; packed.unit as usize];
        unpack(packed.codec, &bytes, &mut unit).map_err(|why| self.pages.damaged(packed.at, why))?;
        let unit: Arc<[u8]> = unit.into();
        let mut kept = lock(&self.unpacked);
        if kept.len() == UNPACKED {
            kept.remove(0);
        }
        kept.push((packed, unit.clone()));
        Ok(unit)
    }

    fn extents_of(
        &self,
        range: ByteRange,
        place: Place,
        visit: &mut Visit<'_>,
    ) -> block::Result<ControlFlow<()>> {
        let kind = match place {
            Place::Packed(..) => ExtentKind::Data,
            Place::Zero => ExtentKind::Zero,
            Place::Stored(host) => return self.extents_in_file(range, host, visit),
            Place::Absent => {
                let below = range.start() + self.in_base(range.start(), range.count().get());
                return self.extents_below(range, below, visit);
            }
        };
        Ok(visit(Extent { range, kind }))
    }

    /// Extents of a range that is stored from `host` on, where the file may have holes.
    fn extents_in_file(
        &self,
        range: ByteRange,
        host: u64,
        visit: &mut Visit<'_>,
    ) -> block::Result<ControlFlow<()>> {
        let count = range.count().get();
        self.pages.holds(host, count, "the disk's data")?;
        let mut flow = ControlFlow::Continue(());
        self.pages.file().extents(ByteRange::between(host, host + count), &mut |extent| {
            let place = |at: u64| range.start() + (at - host);
            let range = ByteRange::between(place(extent.range.start()), place(extent.range.end()));
            flow = visit(Extent { range, kind: extent.kind });
            flow
        })?;
        Ok(flow)
    }

    /// Extents of a range that the base has up to `below`.
    fn extents_below(
        &self,
        range: ByteRange,
        below: u64,
        visit: &mut Visit<'_>,
    ) -> block::Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        if let Some(base) = self.base.as_ref().filter(|_| below > range.start()) {
            base.extents(ByteRange::between(range.start(), below), &mut |extent| {
                flow = visit(extent);
                flow
            })?;
        }
        let rest = ByteRange::between(below, range.end());
        if flow.is_break() || rest.is_empty() {
            return Ok(flow);
        }
        Ok(visit(Extent { range: rest, kind: ExtentKind::Hole }))
    }
}

impl<L: Layout> BlockSource for Image<L> {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let (start, end) = (offset.get(), offset.get() + buf.len() as u64);
        let mut at = start;
        while at < end {
            let piece = self.piece(at, end)?;
            let part = (at - start) as usize..(at - start + piece.count) as usize;
            self.read_piece(at, piece.place, &mut buf[part])?;
            at += piece.count;
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut next = Some(range.start()).filter(|&at| at < range.end());
        while let Some(start) = next {
            let first = self.piece(start, range.end())?;
            let mut end = start + first.count;
            next = None;
            while end < range.end() {
                let piece = self.piece(end, range.end())?;
                if !first.place.goes_on(end - start, piece.place) {
                    next = Some(end);
                    break;
                }
                end += piece.count;
            }
            if self.extents_of(ByteRange::between(start, end), first.place, visit)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
