//! What a transaction changed: buffers, inodes and fresh chunks of inodes.

use super::damaged;
use super::overlay::{Overlay, SECTOR};
use super::transaction::{Item, Transaction};
use crate::Result;
use crate::fields::{array, be16, be32, be64, le16, le32, le64, u8_at};
use crate::guest::lines::{Bytes, Lines};
use crate::guest::xfs::superblock::Superblock;
use std::collections::HashMap;

const INODE: u16 = 0x123b;
const BUFFER: u16 = 0x123c;
const CREATE: u16 = 0x123f;

const CHUNK: usize = 128;
const MAX_BUFFER: u64 = 128;
/// Only the list of unlinked inodes changed, which nobody reads here.
const FLAG_INODES: u16 = 0x1;
const FLAG_CANCEL: u16 = 0x2;
/// Kinds of buffers, in the high bits of the flags, that hold nothing of names or content: quotas, headers of groups, free
/// space of directories, hashes of names.
const KIND_SHIFT: u32 = 11;
const UNUSED_KINDS: [u16; 9] = [1, 2, 3, 5, 6, 7, 12, 13, 14];

const FIELD_DATA: u32 = 0x2 | 0x4;
const FIELD_DATA_ROOT: u32 = 0x8;
const FIELD_DEVICE: u32 = 0x10;
const FIELD_ATTRIBUTES: u32 = 0x40 | 0x80;
const FIELD_ATTRIBUTES_ROOT: u32 = 0x100;

const CORE_V2: usize = 96;
const CORE_V3: usize = 176;
const FORKS_V2: usize = 100;
const LSN_AT: usize = 112;
const MAX_FLUSHES: u16 = 0xffff;

/// Buffers that were given back, and how often: what was logged of them before must not be put over what came after.
#[derive(Default)]
pub(super) struct Cancelled(HashMap<(u64, u16), u32>);

impl Cancelled {
    pub(super) fn note(&mut self, items: &[Item]) -> Result<()> {
        for item in items.iter().filter(|item| item.kind() == BUFFER) {
            let buffer = Buffer::decode(item)?;
            if buffer.flags & FLAG_CANCEL != 0 {
                *self.0.entry(buffer.key()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn has(&self, key: (u64, u16)) -> bool {
        self.0.contains_key(&key)
    }

    /// The moment in the log at which it was given back.
    fn passed(&mut self, key: (u64, u16)) {
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}

/// What the log says of a buffer.
struct Buffer {
    flags: u16,
    sectors: u16,
    first: u64,
}

impl Buffer {
    fn decode(item: &Item) -> Result<Self> {
        let format = item.region(0)?;
        Ok(Self { flags: le16(format, 4)?, sectors: le16(format, 6)?, first: le64(format, 8)? })
    }

    fn key(&self) -> (u64, u16) {
        (self.first, self.sectors)
    }
}

/// The replay in progress.
pub(super) struct Replay<'a> {
    sb: &'a Superblock,
    lines: &'a Lines,
    cancelled: Cancelled,
    pub overlay: Overlay,
}

impl<'a> Replay<'a> {
    pub(super) fn new(sb: &'a Superblock, lines: &'a Lines, cancelled: Cancelled) -> Self {
        Self { sb, lines, cancelled, overlay: Overlay::default() }
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        self.overlay.over(at, self.lines.read(at, len)?)
    }

    /// Buffers first, then inodes, then what was given back: the order the kernel replays in.
    pub(super) fn apply(&mut self, transaction: &Transaction) -> Result<()> {
        let of = |kind| transaction.items.iter().filter(move |item| item.kind() == kind);
        for item in &transaction.items {
            match item.kind() {
                CREATE => self.create(item)?,
                BUFFER => self.buffer(item, transaction.lsn)?,
                _ => {}
            }
        }
        for item in of(INODE) {
            self.inode(item, transaction.lsn)?;
        }
        for item in of(BUFFER) {
            let buffer = Buffer::decode(item)?;
            if buffer.flags & FLAG_CANCEL != 0 {
                self.cancelled.passed(buffer.key());
            }
        }
        Ok(())
    }

    fn buffer(&mut self, item: &Item, lsn: u64) -> Result<()> {
        let buffer = Buffer::decode(item)?;
        let skipped = buffer.flags & (FLAG_CANCEL | FLAG_INODES) != 0
            || UNUSED_KINDS.contains(&(buffer.flags >> KIND_SHIFT))
            || self.cancelled.has(buffer.key());
        if skipped {
            return Ok(());
        }
        let at = buffer
            .first
            .checked_mul(SECTOR)
            .filter(|_| (1..=MAX_BUFFER).contains(&u64::from(buffer.sectors)));
        let at = at.ok_or_else(|| damaged(format!("a buffer of {} sectors", buffer.sectors)))?;
        let before = self.read(at, usize::from(buffer.sectors) * SECTOR as usize)?;
        if self.sb.v5 && self.stamped(&before)?.is_some_and(|newer| newer >= lsn) {
            return Ok(());
        }
        let mut bytes = before.to_vec();
        let format = item.region(0)?;
        let words = le32(format, 16)? as usize;
        let bit = |bit: usize| -> Result<bool> {
            let is_there = bit < words.saturating_mul(32);
            Ok(is_there && le32(format, 20 + bit / 32 * 4)? >> (bit % 32) & 1 == 1)
        };
        let chunks = bytes.len() / CHUNK;
        let (mut chunk, mut region) = (0, 1);
        while chunk < chunks {
            let mut run = 0;
            while chunk + run < chunks && bit(chunk + run)? {
                run += 1;
            }
            if run == 0 {
                chunk += 1;
                continue;
            }
            let logged = item.region(region)?;
            let run = run.min(logged.len() / CHUNK);
            if run == 0 {
                return Err(damaged("a region of a buffer without content"));
            }
            let target = bytes.get_mut(chunk * CHUNK..(chunk + run) * CHUNK).unwrap_or_default();
            target.copy_from_slice(logged.get(..run * CHUNK).unwrap_or_default());
            (chunk, region) = (chunk + run, region + 1);
        }
        self.overlay.put(at, &before, &bytes)
    }

    /// The log position a block of version 5 carries, if it is one of this filesystem's that carries any.
    fn stamped(&self, block: &[u8]) -> Result<Option<u64>> {
        let (at, uuid) = match block.get(..4).unwrap_or_default() {
            b"BMA3" => (32, 40),
            b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC" => (24, 32),
            b"XDB3" | b"XDD3" | b"XDF3" => (16, 24),
            b"XSLM" => (48, 16),
            b"XFSB" => (240, 32),
            _ => match be16(block, 8)? {
                0x3ebe | 0x3bee | 0x3df1 | 0x3dff => (24, 32),
                _ => return Ok(None),
            },
        };
        // a superblock's visible identifier may be another than that of its metadata
        let own = block.starts_with(b"XFSB") || array::<16>(block, uuid)? == self.sb.uuid;
        Ok(if own { Some(be64(block, at)?) } else { None })
    }

    /// A fresh chunk of inodes: whatever was there before is gone.
    fn create(&mut self, item: &Item) -> Result<()> {
        let log = item.region(0)?;
        let (group, first) = (u64::from(be32(log, 4)?), u64::from(be32(log, 8)?));
        let (size, blocks) = (be32(log, 16)?, be32(log, 20)?);
        let generation = be32(log, 24)?;
        let at = self.sb.byte_of(group << self.sb.group_log | first);
        let len = u64::from(blocks) * u64::from(self.sb.block_size);
        let (Some(at), true) = (at, size == u32::from(self.sb.inode_size) && len <= 1 << 20) else {
            return Err(damaged(format!("a chunk of inodes of {blocks} blocks")));
        };
        let sectors = at / SECTOR..(at + len) / SECTOR;
        if self.cancelled.0.keys().any(|(first, _)| sectors.contains(first)) {
            return Ok(());
        }
        let before = self.read(at, len as usize)?;
        let mut bytes = vec![0; len as usize];
        for record in bytes.chunks_exact_mut(size as usize) {
            let mut put = |at: usize, value: &[u8]| {
                record.get_mut(at..at + value.len()).unwrap_or_default().copy_from_slice(value);
            };
            put(0, b"IN");
            put(4, &[3]);
            put(92, &generation.to_be_bytes());
        }
        self.overlay.put(at, &before, &bytes)
    }

    fn inode(&mut self, item: &Item, lsn: u64) -> Result<()> {
        let format = item.region(0)?;
        // the form of machines with 32 bits has no gap before the number
        let tail = if format.len() >= 56 { 24 } else { 20 };
        let fields = le32(format, 4)?;
        let (first, sectors, into) =
            (le64(format, tail + 16)?, le32(format, tail + 24)?, le32(format, tail + 28)?);
        let buffer = (first, u16::try_from(sectors).unwrap_or(0));
        if self.cancelled.has(buffer) {
            return Ok(());
        }
        let size = usize::from(self.sb.inode_size);
        let at = first.checked_mul(SECTOR).and_then(|at| at.checked_add(u64::from(into)));
        let at = at.filter(|at| at.is_multiple_of(size as u64));
        let at = at.ok_or_else(|| damaged(format!("an inode at byte {into} of sector {first}")))?;
        // whole sectors, since inodes may be smaller
        let start = at / SECTOR * SECTOR;
        let before = self.read(start, size.max(SECTOR as usize))?;
        let mut bytes = before.to_vec();
        let from = (at - start) as usize;
        let record = bytes.get_mut(from..from + size).unwrap_or_default();
        let core = item.region(1)?;
        if is_newer(record, core, lsn)? {
            return Ok(());
        }
        put_core(record, core)?;
        let device = (fields & FIELD_DEVICE != 0).then(|| le32(format, tail)).transpose()?;
        put_forks(record, item, fields, device)?;
        self.overlay.put(start, &before, &bytes)
    }
}

/// Whether the inode on the volume is newer than the transaction.
fn is_newer(record: &[u8], core: &[u8], lsn: u64) -> Result<bool> {
    if u8_at(core, 4)? >= 3 {
        // one that never was an inode has no position
        let is_inode = be16(record, 0)? == 0x494e && u8_at(record, 4)? >= 3;
        let stored = be64(record, LSN_AT)?;
        return Ok(is_inode && stored != 0 && stored >= lsn);
    }
    let (stored, logged) = (be16(record, 30)?, le16(core, 30)?);
    let wrapped = stored == MAX_FLUSHES && logged < MAX_FLUSHES / 2;
    Ok(be16(record, 0)? == 0x494e && logged < stored && !wrapped)
}

/// The fixed fields, which the log keeps in the machine's byte order. Widths of one byte are copied as they are.
fn put_core(record: &mut [u8], core: &[u8]) -> Result<()> {
    let v3 = u8_at(core, 4)? >= 3;
    let flags2 = if v3 { le64(core, 120)? } else { 0 };
    let (big_times, wide_counts) = (flags2 & 0x8 != 0, flags2 & 0x10 != 0);
    let time: &[usize] = if big_times { &[8] } else { &[4, 4] };
    let counts: [&[usize]; 2] = if wide_counts { [&[8], &[4, 2]] } else { [&[2, 2, 2, 2], &[4, 2]] };
    let widths: [&[usize]; 11] = [
        // magic, mode, version and format, two spare, owner, group, links, project
        &[2, 2, 1, 1, 2, 4, 4, 4, 2, 2],
        counts[0],
        time,
        time,
        time,
        // size, blocks, extent size
        &[8, 8, 4],
        counts[1],
        // fork offset, format of attributes, masks, flags, generation
        &[1, 1, 4, 2, 2, 4],
        // the next unlinked and the checksum are not the log's to change
        &[],
        // changes, position, flags, size of copies, spare, birth, number
        &[8, 8, 8, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        time,
    ];
    let mut at = 0;
    for (i, widths) in widths.iter().enumerate() {
        if i == 8 {
            if !v3 {
                return Ok(());
            }
            at = CORE_V2 + 8;
        }
        for width in *widths {
            swap(record, core, at, *width)?;
            at += width;
        }
    }
    swap(record, core, at, 8)?;
    let uuid: [u8; 16] = array(core, at + 8)?;
    record.get_mut(at + 8..at + 24).unwrap_or_default().copy_from_slice(&uuid);
    Ok(())
}

fn swap(record: &mut [u8], core: &[u8], at: usize, width: usize) -> Result<()> {
    let (Some(from), Some(to)) = (core.get(at..at + width), record.get_mut(at..at + width)) else {
        return Err(damaged("an inode that is cut off"));
    };
    to.copy_from_slice(from);
    to.reverse();
    Ok(())
}

fn put_forks(record: &mut [u8], item: &Item, fields: u32, device: Option<u32>) -> Result<()> {
    let start = if u8_at(record, 4)? >= 3 { CORE_V3 } else { FORKS_V2 };
    let attributes = usize::from(u8_at(record, 82)?) * 8;
    let split = if attributes == 0 { record.len() } else { start + attributes };
    let passes = || damaged("a fork that passes its inode");
    let split_at = record.split_at_mut_checked(split).ok_or_else(passes)?;
    let (data, attributes) = (split_at.0.get_mut(start..).ok_or_else(passes)?, split_at.1);
    let mut region = 2;
    if fields & (FIELD_DATA | FIELD_DATA_ROOT) != 0 {
        put_fork(data, item.region(region)?, fields & FIELD_DATA_ROOT != 0)?;
        region += 1;
    }
    if let Some(device) = device {
        data.get_mut(..4).ok_or_else(passes)?.copy_from_slice(&device.to_be_bytes());
    }
    if fields & (FIELD_ATTRIBUTES | FIELD_ATTRIBUTES_ROOT) != 0 {
        put_fork(attributes, item.region(region)?, fields & FIELD_ATTRIBUTES_ROOT != 0)?;
    }
    Ok(())
}

/// The content of a fork; the root of a tree of extents is logged in the form it has in memory, with a longer header.
fn put_fork(fork: &mut [u8], logged: &[u8], root: bool) -> Result<()> {
    let passes = || damaged(format!("{} bytes of a fork where fewer fit", logged.len()));
    if !root {
        fork.get_mut(..logged.len()).ok_or_else(passes)?.copy_from_slice(logged);
        return Ok(());
    }
    let header = if logged.starts_with(b"BMA3") { 72 } else { 24 };
    let count = usize::from(be16(logged, 6)?);
    let (from, to) = (logged.len().saturating_sub(header) / 16, fork.len().saturating_sub(4) / 16);
    if count > from || count > to {
        return Err(damaged(format!("{count} keys in the root of a tree")));
    }
    let mut put = |at: usize, bytes: Option<&[u8]>| -> Result<()> {
        let bytes = bytes.ok_or_else(passes)?;
        fork.get_mut(at..at + bytes.len()).ok_or_else(passes)?.copy_from_slice(bytes);
        Ok(())
    };
    put(0, logged.get(4..8))?;
    put(4, logged.get(header..header + count * 8))?;
    let pointers = header + from * 8;
    put(4 + to * 8, logged.get(pointers..pointers + count * 8))
}
