//! Who asks: a user of this host, by the process behind the socket, or whoever shows a token. `docs/identity.md`.

mod tokens;

pub use tokens::Tokens;

use crate::error::{Error, Result};
use crate::names;
use control::{Kind, Role};
use serde::Deserialize;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process of this host, of this user.
    User(u32),
    /// Somewhere else; it has to show a token.
    Remote,
}

/// What a user of this host may do: an entry of `blockd.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalUser {
    /// The user's number.
    pub uid: u32,
    /// What it may do.
    pub role: Role,
}

/// Somebody who asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As the audit log calls it.
    pub who: String,
    /// What it may do.
    pub role: Role,
    vaults: Vec<String>,
    items: Vec<String>,
    /// A guard's public key.
    pub key: Option<String>,
}

impl Caller {
    /// A user of this host: the owner of the daemon and the superuser are admins, others are what the configuration says,
    /// and may look if it says nothing: the mode of the socket let them in.
    pub fn user(uid: u32, users: &[LocalUser]) -> Self {
        let owner = rustix::process::geteuid().as_raw();
        let said = users.iter().find(|user| user.uid == uid).map(|user| user.role);
        let role = if uid == owner || uid == 0 { Role::Admin } else { said.unwrap_or(Role::Reader) };
        Self { who: format!("user {uid}"), role, vaults: Vec::new(), items: Vec::new(), key: None }
    }

    /// A reader, for tests.
    #[cfg(test)]
    pub fn named(who: &str) -> Self {
        let (vaults, items) = (Vec::new(), Vec::new());
        Self { who: who.to_owned(), role: Role::Reader, vaults, items, key: None }
    }

    /// Whether it may name everything.
    pub fn is_whole(&self) -> bool {
        self.vaults.is_empty() && self.items.is_empty()
    }

    /// Whether it may name this vault.
    pub fn sees_vault(&self, vault: &str) -> bool {
        self.vaults.is_empty() || self.vaults.iter().any(|scope| scope == vault)
    }

    /// Whether it may name this disk, machine, group, or recovery point of one. A group is named only by those who may name
    /// every item: what belongs to it can change.
    pub fn sees_item(&self, name: &str) -> bool {
        let item = name.split('@').next().unwrap_or_default();
        if names::is_group(item) {
            return self.items.is_empty();
        }
        let covers = |scope: &String| match scope.strip_suffix('*') {
            Some(front) => item.starts_with(front),
            None => names::is_of(scope, item),
        };
        self.items.is_empty() || self.items.iter().any(covers)
    }

    /// Refuses what this identity must not name.
    ///
    /// # Errors
    /// `Refused`, naming it.
    pub fn check_scope(&self, items: &[String], vaults: &[String]) -> Result<()> {
        let item = items.iter().find(|item| !self.sees_item(item)).map(|item| ("", item));
        let vault = vaults.iter().find(|vault| !self.sees_vault(vault)).map(|vault| ("vault ", vault));
        match item.or(vault) {
            None => Ok(()),
            Some((what, name)) => Err(Error::said(
                Kind::Refused,
                format!("{what}{}", names::shown(name)),
                format!("lies outside of what {} may name", self.who),
            )
            .with_help("an admin makes tokens with other scopes: `blockctl token create`")),
        }
    }

    /// Refuses a role that is none of these.
    ///
    /// # Errors
    /// `Refused`, naming role and need.
    pub fn check_role(&self, roles: &[Role], action: &str) -> Result<()> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let needed: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let why =
            format!("{} has the role {}, and this takes {}", self.who, self.role.name(), needed.join(" or "));
        Err(Error::said(Kind::Refused, action, why).with_help("ask an admin, or use another token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoped(vaults: &[&str], items: &[&str]) -> Caller {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (vaults, items) = (owned(vaults), owned(items));
        Caller { who: "token t".to_owned(), role: Role::Operator, vaults, items, key: None }
    }

    #[test]
    fn a_scope_covers_what_it_names_and_nothing_that_only_begins_alike() {
        let caller = scoped(&["main"], &["web", "vm/db", "test-*"]);
        for inside in ["web", "web@3", "vm/db", "vm/db/vda", "vm/db/vda@latest", "test-1", "test-"] {
            assert!(caller.sees_item(inside), "{inside}");
        }
        for outside in ["webmail", "webmail@3", "vm/dbx", "vm/dbx/vda", "test", "", "@3", "vm/d"] {
            assert!(!caller.sees_item(outside), "{outside}");
        }
        assert!(caller.sees_vault("main") && !caller.sees_vault("mainly") && !caller.is_whole());
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(caller.check_scope(&strings(&["web"]), &strings(&["main"])).is_ok());
        assert!(caller.check_scope(&strings(&["web", "db"]), &[]).is_err());
        assert!(caller.check_scope(&[], &strings(&["far"])).is_err());
        assert!(scoped(&[], &[]).sees_item("anything") && scoped(&[], &[]).is_whole());
    }

    #[test]
    fn the_owner_is_admin_and_strangers_look() {
        let own = rustix::process::geteuid().as_raw();
        let users =
            [LocalUser { uid: 4711, role: Role::Operator }, LocalUser { uid: own, role: Role::Reader }];
        assert_eq!(Caller::user(own, &users).role, Role::Admin);
        assert_eq!(Caller::user(0, &[]).role, Role::Admin);
        assert_eq!(Caller::user(4711, &users).role, Role::Operator);
        assert_eq!(Caller::user(4712, &users).role, Role::Reader);
    }
}
