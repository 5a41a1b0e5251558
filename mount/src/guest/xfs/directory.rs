//! Directories: inside the inode, or in blocks of entries. Listing and looking up read the blocks of entries in order; the
//! blocks of hashes behind them are not needed.

use super::Xfs;
use super::fork;
use super::inode::{Format, Inode};
use super::superblock::fits;
use crate::fields::{array, be16, be32, be64, u8_at};
use crate::guest::entries::{self, Found, Stop, Visit, kind};
use crate::guest::{Listing, NodeKind, is_name};
use crate::{Error, Result};
use std::ops::ControlFlow;

/// Entries lie below this byte of a directory; behind it are the hashes.
const HASHES_AT: u64 = 32 << 30;
const BLOCK_V4: u32 = 0x5844_3242;
const DATA_V4: u32 = 0x5844_3244;
const BLOCK_V5: u32 = 0x5844_4233;
const DATA_V5: u32 = 0x5844_4433;
const CRC_AT: usize = 4;
const OWNER_AT: usize = 40;
/// Where entries begin in a block.
const ENTRIES_V4: usize = 16;
const ENTRIES_V5: usize = 64;
/// At the end of a directory of one block: how many hashes lie before it, and their size.
const TAIL: usize = 8;
const HASH: usize = 8;
const UNUSED: u16 = 0xffff;

/// A page of the directory from `cookie` on: a position in its bytes.
pub(super) fn list(fs: &Xfs, dir: &Inode, cookie: u64) -> Result<Listing> {
    entries::list(|max_blocks, visit| walk(fs, dir, cookie, max_blocks, visit))
}

/// The inode `name` stands for.
pub(super) fn lookup(fs: &Xfs, dir: &Inode, name: &[u8]) -> Result<Option<u64>> {
    entries::lookup(name, |max_blocks, visit| walk(fs, dir, 0, max_blocks, visit))
}

fn walk(fs: &Xfs, dir: &Inode, from: u64, max_blocks: u64, visit: &mut Visit<'_>) -> Result<Option<Stop>> {
    if dir.kind != NodeKind::Directory {
        return Err(Error::invalid(format!("inode {}", dir.ino), "it is not a directory"));
    }
    if dir.data.format == Format::Local {
        return Ok(walk_inside(fs, dir, from, visit)?.is_break().then_some(Stop::Visitor));
    }
    let size = u64::from(fs.sb.directory_block);
    let end = dir.size.min(HASHES_AT);
    let mut at = from / size * size;
    let mut looked_at = 0;
    while at < end {
        if looked_at == max_blocks {
            return Ok(Some(Stop::Pages(at)));
        }
        looked_at += 1;
        let run = fork::map(fs, dir, &dir.data, at / fs.block_size())?;
        let Some(byte) = run.byte else {
            at = at.saturating_add(run.count.saturating_mul(fs.block_size()));
            at = at.min(end).next_multiple_of(size);
            continue;
        };
        // a block of a directory may be of several blocks, anywhere
        let block = match run.count * fs.block_size() >= size {
            true => fs.read(byte, size as usize)?,
            false => fork::block(fs, dir, &dir.data, at, size as usize, CRC_AT)?.into(),
        };
        if fs.sb.v5 && run.count * fs.block_size() >= size {
            fs.verify(byte, block.len(), || fits(&block, CRC_AT))?;
        }
        let entries = entries_of(fs, dir, &block)?;
        if walk_entries(fs, dir, entries, at, from, visit)?.is_break() {
            return Ok(Some(Stop::Visitor));
        }
        at += size;
    }
    Ok(None)
}

/// A directory inside its inode. Positions are counted in entries.
fn walk_inside(fs: &Xfs, dir: &Inode, from: u64, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
    let bytes = &dir.data.bytes;
    let (count, wide) = (u64::from(u8_at(bytes, 0)?), u8_at(bytes, 1)? > 0);
    let mut at = 2 + if wide { 8 } else { 4 };
    for position in 0..count {
        let len = usize::from(u8_at(bytes, at)?);
        let name = bytes.get(at + 3..at + 3 + len);
        let name = name.ok_or_else(|| dir.damaged(format!("a name of {len} bytes inside it")))?;
        at += 3 + len;
        let kind = if fs.sb.ftype { kind(u8_at(bytes, at)?) } else { None };
        at += usize::from(fs.sb.ftype);
        let ino = if wide { be64(bytes, at)? } else { u64::from(be32(bytes, at)?) };
        at += if wide { 8 } else { 4 };
        let next = position + 1;
        if position >= from
            && is_name(name)
            && fs.is_ino(ino)
            && visit(Found { name, ino, kind, next }).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The part of a block that holds entries, and where it begins.
fn entries_of<'a>(fs: &Xfs, dir: &Inode, block: &'a [u8]) -> Result<(&'a [u8], usize)> {
    let (start, one) = match be32(block, 0)? {
        BLOCK_V4 if !fs.sb.v5 => (ENTRIES_V4, true),
        DATA_V4 if !fs.sb.v5 => (ENTRIES_V4, false),
        BLOCK_V5 if fs.sb.v5 => (ENTRIES_V5, true),
        DATA_V5 if fs.sb.v5 => (ENTRIES_V5, false),
        magic => return Err(dir.damaged(format!("a block of its names has the magic number {magic:08x}"))),
    };
    if fs.sb.v5 && be64(block, OWNER_AT)? != dir.ino {
        return Err(dir.damaged("a block of its names belongs to another directory"));
    }
    let hashes = match block.len().checked_sub(TAIL).filter(|_| one) {
        Some(tail) => (be32(block, tail)? as usize).saturating_mul(HASH).saturating_add(TAIL),
        None => 0,
    };
    let end = block.len().checked_sub(hashes).filter(|end| *end >= start);
    let end = end.ok_or_else(|| dir.damaged(format!("{hashes} bytes of hashes in a block of its names")))?;
    Ok((block.get(..end).unwrap_or_default(), start))
}

/// The entries of one block, whose first byte is byte `base` of the directory.
fn walk_entries(
    fs: &Xfs,
    dir: &Inode,
    (block, start): (&[u8], usize),
    base: u64,
    from: u64,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>> {
    let mut at = start;
    while at + 8 <= block.len() {
        let unused = be16(block, at)? == UNUSED;
        let len = if unused { usize::from(be16(block, at + 2)?) } else { entry_len(fs, block, at)? };
        if len == 0 || !len.is_multiple_of(8) || at + len > block.len() {
            return Err(dir.damaged(format!("an entry of {len} bytes at {} of its names", base + at as u64)));
        }
        let (position, next) = (base + at as u64, base + (at + len) as u64);
        if !unused && position >= from {
            let name_len = usize::from(u8_at(block, at + 8)?);
            let name = block.get(at + 9..at + 9 + name_len).unwrap_or_default();
            let kind = if fs.sb.ftype { kind(u8_at(block, at + 9 + name_len)?) } else { None };
            let ino = u64::from_be_bytes(array(block, at)?);
            if is_name(name) && fs.is_ino(ino) && visit(Found { name, ino, kind, next }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        at += len;
    }
    Ok(ControlFlow::Continue(()))
}

/// Number, length of name, name, kind, and its own place, up to a multiple of 8.
fn entry_len(fs: &Xfs, block: &[u8], at: usize) -> Result<usize> {
    let name = usize::from(u8_at(block, at + 8)?);
    Ok((8 + 1 + name + usize::from(fs.sb.ftype) + 2).next_multiple_of(8))
}
