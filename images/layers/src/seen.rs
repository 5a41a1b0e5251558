//! Which blocks of sealed layers the live disk has verified since it was opened: a bit a block, in memory the host may
//! write out.
//!
//! A bit means the block's present owner. Whoever changes owners does so first and then calls
//! [`forget`](Seen::forget); a reader takes a [`Since`] before it looks an owner up and hands it in with what it
//! verified, so that a bit never outlives a change it did not see.

use crate::FrozenMap;
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Published};
use block::{Media, Memory};
use std::sync::OnceLock;

/// Words reserved at a time: 4 KiB, which stand for 128 MiB of disk.
const PAGE_WORDS: u64 = 512;
/// Blocks such a page stands for.
const PAGE_BLOCKS: u64 = PAGE_WORDS * 64;

/// The bits.
pub(crate) struct Seen {
    media: Arc<dyn Media>,
    /// Counts the calls of [`forget`](Seen::forget).
    forgotten: AtomicU64,
    now: Published<Bitmap>,
}

struct Bitmap {
    blocks: u64,
    /// Made at the first mark; `None` where the host has no room for it, and then nothing is remembered.
    bits: OnceLock<Option<Bits>>,
}

impl Bitmap {
    fn new(blocks: u64) -> Arc<Self> {
        Arc::new(Self { blocks, bits: OnceLock::new() })
    }
}

struct Bits {
    memory: Arc<dyn Memory>,
    /// A bit a page: its words may be touched.
    reserved: Vec<AtomicU64>,
}

/// A moment before an owner was looked up.
#[derive(Clone, Copy)]
pub(crate) struct Since(u64);

/// The words a run of blocks lies in, each with the bits of the run.
fn words(first: u64, count: u64) -> impl Iterator<Item = (usize, u64)> {
    let (mut at, past) = (first, first + count);
    std::iter::from_fn(move || {
        let (word, within) = (at / 64, at % 64);
        let taken = (64 - within).min(past - at);
        at += taken;
        let ones = if taken == 64 { u64::MAX } else { (1 << taken) - 1 };
        (taken > 0).then_some((word as usize, ones << within))
    })
}

impl Bits {
    fn make(media: &dyn Media, blocks: u64) -> Option<Self> {
        let pages = blocks.div_ceil(PAGE_BLOCKS);
        let memory = media.scratch((pages * PAGE_WORDS) as usize);
        let memory = memory
            .inspect_err(|error| tracing::warn!(%error, "sealed blocks are verified at every read"))
            .ok()?;
        let reserved = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Some(Self { memory, reserved })
    }

    fn is_reserved(&self, word: usize) -> bool {
        let page = word / PAGE_WORDS as usize;
        self.reserved[page / 64].load(Ordering::Acquire) & 1 << (page % 64) != 0
    }

    fn reserve(&self, word: usize) -> bool {
        let page = word / PAGE_WORDS as usize;
        let words = page * PAGE_WORDS as usize..(page + 1) * PAGE_WORDS as usize;
        // without room nothing is remembered, and the block is verified again
        if !self.is_reserved(word) && self.memory.reserve(words).is_err() {
            return false;
        }
        self.reserved[page / 64].fetch_or(1 << (page % 64), Ordering::Release);
        true
    }

    fn clear(&self, first: u64, count: u64) {
        for (word, bits) in words(first, count).filter(|(word, _)| self.is_reserved(*word)) {
            self.memory.words()[word].fetch_and(!bits, Ordering::SeqCst);
        }
    }
}

impl Seen {
    pub(crate) fn new(media: Arc<dyn Media>, blocks: u64) -> Self {
        Self { media, forgotten: AtomicU64::new(0), now: Published::new(Bitmap::new(blocks)) }
    }

    /// Now.
    pub(crate) fn since(&self) -> Since {
        Since(self.forgotten.load(Ordering::SeqCst))
    }

    /// Whether all blocks of the run were verified.
    pub(crate) fn all(&self, first: u64, count: u64) -> bool {
        let now = self.now.load();
        let Some(Some(bits)) = now.bits.get() else { return false };
        first + count <= now.blocks
            && words(first, count).all(|(word, run)| {
                bits.is_reserved(word) && bits.memory.words()[word].load(Ordering::Relaxed) & run == run
            })
    }

    /// Remembers that the run was verified, unless owners changed since the moment given.
    pub(crate) fn mark(&self, first: u64, count: u64, since: Since) {
        let now = self.now.load();
        let bits = now.bits.get_or_init(|| Bits::make(&*self.media, now.blocks));
        let Some(bits) = bits.as_ref().filter(|_| first + count <= now.blocks) else { return };
        for (word, run) in words(first, count) {
            if bits.reserve(word) {
                bits.memory.words()[word].fetch_or(run, Ordering::SeqCst);
            }
        }
        if self.forgotten.load(Ordering::SeqCst) != since.0 {
            bits.clear(first, count);
        }
    }

    /// The owners of these blocks changed: they are verified anew.
    pub(crate) fn forget(&self, changed: &FrozenMap) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        if let Some(Some(bits)) = self.now.load().bits.get() {
            changed.runs(|first, count, _| bits.clear(first, count));
        }
    }

    /// Owners changed, nobody says which, of a disk that has so many blocks now.
    pub(crate) fn forget_all(&self, blocks: u64) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.now.store(Bitmap::new(blocks));
    }
}

#[cfg(all(test, not(blockd_shuttle)))]
mod tests {
    use super::*;
    use crate::BlockState;

    #[test]
    fn a_mark_counts_until_its_owner_changes() {
        let seen = Seen::new(Arc::new(sim::SimMedia::new()), 3 * PAGE_BLOCKS);
        assert!(!seen.all(0, 1));
        let early = seen.since();
        seen.mark(60, PAGE_BLOCKS, early);
        assert!(seen.all(60, PAGE_BLOCKS) && seen.all(64, 3));
        assert!(!seen.all(59, 2) && !seen.all(60, PAGE_BLOCKS + 1));
        let changed = FrozenMap::of_run(3 * PAGE_BLOCKS, 70, 2, BlockState::Data);
        seen.forget(&changed);
        assert!(seen.all(60, 10) && seen.all(72, 100) && !seen.all(71, 1));
        seen.mark(70, 2, early);
        assert!(!seen.all(70, 1), "an owner looked up before the change marks nothing");
        seen.mark(70, 2, seen.since());
        assert!(seen.all(60, PAGE_BLOCKS));
        seen.mark(3 * PAGE_BLOCKS - 1, 2, seen.since());
        assert!(!seen.all(3 * PAGE_BLOCKS - 1, 1), "past the end nothing is remembered");
        seen.forget_all(3 * PAGE_BLOCKS + 1);
        assert!(!seen.all(60, 1));
        seen.mark(3 * PAGE_BLOCKS - 1, 2, seen.since());
        assert!(seen.all(3 * PAGE_BLOCKS - 1, 2), "the disk has grown");
    }
}
