//! Memory that outlives the simulated process, or only one of its handles.

use super::{Machine, failed};
use crate::fault::Op;
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{ByteRange, Memory, RangeSet, Result};
use std::ops::Range;

/// The largest memory, in words (64 MiB). Every page of it is touched when it is made, so it must not be large
/// beside the memory of a test machine; it covers the map of a disk of 1 TiB.
pub(super) const MAX_WORDS: usize = 8 << 20;

/// The words themselves.
pub(super) struct Words {
    words: Vec<AtomicU64>,
    reserved: Mutex<RangeSet>,
}

impl Words {
    pub(super) fn new(words: usize) -> Self {
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect();
        Self { words, reserved: Mutex::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// What another process finds: the same words, which the old process can no longer change.
    ///
    /// # Panics
    /// If a word was stored to that nobody reserved: the host might have ended the process there.
    pub(super) fn copy(&self, name: &str) -> Self {
        let reserved = lock(&self.reserved).clone();
        let mut covered = reserved.iter().peekable();
        let copied = self.words.iter().enumerate().map(|(at, word)| {
            while covered.next_if(|range| range.end() <= at as u64).is_some() {}
            let value = word.load(Ordering::SeqCst);
            let inside = covered.peek().is_some_and(|range| range.start() <= at as u64);
            assert!(
                inside || value == 0,
                "word {at} of volatile memory {name} is used and was never reserved"
            );
            AtomicU64::new(value)
        });
        let words = copied.collect();
        Self { words, reserved: Mutex::new(reserved.clone()) }
    }
}

/// A handle on words, of one process of one machine.
pub(super) struct SimMemory {
    pub(super) words: Arc<Words>,
    pub(super) name: String,
    pub(super) machine: Arc<Machine>,
}

impl Memory for SimMemory {
    fn words(&self) -> &[AtomicU64] {
        &self.words.words
    }

    fn reserve(&self, words: Range<usize>) -> Result<()> {
        self.machine.call(Op::Reserve, &self.name, |_, _| {
            if words.end > self.words.len() {
                return Err(failed(Op::Reserve, &self.name, crate::fault::EINVAL));
            }
            lock(&self.words.reserved).insert(ByteRange::between(words.start as u64, words.end as u64));
            Ok(())
        })
    }
}
