//! Which blocks hold a fork's content: a list of extents in the inode, or a tree of them.

use super::Xfs;
use super::inode::{Fork, Format, Inode};
use super::superblock::fits;
use crate::fields::{be16, be32, be64};
use crate::{Error, Result};

/// A run of a fork's blocks, starting at the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// How many blocks; never zero.
    pub count: u64,
    /// The byte on the volume they begin at, or `None` for zeros.
    pub byte: Option<u64>,
}

/// File offsets of extents have 54 bits.
const END: u64 = 1 << 54;
const EXTENT: usize = 16;
const KEY: usize = 8;
/// `XFS_BM_MAXLEVELS` is at most 9 with the smallest blocks.
const MAX_LEVELS: u16 = 9;
const ROOT_HEADER: usize = 4;
const HEADER_V4: usize = 24;
const HEADER_V5: usize = 72;
const MAGIC_V4: u32 = 0x424d_4150;
const MAGIC_V5: u32 = 0x424d_4133;
const OWNER_AT: usize = 56;
const CRC_AT: usize = 64;

/// An extent, unpacked.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    block: u64,
    count: u64,
    unwritten: bool,
}

impl Extent {
    fn decode(bytes: &[u8; EXTENT]) -> Self {
        let [high, low] = [0, 8].map(|at| be64(bytes, at).unwrap_or_default());
        Self {
            unwritten: high >> 63 != 0,
            offset: high >> 9 & (END - 1),
            block: (high & 0x1ff) << 43 | low >> 21,
            count: low & ((1 << 21) - 1),
        }
    }
}

/// The run that starts at block `logical` of a fork.
pub(super) fn map(fs: &Xfs, inode: &Inode, fork: &Fork, logical: u64) -> Result<Run> {
    if logical >= END {
        return Ok(Run { count: u64::MAX - logical, byte: None });
    }
    match fork.format {
        Format::Extents => {
            let count = usize::try_from(fork.extents).ok().and_then(|count| count.checked_mul(EXTENT));
            let extents = count.and_then(|len| fork.bytes.get(..len));
            let extents =
                extents.ok_or_else(|| inode.damaged(format!("{} extents inside it", fork.extents)))?;
            find(fs, inode, extents, logical, END)
        }
        Format::Btree => descend(fs, inode, fork, logical),
        Format::Device | Format::Local => Err(inode.damaged("it has no extents where it must")),
    }
}

/// Walks down the tree. Every level down must be one less, so that no loop of blocks is followed.
fn descend(fs: &Xfs, inode: &Inode, fork: &Fork, logical: u64) -> Result<Run> {
    let (mut level, count) = (be16(&fork.bytes, 0)?, be16(&fork.bytes, 2)?);
    if level == 0 || level > MAX_LEVELS {
        return Err(inode.damaged(format!("a tree of extents {level} levels deep")));
    }
    let places = fork.bytes.len().saturating_sub(ROOT_HEADER) / (KEY + 8);
    let (mut child, mut end) = child(inode, &fork.bytes, ROOT_HEADER, places, count, logical, END)?;
    loop {
        let Some(number) = child else { return Ok(Run { count: end - logical, byte: None }) };
        level -= 1;
        let block = tree_block(fs, inode, number, level)?;
        let header = if fs.sb.v5 { HEADER_V5 } else { HEADER_V4 };
        let count = be16(&block, 6)?;
        if level == 0 {
            let extents = block.get(header..header + usize::from(count) * EXTENT);
            let extents = extents.ok_or_else(|| inode.damaged(format!("{count} extents in a block")))?;
            return find(fs, inode, extents, logical, end);
        }
        let places = (block.len() - header) / (KEY + 8);
        (child, end) = self::child(inode, &block, header, places, count, logical, end)?;
    }
}

fn tree_block(fs: &Xfs, inode: &Inode, number: u64, level: u16) -> Result<crate::guest::lines::Bytes> {
    let block = fs.block(number)?;
    let magic = if fs.sb.v5 { MAGIC_V5 } else { MAGIC_V4 };
    if be32(&block, 0)? != magic || be16(&block, 4)? != level {
        return Err(
            inode.damaged(format!("its block {number} is not one of a tree of extents at level {level}"))
        );
    }
    if fs.sb.v5 {
        let at = fs.sb.byte_of(number).unwrap_or_default();
        fs.verify(at, block.len(), || fits(&block, CRC_AT))?;
        if be64(&block, OWNER_AT)? != inode.ino {
            return Err(inode.damaged("a block of its tree of extents belongs to another inode"));
        }
    }
    Ok(block)
}

/// The child whose keys begin at or before `logical`, and where the next one's begin.
fn child(
    inode: &Inode,
    bytes: &[u8],
    keys: usize,
    places: usize,
    count: u16,
    logical: u64,
    end: u64,
) -> Result<(Option<u64>, u64)> {
    let count = usize::from(count);
    if count > places {
        return Err(inode.damaged(format!("{count} keys in a node of a tree with {places} places")));
    }
    let key = |i: usize| be64(bytes, keys + i * KEY);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if key(middle)? <= logical { low = middle + 1 } else { high = middle }
    }
    let end = if low < count { end.min(key(low)?.max(logical + 1)) } else { end };
    match low.checked_sub(1) {
        Some(i) => Ok((Some(be64(bytes, keys + places * KEY + i * 8)?), end)),
        None => Ok((None, end)),
    }
}

/// The run at `logical` among sorted extents; the tree says that others begin at `end`.
fn find(fs: &Xfs, inode: &Inode, extents: &[u8], logical: u64, end: u64) -> Result<Run> {
    let extents = extents.as_chunks::<EXTENT>().0;
    let after = extents.partition_point(|extent| Extent::decode(extent).offset <= logical);
    let next = extents.get(after).map_or(end, |extent| Extent::decode(extent).offset.min(end));
    let hole = Run { count: next.max(logical + 1) - logical, byte: None };
    let Some(extent) = after.checked_sub(1).and_then(|i| extents.get(i)).map(Extent::decode) else {
        return Ok(hole);
    };
    let into = logical - extent.offset;
    if into >= extent.count {
        return Ok(hole);
    }
    let count = (extent.count - into).min(next.max(logical + 1) - logical);
    if extent.unwritten {
        return Ok(Run { count, byte: None });
    }
    let byte = fs.sb.byte_of(extent.block + into);
    // an extent never leaves its group
    let last = fs.sb.byte_of(extent.block + into + count - 1);
    match (byte, last) {
        (Some(byte), Some(last)) if last.checked_sub(byte) == Some((count - 1) * fs.block_size()) => {
            Ok(Run { count, byte: Some(byte) })
        }
        _ => Err(inode.damaged(format!("it points to block {}, outside its filesystem", extent.block))),
    }
}

/// The block of metadata of `len` bytes at `at` of a fork; where blocks have checksums, it fits the one at `crc_at`.
pub(super) fn block(
    fs: &Xfs,
    inode: &Inode,
    fork: &Fork,
    at: u64,
    len: usize,
    crc_at: usize,
) -> Result<Vec<u8>> {
    let bytes = read(fs, inode, fork, at, len)?;
    if fs.sb.v5 && !fits(&bytes, crc_at) {
        for inside in (at..at + len as u64).step_by(fs.block_size() as usize) {
            let place = map(fs, inode, fork, inside / fs.block_size())?.byte.unwrap_or_default();
            if fs.overlay.touches(place, fs.block_size() as usize) {
                return Ok(bytes);
            }
        }
        return Err(inode.damaged(format!("its metadata at {at} does not fit its checksum")));
    }
    Ok(bytes)
}

/// The bytes `at..at + len` of a fork, which must be there; `len` is bounded by the caller.
pub(super) fn read(fs: &Xfs, inode: &Inode, fork: &Fork, at: u64, len: usize) -> Result<Vec<u8>> {
    let size = fs.block_size();
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = at + bytes.len() as u64;
        let run = map(fs, inode, fork, at / size)?;
        let Some(byte) = run.byte else {
            return Err(Error::corrupt(format!("inode {}", inode.ino), format!("nothing is stored at {at}")));
        };
        let into = at % size;
        let left = (run.count * size - into).min((len - bytes.len()) as u64) as usize;
        bytes.extend_from_slice(&fs.read(byte + into, left)?);
    }
    Ok(bytes)
}
