//! Making, opening and asking a vault. Backup, image and check have their own modules.

use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, BlockSource, ByteCount, Clock, Entropy, Failure, Kind, Media, VaultId};

use crate::backup::{Backup, Report};
use crate::cache::Cache;
use crate::check::{CheckReport, Damage, Scrub};
use crate::chunk::Compression;
use crate::compare::Compared;
use crate::distrust::Distrust;
use crate::frame_cache::FrameCache;
use crate::front::{Front, INFO};
use crate::gate::{DeleteGate, Deletion, RefuseAll};
use crate::image::VaultImage;
use crate::info::{self, Info};
use crate::inner::{Inner, head_cache};
use crate::key::Keys;
use crate::manifest::VaultPoint;
use crate::moved::KEPT_MOVES;
use crate::name::{Address, ApplianceId, BlobId, INFO_NAME, Shelf};
use crate::progress::Progress;
use crate::reach::{Reach, Share};
use crate::repair::{ChunkRepair, Sources};
use crate::slots::{self, KeyMaterial};
use crate::sweep::{SweepReport, SweepRun};
use crate::writers::{self, Entered, Writer};
use crate::{Error, ManifestId, Result, SweepId, VaultKey};

/// What a vault needs from its surroundings.
#[derive(Clone)]
pub struct Env {
    /// The appliance's time.
    pub clock: Arc<dyn Clock>,
    /// Where keys, salts and ids come from. In production the kernel; never seeded randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// How a vault is used by this process.
#[derive(Clone)]
pub struct Options {
    /// How new chunks are made smaller. What is stored already can be read whatever it says.
    pub compression: Compression,
    /// Asked before anything is deleted.
    pub gate: Arc<dyn DeleteGate>,
    /// A directory of the host for this vault alone and this process alone, where what is known of the index is kept. Without it all index
    /// blobs are read at every open and held in memory.
    pub cache: Option<Arc<dyn Media>>,
    /// Who writes, where writers are told apart; otherwise this process writes as the vault's maker.
    pub writer: Option<Writer>,
    /// Where decoded frames are kept; vaults may share one.
    pub frames: Arc<FrameCache>,
    /// Whether each request of the store is a round trip: what was fetched is then decoded whole, and not fetched again for more of it.
    pub is_far: bool,
    /// Whether each point holds all that it needs: a backup relies on nothing that another point holds, and has no base. An archive's way.
    pub self_contained: bool,
    /// Packs known to be damaged, as [`Vault::damaged_packs`] gave them: no backup relies on them.
    pub damaged_packs: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            gate: Arc::new(RefuseAll),
            cache: None,
            writer: None,
            frames: Arc::default(),
            is_far: false,
            self_contained: false,
            damaged_packs: Vec::new(),
        }
    }
}

/// All recovery points of a vault, and the damage found on the way.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Points that can be listed, oldest first.
    pub points: Vec<VaultPoint>,
    /// Point blobs that cannot be read, index blobs found damaged when the vault was opened.
    pub damaged: Vec<Damage>,
}

/// What a vault takes in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Recovery points.
    pub points: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// Bytes of everything.
    pub bytes: u64,
}

/// An open vault. Shared between threads as an `Arc`; several backups and readers may run at once.
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

impl Vault {
    /// Makes a vault in an empty store.
    ///
    /// # Errors
    /// [`Error::Exists`] if the store holds a vault, [`Error::Invalid`] if it holds anything else.
    pub fn create(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env) -> Result<Self> {
        Self::create_with(store, key, None, env)
    }

    /// Makes a vault in an empty store, which `material` opens from the first moment.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(
        store: Arc<dyn BlobStore>,
        key: VaultKey,
        material: Option<&KeyMaterial>,
        env: &Env,
    ) -> Result<Self> {
        check_empty(&*store)?;
        slots::remove_leftovers(&*store)?;
        let keys = Keys::derive(&key);
        let entropy = &*env.entropy;
        let id = VaultId::random(entropy).map_err(Error::Entropy)?;
        let address =
            Address { appliance: ApplianceId::random(entropy)?, id: BlobId::from_bytes(*id.as_bytes()) };
        let info = Info::new(&keys, Front::fresh(INFO, id, address, entropy)?, env.clock.now());
        if let Some(material) = material {
            // first: a vault that exists can be opened
            let (name, bytes) = slots::wrap(&info.front, material, &key, env)?;
            store.put(&name, &bytes).map_err(Error::store("write", &name))?;
        }
        store.put(INFO_NAME, &info.encode(&keys)).map_err(Error::store("write", INFO_NAME))?;
        Self::open(store, key, env)
    }

    /// Opens the vault of a store, refusing every deletion.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env) -> Result<Self> {
        Self::open_with(store, key, env, Options::default())
    }

    /// Opens the vault of a store. Cost: lists all index blobs and reads those that are not cached; packs are
    /// neither read nor listed.
    ///
    /// # Errors
    /// [`Error::NoVault`] if there is none, [`Error::WrongKey`] if the key is another vault's, [`Error::Damaged`] if the
    /// blob `vault` is damaged. Damaged index blobs are no error here, see [`survey`](Self::survey).
    pub fn open_with(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env, options: Options) -> Result<Self> {
        let (info, bytes) = Info::load(&*store)?;
        let keys = Keys::derive(&key);
        drop(key);
        info.verify(&keys, &bytes)?;
        let Entered { store, appliance, token } =
            writers::enter(store, &keys, &info, env, options.writer.as_ref())?;
        let mut inner = Inner {
            store,
            keys,
            id: info.front.vault,
            appliance,
            token,
            env: env.clone(),
            distrust: Distrust::of(&options.damaged_packs),
            options,
            hooks: Mutex::default(),
            arrived: Mutex::default(),
            heads: head_cache(),
            points: Mutex::default(),
            moves: Mutex::new(Cache::new(KEPT_MOVES)),
            pins: Arc::default(),
            sweeping: Mutex::new(()),
            found_at_open: Vec::new(),
        };
        // after this process was registered: a sweep of another that did not see it put its list before
        inner.load_quarantine()?;
        let (hooks, damage) = inner.load_hooks()?;
        *lock(&inner.hooks) = hooks;
        inner.found_at_open.extend(damage);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which vault a store holds, without a key: what can be said of a locked vault.
    ///
    /// # Errors
    /// [`Error::NoVault`] if it holds none, [`Error::Damaged`] if the blob `vault` is damaged.
    pub fn describe(store: &dyn BlobStore) -> Result<VaultId> {
        info::describe(store)
    }

    /// Whether the store answers: looks at the blob that says which vault it is.
    ///
    /// # Errors
    /// [`Error::NoVault`] if the blob is not there, [`Error::Store`] if the store fails.
    pub fn probe(&self) -> Result<()> {
        match self.inner.store.size(INFO_NAME) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => Err(Error::NoVault),
            Err(error) => Err(Error::store("read", INFO_NAME)(error)),
        }
    }

    fn refuse_emptied(&self) -> Result<()> {
        self.probe().map_err(|error| match error {
            Error::NoVault => {
                let why = "the vault was here and is not any more; is its directory still mounted?";
                Error::store("look for", INFO_NAME)(block::Error::refused(Kind::Unavailable, "store", why))
            }
            other => other,
        })
    }

    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.inner.id
    }

    /// Transfers a delta into the vault as a recovery point; see [`Backup`]. On return it is durable and was read back.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if the base is not here, [`Error::Cancelled`] if asked, [`Error::Source`] and
    /// [`Error::Store`] as they happen, also where it is empty now. No point exists then; packs
    /// already stored serve the next attempt.
    pub fn backup(&self, request: &Backup<'_>) -> Result<Report> {
        // a directory where nothing is mounted any longer would take it
        self.refuse_emptied()?;
        crate::backup::run(&self.inner, request)
    }

    /// All recovery points that can be listed, oldest first. Reads no chunk. [`survey`](Self::survey) also names
    /// those whose blob is damaged.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn points(&self) -> Result<Vec<VaultPoint>> {
        Ok(self.survey()?.points)
    }

    /// All recovery points, and the damage met in listing them and in opening the vault.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails, and where it is empty now.
    pub fn survey(&self) -> Result<Survey> {
        let mut survey = Survey { damaged: self.inner.found_at_open.clone(), ..Survey::default() };
        for address in self.inner.addresses(Shelf::Points)? {
            match self.inner.point(address) {
                Ok(point) => survey.points.push(point.about.clone()),
                // deleted since it was listed
                Err(Error::NoPoint(_)) => {}
                Err(error) if error.is_damage() || error.kind() == Kind::Unsupported => {
                    survey.damaged.push(Damage::of(&error, &address.name(Shelf::Points)));
                }
                Err(error) => return Err(error),
            }
        }
        if survey.points.is_empty() {
            // nothing in a vault, or no vault: a directory where nothing is mounted any longer is empty too
            self.refuse_emptied()?;
        }
        survey.points.sort_by_key(|point| (point.time, point.epoch, point.manifest));
        Ok(survey)
    }

    /// One recovery point as something that can be read. Its chunks are verified as they are read.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if it is not here, [`Error::Damaged`] if its blob is.
    pub fn image(&self, point: &ManifestId) -> Result<Arc<dyn BlockSource>> {
        let (_, found) = self.inner.find_point(point)?;
        let image = VaultImage::new(self.inner.clone(), &found);
        // the image holds its packs by now: a sweep that did not see that saw the point, if it is still there
        self.inner.point_address(point)?;
        Ok(Arc::new(image))
    }

    /// Compares a part of a source with what a point has there, by the fingerprints of chunks: reads of the vault only nodes and
    /// fingerprints.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if it is not here, [`Error::Invalid`] if the source has another size, [`Error::Source`] if it cannot be read,
    /// [`Error::Cancelled`] if asked.
    pub fn compare(
        &self,
        point: &ManifestId,
        source: &dyn BlockSource,
        range: block::ByteRange,
        progress: &dyn Progress,
    ) -> Result<Compared> {
        let (_, point) = self.inner.find_point(point)?;
        crate::compare::run(&self.inner, &point, source, range, progress)
    }

    /// Deletes a recovery point if the gate agrees: removes its blob. What only it used stays until a sweep.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if it is not here, [`Error::Refused`] with the gate's reason.
    pub fn delete_point(&self, point: &ManifestId) -> Result<()> {
        let address = self.inner.point_address(point)?;
        let what = match self.inner.point(address) {
            Ok(point) => Deletion::Point(Box::new(point.about.clone())),
            Err(error) if error.is_damage() => Deletion::DamagedPoint(*point),
            Err(error) => return Err(error),
        };
        let name = address.name(Shelf::Points);
        self.inner.options.gate.may_delete(&what).map_err(|refusal| Error::Refused {
            what: format!("recovery point {point}"),
            why: refusal.why,
        })?;
        self.inner.store.delete(&name).map_err(Error::store("delete", &name))?;
        lock(&self.inner.points).remove(&address);
        Ok(())
    }

    /// Reads and verifies everything: every point, node, index record, pack and chunk.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if asked, [`Error::Store`] if the store fails. Damage is not an error but the report's
    /// content.
    pub fn check(&self, progress: &dyn Progress) -> Result<CheckReport> {
        crate::check::run(&self.inner, progress)
    }

    /// Reads and proves all packs at a pace, from where an earlier scrub ended, then names the points that do not restore. Unlike
    /// [`check`](Self::check) it compares no index with them.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn scrub(&self, scrub: &Scrub<'_>, progress: &dyn Progress) -> Result<CheckReport> {
        crate::check::scrub(&self.inner, scrub, progress)
    }

    /// The packs that checks, reads and backups found damaged, by name: backups store what is in them anew. A check that finds one
    /// right again takes it off. Kept as long as the vault is open; whoever opens it again hands them in with
    /// [`Options::damaged_packs`].
    pub fn damaged_packs(&self) -> Vec<String> {
        self.inner.distrust.names()
    }

    /// How much of what the packs hold is needed by a recovery point, and how much by none. Reads every node once.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if asked, [`Error::Damaged`] or [`Error::Missing`] if a point cannot be followed to its end,
    /// [`Error::Store`] if the store fails.
    pub fn reach(&self, progress: &dyn Progress) -> Result<Reach> {
        crate::reach::of(&self.inner, progress)
    }

    /// What one point needs of the packs. Reads every node of every point once.
    ///
    /// # Errors
    /// [`Error::NoPoint`]; as [`reach`](Self::reach).
    pub fn share_of(&self, point: &ManifestId, progress: &dyn Progress) -> Result<Share> {
        crate::reach::share_of(&self.inner, point, progress)
    }

    /// Puts packs that nothing reaches into quarantine, and deletes those an earlier run put there, if still nothing does. Backups
    /// and readers may run beside it. Reads every node of every point once.
    ///
    /// # Errors
    /// [`Error::Refused`] with the gate's reason, or if another appliance may write to the vault; [`Error::Damaged`] or
    /// [`Error::Missing`] if a point cannot be followed to its end: nothing is deleted then. [`Error::Cancelled`] if asked.
    pub fn sweep(&self, progress: &dyn Progress) -> Result<SweepReport> {
        crate::sweep::run(self, progress)
    }

    /// Heals packs that are known to be damaged, see [`damaged_packs`](Self::damaged_packs): what is needed of them is written anew. Damaged
    /// chunks come from other packs, or from what `sources` gives for the disk they are of; whose are neither, the pack stays as it
    /// is until the next backup has stored them again.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails, [`Error::Cancelled`] if asked.
    pub fn repair(&self, sources: &Sources<'_>, progress: &dyn Progress) -> Result<ChunkRepair> {
        crate::repair::run(&self.inner, sources, progress)
    }

    /// The sweeps whose packs are in quarantine, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails, [`Error::Damaged`] if a list is damaged.
    pub fn sweeps(&self) -> Result<Vec<SweepRun>> {
        self.inner.sweeps()
    }

    /// Takes a sweep back: its packs may be relied on again. Gives how many there are.
    ///
    /// # Errors
    /// [`Error::NoSweep`] if there is no such run in quarantine; [`Error::Refused`] as for [`sweep`](Self::sweep).
    pub fn undo_sweep(&self, run: &SweepId) -> Result<u64> {
        crate::sweep::undo(self, run)
    }

    /// Writes fresh index blobs for all packs that no readable index blob names, from the packs' own trailers. Gives
    /// the number of packs.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails. Packs whose trailer is damaged are left out; see [`check`](Self::check).
    pub fn rebuild_index(&self) -> Result<u64> {
        self.inner.rebuild_index()
    }

    /// What the vault takes in its store.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut add = |name: &str, size: ByteCount| {
            usage.bytes += size.get();
            if Address::parse(Shelf::Packs, name).is_some() {
                usage.packs += 1;
                usage.pack_bytes += size.get();
            }
            usage.points += u64::from(Address::parse(Shelf::Points, name).is_some());
            ControlFlow::Continue(())
        };
        self.inner.store.list("", &mut add).map_err(Error::store("list", ""))?;
        Ok(usage)
    }
}

fn check_empty(store: &dyn BlobStore) -> Result<()> {
    match Info::load(store) {
        Ok((info, _)) => return Err(Error::Exists(info.front.vault)),
        Err(Error::NoVault) => {}
        Err(error) => return Err(error),
    }
    let mut stranger = None;
    let mut look = |name: &str, _| {
        // a creation that was cut off left a slot and nothing else
        if Address::parse(Shelf::Slots, name).is_some() {
            return ControlFlow::Continue(());
        }
        stranger = Some(name.to_owned());
        ControlFlow::Break(())
    };
    store.list("", &mut look).map_err(Error::store("list", ""))?;
    match stranger {
        Some(name) => {
            Err(Error::invalid("the store", format!("holds {name}, but a new vault needs an empty one")))
        }
        None => Ok(()),
    }
}
