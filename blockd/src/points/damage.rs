//! Which copies of recovery points are known to be damaged: by the last check of their vault, or by reads since the daemon
//! started.

use super::{Held, Tiers};
use crate::error::{Error, Result};
use crate::vaults::NamedVault;
use control::{Kind, LastCheck, Tier};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use vault::ManifestId;

/// Names of damaged points that one warning holds.
const SHOWN: usize = 8;

/// The copies that the last check of their vault found damaged; those that reads found are known to the vaults.
pub struct HurtCopies(HashSet<(String, String)>);

impl HurtCopies {
    /// Whether this copy is known to be damaged.
    pub fn has(&self, vault: &NamedVault, manifest: &ManifestId) -> bool {
        vault.has_met_damage(manifest) || self.0.contains(&(vault.name.clone(), manifest.to_string()))
    }

    /// The vaults whose copy of a point is known to be damaged.
    pub fn of<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = &'a Arc<NamedVault>> {
        held.stored().filter(|(vault, manifest)| self.has(vault, manifest)).map(|(vault, _)| vault)
    }
}

impl Tiers {
    /// The copies that are known to be damaged.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn hurt(&self) -> Result<HurtCopies> {
        self.catalog.hurt().map(HurtCopies)
    }

    /// A vault as the API shows it.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn show_vault(&self, named: &NamedVault) -> Result<control::Vault> {
        self.with_check(self.vaults.show(named))
    }

    /// The same with what has to be asked of the store.
    ///
    /// # Errors
    /// As [`show_vault`](Self::show_vault); what the vault reports.
    pub fn show_whole_vault(&self, named: &NamedVault) -> Result<control::Vault> {
        self.with_check(self.vaults.show_whole(named)?)
    }

    fn with_check(&self, vault: control::Vault) -> Result<control::Vault> {
        let checked = self.catalog.last_checks()?.remove(&vault.name);
        Ok(control::Vault { checked, ..vault })
    }

    /// A copy in a vault that can be opened and that is not known to be damaged.
    pub(super) fn sound_copy<'a>(
        &self,
        held: &'a Held,
        hurt: &HurtCopies,
    ) -> Option<&'a (Arc<NamedVault>, ManifestId)> {
        held.copies.iter().find(|copy| is_sound(held, hurt, copy))
    }

    /// The same in an archive.
    pub(crate) fn sound_archived<'a>(
        &self,
        held: &'a Held,
        hurt: &HurtCopies,
    ) -> Option<&'a (Arc<NamedVault>, ManifestId)> {
        held.archived.iter().find(|copy| is_sound(held, hurt, copy))
    }

    /// Refuses to delete a point from `tiers` if what is left of it is known to be damaged.
    ///
    /// # Errors
    /// `Refused`, naming what is damaged.
    pub(super) fn refuse_last_sound(&self, held: &Held, tiers: &[Tier]) -> Result<()> {
        let (hurt, mut damaged) = (self.hurt()?, Vec::new());
        for tier in held.tiers().into_iter().filter(|tier| !tiers.contains(tier)) {
            let is_sound = match tier {
                Tier::Instant => !is_hurt_on_disk(held),
                Tier::Vault => self.sound_copy(held, &hurt).is_some(),
                Tier::Archive => self.sound_archived(held, &hurt).is_some(),
            };
            if is_sound {
                return Ok(());
            }
            damaged.push(copies_in(held, tier));
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let why = format!("{} would be all that is left, damaged or not to be opened", damaged.join(" and "));
        Err(Error::said(Kind::Refused, format!("delete {}", held.name), why).with_help(format!(
            "`blockctl backup {} --full` stores the disk anew, `blockctl restore disk {} --to NAME` keeps this point; \
             --last-copy deletes it all the same",
            held.item, held.name
        )))
    }

    /// What a person should know of damage in vaults, one sentence each.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn damage_warnings(&self, points: &[Held]) -> Result<Vec<String>> {
        let (hurt, checks) = (self.hurt()?, self.catalog.last_checks()?);
        let mut by_vault: HashMap<String, Vec<&str>> = HashMap::new();
        for held in points {
            hurt.of(held).for_each(|vault| by_vault.entry(vault.name.clone()).or_default().push(&held.name));
        }
        let vaults = self.vaults.all();
        let of = |vault: &Arc<NamedVault>| {
            let points = by_vault.get(&vault.name).map_or(&[][..], Vec::as_slice);
            warning(&vault.name, points, checks.get(&vault.name))
        };
        Ok(vaults.iter().filter_map(of).collect())
    }
}

fn warning(vault: &str, points: &[&str], check: Option<&LastCheck>) -> Option<String> {
    let again = format!("`blockctl vault check {vault}` looks again and names all");
    let found = check.filter(|check| check.problems > 0).map(|check| {
        let plural = if check.problems == 1 { "" } else { "s" };
        format!("its last check ({}) found {} problem{plural}", check.time, check.problems)
    });
    let more = match points.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = points[..points.len().min(SHOWN)].join(", ");
    match (points.is_empty(), found) {
        (true, None) => None,
        (true, Some(found)) => Some(format!("vault {vault}: {found}; {again}")),
        (false, found) => {
            let found = found.unwrap_or_else(|| "reads found damage".to_owned());
            Some(format!("vault {vault}: {found}; damaged in it: {names}{more}; {again}"))
        }
    }
}

/// The copies of a point in a tier, for people.
fn copies_in(held: &Held, tier: Tier) -> String {
    let names = |copies: &[(Arc<NamedVault>, ManifestId)], what: &str| {
        let names: Vec<String> = copies.iter().map(|(vault, _)| format!("{what} {}", vault.name)).collect();
        format!("the copy in {}", names.join(" and in "))
    };
    match tier {
        Tier::Instant => format!("the copy of disk {} itself", held.item),
        Tier::Vault => names(&held.copies, "vault"),
        Tier::Archive => names(&held.archived, "archive"),
    }
}

// what was listed a moment ago is opened: what cannot be opened is no copy
fn is_sound(held: &Held, hurt: &HurtCopies, (vault, manifest): &(Arc<NamedVault>, ManifestId)) -> bool {
    !hurt.has(vault, manifest) && vault.image(manifest, || held.name.clone()).is_ok()
}

/// Whether reads have met damage of this point on its disk.
fn is_hurt_on_disk(held: &Held) -> bool {
    let Some(disk) = held.instant.as_ref().and_then(|named| named.disk().ok()) else { return true };
    disk.damage_met().iter().any(|hurt| hurt.points.contains(&held.epoch))
}
