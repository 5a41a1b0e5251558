//! Copies in vaults that were deleted: marked first, gone for good when their term is over. `docs/deletion.md` has the rules.

use super::{Held, Stored, Tiers};
use crate::audit_log::{About, Said};
use crate::error::{Doing, Error, Result};
use crate::gate::{self, stamp};
use crate::marks::{Deleted, Hold, Mark};
use crate::vaults::NamedVault;
use block::{Failure as _, StateId};
use control::Kind;
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};
use std::fmt;
use vault::ManifestId;

/// Who wants a point deleted.
pub enum By {
    /// A person or a script.
    Request,
    /// This policy.
    Policy(String),
    /// It went to this archive.
    Archive(String),
    /// It was back from an archive for a time that is over.
    Rehydration,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => write!(f, "request"),
            Self::Policy(name) => write!(f, "policy {name}"),
            Self::Archive(name) => write!(f, "archive {name}"),
            Self::Rehydration => write!(f, "end of rehydration"),
        }
    }
}

/// A century: what is wanted for longer is wanted until somebody says otherwise.
const LONGEST_KEEP_SECONDS: u64 = 100 * 366 * 86_400;

impl Tiers {
    fn now(&self) -> Timestamp {
        stamp(self.disks.env().clock.now())
    }

    /// Deletes the copy of a point in a vault: until when that can be undone, if it can be.
    ///
    /// # Errors
    /// `Refused` by the gate; what the vault or the host reports.
    pub fn delete_from(&self, held: &Held, vault: &NamedVault, by: &By) -> Result<Option<Timestamp>> {
        match self.delete_all_from(&[held], vault, by)?.pop() {
            Some(until) => until,
            None => Err(Error::not_found(format!("point {}", held.name))),
        }
    }

    /// The same of several points, for little more than the price of one: what came of each, in their order.
    ///
    /// # Errors
    /// What the vault or the host reports: then nothing is known of any of them. What the gate refuses is of its point alone.
    pub fn delete_all_from(
        &self,
        points: &[&Held],
        vault: &NamedVault,
        by: &By,
    ) -> Result<Vec<Result<Option<Timestamp>>>> {
        let id = vault.vault()?.id();
        self.disks.unless_stood_on(id, |check| {
            let (now, days) = (self.now(), vault.term_days());
            let term = SignedDuration::from_hours(24 * i64::from(days));
            let until = now.saturating_add(term).unwrap_or(Timestamp::MAX);
            let named: HashMap<&str, &Held> = points.iter().map(|held| (held.name.as_str(), *held)).collect();
            let delete = |mark: &mut Mark, name: &str| {
                let held = named.get(name).ok_or_else(|| Error::not_found(format!("point {name}")))?;
                check(held.stored_in(&vault.name), name)?;
                gate::ask_vault(name, vault.terms(), self.vaults.clock(), held.time)?;
                gate::ask(name, mark, now)?;
                mark.deleted.insert(vault.key(), Deleted { at: now, until, by: by.to_string() });
                mark.rehydrated.remove(&vault.key());
                Ok(())
            };
            let states: Vec<(StateId, &str)> =
                points.iter().map(|held| (held.state, held.name.as_str())).collect();
            let marked = self.vaults.marks().change_all(&states, delete)?;
            let end = |(held, marked): (&&Held, Result<()>)| {
                marked?;
                match held.stored_in(&vault.name) {
                    Some(manifest) if days == 0 => {
                        self.end_deletion(vault, held.state, Some(manifest)).map(|()| None)
                    }
                    _ => Ok((days > 0).then_some(until)),
                }
            };
            Ok(points.iter().zip(marked).map(end).collect())
        })
    }

    /// Ends the deletions of a vault whose term is over.
    ///
    /// # Errors
    /// What vault, catalog or host report, of the first that failed; the others are ended.
    pub fn end_deletions(&self, vault: &NamedVault, now: Timestamp) -> Result<()> {
        let mut due = self.vaults.marks().deleted_from(&vault.key());
        due.retain(|_, deleted| deleted.until <= now);
        if due.is_empty() {
            return Ok(());
        }
        let points = vault.vault()?.points().doing(|| format!("vault {}", vault.name))?;
        // those that became immutable meanwhile have more time
        let stays = |state: &StateId| {
            let found = points.iter().find(|point| point.state == *state);
            found.is_some_and(|point| vault.terms().immutable_until(point.time, now).is_some())
        };
        due.retain(|state, _| !stays(state));
        let end = |state| {
            let found = points.iter().find(|point| point.state == state).map(|point| &point.manifest);
            let (id, name) = (vault.vault()?.id(), self.vaults.marks().of(state).point);
            let about = About::from([
                ("point".to_owned(), name.as_str().into()),
                ("vault".to_owned(), vault.name.as_str().into()),
            ]);
            let said = Said { who: "blockd".to_owned(), action: "delete for good".to_owned(), about };
            self.audit.around(&said, || {
                self.disks.delete_unless_stood_on(id, found, &name, || self.end_deletion(vault, state, found))
            })
        };
        // all of them, whatever one reports
        let failed: Vec<Error> = due.into_keys().filter_map(|state| end(state).err()).collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// Forgets how consistent points were that nothing holds any more.
    ///
    /// # Errors
    /// What the host reports.
    pub fn forget_gone(&self) -> Result<()> {
        // first: what is sealed from here on is none of these
        let said = self.vaults.marks().only_quiesced();
        let view = self.look();
        let is_unseen = !view.trouble().is_empty()
            || self.vaults.all().iter().any(|vault| vault.vault().is_err())
            || self.disks.all().iter().any(|named| named.disk().is_err());
        if said.is_empty() || is_unseen {
            return Ok(());
        }
        let held: HashSet<StateId> = view.held(None).iter().map(|held| held.state).collect();
        let gone: Vec<(StateId, &str)> = said
            .iter()
            .filter(|(state, _)| !held.contains(state))
            .map(|(state, name)| (*state, name.as_str()))
            .collect();
        let forget = |mark: &mut Mark, _: &str| {
            mark.quiesced = None;
            Ok(())
        };
        self.vaults.marks().change_all(&gone, forget).map(drop)
    }

    /// Deletes a point from a vault for good. It stops being missed before it is gone, so that it is never taken for lost.
    fn end_deletion(&self, vault: &NamedVault, state: StateId, manifest: Option<&ManifestId>) -> Result<()> {
        let marks = self.vaults.marks();
        let name = marks.of(state).point;
        if let Some(manifest) = manifest {
            let open = vault.vault()?;
            self.catalog.forget_stored(&vault.key(), &manifest.to_string())?;
            let deleted = match open.delete_point(manifest) {
                // whoever asked and the keeper may both end it
                Err(gone) if gone.kind() == block::Kind::NotFound => Ok(()),
                deleted => deleted.doing(|| format!("delete {name} from vault {}", vault.name)),
            };
            if deleted.is_err() {
                let stored = Stored { manifest: manifest.to_string(), name: name.clone() };
                self.catalog.put_stored(&vault.key(), &[stored])?;
            }
            deleted?;
            tracing::info!(point = name, vault = vault.name, "deleted for good");
        }
        let gone = |mark: &mut Mark| {
            mark.deleted.remove(&vault.key());
            Ok(())
        };
        marks.change(state, &name, gone).map(|_| ())
    }

    /// Points that were deleted from a vault and can come back, of one item or of all.
    pub fn deleted(&self, item: Option<&str>) -> Vec<Held> {
        self.look().copies(item, true)
    }

    /// Takes the deletion of a point back, from every vault that still has it. How it is held now.
    ///
    /// # Errors
    /// `NotFound` if none of this name was deleted.
    pub fn undelete(&self, name: &str) -> Result<Held> {
        let (item, _) = name.split_once('@').unwrap_or((name, ""));
        let gone = self.deleted(Some(item));
        let mut found = gone.iter().filter(|held| held.name == name);
        let held = match (found.next(), found.next()) {
            (Some(held), None) => held,
            (Some(_), Some(_)) => {
                return Err(Error::said(
                    Kind::Conflict,
                    format!("point {name}"),
                    "several deleted points have this name",
                )
                .with_help(format!("`blockctl point list {item} --deleted` gives each a name of its own")));
            }
            _ => {
                return Err(Error::said(
                    Kind::NotFound,
                    format!("point {name}"),
                    "was not deleted, or is gone for good",
                )
                .with_help("`blockctl point list --deleted` shows what can come back"));
            }
        };
        let back = |mark: &mut Mark| {
            held.stored().for_each(|(vault, _)| drop(mark.deleted.remove(&vault.key())));
            Ok(())
        };
        self.vaults.marks().change(held.state, name, back)?;
        self.find(name)
    }

    /// Holds a point, or ends that.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a reason that says nothing or too much; what the host reports.
    pub fn hold(&self, name: &str, reason: Option<&str>) -> Result<Held> {
        const MOST: usize = 1000;
        let held = self.find(name)?;
        if reason.is_some_and(|reason| reason.trim().is_empty() || reason.len() > MOST) {
            return Err(Error::said(
                Kind::Invalid,
                format!("hold {name}"),
                format!("a reason has 1 to {MOST} bytes"),
            ));
        }
        let hold = reason.map(|reason| Hold { reason: reason.to_owned(), since: self.now() });
        let change = |mark: &mut Mark| {
            mark.hold = hold;
            Ok(())
        };
        self.vaults.marks().change(held.state, &held.name, change)?;
        Ok(held)
    }

    /// When so many seconds from now are over, for which a point that is made now is to be kept.
    ///
    /// # Errors
    /// `Invalid` for none, and for more than anybody means: nothing deletes the point before.
    pub fn keep_until(&self, seconds: u64) -> Result<Timestamp> {
        if !(1..=LONGEST_KEEP_SECONDS).contains(&seconds) {
            let why =
                format!("a point is kept for 1 second to {LONGEST_KEEP_SECONDS} (a century), not {seconds}");
            return Err(Error::said(Kind::Invalid, "keep", why)
                .with_help("`blockctl point hold` keeps one for as long as nobody releases it"));
        }
        let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        Ok(self.now().saturating_add(span).unwrap_or(Timestamp::MAX))
    }

    /// Has these points kept until then at least.
    ///
    /// # Errors
    /// What the host reports.
    pub fn keep(&self, points: &[Held], until: Timestamp) -> Result<()> {
        points.iter().try_for_each(|held| {
            let keep = |mark: &mut Mark| {
                mark.keep_until = mark.keep_until.max(Some(until));
                Ok(())
            };
            self.vaults.marks().change(held.state, &held.name, keep).map(|_| ())
        })
    }
}
