//! The archive tier: points that leave their vaults for an archive, and come back for a time. `docs/archive.md` has the rules.

mod back;
mod cost;

pub use back::end_rehydrations;

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::gate::{self, stamp};
use crate::jobs::{NewJob, Run, Urgency};
use crate::marks::Mark;
use crate::names::PointName;
use crate::points::{By, Held, Stored, Tiers};
use crate::restore::compare;
use crate::transfer::Follow;
use crate::vaults::NamedVault;
use block::{BlockSource, Delta, DiskId, RangeSet};
use control::{ArchivePoint, Job, Kind};
use std::sync::Arc;
use vault::{Backup, ManifestId};

/// The key of all that moves points of a disk to archives and back.
fn key(disk: DiskId) -> String {
    format!("archive {disk}")
}

impl Daemon {
    /// Moves a point from its vaults to an archive, as a job; of a machine's point every member.
    ///
    /// # Errors
    /// `NotFound` naming point or archive; `Refused` by the gate of a vault; `Conflict` if no vault holds it.
    pub fn archive(&self, name: &str, request: &ArchivePoint) -> Result<Job> {
        let points = self.tiers().members(name)?;
        // what a name such as web@latest means may be another point when the job goes on after a restart
        let resolved = match points.as_slice() {
            [point] => point.name.clone(),
            [first, ..] => format!("{}@{}", PointName::parse(name)?.item, first.epoch),
            [] => name.to_owned(),
        };
        self.archive_points(points, &resolved, &request.to, Urgency::ByHand)
    }

    /// Whether points of this disk are on their way to an archive or back.
    pub fn is_archiving(&self, disk: DiskId) -> bool {
        self.jobs().is_busy(&key(disk))
    }

    /// Moves points to an archive, as one job.
    ///
    /// # Errors
    /// As [`archive`](Self::archive).
    pub fn archive_points(
        &self,
        mut points: Vec<Held>,
        what: &str,
        to: &str,
        urgency: Urgency,
    ) -> Result<Job> {
        let archive = self.archive_named(to)?;
        archive.vault()?;
        if points.len() > 1 {
            // members that an earlier attempt has moved
            points.retain(|point| !point.copies.is_empty() || point.stored_in(&archive.name).is_none());
        }
        points.iter().try_for_each(|point| self.tiers().may_be_archived(point, &archive))?;
        let Some(first) = points.first() else { return Err(Error::not_found(format!("point {what}"))) };
        let mut keys: Vec<String> = points.iter().map(|point| key(point.disk)).collect();
        keys.sort();
        keys.dedup();
        let new = NewJob {
            operation: "archive",
            item: first.item.clone(),
            keys,
            point: Some(what.to_owned()),
            vault: Some(archive.name.clone()),
            urgency,
            ..NewJob::default()
        };
        let tiers = self.tiers().clone();
        self.jobs().start(new, move |run| {
            points.iter().try_for_each(|point| {
                run.go_on()?;
                to_archive(run, &tiers, point, &archive)
            })
        })
    }

    /// The archive of this name.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is a vault.
    pub(crate) fn archive_named(&self, name: &str) -> Result<Arc<NamedVault>> {
        let named = self.tiers().vaults.get(name)?;
        if named.archive {
            return Ok(named);
        }
        let why = "is a vault and no archive";
        Err(Error::said(Kind::Invalid, format!("archive {name}"), why)
            .with_help("`blockctl vault create NAME --store STORE --archive` makes one"))
    }
}

impl Tiers {
    /// Refuses what cannot leave its vaults now.
    fn may_be_archived(&self, point: &Held, archive: &NamedVault) -> Result<()> {
        if point.copies.is_empty() {
            let what = format!("archive {}", point.name);
            return Err(match point.stored_in(&archive.name) {
                Some(_) => Error::said(Kind::Conflict, what, format!("is in {} already", archive.name)),
                None => Error::said(Kind::Conflict, what, "no vault holds it")
                    .with_help(format!("`blockctl backup {}` makes a point that one does", point.item)),
            });
        }
        let now = stamp(self.disks.env().clock.now());
        gate::ask(&point.name, &self.vaults.marks().of(point.state), now)?;
        for (vault, _) in &point.copies {
            gate::ask_vault(&point.name, vault.terms(), self.vaults.clock(), point.time)?;
        }
        Ok(())
    }
}

/// Stores a point in the archive, proves that it is there, and only then takes it from its vaults.
fn to_archive(run: &Run, tiers: &Tiers, point: &Held, archive: &NamedVault) -> Result<()> {
    let doing = || format!("archive {} in {}", point.name, archive.name);
    let source = from_vault(point)?;
    // one that was deleted there is wanted again
    let wanted = |mark: &mut Mark| {
        mark.deleted.remove(&archive.key());
        Ok(())
    };
    tiers.vaults.marks().change(point.state, &point.name, wanted)?;
    let manifest = match known(archive, point)? {
        Some(manifest) => manifest,
        None => store(run, tiers, point, archive, source.clone())?,
    };
    let image = archive.image(&manifest, doing)?;
    compare(run, &*source, &*image).doing(doing)?;
    tiers.remember_stored_in(archive)?;
    let is_gone = tiers.vaults.marks().is_deleted_from(point.state, &archive.key());
    if is_gone || known(archive, point)? != Some(manifest) {
        let why = "it was deleted there while it was compared, and stays in its vault";
        return Err(Error::said(Kind::Conflict, doing(), why));
    }
    for (vault, _) in &point.copies {
        tiers.delete_from(point, vault, &By::Archive(archive.name.clone()))?;
    }
    tracing::info!(point = point.name, archive = archive.name, "archived");
    Ok(())
}

/// The copy that leaves: not the instant tier's, since it is the vault's that is to be proven equal.
fn from_vault(point: &Held) -> Result<Arc<dyn BlockSource>> {
    let mut copy = point.clone();
    copy.instant = None;
    copy.source()
}

/// The copy of a point that a vault has already.
fn known(vault: &NamedVault, point: &Held) -> Result<Option<ManifestId>> {
    let points = vault.vault()?.points().doing(|| format!("vault {}", vault.name))?;
    let is_it = |known: &&vault::VaultPoint| (known.disk, known.state) == (point.disk, point.state);
    Ok(points.iter().find(is_it).map(|known| known.manifest))
}

/// Stores all of a point in a vault or an archive, as what it is.
fn store(
    run: &Run,
    tiers: &Tiers,
    point: &Held,
    into: &NamedVault,
    source: Arc<dyn BlockSource>,
) -> Result<ManifestId> {
    let report = into
        .vault()?
        .backup(&Backup {
            item: &point.item,
            disk: point.disk,
            state: point.state,
            base: None,
            epoch: point.epoch,
            time: point.time,
            size: point.size,
            delta: Delta { source: run.paced(source), changed: RangeSet::whole(point.size) },
            progress: &Follow::new(run),
        })
        .doing(|| format!("store {} in {}", point.name, into.name))?;
    run.update(|job| {
        job.bytes_changed += report.bytes_changed.get();
        job.bytes_read += report.bytes_read.get();
        job.chunks_new += report.chunks_new;
        job.chunks_reused += report.chunks_reused;
        job.bytes_stored += report.bytes_stored.get();
    });
    let stored = Stored { manifest: report.manifest.to_string(), name: point.name.clone() };
    tiers.catalog.put_stored(&into.key(), &[stored])?;
    Ok(report.manifest)
}
