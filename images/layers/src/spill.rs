//! Where the spelled-out pages of a frozen map are: the first on the heap, the others in memory that the host may write
//! out, so that a process's own memory does not grow with what is written to its disks.

use crate::state::{PAGE_WORDS, PageWords};
use block::sync::Arc;
use block::sync::atomic::{AtomicU64, Ordering};
use block::{Media, Memory};

/// Pages a map has on the heap: 1 MiB, the change map of 16 GiB written all over.
const HEAP_PAGES: usize = 256;

/// In a slot's number: it is not on the heap.
const SPILLED: u32 = 1 << 31;

/// The pages of one map.
pub(crate) struct Spill {
    /// Where memory comes from; without it, or once it has none, everything is on the heap.
    media: Option<Arc<dyn Media>>,
    /// The most pages there can be.
    capacity: usize,
    heap: Vec<Box<[AtomicU64; PAGE_WORDS]>>,
    memory: Option<Arc<dyn Memory>>,
    spilled: usize,
    free: Vec<u32>,
}

impl Spill {
    /// Room for so many pages.
    pub(crate) fn new(media: Option<Arc<dyn Media>>, capacity: usize) -> Self {
        Self { media, capacity, heap: Vec::new(), memory: None, spilled: 0, free: Vec::new() }
    }

    /// Where its memory comes from.
    pub(crate) fn media(&self) -> Option<&Arc<dyn Media>> {
        self.media.as_ref()
    }

    /// The words of a page.
    pub(crate) fn words(&self, slot: u32) -> &[AtomicU64] {
        let at = (slot & !SPILLED) as usize;
        match &self.memory {
            Some(memory) if slot & SPILLED != 0 => &memory.words()[at * PAGE_WORDS..(at + 1) * PAGE_WORDS],
            _ => &self.heap[at][..],
        }
    }

    /// Takes a page in, in the place of the one in `slot` if there is one.
    pub(crate) fn put(&mut self, slot: Option<u32>, words: &PageWords) -> u32 {
        let slot = slot.or_else(|| self.free.pop()).unwrap_or_else(|| self.make_slot());
        for (word, value) in self.words(slot).iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
        slot
    }

    /// The page in this slot is needed no more.
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    fn make_slot(&mut self) -> u32 {
        if self.heap.len() >= HEAP_PAGES && self.has_memory() {
            self.spilled += 1;
            return (self.spilled - 1) as u32 | SPILLED;
        }
        self.heap.push(Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        (self.heap.len() - 1) as u32
    }

    /// Whether the host has room for another page. If not, the heap has it: what folds and seals do must not end for that.
    fn has_memory(&mut self) -> bool {
        let first = self.spilled * PAGE_WORDS;
        let Some(media) = self.media.as_ref().filter(|_| self.spilled < self.capacity) else { return false };
        let made = match &self.memory {
            Some(memory) => Ok(memory.clone()),
            None => media.scratch(self.capacity * PAGE_WORDS),
        };
        let reserved = made.and_then(|memory| {
            memory.reserve(first..first + PAGE_WORDS)?;
            Ok(memory)
        });
        match reserved {
            Ok(memory) => self.memory = Some(memory),
            Err(error) => {
                tracing::debug!(%error, "the rest of a map is kept on the heap");
                self.media = None;
            }
        }
        self.media.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(value: u64) -> PageWords {
        [value; PAGE_WORDS]
    }

    fn first(spill: &Spill, slot: u32) -> u64 {
        spill.words(slot)[0].load(Ordering::Relaxed)
    }

    #[test]
    fn pages_after_the_first_are_not_on_the_heap_and_all_are_found_again() {
        let media: Arc<dyn Media> = Arc::new(sim::SimMedia::new());
        let mut spill = Spill::new(Some(media), 600);
        let slots: Vec<u32> = (0..600).map(|value| spill.put(None, &page(value))).collect();
        assert_eq!((spill.heap.len(), spill.spilled), (HEAP_PAGES, 600 - HEAP_PAGES));
        assert!(slots.iter().enumerate().all(|(value, &slot)| first(&spill, slot) == value as u64));
        spill.give_back(slots[400]);
        assert_eq!(spill.put(None, &page(7)), slots[400], "room given back is used again");
        assert_eq!(spill.put(Some(slots[500]), &page(8)), slots[500]);
        assert_eq!((first(&spill, slots[400]), first(&spill, slots[500])), (7, 8));
    }

    #[test]
    fn a_host_without_room_leaves_the_heap() {
        let media = sim::SimMedia::new();
        media.inject(sim::Fault::new(sim::Op::Scratch, sim::Effect::Enospc));
        let mut spill = Spill::new(Some(Arc::new(media)), 600);
        let slots: Vec<u32> = (0..300).map(|value| spill.put(None, &page(value))).collect();
        assert_eq!((spill.heap.len(), spill.spilled), (300, 0));
        assert_eq!(first(&spill, slots[299]), 299);
    }
}
