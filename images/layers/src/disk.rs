//! A disk that is open: its parts, and how writers enter it.

use crate::active::{Active, Place};
use crate::budget::Budget;
use crate::chain::{Chain, EpochRecord};
use crate::damage::Damage;
use crate::data_file;
use crate::flush::Flusher;
use crate::fold::{Fold, Progress};
use crate::identity::{self, Identity};
use crate::names::{self, Numbered};
use crate::poison::{Poison, heals, never_began};
use crate::seen::Seen;
use crate::source::Sources;
use crate::succession::Succession;
use crate::view::{Below, Retired, View};
use crate::{Error, Result};
use block::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use block::sync::{Arc, Condvar, Loaded, Mutex, lock, wait};
use block::{
    ByteCount, ByteRange, Clock, DiskId, Entropy, Epoch, Kind, Lock, Media, OpenHow, Session, planted,
};

/// What a disk needs of the world.
#[derive(Clone)]
pub struct Env {
    /// Where its files are.
    pub media: Arc<dyn Media>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where ids and nonces come from.
    pub entropy: Arc<dyn Entropy>,
    /// Bytes set aside in each new layer for map changes between two checkpoints; [`JOURNAL_ROOM`] suits.
    pub journal_room: ByteCount,
    /// Bytes a fold copies between two commits of the chain, and so the most that is stored twice; [`FOLD_BATCH`] suits.
    pub fold_batch: ByteCount,
    /// How much the disks may grow together.
    pub budget: Budget,
}

/// Bytes between two commits of a fold: large beside what a commit costs, small beside a disk.
pub const FOLD_BATCH: ByteCount = ByteCount::new(16 << 20);

/// Room in a map journal: about 65,000 changed words between two checkpoints.
pub const JOURNAL_ROOM: ByteCount = ByteCount::new(1 << 20);

impl Env {
    /// The host itself: disks below `root`, live maps below `volatile`; see [`block::linux::LinuxMedia::new`].
    ///
    /// # Errors
    /// `NotFound` if either directory is missing.
    #[cfg(not(blockd_shuttle))]
    pub fn linux(root: &std::path::Path, volatile: &std::path::Path) -> Result<Self> {
        Ok(Self {
            media: Arc::new(block::linux::LinuxMedia::new(root, volatile)?),
            clock: Arc::new(block::linux::SystemClock),
            entropy: Arc::new(block::linux::KernelEntropy),
            journal_room: JOURNAL_ROOM,
            fold_batch: FOLD_BATCH,
            budget: Budget::default(),
        })
    }
}

/// What an open found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The disk was just made.
    Created,
    /// It had been closed in order.
    Clean,
    /// The daemon had died, the host had not: nothing acknowledged is lost.
    LiveMap,
    /// The host had lost power, or cannot prove it had not: everything flushed is there, what was written after the
    /// last flush is old or new block by block.
    Committed,
}

/// An open disk. It may be shared by any number of threads.
pub struct Disk {
    pub(crate) env: Env,
    pub(crate) dir: String,
    pub(crate) id: DiskId,
    pub(crate) session: Session,
    pub(crate) opened: Opened,
    pub(crate) view: Succession<View>,
    /// Even: the serial of the newest view. Odd: writers wait.
    pub(crate) serial: AtomicU64,
    waiting: Mutex<()>,
    may_write: Condvar,
    pub(crate) roots: Mutex<Roots>,
    pub(crate) flusher: Flusher,
    pub(crate) poison: Poison,
    pub(crate) damage: Arc<Damage>,
    pub(crate) seen: Seen,
    /// Held by whoever writes sums. Taken after the roots, if both are.
    pub(crate) summing: Mutex<()>,
    pub(crate) sources: Sources,
    /// The fold under way; held for the length of a step.
    pub(crate) fold: Mutex<Option<Fold>>,
    pub(crate) progress: Progress,
    pub(crate) has_room: AtomicBool,
    is_closed: AtomicBool,
    /// Nothing of the disk's files may be read or changed through this value any more.
    is_abandoned: AtomicBool,
    /// Until it is abandoned.
    held: Mutex<Option<Box<dyn Lock>>>,
}

/// What only one thread at a time may change: the chain and what follows from it.
pub(crate) struct Roots {
    pub(crate) chain: Chain,
    /// No new epoch is numbered below.
    pub(crate) least_epoch: Epoch,
    /// A seal whose layer is frozen but whose record is not durable.
    pub(crate) unsealed: Option<Unsealed>,
    /// Numbers of the two layers of the fold under way.
    pub(crate) folding: Option<[u64; 2]>,
    /// Slots whose layer left the index, each until nobody can still look it up.
    pub(crate) retired: Vec<Retired>,
}

impl Roots {
    /// Whether a fold is changing this layer, or was when the disk was last open.
    pub(crate) fn is_folding(&self, layer: u64) -> bool {
        let recorded = self.chain.fold.is_some_and(|fold| [fold.source, fold.target].contains(&layer));
        recorded || self.folding.is_some_and(|pair| pair.contains(&layer))
    }
}

/// A seal not yet durable.
pub(crate) struct Unsealed {
    pub(crate) layer: Arc<Active>,
    pub(crate) map: u64,
    pub(crate) record: EpochRecord,
}

/// A writer's permission: as long as it is held, the view's active layer is not final.
pub(crate) struct Pass {
    view: Loaded<View>,
    shard: usize,
}

impl Pass {
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn active(&self) -> &Active {
        &self.view.active
    }

    /// The disk's size for as long as this writer is inside.
    pub(crate) fn size(&self) -> ByteCount {
        self.view.size
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.view.active.in_flight.leave(self.shard);
    }
}

/// The parts of a disk that opening or making it found.
pub(crate) struct Parts {
    pub(crate) env: Env,
    pub(crate) dir: String,
    pub(crate) session: Session,
    pub(crate) opened: Opened,
    pub(crate) chain: Chain,
    pub(crate) active: Arc<Active>,
    pub(crate) below: Below,
    pub(crate) unsealed: Option<Unsealed>,
    pub(crate) lock: Box<dyn Lock>,
}

impl Disk {
    pub(crate) fn assemble(parts: Parts) -> Arc<Self> {
        let Parts { env, dir, session, opened, chain, active, below, unsealed, lock } = parts;
        let view = View { serial: 0, size: chain.size, active, below, is_sealing: unsealed.is_some() };
        let damage = Arc::new(Damage::new(env.clone(), dir.clone(), chain.clone()));
        let seen = Seen::new(env.media.clone(), chain.size.blocks());
        Arc::new(Self {
            env,
            dir,
            id: chain.disk,
            session,
            opened,
            view: Succession::new(Arc::new(view)),
            serial: AtomicU64::new(0),
            waiting: Mutex::new(()),
            may_write: Condvar::new(),
            roots: Mutex::new(Roots {
                chain,
                least_epoch: Epoch::new(1),
                unsealed,
                folding: None,
                retired: Vec::new(),
            }),
            flusher: Flusher::default(),
            poison: Poison::default(),
            damage,
            seen,
            summing: Mutex::new(()),
            sources: Sources::default(),
            fold: Mutex::default(),
            progress: Progress::default(),
            has_room: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            held: Mutex::new(Some(lock)),
        })
    }

    /// The disk's id.
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// What opening it found.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            media: &*self.env.media,
            entropy: &*self.env.entropy,
            journal_room: self.env.journal_room,
            dir: &self.dir,
            disk: self.id,
            size: self.view.load().size,
        }
    }

    pub(crate) fn identity(&self, chain: &Chain) -> Identity {
        Identity {
            disk: self.id,
            layer: chain.active,
            blocks: chain.size.blocks(),
            session: self.session,
            nonce: chain.nonce,
        }
    }

    /// Enters as a writer; waits while a seal redirects writers.
    ///
    /// # Errors
    /// `Poisoned` or `Closed`.
    pub(crate) fn enter(&self) -> Result<Pass> {
        loop {
            self.check()?;
            let view = self.view.load();
            let shard = view.active.in_flight.enter();
            let pass = Pass { view, shard };
            let serial = self.serial.load(Ordering::SeqCst);
            if serial == pass.view.serial {
                return Ok(pass);
            }
            drop(pass);
            self.wait_while_barred();
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed { disk: self.id });
        }
        self.poison.check(self.id)
    }

    fn wait_while_barred(&self) {
        let mut waiting = lock(&self.waiting);
        while self.serial.load(Ordering::SeqCst) % 2 == 1 {
            waiting = wait(&self.may_write, waiting);
        }
    }

    /// Makes new writers wait until the next [`admit_writers`](Self::admit_writers). Writers inside go on.
    pub(crate) fn bar_writers(&self) {
        let _waiting = lock(&self.waiting);
        self.serial.fetch_add(1, Ordering::SeqCst);
    }

    /// Publishes a view and lets writers in. Writers were barred.
    pub(crate) fn admit_writers(&self, mut view: View) {
        let _waiting = lock(&self.waiting);
        view.serial = self.serial.load(Ordering::SeqCst) + 1;
        self.view.replace(Arc::new(view));
        self.serial.fetch_add(1, Ordering::SeqCst);
        self.may_write.notify_all();
    }

    /// Replaces what lies below the active layer, without barring writers.
    pub(crate) fn publish_below(&self, below: Below, is_sealing: bool) {
        let next = {
            let now = self.view.load();
            View { serial: now.serial, size: now.size, active: now.active.clone(), below, is_sealing }
        };
        self.view.replace(Arc::new(next));
    }

    /// Fails once the disk was abandoned.
    pub(crate) fn check_held(&self) -> block::Result<()> {
        if self.is_abandoned.load(Ordering::Relaxed) {
            Err(Error::Closed { disk: self.id }.into())
        } else {
            Ok(())
        }
    }

    /// Ends the disk's promises after a failed sync.
    pub(crate) fn poisoned(&self, error: block::Error) -> Error {
        let view = self.view.load();
        for layer in std::iter::once(&view.active).chain(&view.below.pending) {
            identity::poison(layer.map.memory());
        }
        self.poison.set(&error);
        error.into()
    }

    /// Poisons unless room or descriptors heal it.
    pub(crate) fn poisoned_unless_it_heals(&self, error: block::Error) -> Error {
        if heals(&error) { error.into() } else { self.poisoned(error) }
    }

    /// What a failed sync means: the end of the disk's promises, unless it never began.
    pub(crate) fn failed_sync(&self, error: block::Error) -> Error {
        if never_began(&error) { error.into() } else { self.poisoned(error) }
    }

    /// Makes a chain the disk's chain: written beside the old one, synced, renamed over it, directory synced.
    ///
    /// # Errors
    /// `NoSpace` and a lack of descriptors heal: the old chain stands, or the new one that the next commit replaces.
    /// Any other error poisons the disk: which chain stands is not known.
    pub(crate) fn commit_chain(&self, roots: &mut Roots, next: Chain) -> Result<()> {
        self.try_commit(roots, next).map_err(|error| match error {
            ChainFailure::Before(error) => self.poisoned_unless_it_heals(error),
            ChainFailure::After(error) => self.failed_sync(error),
        })
    }

    /// As [`commit_chain`](Self::commit_chain), for a caller to whom it matters which chain stands. After a failure
    /// the disk goes on with the old one.
    pub(crate) fn try_commit(&self, roots: &mut Roots, mut next: Chain) -> Result<(), ChainFailure> {
        self.check_held().map_err(ChainFailure::Before)?;
        next.generation = roots.chain.next_generation();
        let view = self.view.load();
        let live: Vec<_> = std::iter::once(&view.active).chain(&view.below.pending).collect();
        live.iter().for_each(|layer| identity::announce_generation(layer.map.memory(), next.generation));
        write_chain(&*self.env.media, &self.dir, &next)?;
        live.iter().for_each(|layer| identity::settle_generation(layer.map.memory(), next.generation));
        self.damage.chain.store(Arc::new(next.clone()));
        roots.chain = next;
        Ok(())
    }

    /// Removes files that the chain no longer names. What cannot be removed now is removed at the next open.
    pub(crate) fn remove_files(&self, files: &[Numbered]) {
        for file in files {
            let path = file.path(&self.dir);
            let removed = self.env.media.remove(&path);
            if let Err(error) =
                removed.or_else(|error| if error.kind() == Kind::NotFound { Ok(()) } else { Err(error) })
            {
                tracing::warn!(disk = %self.id, %path, %error, "left for the next open to remove");
            }
        }
    }

    /// Removes the bytes of a layer of this many blocks; as [`remove_files`](Self::remove_files).
    pub(crate) fn remove_layer(&self, number: u64, blocks: u64) {
        let files: Vec<_> = data_file::segments(number, blocks).map(|(name, _)| name).collect();
        self.remove_files(&files);
    }

    /// Forgets the live map of a layer that is no longer active.
    pub(crate) fn forget_live_map(&self, layer: u64) {
        if let Err(error) = self.env.media.remove_volatile(&names::live_map(self.id, layer)) {
            tracing::warn!(disk = %self.id, layer, %error, "a live map is left for the next open to remove");
        }
    }

    /// Flushes, marks the disk closed in order and refuses all later writes.
    ///
    /// # Errors
    /// As a flush; the disk then opens as after a crash.
    pub fn close(&self) -> Result<()> {
        let mut roots = lock(&self.roots);
        self.bar_writers();
        let view = self.view.load();
        let active = view.active.clone();
        let below = view.below.clone();
        let next =
            View { serial: 0, size: view.size, active: active.clone(), below, is_sealing: view.is_sealing };
        let was_closed = self.is_closed.swap(true, Ordering::SeqCst);
        self.admit_writers(next);
        if was_closed {
            return Ok(());
        }
        active.in_flight.wait_until_empty();
        self.complete_seal(&mut roots)?;
        if let Some(hydrated) = view.below.ground.as_ref().and_then(|ground| ground.hydrated()) {
            hydrated.layer.in_flight.wait_until_empty();
            self.commit_layer(&hydrated.layer)?;
        }
        self.commit_layer(&active)?;
        let clean = Some(self.settle_committed(&active)?);
        let next = Chain { clean, ..roots.chain.clone() };
        self.commit_chain(&mut roots, next)?;
        self.forget_live_map(active.number);
        Ok(())
    }
}

impl Disk {
    /// Why the disk's promises ended, if they did: a sync failed.
    pub fn poisoned_by(&self) -> Option<Error> {
        self.poison.check(self.id).err()
    }

    /// Gives up a disk whose promises ended, so that it can be opened anew, at its last committed state. Whoever still holds
    /// it gets `Closed` for every request. Returns when nothing can touch the disk's files through this value any more.
    ///
    /// # Errors
    /// `Conflict` if no sync failed: then [`close`](Self::close) is what ends it.
    pub fn abandon(&self) -> Result<()> {
        if self.poisoned_by().is_none() {
            let why = "no sync of it failed; there is nothing to recover from".to_owned();
            return Err(block::Error::Conflict { what: format!("disk {}", self.id), why }.into());
        }
        let _no_fold = lock(&self.fold);
        let _no_commit = lock(&self.roots);
        self.is_closed.store(true, Ordering::SeqCst);
        self.is_abandoned.store(true, Ordering::SeqCst);
        self.bar_writers();
        let now = self.view.load();
        let (active, below) = (now.active.clone(), now.below.clone());
        let (size, is_sealing) = (now.size, now.is_sealing);
        self.admit_writers(View { serial: 0, size, active: active.clone(), below, is_sealing });
        let inside = std::iter::once(&active).chain(&now.below.pending);
        let hydrated = now.below.ground.as_ref().and_then(|ground| ground.hydrated());
        let inside = inside.chain(hydrated.map(|hydrated| &hydrated.layer));
        inside.for_each(|layer| layer.in_flight.wait_until_empty());
        drop(hydrated.map(|hydrated| lock(&hydrated.settling)));
        self.wait_for_flush();
        drop(lock(&self.summing));
        lock(&self.held).take();
        Ok(())
    }
}

/// When replacing the chain failed.
pub(crate) enum ChainFailure {
    /// Before the new one could be seen.
    Before(block::Error),
    /// When it may be seen or not.
    After(block::Error),
}

impl ChainFailure {
    pub(crate) fn into_error(self) -> block::Error {
        match self {
            Self::Before(error) | Self::After(error) => error,
        }
    }
}

/// Replaces the chain file.
pub(crate) fn write_chain(media: &dyn Media, dir: &str, chain: &Chain) -> Result<(), ChainFailure> {
    let path = format!("{dir}/{}", names::CHAIN);
    let fresh = format!("{dir}/{}", names::CHAIN_NEW);
    let bytes = chain.encode();
    let before = ChainFailure::Before;
    // the spare has real blocks already, so that a full filesystem does not stand in the way
    let file = media
        .open(&fresh, OpenHow::Write)
        .or_else(|_| media.open(&fresh, OpenHow::Create))
        .map_err(before)?;
    file.write_at(0, &bytes).map_err(before)?;
    file.set_len(bytes.len() as u64).map_err(before)?;
    file.sync().map_err(ChainFailure::After)?;
    media.rename(&fresh, &path).map_err(ChainFailure::After)?;
    if !planted!("chain-without-directory-sync") {
        media.sync_dir(dir).map_err(ChainFailure::After)?;
    }
    make_spare(media, &fresh, bytes.len() as u64);
    Ok(())
}

/// Sets blocks aside for the next chain. Where they cannot be had, the next commit asks for them itself.
fn make_spare(media: &dyn Media, path: &str, len: u64) {
    /// Room for the chain to grow by a few records.
    const SLACK_BYTES: u64 = 16 << 10;
    let made = media
        .open(path, OpenHow::Truncate)
        .and_then(|file| file.allocate(ByteRange::between(0, len + SLACK_BYTES)));
    if let Err(error) = made {
        tracing::debug!(%path, %error, "no room set aside for the next chain");
    }
}
