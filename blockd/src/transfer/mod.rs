//! Transfers: a recovery point from the instant tier into a vault.
//!
//! The base of an increment is never recorded here. It is the newest point of this disk that the vault holds and that
//! the disk's history leads back to, looked up when the transfer begins: a job that failed leaves no point behind, so
//! nothing it did can become a base.

mod plan;
#[cfg(test)]
mod tests;

use crate::audit;
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use crate::points::{Held, Stored, Tiers};
use crate::vaults::{MAIN, NamedVault};
use block::{ByteCount, Delta};
use control::{BackupRequest, Job, Kind, TransferKind};
pub use plan::AuditOfFull;
use plan::{Planned, Unusable, plan_all, replan};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vault::{Backup, ManifestId, Progress, Report, Vault};

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

/// Tells a vault when the job was cancelled. How far it is concerns nobody.
pub struct Unless<'a>(pub &'a Run);

impl Progress for Unless<'_> {
    fn at(&self, _done: ByteCount, _total: ByteCount) {}

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Daemon {
    /// Recovery point now, of a disk or of all disks of a machine at one instant; then its transfer to a vault as a job.
    ///
    /// # Errors
    /// `NotFound` naming disk or vault, `Unavailable` if the vault is locked. No point is made then.
    pub fn backup(&self, request: &BackupRequest) -> Result<Job> {
        self.backup_when(request, Urgency::ByHand)
    }

    /// The same, as urgent as this.
    ///
    /// # Errors
    /// As [`backup`](Self::backup).
    pub fn backup_when(&self, request: &BackupRequest, urgency: Urgency) -> Result<Job> {
        let named = self.tiers().vaults.get(request.vault.as_deref().unwrap_or(MAIN))?;
        named.vault()?;
        if named.archive {
            let why = format!("vault {} is an archive, to which points come from vaults", named.name);
            return Err(Error::said(Kind::Invalid, format!("back up {}", request.item), why)
                .with_help("back up to a vault; `blockctl point archive` moves the point"));
        }
        let until = request.keep_seconds.map(|seconds| self.tiers().keep_until(seconds)).transpose()?;
        let points = self.take_point(std::slice::from_ref(&request.item), request.require)?;
        let Some(first) = points.first() else { return Err(Error::not_found("recovery point")) };
        if let Some(until) = until {
            self.tiers().keep(&points, until)?;
        }
        let point = format!("{}@{}", request.item, first.epoch);
        self.send_points(points, (&request.item, &point), named, request.full, urgency)
    }

    /// Moves points of an item, together called `point`, to a vault, as a job.
    ///
    /// # Errors
    /// As [`Jobs::start`](crate::jobs::Jobs::start).
    pub(crate) fn send_points(
        &self,
        points: Vec<Held>,
        (item, point): (&str, &str),
        named: Arc<NamedVault>,
        full: bool,
        urgency: Urgency,
    ) -> Result<Job> {
        let new = NewJob {
            operation: "backup",
            item: item.to_owned(),
            keys: points.iter().map(|point| disk_key(point.disk)).collect(),
            point: Some(point.to_owned()),
            vault: Some(named.name.clone()),
            urgency,
            ..NewJob::default()
        };
        let tiers = self.tiers().clone();
        self.jobs().start(new, move |run| transfer(run, &tiers, &points, &named, full))
    }
}

fn transfer(run: &Run, tiers: &Tiers, points: &[Held], named: &NamedVault, full: bool) -> Result<()> {
    let planned = plan_all(run, tiers, named, points, full)?;
    send_all(run, tiers, named, planned)
}

/// Moves every point. A base that was deleted before its turn came, or turns out to be damaged, is replaced by what is there
/// then.
fn send_all(run: &Run, tiers: &Tiers, named: &NamedVault, mut planned: Vec<Planned<'_>>) -> Result<()> {
    let vault = named.vault()?;
    let mut before = 0;
    for at in 0..planned.len() {
        let (stored, report) = loop {
            let all = announce(run, &planned);
            let one = &mut planned[at];
            match send(vault, named, one, &Follow { run, before, all: Some(all) })? {
                Sent::Done(stored, report) => break (stored, report),
                Sent::WithoutBase(why) => *one = replan(run, tiers, named, one, why)?,
            }
        };
        account(run, &report);
        tiers.stored_count.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = tiers.catalog.put_stored(&named.key(), &[stored]) {
            // the vault holds the point; the next start takes note of it
            tracing::warn!(vault = named.name, "{}", error.body().message);
        }
        match tiers.look_at_new(planned[at].point, named) {
            Ok(Some(why)) => run.update(|job| {
                let suspect = format!("{} is suspect: {why}", planned[at].point.name);
                job.note = Some(job.note.take().map_or(suspect.clone(), |note| format!("{note}; {suspect}")));
            }),
            Ok(None) => {}
            // the point is stored either way
            Err(error) => tracing::warn!(vault = named.name, "{}", error.body().message),
        }
        before += planned[at].bytes;
        audit_one(run, tiers, named, &planned[at], report.manifest)?;
    }
    run.update(|job| job.bytes_done = job.bytes_total);
    Ok(())
}

/// Holds what change tracking called unchanged against the vault.
fn audit_one(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    one: &Planned<'_>,
    copy: ManifestId,
) -> Result<()> {
    match (&one.base, &one.audit) {
        (Some(_), _) => audit::of_increment(run, tiers, named, one.point, one.disk, copy),
        (None, Some(what)) => audit::of_full(run, tiers, named, one.point, one.disk, what),
        (None, None) => Ok(()),
    }
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

/// How moving one point ended.
enum Sent {
    /// It is in the vault.
    Done(Stored, Report),
    /// Nothing can be built on its base. Nothing was stored.
    WithoutBase(Unusable),
}

/// Moves one point. It is in the vault when this returns, unless its base is of no use.
fn send(vault: &Vault, named: &NamedVault, one: &mut Planned<'_>, progress: &Follow<'_>) -> Result<Sent> {
    let point = one.point;
    let doing = || format!("back up {} to vault {}", point.name, named.name);
    let source = progress.run.paced(one.disk.point_source(point.state).doing(doing)?);
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
    match (base, sent) {
        (Some(base), Err(vault::Error::NoPoint(gone))) if base == gone => {
            Ok(Sent::WithoutBase(Unusable::Deleted))
        }
        // not the disk's own damage: of the vault, only what the base is made of is read
        (Some(base), Err(error @ (vault::Error::Damaged { .. } | vault::Error::Missing { .. }))) => {
            named.witness(&base, block::Kind::Corrupt);
            tracing::warn!(vault = named.name, point = point.name, "its base is damaged: {error}");
            Ok(Sent::WithoutBase(Unusable::Damaged))
        }
        (_, sent) => {
            let report = sent.doing(doing)?;
            let stored = Stored { manifest: report.manifest.to_string(), name: point.name.clone() };
            Ok(Sent::Done(stored, report))
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
