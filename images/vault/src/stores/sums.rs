//! A blob as a copy keeps it: its bytes, a checksum for each block of them, a footer. Specified in `docs/copies.md`.

use block::{BlobStore, ByteCount, ByteRange, Cursor, Error, FileHeader, HEADER_LEN, Malformed, Result};

/// Bytes under one checksum: what a read may touch beside what it wants.
const BLOCK: u64 = 4096;
const SUM_LEN: u64 = 4;
/// Header, length, checksum of table and footer.
const FOOTER_LEN: u64 = HEADER_LEN as u64 + 8 + 4;
const FORMAT: [u8; 4] = *b"csum";

fn header() -> FileHeader {
    FileHeader::new(FORMAT, 0)
}

fn blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK)
}

/// A blob with its sums behind it.
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(bytes.len() + bytes.len() / 1000 + FOOTER_LEN as usize);
    stored.extend_from_slice(bytes);
    for block in bytes.chunks(BLOCK as usize) {
        stored.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    }
    stored.extend_from_slice(&header().encode());
    stored.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    let sum = crc32fast::hash(&stored[bytes.len()..]);
    stored.extend_from_slice(&sum.to_le_bytes());
    stored
}

/// How long a blob is that takes so many bytes with its sums; `None` if none does.
pub(super) fn len_of(stored: u64) -> Option<u64> {
    let rest = stored.checked_sub(FOOTER_LEN)?;
    let count = rest.div_ceil(BLOCK + SUM_LEN);
    let len = rest.checked_sub(count * SUM_LEN)?;
    (blocks(len) == count).then_some(len)
}

fn damaged(name: &str, why: impl Into<String>) -> Error {
    Error::corrupt(format!("the copy of blob {name}"), None, why)
}

/// The blob in what is stored, all of it proven.
pub(super) fn decode<'a>(name: &str, stored: &'a [u8]) -> Result<&'a [u8]> {
    let len = checked(stored).map_err(|why| damaged(name, why.to_string()))?;
    let (bytes, sums) = stored.split_at(len as usize);
    prove(bytes, &sums[..(blocks(len) * SUM_LEN) as usize]).map_err(|at| {
        Error::corrupt(format!("the copy of blob {name}"), Some(at), "its checksum disagrees")
    })?;
    Ok(bytes)
}

/// The blob's length, after table and footer were proven.
fn checked(stored: &[u8]) -> Result<u64, Malformed> {
    let mut cursor = Cursor::new(stored);
    let len = len_of(stored.len() as u64)
        .ok_or_else(|| cursor.malformed("no blob has this length with its sums"))?;
    cursor.bytes(len as usize)?;
    let covered = cursor.bytes(stored.len() - len as usize - 4)?;
    if cursor.u32()? != crc32fast::hash(covered) {
        return Err(cursor.malformed("the checksum of its sums disagrees"));
    }
    let footer = &covered[covered.len() - FOOTER_LEN as usize + 4..];
    let mut cursor = Cursor::new(footer);
    if FileHeader::check(cursor.bytes(HEADER_LEN)?, &header(), "sums").is_err() {
        return Err(cursor.malformed("it does not end with sums"));
    }
    if cursor.u64()? != len {
        return Err(cursor.malformed("its length is another"));
    }
    Ok(len)
}

/// Where the first block lies whose sum disagrees.
fn prove(bytes: &[u8], sums: &[u8]) -> Result<(), u64> {
    for (number, (block, sum)) in bytes.chunks(BLOCK as usize).zip(sums.chunks_exact(4)).enumerate() {
        if crc32fast::hash(block).to_le_bytes() != sum {
            return Err(number as u64 * BLOCK);
        }
    }
    Ok(())
}

/// The blob's length in a store, its footer proven.
pub(super) fn size(store: &dyn BlobStore, name: &str) -> Result<u64> {
    let stored = store.size(name)?.get();
    let len = len_of(stored).ok_or_else(|| damaged(name, "no blob has this length with its sums"))?;
    let footer = store.get(name, ByteRange::between(stored - FOOTER_LEN, stored))?;
    let mut cursor = Cursor::new(&footer);
    let mut said = || {
        FileHeader::check(cursor.bytes(HEADER_LEN).ok()?, &header(), name).ok()?;
        cursor.u64().ok()
    };
    if said() == Some(len) {
        Ok(len)
    } else {
        Err(damaged(name, "it does not end with the sums of its length"))
    }
}

/// A range of a blob in a store, proven.
pub(super) fn get(store: &dyn BlobStore, name: &str, range: ByteRange) -> Result<Vec<u8>> {
    let len = size(store, name)?;
    if range.end() > len {
        return Err(Error::OutOfRange { offset: range.start(), count: range.count().get(), size: len });
    }
    get_proven(store, (name, name), len, range)
}

/// A range of what lies under the first name, by the sums behind what lies under the second; both have this length.
fn get_proven(
    store: &dyn BlobStore,
    (name, sums): (&str, &str),
    len: u64,
    range: ByteRange,
) -> Result<Vec<u8>> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let (first, behind) = (range.start() / BLOCK, range.end().div_ceil(BLOCK));
    let (start, end) = (first * BLOCK, (behind * BLOCK).min(len));
    let mut bytes = store.get(name, ByteRange::between(start, end))?;
    let sums = store.get(sums, ByteRange::between(len + first * SUM_LEN, len + behind * SUM_LEN))?;
    prove(&bytes, &sums).map_err(|at| {
        Error::corrupt(format!("the copy of blob {name}"), Some(start + at), "its checksum disagrees")
    })?;
    bytes.truncate((range.end() - start) as usize);
    bytes.drain(..(range.start() - start) as usize);
    Ok(bytes)
}

/// A range of a blob that lies in a store as it is, proven by the sums of its twin.
pub(super) fn get_beside(store: &dyn BlobStore, name: &str, twin: &str, range: ByteRange) -> Result<Vec<u8>> {
    let (len, lies) = (size(store, twin)?, store.size(name)?.get());
    if lies != len {
        return Err(Error::corrupt(
            format!("blob {name}"),
            None,
            format!("{lies} bytes long, {len} were put"),
        ));
    }
    if range.end() > len {
        return Err(Error::OutOfRange { offset: range.start(), count: range.count().get(), size: len });
    }
    get_proven(store, (name, twin), len, range)
}

/// A whole blob in a store, proven, and what is stored of it.
pub(super) fn get_whole(store: &dyn BlobStore, name: &str) -> Result<Vec<u8>> {
    let size = store.size(name)?;
    if len_of(size.get()).is_none() {
        return Err(damaged(name, "no blob has this length with its sums"));
    }
    let stored = store.get(name, ByteRange::whole(size))?;
    decode(name, &stored)?;
    Ok(stored)
}

/// The length as the seam says it, of a blob that a listing names.
pub(super) fn listed(stored: ByteCount) -> ByteCount {
    // one of no valid length is listed as it is; reading it tells of the damage
    ByteCount::new(len_of(stored.get()).unwrap_or(stored.get()))
}

/// For fuzzing: decodes any bytes as a blob with sums.
pub fn fuzz_sums(bytes: &[u8]) {
    if let Ok(blob) = decode("fuzz", bytes) {
        let again = encode(blob);
        // feature bits a reader may ignore are the only bytes not kept
        assert_eq!(again.len(), bytes.len());
        assert_eq!(again[..blob.len()], bytes[..blob.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Kind;

    #[test]
    fn every_length_is_told_from_the_stored_one() {
        for len in (0..3 * BLOCK + 2).chain([1 << 20, (1 << 24) - 1]) {
            let stored = len + blocks(len) * SUM_LEN + FOOTER_LEN;
            assert_eq!(len_of(stored), Some(len));
        }
        assert_eq!(len_of(FOOTER_LEN - 1), None);
        assert_eq!(len_of(FOOTER_LEN + 3), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes: Vec<u8> = (0..9000u32).map(|at| (at % 251) as u8).collect();
        let stored = encode(&bytes);
        assert_eq!(decode("x", &stored).unwrap(), bytes);
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(decode("x", &flipped).expect_err("a flip").kind(), Kind::Corrupt, "at {at}");
        }
        for len in 0..stored.len() {
            assert!(decode("x", &stored[..len]).is_err(), "cut to {len}");
        }
    }
}
