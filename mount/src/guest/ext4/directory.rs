//! Directories. Listing and looking up scan the leaf blocks in order; the hash tree over them is passed over, since
//! its inner nodes look like one empty entry each.

use super::Ext4;
use super::inode::{Inode, flag};
use super::superblock::incompat;
use crate::fields::{le16, le32, u8_at};
use crate::guest::entries::{self, Found, Stop, Visit, kind};
use crate::guest::{Listing, NodeKind, is_name};
use crate::{Error, Result};
use block::crc32c;
use std::ops::ControlFlow;

/// The largest directory read, in bytes. Ten million names fit; a larger one is a trap.
const MAX_DIRECTORY: u64 = 4 << 30;
/// Bytes before the name of an entry.
const HEADER: usize = 8;
/// Bytes of the checksum at the end of a block, dressed up as an empty entry.
const TAIL: usize = 12;
const TAIL_MARK: u8 = 0xde;
/// Of an inline directory, the first bytes are the parent's number, where a block has `.` and `..`.
const INLINE_PARENT: usize = 4;

/// A page of the directory from `cookie` on: a position in its bytes.
pub(super) fn list(fs: &Ext4, dir: &Inode, cookie: u64) -> Result<Listing> {
    entries::list(|max_blocks, visit| walk(fs, dir, cookie, max_blocks, visit))
}

/// The inode `name` stands for.
pub(super) fn lookup(fs: &Ext4, dir: &Inode, name: &[u8]) -> Result<Option<u64>> {
    entries::lookup(name, |max_blocks, visit| walk(fs, dir, 0, max_blocks, visit))
}

fn walk(fs: &Ext4, dir: &Inode, from: u64, max_blocks: u64, visit: &mut Visit<'_>) -> Result<Option<Stop>> {
    if dir.kind != NodeKind::Directory {
        return Err(Error::invalid(format!("inode {}", dir.ino), "it is not a directory"));
    }
    if dir.has(flag::ENCRYPT) {
        return Err(Error::unsupported(format!("directory {}", dir.ino), "its names are encrypted"));
    }
    if dir.has(flag::INLINE_DATA) {
        return walk_inline(fs, dir, from, visit);
    }
    if dir.size > MAX_DIRECTORY {
        return Err(Error::unsupported(
            format!("directory {}", dir.ino),
            format!("it has {} bytes, more than the limit of {MAX_DIRECTORY}", dir.size),
        ));
    }
    let block_size = u64::from(fs.blocks.block_size());
    let (mut logical, end) = (from / block_size, dir.size.div_ceil(block_size));
    let mut looked_at = 0;
    while logical < end {
        if looked_at == max_blocks {
            return Ok(Some(Stop::Pages(logical * block_size)));
        }
        looked_at += 1;
        let run = super::map::map(fs, dir, logical)?;
        let Some(first) = run.first else {
            logical = logical.saturating_add(run.count);
            continue;
        };
        let block = fs.blocks.read(first)?;
        if fs.unverified(first) {
            check(fs, dir, logical, &block)?;
            fs.set_verified(first);
        }
        if walk_entries(fs, dir, &block, logical * block_size, from, visit)?.is_break() {
            return Ok(Some(Stop::Visitor));
        }
        logical += 1;
    }
    Ok(None)
}

/// An inline directory: entries in the inode, and more in an attribute of it.
fn walk_inline(fs: &Ext4, dir: &Inode, from: u64, visit: &mut Visit<'_>) -> Result<Option<Stop>> {
    let content = fs.inline_content(dir)?;
    let (inode, attribute) = content.split_at(content.len().min(dir.root.len()));
    let parts = [(inode.get(INLINE_PARENT..).unwrap_or_default(), INLINE_PARENT), (attribute, inode.len())];
    for (part, base) in parts {
        if walk_entries(fs, dir, part, base as u64, from, visit)?.is_break() {
            return Ok(Some(Stop::Visitor));
        }
    }
    Ok(None)
}

/// The entries of one block, whose first byte is byte `base` of the directory.
fn walk_entries(
    fs: &Ext4,
    dir: &Inode,
    block: &[u8],
    base: u64,
    from: u64,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>> {
    let mut at = 0;
    while at + HEADER <= block.len() {
        let len = record_len(le16(block, at + 4)?, block.len());
        if len < HEADER || !len.is_multiple_of(4) || at + len > block.len() {
            return Err(dir.damaged(format!("a directory entry of {len} bytes at {}", base + at as u64)));
        }
        let position = base + at as u64;
        let next = position + len as u64;
        if position >= from
            && let Some(entry) = entry(fs, dir, block, at, len, next)?
            && visit(entry).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        at += len;
    }
    Ok(ControlFlow::Continue(()))
}

/// The entry at `at`, if it names something that can be shown.
fn entry<'a>(
    fs: &Ext4,
    dir: &Inode,
    block: &'a [u8],
    at: usize,
    len: usize,
    next: u64,
) -> Result<Option<Found<'a>>> {
    let ino = le32(block, at)?;
    if ino == 0 {
        return Ok(None);
    }
    // without the feature, the byte of the type is the high byte of a name length that never needs it
    let typed = fs.superblock.incompat & incompat::FILETYPE != 0;
    let name_len = usize::from(u8_at(block, at + 6)?);
    if name_len > len - HEADER {
        return Err(dir.damaged(format!("a name of {name_len} bytes in an entry of {len}")));
    }
    let name = block.get(at + HEADER..at + HEADER + name_len).unwrap_or_default();
    if !is_name(name) {
        // `.` and `..`, or what no kernel would show
        return Ok(None);
    }
    let kind = if typed { kind(u8_at(block, at + 7)?) } else { None };
    Ok(Some(Found { name, ino: u64::from(ino), kind, next }))
}

/// Lengths of entries are 16 bits; with blocks of 64 KiB the value that does not fit is written as 0 or 65535, and
/// the two low bits, always zero otherwise, extend it.
fn record_len(stored: u16, block: usize) -> usize {
    match usize::from(stored) {
        0 | 0xffff if block > 0xfffc => block,
        len if block > 0xfffc => len & 0xfffc | (len & 3) << 16,
        len => len,
    }
}

/// Checks a leaf block that carries a checksum. Inner nodes of the hash tree carry theirs elsewhere and hold no names.
fn check(fs: &Ext4, dir: &Inode, logical: u64, block: &[u8]) -> Result<()> {
    let Some(seed) = fs.rules.checksum_seed else { return Ok(()) };
    let Some(at) = block.len().checked_sub(TAIL) else { return Ok(()) };
    // a node of the hash tree may still carry the tail of the leaf it once was
    let inner = logical == 0 || record_len(le16(block, 4)?, block.len()) == block.len();
    if dir.has(flag::INDEX) && inner {
        return Ok(());
    }
    let is_tail = le32(block, at)? == 0 && le16(block, at + 4)? == TAIL as u16;
    if !is_tail || u8_at(block, at + 7)? != TAIL_MARK {
        return Ok(());
    }
    let stored = le32(block, at + 8)?;
    let computed = crc32c(dir.checksum_seed(seed), block.get(..at).unwrap_or_default());
    if stored != computed {
        return Err(dir.damaged(format!(
            "block {logical} of its names has the checksum {stored:08x}, its bytes give {computed:08x}"
        )));
    }
    Ok(())
}
