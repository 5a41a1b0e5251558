//! The log: what programs synced since the last commit, so that a sync need not wait for one. A mount replays it before
//! anything else; here the same is done in memory, to the items of each subvolume, and nothing is written.
//!
//! Each subvolume has a log tree of its own, with copies of items of the inodes that were synced: inodes, attributes,
//! references to names, extents; of directories the names that are in certain ranges, so that all others there are gone.

mod extents;
mod names;
mod view;

use super::superblock::Root;
use super::tree::{
    ATTRIBUTE, EXTENT, INDEX, INODE, Items, Key, LOGGED_RANGE, LONG_REFERENCE, REFERENCE, ROOT,
};
use super::{Btrfs, NodeKind, kind, named};
use crate::fields::{le32, le64};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use view::{Taken, View};

/// The object that the roots of logs belong to in the tree of logs.
const LOGS: u64 = (-6_i64).cast_unsigned();
const GENERATION_AT: usize = 0;
const SIZE_AT: usize = 16;
const SPACE_AT: usize = 24;
const LINKS_AT: usize = 40;

impl Btrfs {
    /// Replays the logs of all subvolumes. What was found wrong leaves everything as of the last commit.
    pub(super) fn replay(&mut self) -> Result<()> {
        let Some(logs) = self.sb.log else { return Ok(()) };
        // a log belongs to the commit it follows
        let (generation, expected) = (self.generation(logs)?, self.sb.generation.checked_add(1));
        if Some(generation) != expected {
            let why = format!("it is of commit {generation}, and the last one is {}", self.sb.generation);
            return Err(damaged(why));
        }
        let mut roots = Vec::new();
        self.items(logs).each(Key::new(LOGS, ROOT, 0), &mut |key, item| {
            // of a subvolume that is gone nothing is wanted
            if let Some(subvolume) = self.subvolumes.find(key.offset) {
                roots.push((subvolume.root, Root::of_item(item)?));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut taken = Taken::default();
        for (root, log) in roots {
            let view = View::new(self, root, taken);
            let mut replay = Replay { log: self.items(log), view, gone: BTreeSet::new() };
            replay.inodes()?;
            replay.names()?;
            replay.rest()?;
            replay.view.count()?;
            let (changes, all) = replay.view.into_changes();
            taken = all;
            self.changes.insert(root.at, changes);
        }
        Ok(())
    }
}

/// One subvolume and its log.
struct Replay<'a> {
    log: Items<'a>,
    view: View<'a>,
    /// Inodes of the log that had no name left.
    gone: BTreeSet<u64>,
}

impl Replay<'_> {
    /// All items of the log of this kind.
    fn logged(&self, wanted: &[u8]) -> Result<Vec<(Key, Vec<u8>)>> {
        let (mut items, mut taken) = (Vec::new(), Taken::default());
        self.log.all(Key::new(0, 0, 0), &mut |key, item| {
            if wanted.contains(&key.kind) && !self.gone.contains(&key.object) {
                taken.add(item.len())?;
                items.push((key, item.to_vec()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(items)
    }

    /// First the inodes, so that names have something to lead to, and what is gone of them.
    fn inodes(&mut self) -> Result<()> {
        for (key, item) in self.logged(&[INODE])? {
            if le32(&item, LINKS_AT)? == 0 {
                self.gone.insert(key.object);
                continue;
            }
            self.inode(key, item)?;
            self.attributes_gone(key.object)?;
            match kind(key.object, &self.view.inode(key.object)?)? {
                NodeKind::Directory => self.names_gone(key.object)?,
                NodeKind::File => self.view.cut(key.object)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn inode(&mut self, key: Key, mut item: Vec<u8>) -> Result<()> {
        let logged_as = kind(key.object, &item)?;
        let Some(before) = self.view.items().item(key)? else {
            if logged_as == NodeKind::Directory {
                put64(&mut item, SIZE_AT, 0)?;
            }
            if le64(&item, GENERATION_AT)? == 0 {
                put64(&mut item, GENERATION_AT, self.log.fs.sb.generation)?;
            }
            return self.view.put(key, item);
        };
        let was = kind(key.object, &before)?;
        // without a generation it only says that the inode is there, and perhaps how long it was when it was last synced
        if le64(&item, GENERATION_AT)? == 0 {
            let size = le64(&item, SIZE_AT)?;
            item = before;
            if (logged_as, was) == (NodeKind::File, NodeKind::File) && size != 0 {
                put64(&mut item, SIZE_AT, size)?;
            }
        } else {
            put64(&mut item, SPACE_AT, le64(&before, SPACE_AT)?)?;
            if (logged_as, was) == (NodeKind::Directory, NodeKind::Directory) {
                put64(&mut item, SIZE_AT, le64(&before, SIZE_AT)?)?;
            }
        }
        self.view.put(key, item)
    }

    /// The log has all attributes of an inode: others are gone.
    fn attributes_gone(&mut self, ino: u64) -> Result<()> {
        for key in self.view.keys(Key::new(ino, ATTRIBUTE, 0), u64::MAX)? {
            if self.log.item(key)?.is_none() {
                self.view.remove(key)?;
            }
        }
        Ok(())
    }

    /// The log has all names in some ranges of a directory: others there are gone.
    fn names_gone(&mut self, dir: u64) -> Result<()> {
        let mut ranges = Vec::new();
        self.log.each(Key::new(dir, LOGGED_RANGE, 0), &mut |key, item| {
            ranges.push((key.offset, le64(item, 0)?));
            Ok(ControlFlow::Continue(()))
        })?;
        for (first, last) in ranges {
            for key in self.view.keys(Key::new(dir, INDEX, first), last)? {
                let Some(item) = self.view.items().item(key)? else { continue };
                let (entry, _) = named(&item)?;
                let logged = self.log.item(key)?;
                let stays =
                    logged.as_deref().map(named).transpose()?.is_some_and(|(its, _)| its.name == entry.name);
                if !stays && entry.location.kind == INODE {
                    self.view.unlink(dir, entry.name, entry.location.object)?;
                }
            }
        }
        Ok(())
    }

    /// The names that directories of the log have.
    fn names(&mut self) -> Result<()> {
        for (key, item) in self.logged(&[INDEX])? {
            let (entry, _) = named(&item)?;
            let target = entry.location;
            if target.kind == INODE && self.view.has(key.object)? && self.view.has(target.object)? {
                self.view.place(key.object, key.offset, entry.name, target.object)?;
            }
        }
        Ok(())
    }

    /// Attributes, names that inodes have by their own account, and content.
    fn rest(&mut self) -> Result<()> {
        for (key, item) in self.logged(&[ATTRIBUTE, REFERENCE, LONG_REFERENCE, EXTENT])? {
            if !self.view.has(key.object)? {
                continue;
            }
            match key.kind {
                ATTRIBUTE => self.view.put(key, item)?,
                EXTENT => self.view.write(key, item)?,
                _ => self.view.refer(key, &item)?,
            }
        }
        Ok(())
    }
}

fn put64(item: &mut [u8], at: usize, value: u64) -> Result<()> {
    put(item, at, &value.to_le_bytes())
}

fn put(item: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let place = item.get_mut(at..at + bytes.len()).ok_or_else(|| damaged("an item is too short"))?;
    place.copy_from_slice(bytes);
    Ok(())
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the log of btrfs", why)
}
