//! A dynamic image: a table of blocks, each a bitmap of its sectors and their bytes.

use super::SECTOR;
use super::footer::{Footer, checksum};
use crate::error::{Error, Result};
use crate::image::{Layout, Piece, Place};
use crate::pages::Pages;
use block::{Cursor, Malformed};
use std::sync::Arc;

pub(super) const COOKIE: &[u8; 8] = b"cxsparse";
pub(super) const HEADER_BYTES: u64 = 1024;
pub(super) const CHECKSUM_AT: usize = 36;

/// A table entry of a block that was never written.
pub(super) const UNUSED: u32 = u32::MAX;

/// Blocks are 2 MiB, sometimes 512 KiB; larger ones than this are nobody's.
const BLOCK_LIMIT: u32 = 256 << 20;

/// Bytes of a bitmap looked at together: 256 KiB of the disk.
const LOOK: usize = 64;

pub(super) struct Blocks {
    pages: Arc<Pages>,
    table_at: u64,
    block: u64,
}

impl Blocks {
    pub(super) fn open(pages: Arc<Pages>, footer: &Footer) -> Result<Self> {
        let bytes = pages.bytes(footer.header_at, HEADER_BYTES)?;
        let place = |error: Malformed| pages.damaged(footer.header_at + error.at as u64, error.why);
        let (table_at, entries, block) = decode(&bytes).map_err(place)?;
        if !block.is_power_of_two() || u64::from(block) < SECTOR {
            return Err(pages.damaged(footer.header_at + 32, format!("blocks of {block} bytes")));
        }
        if block > BLOCK_LIMIT {
            return Err(Error::unsupported(pages.name(), format!("blocks of {block} bytes")));
        }
        let needed = footer.size.get().div_ceil(u64::from(block));
        if u64::from(entries) < needed {
            let why = format!("a table of {entries} blocks; {needed} are needed");
            return Err(pages.damaged(footer.header_at + 28, why));
        }
        pages.holds(table_at, needed * 4, "the table of blocks")?;
        Ok(Self { pages, table_at, block: u64::from(block) })
    }

    /// Bytes of a block's bitmap: a bit a sector, rounded up to sectors.
    fn bitmap_bytes(&self) -> u64 {
        bitmap_bytes(self.block)
    }

    /// How many sectors from `first` on are in the same state, as far as one look tells, and whether they were written.
    fn run(&self, bitmap_at: u64, first: u64) -> Result<(bool, u64)> {
        let (from, mut bits) = (first / 8, [0; LOOK]);
        let bits = &mut bits[..LOOK.min((self.bitmap_bytes() - from) as usize)];
        self.pages.read(bitmap_at + from, bits)?;
        // the first sector is the highest bit of the first byte
        let is_written = |sector: u64| bits[(sector / 8 - from) as usize] >> (7 - sector % 8) & 1 == 1;
        let end = (self.block / SECTOR).min((from + bits.len() as u64) * 8);
        let written = is_written(first);
        Ok((written, (first..end).take_while(|&sector| is_written(sector) == written).count() as u64))
    }
}

pub(super) const fn bitmap_bytes(block: u64) -> u64 {
    block.div_ceil(SECTOR * 8).next_multiple_of(SECTOR)
}

/// (table, entries, bytes a block)
fn decode(bytes: &[u8]) -> Result<(u64, u32, u32), Malformed> {
    let mut at = Cursor::new(bytes);
    if &at.array::<8>()? != COOKIE {
        return Err(at.malformed("there is no header of a dynamic VHD"));
    }
    let _next = at.be_u64()?;
    let table_at = at.be_u64()?;
    let version = at.be_u32()?;
    let entries = at.be_u32()?;
    let block = at.be_u32()?;
    if at.be_u32()? != checksum(bytes, CHECKSUM_AT) {
        return Err(at.malformed("the dynamic header's checksum does not match"));
    }
    if version >> 16 != 1 {
        return Err(at.malformed(format!("dynamic header version {}.{}", version >> 16, version & 0xffff)));
    }
    Ok((table_at, entries, block))
}

impl Layout for Blocks {
    fn piece(&self, at: u64) -> Result<Piece> {
        let (index, within) = (at / self.block, at % self.block);
        let sector = self.pages.be_u32(self.table_at + index * 4)?;
        if sector == UNUSED {
            return Ok(Piece { place: Place::Absent, count: self.block - within });
        }
        let bitmap_at = u64::from(sector) * SECTOR;
        let (written, sectors) = self.run(bitmap_at, within / SECTOR)?;
        let count = sectors * SECTOR - within % SECTOR;
        let host = bitmap_at + self.bitmap_bytes() + within;
        Ok(Piece { place: if written { Place::Stored(host) } else { Place::Absent }, count })
    }
}
