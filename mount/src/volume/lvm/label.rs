//! The label of a physical volume, and the text of its group's metadata.

use super::text::{self, Section};
use crate::fields::{array, le32, le64};
use crate::{Error, Result};
use block::{BlockSource, ByteOffset};

const SECTOR: usize = 512;
/// The label is in one of the first four sectors.
const SECTORS: usize = 4;
/// The largest text read, in bytes: a group of thousands of volumes has less.
const MAX_TEXT: u64 = 4 << 20;
/// Areas a label may list.
const MAX_AREAS: usize = 16;
const AREA_MAGIC: &[u8] = b"\x20LVM2\x20x[5A%r0N*>";
const AREA_HEADER: u64 = 512;
/// Start value of LVM's CRC-32, which is not inverted at its end.
const CRC_START: u32 = 0xf597_a6cf;

/// What a physical volume says.
pub(in crate::volume) struct Label {
    /// Its identifier, 32 characters.
    pub id: String,
    /// The newest metadata on it, if it has any, or why that cannot be read. Not every physical volume has it.
    pub metadata: Result<Option<Section>>,
}

/// The label on a physical volume, or `None` if there is none.
pub(in crate::volume) fn read(volume: &dyn BlockSource) -> Result<Option<Label>> {
    let len = (SECTORS * SECTOR).min(volume.size().as_usize().unwrap_or(0));
    let mut start = vec![0; len];
    volume.read_at(ByteOffset::ZERO, &mut start)?;
    for (number, sector) in start.chunks_exact(SECTOR).enumerate() {
        let signed = sector.starts_with(b"LABELONE") && sector.get(24..32) == Some(b"LVM2 001");
        if signed && le64(sector, 8)? == number as u64 && le32(sector, 16)? == crc(sector.get(20..)) {
            return decode(volume, sector).map(Some);
        }
    }
    Ok(None)
}

fn crc(bytes: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!CRC_START);
    hasher.update(bytes.unwrap_or_default());
    !hasher.finalize()
}

fn decode(volume: &dyn BlockSource, sector: &[u8]) -> Result<Label> {
    let at = le32(sector, 20)? as usize;
    let id: [u8; 32] = array(sector, at)?;
    let id = String::from_utf8(id.to_vec()).map_err(|_| damaged("its identifier is not text"))?;
    let areas = areas(sector, at + 40)?;
    Ok(Label { id, metadata: newest(volume, &areas) })
}

/// The list of metadata areas, as (offset, length); the list of data areas before it is passed over.
fn areas(sector: &[u8], mut at: usize) -> Result<Vec<(u64, u64)>> {
    let mut areas = Vec::new();
    for is_metadata in [false, true] {
        for _ in 0..=MAX_AREAS {
            let (offset, len) = (le64(sector, at)?, le64(sector, at + 8)?);
            at += 16;
            if offset == 0 {
                break;
            }
            if is_metadata {
                areas.push((offset, len));
            }
        }
    }
    Ok(areas)
}

fn newest(volume: &dyn BlockSource, areas: &[(u64, u64)]) -> Result<Option<Section>> {
    let (mut newest, mut failure) = (None, None);
    for (offset, len) in areas {
        match area(volume, *offset, *len) {
            Ok(None) => {}
            Ok(Some(text)) => {
                if newest.as_ref().is_none_or(|known| sequence(known) < sequence(&text)) {
                    newest = Some(text);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    match (newest, failure) {
        (None, Some(error)) => Err(error),
        (newest, _) => Ok(newest),
    }
}

/// How often the group was changed.
pub(super) fn sequence(text: &Section) -> u64 {
    text.sections().find_map(|(_, group)| group.number("seqno")).unwrap_or(0)
}

/// The text in one area, a ring behind a header.
fn area(volume: &dyn BlockSource, offset: u64, len: u64) -> Result<Option<Section>> {
    let mut header = vec![0; AREA_HEADER as usize];
    volume.read_at(ByteOffset::new(offset), &mut header)?;
    if header.get(4..20) != Some(AREA_MAGIC) || le32(&header, 0)? != crc(header.get(4..)) {
        return Err(damaged("the header of its metadata does not fit its checksum"));
    }
    let (at, size, sum) = (le64(&header, 40)?, le64(&header, 48)?, le32(&header, 56)?);
    if at == 0 || size == 0 {
        return Ok(None);
    }
    let ring = len.checked_sub(AREA_HEADER).filter(|_| at >= AREA_HEADER && at < len);
    let Some(ring) = ring.filter(|ring| size <= *ring && size <= MAX_TEXT) else {
        return Err(damaged(format!("{size} bytes of metadata at {at} in an area of {len}")));
    };
    let mut bytes = vec![0; size as usize];
    let (first, rest) = bytes.split_at_mut((len - at).min(size).min(ring) as usize);
    let place =
        |at| offset.checked_add(at).map(ByteOffset::new).ok_or_else(|| damaged("an area without end"));
    volume.read_at(place(at)?, first)?;
    volume.read_at(place(AREA_HEADER)?, rest)?;
    if crc(Some(&bytes)) != sum {
        return Err(damaged("its metadata does not fit its checksum"));
    }
    text::parse(&bytes).map(Some)
}

pub(super) fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the LVM metadata", why)
}
