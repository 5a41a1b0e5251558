//! What a copy could not keep of its original, counted by kind: one line each for a person, not one a file.

use super::lossy;
use std::collections::BTreeMap;
use std::fmt;

/// A kind of thing that may not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostKind {
    /// Owner and group.
    Owner,
    /// The group alone.
    Group,
    /// Set-user-id and set-group-id, which must not take effect for another owner.
    SetId,
    /// Permissions.
    Permissions,
    /// Access and modification time.
    Times,
    /// Access lists.
    AccessLists,
    /// Attributes `user.*`.
    UserAttributes,
    /// Attributes of other kinds: `trusted.*`, `security.*`, `system.*`.
    OtherAttributes,
    /// Device nodes.
    Devices,
    /// Sockets.
    Sockets,
    /// That two names are the same file.
    HardLinks,
}

impl LostKind {
    /// Its name, in the plural where there are many.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Group => "group",
            Self::SetId => "set-id bits",
            Self::Permissions => "permissions",
            Self::Times => "times",
            Self::AccessLists => "access list",
            Self::UserAttributes => "user attribute",
            Self::OtherAttributes => "system attribute",
            Self::Devices => "device",
            Self::Sockets => "socket",
            Self::HardLinks => "hard link",
        }
    }
}

/// One kind that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What.
    pub kind: LostKind,
    /// Of how many files.
    pub count: u64,
    /// The first of them.
    pub example: Vec<u8>,
    /// Why, for the first of them.
    pub why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, count) = (self.kind.name(), self.count);
        let files = if count == 1 { "file" } else { "files" };
        write!(f, "not kept: {name} of {count} {files}, such as {}: {}", lossy(&self.example), self.why)
    }
}

/// Everything that was not kept.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<LostKind, Lost>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, kind: LostKind, path: &[u8], why: impl fmt::Display) {
        let lost = self.0.entry(kind).or_insert_with(|| Lost {
            kind,
            count: 0,
            example: path.to_vec(),
            why: why.to_string(),
        });
        lost.count += 1;
    }

    /// One for each kind.
    pub fn into_vec(self) -> Vec<Lost> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_kind() {
        let mut tally = Tally::default();
        for path in ["a", "b", "c"] {
            tally.add(LostKind::Owner, path.as_bytes(), "only root may");
        }
        tally.add(LostKind::Devices, b"dev/\x1b[31m", "no");
        let lines: Vec<String> = tally.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "not kept: owner of 3 files, such as a: only root may",
                "not kept: device of 1 file, such as dev/\\u{1b}[31m: no"
            ]
        );
    }
}
