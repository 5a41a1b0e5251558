//! The disks: which there are, making them, removing them. A disk that cannot be opened keeps its place and its name
//! and says why; the others serve.

mod attachments;
mod basing;
mod changing;
mod making;
mod named;
mod opening;
mod removing;
mod replacing;
mod restoring;
mod running;
mod show;
#[cfg(test)]
mod tests;

pub use basing::Ground;
pub use named::{Attached, Named};
pub use removing::Deletion;
pub use restoring::Restoring;

use crate::bases::Patience;
use crate::disk_file::DiskFile;
use crate::error::{Doing, Error, Result};
use crate::groups::Groups;
use crate::names;
use crate::vaults::Vaults;
use block::DiskId;
use block::sync::{Mutex, lock};
use layers::Env;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// All disks.
pub struct Disks {
    env: Env,
    table: Mutex<Table>,
    // held while a disk is put on a point of another one, and while one is removed
    tree: Mutex<()>,
    // where the points of vaults are that disks stand on
    vaults: Option<Arc<Vaults>>,
    /// Disks and machines that belong together.
    pub groups: Arc<Groups>,
    /// Requests that wait for a vault's store.
    pub patience: Arc<Patience>,
    /// Held while a disk is opened again.
    pub recovering: Mutex<()>,
    // disks without a name yet, whose restores the end of the last daemon cut short
    unfinished: Mutex<Vec<(DiskId, DiskFile)>>,
}

#[derive(Default)]
struct Table {
    disks: BTreeMap<String, Arc<Named>>,
    // names of disks that are being made
    reserved: HashSet<String>,
}

impl Disks {
    /// What the disks are opened with.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Puts another value in a disk's place, if it is still there.
    pub fn replace(&self, former: &Arc<Named>, anew: Arc<Named>) -> bool {
        let mut table = lock(&self.table);
        match table.disks.get_mut(&former.name) {
            Some(named) if Arc::ptr_eq(named, former) => {
                *named = anew;
                true
            }
            _ => false,
        }
    }

    /// Every disk, by name.
    pub fn all(&self) -> Vec<Arc<Named>> {
        lock(&self.table).disks.values().cloned().collect()
    }

    /// The disk of this name.
    ///
    /// # Errors
    /// `NotFound`, with a name that is close if there is one.
    pub fn get(&self, name: &str) -> Result<Arc<Named>> {
        names::check_disk(name)?;
        let table = lock(&self.table);
        let missing = || {
            let error = Error::not_found(format!("disk {name}"));
            match table.disks.keys().find(|known| known.contains(name) || name.contains(known.as_str())) {
                Some(close) => error.with_help(format!("there is a disk {close}")),
                None => error.with_help("`blockctl disk list` shows the disks"),
            }
        };
        table.disks.get(name).cloned().ok_or_else(missing)
    }

    /// The disks an item names: one disk, all disks of a machine by name, or those of all members of a group.
    ///
    /// # Errors
    /// As [`get`](Self::get); `NotFound` for a machine without disks, and for a group that names something that is gone.
    pub fn of(&self, item: &str) -> Result<Vec<Arc<Named>>> {
        if names::is_group(item) {
            let of_member = |member: &String| {
                self.of(member).map_err(|error| {
                    Error::said_before(item.to_owned(), &error.body()).with_help(format!(
                        "`blockctl group set {item} MEMBER...` says what belongs to it now"
                    ))
                })
            };
            let members = self.groups.members(item)?;
            return Ok(members
                .iter()
                .map(of_member)
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect());
        }
        if !names::is_machine(item) {
            return Ok(vec![self.get(item)?]);
        }
        let front = format!("{item}/");
        let table = lock(&self.table);
        let below = table.disks.range(front.clone()..).take_while(|(name, _)| name.starts_with(&front));
        let disks: Vec<_> = below.map(|(_, named)| named.clone()).collect();
        drop(table);
        if disks.is_empty() {
            return Err(Error::not_found(format!("machine {item}")).with_help(format!(
                "a machine is its disks: `blockctl disk create {item}/vda …` makes one"
            )));
        }
        Ok(disks)
    }

    /// Whether a disk of this id exists, whatever it is called.
    pub fn has(&self, id: &str) -> bool {
        lock(&self.table).disks.values().any(|named| named.id.to_string() == id)
    }

    /// An id for a disk that is to be made.
    ///
    /// # Errors
    /// What the host reports.
    pub fn fresh_id(&self) -> Result<DiskId> {
        DiskId::random(&*self.env.entropy).doing(|| "draw an id for a disk".to_owned())
    }
}
