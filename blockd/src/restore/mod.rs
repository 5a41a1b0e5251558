//! Restores: a recovery point as a new disk, or in the place of what a disk holds, from whichever tiers hold it.
//!
//! A new disk exists under its name only when every byte is on it and durable; what failed leaves nothing, and what the end of the daemon
//! cut off goes on with what is there. A disk whose content is replaced keeps everybody out until all of it is there, over crashes too.

mod pieces;
mod preflight;
mod replace;
mod whence;

use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::disk_file::RestoreRecord;
use crate::disks::{Named, Restoring};
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use crate::points::{Held, Tiers};
use crate::space::{Patient, Space};
use block::{BlockDevice, BlockSource, ByteOffset, ByteRange, DiskId, ExtentKind};
use control::{Job, Kind, RestoreRequest, Restored};
use layers::Disk;
use pieces::{Pieces, in_parallel};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use whence::Whence;

impl Daemon {
    /// A recovery point as a new disk, or in the place of what a disk holds, as a job.
    ///
    /// # Errors
    /// `NotFound` naming the point, `Conflict` if the new disk's name is taken, `Refused` if a client uses the disk that
    /// is to be replaced; `Invalid` for a request that says neither or both.
    pub fn restore(&self, request: &RestoreRequest) -> Result<Job> {
        match &request.replace {
            Some(name) if request.to.is_empty() => self.replace(name, request),
            None if !request.to.is_empty() && !request.undo => self.restore_anew(request),
            _ => Err(Error::said(
                Kind::Invalid,
                "restore",
                "says neither where to, nor what is replaced, or both",
            )),
        }
    }

    fn restore_anew(&self, request: &RestoreRequest) -> Result<Job> {
        let point = self.tiers().find(&request.point)?;
        let id = self.tiers().disks.fresh_id()?;
        let record = RestoreRecord {
            disk: point.disk.to_string(),
            state: point.state.to_string(),
            name: point.name.clone(),
            verify: request.verify,
        };
        self.start_restoring(id, &request.to, point, record, false)
    }

    /// Takes up what the end of the last daemon cut short.
    pub(crate) fn resume_restores(&self) {
        for (id, file) in self.tiers().disks.take_unfinished() {
            let Some(record) = file.restored else { continue };
            let about = About::from([
                ("disk".to_owned(), file.name.as_str().into()),
                ("point".to_owned(), record.name.as_str().into()),
            ]);
            let said = Said { who: "blockd".to_owned(), action: "resume restore".to_owned(), about };
            let begun = self.audited(&said, || {
                let disk: DiskId = record.disk.parse().map_err(|_| Error::not_found("its disk"))?;
                let point = self.tiers().by_state(disk, &record.state)?;
                self.start_restoring(id, &file.name, point, record.clone(), true)
            });
            let error = match begun {
                Ok(job) => {
                    tracing::info!(
                        disk = file.name,
                        job = job.id,
                        "its restore from {} goes on",
                        record.name
                    );
                    continue;
                }
                Err(error) => error.body().message,
            };
            // a vault that cannot be looked at now may have the point
            let is_hopeless = self.tiers().held(None).1.is_empty();
            let then =
                if is_hopeless { "what there was of it is removed" } else { "the next start tries again" };
            tracing::error!(
                disk = file.name,
                "its restore from {} was cut short and cannot go on: {error}; {then}",
                record.name
            );
            if is_hopeless && let Err(error) = self.tiers().disks.give_up(id) {
                tracing::warn!(disk = file.name, "{}", error.body().message);
            }
        }
    }

    fn start_restoring(
        &self,
        id: DiskId,
        to: &str,
        point: Held,
        record: RestoreRecord,
        resumes: bool,
    ) -> Result<Job> {
        // for the answer's sake; the job reserves the name itself
        drop(self.tiers().disks.reserve(to)?);
        let new = NewJob {
            operation: "restore",
            urgency: Urgency::Restore,
            item: point.item.clone(),
            keys: vec![format!("new disk {to}")],
            reads: point.instant.iter().map(|named| disk_key(named.id)).collect(),
            point: Some(point.name.clone()),
            vault: None,
            target: Some(to.to_owned()),
            target_id: Some(id.to_string()),
        };
        let (tiers, to, space) = (self.tiers().clone(), to.to_owned(), self.space().clone());
        self.jobs().start(new, move |run| {
            let (verify, is_stopping) = (record.verify, || run.is_ending());
            let (name, size) = (to.as_str(), point.size);
            let restoring = Restoring { id, name, size, record, resumes, is_stopping: &is_stopping };
            made_of(run, &tiers, &space, (&point, name), verify, |fill| tiers.disks.restore(&restoring, fill))
        })
    }
}

/// Makes a disk of a recovery point. It is there, whole and durable, when this returns.
///
/// # Errors
/// What keeps the point from being read or the disk from being written. Nothing is left then.
pub(crate) fn restore_to(
    run: &Run,
    tiers: &Tiers,
    space: &Space,
    point: &Held,
    (id, to): (DiskId, &str),
    verify: bool,
) -> Result<()> {
    made_of(run, tiers, space, (point, to), verify, |fill| tiers.disks.create(id, to, point.size, fill))
}

type Fill<'a> = &'a dyn Fn(&Arc<Disk>) -> Result<()>;

fn made_of(
    run: &Run,
    tiers: &Tiers,
    space: &Space,
    (point, to): (&Held, &str),
    verify: bool,
    make: impl FnOnce(Fill<'_>) -> Result<Arc<Named>>,
) -> Result<()> {
    let source = Whence::of(tiers, point, run)?;
    let doing = || format!("restore {} to {to}", point.name);
    let made = make(&|disk| {
        fill(run, &source, &**disk, space).doing(doing)?;
        disk.flush().doing(doing)?;
        if verify { verify_restored(run, &source, &**disk).doing(doing) } else { Ok(()) }
    });
    match &point.instant {
        // whatever its layers say then, this is why
        Some(named) if made.is_err() && named.is_deleted() => Err(named.deleted_while(doing())),
        _ => made.map(|_| ()),
    }
}

fn account(run: &Run, change: impl FnOnce(&mut Restored)) {
    run.update(|job| change(job.restore.get_or_insert_default()));
}

/// Shows a job how far the pieces are behind what was done before, and ends them when it was cancelled.
fn at(run: &Run, before: u64, piece: ByteRange) -> block::Result<()> {
    run.update(|job| job.bytes_done = job.bytes_done.max(before + piece.end()));
    run.go_on().map_err(block::Error::other)
}

/// After so many bytes what was written is made durable: that much is brought again after a power cut.
const SETTLE_BYTES: u64 = 1 << 30;

/// Copies everything that is not zero to a device that holds zeros, or what an earlier attempt brought; several pieces at a time.
fn fill(run: &Run, from: &Whence, to: &dyn BlockDevice, space: &Space) -> block::Result<()> {
    let mut before = 0;
    run.update(|job| {
        // another disk of the same job
        before = job.bytes_total;
        job.bytes_done = before;
        job.bytes_total += from.size().get();
    });
    let (target, unsettled) = (Patient { disk: to, space }, AtomicU64::new(0));
    in_parallel(Pieces::of_data(from, ByteRange::whole(from.size())), &|piece, buf| {
        for part in absent(to, piece)? {
            let buf = &mut buf[..part.count().get() as usize];
            from.read_at(part.offset(), buf)?;
            let mut written = 0;
            block::runs_of(part.offset(), buf, &mut |at, bytes| {
                written += bytes.len() as u64;
                target.write_at(at, bytes)
            })?;
            from.was_read(run, part)?;
            account(run, |restore| restore.bytes_written += written);
            if unsettled.fetch_add(written, Ordering::Relaxed) + written >= SETTLE_BYTES {
                unsettled.store(0, Ordering::Relaxed);
                target.flush()?;
            }
        }
        at(run, before, piece)
    })
}

/// What of a piece a disk does not have yet.
fn absent(disk: &dyn BlockSource, piece: ByteRange) -> block::Result<Vec<ByteRange>> {
    let mut absent: Vec<ByteRange> = Vec::new();
    disk.extents(piece, &mut |extent| {
        match absent.last_mut() {
            _ if extent.kind == ExtentKind::Data => {}
            Some(last) if last.end() == extent.range.start() => {
                *last = ByteRange::between(last.start(), extent.range.end());
            }
            _ => absent.push(extent.range),
        }
        ControlFlow::Continue(())
    })?;
    Ok(absent)
}

/// Reads back what was written and holds it against the recovery point, everywhere.
fn verify_restored(run: &Run, from: &Whence, to: &dyn BlockSource) -> block::Result<()> {
    let verified = compare(run, from, to)?;
    account(run, |restore| restore.bytes_verified = verified);
    Ok(())
}

/// Reads two sources of one size and fails where they differ. Gives the bytes that were compared.
///
/// # Errors
/// `Corrupt` naming the first difference that was met; what a read reports; that the job was cancelled.
pub(crate) fn compare(run: &Run, from: &dyn BlockSource, to: &dyn BlockSource) -> block::Result<u64> {
    let whole = ByteRange::whole(from.size());
    let compared = AtomicU64::new(0);
    let check = |piece: ByteRange, buf: &mut [u8]| {
        let mut expected = vec![0; buf.len()];
        from.read_at(piece.offset(), &mut expected)?;
        to.read_at(piece.offset(), buf)?;
        if let Some(differs) = expected.iter().zip(&*buf).position(|(a, b)| a != b) {
            let at = piece.start() + differs as u64;
            return Err(block::Error::corrupt(
                "the copy",
                Some(at),
                "reads otherwise than the recovery point",
            ));
        }
        compared.fetch_add(piece.count().get(), Ordering::Relaxed);
        run.go_on().map_err(block::Error::other)
    };
    // where either of both has something: the rest is zeros on both sides
    in_parallel(Pieces::of_data(from, whole), &check)?;
    in_parallel(Pieces::of_data(to, whole), &check)?;
    Ok(compared.into_inner())
}

/// Reads a whole piece of zeros or data; for those who compare.
fn read(source: &dyn BlockSource, piece: ByteRange) -> block::Result<Vec<u8>> {
    let mut bytes = vec![0; piece.count().get() as usize];
    source.read_at(ByteOffset::new(piece.start()), &mut bytes)?;
    Ok(bytes)
}
