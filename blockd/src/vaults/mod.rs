//! The vaults: which there are, their keys, making them. The key lies in `keys/`, never in the vault; a vault whose
//! key is missing is locked, and everything else serves.

mod making;

use crate::error::{Doing, Error, Result};
use crate::gate::Gate;
use crate::marks::Marks;
use crate::store::VAULTS as DIR;
use block::linux::LinuxMedia;
use block::sync::{Mutex, lock};
use block::{BlobStore, Media, VaultId};
use control::{ErrorBody, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vault::{DirectoryStore, Env, FrameCache, Options, Quiet, Vault, VaultKey};

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
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VaultFile {
    // relative to the state directory, or absolute
    store: String,
    // how long a deletion can be undone; 0 is for a vault that was made with `--lab`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    soft_delete_days: Option<u32>,
}

/// A vault with a name.
pub struct NamedVault {
    /// Its name.
    pub name: String,
    store: PathBuf,
    id: Option<VaultId>,
    open: Result<Arc<Vault>, ErrorBody>,
    locked: bool,
    term_days: u32,
}

impl NamedVault {
    fn open(name: &str, store: PathBuf, id: VaultId, vault: Vault, term_days: u32) -> Self {
        Self {
            name: name.to_owned(),
            store,
            id: Some(id),
            open: Ok(Arc::new(vault)),
            locked: false,
            term_days,
        }
    }

    /// For how many days a deletion can be undone; 0 is not at all.
    pub const fn term_days(&self) -> u32 {
        self.term_days
    }

    /// The vault, if it is unlocked and in order.
    ///
    /// # Errors
    /// `Unavailable` if its key is missing or another vault's; otherwise why it could not be opened.
    pub fn vault(&self) -> Result<&Arc<Vault>> {
        self.open.as_ref().map_err(|body| Error::said_before(format!("vault {}", self.name), body))
    }

    /// What the catalog knows it by: its id, which another vault under the same name would not have.
    pub fn key(&self) -> String {
        self.id.map_or_else(|| self.name.clone(), |id| id.to_string())
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
    frames: Arc<FrameCache>,
    table: Mutex<BTreeMap<String, Arc<NamedVault>>>,
}

impl Vaults {
    /// Opens every vault, and makes `main` at the first start.
    ///
    /// # Errors
    /// What keeps the directory as a whole from being read, or `main` from being made.
    pub fn open(root: &Path, media: Arc<dyn Media>, env: Env, cache_bytes: u64) -> Result<Self> {
        let (marks, frames) = (Arc::new(Marks::open(media.clone())?), Arc::new(FrameCache::new(cache_bytes)));
        let vaults = Self { root: root.to_owned(), media, env, marks, frames, table: Mutex::default() };
        for entry in vaults.media.list(DIR).doing(|| "list the vaults".to_owned())? {
            let Some(name) = entry.name.strip_suffix(".vault").filter(|_| !entry.is_dir) else { continue };
            let named = vaults.open_one(name);
            if let Some(body) = named.trouble() {
                tracing::error!(vault = name, "{}", body.message);
            }
            lock(&vaults.table).insert(name.to_owned(), Arc::new(named));
        }
        if !lock(&vaults.table).contains_key(MAIN) {
            vaults.create(MAIN, &Path::new(DIR).join(MAIN), None)?;
        }
        Ok(vaults)
    }

    fn open_one(&self, name: &str) -> NamedVault {
        let failed = |store: PathBuf, id, locked, error: Error| NamedVault {
            name: name.to_owned(),
            store,
            id,
            open: Err(error.body()),
            locked,
            term_days: TERM_DAYS,
        };
        let (store, term_days) = match self.read_file(name) {
            Ok(file) => (self.root.join(file.store), file.soft_delete_days.unwrap_or(TERM_DAYS)),
            Err(error) => return failed(PathBuf::new(), None, false, error),
        };
        let doing = || format!("open vault {name} in {}", store.display());
        let blobs = match self.directory(&store, false).and_then(|blobs| open_store(blobs).doing(doing)) {
            Ok(blobs) => blobs,
            Err(error) => return failed(store, None, false, error),
        };
        let id = match Vault::describe(&*blobs) {
            Err(vault::Error::NoVault) => {
                let why = "its blob `vault` (the file vault.BLOB) is missing, which says which vault it is";
                let help =
                    "mount the store's filesystem or put the file back from a copy, and restart blockd";
                return failed(
                    store.clone(),
                    None,
                    false,
                    Error::said(Kind::Corrupt, doing(), why).with_help(help),
                );
            }
            id => id.doing(doing),
        };
        let id = match id {
            Ok(id) => id,
            Err(error) => return failed(store, None, false, error),
        };
        let key = match self.read_key(name) {
            Ok(Some(key)) => key,
            Ok(None) => return failed(store, Some(id), true, self.locked(name)),
            Err(error) => return failed(store, Some(id), true, error),
        };
        let opened = self.options(name, id);
        match opened.and_then(|options| Vault::open_with(blobs, key, &self.env, options).doing(doing)) {
            Ok(vault) => NamedVault::open(name, store, id, vault, term_days),
            Err(error) if error.kind() == Kind::Unavailable => {
                failed(store, Some(id), true, self.wrong_key(name, id))
            }
            Err(error) => failed(store, Some(id), false, error),
        }
    }

    fn locked(&self, name: &str) -> Error {
        let key = self.root.join(key_path(name));
        Error::said(Kind::Unavailable, "locked", format!("its key file {} is missing", key.display()))
            .with_help(format!(
                "`blockctl vault unlock {name} --key FILE` takes the key file or the recovery sheet"
            ))
    }

    fn wrong_key(&self, name: &str, id: VaultId) -> Error {
        let key = self.root.join(key_path(name));
        let why = format!("wrong key: {} is not the key of vault {id}", key.display());
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

    /// The media of a store's directory, which is made if asked for.
    fn directory(&self, store: &Path, make: bool) -> Result<Arc<dyn Media>> {
        let doing = || format!("open the directory {}", store.display());
        if make && !store.is_dir() {
            std::fs::create_dir(store)
                .map_err(|error| Error::host(format!("make {}", store.display()), error))?;
        }
        Ok(Arc::new(LinuxMedia::new(store, store).doing(doing)?))
    }

    /// What was said of recovery points.
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// How a vault is opened: what asks before anything in it is deleted, and where below the state directory is kept what is
    /// known of its index.
    fn options(&self, name: &str, id: VaultId) -> Result<Options> {
        let gate = Gate { marks: self.marks.clone(), vault: id.to_string(), clock: self.env.clock.clone() };
        let doing = || format!("make {CACHE}/{name}");
        self.media.create_dir(CACHE).doing(doing)?;
        self.media.create_dir(&format!("{CACHE}/{name}")).doing(doing)?;
        let dir = self.root.join(CACHE).join(name);
        let cache = Arc::new(LinuxMedia::new(&dir, &dir).doing(doing)?);
        let frames = self.frames.clone();
        Ok(Options { gate: Arc::new(gate), cache: Some(cache), frames, ..Options::default() })
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

    /// A vault as the API shows it.
    pub fn show(&self, named: &NamedVault) -> control::Vault {
        let usage =
            named.open.as_ref().ok().map(|vault| vault.usage().doing(|| format!("vault {}", named.name)));
        let (usage, failed) = match usage {
            Some(Ok(usage)) => (Some(usage), None),
            Some(Err(error)) => (None, Some(error.body())),
            None => (None, named.trouble().cloned()),
        };
        control::Vault {
            name: named.name.clone(),
            id: named.id.map(|id| id.to_string()),
            store: named.store.display().to_string(),
            locked: named.locked,
            error: failed,
            key_file: self.root.join(key_path(&named.name)).display().to_string(),
            recovery_sheet: self.root.join(sheet_path(&named.name)).display().to_string(),
            points: usage.map(|usage| usage.points),
            stored: usage.map(|usage| usage.bytes),
            soft_delete_days: named.term_days,
        }
    }

    /// What a vault takes, and how much of it nothing needs.
    ///
    /// # Errors
    /// `NotFound`; what the vault reports.
    pub fn usage(&self, name: &str) -> Result<control::VaultUsage> {
        let named = self.get(name)?;
        let (doing, vault) = (|| format!("vault {name}"), named.vault()?);
        let (usage, reach) = (vault.usage().doing(doing)?, vault.reach(&Quiet).doing(doing)?);
        Ok(control::VaultUsage {
            vault: named.name.clone(),
            points: usage.points,
            packs: usage.packs,
            bytes_stored: usage.bytes,
            bytes_referenced: reach.referenced.get(),
            bytes_unreferenced: reach.unreferenced.get(),
        })
    }

    /// What is wrong with the recovery sheet of a vault, if anything is.
    fn sheet_warning(&self, named: &NamedVault) -> Option<String> {
        let path = sheet_path(&named.name);
        let shown = self.root.join(&path);
        let says = |what: String| {
            let risk = "if nobody has a printed one, the key file is all that opens the vault";
            Some(format!("vault {}: its recovery sheet {} {what}: {risk}", named.name, shown.display()))
        };
        let bytes = match self.media.read_whole(&path, LIMIT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == block::Kind::NotFound => return says("is missing".to_owned()),
            Err(error) => return says(format!("cannot be read ({error})")),
        };
        match std::str::from_utf8(&bytes).ok().map(VaultKey::from_sheet) {
            Some(Ok((_, id))) if named.id.is_none_or(|own| own == id) => None,
            Some(Ok((_, id))) => says(format!("is that of vault {id}")),
            Some(Err(error)) => says(format!("is damaged ({error})")),
            None => says("is damaged (it is not UTF-8)".to_owned()),
        }
    }

    /// What a person should know of the vaults, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let device = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.dev());
        let disks = device(&self.root.join(crate::disk_file::DIR));
        let mut warnings = Vec::new();
        for named in self.all() {
            if let Some(body) = named.trouble() {
                warnings.push(format!("vault {}: {}", named.name, body.message));
            }
            warnings.extend(self.sheet_warning(&named));
            if disks.is_some() && device(&named.store) == disks {
                warnings.push(format!(
                    "vault {} and the disks share a device: its failure takes both",
                    named.name
                ));
            }
        }
        warnings
    }
}

fn open_store(media: Arc<dyn Media>) -> block::Result<Arc<dyn BlobStore>> {
    Ok(Arc::new(DirectoryStore::open(media, "")?))
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
