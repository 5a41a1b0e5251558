//! The live map of the active layer: two bits a block, in memory this process does not own, so that a daemon crash
//! forgets nothing. The picture of that memory is `docs/live-map.md`; who may believe it is decided in `identity`.
//!
//! Readers take no lock. Every change of a block's state is made by a caller that holds the block's stripe; changes
//! of a whole page are made by callers that hold all stripes.

use crate::committed::CommittedFile;
use crate::frozen::{FrozenMap, FrozenPage};
use crate::identity::IDENTITY_WORDS;
use crate::journal::Entry;
use crate::state::{
    BlockState, PAGE_BLOCKS, PAGE_WORDS, PageWords, WORD_BLOCKS, mask, page_count, page_of, run_in_word,
    shift_of, word_of,
};
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{BLOCK_SIZE, Media, Memory, Result, planted};
use std::sync::OnceLock;

/// Value of a top word whose page is spelled out; smaller values are the state all its blocks share.
const PAGED: u64 = 4;

/// The live map.
pub(crate) struct LiveMap {
    memory: Arc<dyn Memory>,
    blocks: u64,
    pages: usize,
    /// Where a page's committed form gets its room at the moment the page is spelled out.
    committed: Arc<CommittedFile>,
    /// Held to spell out a page.
    spelling: Mutex<()>,
    dirty: Dirty,
}

/// What changed since the last flush took it. Set after the map, cleared before the map is read, so a change is
/// never missed; it may be reported twice.
struct Dirty {
    /// A bit a page: something of it changed.
    pages: Vec<AtomicU64>,
    /// A bit a page: its top word was set to one state for all.
    filled: Vec<AtomicU64>,
    /// For a page that was spelled out, a bit a word.
    words: Vec<OnceLock<Box<[AtomicU64; PAGE_WORDS / 64]>>>,
}

fn bits(count: usize) -> Vec<AtomicU64> {
    (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

impl Dirty {
    fn new(pages: usize) -> Self {
        Self { pages: bits(pages), filled: bits(pages), words: (0..pages).map(|_| OnceLock::new()).collect() }
    }

    fn mark_page(&self, page: usize) {
        self.pages[page / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
    }

    fn mark_word(&self, page: usize, word: usize) {
        let words = self.words[page].get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        words[word / 64].fetch_or(1 << (word % 64), Ordering::SeqCst);
        self.mark_page(page);
    }

    fn mark_filled(&self, page: usize) {
        self.filled[page / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
        self.mark_page(page);
    }

    fn take_filled(&self, page: usize) -> bool {
        let bit = 1 << (page % 64);
        self.filled[page / 64].fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }
}

/// How many blocks of a word of the map have bytes.
fn with_bytes(word: u64) -> u64 {
    u64::from((word & 0x5555_5555_5555_5555).count_ones())
}

fn for_each_bit(mut bits: u64, mut visit: impl FnMut(usize)) {
    while bits != 0 {
        visit(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

impl LiveMap {
    /// Words of memory a live map of this many blocks takes.
    pub(crate) fn memory_words(blocks: u64) -> usize {
        Self::first_page_word(page_count(blocks)) + page_count(blocks) * PAGE_WORDS
    }

    fn first_page_word(pages: usize) -> usize {
        IDENTITY_WORDS + pages.next_multiple_of(PAGE_WORDS)
    }

    /// The map in this memory, as it is.
    ///
    /// # Errors
    /// `NoSpace` if the host has no pages for its top level.
    pub(crate) fn attach(
        memory: Arc<dyn Memory>,
        blocks: u64,
        committed: Arc<CommittedFile>,
    ) -> Result<Self> {
        let pages = page_count(blocks);
        memory.reserve(0..Self::first_page_word(pages))?;
        Ok(Self { memory, blocks, pages, committed, spelling: Mutex::new(()), dirty: Dirty::new(pages) })
    }

    pub(crate) fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    fn top(&self, page: usize) -> &AtomicU64 {
        &self.memory.words()[IDENTITY_WORDS + page]
    }

    fn words(&self, page: usize) -> &[AtomicU64] {
        let first = Self::first_page_word(self.pages) + page * PAGE_WORDS;
        &self.memory.words()[first..first + PAGE_WORDS]
    }

    /// The state of a block and for how many blocks from it, at most `limit`, it is surely the same.
    pub(crate) fn run(&self, block: u64, limit: u64) -> (BlockState, u64) {
        let page = page_of(block);
        let top = self.top(page).load(Ordering::Acquire);
        if top < PAGED {
            let to_page_end = PAGE_BLOCKS - block % PAGE_BLOCKS;
            return (BlockState::from_bits(top), limit.min(to_page_end));
        }
        let words = self.words(page);
        let (state, mut count) = run_in_word(words[word_of(block)].load(Ordering::Acquire), shift_of(block));
        while count < limit && (block + count).is_multiple_of(WORD_BLOCKS) && page_of(block + count) == page {
            let word = words[word_of(block + count)].load(Ordering::Acquire);
            let (next, more) = run_in_word(word, 0);
            if next != state {
                break;
            }
            count += more;
        }
        (state, count.min(limit))
    }

    /// Whether all of these blocks have their bytes in the layer and count as changed: writing them in place changes
    /// no state.
    pub(crate) fn all_data(&self, first: u64, count: u64) -> bool {
        let (mut block, end) = (first, first + count);
        while block < end {
            match self.run(block, end - block) {
                (BlockState::Data, run) => block += run,
                _ => return false,
            }
        }
        true
    }

    /// How many of these blocks have no bytes in the layer.
    pub(crate) fn lacking(&self, first: u64, count: u64) -> u64 {
        let (mut block, end, mut lacking) = (first, first + count, 0);
        while block < end {
            let (state, run) = self.run(block, end - block);
            lacking += if state.has_bytes() { 0 } else { run };
            block += run;
        }
        lacking
    }

    /// Sets the state of `count` blocks. The caller holds their stripes and has done what the state promises.
    ///
    /// # Errors
    /// `NoSpace` if the host has no room for a page that must be spelled out; blocks before it are set.
    pub(crate) fn set(&self, first: u64, count: u64, state: BlockState) -> Result<()> {
        let (mut block, end) = (first, first + count);
        while block < end {
            let run = (end - block).min(WORD_BLOCKS - block % WORD_BLOCKS);
            let page = page_of(block);
            self.spell_out(page)?;
            let mask = mask(shift_of(block), run);
            let word = &self.words(page)[word_of(block)];
            let mut old = word.load(Ordering::Acquire);
            // neighbours in the word change under other stripes' callers only if stripes cut words, which they do
            // not; compare-exchange keeps this true whatever the stripes become
            while let Err(now) = word.compare_exchange(
                old,
                old & !mask | state.filled_word() & mask,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                old = now;
            }
            self.dirty.mark_word(page, word_of(block));
            block += run;
        }
        Ok(())
    }

    /// Makes sure the blocks can be [`set`](Self::set) without needing room.
    ///
    /// # Errors
    /// `NoSpace` if the host has none.
    pub(crate) fn prepare(&self, first: u64, count: u64) -> Result<()> {
        (page_of(first)..=page_of(first + count.max(1) - 1)).try_for_each(|page| self.spell_out(page))
    }

    /// Gives all blocks of a page one state. The caller holds all stripes.
    pub(crate) fn fill_page(&self, page: usize, state: BlockState) {
        // whoever prepares the page holds no stripe, and would spell it out as it was before
        let _spelling = (!planted!("page-filled-while-spelled-out")).then(|| lock(&self.spelling));
        self.top(page).store(state as u64, Ordering::Release);
        self.dirty.mark_filled(page);
    }

    fn spell_out(&self, page: usize) -> Result<()> {
        if self.top(page).load(Ordering::Acquire) == PAGED {
            return Ok(());
        }
        let _spelling = lock(&self.spelling);
        let top = self.top(page).load(Ordering::Acquire);
        if top == PAGED {
            return Ok(());
        }
        let first = Self::first_page_word(self.pages) + page * PAGE_WORDS;
        self.memory.reserve(first..first + PAGE_WORDS)?;
        self.committed.reserve_page(page)?;
        let fill = BlockState::from_bits(top).filled_word();
        self.words(page).iter().for_each(|word| word.store(fill, Ordering::Relaxed));
        self.top(page).store(PAGED, Ordering::Release);
        Ok(())
    }

    /// Takes what changed since the last call, as entries for the journal: exactly the states set by changes that
    /// finished before this call, or newer ones.
    pub(crate) fn take_changes(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (index, pages) in self.dirty.pages.iter().enumerate() {
            for_each_bit(pages.swap(0, Ordering::SeqCst), |bit| {
                self.take_page(index * 64 + bit, &mut entries)
            });
        }
        entries
    }

    fn take_page(&self, page: usize, entries: &mut Vec<Entry>) {
        let was_filled = self.dirty.take_filled(page);
        let top = self.top(page).load(Ordering::SeqCst);
        if top < PAGED {
            entries.push(Entry::Fill { page: page as u32, state: BlockState::from_bits(top) });
            return;
        }
        let mut push = |word: usize| {
            let value = self.words(page)[word].load(Ordering::SeqCst);
            entries.push(Entry::Word { page: page as u32, word: word as u16, value });
        };
        if let Some(words) = self.dirty.words[page].get() {
            for (index, word) in words.iter().enumerate() {
                let taken = word.swap(0, Ordering::SeqCst);
                if !was_filled {
                    for_each_bit(taken, |bit| push(index * 64 + bit));
                }
            }
        }
        if was_filled {
            (0..PAGE_WORDS).for_each(push);
        }
    }

    /// How many blocks have a state.
    pub(crate) fn present(&self) -> u64 {
        let mut present = 0;
        let mut block = 0;
        while block < self.blocks {
            let (state, count) = self.run(block, self.blocks - block);
            present += if state == BlockState::Absent { 0 } else { count };
            block += count;
        }
        present
    }

    /// Bytes of the blocks that have bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let in_page = |page: usize| match self.top(page).load(Ordering::Relaxed) {
            PAGED => self.words(page).iter().map(|word| with_bytes(word.load(Ordering::Relaxed))).sum(),
            top if BlockState::from_bits(top).has_bytes() => {
                PAGE_BLOCKS.min(self.blocks - page as u64 * PAGE_BLOCKS)
            }
            _ => 0,
        };
        (0..self.pages).map(in_page).sum::<u64>() * BLOCK_SIZE
    }

    /// Memory it takes of the host, the pages that are spelled out and the top level.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let words = Self::first_page_word(self.pages) as u64 + self.spelled_out_pages() * PAGE_WORDS as u64;
        words * 8
    }

    /// How many pages are spelled out.
    pub(crate) fn spelled_out_pages(&self) -> u64 {
        (0..self.pages).filter(|&page| self.top(page).load(Ordering::Relaxed) == PAGED).count() as u64
    }

    /// The map as it is now. Exact only when nobody changes it.
    pub(crate) fn freeze(&self, media: &dyn Media) -> FrozenMap {
        let mut frozen = FrozenMap::on(media, self.blocks);
        for page in 0..self.pages {
            match self.top(page).load(Ordering::Acquire) {
                PAGED => frozen.put_page(page, self.copy_page(page)),
                top => frozen.put_uniform(page, BlockState::from_bits(top)),
            }
        }
        frozen
    }

    fn copy_page(&self, page: usize) -> Box<PageWords> {
        let words = self.words(page);
        Box::new(std::array::from_fn(|index| words[index].load(Ordering::Acquire)))
    }

    /// Whether no block has a state.
    pub(crate) fn is_empty(&self) -> bool {
        self.present() == 0
    }

    /// Fills a fresh map with committed states.
    ///
    /// # Errors
    /// `NoSpace` if the host has no room.
    pub(crate) fn load(&self, from: &FrozenMap) -> Result<()> {
        for (page, content) in from.pages() {
            match content {
                FrozenPage::Uniform(state) => self.top(page).store(*state as u64, Ordering::Release),
                FrozenPage::Words(words) => {
                    self.spell_out(page)?;
                    for (index, word) in self.words(page).iter().enumerate() {
                        word.store(words.get(index), Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks as changed every page whose live states differ from the committed ones.
    pub(crate) fn mark_differences(&self, committed: &FrozenMap) {
        for page in 0..self.pages {
            let before = committed.page(page);
            let differs = match self.top(page).load(Ordering::Acquire) {
                PAGED => {
                    let was = |index| before.map_or(0, |content| content.word(index));
                    let mut words = self.words(page).iter().enumerate();
                    words.any(|(index, word)| word.load(Ordering::Acquire) != was(index))
                }
                top => {
                    let now = FrozenPage::Uniform(BlockState::from_bits(top));
                    *before.unwrap_or(&FrozenPage::Uniform(BlockState::Absent)) != now
                }
            };
            if differs {
                self.dirty.mark_filled(page);
            }
        }
    }

    /// Whether the top level makes sense: hostile or torn memory is not believed.
    pub(crate) fn is_sound(&self) -> bool {
        (0..self.pages).all(|page| self.top(page).load(Ordering::Acquire) <= PAGED)
    }

    /// Reserves again the pages this memory says are spelled out, before anyone reads them.
    ///
    /// # Errors
    /// `NoSpace` if the host has no room.
    pub(crate) fn reserve_spelled_out(&self) -> Result<()> {
        for page in (0..self.pages).filter(|&page| self.top(page).load(Ordering::Acquire) == PAGED) {
            let first = Self::first_page_word(self.pages) + page * PAGE_WORDS;
            self.memory.reserve(first..first + PAGE_WORDS)?;
            self.committed.reserve_page(page)?;
        }
        Ok(())
    }

    /// Reports every page as changed; only a planted bug asks for that.
    pub(crate) fn mark_everything(&self) {
        (0..self.pages).for_each(|page| self.dirty.mark_filled(page));
    }
}
