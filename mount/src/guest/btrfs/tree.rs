//! Trees of items: every structure of btrfs is one.

use super::Btrfs;
use super::superblock::{Root, fits};
use crate::fields::{le32, le64, u8_at};
use crate::guest::lines::Bytes;
use crate::{Error, Result};
use block::sync::lock;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

pub(super) const INODE: u8 = 1;
pub(super) const REFERENCE: u8 = 12;
pub(super) const LONG_REFERENCE: u8 = 13;
pub(super) const ATTRIBUTE: u8 = 24;
pub(super) const LOGGED_RANGE: u8 = 72;
pub(super) const NAME: u8 = 84;
pub(super) const INDEX: u8 = 96;
pub(super) const EXTENT: u8 = 108;
pub(super) const ROOT: u8 = 132;
pub(super) const ROOT_REFERENCE: u8 = 156;
pub(super) const CHUNK: u8 = 228;

const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
/// `BTRFS_MAX_LEVEL`.
const MAX_LEVEL: u8 = 8;
/// Numbers of verified blocks kept, about 1 MiB of them.
const MAX_VERIFIED: usize = 1 << 16;

/// The name of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    pub(super) const LEN: usize = 17;

    pub(super) fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self { object, kind, offset }
    }

    pub(super) fn decode(bytes: &[u8], at: usize) -> Result<Self> {
        Ok(Self { object: le64(bytes, at)?, kind: u8_at(bytes, at + 8)?, offset: le64(bytes, at + 9)? })
    }
}

type Visit<'a> = dyn FnMut(Key, &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Items that stand in the place of a tree's own, and those that are gone.
pub(super) type Changes = BTreeMap<Key, Option<Vec<u8>>>;

/// The items of a tree, as they are with its changes.
#[derive(Clone, Copy)]
pub(super) struct Items<'a> {
    pub fs: &'a Btrfs,
    pub root: Root,
    pub changes: Option<&'a Changes>,
}

impl Items<'_> {
    /// Calls `visit` for the items in the order of their keys, from the last one at or before `from` on, or from one
    /// before that.
    fn walk(&self, from: Key, visit: &mut Visit<'_>) -> Result<()> {
        let Some(changes) = self.changes else { return self.walk_stored(from, visit) };
        let first = Key { offset: 0, ..from };
        let before = changes.range(first..=from).rev().find(|(_, item)| item.is_some());
        let mut newer = changes.range(before.map_or(from, |(key, _)| *key)..).peekable();
        let mut ended = false;
        self.walk_stored(from, &mut |key, item| {
            while let Some((its, newer)) = newer.next_if(|(its, _)| **its < key) {
                if let Some(item) = newer
                    && visit(*its, item)?.is_break()
                {
                    ended = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            newer.next_if(|(its, _)| **its == key);
            // it may lie before the first change looked at
            let item = match changes.get(&key) {
                Some(None) => return Ok(ControlFlow::Continue(())),
                Some(Some(item)) => item,
                None => item,
            };
            let flow = visit(key, item)?;
            ended = flow.is_break();
            Ok(flow)
        })?;
        for (key, item) in newer.filter(|_| !ended) {
            if let Some(item) = item
                && visit(*key, item)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn walk_stored(&self, mut from: Key, visit: &mut Visit<'_>) -> Result<()> {
        loop {
            let (leaf, next) = self.fs.leaf(self.root, from)?;
            let count = le32(&leaf, 96)? as usize;
            let first = search(&leaf, count, ITEM, from)?.saturating_sub(1);
            for i in first..count {
                let at = HEADER + i * ITEM;
                let (start, len) = (le32(&leaf, at + 17)? as usize, le32(&leaf, at + 21)? as usize);
                let item =
                    HEADER.checked_add(start).and_then(|start| leaf.get(start..start.checked_add(len)?));
                let item = item.ok_or_else(|| damaged(format!("an item of {len} bytes passes its block")))?;
                if visit(Key::decode(&leaf, at)?, item)?.is_break() {
                    return Ok(());
                }
            }
            match next {
                // keys go up from block to block, or this would not end
                Some(next) if next > from => from = next,
                Some(_) => return Err(damaged("its keys are out of order")),
                None => return Ok(()),
            }
        }
    }

    /// Calls `visit` for the items of one object and kind, from the last one at or before `from` on, or from one before that.
    pub(super) fn each(&self, from: Key, visit: &mut Visit<'_>) -> Result<()> {
        self.walk(from, &mut |key, item| match (key.object, key.kind).cmp(&(from.object, from.kind)) {
            Ordering::Less => Ok(ControlFlow::Continue(())),
            Ordering::Equal => visit(key, item),
            Ordering::Greater => Ok(ControlFlow::Break(())),
        })
    }

    /// Calls `visit` for all items from `from` on.
    pub(super) fn all(&self, from: Key, visit: &mut Visit<'_>) -> Result<()> {
        self.walk(from, &mut |key, item| match key < from {
            true => Ok(ControlFlow::Continue(())),
            false => visit(key, item),
        })
    }

    /// The item of exactly this key.
    pub(super) fn item(&self, wanted: Key) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.each(wanted, &mut |key, item| {
            if key == wanted {
                found = Some(item.to_vec());
            }
            Ok(if key >= wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }
}

impl Btrfs {
    /// The items of a tree.
    pub(super) fn items(&self, root: Root) -> Items<'_> {
        Items { fs: self, root, changes: self.changes.get(&root.at) }
    }

    /// [`Items::each`] of a tree.
    pub(super) fn each(&self, root: Root, from: Key, visit: &mut Visit<'_>) -> Result<()> {
        self.items(root).each(from, visit)
    }

    /// [`Items::item`] of a tree.
    pub(super) fn item(&self, root: Root, wanted: Key) -> Result<Option<Vec<u8>>> {
        self.items(root).item(wanted)
    }

    /// The commit that the first block of a tree was written for.
    pub(super) fn generation(&self, root: Root) -> Result<u64> {
        le64(&self.block(root.at, root.level)?, 80)
    }

    /// The leaf that holds `key`, or would, and the first key of the leaf after it.
    fn leaf(&self, root: Root, key: Key) -> Result<(Bytes, Option<Key>)> {
        let (mut at, mut level, mut next) = (root.at, root.level, None);
        if level >= MAX_LEVEL {
            return Err(damaged(format!("it has {level} levels")));
        }
        loop {
            let block = self.block(at, level)?;
            if level == 0 {
                return Ok((block, next));
            }
            let count = le32(&block, 96)? as usize;
            let child = search(&block, count, POINTER, key)?.saturating_sub(1);
            if child + 1 < count {
                next = Some(Key::decode(&block, HEADER + (child + 1) * POINTER)?);
            }
            at = le64(&block, HEADER + child * POINTER + Key::LEN)?;
            // every level down is one less, so that no loop of blocks is followed
            level -= 1;
        }
    }

    /// The block at an address, which must be of this level.
    fn block(&self, at: u64, level: u8) -> Result<Bytes> {
        let byte = self.chunks.byte(at, u64::from(self.sb.node))?;
        let block = self.lines.read(byte, self.sb.node as usize)?;
        if self.sb.checked && !lock(&self.verified).contains(&at) {
            if !fits(&block) {
                return Err(damaged(format!("its block at {at} does not fit its checksum")));
            }
            let mut verified = lock(&self.verified);
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
            verified.insert(at);
        }
        let size = if level == 0 { ITEM } else { POINTER };
        let count = le32(&block, 96)? as usize;
        let fits = count <= (block.len() - HEADER) / size && (count > 0 || level == 0);
        if le64(&block, 48)? != at || u8_at(&block, 100)? != level || !fits {
            return Err(damaged(format!(
                "its block at {at} is not one of level {level}, with {count} items"
            )));
        }
        Ok(block)
    }
}

/// How many of the keys in a block are at or before `key`.
fn search(block: &[u8], count: usize, step: usize, key: Key) -> Result<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if Key::decode(block, HEADER + middle * step)? <= key { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("a tree of btrfs", why)
}
