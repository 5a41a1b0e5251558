//! How much disks may grow: one allowance for all disks of an instant tier, kept up to date by whoever looks at the host.
//!
//! Only what puts bytes where a layer had none takes from it: a write in place, a fold, a commit of the map never does, so
//! a tier that is used up still flushes, folds and deletes.

use block::sync::Arc;
use block::sync::atomic::{AtomicU64, Ordering};
use block::{Error, Kind, Result};

/// The allowance. Clones are the same one. A fresh one allows everything.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Bytes ever asked for, also by writes that then failed.
    taken: AtomicU64,
    /// How far that may go.
    limit: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { taken: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) }
    }
}

impl Budget {
    /// Bytes ever taken. Read it before the host is looked at: what is taken meanwhile may then count twice, but is never
    /// missed.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Lets so many bytes more be taken than were `taken` at some earlier moment.
    pub fn allow(&self, taken: u64, more: u64) {
        self.0.limit.store(taken.saturating_add(more), Ordering::SeqCst);
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// `NoSpace` if that is more than is allowed; nothing is taken then.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let take = |taken: u64| taken.checked_add(bytes).filter(|&taken| bytes == 0 || taken <= limit);
        match self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::refused(
                Kind::NoSpace,
                "the instant tier",
                format!("has no room for {bytes} bytes more: its budget or the host's filesystem is used up"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_is_allowed() {
        let budget = Budget::default();
        budget.take(1 << 40).expect("a fresh one allows everything");
        let taken = budget.taken();
        budget.allow(taken, 8192);
        budget.clone().take(4096).expect("half of it");
        assert_eq!(budget.take(8192).expect_err("too much").kind(), Kind::NoSpace);
        budget.take(4096).expect("the rest: what was refused took nothing");
        assert_eq!(budget.take(1).expect_err("nothing is left").kind(), Kind::NoSpace);
        budget.take(0).expect("nothing is always there");
        budget.allow(budget.taken(), 1);
        budget.take(1).expect("more was allowed");
    }
}
