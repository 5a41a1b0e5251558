//! A sparse extent: a directory of tables of grains.

use super::{SECTOR, SPARSE_MAGIC};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::image::{Layout, Packed, Piece, Place};
use crate::limits::check_size;
use crate::pages::Pages;
use block::{ByteCount, ByteRange, Cursor, Malformed};
use std::sync::Arc;

pub(super) const HEADER_BYTES: u64 = 512;

/// A directory offset that says: read the copy of the header at the end of the file.
const AT_END: u64 = u64::MAX;

/// Header copy and end-of-stream marker, the last sectors of such a file.
const FOOTER_FROM_END: u64 = 1024;

pub(super) const NEW_LINE_TEST: u32 = 1 << 0;
pub(super) const REDUNDANT_TABLES: u32 = 1 << 1;
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;

/// Entries a table; other numbers are nobody's.
const TABLE_LIMIT: u32 = 512;

/// Grains are 64 KiB; larger ones than this are nobody's, and one is unpacked in memory.
const GRAIN_LIMIT_BYTES: u64 = 16 << 20;

/// A table entry of a grain of zeros, where [`ZERO_GRAINS`] is set.
const ZERO_GRAIN: u64 = 1;

#[derive(Debug, Clone, Copy)]
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: ByteRange,
    table_entries: u32,
    directory: u64,
    compression: u16,
}

pub(super) struct Grains {
    pages: Arc<Pages>,
    size: ByteCount,
    descriptor: ByteRange,
    // bytes
    grain: u64,
    table_entries: u64,
    directory_at: u64,
    zero_grains: bool,
    compressed: bool,
}

impl Grains {
    pub(super) fn open(pages: Arc<Pages>) -> Result<Self> {
        let first = header(&pages, 0)?;
        let header = if first.directory == AT_END {
            let at = pages.file().size().get().saturating_sub(FOOTER_FROM_END);
            let last = header(&pages, at)?;
            Header { descriptor: first.descriptor, ..last }
        } else {
            first
        };
        check(&pages, &header)?;
        let bytes = |sectors: u64, what: &str| {
            let why = || pages.damaged(0, format!("{what} of {sectors} sectors"));
            sectors.checked_mul(SECTOR).ok_or_else(why)
        };
        let size = check_size(pages.name(), bytes(header.capacity, "a disk")?)?;
        let grains = Self {
            size,
            descriptor: header.descriptor,
            grain: bytes(header.grain, "grains")?,
            table_entries: u64::from(header.table_entries),
            directory_at: bytes(header.directory, "a directory offset")?,
            zero_grains: header.flags & ZERO_GRAINS != 0,
            compressed: header.flags & COMPRESSED != 0,
            pages,
        };
        let tables = grains.size.get().div_ceil(grains.grain * grains.table_entries);
        grains.pages.holds(grains.directory_at, tables * 4, "the grain directory")?;
        Ok(grains)
    }

    pub(super) fn size(&self) -> ByteCount {
        self.size
    }

    /// Where the descriptor is in this file; empty if it has none.
    pub(super) fn descriptor(&self) -> ByteRange {
        self.descriptor
    }

    /// A compressed grain: where on the disk it belongs (a sector), how many bytes follow, and these.
    fn packed(&self, at: u64, grain: u64) -> Result<Packed> {
        let count = u64::from(self.pages.le_u32(at + 8)?);
        let sector = self.pages.le_u64(at)?;
        if sector.checked_mul(SECTOR) != Some(grain * self.grain) {
            return Err(self
                .pages
                .damaged(at, format!("a grain of sector {sector} in the place of grain {grain}")));
        }
        // deflate of what does not compress is a little longer
        if count == 0 || count > self.grain + self.grain / 8 + SECTOR {
            return Err(self.pages.damaged(at, format!("a compressed grain of {count} bytes")));
        }
        let at = at + 12;
        self.pages.holds(at, count, "a compressed grain")?;
        // the last grain may hold no more than the disk does
        let unit = self.grain.min(self.size.get() - grain * self.grain);
        Ok(Packed { at, count, unit, codec: Codec::Zlib })
    }
}

fn header(pages: &Pages, at: u64) -> Result<Header> {
    let bytes = pages.bytes(at, HEADER_BYTES)?;
    decode(&bytes).map_err(|error| pages.damaged(at + error.at as u64, error.why))
}

fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
    let mut at = Cursor::new(bytes);
    if &at.array::<4>()? != SPARSE_MAGIC {
        return Err(at.malformed("there is no header of a sparse VMDK extent"));
    }
    let (version, flags) = (at.u32()?, at.u32()?);
    let (capacity, grain) = (at.u64()?, at.u64()?);
    let (start, count) = (at.u64()?, at.u64()?);
    let table_entries = at.u32()?;
    let _redundant_directory = at.u64()?;
    let directory = at.u64()?;
    let _overhead = at.u64()?;
    let _unclean = at.u8()?;
    let new_lines = at.array::<4>()?;
    let compression = at.u16()?;
    if flags & NEW_LINE_TEST != 0 && &new_lines != b"\n \r\n" {
        return Err(at.malformed("its line ends were translated: it went through a text-mode copy"));
    }
    let range = start.checked_mul(SECTOR).zip(count.checked_mul(SECTOR));
    let range = range.and_then(|(start, count)| Some(ByteRange::between(start, start.checked_add(count)?)));
    let descriptor = range.ok_or_else(|| at.malformed("a descriptor past the end of all offsets"))?;
    Ok(Header { version, flags, capacity, grain, descriptor, table_entries, directory, compression })
}

fn check(pages: &Pages, header: &Header) -> Result<()> {
    let grain = header.grain.saturating_mul(SECTOR);
    if !(1..=3).contains(&header.version) {
        return Err(Error::unsupported(pages.name(), format!("VMDK extent version {}", header.version)));
    }
    if header.compression > 1 || (header.flags & COMPRESSED != 0) != (header.compression == 1) {
        return Err(Error::unsupported(pages.name(), format!("compression {}", header.compression)));
    }
    if header.flags & COMPRESSED != 0 && header.flags & MARKERS == 0 {
        return Err(Error::unsupported(pages.name(), "compressed grains without markers"));
    }
    if header.directory == AT_END {
        return Err(pages.damaged(None, "the header at its end says that the header is at its end"));
    }
    if !header.grain.is_power_of_two() || grain > GRAIN_LIMIT_BYTES {
        return Err(pages.damaged(20, format!("grains of {} sectors", header.grain)));
    }
    if !(1..=TABLE_LIMIT).contains(&header.table_entries) {
        return Err(pages.damaged(44, format!("tables of {} grains", header.table_entries)));
    }
    Ok(())
}

impl Layout for Grains {
    fn piece(&self, at: u64) -> Result<Piece> {
        let span = self.grain * self.table_entries;
        let table = u64::from(self.pages.le_u32(self.directory_at + at / span * 4)?) * SECTOR;
        if table == 0 {
            return Ok(Piece { place: Place::Absent, count: span - at % span });
        }
        let (grain, within) = (at / self.grain, at % self.grain);
        let entry = u64::from(self.pages.le_u32(table + at % span / self.grain * 4)?);
        let place = match entry {
            0 => Place::Absent,
            ZERO_GRAIN if self.zero_grains => Place::Zero,
            _ if self.compressed => Place::Packed(self.packed(entry * SECTOR, grain)?, within),
            _ => Place::Stored(entry * SECTOR + within),
        };
        Ok(Piece { place, count: self.grain - within })
    }
}
