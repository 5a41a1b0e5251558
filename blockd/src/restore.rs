//! Restores: a recovery point as a new disk, from whichever tier holds it.
//!
//! The disk exists under its name only when every byte is on it and durable; what failed or was cut off leaves
//! nothing.

use crate::daemon::Daemon;
use crate::error::{Doing, Result};
use crate::jobs::{NewJob, disk_key};
use crate::space::Patient;
use block::{BlockDevice, Walked};
use control::{Job, RestoreRequest};

impl Daemon {
    /// A recovery point as a new disk, as a job.
    ///
    /// # Errors
    /// `NotFound` naming the point, `Conflict` if the disk's name is taken.
    pub fn restore(&self, request: &RestoreRequest) -> Result<Job> {
        let point = self.tiers().find(&request.point)?;
        // for the answer's sake; the job reserves the name itself
        drop(self.tiers().disks.reserve(&request.to)?);
        let id = self.tiers().disks.fresh_id()?;
        let new = NewJob {
            operation: "restore",
            item: point.item.clone(),
            keys: vec![format!("new disk {}", request.to)],
            reads: point.instant.iter().map(|named| disk_key(named.id)).collect(),
            point: Some(point.name.clone()),
            vault: None,
            target: Some(request.to.clone()),
            target_id: Some(id.to_string()),
        };
        let (tiers, to) = (self.tiers().clone(), request.to.clone());
        let space = self.space().clone();
        self.jobs().start(new, move |run| {
            let source = point.source()?;
            let from = if point.instant.is_some() { None } else { point.copies.first() };
            run.update(|job| job.vault = from.map(|(vault, _)| vault.name.clone()));
            let doing = || format!("restore {} to {to}", point.name);
            let made = tiers.disks.create(id, &to, point.size, |disk| {
                run.update(|job| job.bytes_total = source.size().get());
                let mut pace = |walked: Walked| {
                    run.update(|job| (job.bytes_done, job.bytes_read) = (walked.done, walked.read));
                    run.go_on().map_err(block::Error::other)
                };
                let target = Patient { disk: &**disk, space: &space };
                block::copy(&*source, &target, &mut pace).doing(doing)?;
                disk.flush().doing(doing)
            });
            match &point.instant {
                // whatever its layers say then, this is why
                Some(named) if made.is_err() && named.is_deleted() => Err(named.deleted_while(doing())),
                _ => made.map(|_| ()),
            }
        })
    }
}
