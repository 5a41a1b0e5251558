//! Who a live map belongs to, and whether it may be believed after the process that wrote it is gone. The words are
//! specified in `docs/live-map.md`.

use block::sync::atomic::Ordering;
use block::{DiskId, Generation, Memory, Session};

/// Words the identity takes at the start of a live map: one page of memory.
pub(crate) const IDENTITY_WORDS: usize = 512;

/// Written last, so that a map whose making was cut short is not believed.
const VALID: u64 = u64::from_le_bytes(*b"livemap1");

const W_VALID: usize = 0;
const W_POISONED: usize = 1;
const W_DISK: usize = 2;
const W_LAYER: usize = 4;
const W_BOOT: usize = 5;
const W_MOUNT: usize = 7;
const W_NONCE: usize = 8;
const W_GENERATION: usize = 10;
const W_NEXT_GENERATION: usize = 11;
const W_BLOCKS: usize = 12;
const W_NEXT_NONCE: usize = 13;

/// What a live map must be about to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) disk: DiskId,
    pub(crate) layer: u64,
    pub(crate) blocks: u64,
    pub(crate) session: Session,
    /// Made durable in the chain file when the disk was opened.
    pub(crate) nonce: [u8; 16],
}

fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(*bytes);
    [whole as u64, (whole >> 64) as u64]
}

impl Identity {
    fn words(&self) -> [(usize, u64); 10] {
        let [disk_low, disk_high] = halves(self.disk.as_bytes());
        let [boot_low, boot_high] = halves(&self.session.boot);
        let [nonce_low, nonce_high] = halves(&self.nonce);
        [
            (W_DISK, disk_low),
            (W_DISK + 1, disk_high),
            (W_LAYER, self.layer),
            (W_BLOCKS, self.blocks),
            (W_BOOT, boot_low),
            (W_BOOT + 1, boot_high),
            (W_MOUNT, self.session.mount),
            (W_NONCE, nonce_low),
            (W_NONCE + 1, nonce_high),
            (W_POISONED, 0),
        ]
    }

    /// Says that the chain is about to get this nonce: from now on a map with either is believed.
    pub(crate) fn announce_nonce(&self, memory: &dyn Memory) {
        for (word, value) in halves(&self.nonce).into_iter().enumerate() {
            memory.words()[W_NEXT_NONCE + word].store(value, Ordering::SeqCst);
        }
    }

    /// Takes over a map that is believed: what was announced and came true is settled, so that the next announcement
    /// may replace it.
    pub(crate) fn take_over(&self, memory: &dyn Memory, generation: Generation) {
        for (word, value) in halves(&self.nonce).into_iter().enumerate() {
            memory.words()[W_NONCE + word].store(value, Ordering::SeqCst);
        }
        settle_generation(memory, generation);
    }

    /// Signs a live map. The chain has this generation, or is about to have it.
    pub(crate) fn sign(&self, memory: &dyn Memory, generation: Generation) {
        let words = memory.words();
        words[W_VALID].store(0, Ordering::SeqCst);
        self.words().iter().for_each(|&(word, value)| words[word].store(value, Ordering::SeqCst));
        self.announce_nonce(memory);
        words[W_GENERATION].store(generation.get(), Ordering::SeqCst);
        words[W_NEXT_GENERATION].store(generation.get(), Ordering::SeqCst);
        words[W_VALID].store(VALID, Ordering::SeqCst);
    }

    /// Whether the map in this memory is exactly the one of this layer, of this life of the page cache, of the last
    /// open, of this chain, and nobody marked it poisoned.
    pub(crate) fn believes(&self, memory: &dyn Memory, generation: Generation) -> bool {
        let words = memory.words();
        let read = |word: usize| words[word].load(Ordering::SeqCst);
        let is_session = |word: usize| (W_BOOT..=W_MOUNT).contains(&word);
        let passes = |word: usize| is_session(word) && block::planted!("live-map-of-another-session");
        let is_nonce = |word: usize| (W_NONCE..W_NONCE + 2).contains(&word);
        let has_nonce = |first: usize| [read(first), read(first + 1)] == halves(&self.nonce);
        let belongs = |&(word, value): &(usize, u64)| is_nonce(word) || read(word) == value || passes(word);
        read(W_VALID) == VALID
            && (has_nonce(W_NONCE) || has_nonce(W_NEXT_NONCE))
            && self.words().iter().all(belongs)
            && [read(W_GENERATION), read(W_NEXT_GENERATION)].contains(&generation.get())
    }
}

/// Says that the chain is about to get this generation: from now on a map with either is believed.
pub(crate) fn announce_generation(memory: &dyn Memory, next: Generation) {
    memory.words()[W_NEXT_GENERATION].store(next.get(), Ordering::SeqCst);
}

/// Says that the chain has this generation.
pub(crate) fn settle_generation(memory: &dyn Memory, now: Generation) {
    memory.words()[W_GENERATION].store(now.get(), Ordering::SeqCst);
}

/// Says that this map must never be believed: a sync of what it describes failed.
pub(crate) fn poison(memory: &dyn Memory) {
    memory.words()[W_POISONED].store(1, Ordering::SeqCst);
}
