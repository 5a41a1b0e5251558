//! A frozen map: the states of a sealed layer's blocks, or the changes of an epoch. Stored as specified in
//! `docs/map.md`; held in memory only while something needs it.

use crate::state::{
    BlockState, PAGE_BLOCKS, PAGE_WORDS, PageWords, WORD_BLOCKS, mask, page_count, page_of, run_in_word,
    shift_of, word_of,
};
use block::{Cursor, DiskId, Error, FileHeader, HEADER_LEN, Malformed, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

const HEADER: FileHeader = FileHeader::new(*b"lmap", 1);
/// Stored kinds of a page: uniform pages are their state's bits.
const KIND_ZSTD: u8 = 4;
const KIND_RAW: u8 = 5;
/// A page record without its payload: page u32, kind u8, reserved u8, length u16.
const RECORD_LEN: usize = 8;
const PAGE_BYTES: usize = PAGE_WORDS * 8;
/// After the header: disk id, map number, blocks, page records.
const FIXED_LEN: usize = 16 + 8 + 8 + 4;
const LEVEL: i32 = 1;

/// One page of a frozen map. A page that is not in the map is all absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrozenPage {
    /// All blocks of the page have this state.
    Uniform(BlockState),
    /// Two bits a block.
    Words(Box<[u64; PAGE_WORDS]>),
}

/// A map of block states that no longer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenMap {
    blocks: u64,
    pages: BTreeMap<u32, FrozenPage>,
}

impl FrozenPage {
    fn simplified(words: Box<PageWords>) -> Self {
        let first = BlockState::from_bits(words[0]);
        if words.iter().all(|&word| word == first.filled_word()) {
            Self::Uniform(first)
        } else {
            Self::Words(words)
        }
    }

    /// The page with every block after its first `kept` ones in the state `rest`.
    fn cut(&self, kept: u64, rest: BlockState) -> Self {
        let words = std::array::from_fn(|index| {
            let before = index as u64 * WORD_BLOCKS;
            let kept = mask(0, kept.saturating_sub(before).min(WORD_BLOCKS));
            self.word(index) & kept | rest.filled_word() & !kept
        });
        Self::simplified(Box::new(words))
    }

    pub(crate) fn word(&self, index: usize) -> u64 {
        match self {
            Self::Uniform(state) => state.filled_word(),
            Self::Words(words) => words[index],
        }
    }
}

impl FrozenMap {
    /// A map of this many blocks, all absent.
    pub fn new(blocks: u64) -> Self {
        Self { blocks, pages: BTreeMap::new() }
    }

    /// A map in which only this run of blocks, which lies within it, has a state.
    pub fn of_run(blocks: u64, first: u64, count: u64, state: BlockState) -> Self {
        let mut map = Self::new(blocks);
        for page in page_of(first)..page_count(first + count) {
            let start = page as u64 * PAGE_BLOCKS;
            let words = std::array::from_fn(|word| {
                let word_start = start + word as u64 * 32;
                let (from, to) = (first.max(word_start), (first + count).min(word_start + 32));
                if from < to { state.filled_word() & mask(shift_of(from), to - from) } else { 0 }
            });
            map.put_page(page, Box::new(words));
        }
        map
    }

    /// How many blocks it covers.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, &FrozenPage)> {
        self.pages.iter().map(|(&page, content)| (page as usize, content))
    }

    /// As [`pages`](Self::pages), from this page on.
    pub(crate) fn pages_from(&self, page: usize) -> impl Iterator<Item = (usize, &FrozenPage)> {
        self.pages.range(page as u32..).map(|(&page, content)| (page as usize, content))
    }

    /// The content of one page; a missing one is all absent.
    pub(crate) fn page(&self, page: usize) -> Option<&FrozenPage> {
        self.pages.get(&(page as u32))
    }

    pub(crate) fn put_page(&mut self, page: usize, words: Box<PageWords>) {
        self.put(page as u32, FrozenPage::simplified(words));
    }

    pub(crate) fn put_uniform(&mut self, page: usize, state: BlockState) {
        self.put(page as u32, FrozenPage::Uniform(state));
    }

    pub(crate) fn put_content(&mut self, page: usize, content: FrozenPage) {
        self.put(page as u32, content);
    }

    fn put(&mut self, page: u32, content: FrozenPage) {
        match content {
            FrozenPage::Uniform(BlockState::Absent) => self.pages.remove(&page),
            content => self.pages.insert(page, content),
        };
    }

    /// The state of one block.
    pub fn get(&self, block: u64) -> BlockState {
        let word = self.pages.get(&(page_of(block) as u32)).map_or(0, |page| page.word(word_of(block)));
        BlockState::from_bits(word >> shift_of(block))
    }

    /// Calls `visit(first, count, state)` for the runs of blocks that are not absent, ascending.
    pub fn runs(&self, mut visit: impl FnMut(u64, u64, BlockState)) {
        for (&page, content) in &self.pages {
            let first = u64::from(page) * PAGE_BLOCKS;
            let end = self.blocks.min(first + PAGE_BLOCKS);
            let mut block = first;
            while block < end {
                let (state, count) = match content {
                    FrozenPage::Uniform(state) => (*state, end - block),
                    FrozenPage::Words(words) => run_in_word(words[word_of(block)], shift_of(block)),
                };
                let count = count.min(end - block);
                if state != BlockState::Absent {
                    visit(block, count, state);
                }
                block += count;
            }
        }
    }

    /// Whether no block has a state.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The map with room for at least this many blocks; those added are absent.
    #[must_use]
    pub(crate) fn covering(&self, blocks: u64) -> Cow<'_, Self> {
        if self.blocks >= blocks {
            return Cow::Borrowed(self);
        }
        let mut larger = Self { blocks, pages: self.pages.clone() };
        // what the last page says of blocks past the end meant nothing; from now on it would
        let (last, within) = (page_of(self.blocks), self.blocks % PAGE_BLOCKS);
        if let Some(content) = self.page(last).filter(|_| within != 0) {
            larger.put_content(last, content.cut(within, BlockState::Absent));
        }
        Cow::Owned(larger)
    }

    /// Makes every block from this one on zero.
    pub(crate) fn zero_from(&mut self, first: u64) {
        for page in page_of(first)..page_count(self.blocks) {
            let kept = first.saturating_sub(page as u64 * PAGE_BLOCKS);
            let content = self.page(page).unwrap_or(&FrozenPage::Uniform(BlockState::Absent));
            let cut = content.cut(kept, BlockState::Zero);
            self.put_content(page, cut);
        }
    }

    /// Lays `newer` over this map: where `newer` is not absent it decides. A block that is hydrated above stays
    /// changed if it was changed below: its bytes are those of below. The result covers the blocks of both.
    pub fn overlay(&mut self, newer: &Self) {
        if self.blocks < newer.blocks {
            *self = self.covering(newer.blocks).into_owned();
        }
        let newer = newer.covering(self.blocks);
        for (&page, above) in &newer.pages {
            let below = self.pages.get(&page).cloned().unwrap_or(FrozenPage::Uniform(BlockState::Absent));
            let mut words = Box::new([0; PAGE_WORDS]);
            for (index, word) in words.iter_mut().enumerate() {
                *word = overlay_word(below.word(index), above.word(index));
            }
            self.put(page, FrozenPage::simplified(words));
        }
    }

    /// The stored form.
    ///
    /// # Errors
    /// `Io` if the compressor fails.
    pub fn encode(&self, disk: DiskId, number: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + FIXED_LEN + self.pages.len() * 64);
        bytes.extend(HEADER.encode());
        bytes.extend(disk.as_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.extend(self.blocks.to_le_bytes());
        bytes.extend((self.pages.len() as u32).to_le_bytes());
        let failed = |source| Error::host("compress", "a frozen map", None, source);
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
        for (page, content) in &self.pages {
            let (kind, payload) = match content {
                FrozenPage::Uniform(state) => (*state as u8, Vec::new()),
                FrozenPage::Words(words) => {
                    let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    let small = compressor.compress(&raw).map_err(failed)?;
                    if small.len() < raw.len() { (KIND_ZSTD, small) } else { (KIND_RAW, raw) }
                }
            };
            bytes.extend(page.to_le_bytes());
            bytes.extend([kind, 0]);
            bytes.extend((payload.len() as u16).to_le_bytes());
            bytes.extend(payload);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        Ok(bytes)
    }

    /// The most one page adds to the stored form.
    pub(crate) const fn max_page_len() -> u64 {
        (RECORD_LEN + PAGE_BYTES) as u64
    }

    /// The largest stored form of a map of this many blocks; a longer file is damaged.
    pub fn max_encoded_len(blocks: u64) -> u64 {
        (HEADER_LEN + FIXED_LEN + 4) as u64 + page_count(blocks) as u64 * Self::max_page_len()
    }

    /// Reads the stored form. `what` names the file in errors.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not the map of this disk, number and block count; `Unsupported` for another
    /// version.
    pub fn decode(bytes: &[u8], disk: DiskId, number: u64, blocks: u64, what: &str) -> Result<Self> {
        FileHeader::check(bytes, &HEADER, what)?;
        let damaged = |malformed: Malformed| Error::corrupt(what, Some(malformed.at as u64), malformed.why);
        let split = bytes.len().checked_sub(4).filter(|&split| split >= HEADER_LEN + FIXED_LEN);
        let (body, crc) = bytes.split_at(split.ok_or_else(|| Error::corrupt(what, None, "cut short"))?);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(Error::corrupt(what, None, "the checksum disagrees"));
        }
        let mut cursor = Cursor::new(body);
        cursor.bytes(HEADER_LEN).map_err(damaged)?;
        let fixed = (|| Ok((cursor.array()?, cursor.u64()?, cursor.u64()?)))().map_err(damaged)?;
        if fixed != (*disk.as_bytes(), number, blocks) {
            return Err(Error::corrupt(what, None, "belongs to another disk, place or size"));
        }
        decode_pages(&mut cursor, blocks).map_err(damaged)
    }
}

fn overlay_word(below: u64, above: u64) -> u64 {
    const LOW: u64 = 0x5555_5555_5555_5555;
    let present = (above | above >> 1) & LOW;
    let keep_below = !(present * 3);
    // hydrated above (01): the bytes of below, so the change of below still counts
    let hydrated = above & !(above >> 1) & LOW;
    let changed_below = (below >> 1) & LOW;
    let raised = (hydrated & changed_below) << 1;
    (below & keep_below) | above | raised
}

fn decode_pages(cursor: &mut Cursor<'_>, blocks: u64) -> Result<FrozenMap, Malformed> {
    let pages = page_count(blocks);
    let count = cursor.count_u32(pages, RECORD_LEN)?;
    let mut map = FrozenMap::new(blocks);
    let mut next = 0;
    for _ in 0..count {
        let page = cursor.u32()?;
        if (page as usize) < next || page as usize >= pages {
            return Err(cursor.malformed(format!("page {page} is out of order or past the end")));
        }
        next = page as usize + 1;
        let (kind, _reserved, len) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
        let payload = cursor.bytes(usize::from(len))?;
        let content =
            decode_page(kind, payload).ok_or_else(|| cursor.malformed(format!("page {page} is no page")))?;
        map.put(page, content);
    }
    cursor.end()?;
    Ok(map)
}

fn decode_page(kind: u8, payload: &[u8]) -> Option<FrozenPage> {
    let raw = match (kind, payload.len()) {
        (1..=3, 0) => return Some(FrozenPage::Uniform(BlockState::from_bits(u64::from(kind)))),
        (KIND_RAW, PAGE_BYTES) => payload.to_vec(),
        (KIND_ZSTD, _) => {
            zstd::bulk::decompress(payload, PAGE_BYTES).ok().filter(|raw| raw.len() == PAGE_BYTES)?
        }
        _ => return None,
    };
    let mut words = Box::new([0; PAGE_WORDS]);
    for (word, bytes) in words.iter_mut().zip(raw.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Some(FrozenPage::simplified(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states of all blocks of a map, also past its end.
    fn states(map: &FrozenMap, past: u64) -> Vec<(u64, BlockState)> {
        let changed = |block: &(u64, BlockState)| block.0 == 0 || map.get(block.0 - 1) != block.1;
        (0..past).map(|block| (block, map.get(block))).filter(changed).collect()
    }

    /// Every edge of a word and of a page, from both sides.
    fn edges() -> impl Iterator<Item = u64> {
        let around = |edge: u64| [edge - 1, edge, edge + 1];
        [1, 32, 64, PAGE_BLOCKS - 32, PAGE_BLOCKS, PAGE_BLOCKS + 32, 2 * PAGE_BLOCKS]
            .into_iter()
            .flat_map(around)
    }

    #[test]
    fn cut_off_blocks_are_zero_and_the_others_as_before() {
        let blocks = 2 * PAGE_BLOCKS + 40;
        for first in edges() {
            let mut map = FrozenMap::of_run(blocks, 0, blocks, BlockState::Data);
            map.zero_from(first);
            let expected: Vec<_> = if first == 0 {
                vec![(0, BlockState::Zero)]
            } else {
                vec![(0, BlockState::Data), (first, BlockState::Zero)]
            };
            assert_eq!(states(&map, blocks), expected, "from {first}");
        }
    }

    #[test]
    fn blocks_added_to_a_map_are_absent_whatever_its_last_page_said() {
        for blocks in edges().filter(|&blocks| blocks > 0) {
            let mut map = FrozenMap::new(blocks);
            (0..page_count(blocks)).for_each(|page| map.put_uniform(page, BlockState::Zero));
            let larger = map.covering(3 * PAGE_BLOCKS);
            assert_eq!(
                states(&larger, 3 * PAGE_BLOCKS),
                [(0, BlockState::Zero), (blocks, BlockState::Absent)],
                "{blocks} blocks"
            );
        }
    }

    #[test]
    fn maps_of_different_lengths_are_united_both_ways() {
        let (small, large) = (100, PAGE_BLOCKS + 100);
        let zeros = |blocks: u64| {
            let mut map = FrozenMap::new(blocks);
            map.zero_from(0);
            map
        };
        let data = FrozenMap::of_run(large, 90, 20, BlockState::Data);
        let mut united = zeros(small);
        united.overlay(&data);
        let expected = [(0, BlockState::Zero), (90, BlockState::Data), (110, BlockState::Absent)];
        assert_eq!(states(&united, large), expected);
        let mut united = data.clone();
        united.overlay(&zeros(small));
        let expected = [(0, BlockState::Zero), (100, BlockState::Data), (110, BlockState::Absent)];
        assert_eq!(states(&united, large), expected);
        assert_eq!(united.blocks(), large, "a smaller map above cuts nothing off");
    }
}
