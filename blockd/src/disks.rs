//! The disks: which there are, making them, removing them. A disk that cannot be opened keeps its place and its name
//! and says why; the others serve.

use crate::claim::Claim;
use crate::disk_file::{self, DiskFile, Stage, layers_dir};
use crate::error::{Doing, Error, Result};
use crate::names::{self, rfc3339};
use crate::recover::missing_is_damage;
use crate::traffic::{Counter, Traffic};
use block::sync::{Mutex, lock};
use block::{BlockDevice, ByteCount, DiskId, Failure};
use control::{DiskState, ErrorBody, Kind};
use layers::{Disk, Env, FoldProgress, Opened};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often it is looked whether the last reader or writer of a disk is gone, and how long it waits in between.
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
    // not while somebody fills it; see `Disks::fill`
    ready: AtomicBool,
    /// The client that may write to it.
    pub claim: Claim,
    /// NBD connections that may write to it.
    pub writers: Arc<AtomicU64>,
    /// What its guests ask.
    pub traffic: Arc<Traffic>,
    deleted: AtomicBool,
    // held while a client is told the size, and while the size changes
    told: Mutex<()>,
}

/// A disk as one client holds it.
pub struct Attached {
    /// The disk.
    pub disk: Arc<Disk>,
    /// The size the client is told. It stays, whatever becomes of the disk's.
    pub size: ByteCount,
    writers: Arc<AtomicU64>,
    traffic: Arc<Traffic>,
    requests: Arc<Counter>,
}

impl Attached {
    /// Counts a request of this client.
    pub fn count_request(&self) {
        self.requests.count();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.writers.fetch_sub(1, Ordering::SeqCst);
        self.traffic.close(&self.requests);
    }
}

impl Named {
    /// The disk, if it serves and is whole.
    ///
    /// # Errors
    /// Why it could not be opened; `Unavailable` while it is being filled.
    pub fn disk(&self) -> Result<&Arc<Disk>> {
        if !self.ready.load(Ordering::SeqCst) {
            let error = Error::said(Kind::Unavailable, format!("disk {}", self.name), "is being filled");
            return Err(error.with_help(format!(
                "wait for `disk create` to end; if it was interrupted: blockctl disk delete {}",
                self.name
            )));
        }
        self.served()
    }

    fn served(&self) -> Result<&Arc<Disk>> {
        if self.is_deleted() {
            return Err(Error::said(Kind::Conflict, format!("disk {}", self.name), "was deleted meanwhile"));
        }
        self.open.as_ref().map_err(|body| Error::said_before(format!("disk {}", self.name), body))
    }

    /// Whether it was deleted since it was looked up.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::SeqCst)
    }

    /// What did not work out because it was deleted meanwhile.
    pub fn deleted_while(&self, doing: impl Into<String>) -> Error {
        Error::said(Kind::Conflict, doing, format!("disk {} was deleted meanwhile", self.name))
            .with_help("points of it that a vault holds are still there: `blockctl point list`")
    }

    /// An error of its layers in the words people use: they know the disk by its id.
    pub fn failed(&self, doing: impl Into<String>, error: layers::Error) -> Error {
        let why = match &error {
            _ if self.is_deleted() => return self.deleted_while(doing),
            layers::Error::NotAnAncestor { .. } => {
                let why = format!("the history of disk {} does not lead from one to the other", self.name);
                return Error::said(Kind::Conflict, doing, why)
                    .with_help("it is a point of an earlier disk of that name; without --since all that was ever written is named");
            }
            layers::Error::Hurt { hurt, .. } => format!("disk {}: {hurt}", self.name),
            layers::Error::NoSuchPoint { .. } => "the recovery point was deleted meanwhile".to_owned(),
            layers::Error::Closed { .. } => format!("disk {} is being closed", self.name),
            layers::Error::Poisoned { why, .. } => {
                format!("disk {} stopped after a failed sync: {why}", self.name)
            }
            layers::Error::TooMany { what, limit, .. } => {
                format!("disk {} cannot have more than {limit} {what}", self.name)
            }
            _ => return Error::below(doing, error),
        };
        Error::said(crate::error::wire_kind(error.kind()), doing, why)
    }

    fn new(id: DiskId, file: DiskFile, open: Result<Arc<Disk>, ErrorBody>, ready: bool) -> Self {
        let DiskFile { name, created, shared, awaits_release } = file;
        let claim = Claim::new(&name, shared, awaits_release);
        let (writers, traffic, told) = (Arc::default(), Arc::default(), Mutex::default());
        let (ready, deleted) = (AtomicBool::new(ready), AtomicBool::new(false));
        Self { id, name, created, open, ready, claim, writers, traffic, deleted, told }
    }

    /// Whether no client is connected, once one that said good-bye just now is gone.
    fn is_left_alone(&self) -> bool {
        let is_free = || self.writers.load(Ordering::SeqCst) == 0;
        for _ in 0..RELEASE_TRIES {
            if is_free() {
                return true;
            }
            std::thread::sleep(RELEASE_PAUSE);
        }
        is_free()
    }

    /// What the name file says of it while it is served.
    fn stage(&self) -> Stage {
        if self.ready.load(Ordering::SeqCst) { Stage::Disk } else { Stage::Making }
    }

    /// Counts one more client until the returned value is dropped.
    ///
    /// # Errors
    /// Why the disk could not be opened.
    pub fn attach(&self) -> Result<Attached> {
        let disk = self.served()?.clone();
        let _told = lock(&self.told);
        self.writers.fetch_add(1, Ordering::SeqCst);
        let size = block::BlockSource::size(&*disk);
        let (writers, traffic) = (self.writers.clone(), self.traffic.clone());
        let requests = traffic.counter();
        Ok(Attached { disk, size, writers, traffic, requests })
    }

    /// The disk as the API shows it.
    pub fn show(&self, uri: String) -> control::Disk {
        let disk = self.open.as_ref().ok();
        let usage = disk.map(|disk| disk.usage());
        let unknown = usage.as_ref().and_then(|usage| usage.as_ref().err()).map(|error| ErrorBody {
            kind: crate::error::wire_kind(Failure::kind(error)),
            message: control::with_causes(error),
            help: None,
        });
        let usage = usage.and_then(Result::ok);
        control::Disk {
            name: self.name.clone(),
            id: self.id.to_string(),
            size: disk.map(|disk| block::BlockSource::size(&**disk).get()),
            stored: usage.map(|usage| usage.data.get() + usage.maps.get()),
            maps: usage.map(|usage| usage.maps.get()),
            index: usage.map(|usage| usage.index.get()),
            uri,
            created: self.created.clone(),
            state: match (self.trouble(), self.stage()) {
                (Some(_), _) => DiskState::Failed,
                (None, Stage::Disk) => DiskState::Ready,
                (None, _) => DiskState::Filling,
            },
            error: self.trouble().or(unknown),
            opened: disk.map(|disk| opened(disk.opened()).to_owned()),
            points: disk.map_or(0, |disk| disk.points().len() as u64),
            writers: self.writers.load(Ordering::Relaxed),
            consolidation: disk
                .map(|disk| disk.fold_progress())
                .filter(|left| left.layers > 0)
                .map(left_to_fold),
            damage: disk.map_or_else(Vec::new, |disk| {
                disk.damage_met().iter().map(|hurt| crate::scrub::met(&self.name, hurt)).collect()
            }),
            clients: self.claim.clients(),
            shared: self.claim.is_shared(),
            awaits_release: self.claim.awaits_release(),
        }
    }

    /// The same disk as another attempt to open it left it.
    pub fn reopened(&self, open: Result<Arc<Disk>, ErrorBody>) -> Self {
        let (name, created) = (self.name.clone(), self.created.clone());
        let (writers, traffic) = (self.writers.clone(), self.traffic.clone());
        let deleted = AtomicBool::new(self.is_deleted());
        let (ready, told) = (AtomicBool::new(self.stage() == Stage::Disk), Mutex::default());
        let claim = self.claim.clone();
        Self { id: self.id, name, created, open, ready, claim, writers, traffic, deleted, told }
    }

    /// Why it does not serve: it could not be opened, or a sync failed since.
    fn trouble(&self) -> Option<ErrorBody> {
        match &self.open {
            Ok(disk) => {
                disk.poisoned_by().map(|error| Error::below(format!("disk {}", self.name), error).body())
            }
            Err(body) => Some(body.clone()),
        }
    }
}

fn left_to_fold(left: FoldProgress) -> control::Consolidation {
    let (bytes_total, bytes_done) = (left.bytes_total.get(), left.bytes_done.get());
    control::Consolidation { layers: left.layers as u64, bytes_total, bytes_done }
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
    /// Held while a disk is opened again.
    pub recovering: Mutex<()>,
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

    /// The disks an item names: one disk, or all disks of a machine by name.
    ///
    /// # Errors
    /// As [`get`](Self::get); `NotFound` for a machine without disks.
    pub fn of(&self, item: &str) -> Result<Vec<Arc<Named>>> {
        if !names::is_machine(item) {
            return Ok(vec![self.get(item)?]);
        }
        let disks =
            self.all().into_iter().filter(|named| names::is_of(item, &named.name)).collect::<Vec<_>>();
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

    /// Makes a disk: an empty one is filled by `fill` before it exists under its name.
    ///
    /// # Errors
    /// `Conflict` if the name is taken; what `fill` reports. Nothing is left then.
    pub fn create(
        &self,
        id: DiskId,
        name: &str,
        size: ByteCount,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        self.make(id, name, size, Stage::Disk, fill)
    }

    /// Makes an empty disk for a client to fill over NBD. Until [`ready`](Self::ready) it takes connections and nothing
    /// else, and a restart of the daemon removes it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn fill(&self, name: &str, size: ByteCount) -> Result<Arc<Named>> {
        self.make(self.fresh_id()?, name, size, Stage::Making, |_| Ok(()))
    }

    /// The disk was filled: makes what is on it durable, and the disk one like any other.
    ///
    /// # Errors
    /// `Conflict` while a client is connected; what the flush reports. The disk is not ready then.
    pub fn ready(&self, name: &str) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        let doing = || format!("end the filling of disk {name}");
        if !named.is_left_alone() {
            return Err(Error::said(Kind::Conflict, doing(), "a client is connected to it"));
        }
        named.served()?.flush().doing(doing)?;
        let table = lock(&self.table);
        let is_there = table.disks.get(name).is_some_and(|there| Arc::ptr_eq(there, &named));
        if is_there && named.stage() == Stage::Making {
            disk_file::advance(&*self.env.media, named.id, Stage::Making, Stage::Disk)?;
            named.ready.store(true, Ordering::SeqCst);
        }
        drop(table);
        named.disk()?;
        Ok(named)
    }

    fn make(
        &self,
        id: DiskId,
        name: &str,
        size: ByteCount,
        stage: Stage,
        fill: impl FnOnce(&Arc<Disk>) -> Result<()>,
    ) -> Result<Arc<Named>> {
        let _reserved = self.reserve(name)?;
        let doing = || format!("make disk {name}");
        let file = DiskFile::new(name, rfc3339(self.env.clock.now()));
        disk_file::begin(&*self.env.media, id, &file)?;
        let layers = Disk::create(&self.env, &layers_dir(id), id, size).doing(doing);
        let layers = layers.map_err(|error| match error.kind() {
            Kind::Invalid => error.with_help("choose a size from 1 byte to 64T, such as 20G"),
            _ => error,
        });
        let made = layers.and_then(|disk| {
            fill(&disk)?;
            if stage == Stage::Disk {
                disk_file::advance(&*self.env.media, id, Stage::Making, Stage::Disk)?;
            }
            Ok(disk)
        });
        match made {
            Ok(disk) => {
                let named = Arc::new(Named::new(id, file, Ok(disk), stage == Stage::Disk));
                lock(&self.table).disks.insert(name.to_owned(), named.clone());
                Ok(named)
            }
            Err(error) => {
                if let Err(left) = self.unmake(id) {
                    // the marker is still there, so the next start tries again
                    tracing::warn!(disk = %id, "{}", left.body().message);
                }
                Err(error)
            }
        }
    }

    /// Removes a disk that was not made to the end. Its file may already say that it exists, if only the last sync failed.
    fn unmake(&self, id: DiskId) -> Result<()> {
        let is_named = disk_file::find(&*self.env.media)?.files.contains(&(id, Stage::Disk));
        if !is_named {
            return self.sweep(id, Stage::Making);
        }
        disk_file::advance(&*self.env.media, id, Stage::Disk, Stage::Deleting)?;
        self.sweep(id, Stage::Deleting)
    }

    /// Holds a name for a disk that is being made.
    ///
    /// # Errors
    /// `Conflict` if it is taken.
    pub fn reserve(&self, name: &str) -> Result<Reserved<'_>> {
        names::check_disk(name)?;
        let mut table = lock(&self.table);
        if table.disks.contains_key(name) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "exists already")
                .with_help("choose another name, or delete that disk first"));
        }
        if !table.reserved.insert(name.to_owned()) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "is being made")
                .with_help("`blockctl job list` shows the job that makes it"));
        }
        Ok(Reserved { disks: self, name: name.to_owned() })
    }

    /// Makes a disk larger or smaller. Clients keep the size they were told; those who connect later learn the new one.
    ///
    /// # Errors
    /// `Conflict` for a smaller size while a client is connected, unless `attached` says to do it all the same;
    /// `Invalid` for a size that no disk has; `NoSpace`.
    pub fn resize(&self, name: &str, size: ByteCount, attached: bool) -> Result<Arc<Named>> {
        let named = self.get(name)?;
        let disk = named.disk()?;
        {
            let _told = lock(&named.told);
            let is_smaller = size < block::BlockSource::size(&**disk);
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
    /// `NotFound`; what the host reports.
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
        let mut file = disk_file::read(&*self.env.media, named.id)?;
        in_file(&mut file);
        disk_file::change(&*self.env.media, named.id, &file)?;
        now(&named.claim);
        drop(table);
        Ok(named)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, BlockSource, ByteOffset, Entropy, Media, Time};
    use sim::{Cut, Effect, Fault, Op, Rng, SeededEntropy, SimClock, SimMedia};

    fn machine(media: &SimMedia, seed: u64) -> Disks {
        let env = Env {
            media: Arc::new(media.clone()),
            clock: Arc::new(SimClock::new(Time { unix_ms: 1_700_000_000_000 })),
            entropy: Arc::new(SeededEntropy::new(seed)) as Arc<dyn Entropy>,
            journal_room: ByteCount::new(4096),
            fold_batch: ByteCount::new(8192),
        };
        Disks::open(env).expect("the directory can be read").0
    }

    fn fresh() -> SimMedia {
        let media = SimMedia::new();
        media.create_dir(disk_file::DIR).and_then(|()| media.sync_dir("")).expect("a directory");
        media
    }

    /// Makes a disk of sevens.
    fn make(disks: &Disks) -> Result<Arc<Named>> {
        disks.create(disks.fresh_id()?, "web", ByteCount::new(8192), |disk| {
            disk.write_at(ByteOffset::ZERO, &[7; 8192])
                .and_then(|()| disk.flush())
                .doing(|| "fill".to_owned())
        })
    }

    /// A disk under the name is one of sevens; whether there is one.
    fn is_whole(disks: &Disks, context: &str) -> bool {
        let Ok(named) = disks.get("web") else { return false };
        let mut bytes = vec![0; 8192];
        let read =
            named.disk().and_then(|disk| disk.read_at(ByteOffset::ZERO, &mut bytes).doing(String::new));
        assert!(read.is_ok() && bytes == [7; 8192], "{context}: half a disk looks ready");
        true
    }

    #[test]
    fn a_disk_that_could_not_be_made_is_not_there_and_does_not_come_back() {
        let mut failed = 0;
        for op in [Op::Write, Op::Sync, Op::SyncDir, Op::Rename] {
            for calls in 0..12 {
                let media = fresh();
                let disks = machine(&media, calls);
                media.inject(Fault::new(op, Effect::Eio).after(calls));
                let context = format!("{op:?} {calls}");
                let made = make(&disks).is_ok();
                assert_eq!(is_whole(&disks, &context), made, "{context}");
                failed += u32::from(!made);
                drop(disks);
                for media in [media.process_crash(), media.power_cut(&mut Rng::new(calls))] {
                    assert_eq!(is_whole(&machine(&media, 99), &context), made, "{context}, later");
                }
            }
        }
        assert!(failed > 10, "the faults hit");
    }

    #[test]
    fn a_crash_leaves_a_disk_whole_or_not_at_all() {
        let mut seen = HashSet::new();
        for step in 0..80 {
            let media = fresh();
            let disks = machine(&media, step);
            media.crash_after(step, Cut::AfterEffect);
            let made = make(&disks).is_ok();
            drop(disks);
            for media in [media.process_crash(), media.power_cut(&mut Rng::new(step))] {
                let whole = is_whole(&machine(&media, 99), &format!("step {step}"));
                assert!(whole || !made, "step {step}: it was answered for");
                seen.insert(whole);
            }
        }
        assert_eq!(seen.len(), 2, "crashes before and after the end");
    }
}
