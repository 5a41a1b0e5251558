//! Which two layers are folded, which of them keeps its file, and what each of them means while that is under way.

use super::Fold;
use crate::Result;
use crate::active::Place;
use crate::chain::{Chain, LayerRecord};
use crate::disk::{Disk, Roots};
use crate::frozen::FrozenMap;
use crate::point::read_map;
use block::{StateId, planted};

/// Two neighbours of the chain that become one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) older: LayerRecord,
    pub(super) newer: LayerRecord,
}

impl Pair {
    fn at(chain: &Chain, place: usize) -> Self {
        Self { older: chain.layers[place], newer: chain.layers[place + 1] }
    }
}

/// A fold to begin, or to take up.
pub(super) struct Chosen {
    pair: Pair,
    /// The direction, if it is decided already.
    is_upward: Option<bool>,
    folded: u64,
}

impl Disk {
    /// Chooses the fold that the chain says is under way, or the next there is to do. From now on nobody else changes
    /// what the chain says of the two layers.
    pub(super) fn choose_fold(&self, roots: &mut Roots) -> Option<Chosen> {
        let chosen = recorded(&roots.chain).or_else(|| self.next_fold(&roots.chain));
        roots.folding = chosen.as_ref().map(|fold| [fold.pair.older.layer, fold.pair.newer.layer]);
        chosen
    }

    fn next_fold(&self, chain: &Chain) -> Option<Chosen> {
        let held = self.sources.states();
        let known = self.view.load().below.clone();
        let is_indexed = |layer: LayerRecord| known.slot_of(layer.layer).is_some();
        let mut pairs = (1..chain.layers.len()).map(|place| Pair::at(chain, place - 1));
        let next = pairs.find(|pair| {
            chain.may_go(&pair.older, &held)
                && !chain.is_pinned(&pair.newer)
                && is_indexed(pair.older)
                && is_indexed(pair.newer)
        });
        next.map(|pair| Chosen { pair, is_upward: None, folded: 0 })
    }

    pub(super) fn map_of(&self, layer: &LayerRecord) -> Result<FrozenMap> {
        self.read_map(layer.map, layer.blocks)
    }

    /// Begins a fold. Where no direction is decided, the layer keeps its file of which more would have to be copied,
    /// unless the other's reaches further.
    pub(super) fn open_fold(&self, chosen: &Chosen) -> Result<Fold> {
        let Chosen { pair, is_upward, folded } = *chosen;
        let (below, above) = (self.map_of(&pair.older)?, self.map_of(&pair.newer)?);
        let only_below = below.without(&above);
        let mut united = below;
        united.overlay(&above);
        let is_longer = pair.newer.file_blocks > pair.older.file_blocks;
        let is_upward = is_upward.unwrap_or_else(|| is_longer || only_below.bytes() <= above.bytes());
        let moved = if is_upward { only_below } else { above };
        Fold::open(&self.place(), pair, is_upward, moved, united, folded, self.env.fold_batch)
    }
}

fn recorded(chain: &Chain) -> Option<Chosen> {
    let record = chain.fold?;
    let (source, target) = (chain.place_of(record.source)?, chain.place_of(record.target)?);
    let pair = Pair::at(chain, source.min(target));
    Some(Chosen { pair, is_upward: Some(source < target), folded: record.folded })
}

impl Chain {
    /// Whether the newest sealed layer is what a deleted point left, so that the active layer must end before the two
    /// can be folded.
    pub(super) fn needs_a_seal(&self, held: &[StateId]) -> bool {
        self.layers.last().is_some_and(|newest| {
            self.may_go(newest, held) && self.top(newest).is_some_and(|epoch| epoch.is_deleted)
        })
    }

    /// How many layers wait to be folded into a neighbour.
    pub(super) fn unneeded(&self) -> usize {
        let sealed_above = self.layers.len().saturating_sub(1);
        let below = self.layers[..sealed_above].iter().filter(|layer| !self.is_boundary(layer)).count();
        below + usize::from(self.needs_a_seal(&[]))
    }

    /// Whether nobody needs the state at the top of this layer; `held` are the states that open sources show.
    fn may_go(&self, layer: &LayerRecord, held: &[StateId]) -> bool {
        let is_held = self.top(layer).is_some_and(|epoch| held.contains(&epoch.state));
        !self.is_boundary(layer) && (!is_held || planted!("fold-takes-a-held-state"))
    }

    fn is_pinned(&self, layer: &LayerRecord) -> bool {
        self.top(layer).is_some_and(|epoch| epoch.is_pinned && !planted!("fold-writes-a-pinned-layer"))
    }
}

/// The map of the layer at `place` of the chain, as the chain means it now: what a fold under way has moved counts for
/// the target, whatever the map files say.
pub(crate) fn layer_map(files: &Place<'_>, chain: &Chain, place: usize) -> Result<FrozenMap> {
    let layer = chain.layers[place];
    let own = read_map(files, layer.map, layer.blocks)?;
    let Some(fold) = chain.fold.filter(|fold| [fold.source, fold.target].contains(&layer.layer)) else {
        return Ok(own);
    };
    if layer.layer == fold.source {
        return Ok(own.part(fold.folded..own.blocks()));
    }
    let Some(source) = chain.place_of(fold.source) else { return Ok(own) };
    let record = chain.layers[source];
    let moved = read_map(files, record.map, record.blocks)?.part(0..fold.folded);
    let (mut united, above) = if source < place { (moved, own) } else { (own, moved) };
    united.overlay(&above);
    Ok(united)
}
