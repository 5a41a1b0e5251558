//! What archiving costs and frees, before it is done.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use control::{ArchiveCost, PointCost};
use vault::Quiet;

impl Daemon {
    /// What archiving a point costs and frees; of a machine's point every member. Nothing is done.
    ///
    /// # Errors
    /// `NotFound` for point or archive; `Conflict` if no vault holds it; what its vault reports.
    pub fn archive_cost(&self, name: &str, to: &str) -> Result<ArchiveCost> {
        let archive = self.archive_named(to)?;
        let cost = |point| {
            let obstacle = self.tiers().may_be_archived(&point, &archive).err();
            let Some((vault, manifest)) = point.copies.first() else {
                return Err(obstacle.unwrap_or_else(|| Error::not_found(&point.name)));
            };
            let doing = || format!("look what {} needs of vault {}", point.name, vault.name);
            let share = vault.vault()?.share_of(manifest, &Quiet).doing(doing)?;
            Ok(PointCost {
                point: point.name.clone(),
                vault: vault.name.clone(),
                bytes_archived: share.needed.get(),
                bytes_freed: share.alone.get(),
                obstacle: obstacle.map(|error| error.body().message),
            })
        };
        let points = self.tiers().members(name)?.into_iter().map(cost).collect::<Result<_>>()?;
        Ok(ArchiveCost { archive: archive.name.clone(), points })
    }
}
