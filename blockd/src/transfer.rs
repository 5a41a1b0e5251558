//! Transfers: a recovery point from the instant tier into a vault.
//!
//! The base of an increment is never recorded here. It is the newest point of this disk that the vault holds and that
//! the disk's history leads back to, looked up when the transfer begins: a job that failed leaves no point behind, so
//! nothing it did can become a base.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, disk_key};
use crate::points::{Held, Stored, Tiers};
use crate::vaults::{MAIN, NamedVault};
use block::{ByteCount, Delta, RangeSet, StateId};
use control::{BackupRequest, Job, Kind, TransferKind};
use layers::{Changes, Disk, Until};
use std::collections::HashSet;
use std::sync::Arc;
use vault::{Backup, Progress, Report, Vault, VaultPoint};

/// Shows a job how far a vault is, and tells the vault when the job was cancelled.
pub struct Follow<'a> {
    run: &'a Run,
    // bytes gone through before, and bytes to go through in all where that is more than the vault knows of
    before: u64,
    all: Option<u64>,
}

impl<'a> Follow<'a> {
    /// Of a job that is one piece of work.
    pub fn new(run: &'a Run) -> Self {
        Self { run, before: 0, all: None }
    }
}

impl Progress for Follow<'_> {
    fn at(&self, done: ByteCount, total: ByteCount) {
        self.run.update(|job| {
            (job.bytes_done, job.bytes_total) = (self.before + done.get(), self.all.unwrap_or(total.get()));
        });
    }

    fn cancelled(&self) -> bool {
        self.run.is_cancelled()
    }
}

impl Daemon {
    /// Recovery point now, of a disk or of all disks of a machine at one instant; then its transfer to a vault as a job.
    ///
    /// # Errors
    /// `NotFound` naming disk or vault, `Unavailable` if the vault is locked. No point is made then.
    pub fn backup(&self, request: &BackupRequest) -> Result<Job> {
        let named = self.tiers().vaults.get(request.vault.as_deref().unwrap_or(MAIN))?;
        named.vault()?;
        let points = self.tiers().snapshot(std::slice::from_ref(&request.item))?;
        let Some(first) = points.first() else { return Err(Error::not_found("recovery point")) };
        let new = NewJob {
            operation: "backup",
            item: request.item.clone(),
            keys: points.iter().map(|point| disk_key(point.disk)).collect(),
            point: Some(format!("{}@{}", request.item, first.epoch)),
            vault: Some(named.name.clone()),
            ..NewJob::default()
        };
        let (tiers, full) = (self.tiers().clone(), request.full);
        self.jobs().start(new, move |run| transfer(run, &tiers, &points, &named, full))
    }
}

/// One point on its way: what there is to copy, and what the vault builds on.
struct Planned<'a> {
    point: &'a Held,
    disk: &'a Arc<Disk>,
    base: Option<VaultPoint>,
    changed: RangeSet,
}

fn transfer(run: &Run, tiers: &Tiers, points: &[Held], named: &NamedVault, full: bool) -> Result<()> {
    let vault = named.vault()?;
    let planned = points.iter().map(|point| plan(run, vault, point, full)).collect::<Result<Vec<_>>>()?;
    let bases: Vec<String> = planned
        .iter()
        .filter_map(|one| Some(format!("{}@{}", one.point.item, one.base.as_ref()?.epoch)))
        .collect();
    let all = planned.iter().map(|one| one.changed.total().get()).sum();
    run.update(|job| {
        let is_incremental = bases.len() == planned.len();
        job.kind = Some(if is_incremental { TransferKind::Incremental } else { TransferKind::Full });
        job.base = (!bases.is_empty()).then(|| bases.join(", "));
        (job.bytes_changed, job.bytes_total) = (all, all);
    });
    let mut before = 0;
    for one in planned {
        let count = one.changed.total().get();
        let (stored, report) = send(vault, named, one, &Follow { run, before, all: Some(all) })?;
        account(run, &report);
        if let Err(error) = tiers.catalog.put_stored(&named.key(), &[stored]) {
            // the vault holds the point; the next start takes note of it
            tracing::warn!(vault = named.name, "{}", error.body().message);
        }
        before += count;
    }
    run.update(|job| job.bytes_done = job.bytes_total);
    Ok(())
}

fn plan<'a>(run: &Run, vault: &Vault, point: &'a Held, full: bool) -> Result<Planned<'a>> {
    let named = point.instant.as_ref().ok_or_else(|| Error::not_found(&point.name))?;
    let disk = named.disk()?;
    named.check_base_bytes()?;
    let found = if full { Base::Missing } else { base(vault, point)? };
    if let Base::Foreign(newest) = &found {
        let name = format!("{}@{}", point.item, newest.epoch);
        let note = format!(
            "{name} in the vault is no ancestor of this disk, which was rewound or copied: read whole"
        );
        tracing::warn!(point = point.name, "{note}");
        run.update(|job| job.note = Some(note));
    }
    let (base, changes) = match found {
        Base::Found(base, changes) => (Some(base), changes),
        Base::Missing | Base::Foreign(_) => {
            let doing = || format!("find the changes of {}", point.name);
            let all = disk.changes(None, Until::State(point.state));
            (None, all.map_err(|error| named.failed(doing(), error))?)
        }
    };
    Ok(Planned { point, disk, base, changed: changes.all() })
}

/// Moves one point. It is in the vault when this returns.
fn send(
    vault: &Vault,
    named: &NamedVault,
    one: Planned<'_>,
    progress: &Follow<'_>,
) -> Result<(Stored, Report)> {
    let Planned { point, disk, base, changed } = one;
    let doing = || format!("back up {} to vault {}", point.name, named.name);
    let source = disk.point_source(point.state).doing(doing)?;
    let report = vault
        .backup(&Backup {
            item: &point.item,
            disk: point.disk,
            state: point.state,
            base: base.map(|base| base.manifest),
            epoch: point.epoch,
            time: point.time,
            size: point.size,
            delta: Delta { source, changed },
            progress,
        })
        .doing(doing)?;
    Ok((Stored { manifest: report.manifest.to_string(), name: point.name.clone() }, report))
}

fn account(run: &Run, report: &Report) {
    run.update(|job| {
        job.bytes_read += report.bytes_read.get();
        job.chunks_new += report.chunks_new;
        job.chunks_reused += report.chunks_reused;
        job.bytes_stored += report.bytes_stored.get();
    });
}

/// What a transfer builds on.
enum Base {
    /// The newest point of the disk in the vault, which its history leads back to, and what changed since.
    Found(VaultPoint, Changes),
    /// The vault has none of the disk, or the history no longer reaches back to any.
    Missing,
    /// The vault has a point of the disk that is no ancestor and newer than any that is: the disk was rewound, or its
    /// state directory was copied and the copy goes its own way. What either recorded since proves nothing about the
    /// other: everything is read and compared by its hash.
    Foreign(VaultPoint),
}

fn base(vault: &Vault, point: &Held) -> Result<Base> {
    let disk = point.instant.as_ref().ok_or_else(|| Error::not_found(&point.name))?.disk()?;
    let mut known = vault.points().doing(|| format!("find the base of {}", point.name))?;
    known.retain(|known| known.disk == point.disk && known.state != point.state);
    let history: HashSet<StateId> = disk.history().into_iter().collect();
    let is_foreign = |known: &VaultPoint| !history.contains(&known.state);
    known.sort_by_key(|known| (known.epoch, !is_foreign(known)));
    // a history that forgot its beginning is no reason to suspect an old point
    let oldest = known.iter().find(|known| !is_foreign(known)).map(|known| known.epoch);
    let newest = known.pop();
    match newest {
        None => Ok(Base::Missing),
        Some(newest) if is_foreign(&newest) => match oldest.is_some() || newest.epoch >= point.epoch {
            true => Ok(Base::Foreign(newest)),
            false => Ok(Base::Missing),
        },
        Some(newest) => match disk.changes(Some(newest.state), Until::State(point.state)) {
            Ok(changes) => Ok(Base::Found(newest, changes)),
            Err(layers::Error::NotAnAncestor { .. }) => Ok(Base::Foreign(newest)),
            Err(error) => Err(Error::below(format!("find the changes of {}", point.name), error)),
        },
    }
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
            keys: vec![format!("check {name}")],
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        let tiers = self.tiers().clone();
        self.jobs().start(new, move |run| {
            let vault = named.vault()?;
            let before = vault.survey().doing(|| format!("list vault {}", named.name))?;
            let report = vault.check(&Follow::new(run)).doing(|| format!("check vault {}", named.name))?;
            let hurt = |point: &VaultPoint| report.hurt.iter().any(|hurt| hurt.manifest == point.manifest);
            let sound = before.points.iter().filter(|point| !hurt(point));
            let sound: Vec<String> = sound.map(|point| point.manifest.to_string()).collect();
            tiers.catalog.set_verified(&named.name, &sound)?;
            let lost = tiers.lost(&named)?;
            let found = show(&named.name, &report, &lost);
            let broken = (!found.ok).then_some(found.problems.len());
            run.update(|job| {
                job.bytes_read = report.bytes_read.get();
                job.check = Some(found);
            });
            match broken {
                None => Ok(()),
                Some(count) => {
                    let why = format!("{count} problem{} found", if count == 1 { "" } else { "s" });
                    Err(Error::said(Kind::Corrupt, format!("vault {}", named.name), why)
                        .with_help("the job's `check` names them; points it does not name restore"))
                }
            }
        })
    }
}

fn show(vault: &str, report: &vault::CheckReport, lost: &[Stored]) -> control::VaultCheck {
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
    let lost = lost.iter().map(|lost| control::Problem {
        what: format!("recovery point {}", lost.name),
        why: format!("it is lost: its blob {} is missing from the store", lost.manifest),
    });
    control::VaultCheck {
        vault: vault.to_owned(),
        ok: report.is_clean() && lost.len() == 0,
        points: report.points,
        packs: report.packs,
        chunks: report.entries,
        bytes_read: report.bytes_read.get(),
        bytes_unreferenced: report.unreferenced.map(ByteCount::get),
        problems: damage.chain(hurt).chain(lost).collect(),
    }
}
