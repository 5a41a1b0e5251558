//! The steps of one fold: copy a slice, commit a batch, finish.

use super::pair::Pair;
use crate::active::Place;
use crate::chain::{Chain, FoldRecord, LayerRecord, SumsRecord};
use crate::data_file;
use crate::disk::Disk;
use crate::frozen::FrozenMap;
use crate::names::Numbered;
use crate::source::Repoint;
use crate::{BlockState, Result};
use block::sync::{Arc, lock};
use block::{BLOCK_SIZE, ByteCount, ByteRange, Kind, MediaFile, OpenHow, planted};

/// Bytes copied in one step: short enough that a guest beside it hardly waits.
const SLICE_BYTES: u64 = 256 << 10;

/// A fold under way.
pub(crate) struct Fold {
    pair: Pair,
    is_upward: bool,
    from: Arc<dyn MediaFile>,
    to: Arc<dyn MediaFile>,
    /// The blocks that move.
    moved: FrozenMap,
    /// What the two layers are as one.
    united: FrozenMap,
    /// Number of the file that says so, once there is one.
    united_number: Option<u64>,
    /// What the target has of sums.
    sums: Option<SumsRecord>,
    /// Blocks below this one are copied.
    copied: u64,
    /// Blocks below this one belong to the target.
    committed: u64,
    bytes_copied: u64,
    bytes_committed: u64,
    bytes_total: u64,
    batch_bytes: u64,
}

impl Fold {
    /// Takes up the fold of a pair at a block.
    pub(super) fn open(
        files: &Place<'_>,
        pair: Pair,
        is_upward: bool,
        moved: FrozenMap,
        united: FrozenMap,
        folded: u64,
        batch: ByteCount,
    ) -> Result<Self> {
        let (source, target) = if is_upward { (pair.older, pair.newer) } else { (pair.newer, pair.older) };
        let bytes_done = moved.part(0..folded).bytes();
        Ok(Self {
            pair,
            is_upward,
            from: data_file::open(files, source.layer, source.file_blocks, OpenHow::Write)?,
            to: data_file::open(files, target.layer, target.file_blocks, OpenHow::Write)?,
            bytes_total: moved.bytes(),
            moved,
            united,
            united_number: None,
            sums: target.sums,
            copied: folded,
            committed: folded,
            bytes_copied: bytes_done,
            bytes_committed: bytes_done,
            batch_bytes: batch.get().max(BLOCK_SIZE),
        })
    }

    fn source(&self) -> LayerRecord {
        if self.is_upward { self.pair.older } else { self.pair.newer }
    }

    fn target(&self) -> LayerRecord {
        if self.is_upward { self.pair.newer } else { self.pair.older }
    }

    fn blocks(&self) -> u64 {
        self.moved.blocks()
    }

    /// Bytes to copy, bytes copied.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes_total, self.bytes_copied)
    }

    pub(super) fn is_copied(&self) -> bool {
        self.copied == self.blocks()
    }

    pub(super) fn is_batch_full(&self) -> bool {
        self.bytes_copied - self.bytes_committed >= self.batch_bytes
    }

    /// Copies the next blocks, at most a slice of them. Nobody reads them in the target yet: upward they are absent
    /// there, downward the source still covers them.
    pub(super) fn copy_slice(&mut self) -> Result<()> {
        let room = self.batch_bytes.saturating_sub(self.bytes_copied - self.bytes_committed);
        let mut left = room.min(SLICE_BYTES).div_ceil(BLOCK_SIZE);
        while left > 0 {
            let Some((first, past)) = self.next_run(left) else {
                self.copied = self.blocks();
                break;
            };
            let range = ByteRange::between(first * BLOCK_SIZE, past * BLOCK_SIZE);
            self.from.copy_range(range, &*self.to, range.start())?;
            self.copied = past;
            self.bytes_copied += range.count().get();
            left -= past - first;
        }
        Ok(())
    }

    /// The next blocks to copy, at most `limit`, as (first, past).
    fn next_run(&self, limit: u64) -> Option<(u64, u64)> {
        let (first, mut past) = self.moved.next_with_bytes(self.copied)?;
        while past - first < limit
            && let Some((next, more)) = self.moved.next_with_bytes(past)
            && next == past
        {
            past = more;
        }
        Some((first, past.min(first + limit)))
    }

    /// What changes hands with the next commit.
    fn repoint(&self, is_last: bool) -> Repoint {
        Repoint {
            blocks: self.moved.part(self.committed..self.copied),
            from: self.source().layer,
            to: self.target().layer,
            united_bytes: is_last.then(|| self.united.bytes()),
        }
    }

    /// The chain once the target has what was copied.
    fn moved_chain(&self, mut chain: Chain) -> Chain {
        let (source, target) = (self.source().layer, self.target().layer);
        chain.fold = Some(FoldRecord { source, target, folded: self.copied });
        if let Some(place) = chain.place_of(target) {
            chain.layers[place].sums = self.sums;
        }
        chain
    }

    /// The chain once the two layers are one.
    fn united_chain(&self, mut chain: Chain, map: u64) -> Chain {
        let (top_epoch, blocks) = (self.pair.newer.top_epoch, self.united.blocks());
        if let Some(place) = chain.place_of(self.pair.older.layer) {
            chain.layers[place] = LayerRecord { map, top_epoch, sums: self.sums, blocks, ..self.target() };
            chain.layers.remove(place + 1);
        }
        chain.fold = None;
        chain
    }
}

impl Disk {
    /// Gives what was copied to the target: from now on the chain says so, and the source's copy may go.
    pub(super) fn commit_batch(&self, fold: &mut Fold) -> Result<()> {
        let repoint = fold.repoint(false);
        self.settle_copies(fold, &repoint)?;
        let moved = ByteRange::between(fold.committed * BLOCK_SIZE, fold.copied * BLOCK_SIZE);
        if planted!("fold-punches-before-the-commit") {
            give_back(&*fold.from, moved)?;
        }
        self.hand_over(&repoint, |chain| fold.moved_chain(chain))?;
        (fold.committed, fold.bytes_committed) = (fold.copied, fold.bytes_copied);
        give_back(&*fold.from, moved)
    }

    /// Makes one layer of the two and removes what is left of the source.
    pub(super) fn finish_fold(&self, fold: &mut Fold) -> Result<()> {
        let repoint = fold.repoint(true);
        self.settle_copies(fold, &repoint)?;
        let map = match fold.united_number {
            // a commit may have failed when it could be seen already: what it names is never written again
            Some(map) => map,
            None => {
                let map = lock(&self.roots).chain.take_number();
                self.write_map(map, &fold.united)
                    .inspect_err(|_| self.remove_files(&[Numbered::Map(map)]))?;
                *fold.united_number.insert(map)
            }
        };
        if planted!("fold-removes-before-the-commit") {
            self.remove_layer(fold.source().layer, fold.source().file_blocks);
            self.env.media.sync_dir(&self.dir)?;
        }
        self.hand_over(&repoint, |chain| fold.united_chain(chain, map))?;
        let unused = {
            let mut roots = lock(&self.roots);
            roots.folding = None;
            let is_unused = |map: &u64| !roots.chain.numbers().any(|number| number == *map);
            let maps = [fold.pair.older.map, fold.pair.newer.map];
            let sums = fold.source().sums.map(|sums| Numbered::Sums(sums.number));
            maps.into_iter().filter(is_unused).map(Numbered::Map).chain(sums).collect::<Vec<_>>()
        };
        // whoever makes sums of the source may have it open for a while; its space goes back now
        let whole = ByteRange::between(0, fold.source().file_blocks * BLOCK_SIZE);
        if let Err(error) = give_back(&*fold.from, whole) {
            tracing::debug!(disk = %self.id, %error, "space is given back when the file is closed");
        }
        self.remove_layer(fold.source().layer, fold.source().file_blocks);
        self.remove_files(&unused);
        Ok(())
    }

    /// Makes what was copied durable in the target, with its sums.
    fn settle_copies(&self, fold: &mut Fold, repoint: &Repoint) -> Result<()> {
        if !planted!("fold-without-data-sync") {
            fold.to.sync().map_err(|error| self.poisoned(error))?;
        }
        let target = LayerRecord { sums: fold.sums, ..fold.target() };
        fold.sums = self.carry_sums(fold.source(), target, &repoint.blocks)?;
        Ok(())
    }

    /// Commits a chain and makes every reader look for the moved blocks in the target. When this returns nobody looks
    /// in the source for them any more.
    fn hand_over(&self, repoint: &Repoint, change: impl FnOnce(Chain) -> Chain) -> Result<()> {
        let mut roots = lock(&self.roots);
        self.check()?;
        // before the commit, so that nothing can fail after it
        self.prepare_readers(repoint)?;
        let next = change(roots.chain.clone());
        self.commit_chain(&mut roots, next)?;
        self.repoint_readers(&mut roots, repoint)?;
        drop(roots);
        if !planted!("fold-without-waiting-for-readers") {
            self.wait_for_readers();
        }
        Ok(())
    }

    /// On a full filesystem: gives back what the two layers hold of blocks that nobody reads there, without copying
    /// anything.
    pub(super) fn punch_unread(&self, fold: Option<&Fold>) -> Result<()> {
        let Some(fold) = fold else { return Ok(()) };
        // who still reads as of before the newer layer's seal may look for these blocks in the older one
        self.wait_for_readers();
        let unread = |first: u64, count: u64| {
            let range = ByteRange::between(first * BLOCK_SIZE, (first + count) * BLOCK_SIZE);
            give_back(if fold.is_upward { &*fold.from } else { &*fold.to }, range)
        };
        let mut done = Ok(());
        if fold.is_upward {
            // what the newer layer has too
            let covered = self.map_of(&fold.pair.older)?.without(&fold.moved);
            covered.runs(|first, count, _| {
                if done.is_ok() {
                    done = unread(first, count)
                }
            });
        } else {
            let zeros = |first, count, state| {
                if done.is_ok() && state == BlockState::Zero {
                    done = unread(first, count);
                }
            };
            fold.united.runs(zeros);
        }
        done
    }
}

/// Punches a range; a host that cannot gives the space back when the file is removed.
fn give_back(file: &dyn MediaFile, range: ByteRange) -> Result<()> {
    match file.punch(range) {
        Err(error) if error.kind() == Kind::Unsupported => Ok(()),
        done => Ok(done?),
    }
}
