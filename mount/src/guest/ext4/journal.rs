//! The journal, replayed in memory: which blocks have a newer version than the one in their place.
//!
//! A recovery point is taken under a running guest, so its journal is full as a rule. Nothing is written: the replay
//! is a table of blocks whose content is to be read from the journal instead. The rules are those of the kernel's
//! `jbd2`: a transaction counts only with its commit block; a later version of a block wins; a revoked block is left
//! alone by all transactions up to the one that revoked it.

use super::blocks::Blocks;
use super::inode::Inode;
use super::{Ext4, map};
use crate::fields::{array, be16, be32};
use crate::{Error, Result};
use block::crc32c;
use std::collections::BTreeMap;

/// Every block of the journal's own begins with this, big-endian like all of the journal.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// The largest journal read, in blocks: ten times what mke2fs makes for any size. Bounds the time of a replay.
const MAX_JOURNAL_BLOCKS: u32 = 10 << 20;
/// The most blocks a replay may shadow or revoke (each), about 100 MiB of tables. A journal that needs more than 4 GiB
/// of 4 KiB blocks replayed does not occur.
const MAX_TABLE: usize = 1 << 20;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

const HEADER: usize = 12;
const UUID: usize = 16;

const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Where a block's newest version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    /// In this block of the volume.
    At(u64),
    /// In this block of the volume, with its first four bytes blanked because they are the journal's magic.
    Escaped(u64),
    /// In the journal, but not as its checksum says.
    Damaged,
}

/// The blocks with a newer version in the journal.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    newer: BTreeMap<u64, Newer>,
}

impl Overlay {
    pub(super) fn get(&self, block: u64) -> Option<Newer> {
        self.newer.get(&block).copied()
    }

    /// The first shadowed block in `first..end`.
    pub(super) fn next(&self, first: u64, end: u64) -> Option<(u64, Newer)> {
        // an empty range must not be asked of a tree
        (first < end).then(|| self.newer.range(first..end).next().map(|(block, newer)| (*block, *newer)))?
    }
}

/// The geometry and rules of one journal.
struct Journal<'a> {
    blocks: &'a Blocks,
    /// Where each of its blocks lies on the volume, as (first journal block, first volume block, count).
    runs: Vec<(u64, u64, u64)>,
    first: u32,
    last: u32,
    start: u32,
    sequence: u32,
    incompat: u32,
    seed: u32,
}

/// Reads the journal in `inode` and works out what it holds newer.
pub(super) fn replay(fs: &Ext4, inode: &Inode) -> Result<Overlay> {
    let Some(journal) = Journal::open(fs, inode)? else { return Ok(Overlay::default()) };
    let mut scan = Scan { journal: &journal, revoked: BTreeMap::new(), committed: Vec::new() };
    scan.run()?;
    scan.overlay()
}

impl<'a> Journal<'a> {
    /// The journal, or `None` if nothing in it waits.
    fn open(fs: &'a Ext4, inode: &Inode) -> Result<Option<Self>> {
        let block_size = fs.blocks.block_size();
        let blocks_in_file = inode.size / u64::from(block_size);
        let first = map::map(fs, inode, 0)?.first.ok_or_else(|| damaged("it has no first block"))?;
        let block = fs.blocks.read_below(first)?;
        let kind = be32(&block, 4)?;
        if be32(&block, 0)? != MAGIC || !matches!(kind, SUPERBLOCK_V1 | SUPERBLOCK_V2) {
            return Err(damaged("it does not begin with a journal's superblock"));
        }
        let v2 = kind == SUPERBLOCK_V2;
        let incompat = if v2 { be32(&block, 0x28)? } else { 0 };
        check_features(incompat)?;
        let uuid: [u8; UUID] = array(&block, 0x30)?;
        if incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            check_superblock(&block)?;
        }
        let (stored_size, blocks, start) = (be32(&block, 0xc)?, be32(&block, 0x10)?, be32(&block, 0x1c)?);
        if start == 0 {
            return Ok(None);
        }
        if blocks > MAX_JOURNAL_BLOCKS {
            return Err(Error::unsupported("the ext4 journal", format!("it has {blocks} blocks")));
        }
        // the tail of a journal with fast commits is not part of the ring
        let fast = if incompat & INCOMPAT_FAST_COMMIT != 0 { fast_blocks(be32(&block, 0x54)?) } else { 0 };
        let (first, last) = (be32(&block, 0x14)?, blocks.saturating_sub(fast));
        let ring = first..last;
        if stored_size != block_size
            || u64::from(blocks) > blocks_in_file
            || first == 0
            || !ring.contains(&start)
        {
            return Err(damaged(format!(
                "blocks of {stored_size} bytes, ring {first} to {last}, start {start}, {blocks_in_file} blocks there are"
            )));
        }
        let seed = crc32c(!0, &uuid);
        let sequence = be32(&block, 0x18)?;
        let mut journal =
            Self { blocks: &fs.blocks, runs: Vec::new(), first, last, start, sequence, incompat, seed };
        journal.runs = runs(fs, inode, u64::from(blocks))?;
        if fast > 0 {
            journal.refuse_fast_commits()?;
        }
        Ok(Some(journal))
    }

    fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    fn checksummed(&self) -> bool {
        self.has(INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)
    }

    /// Where journal block `index` lies on the volume.
    fn place(&self, index: u32) -> Result<u64> {
        let index = u64::from(index);
        let at = self.runs.partition_point(|(first, _, _)| *first <= index);
        let run = at.checked_sub(1).and_then(|i| self.runs.get(i));
        match run {
            Some((first, place, count)) if index - first < *count => Ok(place + (index - first)),
            _ => Err(damaged(format!("its block {index} is not allocated"))),
        }
    }

    fn read(&self, index: u32) -> Result<super::blocks::Block> {
        self.blocks.read_below(self.place(index)?)
    }

    /// `count` blocks further round the ring.
    fn advance(&self, index: u32, count: u32) -> u32 {
        let ring = u64::from(self.last - self.first);
        let into = (u64::from(index - self.first) + u64::from(count)) % ring;
        self.first + into as u32
    }

    /// A fast commit describes changes by what was done, not by blocks. Showing the state without them would be
    /// showing an older state without saying so.
    fn refuse_fast_commits(&self) -> Result<()> {
        const TAG_HEAD: u16 = 9;
        let block = self.read(self.last)?;
        let (tag, sequence) = (u16::from_le_bytes(array(&block, 0)?), u32::from_le_bytes(array(&block, 8)?));
        if tag == TAG_HEAD && sequence >= self.sequence {
            return Err(Error::unsupported("this ext4 filesystem", "its journal holds fast commits"));
        }
        Ok(())
    }

    /// Whether the checksum in the last four bytes of a descriptor or revoke block fits.
    fn tail_fits(&self, block: &[u8]) -> Result<bool> {
        let Some(at) = block.len().checked_sub(4).filter(|_| self.checksummed()) else { return Ok(true) };
        let crc = crc32c(self.seed, block.get(..at).unwrap_or_default());
        Ok(crc32c(crc, &[0; 4]) == be32(block, at)?)
    }

    fn commit_fits(&self, block: &[u8]) -> Result<bool> {
        if !self.checksummed() {
            return Ok(true);
        }
        let crc = crc32c(self.seed, block.get(..16).unwrap_or_default());
        let crc = crc32c(crc32c(crc, &[0; 4]), block.get(20..).unwrap_or_default());
        Ok(crc == be32(block, 16)?)
    }
}

/// A block written by a committed transaction.
struct Written {
    block: u64,
    sequence: u32,
    journal_block: u32,
    flags: u32,
    checksum: u32,
}

struct Scan<'a> {
    journal: &'a Journal<'a>,
    /// The last transaction that revoked each block.
    revoked: BTreeMap<u64, u32>,
    /// In the order written.
    committed: Vec<Written>,
}

impl Scan<'_> {
    /// Follows the ring until a block is not the next one of the log. Visits every block at most once.
    fn run(&mut self) -> Result<()> {
        let journal = self.journal;
        let (mut at, mut sequence) = (journal.start, journal.sequence);
        let mut left = journal.last - journal.first;
        let (mut written, mut revoked) = (Vec::new(), Vec::new());
        while left > 0 {
            let block = journal.read(at)?;
            if be32(&block, 0)? != MAGIC || be32(&block, 8)? != sequence {
                break;
            }
            left -= 1;
            at = journal.advance(at, 1);
            match be32(&block, 4)? {
                DESCRIPTOR if journal.tail_fits(&block)? => {
                    let tags = self.tags(&block, sequence, at)?;
                    let count = tags.len() as u32;
                    let Some(rest) = left.checked_sub(count) else { break };
                    left = rest;
                    at = journal.advance(at, count);
                    written.extend(tags);
                }
                REVOKE if journal.tail_fits(&block)? => revoked.extend(self.revokes(&block)?),
                COMMIT if journal.commit_fits(&block)? => {
                    self.committed.append(&mut written);
                    for block in revoked.drain(..) {
                        self.revoked.insert(block, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
            if self.committed.len() + written.len() > MAX_TABLE
                || self.revoked.len() + revoked.len() > MAX_TABLE
            {
                return Err(Error::unsupported(
                    "the ext4 journal",
                    format!("more than {MAX_TABLE} blocks wait in it"),
                ));
            }
        }
        Ok(())
    }

    /// The tags of a descriptor block whose first data block is journal block `at`.
    fn tags(&self, block: &[u8], sequence: u32, mut at: u32) -> Result<Vec<Written>> {
        let journal = self.journal;
        let v3 = journal.has(INCOMPAT_CSUM_V3);
        let wide = journal.has(INCOMPAT_64BIT);
        let size = match (v3, wide, journal.has(INCOMPAT_CSUM_V2)) {
            (true, _, _) => 16,
            (false, true, csum) => 12 + 2 * usize::from(csum),
            (false, false, csum) => 8 + 2 * usize::from(csum),
        };
        let end = block.len() - if journal.checksummed() { 4 } else { 0 };
        let mut tags = Vec::new();
        let mut offset = HEADER;
        while offset + size <= end {
            let flags = if v3 { be32(block, offset + 4)? } else { u32::from(be16(block, offset + 6)?) };
            let checksum = if v3 { be32(block, offset + 12)? } else { u32::from(be16(block, offset + 4)?) };
            let high = if wide { be32(block, offset + 8)? } else { 0 };
            let number = u64::from(high) << 32 | u64::from(be32(block, offset)?);
            tags.push(Written { block: number, sequence, journal_block: at, flags, checksum });
            at = journal.advance(at, 1);
            offset += size + if flags & TAG_SAME_UUID == 0 { UUID } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    fn revokes(&self, block: &[u8]) -> Result<Vec<u64>> {
        let size = if self.journal.has(INCOMPAT_64BIT) { 8 } else { 4 };
        let tail = if self.journal.checksummed() { 4 } else { 0 };
        let used = be32(block, HEADER)? as usize;
        let records = block.get(HEADER + 4..used).filter(|_| used <= block.len() - tail);
        let records = records.ok_or_else(|| damaged(format!("a revoke block of {used} bytes")))?;
        Ok(records.chunks_exact(size).map(|be| be.iter().fold(0, |n, b| n << 8 | u64::from(*b))).collect())
    }

    fn overlay(self) -> Result<Overlay> {
        let mut newer = BTreeMap::new();
        for written in &self.committed {
            let revoked = self.revoked.get(&written.block);
            // sequence numbers wrap; the distance tells which is later
            if revoked.is_some_and(|by| by.wrapping_sub(written.sequence).cast_signed() >= 0) {
                continue;
            }
            newer.insert(written.block, self.version(written)?);
        }
        Ok(Overlay { newer })
    }

    fn version(&self, written: &Written) -> Result<Newer> {
        let journal = self.journal;
        let place = journal.place(written.journal_block)?;
        if journal.checksummed() {
            let block = journal.blocks.read_below(place)?;
            let crc = crc32c(crc32c(journal.seed, &written.sequence.to_be_bytes()), &block);
            let mask = if journal.has(INCOMPAT_CSUM_V3) { !0 } else { 0xffff };
            if crc & mask != written.checksum {
                return Ok(Newer::Damaged);
            }
        }
        Ok(if written.flags & TAG_ESCAPED != 0 { Newer::Escaped(place) } else { Newer::At(place) })
    }
}

/// All of the journal's blocks, as runs; the journal must be allocated from its start.
fn runs(fs: &Ext4, inode: &Inode, blocks: u64) -> Result<Vec<(u64, u64, u64)>> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < blocks {
        let run = map::map(fs, inode, at)?;
        if let Some(first) = run.first {
            runs.push((at, first, run.count));
        }
        at = at.saturating_add(run.count);
        if runs.len() > MAX_TABLE {
            return Err(Error::unsupported("the ext4 journal", "it is in too many pieces"));
        }
    }
    Ok(runs)
}

/// Blocks set aside for fast commits; 0 means the usual number.
fn fast_blocks(stored: u32) -> u32 {
    if stored == 0 { 256 } else { stored }
}

fn check_features(incompat: u32) -> Result<()> {
    let unknown = incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(Error::unsupported("the ext4 journal", format!("it uses the features {unknown:#x}")));
    }
    if incompat & INCOMPAT_CSUM_V2 != 0 && incompat & INCOMPAT_CSUM_V3 != 0 {
        return Err(damaged("it claims two versions of checksums at once"));
    }
    Ok(())
}

fn check_superblock(block: &[u8]) -> Result<()> {
    const AT: usize = 0xfc;
    let crc = crc32c(!0, block.get(..AT).unwrap_or_default());
    let crc = crc32c(crc32c(crc, &[0; 4]), block.get(AT + 4..1024).unwrap_or_default());
    if crc != be32(block, AT)? {
        return Err(damaged("the checksum of its superblock does not fit"));
    }
    Ok(())
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the ext4 journal", why)
}
