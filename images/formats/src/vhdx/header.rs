//! The two headers and the two region tables.

use super::guid::{self, Guid};
use super::{MAGIC, MIB};
use crate::error::{Error, Result};
use crate::pages::Pages;
use block::{ByteRange, Cursor, Malformed, crc32c};

pub(super) const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const REGION_TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const HEADER_BYTES: u64 = 4096;
pub(super) const REGION_TABLE_BYTES: u64 = 64 << 10;

/// Entries that fit a region table.
const REGIONS_LIMIT: usize = 2047;

/// What a reader needs of a header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) sequence: u64,
    /// Zeros where no log is to be replayed.
    pub(super) log_guid: Guid,
    pub(super) log: ByteRange,
}

/// Where the regions are.
pub(super) struct Regions {
    pub(super) bat: ByteRange,
    pub(super) metadata: ByteRange,
}

/// The checksum of a structure whose own place for it, four bytes from 4 on, counts as zeros.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut copy = bytes.to_vec();
    if let Some(own) = copy.get_mut(4..8) {
        own.fill(0);
    }
    !crc32c(!0, &copy)
}

/// A cursor behind signature and checksum, if both are right.
pub(super) fn checked<'a>(bytes: &'a [u8], signature: &[u8; 4], what: &str) -> Result<Cursor<'a>, Malformed> {
    let mut at = Cursor::new(bytes);
    if &at.array::<4>()? != signature {
        return Err(at.malformed(format!("there is no {what}")));
    }
    if at.u32()? != checksum(bytes) {
        return Err(at.malformed(format!("the checksum of the {what} does not match")));
    }
    Ok(at)
}

/// The valid header of the higher sequence number.
pub(super) fn current(pages: &Pages) -> Result<Header> {
    if pages.bytes(0, MAGIC.len() as u64)? != MAGIC {
        return Err(pages.damaged(0, "is no VHDX image: its signature is another"));
    }
    let [first, second] = HEADERS_AT.map(|at| header(pages, at));
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if second.sequence > first.sequence { second } else { first }),
        (Ok(only), Err(_)) | (Err(Error::Damaged { .. }), Ok(only)) => Ok(only),
        (Err(error), _) => Err(error),
    }
}

fn header(pages: &Pages, at: u64) -> Result<Header> {
    let bytes = pages.bytes(at, HEADER_BYTES)?;
    let (header, log_version, version) =
        decode(&bytes).map_err(|error| pages.damaged(at + error.at as u64, error.why))?;
    if version != 1 || log_version != 0 {
        let what = format!("VHDX version {version} with a log of version {log_version}");
        return Err(Error::unsupported(pages.name(), what));
    }
    Ok(header)
}

/// (header, log version, version)
fn decode(bytes: &[u8]) -> Result<(Header, u16, u16), Malformed> {
    let mut at = checked(bytes, b"head", "header")?;
    let sequence = at.u64()?;
    let _file_and_data_write_guids = at.bytes(32)?;
    let log_guid = at.array()?;
    let (log_version, version) = (at.u16()?, at.u16()?);
    let count = u64::from(at.u32()?);
    let start = at.u64()?;
    let end =
        start.checked_add(count).ok_or_else(|| at.malformed("the log passes the end of all offsets"))?;
    Ok((Header { sequence, log_guid, log: ByteRange::between(start, end) }, log_version, version))
}

/// The regions, from the first table that is whole.
pub(super) fn regions(pages: &Pages) -> Result<Regions> {
    let [first, second] = REGION_TABLES_AT.map(|at| region_table(pages, at));
    match (first, second) {
        (Ok(regions), _) | (Err(Error::Damaged { .. }), Ok(regions)) => Ok(regions),
        (Err(error), _) => Err(error),
    }
}

fn region_table(pages: &Pages, at: u64) -> Result<Regions> {
    let malformed = |error: Malformed| pages.damaged(at + error.at as u64, error.why);
    let bytes = pages.bytes(at, REGION_TABLE_BYTES)?;
    let mut cursor = checked(&bytes, b"regi", "region table").map_err(malformed)?;
    let count = cursor.count_u32(REGIONS_LIMIT, 32).map_err(malformed)?;
    let _reserved = cursor.u32().map_err(malformed)?;
    let (mut bat, mut metadata) = (None, None);
    for _ in 0..count {
        let (id, region, required) = region(&mut cursor).map_err(malformed)?;
        match id {
            guid::BAT => bat = Some(region),
            guid::METADATA => metadata = Some(region),
            _ if required => {
                return Err(Error::unsupported(pages.name(), "a required region it does not know"));
            }
            _ => {}
        }
    }
    let (Some(bat), Some(metadata)) = (bat, metadata) else {
        return Err(pages.damaged(at, "the region table names no block allocation table or no metadata"));
    };
    pages.holds(bat.start(), bat.count().get(), "the block allocation table")?;
    pages.holds(metadata.start(), metadata.count().get(), "the metadata region")?;
    Ok(Regions { bat, metadata })
}

fn region(cursor: &mut Cursor<'_>) -> Result<(Guid, ByteRange, bool), Malformed> {
    let id = cursor.array()?;
    let (start, count) = (cursor.u64()?, u64::from(cursor.u32()?));
    let required = cursor.u32()? & 1 == 1;
    match start.checked_add(count) {
        Some(end) if start >= MIB => Ok((id, ByteRange::between(start, end), required)),
        _ => Err(cursor.malformed(format!("a region at {start}"))),
    }
}
