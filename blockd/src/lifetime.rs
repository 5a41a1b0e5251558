//! Making disks, empty or on a base, and deleting them.

use crate::bases::Asked;
use crate::daemon::Daemon;
use crate::disks::{Deletion, Named};
use crate::error::{Error, Result};
use crate::jobs::disk_key;
use block::{ByteCount, StateId};
use control::{CreateDisk, DeleteDiskQuery, Disk, Kind, NewBase};
use formats::Format;
use std::path::Path;
use std::sync::Arc;

impl Daemon {
    /// Makes a disk: empty, or on what it is to stand on.
    ///
    /// # Errors
    /// `Conflict` if the name is taken or the base in use, `Invalid` for a size that no disk has.
    pub fn create_disk(&self, request: &CreateDisk) -> Result<Disk> {
        let (disks, size) = (&self.tiers().disks, ByteCount::new(request.size));
        let named = match (&request.base, request.fill) {
            (Some(_), true) => {
                let why = "a disk on a base has its content, and is not filled";
                return Err(Error::said(Kind::Invalid, format!("make disk {}", request.name), why));
            }
            (Some(base), false) => self.create_on(request, base)?,
            (None, true) => disks.fill(&request.name, size)?,
            (None, false) => disks.create(disks.fresh_id()?, &request.name, size, |_| Ok(()))?,
        };
        let disk = self.show(&named);
        let on = disk.base.as_ref().map(|base| base.name.as_str());
        tracing::info!(disk = request.name, size = disk.size, on, fill = request.fill, "made");
        Ok(disk)
    }

    fn create_on(&self, request: &CreateDisk, base: &NewBase) -> Result<Arc<Named>> {
        let disks = &self.tiers().disks;
        let size = (request.size != 0).then(|| ByteCount::new(request.size));
        // for the answer's sake; whoever makes it reserves the name itself
        drop(disks.reserve(&request.name)?);
        let asked = match base {
            NewBase::Point(point) => return self.on_point(&request.name, size, point, None),
            NewBase::Image { path, format, follow } => {
                let format = format.as_deref().map(known_format).transpose()?;
                Asked { path: Path::new(path), format, follow: *follow, adopted: false }
            }
            NewBase::Adopt(path) => {
                Asked { path: Path::new(path), format: Some(Format::Raw), follow: false, adopted: true }
            }
        };
        self.refuse_our_own(&asked)?;
        disks.create_on_image(&request.name, size, &asked)
    }

    /// Our own files are changed by us.
    fn refuse_our_own(&self, asked: &Asked<'_>) -> Result<()> {
        let ours = self.dir().canonicalize();
        if let (Ok(path), Ok(ours)) = (asked.path.canonicalize(), ours)
            && path.starts_with(&ours)
        {
            let why = "is a file of this daemon, which changes it";
            return Err(Error::said(Kind::Invalid, path.display().to_string(), why));
        }
        Ok(())
    }

    /// Deletes a disk and its instant recovery points.
    ///
    /// # Errors
    /// `Conflict` while a client is connected, a job works with it or another disk stands on it.
    pub fn delete_disk(&self, name: &str, query: &DeleteDiskQuery) -> Result<Disk> {
        let disks = &self.tiers().disks;
        let named = disks.get(name)?;
        if self.jobs().is_busy(&disk_key(named.id)) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "a job works with it")
                .with_help("`blockctl job list` shows it; wait for it or cancel it"));
        }
        if let Some(group) = disks.groups.naming(name)?.first() {
            return Err(Error::said(
                Kind::Conflict,
                format!("delete disk {name}"),
                format!("{group} names it"),
            )
            .with_help(format!("`blockctl group set {group} MEMBER...` without it first")));
        }
        let unchanged_since = query.unchanged_since.as_deref();
        let unchanged_since = unchanged_since.map(|point| self.state_of(name, point)).transpose()?;
        let shown = self.show(&named);
        drop(named);
        let named = disks.delete(name, Deletion { unchanged_since, adopted_file: query.adopted_file })?;
        tracing::info!(disk = name, "deleted");
        disks.discard(named)?;
        // a point below may be needed by nobody now
        self.consolidation().wake();
        Ok(shown)
    }

    /// Calls a disk something else; the policy it stands under by itself goes with it.
    ///
    /// # Errors
    /// As [`Disks::rename`](crate::disks::Disks::rename); `Conflict` while a job works with it, or if it would leave the
    /// policy of its machine.
    pub fn rename_disk(&self, name: &str, to: &str) -> Result<Disk> {
        let named = self.tiers().disks.get(name)?;
        let refused = |why: String| Error::said(Kind::Conflict, format!("rename disk {name}"), why);
        if self.jobs().is_busy(&disk_key(named.id)) || self.is_archiving(named.id) {
            return Err(refused("a job works with it".to_owned())
                .with_help("`blockctl job list` shows it; wait for it or cancel it"));
        }
        // before a policy is touched for nothing
        drop(self.tiers().disks.reserve(to)?);
        let items = self.policies().items()?;
        let own = items.get(name).cloned();
        // paused ones too: what stands under the policy of a machine or a group stays under it, and nothing comes under
        // another by its name; a group that names the disk does so under its new name
        let groups = &self.tiers().disks.groups;
        let of = self.policies().covering(name)?.filter(|item| item != name);
        let named_by =
            of.clone().filter(|item| groups.members(item).is_ok_and(|of| of.iter().any(|it| it == name)));
        let into = self.policies().covering(to)?.or(named_by);
        if of != into || (own.is_some() && into.is_some()) {
            return Err(refused(format!("as {to} it would stand under another policy")).with_help(
                "`blockctl policy items` shows what is protected; choose a name it says nothing of",
            ));
        }
        let (earlier, _) = self.tiers().held(Some(to));
        if let Some(point) = earlier.iter().find(|point| point.disk != named.id) {
            return Err(refused(format!(
                "{} is a recovery point of an earlier disk called {to}",
                point.name
            ))
            .with_help("choose another name: the numbers of its points would mean those of this disk"));
        }
        // under both names for a moment rather than under none
        if let Some(protection) = &own {
            self.policies().protect(to, Some(protection.clone()))?;
        }
        let renamed = self.tiers().disks.rename(name, to);
        if renamed.is_ok() {
            groups.rename(name, to)?;
        }
        if own.is_some() {
            self.policies().protect(if renamed.is_ok() { name } else { to }, None)?;
        }
        tracing::info!(disk = name, to, "renamed");
        Ok(self.show(&*renamed?))
    }

    /// The state of a point that must be one of this disk, in the instant tier.
    fn state_of(&self, disk: &str, point: &str) -> Result<StateId> {
        let held = self.tiers().find(point)?;
        match &held.instant {
            Some(named) if named.name == disk => Ok(held.state),
            _ => {
                let why = format!("is no instant recovery point of disk {disk}");
                Err(Error::said(Kind::Invalid, format!("point {point}"), why))
            }
        }
    }
}

fn known_format(text: &str) -> Result<Format> {
    text.parse::<Format>()
        .map_err(|error| Error::said(Kind::Invalid, format!("format {text:?}"), error.to_string()))
}
