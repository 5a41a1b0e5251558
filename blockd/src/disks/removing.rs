//! Ending disks: removing one, closing all.

use super::named::{RELEASE_PAUSE, RELEASE_TRIES};
use super::{Disks, Named};
use crate::disk_file::{self, Stage};
use crate::error::{Doing, Error, Result};
use block::sync::lock;
use control::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Disks {
    /// Removes a disk and its instant recovery points.
    ///
    /// # Errors
    /// `Conflict` while a client is connected to it.
    pub fn delete(&self, name: &str) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        if named.stage() == Stage::Making {
            // whoever filled it in vain may be just leaving; if not, the refusal follows
            named.is_left_alone();
        }
        {
            let mut table = lock(&self.table);
            if named.writers.load(Ordering::SeqCst) > 0 {
                let why = "a client is connected to it";
                return Err(Error::said(Kind::Conflict, format!("disk {name}"), why)
                    .with_help("disconnect the client (shut the machine down) first"));
            }
            disk_file::advance(&*self.env.media, named.id, named.stage(), Stage::Deleting)?;
            table.disks.remove(name);
            named.deleted.store(true, Ordering::SeqCst);
        }
        if let Ok(disk) = &named.open {
            // nothing of it is needed any more, so a failed last flush changes nothing
            if let Err(error) = disk.close() {
                tracing::debug!(disk = name, "{error}");
            }
        }
        Ok(named)
    }

    /// Gives back the space of a deleted disk, once nothing reads it any more.
    ///
    /// # Errors
    /// Never for a reader that stays: the next start gives the space back then, and the log says so.
    pub fn discard(&self, named: Arc<Named>) -> Result<()> {
        let id = named.id;
        let still_open = named.open.as_ref().ok().map(Arc::downgrade);
        drop(named);
        for _ in 0..RELEASE_TRIES {
            if still_open.as_ref().is_none_or(|disk| disk.strong_count() == 0) {
                match self.sweep(id, Stage::Deleting) {
                    // whoever let go of it last is still closing its files
                    Err(error) if error.kind() == Kind::Conflict => {}
                    swept => return swept,
                }
            }
            std::thread::sleep(RELEASE_PAUSE);
        }
        tracing::warn!(disk = %id, "still read; its space is given back at the next start");
        Ok(())
    }

    /// Flushes and closes every disk.
    ///
    /// # Errors
    /// The first failure; the rest is closed all the same.
    pub fn close(&self) -> Result<()> {
        let close = |named: Arc<Named>| match &named.open {
            Ok(disk) => disk.close().doing(|| format!("close disk {}", named.name)),
            Err(_) => Ok(()),
        };
        let done: Vec<Result<()>> = self.all().into_iter().map(close).collect();
        done.into_iter().collect()
    }
}
