//! The owner index: for every block, which sealed layer has its newest content. One look-up whatever the number of
//! layers; 16 bits a block, in memory the host may write out, rebuilt at every open.
//!
//! One thread at a time changes an index (the one that holds the chain); readers take no lock.

use crate::frozen::{FrozenMap, FrozenPage};
use crate::state::{BlockState, PAGE_BLOCKS, page_count, page_of};
use block::sync::Arc;
use block::sync::atomic::{AtomicU64, Ordering};
use block::{Media, Memory, Result};

/// Entries in one word.
const WORD_ENTRIES: u64 = 4;
const PAGE_WORDS: usize = (PAGE_BLOCKS / WORD_ENTRIES) as usize;
/// A top word with this bit says that the page is spelled out; without it, it is one entry for all blocks of the page.
const PAGED: u64 = 1 << 63;

/// Where the pages begin: after the top words, at a page of the host's memory.
const fn first_page_word(blocks: u64) -> usize {
    page_count(blocks).next_multiple_of(512)
}

/// Who has a block's newest content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: it was never written.
    None,
    /// It was made zero.
    Zero,
    /// The layer in this slot of the view's table.
    Slot(u16),
}

impl Owner {
    // 0 none; 1 zero; 2.. slot + 2
    const fn entry(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Zero => 1,
            Self::Slot(slot) => slot + 2,
        }
    }

    const fn from_entry(entry: u16) -> Self {
        match entry {
            0 => Self::None,
            1 => Self::Zero,
            slot => Self::Slot(slot - 2),
        }
    }
}

/// The index: memory with the top words first, then every page.
pub(crate) struct OwnerIndex {
    blocks: u64,
    memory: Arc<dyn Memory>,
    /// How many pages are spelled out.
    spelled_out: AtomicU64,
}

impl OwnerIndex {
    /// An index in which nobody owns anything.
    pub(crate) fn new(media: &dyn Media, blocks: u64) -> Result<Self> {
        let memory = media.scratch(first_page_word(blocks) + page_count(blocks) * PAGE_WORDS)?;
        memory.reserve(0..first_page_word(blocks))?;
        Ok(Self { blocks, memory, spelled_out: AtomicU64::new(0) })
    }

    /// Bytes of memory it takes of the host.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let pages = self.spelled_out.load(Ordering::Relaxed) as usize * PAGE_WORDS;
        (first_page_word(self.blocks) + pages) as u64 * 8
    }

    fn top(&self, page: usize) -> &AtomicU64 {
        &self.memory.words()[page]
    }

    /// Who owns a block, and for how many blocks from it, at most `limit`, surely the same.
    pub(crate) fn run(&self, block: u64, limit: u64) -> (Owner, u64) {
        let page = page_of(block);
        let to_page_end = (PAGE_BLOCKS - block % PAGE_BLOCKS).min(limit);
        let top = self.top(page).load(Ordering::Acquire);
        if top & PAGED == 0 {
            return (Owner::from_entry(top as u16), to_page_end);
        }
        let entry = self.entry(block);
        let (mut at, end) = (block + 1, block + to_page_end);
        while at < end {
            // whole words where it can
            if at.is_multiple_of(WORD_ENTRIES)
                && self.word_of(at).load(Ordering::Relaxed) == word_full_of(entry)
            {
                at += WORD_ENTRIES;
            } else if self.entry(at) == entry {
                at += 1;
            } else {
                break;
            }
        }
        (Owner::from_entry(entry), at.min(end) - block)
    }

    fn word_of(&self, block: u64) -> &AtomicU64 {
        &self.memory.words()[first_page_word(self.blocks) + (block / WORD_ENTRIES) as usize]
    }

    fn entry(&self, block: u64) -> u16 {
        let word = self.word_of(block).load(Ordering::Relaxed);
        (word >> (block % WORD_ENTRIES * 16)) as u16
    }

    fn set_entry(&self, block: u64, entry: u16) {
        let word = self.word_of(block);
        let shift = block % WORD_ENTRIES * 16;
        let old = word.load(Ordering::Relaxed);
        word.store(old & !(0xffff << shift) | u64::from(entry) << shift, Ordering::Release);
    }

    /// Gives the layer in `slot` every block of its map: it is newer than all layers laid before.
    pub(crate) fn lay(&self, map: &FrozenMap, slot: u16) -> Result<()> {
        self.change(map, slot, |_| true)
    }

    /// Gives the layer in `slot` the blocks of its map that nobody owns: it is older than all layers laid before.
    pub(crate) fn lay_beneath(&self, map: &FrozenMap, slot: u16) -> Result<()> {
        self.change(map, slot, |old| old == Owner::None.entry())
    }

    /// Takes the room that [`repoint`](Self::repoint) of this map away from `from` needs.
    pub(crate) fn prepare(&self, map: &FrozenMap, from: u16) -> Result<()> {
        let uniform = u64::from(Owner::Slot(from).entry());
        for (page, content) in map.pages() {
            if matches!(content, FrozenPage::Words(_)) && self.top(page).load(Ordering::Acquire) == uniform {
                self.spell_out(page)?;
            }
        }
        Ok(())
    }

    /// Gives the layer in `to` the blocks of the map that the layer in `from` owns.
    pub(crate) fn repoint(&self, map: &FrozenMap, from: u16, to: u16) -> Result<()> {
        self.change(map, to, |old| old == Owner::Slot(from).entry())
    }

    fn change(&self, map: &FrozenMap, slot: u16, applies: impl Fn(u16) -> bool) -> Result<()> {
        let map = map.covering(self.blocks);
        for (page, content) in map.pages() {
            let uniform = self.top(page).load(Ordering::Acquire);
            if let FrozenPage::Uniform(state) = content
                && uniform & PAGED == 0
                && applies(uniform as u16)
            {
                self.top(page).store(u64::from(owner_of(*state, slot).entry()), Ordering::Release);
            }
        }
        let mut spelled = Ok(());
        map.runs(|first, count, state| {
            let page = page_of(first);
            let entry = owner_of(state, slot).entry();
            let top = self.top(page).load(Ordering::Acquire);
            let settled = top & PAGED == 0 && (top as u16 == entry || !applies(top as u16));
            if spelled.is_err() || settled {
                return;
            }
            spelled = self.spell_out(page);
            if spelled.is_ok() {
                let blocks = (first..first + count).filter(|&block| applies(self.entry(block)));
                blocks.for_each(|block| self.set_entry(block, entry));
            }
        });
        spelled
    }

    fn spell_out(&self, page: usize) -> Result<()> {
        let top = self.top(page).load(Ordering::Acquire);
        if top & PAGED != 0 {
            return Ok(());
        }
        let first = first_page_word(self.blocks) + page * PAGE_WORDS;
        self.memory.reserve(first..first + PAGE_WORDS)?;
        let fill = word_full_of(top as u16);
        self.memory.words()[first..first + PAGE_WORDS]
            .iter()
            .for_each(|word| word.store(fill, Ordering::Relaxed));
        self.top(page).store(PAGED, Ordering::Release);
        self.spelled_out.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A word of four times this entry.
const fn word_full_of(entry: u16) -> u64 {
    entry as u64 * 0x0001_0001_0001_0001
}

fn owner_of(state: BlockState, slot: u16) -> Owner {
    match state {
        BlockState::Absent => Owner::None,
        BlockState::Zero => Owner::Zero,
        BlockState::Hydrated | BlockState::Data => Owner::Slot(slot),
    }
}
