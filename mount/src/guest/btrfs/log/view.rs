//! A subvolume's items, and what the log changes of them so far.

use super::{LINKS_AT, SIZE_AT, SPACE_AT, damaged, put, put64};
use crate::guest::NodeKind;
use crate::guest::btrfs::superblock::Root;
use crate::guest::btrfs::tree::{Changes, EXTENT, INDEX, INODE, Items, Key};
use crate::guest::btrfs::{Btrfs, kind, named};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Items the logs of a filesystem may have or change, and bytes in them: with their keys about 22 MiB of the parser's memory, which
/// several filesystems share.
const MAX_ITEMS: usize = 1 << 17;
const MAX_BYTES: usize = 8 << 20;

/// Items and bytes in them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    items: usize,
    bytes: usize,
}

impl Taken {
    pub(super) fn add(&mut self, item: usize) -> Result<()> {
        self.items += 1;
        self.bytes += item;
        if self.items > MAX_ITEMS || self.bytes > MAX_BYTES {
            let why =
                format!("it has or changes more than {MAX_ITEMS} items or {} MiB of them", MAX_BYTES >> 20);
            return Err(Error::unsupported("the log of btrfs", why));
        }
        Ok(())
    }

    fn sub(&mut self, item: usize) {
        self.items -= 1;
        self.bytes -= item;
    }
}

pub(super) struct View<'a> {
    fs: &'a Btrfs,
    root: Root,
    changes: Changes,
    /// Of all subvolumes so far.
    taken: Taken,
    /// Inodes whose names, or names in them, or content changed.
    touched: BTreeSet<u64>,
}

impl<'a> View<'a> {
    /// `taken` by the changes of other subvolumes.
    pub(super) fn new(fs: &'a Btrfs, root: Root, taken: Taken) -> Self {
        Self { fs, root, changes: Changes::new(), taken, touched: BTreeSet::new() }
    }

    pub(super) fn into_changes(self) -> (Changes, Taken) {
        (self.changes, self.taken)
    }

    pub(super) fn items(&self) -> Items<'_> {
        Items { fs: self.fs, root: self.root, changes: Some(&self.changes) }
    }

    pub(super) fn sector(&self) -> u64 {
        u64::from(self.fs.sb.sector)
    }

    pub(super) fn put(&mut self, key: Key, item: Vec<u8>) -> Result<()> {
        self.change(key, Some(item))
    }

    pub(super) fn remove(&mut self, key: Key) -> Result<()> {
        self.change(key, None)
    }

    fn change(&mut self, key: Key, item: Option<Vec<u8>>) -> Result<()> {
        let len = |item: &Option<Vec<u8>>| item.as_ref().map_or(0, Vec::len);
        self.taken.add(len(&item))?;
        if let Some(before) = self.changes.insert(key, item) {
            self.taken.sub(len(&before));
        }
        Ok(())
    }

    pub(super) fn touch(&mut self, ino: u64) {
        self.touched.insert(ino);
    }

    /// The keys of one object and kind from `from` on, up to the place `last`.
    pub(super) fn keys(&self, from: Key, last: u64) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        self.items().each(from, &mut |key, _| {
            if key.offset > last {
                return Ok(ControlFlow::Break(()));
            }
            if key >= from {
                keys.push(key);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(keys)
    }

    pub(super) fn has(&self, ino: u64) -> Result<bool> {
        Ok(self.items().item(Key::new(ino, INODE, 0))?.is_some())
    }

    pub(super) fn inode(&self, ino: u64) -> Result<Vec<u8>> {
        let item = self.items().item(Key::new(ino, INODE, 0))?;
        item.ok_or_else(|| damaged(format!("inode {ino} is missing")))
    }

    /// At the end: how many names each inode has that the log touched, how long its directories are and how much space its
    /// files take.
    pub(super) fn count(&mut self) -> Result<()> {
        for ino in std::mem::take(&mut self.touched) {
            let key = Key::new(ino, INODE, 0);
            let Some(mut item) = self.items().item(key)? else { continue };
            let names = self.references(ino)?.len() as u32;
            match kind(ino, &item)? {
                NodeKind::Directory => {
                    put(&mut item, LINKS_AT, &1_u32.to_le_bytes())?;
                    put64(&mut item, SIZE_AT, self.length(ino)?)?;
                }
                NodeKind::File | NodeKind::Symlink => {
                    put(&mut item, LINKS_AT, &names.to_le_bytes())?;
                    put64(&mut item, SPACE_AT, self.space(ino)?)?;
                }
                _ => put(&mut item, LINKS_AT, &names.to_le_bytes())?,
            }
            self.put(key, item)?;
        }
        Ok(())
    }

    /// Each name counts twice: there are two items of it.
    fn length(&self, dir: u64) -> Result<u64> {
        let mut length = 0;
        self.items().each(Key::new(dir, INDEX, 0), &mut |_, item| {
            length += 2 * named(item)?.0.name.len() as u64;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(length)
    }

    fn space(&self, ino: u64) -> Result<u64> {
        let mut space = 0_u64;
        self.items().each(Key::new(ino, EXTENT, 0), &mut |_, item| {
            space = space.saturating_add(super::extents::space(item)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(space)
    }
}
