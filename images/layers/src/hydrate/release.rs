//! The end of hydration: the hydrated layer becomes the oldest sealed layer, and the disk stands on nothing.

use crate::chain::{BaseRecord, Chain, EpochRecord, LayerRecord};
use crate::disk::{Disk, Roots};
use crate::frozen::FrozenMap;
use crate::names::Numbered;
use crate::view::{Below, Layer};
use crate::{Error, Result};
use block::sync::atomic::Ordering;
use block::sync::{Arc, lock};
use block::{Epoch, StateId, Time, planted};

impl Disk {
    /// Lets go of the base, all of which is here: from now on the disk needs nothing but its own files, and so do its points and
    /// every open source of them. Durable when this returns, and then nobody reads the base any more. A disk that
    /// stands on nothing is left as it is.
    ///
    /// # Errors
    /// `WrongBase` if something is still missing; `NoSpace` heals and `TooMany` is a limit of the chain: the disk still stands on its
    /// base then. A failed sync poisons the disk.
    pub fn release_base(&self) -> Result<()> {
        self.check()?;
        let Some(ground) = self.ground() else { return Ok(()) };
        let missing =
            || Error::WrongBase { disk: self.id, why: "not all of its base is here yet".to_owned() };
        let hydrated = ground.hydrated().ok_or_else(missing)?.clone();
        let (present, blocks) = hydrated.present();
        if present < blocks && !planted!("released-too-early") {
            return Err(missing());
        }
        if !planted!("released-before-hydrators-left") {
            // one that brings what another brought already still writes; whoever comes now finds nothing to bring
            hydrated.layer.in_flight.wait_until_empty();
        }
        if !planted!("released-without-data-sync") {
            hydrated.layer.file.sync().map_err(|error| self.poisoned(error))?;
        }
        let mut roots = lock(&self.roots);
        self.check()?;
        self.complete_seal(&mut roots)?;
        let Some(record) = roots.chain.base else { return Ok(()) };
        roots.chain.check_room()?;
        let frozen = hydrated.layer.map.freeze(&*self.env.media);
        let map = roots.chain.take_number();
        self.write_map(map, &frozen).inspect_err(|_| self.remove_files(&[Numbered::Map(map)]))?;
        let number = hydrated.layer.number;
        self.lay_beneath(&mut roots, number, &frozen)?;
        let seal = EpochRecord::of_base(&record, self.env.clock.now(), map);
        let next = roots.chain.released(LayerRecord::sealed(number, map, &seal), seal);
        self.commit_chain(&mut roots, next)?;
        self.forget_ground();
        drop((roots, ground, hydrated));
        if !planted!("released-before-readers-left") {
            self.wait_for_readers();
        }
        self.remove_files(&[Numbered::Committed(number), Numbered::Journal(number)]);
        Ok(())
    }

    /// Lets everyone who looks blocks up find those that no layer has in the hydrated layer, where they read the same as
    /// from the base: it may happen, and stay, whether the release comes to its end or not.
    fn lay_beneath(&self, roots: &mut Roots, number: u64, frozen: &FrozenMap) -> Result<()> {
        let (mut below, is_sealing) = {
            let view = self.view.load();
            (view.below.clone(), view.is_sealing)
        };
        if below.slot_of(number).is_none() {
            let layer = Layer::unsummed(&self.place(), &below.files, number, frozen.blocks());
            layer.bytes.store(frozen.bytes(), Ordering::Relaxed);
            roots.take_slot(&mut below, Arc::new(layer))?;
            // readers must know the slot before the index names it
            self.publish_below(below.clone(), is_sealing);
        }
        below.lay_beneath(frozen, number)?;
        let layer = below.slot_of(number).and_then(|slot| below.slots[usize::from(slot)].clone());
        self.sources.each_below(|mut below| {
            if below.slot_of(number).is_none() {
                below.slots.push(layer.clone());
            }
            below
        });
        self.sources.try_each(|below| below.lay_beneath(frozen, number))
    }

    /// Nobody is shown the base any more who begins to read now.
    fn forget_ground(&self) {
        let (below, is_sealing) = {
            let view = self.view.load();
            (view.below.clone(), view.is_sealing)
        };
        self.publish_below(Below { ground: None, ..below }, is_sealing);
        self.sources.each_below(|below| Below { ground: None, ..below });
    }
}

impl Below {
    /// Finds the blocks that nobody owns in the layer with this number.
    fn lay_beneath(&self, map: &FrozenMap, number: u64) -> Result<()> {
        match self.slot_of(number) {
            Some(slot) => Ok(self.index.lay_beneath(map, slot)?),
            None => Ok(()),
        }
    }
}

impl Chain {
    /// The chain once the base is released: what was brought of it is the oldest layer.
    fn released(&self, layer: LayerRecord, seal: EpochRecord) -> Self {
        let mut next = self.clone();
        next.base = None;
        next.layers.insert(0, layer);
        next.epochs.insert(0, seal);
        next
    }

    /// Whether the disk stood on this content before it released it.
    pub(crate) fn has_released(&self, base: StateId) -> bool {
        self.epochs.first().is_some_and(|epoch| epoch.is_of_base() && epoch.state == base)
    }
}

impl EpochRecord {
    /// What stands for the base in history: it comes before the first seal.
    fn of_base(record: &BaseRecord, time: Time, map: u64) -> Self {
        Self {
            epoch: Epoch::new(0),
            state: record.state,
            parent: None,
            time,
            size: record.size,
            seal_ns: 0,
            is_point: false,
            is_pinned: false,
            is_deleted: false,
            changes: map,
            group: Vec::new(),
        }
    }

    /// Whether it stands for a base that was released.
    pub(crate) fn is_of_base(&self) -> bool {
        self.epoch == Epoch::new(0)
    }
}
