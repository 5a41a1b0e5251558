//! The disks: which there are, making them, removing them. A disk that cannot be opened keeps its place and its name
//! and says why; the others serve.

use crate::disk_file::{self, DiskFile, Stage, layers_dir};
use crate::error::{Doing, Error, Result};
use crate::names::{self, rfc3339};
use block::sync::{Mutex, lock};
use block::{ByteCount, DiskId, Failure};
use control::{DiskState, ErrorBody, Kind};
use layers::{Disk, Env, Opened};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a removal looks whether the last reader of a disk is gone, and how long it waits in between.
const RELEASE_TRIES: usize = 100;
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// A disk with a name.
pub struct Named {
    /// Its id.
    pub id: DiskId,
    /// Its name.
    pub name: String,
    created: String,
    open: Result<Arc<Disk>, ErrorBody>,
    /// NBD connections that may write to it.
    pub writers: Arc<AtomicU64>,
}

impl Named {
    /// The disk, if it serves.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub fn disk(&self) -> Result<&Arc<Disk>> {
        self.open
            .as_ref()
            .map_err(|body| Error::said(body.kind, format!("disk {}", self.name), &body.message))
    }

    /// The disk as the API shows it.
    pub fn show(&self, uri: String) -> control::Disk {
        let disk = self.open.as_ref().ok();
        let usage = disk.map(|disk| disk.usage());
        let unknown = usage.as_ref().and_then(|usage| usage.as_ref().err()).map(|error| ErrorBody {
            kind: crate::error::wire_kind(Failure::kind(error)),
            message: error.to_string(),
            help: None,
        });
        control::Disk {
            name: self.name.clone(),
            id: self.id.to_string(),
            size: disk.map(|disk| block::BlockSource::size(&**disk).get()),
            stored: usage.and_then(Result::ok).map(|usage| usage.data.get() + usage.maps.get()),
            uri,
            created: self.created.clone(),
            state: if disk.is_some() { DiskState::Ready } else { DiskState::Failed },
            error: self.open.as_ref().err().cloned().or(unknown),
            opened: disk.map(|disk| opened(disk.opened()).to_owned()),
            points: disk.map_or(0, |disk| disk.points().len() as u64),
            writers: self.writers.load(Ordering::Relaxed),
        }
    }
}

const fn opened(how: Opened) -> &'static str {
    match how {
        Opened::Created => "created",
        Opened::Clean => "clean",
        Opened::LiveMap => "live-map",
        Opened::Committed => "committed",
    }
}

/// All disks.
pub struct Disks {
    env: Env,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    disks: BTreeMap<String, Arc<Named>>,
    // names of disks that are being made
    reserved: HashSet<String>,
}

impl Disks {
    /// Opens every disk, and sweeps away what was being made or removed when the last daemon ended. The second value
    /// says what is not in order, one sentence each.
    ///
    /// # Errors
    /// What keeps the directory as a whole from being read.
    pub fn open(env: Env) -> Result<(Self, Vec<String>)> {
        let found = disk_file::find(&*env.media)?;
        let (disks, mut notices) = (Self { env, table: Mutex::default() }, Vec::new());
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
            Err(error) => (DiskFile { name: id.to_string(), created: String::new() }, Some(error)),
        };
        let open = Disk::open(&self.env, &layers_dir(id)).doing(|| format!("open disk {}", file.name));
        let open = open.map_err(|error| error.body());
        if let Err(body) = &open {
            tracing::error!(disk = file.name, "{}", body.message);
        }
        let name = file.name.clone();
        let named = Named { id, name: file.name, created: file.created, open, writers: Arc::default() };
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

    fn sweep(&self, id: DiskId, stage: Stage) -> Result<()> {
        match Disk::destroy(&self.env, &layers_dir(id)) {
            Err(error) if error.kind() != block::Kind::NotFound => {
                return Err(Error::below(format!("remove the rest of disk {id}"), error));
            }
            _ => {}
        }
        tracing::info!(disk = %id, "removed what was left of it");
        disk_file::forget(&*self.env.media, id, stage)
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
        names::check("disk", name)?;
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

    /// Makes a disk: an empty one is filled by `fill` before it exists under its name.
    ///
    /// # Errors
    /// `Conflict` if the name is taken; what `fill` reports. Nothing is left then.
    pub fn create(
        &self,
        name: &str,
        size: ByteCount,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        let _reserved = self.reserve(name)?;
        let doing = || format!("make disk {name}");
        let id = DiskId::random(&*self.env.entropy).doing(doing)?;
        let created = rfc3339(self.env.clock.now());
        disk_file::begin(
            &*self.env.media,
            id,
            &DiskFile { name: name.to_owned(), created: created.clone() },
        )?;
        let made = Disk::create(&self.env, &layers_dir(id), id, size).doing(doing).and_then(|disk| {
            fill(&disk)?;
            disk_file::advance(&*self.env.media, id, Stage::Making, Stage::Disk)?;
            Ok(disk)
        });
        match made {
            Ok(disk) => {
                let named = Arc::new(Named {
                    id,
                    name: name.to_owned(),
                    created,
                    open: Ok(disk),
                    writers: Arc::default(),
                });
                lock(&self.table).disks.insert(name.to_owned(), named.clone());
                Ok(named)
            }
            Err(error) => {
                if let Err(left) = self.sweep(id, Stage::Making) {
                    // the marker is still there, so the next start tries again
                    tracing::warn!(disk = %id, "{}", left.body().message);
                }
                Err(error)
            }
        }
    }

    /// Holds a name for a disk that is being made.
    ///
    /// # Errors
    /// `Conflict` if it is taken.
    pub fn reserve(&self, name: &str) -> Result<Reserved<'_>> {
        names::check("disk", name)?;
        let mut table = lock(&self.table);
        if table.disks.contains_key(name) || !table.reserved.insert(name.to_owned()) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "exists already"));
        }
        Ok(Reserved { disks: self, name: name.to_owned() })
    }

    /// Removes a disk and its instant recovery points.
    ///
    /// # Errors
    /// `Conflict` while a client is connected to it.
    pub fn delete(&self, name: &str) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        {
            let mut table = lock(&self.table);
            if named.writers.load(Ordering::SeqCst) > 0 {
                let why = "a client is connected to it";
                return Err(Error::said(Kind::Conflict, format!("disk {name}"), why)
                    .with_help("disconnect the client (shut the machine down) first"));
            }
            disk_file::advance(&*self.env.media, named.id, Stage::Disk, Stage::Deleting)?;
            table.disks.remove(name);
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
                return self.sweep(id, Stage::Deleting);
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
