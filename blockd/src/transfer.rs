//! Transfers: a recovery point from the instant tier into a vault.
//!
//! The base of an increment is never recorded here. It is the newest point of this disk that the vault holds and that
//! the disk's history leads back to, looked up when the transfer begins: a job that failed leaves no point behind, so
//! nothing it did can become a base.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run};
use crate::points::Held;
use crate::vaults::{MAIN, NamedVault};
use block::{ByteCount, Delta, RangeSet};
use control::{BackupRequest, Job, Kind, TransferKind};
use layers::{Changes, Until};
use std::sync::Arc;
use vault::{Backup, Progress, Vault, VaultPoint};

/// Shows a job how far a vault is, and tells the vault when the job was cancelled.
pub struct Follow<'a>(pub &'a Run);

impl Progress for Follow<'_> {
    fn at(&self, done: ByteCount, total: ByteCount) {
        self.0.update(|job| (job.bytes_done, job.bytes_total) = (done.get(), total.get()));
    }

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Daemon {
    /// Recovery point now, then its transfer to a vault as a job.
    ///
    /// # Errors
    /// `NotFound` naming disk or vault, `Unavailable` if the vault is locked. No point is made then.
    pub fn backup(&self, request: &BackupRequest) -> Result<Job> {
        let named = self.tiers().vaults.get(request.vault.as_deref().unwrap_or(MAIN))?;
        named.vault()?;
        let point = self.tiers().snapshot(std::slice::from_ref(&request.item))?;
        let point = point.into_iter().next().ok_or_else(|| Error::not_found("recovery point"))?;
        let new = NewJob {
            operation: "backup",
            item: request.item.clone(),
            key: format!("disk {}", point.disk),
            point: Some(point.name.clone()),
            vault: Some(named.name.clone()),
            target: None,
        };
        let full = request.full;
        self.jobs().start(new, move |run| transfer(run, &point, &named, full))
    }
}

fn transfer(run: &Run, point: &Held, named: &NamedVault, full: bool) -> Result<()> {
    let doing = || format!("back up {} to vault {}", point.name, named.name);
    let vault = named.vault()?;
    let disk = point.instant.as_ref().ok_or_else(|| Error::not_found(&point.name))?.disk()?;
    let (base, changes) = match full {
        true => (None, None),
        false => base(vault, point)?.map_or((None, None), |(base, changes)| (Some(base), Some(changes))),
    };
    let changed: RangeSet = match changes {
        Some(changes) => changes.all(),
        None => disk.changes(None, Until::State(point.state)).doing(doing)?.all(),
    };
    run.update(|job| {
        job.kind = Some(if base.is_some() { TransferKind::Incremental } else { TransferKind::Full });
        job.base = base.as_ref().map(|base| format!("{}@{}", point.item, base.epoch));
        job.bytes_changed = changed.total().get();
        job.bytes_total = job.bytes_changed;
    });
    let report = vault
        .backup(&Backup {
            item: &point.item,
            disk: point.disk,
            state: point.state,
            base: base.map(|base| base.manifest),
            epoch: point.epoch,
            time: point.time,
            size: point.size,
            delta: Delta { source: disk.point_source(point.state).doing(doing)?, changed },
            progress: &Follow(run),
        })
        .doing(doing)?;
    run.update(|job| {
        job.bytes_changed = report.bytes_changed.get();
        job.bytes_read = report.bytes_read.get();
        job.chunks_new = report.chunks_new;
        job.chunks_reused = report.chunks_reused;
        job.bytes_stored = report.bytes_stored.get();
        job.bytes_done = job.bytes_total;
    });
    Ok(())
}

/// The newest point in the vault that the disk's history leads back to, and what changed since.
fn base(vault: &Arc<Vault>, point: &Held) -> Result<Option<(VaultPoint, Changes)>> {
    let disk = point.instant.as_ref().ok_or_else(|| Error::not_found(&point.name))?.disk()?;
    let mut known = vault.points().doing(|| format!("find the base of {}", point.name))?;
    known.retain(|known| known.disk == point.disk && known.epoch < point.epoch && known.size == point.size);
    known.sort_by_key(|known| known.epoch);
    while let Some(candidate) = known.pop() {
        match disk.changes(Some(candidate.state), Until::State(point.state)) {
            Ok(changes) => return Ok(Some((candidate, changes))),
            Err(layers::Error::NotAnAncestor { .. } | layers::Error::NoSuchPoint { .. }) => {}
            Err(error) => return Err(Error::below(format!("find the changes of {}", point.name), error)),
        }
    }
    Ok(None)
}

impl Daemon {
    /// Reads and verifies everything in a vault, as a job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked.
    pub fn check_vault(&self, name: &str) -> Result<Job> {
        let named = self.tiers().vaults.get(name)?;
        named.vault()?;
        let new = NewJob {
            operation: "check",
            item: name.to_owned(),
            key: format!("check {name}"),
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        let tiers = self.tiers().clone();
        self.jobs().start(new, move |run| {
            let vault = named.vault()?;
            let before = vault.survey().doing(|| format!("list vault {}", named.name))?;
            let report = vault.check(&Follow(run)).doing(|| format!("check vault {}", named.name))?;
            let hurt = |point: &VaultPoint| report.hurt.iter().any(|hurt| hurt.manifest == point.manifest);
            let sound = before.points.iter().filter(|point| !hurt(point));
            let sound: Vec<String> = sound.map(|point| point.manifest.to_string()).collect();
            tiers.catalog.set_verified(&named.name, &sound)?;
            let found = show(&named.name, &report);
            let broken = (!found.ok).then_some(found.problems.len());
            run.update(|job| {
                job.bytes_read = report.bytes_read.get();
                job.check = Some(found);
            });
            match broken {
                None => Ok(()),
                Some(count) => {
                    let why = format!("{count} problems found, see the job's `check`");
                    Err(Error::said(Kind::Corrupt, format!("vault {}", named.name), why))
                }
            }
        })
    }
}

fn show(vault: &str, report: &vault::CheckReport) -> control::VaultCheck {
    let damage = report.damage.iter().map(|damage| control::Problem {
        what: damage.blob.clone(),
        why: format!("damaged in its {}: {}", damage.place, damage.why),
    });
    let hurt = report.hurt.iter().map(|hurt| control::Problem {
        what: format!(
            "recovery point {} of {}",
            hurt.manifest,
            hurt.item.as_deref().unwrap_or("an unknown item")
        ),
        why: hurt.why.clone(),
    });
    control::VaultCheck {
        vault: vault.to_owned(),
        ok: report.is_clean(),
        points: report.points,
        packs: report.packs,
        chunks: report.entries,
        bytes_read: report.bytes_read.get(),
        problems: damage.chain(hurt).collect(),
    }
}
