//! The stored form of a frozen map, as `docs/map.md` specifies it. Written and read a part at a time: a map in which
//! every page is spelled out is as large as the process may become.

use super::{FrozenMap, FrozenPage};
use crate::state::{BlockState, PAGE_WORDS, PageWords, page_count};
use block::{Cursor, DiskId, Error, FileHeader, HEADER_LEN, Malformed, Media, MediaFile, Result};

const HEADER: FileHeader = FileHeader::new(*b"lmap", 1);
/// Stored kinds of a page: uniform pages are their state's bits.
const KIND_ZSTD: u8 = 4;
const KIND_RAW: u8 = 5;
/// A page record without its payload: page u32, kind u8, reserved u8, length u16.
const RECORD_LEN: usize = 8;
const PAGE_BYTES: usize = PAGE_WORDS * 8;
/// After the header: disk id, map number, blocks, page records.
const FIXED_LEN: usize = 16 + 8 + 8 + 4;
const CRC_LEN: u64 = 4;
const LEVEL: i32 = 1;
/// Bytes written or read at a time.
const PART: usize = 256 << 10;

impl FrozenMap {
    /// The stored form.
    ///
    /// # Errors
    /// `Io` if the compressor fails.
    pub fn encode(&self, disk: DiskId, number: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.encode_to(disk, number, &mut |part| {
            bytes.extend(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Writes the stored form to the start of a file. Gives its length.
    pub(crate) fn write_to(&self, file: &dyn MediaFile, disk: DiskId, number: u64) -> Result<u64> {
        let mut at = 0;
        self.encode_to(disk, number, &mut |part| {
            file.write_at(at, part)?;
            at += part.len() as u64;
            Ok(())
        })?;
        Ok(at)
    }

    /// Hands the stored form to `write`, in parts of about [`PART`] bytes.
    fn encode_to(&self, disk: DiskId, number: u64, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let failed = |source| Error::host("compress", "a frozen map", None, source);
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
        let mut crc = crc32fast::Hasher::new();
        let mut part = HEADER.encode().to_vec();
        part.extend(disk.as_bytes());
        part.extend(number.to_le_bytes());
        part.extend(self.blocks.to_le_bytes());
        part.extend((self.pages.len() as u32).to_le_bytes());
        for (page, content) in &self.pages {
            let (kind, payload) = match content {
                FrozenPage::Uniform(state) => (*state as u8, Vec::new()),
                FrozenPage::Words(_) => {
                    let raw: Vec<u8> = content.words().iter().flat_map(|word| word.to_le_bytes()).collect();
                    let small = compressor.compress(&raw).map_err(failed)?;
                    if small.len() < raw.len() { (KIND_ZSTD, small) } else { (KIND_RAW, raw) }
                }
            };
            part.extend(page.to_le_bytes());
            part.extend([kind, 0]);
            part.extend((payload.len() as u16).to_le_bytes());
            part.extend(payload);
            if part.len() >= PART {
                crc.update(&part);
                write(&part)?;
                part.clear();
            }
        }
        crc.update(&part);
        part.extend(crc.finalize().to_le_bytes());
        write(&part)
    }

    /// The most one page adds to the stored form.
    pub(crate) const fn max_page_len() -> u64 {
        (RECORD_LEN + PAGE_BYTES) as u64
    }

    /// The largest stored form of a map of this many blocks; a longer file is damaged.
    pub fn max_encoded_len(blocks: u64) -> u64 {
        (HEADER_LEN + FIXED_LEN) as u64 + CRC_LEN + page_count(blocks) as u64 * Self::max_page_len()
    }

    /// Reads the stored form. `what` names the file in errors.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not the map of this disk, number and block count; `Unsupported` for another
    /// version.
    pub fn decode(bytes: &[u8], disk: DiskId, number: u64, blocks: u64, what: &str) -> Result<Self> {
        let read = |offset: u64, buf: &mut [u8]| {
            let (from, past) = (offset as usize, offset as usize + buf.len());
            buf.copy_from_slice(
                bytes.get(from..past).ok_or_else(|| Error::corrupt(what, None, "cut short"))?,
            );
            Ok(())
        };
        let parts = Parts::new(&read, bytes.len() as u64, what);
        parts.map_of(Self::new(blocks), disk, number)
    }

    /// Reads the stored form from a file, named `what` in errors.
    pub(crate) fn read_from(
        file: &dyn MediaFile,
        media: &dyn Media,
        disk: DiskId,
        number: u64,
        blocks: u64,
        what: &str,
    ) -> Result<Self> {
        let (len, limit) = (file.size()?, Self::max_encoded_len(blocks));
        if len > limit {
            let why = format!("{len} bytes long, at most {limit} are valid");
            return Err(Error::corrupt(what, None, why));
        }
        let read = |offset, buf: &mut [u8]| file.read_at(offset, buf);
        Parts::new(&read, len, what).map_of(Self::on(media, blocks), disk, number)
    }
}

/// Stored bytes, read from the front a part at a time.
struct Parts<'a> {
    read: &'a dyn Fn(u64, &mut [u8]) -> Result<()>,
    len: u64,
    what: &'a str,
    /// The part at hand, where it lies, and how much of it was taken.
    part: Vec<u8>,
    start: u64,
    taken: usize,
}

impl<'a> Parts<'a> {
    fn new(read: &'a dyn Fn(u64, &mut [u8]) -> Result<()>, len: u64, what: &'a str) -> Self {
        Self { read, len, what, part: Vec::new(), start: 0, taken: 0 }
    }

    fn damaged(&self, why: impl Into<String>) -> Error {
        Error::corrupt(self.what, Some(self.start + self.taken as u64), why)
    }

    /// Reads the part at `start`.
    fn load(&mut self, start: u64) -> Result<()> {
        if start != self.start || self.part.is_empty() {
            self.part.resize((self.len - start).min(PART as u64) as usize, 0);
            (self.read)(start, &mut self.part)?;
        }
        (self.start, self.taken) = (start, 0);
        Ok(())
    }

    /// Checks the checksum over everything, then begins anew at the front, without the checksum.
    fn check(&mut self) -> Result<()> {
        let Some(body) = self.len.checked_sub(CRC_LEN).filter(|&len| len >= (HEADER_LEN + FIXED_LEN) as u64)
        else {
            return Err(self.damaged("cut short"));
        };
        let mut crc = crc32fast::Hasher::new();
        let mut stored = [0; CRC_LEN as usize];
        (self.read)(body, &mut stored)?;
        self.len = body;
        for start in (0..body).step_by(PART) {
            self.load(start)?;
            crc.update(&self.part);
        }
        if crc.finalize().to_le_bytes() != stored {
            return Err(Error::corrupt(self.what, None, "the checksum disagrees"));
        }
        self.load(0)
    }

    /// The next bytes; `count` is far less than a part.
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        if self.part.len() - self.taken < count {
            let at = self.start + self.taken as u64;
            if self.len - at < count as u64 {
                return Err(self.damaged(format!("{count} bytes wanted, {} left", self.len - at)));
            }
            self.load(at)?;
        }
        self.taken += count;
        Ok(&self.part[self.taken - count..self.taken])
    }

    fn map_of(mut self, mut map: FrozenMap, disk: DiskId, number: u64) -> Result<FrozenMap> {
        let mut head = vec![0; (HEADER_LEN as u64).min(self.len) as usize];
        (self.read)(0, &mut head)?;
        FileHeader::check(&head, &HEADER, self.what)?;
        self.check()?;
        self.take(HEADER_LEN)?;
        let mut fixed = Cursor::new(self.take(FIXED_LEN)?);
        let fields =
            (|| Ok::<_, Malformed>((fixed.array()?, fixed.u64()?, fixed.u64()?, fixed.u32()? as usize)))();
        let (owner, place, blocks, count) = fields.map_err(|malformed| self.damaged(malformed.why))?;
        if (owner, place, blocks) != (*disk.as_bytes(), number, map.blocks) {
            return Err(Error::corrupt(self.what, None, "belongs to another disk, place or size"));
        }
        let pages = page_count(blocks);
        if count > pages {
            return Err(self.damaged(format!("{count} pages, at most {pages} are valid")));
        }
        let mut next = 0;
        for _ in 0..count {
            next = self.page(&mut map, next, pages)?;
        }
        match self.len - self.start - self.taken as u64 {
            0 => Ok(map),
            left => Err(self.damaged(format!("{left} bytes follow the last page"))),
        }
    }

    /// Reads a page, which is `least` or a later one, into the map. Gives the first that may follow it.
    fn page(&mut self, map: &mut FrozenMap, least: usize, pages: usize) -> Result<usize> {
        let mut record = Cursor::new(self.take(RECORD_LEN)?);
        let fields = (|| Ok::<_, Malformed>((record.u32()?, record.u8()?, record.u8()?, record.u16()?)))();
        let (page, kind, _reserved, len) = fields.map_err(|malformed| self.damaged(malformed.why))?;
        if (page as usize) < least || page as usize >= pages {
            return Err(self.damaged(format!("page {page} is out of order or past the end")));
        }
        match (kind, decode_page(kind, self.take(usize::from(len))?)) {
            (1..=3, Some(_)) => map.put_uniform(page as usize, BlockState::from_bits(u64::from(kind))),
            (_, Some(words)) => map.put_page(page as usize, words),
            (_, None) => return Err(self.damaged(format!("page {page} is no page"))),
        }
        Ok(page as usize + 1)
    }
}

/// The words of a stored page.
fn decode_page(kind: u8, payload: &[u8]) -> Option<Box<PageWords>> {
    let raw = match (kind, payload.len()) {
        (1..=3, 0) => {
            return Some(Box::new([BlockState::from_bits(u64::from(kind)).filled_word(); PAGE_WORDS]));
        }
        (KIND_RAW, PAGE_BYTES) => payload.to_vec(),
        (KIND_ZSTD, _) => {
            zstd::bulk::decompress(payload, PAGE_BYTES).ok().filter(|raw| raw.len() == PAGE_BYTES)?
        }
        _ => return None,
    };
    let words = raw.as_chunks::<8>().0;
    Some(Box::new(std::array::from_fn(|index| u64::from_le_bytes(words[index]))))
}
