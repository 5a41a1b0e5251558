//! What people ask of groups.

use crate::daemon::Daemon;
use crate::error::Result;
use crate::identity::Caller;
use crate::names;
use block::sync::lock;
use control::{Group, Role};

impl Daemon {
    /// Every group, by name.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let groups = self.tiers().disks.groups.all()?;
        groups.iter().map(|(name, members)| self.shown_group(name, members)).collect()
    }

    /// One group.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn group(&self, name: &str) -> Result<Group> {
        let members = self.tiers().disks.groups.members(name)?;
        self.shown_group(name, &members)
    }

    fn shown_group(&self, name: &str, members: &[String]) -> Result<Group> {
        let items = self.policies().items()?;
        let (disks, error) = match self.tiers().disks.of(name) {
            Ok(disks) => (disks.iter().map(|named| named.name.clone()).collect(), None),
            Err(error) => (Vec::new(), Some(error.body())),
        };
        let policy = items.get(name).map(|protection| protection.policy.clone());
        Ok(Group { name: name.to_owned(), members: members.to_vec(), disks, policy, error })
    }

    /// Groups of which no recovery point can be made, one sentence each.
    pub(crate) fn group_warnings(&self) -> Vec<String> {
        // that the file cannot be read is said already
        let Ok(groups) = self.tiers().disks.groups.all() else { return Vec::new() };
        let protected: Vec<String> =
            self.policies().items().map(|items| items.into_keys().collect()).unwrap_or_default();
        let gone = protected.into_iter().filter(|item| names::is_group(item) && !groups.contains_key(item));
        let all = groups.keys().cloned().chain(gone);
        all.filter_map(|group| {
            let error = self.tiers().disks.of(&group).err()?;
            Some(format!("no recovery point of {group} can be made: {}", error.body().message))
        })
        .collect()
    }

    /// Makes a group, or gives it other members.
    ///
    /// # Errors
    /// `NotFound` for a member that does not exist; `Refused` if it is protected and an operator asks; as
    /// [`Policies::regroup`](crate::policies::Policies::regroup).
    pub fn set_group(&self, name: &str, members: &[String], caller: &Caller) -> Result<Group> {
        if self.policies().items()?.contains_key(name) {
            caller.check_role(&[Role::Admin], "change a group that stands under a policy")?;
        }
        let _naming = lock(&self.naming);
        members.iter().try_for_each(|member| self.tiers().disks.of(member).map(|_| ()))?;
        self.policies().regroup(name, members)?;
        tracing::info!(group = name, members = members.join(" "), "has these members");
        self.keeper().wake();
        self.group(name)
    }

    /// Whether members that a protected group would get have points that its policy lets go.
    ///
    /// # Errors
    /// What cannot be looked at.
    pub fn grouping_loses(&self, name: &str, members: &[String]) -> Result<bool> {
        let Some(protection) = self.policies().items()?.get(name).cloned() else { return Ok(false) };
        let now = self.tiers().disks.groups.members(name)?;
        for member in members.iter().filter(|member| !now.contains(member)) {
            if self.protecting_loses(member, Some(&protection.policy))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a group; gives it as it was.
    ///
    /// # Errors
    /// As [`Policies::ungroup`](crate::policies::Policies::ungroup).
    pub fn delete_group(&self, name: &str) -> Result<Group> {
        let shown = self.group(name)?;
        self.policies().ungroup(name)?;
        tracing::info!(group = name, "is none any longer");
        Ok(shown)
    }
}
