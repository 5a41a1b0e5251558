//! Vaults that come to be known: made with a fresh key, brought in with their own, unlocked.

use super::{
    NamedVault, TERM_DAYS, TERM_MOST_DAYS, VaultFile, Vaults, file_path, key_path, open_store, sheet_path,
};
use crate::error::{Doing, Error, Result};
use crate::{names, store};
use block::sync::lock;
use block::{Failure, VaultId};
use control::Kind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vault::{Vault, VaultKey};

impl Vaults {
    /// Makes a vault with a fresh key and its recovery sheet. A creation that was cut off is continued.
    ///
    /// # Errors
    /// `Conflict` if the name is taken or the directory holds a vault, `Refused` if it holds anything else; as
    /// [`store::place_for`].
    pub fn create(&self, name: &str, store: &Path, term_days: Option<u32>) -> Result<Arc<NamedVault>> {
        names::check_vault(name)?;
        check_term(name, term_days)?;
        let mut table = lock(&self.table);
        if table.contains_key(name) {
            return Err(Error::said(Kind::Conflict, format!("vault {name}"), "exists already")
                .with_help("`blockctl vault list` shows the vaults"));
        }
        let path = self.place_for(store, &table)?;
        let doing = || format!("make vault {name} in {}", path.display());
        let directory = self.directory(&path, true)?;
        store::refuse_strangers(&directory, doing)?;
        let blobs = open_store(directory).doing(doing)?;
        if let Ok(id) = Vault::describe(&*blobs)
            && self.read_key(name)?.is_none()
        {
            return Err(Error::said(Kind::Conflict, doing(), format!("it holds vault {id} already"))
                .with_help("choose an empty directory"));
        }
        let key = self.key_for(name)?;
        let vault = match Vault::create(blobs.clone(), key, &self.env) {
            Err(vault::Error::Exists(_)) => {
                let key = self.key_for(name)?;
                Vault::open(blobs.clone(), key, &self.env)
            }
            made => made,
        };
        let id = vault.doing(doing)?.id();
        self.write_sheet(name, id, &path)?;
        self.write_file(name, &path, term_days)?;
        let key = self.key_for(name)?;
        let vault = Vault::open_with(blobs, key, &self.env, self.options(name, id)?).doing(doing)?;
        let named = Arc::new(NamedVault::open(name, path, id, vault, term_days.unwrap_or(TERM_DAYS)));
        table.insert(name.to_owned(), named.clone());
        let sheet = self.root.join(sheet_path(name));
        tracing::warn!("vault {name} was made; print {} and keep it away from this host", sheet.display());
        Ok(named)
    }

    /// Brings in a vault that exists, with the text of its key file or recovery sheet; one that is known and locked is
    /// unlocked, and then needs no `store`. Nothing is written before the key has opened the vault.
    ///
    /// # Errors
    /// `Conflict` if the name is taken by a vault that is not locked, `Invalid` for a text that is no key or another
    /// vault's, `NotFound` if there is no vault; as [`store::place_for`].
    pub fn bring_in(&self, name: &str, store: Option<&Path>, key: &str) -> Result<Arc<NamedVault>> {
        names::check_vault(name)?;
        let mut table = lock(&self.table);
        let path = match (table.get(name), store) {
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
            (None, Some(store)) => self.place_for(store, &table)?,
            (None, None) => {
                return Err(Error::not_found(format!("vault {name}")).with_help(format!(
                    "`blockctl vault open {name} --store DIR --key FILE` brings one in"
                )));
            }
        };
        let named = Arc::new(self.unlock(name, path, key)?);
        table.insert(name.to_owned(), named.clone());
        tracing::info!("vault {name} was opened in {}", named.store.display());
        Ok(named)
    }

    /// Where a store is, if it may be there beside those of the vaults in the table.
    fn place_for(&self, store: &Path, table: &BTreeMap<String, Arc<NamedVault>>) -> Result<PathBuf> {
        let taken = table.values().map(|other| (other.name.clone(), other.store.clone()));
        store::place_for(&self.root.join(store), &self.root, &taken.collect::<Vec<_>>())
    }

    fn unlock(&self, name: &str, path: PathBuf, text: &str) -> Result<NamedVault> {
        let doing = || format!("open vault {name} in {}", path.display());
        let invalid = |why: String| {
            Error::said(Kind::Invalid, format!("key of vault {name}"), why)
                .with_help("give its key file, or its recovery sheet from \"vault:\" to \"sheet:\"")
        };
        let (key, of) = VaultKey::from_text(text).map_err(|error| invalid(error.to_string()))?;
        let file_text = key.to_file_text();
        let blobs = open_store(self.directory(&path, false)?).doing(doing)?;
        let id = Vault::describe(&*blobs).doing(doing)?;
        if let Some(other) = of.filter(|of| *of != id) {
            return Err(invalid(format!(
                "the sheet is of vault {other}, and {} holds vault {id}",
                path.display()
            )));
        }
        let vault = match Vault::open_with(blobs, key, &self.env, self.options(name, id)?) {
            Err(error) if Failure::kind(&error) == block::Kind::Unavailable => {
                return Err(invalid(format!("it is not the key of vault {id}")));
            }
            opened => opened.doing(doing)?,
        };
        self.write_key(name, &file_text)?;
        self.write_sheet(name, id, &path)?;
        let term_days = self.read_file(name).ok().and_then(|file| file.soft_delete_days);
        self.write_file(name, &path, term_days)?;
        Ok(NamedVault::open(name, path, id, vault, term_days.unwrap_or(TERM_DAYS)))
    }

    /// From here on the daemon knows the vault.
    fn write_file(&self, name: &str, store: &Path, soft_delete_days: Option<u32>) -> Result<()> {
        // one below the state directory moves with it
        let shown = store.strip_prefix(&self.root).unwrap_or(store);
        let file = VaultFile { store: shown.display().to_string(), soft_delete_days };
        let text = toml::to_string(&file).map_err(|error| Error::said(Kind::Io, name, error.to_string()))?;
        self.media.replace(&file_path(name), text.as_bytes()).doing(|| format!("note where vault {name} is"))
    }

    /// The key of a vault that is being made: durable before anything is encrypted with it.
    fn key_for(&self, name: &str) -> Result<VaultKey> {
        if let Some(key) = self.read_key(name)? {
            return Ok(key);
        }
        let key = VaultKey::generate(&*self.env.entropy).doing(|| format!("make the key of vault {name}"))?;
        self.write_key(name, &key.to_file_text())?;
        Ok(key)
    }

    fn write_key(&self, name: &str, text: &str) -> Result<()> {
        self.media
            .replace(&key_path(name), text.as_bytes())
            .doing(|| format!("write the key of vault {name}"))
    }

    fn write_sheet(&self, name: &str, id: VaultId, store: &Path) -> Result<()> {
        let key = self.key_for(name)?;
        let sheet = key.recovery_sheet(id, name, &store.display().to_string());
        self.media
            .replace(&sheet_path(name), sheet.as_bytes())
            .doing(|| format!("write the recovery sheet of vault {name}"))
    }
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
