//! The small file beside each disk's layers that gives the disk its name, and the markers that make creating and
//! deleting a disk one step. Specified in `docs/state.md`.
//!
//! `disks/ID.disk` is what makes a disk exist. While it is made or removed the file is called `ID.making` or
//! `ID.deleting`; what belongs to such a file is swept away at the next start.

use crate::error::{Doing, Error, Result};
use block::{DiskId, Media};
use control::Kind;
use serde::{Deserialize, Serialize};

/// The directory in the state directory.
pub const DIR: &str = "disks";

/// A name file larger than this is not one.
const LIMIT_BYTES: u64 = 4096;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFile {
    /// The disk's name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// What a name file stands for, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The disk exists.
    Disk,
    /// It was being made.
    Making,
    /// It was being removed.
    Deleting,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Disk, Self::Making, Self::Deleting];

    const fn ending(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Making => "making",
            Self::Deleting => "deleting",
        }
    }

    fn path(self, id: DiskId) -> String {
        format!("{DIR}/{id}.{}", self.ending())
    }
}

/// The directory of a disk's layers.
pub fn layers_dir(id: DiskId) -> String {
    format!("{DIR}/{id}")
}

/// Everything in the directory: name files by id and stage, and directories of layers.
pub struct Found {
    /// Name files.
    pub files: Vec<(DiskId, Stage)>,
    /// Directories of layers.
    pub layers: Vec<DiskId>,
}

/// Looks at the directory. Names that are none of ours are left alone.
///
/// # Errors
/// What the host reports.
pub fn find(media: &dyn Media) -> Result<Found> {
    let mut found = Found { files: Vec::new(), layers: Vec::new() };
    for entry in media.list(DIR).doing(|| "list the disks".to_owned())? {
        if entry.is_dir {
            found.layers.extend(entry.name.parse::<DiskId>().ok());
            continue;
        }
        let Some((id, ending)) = entry.name.split_once('.') else { continue };
        let stage = Stage::ALL.into_iter().find(|stage| stage.ending() == ending);
        found.files.extend(id.parse().ok().zip(stage));
    }
    Ok(found)
}

/// Reads a disk's name file.
///
/// # Errors
/// `Corrupt` naming the file.
pub fn read(media: &dyn Media, id: DiskId) -> Result<DiskFile> {
    let path = Stage::Disk.path(id);
    let bytes = media.read_whole(&path, LIMIT_BYTES).doing(|| "read a disk's name".to_owned())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::said(Kind::Corrupt, &path, "is not UTF-8"))?;
    toml::from_str(text).map_err(|error| Error::said(Kind::Corrupt, path, error.message().to_owned()))
}

/// Writes the file of a disk that is about to be made.
///
/// # Errors
/// What the host reports.
pub fn begin(media: &dyn Media, id: DiskId, file: &DiskFile) -> Result<()> {
    let text = toml::to_string(file).map_err(|error| Error::said(Kind::Io, &file.name, error.to_string()))?;
    media.replace(&Stage::Making.path(id), text.as_bytes()).doing(|| format!("begin disk {}", file.name))
}

/// Moves a disk from one stage to the next, durably.
///
/// # Errors
/// What the host reports.
pub fn advance(media: &dyn Media, id: DiskId, from: Stage, to: Stage) -> Result<()> {
    media
        .rename(&from.path(id), &to.path(id))
        .and_then(|()| media.sync_dir(DIR))
        .doing(|| format!("record the state of disk {id}"))
}

/// Forgets a disk whose layers are gone.
///
/// # Errors
/// What the host reports.
pub fn forget(media: &dyn Media, id: DiskId, stage: Stage) -> Result<()> {
    media.remove(&stage.path(id)).and_then(|()| media.sync_dir(DIR)).doing(|| format!("forget disk {id}"))
}
