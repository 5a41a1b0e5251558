//! Packs that a check or a read found damaged: no backup relies on them until a check finds them right again.
//!
//! A whole pack is distrusted for one bad entry: what rotted once lies on a medium that rots, and a pack costs 16 MiB to store anew.

use std::collections::BTreeSet;

use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Mutex, lock};

use crate::Error;
use crate::name::{Address, Shelf};

/// Shared by everything that reads or writes a vault.
#[derive(Default)]
pub(crate) struct Distrust {
    packs: Mutex<BTreeSet<Address>>,
    // so that the usual case, none, takes no lock
    any: AtomicBool,
}

impl Distrust {
    /// The packs of these names; others are passed over.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let packs: BTreeSet<Address> =
            names.into_iter().filter_map(|name| Address::parse(Shelf::Packs, name)).collect();
        Self { any: AtomicBool::new(!packs.is_empty()), packs: Mutex::new(packs) }
    }

    pub(crate) fn has(&self, pack: &Address) -> bool {
        self.any.load(Ordering::Acquire)
            && !block::planted!("vault-damage-reused")
            && lock(&self.packs).contains(pack)
    }

    /// Takes note of a pack that an error says is damaged. One that is missing may have been swept, and nobody can rely on it.
    pub(crate) fn witness(&self, error: &Error) {
        if let Error::Damaged { blob, .. } = error
            && let Some(pack) = Address::parse(Shelf::Packs, blob)
        {
            self.add(pack);
        }
    }

    pub(crate) fn add(&self, pack: Address) {
        let mut packs = lock(&self.packs);
        packs.insert(pack);
        self.any.store(true, Ordering::Release);
    }

    /// A pack was read whole and found right, or is gone.
    pub(crate) fn remove(&self, pack: &Address) {
        let mut packs = lock(&self.packs);
        packs.remove(pack);
        self.any.store(!packs.is_empty(), Ordering::Release);
    }

    /// All, ascending.
    pub(crate) fn all(&self) -> Vec<Address> {
        lock(&self.packs).iter().copied().collect()
    }

    /// The names of all, ascending.
    pub(crate) fn names(&self) -> Vec<String> {
        self.all().iter().map(|pack| pack.name(Shelf::Packs)).collect()
    }
}
