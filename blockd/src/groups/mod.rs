//! Groups: machines and disks that belong together, as one item. The file `groups.toml` in the state directory, `docs/groups.md`.

mod change;

use crate::error::{Doing, Error, Result};
use crate::names;
use block::Media;
use block::sync::{Mutex, lock};
use control::{ErrorBody, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const FILE: &str = "groups.toml";
/// 10,000 members with long names.
const LIMIT_BYTES: u64 = 2 << 20;
/// Members of one group: a point of it holds the writes of all of them at one instant.
const MEMBER_LIMIT: usize = 256;

/// The members of every group, by its name.
pub type Members = BTreeMap<String, Vec<String>>;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    groups: Members,
}

/// All groups.
pub struct Groups {
    media: Arc<dyn Media>,
    // why they cannot be read: what stands under a policy by its group is neither backed up nor pruned then
    table: Mutex<Result<Arc<Members>, ErrorBody>>,
}

impl Groups {
    /// Reads them. A file that cannot be read is none to begin anew over: a warning says so.
    pub fn open(media: Arc<dyn Media>) -> Self {
        let table = read(&*media).map(Arc::new).map_err(|error| error.body());
        Self { media, table: Mutex::new(table) }
    }

    /// Every group, by name.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn all(&self) -> Result<Arc<Members>> {
        lock(&self.table).as_ref().map(Arc::clone).map_err(|body| Error::said_before("groups", body))
    }

    /// The members of a group.
    ///
    /// # Errors
    /// `NotFound`; why the file cannot be read.
    pub fn members(&self, group: &str) -> Result<Vec<String>> {
        names::check_group(group)?;
        self.all()?.get(group).cloned().ok_or_else(|| {
            Error::not_found(group.to_owned()).with_help("`blockctl group list` shows the groups")
        })
    }

    /// The items an item consists of: the members of a group, and of any other itself.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub fn parts(&self, item: &str) -> Result<Vec<String>> {
        if names::is_group(item) { self.members(item) } else { Ok(vec![item.to_owned()]) }
    }

    /// Makes a group, or gives it other members.
    ///
    /// # Errors
    /// `Invalid` for a group without members, with too many, or with a disk in it twice; what the host reports.
    pub fn put(&self, group: &str, members: &[String]) -> Result<()> {
        names::check_group(group)?;
        check(group, members)?;
        self.change(group, |groups| {
            groups.insert(group.to_owned(), members.to_vec());
        })
    }

    /// Removes a group. Its members stay as they are.
    ///
    /// # Errors
    /// `NotFound`; what the host reports.
    pub fn remove(&self, group: &str) -> Result<()> {
        self.members(group)?;
        self.change(group, |groups| {
            groups.remove(group);
        })
    }

    /// Refuses a name for a member under which a group would have its disk twice.
    ///
    /// # Errors
    /// `Invalid`, naming the group; why the file cannot be read.
    pub fn check_rename(&self, member: &str, to: &str) -> Result<()> {
        let groups = self.all()?;
        let naming = groups.iter().filter(|(_, members)| members.iter().any(|name| name == member));
        for (group, members) in naming {
            check(group, &renamed(members, member, to))?;
        }
        Ok(())
    }

    /// A member is called something else now.
    ///
    /// # Errors
    /// As [`check_rename`](Self::check_rename); what the host reports.
    pub fn rename(&self, member: &str, to: &str) -> Result<()> {
        if self.naming(member)?.is_empty() {
            return Ok(());
        }
        self.check_rename(member, to)?;
        self.change(member, |groups| {
            for members in groups.values_mut() {
                *members = renamed(members, member, to);
            }
        })
    }

    /// The groups that name this member.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn naming(&self, member: &str) -> Result<Vec<String>> {
        let groups = self.all()?;
        let names = |(_, members): &(&String, &Vec<String>)| members.iter().any(|name| name == member);
        Ok(groups.iter().filter(names).map(|(group, _)| group.clone()).collect())
    }

    /// What a person should know, one sentence each.
    pub fn warnings(&self) -> Option<String> {
        let table = lock(&self.table);
        table.as_ref().err().map(|body| format!("no group can be used: {}", body.message))
    }

    fn change(&self, about: &str, change: impl FnOnce(&mut Members)) -> Result<()> {
        let mut table = lock(&self.table);
        let groups = table.as_ref().map_err(|body| Error::said_before("groups", body))?;
        let mut file = File { groups: (**groups).clone() };
        change(&mut file.groups);
        let doing = || format!("write down the groups with {about}");
        let text =
            toml::to_string(&file).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        if text.len() as u64 > LIMIT_BYTES {
            return Err(Error::said(
                Kind::Invalid,
                doing(),
                format!("all groups take more than {LIMIT_BYTES} bytes"),
            ));
        }
        self.media.replace(FILE, text.as_bytes()).doing(doing)?;
        *table = Ok(Arc::new(file.groups));
        Ok(())
    }
}

fn renamed(members: &[String], member: &str, to: &str) -> Vec<String> {
    members.iter().map(|name| if name == member { to } else { name.as_str() }.to_owned()).collect()
}

fn check(group: &str, members: &[String]) -> Result<()> {
    let invalid = |why: String| Err(Error::said(Kind::Invalid, group, why));
    if members.is_empty() {
        return invalid("a group has members".to_owned());
    }
    if members.len() > MEMBER_LIMIT {
        return invalid(format!(
            "has {} members; at most {MEMBER_LIMIT} are sealed at one instant",
            members.len()
        ));
    }
    if let Some(nested) = members.iter().find(|member| names::is_group(member)) {
        return invalid(format!("{nested} is a group itself; name its members"));
    }
    for (at, member) in members.iter().enumerate() {
        let overlaps = |other: &&String| names::is_of(other, member) || names::is_of(member, other);
        if let Some(other) = members[..at].iter().find(overlaps) {
            return invalid(format!("{other} and {member} have disks in common; name one of them"));
        }
    }
    Ok(())
}

fn read(media: &dyn Media) -> Result<Members> {
    let bytes = match media.read_whole(FILE, LIMIT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == block::Kind::NotFound => return Ok(Members::new()),
        Err(error) => return Err(Error::below(format!("read {FILE}"), error)),
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::said(Kind::Corrupt, FILE, "is not UTF-8"))?;
    let file: File = toml::from_str(&text)
        .map_err(|error| Error::said(Kind::Corrupt, FILE, error.message().to_owned()))?;
    for (group, members) in &file.groups {
        names::check_group(group)
            .and_then(|()| check(group, members))
            .map_err(|error| Error::said(Kind::Corrupt, FILE, error.body().message))?;
    }
    Ok(file.groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::LinuxMedia;

    fn groups(dir: &std::path::Path) -> Groups {
        Groups::open(Arc::new(LinuxMedia::new(dir, dir).expect("media")))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn groups_are_found_again_with_their_members() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = groups(dir.path());
        made.put("group/shop", &names(&["vm/web", "db"])).expect("made");
        made.put("group/all", &names(&["db"])).expect("made");
        made.rename("db", "db-2").expect("renamed");
        let again = groups(dir.path());
        assert_eq!(again.members("group/shop").expect("there"), ["vm/web", "db-2"]);
        assert_eq!(again.naming("db-2").expect("read"), ["group/all", "group/shop"]);
        assert_eq!(again.parts("vm/web").expect("itself"), ["vm/web"]);
        again.remove("group/all").expect("removed");
        assert_eq!(groups(dir.path()).members("group/all").expect_err("gone").kind(), Kind::NotFound);
    }

    #[test]
    fn no_disk_is_in_a_group_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = groups(dir.path());
        for bad in
            [&["a", "a"][..], &["vm/web", "vm/web/vda"], &["vm/web/vda", "vm/web"], &[], &["group/shop"]]
        {
            assert_eq!(made.put("group/x", &names(bad)).expect_err("refused").kind(), Kind::Invalid);
        }
        assert!(made.put("shop", &names(&["a"])).is_err(), "is no name of a group");
        made.put("group/x", &names(&["vm/web", "solo"])).expect("made");
        assert_eq!(made.rename("solo", "vm/web/solo").expect_err("twice").kind(), Kind::Invalid);
        assert_eq!(groups(dir.path()).members("group/x").expect("as it was"), ["vm/web", "solo"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_warned_of_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        std::fs::write(&path, "[groups]\n\"group/x\" = [\"a\", \"a\"]\n").expect("written");
        let made = groups(dir.path());
        assert!(made.all().is_err() && made.warnings().is_some());
        assert!(made.put("group/y", &names(&["a"])).is_err());
        assert!(std::fs::read_to_string(&path).expect("still there").contains("group/x"));
    }
}
