//! What running backups and open images rely on, which a sweep has to leave alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use block::sync::{Arc, Mutex, lock};

use crate::manifest::{Ref, Shape};
use crate::name::Address;

/// Shared by a vault's backups, images and sweeps.
#[derive(Default)]
pub(crate) struct Pins(Mutex<State>);

#[derive(Default)]
struct State {
    // packs a running backup wrote or relies on, and how many do
    packs: HashMap<Address, u32>,
    // trees that are read or built upon, whether or not their point is still listed
    roots: BTreeMap<u64, (Shape, Ref)>,
    next: u64,
    // while a sweep marks: every pack that was pinned since it began, and the trees held since that it has not marked yet
    since: Option<HashSet<Address>>,
    new_roots: Vec<(Shape, Ref)>,
    quarantined: HashSet<Address>,
}

/// Holds the packs of one backup until dropped.
pub(crate) struct Pinned {
    pins: Arc<Pins>,
    packs: HashSet<Address>,
}

/// Holds a tree until dropped.
pub(crate) struct RootPin {
    pins: Arc<Pins>,
    number: u64,
}

impl Drop for RootPin {
    fn drop(&mut self) {
        lock(&self.pins.0).roots.remove(&self.number);
    }
}

impl Pinned {
    pub(crate) fn new(pins: Arc<Pins>) -> Self {
        Self { pins, packs: HashSet::new() }
    }

    /// Pins a pack before anything of it is relied on. False if it is in quarantine: then it must not be.
    pub(crate) fn pin(&mut self, pack: Address) -> bool {
        let mut state = lock(&self.pins.0);
        if state.quarantined.contains(&pack) && !block::planted!("vault-quarantine-ignored") {
            return false;
        }
        if self.packs.insert(pack) && !block::planted!("vault-hit-unpinned") {
            *state.packs.entry(pack).or_default() += 1;
            if let Some(since) = &mut state.since {
                since.insert(pack);
            }
        }
        true
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut state = lock(&self.pins.0);
        for pack in &self.packs {
            if let Some(count) = state.packs.get_mut(pack) {
                *count -= 1;
                if *count == 0 {
                    state.packs.remove(pack);
                }
            }
        }
    }
}

impl Pins {
    /// Holds a tree: of the base of a backup, or of an image.
    pub(crate) fn root(self: &Arc<Self>, shape: Shape, root: Ref) -> RootPin {
        let mut state = lock(&self.0);
        let number = state.next;
        state.next += 1;
        state.roots.insert(number, (shape, root));
        if state.since.is_some() {
            state.new_roots.push((shape, root));
        }
        RootPin { pins: self.clone(), number }
    }

    /// A sweep begins to mark: packs pinned from now on are remembered until [`end`](Self::end). Gives the trees held now.
    pub(crate) fn begin(&self) -> Vec<(Shape, Ref)> {
        let mut state = lock(&self.0);
        state.since = Some(state.packs.keys().copied().collect());
        state.new_roots.clear();
        if block::planted!("vault-sweep-ignores-running") {
            return Vec::new();
        }
        state.roots.values().copied().collect()
    }

    /// The trees held since the sweep began to mark, or since it asked last. When there are none it has marked everything: a tree that is
    /// held from now on is of a point that it found listed, or of one that was committed since out of what it knows to be held.
    pub(crate) fn new_roots(&self) -> Vec<(Shape, Ref)> {
        std::mem::take(&mut lock(&self.0).new_roots)
    }

    /// A sweep has marked. Those of `packs` that were not pinned at any time since it began are in quarantine when this returns.
    pub(crate) fn end(&self, mut packs: Vec<(Address, u64)>) -> Vec<(Address, u64)> {
        let mut state = lock(&self.0);
        let pinned = state.since.take().unwrap_or_default();
        state.new_roots.clear();
        if !block::planted!("vault-sweep-ignores-running") {
            packs.retain(|(pack, _)| !pinned.contains(pack) && !state.packs.contains_key(pack));
        }
        state.quarantined.extend(packs.iter().map(|(pack, _)| *pack));
        packs
    }

    /// Whether a pack was pinned since a sweep began to mark.
    pub(crate) fn is_pinned(&self, pack: &Address) -> bool {
        let state = lock(&self.0);
        state.packs.contains_key(pack) || state.since.as_ref().is_some_and(|since| since.contains(pack))
    }

    /// These packs are in quarantine, as the store says.
    pub(crate) fn quarantine(&self, packs: impl IntoIterator<Item = Address>) {
        lock(&self.0).quarantined.extend(packs);
    }

    /// These packs may be relied on again, or are gone.
    pub(crate) fn release<'a>(&self, packs: impl IntoIterator<Item = &'a Address>) {
        let mut state = lock(&self.0);
        for pack in packs {
            state.quarantined.remove(pack);
        }
    }
}
