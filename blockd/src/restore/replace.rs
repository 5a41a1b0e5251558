//! A recovery point in the place of what a disk holds. What the disk has is taken from it where the change map proves it
//! to be as in the point; the rest is read from the nearest tier, compared, and written only where it differs. So the next
//! increment holds what changed and nothing else.
//!
//! 1. a recovery point of what is there now: the safety point;
//! 2. the disk's file says what is becoming of it, durably, and lets nobody in;
//! 3. the blocks;
//! 4. flush; the disk's file says that it is done, and lets clients in.
//!
//! Cut short after 2 it is taken up again when the daemon starts.

use super::pieces::{Pieces, each_in_parallel};
use super::whence::Whence;
use super::{account, at, read, verify_restored};
use crate::daemon::Daemon;
use crate::disk_file::ReplaceRecord;
use crate::disks::Named;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use crate::points::{Held, Tiers};
use crate::space::{Patient, Space};
use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteRange, DiskId, ExtentKind, Provision, RangeSet, StateId,
};
use control::{Job, Kind, RestoreRequest};
use layers::{Disk, Until};
use std::sync::Arc;

impl Daemon {
    /// Begins to put a recovery point in the place of what a disk holds, as a job.
    ///
    /// # Errors
    /// `NotFound` naming disk or point; `Refused` while a client is connected, unless it is to be cut off; `Conflict`
    /// while another one is under way.
    pub(super) fn replace(&self, name: &str, request: &RestoreRequest) -> Result<Job> {
        let tiers = self.tiers();
        let named = tiers.disks.get(name)?;
        named.disk()?;
        let former = tiers.disks.replaced(&named)?;
        let point = match (request.undo, former.as_ref()) {
            (false, _) => tiers.find(&request.point)?,
            (true, Some(former)) => tiers.by_state(named.id, &former.safety)?,
            (true, None) => {
                return Err(Error::not_found(format!("a replacement of disk {name} to undo"))
                    .with_help("`blockctl point list` shows what it can be restored to"));
            }
        };
        self.check_replaceable(&named, request.force_disconnect)?;
        // what is neither the one nor the other is no content anybody wants back
        let safety = match former.filter(|former| !former.done) {
            Some(former) => former.safety,
            None => self.safety_point(&named)?,
        };
        self.replace_by(&named, point, safety, (request.force_disconnect, request.verify))
    }

    /// Refuses to replace what a job or a client works with.
    pub(crate) fn check_replaceable(&self, named: &Named, force_disconnect: bool) -> Result<()> {
        if self.jobs().is_busy(&disk_key(named.id)) {
            let name = &named.name;
            return Err(Error::said(Kind::Conflict, format!("replace disk {name}"), "a job works with it")
                .with_help("`blockctl job list` shows it; wait for it or cancel it"));
        }
        // before a safety point is made that nobody needs
        if force_disconnect { Ok(()) } else { self.tiers().disks.check_left_alone(named) }
    }

    /// Puts a point in the place of what a disk holds, as a job, once `safety` is the state of a point of that.
    ///
    /// # Errors
    /// `Conflict` while another one is under way, or a client is connected.
    pub(crate) fn replace_by(
        &self,
        named: &Arc<Named>,
        point: Held,
        safety: String,
        (force_disconnect, verify): (bool, bool),
    ) -> Result<Job> {
        let record = ReplaceRecord {
            safety,
            disk: point.disk.to_string(),
            state: point.state.to_string(),
            name: point.name.clone(),
            done: false,
        };
        self.tiers().disks.begin_replacing(named, &record, force_disconnect)?;
        self.start_replacing(named, point, record, verify)
    }

    fn safety_point(&self, named: &Named) -> Result<String> {
        let made = self.space().with_room(|| self.tiers().snapshot(std::slice::from_ref(&named.name)))?;
        let point = made.first().ok_or_else(|| Error::not_found("the safety point"))?;
        Ok(point.state.to_string())
    }

    fn start_replacing(
        &self,
        named: &Arc<Named>,
        point: Held,
        record: ReplaceRecord,
        verify: bool,
    ) -> Result<Job> {
        let new = NewJob {
            operation: "restore",
            urgency: Urgency::Restore,
            item: named.name.clone(),
            keys: vec![disk_key(named.id)],
            reads: point
                .instant
                .iter()
                .filter(|other| other.id != named.id)
                .map(|other| disk_key(other.id))
                .collect(),
            point: Some(point.name.clone()),
            vault: None,
            target: Some(named.name.clone()),
            target_id: None,
        };
        let (tiers, space, named) = (self.tiers().clone(), self.space().clone(), named.clone());
        self.jobs().start(new, move |run| {
            let doing = || format!("restore {} in the place of disk {}", point.name, named.name);
            let from = Whence::of(&tiers, &point, run)?;
            let safety = tiers.by_state(named.id, &record.safety).ok().map(|safety| safety.name);
            account(run, |restore| restore.safety_point = safety);
            let disk = named.served()?;
            Replacement { run, from: &from, disk, space: &space }.make(&point).map_err(
                |error| match error {
                    layers::Error::Block(error) => Error::below(doing(), error),
                    error => named.failed(doing(), error),
                },
            )?;
            if verify {
                verify_restored(run, &from, &**disk).doing(doing)?;
            }
            tiers.disks.end_replacing(&named)
        })
    }

    /// Takes up what a crash cut short.
    pub(crate) fn resume_replacements(&self) {
        for named in self.tiers().disks.all() {
            let Some(record) = named.replacing() else { continue };
            let begun =
                record.disk.parse().map_err(|_| Error::not_found("its disk")).and_then(|disk: DiskId| {
                    let point = self.tiers().by_state(disk, &record.state)?;
                    self.start_replacing(&named, point, record.clone(), false)
                });
            match begun {
                Ok(job) => {
                    tracing::info!(disk = named.name, job = job.id, "goes on to become {}", record.name)
                }
                Err(error) => tracing::error!(
                    disk = named.name,
                    "was becoming {} and cannot: {}; it stays closed until it is restored anew, or that is undone",
                    record.name,
                    error.body().message
                ),
            }
        }
    }
}

impl Tiers {
    /// The point of a disk with this state, whatever it is called now.
    ///
    /// # Errors
    /// `NotFound` if no tier has it.
    pub(crate) fn by_state(&self, disk: DiskId, state: &str) -> Result<Held> {
        let missing = || Error::not_found(format!("the recovery point with state {state}"));
        let state: StateId = state.parse().map_err(|_| missing())?;
        let (held, _) = self.held(None);
        held.into_iter().find(|held| (held.disk, held.state) == (disk, state)).ok_or_else(missing)
    }
}

/// What of a disk is proven to be as in a recovery point, and what is not.
pub(super) fn differing(disk: &Disk, point: &Held) -> layers::Result<RangeSet> {
    match disk.changes(Some(point.state), Until::Live) {
        Ok(changes) => Ok(changes.all()),
        // no state of this disk, or nothing is known of what changed since: everything is compared
        Err(layers::Error::NotAnAncestor { .. }) => Ok(RangeSet::whole(point.size)),
        Err(error) if error.kind() == block::Kind::Corrupt => Ok(RangeSet::whole(point.size)),
        Err(error) => Err(error),
    }
}

struct Replacement<'a> {
    run: &'a Run,
    from: &'a Whence,
    disk: &'a Disk,
    space: &'a Space,
}

impl Replacement<'_> {
    fn make(&self, point: &Held) -> layers::Result<()> {
        if self.disk.size() != point.size {
            self.disk.resize(point.size)?;
        }
        let differing = differing(self.disk, point)?.clip(ByteRange::whole(point.size));
        let (size, differ) = (point.size.get(), differing.total().get());
        account(self.run, |restore| restore.bytes_unchanged = size - differ);
        self.run.update(|job| (job.bytes_total, job.bytes_changed) = (size, differ));
        let source = self.from;
        let pieces = differing.iter().flat_map(|range| Pieces::of_all(source, range));
        each_in_parallel(pieces, &|piece, kind, _| {
            match kind {
                ExtentKind::Data => self.put(piece)?,
                ExtentKind::Zero | ExtentKind::Hole => self.empty(piece)?,
            }
            at(self.run, 0, piece)
        })?;
        self.disk.flush()?;
        self.run.update(|job| job.bytes_done = size);
        Ok(())
    }

    /// Writes those blocks of a piece that differ.
    fn put(&self, piece: ByteRange) -> block::Result<()> {
        let (new, old) = (read(self.from, piece)?, read(self.disk, piece)?);
        self.from.was_read(self.run, piece)?;
        let target = Patient { disk: self.disk, space: self.space };
        let (mut start, mut written) = (0, 0);
        let end_of = |start: usize| {
            let within = (piece.start() + start as u64) % BLOCK_SIZE;
            new.len().min(start + (BLOCK_SIZE - within) as usize)
        };
        while start < new.len() {
            let mut end = end_of(start);
            let differs = new[start..end] != old[start..end];
            while end < new.len() && (new[end..end_of(end)] != old[end..end_of(end)]) == differs {
                end = end_of(end);
            }
            if differs {
                target.write_at(block::ByteOffset::new(piece.start() + start as u64), &new[start..end])?;
                written += (end - start) as u64;
            }
            start = end;
        }
        account(self.run, |restore| {
            restore.bytes_written += written;
            restore.bytes_equal += new.len() as u64 - written;
        });
        Ok(())
    }

    /// Makes those extents of a piece zero that are not.
    fn empty(&self, piece: ByteRange) -> block::Result<()> {
        let target = Patient { disk: self.disk, space: self.space };
        for data in Pieces::of_data(self.disk, piece) {
            target.zero(data?.0, Provision::Sparse)?;
        }
        Ok(())
    }
}
