//! What opens a vault: its key slots, added, removed and replaced while it serves.

use super::{NamedVault, Vaults};
use crate::error::{Doing, Error, Result};
use crate::names::rfc3339;
use block::VaultId;
use control::{AddKey, KeyAdded, Kind, VaultKeySlot};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;
use vault::{KeyMaterial, SlotId, Vault, VaultKey, unlock};

/// How long a command may take that is to print a secret, and how often it is looked at.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_STEP: Duration = Duration::from_millis(20);

/// What a person gave to open a vault: the text of a key, or a passphrase. A sheet also names its vault.
///
/// # Errors
/// `Invalid` if it is neither or both, or the text is no key.
pub(super) fn given(key: &str, passphrase: Option<&str>) -> Result<(KeyMaterial, Option<VaultId>)> {
    match (key.is_empty(), passphrase) {
        (true, Some(passphrase)) => Ok((KeyMaterial::Passphrase(passphrase.to_owned().into()), None)),
        (false, None) => {
            let (key, of) = VaultKey::from_text(key)
                .map_err(|error| Error::said(Kind::Invalid, "the key", error.to_string()))?;
            Ok((KeyMaterial::Key(key), of))
        }
        _ => Err(Error::said(Kind::Invalid, "the key", "give a key or a passphrase, and not both")),
    }
}

impl Vaults {
    /// Every slot of a vault.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if it is locked; what the vault reports.
    pub fn keys(&self, name: &str) -> Result<Vec<VaultKeySlot>> {
        let named = self.get(name)?;
        slots_of(&named)
    }

    /// Adds a slot: a fresh key file, whose text is in the answer, a passphrase, or what the configured command prints.
    ///
    /// # Errors
    /// `Invalid` if the kind is unknown or nothing here opens the vault and no `current` key was given; as
    /// [`keys`](Self::keys).
    pub fn add_key(&self, name: &str, request: &AddKey) -> Result<KeyAdded> {
        let named = self.get(name)?;
        let key = self.vault_key(&named, request)?;
        let doing = || format!("add a key to vault {name}");
        let (material, key_file) = match (request.kind.as_str(), &request.passphrase) {
            ("key-file", None) => {
                let fresh = VaultKey::generate(&*self.env.entropy).doing(doing)?;
                let text = fresh.to_file_text().to_string();
                (KeyMaterial::Key(fresh), Some(text))
            }
            ("passphrase", Some(passphrase)) => (KeyMaterial::Passphrase(passphrase.clone().into()), None),
            ("command", None) => match self.ask_command(name)? {
                Some(material) => (material, None),
                None => {
                    return Err(Error::said(Kind::Invalid, doing(), "no command is configured for it")
                        .with_help(format!(
                            "name it in blockd.toml: [key-commands] {name} = [\"PROGRAM\", …]"
                        )));
                }
            },
            (kind, _) => {
                let why = format!("{kind:?} is not key-file, command, or passphrase with one");
                return Err(Error::said(Kind::Invalid, doing(), why));
            }
        };
        let slot = named.vault()?.add_slot(&key, &material).doing(doing)?;
        Ok(KeyAdded { slot: slot.to_string(), key_file })
    }

    /// Removes a slot. If it is that of the key file in the state, the file goes too.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Conflict` if it is the last one; as [`keys`](Self::keys).
    pub fn remove_key(&self, name: &str, slot: &str) -> Result<Vec<VaultKeySlot>> {
        let named = self.get(name)?;
        let vault = named.vault()?;
        let doing = || format!("remove key slot {slot} of vault {name}");
        let slot: SlotId = slot.parse::<SlotId>().doing(doing)?;
        let is_own = self.own_slot(name, vault)? == Some(slot);
        vault.remove_slot(slot).doing(doing)?;
        if is_own {
            self.media.remove(&super::key_path(name)).doing(doing)?;
        }
        slots_of(&named)
    }

    /// A fresh key file in the state in the place of the one there: the vault key is wrapped anew, and the old file opens
    /// nothing from then on.
    ///
    /// # Errors
    /// `NotFound` if there is no key file; as [`keys`](Self::keys).
    pub fn rotate_key(&self, name: &str) -> Result<Vec<VaultKeySlot>> {
        let named = self.get(name)?;
        let vault = named.vault()?;
        let doing = || format!("replace the key file of vault {name}");
        let Some(old) = self.read_key(name)? else {
            return Err(Error::not_found(format!("key file of vault {name}"))
                .with_help(format!("`blockctl vault key add {name}` and `remove` replace any other key")));
        };
        let material = KeyMaterial::Key(old);
        let key = unlock(&*named.opened()?.store.blobs, &material).doing(doing)?;
        let old_slot = vault.slot_of(&material).doing(doing)?;
        let fresh = VaultKey::generate(&*self.env.entropy).doing(doing)?;
        let text = fresh.to_file_text();
        vault.add_slot(&key, &KeyMaterial::Key(fresh)).doing(doing)?;
        self.write_key(name, &text)?;
        // last: at every moment the file that is there opens the vault
        if let Some(slot) = old_slot {
            vault.remove_slot(slot).doing(doing)?;
        }
        slots_of(&named)
    }

    /// The vault key, by what this host has or the request brings.
    fn vault_key(&self, named: &NamedVault, request: &AddKey) -> Result<VaultKey> {
        let doing = || format!("add a key to vault {}", named.name);
        let material = if request.current_key.is_empty() && request.current_passphrase.is_none() {
            self.material(&named.name)?.ok_or_else(|| {
                Error::said(Kind::Invalid, doing(), "nothing on this host opens it")
                    .with_help("give what does with --current-key FILE or --current-passphrase-file FILE")
            })?
        } else {
            given(&request.current_key, request.current_passphrase.as_deref())?.0
        };
        match unlock(&*named.opened()?.store.blobs, &material) {
            Err(error @ vault::Error::WrongKey { .. }) => {
                Err(Error::said(Kind::Invalid, doing(), error.to_string()))
            }
            key => key.doing(doing),
        }
    }

    /// The slot of the key file in the state.
    fn own_slot(&self, name: &str, vault: &Vault) -> Result<Option<SlotId>> {
        match self.read_key(name)? {
            Some(key) => {
                vault.slot_of(&KeyMaterial::Key(key)).doing(|| format!("look for the key of vault {name}"))
            }
            None => Ok(None),
        }
    }

    /// What the command of this vault prints, if one is configured.
    pub(super) fn ask_command(&self, name: &str) -> Result<Option<KeyMaterial>> {
        let Some((program, args)) = self.commands.get(name).and_then(|words| words.split_first()) else {
            return Ok(None);
        };
        let failed =
            |why: String| Error::said(Kind::Unavailable, format!("the key command of vault {name}"), why);
        let child = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| failed(format!("cannot start {program}: {error}")))?;
        let mut output = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            output.by_ref().take(vault::MAX_SECRET as u64 + 2).read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut waited = Duration::ZERO;
        let status = loop {
            match child.try_wait().map_err(|error| failed(error.to_string()))? {
                Some(status) => break status,
                None if waited >= COMMAND_LIMIT => {
                    // one that ended this very moment has ended as is wanted
                    child.kill().ok();
                    child.wait().map_err(|error| failed(error.to_string()))?;
                    return Err(failed(format!("{program} did not end in {} s", COMMAND_LIMIT.as_secs())));
                }
                None => std::thread::sleep(COMMAND_STEP),
            }
            waited += COMMAND_STEP;
        };
        if !status.success() {
            return Err(failed(format!("{program}: {status}")));
        }
        let read = reader.join().map_err(|_| failed("its output could not be read".to_owned()))?;
        let mut bytes = read.map_err(|error| failed(error.to_string()))?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(Some(KeyMaterial::Command(bytes.into())))
    }
}

fn slots_of(named: &NamedVault) -> Result<Vec<VaultKeySlot>> {
    let slots = named.vault()?.slots().doing(|| format!("list the keys of vault {}", named.name))?;
    let show = |slot: vault::Slot| VaultKeySlot {
        slot: slot.id.to_string(),
        kind: slot.kind.map_or_else(|| "damaged".to_owned(), |kind| kind.name().to_owned()),
        made: slot.made.map(rfc3339),
    };
    Ok(slots.into_iter().map(show).collect())
}
