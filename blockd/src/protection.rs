//! What people ask about policies, and of items and points under them.

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::gate::stamp;
use crate::keeper::Newest;
use crate::points::{By, Held};
use crate::policies::{PolicyName, Protection};
use control::{Item, Kind, Point, Policy, Rehearsal, UnprotectQuery};
use jiff::Timestamp;
use std::time::Duration;

impl Daemon {
    /// The appliance's time.
    pub(crate) fn now(&self) -> Timestamp {
        stamp(self.tiers().disks.env().clock.now())
    }

    /// Every policy.
    ///
    /// # Errors
    /// Why the items cannot be read.
    pub fn show_policies(&self) -> Result<Vec<Policy>> {
        self.policies().all().into_iter().map(|(name, policy)| self.shown(&name, policy)).collect()
    }

    /// One policy.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn show_policy(&self, name: &str) -> Result<Policy> {
        let name = PolicyName::parse(name)?;
        let found = self.policies().all().into_iter().find(|(known, _)| *known == name);
        let (name, policy) = found.ok_or_else(|| {
            Error::not_found(format!("policy {name}")).with_help("`blockctl policy list` shows the policies")
        })?;
        self.shown(&name, policy)
    }

    fn shown(
        &self,
        name: &PolicyName,
        policy: std::result::Result<std::sync::Arc<crate::policy::Policy>, control::ErrorBody>,
    ) -> Result<Policy> {
        let own = name.to_string();
        let items = self.policies().items()?;
        let next = |policy: &crate::policy::Policy| Some(policy.schedule.around(self.now())?.1.to_string());
        Ok(Policy {
            items: items.into_iter().filter(|(_, by)| by.policy == own).map(|(item, _)| item).collect(),
            name: own,
            vault: name.vault.clone(),
            text: policy.as_ref().ok().map(|policy| policy.text.clone()),
            next: policy.as_ref().ok().and_then(|policy| next(policy)),
            error: policy.err(),
        })
    }

    /// Removes a policy; gives it as it was.
    ///
    /// # Errors
    /// As [`crate::policies::Policies::remove`].
    pub fn delete_policy(&self, name: &str) -> Result<Policy> {
        let shown = self.show_policy(name)?;
        self.policies().remove(&PolicyName::parse(name)?)?;
        Ok(shown)
    }

    /// Every item under a policy.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn items(&self) -> Result<Vec<Item>> {
        let items = self.policies().items()?;
        let mut newest = Newest::default();
        if !items.is_empty() {
            let (view, hurt) = (self.tiers().look(), self.tiers().hurt()?);
            items.keys().for_each(|item| newest.add(self, &hurt, &view.held(Some(item))));
        }
        let speed = self.restore_speed()?;
        Ok(items.iter().map(|(item, protection)| self.item(item, protection, &newest, speed)).collect())
    }

    /// How long it takes until an item is back: as its last rehearsal that passed measured, else all its bytes at so many a second.
    fn estimate(&self, item: &str, speed: Option<u64>) -> Option<Duration> {
        if let (_, Some(Rehearsal { up_ms: Some(measured), .. })) = self.evidence().newest(item) {
            return Some(Duration::from_millis(measured));
        }
        let speed = speed?;
        let disks = self.tiers().disks.of(item).ok()?;
        let bytes: u64 = disks.iter().filter_map(|named| named.stored()).sum();
        Some(Duration::from_millis(bytes.saturating_mul(1000) / speed.max(1)))
    }

    fn item(&self, item: &str, protection: &Protection, newest: &Newest, speed: Option<u64>) -> Item {
        let estimate = self.estimate(item, speed);
        let mut shown = Item {
            item: item.to_owned(),
            policy: protection.policy.clone(),
            stopped: protection.stopped,
            newest: None,
            next: None,
            is_late: false,
            restore_estimate_ms: estimate.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            is_slow: false,
            error: None,
        };
        let told = PolicyName::parse(&protection.policy).and_then(|name| {
            let policy = self.policies().get(&name)?;
            let (now, stored) = (self.now(), newest.stored(self, item, &name.vault)?);
            let newest = newest.good(self, item, &name.vault)?;
            shown.newest = newest.map(|newest| newest.to_string());
            shown.is_slow = is_slow(policy.rto, estimate);
            if !protection.stopped {
                shown.next = policy.schedule.next_start(item, now, stored).map(|next| next.to_string());
                shown.is_late = policy.rpo.is_some_and(|rpo| {
                    newest.is_none_or(|newest| now.duration_since(newest).unsigned_abs() > rpo)
                });
            }
            Ok(())
        });
        shown.error = told.err().map(|error| error.body());
        shown
    }

    /// Warnings about items, one sentence each.
    pub(crate) fn late_items(&self) -> Vec<String> {
        let items = self.items().unwrap_or_default();
        let late = items.iter().filter(|item| item.is_late).map(|item| match &item.newest {
            Some(newest) => {
                format!(
                    "{}: its newest point in a vault is of {newest}, older than its policy allows",
                    item.item
                )
            }
            None => format!("{}: no vault has a point of it yet", item.item),
        });
        let slow = items.iter().filter(|item| item.is_slow).filter_map(|item| {
            let minutes = item.restore_estimate_ms?.div_ceil(60_000);
            let why = "as fast as the last restores were, longer than its policy allows";
            Some(format!("{}: to restore it takes about {minutes} min, {why}", item.item))
        });
        late.chain(slow).collect()
    }

    /// The policy that is meant: the one that is named, else the one an item stands under, else that of the vault `main`.
    ///
    /// # Errors
    /// `Invalid` for a name that is none; why the items cannot be read.
    pub(crate) fn wanted_policy(&self, item: &str, policy: Option<&str>) -> Result<PolicyName> {
        let items = self.policies().items()?;
        let now = items.get(item).map(|now| now.policy.as_str());
        PolicyName::parse(policy.or(now).unwrap_or("default"))
    }

    /// Puts a disk, a machine or a group under a policy, or resumes its protection.
    ///
    /// # Errors
    /// `NotFound` for item or policy; as [`crate::policies::Policies::protect`].
    pub fn protect(&self, item: &str, policy: Option<&str>) -> Result<Item> {
        self.tiers().disks.of(item)?;
        let name = self.wanted_policy(item, policy)?;
        self.policies().get(&name)?;
        if self.tiers().vaults.get(&name.vault)?.archive {
            let why = format!("{} is an archive, to which points come from vaults", name.vault);
            return Err(Error::said(Kind::Invalid, format!("policy {name}"), why)
                .with_help("choose a policy of a vault; `[archive]` in it names the archive"));
        }
        let protection = Protection { policy: name.to_string(), stopped: false };
        self.policies().protect(item, Some(protection.clone()))?;
        tracing::info!(item, policy = %name, "is protected");
        self.keeper().wake();
        let newest = Newest::of(self, &self.tiers().held(Some(item)).0)?;
        Ok(self.item(item, &protection, &newest, self.restore_speed()?))
    }

    /// Ends or pauses an item's protection; gives it as it was.
    ///
    /// # Errors
    /// `NotFound`; the first point that could not be deleted, if they were to be.
    pub fn unprotect(&self, item: &str, query: &UnprotectQuery) -> Result<Item> {
        let protection = self.policies().items()?.get(item).cloned().ok_or_else(|| {
            Error::said(Kind::NotFound, format!("item {item}"), "stands under no policy")
                .with_help("`blockctl policy items` shows what is protected")
        })?;
        if query.delete_data && query.pause {
            return Err(Error::said(
                Kind::Invalid,
                format!("item {item}"),
                "cannot be paused without its data",
            ));
        }
        if query.delete_data {
            // of a group whose members are not known nothing would be found
            self.tiers().disks.groups.parts(item)?;
        }
        let (held, _) = self.tiers().held(Some(item));
        let shown = self.item(item, &protection, &Newest::of(self, &held)?, self.restore_speed()?);
        let stopped = Protection { stopped: true, ..protection.clone() };
        self.policies().protect(item, query.pause.then_some(stopped))?;
        tracing::info!(
            item,
            policy = protection.policy,
            delete_data = query.delete_data,
            "is protected no longer"
        );
        if query.delete_data {
            let vault = self.tiers().vaults.get(&PolicyName::parse(&protection.policy)?.vault)?;
            let is_stored = |held: &&Held| held.stored_in(&vault.name).is_some();
            for held in held.iter().filter(is_stored) {
                self.tiers().delete_from(held, &vault, &By::Request)?;
            }
        }
        Ok(shown)
    }

    /// Holds a point, or ends that.
    ///
    /// # Errors
    /// As [`crate::points::Tiers::hold`].
    pub fn hold_point(&self, name: &str, reason: Option<&str>) -> Result<Point> {
        let held = self.tiers().hold(name, reason)?;
        self.point(&held.name)
    }

    /// Takes somebody's word that a suspect point is right.
    ///
    /// # Errors
    /// As [`crate::points::Tiers::accept`].
    pub fn accept_point(&self, name: &str) -> Result<Point> {
        let held = self.tiers().accept(name)?;
        self.keeper().wake();
        self.point(&held.name)
    }

    /// Brings a deleted point back.
    ///
    /// # Errors
    /// As [`crate::points::Tiers::undelete`].
    pub fn undelete_point(&self, name: &str) -> Result<Point> {
        let held = self.tiers().undelete(name)?;
        self.point(&held.name)
    }
}

/// Whether a restore is known to take longer than it may.
fn is_slow(allowed: Option<Duration>, estimate: Option<Duration>) -> bool {
    allowed.zip(estimate).is_some_and(|(allowed, estimate)| estimate > allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_slow_is_called_so() {
        let minute = Duration::from_secs(60);
        assert!(is_slow(Some(minute), Some(2 * minute)));
        assert!(!is_slow(Some(minute), Some(minute)));
        assert!(!is_slow(Some(minute), None) && !is_slow(None, Some(minute)));
    }
}
