//! Names: each is two items of its directory and one of its inode, which are kept alike.

use super::damaged;
use super::view::View;
use crate::Result;
use crate::fields::{le16, le64};
use crate::guest::btrfs::tree::{INDEX, INODE, Key, LONG_REFERENCE, NAME, REFERENCE};
use crate::guest::btrfs::{NAME_SEED, NAMED, kind, named};
use crate::guest::{NodeKind, is_name};
use block::crc32c;
use std::ops::ControlFlow;

/// A name of an inode, and the item that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    item: Key,
    dir: u64,
    index: u64,
    name: Vec<u8>,
}

/// The references in an item of an inode.
fn references(key: Key, item: &[u8]) -> Result<Vec<Reference>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < item.len() {
        let dir = if key.kind == REFERENCE { key.offset } else { le64(item, at)? };
        at += if key.kind == REFERENCE { 0 } else { 8 };
        let (index, len) = (le64(item, at)?, usize::from(le16(item, at + 8)?));
        let name = item.get(at + 10..at + 10 + len).ok_or_else(|| damaged("a name passes its item"))?;
        at += 10 + len;
        found.push(Reference { item: key, dir, index, name: name.to_vec() });
    }
    Ok(found)
}

fn encode(reference: &Reference) -> Vec<u8> {
    let dir = reference.dir.to_le_bytes();
    let dir = if reference.item.kind == REFERENCE { &[][..] } else { &dir };
    let len = (reference.name.len() as u16).to_le_bytes();
    [dir, &reference.index.to_le_bytes(), &len, &reference.name].concat()
}

fn by_name(dir: u64, name: &[u8]) -> Key {
    Key::new(dir, NAME, u64::from(crc32c(NAME_SEED, name)))
}

impl View<'_> {
    /// All names of an inode.
    pub(super) fn references(&self, ino: u64) -> Result<Vec<Reference>> {
        let mut all = Vec::new();
        for kind in [REFERENCE, LONG_REFERENCE] {
            self.items().each(Key::new(ino, kind, 0), &mut |key, item| {
                all.extend(references(key, item)?);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(all)
    }

    /// What a directory has under a name: the key of an inode, or of a subvolume.
    fn find(&self, dir: u64, name: &[u8]) -> Result<Option<Key>> {
        let item = self.items().item(by_name(dir, name))?.unwrap_or_default();
        let mut rest = item.as_slice();
        while !rest.is_empty() {
            let (entry, more) = named(rest)?;
            if entry.name == name {
                return Ok(Some(entry.location));
            }
            rest = more;
        }
        Ok(None)
    }

    /// Puts a name of an inode at a place of a directory. What was there or was called so goes.
    pub(super) fn place(&mut self, dir: u64, index: u64, name: &[u8], ino: u64) -> Result<()> {
        if !is_name(name) {
            return Ok(());
        }
        if let Some(other) = self.find(dir, name)? {
            if other.kind != INODE {
                return Ok(());
            }
            let is = |its: &Reference| its.dir == dir && its.index == index && its.name == name;
            if other.object == ino && self.references(ino)?.iter().any(is) {
                return Ok(());
            }
            self.unlink(dir, name, other.object)?;
        }
        if let Some(item) = self.items().item(Key::new(dir, INDEX, index))? {
            let (entry, _) = named(&item)?;
            if entry.location.kind != INODE {
                return Ok(());
            }
            self.unlink(dir, entry.name, entry.location.object)?;
        }
        self.link(dir, index, name, ino)
    }

    fn link(&mut self, dir: u64, index: u64, name: &[u8], ino: u64) -> Result<()> {
        let entry = self.entry(name, ino)?;
        let key = by_name(dir, name);
        let mut names = self.items().item(key)?.unwrap_or_default();
        names.extend_from_slice(&entry);
        self.put(key, names)?;
        self.put(Key::new(dir, INDEX, index), entry)?;
        let item = Key::new(ino, REFERENCE, dir);
        let mut all = self.items().item(item)?.unwrap_or_default();
        all.extend(encode(&Reference { item, dir, index, name: name.to_vec() }));
        self.put(item, all)?;
        self.touch(dir);
        self.touch(ino);
        Ok(())
    }

    fn entry(&self, name: &[u8], ino: u64) -> Result<Vec<u8>> {
        let kind = match kind(ino, &self.inode(ino)?)? {
            NodeKind::File => 1,
            NodeKind::Directory => 2,
            NodeKind::CharDevice => 3,
            NodeKind::BlockDevice => 4,
            NodeKind::Fifo => 5,
            NodeKind::Socket => 6,
            NodeKind::Symlink => 7,
        };
        let mut entry = vec![0; NAMED];
        entry[..8].copy_from_slice(&ino.to_le_bytes());
        entry[8] = INODE;
        entry[27..29].copy_from_slice(&(name.len() as u16).to_le_bytes());
        entry[29] = kind;
        entry.extend_from_slice(name);
        Ok(entry)
    }

    /// Takes a name from a directory and from the inode it leads to.
    pub(super) fn unlink(&mut self, dir: u64, name: &[u8], ino: u64) -> Result<()> {
        let key = by_name(dir, name);
        let names = self.items().item(key)?.unwrap_or_default();
        let (mut left, mut rest) = (Vec::new(), names.as_slice());
        while !rest.is_empty() {
            let (entry, more) = named(rest)?;
            if entry.name != name || entry.location.object != ino {
                left.extend_from_slice(&rest[..rest.len() - more.len()]);
            }
            rest = more;
        }
        self.put_or_remove(key, left)?;
        let all = self.references(ino)?;
        for gone in all.iter().filter(|its| its.dir == dir && its.name == name) {
            let left = all.iter().filter(|its| its.item == gone.item && *its != gone);
            self.put_or_remove(gone.item, left.flat_map(encode).collect())?;
            self.remove(Key::new(dir, INDEX, gone.index))?;
        }
        self.touch(dir);
        self.touch(ino);
        Ok(())
    }

    fn put_or_remove(&mut self, key: Key, item: Vec<u8>) -> Result<()> {
        if item.is_empty() { self.remove(key) } else { self.put(key, item) }
    }

    /// An inode has these names by its own account. Of the directories it tells of, it has no others.
    pub(super) fn refer(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let logged = references(key, item)?;
        for its in &logged {
            if self.has(its.dir)? {
                self.place(its.dir, its.index, &its.name, key.object)?;
            }
        }
        let is_told_of = |its: &Reference| logged.iter().any(|told| told.dir == its.dir);
        let stays = |its: &Reference| logged.iter().any(|told| told.dir == its.dir && told.name == its.name);
        for its in self.references(key.object)? {
            if its.item.kind == key.kind && is_told_of(&its) && !stays(&its) && is_name(&its.name) {
                self.unlink(its.dir, &its.name, key.object)?;
            }
        }
        Ok(())
    }
}
