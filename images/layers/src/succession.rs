//! A published value that knows which of its predecessors somebody still uses.

use crate::gate::pause;
use block::sync::{Arc, Loaded, Mutex, Published, lock};
use std::sync::Weak;

/// A value that many threads read and one at a time replaces. Reading costs what [`Published`] costs.
pub(crate) struct Succession<T> {
    now: Published<T>,
    former: Mutex<Vec<Weak<T>>>,
}

impl<T> Succession<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self { now: Published::new(value), former: Mutex::default() }
    }

    /// The value now; in use until the guard is dropped.
    pub(crate) fn load(&self) -> Loaded<T> {
        self.now.load()
    }

    /// Replaces the value. Callers see to it that they are never two at a time.
    pub(crate) fn replace(&self, value: Arc<T>) {
        let old = Arc::downgrade(&*self.now.load());
        // a loaded value counts as a reference once it is no longer the published one
        self.now.store(value);
        let mut former = lock(&self.former);
        former.retain(|earlier| earlier.strong_count() > 0);
        former.push(old);
    }

    /// Returns once nobody uses any value that was replaced before this call. Callers hold no loaded value.
    pub(crate) fn wait_for_former(&self) {
        let former = lock(&self.former).clone();
        let mut turns = 0;
        while former.iter().any(|earlier| earlier.strong_count() > 0) {
            turns += 1;
            pause(turns);
        }
    }
}
