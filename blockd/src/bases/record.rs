//! What a disk's name file says of the base it stands on.

use crate::error::{Error, Result};
use block::linux::Stamp;
use block::{DiskId, StateId, VaultId};
use control::Kind;
use serde::{Deserialize, Serialize};
use std::path::Path;
use vault::ManifestId;

/// Where a disk's base is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecord {
    /// The state that the disk's layers know it by.
    pub state: String,
    /// What it is.
    pub on: On,
}

/// What a base is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum On {
    /// A recovery point of another disk, pinned there.
    Point {
        /// The disk's id.
        disk: String,
        /// What the point was called when the disk was made.
        name: String,
    },
    /// A recovery point that a vault holds, kept there for as long as this record is.
    Stored {
        /// What the vault was called when the disk was made.
        vault: String,
        /// The vault's id.
        id: String,
        /// The point in it.
        manifest: String,
        /// What the point was called.
        name: String,
    },
    /// An image that is not ours.
    Image(ImageRecord),
}

/// An image, as it was when the disk was made on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Its format.
    pub format: String,
    /// Whether it may name files outside of its folder.
    pub follow: bool,
    /// Whether it is the disk's own: it was adopted.
    pub adopted: bool,
    /// Every file it consists of and stands on, the image itself first.
    pub files: Vec<FileRecord>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Where it is.
    pub path: String,
    /// Its inode, as a signed number: TOML has no other.
    pub inode: i64,
    /// Bytes.
    pub size: i64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// When anything of it was last changed, its owner and mode included.
    pub changed_ns: i64,
}

impl BaseRecord {
    /// The state.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub fn state(&self) -> Result<StateId> {
        self.state.parse().map_err(|_| damaged(&self.state))
    }

    /// The disk whose point it is, and the point's state.
    pub fn point(&self) -> Option<(DiskId, StateId)> {
        match &self.on {
            On::Point { disk, .. } => disk.parse().ok().zip(self.state.parse().ok()),
            On::Stored { .. } | On::Image(_) => None,
        }
    }

    /// The vault whose point it is, and the point.
    pub fn stored(&self) -> Option<(VaultId, ManifestId)> {
        match &self.on {
            On::Stored { id, manifest, .. } => id.parse().ok().zip(manifest.parse().ok()),
            On::Point { .. } | On::Image(_) => None,
        }
    }

    /// What the recovery point was called when the disk was made, if it is one.
    pub fn point_name(&self) -> Option<&str> {
        match &self.on {
            On::Point { name, .. } | On::Stored { name, .. } => Some(name),
            On::Image(_) => None,
        }
    }

    /// The image, if it is one.
    pub fn image(&self) -> Option<&ImageRecord> {
        match &self.on {
            On::Image(image) => Some(image),
            On::Point { .. } | On::Stored { .. } => None,
        }
    }

    /// The file that was adopted, if one was.
    pub fn adopted(&self) -> Option<&FileRecord> {
        self.image().filter(|image| image.adopted).and_then(|image| image.files.first())
    }
}

fn damaged(text: &str) -> Error {
    Error::said(Kind::Corrupt, "what a disk stands on", format!("{text:?} is no state"))
}

impl FileRecord {
    /// A file as it is now.
    ///
    /// # Errors
    /// `Invalid` for a name that is no text.
    pub fn new(path: &Path, stamp: &Stamp) -> Result<Self> {
        let Some(text) = path.to_str() else {
            let why = "its name is not UTF-8, and could not be written down";
            return Err(Error::said(Kind::Invalid, path.display().to_string(), why));
        };
        Ok(Self {
            path: text.to_owned(),
            inode: stamp.inode.cast_signed(),
            size: stamp.size.cast_signed(),
            modified_ns: stamp.modified_ns,
            changed_ns: stamp.changed_ns,
        })
    }

    /// What is no longer as it was, for people; nothing if all is.
    pub fn changes(&self, now: &Stamp) -> Option<String> {
        let mut changes = Vec::new();
        if self.inode != now.inode.cast_signed() {
            changes.push(format!("it is another file: its inode was {} and is {}", self.inode, now.inode));
        }
        if self.size != now.size.cast_signed() {
            changes.push(format!("it had {} bytes and has {}", self.size, now.size));
        }
        if self.modified_ns != now.modified_ns {
            changes.push("it was written to since".to_owned());
        } else if self.changed_ns != now.changed_ns && changes.is_empty() {
            changes.push(
                "its owner, mode or links were changed since, or it was written to and its time set back"
                    .to_owned(),
            );
        }
        (!changes.is_empty()).then(|| changes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_named() {
        let stamp = Stamp { inode: u64::MAX, size: 10, modified_ns: 5, changed_ns: 6 };
        let record = FileRecord::new(Path::new("/a"), &stamp).expect("a name");
        assert_eq!(record.changes(&stamp), None);
        for (other, word) in [
            (Stamp { inode: 7, ..stamp }, "another file"),
            (Stamp { size: 11, ..stamp }, "had 10 bytes and has 11"),
            (Stamp { modified_ns: 4, ..stamp }, "written to since"),
            (Stamp { changed_ns: 7, ..stamp }, "owner"),
        ] {
            let found = record.changes(&other).unwrap_or_default();
            assert!(found.contains(word), "{found}");
        }
    }
}
