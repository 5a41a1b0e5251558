//! Opening every disk at the start.

use super::{Disks, Named};
use crate::disk_file::{self, DiskFile, Stage, layers_dir};
use crate::error::{Doing, Error, Result};
use crate::recover::missing_is_damage;
use block::DiskId;
use block::sync::{Mutex, lock};
use control::Kind;
use layers::{Disk, Env};
use std::sync::Arc;

impl Disks {
    /// Opens every disk, and sweeps away what was being made or removed when the last daemon ended. The second value
    /// says what is not in order, one sentence each.
    ///
    /// # Errors
    /// What keeps the directory as a whole from being read.
    pub fn open(env: Env) -> Result<(Self, Vec<String>)> {
        let found = disk_file::find(&*env.media)?;
        let (disks, mut notices) =
            (Self { env, table: Mutex::default(), recovering: Mutex::default() }, Vec::new());
        for &(id, stage) in &found.files {
            let done = if stage == Stage::Disk { disks.open_one(id) } else { disks.sweep(id, stage) };
            notices.extend(done.err().map(|error| error.body().message));
        }
        notices.extend(disks.take_back_incomplete_groups());
        for id in found.layers.iter().filter(|id| found.files.iter().all(|(named, _)| named != *id)) {
            notices.push(format!("{} has no name file beside it and is left alone", layers_dir(*id)));
        }
        Ok((disks, notices))
    }

    fn open_one(&self, id: DiskId) -> Result<()> {
        let (file, trouble) = match disk_file::read(&*self.env.media, id) {
            Ok(file) => (file, None),
            // it keeps serving under the one name that is left
            Err(error) => (DiskFile::new(id.to_string(), ""), Some(error)),
        };
        let open = Disk::open(&self.env, &layers_dir(id)).doing(|| format!("open disk {}", file.name));
        let open = open.map_err(|error| missing_is_damage(error).body());
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
