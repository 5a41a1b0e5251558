//! The GUID partition table, and its copy at the end of the disk.

use super::{MAX_NUMBER, Scheme, Table, sectors};
use crate::Result;
use crate::fields::{le32, le64};
use block::BlockSource;

const SIGNATURE: &[u8] = b"EFI PART";
const LEAST_HEADER: usize = 92;
/// The largest entry read; 128 bytes is what there is, larger powers of two are allowed.
const MAX_ENTRY: usize = 4096;
/// The largest array of entries read, in bytes; the usual one has 16 KiB.
const MAX_ENTRIES_LEN: usize = 1 << 20;

struct Header {
    entries_at: u64,
    count: usize,
    size: usize,
    crc: u32,
    backup: u64,
}

/// The table with this sector size, or `None`; remarks tell of copies that are damaged. The backup copy is believed
/// only where something else says that the disk has such a table: the primary's signature or a protective boot record.
pub(super) fn read(
    disk: &dyn BlockSource,
    sector: u64,
    protective: bool,
    remarks: &mut Vec<String>,
) -> Result<Option<Table>> {
    let last = (disk.size().get() / sector).saturating_sub(1);
    let primary = header(disk, sector, 1)?;
    let signed = !matches!(primary, Found::Nothing);
    if let Found::Header(header) = &primary
        && let Some(table) = table(disk, sector, header, Scheme::Gpt)?
    {
        return Ok(Some(table));
    }
    if !signed && !protective {
        return Ok(None);
    }
    let mut places = vec![last];
    if let Found::Header(header) = &primary {
        places.push(header.backup);
    }
    for at in places {
        if let Found::Header(header) = header(disk, sector, at)?
            && let Some(mut table) = table(disk, sector, &header, Scheme::GptBackup)?
        {
            table.remarks.push("the primary partition table is damaged, its copy was used".to_owned());
            return Ok(Some(table));
        }
    }
    if signed {
        remarks.push("the GUID partition table and its copy are damaged".to_owned());
    }
    Ok(None)
}

enum Found {
    Nothing,
    Damaged,
    Header(Header),
}

fn header(disk: &dyn BlockSource, sector: u64, at: u64) -> Result<Found> {
    let offset = at.checked_mul(sector);
    let bytes = match offset {
        Some(offset) => sectors(disk, offset, sector as usize)?,
        None => None,
    };
    match bytes.filter(|bytes| bytes.starts_with(SIGNATURE)) {
        None => Ok(Found::Nothing),
        Some(bytes) => Ok(decode(&bytes, at)?.map_or(Found::Damaged, Found::Header)),
    }
}

/// The header in sector `at`, or `None` if its checksum, place or sizes do not fit.
fn decode(bytes: &[u8], at: u64) -> Result<Option<Header>> {
    let len = le32(bytes, 12)? as usize;
    let Some(header) = bytes.get(..len).filter(|_| len >= LEAST_HEADER) else { return Ok(None) };
    let mut blank = header.to_vec();
    blank.get_mut(16..20).unwrap_or_default().fill(0);
    if crc32fast::hash(&blank) != le32(bytes, 16)? || le64(bytes, 24)? != at {
        return Ok(None);
    }
    let (count, size) = (le32(bytes, 80)? as usize, le32(bytes, 84)? as usize);
    let sane =
        (128..=MAX_ENTRY).contains(&size) && count.checked_mul(size).is_some_and(|n| n <= MAX_ENTRIES_LEN);
    let header =
        Header { entries_at: le64(bytes, 72)?, count, size, crc: le32(bytes, 88)?, backup: le64(bytes, 32)? };
    Ok(sane.then_some(header))
}

fn table(disk: &dyn BlockSource, sector: u64, header: &Header, scheme: Scheme) -> Result<Option<Table>> {
    let Some(at) = header.entries_at.checked_mul(sector) else { return Ok(None) };
    let Some(entries) = sectors(disk, at, header.count * header.size)? else { return Ok(None) };
    if crc32fast::hash(&entries) != header.crc {
        return Ok(None);
    }
    let mut table = Table::new(scheme);
    for (number, entry) in (1..=MAX_NUMBER).zip(entries.chunks_exact(header.size)) {
        // an unused place has a type of zeros
        if entry.iter().take(16).all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
        let count = last.checked_sub(first).and_then(|count| count.checked_add(1)).unwrap_or(0);
        table.add(number, first, count, sector, disk.size().get());
    }
    Ok(Some(table))
}
