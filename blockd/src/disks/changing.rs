//! Changes of a disk: its size, and what its name file says.

use super::{Disks, Named};
use crate::claim::Claim;
use crate::disk_file::{self, DiskFile};
use crate::error::{Doing, Error, Result};
use block::ByteCount;
use block::sync::lock;
use control::Kind;
use layers::Opened;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Disks {
    /// Makes a disk larger or smaller. Clients keep the size they were told; those who connect later learn the new one.
    ///
    /// # Errors
    /// `Conflict` for a smaller size while a client is connected, unless `attached` says to do it all the same, and while a
    /// recovery point takes the place of what it holds;
    /// `Invalid` for a size that no disk has; `NoSpace`.
    pub fn resize(&self, name: &str, size: ByteCount, attached: bool) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        let disk = named.disk()?;
        let shrinks = || size < block::BlockSource::size(&**disk);
        if shrinks() && !attached {
            // whoever said good-bye just now may still be leaving
            named.is_left_alone();
        }
        {
            let _told = lock(&named.told);
            if let Some(record) = named.replacing() {
                let why = format!("{} is taking the place of what it holds", record.name);
                return Err(Error::said(Kind::Conflict, format!("resize disk {name}"), why)
                    .with_help("`blockctl job list` shows how far it is; resize the disk after that"));
            }
            let is_smaller = shrinks();
            if is_smaller && !attached && named.writers.load(Ordering::SeqCst) > 0 {
                let why = "a client is connected, and would still use what is cut off";
                return Err(Error::said(Kind::Conflict, format!("shrink disk {name}"), why)
                    .with_help("disconnect the client first, or shrink all the same with --attached"));
            }
            disk.resize(size).doing(|| format!("resize disk {name}"))?;
        }
        Ok(named)
    }

    /// Lets several clients write to a disk, or only one again. Kept over restarts.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while it is being filled; what the host reports.
    pub fn share(&self, name: &str, shared: bool) -> Result<Arc<Named>> {
        self.change(name, |file| file.shared = shared, |claim| claim.share(shared))
    }

    /// Lets remote clients write to a disk again that was not closed in order before the host went down.
    ///
    /// # Errors
    /// `NotFound`; what the host reports.
    pub fn release(&self, name: &str) -> Result<Arc<Named>> {
        self.change(name, |file| file.awaits_release = false, Claim::release)
    }

    /// Keeps remote clients out of a disk that was opened without what was never flushed. A restart forgets it only if it
    /// could not be written down, which the log then says.
    pub fn await_release(&self, named: &Named) {
        if !named.open.as_ref().is_ok_and(|disk| disk.opened() == Opened::Committed) {
            return;
        }
        named.claim.await_release();
        let written = disk_file::read(&*self.env.media, named.id).and_then(|file| {
            disk_file::change(&*self.env.media, named.id, &DiskFile { awaits_release: true, ..file })
        });
        if let Err(error) = written {
            tracing::warn!(disk = named.name, "{}", error.body().message);
        }
    }

    /// Calls a disk something else. Its points are called after it from then on; its id stays.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the name is taken, a client is connected or the disk is being filled or replaced; what the
    /// host reports.
    pub fn rename(&self, name: &str, to: &str) -> Result<Arc<Named>> {
        let reserved = self.reserve(to)?;
        let named = self.get(name)?;
        if !named.is_left_alone() {
            let why = "a client is connected, which would not find it again";
            return Err(Error::said(Kind::Conflict, format!("rename disk {name}"), why)
                .with_help("disconnect the client (shut the machine down) first"));
        }
        // nobody comes in before it has its new name, and none is removed meanwhile
        let told = lock(&named.told);
        named.filled()?;
        named.unreplaced()?;
        let mut table = lock(&self.table);
        let is_there = table.disks.get(name).is_some_and(|there| Arc::ptr_eq(there, &named));
        if !is_there || named.writers.load(Ordering::SeqCst) > 0 {
            return Err(Error::said(
                Kind::Conflict,
                format!("rename disk {name}"),
                "somebody else was first",
            ));
        }
        let file = disk_file::read(&*self.env.media, named.id)?;
        disk_file::change(&*self.env.media, named.id, &DiskFile { name: to.to_owned(), ..file })?;
        let renamed = Arc::new(named.renamed(to));
        table.disks.remove(name);
        table.disks.insert(to.to_owned(), renamed.clone());
        drop((table, told));
        drop(reserved);
        Ok(renamed)
    }

    /// Changes what a disk's file says, and then what holds.
    fn change(
        &self,
        name: &str,
        in_file: impl FnOnce(&mut DiskFile),
        now: impl FnOnce(&Claim),
    ) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        // one change at a time, and none of a disk that is being removed
        let table = lock(&self.table);
        if !table.disks.get(name).is_some_and(|there| Arc::ptr_eq(there, &named)) {
            return Err(Error::not_found(format!("disk {name}")));
        }
        named.filled()?;
        let mut file = disk_file::read(&*self.env.media, named.id)?;
        in_file(&mut file);
        disk_file::change(&*self.env.media, named.id, &file)?;
        now(&named.claim);
        drop(table);
        Ok(named)
    }
}
