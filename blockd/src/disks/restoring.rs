//! Disks that a restore makes: one that the end of the daemon cut short is kept without a name, and the restore goes on with
//! what is on it.

use super::making::New;
use super::{Disks, Named};
use crate::disk_file::{self, DiskFile, RestoreRecord, Stage, layers_dir};
use crate::error::Result;
use block::sync::lock;
use block::{ByteCount, DiskId};
use layers::Disk;
use std::sync::Arc;

/// A disk that is made of a recovery point.
pub struct Restoring<'a> {
    /// Its id.
    pub id: DiskId,
    /// What it is to be called.
    pub name: &'a str,
    /// The size of the point.
    pub size: ByteCount,
    /// The point.
    pub record: RestoreRecord,
    /// Whether an earlier daemon began to.
    pub resumes: bool,
    /// Whether the daemon ends: then what is there is kept for the next one.
    pub is_stopping: &'a dyn Fn() -> bool,
}

impl Disks {
    /// Makes a disk of a recovery point: `fill` brings what is not on it yet, before it exists under its name.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn restore(
        &self,
        restoring: &Restoring<'_>,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        let Restoring { id, name, size, .. } = *restoring;
        let stage = Stage::Disk;
        self.make(New { id, name, size, stage, based: None, run: None, restoring: Some(restoring) }, fill)
    }

    /// The layers of a disk that an earlier daemon began to fill; new ones, if it did not come so far.
    pub(super) fn take_up(&self, restoring: &Restoring<'_>) -> layers::Result<Arc<Disk>> {
        let dir = layers_dir(restoring.id);
        match Disk::open_on(&self.env, &dir, None) {
            Ok(disk) => Ok(disk),
            Err(error) => {
                tracing::info!(
                    disk = restoring.name,
                    "begins anew: what there was of it does not open: {error}"
                );
                match Disk::destroy(&self.env, &dir) {
                    Err(error) if error.kind() != block::Kind::NotFound => return Err(error),
                    _ => {}
                }
                Disk::create_on(&self.env, &dir, restoring.id, restoring.size, None)
            }
        }
    }

    /// Keeps what was being made at the end of the last daemon, if a restore made it. Whether it did.
    pub(super) fn keep_unfinished(&self, id: DiskId, stage: Stage) -> bool {
        if stage != Stage::Making {
            return false;
        }
        match disk_file::read_at(&*self.env.media, id, stage) {
            Ok(file) if file.restored.is_some() => {
                lock(&self.unfinished).push((id, file));
                true
            }
            _ => false,
        }
    }

    /// The disks whose restores the end of the last daemon cut short; once.
    pub fn take_unfinished(&self) -> Vec<(DiskId, DiskFile)> {
        std::mem::take(&mut lock(&self.unfinished))
    }

    /// Removes one that cannot be made to the end.
    ///
    /// # Errors
    /// What the host reports; the next start tries again.
    pub fn give_up(&self, id: DiskId) -> Result<()> {
        self.sweep(id, Stage::Making)
    }
}
