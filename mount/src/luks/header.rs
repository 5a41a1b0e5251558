//! The header of an encrypted volume, as the parser reads it: LUKS1 whole, of LUKS2 the binary part. Written from the two
//! on-disk format specifications.

use super::metadata::{damaged, luks2, unreadable};
use super::open::digest;
use super::{Cipher, Digest, Hash, Kdf, Luks, Slot};
use crate::Result;
use crate::fields::{array, be16, be32, be64};
use block::{BlockSource, ByteOffset, ByteRange};

const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// At the start of LUKS2's second header.
const SECOND_MAGIC: &[u8] = b"SKUL\xba\xbe";
const SECTOR: u64 = 512;
const LUKS1_LEN: usize = 592;
const LUKS1_SLOTS: usize = 8;
const SLOT_IN_USE: u32 = 0x00ac_71f3;
const LUKS2_BINARY: usize = 4096;
/// Where the second header of LUKS2 may be, which is the length of the first as well.
const LUKS2_PLACES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// Whether a volume that begins like this is encrypted with LUKS.
pub fn detect(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// The header of a volume.
///
/// # Errors
/// `Corrupt` if it is damaged in all its copies, `Unsupported` naming what this version does not know.
pub fn read(volume: &dyn BlockSource) -> Result<Luks> {
    let start = bytes(volume, 0, LUKS1_LEN)?;
    let luks = match (detect(&start), be16(&start, 6)?) {
        (true, 1) => luks1(&start, volume.size().get())?,
        (true, 2) => newest(volume)?,
        (true, version) => return Err(unreadable(format!("it has version {version}"))),
        (false, _) => return Err(damaged("it does not begin as one")),
    };
    if !luks.is_possible(volume.size().get()) {
        return Err(damaged("what it says of slots and content cannot be"));
    }
    Ok(luks)
}

fn bytes(volume: &dyn BlockSource, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    volume.read_at(ByteOffset::new(at), &mut bytes)?;
    Ok(bytes)
}

fn text(bytes: &[u8], at: usize, len: usize) -> Result<&str> {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = field.get(..end).and_then(|text| str::from_utf8(text).ok());
    text.ok_or_else(|| damaged("a name in it is not text"))
}

pub(super) fn hash(name: &str) -> Result<Hash> {
    Hash::named(name).ok_or_else(|| unreadable(format!("it uses the hash function {name:?}")))
}

pub(super) fn cipher(name: &str) -> Result<Cipher> {
    Cipher::named(name).ok_or_else(|| unreadable(format!("it uses the cipher {name:?}")))
}

fn luks1(header: &[u8], len: u64) -> Result<Luks> {
    let cipher = cipher(&format!("{}-{}", text(header, 8, 32)?, text(header, 40, 32)?))?;
    let hash = hash(text(header, 72, 32)?)?;
    let content = u64::from(be32(header, 104)?) * SECTOR;
    let key_len = be32(header, 108)? as usize;
    let value = array::<20>(header, 112)?.to_vec();
    let digest = Digest { hash, rounds: be32(header, 164)?, salt: array::<32>(header, 132)?.to_vec(), value };
    let mut slots = Vec::new();
    for at in (0..LUKS1_SLOTS).map(|slot| 208 + slot * 48) {
        if be32(header, at)? != SLOT_IN_USE {
            continue;
        }
        let (start, stripes) = (u64::from(be32(header, at + 40)?) * SECTOR, be32(header, at + 44)?);
        slots.push(Slot {
            kdf: Kdf::Pbkdf2 { hash, rounds: be32(header, at + 4)? },
            salt: array::<32>(header, at + 8)?.to_vec(),
            cipher,
            area_key: key_len,
            area: self::area(start, key_len, stripes)?,
            stripes,
            spread: hash,
        });
    }
    let content = whole_sectors(content, len, SECTOR)?;
    Ok(Luks { version: 1, cipher, key_len, sector: SECTOR as u32, content, tweak: 0, digest, slots })
}

pub(super) fn range(start: u64, len: u64) -> Result<ByteRange> {
    let end = start.checked_add(len).ok_or_else(|| damaged("a place in it has no end"))?;
    Ok(ByteRange::between(start, end))
}

/// Where the stripes of a key are, in whole sectors.
pub(super) fn area(start: u64, key_len: usize, stripes: u32) -> Result<ByteRange> {
    let len =
        (key_len as u64).checked_mul(u64::from(stripes)).and_then(|len| len.checked_next_multiple_of(SECTOR));
    range(start, len.ok_or_else(|| damaged("a key slot without end"))?)
}

/// What is from `start` to the end, without a part of a sector.
pub(super) fn whole_sectors(start: u64, end: u64, sector: u64) -> Result<ByteRange> {
    let len = end.checked_sub(start).ok_or_else(|| damaged("its content begins behind its end"))?;
    range(start, len - len % sector)
}

/// Of LUKS2's two headers the one written last, of those that are whole.
fn newest(volume: &dyn BlockSource) -> Result<Luks> {
    let mut found: Option<(u64, Vec<u8>)> = None;
    let mut why = None;
    let places = [0].into_iter().chain(LUKS2_PLACES);
    for at in places.filter(|at| at + LUKS2_BINARY as u64 <= volume.size().get()) {
        match whole(volume, at) {
            Ok(Some((sequence, json))) if found.as_ref().is_none_or(|(known, _)| *known < sequence) => {
                found = Some((sequence, json));
            }
            Ok(_) => {}
            Err(error) => why = Some(error),
        }
    }
    match (found, why) {
        (Some((_, json)), _) => luks2(&json, volume.size().get()),
        (None, Some(why)) => Err(why),
        (None, None) => Err(damaged("neither of its two copies is there")),
    }
}

/// The header at a place, as its sequence number and its text; `None` if none begins there.
fn whole(volume: &dyn BlockSource, at: u64) -> Result<Option<(u64, Vec<u8>)>> {
    let binary = bytes(volume, at, LUKS2_BINARY)?;
    let magic = if at == 0 { MAGIC } else { SECOND_MAGIC };
    if !binary.starts_with(magic) || be16(&binary, 6)? != 2 || be64(&binary, 256)? != at {
        return Ok(None);
    }
    let len = be64(&binary, 8)?;
    if !LUKS2_PLACES.contains(&len) || at != 0 && at != len {
        return Err(damaged(format!("a header of {len} bytes at {at}")));
    }
    let mut all = bytes(volume, at, len as usize)?;
    let expected: [u8; 64] = array(&all, CHECKSUM.start)?;
    let hash = hash(text(&all, 72, 32)?)?;
    all.get_mut(CHECKSUM).unwrap_or_default().fill(0);
    let sum = digest(hash, &[&all]);
    if !expected.starts_with(&sum) {
        return Err(damaged("it does not fit its checksum"));
    }
    Ok(Some((be64(&all, 16)?, all.split_off(LUKS2_BINARY))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, ByteCount, MemoryDisk};

    #[test]
    fn what_is_no_header_is_refused() {
        for start in [&b""[..], b"LUKS\xba\xbe\0\x01", b"LUKS\xba\xbe\0\x02", b"LUKS\xba\xbe\0\x03"] {
            let disk = MemoryDisk::new(ByteCount::new(64 << 10));
            disk.write_at(ByteOffset::ZERO, start).unwrap();
            assert!(read(&disk).is_err(), "{start:?}");
        }
        assert!(read(&MemoryDisk::new(ByteCount::new(100))).is_err());
    }
}
