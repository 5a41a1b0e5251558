//! Opening where a vault lies.

use super::{NamedVault, Vaults};
use crate::error::{Doing, Error, Result};
use crate::store::{self, Location};
use block::linux::LinuxMedia;
use block::sync::lock;
use block::{BlobStore, Media};
use control::Kind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vault::{
    Bucket, DirectoryStore, Exclusion, GivenCopy, ObjectStore, ParityStore, ReplicatedStore, Scheme,
    StoreOptions, Vault, VaultKey,
};

/// Attempts while a vault is being opened: what is away is said soon, and tried again later.
const OPENING_ATTEMPTS: u32 = 2;

/// A store that is open to be written.
#[derive(Clone)]
pub(super) struct OpenStore {
    pub(super) blobs: Arc<dyn BlobStore>,
    /// What keeps other writers away.
    pub(super) exclusion: Exclusion,
    /// The same store, if it keeps several copies.
    pub(super) copies: Option<Arc<ReplicatedStore>>,
    /// The same store, if it keeps parity.
    pub(super) parity: Option<Arc<ParityStore>>,
}

impl Vaults {
    /// Opens the store of a vault that exists.
    pub(super) fn open_store(&self, location: &Location, options: &StoreOptions) -> Result<OpenStore> {
        match location {
            Location::Directories(paths) => self.open_directories(paths),
            Location::Bucket(bucket) => self.open_bucket(bucket, options),
        }
    }

    /// Opens an empty store for a vault that is to be made, or one whose making was cut off.
    pub(super) fn new_store(
        &self,
        location: &Location,
        options: &StoreOptions,
        parity: Option<Scheme>,
    ) -> Result<OpenStore> {
        let doing = || format!("make a vault in {location}");
        let paths = match location {
            Location::Directories(paths) if parity.is_none() || paths.len() == 1 => paths,
            _ if parity.is_some() => {
                let why = "parity is kept in one directory; copies and buckets are protected in another way";
                return Err(
                    Error::said(Kind::Invalid, doing(), why).with_help("leave out --parity, or --copy")
                );
            }
            _ => return self.open_store(location, options),
        };
        let mut stores = Vec::new();
        for path in paths {
            let directory = directory(path, true)?;
            store::refuse_strangers(&directory, doing)?;
            let store: Arc<dyn BlobStore> = open_directory(directory, doing)?;
            stores.push((path.display().to_string(), store));
        }
        if let [(_, only)] = &stores[..] {
            return match parity {
                Some(scheme) if Vault::describe(&**only).is_err() => {
                    let made = ParityStore::create(only.clone(), scheme, self.env.entropy.clone());
                    Ok(with_parity(made.doing(doing)?))
                }
                _ => self.alone(only.clone()),
            };
        }
        let holds_one = stores.iter().any(|(_, store)| Vault::describe(&**store).is_ok())
            || ReplicatedStore::open(
                stores.iter().cloned().map(|(place, store)| (place, Ok(store))).collect(),
            )
            .is_ok_and(|set| Vault::describe(&set).is_ok());
        let set = if holds_one {
            ReplicatedStore::open(stores.into_iter().map(|(place, store)| (place, Ok(store))).collect())
        } else {
            ReplicatedStore::create(stores, &*self.env.entropy)
        };
        Ok(several(set.doing(doing)?))
    }

    fn open_directories(&self, paths: &[PathBuf]) -> Result<OpenStore> {
        let open = |path: &Path| -> Result<Arc<dyn BlobStore>> {
            let doing = || format!("open the directory {}", path.display());
            open_directory(directory(path, false)?, doing)
        };
        if let [path] = paths {
            let store = open(path)?;
            // one copy of several is what is left after a disaster
            return match ReplicatedStore::is_copy(&*store).doing(|| format!("open {}", path.display()))? {
                false => self.alone(store),
                true => self.set_of(vec![(path.display().to_string(), Ok(store))]),
            };
        }
        let given = |path: &PathBuf| -> GivenCopy {
            let opened = self.holds_copy(path).and_then(|()| open(path));
            (path.display().to_string(), opened.map_err(|error| error.body().message))
        };
        self.set_of(paths.iter().map(given).collect())
    }

    /// Looks before anything is written, since an empty directory is most likely where a filesystem is not mounted.
    fn holds_copy(&self, path: &Path) -> Result<()> {
        let doing = || format!("open the directory {}", path.display());
        let looked_at = DirectoryStore::open_read_only(directory(path, false)?, "").doing(doing)?;
        if ReplicatedStore::is_copy(&looked_at).doing(doing)? {
            return Ok(());
        }
        Err(Error::said(
            Kind::NotFound,
            path.display().to_string(),
            "it holds no copy: is its filesystem mounted?",
        ))
    }

    /// Gives a lost copy a new, empty place.
    ///
    /// # Errors
    /// `Invalid` if there is no such copy, `Conflict` if it is in service, `Refused` if the place is not empty; as
    /// [`store::place_for`].
    pub fn replace_copy(&self, name: &str, number: u8, path: &Path) -> Result<()> {
        let doing = || format!("put copy {number} of vault {name} into {}", path.display());
        let table = lock(&self.table);
        let named = table.get(name).ok_or_else(|| Error::not_found(format!("vault {name}")))?;
        let Some(copies) = named.copies()? else {
            return Err(Error::said(Kind::Invalid, doing(), "it has one copy of everything"));
        };
        let of = |other: &Arc<NamedVault>| {
            let paths = other.store.directories().iter();
            paths.map(|path| (other.name.clone(), path.clone())).collect::<Vec<_>>()
        };
        let mut taken: Vec<_> = table.values().flat_map(of).collect();
        // the lost place itself may be used again, on a new device
        let old = copies.status().into_iter().find(|copy| copy.number == number).map(|copy| copy.place);
        taken.retain(|(_, other)| old.as_deref() != other.to_str());
        let path = store::place_for(path, &self.root, &taken)?;
        let media = directory(&path, true)?;
        store::refuse_strangers(&media, doing)?;
        let blobs = open_directory(media, doing)?;
        copies.replace(number, path.display().to_string(), blobs).doing(doing)?;
        let mut file = self.read_file(name)?;
        let shown = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
        let places = copies.status().into_iter().map(|copy| copy.place);
        let mut places: Vec<String> = places.filter(|place| !place.is_empty()).collect();
        places.retain(|place| *place != path.display().to_string());
        places.insert(usize::from(number - 1).min(places.len()), shown);
        let relative = |place: String| {
            Path::new(&place)
                .strip_prefix(&self.root)
                .map_or(place.clone(), |path| path.display().to_string())
        };
        let mut places = places.into_iter().map(relative);
        file.store = places.next().unwrap_or_default();
        file.copies = places.collect();
        self.write_file(name, &file)
    }

    /// A store that holds the one copy, with parity if it says so.
    fn alone(&self, blobs: Arc<dyn BlobStore>) -> Result<OpenStore> {
        let doing = || "open the parity of a vault".to_owned();
        match ParityStore::has_parity(&*blobs).doing(doing)? {
            true => Ok(with_parity(ParityStore::open(blobs, self.env.entropy.clone()).doing(doing)?)),
            false => Ok(OpenStore { blobs, exclusion: Exclusion::Locked, copies: None, parity: None }),
        }
    }

    fn set_of(&self, copies: Vec<GivenCopy>) -> Result<OpenStore> {
        let set = ReplicatedStore::open(copies).doing(|| "open the copies of a vault".to_owned())?;
        for copy in set.status() {
            match copy.state {
                vault::CopyState::Good => {}
                state => tracing::warn!(
                    copy = copy.number,
                    place = copy.place,
                    "a copy of a vault is not good: {state:?}"
                ),
            }
        }
        Ok(several(set))
    }

    fn open_bucket(&self, bucket: &Bucket, options: &StoreOptions) -> Result<OpenStore> {
        let doing = || format!("reach {bucket}");
        let store = ObjectStore::new(bucket, options, self.env.entropy.clone()).doing(doing)?;
        store.set_attempts(Some(OPENING_ATTEMPTS));
        let refuses = store.probe().doing(doing).map_err(|error| {
            error.with_help(
                "the bucket must exist; credentials come from blockd's environment or --store-options FILE",
            )
        })?;
        store.set_attempts(None);
        if !refuses {
            tracing::warn!(
                "{bucket}: its server overwrites what exists, so that one appliance alone may write to it"
            );
        }
        let exclusion = if refuses { Exclusion::Refusing } else { Exclusion::Nothing };
        Ok(OpenStore { blobs: Arc::new(store), exclusion, copies: None, parity: None })
    }

    /// The options of a vault's bucket, as kept beside its key.
    pub(super) fn read_options(&self, name: &str) -> Result<StoreOptions> {
        let path = options_path(name);
        match self.media.read_whole(&path, super::LIMIT_BYTES) {
            Ok(bytes) => {
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| Error::said(Kind::Corrupt, &path, "is not UTF-8"))?;
                StoreOptions::parse(text).doing(|| format!("read {path}"))
            }
            Err(error) if error.kind() == block::Kind::NotFound => Ok(StoreOptions::default()),
            Err(error) => Err(Error::below(format!("read {path}"), error)),
        }
    }

    pub(super) fn write_options(&self, name: &str, options: &StoreOptions) -> Result<()> {
        if options.is_empty() {
            return Ok(());
        }
        let path = options_path(name);
        self.media.replace(&path, options.to_text().as_bytes()).doing(|| format!("write {path}"))
    }

    /// A text of `--store-options`, for a place it means something for.
    pub(super) fn parse_options(location: &Location, text: Option<&str>) -> Result<StoreOptions> {
        match (location, text) {
            (_, None) => Ok(StoreOptions::default()),
            (Location::Bucket(_), Some(text)) => {
                StoreOptions::parse(text).doing(|| "read the options of the store".to_owned())
            }
            (Location::Directories(_), Some(_)) => {
                let why = "mean nothing for a directory";
                Err(Error::said(Kind::Invalid, "the options of the store", why))
            }
        }
    }
}

/// A copy of a key, which is cleared when it is dropped.
pub(super) fn again(key: &VaultKey) -> Result<VaultKey> {
    VaultKey::from_file_text(&key.to_file_text()).doing(|| "copy a key".to_owned())
}

fn options_path(name: &str) -> String {
    format!("keys/{name}.store")
}

fn with_parity(store: ParityStore) -> OpenStore {
    let store = Arc::new(store);
    OpenStore { blobs: store.clone(), exclusion: Exclusion::Locked, copies: None, parity: Some(store) }
}

fn several(set: ReplicatedStore) -> OpenStore {
    let set = Arc::new(set);
    OpenStore { blobs: set.clone(), exclusion: Exclusion::Locked, copies: Some(set), parity: None }
}

/// Opens a directory to be written. One daemon at a time has it.
fn open_directory(media: Arc<dyn Media>, doing: impl Fn() -> String) -> Result<Arc<dyn BlobStore>> {
    match DirectoryStore::open(media, "") {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) if error.kind() == block::Kind::Conflict => Err(Error::said(
            Kind::Conflict,
            doing(),
            "another blockd writes to it",
        )
        .with_help(
            "one daemon at a time has a vault: stop that one, then restart this one or open the vault again",
        )),
        Err(error) => Err(Error::below(doing(), error)),
    }
}

/// Help where a person named a directory that lacks a vault.
pub(super) fn no_vault(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => error.with_help(
            "name the directory that the vault was made in, with its filesystem mounted: the file vault.BLOB lies in it",
        ),
        _ => error,
    }
}

/// The media of a store's directory, which is made if asked for.
pub(super) fn directory(store: &Path, make: bool) -> Result<Arc<dyn Media>> {
    let doing = || format!("open the directory {}", store.display());
    if make && !store.is_dir() {
        std::fs::create_dir(store)
            .map_err(|error| Error::host(format!("make {}", store.display()), error))?;
    }
    Ok(Arc::new(LinuxMedia::new(store, store).doing(doing).map_err(no_vault)?))
}
