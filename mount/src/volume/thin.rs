//! Thin volumes: the mapping a pool keeps of each, read from the pool's metadata volume. Written from the kernel's description
//! of the format (`thin-provisioning.rst`, `persistent-data.rst`) and from what `thin_restore` writes.

use crate::fields::{le32, le64};
use crate::{Error, Result};
use block::{BlockSource, ByteOffset, ByteRange, crc32c};
use std::ops::ControlFlow;

/// The unit of metadata.
const NODE: usize = 4096;
const HEADER: usize = 32;
const MAGIC: u64 = 27_022_010;
/// What checksums are mixed with, so that blocks of other kinds do not pass.
const SUPERBLOCK_MIX: u32 = 160_774;
const NODE_MIX: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;
/// The kernel's own bound is about as deep.
const MAX_DEPTH: usize = 16;
/// Nodes read for one answer: 16 MiB.
const MAX_NODES: usize = 4096;
/// The highest number of a block: more than any size there is.
const MAX_BLOCK: u64 = 1 << 48;
/// Runs in one answer.
pub const MAX_RUNS: usize = 16 << 10;
/// The smallest and the largest unit of mapping, in bytes.
const BLOCKS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// What maps a thin volume: places are addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thin {
    /// The pool's metadata.
    pub metadata: ByteRange,
    /// The pool's data.
    pub data: ByteRange,
    /// The volume's number in the pool.
    pub device: u32,
    /// Bytes of the volume.
    pub len: u64,
}

/// Some blocks of a volume that lie one after the other in the pool's data as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first in the volume.
    pub at: u64,
    /// The first in the data.
    pub data: u64,
    /// How many.
    pub count: u64,
}

/// A part of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Bytes of a block.
    pub block: u64,
    /// In order, without overlap; what lies between them was never written.
    pub runs: Vec<Run>,
    /// Where to go on, if this is not all.
    pub next: Option<u64>,
}

impl Mapping {
    /// Whether this can be an answer to what is mapped from `from` on.
    pub fn is_possible(&self, from: u64) -> bool {
        let end = |run: &Run| run.at.checked_add(run.count);
        BLOCKS.contains(&self.block)
            && self.block.is_multiple_of(64 << 10)
            && self.next.is_none_or(|next| next > from)
            && self.runs.first().is_none_or(|run| run.at >= from)
            && self
                .runs
                .iter()
                .all(|run| run.count > 0 && run.data.checked_add(run.count).is_some() && end(run).is_some())
            && self.runs.array_windows().all(|[a, b]| end(a).is_some_and(|end| end <= b.at))
            && self
                .next
                .zip(self.runs.last())
                .is_none_or(|(next, run)| end(run).is_some_and(|end| end <= next))
    }
}

/// The mapping of a volume of the pool, from block `from` of the volume on.
///
/// # Errors
/// `Corrupt` if the metadata is damaged or has no such volume; `Unsupported` if it is of a newer kind.
pub fn mapping(metadata: &dyn BlockSource, device: u32, from: u64) -> Result<Mapping> {
    let pool = Pool { metadata };
    let superblock = pool.block(0, SUPERBLOCK_MIX)?;
    let version = le32(&superblock, 40)?;
    if le64(&superblock, 32)? != MAGIC || !(1..=2).contains(&version) {
        return Err(unreadable(format!("it has version {version}")));
    }
    if le32(&superblock, 360)? != 0 {
        return Err(unreadable("it has features this version does not know"));
    }
    let block = u64::from(le32(&superblock, 336)?) * 512;
    let mut found = None;
    let devices = le64(&superblock, 320)?;
    let looked = pool.walk(devices, u64::from(device), &mut |key, value| {
        found = (key == u64::from(device)).then_some(value);
        Ok(ControlFlow::Break(()))
    })?;
    let root = found.filter(|_| looked.is_break());
    let root = root.ok_or_else(|| damaged(format!("it has no volume {device}")))?;
    let mut runs: Vec<Run> = Vec::new();
    let end = pool.walk(root, from, &mut |at, value| {
        // below is the time it was written at
        let data = value >> 24;
        if at > MAX_BLOCK {
            return Err(damaged(format!("block {at} of a volume")));
        }
        let is_full = runs.len() == MAX_RUNS;
        match runs.last_mut() {
            Some(run) if at < run.at + run.count => return Err(damaged("a block is mapped twice")),
            Some(run) if at == run.at + run.count && data == run.data + run.count => run.count += 1,
            _ if is_full => return Ok(ControlFlow::Break(())),
            _ => runs.push(Run { at, data, count: 1 }),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let next = match (end, runs.last()) {
        (ControlFlow::Continue(()), _) => None,
        (ControlFlow::Break(()), Some(run)) => Some(run.at + run.count),
        (ControlFlow::Break(()), None) => return Err(damaged("its tree does not end")),
    };
    let mapping = Mapping { block, runs, next };
    if !mapping.is_possible(from) {
        return Err(damaged(format!("its mapping in blocks of {block} bytes cannot be")));
    }
    Ok(mapping)
}

/// Takes a key and its value; says whether to go on.
type Take<'a> = dyn FnMut(u64, u64) -> Result<ControlFlow<()>> + 'a;

struct Pool<'a> {
    metadata: &'a dyn BlockSource,
}

impl Pool<'_> {
    fn block(&self, number: u64, mix: u32) -> Result<Vec<u8>> {
        let mut block = vec![0; NODE];
        let at = number.checked_mul(NODE as u64).ok_or_else(|| damaged(format!("block {number}")))?;
        self.metadata.read_at(ByteOffset::new(at), &mut block)?;
        let sum = crc32c(!0, block.get(4..).unwrap_or_default()) ^ mix;
        if sum != le32(&block, 0)? || le64(&block, 8)? != number {
            return Err(damaged(format!("block {number} does not fit its checksum")));
        }
        Ok(block)
    }

    fn node(&self, number: u64) -> Result<Node> {
        let bytes = self.block(number, NODE_MIX)?;
        let (flags, count, room) = (le32(&bytes, 4)?, le32(&bytes, 16)? as usize, le32(&bytes, 20)? as usize);
        let fits = room.checked_mul(16).is_some_and(|len| len <= NODE - HEADER);
        if !fits || count > room || le32(&bytes, 24)? != 8 || !matches!(flags, INTERNAL | LEAF) {
            return Err(damaged(format!("block {number} is no node of a tree")));
        }
        Ok(Node { bytes, is_leaf: flags == LEAF, count, room })
    }

    /// Calls `take` with every key from `from` on, in order, until it says so or enough was read; `Break` in both cases.
    fn walk(&self, root: u64, from: u64, take: &mut Take<'_>) -> Result<ControlFlow<()>> {
        let mut left = MAX_NODES;
        let first = self.node(root)?;
        let mut above = vec![(first.place(from)?, first)];
        while let Some((place, node)) = above.last_mut() {
            if *place >= node.count {
                above.pop();
                continue;
            }
            let (key, value) = node.entry(*place)?;
            *place += 1;
            if node.is_leaf {
                if key >= from && take(key, value)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            }
            if left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            left -= 1;
            if above.len() == MAX_DEPTH {
                return Err(damaged("a tree deeper than any"));
            }
            let below = self.node(value)?;
            above.push((below.place(from)?, below));
        }
        Ok(ControlFlow::Continue(()))
    }
}

struct Node {
    bytes: Vec<u8>,
    is_leaf: bool,
    count: usize,
    room: usize,
}

impl Node {
    fn entry(&self, place: usize) -> Result<(u64, u64)> {
        Ok((le64(&self.bytes, HEADER + place * 8)?, le64(&self.bytes, HEADER + (self.room + place) * 8)?))
    }

    /// The last entry whose key is at most `from`, below which `from` is if it is anywhere.
    fn place(&self, from: u64) -> Result<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.entry(middle)?.0 <= from {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low.saturating_sub(1))
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the metadata of the thin pool", why)
}

fn unreadable(why: impl Into<String>) -> Error {
    Error::unsupported("the metadata of the thin pool", why)
}
