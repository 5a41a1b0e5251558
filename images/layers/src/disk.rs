//! A disk that is open: its parts, and how writers enter it.

use crate::active::{Active, Place};
use crate::chain::{Chain, EpochRecord};
use crate::data_file;
use crate::flush::Flusher;
use crate::identity::{self, Identity};
use crate::names::{self, Numbered};
use crate::poison::{Poison, heals, never_began};
use crate::view::{Below, Layer, View};
use crate::{Error, Result};
use block::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use block::sync::{Arc, Condvar, Loaded, Mutex, Published, lock, wait};
use block::{
    ByteCount, ByteRange, Clock, DiskId, Entropy, Generation, Kind, Lock, Media, OpenHow, Session, planted,
};
use std::sync::Weak;

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
}

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

/// Bytes a disk takes on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In layers.
    pub data: ByteCount,
    /// In maps and journals.
    pub maps: ByteCount,
    /// How many layers there are, the active one included.
    pub layers: usize,
}

/// An open disk. It may be shared by any number of threads.
pub struct Disk {
    pub(crate) env: Env,
    pub(crate) dir: String,
    pub(crate) id: DiskId,
    pub(crate) size: ByteCount,
    pub(crate) session: Session,
    pub(crate) opened: Opened,
    pub(crate) view: Published<View>,
    /// Even: the serial of the newest view. Odd: writers wait.
    pub(crate) serial: AtomicU64,
    waiting: Mutex<()>,
    may_write: Condvar,
    pub(crate) roots: Mutex<Roots>,
    pub(crate) flusher: Flusher,
    pub(crate) poison: Poison,
    is_closed: AtomicBool,
    _lock: Box<dyn Lock>,
}

/// What only one thread at a time may change: the chain and what follows from it.
pub(crate) struct Roots {
    pub(crate) chain: Chain,
    /// A seal whose layer is frozen but whose record is not durable.
    pub(crate) unsealed: Option<Unsealed>,
    /// Slots whose layer left the index, each until nobody can still look it up.
    pub(crate) retired: Vec<(u16, Weak<Layer>)>,
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
        let view = View { serial: 0, active, below, is_sealing: unsealed.is_some() };
        Arc::new(Self {
            env,
            dir,
            id: chain.disk,
            size: chain.size,
            session,
            opened,
            view: Published::new(Arc::new(view)),
            serial: AtomicU64::new(0),
            waiting: Mutex::new(()),
            may_write: Condvar::new(),
            roots: Mutex::new(Roots { chain, unsealed, retired: Vec::new() }),
            flusher: Flusher::default(),
            poison: Poison::default(),
            is_closed: AtomicBool::new(false),
            _lock: lock,
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
            size: self.size,
        }
    }

    pub(crate) fn identity(&self, chain: &Chain) -> Identity {
        Identity {
            disk: self.id,
            layer: chain.active,
            blocks: self.size.blocks(),
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
        self.view.store(Arc::new(view));
        self.serial.fetch_add(1, Ordering::SeqCst);
        self.may_write.notify_all();
    }

    /// Replaces what lies below the active layer, without barring writers.
    pub(crate) fn publish_below(&self, below: Below, is_sealing: bool) {
        let now = self.view.load();
        let next = View { serial: now.serial, active: now.active.clone(), below, is_sealing };
        self.view.store(Arc::new(next));
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
    fn poisoned_unless_it_heals(&self, error: block::Error) -> Error {
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
    pub(crate) fn commit_chain(&self, roots: &mut Roots, mut next: Chain) -> Result<()> {
        next.generation = Generation::new(roots.chain.generation.get() + 1);
        let view = self.view.load();
        let live: Vec<_> = std::iter::once(&view.active).chain(&view.below.pending).collect();
        live.iter().for_each(|layer| identity::announce_generation(layer.map.memory(), next.generation));
        let media = &*self.env.media;
        write_chain(media, &self.dir, &next).map_err(|error| match error {
            ChainFailure::Before(error) => self.poisoned_unless_it_heals(error),
            ChainFailure::After(error) => self.failed_sync(error),
        })?;
        live.iter().for_each(|layer| identity::settle_generation(layer.map.memory(), next.generation));
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

    /// Removes a layer's bytes; as [`remove_files`](Self::remove_files).
    pub(crate) fn remove_layer(&self, number: u64) {
        let files: Vec<_> =
            data_file::segments(number, self.place().data_len()).map(|(name, _)| name).collect();
        self.remove_files(&files);
    }

    /// Forgets the live map of a layer that is no longer active.
    pub(crate) fn forget_live_map(&self, layer: u64) {
        if let Err(error) = self.env.media.remove_volatile(&names::live_map(self.id, layer)) {
            tracing::warn!(disk = %self.id, layer, %error, "a live map is left for the next open to remove");
        }
    }

    /// Bytes the disk takes on the host.
    ///
    /// # Errors
    /// What the host reports.
    pub fn usage(&self) -> Result<Usage> {
        let roots = lock(&self.roots);
        let view = self.view.load();
        let sealed = view.below.slots.iter().flatten().map(|layer| &layer.file);
        let live = std::iter::once(&view.active).chain(&view.below.pending).map(|layer| &layer.file);
        let mut usage = Usage { layers: roots.chain.layers.len() + 1, ..Usage::default() };
        let mut data = 0;
        for file in sealed.chain(live) {
            let ranges = file.data_ranges(ByteRange::between(0, file.size()?))?;
            data += ranges.iter().map(|range| range.count().get()).sum::<u64>();
        }
        usage.data = ByteCount::new(data);
        let mut maps = self.env.journal_room.get();
        for epoch in &roots.chain.epochs {
            maps +=
                self.env.media.open(&Numbered::Map(epoch.changes).path(&self.dir), OpenHow::Read)?.size()?;
        }
        usage.maps = ByteCount::new(maps);
        Ok(usage)
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
        let next = View { serial: 0, active: active.clone(), below, is_sealing: view.is_sealing };
        let was_closed = self.is_closed.swap(true, Ordering::SeqCst);
        self.admit_writers(next);
        if was_closed {
            return Ok(());
        }
        active.in_flight.wait_until_empty();
        self.complete_seal(&mut roots)?;
        self.commit_layer(&active)?;
        let clean = Some(self.settle_committed(&active)?);
        let next = Chain { clean, ..roots.chain.clone() };
        self.commit_chain(&mut roots, next)?;
        self.forget_live_map(active.number);
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
