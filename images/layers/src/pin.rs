//! Pins: states that stay readable although their recovery point is deleted, because something stands on them.
//!
//! A pin is durable: it is a flag of the state's seal in the chain, so it needs nobody to repeat it after a crash. It
//! does not count: whoever lets several disks stand on one state unpins when the last is gone. The layer of a pinned
//! state is never written and never folded away; see `docs/consolidation.md`.

use crate::chain::{Chain, EpochRecord};
use crate::disk::Disk;
use crate::{Error, Result};
use block::StateId;
use block::sync::lock;

impl Disk {
    /// Keeps a state readable ([`point_source`](Self::point_source)) until [`unpin`](Self::unpin), also when its recovery
    /// point is deleted meanwhile. Durable when this returns; pinning twice is pinning once.
    ///
    /// # Errors
    /// `NoSuchPoint` if the state is neither a recovery point nor pinned; what the host reports, then the state is not pinned.
    pub fn pin(&self, state: StateId) -> Result<()> {
        self.set_pinned(state, true)
    }

    /// Takes a pin back. A state without a recovery point then goes the way of a deleted point.
    ///
    /// # Errors
    /// As [`pin`](Self::pin); a point that is not pinned is left as it is.
    pub fn unpin(&self, state: StateId) -> Result<()> {
        self.set_pinned(state, false)
    }

    /// The pinned states, oldest first: whoever opens the disk compares them with what still stands on them.
    pub fn pinned(&self) -> Vec<StateId> {
        let roots = lock(&self.roots);
        roots.chain.epochs.iter().filter(|epoch| epoch.is_pinned).map(|epoch| epoch.state).collect()
    }

    /// The states that open sources show now.
    pub fn read(&self) -> Vec<StateId> {
        self.sources.states()
    }

    fn set_pinned(&self, state: StateId, is_pinned: bool) -> Result<()> {
        self.check()?;
        let mut roots = lock(&self.roots);
        let record = roots.chain.readable(state).ok_or(Error::NoSuchPoint { disk: self.id, state })?;
        if record.is_pinned == is_pinned {
            return Ok(());
        }
        let mut next = roots.chain.clone();
        let records = next.epochs.iter_mut().filter(|epoch| epoch.state == state);
        records.for_each(|epoch| {
            epoch.is_pinned = is_pinned;
            epoch.is_deleted = !epoch.is_point;
        });
        self.commit_chain(&mut roots, next)
    }
}

impl Chain {
    /// The seal of a state that can be read: it is a recovery point, or pinned.
    pub(crate) fn readable(&self, state: StateId) -> Option<&EpochRecord> {
        self.epochs.iter().find(|epoch| epoch.state == state && (epoch.is_point || epoch.is_pinned))
    }
}
