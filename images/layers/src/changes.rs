//! What changed between two states: the union of the change maps along the recorded history.

use crate::chain::EpochRecord;
use crate::disk::{Disk, Roots};
use crate::{BlockState, Error, FrozenMap, Result};
use block::sync::lock;
use block::{BLOCK_SIZE, ByteCount, ByteRange, RangeSet, StateId};

/// Up to which state changes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The disk as it is now. Writes under way are in or not.
    Live,
    /// A state of the disk's history.
    State(StateId),
}

/// Changed ranges, in bytes. The two sets are disjoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Written.
    pub data: RangeSet,
    /// Made zero: trimmed or zeroed.
    pub zero: RangeSet,
}

impl Changes {
    /// The same over content that was there before: what of it is not covered counts as written.
    fn over(mut self, mut below: RangeSet, size: ByteCount) -> Self {
        below.subtract(&self.zero);
        self.data.union(&below.clip(ByteRange::whole(size)));
        self
    }

    /// Everything that changed.
    pub fn all(&self) -> RangeSet {
        let mut all = self.data.clone();
        all.union(&self.zero);
        all
    }
}

impl Disk {
    /// What changed after `since` (everything ever written and what the disk stands on, for `None`) up to `until`. Exact to the block: every byte
    /// that differs is in, and nothing is in that was not written or zeroed. Deleted points can be asked about for as
    /// long as the disk remembers them.
    ///
    /// # Errors
    /// `NotAnAncestor` if the history does not lead from one to the other; `Corrupt` if a change map is damaged: nothing
    /// is known then of what changed in its epoch, and [`changes_damaged`](Self::changes_damaged) names it.
    pub fn changes(&self, since: Option<StateId>, until: Until) -> Result<Changes> {
        // the files of an image may take a while, and do not change
        let mut below = match (since, &self.view.load().below.ground) {
            (None, Some(ground)) => ground.data()?,
            _ => RangeSet::new(),
        };
        let mut roots = lock(&self.roots);
        self.complete_seal(&mut roots)?;
        let mut changed = FrozenMap::new(0);
        let mut size = roots.chain.size;
        for epoch in self.epochs_between(&roots, since, until)? {
            let map = self.read_map(epoch.changes, epoch.size.blocks());
            let map = self.damage.of_changes(epoch, map)?;
            if epoch.is_of_base() {
                below.union(&with_bytes(&map));
                continue;
            }
            changed.overlay(&map);
            size = epoch.size;
        }
        if until == Until::Live {
            changed.overlay(&self.view.load().active.map.freeze(&*self.env.media));
            size = roots.chain.size;
        }
        Ok(ranges(&changed, size).over(below, size))
    }

    /// The seals after `since` up to `until`, oldest first.
    fn epochs_between<'a>(
        &self,
        roots: &'a Roots,
        since: Option<StateId>,
        until: Until,
    ) -> Result<&'a [EpochRecord]> {
        let epochs = &roots.chain.epochs;
        let place = |state| epochs.iter().position(|epoch| epoch.state == state);
        let not_found = |state| Error::NotAnAncestor { disk: self.id, state };
        let first = match since {
            None => 0,
            Some(state) => place(state).ok_or(not_found(state))? + 1,
        };
        let past = match until {
            Until::Live => epochs.len(),
            Until::State(state) => place(state).ok_or(not_found(state))? + 1,
        };
        if first > past {
            return Err(not_found(epochs[first - 1].state));
        }
        for pair in epochs[first.saturating_sub(1)..past].windows(2) {
            // from the beginning there is no state to lead back to, so it does not matter that history began anew
            let began_anew = since.is_none() && pair[1].parent.is_none();
            if pair[1].parent != Some(pair[0].state) && !began_anew {
                return Err(not_found(pair[0].state));
            }
        }
        Ok(&epochs[first..past])
    }
}

/// The blocks that have bytes.
fn with_bytes(map: &FrozenMap) -> RangeSet {
    let mut ranges = RangeSet::new();
    map.runs(|first, count, state| {
        if state.has_bytes() {
            ranges.insert(ByteRange::between(first * BLOCK_SIZE, (first + count) * BLOCK_SIZE));
        }
    });
    ranges
}

/// The changed ranges of a disk that ends up with this size. What lies past its end is not there to be named.
fn ranges(changed: &FrozenMap, size: ByteCount) -> Changes {
    let mut changes = Changes::default();
    changed.runs(|first, count, state| {
        let end = ((first + count) * BLOCK_SIZE).min(size.get());
        let range = ByteRange::between(first * BLOCK_SIZE, end);
        match state {
            BlockState::Data => changes.data.insert(range),
            BlockState::Zero => changes.zero.insert(range),
            BlockState::Hydrated | BlockState::Absent => {}
        }
    });
    changes
}
