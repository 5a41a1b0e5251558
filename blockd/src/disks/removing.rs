//! Ending disks: removing one, closing all.

use super::named::{RELEASE_PAUSE, RELEASE_TRIES};
use super::{Disks, Named};
use crate::bases::BaseRecord;
use crate::disk_file::{self, Stage};
use crate::error::{Doing, Error, Result};
use block::StateId;
use block::linux::Stamp;
use block::sync::lock;
use control::Kind;
use layers::Until;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Disks {
    /// Removes a disk and its instant recovery points.
    ///
    /// # Errors
    /// `Conflict` while a client is connected to it, while another disk stands on it, or if it changed since the state
    /// that the deletion names.
    pub fn delete(&self, name: &str, deletion: Deletion) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        // whoever said good-bye just now may still be leaving; if not, the refusal follows
        named.is_left_alone();
        let _tree = lock(&self.tree);
        self.check_childless(&named)?;
        let adopted = if deletion.adopted_file { Some(self.adopted_alone(&named)?) } else { None };
        {
            let _told = lock(&named.told);
            if named.writers.load(Ordering::SeqCst) > 0 {
                let why = "a client is connected to it";
                return Err(Error::said(Kind::Conflict, format!("disk {name}"), why)
                    .with_help("disconnect the client (shut the machine down) first"));
            }
            if let Some(state) = deletion.unchanged_since {
                named.check_unchanged(state)?;
            }
            let mut table = lock(&self.table);
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
        if let Some((disk, state)) = named.stands_on() {
            self.unpin_unless_needed(disk, state);
        }
        if let Some(path) = adopted {
            remove_adopted(&path)?;
        }
        Ok(named)
    }

    fn check_childless(&self, named: &Named) -> Result<()> {
        let children = self.children(named.id);
        if children.is_empty() {
            return Ok(());
        }
        let (why, which) = match children.as_slice() {
            [one] => (format!("disk {one} stands on it"), format!("disk {one}")),
            many => (format!("disks {} stand on it", many.join(", ")), "those disks".to_owned()),
        };
        Err(Error::said(Kind::Conflict, format!("disk {}", named.name), why).with_help(format!(
            "delete {which} first, or hand it back as a file: blockctl disk leave NAME FILE"
        )))
    }

    /// The file the disk adopted, if it is still that file and no other disk's too.
    fn adopted_alone(&self, named: &Named) -> Result<String> {
        let doing = || format!("delete disk {} with its file", named.name);
        let Some(file) = named.base.as_ref().and_then(BaseRecord::adopted) else {
            return Err(Error::said(Kind::Invalid, doing(), "it adopted none").with_help(
                "leave --adopted-file away; what a disk stands on otherwise is never deleted with it",
            ));
        };
        if let Some(other) = self.is_shared_file(&file.path, named) {
            let why = format!("disk {other} stands on {} too", file.path);
            return Err(Error::said(Kind::Conflict, doing(), why).with_help(format!(
                "delete disk {other} first, or leave --adopted-file away and the file there"
            )));
        }
        let now = Stamp::of(Path::new(&file.path)).doing(doing)?;
        if now.inode.cast_signed() != file.inode {
            let why = format!("{} is another file now than the one that was adopted", file.path);
            return Err(Error::said(Kind::Conflict, doing(), why).with_help("delete the disk alone"));
        }
        Ok(file.path.clone())
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

/// How a disk is to be removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deletion {
    /// Only if nothing was written to it since this state.
    pub unchanged_since: Option<StateId>,
    /// Together with the file it adopted.
    pub adopted_file: bool,
}

#[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
fn remove_adopted(path: &str) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| {
        Error::host(format!("remove {path}, whose disk is deleted"), error)
            .with_help("remove the file by hand")
    })
}

impl Named {
    /// Whether the disk still reads what it did at a state of its own.
    fn check_unchanged(&self, state: StateId) -> Result<()> {
        let doing = || format!("compare disk {} with its recovery point", self.name);
        let disk = self.disk()?;
        let changes = disk.changes(Some(state), Until::Live).map_err(|error| self.failed(doing(), error))?;
        let size = disk.points().iter().find(|point| point.state == state).map(|point| point.size);
        if changes.all().is_empty() && size == Some(block::BlockSource::size(&**disk)) {
            return Ok(());
        }
        let why = "it was written to since that recovery point";
        Err(Error::said(Kind::Conflict, format!("disk {}", self.name), why)
            .with_help("end whatever uses the disk, and try again"))
    }
}
