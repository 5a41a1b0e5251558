//! A failed sync is final: the host may have dropped the pages it could not write, so a later success proves nothing.

use crate::{Error, Result};
use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Mutex, lock};
use block::{DiskId, Kind};

/// Whether a disk may still promise anything.
#[derive(Default)]
pub(crate) struct Poison {
    is_set: AtomicBool,
    why: Mutex<String>,
}

impl Poison {
    /// Ends the disk's promises. The first reason stays.
    pub(crate) fn set(&self, why: &dyn std::error::Error) {
        let mut reason = lock(&self.why);
        if !self.is_set.load(Ordering::SeqCst) {
            *reason = match why.source() {
                Some(source) => format!("{why}: {source}"),
                None => why.to_string(),
            };
            self.is_set.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn check(&self, disk: DiskId) -> Result<()> {
        if !self.is_set.load(Ordering::Acquire) || block::planted!("retry-after-failed-sync") {
            return Ok(());
        }
        Err(Error::Poisoned { disk, why: lock(&self.why).clone() })
    }
}

/// Whether the same request may succeed once the host has room or descriptors again.
pub(crate) fn heals(error: &block::Error) -> bool {
    matches!(error.kind(), Kind::NoSpace | Kind::Unavailable)
}

/// Whether a sync failed before it began, for want of a descriptor. A sync that began and failed is final, also one
/// that found the filesystem full.
pub(crate) fn never_began(error: &block::Error) -> bool {
    error.kind() == Kind::Unavailable
}
