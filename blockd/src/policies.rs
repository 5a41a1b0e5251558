//! Which policies there are and which items stand under them: the files `policies/VAULT/NAME.toml` and `protected.toml` in the
//! state directory.

use crate::error::{Doing, Error, Result};
use crate::groups::Groups;
use crate::names;
use crate::policy::{DEFAULT, Policy, parse};
use crate::vaults::MAIN;
use block::Media;
use block::sync::{Mutex, lock};
use control::{ErrorBody, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

const DIR: &str = "policies";
const ITEMS: &str = "protected.toml";
/// The policy every vault is born with.
const BORN: &str = "default";
/// A policy larger than this is not one.
const POLICY_LIMIT_BYTES: u64 = 64 << 10;
/// 10,000 items with long names.
const ITEMS_LIMIT_BYTES: u64 = 16 << 20;

/// `VAULT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// The vault its backups go to.
    pub vault: String,
    name: String,
}

impl PolicyName {
    /// Takes a name apart; one without a vault is of `main`.
    ///
    /// # Errors
    /// `Invalid` saying what a name looks like.
    pub fn parse(text: &str) -> Result<Self> {
        let (vault, name) = text.split_once('/').unwrap_or((MAIN, text));
        names::check_vault(vault)?;
        names::check_policy(name)?;
        Ok(Self { vault: vault.to_owned(), name: name.to_owned() })
    }

    fn path(&self) -> String {
        format!("{DIR}/{}/{}.toml", self.vault, self.name)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vault, self.name)
    }
}

/// How an item is protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// The policy it stands under.
    pub policy: String,
    /// No backup is made and nothing is deleted, until it is resumed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Items {
    #[serde(default)]
    items: BTreeMap<String, Protection>,
}

/// All policies and items.
pub struct Policies {
    media: Arc<dyn Media>,
    groups: Arc<Groups>,
    // taken before the groups
    table: Mutex<Table>,
}

struct Table {
    policies: BTreeMap<PolicyName, Result<Arc<Policy>, ErrorBody>>,
    items: Result<BTreeMap<String, Protection>, ErrorBody>,
}

impl Policies {
    /// Reads them. One that cannot be read keeps its place: its items are neither backed up nor pruned, and a warning says so.
    ///
    /// # Errors
    /// What keeps the directory from being read.
    pub fn open(media: Arc<dyn Media>, groups: Arc<Groups>) -> Result<Self> {
        let doing = || "read the policies".to_owned();
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(doing)?;
        let mut policies = BTreeMap::new();
        for vault in media.list(DIR).doing(doing)?.into_iter().filter(|entry| entry.is_dir) {
            for file in media.list(&format!("{DIR}/{}", vault.name)).doing(doing)? {
                let Some(name) = file.name.strip_suffix(".toml") else { continue };
                let name = PolicyName { vault: vault.name.clone(), name: name.to_owned() };
                let policy = read(&*media, &name.path()).and_then(|text| parse(&text));
                policies.insert(name, policy.map(Arc::new).map_err(|error| error.body()));
            }
        }
        let items = match read_items(&*media) {
            Ok(items) => Ok(items),
            Err(error) => Err(error.body()),
        };
        Ok(Self { media, groups, table: Mutex::new(Table { policies, items }) })
    }

    /// Gives a vault the policy it is born with, unless it has one of that name.
    ///
    /// # Errors
    /// What the host reports.
    pub fn born(&self, vault: &str) -> Result<()> {
        let name = PolicyName { vault: vault.to_owned(), name: BORN.to_owned() };
        if lock(&self.table).policies.contains_key(&name) {
            return Ok(());
        }
        self.put(&name, DEFAULT).map(|_| ())
    }

    /// Every policy, by name.
    pub fn all(&self) -> Vec<(PolicyName, Result<Arc<Policy>, ErrorBody>)> {
        lock(&self.table).policies.iter().map(|(name, policy)| (name.clone(), policy.clone())).collect()
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// `NotFound`; why it cannot be read.
    pub fn get(&self, name: &PolicyName) -> Result<Arc<Policy>> {
        match lock(&self.table).policies.get(name) {
            Some(Ok(policy)) => Ok(policy.clone()),
            Some(Err(body)) => Err(Error::said_before(format!("policy {name}"), body)),
            None => Err(Error::not_found(format!("policy {name}"))
                .with_help("`blockctl policy list` shows the policies")),
        }
    }

    /// Writes a policy. It is in force when this returns.
    ///
    /// # Errors
    /// `Invalid` naming the key; what the host reports.
    pub fn put(&self, name: &PolicyName, text: &str) -> Result<Arc<Policy>> {
        if text.len() as u64 > POLICY_LIMIT_BYTES {
            return Err(Error::said(Kind::Invalid, format!("policy {name}"), "is longer than 64 KiB"));
        }
        let policy = Arc::new(parse(text)?);
        let doing = || format!("write policy {name}");
        let dir = format!("{DIR}/{}", name.vault);
        let mut table = lock(&self.table);
        self.media.create_dir(&dir).and_then(|()| self.media.sync_dir(DIR)).doing(doing)?;
        self.media.replace(&name.path(), text.as_bytes()).doing(doing)?;
        table.policies.insert(name.clone(), Ok(policy.clone()));
        Ok(policy)
    }

    /// Removes a policy no item stands under.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if an item stands under it or it is the one its vault was born with.
    pub fn remove(&self, name: &PolicyName) -> Result<()> {
        let mut table = lock(&self.table);
        if !table.policies.contains_key(name) {
            return Err(Error::not_found(format!("policy {name}")));
        }
        let conflict = |why: String| Err(Error::said(Kind::Conflict, format!("policy {name}"), why));
        if name.name == BORN {
            return conflict("every vault has one of this name".to_owned());
        }
        let own = name.to_string();
        if let Some((item, _)) = table.items()?.iter().find(|(_, protection)| protection.policy == own) {
            return conflict(format!("{item} stands under it")).map_err(|error| {
                error.with_help(format!("`blockctl protect {item} --policy NAME` puts it under another"))
            });
        }
        let dir = format!("{DIR}/{}", name.vault);
        let removed = self.media.remove(&name.path()).and_then(|()| self.media.sync_dir(&dir));
        removed.doing(|| format!("remove policy {name}"))?;
        table.policies.remove(name);
        Ok(())
    }

    /// Every item, by name, with how it is protected.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn items(&self) -> Result<BTreeMap<String, Protection>> {
        lock(&self.table).items().cloned()
    }

    /// The items under a policy that are not stopped.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn under(&self, name: &PolicyName) -> Result<Vec<String>> {
        let own = name.to_string();
        let is_under =
            |(_, protection): &(String, Protection)| protection.policy == own && !protection.stopped;
        Ok(self.items()?.into_iter().filter(is_under).map(|(item, _)| item).collect())
    }

    /// The item that a disk belongs to, and the policy in force for it; none if it is not protected now.
    ///
    /// # Errors
    /// Why the file or the policy cannot be read.
    pub fn of_disk(&self, disk: &str) -> Result<Option<(PolicyName, Arc<Policy>)>> {
        let protection = {
            let table = lock(&self.table);
            let items = table.items()?;
            let covering = self.covering_of(items, disk)?.and_then(|item| items.get(&item));
            covering.filter(|protection| !protection.stopped).cloned()
        };
        let Some(protection) = protection else { return Ok(None) };
        let name = PolicyName::parse(&protection.policy)?;
        let policy = self.get(&name)?;
        Ok(Some((name, policy)))
    }

    /// The item that stands under a policy, paused or not, and that a disk of this name belongs to: the disk itself, its
    /// machine, or a group with one of them.
    ///
    /// # Errors
    /// Why the items or the groups cannot be read.
    pub fn covering(&self, disk: &str) -> Result<Option<String>> {
        self.covering_of(lock(&self.table).items()?, disk)
    }

    fn covering_of(&self, items: &BTreeMap<String, Protection>, disk: &str) -> Result<Option<String>> {
        let machine = disk.rsplit_once('/').map(|(machine, _)| machine);
        let own = [Some(disk), machine].into_iter().flatten().find(|item| items.contains_key(*item));
        if let Some(own) = own {
            return Ok(Some(own.to_owned()));
        }
        for group in items.keys().filter(|item| names::is_group(item)) {
            if self.groups.members(group)?.iter().any(|member| names::is_of(member, disk)) {
                return Ok(Some(group.clone()));
            }
        }
        Ok(None)
    }

    /// Refuses an item with disks that another one has.
    fn check_alone(&self, items: &BTreeMap<String, Protection>, item: &str, parts: &[String]) -> Result<()> {
        for other in items.keys().filter(|other| *other != item) {
            let overlaps =
                |of: &String| parts.iter().any(|part| names::is_of(of, part) || names::is_of(part, of));
            if self.groups.parts(other)?.iter().any(overlaps) {
                let why = format!("{other} is protected already, which has disks in common with it");
                return Err(Error::said(Kind::Conflict, format!("protect {item}"), why)
                    .with_help(format!("`blockctl unprotect {other} --retain-data` first")));
            }
        }
        Ok(())
    }

    /// Makes a group or gives it other members.
    ///
    /// # Errors
    /// `Conflict` if it is protected, and one of its members is so by itself; as [`Groups::put`].
    pub fn regroup(&self, group: &str, members: &[String]) -> Result<()> {
        let table = lock(&self.table);
        let items = table.items()?;
        if items.contains_key(group) {
            self.check_alone(items, group, members)?;
        }
        self.groups.put(group, members)
    }

    /// Removes a group that is not protected.
    ///
    /// # Errors
    /// `Conflict` if it is; as [`Groups::remove`].
    pub fn ungroup(&self, group: &str) -> Result<()> {
        let table = lock(&self.table);
        if table.items()?.contains_key(group) {
            let why = "it is protected, and its members would be no longer";
            return Err(Error::said(Kind::Conflict, format!("delete {group}"), why)
                .with_help(format!("`blockctl unprotect {group} --retain-data` first")));
        }
        self.groups.remove(group)
    }

    /// Changes how an item is protected; `None` is not at all.
    ///
    /// # Errors
    /// `Conflict` if a disk would stand under two policies; what the host reports.
    pub fn protect(&self, item: &str, protection: Option<Protection>) -> Result<()> {
        let mut table = lock(&self.table);
        let mut items = table.items()?.clone();
        match protection {
            Some(protection) => {
                self.check_alone(&items, item, &self.groups.parts(item)?)?;
                items.insert(item.to_owned(), protection);
            }
            None => {
                items.remove(item);
            }
        }
        let doing = || format!("write down how {item} is protected");
        let file = Items { items };
        let text =
            toml::to_string(&file).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        self.media.replace(ITEMS, text.as_bytes()).doing(doing)?;
        table.items = Ok(file.items);
        Ok(())
    }

    /// What a person should know, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let table = lock(&self.table);
        let broken = table.policies.iter().filter_map(|(name, policy)| {
            let body = policy.as_ref().err()?;
            Some(format!(
                "policy {name} cannot be used, so what stands under it is not backed up: {}",
                body.message
            ))
        });
        let items = table
            .items
            .as_ref()
            .err()
            .map(|body| format!("nothing is backed up by policy: {}", body.message));
        broken.chain(items).collect()
    }
}

impl Table {
    fn items(&self) -> Result<&BTreeMap<String, Protection>> {
        self.items.as_ref().map_err(|body| Error::said_before("protected items", body))
    }
}

fn read(media: &dyn Media, path: &str) -> Result<String> {
    let bytes = media.read_whole(path, POLICY_LIMIT_BYTES).doing(|| format!("read {path}"))?;
    String::from_utf8(bytes).map_err(|_| Error::said(Kind::Corrupt, path, "is not UTF-8"))
}

fn read_items(media: &dyn Media) -> Result<BTreeMap<String, Protection>> {
    let bytes = match media.read_whole(ITEMS, ITEMS_LIMIT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == block::Kind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::below(format!("read {ITEMS}"), error)),
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::said(Kind::Corrupt, ITEMS, "is not UTF-8"))?;
    let file: Items = toml::from_str(&text)
        .map_err(|error| Error::said(Kind::Corrupt, ITEMS, error.message().to_owned()))?;
    Ok(file.items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::LinuxMedia;

    fn policies(dir: &std::path::Path) -> Policies {
        let media = Arc::new(LinuxMedia::new(dir, dir).expect("media"));
        let groups = Arc::new(Groups::open(media.clone()));
        Policies::open(media, groups).expect("policies")
    }

    fn under(policy: &str) -> Option<Protection> {
        Some(Protection { policy: policy.to_owned(), stopped: false })
    }

    #[test]
    fn policies_and_items_are_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = policies(dir.path());
        made.born("main").expect("the default");
        let name = PolicyName::parse("far/hourly").expect("a name");
        made.put(&name, "[schedule]\nevery-hours = 1\n[retention]\nlatest = 24\n").expect("written");
        made.protect("vm/web", under("far/hourly")).expect("protected");
        let error = made.protect("vm/web/vda", under("main/default")).expect_err("twice");
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(made.remove(&name).expect_err("an item stands under it").kind(), Kind::Conflict);
        let again = policies(dir.path());
        assert_eq!(again.all().len(), 2);
        assert_eq!(again.of_disk("vm/web/vda").expect("read").expect("protected").0, name);
        assert!(again.of_disk("vm/webmail/vda").expect("read").is_none());
        again.protect("vm/web", None).expect("no more");
        again.remove(&name).expect("removed");
        assert_eq!(policies(dir.path()).all().len(), 1);
    }

    #[test]
    fn a_group_covers_its_members_and_nobody_else_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = policies(dir.path());
        made.born("main").expect("the default");
        let members = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        made.regroup("group/shop", &members(&["vm/web", "db"])).expect("made");
        made.protect("group/shop", under("main/default")).expect("protected");
        let covering = |policies: &Policies, disk| policies.covering(disk).expect("read");
        assert_eq!(covering(&made, "vm/web/vda").as_deref(), Some("group/shop"));
        assert_eq!(covering(&made, "vm/webmail/vda"), None);
        assert!(made.of_disk("db").expect("read").is_some());
        let conflict = |done: Result<()>| assert_eq!(done.expect_err("refused").kind(), Kind::Conflict);
        conflict(made.protect("db", under("main/default")));
        conflict(made.protect("vm/web/vda", under("main/default")));
        made.protect("mail", under("main/default")).expect("another");
        conflict(made.regroup("group/shop", &members(&["db", "mail"])));
        conflict(made.ungroup("group/shop"));
        made.regroup("group/shop", &members(&["vm/web"])).expect("one less");
        assert_eq!(covering(&policies(dir.path()), "db"), None);
        // a group whose members are not known keeps everybody's hands off its disks
        std::fs::write(dir.path().join("groups.toml"), "groups = 7").expect("damaged");
        assert!(policies(dir.path()).of_disk("db").is_err());
        assert!(policies(dir.path()).of_disk("mail").expect("its own").is_some());
    }

    #[test]
    fn what_cannot_be_read_is_warned_of_and_stops_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = policies(dir.path());
        made.born("main").expect("the default");
        made.protect("web", under("main/default")).expect("protected");
        made.media.replace("policies/main/default.toml", b"daily = 7").expect("damaged");
        let again = policies(dir.path());
        assert!(again.of_disk("web").is_err());
        assert!(again.warnings()[0].contains("main/default"), "{:?}", again.warnings());
        made.media.replace(ITEMS, b"\xff").expect("damaged");
        let again = policies(dir.path());
        assert!(again.items().is_err() && again.protect("db", under("main/default")).is_err());
        assert!(again.warnings().iter().any(|warning| warning.contains("protected.toml")));
    }

    #[test]
    fn names_have_a_vault_and_a_word() {
        assert_eq!(PolicyName::parse("default").expect("of main").to_string(), "main/default");
        for bad in ["", "/x", "x/", "a/b/c", "../x", "A", "main/.x"] {
            assert!(PolicyName::parse(bad).is_err(), "{bad}");
        }
    }
}
