//! Damage that reads of recovery points in a vault have met since the daemon started. A check finds all.

use super::NamedVault;
use crate::catalog::Catalog;
use crate::error::{Doing, Result};
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Failure, Kind, Visit};
use std::collections::HashSet;
use std::sync::Arc;
use vault::ManifestId;

/// The points whose copy a read found damaged: at most all there are.
#[derive(Default)]
pub(super) struct Met(Mutex<HashSet<ManifestId>>);

impl NamedVault {
    /// A recovery point's content. What a read finds damaged is remembered.
    ///
    /// # Errors
    /// What the vault reports.
    pub fn image(&self, point: &ManifestId, doing: impl FnOnce() -> String) -> Result<Arc<dyn BlockSource>> {
        let image = self.vault()?.image(point).inspect_err(|error| self.witness(point, error.kind()));
        Ok(Arc::new(Witness { image: image.doing(doing)?, point: *point, met: self.met.clone() }))
    }

    /// Takes note of how a use of a point's copy failed.
    pub fn witness(&self, point: &ManifestId, kind: Kind) {
        self.met.note(point, kind);
    }

    /// Whether a read found this copy damaged.
    pub fn has_met_damage(&self, point: &ManifestId) -> bool {
        lock(&self.met.0).contains(point)
    }

    /// Has the catalog remember which packs are known to be damaged, if those are others than it has: no backup may rely on them, also
    /// after a restart.
    ///
    /// # Errors
    /// What the host reports.
    pub fn keep_damaged(&self, catalog: &Catalog) -> Result<()> {
        let Ok(opened) = self.opened() else { return Ok(()) };
        let mut kept = lock(&opened.kept);
        let packs = opened.vault.damaged_packs();
        if *kept != packs {
            catalog.set_damaged(&self.key(), &packs)?;
            *kept = packs;
        }
        Ok(())
    }

    /// Forgets what reads have met, as a check has looked at everything.
    pub fn forget_met(&self) {
        lock(&self.met.0).clear();
    }
}

impl Met {
    fn note(&self, point: &ManifestId, kind: Kind) {
        if kind == Kind::Corrupt {
            lock(&self.0).insert(*point);
        }
    }
}

struct Witness {
    image: Arc<dyn BlockSource>,
    point: ManifestId,
    met: Arc<Met>,
}

impl BlockSource for Witness {
    fn size(&self) -> ByteCount {
        self.image.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.image.read_at(offset, buf).inspect_err(|error| self.met.note(&self.point, error.kind()))
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.image.extents(range, visit).inspect_err(|error| self.met.note(&self.point, error.kind()))
    }

    fn stored(&self, range: ByteRange) -> Option<block::Stored> {
        self.image.stored(range)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.image.is_near(range)
    }
}
