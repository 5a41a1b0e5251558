//! Directories: a root inside the record and blocks behind it, together a tree of names in the order of Windows. Listing and
//! looking up read all of it in stored order, which needs no rules of order.

use super::Ntfs;
use super::record::{I30, REFERENCE, Record, kind, unprotect};
use super::stream::{self, Stream};
use crate::fields::{le16, le32, le64, u8_at};
use crate::guest::utf16::to_bytes;
use crate::guest::{Entry, Listing, MAX_ENTRIES, is_name};
use crate::{Error, Result};
use std::ops::ControlFlow;

/// Blocks looked at for one page of a listing.
const MAX_BLOCKS_A_PAGE: u64 = 1024;
/// The largest directory read, in bytes.
const MAX_DIRECTORY: u64 = 4 << 30;
const ROOT_HEADER: usize = 16;
const BLOCK_HEADER: usize = 24;
const ENTRY: usize = 16;
const END: u16 = 0x2;
/// Names for programs of DOS stand beside the real ones.
const DOS: u8 = 2;
/// Files with smaller numbers are the filesystem's own.
const FIRST_USER: u64 = 16;
/// A cookie is a block's number (0 for the root, 1 for the first block) above this many bits, and a place in it.
const PLACE_BITS: u32 = 20;

/// Whether the walk goes on.
type Visit<'a> = dyn FnMut(Found) -> ControlFlow<()> + 'a;

/// An entry.
struct Found {
    name: Vec<u8>,
    number: u64,
    next: u64,
}

/// A page of the directory from `cookie` on.
pub(super) fn list(fs: &Ntfs, dir: &Record, cookie: u64) -> Result<Listing> {
    let mut entries = Vec::new();
    let more = walk(fs, dir, cookie, MAX_BLOCKS_A_PAGE, &mut |Found { name, number, next }| {
        // what it is, its own record says: a link has a directory's flag or none
        entries.push(Entry { name, ino: number, kind: None, next });
        if entries.len() < MAX_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(Listing { next: more, entries })
}

/// The record `name` stands for.
pub(super) fn lookup(fs: &Ntfs, dir: &Record, name: &[u8]) -> Result<Option<u64>> {
    fs.names.lookup(dir.number, name, |visit| {
        walk(fs, dir, 0, u64::MAX, &mut |Found { name, number, .. }| visit(name, number)).map(|_| ())
    })
}

/// Calls `visit` from `from` on; where to go on, if it ended before the end.
fn walk(fs: &Ntfs, dir: &Record, from: u64, max_blocks: u64, visit: &mut Visit<'_>) -> Result<Option<u64>> {
    if !dir.is_directory() {
        return Err(Error::invalid(format!("file {}", dir.number), "it is not a directory"));
    }
    let root = stream::find(fs, dir, kind::INDEX_ROOT, I30)?;
    let root = root.ok_or_else(|| dir.damaged("a directory without an index"))?;
    if from >> PLACE_BITS == 0 {
        let bytes = fs.read_stream(&root, 0, fs.boot.record.min(root.size as usize))?;
        if let Some(next) = walk_entries(dir, bytes.get(ROOT_HEADER..).unwrap_or_default(), 0, from, visit)? {
            return Ok(Some(next));
        }
    }
    let Some(blocks) = stream::find(fs, dir, kind::INDEX, I30)? else { return Ok(None) };
    if blocks.size > MAX_DIRECTORY {
        return Err(Error::unsupported(
            format!("directory {}", dir.number),
            format!("it has {} bytes, more than the limit of {MAX_DIRECTORY}", blocks.size),
        ));
    }
    let used = stream::find(fs, dir, kind::BITMAP, I30)?;
    let size = fs.boot.index as u64;
    let first = (from >> PLACE_BITS).saturating_sub(1);
    for number in first..blocks.size / size {
        if number - first == max_blocks {
            return Ok(Some((number + 1) << PLACE_BITS));
        }
        if !is_used(fs, used.as_ref(), number)? {
            continue;
        }
        let mut block = fs.read_stream(&blocks, number * size, fs.boot.index)?;
        unprotect(&mut block, b"INDX", &format!("block {number} of directory {}", dir.number))?;
        let entries = block.get(BLOCK_HEADER..).unwrap_or_default();
        if let Some(next) = walk_entries(dir, entries, number + 1, from, visit)? {
            return Ok(Some(next));
        }
    }
    Ok(None)
}

fn is_used(fs: &Ntfs, bitmap: Option<&Stream>, number: u64) -> Result<bool> {
    let Some(bitmap) = bitmap else { return Ok(true) };
    if number / 8 >= bitmap.size {
        return Ok(false);
    }
    let byte = fs.read_stream(bitmap, number / 8, 1)?;
    Ok(byte.first().is_some_and(|byte| byte >> (number % 8) & 1 == 1))
}

/// The entries behind a header. Where to go on, if `visit` stopped.
fn walk_entries(
    dir: &Record,
    index: &[u8],
    number: u64,
    from: u64,
    visit: &mut Visit<'_>,
) -> Result<Option<u64>> {
    let (mut at, end) = (le32(index, 0)? as usize, le32(index, 4)? as usize);
    let index = index.get(..end);
    let index = index.ok_or_else(|| dir.damaged(format!("an index of {end} bytes")))?;
    loop {
        let (len, key_len) = (usize::from(le16(index, at + 8)?), usize::from(le16(index, at + 10)?));
        if len < ENTRY || !len.is_multiple_of(8) || at + len > index.len() {
            return Err(dir.damaged(format!("an entry of {len} bytes in its index")));
        }
        if le16(index, at + 12)? & END != 0 {
            return Ok(None);
        }
        let position = number << PLACE_BITS | at as u64;
        let key = index.get(at + ENTRY..at + len).and_then(|key| key.get(..key_len));
        let key =
            key.ok_or_else(|| dir.damaged(format!("a name of {key_len} bytes in an entry of {len}")))?;
        let file = le64(index, at)? & REFERENCE;
        at += len;
        if position < from || file < FIRST_USER || u8_at(key, 65)? == DOS {
            continue;
        }
        let name = to_bytes(key.get(66..66 + usize::from(u8_at(key, 64)?) * 2).unwrap_or_default());
        let next = number << PLACE_BITS | at as u64;
        if is_name(&name) && visit(Found { name, number: file, next }).is_break() {
            return Ok(Some(next));
        }
    }
}
