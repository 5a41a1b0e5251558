//! Decoded frames, shared by everything that reads them: exports, mounts, runs and restores of all vaults that are opened with
//! one cache, under one limit of memory. What two recovery points have in common lies in the same frames, and is held once.
//!
//! Of a frame that was read once only the front is here, up to what was asked for: who reads here and there decodes half as much.
//! Who asks for more of it reads on, and then all of it is decoded.

use std::collections::{BTreeMap, HashMap, HashSet};

use block::sync::{Arc, Condvar, Mutex, lock, wait};

use crate::Result;
use crate::chunk::MAX_RAW;
use crate::frames::{FrameFront, FrameId};

/// What is kept unless somebody says otherwise.
const DEFAULT_LIMIT: u64 = 64 << 20;

/// How a cache was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Bytes it may hold.
    pub limit: u64,
    /// Bytes it holds.
    pub held: u64,
    /// Frames that were found in it.
    pub hits: u64,
    /// Frames that had to be read and decoded.
    pub misses: u64,
}

/// The frames read last. Two readers that miss the same frame share one read of the store.
pub struct FrameCache {
    limit: u64,
    kept: Mutex<Kept>,
    /// Signalled when a frame was read, or could not be.
    came: Condvar,
}

#[derive(Default)]
struct Kept {
    frames: HashMap<FrameId, (u64, Arc<Vec<u8>>)>,
    /// The frames by when they were used last.
    by_use: BTreeMap<u64, FrameId>,
    now: u64,
    held: u64,
    /// Frames somebody is reading.
    coming: HashSet<FrameId>,
    hits: u64,
    misses: u64,
}

impl Default for FrameCache {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl FrameCache {
    /// An empty cache that holds at most so many bytes of frames. A single frame that is larger is still handed out, and not
    /// kept.
    pub fn new(limit: u64) -> Self {
        Self { limit, kept: Mutex::default(), came: Condvar::new() }
    }

    /// How it was used so far.
    pub fn usage(&self) -> CacheUse {
        let kept = lock(&self.kept);
        CacheUse { limit: self.limit, held: kept.held, hits: kept.hits, misses: kept.misses }
    }

    /// Whether this is here.
    pub(crate) fn has(&self, wanted: &FrameFront) -> bool {
        lock(&self.kept).frames.get(&wanted.frame).is_some_and(|(_, front)| front.len() >= wanted.until)
    }

    /// The fronts of these frames, in their order; `read` reads those that nobody has and nobody is reading.
    pub(crate) fn get(
        &self,
        all: &[FrameFront],
        read: impl Fn(&[FrameFront]) -> Result<Vec<Arc<Vec<u8>>>>,
    ) -> Result<Vec<Arc<Vec<u8>>>> {
        let mut found: Vec<Option<Arc<Vec<u8>>>> = vec![None; all.len()];
        loop {
            let mine = lock(&self.kept).take(all, &mut found);
            if !mine.is_empty() {
                // whoever waits for them must go on, also past a reader that fails or panics
                let coming = Coming { cache: self, mine };
                for (FrameFront { frame, .. }, front) in coming.mine.iter().zip(read(&coming.mine)?) {
                    lock(&self.kept).put(*frame, front.clone(), self.limit);
                    let at = all.iter().position(|wanted| wanted.frame == *frame);
                    if let Some(at) = at {
                        found[at] = Some(front);
                    }
                }
            }
            let missing: Vec<FrameId> = all
                .iter()
                .zip(&found)
                .filter(|(_, front)| front.is_none())
                .map(|(one, _)| one.frame)
                .collect();
            if missing.is_empty() {
                return Ok(found.into_iter().flatten().collect());
            }
            // ours are there: nobody waits for us while we wait for others
            let mut kept = lock(&self.kept);
            while missing.iter().all(|id| kept.coming.contains(id)) {
                kept = wait(&self.came, kept);
            }
        }
    }
}

struct Coming<'a> {
    cache: &'a FrameCache,
    mine: Vec<FrameFront>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut kept = lock(&self.cache.kept);
        kept.coming.retain(|id| self.mine.iter().all(|wanted| wanted.frame != *id));
        drop(kept);
        self.cache.came.notify_all();
    }
}

impl Kept {
    /// Finds what is there of what is missing yet, and gives what the caller is to read: nobody else does from now on.
    fn take(&mut self, all: &[FrameFront], found: &mut [Option<Arc<Vec<u8>>>]) -> Vec<FrameFront> {
        let mut mine = Vec::new();
        for (wanted, front) in all.iter().zip(found).filter(|(_, front)| front.is_none()) {
            let held = self.find(&wanted.frame);
            let is_begun = held.is_some();
            *front = held.filter(|held| held.len() >= wanted.until);
            if front.is_some() {
                self.hits += 1;
            } else if self.coming.insert(wanted.frame) {
                self.misses += 1;
                mine.push(FrameFront { until: if is_begun { MAX_RAW } else { wanted.until }, ..*wanted });
            }
        }
        mine
    }

    fn find(&mut self, id: &FrameId) -> Option<Arc<Vec<u8>>> {
        let (used, frame) = self.frames.get_mut(id)?;
        self.by_use.remove(used);
        self.now += 1;
        *used = self.now;
        self.by_use.insert(self.now, *id);
        Some(frame.clone())
    }

    fn put(&mut self, id: FrameId, frame: Arc<Vec<u8>>, limit: u64) {
        let size = frame.len() as u64;
        match self.frames.get(&id) {
            _ if size > limit => return,
            Some((_, known)) if known.len() >= frame.len() => return,
            Some((used, known)) => {
                (self.held, _) = (self.held - known.len() as u64, self.by_use.remove(used));
                self.frames.remove(&id);
            }
            None => {}
        }
        while self.held + size > limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.held -= self.frames.remove(&oldest).map_or(0, |(_, frame)| frame.len() as u64);
        }
        self.now += 1;
        self.by_use.insert(self.now, id);
        self.frames.insert(id, (self.now, frame));
        self.held += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::name::{Address, ApplianceId, BlobId};
    use block::sync::atomic::{AtomicU64, Ordering};

    fn id(number: u32) -> FrameId {
        let appliance = ApplianceId::from_bytes([1; 8]);
        (Address { appliance, id: BlobId::from_bytes([2; 16]) }, number)
    }

    fn front(number: u32, until: usize) -> FrameFront {
        FrameFront { frame: id(number), until }
    }

    fn of(size: usize) -> impl Fn(&[FrameFront]) -> Result<Vec<Arc<Vec<u8>>>> {
        move |all| Ok(all.iter().map(|one| Arc::new(vec![one.frame.1 as u8; size])).collect())
    }

    #[test]
    fn what_was_not_used_for_longest_leaves_first() {
        let cache = FrameCache::new(10);
        let take = |number: u32, size: usize| cache.get(&[front(number, 1)], of(size)).unwrap().remove(0);
        take(1, 4);
        take(2, 4);
        assert_eq!(*take(1, 99), [1; 4], "it is there");
        take(3, 4);
        let usage = cache.usage();
        assert_eq!((usage.held, usage.hits, usage.misses), (8, 1, 3));
        assert_eq!(*take(1, 99), [1; 4], "used later than 2");
        assert_eq!(*take(2, 3), [2; 3], "gone, and read anew");
        assert_eq!(*take(9, 11), [9; 11], "too large to be kept");
        assert!(cache.usage().held <= 10);
        assert_eq!(*take(9, 11), [9; 11]);
        let all = cache.get(&[front(7, 1), front(2, 1), front(8, 1)], of(1)).unwrap();
        assert_eq!(all.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [7, 2, 8], "in their order");
    }

    #[test]
    fn who_asks_for_more_of_a_frame_gets_all_of_it() {
        let cache = FrameCache::new(100);
        let asked = Mutex::new(Vec::new());
        let read = |all: &[FrameFront]| {
            lock(&asked).extend(all.iter().map(|one| one.until));
            Ok(all.iter().map(|one| Arc::new(vec![7; one.until.min(50)])).collect())
        };
        for (until, len) in [(10, 10), (5, 10), (11, 50), (50, 50)] {
            assert_eq!(cache.get(&[front(1, until)], read).unwrap()[0].len(), len, "until {until}");
            assert!(cache.has(&front(1, until)) && !cache.has(&front(1, 51)));
        }
        assert_eq!(*lock(&asked), [10, MAX_RAW]);
        let usage = cache.usage();
        assert_eq!((usage.held, usage.hits, usage.misses), (50, 2, 2));
        // one that is named to be longer than it is
        assert_eq!(cache.get(&[front(1, 60)], read).unwrap()[0].len(), 50);
        assert_eq!(cache.usage().held, 50);
    }

    #[test]
    fn a_read_that_fails_is_not_remembered() {
        let cache = FrameCache::new(100);
        assert!(cache.get(&[front(1, 1), front(2, 1)], |_| Err(Error::Cancelled)).is_err());
        assert_eq!(*cache.get(&[front(1, 1)], of(1)).unwrap()[0], [1]);
    }

    #[test]
    fn misses_share_reads_whoever_comes_first() {
        let (cache, reads) = (FrameCache::new(100), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (cache, reads) = (&cache, &reads);
                scope.spawn(move || {
                    // half of them the other way round
                    let wanted = if thread % 2 == 0 { [7, 8] } else { [8, 7] }.map(|number| front(number, 1));
                    let read = |ids: &[FrameFront]| {
                        reads.fetch_add(ids.len() as u64, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        of(7)(ids)
                    };
                    assert_eq!(cache.get(&wanted, read).unwrap().len(), 2);
                });
            }
        });
        assert_eq!(reads.load(Ordering::SeqCst), 2);
    }
}
