//! Opening every disk at the start.

use super::{Disks, Named};
use crate::disk_file::{self, DiskFile, Stage, layers_dir};
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::vaults::Vaults;
use block::DiskId;
use block::sync::{Mutex, lock};
use control::Kind;
use layers::{Disk, Env};
use std::collections::HashMap;
use std::sync::Arc;

impl Disks {
    /// Opens every disk, and sweeps away what was being made or removed when the last daemon ended, but for what a restore
    /// made. The second value says what is not in order, one sentence each.
    ///
    /// # Errors
    /// What keeps the directory as a whole from being read.
    pub fn open(env: Env, vaults: Option<Arc<Vaults>>) -> Result<(Self, Vec<String>)> {
        let found = disk_file::find(&*env.media)?;
        let (table, patience) = (Mutex::default(), Arc::default());
        let (tree, recovering) = (Mutex::default(), Mutex::default());
        let groups = Arc::new(Groups::open(env.media.clone()));
        let unfinished = Mutex::default();
        let disks = Self { env, table, tree, vaults, groups, patience, recovering, unfinished };
        let mut notices = Vec::new();
        let (named, unfinished): (Vec<_>, Vec<_>) =
            found.files.iter().partition(|(_, stage)| *stage == Stage::Disk);
        for (id, stage) in unfinished {
            if disks.keep_unfinished(id, stage) {
                continue;
            }
            notices.extend(disks.sweep(id, stage).err().map(|error| error.body().message));
        }
        let files: Vec<Found> = named.into_iter().map(|(id, _)| disks.read_file(id)).collect();
        let all_are_known = files.iter().all(|found| found.trouble.is_none());
        for found in in_order(files) {
            notices.extend(disks.open_one(found).err().map(|error| error.body().message));
        }
        notices.extend(disks.take_back_incomplete_groups());
        if all_are_known {
            disks.take_back_pins();
        }
        for id in found.layers.iter().filter(|id| found.files.iter().all(|(named, _)| named != *id)) {
            notices.push(format!("{} has no name file beside it and is left alone", layers_dir(*id)));
        }
        Ok((disks, notices))
    }

    fn read_file(&self, id: DiskId) -> Found {
        match disk_file::read(&*self.env.media, id) {
            Ok(file) => Found { id, file, trouble: None },
            // it keeps serving under the one name that is left
            Err(error) => Found { id, file: DiskFile::new(id.to_string(), ""), trouble: Some(error) },
        }
    }

    fn open_one(&self, found: Found) -> Result<()> {
        let Found { id, mut file, trouble } = found;
        let open = self.open_layers(id, &file.name, file.base.as_ref()).map_err(|error| error.body());
        if file.base.is_some() && open.as_ref().is_ok_and(|(disk, _)| !disk.stands()) {
            // released before it could be written down
            (file.base, file.run) = (None, None);
            if let Err(error) = disk_file::change(&*self.env.media, id, &file) {
                tracing::warn!(disk = file.name, "{}", error.body().message);
            }
        }
        if let Err(body) = &open {
            tracing::error!(disk = file.name, "{}", body.message);
        }
        let name = file.name.clone();
        let named = Named::new(id, file, open, true);
        if trouble.is_none() {
            self.await_release(&named);
        }
        let former = lock(&self.table).disks.insert(name.clone(), Arc::new(named));
        match (former, trouble) {
            (Some(former), _) => {
                let why = format!("{} and {id} both say they are called that; {id} is served", former.id);
                Err(Error::said(Kind::Conflict, format!("disk {name}"), why))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }

    /// A point of several disks of which a crash left only some members is none: deletes what there is of it.
    fn take_back_incomplete_groups(&self) -> Vec<String> {
        let all = self.all();
        let open: Vec<(&str, &Disk)> = all
            .iter()
            .filter_map(|named| Some((named.name.as_str(), &**named.open.as_ref().ok()?)))
            .collect();
        let disks: Vec<&Disk> = open.iter().map(|(_, disk)| *disk).collect();
        let mut notices = Vec::new();
        for (index, state) in layers::incomplete_groups(&disks) {
            let (name, disk) = open[index];
            tracing::info!(disk = name, %state, "a group point cut short by a crash is taken back");
            if let Err(error) = disk.delete_point(state) {
                notices.push(format!(
                    "disk {name}: a group point cut short by a crash is still listed: {error}"
                ));
            }
        }
        notices
    }

    pub(super) fn sweep(&self, id: DiskId, stage: Stage) -> Result<()> {
        match Disk::destroy(&self.env, &layers_dir(id)) {
            Err(error) if error.kind() != block::Kind::NotFound => {
                return Err(Error::below(format!("remove the rest of disk {id}"), error));
            }
            _ => {}
        }
        tracing::info!(disk = %id, "removed what was left of it");
        disk_file::forget(&*self.env.media, id, stage)
    }
}

/// A disk that is to be opened.
struct Found {
    id: DiskId,
    file: DiskFile,
    /// Why its file could not be read.
    trouble: Option<Error>,
}

/// Every disk after the one it stands on.
fn in_order(mut files: Vec<Found>) -> Vec<Found> {
    let below = |found: &Found| Some((found.id, found.file.base.as_ref()?.point()?.0));
    let parents: HashMap<DiskId, DiskId> = files.iter().filter_map(below).collect();
    let depth = |id: DiskId| {
        // a circle, which no disk can be made in, ends somewhere
        std::iter::successors(Some(id), |id| parents.get(id).copied()).take(parents.len() + 1).count()
    };
    files.sort_by_cached_key(|found| depth(found.id));
    files
}
