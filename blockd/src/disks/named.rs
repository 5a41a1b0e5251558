//! A disk under its name: whether it serves, who is connected, what went wrong.

use super::Ground;
use super::attachments::{Attachments, Hold, Inside};
use crate::bases::{BaseRecord, HeldImage, ImageRecord, StoredPoint};
use crate::claim::Claim;
use crate::disk_file::{DiskFile, ReplaceRecord, RunRecord, Stage};
use crate::error::{Error, Result};
use crate::traffic::{Counter, Traffic};
use block::sync::{Mutex, lock};
use block::{ByteCount, DiskId, StateId};
use control::{ErrorBody, Kind};
use layers::Disk;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often it is looked whether the last reader or writer of a disk is gone, and how long it waits in between.
pub(super) const RELEASE_TRIES: usize = 100;
pub(super) const RELEASE_PAUSE: Duration = Duration::from_millis(20);
/// A disk with a name.
pub struct Named {
    /// Its id.
    pub id: DiskId,
    /// Its name.
    pub name: String,
    pub(super) created: String,
    pub(super) open: Result<Arc<Disk>, ErrorBody>,
    /// Where what it stands on is.
    pub base: Option<BaseRecord>,
    pub(super) ground: Option<Ground>,
    /// How it runs from that, if it is a run.
    pub run: Option<RunRecord>,
    // the recovery point that is taking the place of what it holds
    pub(super) replacing: Arc<Mutex<Option<ReplaceRecord>>>,
    attachments: Attachments,
    // not while somebody fills it; see `Disks::fill`
    pub(super) ready: AtomicBool,
    /// The client that may write to it.
    pub claim: Claim,
    /// NBD connections that may write to it.
    pub writers: Arc<AtomicU64>,
    /// What its guests ask.
    pub traffic: Arc<Traffic>,
    pub(super) deleted: Arc<AtomicBool>,
    // held while a client is told the size, and while the size changes
    pub(super) told: Arc<Mutex<()>>,
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
    hold: Arc<Hold>,
}

impl Attached {
    /// Begins a request of this client.
    ///
    /// # Errors
    /// `Unavailable` once the client was cut off.
    pub fn request(&self) -> block::Result<Inside<'_>> {
        self.requests.count();
        self.hold.enter()
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
        self.filled()?;
        self.served()
    }

    /// Whether nobody fills it any more. Until then it is open, and only whoever fills it may work with it.
    ///
    /// # Errors
    /// `Unavailable` while it is being filled.
    pub fn filled(&self) -> Result<()> {
        if self.ready.load(Ordering::SeqCst) {
            return Ok(());
        }
        let error = Error::said(Kind::Unavailable, format!("disk {}", self.name), "is being filled");
        Err(error.with_help(format!(
            "wait for `disk create` to end; if it was interrupted: blockctl disk delete {}",
            self.name
        )))
    }

    /// The disk, if it serves, also while it is being filled.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub fn served(&self) -> Result<&Arc<Disk>> {
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

    pub(super) fn new(id: DiskId, file: DiskFile, open: Opening, ready: bool) -> Self {
        let DiskFile { name, created, shared, awaits_release, base, run, replaced, restored: _ } = file;
        let claim = Claim::new(&name, shared, awaits_release);
        let (writers, traffic, told) = (Arc::default(), Arc::default(), Arc::default());
        let (ready, deleted) = (AtomicBool::new(ready), Arc::default());
        let (open, ground) = taken_apart(open);
        let replacing = Arc::new(Mutex::new(replaced.filter(|replaced| !replaced.done)));
        Self {
            id,
            name,
            created,
            open,
            base,
            ground,
            run,
            replacing,
            attachments: Attachments::default(),
            ready,
            claim,
            writers,
            traffic,
            deleted,
            told,
        }
    }

    /// The disk whose point it stands on, and the point's state.
    pub fn stands_on(&self) -> Option<(DiskId, StateId)> {
        self.base.as_ref()?.point()
    }

    /// Holds the files it stands on against what they were.
    ///
    /// # Errors
    /// `Conflict` naming a file that changed behind us: the disk reads it now, and will not open again on it.
    pub fn check_base(&self) -> Result<()> {
        self.held_image().map_or(Ok(()), |(held, image)| held.check(image))
    }

    /// Looks only whether what it reads is what it was.
    ///
    /// # Errors
    /// `Conflict` naming a file that was written to.
    pub fn check_base_bytes(&self) -> Result<()> {
        self.held_image().map_or(Ok(()), |(held, image)| held.check_bytes(image))
    }

    fn held_image(&self) -> Option<(&HeldImage, &ImageRecord)> {
        match (&self.ground, self.base.as_ref().and_then(BaseRecord::image)) {
            (Some(Ground::Image(held)), Some(image)) => Some((held, image)),
            _ => None,
        }
    }

    /// Whether no client is connected, once one that said good-bye just now is gone.
    pub fn is_left_alone(&self) -> bool {
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
    pub(super) fn stage(&self) -> Stage {
        if self.ready.load(Ordering::SeqCst) { Stage::Disk } else { Stage::Making }
    }

    /// Whether no recovery point is taking the place of what it holds. Until that ended it is neither the one nor the other.
    ///
    /// # Errors
    /// `Unavailable` while one is.
    pub fn unreplaced(&self) -> Result<()> {
        let Some(record) = lock(&self.replacing).clone() else { return Ok(()) };
        let why = format!("{} is taking the place of what it held", record.name);
        Err(Error::said(Kind::Unavailable, format!("disk {}", self.name), why).with_help(format!(
            "`blockctl job list` shows the restore; `blockctl restore disk --replace {} --undo` puts back what was there",
            self.name
        )))
    }

    /// Cuts off whoever is connected: none of them reads or writes any more.
    pub fn cut_off(&self) {
        self.attachments.cut_off();
    }

    /// The point of a vault that it stands on, open.
    pub fn stored_point(&self) -> Option<&Arc<StoredPoint>> {
        match &self.ground {
            Some(Ground::Stored(stored)) => Some(stored),
            _ => None,
        }
    }

    /// Counts one more client until the returned value is dropped.
    ///
    /// # Errors
    /// Why the disk could not be opened.
    pub fn attach(&self) -> Result<Attached> {
        // nobody comes in between the last look at who is connected and the end of a disk
        let _told = lock(&self.told);
        let disk = self.served()?.clone();
        self.unreplaced()?;
        self.writers.fetch_add(1, Ordering::SeqCst);
        let size = block::BlockSource::size(&*disk);
        let (writers, traffic) = (self.writers.clone(), self.traffic.clone());
        let (requests, hold) = (traffic.counter(), self.attachments.add());
        Ok(Attached { disk, size, writers, traffic, requests, hold })
    }

    /// The same disk as another attempt to open it left it.
    pub fn reopened(&self, open: Opening) -> Self {
        let is_released = open.as_ref().is_ok_and(|(disk, _)| !disk.stands());
        let base = self.base.clone().filter(|_| !is_released);
        let run = self.run.filter(|_| !is_released);
        Self { run, ..self.reopened_on(base, open) }
    }

    /// The same disk, once it stands on nothing or runs in another way.
    pub(super) fn running(&self, base: Option<BaseRecord>, run: Option<RunRecord>) -> Self {
        let ground = self.ground.clone().filter(|_| base.is_some());
        let open = self.open.clone().map(|disk| (disk, ground));
        Self { run, ..self.reopened_on(base, open) }
    }

    /// The same disk under another name.
    pub(super) fn renamed(&self, name: &str) -> Self {
        let open = self.open.clone().map(|disk| (disk, self.ground.clone()));
        let claim = self.claim.renamed(name);
        Self { name: name.to_owned(), claim, ..self.reopened_on(self.base.clone(), open) }
    }

    /// The same disk on this base, as another attempt to open it left it.
    pub fn reopened_on(&self, base: Option<BaseRecord>, open: Opening) -> Self {
        let (name, created) = (self.name.clone(), self.created.clone());
        let (writers, traffic) = (self.writers.clone(), self.traffic.clone());
        let (ready, deleted) = (AtomicBool::new(self.stage() == Stage::Disk), self.deleted.clone());
        let claim = self.claim.clone();
        let (open, ground) = taken_apart(open);
        let (run, replacing) = (self.run, self.replacing.clone());
        let (attachments, told) = (self.attachments.clone(), self.told.clone());
        Self {
            id: self.id,
            name,
            created,
            open,
            base,
            ground,
            run,
            replacing,
            attachments,
            ready,
            claim,
            writers,
            traffic,
            deleted,
            told,
        }
    }

    /// Why it does not serve: it could not be opened, or a sync failed since.
    pub(super) fn trouble(&self) -> Option<ErrorBody> {
        match &self.open {
            Ok(disk) => {
                disk.poisoned_by().map(|error| Error::below(format!("disk {}", self.name), error).body())
            }
            Err(body) => Some(body.clone()),
        }
    }
}

/// How an attempt to open a disk ended: the disk and what it stands on, or why not.
pub type Opening = Result<(Arc<Disk>, Option<Ground>), ErrorBody>;

fn taken_apart(open: Opening) -> (Result<Arc<Disk>, ErrorBody>, Option<Ground>) {
    match open {
        Ok((disk, ground)) => (Ok(disk), ground),
        Err(body) => (Err(body), None),
    }
}
