//! Runs: a disk that reads from a recovery point at once, and what becomes of it.

use crate::daemon::Daemon;
use crate::disk_file::RunRecord;
use crate::disks::Named;
use crate::error::{Error, Result};
use block::ByteCount;
use control::{DeleteDiskQuery, Disk, Kind, Run, RunRequest};
use std::sync::Arc;

impl Daemon {
    /// A writable disk that reads from a recovery point. Nothing is copied before it is there.
    ///
    /// # Errors
    /// `NotFound` naming the point, `Conflict` if the name is taken, `Unavailable` if the point's vault is locked.
    pub fn run(&self, request: &RunRequest) -> Result<Run> {
        let run = Some(RunRecord { hydrate: request.hydrate, promote: false });
        drop(self.tiers().disks.reserve(&request.name)?);
        let named = self.on_point(&request.name, None, &request.point, run)?;
        self.hydration().wake();
        tracing::info!(disk = request.name, point = request.point, "runs");
        self.show_run(&named)
    }

    /// A disk that stands on a recovery point, from the tier that answers first.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn on_point(
        &self,
        name: &str,
        size: Option<ByteCount>,
        point: &str,
        run: Option<RunRecord>,
    ) -> Result<Arc<Named>> {
        let held = self.tiers().find(point)?;
        let disks = &self.tiers().disks;
        let mut last = None;
        if let Some(parent) = &held.instant {
            match parent.disk() {
                Ok(_) => return disks.create_on_point(name, size, parent, held.state, &held.name, run),
                Err(error) => last = Some(error),
            }
        }
        for copy in &held.copies {
            match disks.create_on_stored(name, size, &held, copy, run) {
                // another vault may have it
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Corrupt | Kind::Io) => {
                    last = Some(error)
                }
                made => return made,
            }
        }
        Err(last.unwrap_or_else(|| held.unreadable()))
    }

    fn show_run(&self, named: &Named) -> Result<Run> {
        self.hydration().show(named, self.tiers().uri(&named.name)).ok_or_else(|| {
            Error::not_found(format!("run {}", named.name))
                .with_help("the disk stands on a file; `blockctl disk show` says which")
        })
    }

    /// Every disk that runs from a recovery point, by name.
    pub fn runs(&self) -> Vec<Run> {
        let all = self.tiers().disks.all();
        all.iter().filter(|named| named.run.is_some()).filter_map(|named| self.show_run(named).ok()).collect()
    }

    /// How far a disk is that runs, or ran, from a recovery point.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn run_status(&self, name: &str) -> Result<Run> {
        self.show_run(&*self.tiers().disks.get(name)?)
    }

    /// Asks a run to become independent as soon as it can.
    ///
    /// # Errors
    /// `NotFound` if it is none.
    pub fn promote(&self, name: &str) -> Result<Run> {
        let named = self.tiers().disks.promote(name)?;
        self.hydration().wake();
        tracing::info!(disk = name, "to become independent");
        self.show_run(&named)
    }

    /// Deletes a run with all that was written to it.
    ///
    /// # Errors
    /// `Conflict` while a client is connected, and for a disk that is independent.
    pub fn discard(&self, name: &str) -> Result<Disk> {
        let named = self.tiers().disks.get(name)?;
        if named.run.is_none() {
            let why = "is no run: it does not stand on a recovery point it was started from";
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), why)
                .with_help(format!("`blockctl disk delete {name}` deletes a disk")));
        }
        drop(named);
        self.delete_disk(name, &DeleteDiskQuery::default())
    }
}
