//! Making disks, empty or on a base, and deleting them.

use crate::bases::Asked;
use crate::daemon::Daemon;
use crate::disks::{Deletion, Named};
use crate::error::{Doing, Error, Result};
use crate::jobs::disk_key;
use block::sync::lock;
use block::{ByteCount, StateId};
use control::{CreateDisk, DeleteDiskQuery, Disk, Kind, NewBase};
use formats::Format;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// What is written down while a disk is called something else, so that what names it follows after a kill too.
const RENAMING: &str = "renaming.toml";
const RENAMING_LIMIT_BYTES: u64 = 4096;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renaming {
    from: String,
    to: String,
}

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
        let naming = lock(&self.naming);
        self.refuse_member(name)?;
        let unchanged_since = query.unchanged_since.as_deref();
        let unchanged_since = unchanged_since.map(|point| self.state_of(name, point)).transpose()?;
        let shown = self.show(&named);
        drop(named);
        let named = disks.delete(name, Deletion { unchanged_since, adopted_file: query.adopted_file })?;
        drop(naming);
        tracing::info!(disk = name, "deleted");
        disks.discard(named)?;
        // a point below may be needed by nobody now
        self.consolidation().wake();
        Ok(shown)
    }

    /// Refuses a disk that a group names, and the last one of a machine that a group names.
    fn refuse_member(&self, disk: &str) -> Result<()> {
        let disks = &self.tiers().disks;
        let machine = disk.rsplit_once('/').map(|(machine, _)| machine);
        let last = machine.filter(|machine| disks.of(machine).is_ok_and(|of| of.len() == 1));
        for member in [Some(disk), last].into_iter().flatten() {
            if let Some(group) = disks.groups.naming(member)?.first() {
                let why = format!("{group} names {member}");
                return Err(Error::said(Kind::Conflict, format!("delete disk {disk}"), why)
                    .with_help(format!("`blockctl group set {group} MEMBER...` without it first")));
            }
        }
        Ok(())
    }

    /// Calls a disk something else; the policy it stands under by itself goes with it.
    ///
    /// # Errors
    /// As [`Disks::rename`](crate::disks::Disks::rename); `Conflict` while a job works with it, or if it would leave the
    /// policy of its machine.
    pub fn rename_disk(&self, name: &str, to: &str) -> Result<Disk> {
        let _naming = lock(&self.naming);
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
        groups.check_rename(name, to)?;
        let renaming = Renaming { from: name.to_owned(), to: to.to_owned() };
        self.begin_renaming(&renaming)?;
        let renamed = self.tiers().disks.rename(name, to);
        self.end_renaming(&renaming)?;
        tracing::info!(disk = name, to, "renamed");
        Ok(self.show(&*renamed?))
    }

    fn begin_renaming(&self, renaming: &Renaming) -> Result<()> {
        let doing = || format!("rename disk {}", renaming.from);
        let text =
            toml::to_string(renaming).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        self.media().replace(RENAMING, text.as_bytes()).doing(doing)
    }

    /// Has groups and policies follow a disk to the name that it has now. Before that nothing is pruned of it, since it stands under no
    /// policy by its new name.
    fn end_renaming(&self, Renaming { from, to }: &Renaming) -> Result<()> {
        let disks = &self.tiers().disks;
        if disks.get(to).is_ok() && disks.get(from).is_err() {
            disks.groups.rename(from, to)?;
            if let Some(own) = self.policies().items()?.get(from).cloned() {
                // under both names for a moment rather than under none
                self.policies().protect(to, Some(own))?;
                self.policies().protect(from, None)?;
            }
        }
        let removed = self.media().remove(RENAMING).and_then(|()| self.media().sync_dir(""));
        removed.doing(|| format!("rename disk {from}"))
    }

    /// Ends a renaming that the end of the last daemon cut short.
    pub(crate) fn resume_renaming(&self) {
        let read = match self.media().read_whole(RENAMING, RENAMING_LIMIT_BYTES) {
            Err(error) if error.kind() == block::Kind::NotFound => return,
            read => read.doing(|| format!("read {RENAMING}")),
        };
        let parsed = read.and_then(|bytes| {
            toml::from_str::<Renaming>(&String::from_utf8_lossy(&bytes))
                .map_err(|error| Error::said(Kind::Corrupt, RENAMING, error.message().to_owned()))
        });
        match parsed.and_then(|renaming| self.end_renaming(&renaming)) {
            Ok(()) => tracing::info!("a renaming that was cut short is done"),
            Err(error) => {
                let why = error.body().message;
                tracing::error!("groups and policies may name a disk as it was called: {why}");
            }
        }
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
