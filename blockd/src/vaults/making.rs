//! Vaults that come to be known: made with a fresh key, brought in with what opens them, unlocked.

use super::stores::{again, no_vault};
use super::{
    DIR, MAIN, NamedVault, Protected, TERM_DAYS, TERM_MOST_DAYS, Terms, VaultFile, Vaults, file_path,
    key_path, sheet_path,
};
use crate::error::{Doing, Error, Result};
use crate::names;
use crate::store::{self, Location};
use block::VaultId;
use block::sync::lock;
use control::{CreateVault, Kind, OpenVault};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vault::{ApplianceId, KeyMaterial, Scheme, StoreOptions, Vault, VaultKey, unlock};

/// The table while it is changed.
type Table = BTreeMap<String, Arc<NamedVault>>;

/// A vault that is to be made.
struct New<'a> {
    name: &'a str,
    location: Location,
    options: StoreOptions,
    parity: Option<Scheme>,
    /// What is to open it; else a key file in the state.
    passphrase: Option<&'a str>,
    term_days: Option<u32>,
    archive: bool,
}

impl Vaults {
    /// Makes a vault with a fresh key and its recovery sheet. A creation that was cut off is continued. Gives the sheet's text
    /// if it is kept nowhere.
    ///
    /// # Errors
    /// `Conflict` if the name is taken or the place holds a vault, `Refused` if it holds anything else; as
    /// [`store::place_for`].
    pub fn create(&self, request: &CreateVault) -> Result<(Arc<NamedVault>, Option<String>)> {
        let location = Location::parse(&request.store, &request.copies)?;
        let options = Self::parse_options(&location, request.store_options.as_deref())?;
        let (passphrase, term_days) = (request.passphrase.as_deref(), request.soft_delete_days);
        let (name, archive) = (&request.name, request.archive);
        let parity = request.parity.as_deref().map(str::parse).transpose();
        let parity = parity.doing(|| format!("make vault {name}"))?;
        self.make(New { name, location, options, parity, passphrase, term_days, archive })
    }

    /// Makes the vault of the first start.
    pub(super) fn create_main(&self) -> Result<()> {
        let location = Location::Directories(vec![self.root.join(DIR).join(MAIN)]);
        let options = StoreOptions::default();
        let (passphrase, term_days, archive) = (None, None, false);
        self.make(New { name: MAIN, location, options, parity: None, passphrase, term_days, archive })
            .map(|_| ())
    }

    fn make(&self, new: New<'_>) -> Result<(Arc<NamedVault>, Option<String>)> {
        let name = new.name;
        names::check_vault(name)?;
        check_term(name, new.term_days)?;
        let mut table = lock(&self.table);
        if table.contains_key(name) {
            return Err(Error::said(Kind::Conflict, format!("vault {name}"), "exists already")
                .with_help("`blockctl vault list` shows the vaults"));
        }
        let location = self.place_for(new.location, &table)?;
        let doing = || format!("make vault {name} in {location}");
        let store = self.new_store(&location, &new.options, new.parity)?;
        let taken = |id: VaultId| {
            Error::said(Kind::Conflict, doing(), format!("it holds vault {id} already"))
                .with_help("choose an empty place; `blockctl vault open` brings in a vault that exists")
        };
        if let Ok(id) = Vault::describe(&*store.blobs)
            && new.passphrase.is_none()
            && self.read_key(name)?.is_none()
        {
            return Err(taken(id));
        }
        let material = match new.passphrase {
            Some(passphrase) => KeyMaterial::Passphrase(passphrase.to_owned().into()),
            None => KeyMaterial::Key(self.key_for(name)?),
        };
        let fresh = VaultKey::generate(&*self.env.entropy).doing(doing)?;
        let made = Vault::create_with(store.blobs.clone(), again(&fresh)?, Some(&material), &self.env);
        let key = match made {
            Ok(_) => fresh,
            Err(vault::Error::Exists(id)) => match unlock(&*store.blobs, &material) {
                Err(vault::Error::WrongKey { .. }) => return Err(taken(id)),
                key => key.doing(doing)?,
            },
            Err(error) => return Err(Error::below(doing(), error)),
        };
        let id = Vault::describe(&*store.blobs).doing(doing)?;
        let sheet = key.recovery_sheet(id, name, &location.to_string());
        self.write_options(name, &new.options)?;
        if new.passphrase.is_none() {
            self.write_sheet(name, &sheet)?;
        }
        let (soft_delete_days, archive) = (new.term_days, new.archive);
        let file = VaultFile { soft_delete_days, archive, ..self.file_of(&location, None) };
        let terms = Terms::new(Protected::of(&file));
        self.write_file(name, &file)?;
        let opened = self.enter(name, &location, store, key, (&file, &terms), false)?;
        let named = Arc::new(NamedVault::opened_as(name, &file, location, opened, terms));
        table.insert(name.to_owned(), named.clone());
        if new.passphrase.is_some() {
            return Ok((named, Some(sheet.to_string())));
        }
        let path = self.root.join(sheet_path(name));
        tracing::warn!("vault {name} was made; print {} and keep it away from this host", path.display());
        Ok((named, None))
    }

    /// Brings in a vault that exists, with the text of a key file or recovery sheet or a passphrase; one that is known and
    /// locked is unlocked, and then needs no `store`. Nothing is written before the vault is open.
    ///
    /// # Errors
    /// `Conflict` if the name is taken by a vault that is not locked, `Invalid` for a text that is no key or another
    /// vault's, `NotFound` if there is no vault; as [`store::place_for`].
    pub fn bring_in(&self, name: &str, request: &OpenVault) -> Result<Arc<NamedVault>> {
        names::check_vault(name)?;
        let mut table = lock(&self.table);
        let location = match (table.get(name), &request.store) {
            (Some(known), _) if !known.locked => {
                return Err(Error::said(
                    Kind::Conflict,
                    format!("vault {name}"),
                    "exists already and is not locked",
                )
                .with_help("`blockctl vault list` shows the vaults; choose another name"));
            }
            (Some(known), None) => known.store.clone(),
            (Some(_), Some(_)) => {
                return Err(Error::said(
                    Kind::Conflict,
                    format!("vault {name}"),
                    "exists already and has a store",
                )
                .with_help(format!("`blockctl vault unlock {name} --key FILE` unlocks it")));
            }
            (None, Some(store)) => self.place_for(Location::parse(store, &request.copies)?, &table)?,
            (None, None) => {
                return Err(Error::not_found(format!("vault {name}")).with_help(format!(
                    "`blockctl vault open {name} --store DIR --key FILE` brings one in"
                )));
            }
        };
        let named = Arc::new(self.unlock(name, location, request)?);
        table.insert(name.to_owned(), named.clone());
        tracing::info!("vault {name} was opened in {}", named.store);
        Ok(named)
    }

    /// Where a store is, if it may be there beside those of the vaults in the table.
    fn place_for(&self, location: Location, table: &Table) -> Result<Location> {
        let paths = match location {
            Location::Bucket(bucket) => {
                let other = table.values().find(|other| overlaps(&other.store, &bucket));
                return match other {
                    None => Ok(Location::Bucket(bucket)),
                    Some(other) => {
                        let why = format!("vault {} lives in {}", other.name, other.store);
                        Err(Error::said(Kind::Conflict, format!("store {bucket}"), why)
                            .with_help("choose another prefix"))
                    }
                };
            }
            Location::Directories(paths) => paths,
        };
        let of = |other: &Arc<NamedVault>| {
            let paths = other.store.directories().iter();
            paths.map(|path| (other.name.clone(), path.clone())).collect::<Vec<_>>()
        };
        let mut taken: Vec<(String, PathBuf)> = table.values().flat_map(of).collect();
        let mut places = Vec::new();
        for path in paths {
            let path = store::place_for(&self.root.join(path), &self.root, &taken)?;
            taken.push(("of this command".to_owned(), path.clone()));
            places.push(path);
        }
        Ok(Location::Directories(places))
    }

    fn unlock(&self, name: &str, location: Location, request: &OpenVault) -> Result<NamedVault> {
        let doing = || format!("open vault {name} in {location}");
        let invalid = |why: String| {
            Error::said(Kind::Invalid, format!("key of vault {name}"), why)
                .with_help("give its key file, or its recovery sheet from \"vault:\" to \"sheet:\"")
        };
        let options = match request.store_options {
            Some(_) => Self::parse_options(&location, request.store_options.as_deref())?,
            None => self.read_options(name)?,
        };
        let (material, of) = super::keys::given(&request.key, request.passphrase.as_deref())
            .map_err(|error| invalid(error.body().message))?;
        let store = self.open_store(&location, &options)?;
        let id = Vault::describe(&*store.blobs).doing(doing).map_err(no_vault)?;
        if let Some(other) = of.filter(|of| *of != id) {
            return Err(invalid(format!("the sheet is of vault {other}, and {location} holds vault {id}")));
        }
        let key = match unlock(&*store.blobs, &material) {
            Err(vault::Error::WrongKey { .. }) => {
                return Err(invalid(format!("wrong key: it is not the key of vault {id}")));
            }
            key => key.doing(doing)?,
        };
        let known = self.read_file(name).unwrap_or_default();
        let appliance = match (&location, known.appliance) {
            (_, Some(appliance)) => Some(appliance),
            // another appliance than the maker, which may still be at work
            (Location::Bucket(_), None) => {
                Some(ApplianceId::random(&*self.env.entropy).doing(doing)?.to_string())
            }
            (Location::Directories(_), None) => None,
        };
        let file = VaultFile {
            archive: known.archive || request.archive,
            soft_delete_days: known.soft_delete_days,
            immutability: known.immutability,
            immutable_days: known.immutable_days,
            ..self.file_of(&location, appliance)
        };
        let terms = Terms::new(Protected::of(&file));
        let sheet = key.recovery_sheet(id, name, &location.to_string());
        let opened = self.enter(name, &location, store, key, (&file, &terms), request.take_over)?;
        self.write_options(name, &options)?;
        if let KeyMaterial::Key(key) = &material {
            self.write_key(name, &key.to_file_text())?;
            self.write_sheet(name, &sheet)?;
        }
        self.write_file(name, &file)?;
        Ok(NamedVault::opened_as(name, &file, location, opened, terms))
    }

    fn file_of(&self, location: &Location, appliance: Option<String>) -> VaultFile {
        // one below the state directory moves with it
        let shown = |path: &PathBuf| path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let (store, copies) = match location {
            Location::Bucket(bucket) => (bucket.to_string(), Vec::new()),
            Location::Directories(paths) => {
                let mut paths = paths.iter().map(shown);
                (paths.next().unwrap_or_default(), paths.collect())
            }
        };
        VaultFile { store, copies, appliance, ..VaultFile::default() }
    }

    /// From here on the daemon knows the vault.
    pub(super) fn write_file(&self, name: &str, file: &VaultFile) -> Result<()> {
        let text = toml::to_string(file).map_err(|error| Error::said(Kind::Io, name, error.to_string()))?;
        self.media.replace(&file_path(name), text.as_bytes()).doing(|| format!("note where vault {name} is"))
    }

    /// The key file of a vault that is being made: durable before anything is encrypted with it.
    fn key_for(&self, name: &str) -> Result<VaultKey> {
        if let Some(key) = self.read_key(name)? {
            return Ok(key);
        }
        let key = VaultKey::generate(&*self.env.entropy).doing(|| format!("make the key of vault {name}"))?;
        self.write_key(name, &key.to_file_text())?;
        Ok(key)
    }

    pub(super) fn write_key(&self, name: &str, text: &str) -> Result<()> {
        self.media
            .replace(&key_path(name), text.as_bytes())
            .doing(|| format!("write the key of vault {name}"))
    }

    fn write_sheet(&self, name: &str, sheet: &str) -> Result<()> {
        self.media
            .replace(&sheet_path(name), sheet.as_bytes())
            .doing(|| format!("write the recovery sheet of vault {name}"))
    }
}

impl NamedVault {
    fn opened_as(
        name: &str,
        file: &VaultFile,
        store: Location,
        opened: super::Opened,
        terms: Arc<Terms>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            archive: file.archive,
            store,
            id: Some(opened.vault.id()),
            open: Ok(opened),
            locked: false,
            away: false,
            terms,
            met: Arc::default(),
        }
    }
}

/// Whether names of a bucket's vault could be another's.
fn overlaps(other: &Location, bucket: &vault::Bucket) -> bool {
    let Location::Bucket(other) = other else { return false };
    let inside =
        |outer: &str, inner: &str| outer.is_empty() || Path::new(inner).starts_with(Path::new(outer));
    (other.cloud, &other.name) == (bucket.cloud, &bucket.name)
        && (inside(&other.prefix, &bucket.prefix) || inside(&bucket.prefix, &other.prefix))
}

/// Nothing, as a lab has it, or a term that leaves time to notice.
fn check_term(name: &str, days: Option<u32>) -> Result<()> {
    match days {
        None | Some(0 | TERM_DAYS..=TERM_MOST_DAYS) => Ok(()),
        Some(days) => {
            let why =
                format!("a deletion can be undone for {TERM_DAYS} to {TERM_MOST_DAYS} days, not {days}");
            Err(Error::said(Kind::Invalid, format!("vault {name}"), why)
                .with_help("or not at all in a vault that is made with --lab"))
        }
    }
}
