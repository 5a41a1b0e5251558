//! The vaults as people see them.

use super::{LIMIT_BYTES, NamedVault, Opened, Touched, Vaults, key_path, sheet_path};
use crate::error::{Doing, Result};
use crate::names::rfc3339;
use crate::store::Location;
use block::sync::lock;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vault::{CopyState, CopyStatus, Quiet, Usage, VaultKey};

impl Opened {
    /// Takes note of what a vault in a bucket takes.
    pub(super) fn count(&self) {
        match self.vault.usage() {
            Ok(usage) => *lock(&self.usage) = Some((Touched::Unknown, usage)),
            Err(error) => tracing::warn!("what a vault takes is counted later: {error}"),
        }
    }
}

impl NamedVault {
    fn usage(&self) -> Result<Option<Usage>> {
        let Ok(opened) = &self.open else { return Ok(None) };
        match self.store {
            Location::Directories(_) => {
                let touched = self.touched();
                if let Some((then, usage)) = &*lock(&opened.usage)
                    && touched.is_settled()
                    && *then == touched
                {
                    return Ok(Some(*usage));
                }
                let usage = opened.vault.usage().doing(|| format!("vault {}", self.name))?;
                *lock(&opened.usage) = Some((touched, usage));
                Ok(Some(usage))
            }
            Location::Bucket(_) => Ok(lock(&opened.usage).as_ref().map(|(_, usage)| *usage)),
        }
    }

    fn copy_states(&self) -> Vec<CopyStatus> {
        let copies = self.open.as_ref().ok().and_then(|opened| opened.store.copies.as_ref());
        copies.map(|copies| copies.status()).unwrap_or_default()
    }
}

/// The state in a word, and why it is not good.
fn state_of(state: CopyState) -> (&'static str, Option<String>) {
    match state {
        CopyState::Good => ("good", None),
        CopyState::Behind(why) => ("behind", Some(why)),
        CopyState::Failed(why) => ("failed", Some(why)),
        CopyState::Absent(why) => ("absent", Some(why)),
    }
}

impl Vaults {
    /// A vault as the API shows it.
    pub fn show(&self, named: &NamedVault) -> control::Vault {
        let (usage, failed) = match named.usage() {
            Ok(usage) => (usage, named.trouble().cloned()),
            Err(error) => (None, Some(error.body())),
        };
        let copies: Vec<control::VaultCopy> = named.copy_states().into_iter().map(show_copy).collect();
        control::Vault {
            name: named.name.clone(),
            id: named.id.map(|id| id.to_string()),
            store: named.store.to_string(),
            locked: named.locked,
            archive: named.archive,
            error: failed,
            key_file: self.root.join(key_path(&named.name)).display().to_string(),
            recovery_sheet: self.root.join(sheet_path(&named.name)).display().to_string(),
            points: usage.map(|usage| usage.points),
            stored: usage.map(|usage| usage.bytes),
            checked: None,
            soft_delete_days: named.term_days(),
            immutability: named.terms.now().immutability,
            immutable_days: named.terms.now().immutable_days,
            redundancy: redundancy(named, copies.len()),
            copies,
            read_only: named.open.as_ref().ok().and_then(|opened| opened.vault.read_only()),
            writers: Vec::new(),
            recovery_sheet_text: None,
        }
    }

    /// The same with what has to be asked of the store.
    ///
    /// # Errors
    /// What the vault reports.
    pub fn show_whole(&self, named: &NamedVault) -> Result<control::Vault> {
        let mut shown = self.show(named);
        if let (Location::Bucket(_), Ok(opened)) = (&named.store, &named.open) {
            let writers = opened.vault.writers().doing(|| format!("vault {}", named.name))?;
            let show = |writer: vault::RegisteredWriter| control::VaultWriter {
                appliance: writer.appliance.to_string(),
                label: writer.label,
                since: writer.since.map(rfc3339),
                own: writer.own,
            };
            shown.writers = writers.into_iter().map(show).collect();
        }
        Ok(shown)
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

    fn has_key(&self, name: &str) -> bool {
        self.root.join(key_path(name)).exists()
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
            // a vault that no file of this host opens has none here either
            Err(error) if error.kind() == block::Kind::NotFound && !self.has_key(&named.name) => return None,
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
            let mut devices: BTreeMap<u64, usize> = BTreeMap::new();
            for path in named.store.directories() {
                device(path).into_iter().for_each(|device| *devices.entry(device).or_default() += 1);
            }
            if disks.is_some_and(|disks| devices.contains_key(&disks)) {
                warnings.push(format!(
                    "vault {} and the disks share a device: its failure takes both",
                    named.name
                ));
            }
            if devices.values().any(|count| *count > 1) {
                warnings.push(format!("vault {}: copies share a device: its failure takes both", named.name));
            }
            let read_only = named.open.as_ref().ok().and_then(|opened| opened.vault.read_only());
            warnings.extend(read_only.map(|why| format!("vault {} is read-only here: {why}", named.name)));
            warnings
                .extend(named.copy_states().into_iter().filter_map(|copy| copy_warning(&named.name, copy)));
        }
        warnings
    }
}

/// How a vault is protected from its own medium.
fn redundancy(named: &NamedVault, copies: usize) -> String {
    match (named.parity(), copies) {
        (Ok(Some(parity)), _) => format!("parity:{}", parity.status().scheme),
        (_, 0) => "none".to_owned(),
        (_, copies) => format!("local:{copies}"),
    }
}

fn show_copy(copy: CopyStatus) -> control::VaultCopy {
    let (state, why) = state_of(copy.state);
    control::VaultCopy {
        number: copy.number,
        place: copy.place,
        state: state.to_owned(),
        why,
        repaired: copy.repaired,
    }
}

fn copy_warning(vault: &str, copy: CopyStatus) -> Option<String> {
    let (state, why) = state_of(copy.state);
    let why = why?;
    let place = if copy.place.is_empty() { String::new() } else { format!(" in {}", copy.place) };
    let next = format!("`blockctl vault repair {vault}` gives it what it lacks once it is there");
    Some(format!("vault {vault}: copy {}{place} is {state}: {why}; {next}", copy.number))
}
