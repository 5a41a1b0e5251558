//! The vaults: which there are, their keys, making them. What opens a vault lies in `keys/` or with a person, never in the
//! vault; a vault whose key is missing is locked, and everything else serves.

mod keys;
mod making;
mod met;
mod show;
mod stores;
mod terms;
mod touched;

use crate::appliance_clock::ApplianceClock;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Doing, Error, Result};
use crate::gate::Gate;
use crate::marks::Marks;
use crate::store::{Location, VAULTS as DIR};
use block::linux::LinuxMedia;
use block::sync::{Mutex, lock};
use block::{Media, VaultId};
use control::{ErrorBody, Immutability, Kind};
use met::Met;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stores::OpenStore;
use terms::Protected;
pub use terms::Terms;
pub use touched::Touched;
use vault::{
    ApplianceId, Env, FrameCache, KeyMaterial, Options, ParityStore, ReplicatedStore, Usage, Vault, VaultKey,
    Writer, unlock,
};

/// The vault that is made at the first start.
pub const MAIN: &str = "main";

/// Where what is known of the vaults' indexes is kept, a directory for each.
const CACHE: &str = "cache";

/// A vault file or key file larger than this is not one.
const LIMIT_BYTES: u64 = 64 << 10;

/// How long a deletion can be undone unless the vault says otherwise, and what it may say.
const TERM_DAYS: u32 = 14;
const TERM_MOST_DAYS: u32 = 180;

/// What `vaults/NAME.vault` says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VaultFile {
    // relative to the state directory, absolute, or the URL of a bucket
    store: String,
    // further directories, each with a copy of everything
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    copies: Vec<String>,
    // who this appliance is in the vault; its maker if nothing is said
    #[serde(default, skip_serializing_if = "Option::is_none")]
    appliance: Option<String>,
    // whether points lie here by themselves, to be brought back before they are read
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    archive: bool,
    // how long a deletion can be undone; 0 is for a vault that was made with `--lab`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    soft_delete_days: Option<u32>,
    // whether points can be deleted before their time, and for how many days not
    #[serde(default, skip_serializing_if = "Option::is_none")]
    immutability: Option<Immutability>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    immutable_days: Option<u32>,
}

/// A vault with a name.
pub struct NamedVault {
    /// Its name.
    pub name: String,
    /// Whether it is an archive.
    pub archive: bool,
    store: Location,
    id: Option<VaultId>,
    open: Result<Opened, ErrorBody>,
    locked: bool,
    // its bucket cannot be reached, which may pass
    away: bool,
    terms: Arc<Terms>,
    met: Arc<Met>,
}

/// What a vault that can be used is used by.
struct Opened {
    vault: Arc<Vault>,
    store: OpenStore,
    // what it took when it was last counted, and how its directories were then
    usage: Mutex<Option<(Touched, Usage)>>,
    // the damaged packs the catalog has
    kept: Mutex<Vec<String>>,
}

/// Why a vault cannot be used, and what is known of it all the same.
struct Closed {
    id: Option<VaultId>,
    locked: bool,
    away: bool,
    error: Error,
}

impl From<Error> for Closed {
    fn from(error: Error) -> Self {
        Self { id: None, locked: false, away: false, error }
    }
}

impl NamedVault {
    /// For how many days a deletion can be undone; 0 is not at all.
    pub fn term_days(&self) -> u32 {
        self.terms.now().soft_delete_days
    }

    /// How its points are protected.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The vault, if it is unlocked and in order.
    ///
    /// # Errors
    /// `Unavailable` if its key is missing or another vault's; otherwise why it could not be opened.
    pub fn vault(&self) -> Result<&Arc<Vault>> {
        self.opened().map(|opened| &opened.vault)
    }

    fn opened(&self) -> Result<&Opened> {
        self.open.as_ref().map_err(|body| Error::said_before(format!("vault {}", self.name), body))
    }

    /// The set of its copies, if it has several.
    ///
    /// # Errors
    /// As [`vault`](Self::vault).
    pub fn copies(&self) -> Result<Option<&Arc<ReplicatedStore>>> {
        Ok(self.opened()?.store.copies.as_ref())
    }

    /// Its store, if that keeps parity.
    ///
    /// # Errors
    /// As [`vault`](Self::vault).
    pub fn parity(&self) -> Result<Option<&Arc<ParityStore>>> {
        Ok(self.opened()?.store.parity.as_ref())
    }

    /// What the catalog knows it by: its id, which another vault under the same name would not have.
    pub fn key(&self) -> String {
        self.id.map_or_else(|| self.name.clone(), |id| id.to_string())
    }

    /// Whether its store is behind a network: a request of it is a round trip.
    pub fn is_remote(&self) -> bool {
        matches!(self.store, Location::Bucket(_))
    }

    /// Why it is not to be used, if so.
    pub fn trouble(&self) -> Option<&ErrorBody> {
        self.open.as_ref().err()
    }
}

/// All vaults.
pub struct Vaults {
    root: PathBuf,
    media: Arc<dyn Media>,
    env: Env,
    marks: Arc<Marks>,
    clock: Arc<ApplianceClock>,
    frames: Arc<FrameCache>,
    catalog: Arc<Catalog>,
    // what prints a secret that opens a vault, by its name
    commands: BTreeMap<String, Vec<String>>,
    table: Mutex<BTreeMap<String, Arc<NamedVault>>>,
}

impl Vaults {
    /// Opens every vault, and makes `main` at the first start.
    ///
    /// # Errors
    /// What keeps the directory as a whole from being read, or `main` from being made.
    pub fn open(
        root: &Path,
        media: Arc<dyn Media>,
        env: Env,
        clock: Arc<ApplianceClock>,
        catalog: Arc<Catalog>,
        cache_bytes: u64,
    ) -> Result<Self> {
        let (marks, frames) = (Arc::new(Marks::open(media.clone())?), Arc::new(FrameCache::new(cache_bytes)));
        let commands = Config::load(&*media)?.key_commands().clone();
        let (root, table) = (root.to_owned(), Mutex::default());
        let vaults = Self { root, media, env, marks, clock, frames, catalog, commands, table };
        for entry in vaults.media.list(DIR).doing(|| "list the vaults".to_owned())? {
            let Some(name) = entry.name.strip_suffix(".vault").filter(|_| !entry.is_dir) else { continue };
            let named = vaults.open_one(name);
            if let Some(body) = named.trouble() {
                tracing::error!(vault = name, "{}", body.message);
            }
            lock(&vaults.table).insert(name.to_owned(), Arc::new(named));
        }
        if !lock(&vaults.table).contains_key(MAIN) {
            vaults.create_main()?;
        }
        Ok(vaults)
    }

    fn open_one(&self, name: &str) -> NamedVault {
        let file = self.read_file(name);
        let archive = file.as_ref().is_ok_and(|file| file.archive);
        // what cannot be read promises what a vault is born with
        let terms = Terms::new(Protected::of(file.as_ref().unwrap_or(&VaultFile::default())));
        let located = file.and_then(|file| Ok((self.location_of(&file)?, file)));
        let (store, opened) = match located {
            Ok((location, file)) => {
                let opened = self.open_known(name, &location, &file, &terms);
                (location, opened)
            }
            Err(error) => (Location::Directories(Vec::new()), Err(Closed::from(error))),
        };
        let (id, open, locked, away) = match opened {
            Ok(opened) => (Some(opened.vault.id()), Ok(opened), false, false),
            Err(closed) => (closed.id, Err(closed.error.body()), closed.locked, closed.away),
        };
        NamedVault {
            name: name.to_owned(),
            archive,
            store,
            id,
            open,
            locked,
            away,
            terms,
            met: Arc::default(),
        }
    }

    fn open_known(
        &self,
        name: &str,
        location: &Location,
        file: &VaultFile,
        terms: &Arc<Terms>,
    ) -> Result<Opened, Closed> {
        let doing = || format!("open vault {name} in {location}");
        let store = self.open_store(location, &self.read_options(name)?).map_err(|error| {
            let error = match (location, error.kind()) {
                (Location::Directories(_), Kind::NotFound) => {
                    Error::said(Kind::Unavailable, doing(), error.body().message).with_help(
                        "mount the store's filesystem; the vault then opens by itself within a minute",
                    )
                }
                _ => error,
            };
            Closed { away: error.kind() == Kind::Unavailable, ..Closed::from(error) }
        })?;
        let id = match Vault::describe(&*store.blobs) {
            Err(vault::Error::NoVault) => {
                let why = "its blob `vault` (the file vault.BLOB) is missing, which says which vault it is";
                let help = "mount the store's filesystem or put the file back from a copy; the vault then opens by itself within a minute";
                let error = Error::said(Kind::Corrupt, doing(), why).with_help(help);
                return Err(Closed { away: true, ..Closed::from(error) });
            }
            id => id.doing(doing)?,
        };
        let closed = |locked: bool| move |error: Error| Closed { id: Some(id), locked, away: false, error };
        let material = match self.material(name).map_err(closed(true))? {
            Some(material) => material,
            None => return Err(closed(true)(self.locked(name))),
        };
        let key = match unlock(&*store.blobs, &material) {
            Err(vault::Error::WrongKey { .. }) => return Err(closed(true)(self.wrong_key(name, id))),
            key => key.doing(doing).map_err(closed(false))?,
        };
        self.enter(name, location, store, key, (file, terms), false).map_err(closed(false))
    }

    /// Opens a vault with its key, to be written by this appliance.
    fn enter(
        &self,
        name: &str,
        location: &Location,
        store: OpenStore,
        key: VaultKey,
        (file, terms): (&VaultFile, &Arc<Terms>),
        take_over: bool,
    ) -> Result<Opened> {
        let doing = || format!("open vault {name} in {location}");
        let id = Vault::describe(&*store.blobs).doing(doing)?;
        let appliance = file.appliance.as_deref().map(str::parse::<ApplianceId>).transpose().doing(doing)?;
        let label = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let writer = Writer { appliance, label, exclusion: store.exclusion, take_over };
        let mut options = Options { writer: Some(writer), ..self.options(name, id, terms)? };
        options.is_far = matches!(location, Location::Bucket(_));
        if file.archive {
            // what is read back from an archive is to prove what lies there
            (options.self_contained, options.frames) = (true, Arc::new(FrameCache::new(0)));
        }
        let vault = Vault::open_with(store.blobs.clone(), key, &self.env, options).doing(doing)?;
        if let Some(why) = vault.read_only() {
            tracing::warn!(vault = name, "{why}");
        }
        let kept = Mutex::new(vault.damaged_packs());
        let opened = Opened { vault: Arc::new(vault), store, usage: Mutex::default(), kept };
        if matches!(location, Location::Bucket(_)) {
            opened.count();
        }
        Ok(opened)
    }

    fn location_of(&self, file: &VaultFile) -> Result<Location> {
        if file.store.contains("://") {
            return Location::parse(&file.store, &file.copies);
        }
        let paths = std::iter::once(&file.store).chain(&file.copies).map(|path| self.root.join(path));
        Ok(Location::Directories(paths.collect()))
    }

    /// Opens the vaults whose buckets could not be reached, if they can be now. Gives those that opened.
    pub fn reopen_away(&self) -> Vec<Arc<NamedVault>> {
        let mut opened = Vec::new();
        for known in self.all().into_iter().filter(|known| known.away) {
            let named = Arc::new(self.open_one(&known.name));
            if named.away {
                continue;
            }
            tracing::info!(vault = named.name, "its store can be reached again");
            lock(&self.table).insert(named.name.clone(), named.clone());
            opened.push(named);
        }
        opened
    }

    /// Counts what vaults in buckets take, which is too slow to do for whoever asks.
    pub fn count_buckets(&self) {
        for named in self.all() {
            if let (Location::Bucket(_), Ok(opened)) = (&named.store, &named.open) {
                opened.count();
            }
        }
    }

    /// What this host has to open a vault with: its key file, else what the configured command prints.
    fn material(&self, name: &str) -> Result<Option<KeyMaterial>> {
        match self.read_key(name)? {
            Some(key) => Ok(Some(KeyMaterial::Key(key))),
            None => self.ask_command(name),
        }
    }

    fn locked(&self, name: &str) -> Error {
        let key = self.root.join(key_path(name));
        Error::said(Kind::Unavailable, "locked", format!("its key file {} is missing", key.display()))
            .with_help(format!(
                "`blockctl vault unlock {name} --key FILE` takes the key file or the recovery sheet, --passphrase-file FILE a passphrase"
            ))
    }

    fn wrong_key(&self, name: &str, id: VaultId) -> Error {
        let key = self.root.join(key_path(name));
        let what =
            if key.exists() { key.display().to_string() } else { "what its command prints".to_owned() };
        let why = format!("wrong key: {what} is not the key of vault {id}");
        Error::said(Kind::Unavailable, "locked", why).with_help(format!(
            "`blockctl vault unlock {name} --key FILE` takes the right key file or the recovery sheet, which names the vault"
        ))
    }

    fn read_file(&self, name: &str) -> Result<VaultFile> {
        let path = file_path(name);
        let bytes = self.media.read_whole(&path, LIMIT_BYTES).doing(|| format!("read {path}"))?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| Error::said(Kind::Corrupt, &path, "is not UTF-8"))?;
        toml::from_str(text).map_err(|error| Error::said(Kind::Corrupt, path, error.message().to_owned()))
    }

    fn read_key(&self, name: &str) -> Result<Option<VaultKey>> {
        let path = key_path(name);
        let bytes = match self.media.read_whole(&path, LIMIT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == block::Kind::NotFound => return Ok(None),
            Err(error) => return Err(Error::below(format!("read {path}"), error)),
        };
        let damaged = |why: String| {
            Error::said(Kind::Corrupt, format!("key file {}", self.root.join(&path).display()), why)
                .with_help(format!("`blockctl vault unlock {name} --key FILE` takes the recovery sheet"))
        };
        let text =
            std::str::from_utf8(&bytes).map_err(|_| damaged("is damaged: it is not UTF-8".to_owned()))?;
        match VaultKey::from_text(text) {
            Ok((key, _)) => Ok(Some(key)),
            Err(error) => Err(damaged(format!("is damaged: {error}"))),
        }
    }

    /// What was said of recovery points.
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// How a vault is opened: what asks before anything in it is deleted, and where below the state directory is kept what is
    /// known of its index.
    fn options(&self, name: &str, id: VaultId, terms: &Arc<Terms>) -> Result<Options> {
        let (marks, terms, clock) = (self.marks.clone(), terms.clone(), self.clock.clone());
        let gate = Gate { marks, vault: id.to_string(), terms, clock };
        let doing = || format!("make {CACHE}/{name}");
        self.media.create_dir(CACHE).doing(doing)?;
        self.media.create_dir(&format!("{CACHE}/{name}")).doing(doing)?;
        let dir = self.root.join(CACHE).join(name);
        let cache = Arc::new(LinuxMedia::new(&dir, &dir).doing(doing)?);
        let frames = self.frames.clone();
        let damaged_packs = self.catalog.damaged(&id.to_string())?;
        Ok(Options { gate: Arc::new(gate), cache: Some(cache), frames, damaged_packs, ..Options::default() })
    }

    /// The appliance's clock.
    pub fn clock(&self) -> &ApplianceClock {
        &self.clock
    }

    /// Every vault, by name.
    pub fn all(&self) -> Vec<Arc<NamedVault>> {
        lock(&self.table).values().cloned().collect()
    }

    /// The vault of this name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &str) -> Result<Arc<NamedVault>> {
        lock(&self.table).get(name).cloned().ok_or_else(|| {
            Error::not_found(format!("vault {name}")).with_help("`blockctl vault list` shows the vaults")
        })
    }

    /// The vault with this id.
    pub fn by_id(&self, id: VaultId) -> Option<Arc<NamedVault>> {
        lock(&self.table).values().find(|named| named.id == Some(id)).cloned()
    }

    /// How the memory for decoded chunks is used.
    pub fn cache_use(&self) -> control::CacheUse {
        let vault::CacheUse { limit, held, hits, misses } = self.frames.usage();
        control::CacheUse { limit, held, hits, misses }
    }
}

fn file_path(name: &str) -> String {
    format!("{DIR}/{name}.vault")
}

fn key_path(name: &str) -> String {
    format!("keys/{name}.key")
}

fn sheet_path(name: &str) -> String {
    format!("keys/{name}.sheet")
}
