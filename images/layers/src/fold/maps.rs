//! Parts of frozen maps: what only one of two layers has, and what lies below or from a block on.

use crate::frozen::{FrozenMap, FrozenPage};
use crate::state::{PAGE_BLOCKS, WORD_BLOCKS, mask, page_of, run_in_word, shift_of, word_of};
use block::BLOCK_SIZE;
use std::ops::Range;

impl FrozenMap {
    /// The blocks that have a state here and none in `above`.
    pub(crate) fn without(&self, above: &Self) -> Self {
        let mut left = self.beside(self.blocks());
        let above = above.covering(self.blocks());
        for (page, content) in self.pages() {
            let Some(over) = above.page(page) else {
                left.put_content(page, content.clone());
                continue;
            };
            let words = std::array::from_fn(|index| only_here(content.word(index), over.word(index)));
            left.put_page(page, Box::new(words));
        }
        left
    }

    /// The blocks of this map that lie in the range.
    pub(super) fn part(&self, blocks: Range<u64>) -> Self {
        let mut part = self.beside(self.blocks());
        for (page, content) in self.pages() {
            let first = page as u64 * PAGE_BLOCKS;
            if blocks.start <= first && first + PAGE_BLOCKS <= blocks.end {
                part.put_content(page, content.clone());
            } else if blocks.start < first + PAGE_BLOCKS && first < blocks.end {
                let words = std::array::from_fn(|index| {
                    content.word(index) & inside(first + index as u64 * WORD_BLOCKS, &blocks)
                });
                part.put_page(page, Box::new(words));
            }
        }
        part
    }

    /// The first run of blocks with bytes that begins at `from` or after it, as (first, past); within one word, or one
    /// page where that is uniform.
    pub(super) fn next_with_bytes(&self, from: u64) -> Option<(u64, u64)> {
        for (page, content) in self.pages_from(page_of(from)) {
            let (mut block, end) = page_range(page, self.blocks());
            block = block.max(from);
            while block < end {
                let (state, count) = match content {
                    FrozenPage::Uniform(state) => (*state, end - block),
                    FrozenPage::Words(words) => run_in_word(words.get(word_of(block)), shift_of(block)),
                };
                let past = (block + count).min(end);
                if state.has_bytes() {
                    return Some((block, past));
                }
                block = past;
            }
        }
        None
    }

    /// Bytes of the blocks that have bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let mut blocks = 0;
        self.runs(|_, count, state| blocks += if state.has_bytes() { count } else { 0 });
        blocks * BLOCK_SIZE
    }
}

fn page_range(page: usize, blocks: u64) -> (u64, u64) {
    let first = page as u64 * PAGE_BLOCKS;
    (first, blocks.min(first + PAGE_BLOCKS))
}

/// The bits of the blocks of a word, the first of which is `first`, that lie in the range.
fn inside(first: u64, blocks: &Range<u64>) -> u64 {
    let (from, to) = (first.max(blocks.start), (first + WORD_BLOCKS).min(blocks.end));
    if from < to { mask(shift_of(from), to - from) } else { 0 }
}

fn only_here(here: u64, above: u64) -> u64 {
    const LOW: u64 = 0x5555_5555_5555_5555;
    let present = (above | above >> 1) & LOW;
    here & !(present * 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockState;
    use crate::state::PAGE_WORDS;

    #[test]
    fn only_blocks_absent_above_are_left() {
        let states = [BlockState::Absent, BlockState::Hydrated, BlockState::Zero, BlockState::Data];
        for (here, above) in states.iter().flat_map(|here| states.map(|above| (*here, above))) {
            let left = BlockState::from_bits(only_here(here.filled_word(), above.filled_word()));
            assert_eq!(left, if above == BlockState::Absent { here } else { BlockState::Absent });
        }
    }

    /// Cut anywhere, the two parts are the whole, and each run is found again.
    #[test]
    fn parts_tile_a_map() {
        let blocks = 3 * PAGE_BLOCKS + 77;
        let mut map = FrozenMap::of_run(blocks, 5, 40, BlockState::Data);
        map.overlay(&FrozenMap::of_run(blocks, PAGE_BLOCKS, PAGE_BLOCKS, BlockState::Data));
        map.overlay(&FrozenMap::of_run(blocks, 2 * PAGE_BLOCKS + 31, 2, BlockState::Zero));
        map.overlay(&FrozenMap::of_run(blocks, blocks - 1, 1, BlockState::Hydrated));
        let edges = [0, 4, 5, 6, 44, 45, PAGE_BLOCKS - 1, PAGE_BLOCKS, PAGE_BLOCKS + 1, 2 * PAGE_BLOCKS + 32];
        for cut in edges.into_iter().chain([blocks - 1, blocks]) {
            let (low, high) = (map.part(0..cut), map.part(cut..blocks));
            let whole = (0..blocks).step_by(PAGE_WORDS / 64 + 3).chain([4, 5, 44, 45, blocks - 1]);
            for block in whole {
                let (here, other) = if block < cut { (&low, &high) } else { (&high, &low) };
                assert_eq!(
                    (here.get(block), other.get(block)),
                    (map.get(block), BlockState::Absent),
                    "{cut}"
                );
            }
            assert_eq!(low.bytes() + high.bytes(), map.bytes());
        }
        let mut found = 0;
        let mut at = 0;
        while let Some((first, past)) = map.next_with_bytes(at) {
            assert!(first >= at && past > first);
            found += past - first;
            at = past;
        }
        assert_eq!(found, 40 + PAGE_BLOCKS + 1);
        assert_eq!(map.bytes(), found * BLOCK_SIZE);
    }
}
