//! The small file beside each disk's layers that gives the disk its name, and the markers that make creating and
//! deleting a disk one step. Specified in `docs/state.md`.
//!
//! `disks/ID.disk` is what makes a disk exist. While it is made or removed the file is called `ID.making` or
//! `ID.deleting`; what belongs to such a file is swept away at the next start.

use crate::bases::BaseRecord;
use crate::error::{Doing, Error, Result};
use block::{DiskId, FileHeader, HEADER_LEN, Media};
use control::Kind;
use serde::{Deserialize, Serialize};

/// The directory in the state directory.
pub const DIR: &str = "disks";

/// A name file larger than this is not one.
const LIMIT_BYTES: u64 = 1 << 20;

const HEADER: FileHeader = FileHeader::new(*b"name", 1);
/// Header and disk.
const HEAD_LEN: usize = HEADER_LEN + 16;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFile {
    /// The disk's name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Whether several clients may write to it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
    /// Whether remote clients must be let in again by a person, see [`crate::claim`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub awaits_release: bool,
    /// What it stands on, if on anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRecord>,
    /// How it runs from that, if it is a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunRecord>,
    /// The last time another recovery point took the place of what it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<ReplaceRecord>,
    /// The recovery point it was made of, if it was: what a restore that was cut short goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoreRecord>,
}

/// A recovery point that a disk was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRecord {
    /// The disk whose point it is.
    pub disk: String,
    /// The point's state.
    pub state: String,
    /// What it was called.
    pub name: String,
    /// Whether all of it is to be read back.
    pub verify: bool,
}

/// How a disk runs from the recovery point it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Whether the point is brought in the background.
    pub hydrate: bool,
    /// Whether that is to be done as fast as it can.
    pub promote: bool,
}

/// A recovery point that took the place of what a disk held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRecord {
    /// The state of the recovery point that was taken of what was there before.
    pub safety: String,
    /// The disk whose point it is.
    pub disk: String,
    /// The point's state.
    pub state: String,
    /// What it was called.
    pub name: String,
    /// Whether all of it is there. Until then nobody is let in.
    pub done: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl DiskFile {
    /// The file of a disk just made.
    pub fn new(name: impl Into<String>, created: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            created: created.into(),
            shared: false,
            awaits_release: false,
            base: None,
            run: None,
            replaced: None,
            restored: None,
        }
    }
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
    read_at(media, id, Stage::Disk)
}

/// Reads the file of a disk at one stage of its life.
///
/// # Errors
/// `Corrupt` naming the file.
pub fn read_at(media: &dyn Media, id: DiskId, stage: Stage) -> Result<DiskFile> {
    let path = stage.path(id);
    let bytes = media.read_whole(&path, LIMIT_BYTES).doing(|| "read a disk's name".to_owned())?;
    decode(&bytes, id, &path)
}

/// The stored form: the common header, the disk's id, a checksum, then TOML.
fn encode(file: &DiskFile, id: DiskId) -> Result<Vec<u8>> {
    let text = toml::to_string(file).map_err(|error| Error::said(Kind::Io, &file.name, error.to_string()))?;
    let mut bytes = HEADER.encode().to_vec();
    bytes.extend(id.as_bytes());
    bytes.extend(checksum(&bytes, text.as_bytes()).to_le_bytes());
    bytes.extend(text.as_bytes());
    if bytes.len() as u64 > LIMIT_BYTES {
        // what could not be read again is not written
        let why = format!("what it stands on takes more than {LIMIT_BYTES} bytes to write down");
        return Err(Error::said(Kind::Unsupported, format!("disk {}", file.name), why)
            .with_help("shorten the paths of the image's files, or import it with --from"));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], id: DiskId, path: &str) -> Result<DiskFile> {
    FileHeader::check(bytes, &HEADER, path).doing(|| "read a disk's name".to_owned())?;
    let damaged = |why: &str| Error::said(Kind::Corrupt, path, why);
    let (head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or_else(|| damaged("is cut short"))?;
    let (crc, text) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("is cut short"))?;
    if checksum(head, text) != u32::from_le_bytes(*crc) {
        return Err(damaged("is damaged: its checksum disagrees"));
    }
    if head[HEADER_LEN..] != *id.as_bytes() {
        return Err(damaged("is the name of another disk"));
    }
    let text = std::str::from_utf8(text).map_err(|_| damaged("is not UTF-8"))?;
    toml::from_str(text).map_err(|error| damaged(error.message()))
}

fn checksum(head: &[u8], text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(text);
    hasher.finalize()
}

/// Writes the file of a disk that is about to be made.
///
/// # Errors
/// What the host reports.
pub fn begin(media: &dyn Media, id: DiskId, file: &DiskFile) -> Result<()> {
    let bytes = encode(file, id)?;
    media.replace(&Stage::Making.path(id), &bytes).doing(|| format!("begin disk {}", file.name))
}

/// Replaces the file of a disk that exists.
///
/// # Errors
/// What the host reports.
pub fn change(media: &dyn Media, id: DiskId, file: &DiskFile) -> Result<()> {
    let bytes = encode(file, id)?;
    media.replace(&Stage::Disk.path(id), &bytes).doing(|| format!("write the file of disk {}", file.name))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bases::On;

    #[test]
    fn a_name_round_trips_and_any_flipped_bit_is_seen() {
        let id = DiskId::from_bytes([7; 16]);
        let file = DiskFile::new("web", "2026-11-20T15:18:24.129Z");
        let bytes = encode(&file, id).expect("encoded");
        assert_eq!(decode(&bytes, id, "f").expect("read"), file);
        for bit in 0..bytes.len() * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&hurt, id, "f").expect_err("noticed");
            assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}: {error}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], id, "f").is_err(), "cut at {cut}");
        }
        let on = On::Point { disk: "x".repeat(LIMIT_BYTES as usize), name: String::new() };
        let large = DiskFile { base: Some(BaseRecord { state: String::new(), on }), ..file.clone() };
        assert_eq!(encode(&large, id).expect_err("refused").kind(), Kind::Unsupported);
        let other = decode(&bytes, DiskId::from_bytes([8; 16]), "f").expect_err("noticed");
        assert!(other.to_string().contains("another disk"), "{other}");
    }
}
