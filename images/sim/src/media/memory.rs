//! Memory that outlives the simulated process, or only one of its handles.

use super::{Machine, failed};
use crate::fault::Op;
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{ByteRange, Memory, RangeSet, Result};
use std::ops::Range;

/// The largest memory, in words (4 GiB): the map of the largest disk. Pages never touched cost nothing.
#[cfg(not(blockd_shuttle))]
pub(super) const MAX_WORDS: usize = 512 << 20;
/// The largest memory, in words (8 MiB): here every word is an object of the scheduler.
#[cfg(blockd_shuttle)]
pub(super) const MAX_WORDS: usize = 1 << 20;

/// Up to so many words, a crash checks every one of them for use without reservation.
const CHECKED_WORDS: usize = 1 << 20;

#[cfg(not(blockd_shuttle))]
fn zeros(words: usize) -> Option<Vec<AtomicU64>> {
    // straight from the allocator's zeroed pages, so that nothing is touched
    zerocopy::FromZeros::new_vec_zeroed(words).ok()
}

#[cfg(blockd_shuttle)]
fn zeros(words: usize) -> Option<Vec<AtomicU64>> {
    Some(std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect())
}

/// The words themselves.
pub(super) struct Words {
    words: Vec<AtomicU64>,
    reserved: Mutex<RangeSet>,
}

impl Words {
    /// So many zeros, or `None` if that is too many.
    pub(super) fn new(words: usize) -> Option<Self> {
        let words = zeros(Some(words).filter(|&words| words <= MAX_WORDS)?)?;
        Some(Self { words, reserved: Mutex::default() })
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// What another process finds: the same words, which the old process can no longer change. Of words that nobody
    /// reserved, zeros.
    ///
    /// # Panics
    /// If such a word was used, in a memory of up to a million words: the host might have ended the process there.
    pub(super) fn copy(&self, name: &str) -> Self {
        let reserved = lock(&self.reserved).clone();
        let copy = Self::new(self.len()).expect("there was room for as many before");
        let mut next = 0;
        for range in reserved.iter() {
            let (start, end) = (range.start() as usize, range.end() as usize);
            self.check_unused(name, next..start);
            for (word, into) in self.words[start..end].iter().zip(&copy.words[start..end]) {
                match word.load(Ordering::SeqCst) {
                    0 => {}
                    value => into.store(value, Ordering::SeqCst),
                }
            }
            next = end;
        }
        self.check_unused(name, next..self.len());
        *lock(&copy.reserved) = reserved;
        copy
    }

    fn check_unused(&self, name: &str, words: Range<usize>) {
        if self.len() > CHECKED_WORDS {
            return;
        }
        let used = words.clone().find(|&at| self.words[at].load(Ordering::SeqCst) != 0);
        assert!(
            used.is_none(),
            "word {} of volatile memory {name} was used without reservation",
            used.unwrap_or(0)
        );
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
