//! Where the pages of large frozen maps lie: in memory of the host's that it may write out, so that a process that seals,
//! folds or opens a disk stays small whatever the disk.

use crate::state::{PAGE_WORDS, PageWords};
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{Media, Memory};
use std::fmt;

/// Pages reserved from the host at a time.
const RESERVED: usize = 64;
/// Maps of which all pages fit at a time: a fold has two, what moves of them, and what is being made.
const MAPS: usize = 4;

/// Room for the pages of a few maps of one size.
pub(crate) struct Room {
    memory: Arc<dyn Memory>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    /// Given back.
    free: Vec<u32>,
    /// From this one on none was ever given away.
    fresh: usize,
    /// Below this one the host has pages.
    reserved: usize,
}

/// The words of one page, which never change.
pub(crate) struct Words(Kept);

enum Kept {
    Own(Box<PageWords>),
    InRoom(Slot),
}

/// A place in a room, given back when dropped.
struct Slot {
    room: Arc<Room>,
    number: u32,
}

impl Room {
    /// Room for maps of so many pages. None where `own` pages are enough, or where the host has no scratch memory: the
    /// process then holds them all.
    pub(super) fn beyond(media: &dyn Media, own: usize, pages: usize) -> Option<Arc<Self>> {
        if pages <= own {
            return None;
        }
        match media.scratch(pages * MAPS * PAGE_WORDS) {
            Ok(memory) => Some(Arc::new(Self { memory, slots: Mutex::default() })),
            Err(error) => {
                tracing::debug!(%error, "a large map is held in the process");
                None
            }
        }
    }

    /// Keeps the words of a page. On a full filesystem they stay in the process: what gives space back needs maps too.
    pub(super) fn keep(self: &Arc<Self>, words: Box<PageWords>) -> Words {
        let Some(number) = self.take() else { return Words::own(words) };
        let slot = Slot { room: self.clone(), number };
        for (kept, word) in slot.words().iter().zip(words.iter()) {
            kept.store(*word, Ordering::Relaxed);
        }
        Words(Kept::InRoom(slot))
    }

    fn take(&self) -> Option<u32> {
        let mut slots = lock(&self.slots);
        if let Some(number) = slots.free.pop() {
            return Some(number);
        }
        let all = self.memory.words().len() / PAGE_WORDS;
        if slots.fresh == slots.reserved {
            let more = RESERVED.min(all - slots.reserved);
            let (first, past) = (slots.reserved * PAGE_WORDS, (slots.reserved + more) * PAGE_WORDS);
            if more == 0 || self.memory.reserve(first..past).is_err() {
                return None;
            }
            slots.reserved += more;
        }
        slots.fresh += 1;
        Some(slots.fresh as u32 - 1)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

impl Slot {
    fn words(&self) -> &[AtomicU64] {
        let first = self.number as usize * PAGE_WORDS;
        &self.room.memory.words()[first..first + PAGE_WORDS]
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.room.slots).free.push(self.number);
    }
}

impl Words {
    /// Words that the process holds itself.
    pub(super) fn own(words: Box<PageWords>) -> Self {
        Self(Kept::Own(words))
    }

    pub(crate) fn get(&self, index: usize) -> u64 {
        match &self.0 {
            Kept::Own(words) => words[index],
            Kept::InRoom(slot) => slot.words()[index].load(Ordering::Relaxed),
        }
    }

    fn all(&self) -> Box<PageWords> {
        match &self.0 {
            Kept::Own(words) => words.clone(),
            Kept::InRoom(slot) => {
                let words = slot.words();
                Box::new(std::array::from_fn(|index| words[index].load(Ordering::Relaxed)))
            }
        }
    }
}

impl Clone for Words {
    fn clone(&self) -> Self {
        match &self.0 {
            Kept::Own(words) => Self::own(words.clone()),
            Kept::InRoom(slot) => slot.room.keep(self.all()),
        }
    }
}

impl PartialEq for Words {
    fn eq(&self, other: &Self) -> bool {
        (0..PAGE_WORDS).all(|index| self.get(index) == other.get(index))
    }
}

impl Eq for Words {}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..PAGE_WORDS).map(|index| self.get(index))).finish()
    }
}
