//! Consolidation: folding a sealed layer whose state nobody needs into the next newer one.
//!
//! Order: the older layer's blocks that the newer lacks are copied into the newer one's file, where they are garbage
//! until a map says otherwise; synced; the united map is written under a new number and synced; the chain is committed
//! without the older layer; the owner index is repointed; the older layer's files are removed. Readers that hold the
//! older layer keep its open file. Cut short anywhere before the commit, the fold has changed nothing that counts.

use crate::chain::LayerRecord;
use crate::data_file;
use crate::disk::{Disk, Roots};
use crate::frozen::FrozenMap;
use crate::names::Numbered;
use crate::view::Below;
use crate::{Error, Result};
use block::sync::{Arc, lock};
use block::{BLOCK_SIZE, ByteRange, OpenHow, StateId, planted};

impl Disk {
    /// Deletes a recovery point of the instant tier and gives its space back. What changed before and after it stays
    /// known. The point is gone once the chain says so; should the fold fail, for lack of space say, it is tried again
    /// by the next delete and the next open.
    ///
    /// # Errors
    /// `NoSuchPoint`; what the host reports.
    pub fn delete_point(&self, state: StateId) -> Result<()> {
        self.check()?;
        let roots = lock(&self.roots);
        let record = roots.chain.epochs.iter().find(|epoch| epoch.state == state && epoch.is_point);
        let record = record.ok_or(Error::NoSuchPoint { disk: self.id, state })?.clone();
        let is_newest_layer = roots.chain.layers.last().is_some_and(|layer| layer.top_epoch == record.epoch);
        drop(roots);
        if is_newest_layer {
            // the layer above is the active one, which is never folded into: end it without making a point
            self.seal_without_point()?;
        }
        let mut roots = lock(&self.roots);
        let mut next = roots.chain.clone();
        next.epochs.iter_mut().filter(|epoch| epoch.state == state).for_each(|epoch| epoch.is_point = false);
        self.commit_chain(&mut roots, next)?;
        self.fold_all(&mut roots)
    }

    /// Folds every layer whose state is not a point into the next newer sealed one.
    pub(crate) fn fold_all(&self, roots: &mut Roots) -> Result<()> {
        self.complete_seal(roots)?;
        while let Some(place) = foldable(roots) {
            self.fold(roots, place)?;
        }
        Ok(())
    }

    /// Folds the layer at `place` of the chain into the one after it.
    fn fold(&self, roots: &mut Roots, place: usize) -> Result<()> {
        let (older, newer) = (roots.chain.layers[place], roots.chain.layers[place + 1]);
        let (below, above) = (self.read_map(older.map)?, self.read_map(newer.map)?);
        let moved = self.copy_missing(older, newer, &below, &above)?;
        let mut united = below;
        united.overlay(&above);
        let map = roots.chain.take_number();
        self.write_map(map, &united)?;
        let mut next = roots.chain.clone();
        next.layers[place + 1].map = map;
        next.layers.remove(place);
        if planted!("fold-removes-before-the-commit") {
            self.remove_layer(older.layer);
            self.env.media.sync_dir(&self.dir)?;
        }
        self.commit_chain(roots, next)?;
        self.repoint(roots, older, newer, &moved)?;
        let unused = |map: u64| !roots.chain.numbers().any(|number| number == map);
        let maps = [older.map, newer.map].into_iter().filter(|&map| unused(map)).map(Numbered::Map);
        let maps: Vec<_> = maps.collect();
        self.remove_layer(older.layer);
        self.remove_files(&maps);
        Ok(())
    }

    /// Copies the blocks only the older layer has into the newer one's file, and says which they are.
    fn copy_missing(
        &self,
        older: LayerRecord,
        newer: LayerRecord,
        below: &FrozenMap,
        above: &FrozenMap,
    ) -> Result<FrozenMap> {
        let open = |layer: LayerRecord, how| data_file::open(&self.place(), layer.layer, how);
        let (from, to) = (open(older, OpenHow::Read)?, open(newer, OpenHow::Write)?);
        let moved = below.without(above);
        let mut copied = Ok(());
        moved.runs(|first, count, state| {
            if copied.is_ok() && state.has_bytes() {
                let range = ByteRange::between(first * BLOCK_SIZE, (first + count) * BLOCK_SIZE);
                copied = from.copy_range(range, &*to, range.start());
            }
        });
        copied?;
        if !planted!("fold-without-data-sync") {
            to.sync().map_err(|error| self.poisoned(error))?;
        }
        Ok(moved)
    }

    /// Makes the index and the view forget the older layer.
    fn repoint(
        &self,
        roots: &mut Roots,
        older: LayerRecord,
        newer: LayerRecord,
        moved: &FrozenMap,
    ) -> Result<()> {
        let mut below: Below = self.view.load().below.clone();
        let slot_of = |number: u64| {
            let layer =
                |layer: &Option<Arc<crate::view::Layer>>| layer.as_ref().is_some_and(|l| l.number == number);
            below.slots.iter().position(layer)
        };
        // a layer still outside the index is read through its own map; only layers in the index move
        let (Some(from), Some(to)) = (slot_of(older.layer), slot_of(newer.layer)) else {
            return self.rebuild_below(roots);
        };
        below.index.repoint(moved, from as u16, to as u16)?;
        if let Some(layer) = below.slots[from].take() {
            roots.retired.push((from as u16, Arc::downgrade(&layer)));
        }
        let is_sealing = self.view.load().is_sealing;
        self.publish_below(below, is_sealing);
        Ok(())
    }

    /// Builds the index anew from the chain, for the rare case that a layer was still outside it.
    fn rebuild_below(&self, roots: &mut Roots) -> Result<()> {
        let below = crate::open::load_below(&self.place(), &roots.chain)?;
        self.publish_below(below, false);
        Ok(())
    }
}

/// The first layer whose state is no point and that has a sealed layer above it.
fn foldable(roots: &Roots) -> Option<usize> {
    let chain = &roots.chain;
    let sealed_above = chain.layers.len().saturating_sub(1);
    (0..sealed_above).find(|&place| !chain.is_boundary(&chain.layers[place]))
}

impl FrozenMap {
    /// The blocks that have a state here and none in `above`.
    fn without(&self, above: &Self) -> Self {
        let mut left = Self::new(self.blocks());
        for (page, content) in self.pages() {
            let Some(over) = above.page(page) else {
                left.put_content(page, content.clone());
                continue;
            };
            let words = std::array::from_fn(|index| only_here(content.word(index), over.word(index)));
            left.put_page(page, Box::new(words));
        }
        left
    }
}

fn only_here(here: u64, above: u64) -> u64 {
    const LOW: u64 = 0x5555_5555_5555_5555;
    let present = (above | above >> 1) & LOW;
    here & !(present * 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockState;

    #[test]
    fn only_blocks_absent_above_are_left() {
        let states = [BlockState::Absent, BlockState::Hydrated, BlockState::Zero, BlockState::Data];
        for (here, above) in states.iter().flat_map(|here| states.map(|above| (*here, above))) {
            let left = BlockState::from_bits(only_here(here.filled_word(), above.filled_word()));
            assert_eq!(left, if above == BlockState::Absent { here } else { BlockState::Absent });
        }
    }
}
