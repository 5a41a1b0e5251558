//! Making disks. One that was not made to the end is not there, and does not come back.

use super::restoring::Restoring;
use super::{Disks, Ground, Named};
use crate::bases::BaseRecord;
use crate::disk_file::{self, DiskFile, RunRecord, Stage, layers_dir};
use crate::error::{Doing, Error, Result};
use crate::names::{self, rfc3339};
use block::sync::lock;
use block::{BlockDevice, ByteCount, DiskId};
use control::Kind;
use layers::Disk;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Disks {
    /// Makes a disk: an empty one is filled by `fill` before it exists under its name.
    ///
    /// # Errors
    /// `Conflict` if the name is taken; what `fill` reports. Nothing is left then.
    pub fn create(
        &self,
        id: DiskId,
        name: &str,
        size: ByteCount,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        self.make(New { id, name, size, stage: Stage::Disk, based: None, run: None, restoring: None }, fill)
    }

    /// Makes an empty disk for a client to fill over NBD. Until [`ready`](Self::ready) it takes connections and nothing
    /// else, and a restart of the daemon removes it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn fill(&self, name: &str, size: ByteCount) -> Result<Arc<Named>> {
        let id = self.fresh_id()?;
        self.make(
            New { id, name, size, stage: Stage::Making, based: None, run: None, restoring: None },
            |_| Ok(()),
        )
    }

    /// The disk was filled: makes what is on it durable, and the disk one like any other.
    ///
    /// # Errors
    /// `Conflict` while a client is connected; what the flush reports. The disk is not ready then.
    pub fn ready(&self, name: &str) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        let doing = || format!("end the filling of disk {name}");
        if !named.is_left_alone() {
            return Err(Error::said(Kind::Conflict, doing(), "a client is connected to it"));
        }
        named.served()?.flush().doing(doing)?;
        let table = lock(&self.table);
        let is_there = table.disks.get(name).is_some_and(|there| Arc::ptr_eq(there, &named));
        if is_there && named.stage() == Stage::Making {
            disk_file::advance(&*self.env.media, named.id, Stage::Making, Stage::Disk)?;
            named.ready.store(true, Ordering::SeqCst);
        }
        drop(table);
        named.disk()?;
        Ok(named)
    }

    pub(super) fn make(
        &self,
        new: New<'_>,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        let New { id, name, size, stage, based, run, restoring } = new;
        let _reserved = self.reserve(name)?;
        let doing = || format!("make disk {name}");
        let (base, ground) = based.map(|based| (based.record, based.ground)).unzip();
        let restored = restoring.map(|restoring| restoring.record.clone());
        let file = DiskFile { base, run, restored, ..DiskFile::new(name, rfc3339(self.env.clock.now())) };
        let on = file
            .base
            .as_ref()
            .zip(ground.as_ref())
            .map(|(record, ground)| ground.base(record))
            .transpose()?;
        disk_file::begin(&*self.env.media, id, &file)?;
        let layers = match restoring.filter(|restoring| restoring.resumes) {
            Some(restoring) => self.take_up(restoring),
            None => Disk::create_on(&self.env, &layers_dir(id), id, size, on.as_ref()),
        }
        .doing(doing);
        let layers = layers.map_err(|error| match error.kind() {
            Kind::Invalid => error.with_help("choose a size from 1 byte to 64T, such as 20G"),
            _ => error,
        });
        let made = layers.and_then(|disk| {
            fill(&disk)?;
            if stage == Stage::Disk {
                disk_file::advance(&*self.env.media, id, Stage::Making, Stage::Disk)?;
            }
            Ok(disk)
        });
        match made {
            Ok(disk) => {
                let named = Arc::new(Named::new(id, file, Ok((disk, ground)), stage == Stage::Disk));
                lock(&self.table).disks.insert(name.to_owned(), named.clone());
                Ok(named)
            }
            // the next daemon goes on with it
            Err(error) if restoring.is_some_and(|restoring| (restoring.is_stopping)()) => Err(error),
            Err(error) => {
                if let Err(left) = self.unmake(id) {
                    // the marker is still there, so the next start tries again
                    tracing::warn!(disk = %id, "{}", left.body().message);
                }
                Err(error)
            }
        }
    }

    /// Removes a disk that was not made to the end. Its file may already say that it exists, if only the last sync failed.
    fn unmake(&self, id: DiskId) -> Result<()> {
        let is_named = disk_file::find(&*self.env.media)?.files.contains(&(id, Stage::Disk));
        if !is_named {
            return self.sweep(id, Stage::Making);
        }
        disk_file::advance(&*self.env.media, id, Stage::Disk, Stage::Deleting)?;
        self.sweep(id, Stage::Deleting)
    }

    /// Holds a name for a disk that is being made.
    ///
    /// # Errors
    /// `Conflict` if it is taken.
    pub fn reserve(&self, name: &str) -> Result<Reserved<'_>> {
        names::check_disk(name)?;
        let mut table = lock(&self.table);
        if table.disks.contains_key(name) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "exists already")
                .with_help("choose another name, or delete that disk first"));
        }
        if !table.reserved.insert(name.to_owned()) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "is being made")
                .with_help("`blockctl job list` shows the job that makes it"));
        }
        Ok(Reserved { disks: self, name: name.to_owned() })
    }
}

/// A disk that is to be made.
pub(super) struct New<'a> {
    pub(super) id: DiskId,
    pub(super) name: &'a str,
    pub(super) size: ByteCount,
    /// How far it is when it is made.
    pub(super) stage: Stage,
    pub(super) based: Option<Based>,
    /// How it runs from that, if it is to.
    pub(super) run: Option<RunRecord>,
    /// What it is restored from, if it is.
    pub(super) restoring: Option<&'a Restoring<'a>>,
}

/// What a disk is to stand on.
pub(super) struct Based {
    pub(super) record: BaseRecord,
    pub(super) ground: Ground,
}

/// A name held for a disk that is being made.
pub struct Reserved<'a> {
    disks: &'a Disks,
    name: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        lock(&self.disks.table).reserved.remove(&self.name);
    }
}
