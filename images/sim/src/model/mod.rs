//! The reference model of a disk: what it must read, what each recovery point must read, what must count as changed,
//! and what a power cut may leave of it.
//!
//! **The rule after a power cut.** Between two acknowledged flushes a block passes through versions: the one at the
//! last flush, then one more after every write, zero or discard that touched it, acknowledged or not. Each aligned
//! 8-byte word of the block must then read as it was in one of these versions; different words may come from
//! different versions, because writes of more than a word may be torn. A block untouched since the flush has one
//! version. So nothing flushed is lost, nothing older than the flush comes back, and nothing appears that was never
//! written.
//!
//! The model follows one thread of requests. Tests with concurrent writers give each thread blocks of its own.

mod compare;

pub use compare::{Agreement, Mismatch};

use crate::Action;
use block::{BLOCK_SIZE, BlockSource, ByteCount, ByteOffset, RangeSet};
use compare::{WORD, block_bytes, compare, unreadable};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a disk of one size must hold.
#[derive(Clone)]
pub struct ModelDisk {
    now: Vec<u8>,
    /// What a failed request may have made of a block instead of what `now` says.
    instead: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Versions since the last flush of the blocks touched since, the flushed ones first.
    versions: BTreeMap<u64, Vec<Vec<u8>>>,
    points: Vec<Point>,
    began_empty: bool,
    /// Blocks that it began with and that count as written when all that was ever written is asked for.
    base_blocks: u64,
    /// What it read when the epoch began.
    before_epoch: Vec<u8>,
    epoch: Touched,
    /// The blocks of the epoch whose change a flush made durable.
    flushed: Touched,
}

/// Blocks touched within one epoch.
#[derive(Clone, Default)]
struct Touched {
    /// Those that must be reported as changed.
    must: BTreeSet<u64>,
    /// Those that may be: also zeroing what was zero already.
    may: BTreeSet<u64>,
}

impl Touched {
    fn union(&mut self, other: &Self) {
        self.must.extend(&other.must);
        self.may.extend(&other.may);
    }
}

#[derive(Clone)]
struct Point {
    size: ByteCount,
    /// What it reads; known of a deleted point too, for what changed since.
    content: Arc<Vec<u8>>,
    exists: bool,
    epoch: Touched,
}

impl ModelDisk {
    /// A disk of zeros.
    ///
    /// # Panics
    /// If the size does not fit this machine's memory addresses.
    pub fn new(size: ByteCount) -> Self {
        Self::with_content(vec![0; size.as_usize().expect("a model fits the address space")])
    }

    /// A disk that begins with this content, durable, and in whose first epoch nothing has changed yet.
    pub fn with_content(now: Vec<u8>) -> Self {
        Self {
            began_empty: now.iter().all(|&byte| byte == 0),
            base_blocks: 0,
            before_epoch: now.clone(),
            now,
            instead: BTreeMap::new(),
            versions: BTreeMap::new(),
            points: Vec::new(),
            epoch: Touched::default(),
            flushed: Touched::default(),
        }
    }

    /// A disk that stands on a base: its content shows, and counts as written since the beginning.
    pub fn on_base(size: ByteCount, base: &[u8]) -> Self {
        let mut now = vec![0; size.as_usize().expect("a model fits the address space")];
        let shown = now.len().min(base.len());
        now[..shown].copy_from_slice(&base[..shown]);
        let base_blocks = ByteCount::new(shown as u64).blocks();
        Self { began_empty: true, base_blocks, ..Self::with_content(now) }
    }

    /// The number of bytes.
    pub fn size(&self) -> ByteCount {
        ByteCount::new(self.now.len() as u64)
    }

    /// What it reads now. Blocks touched by failed requests may read otherwise.
    pub fn now(&self) -> &[u8] {
        &self.now
    }

    /// A request was acknowledged.
    pub fn done(&mut self, action: &Action) {
        if matches!(action, Action::Flush) {
            return self.flushed();
        }
        let zeroing = !matches!(action, Action::Write { .. });
        self.edit(action, |model, block, changed| {
            let (new, old) = changed;
            if !zeroing || new != old || model.instead.contains_key(&block) {
                model.epoch.must.insert(block);
            }
            model.epoch.may.insert(block);
            let range = model.block(block);
            model.now[range].copy_from_slice(&new);
            if let Some(instead) = model.instead.get_mut(&block) {
                instead.iter_mut().for_each(|version| action.apply_to_block(block, version));
                instead.sort();
                instead.dedup();
                instead.retain(|version| *version != new);
                if instead.is_empty() {
                    model.instead.remove(&block);
                }
            }
        });
    }

    /// A request failed, or nobody heard how it ended: each of its blocks is old or new.
    pub fn failed(&mut self, action: &Action) {
        if matches!(action, Action::Flush) {
            return;
        }
        self.edit(action, |model, block, (new, _)| {
            model.epoch.may.insert(block);
            let mut more = model.instead.get(&block).cloned().unwrap_or_default();
            more.iter_mut().for_each(|version| action.apply_to_block(block, version));
            let instead = model.instead.entry(block).or_default();
            instead.push(new);
            instead.append(&mut more);
            instead.sort();
            instead.dedup();
        });
    }

    /// Calls `change` with (new, old) for each block of the action, and keeps the versions.
    fn edit(&mut self, action: &Action, mut change: impl FnMut(&mut Self, u64, (Vec<u8>, Vec<u8>))) {
        for block in action.blocks(self.size()) {
            let old = self.now[self.block(block)].to_vec();
            self.versions.entry(block).or_insert_with(|| vec![old.clone()]);
            let mut new = old.clone();
            action.apply_to_block(block, &mut new);
            change(self, block, (new.clone(), old));
            let mut all = self.instead.get(&block).cloned().unwrap_or_default();
            all.push(new);
            let versions = self.versions.entry(block).or_default();
            all.retain(|version| !versions.contains(version));
            versions.append(&mut all);
        }
    }

    /// A flush was acknowledged: what is written is durable.
    fn flushed(&mut self) {
        self.flushed = self.epoch.clone();
        self.versions.clear();
        // which of the possible versions became durable nobody knows
        for (&block, instead) in &self.instead {
            let mut versions = vec![self.now[self.block(block)].to_vec()];
            versions.extend(instead.iter().cloned());
            self.versions.insert(block, versions);
        }
    }

    /// A recovery point was acknowledged; returns its number, from 0. Everything is durable, as after a flush.
    ///
    /// After a crash in the middle of a seal, call this if the point turns out to exist.
    pub fn sealed(&mut self) -> usize {
        self.flushed();
        self.flushed = Touched::default();
        let epoch = std::mem::take(&mut self.epoch);
        self.before_epoch.clone_from(&self.now);
        self.points.push(Point {
            size: self.size(),
            content: Arc::new(self.now.clone()),
            exists: true,
            epoch,
        });
        self.points.len() - 1
    }

    /// The disk has another size: bytes gained are zeros, bytes lost count as zeroed should they come back. Everything
    /// is durable, as after a flush.
    ///
    /// After a crash in the middle of a resize, call this if the disk turns out to have the new size.
    ///
    /// # Panics
    /// If the size does not fit this machine's memory addresses.
    pub fn resized(&mut self, size: ByteCount) {
        let len = size.as_usize().expect("a model fits the address space");
        for block in size.get() / BLOCK_SIZE..self.size().blocks() {
            let range = self.block(block);
            let lost = len.clamp(range.start, range.end)..range.end;
            if self.now[lost].iter().any(|&byte| byte != 0) || self.instead.contains_key(&block) {
                self.epoch.must.insert(block);
            }
            self.epoch.may.insert(block);
        }
        // the block that the shorter of both ends in is written whole
        self.epoch.may.insert(size.min(self.size()).get() / BLOCK_SIZE);
        self.now.resize(len, 0);
        self.before_epoch.resize(len, 0);
        self.instead.retain(|&block, _| block < size.blocks());
        for (&block, versions) in &mut self.instead {
            versions.iter_mut().for_each(|version| version.resize(block_bytes(block, len).len(), 0));
        }
        self.flushed();
    }

    /// A recovery point was deleted; its changes still count.
    pub fn deleted(&mut self, point: usize) {
        self.points[point].exists = false;
    }

    /// The numbers of the recovery points that exist, ascending.
    pub fn points(&self) -> Vec<usize> {
        (0..self.points.len()).filter(|&point| self.points[point].exists).collect()
    }

    /// What a recovery point must read.
    ///
    /// # Panics
    /// If it was deleted.
    pub fn point(&self, point: usize) -> &[u8] {
        assert!(self.points[point].exists, "recovery point {point} was deleted");
        &self.points[point].content
    }

    /// The disk must read exactly what was acknowledged; blocks of failed requests old or new.
    ///
    /// # Errors
    /// The first block that does not.
    pub fn check_exact(&self, disk: &dyn BlockSource) -> Agreement {
        compare(disk, &self.now, |block, found| {
            let whole = |version: &Vec<u8>| version == found;
            self.instead.get(&block).is_some_and(|instead| instead.iter().any(whole))
        })
    }

    /// A recovery point must read exactly what the disk did at its seal.
    ///
    /// # Errors
    /// The first block that does not.
    pub fn check_point(&self, point: usize, source: &dyn BlockSource) -> Agreement {
        compare(source, self.point(point), |_, _| false)
            .map_err(|Mismatch(why)| Mismatch(format!("recovery point {point}: {why}")))
    }

    /// The disk must read what a power cut may leave, see the rule above.
    ///
    /// # Errors
    /// The first block that does not.
    pub fn check_after_power_cut(&self, disk: &dyn BlockSource) -> Agreement {
        compare(disk, &self.now, |block, found| {
            let Some(versions) = self.versions.get(&block) else { return false };
            found.chunks(WORD).enumerate().all(|(at, word)| {
                versions.iter().any(|version| version.chunks(WORD).nth(at).is_some_and(|old| old == word))
            })
        })
    }

    /// Checks the disk after a power cut and goes on with what it reads: that is durable now.
    ///
    /// # Errors
    /// As [`check_after_power_cut`](Self::check_after_power_cut).
    pub fn recovered(&mut self, disk: &dyn BlockSource) -> Agreement {
        self.check_after_power_cut(disk)?;
        self.go_on(disk)?;
        // what was lost need not count as changed any more, unless the flush had made it durable
        let lasting = std::mem::take(&mut self.flushed.must);
        let differs = |block| self.before_epoch[self.block(block)] != self.now[self.block(block)];
        let must = self.epoch.may.iter().filter(|&&block| lasting.contains(&block) || differs(block));
        self.epoch.must = must.copied().collect();
        self.flushed();
        Ok(())
    }

    /// Checks the disk after a crash that must lose nothing acknowledged and goes on with what it reads.
    ///
    /// # Errors
    /// As [`check_exact`](Self::check_exact).
    pub fn restarted(&mut self, disk: &dyn BlockSource) -> Agreement {
        self.check_exact(disk)?;
        let versions = self.versions.clone();
        self.go_on(disk)?;
        // what was not flushed may still be lost by the next power cut
        self.versions = versions;
        Ok(())
    }

    /// Adopts what the disk reads.
    fn go_on(&mut self, disk: &dyn BlockSource) -> Agreement {
        let mut found = vec![0; self.now.len()];
        disk.read_at(ByteOffset::ZERO, &mut found).map_err(|error| unreadable(0, &error))?;
        let before = std::mem::replace(&mut self.now, found);
        for block in std::mem::take(&mut self.instead).into_keys() {
            // the failed request did happen
            if before[self.block(block)] != self.now[self.block(block)] {
                self.epoch.must.insert(block);
            }
        }
        Ok(())
    }

    /// The changed ranges reported between two recovery points (`None`: the beginning, the live disk) must be the
    /// blocks written in between. Zeroing what was zero already may be reported or not.
    ///
    /// # Errors
    /// The first block missing or too much, or a range that is not made of whole blocks.
    pub fn check_changes(&self, since: Option<usize>, until: Option<usize>, changed: &RangeSet) -> Agreement {
        let mut expected = Touched::default();
        let first = since.map_or(0, |point| point + 1);
        let last = until.map_or(self.points.len(), |point| point + 1);
        self.points[first..last].iter().for_each(|point| expected.union(&point.epoch));
        if until.is_none() {
            expected.union(&self.epoch);
        }
        if since.is_none() {
            expected.may.extend(0..self.base_blocks);
        }
        let size = until.map_or(self.size(), |point| self.points[point].size);
        expected.must.retain(|&block| block < size.blocks());
        let span = format!("changes from {since:?} to {until:?}");
        let mut reported = BTreeSet::new();
        for range in changed.iter() {
            let whole_end = range.end().is_multiple_of(BLOCK_SIZE) || range.end() == size.get();
            if !range.start().is_multiple_of(BLOCK_SIZE) || !whole_end {
                return Err(Mismatch(format!("{span}: {range:?} is not made of whole blocks")));
            }
            reported.extend(range.start() / BLOCK_SIZE..range.end().div_ceil(BLOCK_SIZE));
        }
        expected.must.extend(self.differing(since, until));
        if let Some(block) = expected.must.difference(&reported).next() {
            return Err(Mismatch(format!("{span}: block {block} was changed and is not reported")));
        }
        match reported.difference(&expected.may).next() {
            Some(block) => Err(Mismatch(format!("{span}: block {block} is reported and was not changed"))),
            None => Ok(()),
        }
    }

    /// The blocks in which what two states read differs, byte by byte, where both are known. What a smaller one lacks
    /// counts as zeros, and what a smaller later one lacks is not there to differ.
    fn differing(&self, since: Option<usize>, until: Option<usize>) -> Vec<u64> {
        let content = |point: usize| &self.points[point].content[..];
        let before = since.map_or(&[][..], content);
        let after = until.map_or(&self.now[..], content);
        // what failed requests left is not known, and a disk that began with content has no state of zeros
        if until.is_none() && !self.instead.is_empty() || since.is_none() && !self.began_empty {
            return Vec::new();
        }
        let differs = |block: &u64| {
            let old = &before[block_bytes(*block, before.len())];
            let new = &after[block_bytes(*block, after.len())];
            let (both, more) = new.split_at(new.len().min(old.len()));
            *both != old[..both.len()] || more.iter().any(|&byte| byte != 0)
        };
        (0..ByteCount::new(after.len() as u64).blocks()).filter(differs).collect()
    }

    fn block(&self, block: u64) -> std::ops::Range<usize> {
        block_bytes(block, self.now.len())
    }
}
