//! What could not be looked at when points were listed, and what that means for a name that was not found.

use super::{Held, Tiers};
use crate::error::{Doing, Error, Result};
use crate::vaults::NamedVault;
use control::{ErrorBody, Job, Kind};
use std::collections::HashSet;
use vault::{Survey, VaultPoint};

/// Something that is not in order with a vault.
pub struct Trouble {
    /// What, for people.
    pub body: ErrorBody,
    /// The vault.
    pub vault: String,
    hides: Hides,
}

/// Which points may exist without having been seen.
enum Hides {
    Nothing,
    Any,
    Only(String),
}

impl Trouble {
    fn new(named: &NamedVault, error: &Error, hides: Hides) -> Self {
        Self { body: error.body(), vault: named.name.clone(), hides }
    }

    /// Whether a point of this disk may exist though it was not listed.
    pub fn may_hide_one_of(&self, disk: &str) -> bool {
        match &self.hides {
            Hides::Nothing => false,
            Hides::Any => true,
            Hides::Only(hidden) => hidden.split_once('@').is_some_and(|(of, _)| of == disk),
        }
    }

    /// Whether the point of this name may exist though it was not found.
    pub fn may_hide(&self, name: &str) -> bool {
        match &self.hides {
            Hides::Nothing => false,
            Hides::Any => true,
            Hides::Only(hidden) => hidden == name,
        }
    }
}

/// A point that was stored in a vault and that nobody asked to delete. If the vault has it no more, it is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id in the vault.
    pub manifest: String,
    /// Its name when it was stored.
    pub name: String,
}

impl Stored {
    /// What is said if it is gone.
    pub fn lost(&self, vault: &str) -> Error {
        let why = format!("vault {vault} lost it: the blob {} is missing from its store", self.manifest);
        Error::said(Kind::Corrupt, format!("point {}", self.name), why).with_help(format!(
            "put the blob back, or forget the point with `blockctl point delete {}`",
            self.name
        ))
    }
}

impl Tiers {
    /// The points of a vault that can be listed, and what is not in order with it.
    pub(super) fn look_into(&self, named: &NamedVault) -> (Vec<VaultPoint>, Vec<Trouble>) {
        let survey =
            match named.vault().and_then(|open| open.survey().doing(|| format!("vault {}", named.name))) {
                Ok(survey) => survey,
                // most of the time an archive is out of reach, and it is known what lies there
                Err(_) if named.archive => match self.catalog.archived(&named.name) {
                    Ok(points) => return (points, Vec::new()),
                    Err(error) => return (Vec::new(), vec![Trouble::new(named, &error, Hides::Any)]),
                },
                Err(error) => return (Vec::new(), vec![Trouble::new(named, &error, Hides::Any)]),
            };
        let mut trouble: Vec<Trouble> = survey.damaged.iter().map(|damage| damaged(named, damage)).collect();
        match self.lost_of(named, &survey) {
            Ok(lost) => trouble
                .extend(lost.iter().map(|lost| {
                    Trouble::new(named, &lost.lost(&named.name), Hides::Only(lost.name.clone()))
                })),
            Err(error) => trouble.push(Trouble::new(named, &error, Hides::Nothing)),
        }
        (survey.points, trouble)
    }

    /// The points that were stored in a vault and are gone without anybody's request.
    ///
    /// # Errors
    /// What the vault or the catalog reports.
    pub fn lost(&self, named: &NamedVault) -> Result<Vec<Stored>> {
        let survey = named.vault()?.survey().doing(|| format!("vault {}", named.name))?;
        self.lost_of(named, &survey)
    }

    fn lost_of(&self, named: &NamedVault, survey: &Survey) -> Result<Vec<Stored>> {
        let mut there: HashSet<String> =
            survey.points.iter().map(|point| point.manifest.to_string()).collect();
        there.extend(
            survey.damaged.iter().filter_map(|damage| Some(damage.blob.rsplit_once('/')?.1.to_owned())),
        );
        let is_there = |manifest: &str| there.contains(manifest);
        let missing = |lost: &Stored| !is_there(&lost.manifest);
        let mut lost: Vec<Stored> = self.catalog.stored(&named.key())?.into_iter().filter(missing).collect();
        if !lost.is_empty() {
            // one that was stored or deleted while the vault was listed is not lost
            let again = named.vault()?.survey().doing(|| format!("vault {}", named.name))?;
            let stored = self.catalog.stored(&named.key())?;
            lost.retain(|lost| {
                stored.iter().any(|stored| stored.manifest == lost.manifest)
                    && !again.points.iter().any(|point| point.manifest.to_string() == lost.manifest)
            });
        }
        Ok(lost)
    }

    /// Takes note of all points the vaults hold, so that one that goes missing is noticed also if the catalog is young.
    /// Gives what could not be noted, one sentence each.
    pub fn remember_stored(&self) -> Vec<String> {
        let usable = self.vaults.all().into_iter().filter(|named| named.trouble().is_none());
        usable
            .filter_map(|named| self.remember_stored_in(&named).err())
            .map(|error| error.body().message)
            .collect()
    }

    /// The same of one vault.
    ///
    /// # Errors
    /// What the vault or the catalog reports.
    pub fn remember_stored_in(&self, named: &NamedVault) -> Result<()> {
        let points = named.vault()?.points().doing(|| format!("vault {}", named.name))?;
        if named.archive {
            self.catalog.set_archived(&named.name, &points)?;
        }
        let named_points = points.iter().map(|point| Stored {
            manifest: point.manifest.to_string(),
            name: format!("{}@{}", point.item, point.epoch),
        });
        self.catalog.put_stored(&named.key(), &named_points.collect::<Vec<_>>())
    }

    /// Whether a job that the end of the last daemon cut short had done its work all the same: the disk a restore makes
    /// exists, the points of a backup are in the vault, those of the archive are there alone, those brought back are back.
    pub fn has_outcome(&self, job: &Job) -> bool {
        let is_it = |vault: &NamedVault| Some(&vault.name) == job.vault.as_ref();
        let in_vault = |held: &Held| held.copies.iter().any(|(vault, _)| is_it(vault));
        let moved =
            |held: &Held| held.copies.is_empty() && held.archived.iter().any(|(vault, _)| is_it(vault));
        let is_of_all = |name: &String, is_so: &dyn Fn(&Held) -> bool| {
            self.members(name).is_ok_and(|points| points.iter().all(is_so))
        };
        match (job.operation.as_str(), &job.target_id, &job.point) {
            ("restore", Some(id), _) => self.disks.has(id),
            ("backup" | "rehydrate", _, Some(point)) => is_of_all(point, &in_vault),
            ("archive", _, Some(point)) => is_of_all(point, &moved),
            _ => false,
        }
    }

    /// Forgets a lost point of this name; whether there was one.
    ///
    /// # Errors
    /// What vaults or catalog report.
    pub(super) fn forget_lost(&self, name: &str) -> Result<bool> {
        let mut found = false;
        for named in self.vaults.all().iter().filter(|named| named.trouble().is_none()) {
            for lost in self.lost(named)?.iter().filter(|lost| lost.name == name) {
                self.catalog.forget_stored(&named.key(), &lost.manifest)?;
                found = true;
            }
        }
        Ok(found)
    }
}

fn damaged(named: &NamedVault, damage: &vault::Damage) -> Trouble {
    let why = format!("{} is damaged in its {}: {}", damage.blob, damage.place, damage.why);
    let error = Error::said(Kind::Corrupt, format!("vault {}", named.name), why)
        .with_help(format!("`blockctl vault check {}` names every point that is hurt", named.name));
    // a damaged index or pack hides no point: points are listed from their own blobs
    Trouble::new(named, &error, if damage.blob.starts_with("points/") { Hides::Any } else { Hides::Nothing })
}
