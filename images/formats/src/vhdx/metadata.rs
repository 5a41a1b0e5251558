//! The metadata region: a table of items, of which five say what the disk is.

use super::guid::{self, Guid};
use crate::error::{Error, Result};
use crate::limits::check_size;
use crate::pages::Pages;
use block::{ByteCount, ByteRange, Cursor, Malformed};

pub(super) const TABLE_BYTES: u64 = 64 << 10;

const ITEMS_LIMIT: u16 = 2047;

const HAS_PARENT: u32 = 2;

/// What the metadata says of the disk.
pub(super) struct Metadata {
    pub(super) size: ByteCount,
    /// Bytes a payload block.
    pub(super) block: u64,
    /// Bytes a sector of the disk.
    pub(super) sector: u64,
}

struct Item {
    id: Guid,
    at: u64,
    count: u64,
    is_user: bool,
    is_required: bool,
}

pub(super) fn read(pages: &Pages, region: ByteRange) -> Result<Metadata> {
    let (mut parameters, mut size, mut sector) = (None, None, None);
    for item in items(pages, region)? {
        match item.id {
            guid::FILE_PARAMETERS => {
                let bytes = value::<8>(pages, &item)?;
                let [a, b, c, d, rest @ ..] = bytes;
                parameters = Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest)));
            }
            guid::DISK_SIZE => size = Some(u64::from_le_bytes(value(pages, &item)?)),
            guid::LOGICAL_SECTOR => sector = Some(u32::from_le_bytes(value(pages, &item)?)),
            guid::DISK_ID | guid::PHYSICAL_SECTOR => {}
            guid::PARENT_LOCATOR => return Err(differencing(pages)),
            _ if item.is_required && !item.is_user => {
                return Err(Error::unsupported(pages.name(), "a required metadata item it does not know"));
            }
            _ => {}
        }
    }
    let (Some((block, flags)), Some(size), Some(sector)) = (parameters, size, sector) else {
        return Err(pages.damaged(region.start(), "the metadata lacks block size, disk size or sector size"));
    };
    if flags & HAS_PARENT != 0 {
        return Err(differencing(pages));
    }
    let metadata = Metadata {
        size: check_size(pages.name(), size)?,
        block: u64::from(block),
        sector: u64::from(sector),
    };
    check(pages, region, &metadata)?;
    Ok(metadata)
}

fn differencing(pages: &Pages) -> Error {
    Error::unsupported(pages.name(), "a differencing VHDX")
        .with_help("merge it into its parent first, with the tool that made it")
}

fn check(pages: &Pages, region: ByteRange, metadata: &Metadata) -> Result<()> {
    let damaged = |why: String| Err(pages.damaged(region.start(), why));
    let Metadata { size, block, sector } = metadata;
    if !matches!(sector, 512 | 4096) {
        return damaged(format!("sectors of {sector} bytes"));
    }
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(block) {
        return damaged(format!("blocks of {block} bytes; powers of two from 1 to 256 MiB are valid"));
    }
    if !size.get().is_multiple_of(*sector) {
        return damaged(format!("a disk of {size} bytes, which is no whole number of sectors"));
    }
    Ok(())
}

fn items(pages: &Pages, region: ByteRange) -> Result<Vec<Item>> {
    let bytes = pages.bytes(region.start(), TABLE_BYTES.min(region.count().get()))?;
    table(&bytes, region).map_err(|error| pages.damaged(region.start() + error.at as u64, error.why))
}

fn table(bytes: &[u8], region: ByteRange) -> Result<Vec<Item>, Malformed> {
    let mut at = Cursor::new(bytes);
    if at.array::<8>()? != *b"metadata" {
        return Err(at.malformed("there is no metadata table"));
    }
    let _reserved = at.u16()?;
    let count = at.u16()?;
    let _reserved = at.bytes(20)?;
    if count > ITEMS_LIMIT {
        return Err(at.malformed(format!("{count} metadata items; {ITEMS_LIMIT} are valid")));
    }
    (0..count).map(|_| item(&mut at, region)).collect()
}

fn item(at: &mut Cursor<'_>, region: ByteRange) -> Result<Item, Malformed> {
    let id = at.array()?;
    let (offset, count) = (u64::from(at.u32()?), u64::from(at.u32()?));
    let flags = at.u32()?;
    let _reserved = at.u32()?;
    if offset + count > region.count().get() {
        return Err(at.malformed("a metadata item lies outside its region"));
    }
    Ok(Item { id, at: region.start() + offset, count, is_user: flags & 1 != 0, is_required: flags & 4 != 0 })
}

fn value<const N: usize>(pages: &Pages, item: &Item) -> Result<[u8; N]> {
    if item.count < N as u64 {
        return Err(
            pages.damaged(item.at, format!("a metadata item of {} bytes; {N} are needed", item.count))
        );
    }
    let mut value = [0; N];
    pages.read(item.at, &mut value)?;
    Ok(value)
}
