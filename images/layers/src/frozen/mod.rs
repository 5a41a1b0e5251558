//! A frozen map: the states of a sealed layer's blocks, or the changes of an epoch. Held in memory only while something
//! needs it, and beyond a few MiB in memory that the host may write out.

mod room;
mod stored;

use crate::state::{
    BlockState, PAGE_BLOCKS, PageWords, WORD_BLOCKS, mask, page_count, page_of, run_in_word, shift_of,
    word_of,
};
use block::Media;
use block::sync::Arc;
use room::{Room, Words};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Pages of a map, 4 KiB each, that the process itself holds; further ones go to a [`Room`].
const OWN_PAGES: usize = 512;

/// One page of a frozen map. A page that is not in the map is all absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FrozenPage {
    /// All blocks of the page have this state.
    Uniform(BlockState),
    /// Two bits a block.
    Words(Words),
}

/// A map of block states that no longer changes.
#[derive(Debug, Clone)]
pub struct FrozenMap {
    blocks: u64,
    pages: BTreeMap<u32, FrozenPage>,
    /// Where pages go that the process does not hold itself; those of maps made of this one too.
    room: Option<Arc<Room>>,
}

impl PartialEq for FrozenMap {
    fn eq(&self, other: &Self) -> bool {
        (self.blocks, &self.pages) == (other.blocks, &other.pages)
    }
}

impl Eq for FrozenMap {}

impl FrozenPage {
    /// The state all blocks of a page share, if they do.
    fn uniform(words: &PageWords) -> Option<BlockState> {
        let first = BlockState::from_bits(words[0]);
        words.iter().all(|&word| word == first.filled_word()).then_some(first)
    }

    /// The words of the page with every block after its first `kept` ones in the state `rest`.
    fn cut(&self, kept: u64, rest: BlockState) -> Box<PageWords> {
        Box::new(std::array::from_fn(|index| {
            let before = index as u64 * WORD_BLOCKS;
            let kept = mask(0, kept.saturating_sub(before).min(WORD_BLOCKS));
            self.word(index) & kept | rest.filled_word() & !kept
        }))
    }

    pub(crate) fn word(&self, index: usize) -> u64 {
        match self {
            Self::Uniform(state) => state.filled_word(),
            Self::Words(words) => words.get(index),
        }
    }

    /// All its words.
    pub(crate) fn words(&self) -> Box<PageWords> {
        Box::new(std::array::from_fn(|index| self.word(index)))
    }
}

impl FrozenMap {
    /// A map of this many blocks, all absent, that the process holds itself.
    pub fn new(blocks: u64) -> Self {
        Self { blocks, pages: BTreeMap::new(), room: None }
    }

    /// A map of this many blocks, all absent. What it takes beyond a few MiB, and what maps made of it take, the host
    /// may write out.
    pub(crate) fn on(media: &dyn Media, blocks: u64) -> Self {
        Self { room: Room::beyond(media, OWN_PAGES, page_count(blocks)), ..Self::new(blocks) }
    }

    /// A map of this many blocks, all absent, whose pages go where those of this one go.
    pub(crate) fn beside(&self, blocks: u64) -> Self {
        Self { room: self.room.clone(), ..Self::new(blocks) }
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
        let content = match FrozenPage::uniform(&words) {
            Some(state) => FrozenPage::Uniform(state),
            None => FrozenPage::Words(self.keep(words)),
        };
        self.put(page as u32, content);
    }

    fn keep(&self, words: Box<PageWords>) -> Words {
        match &self.room {
            Some(room) if self.pages.len() >= OWN_PAGES => room.keep(words),
            _ => Words::own(words),
        }
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
                    FrozenPage::Words(words) => run_in_word(words.get(word_of(block)), shift_of(block)),
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
        let mut larger = Self { blocks, ..self.clone() };
        // what the last page says of blocks past the end meant nothing; from now on it would
        let (last, within) = (page_of(self.blocks), self.blocks % PAGE_BLOCKS);
        if let Some(content) = self.page(last).filter(|_| within != 0) {
            larger.put_page(last, content.cut(within, BlockState::Absent));
        }
        Cow::Owned(larger)
    }

    /// Makes every block from this one on zero.
    pub(crate) fn zero_from(&mut self, first: u64) {
        for page in page_of(first)..page_count(self.blocks) {
            let kept = first.saturating_sub(page as u64 * PAGE_BLOCKS);
            let content = self.page(page).unwrap_or(&FrozenPage::Uniform(BlockState::Absent));
            let cut = content.cut(kept, BlockState::Zero);
            self.put_page(page, cut);
        }
    }

    /// Lays `newer` over this map: where `newer` is not absent it decides. A block that is hydrated above stays
    /// changed if it was changed below: its bytes are those of below. The result covers the blocks of both.
    pub fn overlay(&mut self, newer: &Self) {
        if self.blocks < newer.blocks {
            *self = self.covering(newer.blocks).into_owned();
        }
        if self.room.is_none() {
            self.room = newer.room.clone();
        }
        let newer = newer.covering(self.blocks);
        for (&page, above) in &newer.pages {
            let below = self.pages.get(&page).unwrap_or(&FrozenPage::Uniform(BlockState::Absent));
            let overlaid = |index| overlay_word(below.word(index), above.word(index));
            let words = Box::new(std::array::from_fn(overlaid));
            self.put_page(page as usize, words);
        }
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
