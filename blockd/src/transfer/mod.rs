//! Transfers: a recovery point from the instant tier into a vault.
//!
//! The base of an increment is never recorded here. It is the newest point of this disk that the vault holds and that
//! the disk's history leads back to, looked up when the transfer begins: a job that failed leaves no point behind, so
//! nothing it did can become a base.

mod plan;
#[cfg(test)]
mod tests;

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, disk_key};
use crate::points::{Held, Stored, Tiers};
use crate::vaults::{MAIN, NamedVault};
use block::{ByteCount, Delta};
use control::{BackupRequest, Job, Kind, TransferKind};
use plan::{Planned, plan_all, replan};
use std::sync::atomic::Ordering;
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
        let points = self.space().with_room(|| self.tiers().snapshot(std::slice::from_ref(&request.item)))?;
        let Some(first) = points.first() else { return Err(Error::not_found("recovery point")) };
        if let Some(seconds) = request.keep_seconds {
            self.tiers().keep(&points, seconds)?;
        }
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

fn transfer(run: &Run, tiers: &Tiers, points: &[Held], named: &NamedVault, full: bool) -> Result<()> {
    let planned = plan_all(run, named.vault()?, points, full)?;
    send_all(run, tiers, named, planned)
}

/// Moves every point. A base that was deleted before its turn came is replaced by what is there then.
fn send_all(run: &Run, tiers: &Tiers, named: &NamedVault, mut planned: Vec<Planned<'_>>) -> Result<()> {
    let vault = named.vault()?;
    let mut before = 0;
    for at in 0..planned.len() {
        let (stored, report) = loop {
            let all = announce(run, &planned);
            let one = &mut planned[at];
            if let Some(sent) = send(vault, named, one, &Follow { run, before, all: Some(all) })? {
                break sent;
            }
            *one = replan(run, vault, one)?;
        };
        account(run, &report);
        tiers.stored_count.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = tiers.catalog.put_stored(&named.key(), &[stored]) {
            // the vault holds the point; the next start takes note of it
            tracing::warn!(vault = named.name, "{}", error.body().message);
        }
        before += planned[at].bytes;
    }
    run.update(|job| job.bytes_done = job.bytes_total);
    Ok(())
}

/// Says in the job what is going to be done. Gives the bytes to go through.
fn announce(run: &Run, planned: &[Planned<'_>]) -> u64 {
    let bases: Vec<String> = planned.iter().filter_map(Planned::base_name).collect();
    let all = planned.iter().map(|one| one.bytes).sum();
    run.update(|job| {
        let is_incremental = bases.len() == planned.len();
        job.kind = Some(if is_incremental { TransferKind::Incremental } else { TransferKind::Full });
        job.base = (!bases.is_empty()).then(|| bases.join(", "));
        (job.bytes_changed, job.bytes_total) = (all, all);
    });
    all
}

/// Moves one point. It is in the vault when this returns, unless its base is there no more: then nothing was done.
fn send(
    vault: &Vault,
    named: &NamedVault,
    one: &mut Planned<'_>,
    progress: &Follow<'_>,
) -> Result<Option<(Stored, Report)>> {
    let point = one.point;
    let doing = || format!("back up {} to vault {}", point.name, named.name);
    let source = one.disk.point_source(point.state).doing(doing)?;
    let base = one.base.as_ref().map(|base| base.manifest);
    let sent = vault.backup(&Backup {
        item: &point.item,
        disk: point.disk,
        state: point.state,
        base,
        epoch: point.epoch,
        time: point.time,
        size: point.size,
        delta: Delta { source, changed: std::mem::take(&mut one.changed) },
        progress,
    });
    match sent {
        Err(vault::Error::NoPoint(gone)) if base == Some(gone) => Ok(None),
        sent => {
            let report = sent.doing(doing)?;
            Ok(Some((Stored { manifest: report.manifest.to_string(), name: point.name.clone() }, report)))
        }
    }
}

fn account(run: &Run, report: &Report) {
    run.update(|job| {
        job.bytes_read += report.bytes_read.get();
        job.chunks_new += report.chunks_new;
        job.chunks_reused += report.chunks_reused;
        job.bytes_stored += report.bytes_stored.get();
    });
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
            let is_hurt =
                |point: &&VaultPoint| report.hurt.iter().any(|hurt| hurt.manifest == point.manifest);
            let (hurt, sound): (Vec<_>, Vec<_>) = before.points.iter().partition(is_hurt);
            let ids = |points: Vec<&VaultPoint>| -> Vec<String> {
                points.iter().map(|point| point.manifest.to_string()).collect()
            };
            remember(run, &tiers, &named, &ids(sound), &ids(hurt))?;
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

/// Takes note of what a check found. That the host has no room for the note does not make the check fail.
fn remember(run: &Run, tiers: &Tiers, named: &NamedVault, sound: &[String], hurt: &[String]) -> Result<()> {
    match tiers.catalog.set_checked(&named.name, sound, hurt) {
        Err(error) if error.kind() == Kind::NoSpace => {
            let why = error.body().message;
            let note = format!("points are not marked as verified, since the host is full: {why}");
            tracing::warn!(vault = named.name, "{note}");
            run.update(|job| job.note = Some(note));
            Ok(())
        }
        done => done,
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
