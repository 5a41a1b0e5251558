//! Disks that run from a recovery point: asked to become independent, and become so.

use super::{Disks, Named};
use crate::bases::BaseRecord;
use crate::disk_file::{self, DiskFile, RunRecord};
use crate::error::{Doing, Error, Result};
use block::sync::lock;
use std::sync::Arc;

impl Disks {
    /// Asks a run to become independent as soon as it can. Kept over restarts.
    ///
    /// # Errors
    /// `NotFound` if the disk is none or stands on nothing; what the host reports.
    pub fn promote(&self, name: &str) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        if named.base.as_ref().and_then(BaseRecord::point_name).is_none() {
            return Err(Error::not_found(format!("run {name}")).with_help(match &named.base {
                Some(_) => format!(
                    "it stands on a file: blockctl disk leave {name} FILE makes a file of its own of it"
                ),
                None => format!("disk {name} stands on nothing, and is independent"),
            }));
        }
        named.disk()?;
        let run = Some(RunRecord { hydrate: true, promote: true });
        if named.run == run {
            return Ok(named);
        }
        // it may have let go of its base since
        self.change_run(&named, |now| now.base.clone().map_or((None, None), |base| (Some(base), run)))
    }

    /// Lets go of the recovery point that a run stands on: all of it is here. Done again after it was cut short it goes on.
    ///
    /// # Errors
    /// As [`layers::Disk::release_base`]. The disk stands on it until that succeeds.
    pub fn release_base(&self, named: &Arc<Named>) -> Result<()> {
        let doing = || format!("release what disk {} stands on", named.name);
        named.disk()?.release_base().doing(doing)?;
        self.change_run(named, |_| (None, None))?;
        if let Some((disk, state)) = named.stands_on() {
            self.unpin_unless_needed(disk, state);
        }
        Ok(())
    }

    /// Writes down how a disk runs, and puts a value in its place that says so.
    fn change_run(
        &self,
        named: &Named,
        change: impl FnOnce(&Named) -> (Option<BaseRecord>, Option<RunRecord>),
    ) -> Result<Arc<Named>> {
        let mut table = lock(&self.table);
        match table.disks.get_mut(&named.name) {
            Some(there) if there.id == named.id => {
                let (base, run) = change(there);
                let file = disk_file::read(&*self.env.media, named.id)?;
                let file = DiskFile { base: base.clone(), run, ..file };
                disk_file::change(&*self.env.media, named.id, &file)?;
                *there = Arc::new(there.running(base, run));
                Ok(there.clone())
            }
            _ => Err(Error::not_found(format!("disk {}", named.name))),
        }
    }
}
