//! The sums of a sealed layer: a CRC-32 for each block whose bytes are in the layer's file. Format, write order and
//! meaning: `docs/sums.md`.

use crate::FrozenMap;
use crate::active::Place;
use crate::files::OpenFiles;
use crate::names::{Numbered, must_exist};
use block::sync::Arc;
use block::{Cursor, DiskId, Error, FileHeader, HEADER_LEN, Malformed, MediaFile, OpenHow, Result};

const HEADER: FileHeader = FileHeader::new(*b"sums", 1);
/// Header, disk, number, crc.
const HEAD_LEN: usize = HEADER_LEN + 16 + 8 + 4;
const SLOT_LEN: usize = 4096;
/// Where the first page lies, and what a page takes.
const FIRST_PAGE: u64 = 4096;
const PAGE_LEN: u64 = 2 * SLOT_LEN as u64;
/// A slot before its sums.
const SLOT_HEAD: usize = 128;

/// Blocks one page covers.
pub(crate) const PAGE_SUMS: u64 = ((SLOT_LEN - SLOT_HEAD) / 4) as u64;

/// The sum of a block's bytes; never 0, which stands for no sum.
pub fn sum_of(bytes: &[u8]) -> u32 {
    match crc32fast::hash(bytes) {
        0 => 1,
        crc => crc,
    }
}

/// One page of sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumPage {
    sequence: u64,
    sums: Box<[u32; PAGE_SUMS as usize]>,
}

impl SumPage {
    fn empty() -> Self {
        Self { sequence: 0, sums: Box::new([0; PAGE_SUMS as usize]) }
    }

    /// The sum of a block of the page's, by its place in it.
    pub(crate) fn get(&self, index: u64) -> Option<u32> {
        self.sums.get(index as usize).copied().filter(|&sum| sum != 0)
    }

    /// Sets or takes away a block's sum.
    pub(crate) fn set(&mut self, index: u64, sum: Option<u32>) {
        if let Some(place) = self.sums.get_mut(index as usize) {
            *place = sum.unwrap_or(0);
        }
    }

    /// The stored form of one slot.
    pub fn encode(&self, disk: DiskId, number: u64, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for field in [self.sequence, page, number] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(disk.as_bytes());
        bytes.resize(SLOT_HEAD, 0);
        bytes.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one slot; `None` if it is not whole, or another page, file or disk.
    pub fn decode(bytes: &[u8], disk: DiskId, number: u64, page: u64) -> Option<Self> {
        let bytes: &[u8; SLOT_LEN] = bytes.try_into().ok()?;
        let mut cursor = Cursor::new(bytes);
        let mut head = || Ok::<_, Malformed>((cursor.u32()?, cursor.u32()?, cursor.u64()?));
        let (crc, zero, sequence) = head().ok()?;
        let mut owner = || Ok::<_, Malformed>((cursor.u64()?, cursor.u64()?, cursor.array()?));
        let is_ours = owner().ok()? == (page, number, *disk.as_bytes());
        if crc32fast::hash(&bytes[4..]) != crc || zero != 0 || sequence == 0 || !is_ours {
            return None;
        }
        let words = bytes[SLOT_HEAD..].as_chunks::<4>().0;
        let sums = Box::new(std::array::from_fn(|index| u32::from_le_bytes(words[index])));
        Some(Self { sequence, sums })
    }
}

/// The file.
pub(crate) struct SumsFile {
    file: Arc<dyn MediaFile>,
    path: String,
    disk: DiskId,
    number: u64,
}

impl SumsFile {
    /// Makes an empty file for a layer of the place's size. It is durable but for its name.
    pub(crate) fn create(place: &Place<'_>, number: u64, blocks: u64) -> Result<Self> {
        let path = place.path(Numbered::Sums(number));
        let file = place.media.open(&path, OpenHow::Truncate)?;
        let sums = Self { file, path, disk: place.disk, number };
        sums.file.write_at(0, &head(place.disk, number))?;
        sums.file.set_len(len_for(blocks))?;
        sums.file.sync()?;
        Ok(sums)
    }

    /// The same file, opened when it is read.
    pub(crate) fn lazy(self, files: &Arc<OpenFiles>) -> Self {
        Self { file: files.lazy(self.path.clone()), ..self }
    }

    /// Opens the file of this number, for a layer whose data file has this many blocks.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, cut short or another's.
    pub(crate) fn open(place: &Place<'_>, number: u64, blocks: u64, how: OpenHow) -> Result<Self> {
        let path = place.path(Numbered::Sums(number));
        let file = must_exist(&path, place.media.open(&path, how))?;
        let sums = Self { file, path, disk: place.disk, number };
        let (len, expected) = (sums.file.size()?, len_for(blocks));
        if len != expected {
            return Err(sums.damaged(None, format!("{len} bytes long, should be {expected}")));
        }
        let mut found = [0; HEAD_LEN];
        sums.file.read_at(0, &mut found)?;
        FileHeader::check(&found, &HEADER, &sums.path)?;
        if found[HEADER_LEN..] != head(place.disk, number)[HEADER_LEN..] {
            return Err(sums.damaged(Some(HEADER_LEN as u64), "belongs to another disk or place"));
        }
        Ok(sums)
    }

    /// An error that names this file.
    pub(crate) fn damaged(&self, offset: Option<u64>, why: impl Into<String>) -> Error {
        Error::corrupt(&self.path, offset, why)
    }

    /// Where a page lies.
    pub(crate) fn offset_of(page: u64) -> u64 {
        FIRST_PAGE + page * PAGE_LEN
    }

    /// The newest whole form of a page. One that was never written, or of which neither slot is whole, has no sums.
    pub(crate) fn read_page(&self, page: u64) -> Result<SumPage> {
        let mut slots = [0; PAGE_LEN as usize];
        self.file.read_at(Self::offset_of(page), &mut slots)?;
        let whole = slots.chunks_exact(SLOT_LEN);
        let whole = whole.filter_map(|slot| SumPage::decode(slot, self.disk, self.number, page));
        Ok(whole.max_by_key(|found| found.sequence).unwrap_or_else(SumPage::empty))
    }

    /// Writes a page as its next form, into the slot that does not hold it. Durable after [`sync`](Self::sync).
    pub(crate) fn write_page(&self, page: u64, sums: &mut SumPage) -> Result<()> {
        sums.sequence += 1;
        let slot = (sums.sequence + 1) % 2 * SLOT_LEN as u64;
        self.file.write_at(Self::offset_of(page) + slot, &sums.encode(self.disk, self.number, page))
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

fn head(disk: DiskId, number: u64) -> Vec<u8> {
    let mut head = HEADER.encode().to_vec();
    head.extend(disk.as_bytes());
    head.extend(number.to_le_bytes());
    let crc = crc32fast::hash(&head);
    head.extend(crc.to_le_bytes());
    head
}

/// The length of the sums file of a layer of this many blocks.
fn len_for(blocks: u64) -> u64 {
    FIRST_PAGE + blocks.div_ceil(PAGE_SUMS) * PAGE_LEN
}

/// Visits, ascending, the pages of sums that blocks with bytes fall into, each with the runs of such blocks in it as
/// (first block within the page, blocks). The visitor returns whether to go on; so does this.
pub(crate) fn each_page<E>(
    map: &FrozenMap,
    mut visit: impl FnMut(u64, &[(u64, u64)]) -> Result<bool, E>,
) -> Result<bool, E> {
    let mut open: (u64, Vec<(u64, u64)>) = (0, Vec::new());
    let mut state = Ok(true);
    map.runs(|first, count, kind| {
        for (page, at, taken) in sum_pages(first, if kind.has_bytes() { count } else { 0 }) {
            if page != open.0 && !open.1.is_empty() && matches!(state, Ok(true)) {
                state = visit(open.0, &open.1);
                open.1.clear();
            }
            if matches!(state, Ok(true)) {
                open.0 = page;
                open.1.push((at, taken));
            }
        }
    });
    match state {
        Ok(true) if !open.1.is_empty() => visit(open.0, &open.1),
        state => state,
    }
}

/// Cuts a run of blocks at the borders of pages: (page, first block within it, blocks).
pub(crate) fn sum_pages(first: u64, count: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let (mut at, past) = (first, first + count);
    std::iter::from_fn(move || {
        let within = at % PAGE_SUMS;
        let taken = (PAGE_SUMS - within).min(past - at);
        let piece = (at / PAGE_SUMS, within, taken);
        at += taken;
        (taken > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskId = DiskId::from_bytes([0xd1; 16]);

    fn page() -> SumPage {
        let mut page = SumPage { sequence: 3, ..SumPage::empty() };
        page.set(0, Some(sum_of(b"first")));
        page.set(PAGE_SUMS - 1, Some(sum_of(b"last")));
        page
    }

    #[test]
    fn a_slot_round_trips_and_any_flipped_bit_is_seen() {
        let bytes = page().encode(DISK, 4, 9);
        assert_eq!(bytes.len(), SLOT_LEN);
        assert_eq!(SumPage::decode(&bytes, DISK, 4, 9), Some(page()));
        for (number, at) in [(5, 9), (4, 8)] {
            assert_eq!(SumPage::decode(&bytes, DISK, number, at), None, "another place");
        }
        for bit in 0..bytes.len() * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SumPage::decode(&hurt, DISK, 4, 9), None, "bit {bit}");
        }
    }

    #[test]
    fn a_sum_is_never_the_one_that_means_none() {
        // the four bytes whose CRC-32 is 0
        assert_eq!(crc32fast::hash(&[0x9d, 0x0a, 0xd9, 0x6d]), 0);
        assert_eq!(sum_of(&[0x9d, 0x0a, 0xd9, 0x6d]), 1);
    }

    #[test]
    fn runs_are_cut_at_pages() {
        let cut: Vec<_> = sum_pages(PAGE_SUMS - 2, PAGE_SUMS + 3).collect();
        assert_eq!(cut, [(0, PAGE_SUMS - 2, 2), (1, 0, PAGE_SUMS), (2, 0, 1)]);
    }

    /// The bytes shown in docs/sums.md.
    #[test]
    fn the_documented_bytes_are_the_real_ones() {
        let shown: Vec<u8> = include_str!("../docs/sums.md")
            .lines()
            .filter_map(|line| line.strip_prefix("    0"))
            .flat_map(|line| line.split_whitespace().skip(1).take(16))
            .map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte"))
            .collect();
        assert_eq!(shown, head(DISK, 4));
    }
}
