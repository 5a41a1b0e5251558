//! btrfs on one device, read-only: all subvolumes, from the topmost on.
//!
//! Written from the on-disk format of the btrfs documentation. What is shown is the last commit, and what was synced since
//! then and waits in the log (`log`). Chunks that lie on other devices, or in turns on several, cannot be read.

mod chunks;
mod extent;
mod log;
mod lzo;
mod subvolume;
mod superblock;
mod tree;

use super::lines::Lines;
use super::pieces::{clip, push};
use super::{
    Entry, Guest, Listing, MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_NAMES, MAX_ENTRIES, MAX_LINK,
    MAX_PIECES, Node, NodeKind, Piece, Place, Space, Stamp, is_name,
};
use crate::fields::{le16, le32, le64, u8_at};
use crate::{Error, Result};
use block::sync::Mutex;
use block::{BlockSource, crc32c};
use chunks::Chunks;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use subvolume::{Subvolume, Subvolumes};
use superblock::Superblock;
use tree::{ATTRIBUTE, CHUNK, Changes, INDEX, INODE, Key, NAME, ROOT};

/// The first directory of every subvolume.
const FIRST: u64 = 256;
/// Stands for a directory where a snapshot has the name of a subvolume that is not in it.
const EMPTY: u64 = 2;
const CHUNKS: u64 = 256;
/// Start value of the hashes of names.
const NAME_SEED: u32 = !1;
/// Bytes of a named item before its name.
const NAMED: usize = 30;
/// Items of names looked at for one hash; as many collide in no tree that was not made to.
const MAX_COLLISIONS: usize = 4096;

/// An open filesystem.
pub struct Btrfs {
    sb: Superblock,
    lines: Lines,
    chunks: Chunks,
    subvolumes: Subvolumes,
    verified: Mutex<HashSet<u64>>,
    /// What the logs change of trees, by the addresses of their roots.
    changes: HashMap<u64, Changes>,
    /// Why the log was not replayed.
    not_replayed: Option<String>,
}

/// Whether a volume that begins like this is btrfs. Says nothing about its health.
pub fn detect(start: &[u8]) -> bool {
    superblock::has_magic(start)
}

/// Checks features and geometry without opening.
///
/// # Errors
/// As [`Btrfs::open`].
pub fn check(start: &[u8]) -> Result<()> {
    let bytes = start.get(superblock::AT..superblock::AT + superblock::LEN);
    Superblock::decode(bytes.unwrap_or_default()).map(|_| ())
}

impl Btrfs {
    /// Opens the filesystem that fills `source`.
    ///
    /// # Errors
    /// `Unsupported`, naming the feature, if it uses one this reader does not know. `Corrupt` if superblock and first
    /// trees do not fit together.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let lines = Lines::new(source);
        let sb = Superblock::decode(&lines.read(superblock::AT as u64, superblock::LEN)?)?;
        let chunks = Chunks::of_system(&sb.system_chunks, sb.device)?;
        let (subvolumes, verified, changes) = Default::default();
        let mut fs = Self { sb, lines, chunks, subvolumes, verified, changes, not_replayed: None };
        let mut chunks = Chunks::default();
        fs.each(fs.sb.chunks, Key::new(CHUNKS, CHUNK, 0), &mut |key, item| {
            chunks.add(key, item, fs.sb.device)?;
            Ok(ControlFlow::Continue(()))
        })?;
        chunks.sort();
        fs.chunks = chunks;
        fs.subvolumes = Subvolumes::read(&fs)?;
        if let Err(error) = fs.replay() {
            fs.changes.clear();
            fs.not_replayed = Some(error.to_string());
        }
        Ok(fs)
    }

    fn inode(&self, ino: u64) -> Result<(Subvolume, u64, Vec<u8>)> {
        let (subvolume, own) = self.subvolumes.split(ino)?;
        let item = self.item(subvolume.root, Key::new(own, INODE, 0))?;
        Ok((subvolume, own, item.ok_or_else(|| Error::not_found(format!("inode {ino}")))?))
    }

    /// The inode, if it is of this kind.
    fn of_kind(&self, ino: u64, wanted: NodeKind, what: &str) -> Result<(Subvolume, u64, Vec<u8>)> {
        let (subvolume, own, item) = self.inode(ino)?;
        if kind(ino, &item)? != wanted {
            return Err(Error::invalid(format!("inode {ino}"), format!("it is not a {what}")));
        }
        Ok((subvolume, own, item))
    }

    /// The number of what an entry of a directory leads to.
    fn target(&self, subvolume: Subvolume, dir: u64, entry: &Named<'_>) -> Result<u64> {
        let location = entry.location;
        if location.kind != ROOT {
            return self.subvolumes.join(subvolume.id, location.object);
        }
        match self.is_mounted_at(subvolume.id, location.object, dir, entry.name)? {
            true => self.subvolumes.join(location.object, FIRST),
            false => self.subvolumes.join(subvolume.id, EMPTY),
        }
    }

    fn is_empty_directory(&self, ino: u64) -> Result<bool> {
        Ok(self.subvolumes.split(ino)?.1 == EMPTY)
    }
}

/// An entry of a directory, or an attribute: they have the same form.
struct Named<'a> {
    location: Key,
    kind: Option<NodeKind>,
    name: &'a [u8],
    value: &'a [u8],
}

/// The first of the named things in an item, and the bytes after it.
fn named(item: &[u8]) -> Result<(Named<'_>, &[u8])> {
    let (value_len, name_len) = (usize::from(le16(item, 25)?), usize::from(le16(item, 27)?));
    let (name, value) = (NAMED..NAMED + name_len, NAMED + name_len..NAMED + name_len + value_len);
    let (Some(name), Some(value), Some(rest)) =
        (item.get(name), item.get(value.clone()), item.get(value.end..))
    else {
        return Err(Error::corrupt("a tree of btrfs", "a name passes its item"));
    };
    let kind = match u8_at(item, 29)? {
        1 => Some(NodeKind::File),
        2 => Some(NodeKind::Directory),
        3 => Some(NodeKind::CharDevice),
        4 => Some(NodeKind::BlockDevice),
        5 => Some(NodeKind::Fifo),
        6 => Some(NodeKind::Socket),
        7 => Some(NodeKind::Symlink),
        _ => None,
    };
    Ok((Named { location: Key::decode(item, 0)?, kind, name, value }, rest))
}

fn kind(ino: u64, item: &[u8]) -> Result<NodeKind> {
    Ok(match le32(item, 52)? >> 12 {
        0x1 => NodeKind::Fifo,
        0x2 => NodeKind::CharDevice,
        0x4 => NodeKind::Directory,
        0x6 => NodeKind::BlockDevice,
        0x8 => NodeKind::File,
        0xa => NodeKind::Symlink,
        0xc => NodeKind::Socket,
        _ => return Err(Error::corrupt(format!("inode {ino}"), format!("mode {:#o}", le32(item, 52)?))),
    })
}

fn stamp(item: &[u8], at: usize) -> Result<Stamp> {
    Ok(Stamp::bounded(le64(item, at)?.cast_signed(), le32(item, at + 8)?))
}

impl Guest for Btrfs {
    fn root(&self) -> u64 {
        // the topmost subvolume has the first place
        FIRST
    }

    fn remark(&self) -> Option<String> {
        let log = self.not_replayed.as_ref().map(|why| {
            format!(
                "it was in use, and what programs synced to it since its last commit, at most some 30 seconds, waits in its \
                 log and is not shown: {why}"
            )
        });
        let unchecked = (!self.sb.checked)
            .then(|| "its blocks have checksums of a kind that is not verified here".to_owned());
        let both = [log, unchecked].into_iter().flatten().collect::<Vec<_>>();
        (!both.is_empty()).then(|| both.join("; "))
    }

    fn space(&self) -> Space {
        let size = u64::from(self.sb.sector);
        Space {
            block_size: self.sb.sector,
            blocks: self.sb.total / size,
            free: self.sb.total.saturating_sub(self.sb.used) / size,
            inodes: 0,
            free_inodes: 0,
        }
    }

    fn node(&self, ino: u64) -> Result<Node> {
        if self.is_empty_directory(ino)? {
            let now = Stamp::default();
            let (kind, perm) = (NodeKind::Directory, 0o755);
            let (atime, mtime, ctime) = (now, now, now);
            let (uid, gid, nlink, size, blocks, rdev, generation) = (0, 0, 1, 0, 0, 0, 0);
            return Ok(Node {
                ino,
                kind,
                perm,
                uid,
                gid,
                nlink,
                size,
                blocks,
                rdev,
                atime,
                mtime,
                ctime,
                generation,
            });
        }
        let (_, _, item) = self.inode(ino)?;
        let size = le64(&item, 16)?;
        if i64::try_from(size).is_err() {
            return Err(Error::corrupt(format!("inode {ino}"), format!("a size of {size}")));
        }
        let device = le64(&item, 56)?;
        let (major, minor) = ((device >> 20) as u32 & 0xfff, device as u32 & 0xf_ffff);
        let kind = kind(ino, &item)?;
        let is_device = matches!(kind, NodeKind::CharDevice | NodeKind::BlockDevice);
        Ok(Node {
            ino,
            kind,
            perm: (le32(&item, 52)? & 0o7777) as u16,
            uid: le32(&item, 44)?,
            gid: le32(&item, 48)?,
            nlink: le32(&item, 40)?,
            size,
            blocks: le64(&item, 24)?
                .div_ceil(u64::from(self.sb.sector))
                .saturating_mul(u64::from(self.sb.sector / 512)),
            rdev: if is_device { minor & 0xff | major << 8 | (minor & !0xff) << 12 } else { 0 },
            atime: stamp(&item, 112)?,
            mtime: stamp(&item, 136)?,
            ctime: stamp(&item, 124)?,
            generation: le64(&item, 0)? as u32,
        })
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        if self.is_empty_directory(dir)? {
            return Ok(None);
        }
        let (subvolume, own, _) = self.of_kind(dir, NodeKind::Directory, "directory")?;
        let hash = u64::from(crc32c(NAME_SEED, name));
        let Some(item) = self.item(subvolume.root, Key::new(own, NAME, hash))? else { return Ok(None) };
        let mut rest = item.as_slice();
        for _ in 0..MAX_COLLISIONS {
            if rest.is_empty() {
                return Ok(None);
            }
            let (entry, more) = named(rest)?;
            if entry.name == name {
                return self.target(subvolume, own, &entry).map(Some);
            }
            rest = more;
        }
        Ok(None)
    }

    /// A cookie is the place of the entry before.
    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        if self.is_empty_directory(dir)? {
            return Ok(Listing::default());
        }
        let (subvolume, own, _) = self.of_kind(dir, NodeKind::Directory, "directory")?;
        let mut entries = Vec::new();
        self.each(subvolume.root, Key::new(own, INDEX, cookie), &mut |key, item| {
            if key.offset >= cookie {
                let (entry, _) = named(item)?;
                let next = key.offset.checked_add(1);
                if is_name(entry.name)
                    && let Some(next) = next
                {
                    let (ino, name) = (self.target(subvolume, own, &entry)?, entry.name.to_vec());
                    entries.push(Entry { name, ino, kind: entry.kind, next });
                }
            }
            Ok(if entries.len() < MAX_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        let full = entries.len() == MAX_ENTRIES;
        Ok(Listing { next: entries.last().map(|entry| entry.next).filter(|_| full), entries })
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        let (subvolume, own, item) = self.of_kind(ino, NodeKind::Symlink, "symbolic link")?;
        let size = le64(&item, 16)?.min(MAX_LINK as u64) as usize;
        let mut target = Vec::new();
        extent::each(self, subvolume.root, own, 0, &mut |extent| {
            target = extent.content(self, 0, size)?;
            Ok(ControlFlow::Break(()))
        })?;
        target.truncate(size);
        if target.is_empty() || target.contains(&0) {
            return Err(Error::corrupt(format!("inode {ino}"), "its target is no path"));
        }
        Ok(target)
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let (subvolume, own, item) = self.of_kind(ino, NodeKind::File, "plain file")?;
        let size = le64(&item, 16)?.min(i64::MAX as u64);
        let to = to.min(size);
        if from >= to {
            return Ok(Vec::new());
        }
        let mut pieces = Vec::new();
        let (mut at, mut ended) = (from, true);
        extent::each(self, subvolume.root, own, from, &mut |extent| {
            if extent.at > at {
                push(&mut pieces, at, extent.at - at, Place::Zero);
                at = extent.at;
            }
            if at < extent.end() && at < to {
                let place = match extent.place(self, at) {
                    Ok(place) => place,
                    Err(error) if pieces.is_empty() => return Err(error),
                    // what lies before the damage can still be read
                    Err(_) => {
                        ended = false;
                        return Ok(ControlFlow::Break(()));
                    }
                };
                push(&mut pieces, at, extent.end() - at, place);
                at = extent.end();
            }
            ended = at < to && pieces.len() < MAX_PIECES;
            Ok(if ended { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        // behind the last extent is a hole
        if ended && at < size {
            push(&mut pieces, at, size - at, Place::Zero);
        }
        clip(&mut pieces, size);
        Ok(pieces)
    }

    fn content(&self, ino: u64, at: u64, len: usize) -> Result<Vec<u8>> {
        let (subvolume, own, item) = self.of_kind(ino, NodeKind::File, "plain file")?;
        let left = le64(&item, 16)?.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(len).min(len);
        let mut content = Vec::new();
        extent::each(self, subvolume.root, own, at, &mut |extent| {
            if extent.at <= at && extent.place(self, at)? == Place::Coded {
                content = extent.content(self, at, len)?;
            }
            Ok(ControlFlow::Break(()))
        })?;
        if content.is_empty() {
            return Err(Error::invalid(format!("inode {ino}"), format!("nothing is coded at {at}")));
        }
        Ok(content)
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        let (subvolume, own) = self.subvolumes.split(ino)?;
        let (mut names, mut bytes) = (Vec::new(), 0);
        self.each(subvolume.root, Key::new(own, ATTRIBUTE, 0), &mut |_, item| {
            let mut rest = item;
            while !rest.is_empty() {
                let (attribute, more) = named(rest)?;
                rest = more;
                let name = attribute.name;
                if (1..=MAX_ATTRIBUTE_NAME).contains(&name.len()) && !name.contains(&0) {
                    bytes += name.len() + 1;
                    names.push(name.to_vec());
                }
            }
            Ok(if bytes > MAX_ATTRIBUTE_NAMES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if bytes > MAX_ATTRIBUTE_NAMES {
            let why = format!("more than {MAX_ATTRIBUTE_NAMES} bytes of attribute names");
            return Err(Error::corrupt(format!("inode {ino}"), why));
        }
        Ok(names)
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let (subvolume, own) = self.subvolumes.split(ino)?;
        let hash = u64::from(crc32c(NAME_SEED, name));
        let item = self.item(subvolume.root, Key::new(own, ATTRIBUTE, hash))?.unwrap_or_default();
        let mut rest = item.as_slice();
        while !rest.is_empty() {
            let (attribute, more) = named(rest)?;
            if attribute.name == name && attribute.value.len() <= MAX_ATTRIBUTE {
                return Ok(attribute.value.to_vec());
            }
            rest = more;
        }
        Err(Error::not_found("the attribute"))
    }
}
