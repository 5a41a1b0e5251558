//! Which block of the volume holds a block of a file: extent trees and the older indirect block maps.

use super::Ext4;
use super::inode::{Inode, flag};
use crate::Result;
use crate::fields::{le16, le32};

/// A run of a file's blocks, starting at the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// How many blocks; never zero.
    pub count: u64,
    /// The first of as many blocks in a row on the volume, or `None` for zeros.
    pub first: Option<u64>,
}

impl Run {
    fn hole(count: u64) -> Self {
        Self { count: count.max(1), first: None }
    }
}

/// Logical block numbers of extents have 32 bits.
const END: u64 = 1 << 32;
/// A tree of extents is at most this deep below its root in the inode (`EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;
const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_HEADER: usize = 12;
const EXTENT_ENTRY: usize = 12;
/// A length above this marks blocks that were reserved but never written; they read as zeros.
const MAX_WRITTEN: u16 = 0x8000;
/// Block pointers in the inode itself.
const DIRECT: u64 = 12;

/// The run that starts at block `logical` of the file. The file's size plays no part.
pub(super) fn map(fs: &Ext4, inode: &Inode, logical: u64) -> Result<Run> {
    let run = match inode.has(flag::EXTENTS) {
        true if logical >= END => return Ok(Run::hole(u64::MAX - logical)),
        true => extent(fs, inode, logical)?,
        false => indirect(fs, inode, logical)?,
    };
    if let Some(first) = run.first
        && !fs.blocks.contains(first, run.count)
    {
        return Err(inode.damaged(format!("it points to block {first}, outside its filesystem or volume")));
    }
    Ok(run)
}

/// Walks down the tree. Every level down must be one less deep, so that no loop of blocks is followed.
fn extent(fs: &Ext4, inode: &Inode, logical: u64) -> Result<Run> {
    let (mut node, mut end) = (Node::decode(inode, &inode.root, None)?, END);
    if node.depth > MAX_DEPTH {
        return Err(inode.damaged(format!("an extent tree {} levels deep", node.depth)));
    }
    loop {
        let next = node.find(inode, logical)?;
        end = end.min(next.end);
        let Some(entry) = next.entry else { return Ok(Run::hole(end - logical)) };
        if node.depth == 0 {
            return leaf_run(inode, entry, logical, end);
        }
        let child = u64::from(le16(entry, 8)?) << 32 | u64::from(le32(entry, 4)?);
        let block = fs.blocks.read(child)?;
        if fs.unverified(child) {
            fs.check_extent_block(inode, &block)?;
            fs.set_verified(child);
        }
        node = Node::decode(inode, &block, Some(node.depth - 1))?;
    }
}

/// The run within the extent that begins at or before `logical`; `end` is where the next one begins.
fn leaf_run(inode: &Inode, entry: &[u8], logical: u64, end: u64) -> Result<Run> {
    let start = u64::from(le32(entry, 0)?);
    let stored = le16(entry, 4)?;
    let written = stored <= MAX_WRITTEN;
    let len = u64::from(if written { stored } else { stored - MAX_WRITTEN });
    let first = u64::from(le16(entry, 6)?) << 32 | u64::from(le32(entry, 8)?);
    if len == 0 || start + len > end {
        return Err(inode.damaged(format!("an extent of {len} blocks at {start}, the next begins at {end}")));
    }
    let into = logical - start;
    if into >= len {
        return Ok(Run::hole(end - logical));
    }
    Ok(Run { count: len - into, first: written.then_some(first + into) })
}

struct Node {
    depth: u16,
    entries: Vec<u8>,
}

struct Found<'a> {
    entry: Option<&'a [u8]>,
    end: u64,
}

impl Node {
    fn decode(inode: &Inode, bytes: &[u8], expected: Option<u16>) -> Result<Self> {
        let (magic, count, max, depth) = (le16(bytes, 0)?, le16(bytes, 2)?, le16(bytes, 4)?, le16(bytes, 6)?);
        let entries = EXTENT_HEADER..EXTENT_HEADER + usize::from(count) * EXTENT_ENTRY;
        let entries = bytes.get(entries).filter(|_| magic == EXTENT_MAGIC && count <= max);
        match entries {
            Some(entries) if expected.is_none_or(|expected| expected == depth) => {
                Ok(Self { depth, entries: entries.to_vec() })
            }
            _ => Err(inode.damaged(format!("an extent node with {count} of {max} entries, depth {depth}"))),
        }
    }

    /// The last entry that begins at or before `logical`, and where the one after it begins.
    fn find(&self, inode: &Inode, logical: u64) -> Result<Found<'_>> {
        let (entries, _) = self.entries.as_chunks::<EXTENT_ENTRY>();
        let start = |entry: &[u8; EXTENT_ENTRY]| {
            let [a, b, c, d, ..] = *entry;
            u64::from(u32::from_le_bytes([a, b, c, d]))
        };
        if !entries.is_sorted_by(|a, b| start(a) < start(b)) {
            return Err(inode.damaged("its extents are out of order"));
        }
        let after = entries.partition_point(|entry| start(entry) <= logical);
        let end = entries.get(after).map_or(END, start);
        Ok(Found { entry: after.checked_sub(1).and_then(|i| entries.get(i)).map(<[u8; 12]>::as_slice), end })
    }
}

/// Direct pointers, then one block of pointers, then one of those, then one of those. Depth is fixed by arithmetic.
fn indirect(fs: &Ext4, inode: &Inode, logical: u64) -> Result<Run> {
    if logical < DIRECT {
        return pointer_run(&inode.root, logical, DIRECT);
    }
    let per_block = u64::from(fs.blocks.block_size()) / 4;
    let (mut index, mut span) = (logical - DIRECT, per_block);
    for level in 0..3 {
        if index < span {
            let top = le32(&inode.root, (DIRECT as usize + level) * 4)?;
            return descend(fs, top, index, span, per_block);
        }
        index -= span;
        span *= per_block;
    }
    Ok(Run::hole(u64::MAX - logical))
}

fn descend(fs: &Ext4, top: u32, mut index: u64, mut span: u64, per_block: u64) -> Result<Run> {
    let mut pointer = top;
    loop {
        if pointer == 0 {
            return Ok(Run::hole(span - index));
        }
        let block = fs.blocks.read(u64::from(pointer))?;
        if span == per_block {
            return pointer_run(&block, index, per_block);
        }
        span /= per_block;
        pointer = le32(&block, (index / span) as usize * 4)?;
        index %= span;
    }
}

/// The run of pointers from `index` on that are all empty or all count up.
fn pointer_run(bytes: &[u8], index: u64, count: u64) -> Result<Run> {
    let pointer = |i: u64| le32(bytes, i as usize * 4).map(u64::from);
    let first = pointer(index)?;
    let mut run = 1;
    while index + run < count {
        let expected = if first == 0 { 0 } else { first + run };
        if pointer(index + run)? != expected {
            break;
        }
        run += 1;
    }
    Ok(Run { count: run, first: (first != 0).then_some(first) })
}
